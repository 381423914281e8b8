"""Every format goes the whole way, from its files to batches, and in none of them a stimulus gets into two tiers."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from pipeline.datasets.batches import Batch
from pipeline.datasets.clips import MovieClips
from pipeline.datasets.conversion import convert
from pipeline.datasets.images import CorrectedAreaLayer
from pipeline.datasets.loaders import ScanLoader, open_loaders
from pipeline.datasets.preprocessing import Movie
from pipeline.datasets.selection import WITHHELD
from pipeline.datasets.store import StoredDataset
from pipeline.errors import RecordingError
from pipeline.recordings import FORMATS, TIERS, Recording, Trial, assign_tiers, open_recording
from tests.pipeline.recordings.example import Example, binned, bins_of, usable
from tests.pipeline.recordings.write_every_format import EXAMPLES

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning:hdmf.*"),
    pytest.mark.filterwarnings("ignore::UserWarning:pynwb.*"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

CLIP_FRAMES = 8
DATA_KEY = "scan"
Loaders = dict[str, ScanLoader]
LEAKS = [pytest.param(e, way, id=f"{e.name}: {way}") for e in EXAMPLES for way in e.leaks]


@dataclass(frozen=True)
class Opened:
    """An example, what its reader gives and what became of it."""

    example: Example
    folder: Path
    recording: Recording
    tiers: dict[str, str]
    dataset: Path

    @property
    def movie(self) -> bool:
        return isinstance(self.example.preprocessing, Movie)

    @property
    def bins(self) -> dict[str, int]:
        if not self.movie:
            return dict.fromkeys(self.recording.stimuli, 1)
        return bins_of(self.recording, usable(self.recording), self.example.preprocessing.frame_rate)

    def loader_of(self, trial: Trial) -> str:
        """Name of the one loader that must have a trial; empty if none may."""
        if trial.exclusion:
            return ""
        return WITHHELD if trial.withheld else self.tiers[trial.condition_hash]

    def pixels(self, trial: Trial) -> np.ndarray:
        """What a dataset must show, (channel, time, height, width): frames as they are, images held."""
        frames = self.recording.frames(trial.condition_hash).astype(np.float32)
        if self.recording.stimuli[trial.condition_hash].frame_rate is None:
            frames = np.repeat(frames, self.bins[trial.condition_hash], axis=1)
        return frames[:, : self.bins[trial.condition_hash]]

    def responses(self, trial: Trial) -> np.ndarray:
        """What a dataset must hold, (unit, time)."""
        bins = self.bins[trial.condition_hash]
        if trial.withheld:
            return np.full((len(self.recording.units), bins), np.nan)
        found = binned(self.recording, trial, self.example.preprocessing, bins)
        return found.reshape(len(found), -1)


def loaders_of(dataset: Path, movie: bool) -> Loaders:
    config = MovieClips(clip_frames=CLIP_FRAMES, normalize=False) if movie else CorrectedAreaLayer(normalize=False)
    loaders, _ = open_loaders({DATA_KEY: dataset}, config, batch_size=2, seed=1)
    return {tier: of_tier[DATA_KEY] for tier, of_tier in loaders.items()}


@pytest.fixture(scope="module", params=EXAMPLES, ids=lambda example: example.name)
def opened(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Opened:
    example: Example = request.param
    folder = tmp_path_factory.mktemp("format")
    example.write(folder / "source")
    recording = example.open(folder / "source")
    tiers = assign_tiers(recording.trials).tiers
    convert(recording, example.preprocessing, tiers, folder / "dataset")
    return Opened(example, folder / "source", recording, tiers, folder / "dataset")


@pytest.fixture(scope="module")
def loaders(opened: Opened) -> Loaders:
    return loaders_of(opened.dataset, opened.movie)


def test_every_format_has_an_example() -> None:
    assert {example.source_format for example in EXAMPLES} == set(FORMATS)


# --------------------------------------------------------------------------------------------------------- the source


def test_the_location_opens_the_same_recording_again(opened: Opened) -> None:
    source = opened.recording.source
    again = open_recording(source.source_format, **source.location)
    assert source.source_format == opened.example.source_format
    assert all(isinstance(value, str) for value in source.location.values())
    assert (again.source, again.units, again.trials) == (source, opened.recording.units, opened.recording.trials)
    assert again.stimuli == opened.recording.stimuli
    assert len(source.fingerprint) == 64


def test_numbers_of_trials_are_plain(opened: Opened) -> None:
    """Fingerprints hold them as text, and numpy's numbers are written differently by its versions."""
    for trial in opened.recording.trials:
        assert [type(n) for n in (trial.trial_idx, trial.start, trial.duration)] == [int, float, float]
    for unit in opened.recording.units:
        assert {type(number) for number in (unit.position or (0.0,))} == {float}
        assert type(unit.unit_id) is int
    for stimulus in opened.recording.stimuli.values():
        assert {type(number) for number in stimulus.shape} == {int}
        assert type(stimulus.frame_rate) in (float, type(None))


