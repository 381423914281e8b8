"""Space-time cores of separable filters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from pipeline.configuration import setting
from pipeline.errors import ConfigurationError
from pipeline.models.cores.base import (
    Core,
    CoreConfiguration,
    channels_last,
    from_sequences,
    lies_by_places,
    refuse_even,
    to_frames,
    to_sequences,
    to_videos,
)
from pipeline.models.cores.geometry import Stack, for_each_layer, refuse_skipping_points
from pipeline.models.cores.spatial import SpatialConv2d
from pipeline.models.cores.temporal import TemporalConv2d
from pipeline.models.cores.windows import LocalLayer, LocalLayers, taps_of, unpadded
from pipeline.models.regularization import group_sparsity, spatial_laplace, temporal_laplace


class _FactorizedLayer(nn.Module):
    """A convolution over space, one over time, batch normalisation and, unless linear, an ELU."""

    def __init__(self, settings: Factorized3d, layer: int, in_channels: int) -> None:
        super().__init__()
        channels = settings.hidden_channels[layer]
        space, stride, dilation = (values[layer] for values in settings.space_by_layer())
        time, lag = (values[layer] for values in settings.time_by_layer())
        padding = dilation * (space // 2) if settings.padding else 0
        elu = not settings.linear and (settings.final_nonlinearity or layer < len(settings.hidden_channels) - 1)
        self.spatial = SpatialConv2d(in_channels, channels, space, stride, padding, dilation, bias=False)
        self.temporal = TemporalConv2d(channels, channels, time, lag)
        self.norm = nn.BatchNorm2d(channels, momentum=settings.momentum)
        self.nonlinearity = nn.ELU(inplace=True) if elu else nn.Identity()  # nothing else needs what it overwrites

    def forward(self, videos: Tensor, padded: bool = True) -> Tensor:
        frames = to_frames(videos)
        maps = self.spatial.in_any_layout(frames) if padded else unpadded(self.spatial, frames)
        batch, (height, width) = len(videos), maps.shape[2:]
        if self.temporal.likes_sequences or lies_by_places(maps):
            sequences = self.temporal.of_sequences(to_sequences(maps, batch))
            return from_sequences(self.nonlinearity(self.norm(sequences)), height, width)
        features = self.temporal(to_videos(maps, batch).flatten(3))
        return self.nonlinearity(self.norm(features)).unflatten(3, (height, width))

    def local(self, source: int) -> LocalLayer:
        """Return this as a `LocalLayer`."""
        return LocalLayer(lambda videos: self(videos, padded=False), *taps_of(self.spatial), (source,))

    def group_sparsity(self) -> Tensor:
        """Return the group sparsity of both convolutions."""
        return group_sparsity(self.spatial.weight) + group_sparsity(self.temporal.weight)


class Factorized3dCore(Core):
    """Layers of separable space-time filters; see the kind `Factorized3d`."""

    def __init__(self, settings: Factorized3d, in_channels: int) -> None:
        super().__init__()
        self.settings = settings
        self.out_channels = settings.hidden_channels[-1]
        self.space = settings.space()
        self.pitch = self.space.pitch
        self.lost_frames = sum(lag * (k - 1) for k, lag in zip(*settings.time_by_layer(), strict=True))
        inputs = (in_channels, *settings.hidden_channels[:-1])
        layers = [_FactorizedLayer(settings, layer, channels) for layer, channels in enumerate(inputs)]
        self.first = layers[0]
        self.hidden = nn.ModuleList(layers[1:])
        # Channels-last weights keep every intermediate result in that layout, also behind a one-channel input.
        channels_last(self)

    def forward(self, videos: Tensor) -> Tensor:
        """See `Core.forward`."""
        features = self.first(videos)
        for layer in self.hidden:
            features = layer(features)
        return features

    def out_size(self, height: int, width: int) -> tuple[int, int]:
        """See `Core.out_size`."""
        return self.space.out_size(height), self.space.out_size(width)

    def first_place(self, height: int, width: int) -> tuple[float, float]:
        """See `Core.first_place`."""
        return self.space.first_place(), self.space.first_place()

    def local_layers(self) -> LocalLayers:
        """See `Core.local_layers`."""
        layers = (self.first, *(cast(_FactorizedLayer, layer) for layer in self.hidden))
        return LocalLayers(tuple(layer.local(i - 1) for i, layer in enumerate(layers)), (len(layers) - 1,))

    def regularizer(self) -> dict[str, Tensor]:
        """Return the smoothness of the first layer in space and in time and the group sparsity of the others."""
        spatial, temporal = self.first.spatial.weight, self.first.temporal.weight
        terms = {
            "core_input_spatial": self.settings.gamma_input_spatial * spatial_laplace(spatial),
            "core_input_temporal": self.settings.gamma_input_temporal * temporal_laplace(temporal),
        }
        if self.hidden:
            sparse = [cast(_FactorizedLayer, layer).group_sparsity() for layer in self.hidden]
            terms["core_hidden"] = self.settings.gamma_hidden * torch.stack(sparse).mean()
        return terms


@dataclass(frozen=True)
class Factorized3d(CoreConfiguration):
    """A space-time core: in each layer filters over space, then filters over time, batch normalisation and an ELU.

    There is no non-linearity between the spatial and the temporal filters, so a layer's filters are sums of separable
    ones (the factorised baseline of Sensorium 2023).
    """

    hidden_channels: tuple[int, ...] = setting((16, 16), "channels of each layer", ge=1)
    spatial_kernels: tuple[int, ...] = setting((9, 5), "side of the spatial filters of each layer", unit="px", ge=1)
    temporal_kernels: tuple[int, ...] = setting(
        (11, 5), "length of the temporal filters of each layer", unit="frames", ge=1
    )
    strides: tuple[int, ...] = setting((1,), "steps of the spatial filters, for all layers or each", unit="px", ge=1)
    spatial_dilations: tuple[int, ...] = setting(
        (1,), "steps between the taps of the spatial filters, for all layers or each", unit="px", ge=1
    )
    temporal_dilations: tuple[int, ...] = setting(
        (1,), "steps between the taps of the temporal filters, for all layers or each", unit="frames", ge=1
    )
    gamma_input_spatial: float = setting(10.0, "weight of the first layer's roughness in space", ge=0)
    gamma_input_temporal: float = setting(0.01, "weight of the first layer's roughness in time", ge=0)
    gamma_hidden: float = setting(0.0, "weight of the group sparsity of the layers after the first", ge=0)
    padding: bool = setting(True, "pad frames with zeros, so that feature maps have the size of the frames")
    linear: bool = setting(False, "leave out all non-linearities")
    final_nonlinearity: bool = setting(True, "an ELU after the last layer too")
    momentum: float = setting(0.1, "weight of each batch in the running statistics of the normalisation", gt=0, le=1)

    def __post_init__(self) -> None:
        """Refuse tuples of different lengths and, with padding, even spatial filters."""
        super().__post_init__()
        lengths = {len(self.hidden_channels), len(self.spatial_kernels), len(self.temporal_kernels)}
        if len(lengths) != 1 or not self.hidden_channels:
            raise ConfigurationError(
                f"{self.kind()}: hidden_channels {self.hidden_channels}, spatial_kernels {self.spatial_kernels} and "
                f"temporal_kernels {self.temporal_kernels} must have one value for each layer"
            )
        if self.padding:
            refuse_even(self.kind(), "spatial_kernels", self.spatial_kernels)
        self.space()
        self.time_by_layer()
        refuse_skipping_points(self.kind(), *self.space_by_layer()[:2])

    def space_by_layer(self) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """Return the side, stride and dilation of each layer's spatial filters."""
        return self.spatial_kernels, self._by_layer("strides"), self._by_layer("spatial_dilations")

    def time_by_layer(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the length and dilation of each layer's temporal filters."""
        return self.temporal_kernels, self._by_layer("temporal_dilations")

    def space(self) -> Stack:
        """Return the geometry of the spatial filters."""
        return Stack(*self.space_by_layer(), padding=self.padding)

    def _by_layer(self, field: str) -> tuple[int, ...]:
        return for_each_layer(self.kind(), field, getattr(self, field), len(self.hidden_channels))

    def build(self, in_channels: int) -> Factorized3dCore:
        """Return the core for movies with ``in_channels`` channels."""
        return Factorized3dCore(self, in_channels)
