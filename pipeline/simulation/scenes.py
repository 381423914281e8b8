"""Naturalistic movies: crops that drift and zoom over photographs, with cuts."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import skimage.data
from PIL import Image
from scipy.ndimage import gaussian_filter1d
from skimage.color import rgb2gray

FRAME_RATE = 30.0
SOURCES: dict[str, tuple[str, ...]] = {
    "train": ("astronaut", "camera", "coffee", "grass", "brick", "rocket"),
    "validation": ("cat", "gravel"),
    "test": ("stereo_motorcycle", "coins"),
}
"""Photographs that come with scikit-image, by tier. None serves two tiers, so no model can have seen a test image."""


@dataclass(frozen=True)
class Scene:
    """One movie and the photographs in it.

    Attributes
    ----------
    frames : ndarray of uint8
        (channel = 1, time, height, width) at `FRAME_RATE`.
    tier : str
    photographs : tuple of str
        In order of appearance.
    """

    frames: np.ndarray
    tier: str
    photographs: tuple[str, ...]


@cache
def photograph(name: str) -> np.ndarray:
    """Return one of the photographs in grey, (height, width) uint8."""
    picture = getattr(skimage.data, name)()
    if isinstance(picture, tuple):  # a stereo pair: the left eye's view
        picture = picture[0]
    if picture.ndim == 3:
        picture = np.round(rgb2gray(picture) * 255).astype(np.uint8)
    return picture


def make_scene(tier: str, seconds: float, width: int, height: int, rng: np.random.Generator) -> Scene:
    """Return one movie of a tier.

    Every 0.6 to 1.8 s there is a cut to another crop. Within a shot the crop drifts, jitters and zooms smoothly; its
    grey values have mean 127 and standard deviation 45 to 60 before they are cut off at 0 and 255.
    """
    remaining = round(seconds * FRAME_RATE)
    shots, names = [], []
    while remaining > 0:
        length = min(remaining, int(rng.uniform(0.6, 1.8) * FRAME_RATE))
        name = str(rng.choice(SOURCES[tier]))
        shots.append(_shot(photograph(name), length, width, height, rng))
        names.append(name)
        remaining -= length
    return Scene(np.concatenate(shots)[None], tier, tuple(names))


def _shot(picture: np.ndarray, length: int, width: int, height: int, rng: np.random.Generator) -> np.ndarray:
    """Return one shot, (time, height, width) uint8."""
    picture = picture[:: rng.choice((-1, 1)), :: rng.choice((-1, 1))]
    largest = min(picture.shape[1] / width, picture.shape[0] / height)  # source pixels for one pixel of the movie
    time = np.arange(length) / FRAME_RATE
    scale = largest * rng.uniform(0.35, 0.8) * np.exp(rng.uniform(-0.15, 0.15) * time)
    scale = np.minimum(scale, largest)
    angle, speed = rng.uniform(0, 2 * np.pi), rng.uniform(0.05, 0.35)  # screen widths a second
    left, top = (
        _bounce(rng.random() + direction * speed * width * scale / size * time + _wander(length, rng))
        * (size - extent * scale)
        for direction, size, extent in (
            (np.cos(angle), picture.shape[1], width),
            (np.sin(angle), picture.shape[0], height),
        )
    )
    source = Image.fromarray(_normalise(picture, left, top, scale, width, height, rng))
    frames = [
        np.asarray(source.resize((width, height), Image.Resampling.BILINEAR, box=(x, y, x + s * width, y + s * height)))
        for x, y, s in zip(left, top, scale, strict=True)
    ]
    return np.stack(frames)


def _bounce(position: np.ndarray) -> np.ndarray:
    """Fold positions into 0 to 1, so that a drift turns round at the picture's edge."""
    return 1 - np.abs(position % 2 - 1)


def _wander(length: int, rng: np.random.Generator) -> np.ndarray:
    """Return a smooth random walk, (time,), in shares of the room that the crop has to move."""
    return 0.003 * np.cumsum(gaussian_filter1d(rng.normal(size=length), 3.0))


def _normalise(
    picture: np.ndarray,
    left: np.ndarray,
    top: np.ndarray,
    scale: np.ndarray,
    width: int,
    height: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """Return the picture with the region that the shot crosses at mean 127 and a random contrast."""
    right, bottom = (left + scale * width).max(), (top + scale * height).max()
    region = picture[int(top.min()) : int(np.ceil(bottom)), int(left.min()) : int(np.ceil(right))].astype(float)
    contrast = rng.uniform(45, 60) / max(region.std(), 8.0)
    return np.clip(np.round((picture - region.mean()) * contrast + 127), 0, 255).astype(np.uint8)
