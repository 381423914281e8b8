"""Transplants and cross-activations: agreement with loops over pixels, offsets and pairs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.errors import ConfigurationError
from pipeline.mei.transplant import (
    GAINS,
    OFFSETS,
    Transplant,
    cross_activations,
    match_statistics,
    matched,
    normalized,
    own_ranks,
    transplant,
    transplant_responses,
)

SHAPE = (9, 12)


@pytest.fixture
def images() -> np.ndarray:
    rng = np.random.default_rng(3)
    return np.clip(120 + 45 * rng.normal(size=(4, *SHAPE)), 0, 255)


@pytest.fixture
def mask() -> np.ndarray:
    rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]]
    soft = np.exp(-((rows - 4) ** 2) / 8 - (columns - 5) ** 2 / 12)
    return np.where(soft > 0.05, soft, 0.0)


def brute_force(image: np.ndarray, mu: float, sigma: float, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The procedure with an image for every offset."""
    delta = image - (image * mask).sum() / mask.sum()
    gain = sigma / np.clip(delta * mask + mu, 0, 255).std()
    ratio = 1.05 if gain >= 1 else 1 / 1.05
    most = min(max(255 - mu, mu) / np.abs(delta)[mask > 0].min(), 6000)
    tried = []
    while True:
        candidates = np.clip(delta * gain * mask + mu + OFFSETS[:, None, None], 0, 255)
        best = np.abs(candidates.mean(axis=(1, 2)) - mu).argmin()
        tried.append((candidates[best], np.clip(delta * gain + mu + OFFSETS[best], 0, 255)))
        if (candidates[best].std() - sigma) * (1 if ratio > 1 else -1) > 0:
            break
        gain *= ratio
        if not 0.001 <= gain <= most:
            break
    nearest = np.abs([image.std() - sigma for image, _ in tried]).argmin()
    return tried[nearest]


@pytest.mark.parametrize(("mean", "contrast"), [(111, 16), (30, 40), (200, 5), (128, 110), (10, 2)])
@pytest.mark.parametrize("masked", [False, True])
def test_statistics_are_matched_as_with_an_image_for_every_offset(
    mean: float, contrast: float, masked: bool, images: np.ndarray, mask: np.ndarray
) -> None:
    for image in images[:2]:
        chosen = mask if masked else np.ones(SHAPE)
        found = match_statistics(image, mean, contrast, mask if masked else None)
        expected, unmasked = brute_force(image, mean, contrast, chosen)
        step = OFFSETS[1] - OFFSETS[0] + 1e-6  # of two offsets that are equally near, rounding chooses
        np.testing.assert_allclose(found.image, expected, atol=step)
        np.testing.assert_allclose(found.unmasked, unmasked, atol=step)
        assert abs(found.image.mean() - mean) == pytest.approx(abs(expected.mean() - mean), abs=1e-6)


def test_matched_meis_have_the_mean_and_contrast(images: np.ndarray) -> None:
    found = matched(images[:, None], 111, 16)
    np.testing.assert_allclose(found.mean(axis=(1, 2, 3)), 111, atol=0.05)
    np.testing.assert_allclose(found.std(axis=(1, 2, 3)), 16, rtol=0.05)
    for before, after in zip(images, found[:, 0], strict=True):
        assert np.corrcoef(before.ravel(), after.ravel())[0, 1] == pytest.approx(1)


def test_images_that_cannot_be_matched(images: np.ndarray) -> None:
    flat = match_statistics(np.full(SHAPE, 40.0), 100, 10)
    np.testing.assert_array_equal(flat.image, 100)
    already = match_statistics(images[0], images[0].mean(), images[0].std())
    np.testing.assert_allclose(already.image, images[0], atol=0.1)
    hard = match_statistics(np.where(images[0] > 120, 130.0, 110.0), 128, 1000)
    assert set(np.unique(hard.image)) == {0, 255}
    assert GAINS[1] == 6000
    with pytest.raises(ConfigurationError, match="empty mask"):
        match_statistics(images[0], 100, 10, np.zeros(SHAPE))


def test_transplants_pixel_by_pixel(images: np.ndarray, mask: np.ndarray) -> None:
    mei, backgrounds = images[0][None], images[1:, None]
    composed = transplant(mei, mask, backgrounds)
    weights = mask / mask.sum()
    for number, row, column in ((0, 4, 5), (1, 3, 7), (2, 0, 0)):
        below = backgrounds[number, 0]
        level = sum(weights[i] * below[i] for i in np.ndindex(SHAPE))
        own = sum(weights[i] * mei[0][i] for i in np.ndindex(SHAPE))
        here = mask[row, column]
        value = here * (level + mei[0, row, column] - own) + (1 - here) * below[row, column]
        assert composed[number, 0, row, column] == pytest.approx(np.clip(value, 0, 255))
    np.testing.assert_array_equal(composed[:, 0][:, mask == 0], backgrounds[:, 0][:, mask == 0])


