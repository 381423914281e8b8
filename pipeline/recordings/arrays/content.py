"""What a recording made of arrays consists of, in memory or mapped from disk, and whether it agrees with itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

import numpy as np

from pipeline.errors import RecordingError
from pipeline.recordings.checks import require_numbers
from pipeline.recordings.tiers import tier_called

_MOST_CHANNELS = 4


class Rows(Sequence[np.ndarray]):
    """Items of different length that lie one after another along the first axis of one array.

    Parameters
    ----------
    values : ndarray
        (row of any item, ...); may be mapped from disk.
    counts : ndarray
        How many rows each item has.
    """

    def __init__(self, values: np.ndarray, counts: np.ndarray) -> None:
        self.values, self.counts = values, counts
        self._edges = np.concatenate([[0], np.cumsum(counts)])

    def __len__(self) -> int:
        return len(self.counts)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            first, stop, _ = index.indices(len(self))
            edges = self._edges[first : stop + 1]
            return np.split(self.values[edges[0] : edges[-1]], edges[1:-1] - edges[0])
        return self.values[self._edges[index] : self._edges[index + 1]]

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[index] for index in range(len(self)))


@dataclass(frozen=True)
class Series:
    """One array for each trial or stimulus.

    Attributes
    ----------
    items : sequence of ndarray
    counts : ndarray or None
        Rows (samples, frames, spikes) of each item; None if items have no axis of rows.
    """

    items: Sequence[np.ndarray] | np.ndarray
    counts: np.ndarray | None = None


@dataclass(frozen=True)
class Description:
    """The numbers and names that describe the arrays; everything may be left out.

    Attributes
    ----------
    frame_rate : float or None
        Of videos (Hz).
    response_unit : str
        Empty: 'spikes' for spike times, otherwise 'a.u.'.
    response_rate, signal_rate : float or None
        Of sampled responses and signals (Hz).
    response_offset, signal_offset : float or None
        When the first sample was taken, from the trial's start (s); None: half a sampling interval.
    spike_margin : float
        For how long before and after each trial spikes are known (s).
    unit_ids, unit_names, areas, layers, positions : list
        One entry a unit; a position is x, y and z (um).
    tiers, stimulus_names, stimulus_types : list
        One entry a stimulus.
    """

    frame_rate: float | None = None
    response_unit: str = ""
    response_rate: float | None = None
    response_offset: float | None = None
    signal_rate: float | None = None
    signal_offset: float | None = None
    spike_margin: float = 0.0
    unit_ids: list[int] = field(default_factory=list)
    unit_names: list[str] = field(default_factory=list)
    areas: list[str | None] = field(default_factory=list)
    layers: list[str | None] = field(default_factory=list)
    positions: list[list[float] | None] = field(default_factory=list)
    tiers: list[str | None] = field(default_factory=list)
    stimulus_names: list[str] = field(default_factory=list)
    stimulus_types: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        # The hash of a video holds its frame rate: 30, 30.0 and numpy's 30.0 must be one.
        for name in (*_RATES, *_TIMES):
            value = getattr(self, name)
            if isinstance(value, Real) and not isinstance(value, bool):
                object.__setattr__(self, name, float(value))


UNIT_COLUMNS = ("unit_ids", "unit_names", "areas", "layers", "positions")
STIMULUS_COLUMNS = ("tiers", "stimulus_names", "stimulus_types")
_RATES = ("frame_rate", "response_rate", "signal_rate")
_TIMES = ("response_offset", "signal_offset", "spike_margin")
_ENTRIES = {"unit_ids": "a whole number", "positions": "x, y and z (um)"}
_MAY_BE_OPEN = ("areas", "layers", "positions", "tiers")


@dataclass(frozen=True)
class Content:
    """All arrays of one recording.

    Attributes
    ----------
    description : Description
    stimuli : Series
        Each (frame, channel, height, width); images have no counts and are (channel, height, width).
    shown : ndarray
        (trial,) number of the stimulus.
    starts, durations : ndarray
        (trial,) s.
    responses : Series or None
        For each trial (unit,), or with counts (sample, unit).
    spike_times : Series or None
        For each trial and unit, trial after trial, (spike,) in s from the trial's start; counts (trial, unit).
    signals : dict of Series
        For each trial one number, or with counts (sample,).
    opto_pulses : Series or None
        For each trial (pulse, 2), start and end in s from the trial's start.
    """

    description: Description
    stimuli: Series
    shown: np.ndarray
    starts: np.ndarray
    durations: np.ndarray
    responses: Series | None = None
    spike_times: Series | None = None
    signals: Mapping[str, Series] = field(default_factory=dict)
    opto_pulses: Series | None = None

    @property
    def n_units(self) -> int:
        """How many units the responses list."""
        if self.spike_times is not None and self.spike_times.counts is not None:
            return self.spike_times.counts.shape[1]
        if self.responses is not None and len(self.responses.items):
            return self.responses.items[0].shape[-1]
        return 0


def require_whole(values: Any, where: str) -> np.ndarray:
    """Return an array of whole numbers as int64; programs without integers write them as floats."""
    numbers = np.asarray(values)
    if numbers.dtype.kind not in "iuf" or not np.array_equal(numbers, np.round(numbers)):
        raise RecordingError(f"{where}: whole numbers are needed")
    return numbers.astype(np.int64)


def check_content(content: Content, where: str) -> None:
    """Refuse arrays that do not agree with each other; values are left to `pipeline.recordings.checks.sealed`.

    Raises
    ------
    RecordingError
        Saying ``where``, and which array of which trial or stimulus is wrong.
    """
    check_numbers(content.description, where)
    check_stimuli(content.stimuli, content.description.frame_rate, content.shown, where)
    _check_columns(content, where)
    n_trials = len(content.shown)
    for name, times in (("durations", content.durations), ("starts", content.starts)):
        require_numbers(times, (n_trials,), f"{where}: {name} (one a trial)")
    late = np.flatnonzero(np.diff(content.starts) < 0)
    if len(late):
        raise RecordingError(
            f"{where}: starts, trial {late[0] + 1} begins before trial {late[0]}; put trials in order of time"
        )
    if (content.responses is None) == (content.spike_times is None):
        raise RecordingError(f"{where}: either responses or spike_times are needed")
    rates = content.description
    if content.responses is not None:
        _check_series(content, content.responses, "responses", rates.response_rate, rates.response_offset, where)
    spikes = content.spike_times
    if spikes is not None and spikes.counts is not None and len(spikes.counts) != n_trials:
        raise RecordingError(f"{where}: spike_times of {len(spikes.counts)} trials, but there are {n_trials}")
    for name, series in content.signals.items():
        _check_series(content, series, name, rates.signal_rate, rates.signal_offset, where)
    if content.opto_pulses is not None and len(content.opto_pulses.items) != n_trials:
        raise RecordingError(
            f"{where}: opto_pulses of {len(content.opto_pulses.items)} trials, but there are {n_trials}"
        )


def check_numbers(said: Description, where: str) -> None:
    """Refuse rates and times that are no numbers, or not positive where they must be."""
    for name in (*_RATES, *_TIMES):
        value = getattr(said, name)
        if value is not None and (not isinstance(value, float) or not np.isfinite(value)):
            raise RecordingError(f"{where}: {name} is {value!r}, but a number is needed")
        if value is not None and (value <= 0 if name in _RATES else name == "spike_margin" and value < 0):
            raise RecordingError(f"{where}: {name} is {value!r}, but must be above 0")


def _check_columns(content: Content, where: str) -> None:
    said, n_stimuli = content.description, len(content.stimuli.items)
    if not isinstance(said.response_unit, str):
        raise RecordingError(f"{where}: response_unit is {said.response_unit!r}, but text is needed")
    for names, count, what in ((UNIT_COLUMNS, content.n_units, "units"), (STIMULUS_COLUMNS, n_stimuli, "stimuli")):
        for name in names:
            column = getattr(said, name)
            if not isinstance(column, list):
                raise RecordingError(f"{where}: {name} is {column!r}, but a list is needed")
            if column and len(column) != count:
                raise RecordingError(f"{where}: {name} has {len(column)} entries, but there are {count} {what}")
            for index, entry in enumerate(column):
                if not (_fits(name, entry) or (entry is None and name in _MAY_BE_OPEN)):
                    raise RecordingError(
                        f"{where}: {name}, entry {index} is {entry!r}, but {_ENTRIES.get(name, 'text')} is needed"
                    )
    for index, tier in enumerate(said.tiers):
        if tier is not None:
            tier_called(tier, f"{where}: tiers, stimulus {index}")


def _fits(name: str, entry: Any) -> bool:
    if name == "unit_ids":
        return isinstance(entry, int) and not isinstance(entry, bool)
    if name == "positions":
        return isinstance(entry, list) and len(entry) == 3 and all(isinstance(part, Real) for part in entry)
    return isinstance(entry, str)


def check_stimuli(stimuli: Series, frame_rate: float | None, shown: np.ndarray, where: str) -> None:
    """Refuse stimuli that are no pixels, and trials that show none of them."""
    moving = stimuli.counts is not None
    name = "videos" if moving else "images"
    if moving != (frame_rate is not None):
        raise RecordingError(
            f"{where}: frame_rate (Hz) {'is needed for videos' if moving else 'belongs to videos only'}"
        )
    if not len(stimuli.items) or not len(shown):
        raise RecordingError(f"{where}: there are {len(stimuli.items)} {name} and {len(shown)} trials")
    n_channels, _, width = stimuli.items[0].shape[-3:]
    if n_channels > _MOST_CHANNELS >= width:
        raise RecordingError(
            f"{where}: {name} have {n_channels} channels and are {width} pixels wide: channels come before time, "
            "height and width"
        )
    if shown.ndim != 1:
        raise RecordingError(f"{where}: shown has the shape {shown.shape}, but (trial,) is needed")
    outside = np.flatnonzero((shown < 0) | (shown >= len(stimuli.items)))
    if len(outside):
        raise RecordingError(
            f"{where}: shown, trial {outside[0]} shows stimulus {shown[outside[0]]}; stimuli are 0 to "
            f"{len(stimuli.items) - 1}"
        )


def _check_series(
    content: Content, series: Series, name: str, rate: float | None, offset: float | None, where: str
) -> None:
    """Check that there is an item a trial, and that samples reach from a trial's start to its end."""
    n_trials = len(content.shown)
    if len(series.items) != n_trials:
        raise RecordingError(f"{where}: {name} of {len(series.items)} trials, but there are {n_trials}")
    prefix = "response" if name == "responses" else "signal"
    if series.counts is None:
        return
    if rate is None:
        raise RecordingError(f"{where}: {name} are sampled, so {prefix}_rate (Hz) is needed")
    begin = 0.5 / rate if offset is None else offset
    short = np.flatnonzero(begin + (series.counts - 1) / rate < content.durations - 1.5 / rate - 1e-6)
    if begin > 1 / rate + 1e-6:
        raise RecordingError(f"{where}: {prefix}_offset {begin:g} s: samples must begin with the trial or before")
    if len(short):
        trial = short[0]
        raise RecordingError(
            f"{where}: {name}, trial {trial} has {series.counts[trial]} samples at {rate:g} Hz from {begin:g} s on, "
            f"but lasts {content.durations[trial]:g} s"
        )
