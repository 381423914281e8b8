"""Convolutions over frames, with large filters and many channels by way of spatial spectra on a CPU.

Values and gradients are as far from those in double precision as those of `torch.nn.functional.conv2d`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from pipeline.models.cores.products import product
from pipeline.models.cores.side_by_side import side_by_side, workers
from pipeline.models.cores.spectra import (
    Axis,
    can_be_spectral,
    correlate,
    filter_blocks,
    from_filter_blocks,
    multiply,
    paired,
)

_TRANSFORM, _PRODUCT, _FILTER = 2.6, 2.2, 12.0
"""How much longer than in a direct convolution a multiplication takes: in transforms of frames and maps, in products of
spectra, and where those of filters are made."""

_FRAMES = 1024
"""Frames that are transformed together at most, which bounds the memory of their spectra."""

_NARROW = 32
"""Channels, of frames and maps, below which matrices are too small (0.6 to 0.75 of the direct speed with 16)."""


class SpatialConv2d(nn.Conv2d):
    """A convolution over each frame, in whichever way is faster; parameters and results are `torch.nn.Conv2d`'s."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the filtered frames, (frame, out channel, height, width), in one of PyTorch's layouts."""
        maps = self.in_any_layout(input)
        return maps if maps.is_contiguous() else maps.contiguous(memory_format=torch.channels_last)

    def in_any_layout(self, input: Tensor) -> Tensor:
        """Return what `forward` returns, as it lies in memory."""
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
        (frame, out channel, height, width), in memory by frames or by places, with channels last.
    """
    if can_be_spectral(frames, weight) and _Plan.of(frames, weight, padding, dilation).saves(len(frames)):
        return spectral(frames, weight, bias, padding, dilation)
    return F.conv2d(frames, weight, bias, padding=padding, dilation=dilation)


def spectral(frames: Tensor, weight: Tensor, bias: Tensor | None = None, padding: int = 0, dilation: int = 1) -> Tensor:
    """Return what `convolve` returns, by way of spectra.

    Parameters are those of `convolve`, in single precision. Results lie by places, (width, height, frame, channel) in
    memory; for frames, too, this is the fastest layout.

    Raises
    ------
    ConfigurationError
        If filters do not fit into the padded frames, or padding is more than dilation * (taps - 1).
    """
    plan = _Plan.of(frames, weight, padding, dilation)
    plan.rows.require_map()
    plan.columns.require_map()
    maps: Tensor = _Spatial.apply(frames, weight, plan)
    return maps if bias is None else maps + bias[:, None, None]


