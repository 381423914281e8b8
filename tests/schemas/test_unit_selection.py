"""Which units and models are chosen: rows equal what follows from the scores, worked out anew."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pipeline.errors import ConfigurationError, DatasetError

Key = dict[str, Any]

PLACES = {1: (0, 0, 100), 2: (200, 0, 100), 3: (200, 0, 110), 4: (0, 300, 120), 5: (100, 150, 130), 6: (5, 150, 100)}
"""Where the six units lie (um): 2 and 3 are near each other, all but 5 at an edge of what they span."""


@pytest.fixture(scope="module")
def recorded(simulated: Any, open_simulated: Any) -> Key:
    """The tiny recording, ingested once more, with areas, one layer and places."""
    from populate.ingest import ingest
    from schemas import recording

    key = ingest(open_simulated(simulated), "chosen", 1, 1, screen_deg=(90.0, 60.0)).key
    ids = (recording.Scan.Unit & key).to_arrays("unit_id", order_by="unit_id").tolist()
    assert ids == list(PLACES)
    areas = [{**key, "unit_id": unit, "brain_area": "LP" if unit == 4 else "dLGN"} for unit in ids if unit != 6]
    recording.AreaMembership.insert(areas, skip_duplicates=True)
    recording.LayerMembership.insert1({**key, "unit_id": 2, "layer": "shell"}, skip_duplicates=True)
    recording.UnitPosition.insert(
        ({**key, "unit_id": unit, "unit_x": x, "unit_y": y, "unit_z": z} for unit, (x, y, z) in PLACES.items()),
        skip_duplicates=True,
    )
    return key


@pytest.fixture(scope="module")
def data(recorded: Key) -> Key:
    from schemas import config, dataset

    (preprocessing,) = config.PreprocessingConfig.Movie.fill(frame_rate=30.0, height=17, width=27)
    dataset.Dataset.populate({**recorded, **preprocessing})
    (clips,) = config.DataConfig.MovieClips.fill(clip_frames=40)
    key = {**dataset.MultiDataset.fill({**recorded, **preprocessing}, "for choices"), **clips}
    dataset.Oracle.populate(key)
    return key


@pytest.fixture(scope="module")
def models(data: Key) -> Key:
    """Two CNNs and two linear models with two seeds each, and an ensemble."""
    from schemas import config, model

    cores = config.CoreConfig.Factorized3d.fill(
        hidden_channels=(3,), spatial_kernels=(5,), temporal_kernels=[(3,), (5,)], linear=[False, True]
    )
    networks = config.NetworkConfig.fill(
        cores,
        config.RecurrentConfig.NoRecurrence.fill(),
        config.ReadoutConfig.FullGaussian2d.fill(init_mu_range=0.2),
        config.ShifterConfig.NoShifter.fill(),
        config.ModulatorConfig.NoModulator.fill(),
    )
    (trainer,) = config.TrainConfig.Default.fill(max_epochs=1, batch_size=4, lr_init=0.02)
    seeds = [{"seed": 1009}, {"seed": 1215}]
    model.ModelSelection.fill(data, networks, trainer, seeds)
    model.Model.populate(data)
    model.ModelSelection.fill(data, networks, trainer, config.Seed.ensemble([1009, 1215]))
    model.Model.populate(data)
    assert len(model.Model & data) == 12
    return data


@pytest.fixture(scope="module")
def target(models: Key) -> Key:
    from schemas.selection import TargetDataset

    return TargetDataset.fill(models, "all of them", {})


@pytest.fixture(scope="module")
def compared(target: Key) -> Key:
    from schemas.selection import ModelGroup, OracleRankedUnit

    OracleRankedUnit.populate(target)
    return ModelGroup.fill(target)


def test_chosen_units_know_their_area_and_layer(target: Key) -> None:
    from schemas.selection import TargetDataset

    rows = (TargetDataset.Unit & target).to_dicts(order_by="unit_id")
    assert [row["brain_area"] for row in rows] == ["dLGN", "dLGN", "dLGN", "LP", "dLGN", None]
    assert [row["layer"] for row in rows] == [None, "shell", None, None, None, None]
    assert len(TargetDataset.Unit & target & {"brain_area": "LP"}) == 1


def test_units_that_the_data_leave_out_cannot_be_chosen(data: Key) -> None:
    from schemas import config
    from schemas.selection import TargetDataset

    (clips,) = config.DataConfig.MovieClips.fill(clip_frames=40, brain_area="LP")
    key = TargetDataset.fill({**data, **clips}, "all of them", {})
    assert list((TargetDataset.Unit & key).to_arrays("unit_id")) == [4]
    with pytest.raises(DatasetError, match=r"no unit of group .* and its data matches the choice 'another'"):
        TargetDataset.fill({**data, **clips}, "another", {"unit_id": 2})


CHOICE = """
from schemas.selection import TargetDataset
find = TargetDataset._chosen
def wait_and_find(*args):
    print("ready", flush=True); input()  # when neither has found the choice
    return find(*args)
