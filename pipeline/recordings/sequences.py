"""Signals with a clock of their own: the stretch of samples that a trial needs, read when it is asked for."""

from __future__ import annotations

from collections.abc import Sequence as Ordered
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.errors import RecordingError
from pipeline.recordings.base import Trace
from pipeline.recordings.checks import NAN_RULES, fill_nan

SLACK = 1e-6
"""Instants (s) that are nearer than this are the same: clocks are sums of floating-point numbers."""

SAME_RATE = 0.05
"""Frame rates that differ by less than this share are one rate, measured with jitter."""

WHOLE_RATE = 0.0008
"""Frame rates that are nearer to whole Hz than this share are whole; 29.97 Hz is not."""


@dataclass(frozen=True)
class Sequence:
    """Signals that were sampled together, left on disk.

    Attributes
    ----------
    where : str
        File and object, for errors.
    names : tuple of str
        Of the signals, in the order of ``columns``.
    times : ndarray
        (sample,) on the recording's clock (s), increasing.
    values : array, memory map or HDF5 dataset
        (sample, column), or (sample,) where there is one column.
    columns : tuple of int or None
        Columns of ``values`` that are read; None: all.
    delays : ndarray or None
        (signal,) how much later than ``times`` each signal was sampled (s).
    scale, offset : float
        What is read is ``values * scale + offset``.
    """

    where: str
    names: tuple[str, ...]
    times: np.ndarray
    values: Any
    columns: tuple[int, ...] | None = None
    delays: np.ndarray | None = None
    scale: float = 1.0
    offset: float = 0.0

    def __post_init__(self) -> None:
        dtype, shape = np.dtype(self.values.dtype), tuple(self.values.shape)
        if dtype.kind not in "biuf":
            raise RecordingError(f"{self.where}: dtype {dtype}, but numbers are needed")
        if len(shape) not in (1, 2):
            raise RecordingError(f"{self.where}: shape {shape}, but (sample, signal) is needed")
        width = shape[1] if len(shape) == 2 else 1
        if self.columns is None and width != len(self.names):
            raise RecordingError(f"{self.where}: {width} columns for {len(self.names)} signals")
        if self.columns is not None and max(self.columns) >= width:
            raise RecordingError(f"{self.where}: column {max(self.columns)} does not exist, there are {width} (from 0)")
        if shape[0] != len(self.times):
            raise RecordingError(f"{self.where}: {shape[0]} samples, but {len(self.times)} times")
        if not shape[0]:
            raise RecordingError(f"{self.where}: there are no samples")
        require_increasing(self.times, self.where)
        if self.delays is not None and (self.delays.shape != (len(self.names),) or not np.isfinite(self.delays).all()):
            raise RecordingError(
                f"{self.where}: delays of shape {self.delays.shape}, but one number for each of {len(self.names)} "
                "signals is needed"
            )

    def read(self, start: float, stop: float, margin: float, rule: str) -> tuple[np.ndarray, np.ndarray]:
        """Return the samples from ``start`` to ``stop`` (s), ``margin`` (s) around them, and one more on each side.

        Parameters
        ----------
        start, stop, margin : float
            s.
        rule : str
            One of `NAN_RULES`. 'interpolate' fills NaN; otherwise the margin ends where it holds NaN.

        Returns
        -------
        times : ndarray
            (sample,)
        values : ndarray
            (signal, sample)
        """
        around = self._stretch(start - margin, stop + margin)
        times, values = self.times[around], self._take(around)
        if values.dtype.kind != "f":
            return times, values
        if rule == "interpolate":
            return times, fill_nan(values)
        trial = self._stretch(start, stop)
        missing = np.flatnonzero(np.isnan(values).any(axis=0)) + around.start
        first = max(missing[missing < trial.start], default=around.start - 1) + 1
        last = min(missing[missing >= trial.stop], default=around.stop)
        kept = slice(first - around.start, last - around.start)
        return times[kept], values[:, kept]

    def traces(self, start: float, stop: float, margin: float, rule: str) -> dict[str, Trace]:
        """Return each signal by its name, as `read` gives it, at the times when it was sampled itself."""
        times, values = self.read(start, stop, margin, rule)
        delays = np.zeros(len(self.names)) if self.delays is None else self.delays
        return {name: Trace(times + delay, row) for name, delay, row in zip(self.names, delays, values, strict=True)}

    def obstacle(self, start: float, stop: float, rule: str) -> str:
        """Return why a trial cannot be used, empty if it can: it was not recorded, or the rule for NaN forbids it."""
        early, late = self._reach()
        if self.times[0] + late > start + SLACK or self.times[-1] + early < stop - SLACK:
            known = f"{self.times[0] + late:.3f} to {self.times[-1] + early:.3f} s"
            return f"{self._called()} known from {known} only"
        if rule == "refuse":
            return ""
        values = self._take(self._stretch(start, stop))
        missing = np.isnan(values) if values.dtype.kind == "f" else np.zeros(values.shape, bool)
        bad = missing.any(axis=1) if rule == "exclude" else missing.all(axis=1)
        if bad.any():
            return f"{self.names[int(np.flatnonzero(bad)[0])]} {'holds' if rule == 'exclude' else 'is only'} NaN"
        return ""

    def _called(self) -> str:
        return ", ".join(self.names) if len(self.names) <= 3 else "responses"

    def _reach(self) -> tuple[float, float]:
        """Return the smallest and the largest delay (s)."""
        return (0.0, 0.0) if self.delays is None else (float(self.delays.min()), float(self.delays.max()))

    def _stretch(self, start: float, stop: float) -> slice:
        early, late = self._reach()
        first = int(np.searchsorted(self.times, start - late + SLACK, side="right")) - 1
        last = int(np.searchsorted(self.times, stop - early - SLACK, side="left")) + 1
        return slice(max(first, 0), min(last, len(self.times)))

    def _take(self, rows: slice) -> np.ndarray:
        taken = np.asarray(self.values[rows])
        taken = taken.reshape(len(taken), -1).T
        if self.columns is not None:
            taken = taken[list(self.columns)]
        if self.scale != 1.0 or self.offset != 0.0:
            taken = taken * self.scale + self.offset
        return np.ascontiguousarray(taken)


