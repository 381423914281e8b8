from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pytest
from skimage.transform import downscale_local_mean

from pipeline.datasets.preprocessing import (
    bin_edges,
    bin_spikes,
    hold_frames,
    n_bins,
    pulse_trace,
    resample_trace,
    resize_frames,
)
from pipeline.recordings.base import Trace

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


@pytest.mark.parametrize("factors", [(4, 4), (8, 8), (3, 2), (1, 5)])
def test_integer_factors_average_blocks(factors: tuple[int, int]) -> None:
    rng = np.random.default_rng(2)
    frames = rng.normal(size=(2, 3, 6 * factors[0], 5 * factors[1]))
    expected = downscale_local_mean(frames, (1, 1, *factors))
    resized = resize_frames(frames, 6, 5)
    assert resized.dtype == frames.dtype
    np.testing.assert_allclose(resized, expected, atol=1e-5)


def exact_area(frame: np.ndarray, height: int, width: int) -> np.ndarray:
    """Average exactly, with fractions: expand each pixel so that old and new grids share their borders."""
    tall = np.repeat(frame.astype(float), height, axis=0).reshape(height, frame.shape[0], frame.shape[1]).mean(1)
    return np.repeat(tall, width, axis=1).reshape(height, width, frame.shape[1]).mean(2)


@pytest.mark.parametrize("size", [(33, 53), (10, 13), (64, 41), (1, 1), (65, 106)])
def test_fractional_factors_average_the_exact_area(size: tuple[int, int]) -> None:
    frames = np.random.default_rng(3).integers(0, 256, (1, 2, 66, 107), dtype=np.uint8)
    resized = resize_frames(frames, *size)
    assert resized.dtype == np.uint8
    assert resized.shape == (1, 2, *size)
    exact = np.stack([exact_area(frame, *size) for frame in frames[0]])
    assert np.abs(resized[0] - exact).max() <= 0.5 + 1e-3  # rounded to nearest, not down


def test_uint8_is_rounded_to_nearest() -> None:
    frames = np.array([[0, 1, 3, 4], [0, 0, 4, 4]], np.uint8)[None, None]  # means 0.25 and 3.75
    assert resize_frames(frames, 1, 2).ravel().tolist() == [0, 4]
    white = np.full((1, 1, 66, 107), 255, np.uint8)
    assert (resize_frames(white, 33, 53) == 255).all()
    assert (resize_frames(white, 80, 200) == 255).all()


def test_frames_of_the_right_size_are_left_as_they_are() -> None:
    frames = np.random.default_rng(4).integers(0, 256, (1, 2, 5, 6), dtype=np.uint8)
    assert np.array_equal(resize_frames(frames, 5, 6), frames)


def test_enlarging_keeps_ramps() -> None:
    ramp = np.broadcast_to(np.arange(8.0)[:, None], (8, 8))[None, None]
    larger = resize_frames(ramp, 16, 16)
    assert larger.dtype == ramp.dtype
    np.testing.assert_allclose(larger[0, 0, 1:-1], np.broadcast_to(np.arange(14)[:, None] / 2 + 0.25, (14, 16)))


def index_movie(frames: int) -> np.ndarray:
    return np.arange(frames)[None, :, None, None] * np.ones((1, 1, 2, 2), int)


@pytest.mark.parametrize(
    ("source", "target", "bins", "shown"),
    [
        (30, 60, 8, [0, 0, 1, 1, 2, 2, 3, 3]),
        (60, 60, 4, [0, 1, 2, 3]),
        # centres at (k + 1/2) 25 / 60 = 0.21, 0.63, 1.04, 1.46, 1.88, 2.29, 2.71, 3.13, 3.54, 3.96, 4.38, 4.79
        (25, 60, 12, [0, 0, 1, 1, 1, 2, 2, 3, 3, 3, 4, 4]),
        # centres at 0.2, 0.6, 1.0, 1.4, 1.8: the third falls on a change and belongs to the new frame
        (24, 60, 5, [0, 0, 1, 1, 1]),
        (60, 30, 3, [1, 3, 5]),
        (30, 60, 10, [0, 0, 1, 1, 2, 2, 3, 3, 3, 3]),  # four frames only: the last is held
    ],
)
def test_held_frames_by_hand(source: float, target: float, bins: int, shown: list[int]) -> None:
    movie = index_movie(4 if source == 30 else 12)
    assert hold_frames(movie, source, target, bins)[0, :, 1, 1].tolist() == shown


@pytest.mark.parametrize(("source", "target"), [(30, 60), (24, 60), (60, 30), (60, 20), (25, 60), (100, 60)])
def test_held_frames_in_exact_arithmetic(source: int, target: int) -> None:
    bins = 3000
    exact = [int(Fraction(2 * k + 1, 2) * source / target) for k in range(bins)]
    held = hold_frames(index_movie(exact[-1] + 1), source, target, bins)
    assert held[0, :, 0, 0].tolist() == exact
