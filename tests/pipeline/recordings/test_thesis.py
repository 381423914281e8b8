"""What the thesis reader gives is what is on disk; every kind of damage is refused by name when it is opened."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline.errors import RecordingError
from pipeline.recordings import FORMATS, Recording, ThesisRecording, hash_pixels, open_recording
from pipeline.recordings.video import write_video

UNITS = (2, 5, 11)
SCENES = (0, 1, 2, 3)
RATE, N_FRAMES, N_BINS = 30.0, 12, 24
DURATION = N_FRAMES / RATE
SHOWN = (0, 1, 2, 3, 3)  # scene 3 is a test scene, shown twice


def movie(scene: int) -> np.ndarray:
    return np.random.default_rng(scene).integers(0, 256, (1, N_FRAMES, 20, 32), dtype=np.uint8)


def spikes(unit: int, trial: int) -> np.ndarray:
    rng = np.random.default_rng([unit, trial])
    return trial + np.sort(rng.uniform(0, DURATION, 3 + trial % 2))


@dataclass
class Disk:
    """Tables to be changed, a folder of videos to be damaged, and `open`, which writes the tables and reads all."""

    folder: Path
    responses: pd.DataFrame
    behavior: pd.DataFrame

    def video(self, scene: int) -> Path:
        return self.folder / "videos" / f"hmovTrain_v3_32x20_scene-{scene + 1:03d}.avi"

    def cell(self, column: str, unit: int, trial: int, value: object) -> None:
        """Put a value into one cell of the responses table."""
        self.responses.at[self.row(unit, trial), column] = value

    def row(self, unit: int, trial: int) -> int:
        starts = self.responses["trange"].map(lambda t: t[0])
        return int(self.responses.index[(self.responses["u"] == unit) & (starts == float(trial))][0])

    def open(self, **location: str) -> ThesisRecording:
        paths = {"responses": self.folder / "responses.pkl", "behavior": self.folder / "resp_behav_df.pkl"}
        self.responses.to_pickle(paths["responses"])
        self.behavior.to_pickle(paths["behavior"])
        arguments = {"videos": str(self.folder / "videos"), **{name: str(path) for name, path in paths.items()}}
        return ThesisRecording(**(arguments | location))


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    (tmp_path / "videos").mkdir()
    rows, behavior = [], []
    for trial, scene in enumerate(SHOWN):
        trange = [float(trial), trial + DURATION]
        shared = {"m": "Mouse_0123", "s": 2, "e": 4, "scene_id": scene, "trange": trange}
        for unit in UNITS:
            rows.append(
                {
                    **shared,
                    "u": unit,
                    "train_vs_test": "test" if scene == 3 else "val" if scene == 2 else "train",
                    "spike_times": spikes(unit, trial),
                    "psth": np.zeros(N_BINS),
                    "opto_tranges": [[trial + 0.1, trial + 0.2], [100.0, 101.0]] if trial == 1 else [],
                }
            )
        rng = np.random.default_rng(100 + trial)
        behavior.append(
            {**shared, **{name: rng.normal(size=N_BINS) for name in ("run", "pupil_size", "pupil_x", "pupil_y")}}
        )
    built = Disk(tmp_path, pd.DataFrame(rows), pd.DataFrame(behavior))
    for scene in SCENES:
        write_video(built.video(scene), movie(scene), RATE)
    return built


def refuses(disk, *parts: str, **location: str) -> None:
    """Check that opening fails, and that the message holds every part."""
    with pytest.raises(RecordingError) as caught:
        disk.open(**location)
    for part in parts:
        assert part in str(caught.value), str(caught.value)


# ---------------------------------------------------------------------------------------------- what is read


def test_values_are_those_on_disk(disk):
    recording = disk.open()
    assert isinstance(recording, Recording)
    assert [unit.unit_id for unit in recording.units] == list(UNITS)
    assert [unit.unit_name for unit in recording.units] == [f"m0123_s02_e04_u{unit:02d}" for unit in UNITS]
    assert len(recording.trials) == len(SHOWN)
    assert len(recording.stimuli) == len(SCENES)
    for index, (trial, scene) in enumerate(zip(recording.trials, SHOWN, strict=True)):
        assert trial.trial_idx == index
        assert trial.start == float(index)
        assert trial.start + trial.duration == pytest.approx(index + DURATION, abs=1e-12)
        assert trial.tier == ("train", "train", "validation", "test")[scene]
        assert trial.condition_hash == hash_pixels(movie(scene), RATE)
        assert np.array_equal(recording.frames(trial.condition_hash), movie(scene))
        for unit, times in zip(UNITS, recording.responses(index).times, strict=True):
            assert np.array_equal(times, spikes(unit, index))
    stimulus = recording.stimuli[recording.trials[1].condition_hash]
    assert stimulus.shape == (1, N_FRAMES, 20, 32)
    assert stimulus.frame_rate == RATE
    assert stimulus.stimulus_name == disk.video(1).name


def test_behaviour_is_spread_evenly_over_the_trial(disk):
    recording = disk.open()
    for index in range(len(SHOWN)):
        signals = recording.signals(index)
        assert sorted(signals) == ["pupil_size", "pupil_x", "pupil_y", "run"]
        for name, trace in signals.items():
            assert np.array_equal(trace.values, disk.behavior.at[index, name])
            assert trace.times == pytest.approx(index + (np.arange(N_BINS) + 0.5) / 60)


@pytest.mark.parametrize("missing", [["run"], ["pupil_x", "pupil_y"], ["pupil_size", "pupil_x", "pupil_y"]])
def test_signals_whose_column_is_missing_are_absent(disk, missing):
    disk.behavior = disk.behavior.drop(columns=missing)
    signals = disk.open().signals(2)
    assert set(signals) == {"run", "pupil_size", "pupil_x", "pupil_y"} - set(missing)
    for name, trace in signals.items():
        assert np.array_equal(trace.values, disk.behavior.at[2, name])


def test_behaviour_with_a_row_for_each_unit(disk):
    """As a table merged from responses and behaviour has it."""
    signals = disk.open().signals(3)
    disk.behavior = pd.concat([disk.behavior.assign(u=unit) for unit in UNITS], ignore_index=True)
    for name, trace in disk.open().signals(3).items():
        assert np.array_equal(trace.values, signals[name].values)
    disk.behavior.at[len(SHOWN), "run"] = np.ones(N_BINS)
    refuses(disk, "run of scene 0 at [0.0, 0.4] s differs between the rows of its units")


def test_without_behaviour_there_are_no_signals(disk):
    assert disk.open(behavior="").signals(0) == {}


def test_only_pulses_that_touch_the_trial(disk):
    recording = disk.open()
    (lit,), (dark,) = recording.opto_pulses(1), recording.opto_pulses(0)
    assert np.array_equal(lit, [[1.1, 1.2]])
    assert dark.shape == (0, 2)
    assert recording.opto_groups == (0, 0, 0)


def test_pulses_stand_in_order_of_time(disk):
    early, late = [1.1, 1.2], [1.3, 1.35]
    for unit in UNITS:
        disk.cell("opto_tranges", unit, 1, [early, late] if unit == 5 else [late, early])
    assert np.array_equal(disk.open().opto_pulses(1)[0], [early, late])


def test_recording_in_the_dark(disk):
    disk.responses["opto_tranges"] = [[]] * len(disk.responses)
    assert [[train.shape for train in disk.open().opto_pulses(i)] for i in range(len(SHOWN))] == [[(0, 2)]] * len(SHOWN)


def test_trials_stand_in_order_of_time_whatever_the_rows(disk):
    fingerprint = disk.open().source.fingerprint
    disk.responses = disk.responses.sample(frac=1, random_state=3)
    disk.behavior = disk.behavior.sample(frac=1, random_state=4).reset_index(drop=True)
    shuffled = disk.open()
    assert [trial.start for trial in shuffled.trials] == [float(index) for index in range(len(SHOWN))]
    assert np.array_equal(shuffled.responses(2).times[1], spikes(UNITS[1], 2))
    assert shuffled.source.fingerprint == fingerprint


def test_fingerprint_does_not_depend_on_the_place(disk, tmp_path):
    fingerprint = disk.open().source.fingerprint
    moved = tmp_path / "elsewhere"
    (disk.folder / "videos").rename(moved)
    assert disk.open(videos=str(moved)).source.fingerprint == fingerprint


@pytest.mark.parametrize("part", ["spike", "behaviour", "opto", "tier", "pixel", "unit"])
def test_fingerprint_changes_with_everything_that_is_read(disk, part):
    fingerprint = disk.open().source.fingerprint
    if part == "spike":
        disk.cell("spike_times", 5, 1, spikes(5, 1) + np.array([0, 0, 0, 1e-9]))
    elif part == "behaviour":
        disk.behavior.at[2, "run"] = disk.behavior.at[2, "run"] + 1e-9
    elif part == "opto":
        for unit in UNITS:
            disk.cell("opto_tranges", unit, 0, [[0.1, 0.2]])
    elif part == "tier":
        disk.responses.loc[disk.responses["scene_id"] == 0, "train_vs_test"] = "validation"
    elif part == "pixel":
        changed = movie(1)
        changed[0, 3, 4, 5] ^= 1
        write_video(disk.video(1), changed, RATE)
    else:
        disk.responses["u"] = disk.responses["u"].replace({11: 12})
    assert disk.open().source.fingerprint != fingerprint


def test_source_opens_the_same_recording_again(disk, monkeypatch):
    monkeypatch.chdir(disk.folder)
    recording = disk.open(videos="videos", exclude_units="5")
    again = open_recording(recording.source.source_format, **recording.source.location)
    assert all(isinstance(value, str) for value in recording.source.location.values())
    assert recording.source.location["videos"] == str(disk.folder / "videos")
    assert again.source == recording.source
    assert [unit.unit_id for unit in again.units] == [2, 11]


def test_one_of_several_recordings(disk):
    other = disk.responses.assign(e=5)
    disk.behavior = disk.behavior.drop(columns="e")
    disk.responses = pd.concat([disk.responses, other], ignore_index=True)
    refuses(disk, "2 recordings", "mouse=Mouse_0123 series=2 experiment=4", "mouse=Mouse_0123 series=2 experiment=5")
    refuses(disk, "no recording with experiment=6", "experiment=5", experiment="6")
    chosen = disk.open(experiment="5")
    assert chosen.units[0].unit_name == "m0123_s02_e05_u02"
    assert len(chosen.trials) == len(SHOWN)


def test_unknown_trials_and_conditions(disk):
    recording = disk.open()
    for index in (-1, len(SHOWN)):
        with pytest.raises(RecordingError, match=f"no trial {index}: trials are 0 to 4"):
            recording.responses(index)
    with pytest.raises(RecordingError, match="no condition abc"):
        recording.frames("abc")


def test_a_movie_that_changes_later_is_noticed(disk):
    recording = disk.open()
    write_video(disk.video(0), movie(7), RATE)
    with pytest.raises(RecordingError, match=r"scene-001\.avi changed since"):
        recording.frames(recording.trials[0].condition_hash)


def test_one_movie_under_two_scenes_is_one_condition(disk):
    write_video(disk.video(1), movie(0), RATE)
    recording = disk.open()
    assert len(recording.stimuli) == len(SCENES) - 1
    assert recording.trials[0].condition_hash == recording.trials[1].condition_hash
    assert recording.stimuli[recording.trials[0].condition_hash].stimulus_name == disk.video(0).name


# ------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize("column", ["m", "s", "e", "u", "train_vs_test", "scene_id", "trange", "opto_tranges"])
def test_missing_column(disk, column):
    disk.responses = disk.responses.drop(columns=column)
    refuses(disk, "responses.pkl has no column", column)


def test_missing_column_of_responses(disk):
    disk.responses = disk.responses.drop(columns="psth")
    refuses(disk, "responses.pkl has no column psth", response_column="psth")
    disk.responses = disk.responses.drop(columns="spike_times")
    refuses(disk, "responses.pkl has no column spike_times")


@pytest.mark.parametrize("column", ["scene_id", "m", "s"])
def test_missing_column_of_behaviour(disk, column):
    disk.behavior = disk.behavior.drop(columns=column)
    refuses(disk, "resp_behav_df.pkl has no column", column)


def test_behaviour_without_any_signal(disk):
    disk.behavior = disk.behavior.drop(columns=["run", "pupil_size", "pupil_x", "pupil_y"])
    refuses(disk, "resp_behav_df.pkl has no column run, pupil_size, pupil_x, pupil_y")


def test_table_without_rows(disk):
    disk.responses = disk.responses.iloc[:0]
    refuses(disk, "responses.pkl holds a table without rows")


def test_missing_video(disk):
    disk.video(2).unlink()
    refuses(disk, "scene 2", "*scene-003.avi", str(disk.folder / "videos"))


def test_two_videos_for_one_scene(disk):
    write_video(disk.folder / "videos" / "copy_scene-003.avi", movie(2), RATE)
    refuses(disk, "scene 2 has 2 videos", "copy_scene-003.avi", disk.video(2).name)


def test_files_that_are_no_movies_are_passed_over(disk):
    """Such as the hidden copies that macOS leaves, and numbers that only end alike."""
    (disk.folder / "videos" / f"._{disk.video(2).name}").write_bytes(b"")
    (disk.folder / "videos" / "scene-1003.avi").write_bytes(b"")
    assert len(disk.open().stimuli) == len(SCENES)


def test_missing_folder(disk):
    refuses(disk, "nowhere: no such folder", videos=str(disk.folder / "nowhere"))


def test_truncated_video(disk):
    whole = disk.video(1).read_bytes()
    disk.video(1).write_bytes(whole[: len(whole) // 2])
    refuses(disk, str(disk.video(1)), "truncated", "states 12 frames")


def test_video_longer_than_the_trial(disk):
    write_video(disk.video(1), np.concatenate([movie(1), movie(2)[:, :2]], axis=1), RATE)
    refuses(disk, str(disk.video(1)), "14 frames at 30 Hz, 0.467 s", "0.400 s")


def test_video_one_frame_off_is_accepted(disk):
    write_video(disk.video(1), movie(1)[:, :-1], RATE)
    assert disk.open().stimuli[hash_pixels(movie(1)[:, :-1], RATE)].shape[1] == N_FRAMES - 1


def test_video_at_another_rate(disk):
    write_video(disk.video(0), movie(0), 25.0)
    refuses(disk, str(disk.video(0)), "12 frames at 25 Hz, 0.480 s", "0.400 s")


@pytest.mark.parametrize("bins", [15, 18, 20, 29])
def test_histogram_of_another_length(disk, bins):
    for unit in UNITS:
        disk.cell("psth", unit, 0, np.zeros(bins))
    refuses(disk, str(disk.video(0)), "12 frames", f"{bins} bins")


@pytest.mark.parametrize("bins", [12, 23, 24, 25, 36])
def test_histogram_of_whole_bins_in_each_frame(disk, bins):
    for unit in UNITS:
        disk.cell("psth", unit, 0, np.zeros(bins))
    assert len(disk.open().trials) == len(SHOWN)


def test_silent_unit(disk):
    for trial in range(len(SHOWN)):
        disk.cell("spike_times", 5, trial, np.array([]))
    refuses(disk, "unit 5 has no spike in any trial", "exclude_units='5'")
    assert [unit.unit_id for unit in disk.open(exclude_units="5").units] == [2, 11]


def test_unit_that_is_silent_in_some_trials_is_kept(disk):
    disk.cell("spike_times", 5, 0, np.array([]))
    assert disk.open().responses(0).times[1].size == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_spike_time_that_is_no_number(disk, bad):
    disk.cell("spike_times", 5, 2, np.array([2.1, bad]))
    refuses(disk, "unit 5, scene 2", "1 spike times are NaN or infinite")


def test_unsorted_spike_times(disk):
    disk.cell("spike_times", 11, 1, np.array([1.1, 1.3, 1.2]))
    refuses(disk, "unit 11, scene 1", "not sorted", "1.300000 s comes before 1.200000 s")


def test_spike_times_that_are_no_array(disk):
    disk.cell("spike_times", 11, 1, np.zeros((2, 2)))
    refuses(disk, "unit 11, scene 1", "spike_times")


def test_spikes_of_a_unit_on_another_clock(disk):
    for trial in range(len(SHOWN)):
        disk.cell("spike_times", 5, trial, spikes(5, trial) - trial + 500)
    refuses(disk, "unit 5: all spike times lie outside", "same clock")


def test_spikes_of_a_trial_on_another_clock(disk):
    for unit in UNITS:
        disk.cell("spike_times", unit, 2, spikes(unit, 2) + 50)
    refuses(disk, "scene 2 at [2.0, 2.4] s", "all units lie outside", "same clock")


@pytest.mark.parametrize(
    ("column", "value"),
    [("spike_times", "none"), ("trange", [[1.0], [1.0, 2.0]]), ("opto_tranges", [[1.0], [1.0, 1.2]])],
)
def test_cell_that_holds_no_numbers(disk, column, value):
    disk.cell(column, 5, 1, value)
    refuses(disk, f"unit 5, scene 1: {column} is", "not an array of numbers")


@pytest.mark.parametrize("column", ["s", "e", "u", "scene_id"])
def test_number_that_is_missing(disk, column):
    disk.responses[column] = disk.responses[column].astype(float)
    disk.cell(column, 5, 1, np.nan)
    refuses(disk, f"column {column} holds nan, which is no whole number")


def test_numbers_stored_as_floats_are_the_same(disk):
    fingerprint = disk.open().source.fingerprint
    disk.responses = disk.responses.astype({"s": float, "e": float, "u": float, "scene_id": float})
    assert disk.open(series="2", experiment="4").source.fingerprint == fingerprint


def test_unit_without_a_row_for_a_trial(disk):
    disk.responses = disk.responses.drop(index=disk.row(5, 1))
    refuses(disk, "unit 5 has no row for scene 1 at [1.0, 1.4]", "1 such gaps")


def test_duplicate_row(disk):
    disk.responses = pd.concat([disk.responses, disk.responses.loc[[disk.row(5, 1)]]], ignore_index=True)
    refuses(disk, "unit 5 has more than one row for scene 1 at [1.0, 1.4]")


@pytest.mark.parametrize("shift", [0.01, 0.2])
def test_trange_that_differs_between_units(disk, shift):
    disk.cell("trange", 5, 1, [1.0 + shift, 1.0 + shift + DURATION])
    refuses(disk, "scene 1: trange differs between units", "unit 2", "unit 5")


def test_trange_far_away_for_one_unit(disk):
    disk.cell("trange", 5, 1, [51.0, 51.4])
    refuses(disk, "scene 1", "does its trange differ")


def test_overlapping_trials(disk):
    for unit in UNITS:
        disk.cell("trange", unit, 1, [0.3, 0.7])
    refuses(disk, "trials overlap", "scene 0 at [0.0, 0.4]", "scene 1 at [0.3, 0.7]")


def test_trial_inside_a_longer_earlier_one(disk):
    for unit in UNITS:
        disk.cell("trange", unit, 0, [0.0, 9.0])
    refuses(disk, "trials overlap", "scene 0 at [0.0, 9.0]")


@pytest.mark.parametrize("trange", [[1.0, np.nan], [1.4, 1.0], [1.0, 1.0], [1.0], [1.0, 1.2, 1.4], np.nan])
def test_trange_that_is_no_interval(disk, trange):
    disk.cell("trange", 5, 1, trange)
    with pytest.raises(RecordingError, match=r"unit 5, scene 1: trange is .* it must be \[start, end\]"):
        disk.responses = disk.responses[disk.responses["scene_id"] == 1]
        disk.open()


def test_unknown_tier(disk):
    disk.cell("train_vs_test", 5, 1, "oracle")
    refuses(disk, "unit 5, scene 1", "'oracle'", "train, validation, val, test")


def test_tier_that_differs_between_units(disk):
    disk.cell("train_vs_test", 5, 1, "test")
    refuses(disk, "scene 1", "train_vs_test differs between unit 2 and unit 5")


@pytest.mark.parametrize("pulse", [[1.2, 1.1], [1.1, np.nan], [np.nan, 1.2], [1.1, 1.1]])
def test_pulse_that_is_inverted_or_not_finite(disk, pulse):
    disk.cell("opto_tranges", 5, 1, [[1.0, 1.05], pulse])
    refuses(disk, "unit 5, scene 1", "light pulse", str(pulse))


@pytest.mark.parametrize("pulses", [[1.1, 1.2], np.nan, [[1.0, 1.1, 1.2]]])
def test_pulses_that_are_no_pairs(disk, pulses):
    disk.cell("opto_tranges", 5, 1, pulses)
    refuses(disk, "unit 5, scene 1", "opto_tranges")


@pytest.mark.parametrize("pulses", [[], [[1.1, 1.3]], [[1.1, 1.2], [1.3, 1.4]]])
def test_pulses_that_differ_between_units(disk, pulses):
    disk.cell("opto_tranges", 5, 1, pulses)
    refuses(disk, "scene 1", "opto_tranges differs between unit 2 and unit 5")


def hide(disk, signal: str, row: int, samples: object) -> np.ndarray:
    """Put NaN at some samples of a signal, and return what it holds."""
    values = np.array(disk.behavior.at[row, signal])
    values[samples] = np.nan
    disk.behavior.at[row, signal] = values
    return values


def test_nan_excludes_the_trial(disk):
    hide(disk, "run", 1, [3])
    hide(disk, "pupil_x", 1, [4, 5])
    hide(disk, "pupil_y", 4, slice(None))
    recording = disk.open(nan="exclude")
    exclusions = [trial.exclusion for trial in recording.trials]
    assert exclusions == ["", "NaN in run, pupil_x", "", "", "NaN in pupil_y"]
    assert np.array_equal(recording.signals(2)["run"].values, disk.behavior.at[2, "run"])
    assert open_recording("thesis", **recording.source.location).source == recording.source


def test_nan_is_interpolated(disk):
    values = hide(disk, "pupil_size", 2, [0, 7, 8])
    recording = disk.open(nan="interpolate")
    found = recording.signals(2)["pupil_size"].values
    step = (values[9] - values[6]) / 3
    assert found[[0, 7, 8]] == pytest.approx([values[1], values[6] + step, values[6] + 2 * step], rel=1e-12)
    known = ~np.isnan(values)
    assert np.array_equal(found[known], values[known])
    assert {trial.exclusion for trial in recording.trials} == {""}


def test_nan_alone_cannot_be_interpolated(disk):
    hide(disk, "run", 2, slice(None))
    refuses(disk, "run of scene 2", "24 of 24 samples are NaN", "choose nan='exclude'", nan="interpolate")


@pytest.mark.parametrize("rule", ["refuse", "exclude", "interpolate"])
def test_infinite_behaviour(disk, rule):
    disk.behavior.at[2, "run"] = np.array([0.0, np.inf, 0.0])
    refuses(disk, "run of scene 2", "sample 1 is infinite", nan=rule)


def test_padding_at_the_end_is_cut(disk):
    """All rows are padded to one length; samples are spread over the presentation as if the padding were not there."""
    plain = disk.open()
    for name in ("run", "pupil_size", "pupil_x", "pupil_y"):
        disk.behavior[name] = [np.append(values, np.full(6, np.nan)) for values in disk.behavior[name]]
    padded = disk.open()
    for name, trace in padded.signals(3).items():
        assert np.array_equal(trace.values, plain.signals(3)[name].values)
        assert np.array_equal(trace.times, plain.signals(3)[name].times)
    assert padded.source.fingerprint == plain.source.fingerprint


def test_samples_lost_at_the_end_are_no_padding(disk):
    for name in ("run", "pupil_size", "pupil_x", "pupil_y"):
        values = hide(disk, name, 1, slice(12, None))
    refuses(disk, "run of scene 1", "12 of 24 samples are NaN")
    found = disk.open(nan="interpolate").signals(1)["pupil_y"]
    assert np.array_equal(found.values, np.append(values[:12], np.full(12, values[11])))
    assert found.times == pytest.approx(1 + (np.arange(N_BINS) + 0.5) / 60)


@pytest.mark.parametrize("signal", ["run", "pupil_size", "pupil_x", "pupil_y"])
def test_nan_in_behaviour(disk, signal):
    values = np.zeros(N_BINS)
    values[[7, 9]] = np.nan
    disk.behavior.at[2, signal] = values
    refuses(disk, f"{signal} of scene 2", "2 of 24 samples are NaN", "sample 7")


def test_behaviour_of_repeats_needs_trange(disk):
    disk.behavior = disk.behavior.drop(columns="trange")
    refuses(disk, "scene 3 was shown 2 times", "trange")


def test_behaviour_without_trange_where_nothing_repeats(disk):
    disk.responses = disk.responses[disk.responses["scene_id"] != 3]
    disk.behavior = disk.behavior.drop(columns="trange")
    run = disk.open().signals(2)["run"].values
    assert np.array_equal(run, disk.behavior.at[2, "run"])


def test_missing_row_of_behaviour(disk):
    disk.behavior = disk.behavior.drop(index=4)
    refuses(disk, "scene 3 at [4.0, 4.4] s has no rows of behaviour")


def test_duplicate_row_of_behaviour(disk):
    disk.behavior = pd.concat([disk.behavior, disk.behavior.iloc[[1]]], ignore_index=True)
    refuses(disk, "scene 1 at [1.0, 1.4] s has 2 rows of behaviour")


def test_behaviour_of_another_mouse(disk):
    disk.behavior["m"] = "Mouse_0124"
    refuses(disk, "no rows for mouse Mouse_0123, series 2, experiment 4")


def test_exclude_units_that_are_unknown_or_no_numbers(disk):
    refuses(disk, "exclude_units names 7", "2 (m0123_s02_e04_u02)", "11 (m0123_s02_e04_u11)", exclude_units="7")
    refuses(disk, "exclude_units names two", exclude_units="two")
    refuses(disk, "leaves no unit", exclude_units="2, m0123_s02_e04_u05,11")


@pytest.mark.parametrize(
    ("argument", "known"),
    [("response_column", "spike_times, psth"), ("nan", "refuse, exclude, interpolate"), ("pool", "experiments")],
)
def test_arguments_of_few_values(disk, argument, known):
    refuses(disk, f"{argument} is 'all': choose one of {known}", **{argument: "all"})


def test_missing_tables(disk):
    refuses(disk, "none.pkl: no such file", responses=str(disk.folder / "none.pkl"))
    refuses(disk, "none.pkl: no such file", behavior=str(disk.folder / "none.pkl"))


# ------------------------------------------------------------------------------------------------------ histograms


def rates(unit: int, trial: int) -> np.ndarray:
    return np.random.default_rng([7, unit, trial]).uniform(0, 60, N_BINS)


@pytest.fixture
def histograms(disk: Disk) -> Disk:
    """Recording whose psth are firing rates and which has no spike times."""
    cells = zip(disk.responses["u"], disk.responses["trange"], strict=True)
    disk.responses["psth"] = [rates(unit, int(start)) for unit, (start, _) in cells]
    disk.responses = disk.responses.drop(columns="spike_times")
    return disk


def test_histograms_are_traces_at_the_middles_of_their_bins(histograms):
    recording = histograms.open()
    assert recording.response_unit == "spikes/s"
    for trial in range(len(SHOWN)):
        traces = recording.responses(trial)
        assert traces.times == pytest.approx(trial + (np.arange(N_BINS) + 0.5) / 60)
        assert np.array_equal(traces.values, [rates(unit, trial) for unit in UNITS])
        assert traces.delays is None


def test_one_of_two_columns_of_responses(disk):
    disk.responses["psth"] = [np.full(N_BINS, float(unit)) for unit in disk.responses["u"]]
    assert disk.open().response_unit == "spikes"
    chosen = disk.open(response_column="psth")
    assert chosen.response_unit == "spikes/s"
    assert np.array_equal(chosen.responses(4).values, np.outer(UNITS, np.ones(N_BINS)))
    assert disk.open(response_column="spike_times").responses(0).times[0].tolist() == spikes(2, 0).tolist()


@pytest.mark.parametrize("clock", ["of the trial", "of the recording"])
def test_histograms_at_their_own_times(histograms, clock):
    """Of 300 samples over 5 s, the first and last of which stand at its ends, the step is 5 / 299 = 0.016722 s."""
    step = np.linspace(0, DURATION, N_BINS)
    starts = [start if clock == "of the recording" else 0.0 for start, _ in histograms.responses["trange"]]
    histograms.responses["psth_t"] = [step + start for start in starts]
    recording = histograms.open()
    for trial in range(len(SHOWN)):
        assert np.array_equal(recording.responses(trial).times, trial + step)


@pytest.mark.parametrize(
    ("times", "part"),
    [
        (np.linspace(0, DURATION, N_BINS - 1), "psth_t must be 24 finite and increasing times"),
        (np.zeros(N_BINS), "psth_t must be 24 finite and increasing times"),
        (np.full(N_BINS, np.nan), "psth_t differs"),
        (np.linspace(50, 50 + DURATION, N_BINS), "psth_t lies outside the trial"),
        ("none", "not an array of numbers"),
    ],
)
def test_times_of_histograms_that_do_not_fit(histograms, times, part):
    histograms.responses["psth_t"] = [times] * len(histograms.responses)
    refuses(histograms, "scene 0 at [0.0, 0.4]", part)


def test_times_of_histograms_that_differ_between_units(histograms):
    histograms.responses["psth_t"] = [np.linspace(0, DURATION, N_BINS)] * len(histograms.responses)
    histograms.cell("psth_t", 5, 1, np.linspace(0, DURATION / 2, N_BINS))
    refuses(histograms, "scene 1 at [1.0, 1.4] s: psth_t differs between unit 2 and unit 5")


def test_unit_whose_histograms_are_zero(histograms):
    for trial in range(len(SHOWN)):
        histograms.cell("psth", 5, trial, np.zeros(N_BINS))
    refuses(histograms, "unit 5 has no firing in any trial", "exclude_units='5'")
    assert np.array_equal(histograms.open(exclude_units="5").responses(1).values, [rates(2, 1), rates(11, 1)])


@pytest.mark.parametrize("value", [np.zeros((2, 2)), np.zeros(0), None, "none"])
def test_histogram_that_is_no_array(histograms, value):
    for unit in UNITS:
        histograms.cell("psth", unit, 1, value)
    refuses(histograms, "scene 1", "psth is")


def test_nan_in_histograms(histograms):
    values = rates(5, 2)
    values[[3, 4]] = np.nan
    histograms.cell("psth", 5, 2, values)
    refuses(histograms, "psth of scene 2", "2 of 72 samples are NaN")
    excluded = histograms.open(nan="exclude")
    assert [trial.exclusion for trial in excluded.trials] == ["", "", "NaN in psth", "", ""]
    filled = histograms.open(nan="interpolate").responses(2).values
    assert filled[1, 3] == pytest.approx(values[2] + (values[5] - values[2]) / 3, rel=1e-12)
    assert np.array_equal(filled[[0, 2]], [rates(2, 2), rates(11, 2)])


def test_fingerprint_changes_with_a_rate(histograms):
    fingerprint = histograms.open().source.fingerprint
    histograms.cell("psth", 5, 1, rates(5, 1) + 1e-9)
    assert histograms.open().source.fingerprint != fingerprint


# --------------------------------------------------------------------------------------------------------- pooling

POOLED = {"pool": "experiments", "behavior": ""}
LATER = (500.25, 400.25, 300.25, 100.25, 200.25)
"""When the other experiment showed each trial's scene: other scenes first, and the two showings of scene 3 in order."""


