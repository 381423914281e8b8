"""Rates follow from receptive field, gaze, running and feedback as documented, and spikes follow from rates."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from pipeline.simulation.fields import HEIGHT, N_LAGS, WIDTH, center_surround_field, make_fields
from pipeline.simulation.population import (
    PUPIL_CENTER,
    RUN_HALF_SPEED,
    SATURATION,
    SHARPNESS,
    SHIFT_PER_PUPIL,
    SURROUND_WITHOUT_FEEDBACK,
    Population,
    draw_spikes,
    random_state,
    shift_movie,
    still_state,
)


def noise(n_bins: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).choice((-1.0, 1.0), (n_bins, HEIGHT, WIDTH)).astype(np.float32)


@pytest.fixture(scope="module")
def population() -> Population:
    return Population.calibrated(make_fields(7, np.random.default_rng(0)), [noise(600, 9)], np.random.default_rng(1))


def test_rates_are_those_of_the_formula(population):
    """An independent, slow evaluation of the whole formula at single bins."""
    movie, rng = noise(60), np.random.default_rng(3)
    opto = np.arange(60) % 20 < 10
    state = random_state(60, opto, rng)
    rates = population.rates(movie, state)
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]

    def seen(t: int) -> np.ndarray:
        row = np.clip(rows + SHIFT_PER_PUPIL[1] * (state.pupil_y[t] - PUPIL_CENTER[1]), 0, HEIGHT - 1)
        column = np.clip(columns + SHIFT_PER_PUPIL[0] * (state.pupil_x[t] - PUPIL_CENTER[0]), 0, WIDTH - 1)
        top, left = (np.minimum(x.astype(int), size - 2) for x, size in ((row, HEIGHT), (column, WIDTH)))
        down, right = row - top, column - left
        image = movie[t]
        return (
            (1 - down) * (1 - right) * image[top, left] + (1 - down) * right * image[top, left + 1]
            + down * (1 - right) * image[top + 1, left] + down * right * image[top + 1, left + 1]
        )  # fmt: skip

    p = population.parameters
    for unit, field in enumerate(population.fields):
        for t in (0, 4, 25, 59):
            drive = 0.0
            for age in range(min(N_LAGS, t + 1)):
                surround = SURROUND_WITHOUT_FEEDBACK if opto[t] else 1.0
                drive += ((field.center + surround * field.surround)[N_LAGS - 1 - age] * seen(t - age)).sum()
            x = drive / p.drive_scale[unit] - p.threshold[unit]
            s = np.log1p(np.exp(SHARPNESS * x)) / SHARPNESS
            rate = p.rate_scale[unit] * s / (1 + s / SATURATION)
            rate *= 1 + p.locomotion_gain[unit] * np.tanh(state.run[t] / RUN_HALF_SPEED)
            rate *= 1 - p.feedback_suppression[unit] * opto[t]
            assert rates[unit, t] == pytest.approx(rate, rel=1e-4, abs=1e-4)


def test_spike_triggered_average_is_the_receptive_field():
    """For white noise the average stimulus before a spike is proportional to the linear filter (Chichilnisky 2001)."""
    fields = make_fields(4, np.random.default_rng(2))
    movie = noise(15000, 4)
    population = Population.calibrated(fields, [movie[:2000]], np.random.default_rng(5))
    spikes = draw_spikes(population.rates(movie, still_state(len(movie))), 0.0, np.random.default_rng(6))
    for field, times in zip(fields, spikes, strict=True):
        counts = np.bincount((times * 60).astype(int), minlength=len(movie)).astype(np.float32)
        counts[:N_LAGS] = 0
        average = (
            np.stack([np.tensordot(np.roll(counts, -(N_LAGS - 1 - lag)), movie, axes=1) for lag in range(N_LAGS)])
            / counts.sum()
        )
        # noise of the average: each of the 15 x 33 x 53 values has the variance sum(counts^2) / sum(counts)^2
        noise_power = average.size * (counts**2).sum() / counts.sum() ** 2
        signal = np.sum(average * field.strf)
        expected = signal / np.sqrt(signal**2 + noise_power)
        correlation = np.corrcoef(average.ravel(), field.strf.ravel())[0, 1]
        assert correlation == pytest.approx(expected, abs=0.02)
        assert correlation > 0.2  # chance is 0 +- 0.006
        smooth = [gaussian_filter(values, (1, 2, 2)).ravel() for values in (average, field.strf)]
        assert np.corrcoef(*smooth)[0, 1] > 0.8


@pytest.mark.parametrize("polarity", [1, -1])
def test_on_cells_answer_brightening_and_off_cells_darkening(polarity):
    field = center_surround_field(16, 26, 2.5, polarity, transient=True)
    population = Population.calibrated([field], [noise(600, 9)], np.random.default_rng(1))
    spot = np.zeros((60, HEIGHT, WIDTH), np.float32)
    spot[30:, 13:20, 23:30] = 1.0
    brighter, darker = (population.rates(sign * spot, still_state(60))[0] for sign in (1, -1))
    rest = brighter[29]
    preferred, other = (brighter, darker) if polarity > 0 else (darker, brighter)
    assert preferred[30:36].max() > 2 * rest
    assert other[31:34].max() < rest
    assert np.array_equal(brighter[:30], darker[:30])


def test_mean_rates_at_rest(population):
    rates = population.rates(noise(600, 9), still_state(600)).mean(axis=1)
    assert (rates > 9.9).all()
    assert (rates < 25.1).all()


def test_running_changes_the_rate_by_the_units_gain(population):
    state = still_state(60)
    fast = replace(state, run=np.full(60, 1000.0))
    ratio = population.rates(noise(60), fast) / population.rates(noise(60), state)
    assert ratio == pytest.approx(np.tile(1 + population.parameters.locomotion_gain[:, None], 60), rel=1e-5)


def test_light_suppresses(population):
    """Measured fields have no surround, so they lose exactly their share; all units lose on average."""
    state = still_state(300)
    lit = replace(state, opto=np.ones(300, bool))
    dark, light = population.rates(noise(300), state), population.rates(noise(300), lit)
    assert light[:3] == pytest.approx(dark[:3] * (1 - population.parameters.feedback_suppression[:3, None]), rel=1e-5)
    assert (light.mean(axis=1) < dark.mean(axis=1)).all()


def test_light_weakens_the_surround():
    field = center_surround_field(16, 26, 2.5, 1, transient=False)
    population = Population.calibrated([field], [noise(600, 9)], np.random.default_rng(1))
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    ring = np.zeros((60, HEIGHT, WIDTH), np.float32)
    ring[:, np.hypot(rows - 16, columns - 26) > 8] = -0.3  # a dark ring excites an ON cell through its surround
    state = still_state(60)
    lit = replace(state, opto=np.ones(60, bool))
    ratio = population.rates(ring, lit)[0, 20:] / population.rates(ring, state)[0, 20:]
    assert (ratio < 1 - population.parameters.feedback_suppression[0] - 0.02).all()


def test_shift_by_whole_pixels_and_halves():
    movie = noise(3)
    right, down = np.array([2.0, 0.0, -1.0]), np.array([0.0, 3.0, -1.0])
    shifted = shift_movie(movie, right, down)
    assert np.array_equal(shifted[0, :, :-2], movie[0, :, 2:])
    assert np.array_equal(shifted[0, :, -2:], movie[0, :, -1:].repeat(2, axis=1))
    assert np.array_equal(shifted[1, :-3], movie[1, 3:])
    assert np.array_equal(shifted[2, 1:, 1:], movie[2, :-1, :-1])
    half = shift_movie(movie, np.full(3, 0.5), np.zeros(3))
    assert half[:, :, :-1] == pytest.approx((movie[:, :, :-1] + movie[:, :, 1:]) / 2)


def test_traces_are_smooth_and_in_range():
    states = [random_state(300, np.zeros(300, bool), np.random.default_rng(seed)) for seed in range(60)]
    shift = np.concatenate([SHIFT_PER_PUPIL[0] * (s.pupil_x - PUPIL_CENTER[0]) for s in states])
    assert 0.5 < shift.std() < 1.0
    run = np.concatenate([s.run for s in states])
    assert run.min() == 0
    assert 0.2 < (run > 1).mean() < 0.8
    for state in states:
        for trace in (state.run, state.pupil_size, state.pupil_x, state.pupil_y):
            assert np.abs(np.diff(trace)).max() < 1.0  # per bin of 1/60 s
    assert np.corrcoef(run, np.concatenate([s.pupil_size for s in states]))[0, 1] > 0.2


def test_spikes_are_poisson_and_inside_their_bins():
    rates = np.full((2, 60000), [[20.0], [5.0]])
    spikes = draw_spikes(rates, 7.0, np.random.default_rng(0))
    for times, rate in zip(spikes, (20.0, 5.0), strict=True):
        assert (np.diff(times) >= 0).all()
        place = (times - 7.0) * 60 % 1
        assert place.min() > 0.005
        assert place.max() < 0.995
        counts = np.bincount(((times - 7.0) * 60).astype(int), minlength=60000)
        assert counts.mean() * 60 == pytest.approx(rate, rel=0.03)
        assert counts.var() / counts.mean() == pytest.approx(1, abs=0.03)
