"""Where on the screen an MEI is: tight masks and Gaussian fits.

Masks are (height, width) with values from 0, outside, to 1. For movies they are found in the deviation of all frames
together, and Gaussian fits also frame by frame.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.ndimage import binary_erosion, gaussian_filter
from skimage.morphology import convex_hull_image

from pipeline.configuration import Configuration, setting
from pipeline.mei.activation import Respond, own_responses


@dataclass(frozen=True)
class TightMask(Configuration):
    """The convex hull of what deviates, made smaller until the response falls, and blurred.

    As ``TightMEIMask`` of Walker et al. (2019, https://doi.org/10.1038/s41593-019-0517-x). The defaults are the set
    that they used, number 2 of `STATICNET_TIGHT_MASKS`.
    """

    threshold: float = setting(1.0, "deviation that counts, in std of the absolute deviation", gt=0)
    blur: float = setting(2.0, "std of the Gaussian that blurs the mask", unit="px", ge=0)
    target_ratio: float = setting(0.9, "response relative to that with the first mask at which to stop", gt=0, lt=1)
    max_erosions: int = setting(100, "times that a pixel is taken off all round, at most", ge=1)


@dataclass(frozen=True)
class GaussianMask(Configuration):
    """The Gaussian with the centre and covariance of the squared deviation.

    The mask is g ** (exponent / 2) with g = exp(-d^2 / 2) and d the Mahalanobis distance, as ``GaussianMask`` of
    Walker et al. (2019): an exponent above 1 makes up for fits that noise far from the MEI has widened.
    """

    exponent: float = setting(1.875, "power to which the square root of the Gaussian is raised", gt=0)


MASK_KINDS: tuple[type[Configuration], ...] = (TightMask, GaussianMask)

STATICNET_TIGHT_MASKS = {
    0: TightMask(threshold=1.0, blur=1.0, target_ratio=0.9),
    1: TightMask(threshold=1.0, blur=1.0, target_ratio=0.95),
    2: TightMask(threshold=1.0, blur=2.0, target_ratio=0.9),
    3: TightMask(threshold=0.8, blur=1.0, target_ratio=0.9),
    4: TightMask(threshold=1.0, blur=3.0, target_ratio=0.9),
}
"""The parameter sets of staticnet's ``TightMaskParameter`` by their numbers."""


@dataclass(frozen=True)
class TightMasks:
    """Tight masks of several units.

    Attributes
    ----------
    masks : ndarray
        (unit, height, width).
    ratio : ndarray
        (unit,), response with the mask relative to that with the first one; NaN if that was 0.
    erosions : ndarray of int
        (unit,), how often a pixel was taken off all round.
    converged : ndarray of bool
        (unit,), whether the response fell to the target. Where it did not, the mask is the last one tried.
    """

    masks: np.ndarray
    ratio: np.ndarray
    erosions: np.ndarray
    converged: np.ndarray


@dataclass(frozen=True)
class GaussianFit:
    """Centres and covariances of Gaussians; leading axes are those of what was fitted.

    Attributes
    ----------
    center : ndarray
        (..., 2), x and y (px), from the middle of the first pixel, y down.
    covariance : ndarray
        (..., 2, 2), of x and y (px^2).
    """

    center: np.ndarray
    covariance: np.ndarray

    def mask(self, height: int, width: int, exponent: float = 1.875) -> np.ndarray:
        """Return the masks (..., height, width), 1 in the centre; see `GaussianMask`.

        Undefined fits, and those without extent in some direction, have NaN.
        """
        rows, columns = np.mgrid[:height, :width]
        offset = np.stack([columns, rows], axis=-1) - self.center[..., None, None, :]
        with np.errstate(invalid="ignore"):
            usable = np.linalg.det(self.covariance) > 0  # False for NaN
        precision = np.linalg.inv(np.where(usable[..., None, None], self.covariance, np.eye(2)))
        distance = np.einsum("...hwi,...ij,...hwj->...hw", offset, precision, offset)
        return np.where(usable[..., None, None], np.exp(-distance / 4 * exponent), np.nan)

    def moments(self) -> np.ndarray:
        """Return x, y, variance along x, variance along y and covariance, (..., 5)."""
        variances = self.covariance[..., [0, 1, 0], [0, 1, 1]]
        return np.concatenate([self.center, variances], axis=-1)


def deviation(stimuli: np.ndarray) -> np.ndarray:
    """Return the root mean square difference of each pixel from the stimulus's mean, (unit, height, width).

    The mean is that of each channel, over time and space; squares are averaged over channels and time. For grey images
    this is the absolute difference from the mean.

    Parameters
    ----------
    stimuli : ndarray
        (unit, channel[, time], height, width).
    """
    return np.sqrt(np.mean(_difference(stimuli) ** 2, axis=tuple(range(1, stimuli.ndim - 2))))


def tight_masks(stimuli: np.ndarray, respond: Respond, settings: TightMask) -> TightMasks:
    """Find the tight masks of the MEIs of all units together.

    With the deviation f of each pixel from the mean (`deviation`), the first mask is the convex hull of
    f > threshold * std(f). In every round the mask is blurred, m, and the response to m * MEI + (1 - m) * mean is
    taken; units whose response is above ``target_ratio`` times that of their first round lose one pixel all round, a
    3 x 3 erosion; the screen's border takes nothing off. The mask of the round that fell is kept, so ratios lie at or
    below the target. Units whose mask is gone, or fills the screen, do not converge.

    Parameters
    ----------
    stimuli : ndarray
        (unit, channel[, time], height, width), grey values; one for each unit of ``respond``, in its order.
    respond : Respond
    settings : TightMask
    """
    fluctuation = deviation(stimuli)
    limit = settings.threshold * fluctuation.std(axis=(1, 2), keepdims=True)
    hulls = np.stack([convex_hull_image(above) if above.any() else above for above in fluctuation > limit])
    masks = _blurred(hulls, settings.blur)
    first = _masked_responses(stimuli, masks, respond, np.arange(len(stimuli)))
    response, erosions = first.copy(), np.zeros(len(stimuli), dtype=int)
    high = response > settings.target_ratio * first
    waiting = np.flatnonzero(high)
    for _ in range(settings.max_erosions):
        eroded = binary_erosion(hulls[waiting], np.ones((1, 3, 3)), border_value=1)
        changed = (eroded != hulls[waiting]).any(axis=(1, 2))
        waiting = waiting[changed]
        if not len(waiting):
            break
        hulls[waiting] = eroded[changed]
        masks[waiting] = _blurred(hulls[waiting], settings.blur)
        response[waiting] = _masked_responses(stimuli[waiting], masks[waiting], respond, waiting)
        erosions[waiting] += 1
        high = response > settings.target_ratio * first
        waiting = waiting[high[waiting]]
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(first == 0, np.nan, response / first)
    return TightMasks(masks, ratio, erosions, ~high)


def apply_masks(stimuli: np.ndarray, masks: np.ndarray, background: np.ndarray | None = None) -> np.ndarray:
    """Return m * stimulus + (1 - m) * background.

    Parameters
    ----------
    stimuli : ndarray
        (unit, channel[, time], height, width).
    masks : ndarray
        (unit, height, width).
    background : ndarray, optional
        What remains where the mask is 0; anything that fits the stimuli. Without it, the mean of each channel.
    """
    if background is None:
        background = _mean(stimuli)
    over = masks[(slice(None), *[None] * (stimuli.ndim - 3))]
    masked: np.ndarray = over * stimuli + (1 - over) * background
    return masked


def fit_gaussians(stimuli: np.ndarray, per_frame: bool = False) -> GaussianFit:
    """Fit Gaussians by the moments of the squared deviation, taken as a distribution over pixels.

    centre = sum p x and covariance = sum p (x - centre)(x - centre)' with p the squared `deviation`, scaled to sum 1;
    ``fit_gauss_envelope`` of Walker et al. (2019).

    Parameters
    ----------
    stimuli : ndarray
        (unit, channel[, time], height, width).
    per_frame : bool
        Fit every frame of movies: the result has leading axes (unit, time) instead of (unit,).

    Returns
    -------
    GaussianFit
        NaN where nothing deviates from the mean.
    """
    squares = _difference(stimuli) ** 2
    averaged = tuple(axis for axis in range(1, squares.ndim - 2) if not (per_frame and axis == 2))
    weights = squares.mean(axis=averaged)
    with np.errstate(divide="ignore", invalid="ignore"):
        weights = weights / weights.sum(axis=(-2, -1), keepdims=True)
    height, width = weights.shape[-2:]
    places = np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1).reshape(-1, 2)
    flat = weights.reshape(*weights.shape[:-2], -1)
    center = flat @ places
    offset = places - center[..., None, :]
    return GaussianFit(center, np.einsum("...p,...pi,...pj->...ij", flat, offset, offset))


def _mean(stimuli: np.ndarray) -> np.ndarray:
    """Mean of each channel."""
    mean: np.ndarray = stimuli.mean(axis=tuple(range(2, stimuli.ndim)), keepdims=True)
    return mean


def _difference(stimuli: np.ndarray) -> np.ndarray:
    stimuli = stimuli.astype(np.float64)
    return stimuli - _mean(stimuli)


def _blurred(hulls: np.ndarray, sigma: float) -> np.ndarray:
    blurred: np.ndarray = gaussian_filter(hulls.astype(np.float64), (0, sigma, sigma))
    return blurred


def _masked_responses(stimuli: np.ndarray, masks: np.ndarray, respond: Respond, owners: np.ndarray) -> np.ndarray:
    masked = torch.from_numpy(apply_masks(stimuli.astype(np.float64), masks)).float()
    with torch.no_grad():
        return own_responses(respond, masked, torch.from_numpy(owners)).double().cpu().numpy()
