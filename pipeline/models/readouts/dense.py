"""The readout without any assumption on where units look: a weight for each channel and place."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.configuration import setting
from pipeline.models.readouts.base import Readout, ReadoutConfiguration, ReadoutSite, UnitIndex
from pipeline.models.readouts.places import centroid, moved, require_size, spread
from pipeline.models.regularization import spatial_laplace


class FullyConnectedReadout(Readout):
    """A dense layer on the whole feature map; see `FullyConnected`.

    Attributes
    ----------
    weight : Parameter
        (unit, channel, height, width), channels last in memory as the feature maps are.
    """

    def __init__(self, settings: FullyConnected, site: ReadoutSite) -> None:
        super().__init__(site, settings.bias)
        self.settings = settings
        self.size = site.height, site.width
        noise = settings.init_noise * torch.randn(site.n_units, site.in_channels, *self.size)
        self.weight = nn.Parameter(noise.contiguous(memory_format=torch.channels_last))

    def drive_of_frames(self, frames: Tensor, shift: Tensor | None, units: UnitIndex) -> Tensor:
        """See `Readout.drive_of_frames`."""
        require_size(frames, self.size)
        seen, weight = (x.permute(0, 2, 3, 1).flatten(1) for x in (moved(frames, shift), self.weight[units]))
        return seen @ weight.t()

    def paired_drive_of_frames(self, frames: Tensor, shift: Tensor | None, units: Tensor) -> Tensor:
        """See `Readout.paired_drive_of_frames`."""
        require_size(frames, self.size)
        return (moved(frames, shift) * self.weight[units]).sum(dim=(1, 2, 3))

    def positions(self) -> Tensor:
        """Return the mean place of the squared weights, summed over channels, (unit, 2): x, y between -1 and 1."""
        return centroid(self._energy())

    def position_spread(self) -> Tensor:
        """Return the standard deviation of the squared weights in x and y, (unit, 2)."""
        return spread(self._energy())

    def spatial_masks(self) -> Tensor:
        """Return the length of each place's weights over the channels, (unit, height, width)."""
        return self._energy().sqrt()

    def _energy(self) -> Tensor:
        return self.weight.detach().square().sum(dim=1)

    def feature_weights(self) -> Tensor:
        """Return the length of each channel's weights over the places, (unit, channel)."""
        return self.weight.detach().square().sum(dim=(2, 3)).sqrt()

    def regularizer(self) -> dict[str, Tensor]:
        """Return the summed absolute weights, and how rough they are in space."""
        terms = {"readout": self.settings.gamma_readout * self.weight.abs().sum()}
        if self.settings.gamma_smooth:
            terms["readout_smooth"] = self.settings.gamma_smooth * spatial_laplace(self.weight)
        return terms


@dataclass(frozen=True)
class FullyConnected(ReadoutConfiguration):
    """A dense layer: each unit weighs every channel at every place. It has many weights and is for small maps."""

    init_noise: float = setting(1e-3, "standard deviation of the weights at the start", gt=0)
    gamma_readout: float = setting(0.0076, "weight of the summed absolute weights", ge=0)
    gamma_smooth: float = setting(0.0, "weight of the roughness of the weights in space", ge=0)
    bias: bool = setting(True, "a bias for each unit, starting at the drive of its mean response")

    def build(self, site: ReadoutSite) -> FullyConnectedReadout:
        """Return the readout of one scan."""
        return FullyConnectedReadout(self, site)
