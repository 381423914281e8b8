"""What is taken off the objective: a penalty for each stimulus, (batch,), of stimuli and their numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from pipeline.mei.objectives import similarities

Penalty = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class TotalVariation:
    """The summed absolute difference of neighbouring pixels, along rows and columns of each frame."""

    weight: float

    def __call__(self, stimuli: Tensor, index: Tensor) -> Tensor:
        """Return the penalties."""
        along = (stimuli.diff(dim=axis).abs().flatten(1).sum(dim=1) for axis in (3, 4))
        return self.weight * sum(along)  # type: ignore[return-value]


@dataclass(frozen=True)
class SimilarityTo:
    """How similar a stimulus is to the most similar of its references, which it is to be different from.

    Attributes
    ----------
    references : Tensor
        (stimulus, reference, channel, time, height, width): for every stimulus that is optimised its own.
    weight : float
    metric : str
        ``correlation``, ``cosine`` or ``euclidean``, the last being minus the distance.
    """

    references: Tensor
    weight: float
    metric: str = "correlation"

    def __call__(self, stimuli: Tensor, index: Tensor) -> Tensor:
        """Return the penalties."""
        own = self.references[index].flatten(2)
        alike = similarities(stimuli.flatten(1)[:, None], self.metric, own)
        return self.weight * alike.amax(dim=(1, 2))
