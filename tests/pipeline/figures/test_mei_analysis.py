from __future__ import annotations

import numpy as np
import pytest

from pipeline.figures.checks import FigureError
from pipeline.figures.mei_analysis import (
    contrast_curves_figure,
    cross_activation_matrix,
    gabors_beside_meis,
    mei_masks,
)

NAMES = ["first", "second", "third"]


@pytest.fixture
def meis():
    """Three MEIs about 100 whose largest deviations are 40, -30 and 0."""
    images = np.full((3, 8, 12), 100.0)
    images[0, 2, 5], images[1, 6, 1] = 140, 70
    return images


def texts(figure):
    found = [axes.get_title(loc) for axes in figure.axes for loc in ("left", "center")]
    return found + [text.get_text() for axes in figure.axes for text in axes.texts]


def test_masks_are_outlined_where_they_are_one_half(meis):
    masks = np.zeros((3, 8, 12))
    masks[0] = np.clip(1 - np.abs(np.arange(12) - 5) / 4, 0, 1)  # one half at columns 3 and 7
    figure = mei_masks(
        meis, masks, NAMES, ratios=np.array([0.875, np.nan, 0.5]), grey=100,
        centers=np.array([[5.0, 2.0], [1.0, 6.0], [np.nan, np.nan]]),
        covariances=np.array([[[9.0, 0.0], [0.0, 1.0]], [[2.0, 1.0], [1.0, 2.0]], np.full((2, 2), np.nan)]),
    )  # fmt: skip
    first, second, third = figure.axes[:3]
    (outline,) = first.collections
    columns = np.concatenate([path.vertices[:, 0] for path in outline.get_paths()])
    assert set(np.round(columns, 6)) == {3, 7}
    assert not second.collections
    assert first.images[0].get_clim() == pytest.approx((-40, 40))
    assert second.images[0].get_clim() == pytest.approx((-30, 30))
    np.testing.assert_array_equal(first.images[0].get_array(), meis[0] - 100)
    (ellipse,) = first.lines
    assert (np.ptp(ellipse.get_xdata()), np.ptp(ellipse.get_ydata())) == pytest.approx((6, 2))
    assert np.mean(ellipse.get_xdata()[:-1]) == pytest.approx(5)
    turned = second.lines[0]
    x, y = turned.get_xdata() - 1, turned.get_ydata() - 6
    np.testing.assert_allclose((2 * x**2 - 2 * x * y + 2 * y**2) / 3, 1)  # of Mahalanobis distance 1
    assert np.isnan(third.lines[0].get_xdata()).all()
    assert {"first: 88%", "second: undefined", "third: 50%"} <= set(texts(figure))
    assert first.get_ylim() == (7.5, -0.5)


def test_gabors_stand_beside_meis_with_their_share(meis):
    gabors = 200 - meis
    figure = gabors_beside_meis(
        meis, gabors, NAMES, mei_activation=np.array([4.0, 2.0, 0.0]), gabor_activation=np.array([3.0, 2.0, 1.0]),
        grey=100,
    )  # fmt: skip
    np.testing.assert_array_equal(figure.axes[0].images[0].get_array(), meis[0] - 100)
    np.testing.assert_array_equal(figure.axes[1].images[0].get_array(), 100 - meis[0])
    expected = ["first: MEI", "Gabor, 75% of its response", "Gabor, 100% of its response", "Gabor, undefined"]
    assert set(expected) <= set(texts(figure))
    assert sum(axes.get_visible() for axes in figure.axes) == 6


def test_curves_have_a_mark_where_the_mei_is():
    contrast = np.tile(np.linspace(0, 10, 11), (3, 1))
    activation = contrast**2
    activation[2] = np.nan
    figure = contrast_curves_figure(
        contrast, activation, NAMES, mei_contrast=np.array([4.0, 5.5, 1.0]), natural_best=np.array([7.0, 9.0, 1.0])
    )
    curve, mark, natural = figure.axes[0].lines
    np.testing.assert_array_equal(curve.get_ydata(), contrast[0] ** 2)
    assert (mark.get_xdata()[0], mark.get_ydata()[0]) == (4, 16)
    assert figure.axes[1].lines[1].get_ydata()[0] == pytest.approx(30.5)  # half-way between 25 and 36
    assert list(natural.get_ydata()) == [7, 7]
    assert not figure.axes[2].lines
    assert "undefined" in texts(figure)
    assert {text.get_text() for text in figure.axes[0].get_legend().get_texts()} == {
        "MEI", "as found", "best natural",
    }  # fmt: skip
    assert figure.get_supxlabel() == "Contrast (grey values)"


MATRIX = np.array([[4.0, 2.0, 1.0], [3.0, 2.0, 2.5], [0.5, -1.0, 6.0]])


def test_the_matrix_and_each_units_best_other():
    figure = cross_activation_matrix(MATRIX, NAMES, groups=["V1", "V1", "LM"])
    image_axes, other = figure.axes[:2]
    np.testing.assert_array_equal(image_axes.images[0].get_array(), MATRIX)
    assert image_axes.images[0].get_clim() == (-1, 6)
    assert [list(line.get_ydata()) for line in image_axes.lines[:1]] == [[1.5, 1.5]]
    (dots,) = [line for line in other.lines if line.get_gid() == "units"]
    np.testing.assert_array_equal(dots.get_xdata(), [2, 3, 0.5])
    np.testing.assert_array_equal(dots.get_ydata(), [4, 2, 6])
    assert "2 of 3 units prefer their own" in texts(figure)
    assert [label.get_text() for label in image_axes.get_yticklabels()] == NAMES


def test_undefined_rows_are_counted_and_signed_colours_are_symmetric():
    matrix = MATRIX.copy()
    matrix[1] = np.nan
    figure = cross_activation_matrix(matrix, NAMES, signed=True)
    assert figure.axes[0].images[0].get_clim() == (-6, 6)
    assert "2 of 2 units prefer their own\n1 unit undefined" in texts(figure)
    alone = cross_activation_matrix(np.array([[2.0]]), ["only"])
    assert alone.axes[0].images[0].get_clim() == (0, 2)


def test_what_does_not_fit_is_refused(meis):
    with pytest.raises(FigureError, match="one mask for each MEI"):
        mei_masks(meis, np.zeros((3, 8, 11)), NAMES)
    with pytest.raises(FigureError, match="unit_names 2"):
        mei_masks(meis, np.zeros_like(meis), NAMES[:2])
    with pytest.raises(FigureError, match="gabor 2"):
        gabors_beside_meis(meis, meis[:2], NAMES, mei_activation=np.ones(3), gabor_activation=np.ones(3))
    with pytest.raises(FigureError, match="give them alike"):
        contrast_curves_figure(np.ones((3, 4)), np.ones((3, 5)), NAMES)
    with pytest.raises(FigureError, match="one MEI for each unit"):
        cross_activation_matrix(np.ones((2, 3)), NAMES)
    with pytest.raises(FigureError, match="2 groups for 3 units"):
        cross_activation_matrix(MATRIX, NAMES, groups=["V1", "LM"])
    with pytest.raises(FigureError, match="nothing to show"):
        cross_activation_matrix(np.full((3, 3), np.nan), NAMES)
