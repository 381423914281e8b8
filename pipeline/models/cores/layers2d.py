"""What the layers of stacked 2-D cores are made of; names of parameters are those of neuralpredictors."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.models.cores.base import to_frames, to_videos
from pipeline.models.cores.depthwise import DepthwiseConv2d
from pipeline.models.cores.windows import LocalLayer, taps_of, unpadded


class AdaptiveELU(nn.Module):
    """An ELU that is moved along both axes: elu(x - xshift) + yshift."""

    def __init__(self, xshift: float, yshift: float) -> None:
        super().__init__()
        self.xshift = xshift
        self.yshift = yshift

    def forward(self, frames: Tensor) -> Tensor:
        """Return the shifted ELU of every value."""
        return F.elu(frames - self.xshift) + self.yshift


class Bias2d(nn.Module):
    """Adds one value to each channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1, channels, 1, 1))

    def forward(self, frames: Tensor) -> Tensor:
        """Return frames with each channel's bias added."""
        return frames + self.bias


class Scale2d(nn.Module):
    """Multiplies each channel by one value."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1, channels, 1, 1))

    def forward(self, frames: Tensor) -> Tensor:
        """Return frames with each channel scaled."""
        return frames * self.scale


class DepthSeparableConv2d(nn.Module):
    """Mixes channels, filters each channel over space by itself, and mixes channels again."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, stride: int, padding: int, dilation: int, bias: bool
    ) -> None:
        super().__init__()
        self.in_depth_conv = nn.Conv2d(in_channels, out_channels, 1, bias=bias)
        self.spatial_conv = DepthwiseConv2d(out_channels, kernel, padding, dilation, bias, stride)
        self.out_depth_conv = nn.Conv2d(out_channels, out_channels, 1, bias=bias)

    def forward(self, frames: Tensor) -> Tensor:
        """Return the filtered frames, (frame, out channel, height, width)."""
        return self.out_depth_conv(self.spatial_conv(self.in_depth_conv(frames)))


class _FrameMean(nn.Module):
    """Averages each channel over the frame: (frame, channel, height, width) to (frame, channel)."""

    def forward(self, frames: Tensor) -> Tensor:
        return frames.mean(dim=(2, 3))


class SqueezeExcitation(nn.Module):
    """Scales each channel by a gate between 0 and 1 that depends on the means of all channels over the frame.

    References
    ----------
    Hu, Shen & Sun (2018), Squeeze-and-excitation networks, CVPR.
    """

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        squeezed = channels // reduction
        self.se = nn.Sequential(
            _FrameMean(), nn.Linear(channels, squeezed), nn.ReLU(), nn.Linear(squeezed, channels), nn.Sigmoid()
        )

    def forward(self, frames: Tensor) -> Tensor:
        """Return frames with each channel times its gate."""
        return frames * self.se(frames)[:, :, None, None]


def local_layer(convolution: nn.Conv2d, rest: Iterable[nn.Module], sources: tuple[int, ...]) -> LocalLayer:
    """Return a convolution over each frame, and what follows it at each place, as a `LocalLayer`."""
    parts = tuple(rest)

    def run(videos: Tensor) -> Tensor:
        frames = unpadded(convolution, to_frames(videos))
        for part in parts:
            frames = part(frames)
        return to_videos(frames, batch=videos.shape[0])

    return LocalLayer(run, *taps_of(convolution), sources)