@dataclass(frozen=True)
class _Plan:
    """The axes and channels of a convolution.

    Frames are transformed along their width first; as they are real, half of these frequencies say all. What follows
    is done for one frequency ``across`` after the other. Frames and maps that are transformed along their width are
    (across, part * height, frame * channel): there, each further transform is one large product of matrices.
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
        spectral = frames * (_TRANSFORM * transforms + _PRODUCT * 4 * frequencies * pairs)
        spectral += _FILTER * 8 * frequencies * self.rows.taps * pairs
        return spectral < frames * self.rows.out_size * self.columns.out_size * taps * pairs

    def _transform(self, height: int, width: int) -> int:
        """Return the multiplications for one channel of one frame."""
        return 2 * self.columns.half * height * (width + 2 * self.rows.length)

    def taps_along_width(self, weight: Tensor) -> Tensor:
        """Return the filters transformed along their width, (across, part * row, in channel * out channel)."""
        out_channel, in_channel, tall, wide = weight.shape
        taps = product(self.columns.of_real_taps, weight.permute(3, 2, 1, 0).reshape(wide, -1))
        return taps.view(self.columns.half, 2 * tall, in_channel * out_channel)

    def from_taps_along_width(self, grads: Tensor) -> Tensor:
        """Return the gradient of the filters, (out channel, in channel, row, column)."""
        taps = product(self.columns.of_real_taps.t(), grads.view(2 * self.columns.half, -1))
        shape = self.columns.taps, self.rows.taps, self.in_channels, self.out_channels
        return taps.view(shape).permute(3, 2, 1, 0)

    def blocks(self, taps: Tensor) -> Tensor:
        """Return the matrices of the filters at one frequency across, from its taps along the height."""
        return filter_blocks(product(self.rows.of_complex_taps, taps), self.in_channels, self.out_channels)


@lru_cache(maxsize=64)
def _planned(plan: _Plan) -> _Plan:
    """Return the equal plan that has its matrices already, if there is one."""
    return plan


def _along_width(matrix: Tensor, frames: Tensor) -> Tensor:
    """Transform frames, or maps, (frame, channel, height, width) to (across, part * height, frame * channel)."""
    frame, channel, height, width = frames.shape
    transformed = product(matrix, frames.permute(3, 2, 0, 1).reshape(width, -1))
    return transformed.view(len(matrix) // 2, 2 * height, frame * channel)


def _from_along_width(matrix: Tensor, transformed: Tensor, channel: int) -> Tensor:
    """Transform back into frames, or maps, that lie by places, (width, height, frame, channel)."""
    half, doubled, values = transformed.shape
    made = product(matrix, transformed.view(2 * half, -1))
    return made.view(len(made), doubled // 2, values // channel, channel)


class _Spatial(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, frames: Tensor, weight: Tensor, plan: _Plan) -> Tensor:
        ctx.save_for_backward(frames, weight)
        ctx.plan = plan
        taps = plan.taps_along_width(weight)
        return _joined([_convolve(plan, taps, part) for part in _parts(frames)])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        frames, weight = ctx.saved_tensors
        plan: _Plan = ctx.plan
        for_frames, for_weight = ctx.needs_input_grad[:2]
        taps = plan.taps_along_width(weight)
        to_taps = torch.zeros_like(taps) if for_weight else None
        to_frames = [
            _gradients(plan, taps, part, of_maps, for_frames, to_taps)
            for part, of_maps in zip(_parts(frames), _parts(grad), strict=True)
        ]
        to_weight = None if to_taps is None else plan.from_taps_along_width(to_taps)
        return _lying_as(frames, _joined(to_frames)) if for_frames else None, to_weight, None


def _parts(frames: Tensor) -> tuple[Tensor, ...]:
    """Return frames, or maps, in the parts that are worked on one after the other."""
    return frames.tensor_split(-(-len(frames) // _FRAMES))


def _joined(parts: list[Tensor]) -> Tensor:
    """Return (frame, channel, height, width) of parts that lie by places."""
    return (parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)).permute(2, 3, 1, 0)


def _lying_as(frames: Tensor, made: Tensor) -> Tensor:
    """Return what was made in the memory layout of frames, in which those who get it compute."""
    by_frames = frames.is_contiguous(memory_format=torch.channels_last)
    return made.contiguous(memory_format=torch.channels_last) if by_frames else made


def _convolve(plan: _Plan, taps: Tensor, frames: Tensor) -> Tensor:
    """Return the maps of frames, by places."""
    rows, columns = plan.rows, plan.columns
    spectra = _along_width(columns.of_real, frames)
    made = spectra.new_empty(columns.half, 2 * rows.out_size, len(frames) * plan.out_channels)

    def work(share: Sequence[int]) -> None:
        for across in share:
            here = paired(product(rows.of_complex, spectra[across]), plan.in_channels)
            made[across] = product(rows.to_complex, multiply(here, plan.blocks(taps[across])))

    side_by_side(work, range(columns.half), workers())
    return _from_along_width(columns.to_real, made, plan.out_channels)


def _gradients(
    plan: _Plan, taps: Tensor, frames: Tensor, grads: Tensor, for_frames: bool, to_taps: Tensor | None
) -> Tensor:
    """Return the gradient of frames, by places (empty unless wanted), and add to that of the taps along the width."""
    rows, columns = plan.rows, plan.columns
    of_maps = _along_width(columns.to_real.t(), grads)
    spectra = of_maps if to_taps is None else _along_width(columns.of_real, frames)
    made = of_maps.new_empty((columns.half, 2 * rows.size, len(frames) * plan.in_channels) if for_frames else 0)

    def work(share: Sequence[int]) -> None:
        for across in share:
            theirs = paired(product(rows.to_complex.t(), of_maps[across]), plan.out_channels)
            if to_taps is not None:
                here = paired(product(rows.of_complex, spectra[across]), plan.in_channels)
                blocks = from_filter_blocks(correlate(here, theirs))
                to_taps[across] += product(rows.of_complex_taps.t(), blocks)
            if for_frames:
                back = multiply(theirs, plan.blocks(taps[across]).transpose(1, 2))
                made[across] = product(rows.of_complex.t(), back)

    side_by_side(work, range(columns.half), workers())
    return _from_along_width(columns.of_real.t(), made, plan.in_channels) if for_frames else made
