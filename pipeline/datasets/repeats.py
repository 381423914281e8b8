"""Responses to repeated stimuli, as they were stored, and how reliable they make each unit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.datasets.store import StoredDataset
from pipeline.errors import DatasetError
from pipeline.metrics import conservative_oracle_correlation, oracle_correlation

MEMORY = 2**28
"""Bytes of responses that are held at once; of more, a part of the units is read at a time."""

_COPIES = 6
"""What the measures need beside the responses themselves, in float32 copies."""


def repeated_responses(
    stored: StoredDataset, tier: str, units: np.ndarray | None = None, stimulus_types: Sequence[str] = ()
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield condition_hash and responses of each condition of a tier that was repeated, one after the other.

    Parameters
    ----------
    stored : StoredDataset
    tier : str
    units : ndarray of int, optional
        Positions of the units; all by default.
    stimulus_types : sequence of str
        Only stimuli of these types; all if empty.

    Yields
    ------
    tuple of (str, ndarray)
        (repeat, unit, time), as stored; time is 1 for images.

    Raises
    ------
    DatasetError
        If a response is NaN.
    """
    chosen = slice(None) if units is None else units
    for name, rows in _repeated(stored, tier, stimulus_types).items():
        trials = []
        for row in rows:
            responses = stored.tensor("responses", row)[chosen]
            if not np.isfinite(responses.sum()):
                raise DatasetError(f"trial {stored.trial_idx[row]} of {stored.path}: NaN in the responses")
            trials.append(responses.reshape(len(responses), -1))
        yield name, np.stack(trials)


def _repeated(stored: StoredDataset, tier: str, stimulus_types: Sequence[str]) -> dict[str, list[int]]:
    """Return the rows of each condition that was shown more than once."""
    rows: dict[str, list[int]] = {}
    for row in stored.rows(tier):
        if not stimulus_types or stored.stimulus_type[row] in stimulus_types:
            rows.setdefault(stored.condition_hash[row], []).append(row)
    return {name: shown for name, shown in rows.items() if len(shown) > 1}


@dataclass(frozen=True)
class UnitOracles:
    """Oracles of some units, NaN where undefined; see the functions of `pipeline.metrics`.

    Attributes
    ----------
    correlation : ndarray
        (unit,) `oracle_correlation`.
    conservative : ndarray
        (unit,) `conservative_oracle_correlation`.
    conditions : int
        Repeated conditions that they rest on.
    """

    correlation: np.ndarray
    conservative: np.ndarray
    conditions: int


def unit_oracles(
    stored: StoredDataset, tier: str = "test", units: np.ndarray | None = None, stimulus_types: Sequence[str] = ()
) -> UnitOracles:
    """Return the oracles of units (all by default), holding about `MEMORY` bytes at a time."""
    positions = np.arange(len(stored.metadata["unit_ids"])) if units is None else units
    repeated = _repeated(stored, tier, stimulus_types)
    oracle, conservative = np.full((2, len(positions)), np.nan)
    if repeated:
        samples = sum(stored.bins[row] for rows in repeated.values() for row in rows)
        at_once = max(MEMORY // (4 * _COPIES * samples), 1)
        for first in range(0, len(positions), at_once):
            part = slice(first, first + at_once)
            repeats = [found for _, found in repeated_responses(stored, tier, positions[part], stimulus_types)]
            oracle[part], conservative[part] = oracle_correlation(repeats), conservative_oracle_correlation(repeats)
    return UnitOracles(oracle, conservative, len(repeated))


def reliability(repeats: Sequence[np.ndarray], shuffles: int, seed: int) -> np.ndarray:
    """Return the probability of each unit's oracle correlation, or a higher one, if stimuli made no difference.

    A permutation test: trials are dealt anew, all units alike, to conditions with as many repeats as before, and
    p = (1 + number of shuffles whose oracle is at least the unit's) / (1 + shuffles) (Phipson and Smyth 2010). The
    oracle of each shuffle is `pipeline.metrics.oracle_correlation`, here from sums: with x the responses, S their sum
    and Q the sum of their squares over the r repeats of a condition, the mean of the other repeats is
    (S - x) / (r - 1); it has the mean of x, its products with x add up to sum (S^2 - Q) / (r - 1), and its squares
    to sum ((r - 2) S^2 + Q) / (r - 1)^2.

    Parameters
    ----------
    repeats : sequence of ndarray
        (repeat, unit, 1) for each condition: responses to still images.
    shuffles : int
        Number of shuffles.
    seed : int
        Of the shuffles.

    Returns
    -------
    ndarray
        (unit,); 1 where the oracle is undefined.
    """
    counts = np.array([len(condition) for condition in repeats])
    trials = np.concatenate([condition[:, :, 0] for condition in repeats]).astype(np.float64)
    trials -= trials.mean(axis=0)  # so that sums of squares are variances
    squares = trials**2
    rng = np.random.default_rng(seed)
    with np.errstate(invalid="ignore", divide="ignore"):
        found = _oracle_from_sums(trials, squares, counts)
        reached = np.zeros(trials.shape[1], int)
        for _ in range(shuffles):
            order = rng.permutation(len(trials))
            # A rounding error must not turn a shuffle that changes nothing into a lower oracle.
            reached += _oracle_from_sums(trials[order], squares[order], counts) >= found - 1e-12
    return np.where(np.isfinite(found), (1 + reached) / (1 + shuffles), 1.0)


def _oracle_from_sums(trials: np.ndarray, squares: np.ndarray, counts: np.ndarray) -> np.ndarray:
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    total, power = np.add.reduceat(trials, starts, axis=0) ** 2, np.add.reduceat(squares, starts, axis=0)
    others = (counts - 1)[:, None]
    product = ((total - power) / others).sum(axis=0)
    oracle_power = (((others - 1) * total + power) / others**2).sum(axis=0)
    return product / np.sqrt(power.sum(axis=0) * oracle_power)
