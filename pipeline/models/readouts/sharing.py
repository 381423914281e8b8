"""What units that are known to be one neuron share: a vector of features, a place, or both."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from pipeline.models.readouts.base import ReadoutSite

SHARE = ("none", "features", "grid", "both")
"""What a kind may share."""


class Neurons(nn.Module):
    """The neurons behind the units of one or several scans, and the parameters that they have once.

    Features start equal; means start at the mean of the centres of the neuron's units if the centres of all scans are
    known, otherwise at random.

    Parameters
    ----------
    share : str
        One of `SHARE`.
    sites : mapping
        Of the scans, by data_key.
    index : mapping
        What `number_neurons` says of them.
    init_range : float
        Means at random are within plus or minus this.

    Attributes
    ----------
    features : Parameter or None
        (neuron, channel), if features are shared.
    mu : Parameter or None
        (neuron, 2), means in x, y in half maps, if places are shared.
    copies : Tensor
        (neuron,), how many units are this neuron.
    """

    copies: Tensor

    def __init__(
        self, share: str, sites: Mapping[str, ReadoutSite], index: Mapping[str, Tensor], init_range: float
    ) -> None:
        super().__init__()
        units = torch.cat(list(index.values()))
        self.register_buffer("copies", units.bincount())
        neurons, channels = len(self.copies), next(iter(sites.values())).in_channels
        self.features: nn.Parameter | None = None
        self.mu: nn.Parameter | None = None
        if share in ("features", "both"):
            self.features = nn.Parameter(torch.full((neurons, channels), 1 / channels))
        if share in ("grid", "both"):
            mu = torch.empty(neurons, 2).uniform_(-init_range, init_range)
            centers = [site.centers.clamp(-1, 1) for site in sites.values() if site.centers is not None]
            if len(centers) == len(sites):
                mu = torch.zeros(neurons, 2).index_add_(0, units, torch.cat(centers)) / self.copies[:, None]
            self.mu = nn.Parameter(mu)

    def constrain(self) -> None:
        """Bring means that an optimiser step carried out of the map back to its border."""
        if self.mu is not None:
            with torch.no_grad():
                self.mu.clamp_(-1, 1)


def number_neurons(sites: Mapping[str, ReadoutSite]) -> dict[str, Tensor]:
    """Return for each scan which neuron each unit is, (unit,).

    Units with the same entry in `ReadoutSite.match_ids` are one neuron, in whatever scans they are; units without one
    are a neuron each. Matched neurons come first, in the order of their match_ids.
    """
    matches = {key: site.match_ids or (None,) * site.n_units for key, site in sites.items()}
    known = sorted({match for of_scan in matches.values() for match in of_scan if match is not None})
    neurons = {match: number for number, match in enumerate(known)}
    index, following = {}, len(neurons)
    for key, of_scan in matches.items():
        numbers = []
        for match in of_scan:
            numbers.append(following if match is None else neurons[match])
            following += match is None
        index[key] = torch.tensor(numbers)
    return index
