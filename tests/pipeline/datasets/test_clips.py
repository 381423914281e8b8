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

from pipeline.datasets.batches import MovieBatch
from pipeline.datasets.clips import MovieClips, ScanMovies, light_allows
from pipeline.datasets.loaders import ScanLoader, open_loaders
from pipeline.errors import ConfigurationError, DatasetError
from pipeline.models import ConvGRU, Network, Stacked2d, build_encoder

FRAMES = 8
TIERS = ["train"] * 6 + ["validation"] * 3 + ["test"] * 4
LENGTHS = [30] * 6 + [30, 20, 20] + [30] * 4
CONDITIONS = [*range(9), 9, 10, 9, 10]


@pytest.fixture(scope="module")
def scan(written: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Thirteen movie trials of four units; trial 1 is lit in its second half by the first of two trains."""
    light = np.zeros((2, 30))
    light[0, 15:] = 1
    path = tmp_path_factory.mktemp("movies") / "data"
    return written(path, TIERS, LENGTHS, CONDITIONS, trains=2, light={1: light})


def load(path: Path, seed: int = 1, batch_size: int = 4, **settings: Any) -> dict[str, ScanLoader]:
    loaders, _ = open_loaders({"a": path}, MovieClips(**{"clip_frames": FRAMES, **settings}), batch_size, seed)
    return {tier: of_tier["a"] for tier, of_tier in loaders.items()}  # type: ignore[misc]


def movies(path: Path, **settings: Any) -> ScanMovies:
    dataset = load(path, **settings)["train"].dataset
    assert isinstance(dataset, ScanMovies)
    return dataset


def expected(scan: Any, row: int, start: int, frames: int) -> list[np.ndarray]:
    """The fields of one clip, computed from what was written."""
    cut = (..., slice(start, start + frames))
    trial = scan.trials[row]
    (pixel_mean,), (pixel_std,) = scan.moments("inputs")
    video = (scan.stimuli[trial["condition_hash"]][:, start : start + frames] - pixel_mean) / pixel_std
    responses = trial["responses"][cut] / scan.moments("responses")[1][:, None]
    behavior = trial["behavior"][cut] / scan.moments("pupil_size", "run")[1][:, None]
    mean, std = scan.moments("pupil_x", "pupil_y")
    pupil = (trial["pupil_location"][cut] - mean[:, None]) / std[:, None]
    light = trial["optogenetic_signal"][cut]
    return [video, responses, np.concatenate([behavior, light]), pupil, light]


def test_clips_are_the_normalised_tensors_at_their_place(scan: Any) -> None:
    loader = load(scan.path)["train"]
    places = [clip for batch in copy.deepcopy(loader.batch_sampler) for clip in batch]
    seen = 0
    for batch in loader:
        assert {part.dtype for part in batch} == {torch.float32}
        assert batch.inputs is batch.videos
        for i in range(len(batch.videos)):
            for found, wanted in zip(batch, expected(scan, *places[seen]), strict=True):
                np.testing.assert_allclose(found[i], wanted, atol=1e-4)
            seen += 1
    assert seen == len(places) == 18


def test_batches_can_be_pickled(scan: Any) -> None:
    batch = next(iter(load(scan.path)["train"]))
    again = pickle.loads(pickle.dumps(batch))
    assert isinstance(again, MovieBatch)
    assert all(torch.equal(one, other) for one, other in zip(batch, again, strict=True))


@pytest.mark.parametrize(("frames", "fit"), [(8, 3), (15, 2), (16, 1), (30, 1)])
def test_an_epoch_draws_each_trial_as_often_as_clips_fit_into_it(scan: Any, frames: int, fit: int) -> None:
    loader = load(scan.path, clip_frames=frames)["train"]
    batches = list(loader.batch_sampler)
    drawn = [clip for batch in batches for clip in batch]
    assert Counter(row for row, _, _ in drawn) == dict.fromkeys(range(6), fit)
    assert all(length == frames and 0 <= start <= 30 - frames for _, start, length in drawn)
    assert [len(batch) for batch in batches[:-1]] == [4] * (len(loader) - 1)
    assert len(batches) == len(loader) == -(-len(drawn) // 4)


def test_over_epochs_clips_start_everywhere(scan: Any) -> None:
    loader = load(scan.path, clip_frames=20)["train"]
    starts = {start for _ in range(40) for batch in loader.batch_sampler for _, start, _ in batch}
    assert starts == set(range(11))


def test_a_given_start_takes_each_trial_once(scan: Any) -> None:
    loader = load(scan.path, clip_start=7, clip_frames=10)["train"]
    clips = [clip for batch in loader.batch_sampler for clip in batch]
    assert sorted(clips) == [(row, 7, 10) for row in range(6)]
    with pytest.raises(ConfigurationError, match=r"clip_frames is 25 from frame 7, but training trial 0 .* most 23"):
        load(scan.path, clip_start=7, clip_frames=25)


def test_only_the_first_frames_are_used_if_asked_for(scan: Any) -> None:
    loaders = load(scan.path, max_frames=24, clip_frames=16)
    drawn = [clip for _ in range(30) for batch in loaders["train"].batch_sampler for clip in batch]
    assert {start for _, start, _ in drawn} == set(range(9))
    assert [batch.videos.shape[2] for batch in loaders["validation"]] == [24, 20]
    for found, wanted in zip(next(iter(loaders["test"])), expected(scan, 9, 0, 24), strict=True):
        np.testing.assert_allclose(found[0], wanted, atol=1e-4)


def test_information_is_that_of_the_training_tier(scan: Any) -> None:
    found = movies(scan.path)
    whole = [found[row, 0, 30] for row in scan.rows("train")]
    responses = torch.cat([batch.responses[0] for batch in whole], dim=1)
    torch.testing.assert_close(responses.std(1), torch.ones(4))
    behavior = torch.cat([batch.behavior[0] for batch in whole], dim=1)
    torch.testing.assert_close(behavior[:2].std(1), torch.ones(2))
    info = found.info
    np.testing.assert_allclose(info.mean_responses, responses.mean(1), rtol=1e-5)
    np.testing.assert_allclose(info.mean_behavior, behavior.mean(1), rtol=1e-5, atol=1e-6)
    assert info.mean_behavior[2:] == (pytest.approx(15 / 180), 0)
    np.testing.assert_allclose(info.mean_pupil_center, (0, 0), atol=1e-5)
    pupil = torch.cat([batch.pupil_center[0] for batch in whole], dim=1)
    np.testing.assert_allclose(info.std_pupil_center, pupil.std(1), rtol=1e-5)
    assert (info.unit_ids, info.input_shape, info.n_behavior) == ((101, 102, 103, 104), (1, 5, 6), 4)
    assert (info.frame_rate, info.pixel_channels, info.plane_means) == (30.0, 1, ())
    pixels = torch.cat([batch.videos.flatten() for batch in whole])
    assert abs(float(pixels.mean())) < 1e-4
    assert abs(float(pixels.std()) - 1) < 1e-4
    assert info.input_mean == pytest.approx(scan.moments("inputs")[0][0])
    assert info.input_std == pytest.approx(scan.moments("inputs")[1][0])


def test_without_normalisation_values_are_those_of_the_source(scan: Any) -> None:
    found = movies(scan.path, normalize=False)
    batch, trial = found[3, 10, 20], scan.trials[3]
    assert np.array_equal(batch.videos[0], scan.stimuli["c3"][:, 10:30])
    assert np.array_equal(batch.responses[0], trial["responses"][:, 10:30])
    assert np.array_equal(batch.pupil_center[0], trial["pupil_location"][:, 10:30])
    assert (found.info.input_mean, found.info.input_std) == (0.0, 1.0)
    np.testing.assert_allclose(found.info.mean_responses, scan.moments("responses")[0], rtol=1e-6)


@pytest.mark.parametrize("name", ["videos", "responses", "behavior", "pupil_center"])
def test_what_is_excluded_is_not_normalised(scan: Any, name: str) -> None:
    one = movies(scan.path, exclude=name)[2, 3, 8]
    raw, full = movies(scan.path, normalize=False)[2, 3, 8], movies(scan.path)[2, 3, 8]
    for field in one._fields:
        assert torch.equal(getattr(one, field), getattr(raw if field == name else full, field))


@pytest.mark.parametrize(
    ("settings", "channels", "pupil"),
    [
        ({"behavior": "none"}, 2, True),
        ({"opto": "none"}, 2, True),
        ({"opto": "apart"}, 2, True),
        ({"behavior": "none", "opto": "apart"}, None, True),
        ({"behavior": "none", "opto": "none"}, None, True),
        ({"behavior": "channels", "opto": "channels"}, None, True),
        ({"behavior": "both", "pupil": "channels"}, 4, False),
        ({"pupil": "none"}, 4, False),
    ],
)
def test_what_is_left_out_is_none(scan: Any, settings: dict[str, str], channels: int | None, pupil: bool) -> None:
    found = movies(scan.path, **settings)
    batch = found[0, 0, 8]
    assert (None if batch.behavior is None else batch.behavior.shape[1]) == channels
    assert (batch.pupil_center is not None) == (found.info.mean_pupil_center is not None) == pupil
    assert found.info.n_behavior == (channels or 0)
    assert (found.info.mean_behavior is None) == (channels is None)
    assert torch.equal(batch.optogenetic_signal, movies(scan.path)[0, 0, 8].optogenetic_signal)
    assert found.info.n_opto == (2 if settings.get("opto") == "apart" else 0)


@pytest.mark.parametrize("opto", ["apart", "behavior"])
def test_only_light_apart_reaches_the_gates(scan: Any, opto: str) -> None:
    found = movies(scan.path, opto=opto)
    network = Network(Stacked2d(hidden_channels=2, layers=1, input_kern=3), ConvGRU(hidden_channels=2, opto="gates"))
    if opto == "behavior":
        with pytest.raises(ConfigurationError, match="needs light for the gates, which no scan has"):
            build_encoder(network, {"a": found.info}, seed=0)
        return
    encoder = build_encoder(network, {"a": found.info}, seed=0).eval()
    torch.nn.init.normal_(encoder.recurrent.light_to_gates, std=3)
    batch = found[1, 10, 10]  # the light goes on in the sixth frame
    lit, dark = (encoder.respond(one, "a") for one in (batch, batch._replace(optogenetic_signal=None)))
    assert (lit != dark).any(1).tolist() == [[False] * 5 + [True] * 5]


def test_channels_hold_the_normalised_signals_at_every_place(scan: Any) -> None:
    found = movies(scan.path, behavior="both", pupil="channels", opto="channels")
    batch, plain = found[1, 10, 12], movies(scan.path)[1, 10, 12]
    assert found.info.input_shape == (7, 5, 6)
    assert found.info.pixel_channels == 1
    assert torch.equal(batch.videos[:, :1], plain.videos)
    planes = torch.cat([plain.behavior[:, :2], plain.pupil_center, plain.optogenetic_signal], dim=1)
    assert torch.equal(batch.videos[:, 1:], planes[..., None, None].expand(-1, -1, -1, 5, 6))
    assert torch.equal(batch.behavior, plain.behavior[:, :2])
    info = movies(scan.path).info
    wanted = [*info.mean_behavior[:2], *info.mean_pupil_center, 15 / 180, 0]
    np.testing.assert_allclose(found.info.plane_means, wanted, atol=1e-6)


def test_statistics_may_be_those_of_one_type_of_stimuli(written: Callable[..., Any], tmp_path: Path) -> None:
    types = ["a", "b", "a", "b", "a", "b"]
    scan = written(tmp_path / "data", ["train"] * 4 + ["validation"] * 2, 12, types=types)
    found = movies(scan.path, stats_source="b", stimulus_type="a")
    assert found.trials["train"] == [0, 2]
    assert found.trials["validation"] == [4]
    std = scan.moments("responses", of="b")[1]
    np.testing.assert_allclose(found[0, 0, 12].responses[0], scan.trials[0]["responses"] / std[:, None], rtol=1e-5)
    np.testing.assert_allclose(found.info.mean_responses, scan.moments("responses", of="a")[0] / std, rtol=1e-5)
    assert found.info.input_mean == pytest.approx(scan.moments("inputs", of="b")[0][0])
    with pytest.raises(DatasetError, match=r"no statistics of .* for stimuli of type 'c': it has all, a, b"):
        movies(scan.path, stats_source="c")


def test_evaluation_gives_whole_trials_in_order(scan: Any) -> None:
    loaders = load(scan.path)
    for tier, rows in (("validation", [6, 7, 8]), ("test", [9, 10, 11, 12])):
        found = [trial for batch in loaders[tier] for trial in batch.responses]
        assert loaders[tier].trials == rows
        assert loaders[tier].conditions == [f"c{CONDITIONS[row]}" for row in rows]
        for one, row in zip(found, rows, strict=True):
            np.testing.assert_allclose(one, expected(scan, row, 0, LENGTHS[row])[1], rtol=1e-5)


def test_batches_of_whole_trials_hold_consecutive_trials_of_one_length(
    written: Callable[..., Any], tmp_path: Path
) -> None:
    lengths = [24] + [16, 12] + [12] * 10
    written(tmp_path / "data", ["train"] + ["validation"] * 12, lengths)
    loader = load(tmp_path / "data")["validation"]
    assert [[clip[0] for clip in batch] for batch in loader.batch_sampler] == [[1], list(range(2, 10)), [10, 11, 12]]
    assert [batch.videos.shape[2] for batch in loader] == [16, 12, 12]


def test_batches_of_whole_trials_are_bounded_in_memory(written: Callable[..., Any], tmp_path: Path) -> None:
    frame = 4 * (200 * 220 + 4 + 2 * 5)  # pixels, units, signals
    fitting = 16 * 2**20 // (16 * frame)
    written(tmp_path / "data", ["train"] + ["validation"] * 6, 16, size=(200, 220))
    loader = load(tmp_path / "data")["validation"]
    assert fitting == 5
    assert [len(batch) for batch in loader.batch_sampler] == [5, 1]
    many = written(tmp_path / "many", ["train"] + ["validation"] * 2, 60, size=(300, 320))
    assert [len(batch) for batch in load(many.path)["validation"].batch_sampler] == [1, 1]


@pytest.mark.parametrize("kept", [True, False])
def test_responses_are_a_view_of_time_first(scan: Any, kept: bool) -> None:
    loader = open_loaders({"a": scan.path}, MovieClips(clip_frames=FRAMES), 4, 1, memory=2**30 * kept)[0]["train"]["a"]
    batch = next(iter(loader))
    assert batch.responses.shape == (4, 4, FRAMES)
    assert batch.responses.transpose(1, 2).is_contiguous()


@pytest.mark.parametrize("frames", [1, 8, 24])
@pytest.mark.parametrize("window", ["any", "constant", "on", "off"])
def test_light_windows_judge_every_clip_by_its_own_frames(window: str, frames: int) -> None:
    rng = np.random.default_rng(frames)
    light = np.repeat(rng.integers(0, 2, (2, 12)), 5, axis=1)
    light[:, :30] = 1
    starts = np.arange(60 - frames + 1)
    clips = [light[:, start : start + frames] for start in starts]
    wanted = {
        "any": [True for clip in clips],
        "constant": [all(len(set(train)) == 1 for train in clip) for clip in clips],
        "on": [bool(clip.all()) for clip in clips],
        "off": [not clip.any() for clip in clips],
    }[window]
    assert light_allows(window, light, starts, frames).tolist() == wanted
    without = light_allows(window, np.zeros((0, 60)), starts, frames)
    assert without.tolist() == [window != "on"] * len(starts)


def test_light_windows_choose_training_clips(scan: Any) -> None:
    for window, rows in (("off", set(range(6))), ("constant", set(range(6)))):
        sampler = load(scan.path, opto_window=window)["train"].batch_sampler
        places = {clip[:2] for _ in range(150) for batch in sampler for clip in batch}
        assert {row for row, _ in places} == rows
        starts = {start for row, start in places if row == 1}
        assert starts == set(range(8)) | (set(range(15, 23)) if window == "constant" else set())
    with pytest.raises(ConfigurationError, match="opto_window is 'on', but no training clip of 8 frames in"):
        load(scan.path, opto_window="on")  # the second train is always dark


def test_clips_longer_than_a_trial_are_refused(scan: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"clip_frames is 31, but training trial 0 .* use at most 30"):
        load(scan.path, clip_frames=31)
    load(scan.path, clip_frames=30)


def test_withheld_responses_are_nan_and_stay_out_of_the_tiers(written: Callable[..., Any], tmp_path: Path) -> None:
    tiers = ["train"] * 3 + ["validation"] * 2 + ["test"] * 2 + ["final", "ood"]
    spoil = {5: "responses", 7: "behavior"}
    scan = written(tmp_path / "data", tiers, 12, withheld=(2, 5, 7), spoil=spoil)
    loaders = load(scan.path)
    assert {tier: loader.trials for tier, loader in loaders.items()} == {
        "train": [0, 1], "validation": [3, 4], "test": [6], "ood": [8], "withheld": [2, 5, 7],
    }  # fmt: skip
    (batch,) = loaders["withheld"]
    assert torch.isnan(batch.responses).all()
    np.testing.assert_allclose(batch.videos[0], expected(scan, 2, 0, 12)[0], atol=1e-4)


@pytest.mark.parametrize("name", ["responses", "behavior", "pupil_location"])
def test_nan_is_refused_by_trial(written: Callable[..., Any], tmp_path: Path, name: str) -> None:
    written(tmp_path / "data", ["train"] * 3 + ["validation"], 12, spoil={3: name})
    loaders = load(tmp_path / "data")
    list(loaders["train"])
    with pytest.raises(DatasetError, match=f"trial 13 of .* NaN or infinity in its .*{name}"):
        list(loaders["validation"])


def test_signals_may_be_missing(written: Callable[..., Any], tmp_path: Path) -> None:
    written(tmp_path / "data", ["train", "validation"], 12, signals=False, trains=0)
    found = movies(tmp_path / "data", behavior="both", pupil="both", opto_window="off")
    batch = found[0, 2, 8]
    assert batch[2:] == (None, None, None)
    assert (found.info.input_shape, found.info.n_behavior, found.info.mean_pupil_center) == ((1, 5, 6), 0, None)
