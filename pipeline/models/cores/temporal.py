"""Convolutions over time, with many channels by way of temporal spectra on a CPU.

oneDNN reaches half of a processor's speed in the gradient of such filters. Values and gradients are as far from those
in double precision as those of `torch.nn.functional.conv2d`.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from pipeline.models.cores.spectra import (
    Axis,
    can_be_spectral,
    chunk_size,
    correlate,
    empty_maps,
    multiply,
    multiply_conjugate,
    transform,
)

_SLOWER = 1.5
"""How much longer than in a direct convolution a multiplication takes here (1.2 to 1.3 were measured)."""


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
        axis = _axis(input, self.weight, self.dilation[0])
        if can_be_spectral(input, self.weight) and _saves(axis, self.weight):
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
    axis = _axis(sequences, weight, dilation)
    axis.require_map()
    filtered: Tensor = _Temporal.apply(sequences, weight, axis, chunk_size(weight))
    return filtered


def _saves(axis: Axis, weight: Tensor) -> bool:
    """Tell whether spectra are the faster way."""
    out_channels, in_channels = weight.shape[:2]
    pairs = in_channels * out_channels
    transforms = 2 * axis.half * (axis.size * in_channels + axis.out_size * out_channels)
    return axis.holds_map and _SLOWER * (transforms + 3 * axis.half * pairs) < axis.out_size * axis.taps * pairs


def _axis(sequences: Tensor, weight: Tensor, dilation: int) -> Axis:
    return _kept(Axis(sequences.shape[2], weight.shape[2], dilation, 0))


@lru_cache(maxsize=64)
def _kept(axis: Axis) -> Axis:
    """Return the equal axis that has its matrices already, if there is one."""
    return axis


class _Temporal(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, sequences: Tensor, weight: Tensor, axis: Axis, chunk: int) -> Tensor:
        ctx.save_for_backward(sequences, weight)
        ctx.axis, ctx.chunk = axis, chunk
        filtered = empty_maps(len(sequences), len(weight), axis.out_size, sequences.shape[3])
        factors = _factors(axis, weight)
        for part, made in _chunks(chunk, sequences, filtered):
            _to_time(axis, multiply(_of_time(axis, part), factors), made)
        return filtered

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        sequences, weight = ctx.saved_tensors
        axis: Axis = ctx.axis
        for_sequences, for_weight = ctx.needs_input_grad[:2]
        factors = _factors(axis, weight)
        products = torch.zeros_like(factors)
        to_sequences = empty_maps(*sequences.shape)
        for part, grads, made in _chunks(ctx.chunk, sequences, grad, to_sequences):
            spectra = _of_time(axis, grads)
            if for_weight:
                correlate(_of_time(axis, part), spectra, products)
            if for_sequences:
                _to_time(axis, multiply_conjugate(spectra, factors), made)
        taps = axis.real_tap_gradient.flatten(1) @ products.flatten(0, 1).flatten(1)
        to_weight = taps.view(-1, *factors.shape[2:]).permute(2, 1, 0).unsqueeze(3)
        return to_sequences if for_sequences else None, to_weight if for_weight else None, None, None


def _chunks(size: int, *sequences: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Give the same places of all sequences, of one item of the batch after the other, (time, place, channel)."""
    for items in zip(*(of.permute(0, 2, 3, 1) for of in sequences), strict=True):
        yield from zip(*(item.split(size, dim=1) for item in items), strict=True)


def _factors(axis: Axis, weight: Tensor) -> Tensor:
    """Return what `multiply` needs of filters (out, in, time, 1): (3, half, in, out)."""
    taps = weight.squeeze(3).permute(2, 1, 0)
    return (axis.real_factors.flatten(0, 1) @ taps.flatten(1)).view(3, axis.half, *taps.shape[1:])


def _of_time(axis: Axis, sequences: Tensor) -> Tensor:
    """Return the spectra of (time, place, channel), (part, half, place, channel)."""
    time, place, channel = sequences.shape
    spectra = transform(axis.of_real[..., :time].flatten(0, 1), sequences.reshape(time, -1))
    return spectra.view(2, axis.half, place, channel)


def _to_time(axis: Axis, spectra: Tensor, sequences: Tensor) -> None:
    """Transform spectra back into ``sequences`` (time, place, channel)."""
    matrix = axis.to_real[: len(sequences)].flatten(1)
    sequences.copy_(transform(matrix, spectra.view(2 * axis.half, -1)).view_as(sequences))
