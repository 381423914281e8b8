"""A whole simulated dLGN recording, in the files of the thesis format, with the truth beside them."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline.datasets.pixels import hold_frames, resize_frames
from pipeline.errors import ConfigurationError, RecordingError
from pipeline.recordings.video import write_video
from pipeline.simulation.fields import HEIGHT, RATE, WIDTH, make_fields
from pipeline.simulation.population import Population, PopulationParameters, contrast, draw_spikes, random_state
from pipeline.simulation.scenes import FRAME_RATE, Scene, make_scene

MOUSE, SERIES, EXPERIMENT = "Simulated_2024_0001", 1, 1
PAUSE = 1.0
"""Grey screen between trials (s)."""
OPTO_SHARE = 1 / 3
"""Share of the trials with light."""
CALIBRATION_SCENES = 12

Progress = Callable[[int, int], None]
"""Called with the number of steps done and the number of all steps."""


@dataclass(frozen=True)
class SimulationSettings:
    """Size and seed of a simulated recording.

    Attributes
    ----------
    n_units : int
    n_train, n_validation, n_test : int
        Scenes in each tier.
    test_repeats : int
        Presentations of each test scene; others are shown once.
    scene_seconds : float
        Length of a scene (s); rounded to whole frames at 30 Hz.
    width, height : int
        Size of the movie files (px).
    seed : int

    Raises
    ------
    ConfigurationError
        If a number is out of range.
    """

    n_units: int = 24
    n_train: int = 60
    n_validation: int = 8
    n_test: int = 6
    test_repeats: int = 10
    scene_seconds: float = 5.0
    width: int = 212
    height: int = 132
    seed: int = 0

    def __post_init__(self) -> None:
        smallest = {
            "n_units": 1, "n_train": 1, "n_validation": 0, "n_test": 0, "test_repeats": 1, "scene_seconds": 0.5,
            "width": WIDTH, "height": HEIGHT, "seed": 0,
        }  # fmt: skip
        for name, least in smallest.items():
            if getattr(self, name) < least:
                raise ConfigurationError(
                    f"SimulationSettings.{name}: {getattr(self, name)!r} is not allowed, it must be >= {least}"
                )

    @property
    def n_frames(self) -> int:
        """Frames in a scene at 30 Hz."""
        return round(self.scene_seconds * FRAME_RATE)

    @property
    def n_bins(self) -> int:
        """Bins in a scene at 60 Hz."""
        return self.n_frames * round(RATE / FRAME_RATE)

    @property
    def scene_tiers(self) -> tuple[str, ...]:
        """Tier of each scene, by scene_id."""
        counts = {"train": self.n_train, "validation": self.n_validation, "test": self.n_test}
        return tuple(tier for tier, count in counts.items() for _ in range(count))


@dataclass(frozen=True)
class GroundTruth:
    """What the simulated neurons really do.

    Attributes
    ----------
    unit_ids : tuple of int
    unit_names : tuple of str
    kind : tuple of str
        Kind of each unit's receptive field.
    strf : ndarray of float32
        (unit, lag, height, width): 15 lags at 60 Hz, the last one the most recent; energy 1.
    parameters : PopulationParameters
    trial_idx : ndarray
        (trial,): the validation and test trials, by their number in the recording.
    rates : ndarray of float32
        (trial, unit, time): their noiseless rates in 60 Hz bins (spikes/s).
    scene_photographs : tuple of tuple of str
        Photographs in each scene, by scene_id.
    """

    unit_ids: tuple[int, ...]
    unit_names: tuple[str, ...]
    kind: tuple[str, ...]
    strf: np.ndarray
    parameters: PopulationParameters
    trial_idx: np.ndarray
    rates: np.ndarray
    scene_photographs: tuple[tuple[str, ...], ...]

    def save(self, path: Path) -> None:
        """Write everything to one npz file, without pickled objects."""
        arrays: dict[str, Any] = {f"parameters_{k}": v for k, v in vars(self.parameters).items()}
        np.savez_compressed(
            path, unit_ids=np.array(self.unit_ids), unit_names=np.array(self.unit_names), kind=np.array(self.kind),
            strf=self.strf, trial_idx=self.trial_idx, rates=self.rates,
            scene_photographs=np.array([",".join(names) for names in self.scene_photographs]), **arrays,
        )  # fmt: skip


def load_ground_truth(path: str | Path) -> GroundTruth:
    """Read what `GroundTruth.save` wrote.

    Raises
    ------
    RecordingError
        If there is no such file.
    """
    path = Path(path)
    if not path.is_file():
        raise RecordingError(f"{path}: no such file; only simulated recordings have a ground truth")
    with np.load(path, allow_pickle=False) as stored:
        fields = [field.name for field in dataclasses.fields(PopulationParameters)]
        return GroundTruth(
            unit_ids=tuple(stored["unit_ids"].tolist()),
            unit_names=tuple(stored["unit_names"].tolist()),
            kind=tuple(stored["kind"].tolist()),
            strf=stored["strf"],
            parameters=PopulationParameters(**{name: stored[f"parameters_{name}"] for name in fields}),
            trial_idx=stored["trial_idx"],
            rates=stored["rates"],
            scene_photographs=tuple(tuple(text.split(",")) for text in stored["scene_photographs"].tolist()),
        )


def simulate_dlgn(
    directory: str | Path, settings: SimulationSettings | None = None, progress: Progress | None = None
) -> GroundTruth:
    """Simulate a recording and write it; the same settings give the same recording.

    Written are ``responses.pkl``, ``resp_behav_df.pkl``, ``videos/`` and ``ground_truth.npz``. The folder appears
    under its name only when it is complete.

    Parameters
    ----------
    directory : str or Path
        A folder that does not exist yet, or is empty.
    settings : SimulationSettings, optional
    progress : callable, optional
        Called after every scene and trial.

    Raises
    ------
    RecordingError
        If the folder holds something already.
    """
    settings = settings or SimulationSettings()
    directory = Path(directory)
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise RecordingError(f"{directory} is not empty: choose another folder for the simulated recording")
    partial = directory.with_name(f".{directory.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    (partial / "videos").mkdir(parents=True)
    truth = _Simulation(settings, progress or (lambda done, total: None)).write(partial)
    if directory.exists():
        directory.rmdir()
    os.replace(partial, directory)
    return truth


class _Simulation:
    """One run of the simulation, step by step."""

    def __init__(self, settings: SimulationSettings, progress: Progress) -> None:
        self.settings = settings
        self.progress = progress
        seeds = np.random.SeedSequence(settings.seed).spawn(5)
        # one generator for each purpose: more trials leave the units as they are
        self.field_rng, self.parameter_rng, self.scene_rng, self.order_rng, self.trial_rng = (
            np.random.default_rng(seed) for seed in seeds
        )
        tiers = settings.scene_tiers
        shown = [settings.test_repeats if tier == "test" else 1 for tier in tiers]
        self.order = self.order_rng.permutation(np.repeat(np.arange(len(tiers)), shown))
        self.n_steps = len(tiers) + len(self.order)

    def write(self, folder: Path) -> GroundTruth:
        tiers = self.settings.scene_tiers
        photographs, movies = [], []
        for scene_id, tier in enumerate(tiers):
            scene = self._write_scene(folder, scene_id, tier)
            photographs.append(scene.photographs)
            small = resize_frames(scene.frames, HEIGHT, WIDTH)
            movies.append(contrast(hold_frames(small, FRAME_RATE, RATE, self.settings.n_bins)[0]))
            self.progress(scene_id + 1, self.n_steps)
        fields = make_fields(self.settings.n_units, self.field_rng)
        training = [movie for movie, tier in zip(movies, tiers, strict=True) if tier == "train"]
        population = Population.calibrated(fields, training[:CALIBRATION_SCENES], self.parameter_rng)
        rates = self._write_trials(folder, population, movies)
        held_out = [index for index, scene in enumerate(self.order) if tiers[scene] != "train"]
        truth = GroundTruth(
            unit_ids=tuple(range(1, len(fields) + 1)),
            unit_names=tuple(
                f"m{MOUSE[-4:]}_s{SERIES:02d}_e{EXPERIMENT:02d}_u{unit:02d}" for unit in range(1, len(fields) + 1)
            ),
            kind=tuple(field.kind for field in fields),
            strf=np.stack([field.strf for field in fields]),
            parameters=population.parameters,
            trial_idx=np.array(held_out, dtype=np.int64),
            rates=rates[held_out],
            scene_photographs=tuple(photographs),
        )
        truth.save(folder / "ground_truth.npz")
        return truth

    def _write_scene(self, folder: Path, scene_id: int, tier: str) -> Scene:
        s = self.settings
        scene = make_scene(tier, s.scene_seconds, s.width, s.height, self.scene_rng)
        name = f"hmovTrain_v3_{s.width}x{s.height}_scene-{scene_id + 1:03d}.avi"
        write_video(folder / "videos" / name, scene.frames, FRAME_RATE)
        return scene

    def _write_trials(self, folder: Path, population: Population, movies: list[np.ndarray]) -> np.ndarray:
        """Write both tables; return the rates of all trials, (trial, unit, time) float32."""
        n_bins = self.settings.n_bins
        duration = n_bins / RATE
        maps = [field.strf[np.abs(field.strf).max(axis=(1, 2)).argmax()] for field in population.fields]
        histogram_times = np.linspace(0, duration, n_bins)
        responses: list[dict[str, Any]] = []
        behavior: list[dict[str, Any]] = []
        rates = np.empty((len(self.order), len(population.fields), n_bins), np.float32)
        for index, scene_id in enumerate(self.order.tolist()):
            start = 10.0 + index * (duration + PAUSE)
            trange = [start, start + duration]
            pulses, opto = self._draw_light(start)
            state = random_state(n_bins, opto, self.trial_rng)
            rates[index] = population.rates(movies[scene_id], state)
            spikes = draw_spikes(rates[index], start, self.trial_rng)
            shared = {"m": MOUSE, "s": SERIES, "e": EXPERIMENT, "scene_id": scene_id, "trange": trange}
            for unit, times in enumerate(spikes):
                counts = np.bincount(((times - start) * RATE).astype(int), minlength=n_bins)
                responses.append({
                    "unique_id": unit, **shared, "u": unit + 1,
                    "train_vs_test": self.settings.scene_tiers[scene_id], "spike_times": times,
                    "psth": (counts * RATE).astype(np.float32), "psth_t": histogram_times, "opto_tranges": pulses,
                    "sRF": maps[unit], "ypos_um": 20.0 * unit, "ypos_norm": 2 * unit / len(spikes) - 1,
                })  # fmt: skip
            behavior.append({
                **shared, "run": state.run, "pupil_size": state.pupil_size, "pupil_x": state.pupil_x,
                "pupil_y": state.pupil_y, "bin_opto": opto.astype(np.int64),
            })  # fmt: skip
            self.progress(len(movies) + index + 1, self.n_steps)
        pd.DataFrame(responses).to_pickle(folder / "responses.pkl")
        pd.DataFrame(behavior).to_pickle(folder / "resp_behav_df.pkl")
        return rates

    def _draw_light(self, start: float) -> tuple[list[list[float]], np.ndarray]:
        """Return the light pulses of a trial ([start, end], s) and whether each bin is lit."""
        n_bins = self.settings.n_bins
        opto = np.zeros(n_bins, bool)
        if self.trial_rng.random() >= OPTO_SHARE:
            return [], opto
        length = int(self.trial_rng.uniform(0.2, 0.6) * n_bins)
        first = int(self.trial_rng.integers(0, n_bins - length))
        opto[first : first + length] = True
        return [[start + first / RATE, start + (first + length) / RATE]], opto
