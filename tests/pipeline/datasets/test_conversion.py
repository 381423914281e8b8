from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from skimage.transform import downscale_local_mean

from pipeline.datasets.conversion import convert
from pipeline.datasets.preprocessing import Image, Movie
from pipeline.datasets.store import StoredDataset
from pipeline.datasets.windows import window_of
from pipeline.errors import ConfigurationError, DatasetError
from pipeline.recordings.base import Recording, Responses, SpikeTimes, Stimulus, Trace, Traces, Trial, TrialValues, Unit

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
    assert stored.metadata["behavior"] == ["pupil_size", "run"]
    assert stored.metadata["response_unit"] == "spikes/bin"
    assert stored.metadata["opto_groups"] == [0] * 5
    assert not any(stored.withheld)
    made = simulated.conversion
    assert (made.n_trials, made.n_withheld, made.n_bins) == (19, 0, 19 * 300)
    assert made.n_conditions == len(set(stored.condition_hash))


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
    assert simulated.conversion.totals == tuple(spikes)
    assert spikes.min() > 100


def test_light_and_behaviour_equal_the_source_table(simulated: Any, stored: StoredDataset) -> None:
    table = pd.read_pickle(simulated.folder / "resp_behav_df.pkl")
    by_start = {row.trange[0]: row for row in table.itertuples()}
    lit = 0
    for row, index in enumerate(stored.trial_idx):
        source = by_start[simulated.recording.trials[index].start]
        np.testing.assert_array_equal(stored.tensor("optogenetic_signal", row), source.bin_opto[None])
        lit += source.bin_opto.any()
        for tensor, names in (("behavior", ("pupil_size", "run")), ("pupil_location", ("pupil_x", "pupil_y"))):
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
    for tensor, names in (("behavior", ("pupil_size", "run")), ("pupil_location", ("pupil_x", "pupil_y"))):
        values = np.concatenate([stored.tensor(tensor, r) for r in train], axis=1).astype(float)
        expected |= {name: values[i : i + 1] for i, name in enumerate(names)}
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert found[name].keys() == {"all"}
        np.testing.assert_allclose(found[name]["all"]["mean"], values.mean(1), rtol=1e-6)
        np.testing.assert_allclose(found[name]["all"]["std"], values.std(1, ddof=1), rtol=1e-6)
    np.testing.assert_allclose(simulated.conversion.responses.std, found["responses"]["all"]["std"])
    every = np.concatenate([stored.tensor("responses", r) for r in range(len(stored.tier))], axis=1)
    assert np.abs(np.subtract(found["responses"]["all"]["mean"], every.mean(1))).min() > 1e-5


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
    tiers = dict(zip(recording.hashes, ("train", "validation", "test"), strict=True))
    convert(recording, SMALL, tiers, tmp_path / "data")
    inputs = StoredDataset(tmp_path / "data").metadata["statistics"]["inputs"]
    assert inputs == {"all": {"mean": [7.0], "std": [0.0]}}


def test_repeats_of_a_movie_get_one_length(handmade: Callable[..., Any], tmp_path: Path) -> None:
    recording = handmade(movies((12, 9)), silence(3), shown=[0, 1, 0])
    short = recording.trials[2]
    object.__setattr__(short, "duration", 10.2 / 60)  # the third presentation was cut short
    convert(recording, SMALL, dict.fromkeys(recording.hashes, "train"), tmp_path / "data")
    stored = StoredDataset(tmp_path / "data")
    assert [stored.tensor("responses", row).shape for row in range(3)] == [(2, 10), (2, 9), (2, 10)]
    assert [stored.stimulus(h).shape[1] for h in recording.hashes] == [10, 9]


def test_progress_counts_trials(handmade: Callable[..., Any], tmp_path: Path) -> None:
    recording, seen = handmade(movies(), silence(3)), []
    tiers = dict.fromkeys(recording.hashes, "train")
    convert(recording, SMALL, tiers, tmp_path / "data", (1,), lambda done, of: seen.append((done, of)))
    assert seen == [(1, 2), (2, 2)]


def test_signals_decide_which_tensors_there_are(handmade: Callable[..., Any], tmp_path: Path) -> None:
    bare = handmade(movies(), silence(3))
    tiers = dict.fromkeys(bare.hashes, "train")
    made = convert(bare, SMALL, tiers, tmp_path / "bare")
    assert StoredDataset(tmp_path / "bare").tensors == ("responses", "optogenetic_signal")
    assert [t.tensor for t in made.tensors] == ["videos", "responses", "optogenetic_signal"]
    running = handmade(movies(), silence(3), signals=[run(), run(), run()])
    made = convert(running, SMALL, tiers, tmp_path / "running")
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
        convert(recording, SMALL, tiers, tmp_path / "data")
    assert not (tmp_path / "data").exists()
    convert(recording, SMALL, tiers, tmp_path / "data", excluded=(without,))


