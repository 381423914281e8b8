from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.analysis.settings import CentreSurround, Spots
from pipeline.analysis.sizes import size_tuning, surround_tuning
from pipeline.analysis.viewing import Viewer
from pipeline.errors import ConfigurationError
from tests.pipeline.analysis.known_units import KEY, model_of

HEIGHT, WIDTH = 81, 101
DEGREES = (WIDTH * 0.5, HEIGHT * 0.5)
CENTRES = np.array([(50.0, 40.0), (46.0, 44.0), (54.0, 38.0)])
SIGMA, SCALE = 2.0, 2.2
"""Of the centre (deg), and of the surround in those of the centre."""
WEIGHTS = (0.9, 0.6, 0.0)
"""Volume of each unit's surround in that of its centre."""
POLARITY = (1, -1, 1)


def volume(diameter: np.ndarray, sigma: float) -> np.ndarray:
    """How much of a round Gaussian of volume 1 lies within a disc."""
    return 1 - np.exp(-(diameter**2) / (8 * sigma**2))


def response(diameter: np.ndarray, weight: float) -> np.ndarray:
    return volume(diameter, SIGMA) - weight * volume(diameter, SIGMA * SCALE)


def fields() -> np.ndarray:
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    made = []
    for (x, y), weight, sign in zip(CENTRES, WEIGHTS, POLARITY, strict=True):
        squares = ((columns - x) ** 2 + (rows - y) ** 2) * 0.25
        gaussians = [np.exp(-squares / (2 * s**2)) / (2 * np.pi * s**2) * 0.25 for s in (SIGMA, SIGMA * SCALE)]
        made.append(sign * (gaussians[0] - weight * gaussians[1]))
    return np.array(made)


@pytest.fixture(scope="module", params=["image", "movie"])
def viewer(request) -> Viewer:
    weights = torch.tensor(fields())[:, None, None]
    if request.param == "movie":
        time = torch.tensor([0.0, 0.5, 1.0, 0.4, 0.0])
        weights = weights[:, :, :, None] * time[:, None, None] / time.sum()
    encoder = model_of(weights, offset=1.5)
    return Viewer(encoder, KEY, encoder.data_info[KEY])


DIAMETERS = (2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 12.0, 15.0, 20.0, 30.0)


def test_size_tuning_of_differences_of_gaussians_is_its_closed_form(viewer):
    settings = Spots(diameters=DIAMETERS, contrast=0.8, duration=0.5)
    found = size_tuning(viewer, range(3), settings, DEGREES, CENTRES)
    expected = np.array([response(np.array(DIAMETERS), weight) for weight in WEIGHTS])
    scale = 0.8 * 120 / 50
    np.testing.assert_allclose(found.drive, scale * expected, atol=0.01 * scale)
    np.testing.assert_array_equal(found.preferred_contrast, POLARITY)
    for unit in range(3):
        best = expected[unit].max()
        assert found.suppression_index[unit] == pytest.approx((best - expected[unit, -1]) / best, abs=0.015)
    assert found.preferred_diameter[:2].tolist() == [DIAMETERS[i] for i in expected[:2].argmax(axis=1)]
    assert found.suppression_index[0] > 0.5


def test_rings_add_what_the_surround_says_of_them(viewer):
    settings = CentreSurround(centre_diameter=6.0, surround_diameter=30.0)
    found = surround_tuning(viewer, [1, 0], settings, DEGREES, CENTRES[[1, 0]])
    for position, unit in enumerate((1, 0)):
        alone, whole = response(np.array([6.0, 30.0]), WEIGHTS[unit])
        np.testing.assert_allclose(found.drive[position], 2.4 * np.array([alone, whole, 2 * alone - whole]), atol=0.03)
        assert found.suppression_by_same[position] == pytest.approx(1 - whole / alone, abs=0.02)
        assert found.suppression_by_opposite[position] == pytest.approx(whole / alone - 1, abs=0.02)
        assert found.preferred_contrast[position] == POLARITY[unit]


def test_units_that_no_disc_drives_are_undefined():
    encoder = model_of(torch.zeros(1, 1, 1, HEIGHT, WIDTH))
    viewer = Viewer(encoder, KEY, encoder.data_info[KEY])
    found = size_tuning(viewer, [0], Spots(), DEGREES, CENTRES[:1])
    assert all(np.isnan(getattr(found, name)).all() for name in found.names())
    around = surround_tuning(viewer, [0], CentreSurround(), DEGREES, CENTRES[:1])
    assert all(np.isnan(getattr(around, name)).all() for name in around.names())
    with pytest.raises(ConfigurationError, match="ascending"):
        size_tuning(viewer, [0], Spots(diameters=(3.0, 2.0)), DEGREES, CENTRES[:1])
    with pytest.raises(ConfigurationError, match="must be above"):
        surround_tuning(viewer, [0], CentreSurround(surround_diameter=10.0), DEGREES, CENTRES[:1])
