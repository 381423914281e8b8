from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import quad

from pipeline.datasets.preprocessing import Image
from pipeline.datasets.windows import window_of
from pipeline.recordings.base import Traces

HAMMING, BOX = window_of(Image()), window_of(Image(window="box"))
"""From 0.05 s to 0.55 s after the onset."""


def reference(
    trace: np.ndarray, times: np.ndarray, onset: float, delay: float = 0.0, offset: float = 0.05, duration: float = 0.5
) -> float:
    """The extraction of neuro_data's static data, for one unit and with whole arrays."""
    half = int(duration / np.median(np.diff(times)) + 1e-3)
    window = np.hamming(2 * half + 1)
    smooth = np.convolve(trace, window / window.sum())[half : half + len(trace)]
    return float(np.interp(onset + offset + duration / 2, times + delay, smooth, left=0, right=0))


@pytest.mark.parametrize("rate", [6.3, 10.0, 30.0, 97.0])
@pytest.mark.parametrize(("offset", "duration"), [(0.05, 0.5), (0.03, 0.1), (0.0, 0.37)])
def test_low_passed_traces_equal_a_plain_convolution(rate: float, offset: float, duration: float) -> None:
    rng = np.random.default_rng(0)
    times = 1e4 + np.arange(-4, 5, 1 / rate) + rng.uniform(0, 1e-4)
    values, delays = rng.normal(size=(5, len(times))), np.array([0.0, 0.01, 0.09, 0.3, 0.02])
    window = window_of(Image(offset=offset, duration=duration))
    for onset in (1e4, 1e4 + 0.123):
        expected = [reference(v, times, onset, d, offset, duration) for v, d in zip(values, delays, strict=True)]
        np.testing.assert_allclose(window.traces(Traces(times, values, delays), onset), expected, atol=1e-6)
        expected = [reference(v, times, onset, 0.0, offset, duration) for v in values]
        found = window.traces(Traces(times, values), onset)
        assert (found.dtype, found.shape) == (np.float32, (5,))
        np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("samples", [4, 5, 10])  # the window has 11 of them, from -0.2 s to 0.8 s
def test_samples_that_do_not_exist_count_as_zero(samples: int) -> None:
    times = np.arange(samples) * 0.1 + 0.025
    values = 1 + np.random.default_rng(1).uniform(size=(3, samples))
    found = HAMMING.traces(Traces(times, values), 0.0)
    np.testing.assert_allclose(found, [reference(row, times, 0.0) for row in values], atol=1e-6)
    longer = (np.arange(-20, samples + 20)) * 0.1 + 0.025
    padded = np.pad(values, ((0, 0), (20, 20)))
    np.testing.assert_allclose(found, HAMMING.traces(Traces(longer, padded), 0.0), atol=1e-6)


def test_one_sample_is_taken_as_it_is() -> None:
    once = Traces(np.array([9.0]), np.array([[3.0], [5.0]]))
    for window in (HAMMING, BOX):
        assert window.traces(once, 0.0).tolist() == [3, 5]


def test_a_delayed_unit_of_a_ramp() -> None:
    times = np.arange(-3, 4, 0.1)
    traces = Traces(times, np.stack([times, times]), np.array([0.0, 0.07]))
    for window, within in ((HAMMING, 1e-6), (BOX, 0.05)):
        np.testing.assert_allclose(window.traces(traces, 0.0), [0.3, 0.23], atol=within)


def test_a_box_is_the_mean_of_its_samples() -> None:
    times = np.arange(-1, 2, 0.01) + 0.005
    values = np.random.default_rng(2).normal(size=(3, len(times)))
    inside = (times >= 0.05) & (times < 0.55)
    assert inside.sum() == 50
    np.testing.assert_allclose(BOX.traces(Traces(times, values), 0.0), values[:, inside].mean(1), atol=1e-6)


def weight(t: float) -> float:
    return (0.54 + 0.46 * np.cos(np.pi * (t - 0.3) / 0.5)) / 1.08 if abs(t - 0.3) <= 0.5 else 0.0


def test_spikes_are_counted_or_weighted() -> None:
    times = [np.array([-0.3, 0.049, 0.05, 0.3, 0.549, 0.551]), np.array([]), np.array([0.55, 0.7])]
    onset = 20.0
    shifted = [onset + t for t in times]
    assert BOX.spikes(shifted, onset).tolist() == [3, 0, 0]
    expected = [sum(weight(t) for t in unit) for unit in times]
    np.testing.assert_allclose(HAMMING.spikes(shifted, onset), expected, rtol=1e-6)
    assert weight(0.3) == pytest.approx(1 / 1.08)


def test_a_steady_rate_counts_alike_in_both_windows() -> None:
    times = [np.arange(-2, 3, 1e-4)]
    assert BOX.spikes(times, 0.0)[0] == pytest.approx(5000, rel=1e-3)
    assert HAMMING.spikes(times, 0.0)[0] == pytest.approx(5000, rel=1e-3)


def test_light_is_a_share_of_the_window() -> None:
    pulses = np.array([[0.0, 0.1], [0.2, 0.3], [0.5, 0.9]])
    assert BOX.light(pulses + 5, 5.0) == pytest.approx((0.05 + 0.1 + 0.05) / 0.5)
    expected = sum(quad(weight, max(a, -0.2), min(b, 0.8))[0] for a, b in pulses) / 0.5
    assert HAMMING.light(pulses + 5, 5.0) == pytest.approx(expected)
    for window in (BOX, HAMMING):
        assert window.light(np.array([[-9.0, 9.0]]), 0.0) == pytest.approx(1)
        assert window.light(np.array([[-9.0, 9.0], [-9.0, 9.0]]), 0.0) == 1  # overlapping pulses are one light
        assert window.light(np.empty((0, 2)), 0.0) == 0
        assert window.light(np.array([[3.0, 4.0]]), 0.0) == 0
