"""Stacked 2-D cores with squeeze-excitation blocks."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from pipeline.configuration import setting
from pipeline.errors import ConfigurationError
from pipeline.models.cores.layers2d import SqueezeExcitation
from pipeline.models.cores.stacked2d import Stacked2d, Stacked2dCore


class SE2dCore(Stacked2dCore):
    """A stacked core with squeeze-excitation blocks behind its last layers; see the kind `SE2d`."""

    settings: SE2d

    def _parts(self, index: int, in_channels: int) -> dict[str, nn.Module]:
        parts = super()._parts(index, in_channels)
        if index >= max(self.settings.layers - self.settings.n_se_blocks, 1):
            parts["seg_ex_block"] = SqueezeExcitation(self.settings.hidden_channels, self.settings.se_reduction)
        return parts


@dataclass(frozen=True)
class SE2d(Stacked2d):
    """The core of Lurz et al. (2021) and of the Sensorium 2022 baseline: depth-separable, perhaps squeeze-excitation.

    With `linear` and without blocks it is the linear baseline of Sensorium 2022.
    """

    hidden_channels: int = setting(64, "channels of each layer", ge=1)
    input_kern: int = setting(9, "side of the first layer's filters", unit="px", ge=1)
    hidden_kern: int = setting(7, "side of the other layers' filters", unit="px", ge=1)
    layers: int = setting(4, "number of layers", ge=1)
    depth_separable: bool = setting(True, "depth-separable convolutions after the first layer; no group sparsity then")
    momentum: float = setting(0.9, "weight of each batch in the running statistics of the normalisation", gt=0, le=1)
    n_se_blocks: int = setting(0, "layers at the end that a squeeze-excitation block follows, never the first", ge=0)
    se_reduction: int = setting(32, "channels for each value that the blocks squeeze them into", ge=1)

    def __post_init__(self) -> None:
        """Refuse blocks that squeeze all channels into nothing, or that would make a linear core non-linear."""
        super().__post_init__()
        if self.n_se_blocks and self.se_reduction > self.hidden_channels:
            raise ConfigurationError(
                f"{self.kind()}.se_reduction: {self.se_reduction} leaves nothing of {self.hidden_channels} channels: "
                "use at most hidden_channels"
            )
        if self.n_se_blocks and self.linear:
            raise ConfigurationError(f"{self.kind()}.n_se_blocks: blocks are not linear: use 0 blocks or linear=False")

    def build(self, in_channels: int) -> SE2dCore:
        """Return the core for movies with ``in_channels`` channels."""
        return SE2dCore(self, in_channels)
