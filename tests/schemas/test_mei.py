"""MEIs: rows equal what the optimiser finds with the stored model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

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
    from pipeline.mei.movies import movie_meis
    from schemas import config
    from schemas.mei import MEI
    from schemas.model import Model

    encoder, info = Model.load_encoder(found)
    (data_key,) = info
    made = movie_meis(encoder, data_key, info[data_key], [1, 2, 4], config.MEIConfig.load(found))
    rows = (MEI.Unit & found).to_dicts(order_by="unit_id")
    assert [row["unit_id"] for row in rows] == [2, 3, 5]
    for i, row in enumerate(rows):
        movie = np.asarray(row["mei_movie"])
        assert movie.shape == (1, 8, 17, 27)
        np.testing.assert_allclose(movie, made.movies[i], atol=1e-3)
        change = ((movie - movie.mean(axis=(1, 2, 3), keepdims=True)) ** 2).sum(axis=(0, 2, 3))
        assert row["mei_best_frame"] == change.argmax()
        assert row["mei_best_iteration"] == made.best_iteration[i]
        assert row["mei_unit_converged"] == made.converged[i]
    assert [row["mei_activation"] for row in rows] == pytest.approx(made.activation, abs=1e-5)
    assert [row["mei_grey_activation"] for row in rows] == pytest.approx(made.grey_activation, abs=1e-5)
    assert all(row["mei_activation"] > row["mei_grey_activation"] for row in rows)


def test_master_counts_its_units(found: Key) -> None:
    from schemas.mei import MEI

    row = (MEI & found).fetch1()
    assert row["mei_units"] == 3
    assert row["mei_converged"] == sum((MEI.Unit & found).to_arrays("mei_unit_converged"))
    assert row["mei_torch"]