def test_transplants_with_a_mean_and_contrast(images: np.ndarray) -> None:
    window = np.zeros(SHAPE)
    window[2:7, 3:9] = 1
    composed = transplant(images[0][None], window, images[1:, None], mean=90, contrast=12)
    inside = composed[:, 0, 2:7, 3:9].reshape(3, -1)
    np.testing.assert_allclose(inside.mean(axis=1), 90)
    np.testing.assert_allclose(inside.std(axis=1), 12)
    flat = transplant(np.full((1, *SHAPE), 7.0), window, images[1:, None], mean=90, contrast=12)
    np.testing.assert_allclose(flat[:, 0, 2:7, 3:9], 90)
    with pytest.raises(ConfigurationError, match="empty mask"):
        transplant(images[0][None], np.zeros(SHAPE), images[1:, None])


def filters(images: np.ndarray):
    weights = torch.tensor(images - images.mean(axis=(1, 2), keepdims=True)).flatten(1).float()

    def respond(stimuli: Tensor, units: Tensor) -> Tensor:
        return stimuli.flatten(2).mean(dim=1) @ weights[units].T

    return respond, weights.numpy()


def test_responses_on_backgrounds_are_those_of_one_pair_after_the_other(images: np.ndarray, mask: np.ndarray) -> None:
    respond, weights = filters(images[:3])
    stimuli, backgrounds = images[:3, None], np.stack([images[3], images[3][::-1]])[:, None]
    masks = np.stack([mask, np.zeros(SHAPE), np.full(SHAPE, np.nan)])
    found = transplant_responses(stimuli, masks, backgrounds, respond, Transplant(contrast=30.0))
    for unit, background in np.ndindex(3, 2):
        alone = (weights[unit] * backgrounds[background].ravel()).sum()
        assert found.alone[unit, background] == pytest.approx(alone, rel=1e-3, abs=1)
        composed = backgrounds[background]
        if unit == 0:
            composed = transplant(stimuli[0], mask, backgrounds, None, 30.0)[background]
        expected = (weights[unit] * composed.ravel()).sum()
        assert found.transplanted[unit, background] == pytest.approx(expected, rel=1e-3, abs=1)
    assert (found.transplanted[0] > found.alone[0]).all()


def test_every_mei_is_shown_to_every_unit_of_every_scan(images: np.ndarray) -> None:
    first, weights = filters(images[:3])
    second, others = filters(images[3:])
    found = cross_activations(images[:, None], [(first, 3), (second, 1)])
    for unit, mei in np.ndindex(4, 4):
        expected = (np.concatenate([weights, others])[unit] * images[mei].ravel()).sum()
        assert found[unit, mei] == pytest.approx(expected, rel=1e-3, abs=1)
    assert (own_ranks(found, 1) == 1).all()


MATRIX = np.array([[4.0, 2.0, 1.0], [3.0, 2.0, 2.0], [8.0, 0.0, 0.0]])


def test_normalisations_by_hand() -> None:
    np.testing.assert_allclose(normalized(MATRIX, "own_mei")[:2], [[1, 0.5, 0.25], [1.5, 1, 1]])
    np.testing.assert_allclose(normalized(MATRIX, "own_unit")[:, :2], [[1, 1], [0.75, 1], [2, 0]])
    assert np.isnan(normalized(MATRIX, "own_mei")[2]).all()
    assert np.isnan(normalized(MATRIX, "own_unit")[:, 2]).all()
    rows = normalized(MATRIX, "row")
    np.testing.assert_allclose(rows[1], np.array([2, -1, -1]) / np.sqrt(2))
    columns = normalized(MATRIX, "column")
    np.testing.assert_allclose(columns[:, 0], np.array([-1, -2, 3]) / np.sqrt(14 / 3))
    assert np.isnan(normalized(np.ones((2, 2)), "row")).all()
    with pytest.raises(ConfigurationError, match="no normalisation 'rows'"):
        normalized(MATRIX, "rows")


def test_ranks_by_hand() -> None:
    assert own_ranks(MATRIX, 1).tolist() == [1, 2, 2]
    assert own_ranks(MATRIX, 0).tolist() == [2, 1, 3]
