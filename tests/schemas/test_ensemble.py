"""Ensembles are models whose seed names several; and what training does beside descending."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from tqdm import tqdm

Key = dict[str, Any]
TOLD: list[tuple[Key, Any]] = []


def note(key: Key, epoch: Any) -> None:
    """A hook."""
    TOLD.append((key, epoch))


@pytest.fixture(scope="module")
def ensemble(trained: Key) -> Key:
    """Three seeds, one of which was trained before."""
    from schemas import config, model

    key = {**trained, **config.Seed.ensemble([2606, 1009, 1215])}
    model.ModelSelection.fill(key)
    model.Model.populate(key, reserve_jobs=True)
    return key


def test_ensembles_are_named_by_their_members(trained: Key) -> None:
    from pipeline.errors import ConfigurationError
    from schemas.config import Seed

    key = Seed.ensemble([1009, 77])
    assert key == Seed.ensemble((77, 1009, 77)) == {"seed": key["seed"]}
    assert key["seed"] == -1603956179, "the same on every server"
    assert Seed.members(key) == (77, 1009)
    assert Seed.members({"seed": 77}) == (77,)
    assert Seed.ensemble([1009, 78]) != key
    for seeds in ([], [5], [5, 5], [-1, 5], [5, 2**31]):
        with pytest.raises(ConfigurationError, match="make no ensemble"):
            Seed.ensemble(seeds)


def test_members_are_adopted_or_trained_and_predict_their_mean(ensemble: Key, trained: Key) -> None:
    from pipeline.training import score
    from schemas.dataset import get_dataloaders
    from schemas.model import Model

    rows = {row["member_seed"]: row for row in (Model.Member & ensemble).to_dicts()}
    assert {seed: row["member_stopped_by"] for seed, row in rows.items()} == {
        1009: "adopted",
        1215: "max_epochs",
        2606: "max_epochs",
    }
    alone = (Model & trained).fetch1()
    assert rows[1009]["member_validation_correlation"] == pytest.approx(alone["validation_correlation"], abs=1e-6)
    made, info = Model.load_encoder(ensemble)
    single, _ = Model.load_encoder(trained)
    for name, value in single.state_dict().items():
        assert torch.equal(made.member(1009).state_dict()[name], value)
    (data_key,) = info
    loaders = get_dataloaders(ensemble)
    (batch, *_) = loaders["test"][data_key]
    each = [made.member(seed).respond(batch, data_key) for seed in (1009, 1215, 2606)]
    torch.testing.assert_close(made.respond(batch, data_key), sum(each) / 3)
    row = (Model & ensemble).fetch1()
    assert row["validation_correlation"] == pytest.approx(
        score(made, {data_key: loaders["validation"][data_key]}).correlation, abs=1e-6
    )
    assert row["model_parameters"] == 3 * alone["model_parameters"]
    assert row["model_best_epoch"] is None and row["model_epochs"] == 5
    assert len(Model.UnitScore & ensemble) == len(Model.UnitScore & trained)


def test_members_trained_together_are_those_trained_alone(ensemble: Key) -> None:
    from schemas.model import Model, ModelSelection

    key = {**ensemble, "seed": 1215}
    ModelSelection.fill(key)
    Model.populate(key)
    alone, _ = Model.load_encoder(key)
    made, _ = Model.load_encoder(ensemble)
    for name, value in alone.state_dict().items():
        # Sums over threads differ in their last bits, which training makes more of.
        torch.testing.assert_close(made.member(1215).state_dict()[name], value, rtol=1e-2, atol=1e-3)
    epochs = [
        (Model.Epoch & k & {"member_seed": 1215}).to_arrays("epoch_loss", order_by="epoch") for k in (ensemble, key)
    ]
    np.testing.assert_allclose(*epochs, rtol=1e-3)


ANOTHER_WORKER = """
import json, sys
from schemas import model
model.Model.populate(json.loads(sys.stdin.readline()))
"""


@pytest.mark.slow
def test_members_that_others_train_meanwhile_are_no_obstacle(
    trained: Key, begin: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another worker finishes a member alone while the ensemble trains it too."""
    import schemas.training as module
    from schemas import config, model
    from schemas.connection import settings

    (trainer,) = config.TrainConfig.Default.fill(max_epochs=1, batch_size=4, lr_init=0.0035)
    alone = {**trained, **trainer, "seed": 1215}
    key = {**alone, **config.Seed.ensemble([1215, 2606])}
    for wanted in (alone, key):
        model.ModelSelection.fill(wanted)
    train = module.train_models

    def beside_another(*given: Any) -> Any:
        process = begin(ANOTHER_WORKER)
        errors = process.communicate(json.dumps(alone) + "\n", timeout=300)[1]
        assert process.returncode == 0, errors
        return train(*given)

    monkeypatch.setattr(module, "train_models", beside_another)
    model.Model.populate(key)
    assert len(model.Model & [alone, key]) == 2
    assert set((model.Model.Member & key).to_arrays("member_stopped_by")) == {"max_epochs"}
    assert not list((settings().home / "checkpoints").glob("*"))


