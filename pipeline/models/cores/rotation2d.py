"""Rotation-equivariant 2-D cores: every filter exists in several orientations that share their weights."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from scipy.special import eval_genlaguerre
from torch import Tensor, nn

from pipeline.configuration import setting
from pipeline.errors import ConfigurationError
from pipeline.models.cores.base import Core, CoreConfiguration, refuse_even, to_frames, to_videos
from pipeline.models.cores.spatial import convolve
from pipeline.models.cores.windows import LocalLayer, LocalLayers, Taps
from pipeline.models.regularization import group_sparsity, spatial_laplace


def hermite_basis(rank: int, points: int, extent: float) -> tuple[np.ndarray, np.ndarray]:
    """Return two-dimensional Hermite functions in polar form.

    Parameters
    ----------
    rank : int
        Functions of ranks below this: ``rank * (rank + 1) / 2`` of them.
    points : int
        Side of the square on which they are sampled.
    extent : float
        Distance from the middle to the edge of the square, in units of the Gaussian's standard deviation over sqrt(2).

    Returns
    -------
    functions : np.ndarray
        (function, points, points), each of norm 1.
    frequencies : np.ndarray
        (function,), periods around the circle: positive for cosines, negative for sines, 0 for round functions. A sine
        follows its cosine.

    Notes
    -----
    exp(-r^2 / 4) r^m L_n^m(r^2 / 2) times cos(m theta) or sin(m theta), with m + 2 n the rank, L the generalised
    Laguerre polynomials, and the sign (-1)^n. The basis of Ecker et al. (2019), A rotation-equivariant convolutional
    neural network model of primary visual cortex, ICLR.
    """
    edge = extent * (1 - 1 / points)
    places = np.linspace(-edge, edge, points)
    rows, columns = np.meshgrid(places, places, indexing="ij")
    squared, angle = rows**2 + columns**2, np.arctan2(rows, columns)
    functions, frequencies = [], []
    for total in range(rank):
        for m in range(total % 2, total + 1, 2):
            n = (total - m) // 2
            radial = (-1) ** n * np.exp(-squared / 4) * squared ** (m / 2) * eval_genlaguerre(n, m, squared / 2)
            for frequency in (m, -m) if m else (0,):
                around = np.sin(m * angle) if frequency < 0 else np.cos(m * angle)
                functions.append(radial * around / np.linalg.norm(radial * around))
                frequencies.append(frequency)
    return np.stack(functions), np.array(frequencies)


def rotated_basis(side: int, upsampling: int, rotations: int) -> Tensor:
    """Return the basis of filters in each orientation, (rotation, function, side, side).

    The functions are sampled ``upsampling`` times as finely as the filters and summed over each pixel. A rotation mixes
    each cosine with its sine, so that weights times this basis are the same filter in each orientation.
    """
    functions, frequencies = hermite_basis(side, side * upsampling, 2 * math.sqrt(side))
    pixels = functions.reshape(-1, side, upsampling, side, upsampling).sum(axis=(2, 4))
    partners = np.arange(len(frequencies)) + np.sign(frequencies)  # the sine of a cosine, the cosine of a sine
    angles = 2 * np.pi * np.arange(rotations)[:, None] / rotations * frequencies
    turned = np.cos(angles)[..., None, None] * pixels - np.sin(angles)[..., None, None] * pixels[partners]
    return torch.tensor(turned, dtype=torch.float32)


class HermiteConv2d(nn.Module):
    """A convolution with filters in several orientations; output channels are (rotation, feature).

    Attributes
    ----------
    coeffs : Parameter
        (function, in channel, feature), weights of the basis in the first orientation.
    """

    def __init__(self, settings: RotationEquivariant2d, in_channels: int, side: int, padding: int, first: bool) -> None:
        super().__init__()
        self.rotations = settings.num_rotations
        self.padding = padding
        self.first = first
        basis = rotated_basis(side, settings.upsampling, self.rotations)
        self.register_buffer("basis", basis, persistent=False)
        coeffs = torch.empty(basis.shape[1], in_channels, settings.hidden_channels)
        self.coeffs = nn.Parameter(nn.init.normal_(coeffs, std=settings.init_std))

    def weight(self) -> Tensor:
        """Return the filters in all orientations, (rotation * feature, in channel, height, width)."""
        filters = torch.einsum("rkhw,kio->roihw", self.get_buffer("basis"), self.coeffs)
        if not self.first:
            # A filter that is turned by n steps must meet each of its inputs n orientations further on.
            per_rotation = filters.shape[2] // self.rotations
            filters = torch.stack([turn.roll(index * per_rotation, dims=1) for index, turn in enumerate(filters)])
        return filters.flatten(0, 1)

    def forward(self, frames: Tensor, padded: bool = True) -> Tensor:
        """Return the filtered frames, (frame, rotation * feature, height, width)."""
        weight = self.weight().contiguous(memory_format=torch.channels_last)
        return convolve(frames, weight, padding=self.padding if padded else 0)


class RotationEquivariantBatchNorm2d(nn.Module):
    """Batch normalisation with statistics, scale and bias that all orientations of a feature share."""

    def __init__(self, features: int, momentum: float) -> None:
        super().__init__()
        self.features = features
        self.batch_norm = nn.BatchNorm1d(features, momentum=momentum)

    def forward(self, frames: Tensor) -> Tensor:
        """Return the normalised frames, (frame, rotation * feature, height, width)."""
        frame, _, height, width = frames.shape
        rows = frames.permute(0, 2, 3, 1).reshape(-1, self.features)
        return self.batch_norm(rows).reshape(frame, height, width, -1).permute(0, 3, 1, 2)


class RotationEquivariant2dCore(Core):
    """Convolutions with filters in several orientations; see the kind `RotationEquivariant2d`."""

    def __init__(self, settings: RotationEquivariant2d, in_channels: int) -> None:
        super().__init__()
        self.settings = settings
        channels = settings.hidden_channels * settings.num_rotations
        self.seen = settings.seen_layers()
        self.out_channels = len(self.seen) * channels
        self.lost_frames = 0
        self.features = nn.Sequential()
        self.convolutions: list[HermiteConv2d] = []
        for index in range(settings.layers):
            side = settings.hidden_kern if index else settings.input_kern
            padding = side // 2 if index or settings.pad_input else 0
            layer = nn.Sequential()
            convolution = HermiteConv2d(settings, channels if index else in_channels, side, padding, first=index == 0)
            self.convolutions.append(convolution)
            layer.add_module("hermite_conv", convolution)
            layer.add_module("norm", self._norm())
            if not settings.linear and (settings.final_nonlinearity or index < settings.layers - 1):
                layer.add_module("nonlin", nn.ELU())
            self.features.add_module(f"layer{index}", layer)

    def _norm(self) -> nn.Module:
        settings = self.settings
        if settings.rot_eq_batch_norm:
            return RotationEquivariantBatchNorm2d(settings.hidden_channels, settings.momentum)
        return nn.BatchNorm2d(settings.hidden_channels * settings.num_rotations, momentum=settings.momentum)

    def forward(self, videos: Tensor) -> Tensor:
        """See `Core.forward`; channels are (layer, rotation, feature)."""
        frames = to_frames(videos)
        features: list[Tensor] = []
        for layer in self.features:
            frames = layer(frames)
            features.append(frames)
        return to_videos(torch.cat([features[index] for index in self.seen], dim=1), batch=videos.shape[0])

    def out_size(self, height: int, width: int) -> tuple[int, int]:
        """See `Core.out_size`."""
        lost = 0 if self.settings.pad_input else self.settings.input_kern - 1
        return height - lost, width - lost

    def local_layers(self) -> LocalLayers:
        """See `Core.local_layers`."""
        layers = tuple(_local(cast(nn.Sequential, layer), i - 1) for i, layer in enumerate(self.features))
        return LocalLayers(layers, tuple(self.seen))

    def regularizer(self) -> dict[str, Tensor]:
        """Return the roughness of the first layer and the group sparsity of the others, over all orientations."""
        first, *others = (convolution.weight() for convolution in self.convolutions)
        terms = {"core_input": self.settings.gamma_input * spatial_laplace(first)}
        if others:
            sparsity = torch.stack([group_sparsity(weight) / weight.shape[1] for weight in others]).mean()
            terms["core_hidden"] = self.settings.gamma_hidden * sparsity
        return terms


def _local(layer: nn.Sequential, source: int) -> LocalLayer:
    """Return one layer as a `LocalLayer`."""
    convolution, *rest = layer
    assert isinstance(convolution, HermiteConv2d)
    taps = Taps(convolution.get_buffer("basis").shape[-1], padding=convolution.padding)

    def run(videos: Tensor) -> Tensor:
        frames = convolution(to_frames(videos), padded=False)
        for part in rest:
            frames = part(frames)
        return to_videos(frames, batch=videos.shape[0])

    return LocalLayer(run, taps, taps, (source,))


@dataclass(frozen=True)
class RotationEquivariant2d(CoreConfiguration):
    """The core of Ecker et al. (2019): each feature in several orientations, by filters of a Hermite basis."""

    hidden_channels: int = setting(8, "features of each layer, each in all orientations", ge=1)
    input_kern: int = setting(13, "side of the first layer's filters", unit="px", ge=2)
    hidden_kern: int = setting(5, "side of the other layers' filters", unit="px", ge=2)
    layers: int = setting(3, "number of layers", ge=1)
    num_rotations: int = setting(8, "orientations of each feature, evenly around the circle", ge=1)
    upsampling: int = setting(2, "samples of the basis across each pixel of a filter", ge=1)
    rot_eq_batch_norm: bool = setting(True, "normalise all orientations of a feature together")
    init_std: float = setting(0.1, "standard deviation of the initial weights", gt=0)
    gamma_input: float = setting(6.3831, "weight of the first layer's roughness", ge=0)
    gamma_hidden: float = setting(0.0, "weight of the group sparsity of the layers after the first", ge=0)
    pad_input: bool = setting(False, "pad the frames with zeros in the first layer too")
    linear: bool = setting(False, "leave out all non-linearities")
    final_nonlinearity: bool = setting(True, "an ELU after the last layer too")
    stack: int | None = setting(-1, "first layer that the readout sees; -1 for the last only, None for all")
    momentum: float = setting(0.1, "weight of each batch in the running statistics of the normalisation", gt=0, le=1)

    def __post_init__(self) -> None:
        """Refuse even filters where frames are padded and stacks that name no layer."""
        super().__post_init__()
        if self.layers > 1:
            refuse_even(self.kind(), "hidden_kern", (self.hidden_kern,))
        if self.pad_input:
            refuse_even(self.kind(), "input_kern", (self.input_kern,))
        if self.stack is not None and not -self.layers <= self.stack < self.layers:
            raise ConfigurationError(f"{self.kind()}.stack: {self.stack} names none of the {self.layers} layers")

    def seen_layers(self) -> range:
        """Return the layers that the readout sees."""
        return range(self.layers)[self.stack :]

    def build(self, in_channels: int) -> RotationEquivariant2dCore:
        """Return the core for movies with ``in_channels`` channels."""
        return RotationEquivariant2dCore(self, in_channels)
