"""Recordings in NWB files (Neurodata Without Borders, HDF5)."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from pipeline.errors import RecordingError
from pipeline.recordings.base import Responses, Stimulus, Trial, hash_pixels
from pipeline.recordings.checks import sealed, unchanged
from pipeline.recordings.clocked import ClockedRecording
from pipeline.recordings.nwb.contents import Contents, is_a
from pipeline.recordings.nwb.responses import (
    SpikeTrains,
    find_traces,
    read_spikes,
    read_traces,
    read_units,
    spiking,
)
from pipeline.recordings.nwb.stimuli import AXES, Showing, invalid_spans, read_showings
from pipeline.recordings.sequences import Sequence, pulses_touching, require_nan_rule, shared_rates
from pipeline.recordings.tiers import tier_called

RUNNING_NAMES = ("running_speed", "running", "speed")
SIZE_NAMES = ("pupil_size", "pupil_area", "pupil_diameter", "pupil_radius")
POSITION_NAMES = ("pupil_position", "pupil_location", "pupil_tracking", "eye_position")

CHUNK = 1_000_000
"""Samples of light that are read at once."""


class NWBRecording(ClockedRecording):
    """A recording in an NWB file.

    Stimuli are read in one of three layouts. (a) An IndexSeries into an Images container or an ImageSeries: without a
    table of intervals, each index is one presentation of a still image, until the next; with a table, each row is an
    image if one index lies in it, a movie of those frames if several do. (b) A table of intervals with a column of
    indices, or of names, into an Images container or an ImageSeries: each row shows one still image, -1 and NaN
    nothing. (c) An ImageSeries among the stimuli, shown at its own times, cut into movies by a table of intervals. A
    file with another layout is refused, saying what it contains.

    A column 'tier' or 'split' of the table gives the tiers; 'none' excludes. Trials in the file's ``invalid_times``,
    outside a unit's ``obs_intervals``, or beyond what was recorded of traces and behaviour are excluded too. Spike
    times are kept in memory, everything else stays in the file, which stays open.

    Parameters
    ----------
    path : str
        The ``.nwb`` file.
    responses : str
        'units' for the spikes of sorted units, 'ophys' for the only dF/F, else the only fluorescence, or the name of a
        series of regions of interest; empty: units where there are some, else ophys.
    stimulus : str
        Name of the IndexSeries, ImageSeries or Images; empty: the only one, in this order.
    intervals : str
        Name of the table that lists presentations; empty: the only one; 'none': no table.
    rows : str
        Which of its rows to read, as ``stimulus_name=natural_scenes``; empty: all.
    index_column : str
        Its column with the index or name of the image; empty: 'frame', 'image_index' or 'frame_index'.
    axes : str
        What the first two axes of an image are: 'height_width', as in nearly all files, or 'width_height'.
    frame_rate : str
        Frames a second (Hz) of all movies; empty: from their times, alike for those within 5 % of each other.
    running : str
        Name of the series of running speed (in m/s it becomes cm/s, otherwise it is taken as it is); empty: the only
        one called running_speed, running or speed; 'none': none.
    pupil_size : str
        Name of its series; empty: the only one in PupilTracking or called like pupil_area; 'none': none.
    pupil_position : str
        Name of the series of x and y; empty: the only one in EyeTracking or called like pupil_position; 'none': none.
    opto : str
        Name of the OptogeneticSeries, whose light is on where it is above 0; empty: the only one; 'none': none.
    nan : str
        What to do with NaN in a trial: 'refuse' the recording, 'exclude' the trial, or 'interpolate'.

    Raises
    ------
    RecordingError
        At construction, if anything is missing, damaged or contradicts itself; the message names it.
    """

    source_format: ClassVar[str] = "nwb"
    example: ClassVar[str] = "--path session.nwb --subject m1 --session 1 --scan 1"

    def __init__(
        self,
        path: str,
        responses: str = "",
        stimulus: str = "",
        intervals: str = "",
        rows: str = "",
        index_column: str = "",
        axes: str = "height_width",
        frame_rate: str = "",
        running: str = "",
        pupil_size: str = "",
        pupil_position: str = "",
        opto: str = "",
        nan: str = "refuse",
    ) -> None:
        self._nan = require_nan_rule(nan)
        if axes not in AXES:
            raise RecordingError(f"axes is {axes!r}: choose one of {', '.join(AXES)}")
        self._contents = contents = Contents(path)  # the file is closed when nobody holds it any more
        self._path = contents.path
        self._pool, shown = read_showings(contents, stimulus, intervals, rows, index_column, axes)
        self._spikes: SpikeTrains | None = None
        self._open_responses(contents, responses, shown)
        self._behavior = _behavior(contents, running, pupil_size, pupil_position)
        light = contents.only(opto, contents.of_type("OptogeneticSeries"), "opto", lambda series: True)
        self._pulses = None if light is None else _pulses(contents, light)
        self.opto_groups = () if light is None else (0,) * len(self.units)
        self._read_trials(shown, frame_rate, invalid_spans(contents.nwb))
        location = {
            "path": str(self._path), "responses": responses, "stimulus": stimulus, "intervals": intervals, "rows": rows,
            "index_column": index_column, "axes": axes, "frame_rate": frame_rate, "running": running,
            "pupil_size": pupil_size, "pupil_position": pupil_position, "opto": opto, "nan": nan,
        }  # fmt: skip
        self.source = sealed(self, location)

    def frames(self, condition_hash: str) -> np.ndarray:
        """Return the pixels of one stimulus, (channel, time, height, width), in the source's dtype.

        Raises
        ------
        RecordingError
            If the recording has no such condition, or the file changed since the recording was opened.
        """
        if condition_hash not in self._frames:
            raise RecordingError(f"{self._path} has no condition {condition_hash}")
        stimulus = self.stimuli[condition_hash]
        where = f"{self._path}: {stimulus.stimulus_name}"
        return unchanged(self._pool.read(self._frames[condition_hash]), stimulus, where)

    def responses(self, trial_idx: int, margin: float = 0.0) -> Responses:
        """Return the responses in one trial and ``margin`` (s) around it, as far as they are known."""
        if self._spikes is None:
            return self._traces(trial_idx, margin)
        return self._spikes.read(trial_idx, *self._span(trial_idx), margin)

    def _open_responses(self, contents: Contents, responses: str, shown: list[Showing]) -> None:
        if responses == "units" or (not responses and spiking(contents)):
            if not spiking(contents):
                raise contents.lacking("there are no units with spike times")
            self.units = read_units(contents)
            starts, stops = (np.array([getattr(showing, at) for showing in shown]) for at in ("start", "stop"))
            self._spikes = read_spikes(contents, self.units, starts, stops)
            return
        series = find_traces(contents, responses)
        self.units, self._sampled, self.response_unit = read_traces(contents, series)

    def _read_trials(self, shown: list[Showing], frame_rate: str, invalid: np.ndarray) -> None:
        movies = [index for index, showing in enumerate(shown) if showing.interval]
        measured = shared_rates([shown[index].interval for index in movies])
        rates = dict(zip(movies, [_rate(frame_rate)] * len(movies) if frame_rate else measured, strict=True))
        self._frames: dict[str, tuple[int, ...]] = {}
        stimuli: dict[str, Stimulus] = {}
        hashed: dict[tuple, str] = {}
        trials = []
        for index, showing in enumerate(shown):
            key = (showing.frames, rates.get(index))
            if key not in hashed:
                stimulus = self._describe(showing, rates.get(index))
                hashed[key] = stimulus.condition_hash
                stimuli.setdefault(stimulus.condition_hash, stimulus)
                self._frames.setdefault(stimulus.condition_hash, showing.frames)
            tier, exclusion = self._standing(index, showing, invalid)
            length = showing.stop - showing.start
            trials.append(Trial(index, hashed[key], showing.start, length, tier, exclusion=exclusion))
        self.stimuli, self.trials = stimuli, tuple(trials)

    def _describe(self, showing: Showing, rate: float | None) -> Stimulus:
        frames = self._pool.read(showing.frames)
        channels, time, height, width = frames.shape
        name = self._pool.name(showing.frames)
        return Stimulus(hash_pixels(frames, rate), rate, (channels, time, height, width), name, showing.stimulus_type)

    def _standing(self, index: int, showing: Showing, invalid: np.ndarray) -> tuple[str | None, str]:
        """Return the tier of a trial and why it is excluded."""
        tier = None
        if showing.tier not in ("", "none"):
            tier = tier_called(showing.tier, f"{self._path}, {showing.where}")
        if showing.tier == "none":
            return tier, "the source gives it the tier 'none'"
        if len(pulses_touching(invalid, showing.start, showing.stop)):
            return tier, "it lies in the source's invalid_times"
        if self._spikes is not None and self._spikes.obstacles[index]:
            return tier, self._spikes.obstacles[index]
        return tier, self._obstacle(showing.start, showing.stop)


def _behavior(contents: Contents, running: str, pupil_size: str, pupil_position: str) -> list[Sequence]:
    series = {
        label: item for label, item in contents.of_type("TimeSeries").items()
        if not is_a(item, "ImageSeries", "IndexSeries", "RoiResponseSeries", "OptogeneticSeries")
    }  # fmt: skip
    found = []
    speed = contents.only(running, series, "running", lambda item: item.name in RUNNING_NAMES)
    if speed is not None:
        found.append(_in_centimetres(contents.sequence(speed, ("run",)), str(speed.unit)))
    size = contents.only(
        pupil_size, series, "pupil_size", lambda item: is_a(item.parent, "PupilTracking") or item.name in SIZE_NAMES
    )
    if size is not None:
        found.append(contents.sequence(size, ("pupil_size",)))
    place = contents.only(pupil_position, series, "pupil_position", _is_position)
    if place is not None:
        if tuple(place.data.shape[1:]) != (2,):
            raise RecordingError(f"{contents.where(place)}: shape {place.data.shape}, but (sample, x and y) is needed")
        found.append(contents.sequence(place, ("pupil_x", "pupil_y")))
    return found


def _is_position(series: Any) -> bool:
    # Types derived from EyeTracking hold ellipses of the eye and the corneal reflection beside that of the pupil.
    return series.name in POSITION_NAMES or type(series.parent).__name__ == "EyeTracking"


def _in_centimetres(speed: Sequence, unit: str) -> Sequence:
    if unit.replace(" ", "") not in ("m/s", "meters/s", "metres/s", "meterspersecond", "meters/second"):
        return speed
    return Sequence(**{**vars(speed), "scale": 100 * speed.scale, "offset": 100 * speed.offset})


def _pulses(contents: Contents, series: Any) -> np.ndarray:
    """Return from when to when (pulse, 2) light was above 0; a pulse lasts until the first sample without light."""
    if len(series.data.shape) != 1:
        raise RecordingError(f"{contents.where(series)}: shape {series.data.shape}, but (sample,) is needed")
    count = series.data.shape[0]
    light = Sequence(contents.where(series), ("light",), contents.times(series), series.data)
    on = np.concatenate([np.asarray(series.data[at : at + CHUNK]) > 0 for at in range(0, count, CHUNK)])
    edges = np.flatnonzero(np.diff(np.r_[False, on, False].astype(np.int8)))
    last = light.times[-1] + (np.median(np.diff(light.times)) if count > 1 else 0.0)
    return np.r_[light.times, last][edges].reshape(-1, 2)


def _rate(frame_rate: str) -> float:
    try:
        rate = float(frame_rate)
    except ValueError:
        rate = 0.0
    if not (np.isfinite(rate) and rate > 0):
        raise RecordingError(f"frame_rate is {frame_rate!r}, but a number above 0 is needed")
    return rate
