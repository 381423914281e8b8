"""Modulators: how behaviour scales each unit's drive, frame by frame.

Behaviour is whatever the preprocessing gives as its channels: running, pupil size, pulses of light and so on.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.configuration import setting
from pipeline.models.needs import Need, NetworkPart, movies
from pipeline.models.readouts import UnitIndex

_SMALL = 1e-3


@dataclass(frozen=True)
class ModulatorConfiguration(NetworkPart):
    """Base of all kinds of modulators."""

    def needs(self) -> tuple[Need, ...]:
        """Return behaviour, which light may be part of; scans without it get no modulator."""
        return (
            Need(
                "behaviour",
                lambda scan: scan.n_behavior > 0,
                "use NoModulator",
                given_by={"behavior": ("apart", "both")},
            ),
        )

    @abstractmethod
    def build(self, n_behavior: int, n_units: int) -> Modulator:
        """Return the modulator of one scan with ``n_behavior`` channels of behaviour."""


class Modulator(nn.Module, ABC):
    """What every modulator offers.

    Attributes
    ----------
    past_frames : int
        Earlier frames of behaviour on which the gain of a frame depends.
    """

    past_frames: int = 0

    def forward(self, drive: Tensor, behavior: Tensor, unit_idx: UnitIndex | None = None) -> Tensor:
        """Scale the units' drives by their gains.

        Parameters
        ----------
        drive : Tensor
            (batch, unit, time), of the units in ``unit_idx``.
        behavior : Tensor
            (batch, channel, time or more): the last frames align with those of the drives, earlier ones are the past.
        unit_idx : sequence of int, Tensor or slice, optional
            All units if not given.
        """
        time = drive.shape[-1]
        seen = behavior[..., -(time + self.past_frames) :]
        return drive * self.gain(seen, unit_idx)[..., -time:]

    @abstractmethod
    def gain(self, behavior: Tensor, unit_idx: UnitIndex | None = None) -> Tensor:
        """Return the gains (batch, unit, time) for behaviour (batch, channel, time)."""

    @abstractmethod
    def regularizer(self) -> dict[str, Tensor]:
        """Return the weighted penalties by name."""


class MLPModulator(Modulator):
    """Base of small networks from behaviour to gain: ReLUs, a linear layer to the units, and what makes it a gain."""

    def __init__(self, widths: Sequence[int], n_units: int, gamma: float) -> None:
        super().__init__()
        self.gamma = gamma
        linears = [nn.Linear(a, b) for a, b in itertools.pairwise(widths)]
        self.hidden = nn.Sequential(*(module for linear in linears for module in (linear, nn.ReLU())))
        self.last = nn.Linear(widths[-1], n_units)
        nn.init.normal_(self.last.weight, std=_SMALL)
        nn.init.zeros_(self.last.bias)

    def gain(self, behavior: Tensor, unit_idx: UnitIndex | None = None) -> Tensor:
        """Return the gains (batch, unit, time) for behaviour (batch, channel, time)."""
        units = slice(None) if unit_idx is None else unit_idx
        hidden = self.hidden_activity(behavior)
        return self.to_gain(F.linear(hidden, self.last.weight[units], self.last.bias[units])).transpose(1, 2)

    def hidden_activity(self, behavior: Tensor) -> Tensor:
        """Return the activity (batch, time, hidden channel) from which the units' gains are read."""
        return self.hidden(behavior.transpose(1, 2))

    @abstractmethod
    def to_gain(self, activity: Tensor) -> Tensor:
        """Map activity to gain, element by element."""

    def regularizer(self) -> dict[str, Tensor]:
        """Return the mean absolute weight of the last layer."""
        return {"modulator": self.gamma * self.last.weight.abs().mean()}


class MLPGainModulator(MLPModulator):
    """The exponential of a small network: gains are above 0; see the kind `MLPGain`."""

    def __init__(self, settings: MLPGain, n_behavior: int, n_units: int) -> None:
        widths = (n_behavior, *[settings.hidden_channels] * (settings.layers - 1))
        super().__init__(widths, n_units, settings.gamma_modulator)

    def to_gain(self, activity: Tensor) -> Tensor:
        """Return the exponential."""
        return activity.exp()