TargetDataset._chosen = staticmethod(wait_and_find)
print(TargetDataset.fill({key!r}, "at once", {})["target_name"])
"""


@pytest.mark.slow
def test_two_processes_make_one_choice(data: Key, together: Any) -> None:
    from schemas.selection import TargetDataset

    code = CHOICE.replace("{key!r}", repr(data))
    assert together(code, code) == ["at once", "at once"]
    assert len(TargetDataset & data & {"target_name": "at once"}) == 1
    assert len(TargetDataset.Unit & data & {"target_name": "at once"}) == 6


def test_units_are_ranked_by_their_oracle(compared: Key) -> None:
    from schemas import dataset
    from schemas.selection import OracleRankedUnit

    oracle = {row["unit_id"]: row["oracle_correlation"] for row in (dataset.Oracle.Unit & compared).to_dicts()}
    rows = (OracleRankedUnit.Unit & compared).to_dicts(order_by="oracle_rank")
    assert [row["oracle_rank"] for row in rows] == list(range(6))
    assert [row["oracle_share"] for row in rows] == [rank / 6 for rank in range(6)]
    assert [row["unit_id"] for row in rows] == sorted(oracle, key=lambda unit: -oracle[unit])
    row = (OracleRankedUnit & compared).fetch1()
    assert (row["ranked_units"], row["unranked_units"]) == (6, 0)
    assert row["ranking_version"]


def test_units_of_a_choice_are_ranked_among_themselves(models: Key) -> None:
    from schemas.selection import OracleRankedUnit, TargetDataset

    some = TargetDataset.fill(models, "three of them", "unit_id in (2, 4, 6)")
    OracleRankedUnit.populate(some)
    rows = (OracleRankedUnit.Unit & some).to_dicts(order_by="oracle_rank")
    assert {row["unit_id"] for row in rows} == {2, 4, 6}
    assert [row["oracle_share"] for row in rows] == [0, 1 / 3, 2 / 3]


def best(rows: list[Key]) -> Key:
    """Return the best seed of the network with the best mean over seeds."""
    means: dict[str, float] = {}
    for network in {row["network_hash"] for row in rows}:
        means[network] = np.mean([r["validation_correlation"] for r in rows if r["network_hash"] == network])
    network = max(means, key=lambda name: means[name])
    return max((r for r in rows if r["network_hash"] == network), key=lambda row: row["validation_correlation"])


def test_the_best_models_are_found_by_mean_over_seeds(compared: Key) -> None:
    from schemas import config, model
    from schemas.selection import ModelGroup

    single = model.Model & compared & "seed > 0"
    for part, linear in ((ModelGroup.CNNModel, False), (ModelGroup.LinearModel, True)):
        of_sort = config.NetworkConfig.CorePlusReadout & (config.CoreConfig.Factorized3d & {"linear": linear})
        rows = (single & of_sort.proj()).to_dicts()
        assert len(rows) == 4
        found = (part & compared).fetch1()
        expected = best(rows)
        assert (found["network_hash"], found["seed"]) == (expected["network_hash"], expected["seed"])
        assert len(model.Model & (part & compared).proj()) == 1


def test_restrictions_say_which_models_count(target: Key) -> None:
    from schemas import config
    from schemas.selection import ModelGroup

    short = config.CoreConfig.Factorized3d & {"temporal_kernels": "[3]"}
    key = ModelGroup.fill(target, "short", cnn=[short & {"linear": False}], linear={"seed": 1215})
    networks = config.NetworkConfig.CorePlusReadout & (short & {"linear": False}).proj()
    assert len(ModelGroup.CNNModel & key & networks.proj()) == 1
    assert (ModelGroup.LinearModel & key).fetch1("seed") == 1215
    assert ModelGroup.fill(target, "short") == key  # a group is not changed
    assert (ModelGroup.LinearModel & key).fetch1("seed") == 1215
    for cnn, complaint in (({"sed": 1}, "sed cannot choose models"), ({"seed": 99999}, "no CNN .* say with cnn=")):
        with pytest.raises(ConfigurationError, match=complaint):
            ModelGroup.fill(target, "none", cnn=cnn)
        assert not len(ModelGroup & {"model_group": "none"})
    with pytest.raises(ConfigurationError, match="there is no choice of units"):
        ModelGroup.fill({**target, "target_name": "nobody"})


def test_scores_stand_beside_ranks_and_places(compared: Key) -> None:
    from schemas import model
    from schemas.selection import ModelGroup, OracleRankedUnit

    frame = ModelGroup.unit_scores(compared).set_index("unit_id")
    assert frame.index.tolist() == list(PLACES)
    assert frame[["unit_x", "unit_y", "unit_z"]].to_numpy().tolist() == [list(place) for place in PLACES.values()]
    assert sorted(frame["oracle_rank"]) == list(range(6))
    for name, part in (("cnn", ModelGroup.CNNModel), ("lin", ModelGroup.LinearModel)):
        row = (part & compared).fetch1()
        scores = model.Model.UnitScore & {n: row[n] for n in model.Model().primary_key} & {"score_tier": "test"}
        for score in scores.to_dicts():
            for measure in ("single_trial_correlation", "fraction_oracle", "feve"):
                found, expected = frame.loc[score["unit_id"], f"{name}_{measure}"], score[measure]
                assert np.isnan(found) if expected is None else found == expected
        alone = OracleRankedUnit.unit_scores({**compared, **row}).set_index("unit_id")
        assert alone["feve"].equals(frame[f"{name}_feve"].rename("feve"))
        assert alone["oracle_rank"].equals(frame["oracle_rank"])
    with pytest.raises(ConfigurationError, match="1 choices of ranked units and 12 models"):
        OracleRankedUnit.unit_scores(compared)
    other = ModelGroup.unit_scores(compared, "validation")
    assert other["cnn_single_trial_correlation"].tolist() != frame["cnn_single_trial_correlation"].tolist()


@pytest.fixture(scope="module")
def rules() -> dict[str, Key]:
    from schemas import config

    everyone = {"oracle_share": 1.0, "edge_distance": 0.0, "percentile": 0.0, "unit_distance": 0.0}
    rules = {"everyone": everyone, "half": {**everyone, "oracle_share": 0.5}}
    rules |= {"inside": {**everyone, "edge_distance": 10.0}, "apart": {**everyone, "unit_distance": 20.0}}
    rules |= {"predicted": {**everyone, "percentile": 40.0}}
    return {name: config.UnitSelectionConfig.HighUnits.fill(**rule)[0] for name, rule in rules.items()}


def test_each_step_of_the_rule_on_the_tables(compared: Key, rules: dict[str, Key]) -> None:
    from schemas.selection import FieldOfView, HighUnitSelection, ModelGroup

    HighUnitSelection.populate(compared, list(rules.values()))
    frame = ModelGroup.unit_scores(compared).set_index("unit_id")
    cnn, linear = frame["cnn_fraction_oracle"], frame["lin_fraction_oracle"]
    by_advantage = (linear - cnn).sort_values().index.tolist()
    near = 3 if by_advantage.index(2) < by_advantage.index(3) else 2
    expected = {
        "everyone": by_advantage,
        "half": [unit for unit in by_advantage if frame.loc[unit, "oracle_rank"] < 3],
        "inside": [5],
        "apart": [unit for unit in by_advantage if unit != near],
        # the second of five gaps between six units is at 40 percent
        "predicted": [u for u in by_advantage if cnn[u] >= sorted(cnn)[2] and linear[u] >= sorted(linear)[2]],
    }
    for name, rule in rules.items():
        rows = (HighUnitSelection.Unit & compared & rule).to_dicts(order_by="hu_rank")
        assert [row["unit_id"] for row in rows] == expected[name], name
        assert [row["hu_rank"] for row in rows] == list(range(len(rows)))
        assert [row["cnn_fraction_oracle"] for row in rows] == [cnn[row["unit_id"]] for row in rows]
        assert [row["lin_fraction_oracle"] for row in rows] == [linear[row["unit_id"]] for row in rows]
        assert (HighUnitSelection & compared & rule).fetch1("high_units") == len(rows)
    counts = (HighUnitSelection & compared & rules["inside"]).fetch1()
    assert (counts["reliable_units"], counts["inside_units"], counts["predicted_units"]) == (6, 1, 1)
    assert not len(FieldOfView())


def test_the_field_of_view_is_taken_where_it_is_known(compared: Key, rules: dict[str, Key], recorded: Key) -> None:
    from schemas.selection import FieldOfView, HighUnitSelection

    (HighUnitSelection & compared & rules["inside"]).delete(prompt=False)
    field = {"field_x_min": -100.0, "field_x_max": 205.0, "field_y_min": -5.0, "field_y_max": 400.0}
    FieldOfView.insert1({**recorded, **field})
    HighUnitSelection.populate(compared, rules["inside"])
    # 1, 2 and 3 are 5 um from the lower edge in y; 4, 5 and 6 lie well inside.
    assert sorted((HighUnitSelection.Unit & compared & rules["inside"]).to_arrays("unit_id")) == [4, 5, 6]


def test_the_selected_units_become_a_choice(compared: Key, rules: dict[str, Key]) -> None:
    from schemas.selection import HighUnitSelection, ModelGroup, TargetDataset, TargetModel

    HighUnitSelection.populate(compared, rules["everyone"])
    best_three = HighUnitSelection.Unit & compared & rules["everyone"] & "hu_rank < 3"
    key = TargetDataset.fill(compared, "high", best_three)
    assert set((TargetDataset.Unit & key).to_arrays("unit_id")) == set(best_three.to_arrays("unit_id"))
    for part in (ModelGroup.CNNModel, ModelGroup.LinearModel):
        TargetModel.insert((part & compared).to_dicts(), ignore_extra_fields=True, skip_duplicates=True)
    assert len(TargetModel & compared) == 2


def test_positions_that_are_missing_are_named(models: Key, compared: Key, recorded: Key) -> None:
    from schemas import config, recording
    from schemas.selection import HighUnitSelection

    (recording.UnitPosition & recorded & {"unit_id": 5}).delete(prompt=False)
    (rule,) = config.UnitSelectionConfig.HighUnits.fill(oracle_share=1.0, percentile=1.0)
    with pytest.raises(DatasetError, match=r"1 of 6 reliable units have no position .* such as unit 5 of chosen-1-1"):
        HighUnitSelection.populate(compared, rule)
    assert not len(HighUnitSelection & rule)