def later_spikes(unit: int, trial: int) -> np.ndarray:
    return LATER[trial] + np.sort(np.random.default_rng([1, unit, trial]).uniform(0, DURATION, 4))


@pytest.fixture
def pooled(disk: Disk) -> Disk:
    """Two experiments with other units (2 and 3), order and light, whose scenes are the same."""
    rows = []
    for trial, scene in enumerate(SHOWN):
        for unit in (2, 3):
            rows.append(
                {
                    "m": "Mouse_0124", "s": 1, "e": 7, "u": unit, "scene_id": scene,
                    "trange": [LATER[trial], LATER[trial] + DURATION - (0.01 if trial == 2 else 0)],
                    "train_vs_test": "test" if scene == 3 else "val" if scene == 2 else "train",
                    "spike_times": later_spikes(unit, trial), "psth": np.full(N_BINS, float(unit)),
                    "opto_tranges": [[LATER[trial] + 0.05, LATER[trial] + 0.15]] if trial in (0, 1) else [],
                }
            )  # fmt: skip
    disk.responses = pd.concat([disk.responses, pd.DataFrame(rows)], ignore_index=True)
    return disk


def test_pooled_values_of_each_group(pooled):
    recording = pooled.open(**POOLED)
    names = [f"m0123_s02_e04_u{unit:02d}" for unit in UNITS] + ["m0124_s01_e07_u02", "m0124_s01_e07_u03"]
    assert [unit.unit_name for unit in recording.units] == names
    assert [unit.unit_id for unit in recording.units] == [1, 2, 3, 4, 5]
    assert recording.opto_groups == (0, 0, 0, 1, 1)
    assert len(recording.trials) == len(SHOWN)
    for index, (trial, scene) in enumerate(zip(recording.trials, SHOWN, strict=True)):
        assert trial.condition_hash == hash_pixels(movie(scene), RATE)
        assert trial.start == float(index)
        assert trial.duration == pytest.approx(DURATION - (0.01 if index == 2 else 0), abs=1e-9)
        found = recording.responses(index).times
        for unit, times in zip(UNITS, found[:3], strict=True):
            assert np.array_equal(times, spikes(unit, index))
        for unit, times in zip((2, 3), found[3:], strict=True):
            assert times - index == pytest.approx(later_spikes(unit, index) - LATER[index], abs=1e-9)
        first, second = recording.opto_pulses(index)
        assert first == pytest.approx(np.array([[1.1, 1.2]] if index == 1 else []).reshape(-1, 2))
        lit = [[index + 0.05, index + 0.15]] if index in (0, 1) else []
        assert second == pytest.approx(np.array(lit).reshape(-1, 2), abs=1e-9)