def test_a_moved_source_is_the_same(opened: Opened, tmp_path: Path) -> None:
    moved = opened.example.open(shutil.copytree(opened.folder, tmp_path / "elsewhere" / "source"))
    assert moved.source.fingerprint == opened.recording.source.fingerprint
    assert moved.source.location != opened.recording.source.location


@pytest.mark.parametrize("part", ["response", "pixel", "tier"])
def test_one_changed_value_is_another_recording(opened: Opened, part: str, tmp_path: Path) -> None:
    copy = shutil.copytree(opened.folder, tmp_path / "source")
    changed = opened.example.open(copy, getattr(opened.example, part))
    assert changed.source.fingerprint != opened.recording.source.fingerprint
    shown = [trial.condition_hash for trial in changed.trials] != [t.condition_hash for t in opened.recording.trials]
    told = [trial.tier for trial in changed.trials] != [trial.tier for trial in opened.recording.trials]
    assert (shown, told) == (part == "pixel", part == "tier"), "and nothing else changed"


# --------------------------------------------------------------------------------------------------- trials and tiers


def trials_in(loader: ScanLoader) -> list[int]:
    stored = loader.dataset.stored
    return [stored.trial_idx[row] for row in loader.trials]


def test_every_trial_is_in_the_one_loader_of_its_tier(opened: Opened, loaders: Loaders) -> None:
    places = {trial.trial_idx: opened.loader_of(trial) for trial in opened.recording.trials}
    wanted = {tier: [i for i, place in places.items() if place == tier] for tier in (*TIERS, WITHHELD)}
    assert {tier: trials_in(loader) for tier, loader in loaders.items()} == {
        tier: trials for tier, trials in wanted.items() if trials
    }
    counts = {tier: len(trials) for tier, trials in wanted.items() if trials}
    excluded = sum(not place for place in places.values())
    assert counts | ({"excluded": excluded} if excluded else {}) == opened.example.trials
    for trial in opened.recording.trials:
        assert trial.tier in (None, opened.tiers.get(trial.condition_hash, trial.tier)), "the source's tier is kept"


def test_no_condition_is_in_two_loaders(opened: Opened, loaders: Loaders) -> None:
    everywhere = [condition for loader in loaders.values() for condition in set(loader.conditions)]
    assert len(everywhere) == len(set(everywhere))
    kept = {trial.condition_hash for trial in usable(opened.recording)}
    assert set(everywhere) == kept


# ------------------------------------------------------------------------------------------------------------ batches


def asked_for(loader: ScanLoader) -> Iterator[tuple[list[tuple[int, int, int]], Batch]]:
    """Yield every batch of an epoch with what was asked for: row, first frame and number of frames of each clip."""
    sampler = loader.batch_sampler
    epoch = getattr(sampler, "epoch", None)
    asked = list(sampler)
    if epoch is not None:
        sampler.epoch = epoch
    for items, batch in zip(asked, loader, strict=True):
        yield [item if isinstance(item, tuple) else (item, 0, 1) for item in items], batch


