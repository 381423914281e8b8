"""Cores of linear-nonlinear models: their only non-linearity is the one of the output."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from pipeline.configuration import setting
from pipeline.models.cores.base import Core, CoreConfiguration, refuse_even
from pipeline.models.cores.stacked2d import Stacked2d, Stacked2dCore
from pipeline.models.cores.windows import LocalLayers


@dataclass(frozen=True)
class Linear(CoreConfiguration):
    """One convolution without a non-linearity: with a point readout, a linear-nonlinear model of few weights.

    Each unit's linear filter is a weighted sum of the core's, at the unit's place.
    """

    linear: ClassVar[bool] = True
    hidden_channels: int = setting(32, "filters", ge=1)
    input_kern: int = setting(15, "side of the filters", unit="px", ge=1)
    gamma_input: float = setting(6.3831, "weight of the filters' roughness", ge=0)
    pad_input: bool = setting(False, "pad the frames with zeros")
    batch_norm: bool = setting(True, "batch normalisation after the convolution, which stays linear once trained")
    momentum: float = setting(0.1, "weight of each batch in the running statistics of the normalisation", gt=0, le=1)

    def __post_init__(self) -> None:
        """Refuse even filters where frames are padded."""
        super().__post_init__()
        if self.pad_input:
            refuse_even(self.kind(), "input_kern", (self.input_kern,))

    def build(self, in_channels: int) -> Stacked2dCore:
        """Return the core for movies with ``in_channels`` channels."""
        return Stacked2d(**self.settings(), layers=1, linear=True).build(in_channels)


class DenseCore(Core):
    """Hands frames on as they are; see the kind `Dense`."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.out_channels = in_channels
        self.lost_frames = 0

    def forward(self, videos: Tensor) -> Tensor:
        """See `Core.forward`."""
        return videos

    def out_size(self, height: int, width: int) -> tuple[int, int]:
        """See `Core.out_size`."""
        return height, width

    def local_layers(self) -> LocalLayers:
        """See `Core.local_layers`."""
        return LocalLayers(())

    def regularizer(self) -> dict[str, Tensor]:
        """Return nothing: there are no weights."""
        return {}


@dataclass(frozen=True)
class Dense(CoreConfiguration):
    """The frame itself: with a fully connected readout, the linear-nonlinear model whose filters span the whole frame.

    Frames keep their height and width, so that the readout's weights are images of the frame and other readouts still
    know where they look. It has no weights: smoothness of the filters is the readout's to ask for.
    """

    linear: ClassVar[bool] = True

    def build(self, in_channels: int) -> DenseCore:
        """Return the core for movies with ``in_channels`` channels."""
        return DenseCore(in_channels)
