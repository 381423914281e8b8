"""MEIs: rows equal what the optimiser finds with the stored model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

Key = dict[str, Any]


@pytest.fixture(scope="module")
def target(trained: Key) -> Key:
    from schemas import recording
    from schemas.mei import TargetDataset

    return TargetDataset.fill(trained, "three", recording.Scan.Unit & "unit_id in (2, 3, 5)")


@pytest.fixture(scope="module")
def found(trained: Key, target: Key) -> Key:
    from schemas import config
    from schemas.mei import MEI, TargetModel

    (settings,) = config.MEIConfig.Movie.fill(frames=8, iterations=6, norm=5.0)
    TargetModel.insert1(trained, ignore_extra_fields=True, skip_duplicates=True)
    key = {**trained, **target, **settings}
    MEI.populate(key)
    return key


def test_a_choice_of_units_is_not_changed(trained: Key, target: Key) -> None:
    from schemas.mei import TargetDataset

    assert sorted((TargetDataset.Unit & target).to_arrays("unit_id")) == [2, 3, 5]
    assert TargetDataset.fill(trained, "three", {"unit_id": 1}) == target
    assert sorted((TargetDataset.Unit & target).to_arrays("unit_id")) == [2, 3, 5]
    one = TargetDataset.fill(trained, "first", [{"unit_id": 1}])
    assert list((TargetDataset.Unit & one).to_arrays("unit_id")) == [1]


@pytest.mark.parametrize("units", [{"unit_id": 987}, [], "unit_id < 0"])
def test_a_choice_of_no_unit_is_refused(trained: Key, units: Any) -> None:
    from pipeline.errors import DatasetError
    from schemas.mei import TargetDataset

    with pytest.raises(DatasetError, match=r"no unit of group .* 'none'"):
        TargetDataset.fill(trained, "none", units)
    assert not len(TargetDataset & {"target_name": "none"})
    assert not TargetDataset().connection.in_transaction


def test_rows_are_what_the_optimiser_finds(found: Key) -> None:
    from pipeline.mei.engine import find_meis
    from schemas import config
    from schemas.mei import MEI
    from schemas.model import Model

    encoder, info = Model.load_encoder(found)
    (data_key,) = info
    made = find_meis(encoder, data_key, info[data_key], [1, 2, 4], config.MEIConfig.load(found))
    rows = (MEI.Unit & found).to_dicts(order_by="unit_id")
    assert [row["unit_id"] for row in rows] == [2, 3, 5]
    for i, row in enumerate(rows):
        movie = np.asarray(row["mei_movie"])
        assert movie.shape == (1, 8, 17, 27)
        np.testing.assert_allclose(movie, made.stimuli[i], atol=1e-3)
        change = ((movie - movie.mean(axis=(1, 2, 3), keepdims=True)) ** 2).sum(axis=(0, 2, 3))
        assert row["mei_best_frame"] == change.argmax()
        assert row["mei_best_iteration"] == made.best_iteration[i]
        assert row["mei_unit_converged"] == made.converged[i]
        np.testing.assert_allclose(row["mei_trajectory"], made.trajectory[i], atol=1e-5)
    assert [row["mei_activation"] for row in rows] == pytest.approx(made.activation, abs=1e-5)
    assert [row["mei_grey_activation"] for row in rows] == pytest.approx(made.grey_activation, abs=1e-5)
    assert all(row["mei_activation"] > row["mei_grey_activation"] for row in rows)


def test_master_counts_its_units(found: Key) -> None:
    from schemas.mei import MEI

    row = (MEI & found).fetch1()
    assert row["mei_units"] == 3
    assert row["mei_converged"] == sum((MEI.Unit & found).to_arrays("mei_unit_converged"))
    assert row["mei_torch"]


def test_every_kind_makes_its_row(trained: Key) -> None:
    """The model has a past of some frames, so images are refused by name and a function makes movies."""
    from pipeline.errors import ConfigurationError
    from schemas import config, recording
    from schemas.mei import MEI, TargetDataset, TargetModel
    from schemas.model import Model

    target = TargetDataset.fill(trained, "function", recording.Scan.Unit & "unit_id in (4, 2)")
    TargetModel.insert1(trained, ignore_extra_fields=True, skip_duplicates=True)
    own = {"function": f"{__name__}.ramps", "arguments": '{"frames": 9}'}
    (settings,) = config.MEIConfig.Function.fill(**own)
    MEI.populate({**trained, **target, **settings})
    encoder, info = Model.load_encoder(trained)
    (data_key,) = info
    for row in (MEI.Unit & trained & target & settings).to_dicts():
        movie = (np.asarray(row["mei_movie"]) - info[data_key].input_mean) / info[data_key].input_std
        position = info[data_key].unit_ids.index(row["unit_id"])
        np.testing.assert_allclose(movie, ramps(encoder, [position], 9, info[data_key])[0], atol=1e-4)
        assert row["mei_activation"] == pytest.approx(
            encoder(torch.tensor(movie)[None].float(), data_key, unit_idx=[position])[0, 0, -1].item(), rel=1e-4
        )
        assert (row["mei_unit_converged"], row["mei_best_iteration"]) == (True, 0)
    for kind in (config.MEIConfig.Modern, config.MEIConfig.Staticnet, config.MEIConfig.Frequency):
        (settings,) = kind.fill()
        with pytest.raises(ConfigurationError, match=f"{kind.__name__} is for images"):
            MEI.populate({**trained, **target, **settings})


def ramps(model: Any, units: list[int], frames: int, scan_info: Any) -> np.ndarray:
    """A method of a laboratory's own: gradients of grey, as steep as the number of the unit."""
    channels, height, width = scan_info.input_shape
    columns = np.linspace(-1, 1, width, dtype=np.float32)
    return np.stack([np.broadcast_to(unit / 10 * columns, (channels, frames, height, width)) for unit in units])
