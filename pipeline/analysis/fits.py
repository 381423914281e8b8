"""Gaussians and differences of Gaussians fitted to the spatial profiles of receptive fields."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.optimize import least_squares

Shape = Literal["gaussian", "difference_of_gaussians"]

START_SIGMAS = (1.0, 2.0, 4.0, 8.0)
"""Widths from which fits start (px)."""
START_SCALES = (1.5, 3.0)
"""Widths of the surround from which fits start, in widths of the centre."""
STARTS_FOLLOWED = 2
"""Of all starts, those nearest to the field are followed to their optimum."""
SMALLEST_SIGMA = 0.3
"""Px: a narrower Gaussian falls between the pixels."""


@dataclass(frozen=True)
class FieldFits:
    """The best fit to each unit's field, NaN where the field is zero or undefined; every array is (unit,).

    Attributes
    ----------
    x, y : ndarray
        Centre (px): to the right of and below the first pixel's centre.
    sigma_major, sigma_minor : ndarray
        Standard deviations of the centre's Gaussian along its axes (px).
    orientation : ndarray
        Of the major axis, 0 to 180 degrees counter-clockwise from horizontal.
    amplitude : ndarray
        Of the centre's Gaussian at its peak, in the field's own units; negative for OFF.
    surround_amplitude : ndarray
        Of the surround's Gaussian, whose sign is opposite; 0 if the field has none. NaN for a single Gaussian.
    surround_scale : ndarray
        Standard deviation of the surround in those of the centre; NaN for a single Gaussian or without a surround.
    quality : ndarray
        Share of the field's energy that the fit explains: 1 - sum of squared residuals / sum of squares.
    """

    x: np.ndarray
    y: np.ndarray
    sigma_major: np.ndarray
    sigma_minor: np.ndarray
    orientation: np.ndarray
    amplitude: np.ndarray
    surround_amplitude: np.ndarray
    surround_scale: np.ndarray
    quality: np.ndarray

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Return the names of what is fitted."""
        return tuple(field.name for field in fields(cls))


def fit_fields(spatial: np.ndarray, shape: Shape = "gaussian") -> FieldFits:
    """Fit a Gaussian, or the difference of two with one centre and one form, to each field.

    Amplitudes follow from the other parameters by linear least squares, so that only place, form and scale are searched
    (variable projection, Golub and Pereyra 1973).

    Parameters
    ----------
    spatial : ndarray
        (unit, height, width); zero where there is no influence.
    shape : str
        ``gaussian`` or ``difference_of_gaussians``.
    """
    found = np.array([_fit(field.astype(float), shape) for field in spatial]).reshape(-1, len(FieldFits.names()))
    return FieldFits(*found.T)


def fitted_fields(fits: FieldFits, height: int, width: int) -> np.ndarray:
    """Return what was fitted as fields, (unit, height, width)."""
    drawn = []
    for values in zip(*(getattr(fits, name) for name in FieldFits.names()), strict=True):
        x, y, major, minor, orientation, amplitude, surround, scale, _ = values
        place = np.array([x, y, np.log(major), np.log(minor), np.deg2rad(orientation)])
        squares = _squared_distances(place, height, width)
        field = amplitude * np.exp(-squares / 2)
        if np.isfinite(scale):
            field = field + surround * np.exp(-squares / (2 * scale**2))
        drawn.append(field)
    return np.array(drawn)


def _fit(field: np.ndarray, shape: Shape) -> list[float]:
    norm = float(np.linalg.norm(field))
    if not (np.isfinite(norm) and norm > 0):
        return [np.nan] * len(FieldFits.names())
    height, width = field.shape
    target = field / norm
    low = [-0.5, -0.5, np.log(SMALLEST_SIGMA), np.log(SMALLEST_SIGMA), -np.inf]
    high = [width - 0.5, height - 0.5, np.log(2 * max(height, width)), np.log(2 * max(height, width)), np.inf]
    if shape == "difference_of_gaussians":
        low, high = [*low, np.log(0.05)], [*high, np.log(20.0)]

    def residuals(parameters: np.ndarray) -> np.ndarray:
        amplitudes, profiles = _project(parameters, target)
        return (amplitudes @ profiles) - target.ravel()

    starts = sorted(_starts(target, shape), key=lambda start: float((residuals(start) ** 2).sum()))
    followed = [
        least_squares(residuals, start, bounds=(low, high), x_scale=_scales(start), method="trf", max_nfev=200)
        for start in starts[:STARTS_FOLLOWED]
    ]
    best = min(followed, key=lambda result: result.cost)
    amplitudes, _ = _project(best.x, target)
    return _described(best.x, amplitudes * norm, 1 - 2 * float(best.cost))


def _starts(target: np.ndarray, shape: Shape) -> list[np.ndarray]:
    """Round Gaussians of several widths where the field, smoothed with each width, deviates most."""
    found = []
    for sigma in START_SIGMAS:
        y, x = np.unravel_index(int(np.abs(gaussian_filter(target, sigma)).argmax()), target.shape)
        # Not quite round: on a round Gaussian the angle has no gradient.
        start = [float(x), float(y), np.log(1.1 * sigma), np.log(0.9 * sigma)]
        for angle in (0.0, np.pi / 4, np.pi / 2, 3 * np.pi / 4):
            scales = [[]] if shape == "gaussian" else [[np.log(scale - 1)] for scale in START_SCALES]
            found += [np.array([*start, angle, *scale]) for scale in scales]
    return found


def _scales(start: np.ndarray) -> np.ndarray:
    sigma = float(np.exp(start[2]))
    return np.array([sigma, sigma, *(1.0 for _ in start[2:])])


def _squared_distances(parameters: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return squared distances from the centre in standard deviations, (height, width)."""
    x, y, log_major, log_minor, angle = parameters[:5]
    right = np.arange(width)[None] - x
    up = y - np.arange(height)[:, None]
    along = (right * np.cos(angle) + up * np.sin(angle)) / np.exp(log_major)
    across = (up * np.cos(angle) - right * np.sin(angle)) / np.exp(log_minor)
    return along**2 + across**2


def _project(parameters: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the best amplitudes (part,) and the profiles (part, pixel) of centre and, if asked for, surround."""
    squares = _squared_distances(parameters, *target.shape).ravel()
    centre, flat = np.exp(-squares / 2), target.ravel()
    alone = centre @ flat / max(centre @ centre, 1e-300)
    if len(parameters) == 5:
        return np.array([alone]), centre[None]
    surround = np.exp(-squares / (2 * (1 + np.exp(parameters[5])) ** 2))
    profiles = np.stack([centre, surround])
    gram = profiles @ profiles.T
    both = np.linalg.solve(gram + 1e-12 * np.trace(gram) * np.eye(2), profiles @ flat)
    if both[0] * both[1] >= 0:  # no surround makes this field any better
        both = np.array([alone, 0.0])
    return both, profiles


def _described(parameters: np.ndarray, amplitudes: np.ndarray, quality: float) -> list[float]:
    x, y, log_first, log_second, angle = parameters[:5]
    first, second = np.exp(log_first), np.exp(log_second)
    if first < second:
        first, second, angle = second, first, angle + np.pi / 2
    surround, scale = np.nan, np.nan
    if len(parameters) == 6:
        surround = amplitudes[1]
        scale = 1 + np.exp(parameters[5]) if surround else np.nan
    return [x, y, first, second, np.rad2deg(angle) % 180, amplitudes[0], surround, scale, quality]
