"""Which units are worth an experiment: reliable, well predicted, better by a CNN than by a linear model, far apart."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.configuration import Configuration, setting
from pipeline.errors import DatasetError
from pipeline.models import Attention, Network, NoRecurrence

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class HighUnits(Configuration):
    """The rule of Walker et al. (2019), staticnet's CorrectedHighUnitSelection; see `select_high_units`.

    With both distances 0, nothing is asked of where units lie: staticnet's NonSpatialHighUnitSelection.
    """

    oracle_share: float = setting(0.5, "best part of each scan's units, by oracle, that is looked at", gt=0, le=1)
    edge_distance: float = setting(
        10.0, "units lie farther than this from the edge of their field; 0: anywhere", unit="um", ge=0
    )
    percentile: float = setting(
        70.0, "percentile of the fraction oracle that units reach, in both models", ge=0, le=100
    )
    unit_distance: float = setting(
        20.0, "units nearer than this to a better one are left out; 0: none", unit="um", ge=0
    )
    max_units: int = setting(0, "units that are kept at most, the best ones; 0 for all", ge=0)
    score_tier: str = setting(
        "test", "trials on which the models are compared", choices=("validation", "test", "final", "ood")
    )

    @property
    def needs_positions(self) -> bool:
        """Whether it matters where units lie."""
        return self.edge_distance > 0 or self.unit_distance > 0


SELECTION_KINDS: tuple[type[Configuration], ...] = (HighUnits,)


@dataclass(frozen=True)
class Candidates:
    """Units to choose from.

    Attributes
    ----------
    scan : ndarray
        (unit,) name of the scan of each unit.
    unit_id : ndarray
        (unit,).
    oracle_share : ndarray
        (unit,) share of the ranked units of its scan that have a higher oracle; NaN for units without an oracle.
    cnn_fraction_oracle, lin_fraction_oracle : ndarray
        (unit,) correlation / oracle of the CNN and of the linear model; NaN where undefined.
    position : ndarray
        (unit, 3): x, y and z in the tissue (um); NaN where unknown.
    field : ndarray
        (unit, 2, 2): for x and y the lowest and the highest coordinate of the unit's field of view (um).
    """

    scan: np.ndarray
    unit_id: np.ndarray
    oracle_share: np.ndarray
    cnn_fraction_oracle: np.ndarray
    lin_fraction_oracle: np.ndarray
    position: np.ndarray
    field: np.ndarray


@dataclass(frozen=True)
class HighUnitChoice:
    """The units that a rule chose, and how many were left after each of its steps.

    Attributes
    ----------
    units : ndarray
        (chosen,) positions among the candidates, the best first.
    reliable : int
        Units of high oracle.
    inside : int
        Of these, units far from the edge of their field.
    predicted : int
        Of these, units that both models predict well.
    """

    units: np.ndarray
    reliable: int
    inside: int
    predicted: int


def rank_by_oracle(oracle: np.ndarray) -> np.ndarray:
    """Return the positions of one scan's units by falling oracle, those without one left out; ties keep their order."""
    defined = np.flatnonzero(np.isfinite(oracle))
    return defined[np.argsort(-oracle[defined], kind="stable")]


def field_of(positions: np.ndarray) -> np.ndarray:
    """Return the extent of the units of one scan, (2, 2): lowest and highest x, lowest and highest y (um).

    It stands for the field of view where that is not known. The field is a little larger, so it leaves out a few units
    more. Coordinates are micrometres in both directions, so the aspect of the pixels does not matter.

    Parameters
    ----------
    positions : ndarray
        (unit, 3), all units of the scan that have a position.
    """
    return np.stack([positions[:, :2].min(axis=0), positions[:, :2].max(axis=0)], axis=1)


