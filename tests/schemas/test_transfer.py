"""Cores of trained models in new networks: kept as they are, or trained further."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pipeline.errors import ConfigurationError

Key = dict[str, Any]


def network_on(core: Key, gamma: float) -> Key:
    """A network on a core, whose readouts are penalised by gamma."""
    from schemas import config

    (key,) = config.NetworkConfig.fill(
        [core],
        config.RecurrentConfig.NoRecurrence.fill(),
        config.ReadoutConfig.FullGaussian2d.fill(gamma_readout=gamma),
        config.ShifterConfig.NoShifter.fill(),
        config.ModulatorConfig.NoModulator.fill(),
    )
    return key


def train(key: Key) -> Key:
    from schemas import model

    model.ModelSelection.fill(key)
    model.Model.populate(key)
    assert len(model.Model & key) == 1
    return key


@pytest.fixture(scope="module")
def short() -> Key:
    from schemas import config

    return config.TrainConfig.Default.fill(max_epochs=8, batch_size=4, lr_init=0.02)[0]


@pytest.fixture(scope="module")
def frozen(trained: Key, short: Key) -> Key:
    """New readouts on the core of the trained model, which stays as it is; another seed than the source's."""
    from schemas.model import Model

    return train({**trained, **network_on(Model.core_of(trained), 0.31), **short, "seed": 2606})


@pytest.fixture(scope="module")
def tuned(trained: Key, short: Key) -> Key:
    from schemas.model import Model

    return train({**trained, **network_on(Model.core_of(trained, frozen=False), 0.31), **short, "seed": 2606})


