"""Space-time cores of full, not separable, three-dimensional filters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.configuration import setting
from pipeline.errors import ConfigurationError
from pipeline.models.cores.base import Core, CoreConfiguration, refuse_even
from pipeline.models.cores.geometry import Stack, for_each_layer
from pipeline.models.cores.windows import LocalLayer, LocalLayers, taps_of
from pipeline.models.regularization import spatial_laplace, temporal_laplace


def _layer(settings: Basic3d, layer: int, in_channels: int) -> nn.Sequential:
    """Return one convolution over time and space with what follows it."""
    kernel = settings.kernels()[layer]
    stride, gap, lag = settings.strides_and_dilations()[layer]
    padding = (0, gap * (kernel[1] // 2), gap * (kernel[2] // 2)) if settings.padding else 0
    channels = settings.hidden_channels[layer]
    # Batch normalisation has its own bias; one more in the convolution before it would have no effect.
    parts: dict[str, nn.Module] = {
        "conv": nn.Conv3d(
            in_channels, channels, kernel, (1, stride, stride), padding, (lag, gap, gap), bias=not settings.batch_norm
        )
    }
    if settings.batch_norm:
        parts["norm"] = nn.BatchNorm3d(channels, momentum=settings.momentum)
    if not settings.linear and (settings.final_nonlinearity or layer < len(settings.hidden_channels) - 1):
        parts["nonlinearity"] = nn.ELU()
    sequence = nn.Sequential()
    for name, part in parts.items():
        sequence.add_module(name, part)
    return sequence


def _local(layer: nn.Sequential, source: int) -> LocalLayer:
    """Return one layer as a `LocalLayer`."""
    convolution, *rest = layer
    assert isinstance(convolution, nn.Conv3d)

    def run(videos: Tensor) -> Tensor:
        steps = convolution.stride, 0, convolution.dilation
        features = F.conv3d(videos, convolution.weight, convolution.bias, *steps)
        for part in rest:
            features = part(features)
        return features

    return LocalLayer(run, *taps_of(convolution), (source,))


class Basic3dCore(Core):
    """Layers of three-dimensional convolutions; see the kind `Basic3d`."""

    def __init__(self, settings: Basic3d, in_channels: int) -> None:
        super().__init__()
        self.settings = settings
        self.out_channels = settings.hidden_channels[-1]
        self.rows, self.columns = settings.space()
        self.pitch = self.rows.pitch
        lags = [lag for _, _, lag in settings.strides_and_dilations()]
        self.lost_frames = sum(lag * (k - 1) for (k, _, _), lag in zip(settings.kernels(), lags, strict=True))
        inputs = (in_channels, *settings.hidden_channels[:-1])
        self.layers = nn.Sequential(*(_layer(settings, layer, channels) for layer, channels in enumerate(inputs)))
        self.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]

    def forward(self, videos: Tensor) -> Tensor:
        """See `Core.forward`."""
        return self.layers(videos)

    def out_size(self, height: int, width: int) -> tuple[int, int]:
        """See `Core.out_size`."""
        return self.rows.out_size(height), self.columns.out_size(width)

    def first_place(self, height: int, width: int) -> tuple[float, float]:
        """See `Core.first_place`."""
        return self.rows.first_place(), self.columns.first_place()

    def local_layers(self) -> LocalLayers:
        """See `Core.local_layers`."""
        layers = tuple(_local(cast(nn.Sequential, layer), i - 1) for i, layer in enumerate(self.layers))
        return LocalLayers(layers, (len(layers) - 1,))

    def regularizer(self) -> dict[str, Tensor]:
        """Return the roughness of the first layer's filters in space, within frames, and in time, at single pixels."""
        weight = self.layers.get_submodule("0.conv").get_parameter("weight")
        over_time = weight.movedim(2, -1).flatten(1, 3).unsqueeze(-1)
        return {
            "core_input_spatial": self.settings.gamma_input_spatial * spatial_laplace(weight.flatten(1, 2)),
            "core_input_temporal": self.settings.gamma_input_temporal * temporal_laplace(over_time),
        }


