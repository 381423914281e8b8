"""The readout whose units attend to places by what they show there."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.configuration import setting
from pipeline.errors import ConfigurationError
from pipeline.models.readouts.base import Readout, ReadoutConfiguration, ReadoutSite, UnitIndex
from pipeline.models.readouts.places import START, bumps, centroid, moved, require_size, spread


class AttentionReadout(Readout):
    """Each unit reads the mean feature map, places weighted by its attention; see `Attention`.

    Attributes
    ----------
    hidden : Sequential
        Layers between the feature maps and the scores.
    query : Parameter
        (unit, channel, kernel, kernel), the filters whose results are the scores of what is seen at each place.
    place : Parameter or None
        (unit, height, width), scores of the places themselves.
    features : Parameter
        (unit, channel).
    """

    def __init__(self, settings: Attention, site: ReadoutSite) -> None:
        super().__init__(site, settings.bias)
        self.settings = settings
        self.size = site.height, site.width
        channels, kernel = site.in_channels, settings.attention_kernel
        self.hidden = nn.Sequential()
        for _ in range(settings.attention_layers - 1):
            convolution = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, bias=False)
            nn.init.xavier_normal_(convolution.weight)
            self.hidden.extend([convolution, nn.BatchNorm2d(channels), nn.ELU()])
        # No bias: what is added to all scores of a unit has no effect.
        self.query = nn.Parameter(torch.empty(site.n_units, channels, kernel, kernel))
        nn.init.xavier_normal_(self.query)
        self.features = nn.Parameter(settings.init_noise * torch.randn(site.n_units, channels))
        self.place = None
        if settings.positional:
            flat = torch.zeros(site.n_units, *self.size)
            start = flat if site.centers is None else bumps(site.centers.clamp(-1, 1), settings.init_sigma, *self.size)
            self.place = nn.Parameter(start)

    def attention(self, frames: Tensor, units: UnitIndex) -> Tensor:
        """Return how much units attend to each place, (frame, unit, height * width), summing to 1 over places."""
        scores = F.conv2d(self.hidden(frames), self.query[units], padding=self.settings.attention_kernel // 2)
        if self.place is not None:
            scores = scores + self.place[units]
        return scores.flatten(2).softmax(dim=2)

    def drive_of_frames(self, frames: Tensor, shift: Tensor | None, units: UnitIndex) -> Tensor:
        """See `Readout.drive_of_frames`; a shift moves the scores of places with the eye."""
        require_size(frames, self.size)
        frames = moved(frames, shift)
        seen = self.attention(frames, units) @ frames.flatten(2).transpose(1, 2)
        return torch.einsum("fuc,uc->fu", seen, self.features[units])

    def paired_drive_of_frames(self, frames: Tensor, shift: Tensor | None, units: Tensor) -> Tensor:
        """See `Readout.paired_drive_of_frames`."""
        require_size(frames, self.size)
        frames = moved(frames, shift)
        # Each frame is a group of channels of one large frame, filtered by the query of its own unit.
        seen = self.hidden(frames).flatten(0, 1)[None].contiguous()
        queries, pad = self.query[units], self.settings.attention_kernel // 2
        scores = F.conv2d(seen, queries, padding=pad, groups=len(units))[0]
        if self.place is not None:
            scores = scores + self.place[units]
        weighed = torch.einsum("fchw,fc->fhw", frames, self.features[units])
        return (weighed.flatten(1) * scores.flatten(1).softmax(dim=1)).sum(dim=1)

    def _place_alone(self) -> Tensor:
        """Return the attention to maps that show the same everywhere, (unit, height, width)."""
        scores = self.features.new_zeros(len(self.features), *self.size) if self.place is None else self.place
        return scores.detach().flatten(1).softmax(dim=1).unflatten(1, self.size)

    def positions(self) -> Tensor:
        """Return the mean place of the attention to maps that show the same everywhere, (unit, 2).

        Without scores of places that is the centre: such units have no place of their own.
        """
        return centroid(self._place_alone())

    def position_spread(self) -> Tensor:
        """Return the standard deviation of that attention in x and y, (unit, 2)."""
        return spread(self._place_alone())

    def spatial_masks(self) -> Tensor:
        """Return the attention to maps that show the same everywhere, (unit, height, width), summing to 1."""
        return self._place_alone()

    def feature_weights(self) -> Tensor:
        """Return the weights of the channels, (unit, channel)."""
        return self.features.detach()

    def regularizer(self) -> dict[str, Tensor]:
        """Return the summed absolute feature weights."""
        return {"readout": self.settings.gamma_readout * self.features.abs().sum()}


@dataclass(frozen=True)
class Attention(ReadoutConfiguration):
    """Each unit attends to places by a softmax of scores, from what the maps show there and from the place itself.

    Without scores of places (``positional=False``) it is the AttentionReadout of neuralpredictors, whose units find
    what they look for anywhere; eye movements hardly matter to them.
    """

    init_positions: str = setting(
        "random",
        "scores of places start equal, or as Gaussians around the peak of each unit's response-triggered average",
        choices=START,
    )
    init_sigma: float = setting(0.3, "standard deviation of those Gaussians", unit="half maps", gt=0)
    positional: bool = setting(True, "places have scores of their own")
    attention_kernel: int = setting(1, "side of the filters that score what is seen", unit="px", ge=1)
    attention_layers: int = setting(1, "layers from the feature maps to the scores; 1 for none hidden", ge=1)
    init_noise: float = setting(1e-3, "standard deviation of the feature weights at the start", gt=0)
    gamma_readout: float = setting(1.0, "weight of the summed absolute feature weights", ge=0)
    bias: bool = setting(True, "a bias for each unit, starting at the drive of its mean response")

    def __post_init__(self) -> None:
        """Refuse even filters, and places to start from without scores of places."""
        super().__post_init__()
        if self.attention_kernel % 2 == 0:
            raise ConfigurationError(
                f"{self.kind()}.attention_kernel: {self.attention_kernel} is even and cannot be padded symmetrically: "
                "use an odd size"
            )
        if self.needs_centers and not self.positional:
            raise ConfigurationError(f"{self.kind()}.init_positions: 'triggered_average' needs positional=True")

    def build(self, site: ReadoutSite) -> AttentionReadout:
        """Return the readout of one scan."""
        return AttentionReadout(self, site)
