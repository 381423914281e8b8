"""What is saved from numpy comes back value by value, whatever form it had; what is wrong is never written."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.errors import RecordingError
from pipeline.recordings.arrays import ArrayRecording, save_arrays
from pipeline.recordings.base import Recording, SpikeTimes, Traces, TrialValues, hash_pixels

DOCS = Path(__file__).parents[3] / "docs" / "arrays.md"
SHOWN = [2, 0, 1, 2]
N_FRAMES = (5, 8, 6)
RATE = 10.0
STARTS = np.array([1.0, 2.0, 3.5, 10.0])
SECONDS = np.array([N_FRAMES[index] / RATE for index in SHOWN])


def draws(*seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def pictures() -> np.ndarray:
    return draws(0).integers(0, 256, (3, 6, 7), dtype=np.uint8)


def movies(*channels: int) -> list[np.ndarray]:
    return [draws(1, n).integers(0, 256, (*channels, n, 6, 7), dtype=np.uint8) for n in N_FRAMES]


def numbers() -> np.ndarray:
    return draws(2).normal(size=(4, 5)).astype(np.float32)


def still(**changed: Any) -> dict[str, Any]:
    """Return the arguments of a small recording of images."""
    return {"images": pictures(), "shown": SHOWN, "responses": numbers(), "durations": 0.5} | changed


def moving(**changed: Any) -> dict[str, Any]:
    """Return the arguments of a small recording of movies, without responses."""
    return {"videos": movies(), "frame_rate": RATE, "shown": SHOWN, "starts": STARTS} | changed


def spikes() -> list[list[np.ndarray]]:
    """Return spikes from 0.2 s before to 0.2 s after each trial; unit 1 is silent."""
    return [
        [np.sort(draws(3, trial, unit).uniform(-0.2, length + 0.2, 0 if unit == 1 else 30)) for unit in range(3)]
        for trial, length in enumerate(SECONDS)
    ]


def traces(rate: float, n_units: int = 4) -> list[np.ndarray]:
    return [draws(4, trial).normal(size=(n_units, round(rate * length))) for trial, length in enumerate(SECONDS)]


def test_images_and_numbers_come_back(tmp_path):
    recording = Recording.from_arrays(
        str(tmp_path / "a"),
        **still(
            tiers=["train", None, "oracle"],
            stimulus_names=["a", "b", "c"],
            stimulus_types=np.array(["x", "y", "y"]),
            response_unit="Hz",
            unit_ids=np.array([7, 3, 4, 9, 1]),
            unit_names=["u", "v", "w", "x", "y"],
            areas=["V1", None, "LM", "V1", "V1"],
            layers=np.array(["L4"] * 5),
            positions=np.array([[1, 2, 3], [4, 5, 6], [np.nan] * 3, [0, 0, 0], [7, 8, 9]]),
            pupil_size=[1.5, 2.5, 3.5, 4.5],
        ),
    )
    for trial, index in enumerate(SHOWN):
        found = recording.trials[trial]
        pixels = recording.frames(found.condition_hash)
        assert pixels.dtype == np.uint8
        assert np.array_equal(pixels, pictures()[index][None, None])
        assert found.condition_hash == hash_pixels(pixels, None)
        assert (found.start, found.duration) == (0.5 * trial, 0.5)
        assert found.tier == ["train", None, "validation"][index]
        stimulus = recording.stimuli[found.condition_hash]
        assert (stimulus.stimulus_name, stimulus.stimulus_type) == ("abc"[index], "xyy"[index])
        assert (stimulus.shape, stimulus.frame_rate) == ((1, 1, 6, 7), None)
        values = recording.responses(trial)
        assert isinstance(values, TrialValues)
        assert values.values.dtype == np.float32
        assert np.array_equal(values.values, numbers()[trial])
        (signal,) = recording.signals(trial).items()
        assert (signal[0], signal[1].times.tolist(), signal[1].values.tolist()) == (
            "pupil_size", [0.5 * trial + 0.25], [trial + 1.5]
        )  # fmt: skip
        assert recording.opto_pulses(trial) == ()
    units = [(u.unit_id, u.unit_name, u.area, u.layer, u.position) for u in recording.units]
    assert units == [
        (7, "u", "V1", "L4", (1, 2, 3)), (3, "v", None, "L4", (4, 5, 6)), (4, "w", "LM", "L4", None),
        (9, "x", "V1", "L4", (0, 0, 0)), (1, "y", "V1", "L4", (7, 8, 9)),
    ]  # fmt: skip
    assert (recording.response_unit, recording.opto_groups) == ("Hz", ())
    assert ArrayRecording(**recording.source.location).source == recording.source


@pytest.mark.parametrize("channels", [(), (1,), (3,)])
def test_movies_and_spikes_come_back(tmp_path, channels):
    pulses = [[], [[0.1, 0.2], [0.3, 0.5]], [], [[0.0, 0.6]]]
    recording = Recording.from_arrays(
        tmp_path / "a",
        **moving(videos=movies(*channels), spike_times=spikes(), spike_margin=0.2, opto_pulses=pulses),
    )
    for trial, index in enumerate(SHOWN):
        found = recording.trials[trial]
        pixels = recording.frames(found.condition_hash)
        want = movies(*channels)[index]
        assert np.array_equal(pixels, want if channels else want[None])
        assert recording.stimuli[found.condition_hash].shape == pixels.shape
        assert (found.start, found.duration) == pytest.approx((STARTS[trial], SECONDS[trial]))
        for margin, kept in ((0.0, 0.0), (0.1, 0.1), (5.0, 0.2)):
            response = recording.responses(trial, margin)
            assert isinstance(response, SpikeTimes)
            assert response.span == (
                pytest.approx((found.start - kept, found.start + found.duration + kept)) if kept else None
            )
            for unit, times in enumerate(response.times):
                given = spikes()[trial][unit]
                near = given[(given >= -kept) & (given <= SECONDS[trial] + kept)]
                assert np.array_equal(times, near + STARTS[trial])
        (train,) = recording.opto_pulses(trial)
        assert np.allclose(train, np.reshape(pulses[trial], (-1, 2)) + STARTS[trial])
    assert (recording.response_unit, recording.opto_groups) == ("spikes", (0, 0, 0))


@pytest.mark.parametrize("form", ["list", "array"])
def test_traces_come_back(tmp_path, form):
    arrays = moving(response_rate=20, response_unit="dF/F", signal_rate=30, run=[t[0] for t in traces(30)])
    values = traces(20)
    if form == "array":  # one movie length, so that trials make one array
        values = list(draws(5).normal(size=(3, 4, 10)))
        arrays |= {
            "videos": np.stack([m[:5] for m in movies()]),
            "shown": None,
            "starts": None,
            "run": [np.ones(15)] * 3,
        }
    arrays["responses"] = np.stack(values) if form == "array" else values
    recording = Recording.from_arrays(tmp_path / "a", **arrays)
    for trial, want in enumerate(values):
        found = recording.responses(trial)
        assert isinstance(found, Traces)
        assert np.array_equal(found.values, want)
        start = 0.5 * trial if form == "array" else STARTS[trial]
        assert np.allclose(found.times, start + (np.arange(want.shape[1]) + 0.5) / 20)
        run = recording.signals(trial)["run"]
        assert np.array_equal(run.values, arrays["run"][trial])
        assert np.allclose(run.times, start + (np.arange(len(run.values)) + 0.5) / 30)


def test_samples_around_trials_are_given_on_request(tmp_path):
    """Sampled at 10 Hz from 0.3 s before each trial until 0.2 s after it."""
    lengths = [round(10 * length) + 6 for length in SECONDS]
    values = [draws(6, trial).normal(size=(2, n)) for trial, n in enumerate(lengths)]
    recording = Recording.from_arrays(
        tmp_path / "a", **moving(responses=values, response_rate=10, response_offset=-0.3, durations=SECONDS)
    )
    for trial, want in enumerate(values):
        inside, around = recording.responses(trial), recording.responses(trial, margin=0.2)
        assert np.array_equal(inside.values, want[:, 3:-2])
        assert np.allclose(inside.times, STARTS[trial] + np.arange(lengths[trial] - 5) / 10)
        assert np.array_equal(around.values, want[:, 1:])
        assert np.array_equal(recording.responses(trial, margin=9.0).values, want)


def test_images_that_are_shown_as_long_as_traces_last(tmp_path):
    recording = Recording.from_arrays(
        tmp_path / "a", **still(responses=np.ones((4, 2, 6)), response_rate=12, durations=None)
    )
    assert [trial.duration for trial in recording.trials] == [0.5] * 4


def test_the_same_pixels_are_one_condition(tmp_path):
    images = pictures()
    images[2] = images[0]
    recording = Recording.from_arrays(tmp_path / "a", **still(images=images, stimulus_names=["a", "b", "c"]))
    conditions = [trial.condition_hash for trial in recording.trials]
    assert conditions[0] == conditions[1] == conditions[3] != conditions[2]
    assert [stimulus.stimulus_name for stimulus in recording.stimuli.values()] == ["a", "b"]


def test_numbers_of_any_kind_name_the_same_movie(tmp_path):
    """30, 30.0 and numpy's 30 are one frame rate, or the same movie would be two conditions."""
    found = [
        Recording.from_arrays(tmp_path / str(i), **moving(frame_rate=rate, spike_times=spikes(), spike_margin=0.2))
        for i, rate in enumerate((10, 10.0, np.float32(10), np.int64(10)))
    ]
    assert len({tuple(recording.stimuli) for recording in found}) == 1
    assert len({recording.source.fingerprint for recording in found}) == 1


