"""What the experanto reader gives is what is on disk, each modality on its own clock; damage is refused by name."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

from pipeline.errors import RecordingError
from pipeline.recordings.base import SpikeTimes, Traces, hash_pixels
from pipeline.recordings.experanto import ExperantoRecording
from pipeline.recordings.sequences import shared_rates
from tests.pipeline.recordings.write_experanto import (
    ENTRIES,
    SHIFTS,
    SIZE,
    UNIT_IDS,
    VIDEO_RATE,
    pixels,
    response,
    signal,
    write_experanto,
    write_spikes,
)

EYE = "pupil_size=0,pupil_x=2,pupil_y=3"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_experanto(tmp_path / "scan")


def opened(folder: Path, **arguments: str) -> ExperantoRecording:
    return ExperantoRecording(str(folder), **{"eye_columns": EYE, **arguments})


def change(path: Path, **values: object) -> None:
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **values}))


def change_trial(folder: Path, key: str, **values: object) -> None:
    path = folder / "screen" / "combined_meta.json"
    metas = json.loads(path.read_text())
    metas[key].update(values)
    path.write_text(json.dumps(metas))


def rewrite(path: Path, edit: Callable[[np.ndarray], np.ndarray]) -> None:
    np.save(path, edit(np.load(path)))


def test_trials_are_what_the_screen_showed(folder):
    recording = opened(folder)
    times = np.load(folder / "screen" / "timestamps.npy")
    firsts = np.cumsum([0, *(frames for _, frames, _, _ in ENTRIES)])
    assert [trial.tier for trial in recording.trials] == [
        "train", "train", "validation", "train", "validation", "test", None, None, "train",
    ]  # fmt: skip
    assert [bool(trial.exclusion) for trial in recording.trials] == [n == 6 for n in range(9)]
    assert "invalid" in recording.trials[6].exclusion
    for trial, first in zip(recording.trials, firsts, strict=False):
        assert trial.start == times[first]
    durations = [trial.duration for trial in recording.trials]
    np.testing.assert_allclose(durations, [0.5, 0.5, 0.3, 0.5, 0.3, 0.5, 0.5, 0.5, 0.5], atol=3e-4)


def test_pixels_and_conditions(folder):
    recording = opened(folder)
    shown = [recording.stimuli[trial.condition_hash] for trial in recording.trials]
    for trial, stimulus, (modality, n_frames, _, seed) in zip(recording.trials, shown, ENTRIES, strict=True):
        frames = recording.frames(trial.condition_hash)
        if modality in ("blank", "invalid"):
            wanted = np.full((1, 1, *SIZE), 127, np.uint8)
        else:
            wanted = pixels(seed, n_frames if modality == "video" else None).reshape(1, n_frames, *SIZE)
        assert frames.dtype == np.uint8
        np.testing.assert_array_equal(frames, wanted)
        assert stimulus.shape == wanted.shape
        assert stimulus.frame_rate == (VIDEO_RATE if modality == "video" else None)
        assert stimulus.condition_hash == hash_pixels(wanted, stimulus.frame_rate)
    assert shown[0] == shown[8] and shown[2] == shown[4], "one clip is one condition, in spite of jitter"
    assert [stimulus.stimulus_type for stimulus in shown[:3]] == ["a image", "blank", "a video"]
    assert shown[2].stimulus_name == "00002.npy"


def test_units(folder):
    units = opened(folder).units
    assert tuple(unit.unit_id for unit in units) == UNIT_IDS
    assert [unit.unit_name for unit in units] == ["101", "205", "309"]
    assert [unit.area for unit in units] == ["V1", "LM", "V1"]
    assert [unit.position for unit in units] == [(0.0, 1.0, 2.0), (3.0, 4.0, 5.0), (6.0, 7.0, 8.0)]


@pytest.mark.parametrize("margin", [0.0, 0.4])
def test_every_modality_keeps_its_own_clock(folder, margin):
    recording = opened(folder)
    for trial in recording.trials:
        start, stop = trial.start - margin, trial.start + trial.duration + margin
        traces = recording.responses(trial.trial_idx, margin)
        assert isinstance(traces, Traces)
        np.testing.assert_array_equal(traces.delays, SHIFTS)
        for unit, shift in enumerate(SHIFTS):
            np.testing.assert_allclose(traces.values[unit], response(unit, traces.times + shift), atol=1e-9)
            assert traces.times[0] + shift <= start and traces.times[-1] + shift >= stop, "can be interpolated"
        assert len(traces.times) <= (stop - start + max(SHIFTS)) * 8 + 3
        signals = recording.signals(trial.trial_idx, margin)
        assert set(signals) == {"pupil_size", "pupil_x", "pupil_y", "run"}
        for name, rate in (("pupil_size", 29.7), ("pupil_x", 29.7), ("pupil_y", 29.7), ("run", 100.0)):
            trace = signals[name]
            np.testing.assert_allclose(trace.values, signal(name, trace.times), rtol=1e-6)
            assert trace.times[0] <= start + 1e-6 and trace.times[-1] >= stop - 1e-6
            assert len(trace.times) <= (stop - start) * rate + 3


def test_the_margin_ends_where_the_recording_does(folder):
    recording = opened(folder)
    first = recording.responses(0, margin=50.0)
    last = recording.responses(8, margin=50.0)
    assert first.times[0] == 18.9 and last.times[-1] == pytest.approx(18.9 + 69 / 8)
    assert len(first.times) == 70
    assert recording.signals(0, margin=50.0)["run"].times[0] == 19.0


def test_layouts_of_the_same_recording_are_the_same(folder, tmp_path):
    other = opened(write_experanto(tmp_path / "other", combined=False, mapped=False))
    recording = opened(folder)
    assert other.source.fingerprint == recording.source.fingerprint
    assert other.trials == recording.trials
    again = ExperantoRecording(**recording.source.location)
    assert again.source == recording.source


def test_stimuli_stored_once_under_their_names(folder):
    for key in ("00000", "00008"):
        change_trial(folder, key, image_name="im7")
    (folder / "screen" / "data" / "00000.npy").rename(folder / "screen" / "data" / "im7.npy")
    before = opened(folder)
    (folder / "screen" / "data" / "00008.npy").unlink()
    recording = opened(folder)
    assert recording.source.fingerprint == before.source.fingerprint
    assert recording.stimuli[recording.trials[8].condition_hash].stimulus_name == "im7"


def test_listed_times_are_preferred_to_the_rate(folder):
    listed = 18.9 + np.arange(70) / 8.0 + np.random.default_rng(0).uniform(0, 0.05, 70)
    np.save(folder / "responses" / "meta" / "timestamps.npy", listed)
    traces = opened(folder).responses(0, margin=50.0)
    np.testing.assert_array_equal(traces.times, listed)


def test_colour_keeps_its_channels(folder):
    colour = np.random.default_rng(9).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    np.save(folder / "screen" / "data" / "00003.npy", colour)
    movie = np.random.default_rng(8).random((9, *SIZE, 2)).astype(np.float32)
    np.save(folder / "screen" / "data" / "00004.npy", movie)
    recording = opened(folder)
    np.testing.assert_array_equal(recording.frames(recording.trials[3].condition_hash)[:, 0], colour.transpose(2, 0, 1))
    np.testing.assert_array_equal(recording.frames(recording.trials[4].condition_hash), movie.transpose(3, 0, 1, 2))


@pytest.mark.parametrize(
    ("measured", "rates"),
    [
        ([1 / 30, 1 / 30.01, 1 / 29.98], [30.0] * 3),
        ([1 / 60.03, 1 / 30.01, 1 / 59.97, 1 / 60], [60.0, 30.0, 60.0, 60.0]),
        ([1 / 29.97], [29.97]),
        ([1 / 12.504, 1 / 12.499], [12.5, 12.5]),
        ([], []),
    ],
)
def test_movies_shown_equally_fast_have_one_frame_rate(measured, rates):
    assert shared_rates(measured) == rates


def test_frame_rate_as_argument(folder):
    recording = opened(folder, frame_rate="29.97")
    assert recording.stimuli[recording.trials[2].condition_hash].frame_rate == 29.97


def test_trials_beyond_a_recorded_span_are_excluded(folder):
    samples = np.load(folder / "eye_tracker" / "data.npy")[:75]  # until 22.0 s
    np.save(folder / "eye_tracker" / "data.npy", samples)
    change(folder / "eye_tracker" / "meta.yml", n_timestamps=75, end_time=19.5 + 75 / 29.7)
    recording = opened(folder)
    late = [trial.start + trial.duration > 19.5 + 74 / 29.7 for trial in recording.trials]
    assert [bool(trial.exclusion) for trial in recording.trials] == [gone or n == 6 for n, gone in enumerate(late)]
    assert 0 < sum(late) < 9 and "pupil_size, pupil_x, pupil_y known from 19.500" in recording.trials[8].exclusion
    assert not any(trial.exclusion for trial in opened(folder, eye_tracker="none").trials if trial.trial_idx != 6)


def test_the_largest_phase_shift_counts_for_the_span(folder):
    """A trial that starts after the first sample of unit 0, but before that of unit 2, is not known of unit 2."""
    rewrite(folder / "screen" / "timestamps.npy", lambda times: times - 1.05)
    arguments = {"eye_tracker": "none", "treadmill": "none"}
    assert "known from 18.970" in opened(folder, **arguments).trials[0].exclusion
    rewrite(folder / "screen" / "timestamps.npy", lambda times: times + 0.03)
    assert not opened(folder, **arguments).trials[0].exclusion


def test_valid_trial_and_tier_none_exclude(folder):
    change_trial(folder, "00000", valid_trial=False)
    change_trial(folder, "00003", tier="none")
    recording = opened(folder)
    assert "valid_trial" in recording.trials[0].exclusion
    assert "'none'" in recording.trials[3].exclusion and recording.trials[3].tier is None


def test_light_pulses(folder):
    recording = opened(folder, opto="light")
    assert recording.opto_groups == (0, 0, 0)
    np.testing.assert_array_equal(recording.opto_pulses(0)[0], [[20.1, 20.2], [20.4, 20.6]])
    np.testing.assert_array_equal(recording.opto_pulses(1)[0], [[20.4, 20.6]])
    assert recording.opto_pulses(8)[0].shape == (0, 2)
    assert opened(folder).opto_pulses(0) == ()


@pytest.mark.parametrize("bare", [False, True])
def test_spikes(folder, bare):
    trains = write_spikes(folder, bare)
    recording = opened(folder, responses="units")
    assert recording.response_unit == "spikes"
    for margin in (0.0, 0.5):
        for trial in recording.trials:
            spikes = recording.responses(trial.trial_idx, margin)
            assert isinstance(spikes, SpikeTimes)
            span = max(trial.start - margin, 19.8), trial.start + trial.duration + margin
            assert spikes.span == pytest.approx(span)
            for times, train in zip(spikes.times, trains, strict=True):
                np.testing.assert_array_equal(times, train[(train >= span[0]) & (train < span[1])])


def test_spikes_that_end_early_exclude(folder):
    write_spikes(folder, stop=21.0)
    recording = opened(folder, responses="units")
    assert "spikes known from 19.800 to 21.000 s" in recording.trials[5].exclusion
    assert not recording.trials[0].exclusion


class TestNaN:
    @pytest.fixture
    def folder(self, folder: Path) -> Path:
        data = np.memmap(folder / "responses" / "data.mem", np.float64, "r+", shape=(70, 3))
        data[17, 1] = np.nan  # 21.025 s + 0.02: in trial 2 only, 21.0 to 21.3
        data.flush()
        return folder

    def test_refused_with_trial_and_unit(self, folder):
        with pytest.raises(RecordingError, match=r"trial 1, unit 205: responses hold NaN|trial 2, unit 205"):
            opened(folder)

    def test_excludes_the_trials_that_hold_it(self, folder):
        recording = opened(folder, nan="exclude")
        excluded = [trial.trial_idx for trial in recording.trials if "unit 205 holds NaN" in trial.exclusion]
        assert excluded == [1, 2], "its sample is one that trial 1 is interpolated from"
        assert np.isfinite(recording.responses(0, margin=3.0).values).all(), "a margin ends where NaN begins"
        np.testing.assert_allclose(recording.responses(0, margin=3.0).times[-1], 18.9 + 16 / 8)
        np.testing.assert_allclose(recording.responses(5, margin=3.0).times[0], 18.9 + 18 / 8)

    def test_interpolates(self, folder):
        recording = opened(folder, nan="interpolate")
        traces = recording.responses(2)
        at = int(np.flatnonzero(np.isclose(traces.times, 18.9 + 17 / 8))[0])
        beside = response(1, traces.times[[at - 1, at + 1]] + SHIFTS[1])
        assert traces.values[1, at] == pytest.approx(beside.mean())
        assert not recording.trials[2].exclusion

    def test_a_trial_without_any_number_is_excluded(self, folder):
        rewrite(folder / "eye_tracker" / "data.npy", lambda eye: np.where(np.arange(220)[:, None] < 40, np.nan, eye))
        recording = opened(folder, nan="interpolate")
        assert recording.trials[0].exclusion == "pupil_size is only NaN"
        assert not recording.trials[1].exclusion


DAMAGE = {
    "no screen": (lambda f: (f / "screen" / "meta.yml").unlink(), "screen/meta.yml: no such file"),
    "no timestamps": (lambda f: (f / "screen" / "timestamps.npy").unlink(), "timestamps.npy: no such file"),
    "time stands still": (
        lambda f: rewrite(f / "screen" / "timestamps.npy", lambda t: np.r_[t[:3], t[2], t[4:]]),
        r"timestamps.npy: times must increase, but number 3",
    ),
    "times of text": (lambda f: np.save(f / "screen" / "timestamps.npy", np.array(["a"] * 25)), "numbers are needed"),
    "too few timestamps": (
        lambda f: rewrite(f / "screen" / "timestamps.npy", lambda t: t[:20]),
        "trial 00004: its 9 frames from 12 do not fit the timestamps, there are 20",
    ),
    "no pixels": (lambda f: (f / "screen" / "data" / "00003.npy").unlink(), "trial 00003: no pixels"),
    "pixels cut short": (
        lambda f: (f / "screen" / "data" / "00003.npy").write_bytes(b"\x93NUMPY"),
        "00003.npy .* cannot be read",
    ),
    "frames missing": (
        lambda f: rewrite(f / "screen" / "data" / "00004.npy", lambda v: v[:7]),
        "00004.npy holds 7 frames, but trial 00004 shows 9",
    ),
    "pixels of one axis": (lambda f: np.save(f / "screen" / "data" / "00003.npy", np.zeros(5)), "00003.npy: pixels of"),
    "pixels of complex": (
        lambda f: np.save(f / "screen" / "data" / "00003.npy", np.zeros(SIZE, complex)),
        "00003.npy: pixels of dtype complex128",
    ),
    "pickled pixels": (
        lambda f: np.save(f / "screen" / "data" / "00003.npy", np.array([{}], object), allow_pickle=True),
        "00003.npy .* cannot be read",
    ),
    "unknown modality": (lambda f: change_trial(f, "00003", modality="smell"), "trial 00003: modality 'smell'"),
    "unknown tier": (lambda f: change_trial(f, "00003", tier="practice"), "trial 00003: unknown tier 'practice'"),
    "stimulus elsewhere": (
        lambda f: ((f / "screen" / "data" / "00003.npy").unlink(), change_trial(f, "00003", image_name="../x")),
        "trial 00003: '../x' is no name",
    ),
    "overlapping trials": (
        lambda f: change_trial(f, "00002", num_frames=11),
        "trial 00002: its 11 frames from 2 do not fit",
    ),
    "first frame of text": (lambda f: change_trial(f, "00002", first_frame_idx="2"), "trial 00002: first_frame_idx"),
    "no grey value": (lambda f: change_trial(f, "00001", interleave_value=None), "trial 00001 .*interleave_value"),
    "metadata of no JSON": (lambda f: (f / "screen" / "combined_meta.json").write_text("{"), "is no JSON"),
    "yaml that makes objects": (
        lambda f: (f / "responses" / "meta.yml").write_text("modality: !!python/object/apply:os.getcwd []"),
        "responses/meta.yml .* no YAML of plain values",
    ),
    "no responses": (lambda f: (f / "responses" / "data.mem").unlink(), "data.mem: no such file"),
    "responses cut short": (
        lambda f: (f / "responses" / "data.mem").write_bytes(b"\0" * 80),
        "data.mem has 80 bytes, but 70 x 3 numbers of type float64 need 1680",
    ),
    "responses of text": (lambda f: change(f / "responses" / "meta.yml", dtype="U5"), "dtype 'U5' of data.mem"),
    "wrong sampling rate": (
        lambda f: change(f / "eye_tracker" / "meta.yml", sampling_rate=0.034),
        "eye_tracker/meta.yml: 220 samples at 0.034 Hz",
    ),
    "wrong number of signals": (
        lambda f: change(f / "eye_tracker" / "meta.yml", n_signals=3),
        r"eye_tracker/data.npy: shape \(220, 4\), but \(220, 3\)",
    ),
    "phase shifts of other units": (
        lambda f: np.save(f / "responses" / "meta" / "phase_shifts.npy", np.zeros(2)),
        r"phase_shifts.npy: shape \(2,\), but \(3\)",
    ),
    "names of other units": (
        lambda f: np.save(f / "responses" / "meta" / "unit_ids.npy", np.arange(4)),
        r"unit_ids.npy: shape \(4,\), but there are 3 units",
    ),
    "unit twice": (
        lambda f: np.save(f / "responses" / "meta" / "unit_ids.npy", np.array([5, 5, 6])),
        "scan: unit_id 5 .* 2 units",
    ),
    "NaN in the eye": (
        lambda f: rewrite(f / "eye_tracker" / "data.npy", lambda eye: np.where(eye == eye[30], np.nan, eye)),
        "trial 0, pupil_size: NaN",
    ),
    "endless pulses": (lambda f: np.save(f / "light" / "on.npy", np.array([[3.0, np.inf]])), "on.npy: pulses"),
    "properties elsewhere": (
        lambda f: change(f / "responses" / "meta.yml", neuron_properties={"unit_ids": "../../x.npy"}),
        "neuron_properties, unit_ids: '../../x.npy' is no name in",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_refused_by_name(folder, damage):
    harm, message = DAMAGE[damage]
    harm(folder)
    with pytest.raises(RecordingError, match=message):
        opened(folder, opto="light")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"eye_columns": ""}, "4 columns and the format does not tell what they are"),
        ({"eye_columns": "pupil=0"}, "'pupil=0' is not a signal"),
        ({"eye_columns": "pupil_x=9"}, "column 9 does not exist, there are 4"),
        ({"nan": "ignore"}, "nan is 'ignore'"),
        ({"frame_rate": "fast"}, "frame_rate is 'fast'"),
        ({"responses": "../other"}, "responses: '../other' is no name"),
        ({"opto": "light/off"}, "has the labels on"),
        ({"opto": "treadmill"}, "modality 'sequence', but 'time_interval' is needed"),
    ],
)
def test_arguments_are_checked(folder, arguments, message):
    with pytest.raises(RecordingError, match=re.escape(message)):
        opened(folder, **arguments)


def test_spikes_that_do_not_rise_are_refused(folder):
    write_spikes(folder)
    rewrite(folder / "units" / "spikes.npy", lambda spikes: spikes[::-1])
    with pytest.raises(RecordingError, match=r"units/spikes.npy, unit 0: spike times must be finite and sorted"):
        opened(folder, responses="units")


def test_spikes_of_another_number_are_refused(folder):
    write_spikes(folder)
    rewrite(folder / "units" / "spikes.npy", lambda spikes: spikes[:-1])
    with pytest.raises(RecordingError, match=r"spikes.npy: shape \(1199,\), but \(1200\)"):
        opened(folder, responses="units")


def test_pixels_that_changed_are_noticed(folder):
    recording = opened(folder)
    rewrite(folder / "screen" / "data" / "00003.npy", lambda image: image + 1)
    with pytest.raises(RecordingError, match=r"00003.npy changed since"):
        recording.frames(recording.trials[3].condition_hash)


def test_unknown_trials_and_conditions(folder):
    recording = opened(folder)
    with pytest.raises(RecordingError, match="has no trial 9: trials are 0 to 8"):
        recording.responses(9)
    with pytest.raises(RecordingError, match="has no condition abc"):
        recording.frames("abc")