def check_batches(opened: Opened, loader: ScanLoader) -> set[int]:
    """Compare every value of a loader's batches with the recording; return the trials that were seen."""
    stored, n_units, seen = loader.dataset.stored, len(opened.recording.units), set()
    for clips, batch in asked_for(loader):
        size, n_frames = (opened.example.preprocessing.height, opened.example.preprocessing.width), clips[0][2]
        time = (n_frames,) if opened.movie else ()
        channels = opened.recording.stimuli[stored.condition_hash[clips[0][0]]].shape[0]
        assert tuple(batch.inputs.shape) == (len(clips), channels, *time, *size)
        assert tuple(batch.responses.shape) == (len(clips), n_units, *time)
        for (row, first, frames), inputs, responses in zip(clips, batch.inputs, batch.responses, strict=True):
            trial = opened.recording.trials[stored.trial_idx[row]]
            part = slice(first, first + frames)
            np.testing.assert_array_equal(inputs.reshape(channels, frames, *size), opened.pixels(trial)[:, part])
            wanted = opened.responses(trial)[:, part].astype(np.float32)
            # Counts and values that were given once a trial are exact; so are samples, but for the last digit.
            np.testing.assert_allclose(responses.reshape(n_units, frames), wanted, rtol=1e-5, atol=1e-6)
            seen.add(trial.trial_idx)
    return seen


def test_evaluation_batches_hold_what_was_recorded(opened: Opened, loaders: Loaders) -> None:
    assert {"validation", "test"} < set(loaders)
    for tier, loader in loaders.items():
        if tier != "train":
            assert check_batches(opened, loader) == set(trials_in(loader))


def test_training_batches_hold_what_was_recorded(opened: Opened, loaders: Loaders) -> None:
    for _ in range(3):
        assert check_batches(opened, loaders["train"]) == set(trials_in(loaders["train"]))


# -------------------------------------------------------------------------------------------------------------- leaks


def test_every_format_can_leak() -> None:
    """Each has an example of a stimulus that trains and tests, which the tests below send through all rules."""
    assert {example.source_format for example in EXAMPLES if example.leaks} == set(FORMATS)


def leaking(example: Example, way: str, folder: Path) -> tuple[Recording, str]:
    """Return a recording in which one condition is in two tiers, and that condition."""
    example.write(folder / "source")
    recording = example.open(folder / "source", example.leaks[way])
    tiers: dict[str, set[str | None]] = {}
    for trial in usable(recording):
        tiers.setdefault(trial.condition_hash, set()).add(trial.tier)
    (torn,) = (condition for condition, found in tiers.items() if len(found) > 1)
    return recording, torn


@pytest.mark.parametrize(("example", "way"), LEAKS)
def test_no_rule_lets_a_leak_through(example: Example, way: str, tmp_path: Path) -> None:
    recording, torn = leaking(example, way, tmp_path)
    with pytest.raises(RecordingError, match=f"condition {torn} is in two tiers: train in trial"):
        assign_tiers(recording.trials)
    found = {trial.tier for trial in recording.trials if trial.condition_hash == torn}
    held_out = "test" if "test" in found else "validation"
    for rule, wanted in (("held-out", held_out), ("train", "train"), ("exclude", None)):
        assigned = assign_tiers(recording.trials, leaks=rule)
        assert assigned.tiers.get(torn) == wanted
        gone = [trial.trial_idx for trial in recording.trials if trial.condition_hash in assigned.excluded]
        path = tmp_path / rule
        convert(recording, example.preprocessing, assigned.tiers, path, excluded=gone)
        stored = StoredDataset(path)
        assert len(set(zip(stored.condition_hash, stored.tier, strict=True))) == len(set(stored.condition_hash))
        assert (torn in stored.condition_hash) == (wanted is not None)
        conditions = {tier: set(loader.conditions) for tier, loader in loaders_of(path, _moves(example)).items()}
        assert {tier for tier, shown in conditions.items() if torn in shown} == ({wanted} - {None})
        assert sum(map(len, conditions.values())) == len(set().union(*conditions.values()))


def _moves(example: Example) -> bool:
    return isinstance(example.preprocessing, Movie)