def test_leaderboards_and_meis_treat_ensembles_as_models(ensemble: Key, trained: Key) -> None:
    from schemas import analysis, config, mei, model

    board = model.Model.leaderboard([trained, ensemble])
    assert len(board) == 2
    members = dict(zip(board["seed"], board["members"], strict=True))
    assert members == {1009: "", ensemble["seed"]: "1009, 1215, 2606"}
    assert "members" not in model.Model.leaderboard(trained)
    compared = model.Model.compare(trained, ensemble)
    assert list(compared) == ["seed", "validation_correlation", "test_correlation"]
    (settings,) = config.MEIConfig.Movie.fill(frames=8, iterations=3)
    target = mei.TargetDataset.fill(ensemble, "one", {"unit_id": 2})
    mei.TargetModel.insert1({name: ensemble[name] for name in model.Model().primary_key}, skip_duplicates=True)
    mei.MEI.populate({**ensemble, **target, **settings})
    row = (mei.MEI.Unit & ensemble & target & settings).fetch1()
    made, info = model.Model.load_encoder(ensemble)
    (data_key,) = info
    movie = (torch.tensor(np.asarray(row["mei_movie"]))[None] - info[data_key].input_mean) / info[data_key].input_std
    with torch.no_grad():
        found = made(movie, data_key, unit_idx=[info[data_key].unit_ids.index(2)])[0, 0, -1].item()
    assert row["mei_activation"] == pytest.approx(found, rel=1e-3)
    assert not len(analysis.ReadoutAnalysis().key_source & ensemble)
    assert len(analysis.ReadoutAnalysis().key_source & trained) == 1


def test_a_core_is_from_one_model(ensemble: Key) -> None:
    from pipeline.errors import ConfigurationError
    from schemas.model import Model

    with pytest.raises(ConfigurationError, match="names an ensemble, but a core is from exactly one"):
        Model.core_of(ensemble)


def test_every_penalty_of_every_epoch_is_kept(trained: Key) -> None:
    from schemas.model import Model

    encoder, info = Model.load_encoder(trained)
    (data_key,) = info
    names = set(encoder.regularizer(data_key))
    rows = (Model.EpochPenalty & trained).to_dicts(order_by="epoch")
    assert {row["penalty_name"] for row in rows} == names and len(names) >= 2
    totals = (Model.Epoch & trained).to_arrays("epoch_regularization", order_by="epoch")
    for epoch, total in enumerate(totals, start=1):
        assert sum(row["penalty"] for row in rows if row["epoch"] == epoch) == pytest.approx(total)
    best = (Model & trained).fetch1("model_best_epoch")
    assert (Model.Member & trained).fetch1("member_best_epoch") == best


def test_hooks_are_told_of_every_epoch(trained: Key, monkeypatch: pytest.MonkeyPatch) -> None:
    from schemas import config, model

    (trainer,) = config.TrainConfig.Default.fill(max_epochs=2, batch_size=4, lr_init=0.0031)
    key = {**trained, **trainer}
    model.ModelSelection.fill(key)
    monkeypatch.setenv("GENICULATE_EPOCH_HOOKS", f"{__name__}:note")
    TOLD.clear()
    model.Model.populate(key)
    hook = __import__("sys").modules[__name__]
    assert [(told["seed"], told["train_hash"], epoch.epoch) for told, epoch in hook.TOLD] == [
        (1009, trainer["train_hash"], 1),
        (1009, trainer["train_hash"], 2),
    ]
    losses = (model.Model.Epoch & key).to_arrays("epoch_loss", order_by="epoch")
    assert [epoch.loss for _, epoch in hook.TOLD] == pytest.approx(list(losses))


def test_a_bar_shows_loss_and_validation_correlation_of_every_epoch(
    trained: Key, monkeypatch: pytest.MonkeyPatch
) -> None:
    import schemas.training as module
    from schemas import config, model

    terminal = io.StringIO()

    def shown(total: int, what: str, unit: str) -> Any:
        return tqdm(total=total, desc=what, unit=unit, file=terminal, mininterval=0, ncols=200)

    (trainer,) = config.TrainConfig.Default.fill(max_epochs=2, batch_size=4, lr_init=0.0036)
    key = {**trained, **trainer}
    model.ModelSelection.fill(key)
    monkeypatch.setattr(module, "bar", shown)
    model.Model.populate(key)
    for epoch in (model.Model.Epoch & key).to_dicts():
        loss, correlation = epoch["epoch_loss"], epoch["epoch_validation_correlation"]
        assert f"{epoch['epoch']}/2" in terminal.getvalue()
        assert f"loss={loss:.4g}, validation={correlation:.3f}" in terminal.getvalue()


