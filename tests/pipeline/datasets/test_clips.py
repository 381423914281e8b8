from __future__ import annotations

import copy
import pickle
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from pipeline.datasets.batches import MovieBatch
from pipeline.datasets.clips import MovieClips, MovieLoaders, movie_loaders, repeated_responses
from pipeline.datasets.conversion import convert_movie
from pipeline.datasets.info import ScanInfo, data_info_from_json, data_info_to_json
from pipeline.datasets.preprocessing import Movie
from pipeline.datasets.store import StoredDataset
from pipeline.errors import ConfigurationError, DatasetError

FRAMES = 40


@pytest.fixture(scope="module")
def paths(simulated: Any) -> dict[str, Path]:
    return {"one": simulated.dataset, "two": simulated.dataset}


@pytest.fixture(scope="module")
def stored(simulated: Any) -> StoredDataset:
    return StoredDataset(simulated.dataset)


def load(paths: dict[str, Path], seed: int = 1, batch_size: int = 4, **settings: Any) -> MovieLoaders:
    return movie_loaders(paths, MovieClips(**{"clip_frames": FRAMES, **settings}), batch_size, seed)[0]


def equal(first: list[MovieBatch], second: list[MovieBatch]) -> bool:
    return len(first) == len(second) and all(
        torch.equal(a, b) for x, y in zip(first, second, strict=True) for a, b in zip(x, y, strict=True)
    )


def test_loaders_are_nested_by_tier_and_data_key(paths: dict[str, Path]) -> None:
    loaders = load(paths)
    assert list(loaders) == ["train", "validation", "test"]
    assert all(list(of_tier) == ["one", "two"] for of_tier in loaders.values())
    for batch in loaders["train"]["two"]:
        size = len(batch.videos)
        assert [tuple(part.shape) for part in batch] == [
            (size, 1, FRAMES, 33, 53), (size, 5, FRAMES), (size, 3, FRAMES), (size, 2, FRAMES), (size, FRAMES),
        ]  # fmt: skip
        assert {part.dtype for part in batch} == {torch.float32}


def test_batches_can_be_pickled(paths: dict[str, Path]) -> None:
    batch = next(iter(load(paths)["train"]["one"]))
    again = pickle.loads(pickle.dumps(batch))
    assert isinstance(again, MovieBatch)
    assert equal([batch], [again])


