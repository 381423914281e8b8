from __future__ import annotations

import numpy as np
import pytest
from matplotlib.patches import Rectangle

from pipeline.figures.checks import FigureError
from pipeline.figures.readouts import feature_weights, readout_positions, similarity_order

X, Y = np.array([-20.0, 5.0, np.nan, 30.0]), np.array([3.0, -10.0, 1.0, 12.0])
VALUE = np.array([0.3, np.nan, 0.2, 0.5])


def test_positions_lie_on_a_screen_centred_at_zero():
    figure = readout_positions(X, Y, VALUE, "Validation correlation", screen_deg=(108, 67))
    axes, bar = figure.axes
    (screen,) = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
    assert (screen.get_x(), screen.get_y(), screen.get_width(), screen.get_height()) == (-54, -33.5, 108, 67)
    graded, unscored = axes.collections[:2]
    np.testing.assert_array_equal(graded.get_offsets(), [[-20, 3], [30, 12]])
    np.testing.assert_array_equal(graded.get_array(), [0.3, 0.5])
    np.testing.assert_array_equal(unscored.get_offsets(), [[5, -10]])
    assert "degrees" in axes.get_xlabel() and "degrees" in axes.get_ylabel()
    assert bar.get_ylabel() == "Validation correlation"
    assert axes.get_title(loc="left") == "3 units, 1 unit without a position"
    assert "1 unit undefined" in [text.get_text() for text in axes.get_legend().get_texts()]


def test_a_line_joins_every_estimate_to_the_truth():
    figure = readout_positions(X, Y, VALUE, "r", screen_deg=(108, 67), true_x_deg=X + 1, true_y_deg=Y - 2)
    ends = [line.get_xydata() for line in figure.axes[0].lines if len(line.get_xdata()) == 2][-4:]
    np.testing.assert_array_equal(ends[3], [[31, 10], [30, 12]])
    with pytest.raises(FigureError, match="both true_x_deg and true_y_deg"):
        readout_positions(X, Y, VALUE, "r", screen_deg=(108, 67), true_x_deg=X)


def test_positions_without_any_value_are_still_drawn():
    figure = readout_positions(X, Y, np.full(4, np.nan), "r", screen_deg=(108, 67))
    np.testing.assert_array_equal(figure.axes[0].collections[1].get_offsets(), np.stack([X, Y], 1)[[0, 1, 3]])


def test_similar_rows_come_together_and_zeros_last():
    a, b = np.array([1.0, 0.1, 0.0, 0.0]), np.array([0.0, 0.0, 1.0, 0.2])
    order = similarity_order(np.stack([a, b, np.zeros(4), 3 * a, 2 * b, 0.5 * a]))
    groups = ["ab0aba"[row] for row in order]
    assert groups in (list("aaabb0"), list("bbaaa0"))
    assert sorted(order) == list(range(6))


def test_feature_weights_are_permuted_not_changed_and_symmetric_in_colour():
    rng = np.random.default_rng(3)
    matrix = rng.normal(size=(7, 5))
    matrix[2, 1] = np.nan
    names = [f"u{number}" for number in range(7)]
    figure = feature_weights(matrix, names)
    axes = figure.axes[0]
    units = [int(label.get_text()[1:]) for label in axes.get_yticklabels()]
    channels = [int(label.get_text()) for label in axes.get_xticklabels()]
    assert sorted(units) == [0, 1, 3, 4, 5, 6] and sorted(channels) == list(range(5))
    np.testing.assert_array_equal(axes.images[0].get_array(), matrix[np.ix_(units, channels)])
    low, high = axes.images[0].get_clim()
    assert -low == high == np.nanmax(np.abs(np.delete(matrix, 2, 0)))
    assert axes.get_title(loc="left") == "1 unit undefined"
    with pytest.raises(FigureError, match="No unit has all its feature weights"):
        feature_weights(np.full((2, 3), np.nan), names[:2])
