"""Which stimuli train, validate and test: decided for each condition, never for each trial."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from pipeline.errors import RecordingError
from pipeline.recordings.base import TIERS, Trial


def draw(condition_hash: str) -> float:
    """Return the uniform number in [0, 1) that belongs to a condition: the first 8 hexadecimal digits of its hash."""
    return int(condition_hash[:8], 16) / 16**8


def assign_tiers(
    trials: Iterable[Trial], validation_fraction: float = 0.1, test_fraction: float = 0.1
) -> dict[str, str]:
    """Return the tier of every condition.

    Tiers that the source gives are kept. Conditions without a tier that were shown more than once go to test. Where
    there is then no test condition, conditions of the training tier or without a tier whose `draw` is below
    ``test_fraction`` become test; where there is no validation condition, those whose draw lies in the next
    ``validation_fraction``. The two ranges never move, so a stimulus falls into the same tier in every scan that
    leaves the choice open.

    Parameters
    ----------
    trials : iterable of Trial
    validation_fraction, test_fraction : float
        Expected share of the conditions drawn, each at least 0, together below 1. If the share is above 0 but no
        condition falls into its range (few conditions), the next one above it is taken. One condition always stays
        for training.

    Raises
    ------
    RecordingError
        If the source shows one condition in two tiers, naming it.
    ValueError
        If a fraction is out of range.
    """
    if min(validation_fraction, test_fraction) < 0 or validation_fraction + test_fraction >= 1:
        raise ValueError(
            f"validation_fraction {validation_fraction} and test_fraction {test_fraction} must be at least 0 "
            "and together below 1"
        )
    trials = list(trials)
    shown = Counter(trial.condition_hash for trial in trials)
    tiers = {
        condition: tier or ("test" if shown[condition] > 1 else "train")
        for condition, tier in _source_tiers(trials).items()
    }
    for tier, low, share in (("test", 0.0, test_fraction), ("validation", test_fraction, validation_fraction)):
        if share > 0 and tier not in tiers.values():
            pool = sorted((c for c in tiers if tiers[c] == "train"), key=lambda c: (draw(c), c))
            for condition in _drawn(pool, low, low + share):
                tiers[condition] = tier
    return tiers


def _drawn(pool: list[str], low: float, high: float) -> list[str]:
    """Return the conditions of a pool, sorted by `draw`, that fall into a range, or else the next one above it."""
    inside = [condition for condition in pool if low <= draw(condition) < high]
    above = [condition for condition in pool if draw(condition) >= high] or pool
    return (inside or above[:1])[: max(len(pool) - 1, 0)]


def _source_tiers(trials: list[Trial]) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for trial in trials:
        if trial.tier is not None and trial.tier not in TIERS:
            raise RecordingError(f"trial {trial.trial_idx}: tier {trial.tier!r} must be one of {', '.join(TIERS)}")
        known = found.get(trial.condition_hash)
        if known and trial.tier and known != trial.tier:
            raise RecordingError(
                f"condition {trial.condition_hash} is in two tiers: {known}, and {trial.tier} in trial "
                f"{trial.trial_idx}; "
                "a stimulus that trains the models must not test them; correct the source's tiers"
            )
        found[trial.condition_hash] = known or trial.tier
    return found
