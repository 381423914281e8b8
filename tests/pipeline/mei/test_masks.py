"""Masks: agreement with staticnet's procedure written as plain loops, and Gaussians of known moments."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from skimage.morphology import convex_hull_image, erosion
from torch import Tensor

from pipeline.mei.masks import (
    STATICNET_TIGHT_MASKS,
    GaussianFit,
    TightMask,
    apply_masks,
    deviation,
    fit_gaussians,
    tight_masks,
)

HEIGHT, WIDTH = 24, 32


def blobs() -> np.ndarray:
    """Three MEIs, (unit, 1, height, width): a Gabor, an oblique spot, and one that the border cuts."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH].astype(float)
    made = []
    for x, y, sx, sy, wave in ((14, 11, 4.0, 3.0, 0.9), (20, 15, 5.0, 2.0, 0.0), (2, 4, 4.0, 4.0, 0.3)):
        window = np.exp(-((columns - x) ** 2) / (2 * sx**2) - (rows - y) ** 2 / (2 * sy**2))
        made.append(120 + 90 * window * np.cos(wave * (columns - x)))
    noise = np.random.default_rng(0).normal(0, 1, (3, HEIGHT, WIDTH))
    return (np.stack(made) + noise)[:, None]


class Filters:
    """Units that rectify a weighted sum of the difference from grey."""

    def __init__(self, weights: np.ndarray) -> None:
        self.weights = torch.tensor(weights).float().flatten(1)
        self.seen: list[int] = []

    def __call__(self, stimuli: Tensor, units: Tensor) -> Tensor:
        self.seen.append(len(stimuli))
        return ((stimuli - 120).flatten(1) @ self.weights[units].T).clamp(min=0)


@pytest.fixture
def meis() -> np.ndarray:
    return blobs()


@pytest.fixture
def units(meis: np.ndarray) -> Filters:
    return Filters(meis - 120)


def one_tight_mask(img: np.ndarray, activation, threshold: float, sigma: float, target: float):
    """The procedure for one image, with scikit-image's erosion."""
    fluctuation = np.abs(img - img.mean())
    mask = convex_hull_image(fluctuation > fluctuation.std() * threshold)
    count = 0
    first = None
    while True:
        soft = gaussian_filter(mask.astype(float), sigma=sigma)
        value = activation(soft * img + (1 - soft) * img.mean())
        first = value if first is None else first
        if value <= first * target:
            return soft, value / first, count
        mask = erosion(mask, np.ones((3, 3)))
        count += 1


@pytest.mark.parametrize("number", STATICNET_TIGHT_MASKS)
def test_tight_masks_are_those_of_one_image_after_the_other(number: int, meis: np.ndarray, units: Filters) -> None:
    settings = STATICNET_TIGHT_MASKS[number]
    found = tight_masks(meis, units, settings)
    assert found.converged.all()
    for unit, image in enumerate(meis[:, 0]):

        def activation(masked: np.ndarray, unit: int = unit) -> float:
            return float(units(torch.tensor(masked)[None, None].float(), torch.tensor([unit]))[0, 0])

        mask, ratio, count = one_tight_mask(image, activation, settings.threshold, settings.blur, settings.target_ratio)
        np.testing.assert_allclose(found.masks[unit], mask, atol=1e-12)
        assert found.ratio[unit] == pytest.approx(ratio, rel=1e-4)
        assert found.erosions[unit] == count > 0
    assert (found.ratio <= settings.target_ratio).all()


def test_published_sets() -> None:
    assert STATICNET_TIGHT_MASKS[2] == TightMask()
    listed = [(m.threshold, m.blur, m.target_ratio) for m in STATICNET_TIGHT_MASKS.values()]
    assert listed == [(1, 1, 0.9), (1, 1, 0.95), (1, 2, 0.9), (0.8, 1, 0.9), (1, 3, 0.9)]


def test_units_are_masked_side_by_side(meis: np.ndarray, units: Filters) -> None:
    found = tight_masks(meis, units, TightMask())
    assert len(units.seen) == found.erosions.max() + 1
    assert units.seen[0] == 3


def test_responses_that_do_not_fall_are_marked(meis: np.ndarray, units: Filters) -> None:
    def steady(stimuli: Tensor, chosen: Tensor) -> Tensor:
        responses = units(stimuli, chosen)
        responses[:, chosen == 1] = 5
        responses[:, chosen == 2] = 0
        return responses

    found = tight_masks(meis, steady, TightMask())
    assert found.converged.tolist() == [True, False, True]
    assert found.masks[1].max() == 0  # nothing was left to take off
    assert found.ratio[1] == 1
    assert np.isnan(found.ratio[2])
    once = tight_masks(meis, units, TightMask(max_erosions=1))
    assert once.erosions.max() == 1
    assert not once.converged.all()


def test_a_flat_image_has_an_empty_mask(units: Filters) -> None:
    found = tight_masks(np.full((1, 1, HEIGHT, WIDTH), 100.0), units, TightMask())
    assert not found.masks.any()
    assert found.erosions[0] == 0


