"""Receptive fields of models: the gradient of each unit's response to what was shown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from pipeline.analysis.viewing import Viewer
from pipeline.datasets.batches import Batch, MovieBatch
from pipeline.errors import ConfigurationError, DatasetError

PAIRS_AT_ONCE = 64
"""Images or movies in one pass, each differentiated for one unit, which bounds memory."""
ENERGY_SIGMA = 1.0
"""Std of the Gaussian by which energy is smoothed to find its centre (px)."""


@dataclass(frozen=True)
class GradientFields:
    """Gradients of one scan's units.

    Attributes
    ----------
    fields : ndarray of float32
        (unit, channel, lag, height, width): change of the response for each std of the training stimuli in a pixel; the
        last lag is the frame of the response itself. Images have one lag.
    energy : ndarray of float32
        (unit, height, width): squared gradients, summed over channels and lags and averaged over stimuli. It tells
        where a unit looks even if its gradients cancel, as those of complex cells do.
    response : ndarray
        (unit,) to what was differentiated at, averaged over stimuli.
    stimuli : int
        How many images or clips the gradients are averaged over; 1 at grey.
    """

    fields: np.ndarray
    energy: np.ndarray
    response: np.ndarray
    stimuli: int


def gradient_at_grey(viewer: Viewer, units: Sequence[int], lags: int = 1) -> GradientFields:
    """Return the gradients at the grey screen.

    Parameters
    ----------
    viewer : Viewer
    units : sequence of int
        Positions of the units in the readout.
    lags : int
        Frames back to which movies are differentiated; of images 1.
    """
    return _averaged(viewer, units, [viewer.grey(_shown_frames(viewer, lags))], lags)


def gradient_over_stimuli(
    viewer: Viewer, units: Sequence[int], batches: Iterable[Batch], lags: int = 1, stimuli: int = 100
) -> GradientFields:
    """Return the gradients averaged over stimuli, which is the linear part of the response around them.

    Of each movie as many clips as fit are taken one after the other, and the response to the last frame of each is
    differentiated. Eye position and behaviour are the viewer's, not those of the trials.

    Parameters
    ----------
    viewer : Viewer
    units : sequence of int
        Positions of the units in the readout.
    batches : iterable of MovieBatch or ImageBatch
        Trials in full; as many are read as needed.
    lags : int
        Frames back to which movies are differentiated; of images 1.
    stimuli : int
        Images or clips to average over at most.

    Raises
    ------
    DatasetError
        If no trial is long enough for one clip.
    """
    clips = list(_clips(viewer, batches, _shown_frames(viewer, lags), stimuli))
    if not clips:
        raise DatasetError(
            f"{viewer.data_key}: no movie has the {_shown_frames(viewer, lags)} frames that one gradient needs: "
            "use fewer lags"
        )
    return _averaged(viewer, units, clips, lags)


def _shown_frames(viewer: Viewer, lags: int) -> int:
    if lags < 1 or (lags > 1 and not viewer.sees_movies):
        raise ConfigurationError(f"{viewer.data_key}: gradients over {lags} lags; images have 1, movies 1 or more")
    return max(lags, viewer.encoder.lost_frames + 1)


def _clips(viewer: Viewer, batches: Iterable[Batch], frames: int, most: int) -> Iterable[Tensor]:
    """Yield normalised pixels, a few stimuli at a time and ``most`` together."""
    for batch in batches:
        pixels = batch.inputs[:, : viewer.scan.pixel_channels]
        if isinstance(batch, MovieBatch):
            whole = pixels.shape[2] // frames * frames
            if not whole:
                continue
            pixels = pixels[:, :, :whole].unflatten(2, (-1, frames)).transpose(1, 2).flatten(0, 1)
        pixels = pixels[:most].to(viewer.encoder.device)
        most -= len(pixels)
        yield pixels
        if not most:
            return


def _averaged(viewer: Viewer, units: Sequence[int], stimuli: Sequence[Tensor], lags: int) -> GradientFields:
    """Differentiate a batch of copies of the stimuli, one for each unit, so that one backward pass serves many."""
    count = sum(len(pixels) for pixels in stimuli)
    found: list[tuple[Tensor, ...]] = []
    for first in range(0, len(units), PAIRS_AT_ONCE):
        chosen = list(units[first : first + PAIRS_AT_ONCE])
        at_once = max(PAIRS_AT_ONCE // len(chosen), 1)
        parts = (_one_pass(viewer, chosen, part, lags) for pixels in stimuli for part in pixels.split(at_once))
        found.append(reduce(_added, parts))
    fields, energy, responses = ((torch.cat(parts) / count).numpy() for parts in zip(*found, strict=True))
    return GradientFields(fields, energy, responses, count)


def _added(one: tuple[Tensor, ...], other: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(a + b for a, b in zip(one, other, strict=True))


def _one_pass(viewer: Viewer, units: list[int], pixels: Tensor, lags: int) -> tuple[Tensor, ...]:
    """Return sums over stimuli: gradients (unit, channel, lag, height, width), their energy, responses (unit,)."""
    copies = pixels.repeat_interleave(len(units), dim=0).requires_grad_(True)
    with viewer.differentiating():
        last = viewer.respond(copies, units)[:, :, -1].unflatten(0, (len(pixels), len(units)))
        own = last.diagonal(dim1=1, dim2=2)
        (gradient,) = torch.autograd.grad(own.sum(), copies)
    if gradient.dim() == 4:
        gradient = gradient.unsqueeze(2)
    gradient = gradient[:, :, -lags:].unflatten(0, (len(pixels), len(units)))
    energy = gradient.square().sum(dim=(0, 2, 3))
    return gradient.sum(dim=0).cpu(), energy.cpu(), own.detach().sum(dim=0).cpu()


def energy_centres(energy: np.ndarray) -> np.ndarray:
    """Return where units look, (unit, 2): x and y in pixels, y down; NaN for units without energy.

    It is the centroid of the smoothed energy where that is above half of its peak.

    Parameters
    ----------
    energy : ndarray
        (unit, height, width).
    """
    smooth = gaussian_filter(energy.astype(float), (0, ENERGY_SIGMA, ENERGY_SIGMA))
    peak = smooth.max(axis=(1, 2), keepdims=True)
    weights = np.where(smooth > peak / 2, smooth, 0)
    total = weights.sum(axis=(1, 2))
    x = weights.sum(axis=1) @ np.arange(energy.shape[2])
    y = weights.sum(axis=2) @ np.arange(energy.shape[1])
    centres = np.stack([x, y], axis=1) / np.where(total > 0, total, np.nan)[:, None]
    return np.asarray(centres)
