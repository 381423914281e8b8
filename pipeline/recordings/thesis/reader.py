"""Recordings in the thesis format: a pickled table of responses, a folder of scene movies, a table of behaviour."""

from __future__ import annotations

import dataclasses
import logging
import os
import re
from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from pipeline.errors import RecordingError
from pipeline.recordings.base import Recording, Responses, SpikeTimes, Stimulus, Trace, Trial, hash_pixels
from pipeline.recordings.checks import NAN_RULES, require_file, require_folder, sealed, unchanged
from pipeline.recordings.thesis.behavior_table import read_behavior
from pipeline.recordings.thesis.pooling import pool_presentations, pool_units
from pipeline.recordings.thesis.responses_table import (
    RESPONSE_COLUMNS,
    Experiment,
    Presentation,
    Selection,
    read_experiments,
)
from pipeline.recordings.video import read_video

logger = logging.getLogger(__name__)


class ThesisRecording(Recording):
    """A dLGN recording as the thesis stored it.

    A trial is one presentation of a scene: one (scene_id, trange). Every movie is decoded once when the recording is
    opened, to check it and to take its hash, and again whenever `frames` is called; pixels are not kept.

    Pooled experiments become one recording: its trials are those of the first experiment, each joined by the
    presentation of the same scene that has the same number in every other experiment, and shifted so that all begin at
    once. Each experiment keeps its own train of light.

    Parameters
    ----------
    responses : str
        Pickled table with one row for each unit and presentation. Columns: m (mouse), s (series), e (experiment), u
        (unit), train_vs_test, scene_id, trange ([start, end], s), opto_tranges (list of [start, end], s), and
        spike_times (s, same clock) or psth (spikes/s; with psth_t, s, where its samples stand).
    videos : str
        Folder with one ``*scene-{scene_id + 1:03d}.avi`` for each scene.
    behavior : str
        Pickled table with any of the arrays run, pupil_size, pupil_x, pupil_y for each (scene_id, m, s); a column
        trange tells repeated presentations apart.
    mouse : str
        Take only this mouse (column m).
    series : str
        Take only this series (column s).
    experiment : str
        Take only this experiment (column e).
    exclude_units : str
        Units to leave out, separated by commas: numbers (column u), or names such as m0123_s02_e04_u07.
    response_column : str
        What to read as responses, spike_times or psth; spike_times if the table has both and nothing is said.
    nan : str
        What to do with NaN in behaviour or psth: refuse the recording, exclude the trial, or interpolate from the
        samples beside it.
    pool : str
        'experiments' makes all experiments of the table (that mouse, series and experiment leave) one recording.

    Raises
    ------
    RecordingError
        At construction, if anything is missing, damaged or contradicts itself; the message names it.
    """

    source_format = "thesis"
    example = (
        "--responses responses.pkl --videos movies/ --behavior resp_behav_df.pkl --subject m0123 --session 2 --scan 1 "
        "--screen 108x67"
    )

    def __init__(
        self,
        responses: str,
        videos: str,
        behavior: str = "",
        mouse: str = "",
        series: str = "",
        experiment: str = "",
        exclude_units: str = "",
        response_column: str = "",
        nan: str = "refuse",
        pool: str = "",
    ) -> None:
        _require_choice("response_column", response_column, ("", *RESPONSE_COLUMNS))
        _require_choice("nan", nan, NAN_RULES)
        _require_choice("pool", pool, ("", "experiments"))
        if pool and behavior:
            raise RecordingError("behavior cannot be pooled: an animal runs in one experiment only; leave behavior out")
        table_path = require_file(responses, "responses")
        behavior_path = require_file(behavior, "behaviour") if behavior else None
        folder = require_folder(videos, "videos")
        selection = Selection(mouse, series, experiment, exclude_units, several=bool(pool))
        experiments = read_experiments(table_path, selection, response_column, nan)
        scenes = self._read_movies(experiments, folder)
        if pool:
            self.units, self.opto_groups = pool_units(experiments)
            self._presentations = pool_presentations(experiments, table_path)
        else:
            self.units, self._presentations = experiments[0].units, experiments[0].presentations
            self.opto_groups = (0,) * len(self.units)
        self._signals: tuple[dict[str, Trace], ...] = tuple({} for _ in self._presentations)
        exclusions: tuple[str, ...] = ("",) * len(self._presentations)
        if behavior_path:
            self._signals, exclusions = read_behavior(behavior_path, experiments[0], nan)
        self.trials = tuple(
            Trial(
                trial_idx=index,
                condition_hash=scenes[showing.scene_id],
                start=showing.start,
                duration=showing.stop - showing.start,
                tier=showing.tier,
                exclusion="; ".join(filter(None, (showing.exclusion, exclusion))),
            )
            for index, (showing, exclusion) in enumerate(zip(self._presentations, exclusions, strict=True))
        )
        if not isinstance(self._presentations[0].responses, SpikeTimes):
            self.response_unit = "spikes/s"
        self._where = str(table_path)
        location = {
            "responses": str(table_path), "videos": str(folder), "behavior": str(behavior_path or ""),
            "mouse": mouse, "series": series, "experiment": experiment, "exclude_units": exclude_units,
            "response_column": response_column, "nan": nan, "pool": pool,
        }  # fmt: skip
        self.source = sealed(self, location)

    def frames(self, condition_hash: str) -> np.ndarray:
        """Return the pixels of one scene, uint8 (channel = 1, time, height, width).

        Raises
        ------
        RecordingError
            If the recording has no such condition, or the movie changed since the recording was opened.
        """
        if condition_hash not in self._paths:
            raise RecordingError(f"{self.source.location['videos']} has no condition {condition_hash}")
        path = self._paths[condition_hash]
        frames, frame_rate = read_video(path)
        stimulus = self.stimuli[condition_hash]
        return unchanged(frames, dataclasses.replace(stimulus, frame_rate=frame_rate), str(path))

    def responses(self, trial_idx: int, margin: float = 0.0) -> Responses:
        """Return spike times or rates (spikes/s) of all units in one trial; nothing is known around it."""
        return self._presentation(trial_idx).responses

    def signals(self, trial_idx: int, margin: float = 0.0) -> dict[str, Trace]:
        """Return 'run' (cm/s), 'pupil_size', 'pupil_x', 'pupil_y' of one trial, as far as the behaviour table has them.

        A trial that is excluded may hold NaN.
        """
        self._presentation(trial_idx)
        return dict(self._signals[trial_idx])

    def opto_pulses(self, trial_idx: int) -> tuple[np.ndarray, ...]:
        """Return the light pulses that touch one trial, for each experiment (pulse, 2): start and end (s)."""
        return tuple(pulses.copy() for pulses in self._presentation(trial_idx).pulses)

    def _presentation(self, trial_idx: int) -> Presentation:
        if not 0 <= trial_idx < len(self._presentations):
            raise RecordingError(f"{self._where} has no trial {trial_idx}: trials are 0 to {len(self.trials) - 1}")
        return self._presentations[trial_idx]

    def _read_movies(self, experiments: Iterable[Experiment], folder: Path) -> dict[int, str]:
        """Check the movie of every scene, keep what it is, and return its hash by scene_id."""
        presentations = [showing for experiment in experiments for showing in experiment.presentations]
        scenes = sorted({showing.scene_id for showing in presentations})
        paths = _find_videos(folder, scenes)
        logger.info("checking %d movies in %s", len(paths), folder)
        with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as threads:
            shown = dict(zip(scenes, threads.map(_describe, paths.values()), strict=True))
        for showing in presentations:
            _check_duration(showing, shown[showing.scene_id], paths[showing.scene_id])
        self.stimuli = {stimulus.condition_hash: stimulus for stimulus in reversed(shown.values())}
        self._paths = {shown[scene].condition_hash: paths[scene] for scene in reversed(scenes)}
        return {scene: stimulus.condition_hash for scene, stimulus in shown.items()}


