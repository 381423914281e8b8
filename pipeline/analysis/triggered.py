"""Receptive fields of data: response-triggered averages of what was shown, and how far they are from chance."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from pipeline.datasets.batches import Batch, MovieBatch
from pipeline.datasets.info import ScanInfo
from pipeline.errors import DatasetError

STIMULUS_BYTES = 2**30
"""What the stimuli that are averaged may take in memory; with more, trials are left out at the end."""
FIELD_BYTES = 2**27
"""What the averages that are made side by side may take; a few times that is needed."""
SMOOTHING = 3


@dataclass(frozen=True)
class TriggeredFields:
    """Averages of one scan's units.

    Attributes
    ----------
    fields : ndarray of float32
        (unit, channel, lag, height, width): covariance of response and pixel, divided by the std of the response, in
        std of the training stimuli; the last lag is the frame of the response itself. Images have one lag.
    z : ndarray of float32
        The same, in std of the null: what remains when responses are permuted.
    peak_z : ndarray
        (unit,) log of the highest energy of the field anywhere, in std from the mean of that of the null.
    peak_p : ndarray
        (unit,) share of permutations whose highest energy is not below it, the field itself counted as one.
    samples : int
        Images or frames averaged.
    """

    fields: np.ndarray
    z: np.ndarray
    peak_z: np.ndarray
    peak_p: np.ndarray
    samples: int


def triggered_average(
    batches: Iterable[Batch],
    scan: ScanInfo,
    lags: int = 1,
    permutations: int = 100,
    max_samples: int = 30_000,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> TriggeredFields:
    """Average the stimulus around responses (Chichilnisky 2001, without whitening), and compare with chance.

    Of signed responses, such as fluorescence, it is what it is of spikes: the average is of the stimulus times the
    response's distance from its mean, so that neither the mean response nor the mean stimulus enters.

    The null permutes images against responses, or shifts the responses to movies circularly in time, all trials joined,
    by at least `lags` frames; both leave the statistics of stimuli and responses as they are. The mean of the null is 0
    by construction and its variance is taken over permutations, which are the same for all units. The energy is summed
    over lags and channels and averaged over 3 x 3 pixels.

    Parameters
    ----------
    batches : iterable of MovieBatch or ImageBatch
        Trials in full. Frames before which a trial does not have enough of the past are left out, and so are trials
        whose responses are withheld.
    scan : ScanInfo
        Their data information.
    lags : int
        Frames back to which movies are averaged; of images 1.
    permutations : int
        At least 2.
    max_samples : int
        Images or frames at most, as far as `STIMULUS_BYTES` allow.
    seed : int
        Of the permutations.
    device : device, optional
        Where to compute.

    Raises
    ------
    DatasetError
        If there are not enough images or frames.
    """
    pixels, responses, usable = _gathered(batches, scan, lags, max_samples)
    count = int(usable.sum())
    if count < max(3, 2 * lags + 1):
        raise DatasetError(
            f"{count} images or frames with {lags - 1} frames before them are too few for an average: "
            "use fewer lags or more trials"
        )
    orders = _orders(count, lags, permutations, seed)
    pixels = pixels.to(device)
    shape = (scan.pixel_channels, *scan.input_shape[1:])
    at_once = max(FIELD_BYTES // (4 * lags * pixels.shape[1]), 1)
    found = [
        _of_units(part.to(device), pixels, usable.to(device), orders, lags, shape) for part in responses.split(at_once)
    ]
    fields, z, peak_z, peak_p = (torch.cat(parts).numpy() for parts in zip(*found, strict=True))
    return TriggeredFields(fields, z, peak_z, peak_p, count)


def _gathered(batches: Iterable[Batch], scan: ScanInfo, lags: int, max_samples: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return pixels (sample, channel * height * width), responses (unit, sample) and which samples have a past."""
    _, height, width = scan.input_shape
    most = min(max_samples, STIMULUS_BYTES // (4 * scan.pixel_channels * height * width))
    pixels: list[Tensor] = []
    responses: list[Tensor] = []
    usable: list[Tensor] = []
    seen = 0
    for shown, response in _trials(batches, scan.pixel_channels):
        if seen >= most:
            break
        pixels.append(shown[: most - seen])
        responses.append(response[:, : most - seen])
        usable.append(torch.arange(len(pixels[-1])) >= lags - 1)  # of images, whose only lag is 0, all
        seen += len(pixels[-1])
    if not pixels:
        raise DatasetError("there is no trial whose responses are known: nothing to average")
    return torch.cat(pixels), torch.cat(responses, dim=1), torch.cat(usable)


def _trials(batches: Iterable[Batch], channels: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield pixels (sample, pixel) and responses (unit, sample) of movies one by one, of images by batches."""
    for batch in batches:
        pixels = batch.inputs[:, :channels]
        if isinstance(batch, MovieBatch):
            for movie, response in zip(pixels, batch.responses, strict=True):
                if bool(response.isfinite().all()):
                    yield movie.transpose(0, 1).flatten(1), response
        else:
            known = batch.responses.isfinite().all(dim=1)
            yield pixels[known].flatten(1), batch.responses[known].T


def _orders(count: int, lags: int, permutations: int, seed: int) -> Tensor:
    """Return for each permutation the sample whose response each sample gets, (permutation, sample)."""
    rng = np.random.default_rng(seed)
    if lags == 1:
        return torch.tensor(np.stack([rng.permutation(count) for _ in range(permutations)]))
    shifts = rng.integers(lags, count - lags, size=permutations, endpoint=True)
    return torch.tensor((np.arange(count) - shifts[:, None]) % count)


def _of_units(
    responses: Tensor, pixels: Tensor, usable: Tensor, orders: Tensor, lags: int, shape: tuple[int, int, int]
) -> tuple[Tensor, ...]:
    """Return fields, z, peak_z and peak_p of a few units."""
    used = responses[:, usable]
    used = used - used.mean(dim=1, keepdim=True)
    std = used.square().mean(dim=1, keepdim=True).sqrt()
    used = used / torch.where(std > 0, std, torch.nan)

    def average(order: Tensor | None = None) -> Tensor:
        placed = torch.zeros_like(responses)
        placed[:, usable] = used if order is None else used[:, order.to(used.device)]
        return _products(placed, pixels, lags) / used.shape[1]

    found = average()
    peak = _log_peak(found, shape)
    squares = torch.zeros_like(found)
    peaks = []
    for order in orders:
        null = average(order)
        squares += null.square()
        peaks.append(_log_peak(null, shape))
    null_peaks = torch.stack(peaks)
    spread = (squares / len(orders)).sqrt()
    z = found / torch.where(spread > 0, spread, torch.nan)
    peak_z = (peak - null_peaks.mean(dim=0)) / null_peaks.std(dim=0)
    peak_p = (1 + (null_peaks >= peak).sum(dim=0)) / (1 + len(orders))
    peak_p = torch.where(peak.isfinite(), peak_p, torch.nan)
    return _as_fields(found, shape).cpu(), _as_fields(z, shape).cpu(), peak_z.double().cpu(), peak_p.double().cpu()


def _products(responses: Tensor, pixels: Tensor, lags: int) -> Tensor:
    """Return the sums over time of responses times pixels ``lag`` frames before, (unit, lag, pixel), latest last."""
    length = len(pixels)
    return torch.stack([responses[:, lag:] @ pixels[: length - lag] for lag in reversed(range(lags))], dim=1)


def _as_fields(average: Tensor, shape: tuple[int, int, int]) -> Tensor:
    return average.unflatten(2, shape).transpose(1, 2).contiguous()


def _log_peak(average: Tensor, shape: tuple[int, int, int]) -> Tensor:
    energy = average.unflatten(2, shape).square().sum(dim=(1, 2))
    smooth = functional.avg_pool2d(energy[:, None], SMOOTHING, 1, SMOOTHING // 2, count_include_pad=False)
    return smooth.flatten(1).amax(dim=1).log()
