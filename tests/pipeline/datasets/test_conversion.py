from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from skimage.transform import downscale_local_mean

from pipeline.datasets.conversion import convert_movie
from pipeline.datasets.preprocessing import Movie
from pipeline.datasets.store import StoredDataset
from pipeline.errors import DatasetError
from pipeline.recordings.base import TIERS, Trace

SMALL = Movie(height=3, width=4)


@pytest.fixture(scope="module")
def stored(simulated: Any) -> StoredDataset:
    return StoredDataset(simulated.dataset)


def test_every_trial_but_the_excluded_one_is_there(simulated: Any, stored: StoredDataset) -> None:
    kept = simulated.recording.trials[1:]
    assert stored.trial_idx == [trial.trial_idx for trial in kept] == list(range(1, 20))
    assert stored.condition_hash == [trial.condition_hash for trial in kept]
    assert stored.tier == [trial.tier for trial in kept]
    assert stored.metadata["unit_ids"] == [1, 2, 3, 4, 5]
    assert stored.metadata["frame_rate"] == 60
    assert stored.metadata["behavior"] == ["run", "pupil_size"]
    made = simulated.conversion
    assert (made.n_trials, made.n_conditions, made.n_bins) == (19, len(set(stored.condition_hash)), 19 * 300)


def test_counts_equal_brute_force_on_the_source_table(simulated: Any, stored: StoredDataset) -> None:
    table = pd.read_pickle(simulated.folder / "responses.pkl")
    spikes = np.zeros(5, int)
    for row, index in enumerate(stored.trial_idx):
        start = simulated.recording.trials[index].start
        edges = [start + k / 60 for k in range(301)]
        showing = table[[trange[0] == start for trange in table.trange]].sort_values("u")
        expected = np.array([
            [np.count_nonzero((t >= a) & (t < b)) for a, b in itertools.pairwise(edges)]
            for t in showing.spike_times
        ])  # fmt: skip
        np.testing.assert_array_equal(stored.tensor("responses", row), expected)
        spikes += expected.sum(axis=1)
    assert simulated.conversion.spikes == tuple(spikes)
    assert spikes.min() > 100


def test_light_and_behaviour_equal_the_source_table(simulated: Any, stored: StoredDataset) -> None:
    table = pd.read_pickle(simulated.folder / "resp_behav_df.pkl")
    by_start = {row.trange[0]: row for row in table.itertuples()}
    lit = 0
    for row, index in enumerate(stored.trial_idx):
        source = by_start[simulated.recording.trials[index].start]
        np.testing.assert_array_equal(stored.tensor("optogenetic_signal", row), source.bin_opto)
        lit += source.bin_opto.any()
        for tensor, names in (("behavior", ("run", "pupil_size")), ("pupil_location", ("pupil_x", "pupil_y"))):
            expected = np.stack([getattr(source, name) for name in names])
            np.testing.assert_allclose(stored.tensor(tensor, row), expected, rtol=1e-5, atol=1e-5)
    assert 0 < lit < len(stored.tier)


def test_movies_are_shrunk_and_each_frame_is_held_twice(simulated: Any, stored: StoredDataset) -> None:
    condition = stored.condition_hash[3]
    source = simulated.recording.frames(condition)[0]  # 150 frames of 132 x 212 at 30 Hz
    video = stored.stimulus(condition)
    assert (video.dtype, video.shape) == (np.uint8, (1, 300, 33, 53))
    assert np.array_equal(video[:, ::2], video[:, 1::2])
    assert np.abs(video[0, ::2] - downscale_local_mean(source, (1, 4, 4))).max() <= 0.5 + 1e-3


def test_statistics_are_those_of_the_training_tier(simulated: Any, stored: StoredDataset) -> None:
    train = [row for row, tier in enumerate(stored.tier) if tier == "train"]
    assert 0 < len(train) < len(stored.tier)
    found = stored.metadata["statistics"]
    expected = {
        "responses": np.concatenate([stored.tensor("responses", r) for r in train], axis=1).astype(float),
        "inputs": np.concatenate([
            stored.stimulus(h).ravel() for h in {stored.condition_hash[r] for r in train}
        ])[None].astype(float),
    }  # fmt: skip
    for tensor, names in (("behavior", ("run", "pupil_size")), ("pupil_location", ("pupil_x", "pupil_y"))):
        values = np.concatenate([stored.tensor(tensor, r) for r in train], axis=1).astype(float)
        expected |= {name: values[i : i + 1] for i, name in enumerate(names)}
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(found[name]["mean"], values.mean(1), rtol=1e-6)
        np.testing.assert_allclose(found[name]["std"], values.std(1, ddof=1), rtol=1e-6)
    np.testing.assert_allclose(simulated.conversion.responses.std, found["responses"]["std"])
    every = np.concatenate([stored.tensor("responses", r) for r in range(len(stored.tier))], axis=1)
    assert np.abs(np.subtract(found["responses"]["mean"], every.mean(1))).min() > 1e-5