def test_saving_again_changes_nothing_and_other_arrays_are_refused(tmp_path):
    folder = save_arrays(tmp_path / "new" / "a", **still())
    before = {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.iterdir()}
    assert save_arrays(folder, **still()) == folder
    assert {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.iterdir()} == before
    with pytest.raises(RecordingError, match="a holds something else already"):
        save_arrays(folder, **still(responses=numbers() + 1))
    assert {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.iterdir()} == before
    (tmp_path / "file").write_text("")
    with pytest.raises(RecordingError, match="file is a file"):
        save_arrays(tmp_path / "file", **still())
    assert sorted(os.listdir(tmp_path)) == ["file", "new"]
    assert os.listdir(tmp_path / "new") == ["a"], "nothing is left of what was written aside"


def test_large_arrays_stay_on_disk(tmp_path):
    recording = Recording.from_arrays(
        tmp_path / "a", images=np.zeros((300, 40, 40)) + np.arange(300)[:, None, None],
        responses=draws(7).normal(size=(300, 100)), durations=0.1,
    )  # fmt: skip
    assert isinstance(recording._content.stimuli.items, np.memmap)
    assert isinstance(recording._content.responses.items, np.memmap)
    assert recording.frames(recording.trials[123].condition_hash).max() == 123


def with_one(values: np.ndarray, at: tuple[int, ...], value: float) -> np.ndarray:
    changed = np.array(values, np.float64)
    changed[at] = value
    return changed


