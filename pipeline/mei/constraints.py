"""What stimuli must be like. Each constraint maps stimuli (batch, channel, time, height, width) to allowed ones.

Values are z-scores: the mean and the standard deviation of the training stimuli are 0 and 1. All but the range hold for
a stimulus as a whole, or for each of its channels alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Constraint = Callable[[Tensor], Tensor]

_TINY = 1e-12


def norms(stimuli: Tensor, per_channel: bool = False) -> Tensor:
    """Return L2 norms, which can be multiplied with the stimuli."""
    return torch.linalg.vector_norm(stimuli, dim=_axes(per_channel), keepdim=True)


def _axes(per_channel: bool) -> tuple[int, ...]:
    return (2, 3, 4) if per_channel else (1, 2, 3, 4)


@dataclass(frozen=True)
class Range:
    """No values below ``low`` or above ``high``."""

    low: float
    high: float

    def __call__(self, stimuli: Tensor) -> Tensor:
        """Return them clipped."""
        return stimuli.clamp(self.low, self.high)


@dataclass(frozen=True)
class Norm:
    """An L2 norm of ``norm``, or with ``at_most`` of no more."""

    norm: float
    at_most: bool = False
    per_channel: bool = False

    def __call__(self, stimuli: Tensor) -> Tensor:
        """Return them scaled."""
        gain = self.norm / norms(stimuli, self.per_channel).clamp(min=_TINY)
        return stimuli * (gain.clamp(max=1) if self.at_most else gain)


@dataclass(frozen=True)
class NormWithinRange:
    """An L2 norm of ``norm`` and no values beyond the range: what is clipped is made up for by the other pixels.

    The stimulus is clip(g x) with the gain g at which the norm is right. Where the range does not allow that norm,
    every pixel that is not zero is at its limit. The range may be one for each stimulus, (batch, 1, 1, 1, 1).
    """

    norm: float
    low: float | Tensor
    high: float | Tensor
    per_channel: bool = False

    def __call__(self, stimuli: Tensor) -> Tensor:
        """Return them scaled and clipped."""
        axes = _axes(self.per_channel)
        scaled = Norm(self.norm, per_channel=self.per_channel)(stimuli)
        clipped = self._within(scaled)
        # Clipped pixels stay clipped as the gain grows, so this ends, in practice after a few rounds.
        for _ in range(100):
            inside = clipped == scaled
            missing = self.norm**2 - (clipped * ~inside).square().sum(axes, keepdim=True)
            free = (scaled * inside).square().sum(axes, keepdim=True)
            gain = torch.where(free > _TINY, (missing.clamp(min=0) / free.clamp(min=_TINY)).sqrt(), 1).clamp(min=1)
            if bool((gain < 1 + 1e-6).all()):
                break
            scaled = scaled * gain
            clipped = self._within(scaled)
        return clipped

    def _within(self, stimuli: Tensor) -> Tensor:
        return stimuli.clamp(self.low, self.high)  # type: ignore[arg-type]  # the stubs want two floats or two tensors


@dataclass(frozen=True)
class Contrast:
    """A standard deviation over pixels of ``std``, or with ``at_most`` of no more; the mean stays.

    With ``about_grey``, the stimulus is scaled about 0 instead, which scales its mean too, as in staticnet.
    """

    std: float
    at_most: bool = False
    about_grey: bool = False
    per_channel: bool = False

    def __call__(self, stimuli: Tensor) -> Tensor:
        """Return them scaled."""
        axes = _axes(self.per_channel)
        mean = stimuli.mean(axes, keepdim=True)
        gain = self.std / stimuli.std(axes, keepdim=True).clamp(min=_TINY)
        gain = gain.clamp(max=1) if self.at_most else gain
        return stimuli * gain if self.about_grey else mean + (stimuli - mean) * gain


@dataclass(frozen=True)
class Luminance:
    """A mean over pixels of ``mean``; the contrast stays."""

    mean: float
    per_channel: bool = False

    def __call__(self, stimuli: Tensor) -> Tensor:
        """Return them moved."""
        return stimuli + (self.mean - stimuli.mean(_axes(self.per_channel), keepdim=True))
