from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import metrics
from pipeline.datasets import repeats
from pipeline.datasets.clips import MovieClips
from pipeline.datasets.images import AreaLayerPercentOracle, AreaLayerReliable
from pipeline.datasets.repeats import reliability, repeated_responses, unit_oracles
from pipeline.datasets.selection import UnitTable, choose_trials, choose_units, listed
from pipeline.datasets.store import StoredDataset
from pipeline.errors import ConfigurationError, DatasetError

AREAS = ["V1", "LM", None, "V1", "LM", "V1", "AL", "V1"]
LAYERS = ["L2/3", "L2/3", "L4", "L4", None, "L2/3", "L4", "L2/3"]
UNITS = UnitTable(range(101, 109), AREAS, LAYERS)


@pytest.fixture(scope="module")
def stored(written: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> StoredDataset:
    path = tmp_path_factory.mktemp("selection") / "data"
    tiers = ["train"] * 12 + ["validation"] * 3 + ["test"] * 6
    types = ["clip", "noise"] * 9 + ["clip"] * 3
    conditions = [*range(15), 15, 16, 15, 16, 15, 17]
    written(path, tiers, 10, conditions, types=types, units=8, withheld=(1,))
    return StoredDataset(path)


def choose(stored: StoredDataset, table: UnitTable | None = UNITS, **settings: Any) -> list[int]:
    return choose_units(MovieClips(**settings), stored, table, "mouse 7").tolist()


@pytest.mark.parametrize(
    ("area", "layer", "wanted"),
    [
        ("", "", [0, 1, 2, 3, 4, 5, 6, 7]),
        ("V1", "", [0, 3, 5, 7]),
        ("LM,V1", "L2/3", [0, 1, 5, 7]),
        ("", "L4, L2/3", [0, 1, 2, 3, 5, 6, 7]),
    ],
)
def test_areas_and_layers_choose_units(stored: StoredDataset, area: str, layer: str, wanted: list[int]) -> None:
    assert choose(stored, brain_area=area, layer=layer) == wanted


def test_a_table_may_list_units_in_any_order_and_only_some(stored: StoredDataset) -> None:
    assert choose(stored, UnitTable([107, 103], ["V1", "V1"], [None, None]), brain_area="V1") == [2, 6]


def test_areas_that_no_unit_has_are_refused(stored: StoredDataset) -> None:
    with pytest.raises(ConfigurationError, match=r"brain_area is 'V4', but no unit of mouse 7 .* AL, LM, V1"):
        choose(stored, brain_area="V4")
    with pytest.raises(ConfigurationError, match="layer is 'L2/3', but no unit of mouse 7 that is left"):
        choose(stored, brain_area="AL", layer="L2/3")
    with pytest.raises(ConfigurationError, match="known there are none; fill AreaMembership"):
        choose(stored, None, brain_area="V1")
    with pytest.raises(DatasetError, match="2 units has 1 areas and 2 layers"):
        UnitTable([1, 2], ["V1"], [None, None])
    with pytest.raises(DatasetError, match="2 units has 1 positions"):
        UnitTable([1, 2], [None, None], [None, None], [(0.0, 0.0, 0.0)])
    with pytest.raises(DatasetError, match="2 units has 3 matches"):
        UnitTable([1, 2], [None, None], [None, None], (), [1, 1, 2])


def test_positions_are_those_of_the_units_asked_for_or_unknown() -> None:
    table = UnitTable([3, 1, 2], [None] * 3, [None] * 3, [(3.0, 0.5, 1.0), (1.0, 0.0, 1.0), None])
    assert table.positions_of((1, 3)) == ((1.0, 0.0, 1.0), (3.0, 0.5, 1.0))
    assert table.positions_of((1, 2)) is None, "one is unknown"
    assert table.positions_of((1, 7)) is None, "one is not in the table"
    assert UNITS.positions_of((101,)) is None


def test_matches_are_those_of_the_units_asked_for() -> None:
    table = UnitTable([3, 1, 2], [None] * 3, [None] * 3, match_id=[8, None, 0])
    assert table.matches_of((1, 3, 2)) == (None, 8, 0)
    assert table.matches_of((3, 7)) == (8, None), "one is not in the table"
    assert table.matches_of((1,)) is None, "none is known"
    assert UNITS.matches_of((101,)) is None


def test_lists_are_the_same_however_they_are_written() -> None:
    assert listed(" V1,LM ,, V1") == ("LM", "V1")
    one = MovieClips(brain_area="V1, LM", exclude="inputs,responses", stimulus_type="b,a")
    assert one.settings()["brain_area"] == "LM,V1"
    assert one.hash() == MovieClips(brain_area="LM,V1,V1", exclude="responses,videos", stimulus_type="a,b").hash()


def test_numbers_draw_the_units_of_the_earlier_loaders(stored: StoredDataset) -> None:
    # What neuralpredictors' loaders do: np.random.seed(base_seed * n), then one choice without replacement.
    np.random.seed(7 * 3)
    drawn = np.random.choice(stored.metadata["unit_ids"], size=2 + 3, replace=False)
    found = choose(stored, unit_n=3, unit_exclude_n=2, unit_seed=7)
    assert sorted(drawn[2:]) == [stored.metadata["unit_ids"][position] for position in found]
    assert len(choose(stored, unit_n=8)) == 8
    in_area = [choose(stored, unit_n=2, unit_seed=seed, brain_area="V1") for seed in range(1, 9)]
    assert all(set(units) < {0, 3, 5, 7} for units in in_area)
    assert len(set(map(tuple, in_area))) > 1


def test_too_many_units_are_refused(stored: StoredDataset) -> None:
    with pytest.raises(ConfigurationError, match=r"draws 9 units .* but mouse 7 has 8"):
        choose(stored, unit_n=4, unit_exclude_n=5)
    with pytest.raises(ConfigurationError, match="unit_exclude_n needs a unit_n"):
        MovieClips(unit_exclude_n=2)


def test_trials_of_each_tier(stored: StoredDataset) -> None:
    found = choose_trials(MovieClips(), stored, "a")
    assert found["train"] == [0, *range(2, 12)]
    assert (found["validation"], found["test"]) == ([12, 13, 14], [15, 16, 17, 18, 19, 20])
    assert (found["final"], found["ood"], found["withheld"]) == ([], [], [1])
    noise = choose_trials(MovieClips(stimulus_type="noise"), stored, "a")
    assert noise["train"] == [3, 5, 7, 9, 11]
    assert noise["withheld"] == [1]
    with pytest.raises(ConfigurationError, match="a has no trial of type 'drift': it has 'clip', 'noise'"):
        choose_trials(MovieClips(stimulus_type="drift,noise"), stored, "a")


def test_numbers_draw_training_trials_only(stored: StoredDataset) -> None:
    np.random.seed(5 * 4)
    drawn = np.random.choice([0, *range(2, 12)], size=4, replace=False)
    found = choose_trials(MovieClips(trial_n=4, trial_seed=5), stored, "a")
    assert found["train"] == sorted(drawn)
    assert found["validation"] == [12, 13, 14]
    with pytest.raises(ConfigurationError, match="trial_n is 12, but a trains with 11"):
        choose_trials(MovieClips(trial_n=12), stored, "a")


def test_missing_tiers_are_named(written: Callable[..., Any], tmp_path: Path) -> None:
    written(tmp_path / "a", ["train"], 10)
    with pytest.raises(DatasetError, match="mouse 7 has no validation trials: see ConditionTier"):
        choose_trials(MovieClips(), StoredDataset(tmp_path / "a"), "mouse 7")
    written(tmp_path / "b", ["train", "validation"], 10, types=["clip", "noise"])
    with pytest.raises(DatasetError, match="mouse 7 has no train trials of type noise"):
        choose_trials(MovieClips(stimulus_type="noise"), StoredDataset(tmp_path / "b"), "mouse 7")


@pytest.mark.parametrize(("field", "value"), [("exclude", "response"), ("behavior", "planes"), ("clip_start", -2)])
def test_unknown_settings_are_refused(field: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"MovieClips.{field}"):
        MovieClips(**{field: value})


def test_repeated_responses_are_those_of_one_condition(stored: StoredDataset) -> None:
    found = dict(repeated_responses(stored, "test"))
    assert {name: value.shape for name, value in found.items()} == {"c15": (3, 8, 10), "c16": (2, 8, 10)}
    assert np.array_equal(found["c16"], [stored.tensor("responses", row) for row in (16, 18)])
    some = dict(repeated_responses(stored, "test", np.array([5, 2]), ["clip"]))
    assert list(some) == ["c16"]
    assert np.array_equal(some["c16"], found["c16"][:, [5, 2]])
    assert list(repeated_responses(stored, "train")) == []


def test_oracles_do_not_depend_on_how_many_units_are_read_at_once(
    stored: StoredDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = [value for _, value in repeated_responses(stored, "test")]
    for memory in (2**28, 1, 3000):
        monkeypatch.setattr(repeats, "MEMORY", memory)
        found = unit_oracles(stored)
        np.testing.assert_array_equal(found.correlation, metrics.oracle_correlation(together))
        np.testing.assert_array_equal(found.conservative, metrics.conservative_oracle_correlation(together))
        assert found.conditions == 2
    some = unit_oracles(stored, units=np.array([6, 1]))
    np.testing.assert_array_equal(some.correlation, metrics.oracle_correlation(together)[[6, 1]])
    nothing = unit_oracles(stored, "train")
    assert np.isnan(nothing.correlation).all()
    assert nothing.conditions == 0


def responses_of(reliable: int, units: int, counts: list[int], seed: int = 0) -> list[np.ndarray]:
    """Responses (repeat, unit, 1) of which those of the first units depend on the condition."""
    rng = np.random.default_rng(seed)
    drive = rng.normal(5, 1.5, (len(counts), units)) * (np.arange(units) < reliable)
    return [(d + rng.normal(size=(n, units)))[:, :, None] for d, n in zip(drive, counts, strict=True)]


@pytest.mark.parametrize("counts", [[4] * 10, [2, 5, 3, 7, 2, 2, 9]])
def test_the_oracle_of_a_shuffle_is_that_of_the_metrics(counts: list[int]) -> None:
    made = responses_of(3, 6, counts)
    trials = np.concatenate(made)[:, :, 0]
    trials -= trials.mean(axis=0)
    found = repeats._oracle_from_sums(trials, trials**2, np.array(counts))
    np.testing.assert_allclose(found, metrics.oracle_correlation(made), rtol=1e-10)


def test_reliability_is_a_p_value() -> None:
    shuffles = 199
    found = reliability(responses_of(20, 420, [4] * 12), shuffles, 3)
    assert (found[:20] == 1 / 200).all()  # above every shuffle
    noise = found[20:]
    np.testing.assert_allclose([(noise <= p).mean() for p in (0.1, 0.5, 0.9)], [0.1, 0.5, 0.9], atol=0.08)
    assert np.array_equal(
        reliability(responses_of(2, 9, [3] * 5), 20, 1), reliability(responses_of(2, 9, [3] * 5), 20, 1)
    )
    constant = reliability([np.ones((3, 2, 1))] * 4, 9, 0)
    assert constant.tolist() == [1, 1]


@pytest.fixture(scope="module")
def graded(written: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> StoredDataset:
    """Images; unit u follows its stimulus the better, the larger u is; the last is silent in the test tier."""
    path = tmp_path_factory.mktemp("graded") / "data"
    rng = np.random.default_rng(2)
    drive = rng.normal(size=(40, 1))
    conditions = [*range(12), *[c for c in range(12, 32) for _ in range(6)]]

    def respond(trial: int, image: np.ndarray) -> np.ndarray:
        strength = np.array([0, 0, 0.4, 0.7, 1.2, 2, 3.5, 7, 0])
        responses = drive[conditions[trial]] * strength + rng.normal(size=9) * (np.arange(9) < 8)
        return responses if trial >= 12 else responses + rng.normal(size=9)

    tiers = ["train"] * 8 + ["validation"] * 4 + ["test"] * 120
    written(path, tiers, None, conditions, units=9, responses=respond)
    return StoredDataset(path)


def test_percentiles_of_the_oracle(graded: StoredDataset) -> None:
    oracle = unit_oracles(graded).correlation
    assert (np.argsort(oracle[2:8]) == np.arange(6)).all()
    assert np.isnan(oracle[8])

    def chosen(low: float, high: float, table: UnitTable | None = None, **settings: Any) -> list[int]:
        config = AreaLayerPercentOracle(percent_low=low, percent_high=high, **settings)
        return choose_units(config, graded, table, "a").tolist()

    assert chosen(75, 100) == [6, 7]  # the percentile of eight units lies between the sixth and seventh
    assert chosen(0, 100) == list(range(8))
    low, high = np.percentile(oracle[:8], [20, 60])
    assert chosen(20, 60) == [u for u in range(8) if low <= oracle[u] <= high]
    area = UnitTable(range(101, 110), ["V1"] * 5 + ["LM"] * 4, [None] * 9)
    assert chosen(60, 100, area, brain_area="V1") == [3, 4]
    assert len(chosen(0, 100, unit_n=2)) == 2
    with pytest.raises(ConfigurationError, match=r"percent_low: 60.0 is not below percent_high, 60.0"):
        AreaLayerPercentOracle(percent_low=60, percent_high=60)


def test_reliable_units(graded: StoredDataset) -> None:
    found = choose_units(AreaLayerReliable(), graded, None, "a").tolist()
    assert set(found) >= {4, 5, 6, 7}
    assert not set(found) & {0, 1, 8}
    with pytest.raises(ConfigurationError, match=r"shuffles: with 99 no p is below 1e-2; use at least 100"):
        AreaLayerReliable(shuffles=99)


def test_units_cannot_be_judged_without_repeats(written: Callable[..., Any], tmp_path: Path) -> None:
    written(tmp_path / "data", ["train", "train", "validation", "test"], None)
    stored = StoredDataset(tmp_path / "data")
    for kind in (AreaLayerPercentOracle, AreaLayerReliable):
        with pytest.raises(ConfigurationError, match=f"{kind.__name__}.* repeated test stimuli"):
            choose_units(kind(), stored, None, "a")
