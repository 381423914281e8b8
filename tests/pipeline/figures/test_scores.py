from __future__ import annotations

import itertools

import numpy as np
import pytest
from matplotlib.patches import Polygon

from pipeline.figures.checks import FigureError
from pipeline.figures.scores import (
    score_histogram,
    scores_against_oracle,
    scores_of_two_models,
    slope_through_origin,
)


def counted_area(polygon: Polygon, edges: np.ndarray) -> list[float]:
    """Height of an outline in the middle of every bin."""
    points = np.asarray(polygon.get_xy())
    heights = []
    for middle in (edges[:-1] + edges[1:]) / 2:
        over = [y for (x, y), (next_x, _) in itertools.pairwise(points) if x < middle < next_x]
        heights.append(max(over, default=0.0))
    return heights


def test_histogram_counts_units_in_shared_round_bins():
    validation, test = np.array([0.12, 0.13, 0.31, 0.42]), np.array([0.22, 0.38, np.nan, np.nan])
    figure = score_histogram({"validation": validation, "test": test}, "Single-trial correlation", bins=5)
    (axes,) = figure.axes
    outlines = [patch for patch in axes.patches if isinstance(patch, Polygon)]
    edges = np.array([0.1, 0.2, 0.3, 0.4, 0.5])
    assert counted_area(outlines[0], edges) == np.histogram(validation, edges)[0].tolist()
    assert counted_area(outlines[1], edges) == np.histogram(test[:2], edges)[0].tolist()
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["validation: mean 0.24, n = 4", "test: mean 0.30, n = 2, 2 units undefined"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("Single-trial correlation", "Units")


def test_histogram_marks_the_means():
    figure = score_histogram({"test": np.array([0.1, 0.2, 0.6, np.nan])}, "Correlation")
    (mean,) = figure.axes[0].lines
    assert list(mean.get_xdata()) == pytest.approx([0.3, 0.3])
    assert mean.get_linestyle() == "--"


def test_a_label_without_any_value_is_named_and_all_undefined_is_refused():
    figure = score_histogram({"test": np.full(2, np.nan), "oracle": np.array([0.2, 0.4])}, "Correlation")
    assert "test: no mean, n = 0, 2 units undefined" in [text.get_text() for text in figure.legends[0].get_texts()]
    with pytest.raises(FigureError, match="No value of Correlation is defined for test"):
        score_histogram({"test": np.full(2, np.nan)}, "Correlation")


def test_slope_is_the_least_squares_solution_without_intercept():
    rng = np.random.default_rng(2)
    oracle = rng.uniform(0.1, 0.8, 40)
    score = 0.7 * oracle + rng.normal(0, 0.05, 40)
    assert slope_through_origin(oracle, score) == pytest.approx(np.linalg.lstsq(oracle[:, None], score)[0][0])
    with pytest.raises(FigureError, match="fraction oracle is undefined"):
        slope_through_origin(np.zeros(3), np.ones(3))


def test_scatter_shows_units_with_both_scores_and_the_slope():
    oracle = np.array([0.2, 0.4, 0.6, np.nan, 0.5])
    score = np.array([0.1, 0.2, 0.3, 0.2, np.nan])
    figure = scores_against_oracle(oracle, score, list("abcde"), named_units=2)
    (axes,) = figure.axes
    np.testing.assert_allclose(axes.collections[0].get_offsets(), [[0.2, 0.1], [0.4, 0.2], [0.6, 0.3]])
    lines = {line.get_label(): line for line in axes.lines}
    np.testing.assert_array_equal(lines["identity"].get_xdata(), lines["identity"].get_ydata())
    x, y = lines["fraction oracle 0.50"].get_data()
    assert y[-1] / x[-1] == pytest.approx(0.5)
    assert axes.get_title(loc="left") == "3 units, 2 undefined"
    assert {text.get_text() for text in axes.texts} == {"b", "c"}
    assert axes.get_xlim() == axes.get_ylim()


def test_two_models_are_compared_unit_by_unit():
    first, second = np.array([0.1, 0.4, 0.6, np.nan, 0.5]), np.array([0.2, 0.3, 0.7, 0.2, np.nan])
    figure = scores_of_two_models(first, second, ("linear", "deep"), "Single-trial correlation")
    (axes,) = figure.axes
    np.testing.assert_allclose(axes.collections[0].get_offsets(), [[0.1, 0.2], [0.4, 0.3], [0.6, 0.7]])
    lines = {line.get_label(): line for line in axes.lines}
    np.testing.assert_array_equal(lines["identity"].get_xdata(), lines["identity"].get_ydata())
    np.testing.assert_allclose(np.ravel(lines["means 0.367 and 0.400"].get_data()), [1.1 / 3, 1.2 / 3])
    assert axes.get_title(loc="left") == "3 units, 2 undefined, 2 higher in deep"
    assert axes.get_xlabel() == "Single-trial correlation, linear"
    assert axes.get_ylabel() == "Single-trial correlation, deep"
    assert axes.get_xlim() == axes.get_ylim()


def test_all_units_of_two_models_lie_within_the_axes_also_below_zero():
    (axes,) = scores_of_two_models(np.array([-2.0, -1.5]), np.array([-3.0, -0.5]), ("a", "b"), "Poisson loss").axes
    low, high = axes.get_xlim()
    assert low < -3 and high > -0.5


def test_models_without_a_common_unit_or_of_other_units_are_refused():
    with pytest.raises(FigureError, match="No unit has a score in both linear and deep"):
        scores_of_two_models(np.array([0.1, np.nan]), np.array([np.nan, 0.2]), ("linear", "deep"))
    with pytest.raises(FigureError, match="first 2, second 3"):
        scores_of_two_models(np.zeros(2), np.zeros(3), ("linear", "deep"))
