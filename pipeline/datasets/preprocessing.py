"""From a recording's own clocks to bins: spikes, movie frames, light pulses and behaviour on one frame rate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from pipeline.configuration import Configuration, setting
from pipeline.recordings.base import Trace


@dataclass(frozen=True)
class Movie(Configuration):
    """Spike counts and grey movie frames in bins of one frame rate.

    The defaults are those of the dLGN thesis: 60 Hz and an eighth of 424 x 264 pixels.
    """

    frame_rate: float = setting(60.0, "bins a second, of responses and frames alike", unit="Hz", gt=0)
    height: int = setting(33, "height of the stored frames", unit="px", ge=1)
    width: int = setting(53, "width of the stored frames", unit="px", ge=1)


PREPROCESSINGS = (Movie,)


def n_bins(duration: float, frame_rate: float) -> int:
    """Return how many whole bins of ``1 / frame_rate`` (s) a trial of ``duration`` (s) holds.

    A millionth of a bin is forgiven, so that 5 s at 60 Hz are 300 bins although 1/60 has no finite binary form.
    """
    return int(np.floor(duration * frame_rate + 1e-6))


def bin_edges(start: float, frame_rate: float, bins: int) -> np.ndarray:
    """Return the ``bins + 1`` edges ``start + k / frame_rate`` (s).

    Each edge is computed by itself: adding up steps would drift by a spike's width within minutes.
    """
    return start + np.arange(bins + 1) / frame_rate


def bin_spikes(times: Sequence[np.ndarray], start: float, frame_rate: float, bins: int) -> np.ndarray:
    """Count spikes in half-open bins [edge k, edge k + 1): a spike on an edge belongs to the later bin, once.

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
    edges = bin_edges(start, frame_rate, bins)
    if not len(times):
        return np.zeros((0, bins), np.float32)
    # All units at once, by one number for each unit and bin: a loop over thousands of units takes ten times as long.
    index = np.searchsorted(edges, np.concatenate(times), side="right") - 1
    unit = np.repeat(np.arange(len(times)), [len(spikes) for spikes in times])
    inside = (index >= 0) & (index < bins)
    counts = np.bincount(unit[inside] * bins + index[inside], minlength=len(times) * bins)
    return counts.reshape(len(times), bins).astype(np.float32)


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


def resample_trace(trace: Trace, start: float, frame_rate: float, bins: int) -> np.ndarray:
    """Return a signal at the bins' centres: linear between its samples, constant beyond the first and last.

    A signal sampled faster than the bins is averaged within each bin instead, so that nothing aliases; bins without a
    sample are interpolated.

    Returns
    -------
    ndarray of float32
        (time,)
    """
    edges = bin_edges(start, frame_rate, bins)
    resampled = np.interp((edges[:-1] + edges[1:]) / 2, trace.times, trace.values)
    spacing = np.median(np.diff(trace.times)) if len(trace.times) > 1 else np.inf
    if spacing * frame_rate < 0.75:
        index = np.searchsorted(edges, trace.times, side="right") - 1
        inside = (index >= 0) & (index < bins)
        samples = np.bincount(index[inside], minlength=bins)
        sums = np.bincount(index[inside], trace.values[inside], bins)
        resampled[samples > 0] = sums[samples > 0] / samples[samples > 0]
    return resampled.astype(np.float32)


def resize_frames(frames: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize by averaging the area that each new pixel covers; uint8 stays uint8 (rounded to nearest).

    Parameters
    ----------
    frames : ndarray
        (channel, time, height, width).
    height, width : int
        New size (px).

    Returns
    -------
    ndarray
        (channel, time, height, width) in the source's dtype.
    """
    if frames.shape[2:] == (height, width):
        return frames
    channels, time = frames.shape[:2]
    if frames.shape[2] >= height and frames.shape[3] >= width:
        rows, columns = (_area_weights(old, new) for old, new in zip(frames.shape[2:], (height, width), strict=True))
        pixels = torch.from_numpy(np.ascontiguousarray(frames)).reshape(channels * time, *frames.shape[2:]).float()
        resized = rows @ pixels @ columns.T
    else:  # averaging cannot enlarge
        pixels = torch.from_numpy(np.ascontiguousarray(frames)).float()
        resized = functional.interpolate(pixels, size=(height, width), mode="bilinear", align_corners=False)
    values = resized.reshape(channels, time, height, width).numpy()
    return (np.rint(values) if np.issubdtype(frames.dtype, np.integer) else values).astype(frames.dtype)


def _area_weights(old: int, new: int) -> torch.Tensor:
    """Return the (new, old) matrix whose rows average the exact, possibly fractional, span of each new pixel."""
    edges = np.arange(new + 1) * old / new
    left = np.maximum(edges[:-1, None], np.arange(old))
    right = np.minimum(edges[1:, None], np.arange(1, old + 1))
    return torch.from_numpy(np.clip(right - left, 0, None) * new / old).float()


def hold_frames(frames: np.ndarray, frame_rate: float, new_rate: float, bins: int) -> np.ndarray:
    """Return the frame that is on the screen at each bin's centre: a monitor holds a frame until the next.

    Parameters
    ----------
    frames : ndarray
        (channel, time, height, width) at ``frame_rate`` (Hz).
    new_rate : float
        Bins a second (Hz).
    bins : int
        Number of bins wanted; the last frame is held if the movie is shorter by a rounding.

    Returns
    -------
    ndarray
        (channel, bins, height, width).
    """
    # Multiplied first: a centre that falls on the change of frames must not be rounded to the frame before.
    index = np.floor((np.arange(bins) + 0.5) * frame_rate / new_rate).astype(int)
    return frames[:, np.minimum(index, frames.shape[1] - 1)]