class MLPEluModulator(MLPModulator):
    """One more than a small network that ends in a ReLU: gains are 1 or above; see the kind `MLPElu`."""

    def __init__(self, settings: MLPElu, n_behavior: int, n_units: int) -> None:
        widths = (n_behavior, *[settings.hidden_channels] * (settings.layers - 1))
        super().__init__(widths, n_units, settings.gamma_modulator)
        # At or below zero the ReLU passes no gradient, and the unit's gain would stay 1 for ever.
        nn.init.constant_(self.last.bias, 10 * _SMALL)

    def to_gain(self, activity: Tensor) -> Tensor:
        """Return elu(relu(x)) + 1, which is relu(x) + 1."""
        return activity.relu() + 1


class HistoryModulator(MLPModulator):
    """The exponential of a small network that sees a causal window of behaviour; see the kind `History`."""

    def __init__(self, settings: History, n_behavior: int, n_units: int) -> None:
        super().__init__([settings.hidden_channels] * (settings.layers - 1), n_units, settings.gamma_modulator)
        self.past_frames = settings.history_frames - 1
        self.filters = nn.Conv1d(n_behavior, settings.hidden_channels, settings.history_frames)

    def hidden_activity(self, behavior: Tensor) -> Tensor:
        """Return the activity (batch, time, hidden channel); frame t depends on frames t - `past_frames` to t.

        Before the first frame, behaviour is taken to have been as it is there.
        """
        padded = F.pad(behavior, (self.past_frames, 0), mode="replicate")
        return self.hidden(self.filters(padded).relu().transpose(1, 2))

    def to_gain(self, activity: Tensor) -> Tensor:
        """Return the exponential."""
        return activity.exp()


@dataclass(frozen=True)
class NoModulator(NetworkPart):
    """No modulator: behaviour is ignored."""


@dataclass(frozen=True)
class MLPGain(ModulatorConfiguration):
    """A network with ReLUs and an exponential at its end, one for each scan; gains start at nearly 1.

    The exponential lets behaviour suppress units as well as drive them. It is staticnet's form, where ``layers`` are
    the hidden ones: its 2 are 3 here.
    """

    hidden_channels: int = setting(10, "width of the hidden layers", ge=1)
    layers: int = setting(3, "number of layers with weights; 1 for none hidden", ge=1)
    gamma_modulator: float = setting(0.0, "weight of the mean absolute weight of the last layer", ge=0)

    def build(self, n_behavior: int, n_units: int) -> MLPGainModulator:
        """Return the modulator of one scan with ``n_behavior`` channels of behaviour."""
        return MLPGainModulator(self, n_behavior, n_units)


@dataclass(frozen=True)
class MLPElu(ModulatorConfiguration):
    """A network with a ReLU after each layer and elu(x) + 1 at its end, one for each scan; gains start at nearly 1.

    neuralpredictors' form, for comparison: gains are never below 1, so behaviour cannot suppress. Prefer `MLPGain`.
    """

    hidden_channels: int = setting(5, "width of the hidden layers", ge=1)
    layers: int = setting(2, "number of layers with weights; 1 for none hidden", ge=1)
    gamma_modulator: float = setting(0.0, "weight of the mean absolute weight of the last layer", ge=0)

    def build(self, n_behavior: int, n_units: int) -> MLPEluModulator:
        """Return the modulator of one scan with ``n_behavior`` channels of behaviour."""
        return MLPEluModulator(self, n_behavior, n_units)


@dataclass(frozen=True)
class History(ModulatorConfiguration):
    """`MLPGain` whose first layer sees the behaviour of the present and of past frames; for movies only.

    The first layer is a causal convolution over time.
    """

    history_frames: int = setting(16, "length of the window that ends with the present frame", unit="frames", ge=1)
    hidden_channels: int = setting(10, "width of the hidden layers, and temporal filters for each channel", ge=1)
    layers: int = setting(2, "number of layers with weights, the temporal filters being the first", ge=2)
    gamma_modulator: float = setting(0.0, "weight of the mean absolute weight of the last layer", ge=0)

    def needs(self) -> tuple[Need, ...]:
        """Return behaviour and movies: with still images, behaviour has no past."""
        return (*super().needs(), movies("the behaviour of still images has no past", "use MLPGain"))

    def build(self, n_behavior: int, n_units: int) -> HistoryModulator:
        """Return the modulator of one scan with ``n_behavior`` channels of behaviour."""
        return HistoryModulator(self, n_behavior, n_units)
