"""From a recording's own clocks to bins of one frame rate: spikes, light pulses, traces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.recordings.base import Trace, Traces


def n_bins(duration: float, frame_rate: float) -> int:
    """Return how many whole bins of ``1 / frame_rate`` (s) a trial of ``duration`` (s) holds.

    A millionth of a bin is forgiven, so that 5 s at 60 Hz are 300 bins although 1/60 has no finite binary form.
    """
    return int(np.floor(duration * frame_rate + 1e-6))


def bin_edges(start: float, frame_rate: float, bins: int, lead: int = 0) -> np.ndarray:
    """Return the edges ``start + k / frame_rate`` (s) for k from ``-lead`` to ``bins``.

    Each edge is computed by itself: adding up steps would drift by a spike's width within minutes.
    """
    return start + np.arange(-lead, bins + 1) / frame_rate


@dataclass(frozen=True)
class BinnedSpikes:
    """The spikes of all units that fall into the bins between some edges.

    Attributes
    ----------
    times : ndarray
        (spike,) on the recording's clock (s).
    cell : ndarray
        (spike,) index into (unit, time), flattened.
    to_next_edge : ndarray
        (spike,) from the spike to the end of its bin (s), above 0.
    shape : tuple
        (unit, time).
    """

    times: np.ndarray
    cell: np.ndarray
    to_next_edge: np.ndarray
    shape: tuple[int, int]

    def total(self, weights: np.ndarray | None = None) -> np.ndarray:
        """Return the sum of the spikes' weights in each bin, (unit, time); without weights their number."""
        return np.bincount(self.cell, weights, self.shape[0] * self.shape[1]).reshape(self.shape)


def place_spikes(times: Sequence[np.ndarray], edges: np.ndarray) -> BinnedSpikes:
    """Put spikes into half-open bins [edge k, edge k + 1): one on an edge belongs to the later bin, once.

    Spikes before the first and from the last edge on are left out.

    Parameters
    ----------
    times : sequence of ndarray
        One array of spike times (s) for each unit.
    edges : ndarray
        (time + 1,) increasing (s).
    """
    bins = len(edges) - 1
    # All units at once, by one number for each unit and bin: a loop over thousands of units takes ten times as long.
    every = np.concatenate([*times, np.empty(0)])
    index = np.searchsorted(edges, every, side="right") - 1
    unit = np.repeat(np.arange(len(times)), [len(spikes) for spikes in times])
    inside = (index >= 0) & (index < bins)
    every, index = every[inside], index[inside]
    return BinnedSpikes(every, unit[inside] * bins + index, edges[index + 1] - every, (len(times), bins))


def bin_spikes(times: Sequence[np.ndarray], start: float, frame_rate: float, bins: int) -> np.ndarray:
    """Count spikes in half-open bins, see `place_spikes`.

    Parameters
    ----------
    times : sequence of ndarray
        One array of spike times (s) for each unit.
    start : float
        First edge (s).
    frame_rate : float
        Bins a second (Hz).
    bins : int
        Number of bins.

    Returns
    -------
    ndarray of float32
        (unit, time): spikes in each bin; spikes outside the trial are left out.
    """
    return place_spikes(times, bin_edges(start, frame_rate, bins)).total().astype(np.float32)


def pulse_trace(pulses: np.ndarray, start: float, frame_rate: float, bins: int) -> np.ndarray:
    """Return 1 in each bin whose centre lies within a light pulse, else 0.

    Parameters
    ----------
    pulses : ndarray
        (pulse, 2): start and end (s); may be empty.
    start, frame_rate, bins
        As for `bin_spikes`.

    Returns
    -------
    ndarray of float32
        (time,)
    """
    centres = bin_edges(start + 0.5 / frame_rate, frame_rate, bins - 1)
    trace = np.zeros(bins, np.float32)
    for on, off in np.asarray(pulses, float).reshape(-1, 2):
        trace[(centres >= on) & (centres < off)] = 1
    return trace


def sample_interval(times: np.ndarray) -> float:
    """Return the median time between samples (s); infinite for a single sample."""
    return float(np.median(np.diff(times))) if len(times) > 1 else np.inf


def resample_traces(traces: Traces, start: float, frame_rate: float, bins: int) -> np.ndarray:
    """Return traces at the bins' centres: linear between their samples, constant beyond the first and last.

    Traces sampled faster than the bins are averaged within each bin instead, so that nothing aliases; bins without a
    sample are interpolated. A unit's delay is added to the times of its samples.

    Returns
    -------
    ndarray of float32
        (unit, time)
    """
    edges = bin_edges(start, frame_rate, bins)
    centres = (edges[:-1] + edges[1:]) / 2
    if sample_interval(traces.times) * frame_rate >= 0.75:
        return interpolate(traces, centres).astype(np.float32)
    delays = np.zeros(1) if traces.delays is None else traces.delays
    first = np.searchsorted(traces.times, edges - delays[:, None])
    summed = np.zeros((len(traces.values), len(traces.times) + 1))
    np.cumsum(traces.values, axis=1, dtype=np.float64, out=summed[:, 1:])
    samples = np.diff(first, axis=1)
    means = np.diff(_take(summed, first), axis=1) / np.maximum(samples, 1)
    if not samples.all():
        means = np.where(samples > 0, means, interpolate(traces, centres))
    return means.astype(np.float32)


def resample_trace(trace: Trace, start: float, frame_rate: float, bins: int) -> np.ndarray:
    """Return one signal at the bins' centres, (time,), as `resample_traces` does."""
    return resample_traces(Traces(trace.times, trace.values[None]), start, frame_rate, bins)[0]


def interpolate(traces: Traces, at: np.ndarray) -> np.ndarray:
    """Return traces at some times (s), linear between their samples and constant beyond: (unit, len(at)).

    A unit's delay is added to the times of its samples. Where all samples are taken at these times, to a millionth of
    the interval between them, they are returned as they are.
    """
    if len(traces.times) == 1:
        return np.repeat(traces.values, len(at), axis=1)
    if traces.delays is None and (samples := _samples_at(traces.times, at)) is not None:
        return traces.values[:, samples]
    delays = np.zeros(1) if traces.delays is None else traces.delays
    wanted = at - delays[:, None]
    right = np.clip(np.searchsorted(traces.times, wanted), 1, len(traces.times) - 1)
    before, after = traces.times[right - 1], traces.times[right]
    weight = np.clip((wanted - before) / (after - before), 0, 1)
    return _take(traces.values, right - 1) * (1 - weight) + _take(traces.values, right) * weight


def _samples_at(times: np.ndarray, at: np.ndarray) -> slice | None:
    """Return which successive samples were taken at these times, None if they were not."""
    forgiven = 1e-6 * (times[-1] - times[0]) / (len(times) - 1)
    first = int(np.searchsorted(times, at[0] - forgiven))
    samples = slice(first, first + len(at))
    there = times[samples]
    return samples if len(there) == len(at) and np.abs(there - at).max() <= forgiven else None


def _take(values: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Return the samples (unit, index) of each unit; one row of indices stands for all units."""
    return values[:, index[0]] if len(index) == 1 else np.take_along_axis(values, index, axis=1)