def _require_choice(name: str, value: str, choices: Iterable[str]) -> None:
    if value not in choices:
        known = ", ".join(choice for choice in choices if choice)
        raise RecordingError(f"{name} is {value!r}: choose one of {known}")


def _find_videos(folder: Path, scenes: Iterable[int]) -> dict[int, Path]:
    """Return the movie of each scene; the folder is listed once."""
    numbered: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(folder.iterdir()):
        match = re.search(r"scene-(\d+)\.avi$", path.name)
        if match and not path.name.startswith("."):
            numbered[match[1]].append(path)
    found = {}
    for scene_id in scenes:
        number = f"{scene_id + 1:03d}"
        paths = numbered.get(number, [])
        if not paths:
            raise RecordingError(f"scene {scene_id} has no video: nothing in {folder} is called *scene-{number}.avi")
        if len(paths) > 1:
            names = ", ".join(path.name for path in paths)
            raise RecordingError(f"scene {scene_id} has {len(paths)} videos in {folder} ({names}): keep one")
        found[scene_id] = paths[0]
    return found


def _describe(path: Path) -> Stimulus:
    frames, frame_rate = read_video(path)
    channel, time, height, width = frames.shape
    return Stimulus(hash_pixels(frames, frame_rate), frame_rate, (channel, time, height, width), path.name)


def _check_duration(showing: Presentation, stimulus: Stimulus, path: Path) -> None:
    """Refuse a movie whose length is more than one frame off the trial's, or does not fit the ready-made histogram."""
    n_frames, rate = stimulus.shape[1], stimulus.frame_rate or float("nan")
    duration = showing.stop - showing.start
    if not abs(n_frames / rate - duration) <= 1 / rate * (1 + 1e-9):
        raise RecordingError(
            f"{path} has {n_frames} frames at {rate:g} Hz, {n_frames / rate:.3f} s, but scene {showing.scene_id} was "
            f"shown for {duration:.3f} s (trange [{showing.start}, {showing.stop}]): is it the right video?"
        )
    if showing.n_bins is None:
        return
    bins_per_frame = max(1, round(showing.n_bins / n_frames))
    if abs(showing.n_bins - bins_per_frame * n_frames) > bins_per_frame:
        raise RecordingError(
            f"{path} has {n_frames} frames, but psth of scene {showing.scene_id} has {showing.n_bins} bins, "
            f"which is no whole number for each frame: is it the right video?"
        )
