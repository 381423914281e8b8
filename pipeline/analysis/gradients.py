"""Receptive fields of models: the gradient of each unit's response to what was shown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline.analysis.viewing import Viewer
from pipeline.datasets.batches import Batch, MovieBatch
from pipeline.errors import ConfigurationError, DatasetError

PAIRS_AT_ONCE = 64
"""Images or movies in one pass, each differentiated for one unit, which bounds memory."""


@dataclass(frozen=True)
class GradientFields:
    """Gradients of one scan's units.

    Attributes
    ----------
    fields : ndarray of float32
        (unit, channel, lag, height, width): change of the response for each std of the training stimuli in a pixel; the
        last lag is the frame of the response itself. Images have one lag.
    response : ndarray
        (unit,) to what was differentiated at, averaged over stimuli.
    stimuli : int
        How many images or clips the gradients are averaged over; 1 at grey.
    """

    fields: np.ndarray
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
    fields, responses = [], []
    for first in range(0, len(units), PAIRS_AT_ONCE):
        chosen = list(units[first : first + PAIRS_AT_ONCE])
        at_once = max(PAIRS_AT_ONCE // len(chosen), 1)
        parts = [part for pixels in stimuli for part in pixels.split(at_once)]
        found = [_one_pass(viewer, chosen, part, lags) for part in parts]
        fields.append(torch.stack([gradient for gradient, _ in found]).sum(dim=0) / count)
        responses.append(torch.stack([response for _, response in found]).sum(dim=0) / count)
    return GradientFields(torch.cat(fields).numpy(), torch.cat(responses).numpy(), count)


def _one_pass(viewer: Viewer, units: list[int], pixels: Tensor, lags: int) -> tuple[Tensor, Tensor]:
    """Return the sums over stimuli of gradients (unit, channel, lag, height, width) and of responses (unit,)."""
    copies = pixels.repeat_interleave(len(units), dim=0).requires_grad_(True)
    with viewer.differentiating():
        last = viewer.respond(copies, units)[:, :, -1].unflatten(0, (len(pixels), len(units)))
        own = last.diagonal(dim1=1, dim2=2)
        (gradient,) = torch.autograd.grad(own.sum(), copies)
    gradient = gradient.unflatten(0, (len(pixels), len(units))).sum(dim=0)
    if gradient.dim() == 4:
        gradient = gradient.unsqueeze(2)
    return gradient[:, :, -lags:].cpu(), own.detach().sum(dim=0).cpu()
