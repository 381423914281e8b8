"""Where training starts: fresh weights, and readouts that already look where their units respond."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.datasets.batches import Batch, ImageBatch, MovieBatch
from pipeline.datasets.info import DataInfo, ScanInfo
from pipeline.datasets.loaders import ScanLoaders
from pipeline.models import Network
from pipeline.models.base import EncodingModel
from pipeline.models.function import Function

WINDOW_SECONDS = 0.25
MAX_FRAMES = 30_000
SMOOTHING = 3


def initial_encoder(
    network: Network | Function, data_info: DataInfo, loaders: ScanLoaders, seed: int
) -> tuple[EncodingModel, DataInfo]:
    """Return a model with fresh weights and the data information that it was built from.

    If the readout asks for it, the centres of the units' receptive fields are estimated from training trials first and
    become part of the data information.
    """
    if isinstance(network, Network) and network.readout.needs_centers:
        data_info = {
            data_key: dataclasses.replace(scan, field_centers=field_centers(loaders["train"][data_key].in_full(), scan))
            for data_key, scan in data_info.items()
        }
    return network.build(data_info, seed, loaders), data_info


def field_centers(batches: Iterable[Batch], scan: ScanInfo) -> tuple[tuple[float, float], ...]:
    """Return where the response-triggered average of each unit has most energy, (x, y) in pixels, y down.

    The average is sum_t (r(t) - mean r) s(t - lag) over training trials for all lags within `WINDOW_SECONDS` (the
    spike-triggered average of Chichilnisky 2001, without whitening), the mean being that of the frames summed, so that
    the movies' own mean does not matter; its energy is summed over lags and channels and smoothed over 3 x 3 pixels.
    For images the sum is over images, without lags. At most `MAX_FRAMES` frames are read. Correlations of natural
    movies blur the average but leave its peak, which is all that is used.

    Parameters
    ----------
    batches : iterable of MovieBatch or ImageBatch
        Training trials in full.
    scan : ScanInfo
        Their data information.
    """
    average: Tensor | None = None
    seen = 0
    for batch in batches:
        if seen >= MAX_FRAMES:
            break
        pixels = batch.inputs[:, : scan.pixel_channels]
        seen += len(pixels) * (pixels.shape[2] if isinstance(batch, MovieBatch) else 1)
        found = _of_movies(pixels, batch, scan) if isinstance(batch, MovieBatch) else _of_images(pixels, batch)
        if found is not None:
            average = found if average is None else average + found
    _, height, width = scan.input_shape
    if average is None:
        return (((width - 1) / 2, (height - 1) / 2),) * scan.n_units
    if average.dim() == 2:
        average = _covariance(average)[:, None]
    energy = average.square().sum(dim=1).unflatten(1, (-1, height, width)).sum(dim=1)
    smooth = functional.avg_pool2d(energy[:, None], SMOOTHING, 1, SMOOTHING // 2, count_include_pad=False)
    peak = smooth.flatten(1).argmax(dim=1)
    return tuple((float(p % width), float(p // width)) for p in peak)


def _of_movies(pixels: Tensor, batch: MovieBatch, scan: ScanInfo) -> Tensor | None:
    """Return the sum (unit, lag, channel * height * width), None if movies are no longer than the lags."""
    lags, length = max(round(WINDOW_SECONDS * (scan.frame_rate or 0)), 1), pixels.shape[2]
    if length <= lags:
        return None
    total = torch.zeros(scan.n_units, lags, pixels[0, :, 0].numel())
    for clip, responses in zip(pixels, batch.responses, strict=True):
        movie = clip.transpose(0, 1).flatten(1)  # time, channel * height * width
        for lag in range(lags):
            total[:, lag] += _centred(responses[:, lag:]) @ movie[: length - lag]
    return total


def _of_images(pixels: Tensor, batch: ImageBatch) -> Tensor:
    """Return sums of products (unit + 1, channel * height * width + 1); the last row and column are those with 1."""
    one = torch.ones(len(pixels), 1)
    return torch.cat([batch.responses, one], dim=1).T.double() @ torch.cat([pixels.flatten(1), one], dim=1).double()


def _covariance(sums: Tensor) -> Tensor:
    """Return sum (r - mean r) s from what `_of_images` adds up to."""
    return (sums[:-1, :-1] - sums[:-1, -1:] * sums[-1:, :-1] / sums[-1, -1]).float()


def _centred(responses: Tensor) -> Tensor:
    return responses - responses.mean(dim=1, keepdim=True)
