"""Trained models: what the tables say is what the weights do, and the same key gives the same weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

Key = dict[str, Any]


def test_scores_are_those_of_the_stored_weights(trained: Key) -> None:
    from pipeline.analysis.scores import UnitScores, score
    from pipeline.metrics import poisson_loss, single_trial_correlation
    from schemas.dataset import get_dataloaders
    from schemas.model import Model

    encoder, info = Model.load_encoder(trained)
    loaders = get_dataloaders(trained)
    (data_key,) = info
    row = (Model & trained).fetch1()
    for tier in ("validation", "test"):
        responses, predictions = [], []
        for batch in loaders[tier][data_key]:
            with torch.no_grad():
                predicted = encoder(batch.videos, data_key, behavior=batch.behavior, pupil_center=batch.pupil_center)
            responses += [r.numpy() for r in batch.responses[..., -predicted.shape[-1] :]]
            predictions += [p.numpy() for p in predicted]
        expected = single_trial_correlation(responses, predictions)
        units = (Model.UnitScore & trained & {"score_tier": tier}).to_dicts(order_by="unit_id")
        assert [unit["unit_id"] for unit in units] == [1, 2, 3, 4, 5, 6]
        assert [unit["single_trial_correlation"] for unit in units] == pytest.approx(expected, abs=1e-6)
        assert [unit["poisson_loss"] for unit in units] == pytest.approx(poisson_loss(responses, predictions), abs=1e-5)
        anew = score(responses, predictions, loaders[tier][data_key].conditions)  # repeats lie apart here
        for name in UnitScores.names():
            stored = np.array([unit[name] for unit in units], float)
            np.testing.assert_allclose(stored, getattr(anew, name), atol=1e-4, rtol=1e-4)
        assert row[f"{tier}_correlation"] == pytest.approx(np.nanmean(expected), abs=1e-6)
        scan = (Model.ScanScore & trained & {"score_tier": tier}).fetch1()
        assert scan["scan_single_trial_correlation"] == pytest.approx(np.nanmean(expected), abs=1e-6)
        assert scan["scan_undefined_single_trial_correlation"] == np.isnan(expected).sum()


def test_undefined_scores_are_null(trained: Key) -> None:
    from schemas.model import Model

    validation = Model.UnitScore & trained & {"score_tier": "validation"}
    assert len(validation & "feve IS NULL") == 6  # no validation scene is shown twice
    assert len(validation & "single_trial_correlation IS NULL") == 0
    assert len(Model.UnitScore & trained & {"score_tier": "test"} & "correlation_to_average IS NOT NULL") == 6
    scan = (Model.ScanScore & trained & {"score_tier": "validation"}).fetch1()
    assert scan["scan_feve"] is None
    assert scan["scan_undefined_feve"] == 6
    assert scan["scan_undefined_single_trial_correlation"] == 0


def test_each_measure_has_its_columns_and_scans_count_what_is_undefined(trained: Key) -> None:
    from pipeline.analysis.scores import MEASURES, UnitScores
    from pipeline.metrics import fraction_oracle
    from schemas.dataset import Oracle
    from schemas.model import Model

    assert tuple(MEASURES) == UnitScores.names()
    test = {"score_tier": "test"}
    units = (Model.UnitScore & trained & test).to_pandas().reset_index().sort_values("unit_id")
    scan = (Model.ScanScore & trained & test).fetch1()
    for name in MEASURES:
        values = units[name].astype(float)
        assert scan[f"scan_undefined_{name}"] == values.isna().sum()
        if name != "fraction_oracle":
            assert scan[f"scan_{name}"] == pytest.approx(values.mean())
    slope = fraction_oracle(units["single_trial_correlation"], units["oracle"])
    assert scan["scan_fraction_oracle"] == pytest.approx(slope)
    # The model has no prediction for the first frames, which that table counts too.
    Oracle.populate(trained)
    elsewhere = (Oracle.Unit & trained).to_arrays("oracle_correlation", order_by="unit_id")
    np.testing.assert_allclose(units["oracle"].astype(float), elsewhere.astype(float), atol=0.1)


def test_rows_tell_the_training_and_where_it_happened(trained: Key) -> None:
    import datajoint as dj

    from pipeline.provenance import provenance
    from schemas.model import Model

    row = (Model & trained).fetch1()
    here = provenance("cpu")
    for name in ("version", "commit", "dirty", "torch", "datajoint", "host", "device"):
        assert row[f"model_{name}"] == getattr(here, name)
    assert row["model_datajoint"] == dj.__version__
    epochs = (Model.Epoch & trained).to_dicts(order_by="epoch")
    assert [epoch["epoch"] for epoch in epochs] == [1, 2, 3, 4, 5]
    assert row["model_epochs"] == 5
    assert 0 < sum(epoch["epoch_seconds"] for epoch in epochs) < row["model_seconds"]
    best = max(epochs, key=lambda epoch: epoch["epoch_validation_correlation"])
    assert row["model_best_epoch"] == best["epoch"] > 0
    assert row["validation_correlation"] == pytest.approx(best["epoch_validation_correlation"], abs=1e-6)
    encoder, _ = Model.load_encoder(trained)
    assert row["model_parameters"] == sum(p.numel() for p in encoder.parameters())


def test_same_key_gives_the_same_weights(trained: Key) -> None:
    from schemas.model import Model

    before = (Model & trained).fetch1("model_weights").read()
    torch.manual_seed(7)  # whatever else drew random numbers in between
    (Model & trained).delete(prompt=False)
    assert not len(Model.Epoch & trained)
    Model.populate(trained, reserve_jobs=True)
    assert (Model & trained).fetch1("model_weights").read() == before


ELSEWHERE = """
import hashlib
from pathlib import Path
from pipeline.models import Factorized3d, FullGaussian2d, Network, NoModulator, NoRecurrence, NoShifter
from pipeline.recordings import open_recording
from populate.ingest import ingest
from schemas import config, dataset, model
folder = Path({folder!r})
source = open_recording("thesis", responses=str(folder / "responses.pkl"), videos=str(folder / "videos"),
                        behavior=str(folder / "resp_behav_df.pkl"))
