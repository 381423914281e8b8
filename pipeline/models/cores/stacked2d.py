"""The stacked 2-D core of neuralpredictors."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

from torch import Tensor

from pipeline import legacy
from pipeline.configuration import setting
from pipeline.errors import ConfigurationError
from pipeline.models.cores.base import Core, CoreConfiguration, channels_last, refuse_even, to_frames, to_videos
from pipeline.models.regularization import spatial_laplace


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
        return to_videos(self.frames_core(to_frames(videos)), batch=videos.shape[0])

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

    def __post_init__(self) -> None:
        """Refuse even filters where frames are padded and stacks that name no layer."""
        super().__post_init__()
        if self.layers > 1:
            refuse_even(self.kind(), "hidden_kern", (self.hidden_kern,))
        if self.pad_input:
            refuse_even(self.kind(), "input_kern", (self.input_kern,))
        if self.stack is not None and not -self.layers <= self.stack < self.layers:
            raise ConfigurationError(f"{self.kind()}.stack: {self.stack} names none of the {self.layers} layers")

    def build(self, in_channels: int) -> Stacked2dMovieCore:
        """Return the core for movies with ``in_channels`` channels."""
        return Stacked2dMovieCore(self, in_channels)