def test_pooled_whatever_the_rows_and_again(pooled):
    recording = pooled.open(**POOLED)
    assert open_recording("thesis", **recording.source.location).source == recording.source
    pooled.responses = pooled.responses.sample(frac=1, random_state=5)
    assert pooled.open(**POOLED).source == recording.source


def test_pooled_light_of_each_group_is_in_the_fingerprint(pooled):
    fingerprint = pooled.open(**POOLED).source.fingerprint
    rows = pooled.responses.index[(pooled.responses["e"] == 7) & (pooled.responses["scene_id"] == 2)]
    for row in rows:
        pooled.responses.at[row, "opto_tranges"] = [[LATER[2], LATER[2] + 0.1]]
    assert pooled.open(**POOLED).source.fingerprint != fingerprint


def test_pooled_histograms(pooled):
    pooled.responses["psth"] = [np.full(N_BINS, float(unit)) for unit in pooled.responses["u"]]
    pooled.responses["psth_t"] = [np.linspace(0, DURATION, N_BINS)] * len(pooled.responses)
    recording = pooled.open(response_column="psth", **POOLED)
    assert np.array_equal(recording.responses(3).values, np.outer([*UNITS, 2, 3], np.ones(N_BINS)))
    assert recording.responses(3).times == pytest.approx(3 + np.linspace(0, DURATION, N_BINS), abs=1e-12)
    other = pooled.responses["e"] == 7
    pooled.responses.loc[other, "psth_t"] = pd.Series(
        [np.linspace(0.005, DURATION, N_BINS)] * len(pooled.responses), index=pooled.responses.index
    )[other]
    refuses(
        pooled, "psth of scene 0 is sampled otherwise", "mouse=Mouse_0124 series=1 experiment=7",
        response_column="psth", **POOLED,
    )  # fmt: skip


