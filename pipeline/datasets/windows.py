"""One number for each unit and trial: spikes, traces and light weighted by a window after the image's onset."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.datasets.binning import bin_spikes, interpolate, resample_traces, sample_interval
from pipeline.datasets.preprocessing import Image
from pipeline.recordings.base import Traces

_HAMMING = (0.54, 0.46)
"""Mean and amplitude of the cosine in a Hamming window."""


@dataclass(frozen=True)
class Window(ABC):
    """Weights of what happens around ``offset`` to ``offset + duration`` (s) after an onset.

    A steady rate or trace gives the same number in every window: weights are normalised to those of the box.
    """

    offset: float
    duration: float

    def centre(self, onset: float) -> float:
        """Return the middle of the window (s)."""
        return onset + self.offset + self.duration / 2

    @abstractmethod
    def spikes(self, times: Sequence[np.ndarray], onset: float) -> np.ndarray:
        """Return the weighted number of spikes of each unit, (unit,), float32."""

    @abstractmethod
    def traces(self, traces: Traces, onset: float) -> np.ndarray:
        """Return the weighted mean of each unit's trace, (unit,), float32; a unit's delay is added to its times."""

    @abstractmethod
    def light(self, pulses: np.ndarray, onset: float) -> float:
        """Return the weighted share of the window in which pulses (pulse, 2) of light are on, 0 to 1."""


class Box(Window):
    """Equal weights within [offset, offset + duration), as `pipeline.datasets.binning` treats a bin of that length."""

    def spikes(self, times: Sequence[np.ndarray], onset: float) -> np.ndarray:
        """Return the number of spikes in the window."""
        return bin_spikes(times, onset + self.offset, 1 / self.duration, 1)[:, 0]

    def traces(self, traces: Traces, onset: float) -> np.ndarray:
        """Return the mean of the samples in the window; slow traces are interpolated at its centre."""
        return resample_traces(traces, onset + self.offset, 1 / self.duration, 1)[:, 0]

    def light(self, pulses: np.ndarray, onset: float) -> float:
        """Return the share of the window that is lit."""
        begin = onset + self.offset
        lit = np.diff(np.clip(pulses, begin, begin + self.duration), axis=1).sum() / self.duration
        return min(float(lit), 1.0)


class Hamming(Window):
    """A Hamming window that reaches ``duration`` to both sides of the centre, as in neuro_data's static data.

    Traces are low-passed by a normalised Hamming window of 2 * floor(duration / dt) + 1 samples (dt: their median
    interval; convolution of mode 'same', so samples that do not exist count as 0) and interpolated at the centre. A
    spike at x (s) from the centre weighs (0.54 + 0.46 * cos(pi * x / duration)) / 1.08: the divisor makes the weights'
    integral ``duration``, so that a steady rate counts as many spikes as in the box.
    """

    def spikes(self, times: Sequence[np.ndarray], onset: float) -> np.ndarray:
        """Return the sum of the spikes' weights."""
        every = (np.concatenate([*times, np.empty(0)]) - self.centre(onset)) / self.duration
        unit = np.repeat(np.arange(len(times)), [len(spikes) for spikes in times])
        mean, amplitude = _HAMMING
        weights = np.where(np.abs(every) <= 1, (mean + amplitude * np.cos(np.pi * every)) / (2 * mean), 0)
        return np.bincount(unit, weights, len(times)).astype(np.float32)

    def traces(self, traces: Traces, onset: float) -> np.ndarray:
        """Return the low-passed traces at the window's centre."""
        times, centre = traces.times, self.centre(onset)
        if len(times) == 1:
            return traces.values[:, 0].astype(np.float32)
        # A thousandth of a sample is forgiven: clocks round, and 0.5 s at 10 Hz must be 5 samples in every trial.
        half = int(self.duration / sample_interval(times) + 1e-3)
        kernel = np.hamming(2 * half + 1)
        delays = np.zeros(1) if traces.delays is None else traces.delays
        right = np.clip(np.searchsorted(times, centre - delays), 1, len(times) - 1)
        # Low-passed are only the few samples beside the centre that some unit needs.
        needed = np.arange(right.min() - 1, right.max() + 1)
        used = np.arange(max(needed[0] - half, 0), min(needed[-1] + half + 1, len(times)))
        lag = used[:, None] - needed + half
        weights = np.where((lag >= 0) & (lag <= 2 * half), kernel[np.clip(lag, 0, 2 * half)], 0) / kernel.sum()
        smooth = traces.values[:, used[0] : used[-1] + 1] @ weights
        return interpolate(Traces(times[needed], smooth, traces.delays), np.array([centre]))[:, 0].astype(np.float32)

    def light(self, pulses: np.ndarray, onset: float) -> float:
        """Return the integral of the weights while the light is on, as a share of the whole."""
        x = np.clip((pulses - self.centre(onset)) / self.duration, -1, 1)
        mean, amplitude = _HAMMING
        below = (mean * (x + 1) + amplitude * np.sin(np.pi * x) / np.pi) / (2 * mean)
        return min(float(np.diff(below, axis=1).sum()), 1.0)


def window_of(image: Image) -> Window:
    """Return the window that a preprocessing asks for."""
    return {"box": Box, "hamming": Hamming}[image.window](image.offset, image.duration)
