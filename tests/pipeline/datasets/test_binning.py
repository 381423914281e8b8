from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pytest

from pipeline.datasets.binning import (
    bin_edges,
    bin_spikes,
    n_bins,
    pulse_trace,
    resample_trace,
    resample_traces,
)
from pipeline.recordings.base import Trace, Traces

RATES = (60.0, 30.0, 25.0, 59.94, 1000 / 17)


@pytest.mark.parametrize(
    ("duration", "rate", "expected"),
    [(5, 60, 300), (1 / 60, 60, 1), (0.0166, 60, 0), (5.0166, 60, 300), (5.01667, 60, 301), (4.99999, 60, 299)],
)
def test_whole_bins(duration: float, rate: float, expected: int) -> None:
    assert n_bins(duration, rate) == expected


def test_any_number_of_frames_gives_as_many_bins() -> None:
    for rate in RATES:
        for start in (0.0, 12345.678):  # durations come from differences of clock times
            assert [n_bins((start + k / rate) - start, rate) for k in range(2000)] == list(range(2000))


def test_edges_do_not_drift() -> None:
    edges = bin_edges(0.5, 60.0, 600_000)
    assert len(edges) == 600_001
    assert all(edges[k] == float(Fraction(1, 2) + Fraction(k, 60)) for k in (60, 1000, 599_999, 600_000))


def test_spikes_on_edges_belong_to_the_later_bin() -> None:
    edges = [2.0, 2.25, 2.5, 2.75, 3.0]  # exact in binary
    every, below = np.array(edges), np.nextafter(edges, 0)
    counts = bin_spikes([every, below, np.array([]), np.array([2.5, 2.5, 2.6])], 2.0, 4.0, 4)
    assert counts.dtype == np.float32
    np.testing.assert_array_equal(counts, [[1, 1, 1, 1], [1, 1, 1, 1], [0, 0, 0, 0], [0, 0, 3, 0]])
    assert bin_spikes([every[-1:]], 2.0, 4.0, 4).sum() == 0  # the first of the next trial
    assert bin_spikes([below[:1]], 2.0, 4.0, 4).sum() == 0  # the last of the trial before


