"""Tiers belong to stimuli."""

from __future__ import annotations

import hashlib

import pytest

from pipeline.errors import RecordingError
from pipeline.recordings import Trial, assign_tiers


def condition(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


def trials(*shown: tuple[str, str | None]) -> list[Trial]:
    return [Trial(index, name, float(index), 1.0, tier) for index, (name, tier) in enumerate(shown)]


def fraction(name: str) -> float:
    return int(name[:8], 16) / 2**32


def test_source_tiers_are_kept():
    source = [(condition(i), ("train", "validation", "test")[i % 3]) for i in range(9)]
    assert assign_tiers(trials(*source)) == dict(source)


def test_a_condition_in_two_tiers_is_named():
    with pytest.raises(RecordingError, match=rf"condition {condition(1)} is in two tiers: train, and test in trial 2"):
        assign_tiers(trials((condition(1), "train"), (condition(2), "train"), (condition(1), "test")))


def test_conditions_are_drawn_by_their_hash():
    names = [condition(i) for i in range(500)]
    tiers = assign_tiers(trials(*((name, None) for name in names)), validation_fraction=0.2, test_fraction=0.1)
    for name in names:
        draw = fraction(name)
        assert tiers[name] == ("test" if draw < 0.1 else "validation" if draw < 0.3 else "train")


def test_a_scan_with_its_own_test_tier_draws_the_same_validation_conditions():
    names = [condition(i) for i in range(500)]
    free = assign_tiers(trials(*((name, None) for name in names)))
    partly = assign_tiers(trials(*((name, "train") for name in names), (condition(-1), "test")))
    validation = {name for name in names if free[name] == "validation"}
    assert validation == {name for name in names if partly[name] == "validation"}
    assert len(validation) > 20
    assert {name for name in partly if partly[name] == "test"} == {condition(-1)}


def test_order_and_other_conditions_do_not_matter():
    names = [condition(i) for i in range(400)]
    whole = assign_tiers(trials(*((name, None) for name in names)))
    half = assign_tiers(trials(*((name, None) for name in reversed(names[:200]))))
    assert half == {name: whole[name] for name in names[:200]}


def test_repeated_conditions_without_a_tier_go_to_test():
    shown = [(condition(i), None) for i in range(100)]
    tiers = assign_tiers(trials(*shown, *shown[:7]))
    assert {name for name, tier in tiers.items() if tier == "test"} == {name for name, _ in shown[:7]}


def test_repeated_training_conditions_stay_where_the_source_has_them():
    tiers = assign_tiers(trials((condition(1), "train"), (condition(1), "train"), (condition(2), "test")), 0.0)
    assert tiers[condition(1)] == "train"


@pytest.mark.parametrize("count", [3, 4, 6, 10])
def test_few_conditions_still_fill_every_tier(count):
    tiers = assign_tiers(trials(*((condition(i), None) for i in range(count))))
    assert len(tiers) == count
    assert set(tiers.values()) == {"train", "validation", "test"}


def test_one_condition_trains():
    assert assign_tiers(trials((condition(0), None))) == {condition(0): "train"}


@pytest.mark.parametrize("shares", [(-0.1, 0.1), (0.5, 0.5), (0.1, -0.1)])
def test_fractions_out_of_range(shares):
    with pytest.raises(ValueError, match="below 1"):
        assign_tiers(trials((condition(0), None)), *shares)


def test_unknown_tier():
    with pytest.raises(RecordingError, match="trial 0: tier 'oracle'"):
        assign_tiers(trials((condition(0), "oracle")))
