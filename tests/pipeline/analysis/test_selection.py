"""Rules on populations made by hand, and against the same rules written out unit by unit."""

from __future__ import annotations

import logging
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from pipeline.analysis.selection import (
    Candidates,
    HighUnits,
    best_of_best_mean,
    field_of,
    is_linear,
    rank_by_oracle,
    select_high_units,
)
from pipeline.configuration import Configuration
from pipeline.errors import ConfigurationError, DatasetError
from pipeline.models import CORES, Attention, ConvGRU, FullyConnected, Network
from pipeline.models.cores import (
    Dense,
    Factorized3d,
    GaussianLaplace,
    Linear,
    Stacked2d,
    StackedLinearGaussianLaplace,
)

ALL = HighUnits(oracle_share=1, edge_distance=0, percentile=0, unit_distance=0)
"""The rule with all its steps switched off."""


def population(n: int, **given: object) -> Candidates:
    """Units of one scan, 100 um apart, in the order of their oracle, in a field without end."""
    made = Candidates(
        scan=np.full(n, "one"),
        unit_id=np.arange(n) + 10,
        oracle_share=np.arange(n) / n,
        cnn_fraction_oracle=np.full(n, 0.8),
        lin_fraction_oracle=np.full(n, 0.5),
        position=np.arange(n)[:, None] * [100.0, 0, 0],
        field=np.tile([(-1e6, 1e6), (-1e6, 1e6)], (n, 1, 1)),
    )
    return replace(made, **{name: np.asarray(value) for name, value in given.items()})


def chosen(candidates: Candidates, **steps: object) -> list[int]:
    return select_high_units(candidates, replace(ALL, **steps)).units.tolist()


def test_published_thresholds_are_the_defaults() -> None:
    assert HighUnits().settings() == {
        "oracle_share": 0.5, "edge_distance": 10, "percentile": 70, "unit_distance": 20, "max_units": 0,
        "score_tier": "test",
    }  # fmt: skip


def test_ranks_fall_with_the_oracle_and_ties_keep_their_order() -> None:
    assert rank_by_oracle(np.array([0.1, np.nan, 0.5, -0.2, 0.5, np.inf])).tolist() == [2, 4, 0, 3]
    assert rank_by_oracle(np.full(3, np.nan)).tolist() == []


def test_only_the_upper_half_by_oracle_is_looked_at() -> None:
    assert chosen(population(6), oracle_share=0.5) == [0, 1, 2]
    assert chosen(population(5), oracle_share=0.5) == [0, 1, 2]
    assert chosen(population(3, oracle_share=[np.nan, 0.0, 0.5]), oracle_share=0.5) == [1]


def test_units_near_any_edge_are_left_out() -> None:
    field = [(0.0, 400.0), (100.0, 300.0)]
    places = [
        (200, 200),
        (10, 200),
        (10.1, 200),
        (390, 200),
        (389.9, 200),
        (200, 110),
        (200, 290),
        (200, 111),
        (-5, 200),
    ]
    units = population(9, position=[(*place, 50.0) for place in places], field=[field] * 9)
    assert chosen(units, edge_distance=10) == [0, 2, 4, 7]


def test_pixels_that_are_not_square_do_not_matter() -> None:
    # 512 x 256 pixels on 600 x 800 um: 10 um are 8.5 pixels across and 3.2 down.
    um_per_pixel = np.array([600 / 512, 800 / 256])
    columns, rows = [8, 9, 100, 100], [100, 100, 3, 4]
    places = np.stack([columns, rows, np.zeros(4)], axis=1) * [*um_per_pixel, 1]
    units = population(4, position=places, field=[[(0, 600), (0, 800)]] * 4)
    assert chosen(units, edge_distance=10) == [1, 3]


def test_both_fractions_reach_their_percentile() -> None:
    cnn = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1]
    # The 70th percentile of eleven values is the eighth: at it is enough.
    assert chosen(population(11, cnn_fraction_oracle=cnn), percentile=70) == [10, 9, 8, 7]
    linear = [0.9, 0.8, 0.7, 0.1, 0.1, 0.1, 0.1, 0.1, 0.5, 0.1, 0.4]
    assert chosen(population(11, cnn_fraction_oracle=cnn, lin_fraction_oracle=linear), percentile=70) == [8]


