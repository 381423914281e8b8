"""Gabors: agreement with a rotated sine, the parameters of simulated cells recovered."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from pipeline.errors import ConfigurationError
from pipeline.mei.gabors import Gabors, GaborSearch, gabor_images, optimal_gabors

HEIGHT, WIDTH = 28, 40
SEARCH = GaborSearch(
    orientations=(0, 30, 60, 90, 120, 150), phases=(0, 90, 180, 270), wavelengths=(6, 10, 15), sigmas=(3, 5), rows=3,
    columns=5, grid_shift=0.2, iterations=60,
)  # fmt: skip


def gabors(*rows: tuple[float, ...]) -> Gabors:
    return Gabors(*torch.tensor(rows, dtype=torch.float64).T)


TRUTH = gabors(
    (20, 70, 8, 3, 0.10, -0.15), (97, 200, 11, 4, -0.12, 0.10), (158, 300, 6.5, 3.5, 0.0, 0.2), (45, 10, 13, 4.5, 0, 0)
)


class Cells:
    """Simple cells rectify the response of a Gabor filter, complex ones add the squares of two 90 degrees apart."""

    def __init__(self, truth: Gabors, complex_cells: bool) -> None:
        self._pair = []
        for step in (0, 90):
            filters = dataclasses.replace(truth, phase=truth.phase + step).pattern(HEIGHT, WIDTH).flatten(1)
            filters = filters - filters.mean(dim=1, keepdim=True)
            self._pair.append((filters / filters.norm(dim=1, keepdim=True)).float())
        self._complex = complex_cells
        own, later = self._pair
        overlap = float((own * later).sum(dim=1).abs().max())
        self.gain = 1 + overlap if complex_cells else 1.0
        """Response to the best image of norm 1: the largest eigenvalue of the pair's Gram matrix."""

    def __call__(self, stimuli: Tensor, units: Tensor) -> Tensor:
        pixels = (stimuli.flatten(1).unflatten(1, (-1, HEIGHT * WIDTH)).mean(dim=1) - 110) / 50
        own, later = (pixels @ filters[units].T for filters in self._pair)
        return own**2 + later**2 if self._complex else own.clamp(min=0)


def rotated_sine(phase: float, wavelength: float, orientation: float, sigma: float, dy: int, dx: int) -> np.ndarray:
    """The pattern as staticnet makes it, but rotated with more care: on a padded canvas, shifted by whole pixels."""
    padding = max(HEIGHT, WIDTH)
    rows = HEIGHT + 2 * padding
    columns = WIDTH + 2 * padding
    sine = np.sin(np.deg2rad(phase + 360 / wavelength * np.arange(rows)))
    canvas = ndimage.rotate(np.tile(sine[:, None], columns), orientation, reshape=False, order=5)
    y, x = np.arange(rows) - (rows - 1) / 2, np.arange(columns) - (columns - 1) / 2
    canvas *= np.outer(np.exp(-(y**2) / (2 * sigma**2)), np.exp(-(x**2) / (2 * sigma**2)))
    return canvas[padding - dy : padding - dy + HEIGHT, padding - dx : padding - dx + WIDTH]


@pytest.mark.parametrize("orientation", [0, 30, 90, 135, 200])
def test_patterns_are_those_of_a_rotated_sine(orientation: float) -> None:
    wavelength, phase, dy, dx = 9.0, 40.0, 3, -5
    expected = rotated_sine(phase, wavelength, orientation, 4.0, dy, dx)
    from_the_top = 180 * (HEIGHT + 2 * WIDTH - 1) / wavelength
    made = gabors((orientation, phase + from_the_top, wavelength, 4.0, dy / HEIGHT, dx / WIDTH))
    np.testing.assert_allclose(made.pattern(HEIGHT, WIDTH)[0], expected, atol=2e-3)


def test_orientation_turns_against_the_clock() -> None:
    flat, upright = gabors((0, 90, 8, 40, 0, 0), (90, 90, 8, 40, 0, 0)).pattern(21, 21)
    assert flat.std(dim=1).max() < 0.1 < flat.std(dim=0).min()
    assert upright.std(dim=0).max() < 0.1 < upright.std(dim=1).min()
    rising = gabors((30, 90, 8, 40, 0, 0)).pattern(21, 21)[0]
    up, right = 10 - round(10 * np.sin(np.pi / 6)), 10 + round(10 * np.cos(np.pi / 6))
    assert rising[up, right] > 0.9  # along the stripe through the middle


def test_canonical_gabors_are_the_same_images() -> None:
    turned = gabors(
        (-10, 30, 9, 4, 0.1, 0), (190, -50, 7, 3, 0, 0), (540, 725, 7, 3, 0, 0.1), (-1e-17, -1e-17, 7, 3, 0, 0)
    )
    named = turned.canonical()
    assert ((named.orientation >= 0) & (named.orientation < 180)).all()
    assert ((named.phase >= 0) & (named.phase < 360)).all()
    torch.testing.assert_close(named.pattern(20, 30), turned.pattern(20, 30))


