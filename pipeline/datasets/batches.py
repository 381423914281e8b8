"""What one batch of movies is: a named tuple that worker processes can pickle."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class MovieBatch(NamedTuple):
    """Clips of equal length and the responses to them; a field that the configuration leaves out is None.

    Attributes
    ----------
    videos : Tensor
        (batch, channel, time, height, width).
    responses : Tensor
        (batch, unit, time).
    behavior : Tensor or None
        (batch, channel, time): running speed, pupil size and, if asked for, the optogenetic signal.
    pupil_center : Tensor or None
        (batch, 2, time): horizontal and vertical position.
    optogenetic_signal : Tensor or None
        (batch, time): 1 while the light is on.
    """

    videos: Tensor
    responses: Tensor
    behavior: Tensor | None = None
    pupil_center: Tensor | None = None
    optogenetic_signal: Tensor | None = None
