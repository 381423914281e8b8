"""Recordings in the thesis format: a pickled table of spike times, a folder of scene movies, a table of behaviour."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from pipeline.errors import RecordingError
from pipeline.recordings.base import Source, SpikeTimes, Stimulus, Trace, Trial, Unit, hash_pixels
from pipeline.recordings.behavior_table import read_behavior
from pipeline.recordings.responses_table import Presentation, read_responses
from pipeline.recordings.video import read_video

logger = logging.getLogger(__name__)


class ThesisRecording:
    """A dLGN recording as the thesis stored it. Implements `pipeline.recordings.base.Recording`.

    A trial is one presentation of a scene: one (scene_id, trange). Every movie is decoded once when the recording is
    opened, to check it and to take its hash, and again whenever `frames` is called; pixels are not kept.

    Parameters
    ----------
    responses : str
        Pickled DataFrame with one row for each unit and presentation. Columns: m (mouse), s (series), e (experiment),
        u (unit), train_vs_test, scene_id, trange ([start, end], s), spike_times (s, same clock), opto_tranges
        (list of [start, end], s), and if there, psth (its length is checked).
    videos : str
        Folder with one ``*scene-{scene_id + 1:03d}.avi`` for each scene.
    behavior : str or None
        Pickled DataFrame with the arrays run, pupil_size, pupil_x, pupil_y for each (scene_id, m, s); a column trange
        tells repeated presentations apart.
    mouse, series, experiment : str or None
        Select one recording where the table holds several.
    exclude_units : str
        Unit numbers to leave out, separated by commas.

    Raises
    ------
    RecordingError
        At construction, if anything is missing, damaged or contradicts itself; the message names it.
    """

    source: Source
    units: tuple[Unit, ...]
    stimuli: Mapping[str, Stimulus]
    trials: tuple[Trial, ...]

    def __init__(
        self,
        responses: str,
        videos: str,
        behavior: str | None = None,
        mouse: str | None = None,
        series: str | None = None,
        experiment: str | None = None,
        exclude_units: str = "",
    ) -> None:
        table_path, folder = Path(responses).absolute(), Path(videos).absolute()
        behavior_path = Path(behavior).absolute() if behavior else None
        table = read_responses(table_path, mouse, series, experiment, _unit_numbers(exclude_units))
        self._presentations = table.presentations
        self._signals: tuple[dict[str, Trace], ...] = (
            read_behavior(behavior_path, table) if behavior_path else tuple({} for _ in table.presentations)
        )
        scenes = sorted({showing.scene_id for showing in table.presentations})
        paths = {scene: _find_video(folder, scene) for scene in scenes}
        logger.info("checking %d movies in %s", len(paths), folder)
        with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
            shown = dict(zip(scenes, pool.map(_describe, paths.values()), strict=True))
        for showing in table.presentations:
            _check_duration(showing, shown[showing.scene_id], paths[showing.scene_id])
        self.units = table.units
        self.stimuli = {stimulus.condition_hash: stimulus for stimulus in reversed(shown.values())}
        self._paths = {shown[scene].condition_hash: paths[scene] for scene in reversed(scenes)}
        self.trials = tuple(
            Trial(index, shown[p.scene_id].condition_hash, p.start, p.stop - p.start, p.tier)
            for index, p in enumerate(table.presentations)
        )
        given = {
            "responses": str(table_path), "videos": str(folder), "behavior": behavior_path and str(behavior_path),
            "mouse": mouse, "series": series, "experiment": experiment, "exclude_units": exclude_units,
        }  # fmt: skip
        location = {name: str(value) for name, value in given.items() if value not in (None, "")}
        self.source = Source("thesis", location, self._fingerprint())

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
        if hash_pixels(frames, frame_rate) != condition_hash:
            raise RecordingError(f"{path} changed since the recording was opened: open the recording again")
        return frames

    def responses(self, trial_idx: int) -> SpikeTimes:
        """Return the spikes of all units in one trial."""
        return SpikeTimes(self._presentations[self._known(trial_idx)].spike_times)

    def signals(self, trial_idx: int) -> dict[str, Trace]:
        """Return 'run' (cm/s), 'pupil_size', 'pupil_x', 'pupil_y' of one trial; empty without a behaviour table."""
        return dict(self._signals[self._known(trial_idx)])

    def opto_pulses(self, trial_idx: int) -> np.ndarray:
        """Return the light pulses that touch one trial, (pulse, 2): start and end (s)."""
        return self._presentations[self._known(trial_idx)].pulses.copy()

    def _known(self, trial_idx: int) -> int:
        if not 0 <= trial_idx < len(self.trials):
            raise RecordingError(
                f"{self.source.location['responses']} has no trial {trial_idx}: trials are 0 to {len(self.trials) - 1}"
            )
        return trial_idx

    def _fingerprint(self) -> str:
        """Return the SHA-256 of all that was read, whatever the order of rows and the place of the files."""
        digest = hashlib.sha256()
        digest.update("|".join(unit.unit_name for unit in self.units).encode())
        for trial, showing, signals in zip(self.trials, self._presentations, self._signals, strict=True):
            digest.update(f"|{trial.condition_hash}|{showing.start!r}|{showing.stop!r}|{trial.tier}".encode())
            named = [(name, signals[name].values) for name in sorted(signals)]
            named += [("opto", showing.pulses.ravel()), *(("spikes", times) for times in showing.spike_times)]
            for name, values in named:
                digest.update(f"|{name}|{values.size}|".encode())
                digest.update(np.ascontiguousarray(values, dtype="<f8").data)
        return digest.hexdigest()


def _unit_numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise RecordingError(f"exclude_units is {text!r}: give unit numbers separated by commas, as '3,17'") from None


def _find_video(folder: Path, scene_id: int) -> Path:
    pattern = f"*scene-{scene_id + 1:03d}.avi"
    if not folder.is_dir():
        raise RecordingError(f"{folder}: no such folder of videos")
    found = sorted(folder.glob(pattern))
    if not found:
        raise RecordingError(f"scene {scene_id} has no video: nothing in {folder} is called {pattern}")
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise RecordingError(f"scene {scene_id} has {len(found)} videos in {folder} ({names}): keep one")
    return found[0]


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