def test_images_have_the_mean_and_contrast_asked_for() -> None:
    images = gabor_images(TRUTH, HEIGHT, WIDTH, 100.0, torch.tensor([5.0, 10, 15, 20]))
    torch.testing.assert_close(images.mean(dim=(1, 2)), torch.full((4,), 100.0, dtype=torch.float64), atol=0.2, rtol=0)
    reached = images.std(dim=(1, 2), correction=0)
    torch.testing.assert_close(reached, torch.tensor([5.0, 10, 15, 20], dtype=torch.float64), rtol=0.02, atol=0)
    pattern = TRUTH.pattern(HEIGHT, WIDTH)[0]
    expected = 100 + 5 * (pattern - pattern.mean()) / pattern.std(correction=0)
    torch.testing.assert_close(images[0], expected)
    hard = gabor_images(TRUTH, HEIGHT, WIDTH, 100.0, 300.0)
    assert (hard.min(), hard.max()) == (0, 255)


def difference(found: Tensor, truth: Tensor, period: float) -> Tensor:
    return (found.double() - truth + period / 2).remainder(period) - period / 2


@pytest.mark.parametrize("complex_cells", [False, True], ids=["simple", "complex"])
@pytest.mark.parametrize("shape", [(1, HEIGHT, WIDTH), (1, 2, HEIGHT, WIDTH)], ids=["image", "movie"])
def test_the_filters_of_cells_are_recovered(shape: tuple[int, ...], complex_cells: bool) -> None:
    cells = Cells(TRUTH, complex_cells)
    found = optimal_gabors(cells, shape, np.full(4, 10.0), 110.0, SEARCH)
    assert difference(found.gabors.orientation, TRUTH.orientation, 180).abs().max() < 2
    np.testing.assert_allclose(found.gabors.wavelength, TRUTH.wavelength, rtol=0.05)
    np.testing.assert_allclose(found.gabors.dy * HEIGHT, TRUTH.dy * HEIGHT, atol=0.5)
    np.testing.assert_allclose(found.gabors.dx * WIDTH, TRUTH.dx * WIDTH, atol=0.5)
    np.testing.assert_allclose(found.gabors.sigma, TRUTH.sigma, rtol=0.15)
    if not complex_cells:
        assert difference(found.gabors.phase, TRUTH.canonical().phase, 360).abs().max() < 10
    # Cauchy and Schwarz: no image of this contrast does better than the filter itself.
    highest = 10 / 50 * np.sqrt(HEIGHT * WIDTH)
    highest = highest**2 if complex_cells else highest
    assert (found.activation > 0.995 * highest).all()
    assert (found.activation <= 1.0001 * cells.gain * highest).all()
    assert (found.activation >= found.grid_activation).all()
    assert found.images.shape == (4, HEIGHT, WIDTH)
    np.testing.assert_allclose(found.contrast, 10, rtol=0.01)
    stimuli = torch.tensor(found.images)[:, None]
    shown = cells(stimuli, torch.arange(4)).diagonal()
    np.testing.assert_allclose(shown, found.activation, rtol=1e-3)


def test_units_are_found_alone_as_beside_others() -> None:
    settings = dataclasses.replace(SEARCH, iterations=5, starts=2)
    both = optimal_gabors(Cells(TRUTH[:2], False), (1, HEIGHT, WIDTH), np.array([10.0, 6.0]), 110.0, settings)
    alone = optimal_gabors(Cells(TRUTH[1:2], False), (1, HEIGHT, WIDTH), np.array([6.0]), 110.0, settings)
    np.testing.assert_allclose(both.activation[1:], alone.activation, rtol=1e-5)
    np.testing.assert_allclose(both.images[1:], alone.images, atol=1e-3)
    np.testing.assert_allclose(both.contrast, [10, 6], rtol=0.01)


def test_the_grid_alone_gives_its_best_gabor() -> None:
    settings = GaborSearch(
        orientations=(0, 45), phases=(0, 90), wavelengths=(8,), sigmas=(3, 4), rows=1, columns=2, grid_shift=0.25,
        iterations=0, starts=5,
    )  # fmt: skip
    cells = Cells(TRUTH[3:], False)
    found = optimal_gabors(cells, (1, HEIGHT, WIDTH), np.array([10.0]), 110.0, settings)
    best: tuple[float, Any] = (-1.0, None)
    for orientation in (0, 45):
        for phase in (0, 90):
            for sigma in (3, 4):
                for dx in (-0.25, 0.25):
                    one = gabors((orientation, phase, 8, sigma, 0, dx))
                    image = gabor_images(one, HEIGHT, WIDTH, 110.0, 10.0)[:, None].float()
                    best = max(best, (float(cells(image, torch.tensor([0]))), (orientation, phase, 8, sigma, 0, dx)))
    assert found.activation[0] == pytest.approx(best[0], rel=1e-5)
    assert found.grid_activation[0] == pytest.approx(best[0], rel=1e-5)
    given = [float(getattr(found.gabors, field.name)[0]) for field in dataclasses.fields(Gabors)]
    assert given == pytest.approx(best[1])


def test_settings_that_exclude_each_other_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="min_sigma is not below"):
        GaborSearch(min_sigma=9)
    with pytest.raises(ConfigurationError, match="contrast"):
        GaborSearch(contrast=0)
    with pytest.raises(ConfigurationError, match="unit 1 has a contrast of nan"):
        optimal_gabors(Cells(TRUTH, True), (1, HEIGHT, WIDTH), np.array([5, np.nan, 5, 5]), 110.0, SEARCH)