def test_tiers_are_needed(handmade: Callable[..., Any], tmp_path: Path) -> None:
    recording = handmade(movies(), silence(3))
    first, second, third = recording.hashes
    with pytest.raises(DatasetError, match=f"trial 1: its condition {second[:12]} has no tier"):
        convert(recording, SMALL, {first: "train", third: "test"}, tmp_path / "data")
    with pytest.raises(DatasetError, match=r"trial 2: .* has the unknown tier 'oracle'"):
        convert(recording, SMALL, {first: "train", second: "test", third: "oracle"}, tmp_path / "data")
    with pytest.raises(DatasetError, match="no trial with responses is in the training tier"):
        convert(recording, SMALL, dict.fromkeys(recording.hashes, "test"), tmp_path / "data")
    with pytest.raises(DatasetError, match="no trial with responses is in the training tier"):
        convert(recording, SMALL, dict.fromkeys(recording.hashes, "train"), tmp_path / "data", (0, 1, 2))
    assert list(tmp_path.iterdir()) == []
    convert(recording, SMALL, {first: "train", third: "test"}, tmp_path / "data", excluded=(1,))
    assert StoredDataset(tmp_path / "data").tier == ["train", "test"]


class Made(Recording):
    """Whatever a test says: pixels and frame rates by name, and functions of a trial and margin."""

    source_format = "made"

    def __init__(
        self,
        stimuli: dict[str, tuple[np.ndarray, float | None]],
        trials: list[tuple[str, float, float]],
        responses: Callable[[Trial, float], Responses],
        signals: Callable[[Trial, float], dict[str, Trace]] = lambda trial, margin: {},
        pulses: Callable[[Trial], tuple[np.ndarray, ...]] = lambda trial: (),
        units: int = 2,
        marks: dict[int, dict[str, Any]] | None = None,
        types: dict[str, str] | None = None,
    ) -> None:
        self._pixels = {name: pixels for name, (pixels, _) in stimuli.items()}
        self._responses, self._signals, self._pulses = responses, signals, pulses
        self.units = tuple(Unit(i, f"unit {i}") for i in range(units))
        self.opto_groups = tuple(i % 2 for i in range(units))
        self.response_unit = "dF/F"
        types = types or {}
        self.stimuli = {
            name: Stimulus(name, rate, pixels.shape, f"the {name}", types.get(name, ""))
            for name, (pixels, rate) in stimuli.items()
        }
        self.trials = tuple(
            Trial(i, name, start, duration, None, **(marks or {}).get(i, {}))
            for i, (name, start, duration) in enumerate(trials)
        )

    def frames(self, condition_hash: str) -> np.ndarray:
        return self._pixels[condition_hash]

    def responses(self, trial_idx: int, margin: float = 0.0) -> Responses:
        assert not self.trials[trial_idx].withheld, "nobody may ask for these"
        return self._responses(self.trials[trial_idx], margin)

    def signals(self, trial_idx: int, margin: float = 0.0) -> dict[str, Trace]:
        return self._signals(self.trials[trial_idx], margin)

    def opto_pulses(self, trial_idx: int) -> tuple[np.ndarray, ...]:
        return self._pulses(self.trials[trial_idx])


