"""Where an optimisation starts: every unit at the same stimuli, so that it does not matter who else is asked for.

A start maps (channel, time, height, width) and a number of starts to stimuli (start, channel, time, height, width).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.errors import ConfigurationError

Shape = tuple[int, int, int, int]
Start = Callable[[Shape, int], Tensor]


@dataclass(frozen=True)
class Noise:
    """Independent normal noise, clipped to a range. The first of several starts is the only one of one.

    Attributes
    ----------
    std, mean : float
        z-scores.
    seed : int
    low, high : float
        Range.
    """

    std: float
    mean: float = 0.0
    seed: int = 0
    low: float = -math.inf
    high: float = math.inf

    def __call__(self, shape: Shape, starts: int) -> Tensor:
        """Return the stimuli."""
        random = torch.Generator().manual_seed(self.seed)
        drawn = torch.stack([torch.randn(shape, generator=random) for _ in range(starts)])
        return (drawn * self.std + self.mean).clamp(self.low, self.high)


@dataclass(frozen=True)
class Grey:
    """Mean grey everywhere; all starts are equal."""

    def __call__(self, shape: Shape, starts: int) -> Tensor:
        """Return the stimuli."""
        return torch.zeros(starts, *shape)


@dataclass(frozen=True)
class Given:
    """Stimuli that one has: an image to improve, or an MEI to go on with.

    Attributes
    ----------
    stimuli : Tensor
        (start, channel, time, height, width), z-scores.
    """

    stimuli: Tensor

    def __call__(self, shape: Shape, starts: int) -> Tensor:
        """Return the stimuli.

        Raises
        ------
        ConfigurationError
            If they have another shape or number.
        """
        if tuple(self.stimuli.shape) != (starts, *shape):
            raise ConfigurationError(f"the given start has shape {tuple(self.stimuli.shape)}, not {(starts, *shape)}")
        return self.stimuli.clone()
