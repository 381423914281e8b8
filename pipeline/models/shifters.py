"""Shifters: how far the eye's position moves all units' places in the feature maps, frame by frame.

They start at a shift of nearly zero everywhere, and of exactly zero where the eye is on average in training.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.configuration import setting
from pipeline.models.needs import Need, NetworkPart

_SMALL = 1e-3
_TINY = 1e-6


@dataclass(frozen=True)
class ShifterConfiguration(NetworkPart):
    """Base of all kinds of shifters."""

    def needs(self) -> tuple[Need, ...]:
        """Return the position of the pupil; scans without it get no shifter."""
        return (
            Need(
                "the position of the pupil",
                lambda scan: scan.mean_pupil_center is not None,
                "use NoShifter",
                given_by={"pupil": ("apart", "both")},
            ),
        )

    @abstractmethod
    def build(self, mean_pupil_center: tuple[float, float] = (0.0, 0.0)) -> Shifter:
        """Return the shifter of one scan, whose eye is on average at ``mean_pupil_center`` in training."""


class Shifter(nn.Module, ABC):
    """What every shifter offers."""

    @abstractmethod
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

    @abstractmethod
    def regularizer(self) -> dict[str, Tensor]:
        """Return the weighted penalties by name."""


class StaticAffine2dShifter(Shifter):
    """The tanh of an affine function of the pupil position; see the kind `StaticAffine2d`."""

    def __init__(self, settings: StaticAffine2d, mean_pupil_center: tuple[float, float]) -> None:
        super().__init__()
        self.settings = settings
        self.linear = nn.Linear(2, 2, bias=settings.bias)
        nn.init.normal_(self.linear.weight, std=_TINY)
        if settings.bias:
            _rest_at(self.linear, torch.tensor(mean_pupil_center))

    def forward(self, pupil_center: Tensor) -> Tensor:
        """Return shifts (batch, time, 2) for positions (batch, 2, time)."""
        return self.linear(pupil_center.transpose(1, 2)).tanh()

    def regularizer(self) -> dict[str, Tensor]:
        """Return the mean squared weight."""
        return {"shifter": self.settings.gamma_shifter * self.linear.weight.square().mean()}


class MLPShifter(Shifter):
    """A small network from pupil position to shift; see the kind `MLP`."""

    def __init__(self, settings: MLP, mean_pupil_center: tuple[float, float]) -> None:
        super().__init__()
        self.settings = settings
        widths = (2, *[settings.hidden_channels] * (settings.layers - 1), 2)
        linears = [nn.Linear(a, b) for a, b in itertools.pairwise(widths)]
        self.layers = nn.Sequential(*(module for linear in linears for module in (linear, nn.Tanh())))
        nn.init.normal_(linears[-1].weight, std=_SMALL)
        _rest_at(linears[-1], self.layers[:-2](torch.tensor(mean_pupil_center)))

    def forward(self, pupil_center: Tensor) -> Tensor:
        """Return shifts (batch, time, 2) for positions (batch, 2, time)."""
        return self.layers(pupil_center.transpose(1, 2))

    def regularizer(self) -> dict[str, Tensor]:
        """Return the summed mean squared weights of the layers."""
        squares = torch.stack([weight.square().mean() for weight in self.parameters() if weight.dim() == 2])
        return {"shifter": self.settings.gamma_shifter * squares.sum()}


def _rest_at(linear: nn.Linear, inputs: Tensor) -> None:
    """Set the bias such that these inputs give zero."""
    with torch.no_grad():
        linear.bias.copy_(-linear.weight @ inputs)


@dataclass(frozen=True)
class NoShifter(NetworkPart):
    """No shifter: eye movements are ignored."""


@dataclass(frozen=True)
class MLP(ShifterConfiguration):
    """A network with tanh after each layer, one for each scan (neuralpredictors' form)."""

    hidden_channels: int = setting(5, "width of the hidden layers", ge=1)
    layers: int = setting(3, "number of layers with weights; 1 for none hidden", ge=1)
    gamma_shifter: float = setting(0.0, "weight of the mean squared weights", ge=0)

    def build(self, mean_pupil_center: tuple[float, float] = (0.0, 0.0)) -> MLPShifter:
        """Return the shifter of one scan."""
        return MLPShifter(self, mean_pupil_center)


@dataclass(frozen=True)
class StaticAffine2d(ShifterConfiguration):
    """The tanh of an affine function, one for each scan.

    The bias starts where the mean eye position of training gives no shift. staticnet starts it at minus that position
    instead, which together with weights of nearly zero is a shift of all units.
    """

    bias: bool = setting(True, "add a bias; without it, position zero always means no shift")
    gamma_shifter: float = setting(0.0, "weight of the mean squared weight", ge=0)

    def build(self, mean_pupil_center: tuple[float, float] = (0.0, 0.0)) -> StaticAffine2dShifter:
        """Return the shifter of one scan."""
        return StaticAffine2dShifter(self, mean_pupil_center)
