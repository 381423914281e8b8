"""What makes stimuli, or their gradients, smooth: Gaussians that may narrow from step to step, and powers of frequency.

Each is called with (batch, channel, time, height, width) and the progress of the optimisation, from 0 to 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from scipy.ndimage import gaussian_filter1d
from torch import Tensor

Smoothing = Callable[[Tensor, float], Tensor]


@dataclass(frozen=True)
class Linear:
    """A value that changes linearly from the first step to the last, or until a share of the steps is made."""

    first: float
    last: float
    until: float = 1.0

    def at(self, progress: float) -> float:
        """Return the value; ``progress`` is 0 at the first step and 1 at the last."""
        return self.first + (self.last - self.first) * min(progress / self.until, 1.0)


@dataclass(frozen=True)
class GaussianBlur:
    """A blur in space and in time.

    Attributes
    ----------
    space, time : Linear
        Standard deviations (px, frames); 0 for none.
    border : str
        ``normalized``: weights add up to 1 over what is inside; ``reflect``: what is outside mirrors what is inside,
        and Gaussians end at four standard deviations, as `scipy.ndimage.gaussian_filter` has it.
    """

    space: Linear
    time: Linear = Linear(0.0, 0.0)
    border: str = "normalized"

    def __call__(self, stimuli: Tensor, progress: float) -> Tensor:
        """Return them blurred."""
        space, time = self.space.at(progress), self.time.at(progress)
        if space > 0:
            rows, columns = (gaussian_matrix(n, space, self.border).to(stimuli) for n in stimuli.shape[-2:])
            stimuli = rows @ stimuli @ columns.T
        if time > 0:
            frames = gaussian_matrix(stimuli.shape[2], time, self.border).to(stimuli)
            stimuli = torch.einsum("st,bcthw->bcshw", frames, stimuli)
        return stimuli


@lru_cache(maxsize=64)
def gaussian_matrix(size: int, sigma: float, border: str = "normalized") -> Tensor:
    """Return the (size, size) matrix of a blur along one axis; see `GaussianBlur` on borders."""
    if border == "reflect":
        return torch.tensor(gaussian_filter1d(np.eye(size), sigma, axis=0), dtype=torch.float32)
    distance = torch.arange(size)[:, None] - torch.arange(size)
    weights = torch.exp(-(distance**2) / (2 * sigma**2))
    return weights / weights.sum(dim=1, keepdim=True)


@dataclass(frozen=True)
class StaticnetFourier:
    """Division of the spectrum of each frame by powers of frequency, as in staticnet's MEIs (Walker et al. 2019).

    The gain is 1 / max(1, (x^2 + y^2) ^ exponent), divided by its mean, where x counts 0, 1, 2, ... 2, 1, 0: one off
    from the frequencies in the upper half, as in the published code.
    """

    exponent: float

    def __call__(self, stimuli: Tensor, progress: float) -> Tensor:
        """Return them filtered."""
        if self.exponent == 0:
            return stimuli
        height, width = stimuli.shape[-2:]
        y, x = (torch.minimum(torch.arange(n), torch.arange(n - 1, -1, -1)).float() for n in (height, width))
        gain = 1 / (x[None, :].square() + y[:, None].square()).pow(self.exponent).clamp(min=1)
        return _filtered(stimuli, gain / gain.mean())


@dataclass(frozen=True)
class FourierPower:
    """Division of the spectrum of each frame by a power of frequency, and none above a highest frequency.

    The gain is 1 at the lowest frequencies of the shorter side, and at the mean.

    Attributes
    ----------
    exponent : float
        Of the frequency.
    highest : float
        Frequency (cycles a pixel).
    """

    exponent: float
    highest: float = float("inf")

    def __call__(self, stimuli: Tensor, progress: float) -> Tensor:
        """Return them filtered."""
        height, width = stimuli.shape[-2:]
        frequency = torch.fft.fftfreq(height)[:, None].square() + torch.fft.fftfreq(width).square()
        frequency = frequency.sqrt()
        lowest = 1 / min(height, width)
        gain = (frequency.clamp(min=lowest) / lowest).pow(-self.exponent)
        return _filtered(stimuli, gain * (frequency <= self.highest))


def _filtered(stimuli: Tensor, gain: Tensor) -> Tensor:
    """Multiply the spectrum of each frame; ``gain`` is (height, width), its first half of the columns counts."""
    height, width = stimuli.shape[-2:]
    half = gain[:, : width // 2 + 1].to(stimuli)
    return torch.fft.irfft2(torch.fft.rfft2(stimuli) * half, s=(height, width))
