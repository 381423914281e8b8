"""Plain convolutional cores whose maps get small, for readouts that see all of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from pipeline.configuration import setting
from pipeline.errors import ConfigurationError
from pipeline.models.cores.base import Core, CoreConfiguration, channels_last, refuse_even, to_frames, to_videos
from pipeline.models.cores.geometry import Stack, for_each_layer, refuse_skipping_points
from pipeline.models.cores.layers2d import local_layer
from pipeline.models.cores.spatial import SpatialConv2d
from pipeline.models.cores.windows import LocalLayer, LocalLayers, Taps
from pipeline.models.regularization import group_sparsity, spatial_laplace


class CNNCore(Core):
    """Averages over squares of pixels, then strided convolutions, on every frame by itself; see the kind `CNN`."""

    def __init__(self, settings: CNN, in_channels: int) -> None:
        super().__init__()
        self.settings = settings
        self.out_channels = settings.hidden_channels[-1]
        self.lost_frames = 0
        self.pooled, self.filtered = settings.geometry()
        self.pitch = self.pooled.pitch * self.filtered.pitch
        self.pool = nn.AvgPool2d(settings.pooling) if settings.pooling > 1 else nn.Identity()
        inputs = (in_channels, *settings.hidden_channels[:-1])
        self.layers = nn.Sequential(*(_layer(settings, index, channels) for index, channels in enumerate(inputs)))
        channels_last(self)

    def forward(self, videos: Tensor) -> Tensor:
        """See `Core.forward`."""
        return to_videos(self.layers(to_frames(self._pooled(videos))), batch=videos.shape[0])

    def _pooled(self, videos: Tensor) -> Tensor:
        # Plane by plane: behind one channel, PyTorch's pooling in the channels-last format is slow.
        pooled: Tensor = self.pool(videos.flatten(0, 2))
        return pooled.unflatten(0, videos.shape[:3])

    def out_size(self, height: int, width: int) -> tuple[int, int]:
        """See `Core.out_size`."""
        rows, columns = (self.filtered.out_size(self.pooled.out_size(size)) for size in (height, width))
        return rows, columns

    def first_place(self, height: int, width: int) -> tuple[float, float]:
        """See `Core.first_place`."""
        place = self.pooled.first_place() + self.pooled.pitch * self.filtered.first_place()
        return place, place

    def local_layers(self) -> LocalLayers:
        """See `Core.local_layers`."""
        layers = []
        if self.settings.pooling > 1:
            squares = Taps(self.settings.pooling, self.settings.pooling)
            layers.append(LocalLayer(self._pooled, squares, squares, (-1,)))
        for layer in self.layers:
            convolution, *rest = cast(nn.Sequential, layer)
            layers.append(local_layer(cast(nn.Conv2d, convolution), rest, (len(layers) - 1,)))
        return LocalLayers(tuple(layers), (len(layers) - 1,))

    def regularizer(self) -> dict[str, Tensor]:
        """Return the roughness of the first layer and the group sparsity of the others."""
        first, *others = (
            cast(nn.Conv2d, self.layers.get_submodule(f"{index}.conv")).weight
            for index in range(len(self.settings.hidden_channels))
        )
        terms = {"core_input": self.settings.gamma_input * spatial_laplace(first)}
        if others:
            sparsity = torch.stack([group_sparsity(weight) for weight in others]).mean()
            terms["core_hidden"] = self.settings.gamma_hidden * sparsity
        return terms


def _layer(settings: CNN, index: int, in_channels: int) -> nn.Sequential:
    kernel, stride, channels = settings.kernels[index], settings.strides_by_layer()[index], settings.hidden_channels
    padding = kernel // 2 if settings.padding else 0
    layer = nn.Sequential()
    layer.add_module(
        "conv", SpatialConv2d(in_channels, channels[index], kernel, stride, padding, bias=not settings.batch_norm)
    )
    if settings.batch_norm:
        layer.add_module("norm", nn.BatchNorm2d(channels[index], momentum=settings.momentum))
    if not settings.linear and (settings.final_nonlinearity or index < len(channels) - 1):
        layer.add_module("nonlin", nn.ELU(inplace=True))  # nothing else needs what it overwrites
    return layer


@dataclass(frozen=True)
class CNN(CoreConfiguration):
    """A convolutional core for a fully connected readout: strides keep its maps about as large as the frame was."""

    hidden_channels: tuple[int, ...] = setting((32, 32, 32), "channels of each layer", ge=1)
    kernels: tuple[int, ...] = setting((7, 5, 3), "side of the filters of each layer", unit="px", ge=1)
    strides: tuple[int, ...] = setting((1, 2, 2), "steps of the filters, for all layers or each", unit="px", ge=1)
    pooling: int = setting(1, "side of the squares of pixels that are averaged first", unit="px", ge=1)
    gamma_input: float = setting(6.3831, "weight of the first layer's roughness", ge=0)
    gamma_hidden: float = setting(0.0, "weight of the group sparsity of the layers after the first", ge=0)
    padding: bool = setting(False, "pad frames and maps with zeros, so that filters reach their borders")
    linear: bool = setting(False, "leave out all non-linearities")
    final_nonlinearity: bool = setting(True, "an ELU after the last layer too")
    batch_norm: bool = setting(True, "batch normalisation after each convolution; without it, a bias")
    momentum: float = setting(0.1, "weight of each batch in the running statistics of the normalisation", gt=0, le=1)

    def __post_init__(self) -> None:
        """Refuse tuples of different lengths, filters of one pixel in larger steps and, with padding, even filters."""
        super().__post_init__()
        if len(self.hidden_channels) != len(self.kernels) or not self.kernels:
            raise ConfigurationError(
                f"{self.kind()}: hidden_channels {self.hidden_channels} and kernels {self.kernels} must have one value "
                "for each layer"
            )
        if self.padding:
            refuse_even(self.kind(), "kernels", self.kernels)
        refuse_skipping_points(self.kind(), self.kernels, self.strides_by_layer())

    def strides_by_layer(self) -> tuple[int, ...]:
        """Return the stride of each layer."""
        return for_each_layer(self.kind(), "strides", self.strides, len(self.kernels))

    def geometry(self) -> tuple[Stack, Stack]:
        """Return what averaging and what the convolutions do to rows and columns."""
        squares = Stack((self.pooling,), (self.pooling,), (1,), padding=False)
        return squares, Stack(self.kernels, self.strides_by_layer(), (1,) * len(self.kernels), self.padding)

    def build(self, in_channels: int) -> CNNCore:
        """Return the core for movies with ``in_channels`` channels."""
        return CNNCore(self, in_channels)


@dataclass(frozen=True)
class FastCNN(CNN):
    """One layer of strided filters on averaged pixels: with a fully connected readout, about as fast as a linear model.

    Its maps are much smaller than the frame, so that the readout saves what the convolution costs: on one core of a CPU
    a training step on frames of 36 x 64 px for 100 units takes about as long as with `Dense`.
    """

    hidden_channels: tuple[int, ...] = setting((8,), "channels of each layer", ge=1)
    kernels: tuple[int, ...] = setting((5,), "side of the filters of each layer", unit="px", ge=1)
    strides: tuple[int, ...] = setting((4,), "steps of the filters, for all layers or each", unit="px", ge=1)
    pooling: int = setting(2, "side of the squares of pixels that are averaged first", unit="px", ge=1)
    batch_norm: bool = setting(False, "batch normalisation after each convolution; without it, a bias")
