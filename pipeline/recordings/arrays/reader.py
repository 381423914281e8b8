"""Recordings that are a folder of ``.npy`` files: for whatever a laboratory has in numpy, or writes from MATLAB.

`save_arrays` writes such a folder, `ArrayRecording` reads it. By hand, it is made of one text file and these arrays:

=========================  ========================================================================================
``recording.json``         ``{"format": "geniculate arrays", "version": 1}`` and whatever applies of the fields of
                           `pipeline.recordings.arrays.content.Description`, lists with one entry a unit or stimulus
``images.npy``             (stimulus, channel, height, width); or instead of images
``videos.npy``             (frame, channel, height, width), video after video, with
``videos_counts.npy``      (stimulus,) frames of each
``shown.npy``              (trial,) number of the stimulus, from 0
``starts.npy``             (trial,) on one clock (s), in order of time
``durations.npy``          (trial,) s
``responses.npy``          (trial, unit); or (sample, unit), trial after trial, with
``responses_counts.npy``   (trial,) samples of each
``spike_times.npy``        instead of responses: (spike,) in s from the trial's start, for each trial unit after unit,
                           sorted for each unit, with
``spike_times_counts.npy`` (trial, unit) spikes of each
``<signal>.npy``           run, pupil_size, pupil_derivative, pupil_x or pupil_y: (trial,); or (sample,), with
``<signal>_counts.npy``    (trial,) samples of each
``opto_pulses.npy``        (pulse, 2) start and end in s from the trial's start, with
``opto_pulses_counts.npy`` (trial,) pulses of each
=========================  ========================================================================================

Only ``recording.json``, the stimuli, the times of trials, and responses or spike times must be there.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import RecordingError
from pipeline.recordings.arrays.content import (
    Content,
    Description,
    Series,
    check_content,
    check_numbers,
    check_stimuli,
    require_whole,
)
from pipeline.recordings.arrays.folder import read_folder, write_folder
from pipeline.recordings.arrays.input import (
    as_column,
    as_numbers,
    gathered_durations,
    gathered_images,
    gathered_pulses,
    gathered_responses,
    gathered_signal,
    gathered_spikes,
    gathered_videos,
)
from pipeline.recordings.base import (
    Recording,
    Responses,
    SpikeTimes,
    Stimulus,
    Trace,
    Traces,
    Trial,
    TrialValues,
    Unit,
    hash_pixels,
)
from pipeline.recordings.checks import sealed, unchanged
from pipeline.recordings.tiers import tier_called

_ROUNDING = 1e-6  # s; far below a sample, far above what adding up sampling intervals loses


class _ContentRecording(Recording):
    """Arrays as a recording.

    Parameters
    ----------
    content : Content
    path : Path
        Folder in which they lie, or will.

    Raises
    ------
    RecordingError
        If anything about the arrays is wrong; the message names the array, and the trial, unit or stimulus.
    """

    source_format = "arrays"

    def __init__(self, content: Content, path: Path) -> None:
        check_content(content, str(path))
        self._content, self._path = content, path
        said = content.description
        self.response_unit = said.response_unit or ("spikes" if content.spike_times is not None else "a.u.")
        self.units = _units(said, content.n_units)
        self.opto_groups = (0,) * len(self.units) if content.opto_pulses is not None else ()
        hashes = [self._hash(index) for index in range(len(content.stimuli.items))]
        self._first = {condition: index for index, condition in reversed(list(enumerate(hashes)))}
        self.stimuli = {condition: self._stimulus(condition, self._first[condition]) for condition in hashes}
        tiers = [tier and tier_called(tier, str(path)) for tier in said.tiers] or [None] * len(hashes)
        self.trials = tuple(
            Trial(trial_idx, hashes[index], float(start), float(duration), tiers[index])
            for trial_idx, (index, start, duration) in enumerate(
                zip(content.shown, content.starts, content.durations, strict=True)
            )
        )
        self.source = sealed(self, {"path": str(path)})

    def frames(self, condition_hash: str) -> np.ndarray:
        """Return the pixels of one stimulus, (channel, time, height, width), in the dtype of the arrays.

        Raises
        ------
        RecordingError
            If the recording has no such condition, or its file changed since the recording was opened.
        """
        if condition_hash not in self._first:
            raise RecordingError(f"{self._path} has no condition {condition_hash}")
        stimulus = self.stimuli[condition_hash]
        pixels = np.array(self._pixels(self._first[condition_hash]))
        return unchanged(pixels, stimulus, f"{self._path}: {stimulus.stimulus_name}")

    def responses(self, trial_idx: int, margin: float = 0.0) -> Responses:
        """Return the responses of all units in one trial and, where the arrays have them, ``margin`` (s) around it."""
        trial, content = self._trial(trial_idx), self._content
        if content.spike_times is not None:
            return self._spikes(trial, content.spike_times, margin)
        series = content.responses
        assert series is not None
        if series.counts is None:
            return TrialValues(np.array(series.items[trial_idx]))
        said = content.description
        return Traces(*_sampled(trial, series, said.response_rate, said.response_offset, margin))

    def signals(self, trial_idx: int, margin: float = 0.0) -> dict[str, Trace]:
        """Return the behaviour of one trial; a number that belongs to the whole trial is put at its middle."""
        trial, said = self._trial(trial_idx), self._content.description
        found = {}
        for name, series in self._content.signals.items():
            if series.counts is None:
                middle = trial.start + trial.duration / 2
                found[name] = Trace(np.array([middle]), np.array([series.items[trial_idx]]))
            else:
                times, values = _sampled(trial, series, said.signal_rate, said.signal_offset, margin)
                found[name] = Trace(times, values)
        return found

    def opto_pulses(self, trial_idx: int) -> tuple[np.ndarray, ...]:
        """Return the light pulses of one trial, one train (pulse, 2) of start and end (s)."""
        trial, series = self._trial(trial_idx), self._content.opto_pulses
        return () if series is None else (trial.start + np.asarray(series.items[trial_idx]),)

    def _trial(self, trial_idx: int) -> Trial:
        if not 0 <= trial_idx < len(self.trials):
            raise RecordingError(f"{self._path} has no trial {trial_idx}: trials are 0 to {len(self.trials) - 1}")
        return self.trials[trial_idx]

    def _pixels(self, index: int) -> np.ndarray:
        item = self._content.stimuli.items[index]
        return item[:, None] if self._content.stimuli.counts is None else np.asarray(item).swapaxes(0, 1)

    def _hash(self, index: int) -> str:
        pixels = self._pixels(index)
        if not np.isfinite(pixels).all():
            raise RecordingError(f"{self._path}: stimulus {index} holds NaN or infinity")
        return hash_pixels(pixels, self._content.description.frame_rate)

    def _stimulus(self, condition: str, index: int) -> Stimulus:
        said, (channel, time, height, width) = self._content.description, self._pixels(index).shape
        name = said.stimulus_names[index] if said.stimulus_names else str(index)
        kind = said.stimulus_types[index] if said.stimulus_types else ""
        return Stimulus(condition, said.frame_rate, (channel, time, height, width), name, kind)

    def _spikes(self, trial: Trial, series: Series, margin: float) -> SpikeTimes:
        n_units, known = len(self.units), self._content.description.spike_margin
        kept = min(margin, known)
        times = series.items[trial.trial_idx * n_units : (trial.trial_idx + 1) * n_units]
        for unit, spikes in zip(self.units, times, strict=True):
            inside = (spikes >= -known - _ROUNDING) & (spikes <= trial.duration + known + _ROUNDING)
            if not inside.all() or (np.diff(spikes) < 0).any():
                raise RecordingError(
                    f"{self._path}: spike_times, trial {trial.trial_idx}, unit {unit.unit_name} must be sorted, and "
                    f"lie between {-known:g} and {trial.duration + known:g} s from the trial's start; where spikes are "
                    "known around trials, say so with spike_margin (s)"
                )
        spikes_kept = tuple(
            trial.start + spikes[(spikes >= -kept - _ROUNDING) & (spikes <= trial.duration + kept + _ROUNDING)]
            for spikes in times
        )
        span = (trial.start - kept, trial.start + trial.duration + kept) if kept else None
        return SpikeTimes(spikes_kept, span)


class ArrayRecording(_ContentRecording):
    """A folder of arrays, as `save_arrays` or `Recording.from_arrays` write it. Large arrays stay on disk.

    Two stimuli with the same pixels are one condition, their trials are pooled. Without tiers, repeated stimuli are for
    testing and validation is drawn.

    Parameters
    ----------
    path : str
        The folder with recording.json and the ``.npy`` files.

    Raises
    ------
    RecordingError
        At construction, naming the file, trial, unit or stimulus that is missing, damaged or contradicts others.
    """

    example = "--path recording/ --subject m1 --session 1 --scan 1"

    def __init__(self, path: str) -> None:
        folder = Path(path).expanduser().absolute()
        super().__init__(read_folder(folder), folder)


def save_arrays(
    folder: str | Path,
    *,
    images: Any = None,
    videos: Any = None,
    frame_rate: float | None = None,
    shown: Any = None,
    starts: Any = None,
    durations: Any = None,
    tiers: Sequence[str | None] | None = None,
    stimulus_names: Sequence[str] | None = None,
    stimulus_types: Sequence[str] | None = None,
    responses: Any = None,
    response_rate: float | None = None,
    response_offset: float | None = None,
    response_unit: str = "",
    spike_times: Sequence[Sequence[Any]] | None = None,
    spike_margin: float = 0.0,
    pupil_size: Any = None,
    pupil_derivative: Any = None,
    run: Any = None,
    pupil_x: Any = None,
    pupil_y: Any = None,
    signal_rate: float | None = None,
    signal_offset: float | None = None,
    opto_pulses: Sequence[Any] | None = None,
    unit_ids: Any = None,
    unit_names: Sequence[str] | None = None,
    areas: Sequence[str | None] | None = None,
    layers: Sequence[str | None] | None = None,
    positions: Any = None,
) -> Path:
    """Keep arrays as a recording in a folder. All is checked before the first file is written.

    Parameters
    ----------
    folder : str or Path
        New, or holding exactly this recording already.
    images : array_like
        (stimulus, height, width) or (stimulus, channel, height, width); or instead of images
    videos : array_like or sequence of array_like
        For each stimulus (time, height, width) or (channel, time, height, width).
    frame_rate : float
        Of the videos (Hz).
    shown : array_like of int
        (trial,) number of the stimulus, from 0. Without it, every stimulus is shown once, in order.
    starts : array_like
        (trial,) on one clock (s), in order of time. Without it, one trial follows right after the other.
    durations : array_like or float
        (trial,), or one number for all trials (s). Videos and sampled responses tell it themselves.
    tiers : sequence of str or None
        For each stimulus 'train', 'validation', 'test', 'final' or 'ood'; None leaves it open.
    stimulus_names, stimulus_types : sequence of str
        For each stimulus its name, and the class to which it belongs.
    responses : array_like or sequence of array_like
        (trial, unit): a number for each; or sampled, for each trial (unit, time); or instead of responses
    spike_times : sequence of sequence of array_like
        For each trial, for each unit: sorted, in s from the trial's start.
    response_rate : float
        Samples a second of sampled responses (Hz).
    response_offset : float
        When the first sample was taken, from the trial's start (s). Without it, half a sampling interval: samples
        belong to the middle of bins that begin with the trial.
    response_unit : str
        Such as 'dF/F'; without it 'spikes' for spike times and 'a.u.' for responses.
    spike_margin : float
        For how long before and after each trial its spikes are listed as well (s).
    run, pupil_size, pupil_derivative, pupil_x, pupil_y : array_like or sequence of array_like
        Behaviour: (trial,) numbers, or for each trial (time,); running in cm/s.
    signal_rate, signal_offset : float
        Of sampled behaviour, as for responses.
    opto_pulses : sequence of array_like
        For each trial (pulse, 2): start and end of light, in s from the trial's start.
    unit_ids : array_like of int
        Without it, units are numbered from 0.
    unit_names, areas, layers : sequence of str
        One entry a unit; areas and layers may be None.
    positions : array_like
        (unit, 3) x, y, z (um); NaN where unknown.

    Returns
    -------
    Path
        The folder, absolute.

    Raises
    ------
    RecordingError
        Naming the array, and the trial, unit or stimulus that is wrong; or if the folder holds something else.
    """
    path = Path(folder).expanduser().absolute()
    where = str(path)
    said = Description(
        frame_rate=frame_rate, response_unit=response_unit, response_rate=response_rate,
        response_offset=response_offset, signal_rate=signal_rate, signal_offset=signal_offset,
        spike_margin=spike_margin, unit_ids=as_column(unit_ids), unit_names=as_column(unit_names),
        areas=as_column(areas), layers=as_column(layers), positions=as_column(positions), tiers=as_column(tiers),
        stimulus_names=as_column(stimulus_names), stimulus_types=as_column(stimulus_types),
    )  # fmt: skip
    check_numbers(said, where)
    if (images is None) == (videos is None):
        raise RecordingError(f"{where}: either images or videos are needed")
    stimuli = gathered_videos(videos, where) if images is None else gathered_images(images, where)
    answers = None if responses is None else gathered_responses(responses, where)
    order = require_whole(np.arange(len(stimuli.items)) if shown is None else shown, f"{where}: shown")
    check_stimuli(stimuli, said.frame_rate, order, where)
    seconds = gathered_durations(durations, order, stimuli, answers, said, where)
    behavior = {
        "run": run, "pupil_size": pupil_size, "pupil_derivative": pupil_derivative, "pupil_x": pupil_x,
        "pupil_y": pupil_y,
    }  # fmt: skip
    content = Content(
        said,
        stimuli,
        order,
        np.cumsum(seconds) - seconds if starts is None else as_numbers(starts, f"{where}: starts").astype(np.float64),
        seconds,
        answers,
        None if spike_times is None else gathered_spikes(spike_times, where),
        {name: gathered_signal(name, values, where) for name, values in behavior.items() if values is not None},
        None if opto_pulses is None else gathered_pulses(opto_pulses, where),
    )
    _ContentRecording(content, path)
    write_folder(content, path)
    return path


def _units(said: Description, n_units: int) -> tuple[Unit, ...]:
    ids = said.unit_ids or list(range(n_units))
    names = said.unit_names or [f"unit_{unit_id}" for unit_id in ids]
    unknown: list[None] = [None] * n_units
    places = [
        None if place is None else (float(place[0]), float(place[1]), float(place[2])) for place in said.positions
    ]
    columns = zip(ids, names, said.areas or unknown, said.layers or unknown, places or unknown, strict=True)
    return tuple(Unit(*entries) for entries in columns)


def _sampled(
    trial: Trial, series: Series, rate: float | None, offset: float | None, margin: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return the times (s) of the samples in one trial and a margin around it, and their values (..., sample)."""
    assert rate is not None
    samples = series.items[trial.trial_idx]
    since_start = (0.5 / rate if offset is None else offset) + np.arange(len(samples)) / rate
    first = int(np.searchsorted(since_start, -margin - _ROUNDING))
    stop = int(np.searchsorted(since_start, trial.duration + margin + _ROUNDING))
    return trial.start + since_start[first:stop], np.array(samples[first:stop].T)
