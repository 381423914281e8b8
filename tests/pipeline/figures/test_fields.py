from __future__ import annotations

import numpy as np
import pytest

from pipeline.figures.checks import FigureError
from pipeline.figures.fields import receptive_fields

SCREEN = (90.0, 20.0)
"""Of 10 x 30 px: a pixel is 3 degrees wide and 2 high."""
NAMES = ["one", "two"]


@pytest.fixture
def spatial():
    return np.random.default_rng(0).normal(size=(2, 10, 30))


def test_fields_lie_on_the_screen_in_symmetric_colours(spatial):
    figure = receptive_fields(spatial, NAMES, screen_deg=SCREEN, quality=np.array([0.934, np.nan]))
    first, second = figure.axes
    np.testing.assert_array_equal(first.images[0].get_array(), spatial[0])
    assert list(first.images[0].get_extent()) == [-45, 45, -10, 10]
    low, high = second.images[0].get_clim()
    assert -low == high == np.abs(spatial[1]).max()
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["one, fit 93 %", "two, no fit"]
    assert "degrees" in first.get_xlabel() and "degrees" in first.get_ylabel()


def test_the_outline_holds_the_points_two_stds_away_also_on_oblong_pixels(spatial):
    x, y, major, minor, angle = 20.0, 3.0, 4.0, 1.5, 25.0
    outlines = np.array([[x, y, major, minor, angle], [np.nan] * 5])
    figure = receptive_fields(spatial, NAMES, screen_deg=SCREEN, outlines=outlines)
    (ellipse,) = figure.axes[0].patches
    assert not figure.axes[1].patches
    turn, around = np.deg2rad(angle), np.deg2rad(np.arange(0, 360, 7))
    along, across = 2 * major * np.cos(around), 2 * minor * np.sin(around)
    right, up = along * np.cos(turn) - across * np.sin(turn), along * np.sin(turn) + across * np.cos(turn)
    degrees = np.stack([3 * (x + right - 14.5), 2 * (4.5 - (y - up))], axis=1)
    unit_circle = ellipse.get_patch_transform().inverted().transform(degrees)
    np.testing.assert_allclose(np.linalg.norm(unit_circle, axis=1), 1, atol=1e-9)


def test_courses_are_in_units_of_their_peak(spatial):
    temporal = np.array([[[0.1, -0.4, 0.2]], [[0.0, 0.0, 0.0]]])
    lag_ms = np.array([-100.0, -50.0, 0.0])
    figure = receptive_fields(spatial, NAMES, screen_deg=SCREEN, temporal=temporal, lag_ms=lag_ms)
    course = figure.axes[1]
    np.testing.assert_allclose(course.lines[1].get_ydata(), [0.25, -1, 0.5])
    np.testing.assert_array_equal(course.lines[1].get_xdata(), lag_ms)
    assert course.get_xlabel().endswith("(ms)")
    np.testing.assert_array_equal(figure.axes[3].lines[1].get_ydata(), 0)


def test_what_is_undefined_is_called_so_and_shapes_must_agree(spatial):
    spatial[1, 0, 0] = np.nan
    figure = receptive_fields(spatial, NAMES, screen_deg=SCREEN)
    assert [text.get_text() for text in figure.axes[1].texts] == ["undefined"]
    with pytest.raises(FigureError, match="temporal 2, lag_ms 3"):
        receptive_fields(spatial, NAMES, screen_deg=SCREEN, temporal=np.ones((2, 1, 2)), lag_ms=np.arange(3.0))
    with pytest.raises(FigureError, match="unit_names 1"):
        receptive_fields(spatial, NAMES[:1], screen_deg=SCREEN)
