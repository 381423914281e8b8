"""What one batch is: named tuples, one for movies and one for still images, that worker processes can pickle."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class MovieBatch(NamedTuple):
    """Clips of equal length and the responses to them; a field that there is nothing for is None.

    Attributes
    ----------
    videos : Tensor
        (batch, channel, time, height, width): pixels, then planes of behaviour, pupil position and light if asked for.
    responses : Tensor
        (batch, unit, time); NaN where the source withholds them.
    behavior : Tensor or None
        (batch, channel, time): the dataset's signals in their order and, if asked for, the light trains.
    pupil_center : Tensor or None
        (batch, 2, time): horizontal and vertical position.
    optogenetic_signal : Tensor or None
        (batch, train, time): 1 while a train's light is on.
    """

    videos: Tensor
    responses: Tensor
    behavior: Tensor | None = None
    pupil_center: Tensor | None = None
    optogenetic_signal: Tensor | None = None

    @property
    def inputs(self) -> Tensor:
        """What enters the core."""
        return self.videos


class ImageBatch(NamedTuple):
    """Still images and the responses to them; a field that there is nothing for is None.

    Attributes
    ----------
    images : Tensor
        (batch, channel, height, width): pixels, then planes of behaviour, pupil position and light if asked for.
    responses : Tensor
        (batch, unit); NaN where the source withholds them.
    behavior : Tensor or None
        (batch, channel): the dataset's signals in their order and, if asked for, the light trains.
    pupil_center : Tensor or None
        (batch, 2): horizontal and vertical position.
    optogenetic_signal : Tensor or None
        (batch, train): 1 if the light was on.
    """

    images: Tensor
    responses: Tensor
    behavior: Tensor | None = None
    pupil_center: Tensor | None = None
    optogenetic_signal: Tensor | None = None

    @property
    def inputs(self) -> Tensor:
        """What enters the core."""
        return self.images


Batch = MovieBatch | ImageBatch
