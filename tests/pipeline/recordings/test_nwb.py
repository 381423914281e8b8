"""What the NWB reader gives is what pynwb wrote, in each layout, each series on its own clock; damage is named."""

from __future__ import annotations

import gc
import re
import shutil
import sys
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import pytest

pytest.importorskip("pynwb")

from pipeline.errors import RecordingError
from pipeline.recordings.base import SpikeTimes, Traces, hash_pixels
from pipeline.recordings.nwb import NWBRecording
from tests.pipeline.recordings.write_nwb import (
    IMAGES,
    MOVIE,
    MOVIE_ORDER,
    ROWS,
    UNIT_IDS,
    behavior,
    index_series,
    light,
    link_to_series,
    movie,
    movie_by_indices,
    ophys,
    response,
    rows_into_images,
    rows_into_template,
    rows_without_indices,
    signal,
    spikes,
    units,
    write_nwb,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning:hdmf.*"),
    pytest.mark.filterwarnings("ignore::UserWarning:pynwb.*"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

SHOWN = [row for row in ROWS if row[2] >= 0]
TIERS = ["train", "validation", "train", "test", None]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "session.nwb"


def opened(path: Path, *parts, **arguments: str) -> NWBRecording:
    return NWBRecording(str(write_nwb(path, *parts)), **arguments)


@pytest.mark.parametrize(
    ("parts", "until_next"),
    [
        ((rows_into_images,), False),
        ((rows_into_template,), False),
        ((index_series, rows_without_indices), False),
        ((index_series,), True),
    ],
)
def test_still_images_in_every_layout(path, parts, until_next):
    recording = opened(path, *parts, units)
    assert [trial.start for trial in recording.trials] == [row[0] for row in SHOWN]
    wanted = [0.7, 0.8, 0.7, 0.8, 0.75] if until_next else [0.5] * 5
    np.testing.assert_allclose([trial.duration for trial in recording.trials], wanted)
    assert [trial.tier for trial in recording.trials] == ([None] * 5 if until_next else TIERS)
    for trial, row in zip(recording.trials, SHOWN, strict=True):
        frames = recording.frames(trial.condition_hash)
        np.testing.assert_array_equal(frames, IMAGES[row[2]][None, None])
        assert frames.dtype == np.uint8
        stimulus = recording.stimuli[trial.condition_hash]
        assert stimulus.frame_rate is None and stimulus.shape == frames.shape
        assert trial.condition_hash == hash_pixels(frames, None)
        assert str(row[2]) in stimulus.stimulus_name
        assert stimulus.stimulus_type == ("shown" if until_next else "scenes")
    assert recording.trials[0].condition_hash == recording.trials[2].condition_hash
    assert len(recording.stimuli) == 4


def test_a_movie_is_cut_by_rows(path):
    recording = opened(path, movie, units)
    assert len(recording.trials) == 6
    for trial, row in zip(recording.trials, ROWS, strict=True):
        first = round((row[0] - 9.95) * 20)
        np.testing.assert_array_equal(recording.frames(trial.condition_hash), MOVIE[first : first + 10][None])
        assert recording.stimuli[trial.condition_hash].frame_rate == 20.0
        assert (trial.start, trial.duration) == pytest.approx((row[0], 0.5))


def test_a_movie_in_the_order_of_an_index_series(path):
    write_nwb(path, movie_by_indices, units)
    link_to_series(path)
    recording = NWBRecording(str(path))
    assert len(recording.trials) == 3, "rows during which nothing is shown are no trials"
    for number, trial in enumerate(recording.trials):
        chosen = MOVIE_ORDER[10 * number : 10 * number + 10]
        np.testing.assert_array_equal(recording.frames(trial.condition_hash), MOVIE[chosen][None])
        assert recording.stimuli[trial.condition_hash].frame_rate == 20.0, "in spite of jitter"
    assert recording.trials[0].condition_hash == recording.trials[2].condition_hash


def test_width_before_height(path):
    recording = opened(path, rows_into_images, units, axes="width_height")
    np.testing.assert_array_equal(recording.frames(recording.trials[0].condition_hash)[0, 0], IMAGES[3].T)


def test_rows_are_chosen(path):
    with pytest.raises(RecordingError, match=r"nothing of scenes was shown in the rows with stimulus_name=grey"):
        opened(path, rows_into_images, units, rows="stimulus_name=grey")
    gc.collect()
    recording = NWBRecording(str(path), rows="tier=train")
    assert [trial.start for trial in recording.trials] == [10.0, 11.5]


def test_units_and_spikes(path):
    recording = opened(path, rows_into_images, units)
    assert recording.response_unit == "spikes"
    assert [unit.unit_id for unit in recording.units] == list(UNIT_IDS)
    assert [(unit.area, unit.layer, unit.position) for unit in recording.units] == [
        ("V1", "L4", (1.0, 2.0, float(number))) for number in range(3)
    ]
    first = min(spikes(unit)[0] for unit in UNIT_IDS)
    for margin in (0.0, 0.6, 100.0):
        for trial in recording.trials:
            found = recording.responses(trial.trial_idx, margin)
            assert isinstance(found, SpikeTimes) and found.span is not None
            assert found.span[0] == pytest.approx(max(trial.start - margin, first))
            for times, unit in zip(found.times, UNIT_IDS, strict=True):
                train = spikes(unit)
                np.testing.assert_array_equal(times, train[(train >= found.span[0]) & (train < found.span[1])])
    assert sum(len(times) for times in recording.responses(0, 100.0).times) in (449, 450)


def test_trials_outside_the_observed_intervals_are_excluded(path):
    """All are observed until 12.1 s; unit 40 is observed again from 12.2 s on, but a trial needs all of them."""
    recording = opened(path, index_series, partial(units, observed=True))
    assert [bool(trial.exclusion) for trial in recording.trials] == [False, False, True, False, False]
    assert "obs_intervals" in recording.trials[2].exclusion
    assert recording.responses(1, 5.0).span == pytest.approx((9.5, 12.1))
    assert recording.responses(3, 5.0).span == pytest.approx((12.2, 15.0))


@pytest.mark.parametrize("margin", [0.0, 0.4])
def test_every_series_keeps_its_own_clock(path, margin):
    recording = opened(path, rows_into_images, ophys, behavior)
    assert recording.response_unit == "dF/F"
    assert [(unit.unit_id, unit.area) for unit in recording.units] == [(unit, "LM") for unit in UNIT_IDS]
    for trial in recording.trials:
        start, stop = trial.start - margin, trial.start + trial.duration + margin
        traces = recording.responses(trial.trial_idx, margin)
        assert isinstance(traces, Traces) and traces.delays is None
        for unit in range(3):
            np.testing.assert_allclose(traces.values[unit], response(unit, traces.times), atol=1e-9)
        assert traces.times[0] <= start + 1e-6 and traces.times[-1] >= stop - 1e-6, "can be interpolated"
        assert len(traces.times) <= (stop - start) * 7 + 3
        signals = recording.signals(trial.trial_idx, margin)
        assert set(signals) == {"run", "pupil_size", "pupil_x", "pupil_y"}
        for name, trace in signals.items():
            np.testing.assert_allclose(trace.values, signal(name, trace.times), err_msg=name)
            assert trace.times[0] <= start + 1e-6 and trace.times[-1] >= stop - 1e-6
            assert len(trace.times) <= (stop - start) * 50 + 3


def test_the_margin_ends_where_the_recording_does(path):
    recording = opened(path, rows_into_images, ophys, behavior)
    traces = recording.responses(0, margin=50.0)
    np.testing.assert_allclose(traces.times, 9.3 + np.arange(45) / 7)
    assert len(recording.signals(0, margin=50.0)["run"].times) == 300


def test_responses_are_chosen_by_name(path):
    recording = opened(path, rows_into_images, units, ophys, responses="raw")
    traces = recording.responses(0)
    np.testing.assert_allclose(traces.values[1], response(1, traces.times) + 100)
    assert recording.response_unit == "counts"
    assert NWBRecording(str(path)).response_unit == "spikes"
    assert NWBRecording(str(path), responses="ophys").response_unit == "dF/F"


def test_behaviour_is_left_out_on_request(path):
    recording = opened(path, rows_into_images, units, behavior, running="none", pupil_size="none")
    assert set(recording.signals(0)) == {"pupil_x", "pupil_y"}
    named = NWBRecording(str(path), running="behavior/BehavioralTimeSeries/running_speed", pupil_size="diameter")
    assert set(named.signals(0)) == {"run", "pupil_size", "pupil_x", "pupil_y"}


def test_light_pulses(path):
    recording = opened(path, rows_into_images, units, light)
    assert recording.opto_groups == (0, 0, 0)
    np.testing.assert_allclose(recording.opto_pulses(0)[0], [[10.2, 10.3], [10.4, 10.41]])
    assert recording.opto_pulses(1)[0].shape == (0, 2)
    assert NWBRecording(str(path), opto="none").opto_pulses(0) == ()


def test_opened_again_it_is_the_same(path):
    recording = opened(path, rows_into_template, ophys, behavior, light, rows="tier=train")
    again = NWBRecording(**recording.source.location)
    assert again.source == recording.source and again.trials == recording.trials


def test_invalid_times_exclude(path):
    def invalid(file):
        file.add_invalid_time_interval(start_time=11.1, stop_time=11.3)

    recording = opened(path, rows_into_images, units, invalid)
    assert [bool(trial.exclusion) for trial in recording.trials] == [False, True, False, False, False]


def test_trials_beyond_a_series_are_excluded(path):
    write_nwb(path, rows_into_images, ophys)
    with h5py.File(path, "r+") as file:
        series = file["processing/ophys/DfOverF/dff"]
        short = series["data"][:25]  # the last of them at 12.73 s
        attributes = dict(series["data"].attrs)
        del series["data"]
        series["data"] = short
        series["data"].attrs.update(attributes)
    recording = NWBRecording(str(path))
    assert [bool(trial.exclusion) for trial in recording.trials] == [False] * 4 + [True]
    assert "known from 9.300 to 12.729 s only" in recording.trials[4].exclusion


class TestNaN:
    @pytest.fixture
    def path(self, path: Path) -> Path:
        write_nwb(path, rows_into_images, ophys)
        with h5py.File(path, "r+") as file:
            file["processing/ophys/DfOverF/dff/data"][12, 2] = np.nan  # at 11.01 s, in the second trial
        return path

    def test_refused_with_trial_and_unit(self, path):
        with pytest.raises(RecordingError, match=r"session.nwb, trial 1, unit 40: responses hold NaN"):
            NWBRecording(str(path))

    def test_excludes_its_trial(self, path):
        recording = NWBRecording(str(path), nan="exclude")
        assert [trial.exclusion for trial in recording.trials] == ["", "unit 40 holds NaN", "", "", ""]

    def test_interpolates(self, path):
        traces = NWBRecording(str(path), nan="interpolate").responses(1)
        at = int(np.flatnonzero(np.isclose(traces.times, 9.3 + 12 / 7))[0])
        assert traces.values[2, at] == pytest.approx(response(2, traces.times[[at - 1, at + 1]]).mean())


def edit(name: str, change):
    """Return a change of one dataset of the file, which may get another shape or type."""

    def edited(file: h5py.File) -> None:
        values, attributes = file[name][()], dict(file[name].attrs)
        del file[name]
        file[name] = change(values)
        file[name].attrs.update(attributes)

    return edited


def set_one(name: str, index, value):
    def edited(file: h5py.File) -> None:
        file[name][index] = value

    return edited


DAMAGE = {
    "image beyond the last": (
        set_one("intervals/trials/image_index", 3, 12),
        "trials, row 3: frame 12, but scenes has 12",
    ),
    "half an image": (
        edit("intervals/trials/image_index", lambda index: index + 0.5),
        "trials, row 0: 3.5 is no image",
    ),
    "unknown tier": (set_one("intervals/trials/tier", 2, "practice"), "trials, row 2: unknown tier 'practice'"),
    "row that ends before it starts": (
        set_one("intervals/trials/stop_time", 1, 10.6),
        "trials, row 1: start 10.7 s and stop 10.6 s",
    ),
    "start unknown": (set_one("intervals/trials/start_time", 4, np.nan), "trials, row 4: start nan s"),
    "spikes out of order": (set_one("units/spike_times", 160, 9.0), "unit 12: spike times must be finite and sorted"),
    "spike at NaN": (set_one("units/spike_times", 310, np.nan), "unit 40: spike times must be finite"),
    "unit twice": (set_one("units/id", 1, 11), "units: one id stands for several units"),
    "pupil times that fall": (
        set_one("processing/behavior/PupilTracking/diameter/timestamps", 50, 9.0),
        "PupilTracking/diameter: times must increase, but number 50",
    ),
    "pupil times missing": (
        edit("processing/behavior/PupilTracking/diameter/timestamps", lambda times: times[:100]),
        "PupilTracking/diameter: 180 samples, but 100 times",
    ),
    "NaN in the speed": (
        set_one("processing/behavior/BehavioralTimeSeries/running_speed/data", 60, np.nan),
        "trial 0, run: NaN",
    ),
    "one coordinate of the eye": (
        edit("processing/behavior/EyeTracking/gaze/data", lambda gaze: gaze[:, :1]),
        r"EyeTracking/gaze: shape \(150, 1\), but \(sample, x and y\)",
    ),
    "pixels of NaN": (
        edit("stimulus/templates/scenes/im3", lambda image: image * np.nan),
        "scenes: pixels hold NaN",
    ),
    "fewer traces than regions": (
        edit("processing/ophys/DfOverF/dff/data", lambda traces: traces[:, :2]),
        r"DfOverF/dff: shape \(45, 2\) for 3 regions",
    ),
    "regions beyond the table": (
        set_one("processing/ophys/DfOverF/dff/rois", 1, 9),
        "DfOverF/dff: rois point beyond the 4 rows",
    ),
}


@pytest.fixture(scope="module")
def intact(tmp_path_factory) -> Path:
    return write_nwb(tmp_path_factory.mktemp("intact") / "session.nwb", rows_into_images, units, ophys, behavior)


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_refused_by_name(path, intact, damage):
    harm, message = DAMAGE[damage]
    shutil.copy(intact, path)
    with h5py.File(path, "r+") as file:
        harm(file)
    with pytest.raises(RecordingError, match=message) as raised:
        NWBRecording(str(path), responses="ophys" if "DfOverF" in message else "")
    assert "session.nwb" in str(raised.value)


@pytest.mark.parametrize(
    ("parts", "arguments", "message"),
    [
        ((rows_into_images,), {}, "neither units with spike times nor traces of regions of interest"),
        ((rows_into_images, ophys), {"responses": "units"}, "no units with spike times"),
        (
            (rows_into_images, units, ophys),
            {"responses": "events"},
            "responses can be units, ophys/DfOverF/dff, ophys/Fluorescence/raw",
        ),
        ((units,), {}, "there are no stimuli"),
        ((movie, index_series), {"stimulus": "films"}, "stimulus can be scenes, film, shown"),
        ((movie, rows_into_template, units), {}, "scenes_presentations, trials could each be meant"),
        ((movie, units), {"intervals": "none"}, "film needs a table of intervals"),
        ((movie, units), {"index_column": "picture"}, "trials has no column picture"),
        ((rows_into_images, units), {"rows": "colour=red"}, "must be a column of trials"),
        ((rows_into_images, units, behavior), {"running": "gaze2"}, "running can be behavior/"),
        ((rows_into_images, units), {"axes": "xy"}, "axes is 'xy'"),
        ((rows_into_images, units), {"nan": "drop"}, "nan is 'drop'"),
        ((movie, units), {"frame_rate": "0"}, "frame_rate is '0'"),
    ],
)
def test_other_layouts_and_arguments_are_refused(path, parts, arguments, message):
    with pytest.raises(RecordingError, match=re.escape(message)):
        opened(path, *parts, **arguments)


def test_a_refusal_lists_what_the_file_contains(path):
    with pytest.raises(RecordingError) as raised:
        opened(path, movie, units, behavior, stimulus="scenes")
    for part in (
        "contains 3 units", "trials (start_time, stop_time, tier, stimulus_name)", "film (ImageSeries)",
        "behavior/EyeTracking/gaze (SpatialSeries)",
    ):  # fmt: skip
        assert part in str(raised.value)


def test_files_that_are_no_nwb(path):
    with pytest.raises(RecordingError, match=r"session.nwb: no such file"):
        NWBRecording(str(path))
    path.write_text("no HDF5")
    with pytest.raises(RecordingError, match=r"session.nwb cannot be read as NWB"):
        NWBRecording(str(path))
    with h5py.File(path, "w") as file:
        file["x"] = 1
    with pytest.raises(RecordingError, match=r"session.nwb cannot be read as NWB"):
        NWBRecording(str(path))


def test_without_pynwb_it_says_what_to_install(path, monkeypatch):
    write_nwb(path, rows_into_images, units)
    monkeypatch.setitem(sys.modules, "pynwb", None)
    with pytest.raises(RecordingError, match=r"pip install 'geniculate\[nwb\]'"):
        NWBRecording(str(path))


def test_unknown_trials_and_conditions(path):
    recording = opened(path, rows_into_images, units)
    with pytest.raises(RecordingError, match="has no trial 5: trials are 0 to 4"):
        recording.responses(5)
    with pytest.raises(RecordingError, match="has no condition abc"):
        recording.frames("abc")


def test_the_file_is_closed_with_the_recording(path):
    recording = opened(path, rows_into_images, units)
    del recording
    gc.collect()
    with h5py.File(path, "w"):
        pass
