"""Space-time cores of inverted residual blocks with depth-wise filters."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor, nn

from pipeline.configuration import setting
from pipeline.errors import ConfigurationError
from pipeline.models.cores.base import Core, CoreConfiguration, channels_last, refuse_even, to_frames, to_videos
from pipeline.models.cores.geometry import Stack


class _SqueezeExcite(nn.Module):
    """Weigh the channels of each frame by gates that see the frame's mean of every channel (Hu et al. 2018).

    The gates of a frame see no other frame: a mean over time would look ahead.
    """

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        squeezed = max(1, channels // reduction)
        self.squeeze = nn.Conv2d(channels, squeezed, 1)
        self.excite = nn.Conv2d(squeezed, channels, 1)

    def forward(self, frames: Tensor) -> Tensor:
        """Map (frame, channel, height, width) to the same shape."""
        means = frames.mean(dim=(2, 3), keepdim=True)
        return frames * torch.sigmoid(self.excite(nn.functional.silu(self.squeeze(means))))


class _DropPath(nn.Module):
    """In training, leave a block out for some movies and scale it up for the others (Huang et al. 2016)."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, videos: Tensor) -> Tensor:
        """Map (batch, channel, time, height, width) to the same shape."""
        if not self.training or self.rate == 0:
            return videos
        kept = torch.rand(videos.shape[0], 1, 1, 1, 1, device=videos.device) >= self.rate
        return videos * (kept / (1 - self.rate)).to(videos.dtype)


def sinusoidal_position(channels: int, height: int, width: int, device: torch.device) -> Tensor:
    """Return sines and cosines of the row in half of the channels and of the column in the others.

    Wavelengths run geometrically from 2 pi to 10000 * 2 pi places (Vaswani et al. 2017); channels that are left
    over where four do not divide their number are zero.

    Returns
    -------
    Tensor
        (channel, height, width).
    """
    quarter = channels // 4
    frequency = 10000.0 ** (-torch.arange(quarter, device=device) / max(quarter, 1))
    code = torch.zeros(channels, height, width, device=device)
    row, column = (frequency[:, None] * torch.arange(size, device=device) for size in (height, width))
    for i, part in enumerate(
        (row.sin()[..., None], row.cos()[..., None], column.sin()[:, None], column.cos()[:, None])
    ):
        code[i * quarter : (i + 1) * quarter] = part
    return code


