"""Contrast curves: closed forms of saturating units, and staticnet's procedure as a plain loop; natural images."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.errors import DatasetError
from pipeline.mei.contrast import ContrastTuning, contrast_curves, natural_responses

SHAPE = (6, 8)


@pytest.fixture
def meis() -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.stack([100 + 20 * rng.normal(size=SHAPE), 140 + 10 * rng.normal(size=SHAPE)])[:, None]


def drive(stimuli: Tensor) -> Tensor:
    """Root mean square difference from the mean, (stimulus,)."""
    return stimuli.flatten(1).std(dim=1, correction=0)


def half_at_ten(stimuli: Tensor, units: Tensor) -> Tensor:
    """Unit 0 saturates, unit 1 prefers a contrast of 12."""
    contrast = drive(stimuli.double())
    return torch.stack([contrast**2 / (contrast**2 + 100), -((contrast - 12) ** 2)], dim=1)[:, units]


def test_the_curve_is_that_of_one_image_after_the_other(meis: np.ndarray) -> None:
    settings = ContrastTuning(steps=37, lowest=0.5)
    found = contrast_curves(meis, half_at_ten, settings)
    for unit, image in enumerate(meis[:, 0]):
        delta = image - image.mean()
        highest = min((255 - image.mean()) / delta.max(), -image.mean() / delta.min())
        for step, gain in enumerate(np.linspace(0.5 / image.std(), highest, 37)):
            scaled = np.clip(delta * gain + image.mean(), 0, 255)
            assert found.contrast[unit, step] == pytest.approx(scaled.std())
            response = half_at_ten(torch.tensor(scaled)[None, None], torch.tensor([unit]))
            assert found.activation[unit, step] == pytest.approx(float(response[0, 0]), rel=1e-4, abs=1e-4)
        assert found.limit[unit] == pytest.approx(255 / np.ptp(delta) * image.std())
        assert found.screen_contrast[unit] == pytest.approx((delta * highest).std())


def test_what_a_curve_says(meis: np.ndarray) -> None:
    found = contrast_curves(meis, half_at_ten, ContrastTuning())
    assert found.monotonic.tolist() == [True, False]
    step = found.contrast[:, 1] - found.contrast[:, 0]
    assert found.max_contrast[0] == found.screen_contrast[0]
    assert found.max_contrast[1] == pytest.approx(12, abs=step[1])
    assert found.max_activation[1] == pytest.approx(0, abs=step[1] ** 2)
    top = found.screen_contrast[0] ** 2
    level = 0.95 * top / (top + 100)  # the rise starts at 0
    assert found.saturation_contrast[0] == pytest.approx(10 * np.sqrt(level / (1 - level)), abs=2 * step[0])
    assert found.saturation_contrast[1] == pytest.approx(12 - 12 * np.sqrt(0.05), abs=2 * step[1])


def test_rounding_does_not_break_monotony(meis: np.ndarray) -> None:
    def steady(stimuli: Tensor, units: Tensor) -> Tensor:
        return 3 + 1e-7 * torch.sin(1e4 * drive(stimuli))[:, None].expand(-1, len(units)).double()

    assert contrast_curves(meis, steady, ContrastTuning(steps=50)).monotonic.all()


def test_movies_scale_about_their_own_mean(meis: np.ndarray) -> None:
    movies = np.stack([meis, meis + 10], axis=2)
    found = contrast_curves(movies, half_at_ten, ContrastTuning(steps=5))
    std = movies.reshape(2, -1).std(axis=1)
    gain = [min((255 - m.mean()) / (m - m.mean()).max(), m.mean() / (m.mean() - m).max()) for m in movies]
    np.testing.assert_allclose(found.screen_contrast, std * gain)


def test_flat_meis_are_undefined(meis: np.ndarray) -> None:
    meis[1] = 90
    found = contrast_curves(meis, half_at_ten, ContrastTuning(steps=5))
    assert np.isnan(found.activation[1]).all()
    assert np.isnan([found.limit[1], found.max_contrast[1], found.max_activation[1], found.screen_contrast[1]]).all()
    assert not found.monotonic[1]
    assert np.isfinite(found.activation[0]).all()


def test_the_best_natural_image_of_each_unit() -> None:
    rng = np.random.default_rng(1)
    images = torch.tensor(rng.normal(size=(11, 1, *SHAPE)))
    weights = torch.tensor(rng.normal(size=(1 * 6 * 8, 5)))

    def respond(batch: Tensor, units: Tensor) -> Tensor:
        return batch.flatten(1) @ weights[:, units]

    found = natural_responses(images.split(4), respond, 5)
    expected = np.array([[float((image.flatten() * w).sum()) for w in weights.T] for image in images])
    np.testing.assert_allclose(found.best, expected.max(axis=0))
    np.testing.assert_array_equal(found.best_stimulus, expected.argmax(axis=0))
    np.testing.assert_array_equal(found.best_frame, 0)
    np.testing.assert_allclose(found.mean, expected.mean(axis=0))
    np.testing.assert_allclose(found.std, expected.std(axis=0))
    ratio = found.mei_ratio(np.array([2.0, 4.0, 0.0, -1.0, 1.0]))
    np.testing.assert_allclose(ratio[[0, 1, 4]], found.best[[0, 1, 4]] / [2, 4, 1])
    assert np.isnan(ratio[[2, 3]]).all()


def test_the_best_frame_of_movies_counts_from_the_first() -> None:
    movies = torch.zeros(3, 1, 6, 1, 1)
    movies[1, 0, 4], movies[2, 0, 2], movies[0, 0, 0] = 5, -7, 100

    def respond(batch: Tensor, units: Tensor) -> Tensor:  # loses two frames
        signs = torch.tensor([1.0, -1.0])[units]
        return batch[:, 0, 2:, 0, 0][:, None] * signs[:, None]

    found = natural_responses(movies.split(2), respond, 2)
    assert found.best.tolist() == [5, 7]
    assert found.best_stimulus.tolist() == [1, 2]
    assert found.best_frame.tolist() == [4, 2]
    assert found.mean.tolist() == pytest.approx([-2 / 12, 2 / 12])


def test_no_stimulus_is_refused() -> None:
    with pytest.raises(DatasetError, match="no stimulus"):
        natural_responses([], half_at_ten, 2)