def late(trial: int, unit: int, times: Any) -> list[list[Any]]:
    """Return spikes inside trials, but for one trial and unit."""
    changed: list[list[Any]] = [[[] for _ in range(3)] for _ in SECONDS]
    changed[trial][unit] = times
    return changed


WRONG = {
    "no stimuli": (still(images=None), "either images or videos are needed"),
    "images and videos": (still(videos=movies()), "either images or videos are needed"),
    "images of five axes": (still(images=np.ones((3, 1, 1, 6, 7))), "images, stimulus 0 has the shape (1, 1, 6, 7)"),
    "images of several sizes": (
        still(images=[np.ones((6, 7)), np.ones((6, 8)), np.ones((6, 7))]),
        "images, stimulus 1 has the shape (6, 8), stimulus or trial 0 (6, 7)",
    ),
    "channels last": (still(images=np.ones((3, 6, 7, 3))), "images have 6 channels and are 3 pixels wide"),
    "text for images": (still(images=np.full((3, 6, 7), "a")), "images, stimulus 0: dtype <U1"),
    "NaN in an image": (still(images=with_one(pictures(), (1, 2, 2), np.nan)), "stimulus 1 holds NaN or infinity"),
    "a frame rate of images": (still(frame_rate=30), "frame_rate (Hz) belongs to videos only"),
    "no frame rate": (moving(responses=numbers(), frame_rate=None), "frame_rate (Hz) is needed for videos"),
    "a frame rate in words": (moving(responses=numbers(), frame_rate="30"), "frame_rate is '30', but a number"),
    "a frame rate of 0": (moving(responses=numbers(), frame_rate=0), "frame_rate is 0.0, but must be above 0"),
    "one video as several": (moving(responses=numbers(), videos=movies()[0]), "videos, stimulus 0 has the"),
    "videos of several sizes": (
        moving(responses=numbers(), videos=[*movies()[:2], np.ones((6, 6, 8))]),
        "videos, stimulus 2 has the shape (1, 6, 6, 8)",
    ),
    "a stimulus that is not there": (still(shown=[0, 1, 3, 2]), "shown, trial 2 shows stimulus 3; stimuli are 0 to 2"),
    "a stimulus in between": (still(shown=[0, 1, 0.5, 2]), "shown: whole numbers are needed"),
    "too few trials shown": (still(shown=[0, 1, 2]), "responses of 4 trials, but there are 3"),
    "no durations": (still(durations=None), "durations are needed, for example durations=0.5"),
    "too few durations": (still(durations=[1, 1]), "durations (one a trial): shape (2,), but (4)"),
    "a duration of 0": (still(durations=[1, 1, 0, 1]), "trial 2: start 2.0 s and duration 0.0 s"),
    "trials out of order": (still(starts=[0, 2, 1, 3]), "starts, trial 2 begins before trial 1"),
    "no responses": (still(responses=None), "either responses or spike_times are needed"),
    "both kinds of responses": (still(spike_times=late(0, 0, [])), "either responses or spike_times are needed"),
    "NaN in responses": (
        still(responses=with_one(numbers(), (2, 3), np.nan)), "trial 2, unit unit_3: responses hold NaN or infinity"
    ),
    "responses of several counts": (
        still(responses=[[1, 2], [1, 2], [1, 2, 3], [1, 2]]), "responses, trial 2 has the shape (3,)"
    ),
    "responses in words": (still(responses=np.full((4, 2), "a")), "responses, trial 0: dtype <U1"),
    "traces without a rate": (moving(responses=traces(20)), "responses are sampled, so response_rate (Hz) is needed"),
    "traces and numbers": (
        moving(responses=[*traces(20)[:3], np.ones(4)], response_rate=20), "responses, trial 3 has the shape (4,)"
    ),
    "a trace that is too short": (
        moving(responses=[*traces(20)[:3], np.ones((4, 10))], response_rate=20),
        "responses, trial 3 has 10 samples at 20 Hz from 0.025 s on, but lasts 0.6 s",
    ),
    "a trace that begins late": (
        moving(responses=traces(20), response_rate=20, response_offset=0.3), "response_offset 0.3 s: samples must begin"
    ),
    "NaN in a trace": (
        moving(responses=[with_one(t, (2, 1), np.nan) for t in traces(20)], response_rate=20), "trial 0, unit unit_2"
    ),
    "a spike after its trial": (
        moving(spike_times=late(1, 2, [0.1, 0.7])), "spike_times, trial 1, unit unit_2 must be sorted, and lie between"
    ),
    "a spike that is NaN": (moving(spike_times=late(1, 2, [np.nan])), "spike_times, trial 1, unit unit_2"),
    "spikes out of order": (moving(spike_times=late(1, 0, [0.2, 0.1])), "spike_times, trial 1, unit unit_0 must be"),
    "a unit without spikes left out": (
        moving(spike_times=[[[], []], [[], []], [[]], [[], []]]), "spike_times, trial 2 has 1 units, but trial 0 has 2"
    ),
    "spikes of too few trials": (moving(spike_times=late(0, 0, [])[:3]), "spike_times of 3 trials, but there are 4"),
    "an unknown tier": (still(tiers=["train", "exam", "test"]), "tiers, stimulus 1: unknown tier 'exam'"),
    "too few tiers": (still(tiers=["train", "test"]), "tiers has 2 entries, but there are 3 stimuli"),
    "too few names": (still(unit_names=["a"]), "unit_names has 1 entries, but there are 5 units"),
    "a name that is a number": (still(unit_names=[1, 2, 3, 4, 5]), "unit_names, entry 0 is 1, but text is needed"),
    "a missing name": (still(stimulus_names=["a", None, "c"]), "stimulus_names, entry 1 is None"),
    "an id that repeats": (still(unit_ids=[1, 2, 2, 3, 4]), "unit_id 2"),
    "an id in between": (still(unit_ids=[1, 2, 2.5, 3, 4]), "unit_ids, entry 2 is 2.5, but a whole number is needed"),
    "positions of two axes": (still(positions=np.ones((5, 2))), "positions, entry 0 is [1.0, 1.0], but x, y and z"),
    "behaviour of too few trials": (still(run=[1, 2, 3]), "run of 3 trials, but there are 4"),
    "behaviour that is NaN": (still(run=[1, 2, np.nan, 4]), "trial 2, run: NaN or infinity"),
    "behaviour without a rate": (still(run=np.ones((4, 9))), "run are sampled, so signal_rate (Hz) is needed"),
    "light of too few trials": (still(opto_pulses=[[], []]), "opto_pulses of 2 trials, but there are 4"),
    "light of three columns": (still(opto_pulses=[[], [[0, 1, 2]], [], []]), "opto_pulses, trial 1 (pulse, start"),
    "light that ends before it begins": (still(opto_pulses=[[], [], [[1, 0]], []]), "trial 2: light pulses must be"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_wrong_arrays_are_refused_by_name_and_nothing_is_written(tmp_path, case):
    arrays, message = WRONG[case]
    with pytest.raises(RecordingError, match=re.escape(message)) as refused:
        save_arrays(tmp_path / "a", **arrays)
    assert str(tmp_path / "a") in str(refused.value)
    assert not os.listdir(tmp_path)


def describe(folder: Path, **changed: Any) -> None:
    path = folder / "recording.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))


DAMAGE = {
    "no description": (lambda d: (d / "recording.json").unlink(), "recording.json: no such file"),
    "a description that is no JSON": (lambda d: (d / "recording.json").write_text("{"), "recording.json is no JSON"),
    "another format": (lambda d: describe(d, format="other"), "recording.json: a JSON object with"),
    "another version": (lambda d: describe(d, version=2), '"version": 1} is needed'),
    "an unknown field": (lambda d: describe(d, tier=["test"]), "unknown field 'tier'; known are frame_rate"),
    "a column that is no list": (lambda d: describe(d, areas="V1"), "areas is 'V1', but a list is needed"),
    "a rate that is true": (lambda d: describe(d, frame_rate=True), "frame_rate is True, but a number is needed"),
    "an unknown array": (lambda d: np.save(d / "pupil.npy", [1]), "pupil.npy: no array of a recording is called so"),
    "videos are missing": (lambda d: (d / "videos.npy").unlink(), "either images.npy or videos.npy is needed"),
    "counts are missing": (lambda d: (d / "videos_counts.npy").unlink(), "videos_counts.npy: no such file"),
    "starts are missing": (lambda d: (d / "starts.npy").unlink(), "starts.npy: no such file"),
    "a file is cut off": (
        lambda d: (d / "videos.npy").write_bytes((d / "videos.npy").read_bytes()[:-1]),
        "videos.npy (videos) cannot be read",
    ),
    "counts that do not add up": (
        lambda d: np.save(d / "videos_counts.npy", [5, 8, 7]),
        "videos_counts.npy: counts of shape (3,) that add up to 20, but",
    ),
    "a negative count": (lambda d: np.save(d / "videos_counts.npy", [-1, 14, 6]), "counts must be at least 0"),
    "spikes of units joined": (lambda d: np.save(d / "spike_times_counts.npy", [360]), "and have 2 axes"),
    "spikes of two trials": (
        lambda d: np.save(d / "spike_times_counts.npy", [[60, 60], [60, 60]]),
        "spike_times of 2 trials, but there are 4",
    ),
    "videos without channels": (
        lambda d: np.save(d / "videos.npy", np.ones((19, 6, 7))),
        "videos.npy: shape (19, 6, 7), but (any, any, any, any) is needed",
    ),
    "text for starts": (lambda d: np.save(d / "starts.npy", ["a"] * 4), "starts.npy: dtype <U1"),
    "pickled responses": (
        lambda d: np.save(d / "run.npy", np.array([{}]), allow_pickle=True), "run.npy (run) cannot be read"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", DAMAGE)
def test_damaged_folders_are_refused_by_name(tmp_path, case):
    damage, message = DAMAGE[case]
    folder = save_arrays(tmp_path / "a", **moving(spike_times=spikes(), spike_margin=0.2))
    ArrayRecording(str(folder))
    damage(folder)
    with pytest.raises(RecordingError, match=re.escape(message)):
        ArrayRecording(str(folder))


def test_a_folder_written_elsewhere_is_read(tmp_path):
    """MATLAB writes columns first and whole numbers as floats."""
    saved = Recording.from_arrays(tmp_path / "a", **moving(responses=traces(20), response_rate=20))
    for name in ("videos", "responses", "videos_counts", "responses_counts", "shown"):
        path = tmp_path / "a" / f"{name}.npy"
        values = np.load(path)
        np.save(path, np.asfortranarray(values.astype(float) if values.ndim == 1 else values))
    read = ArrayRecording(str(tmp_path / "a"))
    assert np.load(tmp_path / "a" / "videos.npy").flags.f_contiguous
    assert read.source.fingerprint == saved.source.fingerprint
    for condition in saved.stimuli:
        assert np.array_equal(read.frames(condition), saved.frames(condition))


def test_unknown_conditions_and_trials(tmp_path):
    recording = Recording.from_arrays(tmp_path / "a", **still())
    with pytest.raises(RecordingError, match="no condition abc"):
        recording.frames("abc")
    for ask in (recording.responses, recording.signals, recording.opto_pulses):
        with pytest.raises(RecordingError, match="no trial 4: trials are 0 to 3"):
            ask(4)


def test_the_example_in_the_documentation_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
    assert len(blocks) == 3
    names: dict[str, Any] = {}
    exec("\n".join(blocks[:1]), names)
    assert capsys.readouterr().out == "25 units, 60 stimuli, 87 trials\n"
    exec(blocks[1], names)
    movie = names["recording"]
    assert [trial.tier for trial in movie.trials] == ["train", "train", "validation", "test", "test", "test"]
    assert np.allclose(movie.opto_pulses(5)[0], [[16.7, 16.9], [17.7, 17.9]])
    exec(blocks[2], names)
    assert names["recording"].responses(0).values.shape == (25,)