def test_percentiles_are_of_units_that_earlier_steps_left() -> None:
    # Unreliable units with high fractions, first of all, would raise the percentile if they counted.
    cnn = [0.1, 0.2, 0.3, 5, 5, 5]
    assert chosen(population(6, cnn_fraction_oracle=cnn), oracle_share=0.5, percentile=100) == [2]
    undefined = [0.1, 0.2, 0.3, np.nan, 5, np.nan]
    units = population(6, cnn_fraction_oracle=undefined, lin_fraction_oracle=[0.1, 0.1, 0.1, 0.1, np.nan, 0.1])
    assert chosen(units, percentile=100) == [2]


@pytest.mark.parametrize("n", [1, 2, 10, 71, 91, 1001])
@pytest.mark.parametrize("percentile", [0, 33.3, 70, 100])
def test_percentile_is_that_of_numpy(n: int, percentile: float) -> None:
    values = np.random.default_rng(n).normal(size=n)
    found = chosen(population(n, cnn_fraction_oracle=values), percentile=percentile)
    assert sorted(found) == np.flatnonzero(values >= np.percentile(values, percentile) - 1e-12).tolist()


def test_the_larger_the_advantage_of_the_cnn_the_better() -> None:
    cnn, linear = [0.9, 0.75, 0.75, 0.25, 0.5], [0.8, 0.25, 0.25, 0.0, 0.75]
    assert chosen(population(5, cnn_fraction_oracle=cnn, lin_fraction_oracle=linear)) == [1, 2, 3, 0, 4]


def test_units_near_a_better_one_are_left_out() -> None:
    # 0 and 1 are 15 um apart in depth alone, 1 and 2 too, so that 0 and 2 may both stay; 3 is at exactly 20 um of 0.
    places = [(0, 0, 0), (0, 0, 15), (0, 0, 30), (12, 16, 0), (19, 0, 30)]
    units = population(5, position=places)
    assert chosen(units, unit_distance=20) == [0, 2, 3]
    # One that is left out does not keep others away, and those of another scan do not matter.
    first_worst = replace(units, cnn_fraction_oracle=np.array([0.1, 0.9, 0.8, 0.7, 0.6]))
    assert chosen(first_worst, unit_distance=20) == [1, 3, 4]
    assert chosen(replace(units, scan=np.array(["a", "b", "a", "c", "b"])), unit_distance=20) == [0, 1, 2, 3, 4]


def test_fewer_units_than_asked_for_are_told(caplog: pytest.LogCaptureFixture) -> None:
    units = population(6)
    with caplog.at_level(logging.WARNING):
        assert chosen(units, max_units=6) == [0, 1, 2, 3, 4, 5]
        assert chosen(units, max_units=2) == [0, 1]
        assert not caplog.records
        assert chosen(units, max_units=7) == [0, 1, 2, 3, 4, 5]
    assert [record.getMessage() for record in caplog.records] == ["only 6 units fulfil the rule, 7 were asked for"]


def test_nobody_may_be_left() -> None:
    found = select_high_units(population(4, cnn_fraction_oracle=[np.nan] * 4), HighUnits())
    assert (found.units.tolist(), found.reliable, found.inside, found.predicted) == ([], 2, 2, 0)
    nowhere = select_high_units(population(4, field=[[(0, 5), (0, 5)]] * 4), HighUnits())
    assert (nowhere.units.tolist(), nowhere.reliable, nowhere.inside) == ([], 2, 0)


def test_positions_are_missed_only_where_they_matter() -> None:
    places = np.zeros((4, 3))
    places[[1, 3], 2] = np.nan
    units = population(4, position=places)
    assert chosen(units) == [0, 1, 2, 3]
    for step in ({"edge_distance": 1}, {"unit_distance": 1}):
        with pytest.raises(DatasetError, match=r"2 of 4 reliable units have no position .* unit 11 of one: enter them"):
            chosen(units, **step)
        assert chosen(units, oracle_share=0.2, **step) == [0]


def test_the_extent_of_units_stands_for_the_field() -> None:
    places = np.array([(3.0, 40.0, 7.0), (-1.0, 60.0, 9.0), (5.0, 50.0, 8.0)])
    assert field_of(places).tolist() == [[-1, 5], [40, 60]]


