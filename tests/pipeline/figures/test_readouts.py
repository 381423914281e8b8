from __future__ import annotations

import numpy as np
import pytest
from matplotlib.patches import Rectangle

from pipeline.figures.checks import FigureError
from pipeline.figures.readouts import (
    feature_weights,
    gaze_shifts,
    readout_positions,
    readout_positions_by_group,
    similarity_order,
    spatial_masks,
)

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


def test_thousands_of_rows_are_ordered_while_one_waits():
    rng = np.random.default_rng(4)
    group = rng.integers(0, 8, 3000)
    rows = rng.normal(size=(8, 32))[group] + 0.1 * rng.normal(size=(3000, 32))
    ordered = group[similarity_order(rows)]
    assert np.count_nonzero(np.diff(ordered)) == 7


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


def test_every_group_has_its_colour_and_is_counted():
    figure = readout_positions_by_group(X, Y, ["V1", "LM", "V1", None], "Brain area", screen_deg=(108, 67))
    drawn = {points.get_label(): points for points in figure.axes[0].collections}
    assert {name: points.get_offsets().tolist() for name, points in drawn.items()} == {
        "LM (1)": [[5, -10]],
        "V1 (1)": [[-20, 3]],  # the other one has no position
        "unknown (1)": [[30, 12]],
    }
    colours = {tuple(points.get_facecolor()[0]) for points in drawn.values()}
    assert len(colours) == 3
    assert figure.legends[0].get_title().get_text() == "Brain area"
    assert figure.axes[0].get_title(loc="left") == "3 units, 1 unit without a position"
    with pytest.raises(FigureError, match="group 3"):
        readout_positions_by_group(X, Y, ["V1"] * 3, "Brain area", screen_deg=(108, 67))


def test_more_groups_than_colours_differ_by_their_markers():
    names = [f"area {number}" for number in range(9)]
    figure = readout_positions_by_group(np.arange(9.0), np.zeros(9), names, "Area", screen_deg=(108, 67))
    looks = {(*points.get_facecolor()[0], len(points.get_paths()[0])) for points in figure.axes[0].collections}
    assert len(looks) == 9


SHIFTS = {(0, 0): (1.0, -2.0), (1, 0): (4.0, -2.0), (-1, 0): (-1.0, -2.0), (0, 1): (1.0, 2.0), (0, -1): (0.0, -4.0)}


def test_arrows_lead_from_the_mean_eye_position_to_the_others():
    figure = gaze_shifts(X, Y, SHIFTS, screen_deg=(108, 67))
    points, *arrows = figure.axes[0].collections
    np.testing.assert_array_equal(points.get_offsets(), [[-19, 1], [6, -12], [31, 10]])
    steps = {arrow.get_label().split(":")[0]: (arrow.U[0], arrow.V[0]) for arrow in arrows}
    assert steps == {
        "horizontal +1 std": (3, 0), "horizontal \N{MINUS SIGN}1 std": (-2, 0),
        "vertical +1 std": (0, 4), "vertical \N{MINUS SIGN}1 std": (-1, -2),
    }  # fmt: skip
    for arrow in arrows:
        np.testing.assert_array_equal(arrow.XY, [[-19, 1], [6, -12], [31, 10]])
        assert (arrow.scale, arrow.angles, arrow.scale_units) == (1, "xy", "xy")
    assert arrows[0].get_label().endswith(": 3.0°")


def test_arrows_are_few_and_from_left_to_right():
    x = np.random.default_rng(1).permutation(100).astype(float)
    figure = gaze_shifts(x, np.zeros(100), SHIFTS, screen_deg=(300, 67), arrows=4)
    assert figure.axes[0].collections[1].XY[:, 0].tolist() == [1, 34, 67, 100]
    with pytest.raises(FigureError, match=r"eye position \(0, -1\) is missing"):
        gaze_shifts(X, Y, {gaze: SHIFTS[gaze] for gaze in list(SHIFTS)[:4]}, screen_deg=(108, 67))
    with pytest.raises(FigureError, match="No unit has a position"):
        gaze_shifts(np.full(2, np.nan), np.zeros(2), SHIFTS, screen_deg=(108, 67))


def test_masks_lie_where_their_places_do():
    masks = np.zeros((3, 2, 4))
    masks[0, 0, 3], masks[1, 1, 0] = -2, 0.5
    figure = spatial_masks(masks, ["a", "b", "c"], frame_px=(12, 20), first_place_px=(4, 5), pitch_px=3, columns=2)
    used = [axes for axes in figure.axes if axes.images]
    assert [axes.get_title(loc="left") for axes in used] == ["a", "b", "c"]
    for axes, mask, limit in zip(used, masks, (2, 0.5, 1), strict=True):
        np.testing.assert_array_equal(axes.images[0].get_array(), mask)
        assert axes.images[0].get_clim() == (-limit, limit)
        assert tuple(axes.images[0].get_extent()) == (2.5, 14.5, 9.5, 3.5)
        assert (axes.get_xlim(), axes.get_ylim()) == ((-0.5, 19.5), (11.5, -0.5))
    with pytest.raises(FigureError, match="unit_names 2"):
        spatial_masks(masks, ["a", "b"], frame_px=(12, 20))
