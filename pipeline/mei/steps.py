"""How far to go along a gradient, and when to stop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pipeline.mei.constraints import norms
from pipeline.mei.smoothing import Linear

_TINY = 1e-12


def l2(gradient: Tensor) -> Tensor:
    """Return the L2 norm of each stimulus's gradient."""
    return norms(gradient).clamp(min=_TINY)


def mean_abs(gradient: Tensor) -> Tensor:
    """Return the mean absolute gradient of each stimulus, plus 1e-12, as staticnet has it."""
    return gradient.abs().mean(dim=(1, 2, 3, 4), keepdim=True) + _TINY


@dataclass(frozen=True)
class Scheduled:
    """Steps whose length changes linearly, whatever the gradient's length; each starts where the last one ended.

    Attributes
    ----------
    length : Linear
        In the units of `measure`.
    measure : callable
        How the gradient's length is measured: `l2` or `mean_abs`.
    group_size : int
        Neighbouring stimuli whose gradients are measured together, as those of `Diverse` must be.
    """

    length: Linear
    measure: Callable[[Tensor], Tensor] = l2
    group_size: int = 1

    from_best: ClassVar[bool] = False
    first: ClassVar[float] = 1.0

    def followed(self, gradient: Tensor, stimuli: Tensor) -> Tensor:
        """Return what of the gradient is followed: all."""
        return gradient

    def difference(self, direction: Tensor, stimuli: Tensor, lengths: Tensor, progress: float) -> Tensor:
        """Return what to add to the stimuli."""
        together = direction.unflatten(0, (-1, self.group_size)).flatten(1, 2)
        gain = self.length.at(progress) / self.measure(together)
        return direction * gain.repeat_interleave(self.group_size, dim=0)

    def adapted(self, lengths: Tensor, better: Tensor) -> Tensor:
        """Return the lengths: the schedule alone sets them."""
        return lengths


@dataclass(frozen=True)
class Adaptive:
    """Steps along the sphere from the best stimulus so far: longer after each rise, shorter after each miss.

    Only the part of the gradient that is tangent to the sphere of the stimulus's norm is followed, so that the steps
    end where nothing on the sphere is better, however the gradient is smoothed.

    Attributes
    ----------
    first : float
        Length of the first step, as a fraction of the norm.
    longer, shorter : float
        Factors.
    longest : float
        As a fraction of the norm.
    """

    first: float = 0.5
    longer: float = 1.5
    shorter: float = 0.4
    longest: float = 2.0

    from_best: ClassVar[bool] = True

    def followed(self, gradient: Tensor, stimuli: Tensor) -> Tensor:
        """Return the gradient without its part along the stimuli."""
        along = (gradient * stimuli).sum(dim=(1, 2, 3, 4), keepdim=True)
        return gradient - stimuli * (along / norms(stimuli).square().clamp(min=_TINY))

    def difference(self, direction: Tensor, stimuli: Tensor, lengths: Tensor, progress: float) -> Tensor:
        """Return what to add to the stimuli."""
        return direction * (lengths[:, None, None, None, None] * norms(stimuli) / l2(direction))

    def adapted(self, lengths: Tensor, better: Tensor) -> Tensor:
        """Return the lengths of the next steps, (batch,)."""
        return (lengths * torch.where(better, self.longer, self.shorter)).clamp(max=self.longest)


@dataclass(frozen=True)
class Plateau:
    """A stimulus has converged once its value has not risen for some steps.

    Attributes
    ----------
    patience : int
        Steps.
    min_rise : float
        Relative rise that counts.
    ends : bool
        Whether what has converged is left alone; otherwise it is only marked, and all steps are made.
    """

    patience: int
    min_rise: float
    ends: bool = True

    def rose(self, value: Tensor, best: Tensor) -> Tensor:
        """Tell which values are above the best before by what counts."""
        return value > best + self.min_rise * best.abs().nan_to_num(posinf=0)
