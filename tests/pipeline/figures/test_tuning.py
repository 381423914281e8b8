from __future__ import annotations

import numpy as np
import pytest

from pipeline.figures.checks import FigureError
from pipeline.figures.tuning import direction_tuning, tuning_lines

DIRECTIONS = np.arange(8) * 45.0
CURVES = np.array([[1.0, 2, 4, 2, 1, 0, 0, 0], [0.0] * 8])
NAMES = ["one", "two"]


def test_curves_go_around_in_units_of_their_largest_response():
    figure = direction_tuning(
        CURVES, DIRECTIONS, NAMES, preferred=np.array([90.0, np.nan]), selectivity=np.array([0.75, np.nan])
    )
    one, two = figure.axes
    curve, line = one.lines
    np.testing.assert_allclose(curve.get_ydata(), [*(CURVES[0] / 4), 0.25])
    np.testing.assert_allclose(np.rad2deg(curve.get_xdata()), [*DIRECTIONS, 360])
    np.testing.assert_allclose(np.rad2deg(line.get_xdata()), [90, 90])
    assert one.get_title().splitlines()[1].endswith("0.75") and two.get_title().endswith("undefined")
    assert not two.lines and [text.get_text() for text in two.texts] == ["not driven"]
    assert "degrees" in figure.get_supxlabel()


def test_orientations_are_drawn_at_both_ends():
    figure = direction_tuning(CURVES[:1, :4], DIRECTIONS[:4], NAMES[:1], preferred=np.array([80.0]))
    curve, *lines = figure.axes[0].lines
    np.testing.assert_allclose(np.rad2deg(curve.get_xdata()), [*DIRECTIONS, 360])
    np.testing.assert_allclose(curve.get_ydata(), np.array([1, 2, 4, 2, 1, 2, 4, 2, 1]) / 4)
    assert [round(float(np.rad2deg(line.get_xdata()[1]))) for line in lines] == [80, 260]


def test_lines_stand_on_a_logarithmic_axis():
    values, curves = np.array([2.0, 4.0, 8.0]), np.array([[1.0, 3.0, 2.0], [0.0, -1.0, 0.5]])
    figure = tuning_lines(
        curves, values, NAMES, label="Diameter (degrees)", preferred=np.array([4.0, np.nan]), notes=["s 0.33", "s 0"]
    )
    one, two = figure.axes
    assert one.get_xscale() == "log" and figure.get_supxlabel() == "Diameter (degrees)"
    np.testing.assert_array_equal(one.lines[1].get_xydata(), np.stack([values, curves[0]], axis=1))
    assert list(one.lines[2].get_xdata()) == [4, 4] and len(two.lines) == 2
    assert one.get_title(loc="left") == "one\ns 0.33"
    assert [label.get_text() for label in one.get_xticklabels()] == ["2", "4", "8"]
    assert "(normalised responses)" in one.get_ylabel()


def test_many_units_go_into_rows():
    figure = tuning_lines(np.ones((7, 3)), np.array([1.0, 2.0, 3.0]), [str(i) for i in range(7)], label="x (deg)")
    shown = [axes for axes in figure.axes if axes.axison]
    assert [axes.get_title(loc="left") for axes in shown] == [str(i) for i in range(7)]


def test_what_does_not_fit_is_named():
    with pytest.raises(FigureError, match="positive and ascending"):
        tuning_lines(CURVES[:, :2], np.array([0.0, 1.0]), NAMES, label="x")
    with pytest.raises(FigureError, match="curves 8, directions 7"):
        direction_tuning(CURVES, DIRECTIONS[:7], NAMES)
    with pytest.raises(FigureError, match="preferred 3"):
        direction_tuning(CURVES, DIRECTIONS, NAMES, preferred=np.zeros(3))
