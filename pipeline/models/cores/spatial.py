"""Convolutions over frames, with large filters and many channels by way of spatial spectra on a CPU.

Values and gradients are as far from those in double precision as those of `torch.nn.functional.conv2d`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial, reduce
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

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

_SLOWER = 2.2
"""How much longer than in a direct convolution a multiplication takes here (1.9 to 2.1 were measured)."""

_NARROW = 32
"""Channels, of frames and maps, below which matrices are too small (0.6 to 0.75 of the direct speed with 16)."""


class SpatialConv2d(nn.Conv2d):
    """A convolution over each frame, in whichever way is faster; parameters and results are `torch.nn.Conv2d`'s."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the filtered frames, (frame, out channel, height, width)."""
        if self.stride != (1, 1) or self.groups != 1 or self.padding[0] != self.padding[1]:
            return super().forward(input)
        return convolve(input, self.weight, self.bias, int(self.padding[0]), self.dilation[0])


def convolve(frames: Tensor, weight: Tensor, bias: Tensor | None = None, padding: int = 0, dilation: int = 1) -> Tensor:
    """Return what `torch.nn.functional.conv2d` returns, in whichever way is faster.

    Parameters
    ----------
    frames : Tensor
        (frame, in channel, height, width).
    weight : Tensor
        (out channel, in channel, row, column).
    bias : Tensor or None
        (out channel,).
    padding : int
        Zeros around each frame (px).
    dilation : int
        Steps between neighbouring taps (px).

    Returns
    -------
    Tensor
        (frame, out channel, height, width).
    """
    if can_be_spectral(frames, weight) and _Plan.of(frames, weight, padding, dilation).saves(len(frames)):
        return spectral(frames, weight, bias, padding, dilation)
    return F.conv2d(frames, weight, bias, padding=padding, dilation=dilation)


def spectral(frames: Tensor, weight: Tensor, bias: Tensor | None = None, padding: int = 0, dilation: int = 1) -> Tensor:
    """Return what `convolve` returns, by way of spectra.

    Parameters are those of `convolve`, in single precision; channels last in memory is fastest, and is how results lie.

    Raises
    ------
    ConfigurationError
        If filters do not fit into the padded frames, or padding is more than dilation * (taps - 1).
    """
    plan = _Plan.of(frames, weight, padding, dilation)
    plan.rows.require_map()
    plan.columns.require_map()
    split = shares(len(frames), plan.rows.length, weight)
    maps: Tensor = _Spatial.apply(frames, weight, plan, split)
    return maps if bias is None else maps + bias[:, None, None]


@dataclass(frozen=True)
class _Plan:
    """The axes and channels of a convolution.

    Frames are transformed along their width first; as they are real, half of these frequencies say all. What follows
    is done for one frequency ``across`` after the other. Frames and maps that are transformed along their width are
    (frame, height, across, part, channel); spectra at one frequency across are (part, down, frame, channel).
    """

    rows: Axis
    columns: Axis
    in_channels: int
    out_channels: int

    @classmethod
    def of(cls, frames: Tensor, weight: Tensor, padding: int, dilation: int) -> _Plan:
        sizes = zip(frames.shape[2:], weight.shape[2:], strict=True)
        rows, columns = (Axis(size, taps, dilation, padding) for size, taps in sizes)
        return _planned(cls(rows, columns, weight.shape[1], weight.shape[0]))

    def saves(self, frames: int) -> bool:
        """Tell whether spectra are the faster way for so many frames."""
        if not (self.rows.holds_map and self.columns.holds_map):
            return False
        if self.in_channels + self.out_channels < _NARROW:
            return False
        pairs, taps = self.in_channels * self.out_channels, self.rows.taps * self.columns.taps
        frequencies = self.columns.half * self.rows.length
        transforms = self.in_channels * self._transform(self.rows.size, self.columns.size)
        transforms += self.out_channels * self._transform(self.rows.out_size, self.columns.out_size)
        of_filters = 6 * frequencies * self.rows.taps * pairs
        spectral = frames * (transforms + 3 * frequencies * pairs) + of_filters
        return _SLOWER * spectral < frames * self.rows.out_size * self.columns.out_size * taps * pairs

    def _transform(self, height: int, width: int) -> int:
        """Return the multiplications for one channel of one frame."""
        return 2 * self.columns.half * height * (width + 2 * self.rows.length)

    def factors(self, weight: Tensor) -> Tensor:
        """Return the factors for each frequency across, (across, 3, down, in channel, out channel)."""
        out_channel, in_channel, tall, wide = weight.shape
        taps = weight.permute(3, 2, 1, 0).reshape(wide, -1)
        along_width = (self.columns.taps_of_real.flatten(0, 1) @ taps).view(self.columns.half, 2 * tall, -1)
        factors = torch.matmul(self.rows.factors.flatten(2).flatten(0, 1), along_width)
        return factors.view(self.columns.half, 3, self.rows.length, in_channel, out_channel)

    def tap_gradient(self, products: Tensor) -> Tensor:
        """Return the gradient of the taps (out channel, in channel, row, column) from products like the factors."""
        across, _, _, in_channel, out_channel = products.shape
        matrix = self.rows.tap_gradient.flatten(2).flatten(0, 1)
        along_width = torch.matmul(matrix, products.view(across, 3 * self.rows.length, -1))
        taps = self.columns.taps_to_real.flatten(1) @ along_width.view(2 * across, -1)
        return taps.view(self.columns.taps, self.rows.taps, in_channel, out_channel).permute(3, 2, 1, 0)

    def along_width(self, frames: Tensor) -> Tensor:
        """Transform frames, or maps, (frame, channel, height, width) along their width."""
        frame, channel, height, width = frames.shape
        matrix = self.columns.of_real[..., :width].transpose(0, 1).flatten(0, 1)
        transformed = transform(matrix, frames.permute(0, 2, 3, 1).reshape(frame * height, width, channel))
        return transformed.view(frame, height, self.columns.half, 2, channel)

    def from_along_width(self, transformed: Tensor, frames: Tensor) -> None:
        """Transform back into ``frames`` (frame, channel, height, width)."""
        frame, channel, height, width = frames.shape
        matrix = self.columns.to_real[:width].transpose(1, 2).flatten(1)
        made = frames.permute(0, 2, 3, 1).view(frame * height, width, channel)
        transform(matrix, transformed.view(frame * height, -1, channel), out=made)

    def along_height(self, transformed: Tensor, across: int) -> Tensor:
        """Return the spectra at one frequency across."""
        frame, height, _, _, channel = transformed.shape
        matrix = self.rows.of_complex[:, :, :height].flatten(2).flatten(0, 1)
        spectra = transform(matrix, transformed[:, :, across].reshape(frame, 2 * height, channel))
        return spectra.view(frame, 2, self.rows.length, channel).permute(1, 2, 0, 3)

    def from_along_height(self, spectra: Tensor, transformed: Tensor, across: int) -> None:
        """Transform the spectra at one frequency across back into ``transformed``."""
        made = transformed[:, :, across]
        matrix = self.rows.to_complex[: made.shape[1]].flatten(2).flatten(0, 1)
        made.copy_(transform(matrix, spectra.flatten(0, 1).transpose(0, 1)).view_as(made))

    def room(self, frames: Tensor) -> Tensor:
        """Return an empty tensor for these frames, transformed along their width."""
        frame, channel, height, _ = frames.shape
        return frames.new_empty(frame, height, self.columns.half, 2, channel)


