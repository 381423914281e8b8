"""Standard normal numbers of readouts that sample their positions, which a caller may draw for them."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class StandardNormal(nn.Module):
    """Draws standard normal numbers, or gives those that were drawn beforehand.

    Several models that are evaluated as one would otherwise draw from one sequence; drawn by their callers, each has
    the numbers that it would have had alone.

    Attributes
    ----------
    size : tuple of int
        Of what is drawn for one frame.
    given : Tensor or None
        Numbers for the next evaluation, (frame, *size).
    """

    def __init__(self, *size: int) -> None:
        super().__init__()
        self.size = size
        self.given: Tensor | None = None

    def draw(self, frames: int, like: Tensor) -> Tensor:
        """Return new numbers, (frame, *size), of the type of a tensor and on its device."""
        return torch.randn(frames, *self.size, device=like.device, dtype=like.dtype)

    def forward(self, mean: Tensor, frames: int) -> Tensor:
        """Return numbers for chosen means, (frame, *shape of the means)."""
        if self.given is not None:
            return self.given
        return torch.randn(frames, *mean.shape, device=mean.device, dtype=mean.dtype)
