"""The simulated V1 recording can be opened, and its neurons are what its truth says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import ConfigurationError, RecordingError
from pipeline.recordings import Recording, open_recording
from pipeline.simulation.v1 import V1Settings, V1Truth, dead_leaves, gabor_pairs, load_v1_truth, simulate_v1

SMALL = V1Settings(n_units=12, n_train=60, n_validation=6, n_test=5, test_repeats=40, seed=2)


@pytest.fixture(scope="module")
def simulated(tmp_path_factory) -> tuple[Path, V1Truth, Recording]:
    folder = tmp_path_factory.mktemp("v1") / "recording"
    truth = simulate_v1(folder, SMALL)
    return folder, truth, open_recording("filetree", path=str(folder))


def test_it_is_a_recording_of_the_format(simulated):
    _, truth, recording = simulated
    tiers = [trial.tier for trial in recording.trials]
    assert [tiers.count(tier) for tier in ("train", "validation", "test")] == [60, 6, 200]
    assert len(recording.stimuli) == 71
    assert {stimulus.shape for stimulus in recording.stimuli.values()} == {(1, 1, 36, 64)}
    assert [unit.unit_id for unit in recording.units] == list(range(1, 13))
    assert np.allclose([unit.position for unit in recording.units], truth.position)
    assert {(unit.area, unit.layer) for unit in recording.units} == {("V1", "L2/3")}


def test_the_same_settings_give_the_same_files(simulated, tmp_path):
    folder, truth, _ = simulated
    simulate_v1(tmp_path / "again", SMALL)
    for name in ("images/70.npy", "responses/3.npy"):
        assert (folder / "data" / name).read_bytes() == (tmp_path / "again" / "data" / name).read_bytes()
    stored = vars(load_v1_truth(folder))
    assert all(np.array_equal(values, stored[name]) for name, values in vars(truth).items())


def test_repeats_are_poisson_counts_around_the_expected_number(simulated):
    _, truth, recording = simulated
    counts = np.array([recording.responses(index).values for index in range(len(recording.trials))])
    assert (counts == np.round(counts)).all()
    for image in range(66, 71):
        repeats = counts[truth.shown == image]
        assert len(repeats) == 40
        error = (repeats.mean(axis=0) - truth.expected[image]) / np.sqrt(truth.expected[image] / 40 + 1e-3)
        assert np.abs(error).max() < 4.5


def test_expected_counts_follow_from_the_filters(simulated):
    """The model in words, unit by unit, from the pixels that the recording gives."""
    _, truth, recording = simulated
    images = np.empty((71, 36, 64))
    for trial, image in zip(recording.trials, truth.shown, strict=True):
        images[image] = recording.frames(trial.condition_hash)[0, 0] / 127.5 - 1
    filters = gabor_pairs(truth, 36, 64)
    for unit in range(12):
        own, later = ((images * pair[unit]).sum(axis=(1, 2)) for pair in filters)
        energy = own**2 + later**2 if truth.is_complex[unit] else np.clip(own, 0, None) ** 2
        energy = energy / energy[:60].mean()
        expected = 2 * truth.rate_scale[unit] * energy / (energy + 6)
        assert np.allclose(truth.expected[:, unit], expected, rtol=1e-4, atol=1e-5)


def test_filters_are_blind_to_mean_luminance_and_of_length_one(simulated):
    _, truth, _ = simulated
    filters = gabor_pairs(truth, 36, 64)
    assert np.abs(filters.sum(axis=(2, 3))).max() < 1e-9
    assert np.allclose((filters**2).sum(axis=(2, 3)), 1)
    upright = V1Truth(**{**vars(truth), "orientation": np.zeros(12), "row": np.full(12, 18.0)})
    assert np.allclose(gabor_pairs(upright, 37, 64)[0], gabor_pairs(upright, 37, 64)[0][:, ::-1])


def test_receptive_fields_follow_the_place_in_the_tissue(simulated):
    _, truth, _ = simulated
    assert np.corrcoef(truth.position[:, 0], truth.column)[0, 1] > 0.95
    assert np.corrcoef(truth.position[:, 1], truth.row)[0, 1] > 0.8
    assert truth.is_complex.sum() == 6


def test_images_have_the_spectrum_of_natural_scenes():
    """Power falls about with the square of the frequency (Field 1987)."""
    images = dead_leaves(60, 64, 64, np.random.default_rng(1)).astype(float)
    assert abs(images.mean() - 127) < 2
    power = (np.abs(np.fft.fft2(images - images.mean(axis=(1, 2), keepdims=True))) ** 2).mean(axis=0)
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(64), np.fft.fftfreq(64)))
    used = (frequency > 0.04) & (frequency < 0.25)
    slope = np.polyfit(np.log(frequency[used]), np.log(power[used]), 1)[0]
    assert -3.2 < slope < -1.6


def test_errors(tmp_path):
    with pytest.raises(ConfigurationError, match=r"V1Settings\.n_units: 0 is below 1"):
        V1Settings(n_units=0)
    with pytest.raises(ConfigurationError, match=r"complex_share: 1\.5 is not between 0 and 1"):
        V1Settings(complex_share=1.5)
    (tmp_path / "file").touch()
    with pytest.raises(RecordingError, match="is not empty"):
        simulate_v1(tmp_path)
    with pytest.raises(RecordingError, match="only simulated recordings"):
        load_v1_truth(tmp_path)