@dataclass(frozen=True)
class Basic3d(CoreConfiguration):
    """A space-time core: in each layer filters over time and space together, batch normalisation and an ELU.

    The counterpart of neuralpredictors' Basic3dCore. Frames may be padded in space, never in time, so that no output
    sees what comes after it.
    """

    hidden_channels: tuple[int, ...] = setting((16, 16), "channels of each layer", ge=1)
    input_kernel: tuple[int, ...] = setting(
        (11, 9, 9), "length, height and width of the first layer's filters", unit="frames, px, px", ge=1
    )
    hidden_kernel: tuple[int, ...] = setting(
        (5, 5, 5), "length, height and width of the other layers' filters", unit="frames, px, px", ge=1
    )
    strides: tuple[int, ...] = setting((1,), "steps of the filters in space, for all layers or each", unit="px", ge=1)
    spatial_dilations: tuple[int, ...] = setting(
        (1,), "steps between the taps of the filters in space, for all layers or each", unit="px", ge=1
    )
    temporal_dilations: tuple[int, ...] = setting(
        (1,), "steps between the taps of the filters in time, for all layers or each", unit="frames", ge=1
    )
    gamma_input_spatial: float = setting(10.0, "weight of the first layer's roughness in space", ge=0)
    gamma_input_temporal: float = setting(0.01, "weight of the first layer's roughness in time", ge=0)
    padding: bool = setting(True, "pad frames with zeros, so that feature maps have the size of the frames")
    linear: bool = setting(False, "leave out all non-linearities")
    final_nonlinearity: bool = setting(True, "an ELU after the last layer too")
    batch_norm: bool = setting(True, "batch normalisation after each convolution; without it, a bias")
    momentum: float = setting(0.1, "weight of each batch in the running statistics of the normalisation", gt=0, le=1)

    def __post_init__(self) -> None:
        """Refuse filters that do not have three sides, numbers that fit no layer and, with padding, even filters."""
        super().__post_init__()
        if not self.hidden_channels:
            raise ConfigurationError(f"{self.kind()}.hidden_channels is empty: give the channels of at least one layer")
        for field in ("input_kernel", "hidden_kernel"):
            kernel = getattr(self, field)
            if len(kernel) != 3:
                raise ConfigurationError(
                    f"{self.kind()}.{field}: {kernel} must have frames, height, width: frames, height, width"
                )
            if self.padding:
                refuse_even(self.kind(), field, kernel[1:])
        self.strides_and_dilations()

    def kernels(self) -> list[tuple[int, int, int]]:
        """Return the sides (frames, height, width) of each layer's filters."""
        sides = (self.input_kernel, *[self.hidden_kernel] * (len(self.hidden_channels) - 1))
        return [(time, height, width) for time, height, width in sides]

    def strides_and_dilations(self) -> list[tuple[int, int, int]]:
        """Return the stride, the dilation in space and the dilation in time of each layer."""
        by_layer = [
            for_each_layer(self.kind(), field, getattr(self, field), len(self.hidden_channels))
            for field in ("strides", "spatial_dilations", "temporal_dilations")
        ]
        return list(zip(*by_layer, strict=True))

    def space(self) -> tuple[Stack, Stack]:
        """Return the geometry of the filters over rows and over columns."""
        strides, dilations, _ = zip(*self.strides_and_dilations(), strict=True)
        _, heights, widths = zip(*self.kernels(), strict=True)
        rows, columns = (Stack(sides, strides, dilations, self.padding) for sides in (heights, widths))
        return rows, columns

    def build(self, in_channels: int) -> Basic3dCore:
        """Return the core for movies with ``in_channels`` channels."""
        return Basic3dCore(self, in_channels)
