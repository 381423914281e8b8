from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pytest

from pipeline.figures.checks import FigureError
from pipeline.figures.style import PREDICTED, RECORDED, png_bytes, rank_spread, svg_bytes, undefined_note
from pipeline.figures.traces import light_spans, predicted_and_recorded

TIME = np.arange(60) / 60
CORRELATIONS = np.array([0.1, np.nan, 0.7, 0.4, 0.2, np.nan])
NAMES = [f"u{number}" for number in range(6)]


@pytest.fixture
def responses():
    rng = np.random.default_rng(0)
    return rng.poisson(3.0, (6, 60)) * 6.0, rng.gamma(2.0, 4.0, (6, 60))


def test_rank_spread_goes_evenly_from_best_to_worst_without_undefined_units():
    assert rank_spread(CORRELATIONS, 2).tolist() == [2, 0]
    assert rank_spread(np.arange(11.0), 3).tolist() == [10, 5, 0]
    assert rank_spread(CORRELATIONS, 99).tolist() == [2, 3, 4, 0]
    assert rank_spread(np.full(3, np.nan), 2).tolist() == []


def test_undefined_note_counts():
    assert undefined_note(CORRELATIONS) == "2 units undefined"
    assert undefined_note(CORRELATIONS[:2]) == "1 unit undefined"
    assert undefined_note(np.ones(2)) == ""


def test_light_spans_are_half_open_and_reach_the_end():
    spans = light_spans(np.arange(6.0), np.array([1, 0, 0, 1, 1, 1]))
    assert spans == [(0.0, 1.0), (3.0, 6.0)]
    assert light_spans(np.arange(3.0), np.zeros(3)) == []


def test_rows_show_both_traces_of_the_units_from_best_to_worst(responses):
    recorded, predicted = responses
    figure = predicted_and_recorded(TIME, recorded, predicted, NAMES, CORRELATIONS, rate_unit="spikes/s")
    assert len(figure.axes) == 4
    for axes, unit in zip(figure.axes, [2, 3, 4, 0], strict=True):
        by_colour = {line.get_color(): line for line in axes.lines}
        np.testing.assert_array_equal(by_colour[RECORDED].get_ydata(), recorded[unit])
        np.testing.assert_array_equal(by_colour[PREDICTED].get_ydata(), predicted[unit])
        np.testing.assert_array_equal(by_colour[PREDICTED].get_xdata(), TIME)
        assert any(text.get_text().startswith(f"u{unit}\nr = {CORRELATIONS[unit]:.2f}") for text in axes.texts)
    assert figure.axes[-1].get_xlabel() == "Time (s)"
    assert figure.get_supylabel() == "Response (spikes/s)"
    assert figure.axes[0].get_title(loc="right") == "2 units undefined"


def test_light_is_shaded_in_every_row_and_named(responses):
    recorded, predicted = responses
    opto = np.zeros(60)
    opto[12:24] = 1
    figure = predicted_and_recorded(TIME, recorded, predicted, NAMES, CORRELATIONS, opto=opto, max_units=2)
    for axes in figure.axes:
        (span,) = axes.patches
        assert (span.get_x(), span.get_x() + span.get_width()) == pytest.approx((0.2, 0.4))
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == [
        "recorded",
        "predicted",
        "light on",
    ]


def test_arguments_that_disagree_are_named(responses):
    recorded, predicted = responses
    with pytest.raises(FigureError, match="recorded 6, predicted 5"):
        predicted_and_recorded(TIME, recorded, predicted[:5], NAMES, CORRELATIONS)
    with pytest.raises(FigureError, match=r"time axis.*time_s 59, recorded 60"):
        predicted_and_recorded(TIME[1:], recorded, predicted, NAMES, CORRELATIONS)
    with pytest.raises(FigureError, match="All 6 correlations are undefined"):
        predicted_and_recorded(TIME, recorded, predicted, NAMES, np.full(6, np.nan))


def test_the_callers_settings_neither_change_nor_matter(responses):
    recorded, predicted = responses
    plain = predicted_and_recorded(TIME, recorded, predicted, NAMES, CORRELATIONS)
    with mpl.rc_context({"font.size": 20, "axes.spines.top": True}):
        loud = predicted_and_recorded(TIME, recorded, predicted, NAMES, CORRELATIONS)
        assert mpl.rcParams["font.size"] == 20
        assert png_bytes(loud, 50) == png_bytes(plain, 50)
    again = predicted_and_recorded(TIME, recorded, predicted, NAMES, CORRELATIONS)
    plain = predicted_and_recorded(TIME, recorded, predicted, NAMES, CORRELATIONS)
    assert svg_bytes(again) == svg_bytes(plain)
    assert not plain.axes[0].spines["top"].get_visible()