def movies(lengths: tuple[int, ...] = (12, 9, 12)) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (frames, 6, 8), dtype=np.uint8) for frames in lengths]


def silence(trials: int, units: int = 2) -> list[list[np.ndarray]]:
    return [[np.array([])] * units for _ in range(trials)]


def run(values: float = 1.0) -> dict[str, Trace]:
    return {"run": Trace(np.array([0.0]), np.array([values]))}


def test_the_training_tier_alone_decides_the_pixel_statistics(handmade: Callable[..., Any], tmp_path: Path) -> None:
    black, white = np.zeros((12, 6, 8), np.uint8), np.full((12, 6, 8), 255, np.uint8)
    grey = np.full((12, 6, 8), 7, np.uint8)
    recording = handmade([grey, black, white], silence(4), shown=[0, 1, 2, 0])
    tiers = dict(zip(recording.hashes, TIERS, strict=True))
    convert_movie(recording, SMALL, tiers, tmp_path / "data")
    assert StoredDataset(tmp_path / "data").metadata["statistics"]["inputs"] == {"mean": [7.0], "std": [0.0]}


def test_repeats_of_a_movie_get_one_length(handmade: Callable[..., Any], tmp_path: Path) -> None:
    recording = handmade(movies((12, 9)), silence(3), shown=[0, 1, 0])
    short = recording.trials[2]
    object.__setattr__(short, "duration", 10.2 / 60)  # the third presentation was cut short
    convert_movie(recording, SMALL, dict.fromkeys(recording.hashes, "train"), tmp_path / "data")
    stored = StoredDataset(tmp_path / "data")
    assert [stored.tensor("responses", row).shape for row in range(3)] == [(2, 10), (2, 9), (2, 10)]
    assert [stored.stimulus(h).shape[1] for h in recording.hashes] == [10, 9]


def test_progress_counts_trials(handmade: Callable[..., Any], tmp_path: Path) -> None:
    recording, seen = handmade(movies(), silence(3)), []
    tiers = dict.fromkeys(recording.hashes, "train")
    convert_movie(recording, SMALL, tiers, tmp_path / "data", (1,), lambda done, of: seen.append((done, of)))
    assert seen == [(1, 2), (2, 2)]


def test_signals_decide_which_tensors_there_are(handmade: Callable[..., Any], tmp_path: Path) -> None:
    bare = handmade(movies(), silence(3))
    tiers = dict.fromkeys(bare.hashes, "train")
    made = convert_movie(bare, SMALL, tiers, tmp_path / "bare")
    assert StoredDataset(tmp_path / "bare").tensors == ("responses", "optogenetic_signal")
    assert [t.tensor for t in made.tensors] == ["videos", "responses", "optogenetic_signal"]
    running = handmade(movies(), silence(3), signals=[run(), run(), run()])
    made = convert_movie(running, SMALL, tiers, tmp_path / "running")
    stored = StoredDataset(tmp_path / "running")
    assert {t.tensor for t in made.tensors} == {"videos", *stored.tensors}
    assert stored.metadata["behavior"] == ["run"]
    assert stored.tensor("behavior", 1).tolist() == [[1.0] * 9]


@pytest.mark.parametrize("without", [0, 1])
def test_signals_that_some_trials_lack_are_refused(handmade: Callable[..., Any], tmp_path: Path, without: int) -> None:
    signals = [run(), run(), run()]
    signals[without] = {}
    recording = handmade(movies(), silence(3), signals=signals)
    tiers = dict.fromkeys(recording.hashes, "train")
    with pytest.raises(DatasetError, match=r"some trials have run and others do not \(trial 1 differs"):
        convert_movie(recording, SMALL, tiers, tmp_path / "data")
    assert not (tmp_path / "data").exists()
    convert_movie(recording, SMALL, tiers, tmp_path / "data", excluded=(without,))


def test_tiers_are_needed(handmade: Callable[..., Any], tmp_path: Path) -> None:
    recording = handmade(movies(), silence(3))
    first, second, third = recording.hashes
    with pytest.raises(DatasetError, match=f"trial 1: its condition {second[:12]} has no tier"):
        convert_movie(recording, SMALL, {first: "train", third: "test"}, tmp_path / "data")
    with pytest.raises(DatasetError, match=r"trial 2: .* has the unknown tier 'oracle'"):
        convert_movie(recording, SMALL, {first: "train", second: "test", third: "oracle"}, tmp_path / "data")
    with pytest.raises(DatasetError, match="no trial is in the training tier"):
        convert_movie(recording, SMALL, dict.fromkeys(recording.hashes, "test"), tmp_path / "data")
    with pytest.raises(DatasetError, match="no trial is in the training tier"):
        convert_movie(recording, SMALL, dict.fromkeys(recording.hashes, "train"), tmp_path / "data", (0, 1, 2))
    assert list(tmp_path.iterdir()) == []
    convert_movie(recording, SMALL, {first: "train", third: "test"}, tmp_path / "data", excluded=(1,))
    assert StoredDataset(tmp_path / "data").tier == ["train", "test"]
