"""Readout analysis: rows equal what the model's readout says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

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


def test_feature_weights_come_from_the_store(analysed: Key) -> None:
    from schemas.analysis import ReadoutAnalysis
    from schemas.model import Model

    encoder, info = Model.load_encoder(analysed)
    (data_key,) = info
    kept = np.asarray((ReadoutAnalysis.ScanReadout & analysed).fetch1("feature_weights"))
    assert kept.shape == (6, 4)
    assert np.array_equal(kept, encoder.readouts[data_key].feature_weights().detach().numpy())
    assert (ReadoutAnalysis & analysed).fetch1("readout_seconds") > 0


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
    assert len(ReadoutAnalysis.Unit & key & "position_x_px IS NULL") == 0