def weights(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return dict(module.state_dict())


def test_frozen_cores_keep_every_bit_and_readouts_move(trained: Key, frozen: Key) -> None:
    from schemas import config
    from schemas.model import Model

    source, _ = Model.load_encoder(trained)
    encoder, info = Model.load_encoder(frozen)
    assert (Model & frozen).fetch1("model_best_epoch") > 0, "the weights that were kept are trained ones"
    core = weights(encoder.core)
    assert len(core) > 3
    assert all(torch.equal(value, core[name]) for name, value in weights(source.core).items())
    fresh = config.NetworkConfig.load_network(frozen).build(info, frozen["seed"])
    readouts = weights(encoder.readouts)
    assert not any(torch.equal(value, readouts[name]) for name, value in weights(fresh.readouts).items())
    assert not any(torch.equal(value, core[name]) for name, value in fresh.core.named_parameters())
    assert encoder.core.frozen and not any(p.requires_grad for p in encoder.core.parameters())
    trainable = sum(p.numel() for p in encoder.readouts.parameters())
    assert (Model & frozen).fetch1("model_parameters") == trainable
    (data_key,) = info
    assert set(encoder.regularizer(data_key)) == set(encoder.readouts[data_key].regularizer())


def test_other_cores_go_on_from_the_source(trained: Key, tuned: Key) -> None:
    from schemas import config
    from schemas.model import Model

    source, _ = Model.load_encoder(trained)
    encoder, info = Model.load_encoder(tuned)
    assert (Model & tuned).fetch1("model_best_epoch") > 0, "the weights that were kept are trained ones"
    assert not encoder.core.frozen
    before, after = dict(source.core.named_parameters()), dict(encoder.core.named_parameters())
    fresh = dict(config.NetworkConfig.load_network(tuned).build(info, tuned["seed"]).core.named_parameters())
    for name, value in after.items():
        assert (value - before[name]).norm() > 0, name
    # It was not trained long enough to get far: the source is nearer than where the seed would have begun.
    filters = [name for name, value in after.items() if value.dim() > 2]
    assert filters
    for name in filters:
        assert (after[name] - before[name]).norm() < (after[name] - fresh[name]).norm()


def test_loaded_models_predict_what_was_scored(frozen: Key, tuned: Key) -> None:
    import numpy as np

    from pipeline.metrics import single_trial_correlation
    from pipeline.training import predict
    from schemas.dataset import get_dataloaders
    from schemas.model import Model

    for key in (frozen, tuned):
        encoder, info = Model.load_encoder(key)
        (data_key,) = info
        trials = predict(encoder, get_dataloaders(key)["validation"][data_key], data_key)
        responses, predictions = zip(*trials, strict=True)
        expected = np.nanmean(single_trial_correlation(responses, predictions))
        assert (Model & key).fetch1("validation_correlation") == pytest.approx(expected, abs=1e-6)


def test_tables_show_where_cores_are_from(trained: Key, frozen: Key, tuned: Key) -> None:
    from schemas import config
    from schemas.model import Model

    keys = [trained, frozen, tuned]
    board = Model.leaderboard(keys)
    assert sorted(board["core"]) == ["Factorized3d", "Pretrained(frozen=False)", "Pretrained(frozen=True)"]
    frame = Model.compare(frozen, tuned)
    assert list(frame["core_frozen"].sort_values()) == [False, True]
    assert "core_source_seed" not in frame, "both are from the same model"
    chosen = config.CoreConfig.Pretrained & {"source_network_hash": trained["network_hash"], "frozen": True}
    assert len(Model.leaderboard(keys, chosen)) == 1
    assert Model.leaderboard(keys, chosen).iloc[0]["network_hash"] == frozen["network_hash"]


def test_cores_are_passed_on(trained: Key, frozen: Key, short: Key) -> None:
    from schemas import config
    from schemas.model import Model

    again = train({**frozen, **network_on(Model.core_of(frozen), 0.32)})
    network = config.NetworkConfig.load_network(again)
    assert network.core == config.NetworkConfig.load_network(trained).core
    assert network.pretrained.source == {name: frozen[name] for name in Model().primary_key}
    assert config.NetworkConfig.add(network) == {"network_hash": again["network_hash"]}
    first, last = (weights(Model.load_encoder(key)[0].core) for key in (trained, again))
    assert all(torch.equal(value, last[name]) for name, value in first.items())


def test_a_source_that_is_gone_is_named_and_not_needed_for_loading(trained: Key, short: Key) -> None:
    from schemas.model import Model, ModelSelection

    source = train({**trained, **short, "seed": 1215})
    core = Model.core_of(source)
    made = train({**source, **network_on(core, 0.33)})
    before = weights(Model.load_encoder(made)[0])
    (Model & source).delete(prompt=False)
    assert all(torch.equal(value, before[name]) for name, value in weights(Model.load_encoder(made)[0]).items())
    wanted = {**made, **network_on(core, 0.34)}
    ModelSelection.fill(wanted)
    with pytest.raises(ConfigurationError, match=r"core is from is not there: train .*'seed': 1215.* again"):
        Model.populate(wanted)
    with pytest.raises(ConfigurationError, match="names 0 trained models, but a core is from exactly one"):
        Model.core_of(source)
    with pytest.raises(ConfigurationError, match=r"names \d+ trained models"):
        Model.core_of({"group_id": trained["group_id"]})
    (ModelSelection & wanted).delete(prompt=False)


@pytest.fixture(scope="module")
def other_scan(tmp_path_factory: pytest.TempPathFactory, open_simulated: Any, stored: Key) -> Key:
    """The group of another recording, of four other units."""
    from pipeline.simulation import SimulationSettings, simulate_dlgn
    from populate.ingest import ingest
    from schemas import dataset

    folder = tmp_path_factory.mktemp("other") / "recording"
    scenes = {"n_train": 8, "n_validation": 2, "n_test": 2, "test_repeats": 2, "scene_seconds": 2}
    simulate_dlgn(folder, SimulationSettings(n_units=4, **scenes, width=106, height=66, seed=4))
    scan = ingest(open_simulated(folder), "elsewhere", 1, 1, screen_deg=(90.0, 60.0)).key
    key = {**scan, "preprocessing_hash": stored["preprocessing_hash"]}
    dataset.Dataset.populate(key)
    return dataset.MultiDataset.fill(key, "another scan")


def test_readouts_for_another_scan_in_one_call(trained: Key, other_scan: Key) -> None:
    from schemas import config
    from schemas.model import Model, ModelSelection
    from schemas.transfer import transfer

    wanted = transfer(trained, other_scan)
    assert wanted == transfer(trained, other_scan)
    changed = {name for name in wanted if wanted[name] != trained[name]}
    assert changed == {"group_id", "network_hash"} and set(wanted) == set(Model().primary_key)
    Model.populate(wanted)
    source, info_before = Model.load_encoder(trained)
    encoder, info = Model.load_encoder(wanted)
    assert not info.keys() & info_before.keys()
    (data_key,) = info
    assert info[data_key].n_units == 4
    core = weights(encoder.core)
    assert all(torch.equal(value, core[name]) for name, value in weights(source.core).items())
    row = (Model & wanted).fetch1()
    assert row["model_parameters"] == sum(p.numel() for p in encoder.readouts[data_key].parameters())
    assert row["model_best_epoch"] > 0
    fresh = config.NetworkConfig.load_network(wanted).build(info, wanted["seed"])
    assert not torch.equal(encoder.readouts[data_key].features, fresh.readouts[data_key].features)
    assert config.NetworkConfig.load_network(wanted).readout == config.NetworkConfig.load_network(trained).readout
    further = transfer(trained, other_scan, frozen=False, priority=2)
    assert further["network_hash"] != wanted["network_hash"]
    assert (ModelSelection & further).fetch1("selection_priority") == 2


def test_groups_that_cores_cannot_be_given_to_are_named(trained: Key) -> None:
    from schemas.transfer import transfer

    with pytest.raises(ConfigurationError, match="there is no group 999 that the data configuration"):
        transfer(trained, {"group_id": 999})
    with pytest.raises(ConfigurationError, match="names 0 trained models"):
        transfer({**trained, "seed": 4711}, {"group_id": trained["group_id"]})


def test_networks_of_functions_have_no_core_to_give(trained: Key, short: Key) -> None:
    from schemas import config
    from schemas.model import Model

    (network,) = config.NetworkConfig.Function.fill(function="tests.laboratory.linear", arguments='{"frames": 5}')
    key = train({**trained, **network, **short})
    before = len(config.CoreConfig.Pretrained())
    with pytest.raises(ConfigurationError, match=r"tests\.laboratory\.linear cannot give its core to another"):
        Model.core_of(key)
    assert len(config.CoreConfig.Pretrained()) == before
