"""Cores: the layers that all units of all scans share. They turn movies into feature maps.

All cores work on movies folded into the layout (batch, time, height, width, channel) in memory: convolutions over space
see (batch * time, channel, height, width) and convolutions over time (batch, channel, time, height * width), both in
PyTorch's channels-last format and both without a copy.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from pipeline import legacy
from pipeline.configuration import Configuration, setting
from pipeline.errors import ConfigurationError
from pipeline.models.regularization import group_sparsity, spatial_laplace, temporal_laplace


class Core(nn.Module, ABC):
    """What every core offers.

    Attributes
    ----------
    out_channels : int
        Channels of the feature maps.
    lost_frames : int
        Frames by which the output is shorter than the input. Cores are causal: output frame k is computed from input
        frames k to k + `lost_frames`, so it belongs to input frame k + `lost_frames`, and the last frames align.
    """

    out_channels: int
    lost_frames: int

    @abstractmethod
    def forward(self, videos: Tensor) -> Tensor:
        """Map movies to feature maps.

        Parameters
        ----------
        videos : Tensor
            (batch, channel, time, height, width).

        Returns
        -------
        Tensor
            (batch, `out_channels`, time - `lost_frames`, height, width), of the size that `out_size` gives.
        """

    @abstractmethod
    def out_size(self, height: int, width: int) -> tuple[int, int]:
        """Return the height and width of the feature maps for frames of this size, in pixels."""

    @abstractmethod
    def regularizer(self) -> dict[str, Tensor]:
        """Return the weighted penalties by name."""


def _to_frames(videos: Tensor) -> Tensor:
    """Fold time into the batch: (batch, channel, time, height, width) to (batch * time, channel, height, width)."""
    batch, channel, time, height, width = videos.shape
    frames = videos.permute(0, 2, 3, 4, 1).reshape(batch * time, height, width, channel)
    return frames.permute(0, 3, 1, 2)


def _to_videos(frames: Tensor, batch: int) -> Tensor:
    """Undo `_to_frames`."""
    folded, channel, height, width = frames.shape
    videos = frames.permute(0, 2, 3, 1).reshape(batch, folded // batch, height, width, channel)
    return videos.permute(0, 4, 1, 2, 3)


def channels_last(module: nn.Module) -> None:
    """Store the weights of 2-D convolutions in the layout that keeps their results in it."""
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


class _FactorizedLayer(nn.Module):
    """A convolution over space, one over time, batch normalisation and, unless linear, an ELU."""

    def __init__(
        self, in_channels: int, out_channels: int, space: int, time: int, padding: bool, elu: bool, momentum: float
    ) -> None:
        super().__init__()
        self.spatial = nn.Conv2d(in_channels, out_channels, space, padding=space // 2 if padding else 0, bias=False)
        self.temporal = nn.Conv2d(out_channels, out_channels, (time, 1), bias=False)
        self.norm = nn.BatchNorm2d(out_channels, momentum=momentum)
        self.nonlinearity = nn.ELU(inplace=True) if elu else nn.Identity()  # nothing else needs what it overwrites

    def forward(self, videos: Tensor) -> Tensor:
        batch, _, time, _, _ = videos.shape
        frames = self.spatial(_to_frames(videos))
        _, channel, height, width = frames.shape
        rows = frames.permute(0, 2, 3, 1).reshape(batch, time, height * width, channel)
        features = self.nonlinearity(self.norm(self.temporal(rows.permute(0, 3, 1, 2))))
        return features.unflatten(3, (height, width))

    def group_sparsity(self) -> Tensor:
        """Return the group sparsity of both convolutions."""
        return group_sparsity(self.spatial.weight) + group_sparsity(self.temporal.weight)


class Factorized3dCore(Core):
    """Layers of separable space-time filters; see the kind `Factorized3d`."""

    def __init__(self, settings: Factorized3d, in_channels: int) -> None:
        super().__init__()
        self.settings = settings
        self.out_channels = settings.hidden_channels[-1]
        self.lost_frames = sum(k - 1 for k in settings.temporal_kernels)
        n_layers = len(settings.hidden_channels)
        inputs = (in_channels, *settings.hidden_channels[:-1])
        sizes = zip(inputs, settings.hidden_channels, settings.spatial_kernels, settings.temporal_kernels, strict=True)
        layers = [
            _FactorizedLayer(
                *size,
                padding=settings.padding,
                elu=not settings.linear and (settings.final_nonlinearity or layer < n_layers - 1),
                momentum=settings.momentum,
            )
            for layer, size in enumerate(sizes)
        ]
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
        lost = 0 if self.settings.padding else sum(k - 1 for k in self.settings.spatial_kernels)
        return height - lost, width - lost

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


class Stacked2dMovieCore(Core):
    """The 2-D core of neuralpredictors on every frame by itself; see the kind `Stacked2d`."""

    def __init__(self, settings: Stacked2d, in_channels: int) -> None:
        super().__init__()
        self.settings = settings
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="group sparsity can not be calculated")
            self.frames_core = legacy.Stacked2dCore(
                input_channels=in_channels,
                hidden_channels=settings.hidden_channels,
                input_kern=settings.input_kern,
                hidden_kern=settings.hidden_kern,
                layers=settings.layers,
                gamma_input=settings.gamma_input,
                gamma_hidden=settings.gamma_hidden,
                skip=settings.skip,
                pad_input=settings.pad_input,
                linear=settings.linear,
                momentum=settings.momentum,
                final_nonlinearity=settings.final_nonlinearity,
                depth_separable=settings.depth_separable,
                stack=settings.stack,
                # Batch normalisation has its own bias; one more in the convolutions before it would have no effect.
                bias=False,
                input_regularizer="LaplaceL2norm",
                laplace_padding=None,
                use_avg_reg=False,
            )
        self.lost_frames = 0
        self.out_channels = len(self.frames_core.stack) * settings.hidden_channels
        channels_last(self)

    def forward(self, videos: Tensor) -> Tensor:
        """See `Core.forward`."""
        return _to_videos(self.frames_core(_to_frames(videos)), batch=videos.shape[0])

    def out_size(self, height: int, width: int) -> tuple[int, int]:
        """See `Core.out_size`."""
        lost = 0 if self.settings.pad_input else self.settings.input_kern - 1
        return height - lost, width - lost

    def regularizer(self) -> dict[str, Tensor]:
        """Return the smoothness of the first layer and the group sparsity of the others."""
        # Not frames_core.laplace(): it cannot view channels-last weights of more than one input channel.
        roughness = spatial_laplace(self.frames_core.features[0].conv.weight)
        terms = {"core_input": self.settings.gamma_input * roughness}
        if self.settings.layers > 1 and not self.settings.depth_separable:
            terms["core_hidden"] = self.settings.gamma_hidden * self.frames_core.group_sparsity()
        return terms


def _refuse_even(kind: str, field: str, kernels: tuple[int, ...]) -> None:
    if any(k % 2 == 0 for k in kernels):
        raise ConfigurationError(
            f"{kind}.{field}: {kernels} has an even size, which cannot be padded symmetrically: use odd sizes"
        )


@dataclass(frozen=True)
class Factorized3d(Configuration):
    """A space-time core: in each layer filters over space, then filters over time, batch normalisation and an ELU.

    There is no non-linearity between the spatial and the temporal filters, so a layer's filters are sums of separable
    ones (the factorised baseline of Sensorium 2023).
    """

    hidden_channels: tuple[int, ...] = setting((16, 16), "channels of each layer", ge=1)
    spatial_kernels: tuple[int, ...] = setting((9, 5), "side of the spatial filters of each layer", unit="px", ge=1)
    temporal_kernels: tuple[int, ...] = setting(
        (11, 5), "length of the temporal filters of each layer", unit="frames", ge=1
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
            _refuse_even(self.kind(), "spatial_kernels", self.spatial_kernels)

    def build(self, in_channels: int) -> Factorized3dCore:
        """Return the core for movies with ``in_channels`` channels."""
        return Factorized3dCore(self, in_channels)


@dataclass(frozen=True)
class Stacked2d(Configuration):
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

    def __post_init__(self) -> None:
        """Refuse even filters where frames are padded and stacks that name no layer."""
        super().__post_init__()
        if self.layers > 1:
            _refuse_even(self.kind(), "hidden_kern", (self.hidden_kern,))
        if self.pad_input:
            _refuse_even(self.kind(), "input_kern", (self.input_kern,))
        if self.stack is not None and not -self.layers <= self.stack < self.layers:
            raise ConfigurationError(f"{self.kind()}.stack: {self.stack} names none of the {self.layers} layers")

    def build(self, in_channels: int) -> Stacked2dMovieCore:
        """Return the core for movies with ``in_channels`` channels."""
        return Stacked2dMovieCore(self, in_channels)
