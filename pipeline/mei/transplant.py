"""MEIs elsewhere: in their masks on natural images, and the responses of all units to the MEIs of all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from pipeline.configuration import Configuration, setting
from pipeline.errors import ConfigurationError
from pipeline.mei.activation import Respond, own_responses, parts
from pipeline.mei.conditions import GREY_LEVELS
from pipeline.mei.masks import apply_masks

OFFSETS = np.linspace(-30, 30, 1000)
"""Shifts among which `match_statistics` chooses the one that restores the mean (grey values)."""
GAIN_RATIO = 1.05
GAINS = (1e-3, 6e3)
"""Step and range of the gains that `match_statistics` tries."""
FLAT = 1e-8
"""Contrast below which there is nothing to match (grey values)."""


@dataclass(frozen=True)
class Transplant(Configuration):
    """MEIs in their masks on natural images of the data."""

    backgrounds: int = setting(20, "natural images, drawn without repetition", ge=1)
    background_tier: str = setting(
        "test", "tier that they are drawn from", choices=("train", "validation", "test"), length=16
    )
    mean: float | None = setting(
        None, "mean of the MEI in its mask; without it, that of its background", unit="grey values", ge=0, le=255
    )
    contrast: float | None = setting(
        None, "contrast of the MEI in its mask; without it, its own", unit="grey values", gt=0
    )
    background_seed: int = setting(0, "seed of the draw", ge=0)


@dataclass(frozen=True)
class CrossActivation(Configuration):
    """Responses of all chosen units to the MEIs of all, which are given one mean and contrast before.

    The defaults are ``ImageConfig`` 0 of Walker et al. (2019, https://doi.org/10.1038/s41593-019-0517-x).
    """

    match: bool = setting(True, "whether MEIs are given one mean and contrast; else they stay as they are")
    mean: float = setting(111.0, "mean of all MEIs", unit="grey values", ge=0, le=255)
    contrast: float = setting(16.0, "contrast of all MEIs", unit="grey values", gt=0)


@dataclass(frozen=True)
class Matched:
    """An image with the mean and contrast asked for, as near as the screen allows.

    Attributes
    ----------
    image : ndarray
        As was given; where there is a mask, flat outside.
    unmasked : ndarray
        With the same gain and offset, but the whole image.
    """

    image: np.ndarray
    unmasked: np.ndarray


def match_statistics(image: np.ndarray, mean: float, contrast: float, mask: np.ndarray | None = None) -> Matched:
    """Give an image, or what a mask shows of it, a mean and a contrast within the range of the screen.

    With the difference d from the mean in the mask, the image is clip(gain m d + mean + offset). Gains go up or down by
    factors of `GAIN_RATIO` from contrast / std until the contrast passes what is asked for; at each gain, the offset
    among `OFFSETS` is taken whose mean is nearest, and of all gains that with the nearest contrast:
    ``adjust_img_stats`` of Walker et al. (2019), but the means at all offsets follow from the sorted pixels.

    Parameters
    ----------
    image : ndarray
        Any shape, such as (channel, height, width) or (channel, time, height, width); grey values.
    mean, contrast : float
        Mean and standard deviation over the whole result (grey values).
    mask : ndarray, optional
        Fits the image, 0 to 1.

    Raises
    ------
    ConfigurationError
        If the mask is empty.
    """
    image = np.asarray(image, dtype=np.float64)
    mask = np.ones_like(image) if mask is None else np.broadcast_to(np.asarray(mask, dtype=np.float64), image.shape)
    if not mask.any():
        raise ConfigurationError("an image with an empty mask has neither mean nor contrast: leave it out")
    low, high = GREY_LEVELS
    difference = image - (image * mask).sum() / mask.sum()
    shown = difference * mask
    start = np.clip(shown + mean, low, high).std()
    if start < FLAT:
        return Matched(np.clip(shown + mean, low, high), np.clip(difference + mean, low, high))
    gain = contrast / start
    upwards = gain >= 1
    # Beyond this gain every pixel is black or white.
    smallest = np.abs(difference[mask > 0]).min()
    most = min(max(high - mean, mean - low) / smallest, GAINS[1]) if smallest > 0 else GAINS[1]
    tried: list[tuple[float, float, float]] = []  # distance, gain, offset
    while True:
        offset = _best_offset(shown * gain + mean, mean)
        reached = np.clip(shown * gain + mean + offset, low, high).std()
        tried.append((abs(reached - contrast), gain, offset))
        gain = gain * GAIN_RATIO if upwards else gain / GAIN_RATIO
        passed = reached > contrast if upwards else reached < contrast
        if passed or not GAINS[0] <= gain <= most:
            break
    _, gain, offset = min(tried, key=lambda one: one[0])
    return Matched(
        np.clip(shown * gain + mean + offset, low, high), np.clip(difference * gain + mean + offset, low, high)
    )


def _best_offset(pixels: np.ndarray, mean: float) -> float:
    """Return the offset at which the clipped pixels have the mean that is nearest."""
    low, high = GREY_LEVELS
    ordered = np.sort(pixels, axis=None)
    sums = np.concatenate([[0.0], np.cumsum(ordered)])
    black = np.searchsorted(ordered, low - OFFSETS)
    white = np.searchsorted(ordered, high - OFFSETS)
    inside = sums[white] - sums[black] + OFFSETS * (white - black)
    means = (low * black + inside + high * (ordered.size - white)) / ordered.size
    return float(OFFSETS[np.abs(means - mean).argmin()])


def matched(stimuli: np.ndarray, mean: float, contrast: float) -> np.ndarray:
    """Return MEIs with one mean and contrast; see `match_statistics`. Movies are matched as a whole.

    Parameters
    ----------
    stimuli : ndarray
        (unit, channel[, time], height, width), grey values.
    mean, contrast : float
        Grey values.
    """
    return np.stack([match_statistics(stimulus, mean, contrast).image for stimulus in stimuli])


def transplant(
    stimulus: np.ndarray,
    mask: np.ndarray,
    backgrounds: np.ndarray,
    mean: float | None = None,
    contrast: float | None = None,
) -> np.ndarray:
    """Put an MEI in its mask on backgrounds, (background, ...): m * MEI + (1 - m) * background.

    The difference of the MEI from its mean in the mask is scaled to the contrast within the mask that is asked for, and
    stands on the mean that is asked for, or on that of the background in the mask; the sum is clipped to the screen. So
    a step in luminance at the mask's border does not drive the unit.

    Parameters
    ----------
    stimulus : ndarray
        (channel[, time], height, width), grey values.
    mask : ndarray
        (height, width), 0 to 1.
    backgrounds : ndarray
        (background, channel[, time], height, width), grey values.
    mean, contrast : float, optional
        Of the MEI, weighted with the mask (grey values); without them, its background's mean and its own contrast.

    Raises
    ------
    ConfigurationError
        If the mask is empty.
    """
    weights = np.broadcast_to(mask, stimulus.shape)
    if not weights.any():
        raise ConfigurationError("a unit with an empty mask has nothing to transplant: leave it out")
    weights = weights / weights.sum()
    difference = stimulus - (weights * stimulus).sum()
    if contrast is not None:
        own = np.sqrt((weights * difference**2).sum())
        difference = difference * (contrast / own if own > FLAT else 1.0)
    axes = tuple(range(1, backgrounds.ndim))
    levels = (weights * backgrounds).sum(axis=axes, keepdims=True) if mean is None else mean
    masks = np.broadcast_to(mask, (len(backgrounds), *mask.shape))
    return np.clip(apply_masks(levels + difference, masks, backgrounds), *GREY_LEVELS)


@dataclass(frozen=True)
class TransplantResponses:
    """What MEIs on natural images do.

    Attributes
    ----------
    alone : ndarray
        (unit, background), responses to the backgrounds alone.
    transplanted : ndarray
        (unit, background), responses to the backgrounds with the unit's MEI.
    """

    alone: np.ndarray
    transplanted: np.ndarray


def transplant_responses(
    stimuli: np.ndarray, masks: np.ndarray, backgrounds: np.ndarray, respond: Respond, settings: Transplant
) -> TransplantResponses:
    """Measure the responses of all units to their MEIs on the same backgrounds.

    Units with an empty or undefined mask have the responses to the backgrounds alone.

    Parameters
    ----------
    stimuli : ndarray
        (unit, channel[, time], height, width), grey values; one for each unit of ``respond``, in its order.
    masks : ndarray
        (unit, height, width).
    backgrounds : ndarray
        (background, channel[, time], height, width), grey values.
    respond : Respond
    settings : Transplant
        Its mean and contrast.
    """
    bare = torch.from_numpy(np.asarray(backgrounds, dtype=np.float32))
    every = torch.arange(len(stimuli))
    with torch.no_grad():
        alone = torch.cat([respond(bare[part], every) for part in parts(len(bare))]).T.double().cpu().numpy()
        transplanted = alone.copy()
        for unit in np.flatnonzero(np.nan_to_num(masks).any(axis=(1, 2))).tolist():
            composed = transplant(stimuli[unit], masks[unit], backgrounds, settings.mean, settings.contrast)
            owners = torch.full((len(bare),), unit)
            found = own_responses(respond, torch.from_numpy(composed).float(), owners)
            transplanted[unit] = found.double().cpu().numpy()
    return TransplantResponses(alone, transplanted)


def cross_activations(stimuli: np.ndarray, responders: Sequence[tuple[Respond, int]]) -> np.ndarray:
    """Return the responses of all units to the MEIs of all, (unit, MEI); an MEI passes through the network once a scan.

    Parameters
    ----------
    stimuli : ndarray
        (MEI, channel[, time], height, width), grey values, in the order of the units of all scans.
    responders : sequence of (Respond, int)
        For each scan, what responds and its number of units.
    """
    movies = torch.from_numpy(np.asarray(stimuli, dtype=np.float32))
    rows = []
    with torch.no_grad():
        for respond, count in responders:
            every = torch.arange(count)
            rows.append(torch.cat([respond(movies[part], every) for part in parts(len(movies))]).T.double().cpu())
    return torch.cat(rows).numpy()


NORMALIZATIONS = ("own_mei", "own_unit", "row", "column")


def normalized(matrix: np.ndarray, by: str) -> np.ndarray:
    """Return a matrix of cross-activations (unit, MEI) on a scale that units or MEIs share.

    Parameters
    ----------
    matrix : ndarray
        (unit, MEI), the MEI of unit i in column i.
    by : str
        'own_mei': each unit's responses relative to that to its own MEI, so that the diagonal is 1;
        'own_unit': the responses to each MEI relative to that of the unit that it belongs to;
        'row' or 'column': z-scored over the MEIs of each unit, or over the units of each MEI.

    Returns
    -------
    ndarray
        (unit, MEI); NaN where the divisor is 0.

    Raises
    ------
    ConfigurationError
        If there is no such normalisation.
    """
    if by not in NORMALIZATIONS:
        raise ConfigurationError(f"no normalisation {by!r}: it is one of {', '.join(NORMALIZATIONS)}")
    own = np.diagonal(matrix)
    axis = 1 if by in ("own_mei", "row") else 0
    if by in ("row", "column"):
        numerator = matrix - matrix.mean(axis=axis, keepdims=True)
        divisor = matrix.std(axis=axis, keepdims=True)
    else:
        numerator, divisor = matrix, np.expand_dims(own, axis)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(divisor == 0, np.nan, numerator / divisor)


def own_ranks(matrix: np.ndarray, axis: int) -> np.ndarray:
    """Return the rank of each diagonal value, 1 for the highest; of equal values, all have the best rank.

    Parameters
    ----------
    matrix : ndarray
        (unit, MEI).
    axis : int
        1: how the own MEI ranks among all for a unit; 0: how the own unit ranks among all for an MEI.
    """
    own = np.expand_dims(np.diagonal(matrix), axis)
    return np.asarray(1 + (matrix > own).sum(axis=axis))
