"""Modulators: how behaviour scales each unit's drive, frame by frame."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.configuration import Configuration, setting
from pipeline.models.readouts import UnitIndex

_SMALL = 1e-3


class MLPGainModulator(nn.Module):
    """A small network from behaviour to each unit's gain; see the kind `MLPGain`."""

    def __init__(self, settings: MLPGain, n_behavior: int, n_units: int) -> None:
        super().__init__()
        self.settings = settings
        widths = (n_behavior, *[settings.hidden_channels] * (settings.layers - 1))
        linears = [nn.Linear(a, b) for a, b in itertools.pairwise(widths)]
        self.hidden = nn.Sequential(*(module for linear in linears for module in (linear, nn.ReLU())))
        self.last = nn.Linear(widths[-1], n_units)
        nn.init.normal_(self.last.weight, std=_SMALL)
        nn.init.zeros_(self.last.bias)

    def gain(self, behavior: Tensor, unit_idx: UnitIndex | None = None) -> Tensor:
        """Return the gains (batch, unit, time), all above 0, for behaviour (batch, channel, time)."""
        units = slice(None) if unit_idx is None else unit_idx
        hidden = self.hidden(behavior.transpose(1, 2))
        return F.linear(hidden, self.last.weight[units], self.last.bias[units]).transpose(1, 2).exp()

    def forward(self, drive: Tensor, behavior: Tensor, unit_idx: UnitIndex | None = None) -> Tensor:
        """Scale drives (batch, unit, time), which are those of the units in ``unit_idx``, by `gain`."""
        return drive * self.gain(behavior, unit_idx)

    def regularizer(self) -> dict[str, Tensor]:
        """Return the mean absolute weight of the last layer."""
        return {"modulator": self.settings.gamma_modulator * self.last.weight.abs().mean()}


@dataclass(frozen=True)
class NoModulator(Configuration):
    """No modulator: behaviour is ignored."""


@dataclass(frozen=True)
class MLPGain(Configuration):
    """A network with ReLUs and an exponential at its end, one for each scan; gains start at nearly 1.

    The exponential lets behaviour suppress units as well as drive them (staticnet's form).
    """

    hidden_channels: int = setting(10, "width of the hidden layers", ge=1)
    layers: int = setting(2, "number of layers with weights; 1 for none hidden", ge=1)
    gamma_modulator: float = setting(0.0, "weight of the mean absolute weight of the last layer", ge=0)

    def build(self, n_behavior: int, n_units: int) -> MLPGainModulator:
        """Return the modulator of one scan with ``n_behavior`` channels of behaviour."""
        return MLPGainModulator(self, n_behavior, n_units)