def test_pooled_experiments_that_showed_a_scene_less_often(pooled):
    starts = pooled.responses["trange"].map(lambda t: t[0])
    pooled.responses = pooled.responses[starts != LATER[4]]
    refuses(
        pooled, "scene 3 was shown 2 times in mouse=Mouse_0123 series=2 experiment=4",
        "1 times in mouse=Mouse_0124 series=1 experiment=7", **POOLED,
    )  # fmt: skip


def test_pooled_experiments_with_other_scenes(pooled):
    pooled.responses = pooled.responses[~((pooled.responses["e"] == 4) & (pooled.responses["scene_id"] == 1))]
    refuses(pooled, "scene 1 was shown 0 times in mouse=Mouse_0123", "1 times in mouse=Mouse_0124", **POOLED)


def test_pooled_experiments_with_other_tiers(pooled):
    changed = (pooled.responses["e"] == 7) & (pooled.responses["scene_id"] == 2)
    pooled.responses.loc[changed, "train_vs_test"] = "train"
    refuses(pooled, "scene 2 is in tier validation in mouse=Mouse_0123", "train in mouse=Mouse_0124", **POOLED)


def test_pooled_behaviour_is_refused(pooled):
    refuses(pooled, "behavior cannot be pooled", pool="experiments")


def test_pooled_damage_names_the_experiment(pooled):
    row = pooled.responses.index[(pooled.responses["e"] == 7) & (pooled.responses["u"] == 3)][1]
    pooled.responses.at[row, "spike_times"] = np.array([np.nan])
    refuses(pooled, "mouse=Mouse_0124 series=1 experiment=7: unit 3, scene 1", **POOLED)