def require_increasing(times: np.ndarray, where: str) -> np.ndarray:
    """Return times (s) that must be finite and increase.

    Raises
    ------
    RecordingError
        Saying ``where`` and from which sample on.
    """
    if not np.isfinite(times).all():
        raise RecordingError(f"{where}: time {int(np.flatnonzero(~np.isfinite(times))[0])} is NaN or infinite")
    falls = np.flatnonzero(np.diff(times) <= 0)
    if len(falls):
        at = int(falls[0])
        raise RecordingError(
            f"{where}: times must increase, but number {at + 1} ({times[at + 1]} s) follows {times[at]} s"
        )
    return times


def require_nan_rule(rule: str) -> str:
    """Return the name of a rule that must be one of `NAN_RULES`."""
    if rule not in NAN_RULES:
        raise RecordingError(f"nan is {rule!r}: choose one of {', '.join(NAN_RULES)}")
    return rule


def shared_rates(intervals: Ordered[float]) -> list[float]:
    """Return the frame rate (Hz) of each movie, equal for movies that were meant to be shown equally fast.

    A clip must be one condition however its timestamps jitter. So intervals within 5 % of each other count as one
    rate, that of their median, in whole Hz where that is nearer than 0.08 %, else rounded to 0.01 Hz.

    Parameters
    ----------
    intervals : sequence of float
        Median time between the frames of each movie (s).
    """
    measured = np.asarray(intervals, float)
    rates = np.zeros(len(measured))
    while (rates == 0).any():
        reference = np.median(measured[rates == 0])
        nearest = measured[rates == 0][np.argmin(abs(measured[rates == 0] - reference))]
        alike = (rates == 0) & (abs(measured / nearest - 1) <= SAME_RATE)
        rate = 1 / float(np.median(measured[alike]))
        rates[alike] = round(rate) if abs(rate - round(rate)) < WHOLE_RATE * rate else round(rate, 2)
    return rates.tolist()


def channels_first(frames: np.ndarray, where: str) -> np.ndarray:
    """Return frames (time, height, width) or (time, height, width, channel) as (channel, time, height, width).

    Raises
    ------
    RecordingError
        If they have another number of axes, no pixels, or hold something else than finite numbers.
    """
    if frames.ndim not in (3, 4) or not frames.size:
        raise RecordingError(f"{where}: pixels of shape {frames.shape}, but (time, height, width[, channel]) is needed")
    if frames.dtype.kind not in "uif":
        raise RecordingError(f"{where}: pixels of dtype {frames.dtype}, but numbers are needed")
    if frames.dtype.kind == "f" and not np.isfinite(frames).all():
        raise RecordingError(f"{where}: pixels hold NaN or infinity")
    return np.ascontiguousarray(frames[None] if frames.ndim == 3 else np.moveaxis(frames, -1, 0))


def pulses_touching(pulses: np.ndarray, start: float, stop: float) -> np.ndarray:
    """Return those pulses (pulse, 2), start and end (s), that overlap a trial."""
    return pulses[(pulses[:, 1] > start) & (pulses[:, 0] < stop)]


def spikes_between(times: np.ndarray, first: float, last: float) -> np.ndarray:
    """Return the sorted spike times that lie from ``first`` to ``last`` (s)."""
    low, high = np.searchsorted(times, [first, last], side="left")
    return np.asarray(times[low:high], np.float64)
