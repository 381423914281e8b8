"""Convolutions of frames with few channels, such as grey images, with a gradient for the frames that is fast on a CPU.

oneDNN computes one channel at a time in blocks of sixteen. A product of matrices gives the gradient of every pixel of
every patch, and `fold` adds up the patches: four times as fast for 64 filters of 9 x 9 pixels on one channel.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_NARROW = 4
"""Channels up to which this is used."""

_CHUNK_VALUES = 2**20
"""Pixels of all patches that are in memory together."""


def is_narrow(convolution: nn.Conv2d, frames: Tensor) -> bool:
    """Tell whether `narrow` can take the place of a convolution: on a CPU, where weights are not learned."""
    return (
        frames.device.type == "cpu"
        and convolution.groups == 1
        and convolution.in_channels <= _NARROW
        and not convolution.weight.requires_grad
        and not torch.is_autocast_enabled("cpu")
    )


def narrow(frames: Tensor, convolution: nn.Conv2d) -> Tensor:
    """Return what a convolution makes of frames (frame, channel, height, width) without padding them."""
    steps = convolution.stride, convolution.dilation
    filtered: Tensor = _Narrow.apply(frames, convolution.weight.detach(), convolution.bias, *steps)
    return filtered


class _Narrow(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, frames: Tensor, weight: Tensor, bias: Tensor | None, stride: Any, dilation: Any) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.settings = frames.shape[2:], weight.shape[2:], dilation, 0, stride
        return F.conv2d(frames, weight, bias, stride, 0, dilation)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (weight,) = ctx.saved_tensors
        size = max(1, _CHUNK_VALUES // (weight[0].numel() * grad[0, 0].numel()))
        parts = [F.fold(weight.flatten(1).t() @ part.flatten(2), *ctx.settings) for part in grad.split(size)]
        return torch.cat(parts), None, None, None, None
