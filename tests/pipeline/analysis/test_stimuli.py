from __future__ import annotations

import numpy as np
import pytest

from pipeline.analysis.stimuli import Screen, disc, gaussian_window, grating, plaid, ring
from pipeline.errors import ConfigurationError

SCREEN = Screen(31, 41, (2.0, 2.0), 50.0)
ROWS, COLUMNS = np.mgrid[:31, :41]


HALF = 0.5**0.5


@pytest.mark.parametrize(("direction", "right", "up"), [(0, 1, 0), (90, 0, 1), (180, -1, 0), (225, -HALF, -HALF)])
def test_a_grating_drifts_in_its_direction(direction, right, up):
    found = grating(SCREEN, [direction], 0.05, 4.0, 30.0, frames=6).numpy()
    along = 2 * ((COLUMNS - 20) * right + (15 - ROWS) * up)
    for frame in range(6):
        moved = along - (4 / 0.05) * frame / 50  # temporal over spatial frequency is the speed (deg/s)
        np.testing.assert_allclose(found[0, frame], np.cos(2 * np.pi * 0.05 * moved + np.pi / 6), atol=1e-9)


def test_gratings_have_their_phase_at_their_own_centre():
    found = grating(SCREEN, [10.0, 200.0], [0.03, 0.08], 0.0, [90.0, 0.0], centres=[(3, 5), (30, 20)])
    assert found.shape == (2, 1, 31, 41)
    assert found[0, 0, 5, 3] == pytest.approx(0, abs=1e-12) and found[1, 0, 20, 30] == pytest.approx(1)


def test_a_plaid_is_the_mean_of_two_gratings():
    found = plaid(SCREEN, [30.0], 120.0, 0.05, 2.0, 15.0, 3)
    two = grating(SCREEN, [-30.0, 90.0], 0.05, 2.0, 15.0, 3)
    np.testing.assert_allclose(found[0], two.mean(dim=0), atol=1e-12)


def test_discs_and_rings_have_their_area():
    screen = Screen(60, 80, (0.5, 0.5))
    diameters = np.array([0.25, 0.5, 1.0, 5.0, 12.0, 20.0])
    found = disc(screen, diameters, [(40, 30)] * 6)
    np.testing.assert_allclose(found.sum(dim=(1, 2, 3)) * 0.25, np.pi * diameters**2 / 4, rtol=0.05, atol=0.07)
    assert disc(screen, 0.0).abs().sum() == 0
    around = ring(screen, 5.0, 12.0, [(40, 30)])
    np.testing.assert_allclose(around, found[4:5] - found[3:4])
    assert found.max() == 1 and found.min() == 0


def test_windows_are_gaussian_in_degrees_also_on_oblong_pixels():
    screen = Screen(21, 31, (2.0, 1.0))
    found = gaussian_window(screen, 4.0, [(10, 12)])[0, 0]
    assert found[12, 10] == 1
    assert found[12, 12] == pytest.approx(np.exp(-0.5)) and found[8, 10] == pytest.approx(np.exp(-0.5))


def test_the_middle_is_the_screens_and_frequencies_must_fit():
    assert Screen.of_size((1, 20, 40), (80.0, 40.0), 30.0) == Screen(20, 40, (2.0, 2.0), 30.0)
    assert Screen(20, 40, (2.0, 2.0)).middle == (19.5, 9.5)
    assert (SCREEN.frames(0.5), SCREEN.frames(0.001), Screen(2, 2, (1, 1)).frames(3)) == (25, 1, 1)
    SCREEN.refuse_aliases([0.25], [25.0])
    with pytest.raises(ConfigurationError, match=r"0\.26 cycles/deg is more than the 0\.25"):
        SCREEN.refuse_aliases([0.1, 0.26])
    with pytest.raises(ConfigurationError, match="30 Hz is more than half of the 50"):
        SCREEN.refuse_aliases([0.1], [30.0])
