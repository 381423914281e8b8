from __future__ import annotations

import numpy as np
import pytest

from pipeline.analysis.fits import FieldFits, fit_fields, fitted_fields

HEIGHT, WIDTH = 36, 64


def gaussian(x, y, major, minor, degrees):
    """Written with a covariance matrix, y down, so that a positive angle turns towards smaller rows."""
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    turn = np.array([[c, s], [-s, c]])  # x right, y down
    precision = turn.T @ np.diag([1 / major**2, 1 / minor**2]) @ turn
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    away = np.stack([columns - x, -(rows - y)], axis=-1)
    return np.exp(-0.5 * np.einsum("hwi,ij,hwj->hw", away, precision, away))


GAUSSIANS = [
    (20.3, 15.8, 5.0, 2.5, 30.0, 2.0),
    (50.0, 8.0, 3.0, 1.2, 150.0, -0.7),
    (33.3, 20.1, 9.0, 4.0, 95.0, 1e-4),
    (2.0, 33.0, 4.0, 1.5, 60.0, 3.0),
]


def test_parameters_of_gaussians_are_recovered():
    drawn = np.stack([a * gaussian(x, y, major, minor, angle) for x, y, major, minor, angle, a in GAUSSIANS])
    found = fit_fields(drawn)
    names = ("x", "y", "sigma_major", "sigma_minor", "orientation", "amplitude")
    for position, name in enumerate(names):
        np.testing.assert_allclose(getattr(found, name), [g[position] for g in GAUSSIANS], rtol=1e-4, err_msg=name)
    np.testing.assert_allclose(found.quality, 1, atol=1e-8)
    assert np.isnan(found.surround_amplitude).all() and np.isnan(found.surround_scale).all()
    np.testing.assert_allclose(fitted_fields(found, HEIGHT, WIDTH), drawn, atol=1e-4)


DIFFERENCES = [
    (20.3, 15.8, 3.0, 3.0, 0.0, 2.0, -0.5, 2.2),
    (40.0, 18.0, 4.0, 2.0, 120.0, -1.0, 0.3, 2.0),
    (30.0, 10.0, 2.0, 1.5, 45.0, 5.0, -2.5, 1.6),
]


def test_parameters_of_differences_of_gaussians_are_recovered():
    rng = np.random.default_rng(3)
    drawn = np.stack(
        [
            a * gaussian(x, y, major, minor, angle) + b * gaussian(x, y, scale * major, scale * minor, angle)
            for x, y, major, minor, angle, a, b, scale in DIFFERENCES
        ]
    )
    names = ("x", "y", "sigma_major", "sigma_minor", "orientation", "amplitude", "surround_amplitude", "surround_scale")
    clean, noisy = (fit_fields(drawn + rng.normal(0, noise, drawn.shape), "difference_of_gaussians")
                    for noise in (0.0, 0.02))  # fmt: skip
    for position, name in enumerate(names):
        truth = np.array([d[position] for d in DIFFERENCES])
        apart = slice(1 if name == "orientation" else 0, None)  # a round field has no orientation
        np.testing.assert_allclose(getattr(clean, name)[apart], truth[apart], rtol=2e-3, err_msg=name)
        tolerance = {"orientation": 5.0}.get(name, 0.15 * np.abs(truth))
        assert (np.abs(getattr(noisy, name) - truth)[apart] < np.broadcast_to(tolerance, 3)[apart]).all(), name
    np.testing.assert_allclose(fitted_fields(clean, HEIGHT, WIDTH), drawn, atol=1e-3)
    energy = (drawn**2).sum(axis=(1, 2))
    np.testing.assert_allclose(noisy.quality, energy / (energy + 0.02**2 * HEIGHT * WIDTH), atol=0.02)


def test_a_field_without_surround_is_said_to_have_none():
    found = fit_fields(gaussian(30, 17, 4, 3, 20)[None], "difference_of_gaussians")
    assert found.quality == pytest.approx(1, abs=1e-4)
    assert abs(found.surround_amplitude[0]) < 0.02 * found.amplitude[0]


def test_quality_is_the_explained_share_of_the_energy():
    field = np.random.default_rng(0).normal(size=(1, HEIGHT, WIDTH))
    found = fit_fields(field)
    residual = field - fitted_fields(found, HEIGHT, WIDTH)
    assert found.quality[0] == pytest.approx(1 - (residual**2).sum() / (field**2).sum())
    assert found.quality[0] < 0.05


def test_fields_of_zeros_are_undefined():
    found = fit_fields(np.stack([np.zeros((6, 8)), np.full((6, 8), np.nan)]))
    assert all(np.isnan(getattr(found, name)).all() for name in FieldFits.names())
    assert fit_fields(np.zeros((0, 6, 8))).x.shape == (0,)
