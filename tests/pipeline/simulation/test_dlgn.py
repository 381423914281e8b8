"""A simulated recording is a valid recording, whose truth is what its files hold."""

from __future__ import annotations

import hashlib
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.datasets.pixels import hold_frames, resize_frames
from pipeline.errors import ConfigurationError, RecordingError
from pipeline.recordings import Recording, open_recording
from pipeline.simulation import GroundTruth, SimulationSettings, load_ground_truth, simulate_dlgn
from pipeline.simulation.fields import make_fields
from pipeline.simulation.population import Population, TrialState, contrast
from pipeline.simulation.scenes import SOURCES

TINY = SimulationSettings(n_units=8, n_train=6, n_validation=2, n_test=2, test_repeats=3, scene_seconds=2.0, seed=4)


def reopen(folder: Path) -> Recording:
    return open_recording(
        "thesis",
        responses=str(folder / "responses.pkl"),
        videos=str(folder / "videos"),
        behavior=str(folder / "resp_behav_df.pkl"),
    )


def counts(recording: Recording, trial_idx: int, n_bins: int) -> np.ndarray:
    """Spikes in 60 Hz bins, (unit, time)."""
    start = recording.trials[trial_idx].start
    times = recording.responses(trial_idx).times
    return np.stack([np.bincount(((t - start) * 60).astype(int), minlength=n_bins) for t in times])


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> tuple[Path, GroundTruth, Recording]:
    folder = tmp_path_factory.mktemp("simulated") / "tiny"
    truth = simulate_dlgn(folder, TINY)
    return folder, truth, reopen(folder)


def test_it_is_quick(tmp_path):
    begin = time.process_time()
    simulate_dlgn(tmp_path / "again", TINY)
    assert time.process_time() - begin < 8


def test_units_trials_and_tiers(tiny):
    _, truth, recording = tiny
    assert tuple(unit.unit_id for unit in recording.units) == truth.unit_ids
    assert tuple(unit.unit_name for unit in recording.units) == truth.unit_names
    assert truth.unit_names[0] == "m0001_s01_e01_u01"
    shown = [trial.tier for trial in recording.trials]
    assert (shown.count("train"), shown.count("validation"), shown.count("test")) == (6, 2, 6)
    assert len(recording.stimuli) == 10
    assert {stimulus.shape for stimulus in recording.stimuli.values()} == {(1, 60, 132, 212)}
    assert {trial.duration for trial in recording.trials} == {2.0}


def test_truth_survives_storage(tiny):
    folder, truth, _ = tiny
    stored = load_ground_truth(folder / "ground_truth.npz")
    assert (stored.unit_ids, stored.unit_names, stored.kind) == (truth.unit_ids, truth.unit_names, truth.kind)
    assert stored.scene_photographs == truth.scene_photographs
    for name in ("strf", "trial_idx", "rates"):
        assert np.array_equal(getattr(stored, name), getattr(truth, name))
    for name, values in vars(truth.parameters).items():
        assert np.array_equal(getattr(stored.parameters, name), values)
    assert stored.strf.shape == (8, 15, 33, 53)
    assert stored.strf.dtype == np.float32


def test_rates_follow_from_what_is_on_disk(tiny):
    """Decode the movies, read pupil, running and light, and compute the stored rates again."""
    _, truth, recording = tiny
    fields = make_fields(8, np.random.default_rng(np.random.SeedSequence(TINY.seed).spawn(5)[0]))
    population = Population(fields, truth.parameters)
    assert np.array_equal(np.stack([field.strf for field in fields]), truth.strf)
    held_out = [trial.trial_idx for trial in recording.trials if trial.tier != "train"]
    assert held_out == truth.trial_idx.tolist()
    for trial_idx, rates in zip(held_out, truth.rates, strict=True):
        trial = recording.trials[trial_idx]
        movie = contrast(
            hold_frames(resize_frames(recording.frames(trial.condition_hash), 33, 53), 30.0, 60.0, TINY.n_bins)[0]
        )
        centers = trial.start + (np.arange(TINY.n_bins) + 0.5) / 60
        lit = np.zeros(TINY.n_bins, bool)
        for begin, end in recording.opto_pulses(trial_idx)[0]:
            lit |= (centers > begin) & (centers < end)
        signals = recording.signals(trial_idx)
        names = ("run", "pupil_size", "pupil_x", "pupil_y")
        traces = [np.interp(centers, signals[name].times, signals[name].values) for name in names]
        assert population.rates(movie, TrialState(*traces, lit)) == pytest.approx(rates, rel=1e-3, abs=1e-3)


def test_photographs_of_the_scenes_are_those_of_their_tier(tiny):
    _, truth, _ = tiny
    for tier, names in zip(TINY.scene_tiers, truth.scene_photographs, strict=True):
        assert names
        assert set(names) <= set(SOURCES[tier])


