"""Networks and trainers of a laboratory's own functions, through the tables."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.errors import ConfigurationError, GeniculateError, TrainingError

Key = dict[str, Any]


@pytest.fixture(scope="module")
def stills(stored_images: Key) -> Key:
    """The group of a few still images, without a network or trainer."""
    from schemas import config, dataset

    (data,) = config.DataConfig.CorrectedAreaLayer.fill()
    return {**dataset.MultiDataset.fill(stored_images), **data, "seed": 1009}


def network_of(function: str, **arguments: Any) -> Key:
    from schemas import config

    (key,) = config.NetworkConfig.Function.fill(
        function=f"tests.laboratory.{function}", arguments=json.dumps(arguments)
    )
    return key


def trainer_of(function: str, **arguments: Any) -> Key:
    from schemas import config

    (key,) = config.TrainConfig.Function.fill(
        function=f"tests.laboratory.{function}", arguments=json.dumps(arguments), batch_size=5
    )
    return key


@pytest.fixture(scope="module")
def ours() -> Key:
    from pipeline.models import FullGaussian2d, Network, Stacked2d
    from schemas import config

    core = Stacked2d(hidden_channels=3, input_kern=5, layers=1, momentum=0.87)
    return config.NetworkConfig.add(Network(core, readout=FullGaussian2d()))


@pytest.fixture(scope="module")
def models(stills: Key, ours: Key) -> dict[str, Key]:
    """Four trained models: a network of a function and one of ours, by a trainer of a function and by ours."""
    from schemas import config, model

    (default,) = config.TrainConfig.Default.fill(max_epochs=2, batch_size=5, lr_init=0.0123)
    networks = {"theirs": network_of("stacked_gaussian", hidden_channels=3), "ours": ours}
    trainers = {"function": trainer_of("poisson_trainer", epochs=3), "default": default}
    keys = {f"{n} {t}": {**stills, **networks[n], **trainers[t]} for n in networks for t in trainers}
    for key in keys.values():
        assert model.ModelSelection.fill(key) == 1
    model.Model.populate(list(keys.values()), reserve_jobs=True)
    assert len(model.Model & list(keys.values())) == 4
    return keys


def test_scores_are_those_of_the_stored_weights(models: dict[str, Key]) -> None:
    from pipeline.metrics import single_trial_correlation
    from schemas.dataset import get_dataloaders
    from schemas.model import Model

    for key in models.values():
        encoder, info = Model.load_encoder(key)
        (data_key,) = info
        batches = list(get_dataloaders(key)["validation"][data_key])
        with torch.no_grad():
            predicted = torch.cat([encoder.respond(batch, data_key) for batch in batches])
        responses = torch.cat([batch.responses for batch in batches])
        expected = single_trial_correlation(list(responses.numpy()[..., None]), list(predicted.numpy()[..., None]))
        row = (Model & key).fetch1()
        assert row["validation_correlation"] == pytest.approx(np.nanmean(expected), abs=1e-6)
        assert row["model_parameters"] == sum(p.numel() for p in encoder.parameters())
        assert len(Model.UnitScore & key & {"score_tier": "validation"}) == 4


def test_a_loaded_network_of_a_function_is_what_the_function_makes(models: dict[str, Key]) -> None:
    from schemas.model import Model
    from tests import laboratory

    encoder, info = Model.load_encoder(models["theirs function"])
    batch = laboratory.CALLS[-1]
    assert set(batch["uid"]) == set(Model().primary_key)
    (data_key,) = info
    assert type(encoder.network).__name__ == "FiringRateEncoder"
    shown = torch.randn(2, 1, 18, 32)
    assert torch.equal(encoder(shown, data_key), encoder.network(shown, data_key=data_key))


def test_functions_do_not_tell_their_best_epoch(models: dict[str, Key]) -> None:
    from schemas.model import Model

    row = (Model & models["theirs function"]).fetch1()
    assert (row["model_best_epoch"], row["model_epochs"]) == (None, 3)
    epochs = (Model.Epoch & models["theirs function"]).to_dicts(order_by="epoch")
    assert [epoch["epoch"] for epoch in epochs] == [1, 2, 3]
    unknown = ("epoch_loss", "epoch_regularization", "epoch_validation_correlation", "epoch_learning_rate")
    assert {epoch[name] for epoch in epochs for name in unknown} == {None}
    assert (Model & models["theirs default"]).fetch1("model_epochs") == 2


def test_tables_show_networks_and_trainers_of_both_kinds(models: dict[str, Key], trained: Key) -> None:
    from schemas import config, model

    board = model.Model.leaderboard(list(models.values()))
    assert sorted(board["core"]) == ["Stacked2d"] * 2 + ["tests.laboratory.stacked_gaussian"] * 2
    assert sorted(board["readout"]) == ["", "", "FullGaussian2d", "FullGaussian2d"]
    assert sorted(board["model_epochs"]) == [2, 2, 3, 3]
    frame = model.Model.compare(*models.values())
    assert sorted(frame["network_function"].map(str)) == ["None"] * 2 + ["tests.laboratory.stacked_gaussian"] * 2
    assert sorted(frame["train_kind"]) == ["Default", "Default", "Function", "Function"]
    assert "group_id" not in frame
    elsewhere = model.Model.compare(models["ours default"], trained)
    assert set(elsewhere["group_id"]) == {models["ours default"]["group_id"], trained["group_id"]}
    wide = model.Model.leaderboard(models["theirs function"], parameters=True).iloc[0]
    assert wide["network_arguments"] == '{"hidden_channels":3}'
    mine = model.Model & list(models.values())
    functions = config.NetworkConfig.Function & {"function": "tests.laboratory.stacked_gaussian"}
    cores = config.CoreConfig.Stacked2d & {"momentum": 0.87}
    assert len(model.Model.leaderboard(list(models.values()), functions)) == 2
    assert len(model.Model.leaderboard(list(models.values()), cores)) == 2
    assert len(mine & functions.proj()) == 2
    waiting = model.Model().key_source & list(models.values())
    assert len(waiting) == 4
    assert set((waiting & functions.proj()).to_arrays("network_hash")) == {models["theirs default"]["network_hash"]}
    assert set((waiting & cores.proj()).to_arrays("network_hash")) == {models["ours default"]["network_hash"]}


def test_selections_take_networks_of_functions_by_their_settings(stills: Key) -> None:
    from schemas import config, model

    networks = [network_of("stacked_gaussian", hidden_channels=4, gamma_readout=g) for g in (0.11, 0.12)]
    (trainer,) = config.TrainConfig.Default.fill(max_epochs=1, lr_init=0.00123)
    functions = config.NetworkConfig.Function & "arguments LIKE '%%0.11%%'"
    assert len(functions) == 1
    assert model.ModelSelection.fill(stills, trainer, functions) == 1
    assert len(model.ModelSelection & stills & trainer & networks[0]) == 1
    assert model.ModelSelection.fill(stills, trainer, config.CoreConfig.Stacked2d & {"momentum": 0.87}) == 1
    assert config.NetworkConfig.load_network(networks[1]).keywords["gamma_readout"] == 0.12


def test_readouts_of_functions_are_not_analysed(models: dict[str, Key]) -> None:
    from populate.results import scan_results
    from schemas.analysis import ReadoutAnalysis
    from schemas.model import Model

    assert len(ReadoutAnalysis().key_source & models["theirs default"]) == 0
    assert len(ReadoutAnalysis().key_source & models["ours default"]) == 1
    ReadoutAnalysis.populate(models["theirs default"])
    assert not len(ReadoutAnalysis & models["theirs default"])
    with pytest.raises(ConfigurationError, match="a function made has no readouts of ours"):
        ReadoutAnalysis().make_compute(models["theirs default"], "", [{"data_key": "x"}])
    _, info = Model.load_encoder(models["theirs default"])
    with pytest.raises(GeniculateError, match="a function made this model's network"):
        scan_results(models["theirs default"], info, next(iter(info)))


@pytest.mark.parametrize(
    ("network", "trainer", "error", "complaint"),
    [
        ("nowhere", "poisson_trainer", ConfigurationError, r"'tests\.laboratory\.nowhere' does not lead to a function"),
        ("no_module", "poisson_trainer", ConfigurationError, "must return a torch module"),
        ("fails", "poisson_trainer", ConfigurationError, "no luck"),
        ("stacked_gaussian", "nowhere", ConfigurationError, r"'tests\.laboratory\.nowhere' does not lead"),
        ("stacked_gaussian", "returns_weights_alone", TrainingError, r"must return \(score, output, state_dict\)"),
    ],
)
def test_what_does_not_fit_leaves_no_model(
    stills: Key, network: str, trainer: str, error: type[Exception], complaint: str
) -> None:
    from schemas import model

    key = {**stills, **network_of(network), **trainer_of(trainer)}
    model.ModelSelection.fill(key)
    with pytest.raises(error, match=complaint):
        model.Model.populate(key)
    assert not len(model.Model & key)
    (model.ModelSelection & key).delete(prompt=False)
