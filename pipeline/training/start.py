"""Where training starts: fresh weights, and readouts that already look where their units respond."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.datasets.clips import MovieLoaders, ScanMovies
from pipeline.datasets.info import DataInfo
from pipeline.models import Encoder, Network, build_encoder

WINDOW_SECONDS = 0.25
MAX_FRAMES = 30_000
SMOOTHING = 3


def initial_encoder(
    network: Network, data_info: DataInfo, loaders: MovieLoaders, seed: int
) -> tuple[Encoder, DataInfo]:
    """Return an encoder with fresh weights and the data information that it was built from.

    If the readout asks for it, the centres of the units' receptive fields are estimated from training trials first and
    become part of the data information.
    """
    if network.readout.init_positions == "triggered_average":
        data_info = {
            data_key: dataclasses.replace(scan, field_centers=field_centers(loaders["train"][data_key].dataset))
            for data_key, scan in data_info.items()
        }
    return build_encoder(network, data_info, seed), data_info


def field_centers(scan: ScanMovies) -> tuple[tuple[float, float], ...]:
    """Return where the response-triggered average of each unit has most energy, (x, y) in pixels, y down.

    The average is sum_t (r(t) - mean r) s(t - lag) over training trials for all lags within `WINDOW_SECONDS` (the
    spike-triggered average of Chichilnisky 2001, without whitening), the mean being that of the frames summed, so that
    the movies' own mean does not matter; its energy is summed over lags and channels and smoothed over 3 x 3 pixels.
    At most `MAX_FRAMES` frames are read. Correlations of natural movies blur the average but leave its peak, which is
    all that is used.
    """
    lags = max(round(WINDOW_SECONDS * (scan.info.frame_rate or 0)), 1)
    average: Tensor | None = None
    seen = 0
    for trial, (length, tier) in enumerate(zip(scan.lengths, scan.tiers, strict=True)):
        if tier != "train" or seen >= MAX_FRAMES or length <= lags:
            continue
        seen += length
        batch = scan[trial, 0, length]
        movie = batch.videos[0].transpose(0, 1).flatten(1)  # time, channel * height * width
        responses = batch.responses[0]
        found = torch.stack([_centred(responses[:, lag:]) @ movie[: length - lag] for lag in range(lags)], dim=1)
        average = found if average is None else average + found
    _, height, width = scan.info.input_shape
    if average is None:
        return (((width - 1) / 2, (height - 1) / 2),) * scan.info.n_units
    energy = average.square().sum(dim=1).unflatten(1, (-1, height, width)).sum(dim=1)
    smooth = functional.avg_pool2d(energy[:, None], SMOOTHING, 1, SMOOTHING // 2, count_include_pad=False)
    peak = smooth.flatten(1).argmax(dim=1)
    return tuple((float(p % width), float(p // width)) for p in peak)


def _centred(responses: Tensor) -> Tensor:
    return responses - responses.mean(dim=1, keepdim=True)
