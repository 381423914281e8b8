"""Recordings with known answers: one made by hand, one simulated and converted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from pipeline.datasets.conversion import Conversion, convert
from pipeline.datasets.preprocessing import Movie
from pipeline.recordings.base import Recording, Source, SpikeTimes, Stimulus, Trace, Trial, Unit, hash_pixels
from pipeline.recordings.thesis import ThesisRecording
from pipeline.simulation import GroundTruth, SimulationSettings, simulate_dlgn


class HandmadeRecording(Recording):
    """Movies (time, height, width) shown one after another at the given rate, and whatever is said about each trial."""

    source_format = "handmade"

    def __init__(
        self,
        movies: Sequence[np.ndarray],
        spikes: Sequence[Sequence[np.ndarray]],
        starts: Sequence[float] | None = None,
        shown: Sequence[int] | None = None,
        frame_rate: float = 60.0,
        signals: Sequence[dict[str, Trace]] | None = None,
        pulses: Sequence[Sequence[tuple[float, float]]] | None = None,
    ) -> None:
        shown = range(len(movies)) if shown is None else shown
        durations = [len(movie) / frame_rate for movie in movies]
        pixels = [movie[None] for movie in movies]
        self.hashes = [hash_pixels(p, frame_rate) for p in pixels]
        self._pixels = dict(zip(self.hashes, pixels, strict=True))
        self._spikes, self._signals, self._pulses = spikes, signals, pulses
        self.source = Source(self.source_format)
        self.units = tuple(Unit(10 + u, f"unit {u}") for u in range(len(spikes[0])))
        self.opto_groups = (0,) * len(self.units)
        self.stimuli = {h: Stimulus(h, frame_rate, self._pixels[h].shape, h[:4]) for h in self.hashes}
        starts = [100.0 * i for i in range(len(shown))] if starts is None else starts
        self.trials = tuple(
            Trial(i, self.hashes[movie], start, durations[movie], None)
            for i, (movie, start) in enumerate(zip(shown, starts, strict=True))
        )

    def frames(self, condition_hash: str) -> np.ndarray:
        return self._pixels[condition_hash]

    def responses(self, trial_idx: int, margin: float = 0.0) -> SpikeTimes:
        return SpikeTimes(tuple(self._spikes[trial_idx]))

    def signals(self, trial_idx: int, margin: float = 0.0) -> dict[str, Trace]:
        return {} if self._signals is None else self._signals[trial_idx]

    def opto_pulses(self, trial_idx: int) -> tuple[np.ndarray, ...]:
        pulses = [] if self._pulses is None else self._pulses[trial_idx]
        return (np.asarray(pulses, float).reshape(-1, 2),)


@pytest.fixture(scope="session")
def handmade() -> Callable[..., HandmadeRecording]:
    return HandmadeRecording


@dataclass(frozen=True)
class Simulated:
    """A simulated recording, its files and what it was converted to, with trial 0 excluded."""

    folder: Path
    truth: GroundTruth
    recording: ThesisRecording
    tiers: dict[str, str]
    dataset: Path
    conversion: Conversion


@pytest.fixture(scope="session")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Simulated:
    base = tmp_path_factory.mktemp("simulated")
    folder, dataset = base / "recording", base / "dataset"
    settings = SimulationSettings(n_units=5, n_train=14, n_validation=2, n_test=2, test_repeats=2, seed=2)
    truth = simulate_dlgn(folder, settings)
    recording = ThesisRecording(
        str(folder / "responses.pkl"), str(folder / "videos"), str(folder / "resp_behav_df.pkl")
    )
    tiers = {trial.condition_hash: trial.tier or "" for trial in recording.trials}
    conversion = convert(recording, Movie(), tiers, dataset, excluded=(0,))
    return Simulated(folder, truth, recording, tiers, dataset, conversion)
