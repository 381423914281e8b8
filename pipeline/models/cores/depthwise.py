"""Convolutions that filter each channel by itself, with a gradient that is fast on a CPU.

oneDNN has a fast gradient for the weights of depthwise filters of at most three columns; wider ones go through a
general routine that takes several times as long. So the gradient of a wide filter is put together from strips of three
columns, each the gradient of a narrow filter on frames that are moved by some columns.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_STRIP = 3
_CHUNK_BYTES = 2**21
"""Of frames whose strips are computed together: what stays in a processor's cache."""


class DepthwiseConv2d(nn.Conv2d):
    """A convolution with one filter for each channel; parameters and results are those of `torch.nn.Conv2d`."""

    def __init__(self, channels: int, kernel: int, padding: int, dilation: int, bias: bool, stride: int = 1) -> None:
        super().__init__(channels, channels, kernel, stride, padding, dilation, groups=channels, bias=bias)

    def goes_by_strips(self, frames: Tensor) -> bool:
        """Tell whether the gradient by strips serves these frames: on a CPU, of wide filters in single steps."""
        side = self.weight.shape[3]
        simple = self.stride == self.dilation == (1, 1) and int(self.padding[0]) < side
        return simple and side > _STRIP and frames.device.type == "cpu"

    def forward(self, input: Tensor) -> Tensor:
        """Return each channel filtered, (frame, channel, height, width)."""
        if not self.goes_by_strips(input):
            return super().forward(input)
        frames = input.to(torch.get_autocast_dtype("cpu")) if torch.is_autocast_enabled("cpu") else input
        weight, bias = (None if p is None else p.to(frames.dtype) for p in (self.weight, self.bias))
        return depthwise(frames, weight, bias, self.padding[0])  # type: ignore[arg-type]


def depthwise(frames: Tensor, weight: Tensor, bias: Tensor | None, padding: int) -> Tensor:
    """Filter each channel by itself, with the gradient by strips.

    Parameters
    ----------
    frames : Tensor
        (frame, channel, height, width), channels last in memory.
    weight : Tensor
        (channel, 1, side, side), more than three pixels wide.
    bias : Tensor or None
        (channel,).
    padding : int
        Zeros around the frames (px), less than the filter's side.
    """
    filtered: Tensor = _Depthwise.apply(frames, weight, bias, padding)
    return filtered


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, frames: Tensor, weight: Tensor, bias: Tensor | None, padding: int) -> Tensor:
        ctx.save_for_backward(frames, weight)
        ctx.padding = padding
        return F.conv2d(frames, weight, bias, padding=padding, groups=len(weight))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        frames, weight = ctx.saved_tensors
        to_frames = to_weight = to_bias = None
        if ctx.needs_input_grad[0]:
            # A convolution with the turned filters is faster than oneDNN's gradient for the frames.
            beyond = weight.shape[3] - 1 - ctx.padding
            to_frames = F.conv2d(grad, weight.flip(2, 3), padding=beyond, groups=len(weight))
        if ctx.needs_input_grad[1]:
            to_weight = _weight_gradient(frames, grad, weight.shape[3], ctx.padding)
        if ctx.needs_input_grad[2]:
            to_bias = grad.sum(dim=(0, 2, 3))
        return to_frames, to_weight, to_bias, None


def _weight_gradient(frames: Tensor, grad: Tensor, side: int, padding: int) -> Tensor:
    """Return the gradient for the weights, (channel, 1, side, side), summed over chunks of frames."""
    size = max(1, _CHUNK_BYTES // (frames[0].numel() * frames.element_size()))
    chunks = zip(frames.split(size), grad.split(size), strict=True)
    return torch.stack([_chunk_gradient(*chunk, side, padding) for chunk in chunks]).sum(dim=0)


def _chunk_gradient(frames: Tensor, grad: Tensor, side: int, padding: int) -> Tensor:
    """Return the gradient from strips of three columns.

    Rows of frames and gradients are padded to one width, so that frames moved by some columns are the same memory
    from another pixel on. Gradients keep one column of zeros before them: what wraps around a row meets zeros.
    """
    batch, channel, height, width = frames.shape
    padded = width + 2 * padding
    pixels = batch * height * padded
    last = side - _STRIP
    rows = F.pad(frames.permute(0, 2, 3, 1), (0, 0, padding, padding)).reshape(pixels, channel)
    rows = F.pad(rows, (0, 0, 0, last))
    columns = grad.permute(0, 2, 3, 1)
    columns = F.pad(columns, (0, 0, 1, padded - 1 - columns.shape[2])).permute(0, 3, 1, 2)
    gradient, strip = (grad.new_empty(channel, 1, side, across) for across in (side, _STRIP))
    for start in (*range(0, last, _STRIP), last):
        moved = rows[start : start + pixels].view(batch, height, padded, channel).permute(0, 3, 1, 2)
        gradient[..., start : start + _STRIP] = torch.ops.aten.convolution_backward(
            columns, moved, strip, None, [1, 1], [padding, 1], [1, 1], False, [0, 0], channel, [False, True, False],
        )[1]  # fmt: skip
    return gradient
