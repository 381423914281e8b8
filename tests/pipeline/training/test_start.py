from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.analysis.readouts import readout_properties
from pipeline.datasets.clips import MovieClips
from pipeline.datasets.conversion import convert
from pipeline.datasets.images import CorrectedAreaLayer
from pipeline.datasets.info import DataInfo
from pipeline.datasets.loaders import ScanLoaders, open_loaders
from pipeline.datasets.preprocessing import Movie
from pipeline.datasets.store import write_dataset
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


def load(path: Path, **settings: Any) -> tuple[ScanLoaders, DataInfo]:
    return open_loaders({"a": path, "b": path}, MovieClips(**{"clip_frames": 40, **settings}), 4, 0)


def centers(path: Path, **settings: Any) -> tuple[tuple[float, float], ...]:
    loaders, info = load(path, **settings)
    return field_centers(loaders["train"]["a"].in_full(), info["a"])


def test_centres_are_the_pixels_that_units_see(noise: Path) -> None:
    found = centers(noise)
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
        np.testing.assert_allclose(centers(tmp_path / "data", normalize=normalize), PLACES, atol=1)


def test_centres_are_near_the_simulated_receptive_fields(simulated: Any) -> None:
    found = centers(simulated.dataset)
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
    assert centers(tmp_path / "data", clip_frames=8) == ((5.5, 4.0),)


@pytest.mark.parametrize("padding", [True, False])
def test_readouts_start_at_the_centres_if_they_are_asked_to(noise: Path, padding: bool) -> None:
    loaders, info = load(noise)
    core = Factorized3d.from_dict({**CORE.settings(), "padding": padding})
    network = Network(core=core, readout=FullGaussian2d(init_positions="triggered_average"))
    encoder, known = initial_encoder(network, info, loaders, seed=1)
    assert info["a"].field_centers is None
    for data_key in ("a", "b"):
        places = known[data_key].field_centers
        assert places == centers(noise)
        # Without padding the outermost pixels are out of reach.
        reached = np.clip(places, 0, (11, 8)) if padding else np.clip(places, 1, (10, 7))
        positions = readout_properties(encoder, data_key, known[data_key]).positions
        np.testing.assert_allclose(positions, reached, atol=1e-5)


def test_random_starts_are_those_of_the_seed(noise: Path) -> None:
    loaders, info = load(noise)
    encoder, known = initial_encoder(Network(core=CORE), info, loaders, seed=5)
    assert known == info
    expected = build_encoder(Network(core=CORE), info, seed=5).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in encoder.state_dict().items())


@pytest.mark.parametrize("normalize", [True, False])
def test_centres_of_still_images_are_found_without_lags(tmp_path: Path, normalize: bool) -> None:
    rng = np.random.default_rng(5)
    images = rng.integers(0, 256, (301, 1, 9, 12), dtype=np.uint8)
    tiers = ["train"] * 300 + ["validation"]
    responses = np.stack([images[:, 0, y, x] > 180 for x, y in PLACES], axis=1).astype(np.float32)
    with write_dataset(tmp_path / "data") as writer:
        for i, tier in enumerate(tiers):
            writer.add_stimulus(f"c{i}", "images", images[i])
            row = {"trial_idx": i, "condition_hash": f"c{i}", "tier": tier, "withheld": 0, "stimulus_type": ""}
            writer.add_trial({**row, "responses": responses[i]})
        pixels = {"all": {"mean": [float(images.mean())], "std": [float(images.std())]}}
        spikes = {"all": {"mean": responses.mean(0).tolist(), "std": responses.std(0).tolist()}}
        writer.metadata = {
            "unit_ids": [1, 2, 3, 4], "frame_rate": None, "behavior": [], "opto_groups": [],
            "statistics": {"inputs": pixels, "responses": spikes},
        }  # fmt: skip
    loaders, info = open_loaders({"a": tmp_path / "data"}, CorrectedAreaLayer(normalize=normalize), 16, 0)
    found = field_centers(loaders["train"]["a"].in_full(), info["a"])
    np.testing.assert_allclose(found, PLACES, atol=1)
