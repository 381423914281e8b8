"""What the readers of the Sensorium competitions give: withheld data never enter, padding is cut, NaN has its rule."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import RecordingError
from pipeline.recordings.base import BEHAVIOR, PUPIL, Traces, hash_pixels
from pipeline.recordings.trial_folders import Sensorium2022Recording, Sensorium2023Recording
from tests.pipeline.recordings.write_trial_folders import (
    CLIPS,
    LONGEST,
    UNITS,
    Example,
    clip_example,
    image_example,
    padded,
    zipped,
)

Change = Callable[[Example], object]
FILES_OF_TESTS = range(8, 15)


@pytest.fixture
def images() -> Example:
    """A competition scan: responses of 4 test and 3 final trials are zeros; every array has a leading axis of 1."""
    example = image_example(final=3)
    for group in ("behavior", "pupil_center"):
        example.data[group] = [values[None] for values in example.data[group]]
    for index in FILES_OF_TESTS:
        example.data["responses"][index] = np.zeros(UNITS, np.float32)
    example.trials["trial_idx"] = np.array([f"{17 * i:04x}a" for i in range(15)])
    return example


@pytest.fixture
def clips() -> Example:
    return clip_example()


def open_images(example: Example, folder: Path) -> Sensorium2022Recording:
    return Sensorium2022Recording(str(example.write(folder / "scan")))


def open_clips(example: Example, folder: Path, **arguments: str) -> Sensorium2023Recording:
    return Sensorium2023Recording(str(example.write(folder / "scan")), **arguments)


def of_tier(example: Example, tier: str) -> list[int]:
    return np.flatnonzero(example.trials["tiers"].astype(str) == tier).tolist()


def test_images_come_back(images: Example, tmp_path: Path) -> None:
    recording = open_images(images, tmp_path)
    assert recording.source.source_format == "sensorium2022"
    assert [t.tier for t in recording.trials] == ["train"] * 6 + ["validation"] * 2 + ["test"] * 4 + ["final"] * 3
    assert [trial.withheld for trial in recording.trials] == [False] * 8 + [True] * 7
    assert len(recording.units) == UNITS
    for file, trial in enumerate(recording.trials):
        np.testing.assert_array_equal(recording.frames(trial.condition_hash), images.data["images"][file][:, None])
        signals = recording.signals(file)
        got = [signals[name].values[0] for name in (*BEHAVIOR, *PUPIL)]
        assert got == [*images.data["behavior"][file][0], *images.data["pupil_center"][file][0]]
        if not trial.withheld:
            np.testing.assert_array_equal(recording.responses(file).values, images.data["responses"][file])
    archive = Sensorium2022Recording(str(zipped(tmp_path / "scan")))
    assert archive.source.fingerprint == recording.source.fingerprint
    assert (archive.trials, archive.units, archive.stimuli) == (recording.trials, recording.units, recording.stimuli)


def test_withheld_responses_cannot_be_read(images: Example, tmp_path: Path) -> None:
    recording = open_images(images, tmp_path)
    with pytest.raises(RecordingError, match=r"data/responses/9.npy: the source withholds these responses"):
        recording.responses(9)


def test_a_silent_trial_among_data_is_data(images: Example, tmp_path: Path) -> None:
    images.data["responses"][8][0] = 1.5  # one response in one test trial
    images.data["responses"][2][:] = 0
    recording = open_images(images, tmp_path)
    assert [trial.withheld for trial in recording.trials] == [False] * 12 + [True] * 3
    for silent in (2, 9):
        assert not recording.responses(silent).values.any()


@pytest.mark.parametrize("tier", ["train", "validation"])
def test_what_models_are_made_from_cannot_be_withheld(images: Example, tmp_path: Path, tier: str) -> None:
    for index in of_tier(images, tier):
        images.data["responses"][index][:] = 0
    with pytest.raises(RecordingError, match=f"trials of the tier '{tier}'.*zero only; models are made from this tier"):
        open_images(images, tmp_path)


def test_withheld_behaviour_is_replaced_by_the_mean(images: Example, tmp_path: Path) -> None:
    for index in of_tier(images, "final_test"):
        images.data["behavior"][index][:] = 0
    recording = open_images(images, tmp_path)
    mean = np.mean([images.data["behavior"][file][0] for file in range(12)], axis=0)
    for file in of_tier(images, "final_test"):
        signals = recording.signals(file)
        np.testing.assert_allclose([signals[name].values[0] for name in BEHAVIOR], mean)
        assert [signals[name].values[0] for name in PUPIL] == images.data["pupil_center"][file][0].tolist()
    assert recording.signals(9)["run"].values[0] == images.data["behavior"][9][0][2]


def test_behaviour_that_nobody_gets_is_left_out(images: Example, tmp_path: Path) -> None:
    for group in ("behavior", "pupil_center"):
        images.data[group] = [np.zeros_like(values) for values in images.data[group]]
    assert open_images(images, tmp_path).signals(0) == {}


def put(name: str, index: int, value: object) -> Change:
    return lambda example: example.data[name].__setitem__(index, np.asarray(value))


IMAGE_DAMAGE: dict[str, tuple[Change, str]] = {
    "missing": (lambda e: e.data["pupil_center"].pop(), r"pupil_center/14.npy \(trial 14\) is missing"),
    "wrong shape": (put("behavior", 3, np.ones((3, 1))), r"behavior/3.npy: shape \(3, 1\), but \(1, 3\) is needed"),
    "wrong dtype": (put("responses", 3, np.ones(5, "c16")), "responses/3.npy: dtype complex128, but numbers"),
    "objects": (put("images", 3, np.full((1, 6, 8), None)), "images/3.npy cannot be read"),
    "NaN": (put("pupil_center", 3, [[1, np.nan]]), "pupil_center/3.npy: pupil_y is nan"),
    "unknown tier": (lambda e: e.trials["tiers"].__setitem__(14, b"live_test"), "trial 14: unknown tier 'live_test'"),
}


@pytest.mark.parametrize(("change", "message"), IMAGE_DAMAGE.values(), ids=IMAGE_DAMAGE)
def test_damaged_images(images: Example, tmp_path: Path, change: Change, message: str) -> None:
    change(images)
    with pytest.raises(RecordingError, match=message):
        open_images(images, tmp_path)


def test_clips_come_back(clips: Example, tmp_path: Path) -> None:
    recording = open_clips(clips, tmp_path)
    assert recording.source.source_format == "sensorium2023"
    assert [t.tier for t in recording.trials] == [*["train"] * 4, *["validation"] * 2, "test", "ood", None]
    assert [bool(trial.exclusion) for trial in recording.trials] == [False] * 8 + [True]
    assert not any(trial.withheld for trial in recording.trials)
    for file, (trial, n_frames) in enumerate(zip(recording.trials, CLIPS, strict=True)):
        assert (trial.start, trial.duration) == (float(file), n_frames / 30)
        video = clips.data["videos"][file][..., :n_frames]
        frames = recording.frames(trial.condition_hash)
        assert frames.dtype == np.float32
        assert trial.condition_hash == hash_pixels(frames, 30.0)
        assert recording.stimuli[trial.condition_hash].shape == (1, n_frames, 6, 8)
        for time in range(n_frames):
            np.testing.assert_array_equal(frames[0, time], video[:, :, time])
        responses = recording.responses(file)
        assert isinstance(responses, Traces)
        np.testing.assert_array_equal(responses.values, clips.data["responses"][file][:, :n_frames])
        np.testing.assert_allclose(responses.times, trial.start + (np.arange(n_frames) + 0.5) / 30)
        signals = recording.signals(file)
        wanted = [*clips.data["behavior"][file], *clips.data["pupil_center"][file]]
        for name, values in zip(("pupil_size", "run", "pupil_x", "pupil_y"), wanted, strict=True):
            np.testing.assert_array_equal(signals[name].values, values[:n_frames])
            np.testing.assert_array_equal(signals[name].times, responses.times)
    stimulus = recording.stimuli[recording.trials[3].condition_hash]
    assert (stimulus.stimulus_name, stimulus.stimulus_type, stimulus.frame_rate) == ("clip3", "stimulus.Clip", 30.0)
    assert [unit.unit_name for unit in recording.units][:2] == ["20457-5-9-3", "20457-5-9-9"]
    archive = Sensorium2023Recording(str(zipped(tmp_path / "scan", "dynamic/")))
    assert archive.source.fingerprint == recording.source.fingerprint
    assert (archive.trials, archive.units, archive.stimuli) == (recording.trials, recording.units, recording.stimuli)


def test_repeats_of_a_clip_stay_one_condition(clips: Example, tmp_path: Path) -> None:
    clips.data["responses"][2][:, 9:] = np.nan
    clips.data["pupil_center"][0][:, 11:] = np.nan
    first, _, third, *_ = open_clips(clips, tmp_path).trials
    assert first.condition_hash == third.condition_hash
    assert (first.duration, third.duration) == (11 / 30, 9 / 30)


def test_whole_numbers_and_the_rate(clips: Example, tmp_path: Path) -> None:
    clips.data["videos"] = [np.nan_to_num(video).astype(np.uint8) for video in clips.data["videos"]]
    clips.trials["target_fps"] = np.full(len(CLIPS), 5.4)
    recording = open_clips(clips, tmp_path, frame_rate="5.4")
    assert recording.frames(recording.trials[0].condition_hash).dtype == np.uint8
    # Bytes cannot be padding, so the stimulus is the whole array; the responses end before it.
    assert {stimulus.shape[1] for stimulus in recording.stimuli.values()} == {LONGEST}
    assert [trial.duration for trial in recording.trials] == [n / 5.4 for n in CLIPS]  # 12 / 5.4 * 5.4 is below 12
    assert [recording.responses(i).values.shape[1] for i in range(9)] == list(CLIPS)
    with pytest.raises(RecordingError, match=r"target_fps.npy says 5.4 Hz, but frame_rate is 30"):
        Sensorium2023Recording(str(tmp_path / "scan"))


def test_three_rows_of_behaviour(clips: Example, tmp_path: Path) -> None:
    clips.data["behavior"] = [np.concatenate([b, b[:1] * 2]) for b in clips.data["behavior"]]
    signals = open_clips(clips, tmp_path).signals(3)
    for row, name in enumerate(BEHAVIOR):
        np.testing.assert_array_equal(signals[name].values, clips.data["behavior"][3][row, :10])


def test_a_trial_without_a_valid_frame_is_excluded(clips: Example, tmp_path: Path) -> None:
    clips.data["responses"][1][:] = np.nan
    clips.data["videos"][3][:] = np.nan
    trials = open_clips(clips, tmp_path).trials
    assert [trial.exclusion for trial in trials[:5]] == [
        "", "no valid frame in responses", "", "no valid frame in videos", "",
    ]  # fmt: skip


def test_withheld_clips(clips: Example, tmp_path: Path) -> None:
    withheld = [6, 7]  # two tiers
    for index in withheld:
        clips.data["responses"][index] = np.zeros((UNITS, 3))  # their length counts for nothing
    clips.data["behavior"][7] = np.zeros((2, LONGEST))
    clips.data["responses"][0] = padded(np.zeros((UNITS, 12)))  # a silent trial among data
    recording = open_clips(clips, tmp_path)
    assert [trial.withheld for trial in recording.trials] == [i in withheld for i in range(9)]
    assert [recording.trials[i].duration for i in withheld] == [12 / 30, 14 / 30]
    with pytest.raises(RecordingError, match=r"responses/7.npy: the source withholds"):
        recording.responses(7)
    assert not recording.responses(0).values.any()
    known = np.concatenate([b for i, b in enumerate(clips.data["behavior"]) if i != 7], axis=1)
    signals = recording.signals(7)
    for name, mean in zip(("pupil_size", "run"), np.nanmean(known, axis=1), strict=True):
        np.testing.assert_allclose(signals[name].values, np.full(14, mean))
    for index in of_tier(clips, "oracle"):
        clips.data["responses"][index] = np.zeros((UNITS, LONGEST))
    with pytest.raises(RecordingError, match="all 2 trials of the tier 'oracle'"):
        open_clips(clips, tmp_path / "oracle")


def gap(name: str, index: int, row: int, time: slice) -> Change:
    return lambda example: example.data[name][index].__setitem__((row, time), np.nan)


GAPS = {
    "unit": (gap("responses", 1, 2, slice(4, 6)), "responses/1.npy.*unit 20457-5-9-4: NaN at frame 4"),
    "unit at the end": (gap("responses", 1, 4, slice(12, 14)), "responses/1.npy.*unit 20457-5-9-12: NaN at frame 12"),
    "run": (gap("behavior", 1, 1, slice(0, 2)), r"behavior/1.npy \(trial 1\), run: NaN at frame 0"),
    "pupil": (gap("pupil_center", 1, 0, slice(7, 8)), "pupil_center/1.npy.*pupil_x: NaN at frame 7"),
}


@pytest.mark.parametrize(("change", "message"), GAPS.values(), ids=GAPS)
def test_nan_within_a_trial_is_refused_or_excluded(
    clips: Example, tmp_path: Path, change: Change, message: str
) -> None:
    change(clips)
    with pytest.raises(RecordingError, match=f"{message}, before the padding.*'exclude' or 'interpolate'"):
        open_clips(clips, tmp_path)
    recording = Sensorium2023Recording(str(tmp_path / "scan"), nan="exclude")
    excluded = [trial.trial_idx for trial in recording.trials if "NaN at frame" in trial.exclusion]
    assert excluded == [1]


def test_nan_within_a_trial_is_interpolated(clips: Example, tmp_path: Path) -> None:
    for name in ("responses", "behavior", "pupil_center"):
        clips.data[name][1][1, 4:6] = np.nan
        clips.data[name][1][0, :2] = np.nan
    recording = open_clips(clips, tmp_path, nan="interpolate")
    signals = recording.signals(1)
    for name, rows in (
        ("responses", recording.responses(1).values[:2]),
        ("behavior", [signals["pupil_size"].values, signals["run"].values]),
        ("pupil_center", [signals["pupil_x"].values, signals["pupil_y"].values]),
    ):
        source = clips.data[name][1][:2].copy()
        before, after = source[1, 3], source[1, 6]
        source[1, 4:6] = before + (after - before) * np.array([1, 2]) / 3
        source[0, :2] = source[0, 2]
        np.testing.assert_allclose(rows, source)
    assert not any(trial.exclusion for trial in recording.trials[:8])
    clips.data["responses"][3][2] = np.nan
    with pytest.raises(RecordingError, match=r"responses/3.npy, unit 20457-5-9-4: no number in the trial"):
        open_clips(clips, tmp_path / "lost", nan="interpolate")


@pytest.mark.parametrize("nan", ["refuse", "interpolate"])
def test_nan_within_a_video_is_never_filled(clips: Example, tmp_path: Path, nan: str) -> None:
    clips.data["videos"][5][2, 3, 7] = np.nan
    with pytest.raises(RecordingError, match=r"videos/5.npy \(trial 5\), pixel 2, 3: NaN at frame 7.*'exclude'$"):
        open_clips(clips, tmp_path, nan=nan)
    recording = Sensorium2023Recording(str(tmp_path / "scan"), nan="exclude")
    assert recording.trials[5].exclusion == "pixel 2, 3: NaN at frame 7"


def test_nan_after_the_end_of_a_trial_does_not_matter(clips: Example, tmp_path: Path) -> None:
    clips.data["behavior"][1][:, 8:] = np.nan
    clips.data["responses"][1][3, 8:10] = np.nan
    recording = open_clips(clips, tmp_path)
    assert recording.trials[1].duration == 8 / 30
    assert not recording.trials[1].exclusion


CLIP_DAMAGE: dict[str, tuple[Change, str]] = {
    "missing": (lambda e: e.data["responses"].pop(), r"responses/8.npy \(trial 8\) is missing"),
    "one more": (lambda e: e.data["behavior"].append(e.data["behavior"][0]), "behavior/9.npy belongs to no trial"),
    "a unit less": (put("responses", 4, np.ones((4, 12))), r"responses/4.npy: shape \(4, 12\), but \(5, any\)"),
    "another size": (put("videos", 4, np.ones((8, 6, 12))), r"videos/4.npy: shape \(8, 6, 12\), but \(6, 8, any\)"),
    "no time": (put("responses", 4, np.ones(5)), r"responses/4.npy: shape \(5,\), but \(5, any\)"),
    "no frames": (put("videos", 4, np.ones((6, 8, 0))), "videos/4.npy.*no frames"),
    "another row": (put("behavior", 4, np.ones((3, 14))), r"behavior/4.npy: shape \(3, 14\), but \(2, any\)"),
    "text": (put("pupil_center", 4, [["a"] * 14] * 2), "pupil_center/4.npy: dtype <U1, but numbers"),
    "objects": (put("videos", 4, np.full((6, 8, 2), None)), "videos/4.npy cannot be read"),
    "infinity": (put("responses", 4, np.full((5, 14), np.inf)), "responses/4.npy: infinite values"),
    "unknown tier": (lambda e: e.trials["tiers"].__setitem__(3, "live_test_man"), "trial 3: unknown tier 'live_test_m"),
}


@pytest.mark.parametrize(("change", "message"), CLIP_DAMAGE.values(), ids=CLIP_DAMAGE)
def test_damaged_clips(clips: Example, tmp_path: Path, change: Change, message: str) -> None:
    change(clips)
    with pytest.raises(RecordingError, match=message):
        open_clips(clips, tmp_path)


@pytest.mark.parametrize(("name", "value"), [("nan", "drop"), ("frame_rate", "-30"), ("frame_rate", "fast")])
def test_wrong_arguments(clips: Example, tmp_path: Path, name: str, value: str) -> None:
    with pytest.raises(RecordingError, match=f"{name} is '{value}'"):
        open_clips(clips, tmp_path, **{name: value})


def test_clips_are_read_when_asked_for(clips: Example, tmp_path: Path) -> None:
    recording = open_clips(clips, tmp_path)
    (tmp_path / "scan/data/videos/3.npy").unlink()
    with pytest.raises(RecordingError, match=r"data/videos/3.npy is missing"):
        recording.frames(recording.trials[3].condition_hash)
    (tmp_path / "scan/data/responses/3.npy").write_bytes(b"")
    with pytest.raises(RecordingError, match=r"data/responses/3.npy cannot be read"):
        recording.responses(3)


def test_the_official_deviation_a_frame_is_ignored(
    clips: Example, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        open_clips(clips, tmp_path)
    assert re.search(r"responses/all/std.npy is ignored: its shape is \(5, 14\), not one deviation", caplog.text)


def test_names_that_vivit_adds(clips: Example, tmp_path: Path) -> None:
    del clips.trials["movie_names"], clips.trials["types"]
    clips.trials["video_ids"] = np.array([50, 51, 50, 53, 54, 55, 56, 57, 58])
    clips.trials["stimulus_ids"] = np.array([0, 0, 0, 0, 0, 0, 0, 4, 2])
    recording = open_clips(clips, tmp_path)
    named = [recording.stimuli[trial.condition_hash] for trial in recording.trials]
    assert [stimulus.stimulus_name for stimulus in named] == [str(i) for i in clips.trials["video_ids"]]
    assert [stimulus.stimulus_type for stimulus in named[6:]] == ["movie", "drifting gabor", "gaussian dots"]