def test_pooled_units_are_left_out_by_name(pooled):
    refuses(pooled, "exclude_units names 2", "m0123_s02_e04_u02, m0124_s01_e07_u02", exclude_units="2", **POOLED)
    recording = pooled.open(exclude_units="m0124_s01_e07_u02, 5", **POOLED)
    names = ["m0123_s02_e04_u02", "m0123_s02_e04_u11", "m0124_s01_e07_u03"]
    assert [unit.unit_name for unit in recording.units] == names
    assert recording.opto_groups == (0, 0, 1)


def test_pooled_mice_whose_last_characters_are_the_same(pooled):
    pooled.responses["m"] = pooled.responses["m"].replace({"Mouse_0124": "Rat_0123"})
    names = [unit.unit_name for unit in pooled.open(**POOLED).units]
    assert names[0] == "mMouse_0123_s02_e04_u02"
    assert names[3] == "mRat_0123_s01_e07_u02"


def test_selected_experiments_are_pooled(pooled):
    third = pooled.responses[pooled.responses["e"] == 7].assign(e=8)
    pooled.responses = pd.concat([pooled.responses, third], ignore_index=True)
    assert pooled.open(**POOLED).opto_groups == (0, 0, 0, 1, 1, 2, 2)
    assert pooled.open(mouse="Mouse_0124", **POOLED).opto_groups == (0, 0, 1, 1)
    refuses(pooled, "3 recordings", "pool='experiments'", behavior="")


# ------------------------------------------------------------------------------------------------ open_recording


def test_unknown_format():
    known = ", ".join(sorted(FORMATS))
    with pytest.raises(RecordingError, match=re.escape(f"unknown format 'nwbx': known are {known}")):
        open_recording("nwbx", path="a")


def test_unknown_and_missing_arguments(disk):
    with pytest.raises(RecordingError, match="unknown video; missing videos"):
        open_recording("thesis", responses="a.pkl", video="b")