def test_movies_are_masked_by_the_deviation_of_all_frames(meis: np.ndarray) -> None:
    course = np.array([0.0, -0.5, 1.0])
    movies = 120 + course[:, None, None] * (meis[:, :, None] - 120)
    expected = np.empty((3, HEIGHT, WIDTH))
    for unit, movie in enumerate(movies[:, 0]):
        for row, column in np.ndindex(HEIGHT, WIDTH):
            differences = [frame[row, column] - movie.mean() for frame in movie]
            expected[unit, row, column] = np.sqrt(sum(d**2 for d in differences) / 3)
    np.testing.assert_allclose(deviation(movies), expected)
    found = tight_masks(movies, Filters(movies - 120), TightMask())
    assert found.masks.shape == (3, HEIGHT, WIDTH)
    assert found.converged.all()


def test_masks_are_applied_pixel_by_pixel(meis: np.ndarray) -> None:
    masks = np.random.default_rng(1).random((3, HEIGHT, WIDTH))
    movies = np.stack([meis, meis[:, :, ::-1]], axis=2)
    masked = apply_masks(movies, masks)
    unit, frame, row, column = 1, 1, 7, 9
    mask, value = masks[unit, row, column], movies[unit, 0, frame, row, column]
    assert masked[unit, 0, frame, row, column] == pytest.approx(mask * value + (1 - mask) * movies[unit, 0].mean())
    below = np.full((HEIGHT, WIDTH), 30.0)
    assert apply_masks(meis, masks, below)[2, 0, 3, 4] == pytest.approx(
        masks[2, 3, 4] * meis[2, 0, 3, 4] + (1 - masks[2, 3, 4]) * 30
    )


def test_moments_are_those_of_the_squared_deviation(meis: np.ndarray) -> None:
    fit = fit_gaussians(meis)
    for unit, image in enumerate(meis[:, 0]):
        total = sx = sy = 0.0
        weights = (image - image.mean()) ** 2
        for row, column in np.ndindex(image.shape):
            total += weights[row, column]
            sx += weights[row, column] * column
            sy += weights[row, column] * row
        mean = np.array([sx, sy]) / total
        covariance = np.zeros((2, 2))
        for row, column in np.ndindex(image.shape):
            step = np.array([column, row]) - mean
            covariance += weights[row, column] / total * np.outer(step, step)
        np.testing.assert_allclose(fit.center[unit], mean)
        np.testing.assert_allclose(fit.covariance[unit], covariance)


def test_an_oblique_gaussian_is_recovered() -> None:
    rows, columns = np.mgrid[:40, :60].astype(float)
    covariance = np.array([[30.0, 10.0], [10.0, 14.0]])
    step = np.stack([columns - 27, rows - 18], axis=-1)
    window = np.exp(-0.5 * np.einsum("hwi,ij,hwj->hw", step, np.linalg.inv(covariance), step))
    carrier = np.where((rows + columns) % 2, 1, -1)  # without a mean, so that squares are those of the window
    fit = fit_gaussians((100 + 50 * window * carrier)[None, None])
    np.testing.assert_allclose(fit.center[0], [27, 18], atol=0.01)
    np.testing.assert_allclose(fit.covariance[0], covariance / 2, rtol=0.01)  # of the square
    np.testing.assert_allclose(fit.moments()[0], [27, 18, 15, 7, 5], rtol=0.01)
    mask = fit.mask(40, 60, exponent=2)[0]
    np.testing.assert_allclose(mask, window**2, atol=0.01)
    assert mask[18, 27] == pytest.approx(1, abs=1e-3)
    np.testing.assert_allclose(fit.mask(40, 60)[0], mask ** (1.875 / 2))


def test_frames_are_fitted_one_by_one() -> None:
    movie = np.zeros((1, 1, 3, 5, 7))
    movie[0, 0, 0, 1, 2], movie[0, 0, 2, [3, 3], [4, 6]] = 2, (-1, -1)
    fit = fit_gaussians(movie, per_frame=True)
    np.testing.assert_allclose(fit.center[0], [[2, 1], [np.nan, np.nan], [5, 3]])
    np.testing.assert_allclose(fit.covariance[0, 2], [[1, 0], [0, 0]], atol=1e-12)
    together = fit_gaussians(movie)
    np.testing.assert_allclose(together.center[0], (4 * np.array([2, 1]) + 2 * np.array([5, 3])) / 6)
    assert fit.mask(5, 7).shape == (1, 3, 5, 7)


def test_undefined_gaussians_have_no_mask() -> None:
    flat = fit_gaussians(np.full((1, 1, 5, 6), 3.0))
    assert np.isnan(flat.center).all()
    assert np.isnan(flat.mask(5, 6)).all()
    line = GaussianFit(np.array([[2.0, 2.0]]), np.array([[[1.0, 0.0], [0.0, 0.0]]]))
    assert np.isnan(line.mask(5, 6)).all()