key = {**ingest(source, "tiny", 1, 1, screen_deg=(90.0, 60.0)).key,
       **config.PreprocessingConfig.Movie.fill(frame_rate=30.0, height=17, width=27)[0]}
dataset.Dataset.populate(key)
core = Factorized3d(hidden_channels=(4,), spatial_kernels=(5,), temporal_kernels=(5,))
key = {**dataset.MultiDataset.fill(key), **config.DataConfig.MovieClips.fill(clip_frames=40)[0],
       **config.NetworkConfig.add(Network(core, NoRecurrence(), FullGaussian2d(), NoShifter(), NoModulator())),
       **config.TrainConfig.Default.fill(max_epochs=5, batch_size=4, lr_init=0.05)[0], "seed": 1009}
model.ModelSelection.fill(key)
model.Model.populate(key)
print(hashlib.sha256((model.Model & key).fetch1("model_weights").read()).hexdigest())
"""


@pytest.mark.slow
def test_same_key_on_other_tables_gives_the_same_weights(trained: Key, simulated: Any, begin: Any, finish: Any) -> None:
    import hashlib
    import os

    from schemas.model import Model

    prefix = f"{os.environ['GENICULATE_PREFIX']}_fresh"  # dropped with the others at the end
    code = ELSEWHERE.replace("{folder!r}", repr(str(simulated)))
    folder = os.environ["GENICULATE_HOME"] + "/fresh"
    digest = finish(begin(code, GENICULATE_PREFIX=prefix, GENICULATE_DATASETS=folder))
    (Model & trained).delete(prompt=False)
    Model.populate(trained)
    assert hashlib.sha256((Model & trained).fetch1("model_weights").read()).hexdigest() == digest


KILLED_AFTER_TWO_EPOCHS = """
import json, os, signal, sys
from schemas import model, training
key = json.loads(sys.stdin.readline())
train = training.train_models

def killed(encoders, loaders, settings, seeds, on_epoch, *rest):
    def watch(epoch):
        if epoch.epoch == 2:
            os.kill(os.getpid(), signal.SIGKILL)
    return train(encoders, loaders, settings, seeds, watch, *rest)

