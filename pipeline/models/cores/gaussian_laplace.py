"""The cores of staticnet: stacked convolutions whose first filters must be smooth away from their middles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from pipeline.configuration import setting
from pipeline.models.cores.base import CoreConfiguration
from pipeline.models.cores.roughness import gaussian_weights, weighted_laplace_l2
from pipeline.models.cores.stacked2d import Stacked2d, Stacked2dCore
from pipeline.models.regularization import laplace


class GaussianLaplaceCore(Stacked2dCore):
    """A stacked core with weighted roughness; see the kind `GaussianLaplace`."""

    def __init__(self, settings: _StaticnetConfiguration, in_channels: int) -> None:
        super().__init__(settings.stacked(), in_channels)
        side = laplace(self._filters(0), settings.laplace_padding).shape[-1]
        weights = gaussian_weights(side, settings.gauss_sigma, settings.gauss_bias)
        self.laplace_padding = settings.laplace_padding
        self.register_buffer("laplace_weights", weights, persistent=False)

    def _roughness(self, weight: Tensor) -> Tensor:
        return weighted_laplace_l2(weight, self.get_buffer("laplace_weights"), self.laplace_padding)


@dataclass(frozen=True)
class _StaticnetConfiguration(CoreConfiguration):
    """What both cores of staticnet can be set to."""

    hidden_channels: int = setting(32, "channels of each layer", ge=1)
    input_kern: int = setting(15, "side of the first layer's filters", unit="px", ge=1)
    hidden_kern: int = setting(7, "side of the other layers' filters", unit="px", ge=1)
    layers: int = setting(3, "number of layers; the readout sees all of them", ge=1)
    gamma_hidden: float = setting(0.1, "weight of the group sparsity of the layers after the first", ge=0)
    gamma_input: float = setting(50.0, "weight of the first layer's roughness", ge=0)
    skip: int = setting(3, "number of earlier layers whose output each layer receives; 0 or 1 for the last only", ge=0)
    bias: bool = setting(False, "a bias in the convolutions, where the normalisation has none")
    pad_input: bool = setting(False, "pad the frames with zeros in the first layer too")
    batch_norm: bool = setting(True, "batch normalisation after each convolution")
    momentum: float = setting(0.1, "weight of each batch in the running statistics of the normalisation", gt=0, le=1)
    laplace_padding: int = setting(1, "zeros around filters before the Laplace filter", unit="px", ge=0)
    gauss_sigma: float = setting(0.5, "where roughness stops being forgiven, from the middle", unit="half sides", gt=0)
    gauss_bias: float = setting(0.0, "weight of roughness in the very middle of the filters", ge=0)

    def __post_init__(self) -> None:
        """Refuse what a stacked core refuses."""
        super().__post_init__()
        self.stacked()

    def stacked(self) -> Stacked2d:
        """Return the settings of the stacked core that this is but for its roughness."""
        shared = {name: value for name, value in self.settings().items() if not name.startswith("gauss_")}
        return Stacked2d(**{"linear": True, **shared}, stack=None)

    def build(self, in_channels: int) -> GaussianLaplaceCore:
        """Return the core for movies with ``in_channels`` channels."""
        return GaussianLaplaceCore(self, in_channels)


@dataclass(frozen=True)
class GaussianLaplace(_StaticnetConfiguration):
    """The core of staticnet: convolutions, batch normalisation and ELUs with skip connections; all layers are read.

    Roughness of the first layer's filters counts by 1 - exp(-r^2 / (2 gauss_sigma^2)) + gauss_bias, with the distance r
    from the middle. `StackedLinearGaussianLaplace` is the same without non-linearities.
    """

    linear: bool = setting(False, "leave out all non-linearities, as StackedLinearGaussianLaplace does")
    final_nonlinearity: bool = setting(True, "an ELU after the last layer too")


@dataclass(frozen=True)
class StackedLinearGaussianLaplace(_StaticnetConfiguration):
    """The linear core of staticnet: `GaussianLaplace` without non-linearities, for linear-nonlinear models."""

    linear: ClassVar[bool] = True
