"""A small vision transformer on frames."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.configuration import setting
from pipeline.errors import ConfigurationError
from pipeline.models.cores.base import Core, CoreConfiguration, channels_last, to_frames, to_videos


class _Attention(nn.Module):
    """Attention of every patch of a frame to all its patches, in several heads."""

    def __init__(self, channels: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.query_key_value = nn.Linear(channels, 3 * channels)
        self.project = nn.Linear(channels, channels)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (frame, patch, channel) to the same shape."""
        split = self.query_key_value(tokens).unflatten(-1, (3, self.heads, -1))
        query, key, value = split.permute(2, 0, 3, 1, 4)  # each (frame, head, patch, channel of the head)
        dropout = self.dropout if self.training else 0.0
        attended = F.scaled_dot_product_attention(query, key, value, dropout_p=dropout)
        return self.project(attended.transpose(1, 2).flatten(2))


class _EvenAttention(nn.Module):
    """Attention of every patch of a frame to all its patches alike: what attention is without a softmax."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.project = nn.Linear(channels, channels)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (frame, patch, channel) to (frame, 1, channel), the same for every patch."""
        return self.project(tokens.mean(dim=1, keepdim=True))


def _norm(settings: ViT) -> nn.Module:
    return nn.Identity() if settings.linear else nn.LayerNorm(settings.embedding)


class _Block(nn.Module):
    """Attention, then a perceptron at each patch; both see normalised tokens and add to what comes in."""

    def __init__(self, settings: ViT) -> None:
        super().__init__()
        channels, dropout = settings.embedding, settings.dropout
        hidden = max(1, round(settings.mlp_ratio * channels))
        self.attention_norm = _norm(settings)
        self.attention = _EvenAttention(channels) if settings.linear else _Attention(channels, settings.heads, dropout)
        self.mlp_norm = _norm(settings)
        gelu = nn.Identity() if settings.linear else nn.GELU()
        self.mlp = nn.Sequential(nn.Linear(channels, hidden), gelu, nn.Dropout(dropout), nn.Linear(hidden, channels))
        self.dropout = nn.Dropout(settings.dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (frame, patch, channel) to the same shape."""
        tokens = tokens + self.dropout(self.attention(self.attention_norm(tokens)))
        return tokens + self.dropout(self.mlp(self.mlp_norm(tokens)))


class ViTCore(Core):
    """Patches that attend to each other; see the kind `ViT`."""

    def __init__(self, settings: ViT, in_channels: int) -> None:
        super().__init__()
        self.settings = settings
        self.out_channels = settings.embedding
        self.lost_frames = 0
        self.pitch = settings.stride
        self.embed = nn.Conv2d(in_channels, settings.embedding, settings.patch, settings.stride)
        side = settings.position_grid
        self.position = nn.Parameter(0.02 * torch.randn(1, settings.embedding, side, side))
        self.dropout = nn.Dropout(settings.dropout)
        self.blocks = nn.Sequential(*(_Block(settings) for _ in range(settings.depth)))
        self.norm = _norm(settings)
        channels_last(self)

    def forward(self, videos: Tensor) -> Tensor:
        """See `Core.forward`."""
        patches = self.embed(to_frames(videos))
        size = patches.shape[-2:]
        # The grid spans the frame whatever its size, so that scans of different frames share it.
        position = F.interpolate(self.position, size, mode="bilinear", align_corners=True)
        tokens = self.dropout(patches + position).flatten(2).transpose(1, 2)
        features = self.norm(self.blocks(tokens)).transpose(1, 2).unflatten(2, size)
        return to_videos(features, batch=videos.shape[0])

    def out_size(self, height: int, width: int) -> tuple[int, int]:
        """See `Core.out_size`."""
        patch, stride = self.settings.patch, self.settings.stride
        return (height - patch) // stride + 1, (width - patch) // stride + 1

    def first_place(self, height: int, width: int) -> tuple[float, float]:
        """See `Core.first_place`."""
        return (self.settings.patch - 1) / 2, (self.settings.patch - 1) / 2

    def regularizer(self) -> dict[str, Tensor]:
        """Return nothing: use the trainer's weight decay."""
        return {}


@dataclass(frozen=True)
class ViT(CoreConfiguration):
    """A vision transformer on each frame by itself (Dosovitskiy et al. 2021), without a class token.

    The feature maps have one place for each patch; pixels at the lower and right edges that fill no patch are not seen.
    Positions are a learned grid over the whole frame, interpolated to its patches. The tokens are normalised before
    attention and perceptron (GELU), and after the last block.
    """

    patch: int = setting(8, "side of the patches", unit="px", ge=1)
    stride: int = setting(
        4, "distance between neighbouring patches; below the side of a patch, they overlap", unit="px", ge=1
    )
    embedding: int = setting(64, "channels of the tokens", ge=1)
    heads: int = setting(4, "heads of attention; they share the channels out among them", ge=1)
    depth: int = setting(4, "number of blocks", ge=1)
    mlp_ratio: float = setting(2.0, "hidden channels of the perceptrons, in channels of the tokens", gt=0)
    dropout: float = setting(0.1, "share of the activations that are dropped in training", ge=0, lt=1)
    linear: bool = setting(
        False, "leave out all non-linearities: patches attend to all alike, tokens are not normalised, no GELU"
    )
    position_grid: int = setting(8, "side of the learned grid of positions, stretched over the frame", ge=1)

    def __post_init__(self) -> None:
        """Refuse heads that cannot share the channels evenly, and gaps between patches."""
        super().__post_init__()
        if self.embedding % self.heads:
            raise ConfigurationError(
                f"{self.kind()}.heads: {self.heads} heads cannot share {self.embedding} channels evenly"
            )
        if self.stride > self.patch:
            raise ConfigurationError(
                f"{self.kind()}.stride: {self.stride} leaves gaps between patches of {self.patch} px: use a smaller one"
            )

    def build(self, in_channels: int) -> ViTCore:
        """Return the core for movies with ``in_channels`` channels."""
        return ViTCore(self, in_channels)
