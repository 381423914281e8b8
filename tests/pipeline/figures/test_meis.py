from __future__ import annotations

import numpy as np
import pytest

from pipeline.figures.checks import FigureError
from pipeline.figures.meis import mei_filmstrip, meis_beside_receptive_fields, peak

LAG_MS = np.array([-50.0, -33.3, -16.7, 0.0])
NAMES = ["first", "second"]


@pytest.fixture
def movies():
    """Two units whose largest deviations are known: +5 at (2, 1, 3) and -4 at (1, 4, 0)."""
    rng = np.random.default_rng(4)
    movies = rng.uniform(-1, 1, (2, 4, 6, 8))
    movies[0, 2, 1, 3], movies[1, 1, 4, 0] = 5, -4
    return movies


def test_peak_is_the_largest_deviation_of_either_sign(movies):
    assert peak(movies[0]) == (2, 1, 3)
    assert peak(movies[1]) == (1, 4, 0)


def test_frames_at_the_fields_best_lag_stand_beside_each_other(movies):
    rf = movies[:, ::-1]
    lag = 1  # where the field of the first unit has its +5
    figure = meis_beside_receptive_fields(
        movies + 10, rf, NAMES, np.array([0.9, np.nan]), lag_ms=LAG_MS, degrees_per_pixel=2.0, grey=10
    )
    assert len(figure.axes) == 6
    mei_axes, rf_axes, course = figure.axes[:3]
    np.testing.assert_allclose(mei_axes.images[0].get_array(), movies[0, lag])
    np.testing.assert_array_equal(rf_axes.images[0].get_array(), rf[0, lag])
    largest = np.abs(movies[0, lag]).max()
    assert mei_axes.images[0].get_clim() == pytest.approx((-largest, largest))
    assert rf_axes.images[0].get_clim() == pytest.approx((-5, 5))
    assert figure.axes[4].images[0].get_clim() == pytest.approx((-4, 4))
    courses = {line.get_label(): line for line in course.lines}
    np.testing.assert_allclose(courses["MEI"].get_ydata(), movies[0, :, 1, 3] / 5)
    np.testing.assert_allclose(courses["True receptive field"].get_ydata(), rf[0, :, 1, 3] / 5)
    np.testing.assert_array_equal(courses["MEI"].get_xdata(), LAG_MS)
    texts = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert {"first", "second", "r = 0.90", "r undefined", "\N{MINUS SIGN}33 ms"} <= set(texts)
    assert figure.axes[5].get_xlabel().endswith("(ms)")


def test_without_receptive_fields_the_strongest_frames_stand_alone(movies):
    figure = meis_beside_receptive_fields(movies, None, NAMES, None, lag_ms=LAG_MS, degrees_per_pixel=2.0)
    assert len(figure.axes) == 4
    np.testing.assert_array_equal(figure.axes[0].images[0].get_array(), movies[0, 2])
    assert not [text for axes in figure.axes for text in axes.texts if text.get_text().startswith("r ")]


def test_an_undefined_mei_is_called_so(movies):
    movies[1] = np.nan
    figure = meis_beside_receptive_fields(movies, None, NAMES, None, lag_ms=LAG_MS, degrees_per_pixel=2.0)
    assert "undefined" in [text.get_text() for text in figure.axes[2].texts]
    assert not figure.axes[2].images


def test_the_scale_bar_has_the_length_that_it_states(movies):
    figure = meis_beside_receptive_fields(movies, None, NAMES, None, lag_ms=LAG_MS, degrees_per_pixel=2.0)
    axes = figure.axes[2]
    (bar,) = [line for line in axes.lines if line.get_gid() == "scale bar"]
    # The image is 16 degrees wide; 5 is the largest round length within a third of it.
    assert "5°" in [text.get_text() for text in axes.texts]
    assert bar.get_xdata()[1] == pytest.approx(5 / 16)


def test_filmstrip_shows_the_last_frames_on_one_grey_scale(movies):
    figure = mei_filmstrip(movies[0] + 3, lag_ms=LAG_MS, degrees_per_pixel=2.0, grey=3, max_frames=3, title="unit 7")
    frames = [axes for axes in figure.axes if len(axes.images) == 1]
    assert [axes.get_title() for axes in frames] == ["\N{MINUS SIGN}33 ms", "\N{MINUS SIGN}17 ms", "0 ms"]
    for axes, frame in zip(frames, movies[0, 1:], strict=True):
        np.testing.assert_allclose(axes.images[0].get_array(), frame)
        assert axes.images[0].get_clim() == pytest.approx((-5, 5))
    assert figure.get_suptitle() == "unit 7"


def test_shapes_that_disagree_are_named(movies):
    with pytest.raises(FigureError, match=r"rf has shape \(2, 4, 6, 7\) and mei \(2, 4, 6, 8\)"):
        meis_beside_receptive_fields(movies, movies[..., 1:], NAMES, None, lag_ms=LAG_MS, degrees_per_pixel=2.0)
    with pytest.raises(FigureError, match="mei 4, lag_ms 3"):
        mei_filmstrip(movies[0], lag_ms=LAG_MS[1:], degrees_per_pixel=2.0)