def test_predictions_of_an_ensemble_are_the_mean_of_those_of_its_members(ensemble: Key) -> None:
    from schemas.analysis import Prediction, PredictionSelection
    from schemas.model import Model, ModelSelection

    members = [{**ensemble, "seed": seed} for seed in (1009, 1215, 2606)]
    for key in members:
        ModelSelection.fill(key)
    Model.populate(members)
    PredictionSelection.fill([ensemble, *members], tiers=("validation",))
    Prediction.populate([ensemble, *members])
    wanted = [{**key, "prediction_tier": "validation"} for key in (ensemble, *members)]
    together, *alone = ([*Prediction.trials(key)["prediction"]] for key in wanted)
    assert len(together) == 2
    for trial, mean in enumerate(together):
        # Alone, sums over threads differ in their last bits, which training makes more of.
        np.testing.assert_allclose(mean, np.mean([of[trial] for of in alone], axis=0), rtol=1e-2, atol=1e-3)
        assert np.abs(mean - alone[0][trial]).max() > 0.01


def test_units_without_a_score_are_named_in_the_log(
    trained: Key, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import schemas.training as module
    from schemas import config, model

    (trainer,) = config.TrainConfig.Default.fill(max_epochs=1, batch_size=4, lr_init=0.0032)
    key = {**trained, **trainer}
    model.ModelSelection.fill(key)
    train = module.train_models

    def without_unit(encoders: Any, loaders: Any, *rest: Any) -> Any:
        (encoder,) = encoders
        (readout,) = (encoder.readouts[data_key] for data_key in encoder.readouts)
        readout.features.register_hook(lambda gradient: gradient.index_fill(0, torch.tensor([3]), 0))
        with torch.no_grad():
            readout.features[3] = 0
        return train(encoders, loaders, *rest)

    monkeypatch.setattr(module, "train_models", without_unit)
    model.Model.populate(key)
    (said,) = (record.message for record in caplog.records if record.name == "schemas.training")
    assert "1 of 6 units" in said and "unit_id 4" in said
    assert (model.Model.Epoch & key).fetch1("epoch_undefined_units") == 1
    score = (model.Model.UnitScore & key & {"score_tier": "validation", "unit_id": 4}).fetch1()
    assert score["single_trial_correlation"] is None
    assert not math.isnan((model.Model & key).fetch1("validation_correlation"))


def within_an_epoch(act: Callable[[], Any]) -> Callable[..., None]:
    """Return a hook of a model that acts once, at the second batch that trains it."""
    trained: list[bool] = []

    def hook(module: torch.nn.Module, *_: Any) -> None:
        if module.training:
            trained.append(True)
            if len(trained) == 2:
                act()

    return hook


def test_training_survives_the_loss_of_its_session_within_an_epoch(
    trained: Key, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server closes the worker's session while a batch is computed, as it does when it is restarted."""
    import schemas.training as module
    from schemas import config, model
    from schemas.connection import connect, new_connection

    (trainer,) = config.TrainConfig.Default.fill(max_epochs=2, batch_size=4, lr_init=0.0033)
    key = {**trained, **trainer}
    model.ModelSelection.fill(key)
    closed: list[int] = []
    postgres = connect().adapter.backend == "postgresql"

    def session() -> int:
        return int(connect().query(f"SELECT {'pg_backend_pid' if postgres else 'connection_id'}()").fetchone()[0])

    def close_session() -> None:
        closed.append(session())
        other = new_connection()
        other.query("SELECT pg_terminate_backend(%s)" if postgres else "KILL %s", (closed[0],))
        other.close()

    train = module.train_models

    def watched(encoders: Any, *rest: Any) -> Any:
        encoders[0].register_forward_hook(within_an_epoch(close_session))
        return train(encoders, *rest)

    monkeypatch.setattr(module, "train_models", watched)
    model.Model.populate(key, reserve_jobs=True)
    assert closed and session() != closed[0]
    assert len(model.Model & key) == 1
    assert len(model.Model.Epoch & key) == 2
    assert not len(model.Model().jobs & key & "status != 'success'")


@pytest.mark.embedded
def test_training_survives_a_stop_of_the_server_within_an_epoch(trained: Key, monkeypatch: pytest.MonkeyPatch) -> None:
    """See test_restart.py for MySQL."""
    import schemas.training as module
    from schemas import config, connection, model

    (trainer,) = config.TrainConfig.Default.fill(max_epochs=2, batch_size=4, lr_init=0.0034)
    key = {**trained, **trainer}
    model.ModelSelection.fill(key)
    stopped: list[bool] = []
    train = module.train_models

    def watched(encoders: Any, *rest: Any) -> Any:
        stop = within_an_epoch(lambda: stopped.append(connection.stop_embedded()))
        encoders[0].register_forward_hook(stop)
        return train(encoders, *rest)

    monkeypatch.setattr(module, "train_models", watched)
    model.Model.populate(key, reserve_jobs=True)
    assert stopped == [True]
    assert len(model.Model & key) == 1
    assert len(model.Model.Epoch & key) == 2
