from __future__ import annotations

import numpy as np
import pytest

from pipeline.analysis.separability import separate


def products(rng, *shape: int) -> tuple[np.ndarray, np.ndarray]:
    return rng.normal(size=(shape[0], *shape[1:3])), rng.normal(size=(shape[0], *shape[3:]))


def test_a_product_is_taken_apart_and_strongest_when_its_place_has_its_sign():
    rng = np.random.default_rng(0)
    temporal, spatial = products(rng, 3, 2, 5, 4, 6)
    fields = np.einsum("uct,uhw->ucthw", temporal, spatial)
    found = separate(fields.astype(np.float32))
    np.testing.assert_allclose(found.separability, 1, atol=1e-6)
    np.testing.assert_allclose(np.einsum("uct,uhw->ucthw", found.temporal, found.spatial), fields, atol=1e-5)
    np.testing.assert_allclose((found.temporal**2).sum(axis=(1, 2)), 1)
    flat = found.temporal.reshape(3, -1)
    assert (np.take_along_axis(flat, np.abs(flat).argmax(axis=1)[:, None], 1) > 0).all()


def test_the_energy_of_orthogonal_products_is_shared():
    field = np.zeros((1, 1, 3, 4, 4))
    field[0, 0, 0, 1, 1], field[0, 0, 2, 3, 0] = 3, -4
    found = separate(field)
    assert found.separability == pytest.approx(16 / 25)
    np.testing.assert_allclose(found.temporal[0, 0], [0, 0, 1], atol=1e-12)
    assert found.spatial[0, 3, 0] == pytest.approx(-4)


def test_it_is_the_singular_value_decomposition_and_undefined_for_nothing():
    fields = np.random.default_rng(1).normal(size=(4, 1, 6, 5, 7))
    fields[2] = 0
    found = separate(fields)
    for unit in (0, 1, 3):
        _, values, _ = np.linalg.svd(fields[unit].reshape(6, 35))
        assert found.separability[unit] == pytest.approx(values[0] ** 2 / (values**2).sum())
        assert np.linalg.norm(found.spatial[unit]) == pytest.approx(values[0])
    assert np.isnan(found.separability[2])
