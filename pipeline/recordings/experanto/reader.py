"""Recordings in experanto's format: one folder for each modality, every one sampled on a clock of its own."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np

from pipeline.errors import RecordingError
from pipeline.recordings.base import (
    Responses,
    SpikeTimes,
    Stimulus,
    Trial,
    hash_pixels,
)
from pipeline.recordings.checks import require_folder, sealed, unchanged
from pipeline.recordings.clocked import ClockedRecording
from pipeline.recordings.experanto.modalities import (
    inside,
    positive,
    read_behavior,
    read_pulses,
    read_sequence,
    read_spikes,
    read_units,
    read_yaml,
)
from pipeline.recordings.experanto.screen import ScreenTrial, grey, image_size, read_pixels, read_screen
from pipeline.recordings.sequences import (
    SLACK,
    Sequence,
    require_nan_rule,
    shared_rates,
    spikes_between,
)
from pipeline.recordings.tiers import tier_called


class ExperantoRecording(ClockedRecording):
    """A recording in experanto's format.

    Each entry of the screen's metadata is a trial. An image becomes a still image, a video a movie, a blank a still
    image of its grey value whose type is 'blank'; invalid entries, and those whose ``valid_trial`` is false, are
    excluded, as are trials that reach beyond what was recorded of responses, eye or treadmill. Blanks that have no tier
    go to training where other trials have one: they can test nothing. Data stay on disk until they are asked for.

    A sequence is sampled at ``timestamps.npy`` or ``meta/timestamps.npy`` of its folder where there is one, else
    regularly as ``meta.yml`` says.

    Parameters
    ----------
    path : str
        Folder of the recording, with ``screen``, ``responses`` and, if there, ``eye_tracker`` and ``treadmill``.
    responses : str
        Folder in it with the responses: of modality 'sequence' or 'spikes'.
    eye_tracker : str
        Folder in it with the eye tracker; 'none' leaves it out.
    eye_columns : str
        Which column is what, from 0, as ``pupil_size=0,pupil_x=2,pupil_y=3``: exporters differ and the format does not
        tell. Needed where there is an eye tracker.
    treadmill : str
        Folder in it with the running speed (cm/s); 'none' leaves it out.
    treadmill_column : str
        Column of the running speed, from 0.
    opto : str
        Folder in it, of modality 'time_interval', with the light pulses; as ``light/blue`` where it has several labels.
    frame_rate : str
        Frames a second (Hz) of all videos; empty: from their timestamps, alike for those within 5 % of each other.
    response_unit : str
        What a sequence of responses measures.
    nan : str
        What to do with NaN in a trial: 'refuse' the recording, 'exclude' the trial, or 'interpolate'.

    Raises
    ------
    RecordingError
        At construction, if anything is missing, damaged or contradicts itself; the message names it.
    """

    source_format: ClassVar[str] = "experanto"
    example: ClassVar[str] = (
        "--path scan7 --eye-columns pupil_size=0,pupil_x=2,pupil_y=3 --subject m1 --session 1 --scan 1"
    )

    def __init__(
        self,
        path: str,
        responses: str = "responses",
        eye_tracker: str = "eye_tracker",
        eye_columns: str = "",
        treadmill: str = "treadmill",
        treadmill_column: str = "0",
        opto: str = "",
        frame_rate: str = "",
        response_unit: str = "dF/F",
        nan: str = "refuse",
    ) -> None:
        self._path = require_folder(path, "an experanto recording")
        self._nan = require_nan_rule(nan)
        self._spikes: tuple[tuple[np.ndarray, ...], float, float] | None = None
        self._open_responses(inside(self._path, responses, "responses"), response_unit)
        self._behavior = [
            *read_behavior(self._path, eye_tracker, "eye_columns", eye_columns),
            *read_behavior(self._path, treadmill, "treadmill_column", f"run={treadmill_column}"),
        ]
        self._pulses = read_pulses(self._path, opto) if opto else None
        self.opto_groups = (0,) * len(self.units) if opto else ()
        self._shown: dict[str, tuple[ScreenTrial, tuple[int, ...]]] = {}
        self._read_trials(read_screen(self._path / "screen"), frame_rate)
        location = {
            "path": str(self._path), "responses": responses, "eye_tracker": eye_tracker, "eye_columns": eye_columns,
            "treadmill": treadmill, "treadmill_column": treadmill_column, "opto": opto, "frame_rate": frame_rate,
            "response_unit": response_unit, "nan": nan,
        }  # fmt: skip
        self.source = sealed(self, location)

    def frames(self, condition_hash: str) -> np.ndarray:
        """Return the pixels of one stimulus, (channel, time, height, width), in the source's dtype.

        Raises
        ------
        RecordingError
            If the recording has no such condition, or its file changed since the recording was opened.
        """
        if condition_hash not in self._shown:
            raise RecordingError(f"{self._path} has no condition {condition_hash}")
        trial, size = self._shown[condition_hash]
        frames = read_pixels(trial) if trial.file else grey(trial, size)
        return unchanged(frames, self.stimuli[condition_hash], str(trial.file))

    def responses(self, trial_idx: int, margin: float = 0.0) -> Responses:
        """Return the responses in one trial and ``margin`` (s) around it, as far as they were recorded."""
        if self._spikes is None:
            return self._traces(trial_idx, margin)
        start, stop = self._span(trial_idx)
        spikes, first, last = self._spikes
        span = max(start - margin, first), min(stop + margin, last)
        return SpikeTimes(tuple(spikes_between(times, *span) for times in spikes), span)

    def _open_responses(self, folder: Path, response_unit: str) -> None:
        meta = read_yaml(require_folder(folder, "responses") / "meta.yml", "responses' metadata")
        if meta.get("modality") == "spikes":
            self._spikes = read_spikes(folder, meta)
            self.units = read_units(folder, meta, len(self._spikes[0]))
            return
        sequence = read_sequence(folder)
        self.units = read_units(folder, meta, len(sequence.names))
        names = tuple(f"unit {unit.unit_name}" for unit in self.units)
        self._sampled = Sequence(**{**vars(sequence), "names": names})
        self.response_unit = response_unit

    def _read_trials(self, shown: list[ScreenTrial], frame_rate: str) -> None:
        videos = [trial for trial in shown if trial.modality == "video"]
        fixed = [positive(frame_rate, "frame_rate")] * len(videos) if frame_rate else None
        measured = fixed or shared_rates([trial.interval or trial.stop - trial.start for trial in videos])
        rates = {trial.key: rate for trial, rate in zip(videos, measured, strict=True)}
        size = next((image_size(trial) for trial in shown if image_size(trial)), ())
        tiered = any(trial.meta.get("tier") for trial in shown)
        self._stimuli: dict[str, Stimulus] = {}
        hashed: dict[tuple, str] = {}
        trials = []
        for index, trial in enumerate(shown):
            rate, own_size = rates.get(trial.key), image_size(trial) or size
            key = (trial.file, rate, own_size, trial.meta.get("interleave_value"), trial.n_frames)
            if key not in hashed:
                hashed[key] = self._describe(trial, rate, own_size)
            tier, exclusion = self._standing(trial, tiered)
            trials.append(Trial(index, hashed[key], trial.start, trial.stop - trial.start, tier, exclusion=exclusion))
        self.stimuli, self.trials = self._stimuli, tuple(trials)

    def _describe(self, trial: ScreenTrial, rate: float | None, size: tuple[int, ...]) -> str:
        if trial.file is None and not size:
            raise RecordingError(f"{self._path / 'screen'}, trial {trial.key}: no image_size to make a {trial.name} of")
        frames = read_pixels(trial) if trial.file else grey(trial, size)
        condition = hash_pixels(frames, rate)
        channels, time, height, width = frames.shape
        kind = str(trial.meta.get("stim_type") or "") if trial.file else trial.modality
        stimulus = Stimulus(condition, rate, (channels, time, height, width), trial.name, kind)
        self._stimuli.setdefault(condition, stimulus)
        self._shown.setdefault(condition, (trial, size))
        return condition

    def _standing(self, trial: ScreenTrial, tiered: bool) -> tuple[str | None, str]:
        """Return the tier of a trial and why it is excluded."""
        called = str(trial.meta.get("tier") or "")
        tier = None
        if called and called != "none":
            tier = tier_called(called, f"{self._path / 'screen'}, trial {trial.key}")
        elif trial.modality == "blank" and tiered:
            tier = "train"
        if trial.modality == "invalid":
            return tier, "the source calls it invalid"
        if trial.meta.get("valid_trial") is False:
            return tier, "valid_trial is false in the source"
        if called == "none":
            return tier, "the source gives it the tier 'none'"
        if self._spikes is not None:
            _, first, last = self._spikes
            if trial.start < first - SLACK or trial.stop > last + SLACK:
                return tier, f"spikes known from {first:.3f} to {last:.3f} s only"
        return tier, self._obstacle(trial.start, trial.stop)
