"""Readouts that look at one point of the feature maps, drawn from a Gaussian while they train."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.configuration import setting
from pipeline.errors import ConfigurationError
from pipeline.models.cores.base import to_frames
from pipeline.models.needs import Need
from pipeline.models.readouts.base import Readout, ReadoutConfiguration, ReadoutSite, Sight, UnitIndex
from pipeline.models.readouts.noise import StandardNormal
from pipeline.models.readouts.places import START, sight_of_points, starting_points
from pipeline.models.readouts.sampling import weighed_at_own_point, weighed_at_points
from pipeline.models.readouts.sharing import SHARE, Neurons, number_neurons


class FullGaussian2dReadout(Readout):
    """Each unit reads one point of the feature maps, drawn from its Gaussian while training; see `FullGaussian2d`.

    Parameters have the names of neuralpredictors' readout of the same name.

    Attributes
    ----------
    mu : Parameter
        (unit, 2), means in x, y; -1 and 1 are the centres of the outermost pixels. Not if predicted or shared.
    mu_transform : Module
        The predictor of the means, and `source_grid`, the buffer (unit, dimension) that it sees; or, with a shared
        grid, the linear map from the neurons' means to those in this scan: the identity at the start, and always for
        the first scan.
    sigma : Parameter
        (unit, 2, 2), (unit, 2) or (unit, 1) for a full, uncorrelated or isotropic Gaussian: the matrix (or scale) that
        multiplies standard normal noise.
    features : Parameter
        (unit, channel). Not with shared features.
    bias : Parameter
        (unit,), if the configuration has one.
    neurons : Neurons or None
        What units share. It is a part of the first scan's readout and lent to the others, so that an encoder has, saves
        and trains its parameters once.
    neuron : Tensor
        (unit,), which neuron each unit is; a buffer. Only with something shared.
    scales : Parameter
        (unit,), multiply shared features.

    References
    ----------
    Lurz et al. (2021), Generalization in data-driven models of primary visual cortex, ICLR.
    """

    source_grid: Tensor
    mu_transform: nn.Module
    neuron: Tensor
    neurons: Neurons | None

    def __init__(
        self,
        settings: FullGaussian2d,
        site: ReadoutSite,
        neurons: Neurons | None = None,
        neuron: Tensor | None = None,
        first: bool = True,
    ) -> None:
        super().__init__(site, settings.bias)
        self.settings = settings
        units = site.n_units
        if first:
            self.neurons = neurons
        else:
            object.__setattr__(self, "neurons", neurons)  # lent: PyTorch would make it a part of this module too
        self.register_buffer("neuron", neuron)
        shape = {"full": (units, 2, 2), "uncorrelated": (units, 2), "isotropic": (units, 1)}[settings.gauss_type]
        if settings.shares("grid"):
            self.mu_transform = nn.Identity() if first else _identity()
        elif settings.grid_mean_predictor == "none":
            self.mu = nn.Parameter(starting_points(site, settings.init_mu_range))
        else:
            self.register_buffer("source_grid", _source_grid(site, settings.predictor_input_dimensions))
            self.mu_transform = _mean_predictor(settings)
        self.noise = StandardNormal(units, 2)
        self.sigma = nn.Parameter(torch.empty(shape))
        if settings.gauss_type == "full":
            nn.init.uniform_(self.sigma, -settings.init_sigma, settings.init_sigma)
        else:
            nn.init.constant_(self.sigma, settings.init_sigma)
        if settings.shares("features"):
            self.scales = nn.Parameter(torch.ones(units))
        else:
            self.features = nn.Parameter(torch.full((units, site.in_channels), 1 / site.in_channels))

    def drive_of_frames(self, frames: Tensor, shift: Tensor | None, units: UnitIndex) -> Tensor:
        """See `Readout.drive_of_frames`."""
        points = self._points(len(frames), units)
        if shift is not None:
            points = points + shift[:, None]
        return weighed_at_points(frames, points, self._weights(units))

    def paired_drive_of_frames(self, frames: Tensor, shift: Tensor | None, units: Tensor) -> Tensor:
        """See `Readout.paired_drive_of_frames`."""
        if self.training:  # points are drawn for all units of a frame
            return super().paired_drive_of_frames(frames, shift, units)
        points = self._means(units).clamp(-1, 1)
        return weighed_at_own_point(frames, points if shift is None else points + shift, self._weights(units))

    def sight(self, units: Tensor, shift: Tensor | None, size: tuple[int, int]) -> Sight | None:
        """See `Readout.sight`."""
        if self.training:
            return None
        points = self._means(units).clamp(-1, 1)[:, None]
        return sight_of_points(points if shift is None else points + shift, *size)

    def paired_in_sight(self, seen: Tensor, units: Tensor, sight: Sight) -> Tensor:
        """See `Readout.paired_in_sight`."""
        batch, _, time, _, _ = seen.shape
        points = sight.points.expand(-1, time, -1).flatten(0, 1)
        weights = self._weights(units).repeat_interleave(time, dim=0)
        drive = weighed_at_own_point(to_frames(seen), points, weights).unflatten(0, (batch, time))
        return drive if self.bias is None else drive + self.bias[units][:, None]

    def _means(self, units: UnitIndex) -> Tensor:
        if self.neurons is not None and self.neurons.mu is not None:
            places = self.neurons.mu[self.neuron[units]].clamp(-1, 1)
        elif self.settings.grid_mean_predictor == "none":
            return self.mu[units].clamp(-1, 1)
        else:
            places = self.source_grid[units]
        with torch.autocast(places.device.type, enabled=False):  # half precision is too coarse for places
            means: Tensor = self.mu_transform(places)
        return means

    def _weights(self, units: UnitIndex) -> Tensor:
        if self.neurons is None or self.neurons.features is None:
            return self.features[units]
        return self.scales[units].unsqueeze(1) * self.neurons.features[self.neuron[units]]

    def _points(self, frames: int, units: UnitIndex) -> Tensor:
        """Return points (frame, unit, 2) inside the map: sampled for each frame in training, otherwise the means."""
        mean = self._means(units)
        if not self.training:
            return mean.clamp(-1, 1).expand(frames, -1, -1)
        noise = self.noise(mean, frames)
        sigma = self.sigma[units]
        full = self.settings.gauss_type == "full"
        offsets = (sigma @ noise.unsqueeze(3)).squeeze(3) if full else sigma * noise
        return (mean + offsets).clamp(-1, 1)

    def constrain(self) -> None:
        """Bring means that an optimiser step carried out of the map back to its border."""
        if self.neurons is not None:
            self.neurons.constrain()
        if hasattr(self, "mu"):
            with torch.no_grad():
                self.mu.clamp_(-1, 1)

    def positions(self) -> Tensor:
        """Return where units look, (unit, 2): x, y between -1 and 1, the centres of the outermost pixels."""
        return self._means(slice(None)).detach().clamp(-1, 1)

    def position_spread(self) -> Tensor:
        """Return the standard deviation of the sampled positions in x and y, (unit, 2), before clamping to the map."""
        sigma = self.sigma.detach()
        if self.settings.gauss_type == "full":
            return sigma.square().sum(dim=2).sqrt()
        return sigma.abs().expand(-1, 2)

    def feature_weights(self) -> Tensor:
        """Return the weights of the channels, (unit, channel)."""
        return self._weights(slice(None)).detach()

    def regularizer(self) -> dict[str, Tensor]:
        """Return the summed absolute feature weights.

        A neuron whose features are shared counts once, as the mean of its units: each adds its part of the sum in the
        scan where it is. neuralpredictors counts the units of the first scan, and leaves the scales of others free.
        """
        sums = self._weights(slice(None)).abs().sum(dim=1)
        if self.neurons is not None and self.neurons.features is not None:
            sums = sums / self.neurons.copies[self.neuron]
        return {"readout": self.settings.gamma_readout * sums.sum()}


def _source_grid(site: ReadoutSite, dimensions: int) -> Tensor:
    """Return the units' positions, centred and divided by their largest coordinate, (unit, dimension)."""
    assert site.unit_positions is not None  # `FullGaussian2d.build_all` asked for them
    centred = site.unit_positions[:, :dimensions].float()
    centred = centred - centred.mean(dim=0)
    extent = centred.abs().max()
    return centred / extent if extent > 0 else centred  # one unit alone lies at the origin