class _Block(nn.Module):
    """Expand the channels, filter each in space and then in time, gate them, and project back; add to what came in."""

    def __init__(self, settings: Depthwise3d, in_channels: int, channels: int, stride: int, drop: float) -> None:
        super().__init__()
        self.lost_frames = settings.temporal_kernel - 1
        self.position = settings.position
        self.stride = stride
        hidden = in_channels * settings.expansion
        side = settings.spatial_kernel
        self.expand = self._normalised(settings, nn.Conv2d(in_channels, hidden, 1, bias=False))
        self.spatial = self._normalised(
            settings, nn.Conv2d(hidden, hidden, side, stride, side // 2, groups=hidden, bias=False)
        )
        self.temporal = self._normalised(
            settings, nn.Conv2d(hidden, hidden, (settings.temporal_kernel, 1), groups=hidden, bias=False)
        )
        self.squeeze_excite = nn.Identity() if settings.linear else _SqueezeExcite(hidden, settings.se_reduction)
        self.project = self._normalised(settings, nn.Conv2d(hidden, channels, 1, bias=False), silu=False)
        same = in_channels == channels and stride == 1
        shortcut = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.shortcut = nn.Identity() if same else self._normalised(settings, shortcut, silu=False)
        self.drop_path = _DropPath(drop)

    @staticmethod
    def _normalised(settings: Depthwise3d, convolution: nn.Conv2d, silu: bool = True) -> nn.Sequential:
        norm = nn.BatchNorm2d(convolution.out_channels, momentum=settings.momentum)
        return nn.Sequential(convolution, norm, *([nn.SiLU()] if silu and not settings.linear else []))

    def forward(self, videos: Tensor) -> Tensor:
        """Map (batch, channel, time, height, width) to (batch, channel, time - lost frames, height, width)."""
        batch, channels, _, height, width = videos.shape
        if self.position:
            code = sinusoidal_position(channels, height, width, videos.device)
            videos = videos + code[:, None].to(videos.dtype)
        hidden = to_videos(self.spatial(self.expand(to_frames(videos))), batch)
        size = hidden.shape[-2:]
        filtered = self.temporal(hidden.flatten(3)).unflatten(3, size)
        added = to_videos(self.project(self.squeeze_excite(to_frames(filtered))), batch)
        # Steps by slices: with few channels, oneDNN's gradient of a 1 x 1 convolution in steps writes beyond its
        # memory.
        seen = videos[:, :, self.lost_frames :, :: self.stride, :: self.stride]
        passed = to_videos(self.shortcut(to_frames(seen)), batch)
        return passed + self.drop_path(added)


class Depthwise3dCore(Core):
    """Inverted residual blocks; see the kind `Depthwise3d`."""

    def __init__(self, settings: Depthwise3d, in_channels: int) -> None:
        super().__init__()
        self.settings = settings
        strides = settings.strides_of_blocks()
        self.space = Stack((settings.spatial_kernel,) * len(strides), strides, (1,) * len(strides), padding=True)
        self.pitch = self.space.pitch
        self.out_channels = settings.channels[-1]
        self.lost_frames = len(strides) * (settings.temporal_kernel - 1)
        groups = zip(settings.channels, settings.blocks, strict=True)
        channels = tuple(chain.from_iterable([width] * count for width, count in groups))
        drops = [settings.drop_path * (i + 1) / len(strides) for i in range(len(strides))]
        sizes = zip((channels[0], *channels[:-1]), channels, strides, drops, strict=True)
        stem = nn.Conv2d(in_channels, channels[0], 1, bias=False)
        self.stem = nn.Sequential(stem, nn.BatchNorm2d(channels[0], momentum=settings.momentum))
        self.blocks = nn.Sequential(*(_Block(settings, *size) for size in sizes))
        channels_last(self)

    def forward(self, videos: Tensor) -> Tensor:
        """See `Core.forward`."""
        features = self.blocks(to_videos(self.stem(to_frames(videos)), batch=videos.shape[0]))
        return features.mean(dim=(3, 4), keepdim=True) if self.settings.pool else features

    def out_size(self, height: int, width: int) -> tuple[int, int]:
        """See `Core.out_size`."""
        return (1, 1) if self.settings.pool else (self.space.out_size(height), self.space.out_size(width))

    def first_place(self, height: int, width: int) -> tuple[float, float]:
        """See `Core.first_place`."""
        return super().first_place(height, width) if self.settings.pool else (0.0, 0.0)

    def regularizer(self) -> dict[str, Tensor]:
        """Return nothing: use the trainer's weight decay."""
        return {}


@dataclass(frozen=True)
class Depthwise3d(CoreConfiguration):
    """A space-time core of inverted residual blocks, as that of DwiseNeuro, the winner of Sensorium 2023.

    A block expands the channels, filters each by itself over space and then over time, weighs the channels by
    squeeze-and-excitation and projects back, with batch normalisation and SiLUs, beside a shortcut. Unlike the
    winner's, which padded time and took means over it, blocks do not look ahead: each takes the frames of its temporal
    filter from the start of the movie, positions are coded in space only, and gates see one frame. Nor are the maps
    averaged over space, unless asked for: readouts look at places.
    """

    channels: tuple[int, ...] = setting((64, 128, 256), "channels of each group of blocks", ge=1)
    blocks: tuple[int, ...] = setting((4, 3, 2), "blocks in each group", ge=1)
    strides: tuple[int, ...] = setting(
        (2, 2, 2),
        "steps of the spatial filters in the first block of each group",
        unit="places of the block before",
        ge=1,
    )
    spatial_kernel: int = setting(3, "side of the spatial filters", unit="places of the block before", ge=1)
    temporal_kernel: int = setting(5, "length of the temporal filters", unit="frames", ge=1)
    expansion: int = setting(6, "channels inside a block, in channels of its input", ge=1)
    se_reduction: int = setting(32, "channels inside a block for each channel of its squeezed frames", ge=1)
    drop_path: float = setting(0.1, "share of movies for which training skips the last block; less before", ge=0, lt=1)
    position: bool = setting(True, "add sines and cosines of row and column to the input of each block")
    pool: bool = setting(False, "average the features over space, to one place")
    linear: bool = setting(False, "leave out all non-linearities: SiLUs and the weighing of channels")
    momentum: float = setting(0.1, "weight of each batch in the running statistics of the normalisation", gt=0, le=1)

    def __post_init__(self) -> None:
        """Refuse groups that differ in number and even spatial filters."""
        super().__post_init__()
        if len({len(self.channels), len(self.blocks), len(self.strides)}) != 1 or not self.channels:
            raise ConfigurationError(
                f"{self.kind()}: channels {self.channels}, blocks {self.blocks} and strides {self.strides} must have "
                "one value for each group"
            )
        refuse_even(self.kind(), "spatial_kernel", (self.spatial_kernel,))

    def strides_of_blocks(self) -> tuple[int, ...]:
        """Return the stride of each block."""
        groups = zip(self.strides, self.blocks, strict=True)
        return tuple(chain.from_iterable((stride, *[1] * (count - 1)) for stride, count in groups))

    def build(self, in_channels: int) -> Depthwise3dCore:
        """Return the core for movies with ``in_channels`` channels."""
        return Depthwise3dCore(self, in_channels)
