"""Tiers belong to stimuli."""

from __future__ import annotations

import dataclasses
import hashlib

import pytest

from pipeline.errors import RecordingError
from pipeline.recordings import Trial, assign_tiers
from pipeline.recordings.tiers import tier_called


def condition(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


def trials(*shown: tuple[str, str | None]) -> list[Trial]:
    return [Trial(index, name, float(index), 1.0, tier) for index, (name, tier) in enumerate(shown)]


def assigned(*arguments, **options) -> dict[str, str]:
    return assign_tiers(*arguments, **options).tiers


def fraction(name: str) -> float:
    return int(name[:8], 16) / 2**32


def test_source_tiers_are_kept():
    source = [(condition(i), ("train", "validation", "test")[i % 3]) for i in range(9)]
    assert assigned(trials(*source)) == dict(source)


def test_a_condition_in_two_tiers_is_named():
    with pytest.raises(
        RecordingError, match=rf"condition {condition(1)} is in two tiers: train in trial 0, test in trial 2"
    ):
        assigned(trials((condition(1), "train"), (condition(2), "train"), (condition(1), "test")))


def test_conditions_are_drawn_by_their_hash():
    names = [condition(i) for i in range(500)]
    tiers = assigned(trials(*((name, None) for name in names)), validation_fraction=0.2, test_fraction=0.1)
    for name in names:
        draw = fraction(name)
        assert tiers[name] == ("test" if draw < 0.1 else "validation" if draw < 0.3 else "train")


def test_a_scan_with_its_own_test_tier_draws_the_same_validation_conditions():
    names = [condition(i) for i in range(500)]
    free = assigned(trials(*((name, None) for name in names)))
    partly = assigned(trials(*((name, "train") for name in names), (condition(-1), "test")))
    validation = {name for name in names if free[name] == "validation"}
    assert validation == {name for name in names if partly[name] == "validation"}
    assert len(validation) > 20
    assert {name for name in partly if partly[name] == "test"} == {condition(-1)}


def test_order_and_other_conditions_do_not_matter():
    names = [condition(i) for i in range(400)]
    whole = assigned(trials(*((name, None) for name in names)))
    half = assigned(trials(*((name, None) for name in reversed(names[:200]))))
    assert half == {name: whole[name] for name in names[:200]}


def test_repeated_conditions_without_a_tier_go_to_test():
    shown = [(condition(i), None) for i in range(100)]
    tiers = assigned(trials(*shown, *shown[:7]))
    assert {name for name, tier in tiers.items() if tier == "test"} == {name for name, _ in shown[:7]}


def test_repeated_training_conditions_stay_where_the_source_has_them():
    tiers = assigned(trials((condition(1), "train"), (condition(1), "train"), (condition(2), "test")), 0.0)
    assert tiers[condition(1)] == "train"


@pytest.mark.parametrize("count", [3, 4, 6, 10])
def test_few_conditions_still_fill_every_tier(count):
    tiers = assigned(trials(*((condition(i), None) for i in range(count))))
    assert len(tiers) == count
    assert set(tiers.values()) == {"train", "validation", "test"}


def test_one_condition_trains():
    assert assigned(trials((condition(0), None))) == {condition(0): "train"}


@pytest.mark.parametrize("shares", [(-0.1, 0.1), (0.5, 0.5), (0.1, -0.1)])
def test_fractions_out_of_range(shares):
    with pytest.raises(ValueError, match="below 1"):
        assigned(trials((condition(0), None)), *shares)


def test_unknown_tier():
    with pytest.raises(RecordingError, match="trial 0: tier 'oracle'"):
        assigned(trials((condition(0), "oracle")))


LEAKING = trials(
    (condition(1), "test"), (condition(2), "train"), (condition(1), "train"), (condition(3), "validation"),
    (condition(4), "test"), (condition(4), "validation"), (condition(1), "train"),
)  # fmt: skip


@pytest.mark.parametrize(
    ("rule", "first", "fourth"),
    [("held-out", "test", "test"), ("train", "train", "validation"), ("exclude", None, None)],
)
def test_leaking_conditions_follow_the_rule(rule, first, fourth):
    made = assign_tiers(LEAKING, 0.0, 0.0, leaks=rule)
    assert made.leaks == {condition(1): ("train", "test"), condition(4): ("validation", "test")}
    wanted = {condition(1): first, condition(2): "train", condition(3): "validation", condition(4): fourth}
    assert {c: made.tiers.get(c) for c in wanted} == wanted
    assert made.excluded == (frozenset([condition(1), condition(4)]) if rule == "exclude" else frozenset())


def test_what_the_rule_puts_into_training_is_not_drawn_again():
    torn = [condition(i) for i in range(30)]
    shown = trials(*((c, tier) for c in torn for tier in ("train", "test")), (condition(30), "train"))
    tiers = assign_tiers(shown, 0.3, 0.3, leaks="train").tiers
    assert {tiers[c] for c in torn} == {"train"}
    assert tiers[condition(30)] != "train", "which leaves enough"


def test_every_leak_is_counted_in_the_complaint():
    with pytest.raises(RecordingError, match=r"train in trial 2, test in trial 0 \(and 1 conditions more\).*held-out"):
        assign_tiers(LEAKING)


def test_open_conditions_keep_the_tier_they_have_in_other_scans():
    names = [condition(i) for i in range(60)]
    free = assigned(trials(*((name, None) for name in names)))
    opposite = {name: "train" if free[name] != "train" else "test" for name in names[:20]}
    again = assigned(trials(*((name, None) for name in names)), known=opposite)
    assert {name: again[name] for name in names[:20]} == opposite
    given = assigned(trials(*((name, "train") for name in names)), 0.0, 0.0, known=opposite)
    assert set(given.values()) == {"train"}


def test_excluded_trials_decide_nothing():
    shown = trials((condition(1), "train"), (condition(1), "test"), (condition(2), "test"), (condition(3), "ood"))
    shown[1] = dataclasses.replace(shown[1], exclusion="the monitor was off")
    shown[3] = dataclasses.replace(shown[3], exclusion="no frames")
    assert assigned(shown, 0.0) == {condition(1): "train", condition(2): "test"}


def test_other_names_of_tiers():
    assert [tier_called(n, "here") for n in ("train", "oracle", "final_test_bonus")] == ["train", "validation", "ood"]
    with pytest.raises(RecordingError, match="here: unknown tier 'trian'; known are train, validation"):
        tier_called("trian", "here")
