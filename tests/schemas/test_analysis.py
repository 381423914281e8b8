"""Readout analysis: rows equal what the model's readout says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from pipeline.datasets.scans import in_full

Key = dict[str, Any]


@pytest.fixture(scope="module")
def analysed(trained: Key) -> Key:
    from schemas.analysis import ReadoutAnalysis

    ReadoutAnalysis.populate(trained)
    return trained


def test_units_look_where_their_readouts_do(analysed: Key) -> None:
    from schemas.analysis import ReadoutAnalysis
    from schemas.model import Model

    encoder, info = Model.load_encoder(analysed)
    (data_key,) = info
    grid = encoder.readouts[data_key].positions().detach().numpy().astype(float)
    weights = encoder.readouts[data_key].feature_weights().detach().numpy().astype(float)
    rows = (ReadoutAnalysis.Unit & analysed).to_dicts(order_by="unit_id")
    assert [row["unit_id"] for row in rows] == list(info[data_key].unit_ids)
    # The core pads, so -1 and 1 are the centres of the outermost of 17 x 27 pixels.
    x, y = (grid[:, 0] + 1) / 2 * 26, (grid[:, 1] + 1) / 2 * 16
    assert [row["position_x_px"] for row in rows] == pytest.approx(x)
    assert [row["position_y_px"] for row in rows] == pytest.approx(y)
    # The screen spans 90 x 60 degrees: a pixel is 90 / 27 wide and 60 / 17 high, and up is positive.
    assert [row["position_x_deg"] for row in rows] == pytest.approx((x - 13) * 90 / 27)
    assert [row["position_y_deg"] for row in rows] == pytest.approx((8 - y) * 60 / 17)
    n = weights.shape[1]
    sparsity = (np.sqrt(n) - np.abs(weights).sum(1) / np.linalg.norm(weights, axis=1)) / (np.sqrt(n) - 1)
    assert [row["feature_sparsity"] for row in rows] == pytest.approx(sparsity, abs=1e-6)
    assert all(row["spread_x_px"] > 0 for row in rows)
    assert [row["spread_x_deg"] for row in rows] == pytest.approx([row["spread_x_px"] * 90 / 27 for row in rows])
    assert [row["spread_y_deg"] for row in rows] == pytest.approx([row["spread_y_px"] * 60 / 17 for row in rows])


def test_feature_weights_come_from_the_store(analysed: Key) -> None:
    from schemas.analysis import ReadoutAnalysis
    from schemas.model import Model

    encoder, info = Model.load_encoder(analysed)
    (data_key,) = info
    kept = np.asarray((ReadoutAnalysis.ScanReadout & analysed).fetch1("feature_weights"))
    assert kept.shape == (6, 4)
    assert np.array_equal(kept, encoder.readouts[data_key].feature_weights().detach().numpy())
    assert (ReadoutAnalysis & analysed).fetch1("readout_seconds") > 0


def test_points_have_no_masks_and_eyes_without_a_shifter_move_nothing(analysed: Key) -> None:
    from schemas.analysis import ReadoutAnalysis

    kept = (ReadoutAnalysis.ScanReadout & analysed & "spatial_masks IS NULL").fetch1()
    assert kept["spatial_masks"] is None
    assert (kept["map_x_px"], kept["map_y_px"], kept["map_pitch_px"]) == (0, 0, 1)
    assert len(ReadoutAnalysis.GazeShift & analysed) == 0


def test_masks_and_shifts_come_from_the_tables(group: Key) -> None:
    from pipeline.models import MLP, Factorized3d, FullFactorized2d, Network, NoModulator, NoRecurrence
    from schemas import config
    from schemas.analysis import ReadoutAnalysis
    from schemas.model import Model, ModelSelection

    core = Factorized3d(hidden_channels=(2,), spatial_kernels=(5,), temporal_kernels=(3,), padding=False)
    network = Network(core, NoRecurrence(), FullFactorized2d(), MLP(), NoModulator())
    key = {
        **group,
        **config.NetworkConfig.add(network),
        **config.TrainConfig.Default.fill(max_epochs=1, batch_size=4)[0],
        "seed": 1009,
    }
    ModelSelection.fill(key)
    Model.populate(key)
    ReadoutAnalysis.populate(key)
    encoder, info = Model.load_encoder(key)
    (data_key,) = info
    row = (ReadoutAnalysis.ScanReadout & key).fetch1()
    masks = np.asarray(row["spatial_masks"])
    assert masks.shape == (6, 13, 23)
    assert np.array_equal(masks, encoder.readouts[data_key].masks(slice(None)).detach().numpy())
    assert (row["map_x_px"], row["map_y_px"], row["map_pitch_px"]) == (2, 2, 1)
    shifts = {(r["gaze_x"], r["gaze_y"]): r for r in (ReadoutAnalysis.GazeShift & key).to_dicts()}
    assert set(shifts) == {(0, 0), (1, 0), (-1, 0), (0, 1), (0, -1)}
    # Pupil positions are z-scores, so their std is 1; the maps' half is 11 x 6 pixels of 90 / 27 x 60 / 17 degrees.
    mean = np.array(info[data_key].mean_pupil_center)
    for gaze, found in shifts.items():
        eye = torch.tensor(mean + gaze, dtype=torch.float32)[None, :, None]
        x, y = encoder.shifters[data_key](eye)[0, 0].tolist()
        assert (found["shift_x_px"], found["shift_y_px"]) == pytest.approx((x * 11, y * 6), abs=1e-5)
        assert found["shift_x_deg"] == pytest.approx(x * 11 * 90 / 27, abs=1e-4)
        assert found["shift_y_deg"] == pytest.approx(-y * 6 * 60 / 17, abs=1e-4)


def test_without_a_screen_there_are_no_degrees(simulated: Any, open_simulated: Any, trained: Key) -> None:
    from populate.ingest import ingest
    from schemas import config, dataset
    from schemas.analysis import ReadoutAnalysis
    from schemas.model import Model, ModelSelection

    scan = ingest(open_simulated(simulated), "screenless", 1, 1).key
    key = {**scan, **config.PreprocessingConfig.Movie.fill(frame_rate=30.0, height=17, width=27)[0]}
    dataset.Dataset.populate(key)
    (trainer,) = config.TrainConfig.Default.fill(max_epochs=1, batch_size=4)
    key = {**trained, **trainer, **dataset.MultiDataset.fill(key)}
    ModelSelection.fill(key)
    Model.populate(key)
    ReadoutAnalysis.populate(key)
    assert len(ReadoutAnalysis.Unit & key & "position_x_deg IS NULL AND position_y_deg IS NULL") == 6
    assert len(ReadoutAnalysis.Unit & key & "spread_x_deg IS NULL AND spread_y_deg IS NULL") == 6
    assert len(ReadoutAnalysis.Unit & key & "position_x_px IS NULL") == 0


def test_nothing_is_predicted_unless_it_is_asked_for(trained: Key) -> None:
    from schemas.analysis import Prediction

    assert len(Prediction().key_source & trained) == 0


def test_predictions_come_back_trial_by_trial(trained: Key, stored: Key) -> None:
    from schemas import dataset, stimulus
    from schemas.analysis import Prediction, PredictionSelection
    from schemas.model import Model

    assert PredictionSelection.fill(trained, tiers=("test", "train")) == 2
    assert PredictionSelection.fill(trained) == 0
    Prediction.populate(trained)
    encoder, info = Model.load_encoder(trained)
    (data_key,) = info
    tiers = dict(zip(*stimulus.ConditionTier().to_arrays("condition_hash", "tier"), strict=True))
    scan = dataset.Dataset.open(stored)
    for tier, trials in (("test", 8), ("train", 8)):
        found = Prediction.trials({**trained, "prediction_tier": tier})
        assert len(found) == (Prediction & trained & {"prediction_tier": tier}).fetch1("prediction_trials") == trials
        assert {tiers[name] for name in found["condition_hash"]} == {tier}
        loader = dataset.get_dataloaders(trained)[tier][data_key]
        expected = [
            encoder.respond(trial, data_key) for row in loader.trials for trial in in_full(loader.dataset, [row])
        ]
        assert [scan.trial_idx[row] for row in loader.trials] == found.index.tolist()
        assert [scan.condition_hash[row] for row in loader.trials] == found["condition_hash"].tolist()
        for kept, anew in zip(found["prediction"], expected, strict=True):
            assert kept.dtype == np.float32
            np.testing.assert_allclose(kept, anew[0].detach().numpy(), atol=1e-5)
        assert set(found["lost_frames"]) == {encoder.lost_frames} != {0}


def test_predictions_for_images_have_one_frame(stored_images: Key) -> None:
    from pipeline.models import FullGaussian2d, Network, NoModulator, NoRecurrence, NoShifter, Stacked2d
    from schemas import config, dataset
    from schemas.analysis import Prediction, PredictionSelection
    from schemas.model import Model, ModelSelection

    network = Network(
        Stacked2d(hidden_channels=2, layers=1), NoRecurrence(), FullGaussian2d(), NoShifter(), NoModulator()
    )
    key = {
        **dataset.MultiDataset.fill(stored_images),
        **config.DataConfig.CorrectedAreaLayer.fill(brain_area="V1", layer="L2/3")[0],
        **config.NetworkConfig.add(network),
        **config.TrainConfig.Default.fill(max_epochs=1, batch_size=8)[0],
        "seed": 1009,
    }
    ModelSelection.fill(key)
    Model.populate(key)
    PredictionSelection.fill(key, tiers=("validation",))
    Prediction.populate(key)
    found = Prediction.trials(key)
    encoder, info = Model.load_encoder(key)
    (data_key,) = info
    loader = dataset.get_dataloaders(key)["validation"][data_key]
    (batch,) = loader
    anew = encoder.respond(batch, data_key).detach().numpy()
    assert len(found) == len(anew) > 1
    np.testing.assert_allclose(np.stack(found["prediction"].tolist()), anew[:, :, None], atol=1e-6)
    assert found["condition_hash"].tolist() == loader.conditions


def test_predictions_that_are_not_there_are_named(trained: Key) -> None:
    from pipeline.errors import ConfigurationError
    from schemas.analysis import Prediction, PredictionSelection

    with pytest.raises(ConfigurationError, match="predictions of 0 scans"):
        Prediction.trials({**trained, "prediction_tier": "ood"})
    with pytest.raises(ConfigurationError, match="no tier 'oracle'"):
        PredictionSelection.fill(trained, tiers=("oracle",))
