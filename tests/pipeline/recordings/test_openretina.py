"""What the openretina reader gives is what lies in the movies and in the session's file, cut into clips."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pytest

from pipeline.errors import RecordingError
from pipeline.recordings.base import Trial, hash_pixels
from pipeline.recordings.openretina import OpenRetinaRecording
from pipeline.recordings.tiers import assign_tiers

RATE, N_UNITS, SIZE = 20.0, 3, (2, 5, 6)
N_FRAMES = {"chirp": 47, "noise": 40, "probe": 13, "sharks": 11}
N_REPEATS = 4
NAMED = {"test_names": "probe", "ood_names": "sharks", "clip_frames": "10"}


def movie(name: str) -> np.ndarray:
    channels, height, width = SIZE
    rng = np.random.default_rng(list(name.encode()))
    return rng.integers(0, 256, (channels, N_FRAMES[name], height, width), dtype=np.uint8)


def answers(name: str, *repeats: int) -> np.ndarray:
    rng = np.random.default_rng([1, *name.encode()])
    return rng.normal(size=(*repeats, N_UNITS, N_FRAMES[name])).astype(np.float32)


@dataclass
class Disk:
    """Movies and a session that tests damage before they `open` them."""

    folder: Path

    @property
    def session(self) -> Path:
        return self.folder / "session_1.h5"

    def movie(self, name: str) -> Path:
        return self.folder / "stimuli" / f"{name}.npy"

    def put(self, key: str, values: object) -> None:
        """Replace a dataset of the session; None takes it away."""
        with h5py.File(self.session, "a") as session:
            if key in session:
                del session[key]
            if values is not None:
                session[key] = values

    def open(self, **location: str) -> OpenRetinaRecording:
        return OpenRetinaRecording(str(self.session), str(RATE), **(NAMED | location))


@pytest.fixture
def disk(tmp_path) -> Disk:
    disk = Disk(tmp_path)
    disk.movie("chirp").parent.mkdir()
    for name in N_FRAMES:
        np.save(disk.movie(name), movie(name))
        disk.put(f"responses_{name}", answers(name))
    disk.put("responses_probe_by_trial", answers("probe", N_REPEATS))
    np.save(disk.movie("of_another_session"), movie("chirp"))
    return disk


def test_every_frame_and_response_comes_back(disk):
    recording = disk.open()
    # 47 frames are four clips of 10, 10, 10 and 17; 40 are four of 10; tests stay whole, and probe has four repeats.
    clips = [("chirp", 0, 10), ("chirp", 10, 20), ("chirp", 20, 30), ("chirp", 30, 40), ("chirp", 40, 47)]
    clips += [("noise", first, first + 10) for first in range(0, 40, 10)]
    clips += [("probe", 0, 13)] * N_REPEATS + [("sharks", 0, 11)]
    assert len(recording.trials) == len(clips)
    now = 0.0
    for trial, (name, first, stop) in zip(recording.trials, clips, strict=True):
        pixels = recording.frames(trial.condition_hash)
        assert pixels.dtype == np.uint8
        assert np.array_equal(pixels, movie(name)[:, first:stop])
        assert trial.condition_hash == hash_pixels(pixels, RATE)
        stimulus = recording.stimuli[trial.condition_hash]
        assert (stimulus.shape, stimulus.frame_rate, stimulus.stimulus_type) == (pixels.shape, RATE, name)
        assert (trial.start, trial.duration) == pytest.approx((now, (stop - first) / RATE))
        repeat = trial.trial_idx - 9
        want = answers("probe", N_REPEATS)[repeat] if name == "probe" else answers(name)
        traces = recording.responses(trial.trial_idx)
        assert np.array_equal(traces.values, want[:, first:stop])
        assert traces.times == pytest.approx(now + (np.arange(stop - first) + 0.5) / RATE)
        now += (stop - first) / RATE
    assert [unit.unit_id for unit in recording.units] == [0, 1, 2]
    assert recording.response_unit == "a.u."
    assert recording.stimuli[recording.trials[1].condition_hash].stimulus_name == "chirp frames 10-19"


@pytest.mark.parametrize(
    ("n_frames", "lengths"),
    [(4, [4]), (10, [10]), (14, [14]), (15, [10, 5]), (34, [10, 10, 14]), (36, [10, 10, 10, 6])],
)
def test_a_rest_below_half_a_clip_joins_the_last_clip(disk, n_frames, lengths):
    np.save(disk.movie("chirp"), movie("chirp")[:, :n_frames])
    disk.put("responses_chirp", answers("chirp")[:, :n_frames])
    found = [stimulus.shape[1] for stimulus in disk.open().stimuli.values() if stimulus.stimulus_type == "chirp"]
    assert found == lengths


def test_a_margin_reaches_into_neighbouring_clips_but_not_into_other_movies(disk):
    recording = disk.open()
    around = recording.responses(1, margin=0.15)
    assert np.array_equal(around.values, answers("chirp")[:, 7:23])
    assert around.times == pytest.approx((np.arange(7, 23) + 0.5) / RATE)
    # Samples lie at the middle of frames: the nearest ones outside are half a frame, 0.025 s, away.
    assert np.array_equal(recording.responses(1, margin=0.03).values, answers("chirp")[:, 9:21])
    assert np.array_equal(recording.responses(1, margin=0.02).values, answers("chirp")[:, 10:20])
    assert np.array_equal(recording.responses(0, margin=0.15).values, answers("chirp")[:, :13])
    assert np.array_equal(recording.responses(4, margin=0.15).values, answers("chirp")[:, 37:])
    assert np.array_equal(recording.responses(10, margin=9.0).values, answers("probe", N_REPEATS)[1])


def test_tiers_are_named_for_tests_and_open_for_the_rest(disk):
    recording = disk.open()
    assert [trial.tier for trial in recording.trials] == [None] * 9 + ["test"] * N_REPEATS + ["ood"]
    tiers = assign_tiers(recording.trials, validation_fraction=0.3).tiers
    drawn = [tiers[trial.condition_hash] for trial in recording.trials[:9]]
    assert set(drawn) == {"train", "validation"}, "validation is drawn from training clips, and test is not"


def test_validation_clips_settle_all_tiers(disk):
    tiers = [trial.tier for trial in disk.open(validation_clips="0, 6").trials]
    assert tiers[:9] == ["validation", *["train"] * 5, "validation", "train", "train"]


def test_a_training_clip_shown_twice_does_not_become_a_test(disk):
    twice = np.concatenate([movie("noise")[:, :10], movie("noise")[:, :30]], axis=1)
    np.save(disk.movie("noise"), twice)
    recording = disk.open()
    assert [trial.tier for trial in recording.trials[5:9]] == ["train", "train", None, None]
    assert recording.trials[5].condition_hash == recording.trials[6].condition_hash
    assert len(recording.stimuli) == 10


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("same", [True, False])
def test_a_test_movie_under_another_name_is_one_stimulus(disk, inside, same):
    """However long it is: cut into clips, the one for training would pass for other stimuli."""
    again = movie("probe")
    again[0, -1, 0, 0] ^= not same
    np.save(disk.movie("again"), again)
    if inside:
        disk.put("stimulus_again", again)
    disk.put("responses_again", answers("probe"))
    recording = disk.open(clip_frames="5")
    first, *more = (trial for trial in recording.trials if "again" in trial_name(recording, trial))
    if not same:
        assert len(more) == 2
        assert assign_tiers(recording.trials).leaks == {}
        return
    assert (first.tier, len(more)) == ("train", N_REPEATS)
    assert {trial.tier for trial in more} == {"test"}
    with pytest.raises(
        RecordingError, match=f"condition {first.condition_hash} is in two tiers: train in trial 0, test"
    ):
        assign_tiers(recording.trials)


def trial_name(recording: OpenRetinaRecording, trial: Trial) -> str:
    return recording.stimuli[trial.condition_hash].stimulus_name


def test_pixels_and_unit_ids_inside_the_session_file(disk):
    expected = disk.open()
    for name in N_FRAMES:
        disk.put(f"stimulus_{name}", movie(name))
        disk.movie(name).unlink()
    disk.put("session_info/roi_ids", np.array([7, 3, 12]))
    recording = disk.open()
    assert recording.stimuli == expected.stimuli
    assert np.array_equal(recording.frames(recording.trials[3].condition_hash), movie("chirp")[:, 30:40])
    assert [(unit.unit_id, unit.unit_name) for unit in recording.units] == [
        (7, "unit_7"),
        (3, "unit_3"),
        (12, "unit_12"),
    ]


def test_the_source_opens_the_same_recording_again_and_notices_changes(disk, tmp_path):
    recording = disk.open(stimuli=str(tmp_path / "stimuli"), response_unit="Hz")
    again = OpenRetinaRecording(**recording.source.location)
    assert again.source == recording.source
    assert (again.trials, again.response_unit) == (recording.trials, "Hz")
    changed = answers("chirp")
    changed[1, 23] += 1
    disk.put("responses_chirp", changed)
    assert disk.open(response_unit="Hz").source.fingerprint != recording.source.fingerprint


def with_one(values: np.ndarray, at: tuple[int, ...], value: float) -> np.ndarray:
    changed = np.array(values, np.float32)
    changed[at] = value
    return changed


DAMAGE = {
    "a movie is missing": (lambda d: d.movie("noise").unlink(), r"noise\.npy: no such file of stimulus noise"),
    "a movie is cut off": (
        lambda d: d.movie("noise").write_bytes(d.movie("noise").read_bytes()[:-9]),
        r"noise\.npy \(stimulus noise\) cannot be read",
    ),
    "a movie has another size": (
        lambda d: np.save(d.movie("noise"), movie("noise")[..., 1:]),
        r"of stimulus noise is \(2, 5, 5\), but \(2, 5, 6\) in chirp",
    ),
    "a movie without channels": (
        lambda d: np.save(d.movie("noise"), movie("noise")[0]),
        r"noise\.npy: shape \(40, 5, 6\), but \(any, any, any, any\)",
    ),
    "a movie of text": (lambda d: np.save(d.movie("noise"), np.array([["a"]])), r"noise\.npy: dtype <U1"),
    "a movie with NaN": (
        lambda d: np.save(d.movie("noise"), with_one(movie("noise"), (1, 25, 0, 0), np.nan)),
        "stimulus noise holds NaN or infinity in frames 20 to 29",
    ),
    "a sample is missing": (
        lambda d: d.put("responses_noise", answers("noise")[:, 1:]),
        r"responses_noise \(as many samples as the stimulus has frames\): shape \(3, 39\), but \(any, 40\)",
    ),
    "a neuron is missing": (
        lambda d: d.put("responses_noise", answers("noise")[1:]),
        "neurons in responses_noise is 2, but 3 in responses_chirp",
    ),
    "a neuron is missing in trials": (
        lambda d: d.put("responses_probe_by_trial", answers("probe", N_REPEATS)[:, 1:]),
        "neurons in responses_probe_by_trial is 2",
    ),
    "trials without an axis of neurons": (
        lambda d: d.put("responses_probe_by_trial", answers("probe")),
        r"responses_probe_by_trial.*: shape \(3, 13\), but \(any, any, 13\)",
    ),
    "responses of text": (lambda d: d.put("responses_noise", np.array([[b"x"] * 40])), r"responses_noise.*dtype \|S1"),
    "responses are a group": (
        lambda d: (d.put("responses_noise", None), d.put("responses_noise/x", 1)),
        "responses_noise is a group",
    ),
    "NaN in responses": (
        lambda d: d.put("responses_chirp", with_one(answers("chirp"), (1, 22), np.nan)),
        "trial 2, unit unit_1: responses hold NaN",
    ),
    "unit ids that repeat": (lambda d: d.put("session_info/roi_ids", np.array([4, 4, 5])), "unit_id 4"),
    "too few unit ids": (lambda d: d.put("session_info/roi_ids", np.arange(2)), r"roi_ids: shape \(2,\), but \(3\)"),
    "unit ids that are not whole": (lambda d: d.put("session_info/roi_ids", np.ones(3)), "roi_ids has dtype float64"),
    "no session": (lambda d: d.session.unlink(), r"session_1\.h5: no such file of openretina responses"),
    "a session that is no HDF5": (lambda d: d.session.write_text("numbers"), r"session_1\.h5 cannot be read as HDF5"),
    "a session without responses": (
        lambda d: [d.put(f"responses_{key}", None) for key in (*N_FRAMES, "probe_by_trial")],
        "has no dataset responses_<stimulus>",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", DAMAGE)
def test_damage_is_refused_by_name(disk, case):
    damage, message = DAMAGE[case]
    damage(disk)
    with pytest.raises(RecordingError, match=message):
        disk.open()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            {"test_names": "probes"},
            "stimulus 'probes' has no responses; those with responses: chirp, noise, probe, sharks",
        ),
        ({"ood_names": "probe"}, "stimulus 'probe' is named both for test and for ood"),
        ({"frame_rate": "fast"}, "frame_rate 'fast' must be a number above 0"),
        ({"frame_rate": "-3"}, "frame_rate '-3' must be"),
        ({"clip_frames": "2.5"}, "clip_frames '2.5' must be a whole number above 0"),
        ({"validation_clips": "9"}, "'9' is no clip; training clips are 0 to 8"),
        ({"validation_clips": "one"}, "'one' is no clip"),
    ],
)
def test_wrong_arguments_are_refused_by_name(disk, wrong, message):
    location = {"session_file": str(disk.session), "frame_rate": str(RATE)} | NAMED | wrong
    with pytest.raises(RecordingError, match=re.escape(message)):
        OpenRetinaRecording(**location)


def test_unknown_conditions_and_trials(disk):
    recording = disk.open()
    with pytest.raises(RecordingError, match="no condition abc"):
        recording.frames("abc")
    with pytest.raises(RecordingError, match="no trial 14: trials are 0 to 13"):
        recording.responses(14)
