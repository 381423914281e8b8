from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.analysis import triggered
from pipeline.analysis.separability import separate
from pipeline.analysis.triggered import triggered_average
from pipeline.datasets.batches import ImageBatch, MovieBatch
from pipeline.datasets.info import ScanInfo
from pipeline.errors import DatasetError
from pipeline.simulation.fields import HEIGHT, WIDTH, center_surround_field
from pipeline.simulation.population import Population, draw_spikes, still_state

RNG = np.random.default_rng


def scan_of(units: int, height: int, width: int, channels: int = 1, **more) -> ScanInfo:
    return ScanInfo(tuple(range(units)), (channels, height, width), (1.0,) * units, **more)


def image_batches(images: np.ndarray, responses: np.ndarray, size: int = 50):
    for first in range(0, len(images), size):
        yield ImageBatch(
            torch.tensor(images[first : first + size]).float(), torch.tensor(responses[first : first + size]).float()
        )


def movie_batch(movies: np.ndarray, responses: np.ndarray) -> MovieBatch:
    return MovieBatch(torch.tensor(movies).float(), torch.tensor(responses).float())


@pytest.fixture(scope="module")
def simulated():
    """Spikes of six centre-surround neurons that watch white noise, in blocks of 3 x 3 pixels."""
    rng = RNG(5)
    fields = [
        center_surround_field(8 + 3 * unit, 10 + 6 * unit, 2.5, 1 if unit % 2 else -1, unit % 3 == 0)
        for unit in range(6)
    ]
    noise = rng.choice([-1.0, 1.0], size=(4, 2500, HEIGHT // 3, WIDTH // 3 + 1)).astype(np.float32)
    movies = noise.repeat(3, axis=2).repeat(3, axis=3)[:, :, :HEIGHT, :WIDTH]
    population = Population.calibrated(fields, list(movies), rng)
    state = still_state(2500)
    counts = np.stack(
        [
            np.stack([np.histogram(times, 2500, (0, 2500 / 60))[0] for times in draw_spikes(rates, 0.0, rng)])
            for rates in (population.rates(movie, state) for movie in movies)
        ]
    )
    return fields, movies[:, None], counts


def blocks(fields: np.ndarray) -> np.ndarray:
    """Sum over the blocks of pixels that are always equally bright."""
    whole = fields[..., : WIDTH // 3 * 3]
    return whole.reshape(*whole.shape[:-2], HEIGHT // 3, 3, WIDTH // 3, 3).sum(axis=(-3, -1))


def test_simulated_neurons_have_the_field_that_they_were_given(simulated):
    fields, movies, counts = simulated
    scan = scan_of(6, HEIGHT, WIDTH, frame_rate=60.0, clip_frames=100)
    found = triggered_average([movie_batch(movies, counts)], scan, lags=15, permutations=4)
    assert found.fields.shape == found.z.shape == (6, 1, 15, HEIGHT, WIDTH)
    assert found.samples == 4 * (2500 - 14)
    truth = separate(np.stack([blocks(field.strf) for field in fields])[:, None])
    seen = separate(blocks(found.fields))
    for unit in range(6):
        assert np.corrcoef(seen.spatial[unit].ravel(), truth.spatial[unit].ravel())[0, 1] > 0.9
        assert np.corrcoef(seen.temporal[unit].ravel(), truth.temporal[unit].ravel())[0, 1] > 0.9
    assert (found.peak_z > 5).all()
    np.testing.assert_allclose(found.peak_p, 1 / 5)


def test_of_shuffled_responses_z_is_standard_normal(simulated):
    _, movies, counts = simulated
    small = movies[:, :, :, 4:14:2, 10:24:2]
    scan = scan_of(6, 5, 7, frame_rate=60.0, clip_frames=100)
    shuffled = RNG(0).permuted(counts, axis=2)
    found = triggered_average([movie_batch(small, shuffled)], scan, lags=4, permutations=200, seed=3)
    assert abs(found.z.mean()) < 0.15
    assert found.z.std() == pytest.approx(1, abs=0.08)
    assert (np.abs(found.z) > 1.96).mean() == pytest.approx(0.05, abs=0.025)
    assert np.abs(found.peak_z).max() < 3.5 and found.peak_p.min() > 0.01


def test_of_images_the_null_has_the_variance_of_random_permutations():
    rng = RNG(1)
    images = rng.normal(size=(400, 1, 6, 8)) * np.linspace(0.5, 2, 8)
    responses = rng.poisson(3.0, size=(400, 40)).astype(float)
    found = triggered_average(image_batches(images, responses), scan_of(40, 6, 8), permutations=300)
    std = found.fields / found.z
    # the covariance of permuted pairs has the variance var(r) var(s) / (n - 1) exactly
    expected = images.std(axis=0) / np.sqrt(399)
    np.testing.assert_allclose(std[:, :, 0], np.broadcast_to(expected, (40, 1, 6, 8)), rtol=0.2)
    assert std.mean() == pytest.approx(expected.mean(), rel=0.01)
    assert found.z.std() == pytest.approx(1, abs=0.05) and abs(found.z.mean()) < 0.05
    assert abs(found.peak_z.mean()) < 0.5 and 0.7 < found.peak_z.std() < 1.3
    assert found.peak_p.mean() == pytest.approx(0.5, abs=0.15)


def test_the_average_is_the_covariance_over_the_std(monkeypatch):
    monkeypatch.setattr(triggered, "FIELD_BYTES", 4 * 3 * 40 * 2)
    rng = RNG(2)
    movies = rng.normal(1.0, 2.0, size=(3, 3, 30, 4, 5))  # the third channel is no pixel
    responses = rng.gamma(2.0, size=(3, 5, 30))
    responses[:, 4] = 7.0
    responses[2, 0, 3] = np.nan  # withheld
    scan = scan_of(5, 4, 5, 3, frame_rate=30.0, plane_means=(0.0,))
    found = triggered_average([movie_batch(movies, responses)], scan, lags=3, permutations=5)
    used = responses[:2, :, 2:].transpose(1, 0, 2).reshape(5, -1)
    for lag in range(3):
        past = movies[:2, :2, 2 - lag : 30 - lag].transpose(1, 3, 4, 0, 2).reshape(2, 4, 5, -1)
        expected = np.einsum("ut,chwt->uchw", used - used.mean(axis=1, keepdims=True), past) / used.shape[1]
        expected = expected[:4] / used[:4].std(axis=1)[:, None, None, None]
        np.testing.assert_allclose(found.fields[:4, :, 2 - lag], expected, atol=1e-5)
    assert np.isnan(found.fields[4]).all() and np.isnan(found.peak_z[4]) and np.isnan(found.peak_p[4])
    assert found.samples == 56


def test_the_same_seed_gives_the_same_null_and_too_little_is_refused():
    rng = RNG(3)
    images, responses = rng.normal(size=(60, 1, 5, 5)), rng.normal(size=(60, 2))

    def average(seed: int, n: int = 60, **more):
        return triggered_average(image_batches(images[:n], responses[:n]), scan_of(2, 5, 5), seed=seed, **more)

    np.testing.assert_array_equal(average(1).z, average(1).z)
    assert (average(1).z != average(2).z).any()
    assert average(1, max_samples=45).samples == 45
    np.testing.assert_array_equal(average(1, max_samples=45).fields, average(2, 45).fields)
    with pytest.raises(DatasetError, match="2 images or frames"):
        average(1, 2)
    with pytest.raises(DatasetError, match="no trial whose responses"):
        triggered_average([], scan_of(2, 5, 5))