@pytest.mark.parametrize("seed", range(60))
def test_contiguous_trials_count_each_spike_once(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rate = float(rng.choice(RATES))
    start = float(rng.choice([0.0, rng.uniform(0, 10), rng.uniform(1e4, 1e6)]))
    lengths = rng.integers(1, 40, 6)
    starts = [start]
    for bins in lengths:
        starts.append(starts[-1] + bins / rate)
    edges = np.concatenate(
        [[s + k / rate for k in range(bins)] for s, bins in zip(starts[:-1], lengths, strict=True)] + [[starts[-1]]]
    )
    spikes = np.concatenate(
        [edges, np.nextafter(edges, np.inf), np.nextafter(edges, -np.inf), rng.uniform(start - 1, starts[-1] + 1, 200)]
    )
    rng.shuffle(spikes)
    counted = np.concatenate(
        [bin_spikes([spikes], s, rate, bins)[0] for s, bins in zip(starts[:-1], lengths, strict=True)]
    )
    by_hand = [((spikes >= a) & (spikes < b)).sum() for a, b in itertools.pairwise(edges)]
    np.testing.assert_array_equal(counted, by_hand)
    assert counted.sum() == ((spikes >= start) & (spikes < starts[-1])).sum()


def test_counts_equal_a_histogram_away_from_edges() -> None:
    rng = np.random.default_rng(0)
    for rate in RATES:
        start, bins = rng.uniform(0, 1e5), 300
        times = [start + (rng.integers(-20, bins + 20, n) + rng.uniform(0.01, 0.99, n)) / rate for n in (0, 7, 500)]
        expected = [np.histogram(t, bins, (start, start + bins / rate))[0] for t in times]
        np.testing.assert_array_equal(bin_spikes(times, start, rate, bins), expected)


def test_spikes_stay_with_their_unit_whatever_lies_outside_the_trial() -> None:
    # the first and last bins of neighbouring units lie side by side in memory
    times = [np.array([9.9, 12.0, 99.0]), np.array([]), np.array([10.0, 11.9]), np.array([-5.0])]
    np.testing.assert_array_equal(bin_spikes(times, 10.0, 1.0, 2), [[0, 0], [0, 0], [1, 1], [0, 0]])
    assert bin_spikes([], 10.0, 1.0, 2).shape == (0, 2)


def test_light_counts_where_it_is_on_at_the_centre_of_a_bin() -> None:
    # centres at 1.05, 1.15, ... 1.95
    pulses = np.array([[1.1, 1.24], [1.46, 1.54], [1.74, 1.86], [0.0, 1.04], [1.96, 9.0]])
    trace = pulse_trace(pulses, 1.0, 10.0, 10)
    assert trace.dtype == np.float32
    assert trace.tolist() == [0, 1, 0, 0, 0, 0, 0, 1, 1, 0]
    assert pulse_trace(np.empty((0, 2)), 1.0, 10.0, 4).tolist() == [0, 0, 0, 0]
    assert pulse_trace(np.array([[0.0, 9.0]]), 1.0, 10.0, 4).tolist() == [1, 1, 1, 1]
    # exact in binary: centres at 0.125, 0.375, 0.625, 0.875; on is included, off is not
    assert pulse_trace(np.array([[0.375, 0.875]]), 0.0, 4.0, 4).tolist() == [0, 1, 1, 0]


def centres(start: float, rate: float, bins: int) -> np.ndarray:
    return start + (np.arange(bins) + 0.5) / rate


@pytest.mark.parametrize("sampling", [7.0, 30.0, 60.0, 240.0, 1000.0])
def test_linear_signals_stay_linear(sampling: float) -> None:
    start, rate, bins = 3.0, 60.0, 60
    times = np.arange(2.0, 5.0, 1 / sampling) + 0.25 / sampling
    resampled = resample_trace(Trace(times, 5 - 2 * times), start, rate, bins)
    assert resampled.dtype == np.float32
    # An average over the samples of a bin is off the centre by at most half a sampling interval.
    within = 1e-5 if sampling * 0.75 < rate else 2 * 0.5 / sampling + 1e-5
    np.testing.assert_allclose(resampled, 5 - 2 * centres(start, rate, bins), atol=within)


def test_faster_signals_are_averaged_within_each_bin() -> None:
    rate, bins, per_bin = 60.0, 40, 5
    times = (np.arange(bins * per_bin) + 0.5) / (rate * per_bin)
    values = np.random.default_rng(1).normal(size=bins * per_bin)
    np.testing.assert_allclose(
        resample_trace(Trace(times, values), 0.0, rate, bins), values.reshape(bins, per_bin).mean(1), atol=1e-6
    )


def test_a_gap_does_not_stop_the_averaging_elsewhere() -> None:
    rate, bins, per_bin = 60.0, 10, 10
    times = (np.arange(bins * per_bin) + 0.5) / (rate * per_bin)
    values = np.tile([1.0, -1.0], bins * per_bin // 2)  # aliases if it is interpolated
    values[60:] += np.repeat([7.0, 8.0, 9.0, 10.0], per_bin)
    kept = np.ones(len(times), bool)
    kept[40:60] = False  # bins 4 and 5
    kept[90:] = False  # the signal ends before the trial
    resampled = resample_trace(Trace(times[kept], values[kept]), 0.0, rate, bins)
    np.testing.assert_allclose(resampled[[0, 1, 2, 3, 6, 7, 8]], [0, 0, 0, 0, 7, 8, 9], atol=1e-6)
    between = np.interp(centres(0, rate, bins)[4:6], times[[39, 60]], values[[39, 60]])
    np.testing.assert_allclose(resampled[4:6], between, atol=1e-6)
    assert resampled[9] == values[89]


def test_signals_are_constant_beyond_their_ends() -> None:
    trace = Trace(np.array([0.5, 0.55]), np.array([2.0, 4.0]))
    # centres at 0.425, 0.475, 0.525, 0.575, 0.625
    np.testing.assert_allclose(resample_trace(trace, 0.4, 20.0, 5), [2, 2, 3, 4, 4], atol=1e-5)
    assert resample_trace(Trace(np.array([9.0]), np.array([3.0])), 0.0, 60.0, 3).tolist() == [3, 3, 3]


@pytest.mark.parametrize("sampling", [8.0, 240.0])
def test_each_unit_of_a_ramp_is_late_by_its_delay(sampling: float) -> None:
    rate, bins, delays = 30.0, 45, np.array([0.0, 0.013, 0.2, 0.07])
    times = 10 + np.arange(-3 * sampling, 4 * sampling) / sampling
    slopes = np.array([1.0, -2.0, 3.0, 0.5])
    traces = Traces(times, slopes[:, None] * times, delays)
    # a sample taken at t + delay holds the value slope * t
    expected = slopes[:, None] * (centres(10.0, rate, bins) - delays[:, None])
    within = 1e-5 if sampling < rate else 3 * 0.5 / sampling + 1e-5
    found = resample_traces(traces, 10.0, rate, bins)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=within)
    alone = [resample_trace(Trace(times + d, v), 10.0, rate, bins) for d, v in zip(delays, traces.values, strict=True)]
    np.testing.assert_allclose(found, alone, atol=1e-5)


def test_units_without_delays_are_resampled_as_if_alone() -> None:
    rng = np.random.default_rng(5)
    for sampling in (7.0, 100.0):
        times = np.sort(rng.uniform(0, 3, int(3 * sampling)))
        values = rng.normal(size=(6, len(times))).astype(np.float32)
        alone = [resample_trace(Trace(times, row), 0.5, 30.0, 60) for row in values]
        np.testing.assert_array_equal(resample_traces(Traces(times, values), 0.5, 30.0, 60), alone)
        same = resample_traces(Traces(times, values, np.zeros(6)), 0.5, 30.0, 60)
        np.testing.assert_allclose(same, alone, atol=1e-6)


@pytest.mark.parametrize("start", [0.0, 12345.678])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16])
def test_samples_at_the_centres_are_kept_to_the_last_bit(start: float, dtype: type) -> None:
    """Also beside values a billion times as large, of which interpolation with rounded weights would add a share."""
    values = np.random.default_rng(3).permuted(np.repeat([[0, 1, 30000]], 4, axis=0), axis=1).astype(dtype)
    times = start + (np.arange(9) + 0.5) / 30.0 + 1e-9
    traces = Traces(times, np.tile(values, 3) * (dtype(1e5) if dtype is not np.int16 else dtype(1)))
    found = resample_traces(traces, start + 2 / 30.0, 30.0, 6)
    np.testing.assert_array_equal(found, traces.values[:, 2:8].astype(np.float32))
    later = resample_traces(traces, start + 2.25 / 30.0, 30.0, 6)  # between samples a quarter of the next
    np.testing.assert_allclose(
        later, 0.75 * traces.values[:, 2:8] + 0.25 * traces.values[:, 3:9].astype(float), rtol=1e-5, atol=30
    )


def test_samples_that_end_before_the_bins_are_held() -> None:
    times = (np.arange(3) + 0.5) / 10.0
    assert resample_trace(Trace(times, np.array([1.0, 2, 3])), 0.0, 10.0, 5).tolist() == [1, 2, 3, 3, 3]
    assert resample_trace(Trace(times, np.array([1.0, 2, 3])), -0.1, 10.0, 3).tolist() == [1, 1, 2]
