from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
from scipy.integrate import quad

from pipeline.datasets.binning import bin_spikes
from pipeline.datasets.preprocessing import Movie
from pipeline.datasets.waveforms import waveform_of

RISE, DECAY = 0.004, 0.03
DENSITIES: dict[str, Callable[[float], float]] = {
    "exponential": lambda t: np.exp(-t / DECAY) / DECAY,
    "alpha": lambda t: t / DECAY**2 * np.exp(-t / DECAY),
    "double_exponential": lambda t: (np.exp(-t / DECAY) - np.exp(-t / RISE)) / (DECAY - RISE),
}
every_waveform = pytest.mark.parametrize("name", DENSITIES)


def movie(name: str, **settings: object) -> Movie:
    return Movie(**{"waveform": name, "waveform_rise": RISE, "waveform_decay": DECAY, **settings})  # type: ignore[arg-type]


def integral(name: str, begin: float, end: float) -> float:
    """Area of a spike's waveform between two times after it, by quadrature of the formula."""
    return quad(DENSITIES[name], max(begin, 0), end, epsabs=1e-12)[0] if end > 0 else 0.0


@every_waveform
@pytest.mark.parametrize("rate", [30.0, 60.0, 1000.0])
def test_a_single_spike_gives_the_waveform(name: str, rate: float) -> None:
    start, bins, spike = 100.0, 40, 100.0 + 3.3 / rate
    edges = start + np.arange(bins + 1) / rate - spike
    expected = [integral(name, a, b) for a, b in itertools.pairwise(edges)]
    found = waveform_of(movie(name)).bin([np.array([spike])], start, rate, bins)
    assert (found.dtype, found.shape) == (np.float32, (1, bins))
    np.testing.assert_allclose(found[0], expected, atol=1e-7)
    assert found[0, :3].tolist() == [0, 0, 0]
    assert found[0, 3] > 0


@every_waveform
def test_each_spike_has_an_area_of_one_wherever_it_falls_in_a_bin(name: str) -> None:
    times = [np.array([at]) for at in (0.0, 0.001, 0.01666, 1 / 60, 0.5)]
    found = waveform_of(movie(name)).bin(times, 0.0, 60.0, 90)
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-5)
    assert found.min() >= 0


@every_waveform
def test_spikes_add_up_and_those_before_the_trial_are_felt(name: str) -> None:
    rng = np.random.default_rng(0)
    waveform, start, rate, bins = waveform_of(movie(name)), 7.0, 50.0, 30
    times = [np.sort(rng.uniform(start - waveform.support, start + 0.7, n)) for n in (0, 20, 3)]
    edges = start + np.arange(bins + 1) / rate
    expected = [
        [sum(integral(name, a - t, b - t) for t in spikes) for a, b in itertools.pairwise(edges)] for spikes in times
    ]
    np.testing.assert_allclose(waveform.bin(times, start, rate, bins), expected, atol=1e-6)
    before = np.array([start - 0.01])
    assert waveform.bin([before], start, rate, bins)[0, 0] > 0.1
    assert waveform.bin([np.array([start - 2 * waveform.support])], start, rate, bins).max() < 1e-5


@every_waveform
def test_support_is_as_long_as_a_spike_is_felt(name: str) -> None:
    support = waveform_of(movie(name)).support
    assert integral(name, support, support + 1) < 1e-5
    assert integral(name, support / 2, support) > 1e-4


def test_double_exponential_tends_to_alpha() -> None:
    times = [np.random.default_rng(1).uniform(0, 1, 9)]
    near = waveform_of(movie("double_exponential", waveform_rise=DECAY * (1 - 1e-5)))
    alpha = waveform_of(movie("alpha"))
    np.testing.assert_allclose(near.bin(times, 0.0, 60.0, 90), alpha.bin(times, 0.0, 60.0, 90), atol=1e-4)


def test_none_counts_and_custom_convolves_counts() -> None:
    rng = np.random.default_rng(2)
    times = [np.sort(rng.uniform(-1, 2, n)) for n in (30, 0, 11)]
    counts = bin_spikes(times, -0.05, 40.0, 62)  # two bins before 0
    np.testing.assert_array_equal(waveform_of(Movie()).bin(times, 0.0, 40.0, 60), counts[:, 2:])
    samples = (0.5, -2.0, 0.25)
    custom = waveform_of(Movie(waveform="custom", waveform_samples=samples, frame_rate=40.0))
    assert custom.support == 0.05
    expected = [np.convolve(row, samples)[2:62] for row in counts]
    np.testing.assert_allclose(custom.bin(times, 0.0, 40.0, 60), expected, atol=1e-6)
    single = waveform_of(Movie(waveform="custom", waveform_samples=(3.0,), frame_rate=40.0))
    np.testing.assert_array_equal(single.bin(times, 0.0, 40.0, 60), 3 * counts[:, 2:])
