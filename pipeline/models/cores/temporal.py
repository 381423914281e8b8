"""Convolutions over time, with many channels by way of temporal spectra on a CPU.

oneDNN reaches half of a processor's speed in the gradient of such filters. Values and gradients are as far from those
in double precision as those of `torch.nn.functional.conv2d`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, partial, reduce
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from pipeline.models.cores.side_by_side import side_by_side
from pipeline.models.cores.spectra import (
    Axis,
    can_be_spectral,
    correlate,
    empty_maps,
    multiply,
    multiply_conjugate,
    shares,
    transform,
)

_SLOWER = 1.25
"""How much longer than in a direct convolution a multiplication takes here (1.1 to 1.3 were measured)."""

_LONGEST = 128
"""Frames that a stretch of time makes at most, unless it is all of it."""

_MOVED = 32
"""How many multiplications take as long as moving one value of a spectrum does (24 to 47 were measured)."""


class TemporalConv2d(nn.Conv2d):
    """A convolution over time at each place, in whichever way is faster; results are `torch.nn.Conv2d`'s.

    Parameters
    ----------
    in_channels, out_channels : int
    taps : int
        Length of the filters (frames).
    dilation : int
        Frames between neighbouring taps.
    """

    def __init__(self, in_channels: int, out_channels: int, taps: int, dilation: int) -> None:
        super().__init__(in_channels, out_channels, (taps, 1), dilation=(dilation, 1), bias=False)

    def forward(self, input: Tensor) -> Tensor:
        """Return the filtered sequences, (batch, out channel, time, place), shorter by what the filters need."""
        whole = Axis(input.shape[2], self.weight.shape[2], self.dilation[0], 0)
        if can_be_spectral(input, self.weight) and _saves(whole, self.weight):
            return spectral(input, self.weight, self.dilation[0])
        return super().forward(input)


def spectral(sequences: Tensor, weight: Tensor, dilation: int = 1) -> Tensor:
    """Return what a convolution over time makes of sequences, by way of spectra.

    Parameters
    ----------
    sequences : Tensor
        (batch, in channel, time, place), float32; channels last in memory is fastest, and is how results lie.
    weight : Tensor
        (out channel, in channel, frame, 1).
    dilation : int
        Frames between neighbouring taps.

    Returns
    -------
    Tensor
        (batch, out channel, time, place).

    Raises
    ------
    ConfigurationError
        If the filters are longer than the sequences.
    """
    whole = Axis(sequences.shape[2], weight.shape[2], dilation, 0)
    whole.require_map()
    stretch = _stretch(whole, *weight.shape[:2])
    split = shares(sequences.shape[3], stretch.half, weight, len(sequences))
    filtered: Tensor = _Temporal.apply(sequences, weight, stretch, split)
    return filtered


def _saves(whole: Axis, weight: Tensor) -> bool:
    """Tell whether spectra are the faster way."""
    out_channels, in_channels = weight.shape[:2]
    if not whole.holds_map:
        return False
    spectral = _cost(_stretch(whole, out_channels, in_channels), whole.out_size, out_channels, in_channels)
    return _SLOWER * spectral < whole.out_size * whole.taps * in_channels * out_channels


@lru_cache(maxsize=64)
def _stretch(whole: Axis, out_channels: int, in_channels: int) -> Axis:
    """Return the stretch of time that is transformed as one; stretches overlap by what filters need."""
    counts = {-(-whole.out_size // made) for made in range(1, _LONGEST)} | {1}
    sizes = {-(-whole.out_size // count) + whole.lost for count in counts}
    stretches = [Axis(size, whole.taps, whole.dilation, 0) for size in sorted(sizes)]
    return min(stretches, key=lambda axis: _cost(axis, whole.out_size, out_channels, in_channels))


def _cost(stretch: Axis, out_size: int, out_channels: int, in_channels: int) -> int:
    """Return how many multiplications take as long as one place, of which filters leave so many frames."""
    transforms = stretch.size * in_channels + stretch.out_size * out_channels
    moved = _MOVED * (in_channels + out_channels)
    products = 3 * in_channels * out_channels
    return -(-out_size // stretch.out_size) * stretch.half * (2 * (transforms + moved) + products)


class _Temporal(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, sequences: Tensor, weight: Tensor, stretch: Axis, split: tuple[int, int]) -> Tensor:
        ctx.save_for_backward(sequences, weight)
        ctx.stretch, ctx.split = stretch, split
        filtered = empty_maps(len(sequences), len(weight), sequences.shape[2] - stretch.lost, sequences.shape[3])
        chunks, workers = split
        side_by_side(partial(_filter, stretch, _factors(stretch, weight)), _split(chunks, sequences, filtered), workers)
        return filtered

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        sequences, weight = ctx.saved_tensors
        stretch: Axis = ctx.stretch
        for_sequences, for_weight = ctx.needs_input_grad[:2]
        factors = _factors(stretch, weight)
        to_sequences = empty_maps(*sequences.shape)
        chunks, workers = ctx.split
        work = partial(_add_gradients, stretch, factors, for_sequences, for_weight)
        products = reduce(Tensor.add_, side_by_side(work, _split(chunks, sequences, grad, to_sequences), workers))
        taps = stretch.real_tap_gradient.flatten(1) @ products.flatten(0, 1).flatten(1)
        to_weight = taps.view(-1, *factors.shape[2:]).permute(2, 1, 0).unsqueeze(3)
        return to_sequences if for_sequences else None, to_weight if for_weight else None, None, None


def _split(chunks: int, *sequences: Tensor) -> list[tuple[Tensor, ...]]:
    """Return the same places of all sequences, of one item of the batch after the other, (time, place, channel)."""
    split = ([of for item in each.permute(0, 2, 3, 1) for of in item.tensor_split(chunks, dim=1)] for each in sequences)
    return list(zip(*split, strict=True))


def _filter(stretch: Axis, factors: Tensor, chunks: Sequence[tuple[Tensor, ...]]) -> None:
    """Fill in the second of each chunk, what is made of the first."""
    for sequences, filtered in chunks:
        for start in range(0, len(filtered), stretch.out_size):
            made = filtered[start : start + stretch.out_size]
            spectra = multiply(_of_time(stretch, sequences[start : start + stretch.size]), factors)
            made.copy_(_to_time(stretch, spectra, len(made)))


def _add_gradients(
    stretch: Axis, factors: Tensor, for_sequences: bool, for_weight: bool, chunks: Sequence[tuple[Tensor, ...]]
) -> Tensor:
    """Return the products for the gradient of the filters, and fill in the third of each chunk, that of the first."""
    products = torch.zeros_like(factors)
    for sequences, grads, to_sequences in chunks:
        for start in range(0, len(grads), stretch.out_size):
            spectra = _of_time(stretch, grads[start : start + stretch.out_size])
            if for_weight:
                correlate(_of_time(stretch, sequences[start : start + stretch.size]), spectra, products)
            if for_sequences:
                made = to_sequences[start : start + stretch.size]
                gradient = _to_time(stretch, multiply_conjugate(spectra, factors), len(made))
                shared = stretch.lost if start else 0
                made[:shared] += gradient[:shared]
                made[shared:] = gradient[shared:]
    return products


def _factors(axis: Axis, weight: Tensor) -> Tensor:
    """Return what `multiply` needs of filters (out, in, time, 1): (3, half, in, out)."""
    taps = weight.squeeze(3).permute(2, 1, 0)
    return (axis.real_factors.flatten(0, 1) @ taps.flatten(1)).view(3, axis.half, *taps.shape[1:])


def _of_time(axis: Axis, sequences: Tensor) -> Tensor:
    """Return the spectra of (time, place, channel), (part, half, place, channel)."""
    time, place, channel = sequences.shape
    spectra = transform(axis.of_real[..., :time].flatten(0, 1), sequences.transpose(0, 1))
    return spectra.view(place, 2, axis.half, channel).permute(1, 2, 0, 3)


def _to_time(axis: Axis, spectra: Tensor, time: int) -> Tensor:
    """Transform spectra back into (time, place, channel)."""
    matrix = axis.to_real[:time].flatten(1)
    return transform(matrix, spectra.flatten(0, 1).transpose(0, 1)).transpose(0, 1)
