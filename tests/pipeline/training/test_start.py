from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.analysis.readouts import readout_properties
from pipeline.datasets.clips import MovieClips, MovieLoaders, movie_loaders
from pipeline.datasets.conversion import convert
from pipeline.datasets.info import DataInfo
from pipeline.datasets.preprocessing import Movie
from pipeline.models import Factorized3d, FullGaussian2d, Network, build_encoder
from pipeline.training.start import field_centers, initial_encoder

PLACES = ((3, 2), (10, 7), (0, 8), (6, 5))
"""x and y of the one pixel that each unit sees."""
LAGS = (3, 6, 10, 14)
TIERS_SHOWN = ("train", "train", "validation", "train")
CORE = Factorized3d(hidden_channels=(3,), spatial_kernels=(3,), temporal_kernels=(4,))


@pytest.fixture(scope="module")
def noise(handmade: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """White noise; each unit fires when its pixel was bright (or dark) some frames before.

    A further unit sees pixel (10, 1) in training and fires far more, to pixel (1, 7), in validation; the last is
    silent.
    """
    rng = np.random.default_rng(3)
    movies = [rng.integers(0, 256, (400, 9, 12), dtype=np.uint8) for _ in range(4)]
    starts = [10.0 * i for i in range(4)]
    spikes = []
    for movie, start, tier in zip(movies, starts, TIERS_SHOWN, strict=True):
        trial = []
        for unit, ((x, y), lag) in enumerate(zip(PLACES, LAGS, strict=True)):
            seen = movie[: 400 - lag, y, x]
            frames = np.flatnonzero(seen > 200 if unit % 2 else seen < 55) + lag
            trial.append(start + (frames + 0.5) / 60)
        frames = np.flatnonzero((movie[:-5, 1, 10] if tier == "train" else movie[:-5, 7, 1]) > 200) + 5
        misleading = np.repeat(start + (frames + 0.5) / 60, 1 if tier == "train" else 9)
        spikes.append([*trial, misleading, np.array([])])
    recording = handmade(movies, spikes, starts)
    tiers = dict(zip(recording.hashes, TIERS_SHOWN, strict=True))
    path = tmp_path_factory.mktemp("noise") / "data"
    convert(recording, Movie(height=9, width=12), tiers, path)
    return path


def load(path: Path) -> tuple[MovieLoaders, DataInfo]:
    return movie_loaders({"a": path, "b": path}, MovieClips(clip_frames=40), 4, 0)


def test_centres_are_the_pixels_that_units_see(noise: Path) -> None:
    found = field_centers(load(noise)[0]["train"]["a"].dataset)
    # 3 x 3 pixels are averaged, so a place on the border may come out one pixel beside it.
    assert len(found) == 6
    np.testing.assert_allclose(found[:5], [*PLACES, (10, 1)], atol=1)
    assert all(isinstance(value, float) for place in found for value in place)


def test_neither_mean_grey_nor_a_burst_at_the_onset_moves_the_centres(
    handmade: Callable[..., Any], tmp_path: Path
) -> None:
    rng = np.random.default_rng(4)
    movies = [rng.integers(100, 156, (120, 9, 12), dtype=np.uint8) for _ in range(9)]
    starts = [10.0 * i for i in range(len(movies))]
    spikes = []
    for movie, start in zip(movies, starts, strict=True):
        burst = start + (np.repeat(np.arange(6), 5) + 0.5) / 60  # whatever is shown
        seen = [start + (np.flatnonzero(movie[:-4, y, x] < 115) + 4.5) / 60 for x, y in PLACES]
        spikes.append([np.sort(np.concatenate([burst, times])) for times in seen])
    recording = handmade(movies, spikes, starts)
    tiers = dict(zip(recording.hashes, ["train"] * 8 + ["validation"], strict=True))
    convert(recording, Movie(height=9, width=12), tiers, tmp_path / "data")
    for normalize in (True, False):
        config = MovieClips(clip_frames=40, normalize=normalize)
        scan = movie_loaders({"a": tmp_path / "data"}, config, 4, 0)[0]["train"]["a"].dataset
        np.testing.assert_allclose(field_centers(scan), PLACES, atol=1)


def test_centres_are_near_the_simulated_receptive_fields(simulated: Any) -> None:
    found = field_centers(load(simulated.dataset)[0]["train"]["a"].dataset)
    for (x, y), strf in zip(found, simulated.truth.strf, strict=True):
        _, row, column = np.unravel_index(np.abs(strf).argmax(), strf.shape)
        assert abs(x - column) <= 2
        assert abs(y - row) <= 2


def test_trials_shorter_than_the_lags_give_the_middle(handmade: Callable[..., Any], tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    movies = [rng.integers(0, 256, (15, 9, 12), dtype=np.uint8) for _ in range(2)]  # 15 lags in 0.25 s
    recording = handmade(movies, [[np.array([0.1])], [np.array([])]], [0.0, 1.0])
    tiers = dict(zip(recording.hashes, ("train", "validation"), strict=True))
    convert(recording, Movie(height=9, width=12), tiers, tmp_path / "data")
    loaders, _ = movie_loaders({"a": tmp_path / "data"}, MovieClips(clip_frames=8), 4, 0)
    assert field_centers(loaders["train"]["a"].dataset) == ((5.5, 4.0),)


@pytest.mark.parametrize("padding", [True, False])
def test_readouts_start_at_the_centres_if_they_are_asked_to(noise: Path, padding: bool) -> None:
    loaders, info = load(noise)
    core = Factorized3d.from_dict({**CORE.settings(), "padding": padding})
    network = Network(core=core, readout=FullGaussian2d(init_positions="triggered_average"))
    encoder, known = initial_encoder(network, info, loaders, seed=1)
    assert info["a"].field_centers is None
    for data_key in ("a", "b"):
        centers = known[data_key].field_centers
        assert centers == field_centers(loaders["train"][data_key].dataset)
        # Without padding the outermost pixels are out of reach.
        reached = np.clip(centers, 0, (11, 8)) if padding else np.clip(centers, 1, (10, 7))
        positions = readout_properties(encoder, data_key, known[data_key]).positions
        np.testing.assert_allclose(positions, reached, atol=1e-5)


def test_random_starts_are_those_of_the_seed(noise: Path) -> None:
    loaders, info = load(noise)
    encoder, known = initial_encoder(Network(core=CORE), info, loaders, seed=5)
    assert known == info
    expected = build_encoder(Network(core=CORE), info, seed=5).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in encoder.state_dict().items())