def pixels(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


MIXED: dict[str, tuple[np.ndarray, float | None]] = {
    "image": (pixels(1, 1, 6, 8), None),
    "video": (pixels(1, 9, 6, 8, seed=1), 30.0),
    "blank": (np.full((1, 1, 6, 8), 128, np.uint8), None),
}
SHOWN = [("image", 10.0, 0.5), ("video", 11.0, 0.3), ("blank", 12.0, 0.2), ("image", 13.0, 0.45)]
DELAYS = np.array([0.0, 0.03])


def ramps(trial: Trial, margin: float) -> Traces:
    times = np.arange(trial.start - margin, trial.start + trial.duration + margin, 0.1)
    return Traces(times, np.stack([times, -times]), DELAYS)


def converted(recording: Made, preprocessing: Any, path: Path, tiers: dict[str, str] | None = None) -> StoredDataset:
    convert(recording, preprocessing, tiers or dict.fromkeys(recording.stimuli, "train"), path / "data")
    return StoredDataset(path / "data")


def test_images_videos_and_blanks_make_one_movie_dataset(tmp_path: Path) -> None:
    recording = Made(MIXED, SHOWN, ramps, types={"image": "natural", "video": "movie"})
    stored = converted(recording, Movie(frame_rate=20.0, height=6, width=8), tmp_path)
    bins = [9, 6, 4, 9]  # both showings of the image are as long as the shorter one
    assert stored.bins == bins
    assert stored.stimulus_tensor == "videos"
    assert stored.stimulus_type == ["natural", "movie", "", "natural"]
    np.testing.assert_array_equal(stored.stimulus("image"), np.repeat(MIXED["image"][0], 9, axis=1))
    assert (stored.stimulus("blank") == 128).all()
    # frames of 30 Hz at the centres of bins of 20 Hz: (k + 1/2) * 1.5 = 0.75, 2.25, 3.75, 5.25, 6.75, 8.25
    np.testing.assert_array_equal(stored.stimulus("video"), MIXED["video"][0][:, [0, 2, 3, 5, 6, 8]])
    for row, (_, start, _) in enumerate(SHOWN):
        at = start + (np.arange(bins[row]) + 0.5) / 20 - DELAYS[:, None]
        np.testing.assert_allclose(stored.tensor("responses", row), at * [[1], [-1]], atol=1e-5)
    assert stored.metadata["response_unit"] == "dF/F"
    assert stored.metadata["statistics"]["responses"].keys() == {"all", "natural", "movie"}
    assert stored.metadata["statistics"]["inputs"]["natural"]["mean"] == [pytest.approx(MIXED["image"][0].mean())]


def test_responses_may_begin_later_than_frames(tmp_path: Path) -> None:
    spikes = [np.array([11.0, 11.07, 11.12, 11.32]), np.array([11.35, 11.37])]

    def known(until: float) -> Callable[[Trial, float], SpikeTimes]:
        return lambda trial, margin: SpikeTimes(tuple(spikes), (trial.start - margin, until))

    movie = Movie(frame_rate=20.0, height=6, width=8, response_offset=0.06)
    signals = {"run": Trace(np.arange(10.0, 13.0, 0.1), np.arange(10.0, 13.0, 0.1))}
    shown = {"video": MIXED["video"]}
    for until, bins in ((11.4, 6), (11.3, 4)):
        (tmp_path / f"{until}").mkdir()
        recording = Made(shown, [("video", 11.0, 0.3)], known(until), lambda trial, margin: signals)
        stored = converted(recording, movie, tmp_path / f"{until}")
        # bins from 11.06, 11.11, 11.16, 11.21, 11.26, 11.31 to 11.36; those that nobody recorded are left out
        expected = np.array([[1, 1, 0, 0, 0, 1], [0, 0, 0, 0, 0, 1]])
        np.testing.assert_array_equal(stored.tensor("responses", 0), expected[:, :bins])
        np.testing.assert_allclose(stored.tensor("behavior", 0)[0], 11 + (np.arange(bins) + 0.5) / 20, atol=1e-5)
        assert stored.stimulus("video").shape[1] == bins


def test_rates_and_waveforms_of_spikes(tmp_path: Path) -> None:
    asked = []

    def spikes(trial: Trial, margin: float) -> SpikeTimes:
        asked.append(margin)
        return SpikeTimes((np.array([trial.start - 0.05]), np.array([trial.start + 0.02, trial.start + 0.03])))

    recording = Made({"video": MIXED["video"]}, [("video", 11.0, 0.3)], spikes)
    for name in ("count", "rate"):
        (tmp_path / name).mkdir()
    counts = converted(recording, Movie(frame_rate=20.0, height=6, width=8), tmp_path / "count")
    assert counts.tensor("responses", 0).tolist() == [[0] * 6, [2, 0, 0, 0, 0, 0]]
    movie = Movie(frame_rate=20.0, height=6, width=8, response="rate", waveform="exponential", waveform_decay=0.2)
    rates = converted(recording, movie, tmp_path / "rate")
    assert asked[-1] >= 15 * 0.2
    edges = np.arange(7) / 20
    since = np.clip(edges + 0.05, 0, None), np.clip(edges - 0.02, 0, None), np.clip(edges - 0.03, 0, None)
    first, second, third = (np.diff(1 - np.exp(-t / 0.2)) * 20 for t in since)
    np.testing.assert_allclose(rates.tensor("responses", 0), [first, second + third], rtol=1e-5)
    assert (counts.metadata["response_unit"], rates.metadata["response_unit"]) == ("spikes/bin", "spikes/s")


def test_withheld_trials_are_stored_without_responses_and_count_nowhere(tmp_path: Path) -> None:
    def signals(trial: Trial, margin: float) -> dict[str, Trace]:
        return {"run": Trace(np.array([trial.start]), np.array([float(trial.trial_idx)]))}

    for preprocessing, stimulus in ((Movie(frame_rate=20.0, height=6, width=8), "video"), (Image(), "image")):
        shown = [(stimulus, 10.0, 0.3), ("blank", 12.0, 0.3), (stimulus, 14.0, 0.3), ("blank", 16.0, 0.3)]
        marks: dict[int, dict[str, Any]] = {0: {"withheld": True}, 1: {"withheld": True}, 3: {"exclusion": "eye shut"}}
        recording = Made({n: MIXED[n] for n in (stimulus, "blank")}, shown, ramps, signals, marks=marks)
        path = tmp_path / stimulus
        made = convert(recording, preprocessing, {stimulus: "train", "blank": "final"}, path)
        stored = StoredDataset(path)
        assert (made.n_trials, made.n_withheld, made.n_conditions) == (3, 2, 2)
        assert stored.trial_idx == [0, 1, 2]
        assert stored.withheld == [True, True, False]
        assert stored.tier == ["train", "final", "train"]
        assert stored.rows("train") == [2]
        for row in (0, 1):
            hidden = stored.tensor("responses", row)
            assert hidden.shape == stored.tensor("responses", 2).shape
            assert np.isnan(hidden).all()
            assert (stored.tensor("behavior", row) == row).all()
        seen = stored.tensor("responses", 2).reshape(2, -1).astype(float)
        np.testing.assert_allclose(made.totals, seen.sum(1))
        found = stored.metadata["statistics"]
        np.testing.assert_allclose(found["responses"]["all"]["mean"], seen.mean(1))
        assert found["run"]["all"] == {"mean": [2.0], "std": [0.0]}
        # the training stimulus was first seen in a withheld trial
        assert found["inputs"]["all"]["mean"] == [pytest.approx(stored.stimulus(stimulus).mean())]
        with pytest.raises(DatasetError, match="no trial with responses is in the training tier"):
            convert(recording, preprocessing, {stimulus: "final", "blank": "train"}, tmp_path / "none")


def test_trains_of_light_and_their_units(tmp_path: Path) -> None:
    def pulses(trial: Trial) -> tuple[np.ndarray, ...]:
        on = trial.start + np.array([[0.1, 0.2]])
        return on, np.empty((0, 2)), on + 0.15

    shown = [("image", 10.0, 0.4)]
    recording = Made({"image": MIXED["image"]}, shown, ramps, pulses=pulses)
    for name in ("movie", "image", "uneven"):
        (tmp_path / name).mkdir()
    movie = converted(recording, Movie(frame_rate=20.0, height=6, width=8), tmp_path / "movie")
    expected = [[0, 0, 1, 1, 0, 0, 0, 0], [0] * 8, [0, 0, 0, 0, 0, 1, 1, 0]]
    assert movie.tensor("optogenetic_signal", 0).tolist() == expected
    assert movie.metadata["opto_groups"] == [0, 1]
    image = Image(offset=0.0, duration=0.3, window="box", height=6, width=8)
    one = converted(recording, image, tmp_path / "image").tensor("optogenetic_signal", 0)
    np.testing.assert_allclose(one, [0.1 / 0.3, 0, 0.05 / 0.3], rtol=1e-5)
    uneven = Made(MIXED, SHOWN, ramps, pulses=lambda trial: pulses(trial)[trial.trial_idx :])
    with pytest.raises(DatasetError, match="trial 1 has 2 trains of light, the first has 3"):
        converted(uneven, Movie(), tmp_path / "uneven")


STILLS: dict[str, tuple[np.ndarray, float | None]] = {f"s{i}": (pixels(1, 1, 12, 16, seed=i), None) for i in range(3)}
STILLS_SHOWN = [("s0", 10.0, 0.5), ("s1", 11.0, 0.5), ("s2", 12.0, 0.5), ("s0", 13.0, 0.5)]


def behaving(trial: Trial, margin: float) -> dict[str, Trace]:
    times = np.arange(trial.start - margin, trial.start + trial.duration + margin, 0.05)
    return {
        "run": Trace(times, np.where(times < trial.start + 0.3, -2.0, 2.0)),
        "pupil_size": Trace(times, 3 * times),
        "pupil_x": Trace(times, times),
        "pupil_y": Trace(np.array([trial.start]), np.array([7.0])),
    }


def test_images_have_one_response_and_one_value_of_each_signal(tmp_path: Path) -> None:
    recording = Made(STILLS, STILLS_SHOWN, ramps, behaving, types={"s0": "a", "s1": "b", "s2": "a"})
    made = convert(recording, Image(height=6, width=8), {"s0": "train", "s1": "train", "s2": "test"}, tmp_path / "data")
    stored = StoredDataset(tmp_path / "data")
    assert (stored.stimulus_tensor, stored.bins, stored.metadata["frame_rate"]) == ("images", [1] * 4, None)
    assert stored.metadata["behavior"] == ["pupil_size", "pupil_derivative", "run"]
    blocks = STILLS["s1"][0].reshape(1, 6, 2, 8, 2).mean((2, 4))
    assert stored.stimulus("s1").dtype == np.uint8
    assert np.abs(stored.stimulus("s1") - blocks).max() <= 0.5
    centres = np.array([start for _, start, _ in STILLS_SHOWN]) + 0.3
    for row, centre in enumerate(centres):
        np.testing.assert_allclose(stored.tensor("responses", row), [centre, -centre + 0.03], rtol=1e-6)
        # running counts as speed: with its direction it would average to 0 here
        np.testing.assert_allclose(stored.tensor("behavior", row), [3 * centre, 3, 2], rtol=1e-5)
        np.testing.assert_allclose(stored.tensor("pupil_location", row), [centre, 7], rtol=1e-6)
    found, train = stored.metadata["statistics"], [0, 1, 3]
    np.testing.assert_allclose(found["responses"]["all"]["std"], [centres[train].std(ddof=1)] * 2, rtol=1e-5)
    np.testing.assert_allclose(found["responses"]["a"]["mean"], [centres[[0, 3]].mean(), 0.03 - centres[[0, 3]].mean()])
    shown = np.stack([stored.stimulus(name) for name in ("s0", "s1")]).astype(float)
    assert found["inputs"]["all"]["std"] == [pytest.approx(shown.std(ddof=1))]
    assert found["inputs_per_image"]["all"]["std"] == [pytest.approx(shown.reshape(2, -1).std(1, ddof=1).mean())]
    assert found.keys() == {
        "inputs", "inputs_per_image", "responses", "pupil_size", "pupil_derivative", "run", "pupil_x", "pupil_y"
    }  # fmt: skip
    described = {t.tensor: (t.tensor_dtype, t.tensor_dimensions, t.tensor_unit) for t in made.tensors}
    assert described["images"] == ("uint8", "channel, height, width", "grey value, 0 to 255")
    assert described["responses"] == ("float32", "unit", "dF/F")
    assert described["behavior"][1] == "channel (pupil_size, pupil_derivative, run)"


def test_spikes_after_images(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    every = [np.sort(rng.uniform(8, 16, n)) for n in (300, 40)]

    def spikes(trial: Trial, margin: float) -> SpikeTimes:
        span = (trial.start - margin, trial.start + trial.duration + margin)
        return SpikeTimes(tuple(t[(t >= span[0]) & (t < span[1])] for t in every), span)

    recording = Made(STILLS, STILLS_SHOWN, spikes)
    for window, response in itertools.product(("box", "hamming"), ("count", "rate")):
        image = Image(window=window, response=response, height=6, width=8)
        stored = converted(recording, image, tmp_path)
        for row, (_, start, _) in enumerate(STILLS_SHOWN):
            expected = window_of(image).spikes(every, start)
            if window == "box":
                assert expected.tolist() == [((t >= start + 0.05) & (t < start + 0.55)).sum() for t in every]
            expected = expected / 0.5 if response == "rate" else expected
            np.testing.assert_allclose(stored.tensor("responses", row), expected, rtol=1e-6)


def test_what_is_given_once_a_trial_is_stored_as_it_is(tmp_path: Path) -> None:
    def once(trial: Trial, margin: float) -> dict[str, Trace]:
        return {"pupil_size": Trace(np.array([trial.start]), np.array([4.0 + trial.trial_idx]))}

    recording = Made(STILLS, STILLS_SHOWN, lambda trial, margin: TrialValues(np.array([0.5, trial.trial_idx])), once)
    stored = converted(recording, Image(height=6, width=8), tmp_path)
    for row in range(4):
        assert stored.tensor("responses", row).tolist() == [0.5, row]
        assert stored.tensor("behavior", row).tolist() == [4.0 + row]
    assert stored.metadata["behavior"] == ["pupil_size"]  # one sample has no derivative


def test_pixels_go_through_all_settings(tmp_path: Path) -> None:
    colors: dict[str, tuple[np.ndarray, float | None]] = {
        "s0": (pixels(3, 1, 14, 18), None), "s1": (pixels(3, 1, 14, 18, seed=1), None),
    }  # fmt: skip
    recording = Made(colors, STILLS_SHOWN[:2], ramps)
    calibration = {"monitor": "gamma", "monitor_amplitude": 0.01, "monitor_gamma": 2.0, "monitor_offset": 1.0}
    image = Image(height=6, width=8, color="green", crop=(2, 0, 1, 1), **calibration)
    made = convert(recording, image, dict.fromkeys(colors, "train"), tmp_path / "data")
    stored = StoredDataset(tmp_path / "data")
    light = 0.01 * colors["s1"][0][1:2, 0, 2:, 1:-1].astype(float) ** 2 + 1
    np.testing.assert_allclose(stored.stimulus("s1"), light.reshape(1, 6, 2, 8, 2).mean((2, 4)), rtol=1e-5)
    assert (made.tensors[0].tensor_dtype, made.tensors[0].tensor_unit) == ("float32", "cd/m2")


@pytest.mark.parametrize(
    ("preprocessing", "changes", "complaint"),
    [
        (Image(), {}, "trial 1 shows the video the video: preprocess with Movie"),
        (
            Movie(),
            {"responses": lambda trial, margin: TrialValues(np.zeros(2))},
            "trial 0: the recording has one response of each unit a trial.*preprocess with Image",
        ),
        (Movie(frame_rate=3.0), {}, r"trial 1 with its responses is shorter than a bin of 0\.333333 s"),
        (
            Movie(),
            {"responses": lambda trial, margin: ramps(dataclasses.replace(trial, start=trial.start - 0.4), 0.0)},
            r"trial 0: responses from 10\.000 to 10\.450 s are needed, but there are samples from 9\.600 to",
        ),
        (
            Movie(),
            {"stimuli": {**MIXED, "video": (pixels(3, 9, 6, 8), 30.0)}},
            "trial 1: stimulus the video has 3 channels of uint8, those before it 1 of uint8: choose a color",
        ),
        (Movie(crop=(3, 3, 0, 0)), {}, "stimulus the image has 6 x 8 pixels, of which the crop"),
    ],
)
def test_what_does_not_fit_is_refused(
    tmp_path: Path, preprocessing: Any, changes: dict[str, Any], complaint: str
) -> None:
    recording = Made(**{"stimuli": MIXED, "trials": SHOWN, "responses": ramps, **changes})
    with pytest.raises(DatasetError, match=complaint):
        converted(recording, preprocessing, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_waveform_needs_spikes(tmp_path: Path) -> None:
    recording = Made(MIXED, SHOWN, ramps)
    with pytest.raises(ConfigurationError, match=r"trial 0: Movie\.waveform is 'alpha', but the recording has no"):
        converted(recording, Movie(waveform="alpha"), tmp_path)


@pytest.mark.parametrize(
    ("image", "responses", "signals", "complaint"),
    [
        (
            Image(window="box"),
            lambda trial, margin: SpikeTimes((np.empty(0),) * 2),
            lambda trial, margin: {},
            r"trial 0: responses from 10\.050 to 10\.550 s are needed, .* from 10\.000 to 10\.500 s: choose a smaller",
        ),
        (
            Image(offset=0.3),
            lambda trial, margin: ramps(trial, 0.0),
            lambda trial, margin: {},
            r"trial 0: responses are needed at 10\.550 s, the centre of the window, but reach from 10\.030",
        ),
        (
            Image(offset=0.3),
            ramps,
            lambda trial, margin: behaving(trial, 0.0),
            r"trial 0: pupil_size are needed at 10\.550 s",
        ),
    ],
)
def test_windows_must_lie_where_something_was_recorded(
    tmp_path: Path, image: Image, responses: Any, signals: Any, complaint: str
) -> None:
    with pytest.raises(DatasetError, match=complaint):
        converted(Made(STILLS, STILLS_SHOWN, responses, signals), image, tmp_path)