def test_an_epoch_draws_each_trial_as_often_as_clips_fit_into_it(paths: dict[str, Path]) -> None:
    for frames, fit in ((40, 7), (80, 3), (300, 1), (299, 1)):  # trials of 300 frames
        loader = load(paths, clip_frames=frames)["train"]["one"]
        train = [i for i, tier in enumerate(loader.dataset.tiers) if tier == "train"]
        batches = list(loader.batch_sampler)
        drawn = [clip for batch in batches for clip in batch]
        assert Counter(trial for trial, _, _ in drawn) == dict.fromkeys(train, fit)
        assert all(length == frames and 0 <= start <= 300 - frames for _, start, length in drawn)
        assert [len(batch) for batch in batches[:-1]] == [4] * (len(loader) - 1)
        assert len(batches) == len(loader) == -(-len(drawn) // 4)


def test_over_epochs_clips_start_everywhere(paths: dict[str, Path]) -> None:
    loader = load(paths, clip_frames=250)["train"]["one"]
    starts = {start for _ in range(60) for batch in loader.batch_sampler for _, start, _ in batch}
    assert starts == set(range(51))


def test_clips_are_the_normalised_tensors_at_their_place(paths: dict[str, Path], stored: StoredDataset) -> None:
    loader = load(paths)["train"]["one"]
    places = [clip for batch in copy.deepcopy(loader.batch_sampler) for clip in batch]
    statistics = {name: [np.array(s[m]) for m in ("mean", "std")] for name, s in stored.metadata["statistics"].items()}
    behavior_std = np.concatenate([statistics[n][1] for n in ("run", "pupil_size")])
    pupil_mean, pupil_std = (np.concatenate([statistics[n][i] for n in ("pupil_x", "pupil_y")]) for i in (0, 1))
    (pixel_mean,), (pixel_std,) = statistics["inputs"]
    seen = 0
    for batch in loader:
        for i in range(len(batch.videos)):
            trial, start, length = places[seen]
            seen += 1
            cut = (..., slice(start, start + length))
            video = (stored.stimulus(stored.condition_hash[trial])[:, start : start + length] - pixel_mean) / pixel_std
            responses = stored.tensor("responses", trial)[cut] / statistics["responses"][1][:, None]
            opto = stored.tensor("optogenetic_signal", trial)[cut]
            behavior = np.concatenate([stored.tensor("behavior", trial)[cut] / behavior_std[:, None], opto[None]])
            pupil = (stored.tensor("pupil_location", trial)[cut] - pupil_mean[:, None]) / pupil_std[:, None]
            for found, expected in zip(batch, (video, responses, behavior, pupil, opto), strict=True):
                np.testing.assert_allclose(found[i], expected, atol=1e-4)
    assert seen == len(places)


def test_normalised_training_data_have_unit_spread(paths: dict[str, Path]) -> None:
    scan = load(paths)["train"]["one"].dataset
    train = [scan[i, 0, scan.lengths[i]] for i, tier in enumerate(scan.tiers) if tier == "train"]
    responses = torch.cat([batch.responses[0] for batch in train], dim=1)
    torch.testing.assert_close(responses.std(1), torch.ones(5))
    videos = torch.cat([batch.videos.flatten() for batch in train])
    assert abs(float(videos.mean())) < 1e-4
    assert abs(float(videos.std()) - 1) < 1e-4
    pupil = torch.cat([batch.pupil_center[0] for batch in train], dim=1)
    torch.testing.assert_close(pupil.std(1), torch.ones(2))
    torch.testing.assert_close(pupil.mean(1), torch.zeros(2), atol=1e-4, rtol=0)
    behavior = torch.cat([batch.behavior[0] for batch in train], dim=1)
    torch.testing.assert_close(behavior[:2].std(1), torch.ones(2))
    assert set(behavior[2].tolist()) == {0.0, 1.0}
    info = scan.info
    np.testing.assert_allclose(info.mean_responses, responses.mean(1), rtol=1e-5)
    np.testing.assert_allclose(info.mean_behavior, behavior.mean(1), rtol=1e-5)
    np.testing.assert_allclose(info.mean_pupil_center, (0, 0), atol=1e-4)
    assert (info.unit_ids, info.input_shape, info.n_behavior) == ((1, 2, 3, 4, 5), (1, 33, 53), 3)
    assert info.frame_rate == 60


def test_without_normalisation_values_are_those_of_the_source(paths: dict[str, Path], stored: StoredDataset) -> None:
    scan = load(paths, normalize=False)["train"]["one"].dataset
    batch = scan[3, 10, 20]
    assert np.array_equal(batch.videos[0], stored.stimulus(stored.condition_hash[3])[:, 10:30])
    assert np.array_equal(batch.responses[0], stored.tensor("responses", 3)[:, 10:30])
    assert np.array_equal(batch.pupil_center[0], stored.tensor("pupil_location", 3)[:, 10:30])
    assert (scan.info.input_mean, scan.info.input_std) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("settings", "channels", "pupil"),
    [
        ({"behavior": "none"}, 1, True),
        ({"opto": "none"}, 2, True),
        ({"behavior": "none", "opto": "none"}, None, True),
        ({"pupil": "none"}, 3, False),
    ],
)
def test_what_is_left_out_is_none(
    paths: dict[str, Path], settings: dict[str, str], channels: int | None, pupil: bool
) -> None:
    scan = load(paths, **settings)["train"]["one"].dataset
    batch = scan[0, 0, 8]
    assert (None if batch.behavior is None else batch.behavior.shape[1]) == channels
    assert (batch.pupil_center is not None) == (scan.info.mean_pupil_center is not None) == pupil
    assert scan.info.n_behavior == (channels or 0)
    assert (scan.info.mean_behavior is None) == (channels is None)


def test_seed_and_epoch_decide_the_clips(paths: dict[str, Path]) -> None:
    def places(seed: int) -> list[list[list[tuple[int, int, int]]]]:
        sampler = load(paths, seed)["train"]["one"].batch_sampler
        return [list(sampler) for _ in range(3)]

    first, again, other = places(1), places(1), places(2)
    assert first == again
    assert first[0] != first[1] != first[2]
    assert first != other
    sampler = load(paths, 1)["train"]["one"].batch_sampler
    sampler.epoch = 2  # as when training is resumed
    assert list(sampler) == first[2]


