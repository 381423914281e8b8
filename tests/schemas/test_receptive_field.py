"""Receptive fields and tuning: rows equal what the functions of `pipeline.analysis` say of the model and the data."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pipeline.analysis.kinds import gradient_fields, tuning_of
from pipeline.analysis.settings import AtGrey, Gratings
from pipeline.analysis.triggered import triggered_average

Key = dict[str, Any]


@pytest.fixture(scope="module")
def field(trained: Key) -> Key:
    """The gradients at grey of the tiny model, over 6 lags."""
    from schemas import config
    from schemas.receptive_field import GradientFieldSelection, GradientReceptiveField

    fields = config.FieldConfig.AtGrey.fill(lags=6)
    assert len(GradientReceptiveField().key_source & trained) == 0
    assert GradientFieldSelection.fill(fields, trained) == 1
    assert GradientFieldSelection.fill(fields, trained) == 0
    key = {**trained, **fields[0]}
    GradientReceptiveField.populate(key)
    return key


def test_gradients_are_those_of_the_model_by_unit_id(field: Key) -> None:
    from schemas.model import Model
    from schemas.receptive_field import GradientReceptiveField

    encoder, info = Model.load_encoder(field)
    (data_key,) = info
    order = np.argsort(info[data_key].unit_ids)
    expected = gradient_fields(encoder, data_key, order.tolist(), AtGrey(lags=6), [])
    kept = (GradientReceptiveField.ScanFields & field).fetch1()
    assert np.asarray(kept["fields"]).shape == (6, 1, 6, 17, 27) and kept["field_stimuli"] == 1
    np.testing.assert_allclose(kept["fields"], expected.found.fields, atol=1e-6)
    rows = (GradientReceptiveField.Unit & field).to_dicts(order_by="unit_id")
    assert [row["unit_id"] for row in rows] == sorted(info[data_key].unit_ids)
    assert [row["field_response"] for row in rows] == pytest.approx(expected.found.response, rel=1e-5)
    assert [row["fit_x_px"] for row in rows] == pytest.approx(expected.fits.x, rel=1e-3, abs=0.05)
    assert [row["separability"] for row in rows] == pytest.approx(expected.parts.separability, rel=1e-4)
    assert all(row["fit_surround_scale"] is None for row in rows)
    product = np.einsum("uct,uhw->ucthw", kept["temporal_profiles"], kept["spatial_profiles"])
    left = ((np.asarray(kept["fields"]) - product) ** 2).sum(axis=(1, 2, 3, 4))
    energy = (np.asarray(kept["fields"]) ** 2).sum(axis=(1, 2, 3, 4))
    assert [row["separability"] for row in rows] == pytest.approx(1 - left / energy, abs=1e-4)


def test_gradients_over_stimuli_read_training_trials(trained: Key) -> None:
    from schemas import config
    from schemas.receptive_field import GradientFieldSelection, GradientReceptiveField

    fields = config.FieldConfig.OverStimuli.fill(lags=4, stimuli=5, fit="difference_of_gaussians")
    GradientFieldSelection.fill(fields, trained)
    GradientReceptiveField.populate({**trained, **fields[0]})
    kept = (GradientReceptiveField.ScanFields & trained & fields[0]).fetch1()
    assert kept["field_stimuli"] == 5 and np.asarray(kept["fields"]).any()
    assert len(GradientReceptiveField.Unit & trained & fields[0] & "fit_surround_amplitude IS NOT NULL") == 6


def test_triggered_averages_need_no_model(group: Key) -> None:
    from schemas import config, dataset
    from schemas.receptive_field import SpikeTriggeredAverage, TriggeredAverageSelection

    averages = config.TriggeredConfig.Triggered.fill(lags=5, permutations=12, null_seed=4)
    assert TriggeredAverageSelection.fill(averages, group) == 1
    SpikeTriggeredAverage.populate({**group, **averages[0]})
    kept = (SpikeTriggeredAverage.ScanFields & group & averages[0]).fetch1()
    (data_key,) = dataset.MultiDataset.paths(group)
    loader = dataset.get_dataloaders(group)["train"][data_key]
    info = dataset.get_data_info(group)[data_key]
    expected = triggered_average(loader.in_full(), info, 5, 12, seed=4)
    order = np.argsort(info.unit_ids)
    np.testing.assert_allclose(kept["fields"], expected.fields[order], atol=1e-5)
    np.testing.assert_allclose(kept["fields_z"], expected.z[order], rtol=1e-3, atol=1e-3)
    rows = (SpikeTriggeredAverage.Unit & group & averages[0]).to_dicts(order_by="unit_id")
    assert [row["peak_z"] for row in rows] == pytest.approx(expected.peak_z[order], rel=1e-3)
    assert [row["peak_p"] for row in rows] == pytest.approx(expected.peak_p[order])
    assert kept["triggered_samples"] == expected.samples


def test_tuning_is_measured_where_the_fields_are(field: Key) -> None:
    from schemas import config
    from schemas.model import Model
    from schemas.receptive_field import GradientReceptiveField
    from schemas.tuning import TuningSelection, UnitTuning

    own: dict[str, Any] = {"directions": 4, "spatial_frequencies": (0.02, 0.05), "temporal_frequencies": (4.0,)}
    stimuli = [
        *config.TuningConfig.Gratings.fill(duration=0.4, **{n: [v] for n, v in own.items()}),
        *config.TuningConfig.Spots.fill(diameters=[(10.0, 30.0, 60.0)], duration=0.2),
        *config.TuningConfig.CentreSurround.fill(duration=0.2),
        *config.TuningConfig.Plaids.fill(directions=8, plaid_angle=90.0, duration=0.4),
    ]
    assert TuningSelection.fill(stimuli, field) == 4
    UnitTuning.populate(field)
    encoder, info = Model.load_encoder(field)
    (data_key,) = info
    order = np.argsort(info[data_key].unit_ids)
    places = (GradientReceptiveField.Unit & field).to_dicts(order_by="unit_id")
    centres = np.array([(row["center_x_px"], row["center_y_px"]) for row in places])
    expected = tuning_of(encoder, data_key, order.tolist(), Gratings(duration=0.4, **own), (90.0, 60.0), centres)
    kept = (UnitTuning.ScanCurves & field & stimuli[0]).fetch1("drive")
    assert np.asarray(kept).shape == (6, 4, 2, 1)
    np.testing.assert_allclose(kept, expected.drive, atol=1e-4)
    rows = (UnitTuning.Grating & field).to_dicts(order_by="unit_id")
    for name in ("orientation_selectivity", "direction_index"):
        found = [np.nan if row[name] is None else row[name] for row in rows]
        assert found == pytest.approx(getattr(expected, name), nan_ok=True, abs=1e-3)
    assert len(UnitTuning.Size & field) == len(UnitTuning.Surround & field) == len(UnitTuning.Plaid & field) == 6
    assert np.asarray((UnitTuning.ScanCurves & field & stimuli[1]).fetch1("drive")).shape == (6, 3)


@pytest.fixture(scope="module")
def still(stored_images: Key) -> Key:
    """A tiny model of the still images, whose screen has no known size."""
    from pipeline.models import FullGaussian2d, Network, NoModulator, NoRecurrence, NoShifter, Stacked2d
    from schemas import config, dataset
    from schemas.model import Model, ModelSelection

    core = Stacked2d(hidden_channels=2, layers=1, input_kern=5)
    key = {
        **dataset.MultiDataset.fill(stored_images),
        **config.DataConfig.CorrectedAreaLayer.fill(brain_area="V1", layer="L2/3")[0],
        **config.NetworkConfig.add(Network(core, NoRecurrence(), FullGaussian2d(), NoShifter(), NoModulator())),
        **config.TrainConfig.Default.fill(max_epochs=1, batch_size=8)[0],
        "seed": 1215,
    }
    ModelSelection.fill(key)
    Model.populate(key)
    return key


def test_images_have_one_lag_whatever_the_settings(still: Key) -> None:
    from schemas import config
    from schemas.receptive_field import (
        GradientFieldSelection,
        GradientReceptiveField,
        SpikeTriggeredAverage,
        TriggeredAverageSelection,
    )

    fields = config.FieldConfig.OverStimuli.fill(stimuli=7)
    GradientFieldSelection.fill(fields, still)
    GradientReceptiveField.populate({**still, **fields[0]})
    averages = config.TriggeredConfig.Triggered.fill(permutations=4)
    assert TriggeredAverageSelection.fill(averages, {name: still[name] for name in ("group_id", "data_hash")}) == 1
    SpikeTriggeredAverage.populate(averages)
    kept = (GradientReceptiveField.ScanFields & still & fields[0]).fetch1()
    assert np.asarray(kept["fields"]).shape == (4, 1, 1, 18, 32) and kept["field_stimuli"] == 7
    average = (SpikeTriggeredAverage.ScanFields & averages & {"group_id": still["group_id"]}).fetch1()
    assert np.asarray(average["fields_z"]).shape == (4, 1, 1, 18, 32)
    separability = (GradientReceptiveField.Unit & still & fields[0]).to_arrays("separability")
    assert np.asarray(separability, float) == pytest.approx(1)


def test_without_a_screen_nothing_is_shown_in_degrees(still: Key) -> None:
    from pipeline.errors import ConfigurationError
    from schemas import config
    from schemas.receptive_field import GradientFieldSelection, GradientReceptiveField
    from schemas.tuning import TuningSelection, UnitTuning

    fields = config.FieldConfig.AtGrey.fill()
    GradientFieldSelection.fill(fields, still)
    GradientReceptiveField.populate({**still, **fields[0]})
    TuningSelection.fill(config.TuningConfig.Gratings.fill(directions=4), {**still, **fields[0]})
    with pytest.raises(ConfigurationError, match="size of the screen is not known"):
        UnitTuning.populate(still)
