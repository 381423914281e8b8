"""What stimuli are made to raise.

An objective is called with stimuli (batch, channel, time, height, width) and their numbers among all that are optimised
(batch,), and returns a value for each, (batch,), which must depend on no other stimulus: a user's own function may take
the place of these. Those whose stimuli belong together (`Diverse`) get whole groups.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.errors import ConfigurationError
from pipeline.mei.conditions import Conditions

Objective = Callable[[Tensor, Tensor], Tensor]


class OneUnit:
    """The response of one unit for each stimulus, the only one that is evaluated.

    Parameters
    ----------
    conditions : Conditions
    units : sequence of int
        Of every stimulus, positions in the readout.
    """

    def __init__(self, conditions: Conditions, units: Sequence[int] | Tensor) -> None:
        self._conditions = conditions
        self._units = torch.as_tensor(units, device=conditions.device)

    def __call__(self, stimuli: Tensor, index: Tensor) -> Tensor:
        """Return the responses."""
        return self._conditions.own(stimuli, self._units[index])


class WeightedUnits:
    """A weighted sum of units' responses for each stimulus.

    Parameters
    ----------
    conditions : Conditions
    weights : sequence of mapping
        For every stimulus, the weight of each unit.
    """

    def __init__(self, conditions: Conditions, weights: Sequence[dict[int, float]]) -> None:
        self._conditions = conditions
        units = sorted({unit for of_one in weights for unit in of_one})
        self._units = torch.tensor(units, device=conditions.device)
        rows = [[of_one.get(unit, 0.0) for unit in units] for of_one in weights]
        self._weights = torch.tensor(rows, device=conditions.device)

    def __call__(self, stimuli: Tensor, index: Tensor) -> Tensor:
        """Return the sums."""
        return (self._conditions.all(stimuli, self._units) * self._weights[index]).sum(dim=1)


def mean_of_units(conditions: Conditions, groups: Sequence[Sequence[int]]) -> WeightedUnits:
    """Return the mean response of a group of units, one group for each stimulus."""
    return WeightedUnits(conditions, [dict.fromkeys(group, 1 / len(group)) for group in groups])


def contrast_of_groups(
    conditions: Conditions, driven: Sequence[Sequence[int]], silenced: Sequence[Sequence[int]]
) -> WeightedUnits:
    """Return the mean response of one group minus that of another, two groups for each stimulus."""
    pairs = zip(driven, silenced, strict=True)
    return WeightedUnits(
        conditions, [dict.fromkeys(on, 1 / len(on)) | dict.fromkeys(off, -1 / len(off)) for on, off in pairs]
    )


def least_exciting(conditions: Conditions, units: Sequence[int]) -> WeightedUnits:
    """Return minus the response of one unit for each stimulus."""
    return WeightedUnits(conditions, [{unit: -1.0} for unit in units])


class Discriminating:
    """How much a stimulus drives one group of units and no other: mean / tau - logsumexp of all means / tau.

    It is the logarithm of the probability of the group in a softmax of the groups' mean responses (Burg et al. 2024,
    Most discriminative stimuli for functional cell type clustering, ICLR).

    Parameters
    ----------
    conditions : Conditions
    groups : sequence of sequence of int
        The groups, positions of units in the readout.
    targets : sequence of int
        Of every stimulus, which group it is for.
    tau : float
        Temperature (normalised responses).
    """

    def __init__(
        self, conditions: Conditions, groups: Sequence[Sequence[int]], targets: Sequence[int], tau: float = 1.6
    ) -> None:
        self._conditions, self._tau = conditions, tau
        units = sorted({unit for group in groups for unit in group})
        self._units = torch.tensor(units, device=conditions.device)
        mean = [[(unit in group) / len(group) for group in groups] for unit in units]
        self._mean = torch.tensor(mean, device=conditions.device)
        self._targets = torch.tensor(targets, device=conditions.device)

    def __call__(self, stimuli: Tensor, index: Tensor) -> Tensor:
        """Return the log probabilities."""
        means = self._conditions.all(stimuli, self._units) @ self._mean
        return F.log_softmax(means / self._tau, dim=1).gather(1, self._targets[index, None])[:, 0]


class Diverse:
    """The mean of another objective over a group of stimuli, plus how different they are; all of a group get one value.

    The set is what is optimised, so it is also kept as a set. As ``diverse_deepdraw`` of staticnet's analyses.

    Parameters
    ----------
    inner : Objective
        Of each stimulus.
    group_size : int
        Stimuli of a group, which are neighbours.
    weight : float
        Of the distance.
    metric : str
        ``correlation`` and ``cosine``: minus the correlation or cosine; ``euclidean``.
    linkage : str
        Which of the pairwise distances counts: ``minimum`` or ``average``.
    mask : Tensor, optional
        (height, width), by which stimuli are multiplied before they are compared.
    """

    def __init__(
        self, inner: Objective, group_size: int, weight: float, metric: str = "correlation",
        linkage: str = "minimum", mask: Tensor | None = None,
    ) -> None:  # fmt: skip
        if group_size < 2:
            raise ConfigurationError(f"a diverse set has at least 2 stimuli, not {group_size}")
        self.group_size = group_size
        self._inner, self._weight, self._metric, self._linkage, self._mask = inner, weight, metric, linkage, mask

    def __call__(self, stimuli: Tensor, index: Tensor) -> Tensor:
        """Return the value of each stimulus's group."""
        size = self.group_size
        means = self._inner(stimuli, index).unflatten(0, (-1, size)).mean(dim=1)
        seen = stimuli if self._mask is None else stimuli * self._mask
        first, second = torch.triu_indices(size, size, 1, device=stimuli.device)
        distances = -similarities(seen.flatten(1).unflatten(0, (-1, size)), self._metric)[:, first, second]
        linked = distances.amin(dim=1) if self._linkage == "minimum" else distances.mean(dim=1)
        return (means + self._weight * linked).repeat_interleave(size)


def similarities(rows: Tensor, metric: str, others: Tensor | None = None) -> Tensor:
    """Return similarities of rows (..., item, pixel) to one another or to others, (..., item, other).

    ``correlation`` and ``cosine`` as they are called; ``euclidean`` is minus the distance.
    """
    others = rows if others is None else others
    if metric == "euclidean":
        # cdist has no gradient at distance 0.
        return -((rows.unsqueeze(-2) - others.unsqueeze(-3)).square().sum(dim=-1) + 1e-12).sqrt()
    if metric == "correlation":
        rows, others = (x - x.mean(dim=-1, keepdim=True) for x in (rows, others))
    elif metric != "cosine":
        raise ConfigurationError(f"there is no metric {metric!r}: use correlation, cosine or euclidean")
    return F.normalize(rows, dim=-1, eps=1e-12) @ F.normalize(others, dim=-1, eps=1e-12).transpose(-2, -1)