def test_evaluation_does_not_depend_on_the_seed(paths: dict[str, Path]) -> None:
    for tier in ("validation", "test"):
        assert equal(list(load(paths, 1)[tier]["one"]), list(load(paths, 2)[tier]["one"]))


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_workers_give_the_same_batches(paths: dict[str, Path], method: str) -> None:
    alone, shared = load(paths)["train"]["one"], load(paths)["train"]["one"]
    workers = DataLoader(
        shared.dataset,
        batch_sampler=shared.batch_sampler,
        collate_fn=shared.collate_fn,
        num_workers=2,
        multiprocessing_context=method,
    )
    for _ in range(2):
        assert equal(list(alone), list(workers))


def test_evaluation_gives_whole_trials_in_order(paths: dict[str, Path], stored: StoredDataset) -> None:
    loaders = load(paths)
    std = np.array(stored.metadata["statistics"]["responses"]["std"])[:, None]
    for tier in ("validation", "test"):
        found = [trial for batch in loaders[tier]["one"] for trial in batch.responses]
        expected = [stored.tensor("responses", row) / std for row in stored.rows(tier)]
        assert len(found) == len(expected) > 0
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5)


@pytest.fixture(scope="module")
def uneven(handmade: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five training trials with known light, then evaluation trials of two lengths, ten of them alike."""
    rng = np.random.default_rng(0)
    lengths = [24, 24, 24, 24, 30] + [16, 12] + [12] * 10
    movies = [rng.integers(0, 256, (n, 4, 5), dtype=np.uint8) for n in lengths]
    starts = [10.0 * i for i in range(len(lengths))]
    spikes = [[np.sort(s + rng.uniform(0, 0.4, 9)), np.array([])] for s in starts]
    light = {1: [(10.0, 10.4)], 2: [(20.2, 20.4)], 3: [(30.1, 30.2)]}  # all, second half, 6 frames in the middle
    pulses = [light.get(i, []) for i in range(len(lengths))]
    recording = handmade(movies, spikes, starts, pulses=pulses)
    tiers = dict(zip(recording.hashes, ["train"] * 5 + ["validation"] * 12, strict=True))
    path = tmp_path_factory.mktemp("uneven") / "data"
    convert_movie(recording, Movie(height=4, width=5), tiers, path)
    return path


def test_batches_of_whole_trials_hold_consecutive_trials_of_one_length(uneven: Path) -> None:
    loader = load({"a": uneven}, clip_frames=8)["validation"]["a"]
    assert [[clip[0] for clip in batch] for batch in loader.batch_sampler] == [[5], list(range(6, 14)), [14, 15, 16]]
    assert [batch.videos.shape[2] for batch in loader] == [16, 12, 12]


@pytest.mark.parametrize(
    ("window", "trials", "lit"),
    [
        ("any", {0, 1, 2, 3, 4}, None),
        ("on", {1, 2}, {8}),
        ("off", {0, 2, 3, 4}, {0}),
        ("constant", {0, 1, 2, 3, 4}, {0, 8}),
    ],
)
def test_light_windows(uneven: Path, window: str, trials: set[int], lit: set[int] | None) -> None:
    loader = load({"a": uneven}, clip_frames=8, opto_window=window)["train"]["a"]
    places = [clip for _ in range(40) for batch in copy.deepcopy(loader.batch_sampler) for clip in batch]
    assert {trial for trial, _, _ in places} == trials
    found = {float(n) for _ in range(40) for batch in loader for n in batch.optogenetic_signal.sum(1)}
    if lit is None:
        assert {0.0, 8.0} < found
    else:
        assert found == lit


def test_light_windows_leave_every_clip_that_meets_them(uneven: Path) -> None:
    sampler = load({"a": uneven}, clip_frames=8, opto_window="off")["train"]["a"].batch_sampler
    places = {clip[:2] for _ in range(300) for batch in sampler for clip in batch}
    assert {start for trial, start in places if trial == 2} == set(range(5))  # dark until frame 12
    assert {start for trial, start in places if trial == 3} == {12, 13, 14, 15, 16}  # lit from 6 to 12
    assert {start for trial, start in places if trial == 4} == set(range(23))


@pytest.mark.parametrize("frames", [1, 8, 24])
@pytest.mark.parametrize("window", ["any", "constant", "on", "off"])
def test_light_windows_judge_every_clip_by_its_own_frames(uneven: Path, window: str, frames: int) -> None:
    scan = load({"a": uneven}, clip_frames=8, opto_window=window)["train"]["a"].dataset
    for trial in range(5):
        light = StoredDataset(uneven).tensor("optogenetic_signal", trial) > 0
        starts = np.arange(scan.lengths[trial] - frames + 1)
        clips = [light[start : start + frames] for start in starts]
        on, off = np.array([clip.all() for clip in clips]), np.array([not clip.any() for clip in clips])
        wanted = {"any": on | ~on, "constant": on | off, "on": on, "off": off}[window]
        np.testing.assert_array_equal(scan.opto_allows(trial, starts, frames), wanted)


def test_impossible_clips_are_refused(uneven: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"clip_frames is 25, but training trial 0 .* use at most 24"):
        load({"a": uneven}, clip_frames=25)
    load({"a": uneven}, clip_frames=24)
    load({"a": uneven}, clip_frames=24, opto_window="on")  # trial 1 is lit throughout


def test_windows_that_no_clip_meets_are_refused(handmade: Callable[..., Any], tmp_path: Path) -> None:
    movies = [np.random.default_rng(i).integers(0, 256, (12, 4, 5), dtype=np.uint8) for i in (0, 1)]
    recording = handmade(movies, [[np.array([0.05])], [np.array([])]], starts=[0.0, 1.0], pulses=[[(0.1, 0.3)], []])
    tiers = dict(zip(recording.hashes, ("train", "validation"), strict=True))
    convert_movie(recording, Movie(height=4, width=5), tiers, tmp_path / "data")
    with pytest.raises(ConfigurationError, match="opto_window is 'on', but no training clip of 8 frames in"):
        load({"a": tmp_path / "data"}, clip_frames=8, opto_window="on")
    load({"a": tmp_path / "data"}, clip_frames=6, opto_window="on")


def test_validation_trials_are_needed_and_test_trials_are_not(
    handmade: Callable[..., Any], tmp_path: Path, uneven: Path
) -> None:
    assert list(load({"a": uneven}, clip_frames=8)["test"]["a"]) == []
    movie = np.random.default_rng(0).integers(0, 256, (12, 4, 5), dtype=np.uint8)
    recording = handmade([movie], [[np.array([0.05])]])
    convert_movie(recording, Movie(height=4, width=5), {recording.hashes[0]: "train"}, tmp_path / "data")
    with pytest.raises(DatasetError, match="mouse 7 has no validation trials: see ConditionTier"):
        load({"mouse 7": tmp_path / "data"}, clip_frames=8)


def test_repeated_responses_are_those_of_one_condition(stored: StoredDataset) -> None:
    repeats = repeated_responses(stored, "test")
    rows = stored.rows("test")
    counted = Counter(stored.condition_hash[row] for row in rows)
    assert {name: len(trials) for name, trials in repeats.items()} == {h: n for h, n in counted.items() if n > 1}
    for name, trials in repeats.items():
        own = [row for row in rows if stored.condition_hash[row] == name]
        assert np.array_equal(trials, np.stack([stored.tensor("responses", row) for row in own]))
    assert repeated_responses(stored, "train") == {}


def test_data_information_survives_json(paths: dict[str, Path]) -> None:
    info = {
        "full": load(paths)["train"]["one"].dataset.info,
        "bare": ScanInfo((3,), (1, 4, 5), (0.1,)),
        "odd.name/ü": ScanInfo((1, 2), (2, 4, 5), (0.1, 1 / 3), field_centers=((1.5, 2.0), (0.0, 3.0))),
    }
    again = data_info_from_json(data_info_to_json(info))
    assert again == info
    assert list(again) == list(info)
    assert hash(again["odd.name/ü"]) == hash(info["odd.name/ü"])  # tuples again, not lists
