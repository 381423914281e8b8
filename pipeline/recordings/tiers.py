"""Which stimuli train, validate and test: decided for each condition, never for each trial."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from pipeline.errors import RecordingError
from pipeline.recordings.base import TIERS, Trial

LEAK_RULES = ("refuse", "held-out", "train", "exclude")
"""What becomes of a stimulus that the source puts into several tiers.

refuse: an error. held-out: it goes to that of its tiers which is furthest from training. train: to the nearest.
exclude: no dataset uses its trials.
"""

OTHER_NAMES = {
    "oracle": "validation", "val": "validation", "live_test_main": "test", "live_main": "test",
    "final_test": "final", "final_test_main": "final", "final_main": "final",
    "live_test_bonus": "ood", "final_test_bonus": "ood", "live_bonus": "ood", "final_bonus": "ood",
}  # fmt: skip
"""Tiers as other formats call them."""


def tier_called(name: str, where: str) -> str:
    """Return our name of a tier that a source calls ``name``.

    Raises
    ------
    RecordingError
        Saying ``where``, if the name is unknown.
    """
    tier = OTHER_NAMES.get(name, name)
    if tier not in TIERS:
        known = ", ".join((*TIERS, *OTHER_NAMES))
        raise RecordingError(f"{where}: unknown tier {name!r}; known are {known}")
    return tier


@dataclass(frozen=True)
class Assignment:
    """The tiers of a recording.

    Attributes
    ----------
    tiers : dict
        condition_hash to tier, for every condition that a dataset may use.
    leaks : dict
        condition_hash to the tiers in which the source shows it, for those that have several.
    excluded : frozenset of str
        Conditions that the rule for leaks excludes.
    """

    tiers: dict[str, str]
    leaks: dict[str, tuple[str, ...]] = field(default_factory=dict)
    excluded: frozenset[str] = frozenset()


def draw(condition_hash: str) -> float:
    """Return the uniform number in [0, 1) that belongs to a condition: the first 8 hexadecimal digits of its hash."""
    return int(condition_hash[:8], 16) / 16**8


def assign_tiers(
    trials: Iterable[Trial],
    validation_fraction: float = 0.1,
    test_fraction: float = 0.1,
    leaks: str = "refuse",
    known: Mapping[str, str] | None = None,
) -> Assignment:
    """Return the tier of every condition.

    Tiers that the source gives are kept. Conditions that it leaves open keep the tier that they have in other scans;
    the others go to test if they were shown more than once. Where there is then no test condition, conditions of the
    training tier whose `draw` is below ``test_fraction`` become test; where there is no validation condition, those
    whose draw lies in the next ``validation_fraction``. The two ranges never move, so a stimulus falls into the same
    tier in every scan that leaves the choice open. What the rule for leaks puts into training stays there. Excluded
    trials count for nothing.

    Parameters
    ----------
    trials : iterable of Trial
    validation_fraction, test_fraction : float
        Expected share of the conditions drawn, each at least 0, together below 1. If the share is above 0 but no
        condition falls into its range (few conditions), the next one above it is taken. One condition always stays
        for training.
    leaks : str
        One of `LEAK_RULES`, for conditions that the source shows in several tiers.
    known : mapping, optional
        condition_hash to tier in other scans.

    Raises
    ------
    RecordingError
        If the source shows conditions in several tiers and the rule is to refuse them; the message names one.
    ValueError
        If a fraction is out of range.
    """
    if min(validation_fraction, test_fraction) < 0 or validation_fraction + test_fraction >= 1:
        raise ValueError(
            f"validation_fraction {validation_fraction} and test_fraction {test_fraction} must be at least 0 "
            "and together below 1"
        )
    trials = [trial for trial in trials if not trial.exclusion]
    shown = Counter(trial.condition_hash for trial in trials)
    given = _source_tiers(trials)
    leaking = {condition: tiers for condition, tiers in given.items() if len(tiers) > 1}
    if leaking and leaks == "refuse":
        raise RecordingError(_complaint(leaking, trials))
    excluded = frozenset(leaking if leaks == "exclude" else ())
    nearest = 0 if leaks == "train" else -1
    settled = {c: tiers[nearest] for c, tiers in given.items() if tiers and c not in excluded}
    elsewhere = {c: tier for c, tier in (known or {}).items() if c in given and not given[c]}
    repeated = {
        c: "test" if shown[c] > 1 else "train" for c, tiers in given.items() if not tiers and c not in elsewhere
    }
    tiers = {**settled, **repeated}
    for tier, low, share in (("test", 0.0, test_fraction), ("validation", test_fraction, validation_fraction)):
        if share > 0 and tier not in tiers.values():
            training = [c for c in tiers if tiers[c] == "train"]
            pool = sorted((c for c in training if c not in leaking), key=lambda c: (draw(c), c))
            tiers |= dict.fromkeys(_drawn(pool, low, low + share)[: max(len(training) - 1, 0)], tier)
    tiers |= elsewhere
    return Assignment({condition: tiers[condition] for condition in given if condition in tiers}, leaking, excluded)


def _drawn(pool: list[str], low: float, high: float) -> list[str]:
    """Return the conditions of a pool, sorted by `draw`, that fall into a range, or else the next one above it."""
    inside = [condition for condition in pool if low <= draw(condition) < high]
    above = [condition for condition in pool if draw(condition) >= high] or pool
    return inside or above[:1]


def _source_tiers(trials: list[Trial]) -> dict[str, tuple[str, ...]]:
    """Return the tiers that the source gives each condition, if any, the nearest to training first."""
    found: dict[str, set[str]] = {}
    for trial in trials:
        if trial.tier is not None and trial.tier not in TIERS:
            raise RecordingError(f"trial {trial.trial_idx}: tier {trial.tier!r} must be one of {', '.join(TIERS)}")
        found.setdefault(trial.condition_hash, set()).update([trial.tier] if trial.tier else [])
    return {condition: tuple(sorted(tiers, key=TIERS.index)) for condition, tiers in found.items()}


def _complaint(leaking: Mapping[str, tuple[str, ...]], trials: list[Trial]) -> str:
    condition, tiers = next(iter(leaking.items()))
    where = ", ".join(
        f"{tier} in trial {next(t.trial_idx for t in trials if (t.condition_hash, t.tier) == (condition, tier))}"
        for tier in tiers
    )
    others = f" (and {len(leaking) - 1} conditions more)" if len(leaking) > 1 else ""
    return (
        f"condition {condition} is in two tiers: {where}{others}; a stimulus that trains the models must not test "
        "them: correct the source's tiers, or say what to do with such stimuli (--leaks held-out, train or exclude)"
    )