def _identity() -> nn.Linear:
    """Return a linear map of places that starts as the identity."""
    layer = nn.Linear(2, 2)
    nn.init.eye_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def _mean_predictor(settings: FullGaussian2d) -> nn.Sequential:
    """Return the network from places in the tissue to means, layer by layer as neuralpredictors has it."""
    hidden = settings.predictor_hidden_layers
    widths = [settings.predictor_input_dimensions, *[settings.predictor_hidden_features] * hidden, 2]
    layers: list[nn.Module] = []
    for width, following in itertools.pairwise(widths):
        layers += [nn.Linear(width, following), nn.ELU()]
    return nn.Sequential(*layers[:-1], *([nn.Tanh()] if settings.predictor_final_tanh else []))


@dataclass(frozen=True)
class FullGaussian2d(ReadoutConfiguration):
    """A point readout whose position is learned as a Gaussian: sampled while training, its mean otherwise.

    With ``grid_mean_predictor='cortex'``, the means of all units come from one small network that sees where the units
    lie in the tissue, so that retinotopy helps to find them (Lurz et al. 2021).

    Units that are known to be one neuron, in one scan or in several, can share their features, each with a scale and
    bias of its own, and their place, which every scan after the first moves by a linear map of its own, for eyes and
    screens may have moved.
    """

    init_positions: str = setting(
        "random",
        "where means start: at random, or at the peak of each unit's response-triggered average",
        choices=START,
    )
    init_mu_range: float = setting(0.3, "means start uniformly within plus or minus this", unit="half maps", gt=0, le=1)
    init_sigma: float = setting(
        0.3, "start of the spread: the constant, or the range of the matrix", unit="half maps", gt=0
    )
    gauss_type: str = setting("isotropic", "shape of the Gaussian", choices=("full", "uncorrelated", "isotropic"))
    gamma_readout: float = setting(0.0076, "weight of the summed absolute feature weights", ge=0)
    bias: bool = setting(True, "a bias for each unit, starting at the drive of its mean response")
    grid_mean_predictor: str = setting(
        "none",
        "what means come from: each is learned, or a network sees places in the tissue",
        choices=("none", "cortex"),
    )
    predictor_input_dimensions: int = setting(2, "coordinates that it sees: x, y or x, y, z", ge=1, le=3)
    predictor_hidden_layers: int = setting(1, "hidden layers of the network; 0 for a linear map", ge=0)
    predictor_hidden_features: int = setting(30, "width of its hidden layers", ge=1)
    predictor_final_tanh: bool = setting(True, "a tanh at its end, which keeps means inside the map")

    share: str = setting("none", "what units that are one neuron (UnitMatch) have in common", choices=SHARE)

    def __post_init__(self) -> None:
        """Refuse two sources of the means."""
        super().__post_init__()
        if self.shares("grid") and self.grid_mean_predictor != "none":
            raise ConfigurationError(
                f"{self.kind()}: means cannot be shared and come from a network: set share to 'none' or 'features', or "
                "grid_mean_predictor to 'none'"
            )
        if self.needs_centers and self.grid_mean_predictor != "none":
            raise ConfigurationError(
                f"{self.kind()}: means cannot start at the triggered average and come from a network: "
                "set init_positions to 'random' or grid_mean_predictor to 'none'"
            )

    def needs(self) -> tuple[Need, ...]:
        """Return the places of the units, if a network is to see them, and matches of units that are to share."""
        places = Need(
            "the position in the tissue of every unit",
            lambda scan: scan.unit_positions is not None,
            "enter them in UnitPosition (geniculate annotate), or set it to 'none'",
            by="grid_mean_predictor",
            everywhere=True,
        )
        matches = Need(
            "units that are known to be one neuron",
            lambda scan: scan.match_ids is not None,
            "enter them in UnitMatch (geniculate annotate, column match_id), or set it to 'none'",
            by="share",
        )
        asked = (self.grid_mean_predictor != "none", places), (self.share != "none", matches)
        return tuple(need for wanted, need in asked if wanted)

    def build(self, site: ReadoutSite) -> FullGaussian2dReadout:
        """Return the readout of one scan; see `build_all`."""
        return self.build_all({site.data_key: site})[site.data_key]

    def build_all(self, sites: Mapping[str, ReadoutSite]) -> dict[str, FullGaussian2dReadout]:
        """Return the readouts of all scans, with the neurons that they share.

        Raises
        ------
        ConfigurationError
            If a network is to predict the means, but the positions of the units are not known, or neurons are to share
            something, but no unit has a match.
        """
        for need in self.needs():
            need.require(self, sites)
        if self.share == "none":
            return {data_key: FullGaussian2dReadout(self, site) for data_key, site in sites.items()}
        index = number_neurons(sites)
        neurons = Neurons(self.share, sites, index, self.init_mu_range)
        first = next(iter(sites))
        return {
            data_key: FullGaussian2dReadout(self, site, neurons, index[data_key], data_key == first)
            for data_key, site in sites.items()
        }

    def shares(self, what: str) -> bool:
        """Tell whether 'features' or the 'grid' are shared."""
        return self.share in (what, "both")
