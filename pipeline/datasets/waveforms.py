"""Spikes as something that lasts: each one convolved causally with a waveform, in bins, from its exact time.

The exponential waveforms have an area of 1 and each bin holds the exact integral of their sum over the bin, so the bins
of a spike add up to 1 whatever the frame rate: the unit stays spikes/bin. With t (s) since the spike, tau the decay and
rho the rise:

=====================  =====================================================  =========================
exponential            exp(-t / tau) / tau                                    a leaky membrane
alpha                  t / tau**2 * exp(-t / tau)                             peaks at tau
double_exponential     (exp(-t / tau) - exp(-t / rho)) / (tau - rho)          alpha in the limit rho = tau
=====================  =====================================================  =========================

A custom waveform is used as it is given, in bins: counts convolved with its samples.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.signal import lfilter

from pipeline.datasets.binning import BinnedSpikes, bin_edges, place_spikes
from pipeline.datasets.preprocessing import Movie

LASTING_DECAYS = 15
"""Decays after which a spike is forgotten: less than 1e-5 of its area is left."""


class Waveform(ABC):
    """What a spike adds to the bins from its own on."""

    @property
    @abstractmethod
    def support(self) -> float:
        """How long a spike is felt (s): those so long before a trial are needed."""

    def bin(self, times: Sequence[np.ndarray], start: float, frame_rate: float, bins: int) -> np.ndarray:
        """Return the sum of all spikes' waveforms in each bin.

        Parameters
        ----------
        times : sequence of ndarray
            One array of spike times (s) for each unit, with those of `support` before the start.
        start, frame_rate, bins
            As for `pipeline.datasets.binning.bin_spikes`.

        Returns
        -------
        ndarray of float32
            (unit, time)
        """
        lead = math.ceil(self.support * frame_rate - 1e-6)
        spikes = place_spikes(times, bin_edges(start, frame_rate, bins, lead))
        return self.spread(spikes, 1 / frame_rate)[:, lead:].astype(np.float32)

    @abstractmethod
    def spread(self, spikes: BinnedSpikes, step: float) -> np.ndarray:
        """Return the waveforms' sum in each bin of ``step`` (s), (unit, time)."""


@dataclass(frozen=True)
class Impulse(Waveform):
    """A spike counts in its own bin and nowhere else."""

    @property
    def support(self) -> float:
        """Nothing before a trial matters (s)."""
        return 0.0

    def spread(self, spikes: BinnedSpikes, step: float) -> np.ndarray:
        """Return the spikes' number in each bin."""
        return spikes.total()


@dataclass(frozen=True)
class Custom(Waveform):
    """Samples, one a bin at ``frame_rate`` (Hz), that are added to the bins from the spike's own on."""

    samples: tuple[float, ...]
    frame_rate: float

    @property
    def support(self) -> float:
        """Length of the samples but the first (s)."""
        return (len(self.samples) - 1) / self.frame_rate

    def spread(self, spikes: BinnedSpikes, step: float) -> np.ndarray:
        """Return the counts convolved with the samples."""
        return lfilter(self.samples, [1.0], spikes.total(), axis=1)


@dataclass(frozen=True)
class Decaying(Waveform):
    """A waveform of area 1 made of exponentials.

    A bin receives what its own spikes and those before still had to give at its beginning, less what is left at its
    end. What is left of an exponential shrinks by one factor a bin, so that a recursive filter gives it exactly, in
    time that does not depend on how long spikes last.
    """

    decay: float

    @property
    def support(self) -> float:
        """Until almost nothing is left of a spike (s)."""
        return LASTING_DECAYS * self.decay

    def spread(self, spikes: BinnedSpikes, step: float) -> np.ndarray:
        """Return the integral over each bin of the sum of waveforms."""
        left = self.left(spikes, step)
        before = np.concatenate([np.zeros((len(left), 1)), left[:, :-1]], axis=1)
        return np.maximum(spikes.total() + before - left, 0)  # a rounding below 0 would be no valid rate

    @abstractmethod
    def left(self, spikes: BinnedSpikes, step: float) -> np.ndarray:
        """Return the area that is still to come at the end of each bin, (unit, time)."""


@dataclass(frozen=True)
class Exponential(Decaying):
    """exp(-t / decay) / decay, of which exp(-t / decay) is left after t."""

    def left(self, spikes: BinnedSpikes, step: float) -> np.ndarray:
        """Return the sum of exp(-t / decay)."""
        fresh = spikes.total(np.exp(-spikes.to_next_edge / self.decay))
        return lfilter([1.0], [1.0, -math.exp(-step / self.decay)], fresh, axis=1)


@dataclass(frozen=True)
class Alpha(Decaying):
    """t / decay**2 * exp(-t / decay), of which (1 + t / decay) * exp(-t / decay) is left after t."""

    def left(self, spikes: BinnedSpikes, step: float) -> np.ndarray:
        """Return the sum of (1 + t / decay) * exp(-t / decay)."""
        since = spikes.to_next_edge / self.decay
        shrink = math.exp(-step / self.decay)
        # n bins later t is n steps more: one part shrinks as an exponential, the other as n times an exponential.
        fresh = spikes.total((1 + since) * np.exp(-since))
        growing = spikes.total(step / self.decay * np.exp(-since))
        return lfilter([1.0], [1.0, -shrink], fresh, axis=1) + lfilter(
            [0.0, shrink], [1.0, -2 * shrink, shrink**2], growing, axis=1
        )


@dataclass(frozen=True)
class DoubleExponential(Decaying):
    """(exp(-t / decay) - exp(-t / rise)) / (decay - rise), rise < decay."""

    rise: float

    def left(self, spikes: BinnedSpikes, step: float) -> np.ndarray:
        """Return the sum of (decay * exp(-t / decay) - rise * exp(-t / rise)) / (decay - rise)."""
        slow, fast = (Exponential(constant).left(spikes, step) for constant in (self.decay, self.rise))
        return (self.decay * slow - self.rise * fast) / (self.decay - self.rise)


def waveform_of(movie: Movie) -> Waveform:
    """Return the waveform that a preprocessing asks for."""
    made: dict[str, Callable[[], Waveform]] = {
        "none": Impulse,
        "exponential": lambda: Exponential(movie.waveform_decay),
        "alpha": lambda: Alpha(movie.waveform_decay),
        "double_exponential": lambda: DoubleExponential(movie.waveform_decay, movie.waveform_rise),
        "custom": lambda: Custom(movie.waveform_samples, movie.frame_rate),
    }
    return made[movie.waveform]()