training.train_models = killed
model.Model.populate(key, reserve_jobs=True)
"""


@pytest.mark.slow
def test_a_killed_training_goes_on_and_ends_in_the_same_weights(
    trained: Key, begin: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import json
    import signal

    import schemas.training as module
    from populate.work import populate_all
    from schemas.connection import settings
    from schemas.model import Model

    (Model & trained).delete(prompt=False)
    Model.populate(trained)
    whole = (Model & trained).fetch1("model_weights").read()
    epochs = (Model.Epoch & trained).to_arrays("epoch_validation_correlation", order_by="epoch").tolist()
    (Model & trained).delete(prompt=False)
    process = begin(KILLED_AFTER_TWO_EPOCHS, GENICULATE_CHECKPOINT_SECONDS="3600", GENICULATE_CHECKPOINT_EPOCHS="1")
    process.communicate(json.dumps(trained) + "\n", timeout=300)
    assert process.returncode == -signal.SIGKILL
    (checkpoint,) = (settings().home / "checkpoints").glob("*.safetensors")
    checkpoint.with_name(f"{checkpoint.name}.1.part").touch()  # as a process leaves it that is killed on writing

    seen: list[int] = []
    train = module.train_models

    def watched(encoders: Any, loaders: Any, given: Any, seeds: Any, on_epoch: Any, *rest: Any) -> Any:
        return train(encoders, loaders, given, seeds, lambda epoch: seen.append(epoch.epoch), *rest)

    monkeypatch.setattr(module, "train_models", watched)
    assert populate_all(Model, trained) == 1
    assert seen == list(range(3, len(epochs) + 1))  # two epochs were not done again
    assert (Model & trained).fetch1("model_weights").read() == whole
    again = (Model.Epoch & trained).to_arrays("epoch_validation_correlation", order_by="epoch").tolist()
    assert again == epochs
    assert not list(checkpoint.parent.iterdir())


def test_no_transaction_is_open_while_training(trained: Key, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each epoch asks the connection, and asks the server in another session."""
    from pipeline.training.history import Epoch
    from schemas import config, model, training
    from schemas.connection import connect, new_connection

    (trainer,) = config.TrainConfig.Default.fill(max_epochs=2, batch_size=4, lr_init=0.0021)
    key = {**trained, **trainer}
    model.ModelSelection.fill(key)
    seen: list[tuple[bool, int]] = []
    other = new_connection()

    def watched(encoders: Any, loaders: Any, settings: Any, seeds: Any, on_epoch: Any, *rest: Any) -> Any:
        def asks(epoch: Epoch) -> None:
            query = "SELECT count(*) FROM information_schema.innodb_trx WHERE trx_mysql_thread_id = %s"
            if connect().adapter.backend == "postgresql":
                query = "SELECT count(xact_start) FROM pg_stat_activity WHERE pid = %s"
            found = other.query(query, (connect().connection_id,)).fetchone()[0]
            seen.append((connect().in_transaction, int(found)))
            on_epoch(epoch)

        return train(encoders, loaders, settings, seeds, asks, *rest)

    train = training.train_models
    monkeypatch.setattr(training, "train_models", watched)
    model.Model.populate(key, reserve_jobs=True)
    other.close()
    assert [in_transaction for in_transaction, _ in seen] == [False, False]
    assert {open_on_server for _, open_on_server in seen} == {0}
    assert len(model.Model & key) == 1


def test_leaderboard_ranks_by_validation(trained: Key, group: Key) -> None:
    from schemas import config, model

    others = config.TrainConfig.Default.fill(max_epochs=1, batch_size=4, lr_init=[1e-5, 2e-5])
    model.ModelSelection.fill({**trained, "seed": 2606})
    for trainer in others:
        model.ModelSelection.fill({**trained, **trainer})
    wanted = [trained, {**trained, "seed": 2606}, *({**trained, **trainer} for trainer in others)]
    model.Model.populate(wanted)
    board = model.Model.leaderboard(group, wanted)
    assert len(board) == 4
    assert list(board["validation_correlation"]) == sorted(board["validation_correlation"], reverse=True)
    assert set(board["seed"]) == {1009, 2606}
    assert set(board["core"]) == {"Factorized3d"}  # settings are shown where models differ
    for _, row in board.iterrows():
        key = {name: row[name] for name in model.Model().primary_key}
        assert row["test_correlation"] == (model.Model & key).fetch1("test_correlation")
    linear = config.CoreConfig.Factorized3d & {"linear": True} & {"momentum": 0.777}
    assert not len(model.Model.leaderboard(group, linear))
    assert len(model.Model.leaderboard(group, model.Model & trained)) == 1


def test_parameters_are_columns_with_their_parts_prefix(trained: Key, group: Key) -> None:
    from schemas import model

    row = model.Model.leaderboard(trained, parameters=True).iloc[0]
    assert (row["core_kind"], row["core_spatial_kernels"], row["train_lr_init"]) == ("Factorized3d", (5,), 0.05)
    assert row["data_clip_frames"] == 40


def test_compare_shows_what_differs_beside_the_scores(trained: Key, group: Key) -> None:
    from pipeline.errors import ConfigurationError
    from schemas import config, model

    other = {**trained, **config.TrainConfig.Default.fill(max_epochs=1, batch_size=2, lr_init=0.05)[0]}
    model.ModelSelection.fill(other)
    model.Model.populate(other)
    frame = model.Model.compare(trained, other)
    assert list(frame) == ["train_batch_size", "train_max_epochs", "seed", "validation_correlation", "test_correlation"]
    assert sorted(frame["train_max_epochs"]) == [1, 5]
    scores = (model.Model & [trained, other]).to_arrays("validation_correlation")
    assert sorted(frame["validation_correlation"]) == sorted(scores)
    assert frame["validation_correlation"].is_monotonic_decreasing
    from dataclasses import replace

    network = config.NetworkConfig.add(replace(config.NetworkConfig.load_network(other), nonlinearity="softplus"))
    soft = {**other, **network}
    model.ModelSelection.fill(soft)
    model.Model.populate(soft)
    assert model.Model.compare(other, soft).columns[0] == "output_nonlinearity"
    with pytest.raises(ConfigurationError, match="no trained model is selected"):
        model.Model.compare({"group_id": 999})
