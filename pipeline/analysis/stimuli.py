"""Stimuli that are computed: gratings, Gabors, plaids, spots and rings, in degrees of visual angle and Hz.

All are contrasts, -1 to 1 with 0 for grey, as (stimulus, time, height, width); one frame long for models of images.
Angles are in degrees counter-clockwise. A grating drifts in its direction (0 to the right, 90 up), and its stripes lie
across it: their orientation (0 for horizontal stripes) is the direction - 90 degrees, modulo 180.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from pipeline.errors import ConfigurationError


@dataclass(frozen=True)
class Screen:
    """What stimuli are drawn on.

    Attributes
    ----------
    height, width : int
        Px.
    degrees_per_pixel : (float, float)
        Along x and y.
    frame_rate : float or None
        Hz; None for images.
    """

    height: int
    width: int
    degrees_per_pixel: tuple[float, float]
    frame_rate: float | None = None

    @classmethod
    def of_size(cls, frame: Sequence[int], screen_deg: tuple[float, float], frame_rate: float | None = None) -> Screen:
        """Return the screen of (height, width) px that is ``screen_deg`` (width, height) degrees large."""
        height, width = frame[-2:]
        return cls(height, width, (screen_deg[0] / width, screen_deg[1] / height), frame_rate)

    @property
    def middle(self) -> tuple[float, float]:
        """Its centre, x and y (px)."""
        return (self.width - 1) / 2, (self.height - 1) / 2

    def frames(self, seconds: float) -> int:
        """Return how many frames take so long, at least one; images are one frame long."""
        return 1 if self.frame_rate is None else max(round(seconds * self.frame_rate), 1)

    def refuse_aliases(self, spatial: Sequence[float], temporal: Sequence[float] = ()) -> None:
        """Refuse frequencies that the screen cannot show.

        Raises
        ------
        ConfigurationError
            If one is above half the pixels a degree, or above half the frame rate.
        """
        most = 0.5 / max(self.degrees_per_pixel)
        if max(spatial, default=0) > most:
            raise ConfigurationError(f"{max(spatial):g} cycles/deg is more than the {most:.3g} that these pixels show")
        if self.frame_rate and max(temporal, default=0) > self.frame_rate / 2:
            raise ConfigurationError(f"{max(temporal):g} Hz is more than half of the {self.frame_rate:g} frames/s")

    def offsets(self, centres: ArrayLike | None = None) -> tuple[Tensor, Tensor]:
        """Return the distance of every pixel to the right of and above each centre (deg).

        Parameters
        ----------
        centres : array_like, optional
            (stimulus, 2): x and y in pixels, y down; the middle of the screen without.

        Returns
        -------
        tuple of Tensor
            Two of (stimulus, 1, height, width); stimulus is 1 without centres.
        """
        places = torch.as_tensor(np.asarray([self.middle] if centres is None else centres, dtype=float))
        across, down = self.degrees_per_pixel
        right = (torch.arange(self.width) - places[:, :1]) * across
        up = (places[:, 1:] - torch.arange(self.height)) * down
        shape = (len(places), 1, self.height, self.width)
        return right[:, None, None, :].expand(shape), up[:, None, :, None].expand(shape)


def grating(
    screen: Screen,
    direction: ArrayLike,
    spatial_frequency: ArrayLike,
    temporal_frequency: ArrayLike = 0.0,
    phase: ArrayLike = 0.0,
    frames: int = 1,
    centres: ArrayLike | None = None,
) -> Tensor:
    """Return sinusoidal gratings, cos(2 pi (sf s - tf t) + phase), s being the distance along the direction.

    Parameters
    ----------
    screen : Screen
    direction : array_like
        (stimulus,) degrees, as all that follow; one value stands for all.
    spatial_frequency : array_like
        Cycles/deg.
    temporal_frequency : array_like
        Hz.
    phase : array_like
        Degrees, at the centre in the first frame.
    frames : int
    centres : array_like, optional
        (stimulus, 2) px.
    """
    right, up = screen.offsets(centres)
    angle, cycles, rate, start = (_each(x) for x in (direction, spatial_frequency, temporal_frequency, phase))
    angle = torch.deg2rad(angle)
    along = right * torch.cos(angle) + up * torch.sin(angle)
    time = torch.arange(frames, dtype=torch.float64).view(1, -1, 1, 1) / (screen.frame_rate or 1.0)
    return torch.cos(2 * math.pi * (cycles * along - rate * time) + torch.deg2rad(start))


def plaid(
    screen: Screen,
    direction: ArrayLike,
    between: float,
    spatial_frequency: ArrayLike,
    temporal_frequency: ArrayLike = 0.0,
    phase: ArrayLike = 0.0,
    frames: int = 1,
    centres: ArrayLike | None = None,
) -> Tensor:
    """Return the mean of two gratings whose directions are ``between`` degrees apart, around the direction given."""
    middle = np.asarray(direction, dtype=float)
    shown = (spatial_frequency, temporal_frequency, phase, frames, centres)
    return (grating(screen, middle - between / 2, *shown) + grating(screen, middle + between / 2, *shown)) / 2


def gaussian_window(screen: Screen, sigma: ArrayLike, centres: ArrayLike | None = None) -> Tensor:
    """Return round Gaussians of peak 1 and the given std (deg); a grating times this is a Gabor."""
    right, up = screen.offsets(centres)
    return torch.exp(-(right**2 + up**2) / (2 * _each(sigma) ** 2))


def disc(screen: Screen, diameter: ArrayLike, centres: ArrayLike | None = None) -> Tensor:
    """Return discs of contrast 1 on grey; pixels on the edge have the share of them that is covered, nearly.

    Parameters
    ----------
    screen : Screen
    diameter : array_like
        (stimulus,) degrees; 0 gives nothing.
    centres : array_like, optional
        (stimulus, 2) px.
    """
    right, up = screen.offsets(centres)
    pixel = math.sqrt(math.prod(screen.degrees_per_pixel))
    wide = _each(diameter)
    inside = ((wide / 2 - torch.sqrt(right**2 + up**2)) / pixel + 0.5).clamp(0, 1)
    # A disc smaller than a pixel would be as bright as a pixel.
    return inside * (math.pi * wide**2 / (4 * pixel**2)).clamp(max=1)


def ring(screen: Screen, inner: ArrayLike, outer: ArrayLike, centres: ArrayLike | None = None) -> Tensor:
    """Return rings of contrast 1 between two diameters (deg) on grey."""
    return disc(screen, outer, centres) - disc(screen, inner, centres)


def _each(values: ArrayLike) -> Tensor:
    """One value for each stimulus, (stimulus, 1, 1, 1)."""
    return torch.as_tensor(np.asarray(values, dtype=float)).reshape(-1, 1, 1, 1)
