"""Stacked 2-D cores: convolutions over each frame, the family of neuralpredictors' Stacked2dCore."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from pipeline.configuration import setting
from pipeline.errors import ConfigurationError
from pipeline.models.cores.base import Core, CoreConfiguration, channels_last, refuse_even, to_frames, to_videos
from pipeline.models.cores.geometry import Stack, refuse_skipping_points
from pipeline.models.cores.layers2d import (
    AdaptiveELU,
    Bias2d,
    DepthSeparableConv2d,
    Scale2d,
    SqueezeExcitation,
    local_layer,
)
from pipeline.models.cores.roughness import INPUT_REGULARIZERS
from pipeline.models.cores.spatial import SpatialConv2d
from pipeline.models.cores.windows import LocalLayer, LocalLayers
from pipeline.models.regularization import group_sparsity


class Stacked2dCore(Core):
    """Convolutions over every frame by itself; see the kind `Stacked2d`.

    Parameters have the names of neuralpredictors' core of the same name.
    """

    def __init__(self, settings: Stacked2d, in_channels: int) -> None:
        super().__init__()
        self.settings = settings
        self.seen = settings.seen_layers()
        self.out_channels = len(self.seen) * settings.hidden_channels
        self.lost_frames = 0
        self.space = settings.space()
        self.pitch = self.space.pitch
        self.features = nn.Sequential()
        for index in range(settings.layers):
            layer = nn.Sequential()
            for name, part in self._parts(index, in_channels).items():
                layer.add_module(name, part)
            self.features.add_module(f"layer{index}", layer)
        self.apply(_initialize)
        channels_last(self)

    def _parts(self, index: int, in_channels: int) -> dict[str, nn.Module]:
        """Return what one layer is made of, in the order of evaluation."""
        return _convolution(self.settings, index, in_channels) | _normalization(self.settings) | self._elu(index)

    def _elu(self, index: int) -> dict[str, nn.Module]:
        settings = self.settings
        if settings.linear or (index == settings.layers - 1 and not settings.final_nonlinearity):
            return {}
        if settings.nonlinearity_type == "AdaptiveELU":
            return {"nonlin": AdaptiveELU(*settings.elu_shift)}
        return {"nonlin": nn.ELU(inplace=True)}  # nothing else needs what it overwrites

    def forward(self, videos: Tensor) -> Tensor:
        """See `Core.forward`."""
        features: list[Tensor] = []
        for layer in self.features:
            earlier = features[-max(self.settings.skip, 1) :] or [to_frames(videos)]
            features.append(layer(torch.cat(earlier, dim=1) if len(earlier) > 1 else earlier[0]))
        seen = [features[index] for index in self.seen]
        return to_videos(torch.cat(seen, dim=1) if len(seen) > 1 else seen[0], batch=videos.shape[0])

    def out_size(self, height: int, width: int) -> tuple[int, int]:
        """See `Core.out_size`."""
        return self.space.out_size(height), self.space.out_size(width)

    def first_place(self, height: int, width: int) -> tuple[float, float]:
        """See `Core.first_place`."""
        return self.space.first_place(), self.space.first_place()

    def local_layers(self) -> LocalLayers | None:
        """See `Core.local_layers`; squeeze-excitation is not local."""
        layers: list[LocalLayer] = []
        ends: list[int] = []  # of each layer of the core, where its result is among the local ones
        for layer in self.features:
            convolution, *rest = cast(nn.Sequential, layer)
            if any(isinstance(part, SqueezeExcitation) for part in rest):
                return None
            sources = tuple(ends[-max(self.settings.skip, 1) :]) or (-1,)
            if isinstance(convolution, DepthSeparableConv2d):
                # By itself: what its bias adds outside the map must not reach the filters.
                layers.append(local_layer(convolution.in_depth_conv, (), sources))
                sources, rest = (len(layers) - 1,), [convolution.out_depth_conv, *rest]
                convolution = convolution.spatial_conv
            layers.append(local_layer(cast(nn.Conv2d, convolution), rest, sources))
            ends.append(len(layers) - 1)
        return LocalLayers(tuple(layers), tuple(ends[index] for index in self.seen))

    def regularizer(self) -> dict[str, Tensor]:
        """Return the roughness of the first layer and the group sparsity of the others."""
        terms = {"core_input": self.settings.gamma_input * self._roughness(self._filters(0))}
        if self.settings.layers > 1 and not self.settings.depth_separable:
            # Per pair of channels, as in neuralpredictors, so that gamma_hidden keeps its meaning.
            hidden = [self._filters(index) for index in range(1, self.settings.layers)]
            sparsity = torch.stack([group_sparsity(weight) / weight.shape[1] for weight in hidden]).mean()
            terms["core_hidden"] = self.settings.gamma_hidden * sparsity
        return terms

    def _filters(self, index: int) -> Tensor:
        return cast(nn.Conv2d, self.features.get_submodule(f"layer{index}.conv")).weight

    def _roughness(self, weight: Tensor) -> Tensor:
        penalty = INPUT_REGULARIZERS[self.settings.input_regularizer]
        return penalty(weight, self.settings.laplace_padding, self.settings.use_avg_reg)


def _convolution(settings: Stacked2d, index: int, in_channels: int) -> dict[str, nn.Module]:
    """Return the convolution of one layer by its name."""
    channels = settings.hidden_channels
    # Batch normalisation has its own bias; one more in the convolution before it would have no effect.
    bias = settings.bias and not settings.batch_norm
    if index == 0:
        padding = settings.padding_of_input()
        return {"conv": SpatialConv2d(in_channels, channels, settings.input_kern, padding=padding, bias=bias)}
    received = max(min(settings.skip, index), 1) * channels
    steps = settings.hidden_kern, settings.stride, settings.padding_of_hidden(), settings.hidden_dilation
    if settings.depth_separable:
        return {"ds_conv": DepthSeparableConv2d(received, channels, *steps, bias)}
    return {"conv": SpatialConv2d(received, channels, *steps, bias=bias)}


def _normalization(settings: Stacked2d) -> dict[str, nn.Module]:
    """Return batch normalisation and what stands for its scale and bias where it has not both."""
    if not settings.batch_norm:
        return {}
    channels, bias, scale = settings.hidden_channels, settings.bias, settings.batch_norm_scale
    both = settings.independent_bn_bias or (bias and scale)
    parts: dict[str, nn.Module] = {"norm": nn.BatchNorm2d(channels, momentum=settings.momentum, affine=both)}
    if not both and bias:
        parts["bias"] = Bias2d(channels)
    if not both and scale:
        parts["scale"] = Scale2d(channels)
    return parts


def _initialize(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.xavier_normal_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


@dataclass(frozen=True)
class Stacked2d(CoreConfiguration):
    """The 2-D core of neuralpredictors, applied to each frame: convolutions, batch normalisation and ELUs.

    It sees one frame at a time; time enters through a recurrent module.
    """

    hidden_channels: int = setting(32, "channels of each layer", ge=1)
    input_kern: int = setting(7, "side of the first layer's filters", unit="px", ge=1)
    hidden_kern: int = setting(5, "side of the other layers' filters", unit="px", ge=1)
    layers: int = setting(3, "number of layers", ge=1)
    gamma_input: float = setting(6.3831, "weight of the first layer's roughness", ge=0)
    gamma_hidden: float = setting(0.0, "weight of the group sparsity of the layers after the first", ge=0)
    skip: int = setting(0, "number of earlier layers whose output each layer receives; 0 or 1 for the last only", ge=0)
    pad_input: bool = setting(False, "pad the frames with zeros in the first layer too")
    linear: bool = setting(False, "leave out all non-linearities")
    final_nonlinearity: bool = setting(True, "an ELU after the last layer too")
    depth_separable: bool = setting(False, "depth-separable convolutions after the first layer; no group sparsity then")
    stack: int | None = setting(-1, "first layer that the readout sees; -1 for the last only, None for all")
    momentum: float = setting(0.1, "weight of each batch in the running statistics of the normalisation", gt=0, le=1)
    hidden_dilation: int = setting(1, "steps between the taps of the other layers' filters", unit="px", ge=1)
    hidden_padding: int | None = setting(
        None, "zeros around the maps in the other layers; None for those that keep their size", unit="px", ge=0
    )
    stride: int = setting(1, "steps of the other layers' filters; the first layer's always move by 1", unit="px", ge=1)
    nonlinearity_type: str = setting("ELU", "non-linearity after each layer", choices=("ELU", "AdaptiveELU"))
    elu_shift: tuple[float, ...] = setting((0.0, 0.0), "shifts of AdaptiveELU in x and y: elu(v - x) + y")
    batch_norm: bool = setting(True, "batch normalisation after each convolution")
    batch_norm_scale: bool = setting(True, "learn a scale after the normalisation, unless independent_bn_bias decides")
    bias: bool = setting(False, "learn a bias after the normalisation, or in the convolutions where there is none")
    independent_bn_bias: bool = setting(True, "the normalisation has scale and bias, whatever the two settings say")
    input_regularizer: str = setting(
        "LaplaceL2norm", "how the first layer's roughness is measured", choices=tuple(INPUT_REGULARIZERS)
    )
    laplace_padding: int | None = setting(
        None, "zeros around filters before the Laplace filter; None for 1, which misses no border", unit="px", ge=0
    )
    use_avg_reg: bool = setting(False, "average squares of weights in the roughness, do not sum them")

    def __post_init__(self) -> None:
        """Refuse settings that do not fit each other."""
        super().__post_init__()
        if self.pad_input:
            refuse_even(self.kind(), "input_kern", (self.input_kern,))
        if self.layers > 1 and self.hidden_padding is None and self.hidden_dilation % 2:
            refuse_even(self.kind(), "hidden_kern", (self.hidden_kern,))
        if self.stack is not None and not -self.layers <= self.stack < self.layers:
            raise ConfigurationError(f"{self.kind()}.stack: {self.stack} names none of the {self.layers} layers")
        if self.layers > 1:  # the hidden ones are alike, however many
            refuse_skipping_points(self.kind(), (self.input_kern, self.hidden_kern), (1, self.stride), field="stride")
        self._refuse_layers_of_different_sizes()
        self._refuse_shifts()
        self._refuse_small_filters()

    def _refuse_layers_of_different_sizes(self) -> None:
        joined = len(self.seen_layers()) > 1 or (self.skip > 1 and self.layers > 2)
        if joined and self.stride > 1:
            raise ConfigurationError(
                f"{self.kind()}.stride: {self.stride} gives each layer smaller maps than the last, so layers cannot "
                "be joined: it must be 1, or set skip to 0 and stack to -1"
            )
        if joined and 2 * self.padding_of_hidden() != (self.hidden_kern - 1) * self.hidden_dilation:
            raise ConfigurationError(
                f"{self.kind()}.hidden_padding: {self.hidden_padding} changes the size of the maps, so layers cannot "
                "be joined: leave it None, or set skip to 0 and stack to -1"
            )

    def _refuse_shifts(self) -> None:
        if len(self.elu_shift) != 2:
            raise ConfigurationError(f"{self.kind()}.elu_shift: {self.elu_shift} must be two numbers, for x and for y")
        if self.nonlinearity_type == "ELU" and self.elu_shift != (0, 0):
            raise ConfigurationError(
                f"{self.kind()}.elu_shift: {self.elu_shift} shifts nothing: set nonlinearity_type to 'AdaptiveELU'"
            )

    def _refuse_small_filters(self) -> None:
        gaussian = self.input_regularizer == "GaussianLaplaceL2"
        padding = 1 if self.laplace_padding is None else self.laplace_padding
        if self.input_kern + 2 * padding < 3 or (gaussian and self.input_kern < 3):
            raise ConfigurationError(
                f"{self.kind()}.input_kern: {self.input_kern} is too small for {self.input_regularizer} with "
                f"laplace_padding {self.laplace_padding}: use larger filters or pad them"
            )

    def seen_layers(self) -> range:
        """Return the layers that the readout sees."""
        return range(self.layers)[self.stack :]

    def padding_of_input(self) -> int:
        """Return the zeros around the frames in the first layer (px)."""
        return self.input_kern // 2 if self.pad_input else 0

    def padding_of_hidden(self) -> int:
        """Return the zeros around the maps in each layer after the first (px)."""
        if self.hidden_padding is None:
            return (self.hidden_kern - 1) * self.hidden_dilation // 2
        return self.hidden_padding

    def space(self) -> Stack:
        """Return the geometry of the filters, which are square."""
        hidden = self.layers - 1
        dilations = (1, *[self.hidden_dilation] * hidden)
        paddings = (self.padding_of_input(), *[self.padding_of_hidden()] * hidden)
        kernels, strides = (self.input_kern, *[self.hidden_kern] * hidden), (1, *[self.stride] * hidden)
        return Stack(kernels, strides, dilations, paddings)

    def build(self, in_channels: int) -> Stacked2dCore:
        """Return the core for movies with ``in_channels`` channels."""
        return Stacked2dCore(self, in_channels)