def select_high_units(candidates: Candidates, settings: HighUnits) -> HighUnitChoice:
    """Choose units, in five steps, each among those that the steps before it left.

    1. Units with an oracle among the best ``oracle_share`` of their scan.
    2. Units farther than ``edge_distance`` from the edges of their field, in x and y.
    3. Units at or above the given percentile of the fraction oracle, in both models. Percentiles are those of the units
       left; units for which one of the fractions is undefined do not count.
    4. The larger the CNN's fraction is than the linear model's, the better the unit; of equal ones the first.
    5. From the best on, units at least ``unit_distance`` (in three dimensions) from all that were kept in their scan.

    Raises
    ------
    DatasetError
        If positions matter and reliable units have none.

    References
    ----------
    Walker et al. (2019), Inception loops discover what excites neurons most using deep predictive models.
    """
    left = np.flatnonzero(candidates.oracle_share < settings.oracle_share)
    reliable = len(left)
    if settings.needs_positions:
        _refuse_unplaced(candidates, left)
    if settings.edge_distance > 0:
        left = left[_distance_to_edge(candidates)[left] > settings.edge_distance]
    inside = len(left)
    cnn, linear = candidates.cnn_fraction_oracle, candidates.lin_fraction_oracle
    left = left[np.isfinite(cnn[left]) & np.isfinite(linear[left])]
    left = left[_reaches(cnn[left], settings.percentile) & _reaches(linear[left], settings.percentile)]
    predicted = len(left)
    left = left[np.argsort(linear[left] - cnn[left], kind="stable")]
    if settings.unit_distance > 0:
        left = _apart(left, candidates, settings.unit_distance)
    if len(left) < settings.max_units:
        logger.warning("only %d units fulfil the rule, %d were asked for", len(left), settings.max_units)
    return HighUnitChoice(left[: settings.max_units or None], reliable, inside, predicted)


def _refuse_unplaced(candidates: Candidates, units: np.ndarray) -> None:
    unplaced = units[~np.isfinite(candidates.position[units]).all(axis=1)]
    if len(unplaced):
        unit_id, scan = candidates.unit_id[unplaced[0]], candidates.scan[unplaced[0]]
        raise DatasetError(
            f"{len(unplaced)} of {len(units)} reliable units have no position in the tissue, such as unit {unit_id} of "
            f"{scan}: enter them in UnitPosition (geniculate annotate), or set edge_distance and unit_distance to 0"
        )


def _distance_to_edge(candidates: Candidates) -> np.ndarray:
    place, field = candidates.position[:, :2], candidates.field
    return np.minimum(place - field[..., 0], field[..., 1] - place).min(axis=1)


def _reaches(values: np.ndarray, percentile: float) -> np.ndarray:
    """Tell which values are at or above their percentile: by ranks, so that no rounding decides."""
    below = np.searchsorted(np.sort(values), values, side="right") - 1
    return below * 100 >= percentile * (len(values) - 1)


def _apart(units: np.ndarray, candidates: Candidates, distance: float) -> np.ndarray:
    places, scans = candidates.position[units], candidates.scan[units]
    kept = np.ones(len(units), bool)
    for better in range(len(units)):
        if kept[better]:
            near = np.linalg.norm(places - places[better], axis=1) < distance
            near[: better + 1] = False
            kept &= ~(near & (scans == scans[better]))
    return units[kept]


def is_linear(network: Network) -> bool:
    """Tell whether a network is linear up to its output: linear core, no recurrence, a readout of fixed weights."""
    return (
        getattr(network.core, "linear", False)
        and isinstance(network.recurrent, NoRecurrence)
        and not isinstance(network.readout, Attention)
    )


def best_of_best_mean(configurations: Sequence[Hashable], scores: np.ndarray) -> int:
    """Return the position of the best model of the configuration whose models are best on average.

    One lucky seed does not make a configuration the best, but of the best one its best seed is taken. Models without a
    score do not count; of equal ones the first is taken.

    Parameters
    ----------
    configurations : sequence
        (model,) what the models with different seeds have in common.
    scores : ndarray
        (model,), higher is better; at least one is defined.
    """
    members: dict[Hashable, list[int]] = {}
    for position in np.flatnonzero(np.isfinite(scores)).tolist():
        members.setdefault(configurations[position], []).append(position)
    best = max(members.values(), key=lambda positions: scores[positions].mean())
    return max(best, key=lambda position: scores[position])
