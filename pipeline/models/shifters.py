"""Shifters: how far the eye's position moves all units' places in the feature maps, frame by frame."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.configuration import Configuration, setting

_SMALL = 1e-3


class MLPShifter(nn.Module):
    """A small network from pupil position to shift; see the kind `MLP`."""

    def __init__(self, settings: MLP) -> None:
        super().__init__()
        self.settings = settings
        widths = (2, *[settings.hidden_channels] * (settings.layers - 1), 2)
        linears = [nn.Linear(a, b) for a, b in itertools.pairwise(widths)]
        nn.init.normal_(linears[-1].weight, std=_SMALL)
        nn.init.zeros_(linears[-1].bias)
        self.layers = nn.Sequential(*(module for linear in linears for module in (linear, nn.Tanh())))

    def forward(self, pupil_center: Tensor) -> Tensor:
        """Return the shift of each frame.

        Parameters
        ----------
        pupil_center : Tensor
            (batch, 2, time), normalised horizontal and vertical position.

        Returns
        -------
        Tensor
            (batch, time, 2), x and y between -1 and 1, in units of half the feature map.
        """
        return self.layers(pupil_center.transpose(1, 2))

    def regularizer(self) -> dict[str, Tensor]:
        """Return the summed mean squared weights of the layers."""
        squares = torch.stack([weight.square().mean() for weight in self.parameters() if weight.dim() == 2])
        return {"shifter": self.settings.gamma_shifter * squares.sum()}


@dataclass(frozen=True)
class NoShifter(Configuration):
    """No shifter: eye movements are ignored."""


@dataclass(frozen=True)
class MLP(Configuration):
    """A network with tanh after each layer, one for each scan; it starts at a shift of nearly zero."""

    hidden_channels: int = setting(5, "width of the hidden layers", ge=1)
    layers: int = setting(3, "number of layers with weights; 1 for none hidden", ge=1)
    gamma_shifter: float = setting(0.0, "weight of the mean squared weights", ge=0)

    def build(self) -> MLPShifter:
        """Return the shifter of one scan."""
        return MLPShifter(self)
