"""Recurrent modules between core and readout. They see one frame of features after the other and forget nothing."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.configuration import setting
from pipeline.errors import ConfigurationError
from pipeline.models.cores.base import channels_last
from pipeline.models.cores.spatial import SpatialConv2d
from pipeline.models.needs import Need, NetworkPart, movies


class Recurrent(nn.Module):
    """What every recurrent module offers; this one passes features on as they are.

    Attributes
    ----------
    out_channels : int
        Channels of the feature maps that come out. Time, height and width stay.
    """

    def __init__(self, out_channels: int) -> None:
        super().__init__()
        self.out_channels = out_channels

    def forward(self, features: Tensor, light: Tensor | None = None) -> Tensor:
        """Map (batch, channel, time, height, width) to (batch, `out_channels`, time, height, width).

        ``light`` is (batch, train, time), of the frames of the features; None where it is off or has no way in.
        """
        return features

    def regularizer(self) -> dict[str, Tensor]:
        """Return the weighted penalties by name."""
        return {}


class ConvGRUModule(Recurrent):
    """A gated recurrent unit whose products are convolutions; see the kind `ConvGRU`.

    With input x_t, state h_t and sigmoid s: r = s(conv_r(x_t, h)), z = s(conv_z(x_t, h)),
    n = tanh(conv_n(x_t) + r * conv_m(h)), h_t = (1 - z) * n + z * h.
    The initial state is a learned value for each channel, the same at every place.

    With light in the gates, r = s(conv_r(x_t, h) + A l_t) and z = s(conv_z(x_t, h) + B l_t) instead: each train of
    light l_t adds a learned value to each channel's gates, the same at every place and for all scans. A and B have no
    bias and start at zero, so darkness is the plain unit, and so is the unit before training.

    References
    ----------
    Ballas, Yao, Pal and Courville (2016), Delving deeper into convolutional networks for learning video
    representations, ICLR.
    """

    def __init__(self, settings: ConvGRU, in_channels: int, n_opto: int = 0) -> None:
        super().__init__(settings.hidden_channels)
        hidden = settings.hidden_channels
        self.settings = settings
        self.from_input = SpatialConv2d(
            in_channels, 3 * hidden, settings.input_kernel, padding=settings.input_kernel // 2
        )
        self.from_state = nn.Conv2d(
            hidden, 3 * hidden, settings.recurrent_kernel, padding=settings.recurrent_kernel // 2
        )
        self.initial_state = nn.Parameter(torch.zeros(hidden))
        self.light_to_gates = nn.Parameter(torch.zeros(2 * hidden, n_opto)) if settings.opto == "gates" else None
        channels_last(self)

    def forward(self, features: Tensor, light: Tensor | None = None) -> Tensor:
        """Return the states after each frame, (batch, hidden channel, time, height, width)."""
        batch, channel, time, height, width = features.shape
        frames = features.permute(2, 0, 3, 4, 1).reshape(time * batch, height, width, channel).permute(0, 3, 1, 2)
        driven = self.from_input(frames).unflatten(0, (time, batch))  # all frames at once: only states must wait
        if light is not None and self.light_to_gates is not None:
            to_gates = F.linear(light.permute(2, 0, 1), self.light_to_gates)
            driven = driven + F.pad(to_gates, (0, self.out_channels))[..., None, None]  # nothing to the candidate
        state = self.initial_state[None, :, None, None].expand(batch, -1, height, width)
        states = []
        for frame in driven:
            reset_in, update_in, new_in = frame.chunk(3, dim=1)
            reset_state, update_state, new_state = self.from_state(state).chunk(3, dim=1)
            update = torch.sigmoid(update_in + update_state)
            new = torch.tanh(new_in + torch.sigmoid(reset_in + reset_state) * new_state)
            state = new + update * (state - new)
            states.append(state)
        return torch.stack(states, dim=1).permute(0, 2, 1, 3, 4)

    def regularizer(self) -> dict[str, Tensor]:
        """Return the summed absolute recurrent weights."""
        return {"recurrent": self.settings.gamma_recurrent * self.from_state.weight.abs().sum()}


@dataclass(frozen=True)
class NoRecurrence(NetworkPart):
    """No recurrent module: the readout sees the core's features."""

    def build(self, in_channels: int, n_opto: int = 0) -> Recurrent:
        """Return a module that changes nothing."""
        return Recurrent(in_channels)


@dataclass(frozen=True)
class ConvGRU(NetworkPart):
    """A convolutional gated recurrent unit over the frames."""

    hidden_channels: int = setting(32, "channels of the state", ge=1)
    input_kernel: int = setting(5, "side of the filters on the features", unit="px", ge=1)
    recurrent_kernel: int = setting(5, "side of the filters on the state", unit="px", ge=1)
    gamma_recurrent: float = setting(0.0, "weight of the summed absolute recurrent weights", ge=0)
    opto: str = setting("none", "where light enters: nowhere, or the gates", choices=("none", "gates"))

    def __post_init__(self) -> None:
        """Refuse even filters: the state keeps the size of the feature maps."""
        super().__post_init__()
        for field in ("input_kernel", "recurrent_kernel"):
            if getattr(self, field) % 2 == 0:
                raise ConfigurationError(f"{self.kind()}.{field}: {getattr(self, field)} is even, use an odd size")

    def needs(self) -> tuple[Need, ...]:
        """Return movies, and light if it is to enter the gates."""
        frames = movies("in still images nothing recurs", "use NoRecurrence")
        light = Need(
            "light for the gates",
            lambda scan: scan.n_opto > 0,
            "set opto of ConvGRU to 'none'",
            by="opto",
            given_by={"opto": ("apart",)},
        )
        return (frames, light) if self.opto == "gates" else (frames,)

    def build(self, in_channels: int, n_opto: int = 0) -> ConvGRUModule:
        """Return the unit for features with ``in_channels`` channels and ``n_opto`` trains of light."""
        return ConvGRUModule(self, in_channels, n_opto)