def brute_force(units: Candidates, rule: HighUnits) -> list[int]:
    """Return the same choice, written out as a person would check it, with exact fractions."""
    left = [i for i in range(len(units.scan)) if units.oracle_share[i] < rule.oracle_share]
    for axis in (0, 1):
        low, high = units.field[0, axis]
        middle, half = (low + high) / 2, (high - low) / 2
        left = [i for i in left if abs(units.position[i, axis] - middle) < half - rule.edge_distance]
    good = set(left)
    for values in (units.cnn_fraction_oracle, units.lin_fraction_oracle):
        ordered = sorted(Fraction(values[i]) for i in left)
        place = Fraction(rule.percentile) * (len(left) - 1) / 100
        whole = int(place)
        after = ordered[min(whole + 1, len(left) - 1)]
        threshold = ordered[whole] + (place - whole) * (after - ordered[whole])
        good -= {i for i in left if Fraction(values[i]) < threshold}
    advantage = {i: units.cnn_fraction_oracle[i] - units.lin_fraction_oracle[i] for i in good}
    kept: list[int] = []
    for i in sorted(good, key=lambda i: (-advantage[i], i)):
        near = [
            j for j in kept
            if units.scan[i] == units.scan[j]
            and sum((units.position[i, k] - units.position[j, k]) ** 2 for k in range(3)) < rule.unit_distance**2
        ]  # fmt: skip
        kept += [] if near else [i]
    return kept


@pytest.mark.parametrize("seed", range(20))
def test_random_populations_as_by_hand(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = 300
    # On coarse grids, so that ties and equalities happen everywhere.
    units = population(
        n,
        scan=rng.choice(["one", "two"], n),
        oracle_share=rng.permutation(n) / n,
        cnn_fraction_oracle=rng.integers(0, 64, n) / 64,
        lin_fraction_oracle=rng.integers(0, 64, n) / 64,
        position=rng.integers(0, 30, (n, 3)) * [5.0, 4.0, 2.0],
        field=[[(0, 145), (0, 116)]] * n,
    )
    found = select_high_units(units, HighUnits(percentile=30))
    assert found.units.tolist() == brute_force(units, HighUnits(percentile=30))
    assert 10 < len(found.units) < found.predicted < found.inside < found.reliable == n / 2


def test_best_configuration_by_mean_then_its_best_seed() -> None:
    names = ["a", "b", "a", "b", "c"]
    assert best_of_best_mean(names, np.array([0.9, 0.6, 0.1, 0.7, 0.64])) == 3  # a has the best seed, b the best mean
    assert best_of_best_mean(names, np.array([np.nan, 0.6, 0.7, 0.7, np.nan])) == 2
    assert best_of_best_mean(names, np.array([0.5, 0.5, 0.5, 0.5, 0.5])) == 0


@pytest.mark.parametrize(
    ("network", "linear"),
    [
        (Network(core=Factorized3d()), False),
        (Network(core=Factorized3d(linear=True)), True),
        (Network(core=Stacked2d(linear=True)), True),
        (Network(core=Linear()), True),
        (Network(core=Dense(), readout=FullyConnected()), True),
        (Network(core=GaussianLaplace()), False),
        (Network(core=StackedLinearGaussianLaplace()), True),
        (Network(core=StackedLinearGaussianLaplace(), readout=Attention()), False),
        (Network(core=Factorized3d(linear=True), recurrent=ConvGRU()), False),
    ],
    ids=str,
)
def test_linear_networks(network: Network, linear: bool) -> None:
    assert is_linear(network) == linear


def test_cores_that_count_as_linear_by_default() -> None:
    always: set[type[Configuration]] = {Linear, Dense, StackedLinearGaussianLaplace}
    assert {kind for kind in CORES if is_linear(Network(core=kind()))} == always


def test_shares_and_percentiles_are_in_range() -> None:
    for bad in ({"oracle_share": 0}, {"percentile": 101}, {"edge_distance": -1}, {"score_tier": "train"}):
        with pytest.raises(ConfigurationError, match=f"HighUnits.{next(iter(bad))}"):
            HighUnits(**bad)