def test_a_third_of_the_trials_has_light(tmp_path):
    settings = SimulationSettings(n_units=1, n_train=1, n_validation=0, n_test=1, test_repeats=150, scene_seconds=1.0)
    simulate_dlgn(tmp_path / "lit", settings)
    recording = reopen(tmp_path / "lit")
    pulses = [recording.opto_pulses(trial.trial_idx)[0] for trial in recording.trials]
    assert 0.2 < np.mean([len(p) for p in pulses]) < 0.47
    for trial, pulse in zip(recording.trials, pulses, strict=True):
        if len(pulse):
            assert trial.start <= pulse[0, 0] < pulse[0, 1] <= trial.start + 1.0


def test_light_lowers_the_spike_count(tmp_path):
    """Of one test scene shown often: the same bins with and without light."""
    settings = SimulationSettings(n_units=6, n_train=2, n_validation=0, n_test=1, test_repeats=150, scene_seconds=1.0)
    simulate_dlgn(tmp_path / "lit", settings)
    recording = reopen(tmp_path / "lit")
    spikes, lit = [], []
    for trial in recording.trials:
        if trial.tier == "test":
            centers = trial.start + (np.arange(60) + 0.5) / 60
            pulses = recording.opto_pulses(trial.trial_idx)[0]
            lit.append(sum(((centers > begin) & (centers < end) for begin, end in pulses), np.zeros(60, bool)))
            spikes.append(counts(recording, trial.trial_idx, 60).mean(axis=0))
    spikes, lit = np.array(spikes), np.array(lit)
    bins = lit.any(axis=0)
    light, dark = (np.array([spikes[chosen[:, t], t].mean() for t in np.flatnonzero(bins)]) for chosen in (lit, ~lit))
    assert light.mean() < 0.9 * dark.mean()


def test_same_seed_same_recording(tmp_path, tiny):
    _, truth, recording = tiny
    again = simulate_dlgn(tmp_path / "again", TINY)
    assert reopen(tmp_path / "again").source.fingerprint == recording.source.fingerprint
    assert np.array_equal(again.rates, truth.rates)

    def digest(folder: Path) -> list[str]:
        return [hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("videos/*.avi"))]

    assert digest(tmp_path / "again") == digest(tiny[0])
    assert len(digest(tmp_path / "again")) == 10


def test_another_seed_another_recording(tmp_path, tiny):
    simulate_dlgn(tmp_path / "other", replace(TINY, seed=5))
    assert not set(reopen(tmp_path / "other").stimuli) & set(tiny[2].stimuli)


def test_progress_and_folder(tmp_path, tiny):
    steps: list[tuple[int, int]] = []
    (tmp_path / "empty").mkdir()
    simulate_dlgn(tmp_path / "empty", TINY, lambda done, total: steps.append((done, total)))
    assert steps == [(step, 24) for step in range(1, 25)]
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]
    with pytest.raises(RecordingError, match="empty is not empty"):
        simulate_dlgn(tmp_path / "empty", TINY)


def test_an_interrupted_simulation_leaves_no_recording(tmp_path):
    def interrupt(done: int, total: int) -> None:
        if done == 15:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simulate_dlgn(tmp_path / "cut", TINY, interrupt)
    assert not (tmp_path / "cut").exists()
    simulate_dlgn(tmp_path / "cut", TINY)
    assert len(reopen(tmp_path / "cut").trials) == 14


@pytest.mark.parametrize("wrong", [{"n_units": 0}, {"n_train": 0}, {"scene_seconds": 0.1}, {"width": 20}, {"seed": -1}])
def test_settings_out_of_range(wrong):
    with pytest.raises(ConfigurationError, match=f"SimulationSettings.{next(iter(wrong))}"):
        SimulationSettings(**wrong)


def test_truth_of_a_real_recording(tmp_path):
    with pytest.raises(RecordingError, match="only simulated recordings"):
        load_ground_truth(tmp_path / "ground_truth.npz")


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_reliability_is_that_of_dlgn_neurons(tmp_path, seed):
    """Leave-one-out oracle at 60 Hz: one trial against the mean of the others, over test scenes and time."""
    settings = SimulationSettings(n_train=12, n_validation=0, n_test=6, seed=seed)
    simulate_dlgn(tmp_path / "reliable", settings)
    recording = reopen(tmp_path / "reliable")
    repeats: dict[str, list[np.ndarray]] = {}
    for trial in recording.trials:
        if trial.tier == "test":
            repeats.setdefault(trial.condition_hash, []).append(counts(recording, trial.trial_idx, settings.n_bins))
    spikes = np.stack([np.stack(trials) for trials in repeats.values()]).astype(float)  # scene, repeat, unit, time
    others = (spikes.sum(axis=1, keepdims=True) - spikes) / (spikes.shape[1] - 1)
    flat = [values.transpose(2, 0, 1, 3).reshape(24, -1) for values in (spikes, others)]
    oracle = np.array([np.corrcoef(one, other)[0, 1] for one, other in zip(*flat, strict=True)])
    assert 0.35 < oracle.mean() < 0.5
    assert oracle.min() > 0.15
    rates = spikes.mean(axis=(0, 1, 3)) * 60
    assert 10 < rates.mean() < 30