@lru_cache(maxsize=64)
def _planned(plan: _Plan) -> _Plan:
    """Return the equal plan that has its matrices already, if there is one."""
    return plan


class _Spatial(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, frames: Tensor, weight: Tensor, plan: _Plan, split: tuple[int, int]) -> Tensor:
        ctx.save_for_backward(frames, weight)
        ctx.plan, ctx.split = plan, split
        maps = empty_maps(len(frames), plan.out_channels, plan.rows.out_size, plan.columns.out_size)
        chunks, workers = split
        side_by_side(partial(_convolve, plan, plan.factors(weight)), _split(chunks, frames, maps), workers)
        return maps

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        frames, weight = ctx.saved_tensors
        plan: _Plan = ctx.plan
        for_frames, for_weight = ctx.needs_input_grad[:2]
        factors = plan.factors(weight) if for_frames else None
        to_frames = empty_maps(*frames.shape)
        chunks, workers = ctx.split
        work = partial(_add_gradients, plan, factors, for_weight)
        products = side_by_side(work, _split(chunks, frames, grad, to_frames), workers)
        to_weight = plan.tap_gradient(reduce(Tensor.add_, products)) if for_weight else None
        return to_frames if for_frames else None, to_weight, None, None


def _split(chunks: int, *frames: Tensor) -> list[tuple[Tensor, ...]]:
    """Return the same of all frames, or maps, together."""
    return list(zip(*(of.tensor_split(chunks) for of in frames), strict=True))


def _convolve(plan: _Plan, factors: Tensor, chunks: Sequence[tuple[Tensor, ...]]) -> None:
    """Fill in the second of each chunk, the maps of the first."""
    for frames, maps in chunks:
        transformed, back = plan.along_width(frames), plan.room(maps)
        for across in range(plan.columns.half):
            spectra = multiply(plan.along_height(transformed, across), factors[across])
            plan.from_along_height(spectra, back, across)
        plan.from_along_width(back, maps)


def _add_gradients(
    plan: _Plan, factors: Tensor | None, for_weight: bool, chunks: Sequence[tuple[Tensor, ...]]
) -> Tensor:
    """Return the products for the gradient of the filters, and fill in the third of each chunk, that of the first.

    Products are 0 unless that gradient is wanted; nothing is filled in without factors.
    """
    sizes = (plan.columns.half, 3, plan.rows.length, plan.in_channels, plan.out_channels)
    products = torch.zeros(sizes if for_weight else 0)
    for frames, grads, to_frames in chunks:
        grads_along_width, back = plan.along_width(grads), plan.room(frames)
        frames_along_width = plan.along_width(frames) if for_weight else None
        for across in range(plan.columns.half):
            spectra = plan.along_height(grads_along_width, across)
            if frames_along_width is not None:
                correlate(plan.along_height(frames_along_width, across), spectra, products[across])
            if factors is not None:
                plan.from_along_height(multiply_conjugate(spectra, factors[across]), back, across)
        if factors is not None:
            plan.from_along_width(back, to_frames)
    return products
