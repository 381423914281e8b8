"""A recording becomes a stored dataset: binned, resized, described, with the training tier's statistics."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from pipeline.datasets import preprocessing as pre
from pipeline.datasets.statistics import RunningStatistics, Statistics
from pipeline.datasets.store import write_dataset
from pipeline.errors import DatasetError
from pipeline.recordings.base import TIERS, Recording, Trial

BEHAVIOR = ("run", "pupil_size")
PUPIL = ("pupil_x", "pupil_y")

Progress = Callable[[int, int], None]
"""Called with the number of trials done and the number of all trials."""


@dataclass(frozen=True)
class TensorInfo:
    """One tensor of a dataset, for people.

    Attributes
    ----------
    tensor : str
        Its name.
    tensor_dtype, tensor_dimensions : str
        For example 'uint8' and 'channel, time, height, width'.
    tensor_unit : str
        Unit of its values.
    """

    tensor: str
    tensor_dtype: str
    tensor_dimensions: str
    tensor_unit: str


@dataclass(frozen=True)
class Conversion:
    """What a conversion made.

    Attributes
    ----------
    n_trials, n_conditions, n_bins : int
        Trials, distinct stimuli and bins over all trials.
    responses : Statistics
        Of the training tier, one entry a unit.
    spikes : tuple of int
        Spikes of each unit over all trials.
    tensors : tuple of TensorInfo
        The stimulus first.
    """

    n_trials: int
    n_conditions: int
    n_bins: int
    responses: Statistics
    spikes: tuple[int, ...]
    tensors: tuple[TensorInfo, ...]


def convert_movie(
    recording: Recording,
    preprocessing: pre.Movie,
    tiers: Mapping[str, str],
    path: Path,
    excluded: Collection[int] = (),
    progress: Progress | None = None,
) -> Conversion:
    """Write a movie recording as a dataset at ``path``; memory holds one trial at a time.

    Parameters
    ----------
    recording : Recording
        Open source.
    preprocessing : Movie
        Frame rate and size.
    tiers : mapping
        condition_hash to tier; every condition of a trial that is kept must be there.
    path : Path
        Folder to write; nothing is visible there until everything is.
    excluded : collection of int
        Values of trial_idx that are left out.
    progress : callable, optional
        See `Progress`.

    Raises
    ------
    DatasetError
        If a condition has no tier, the training tier is empty, or a trial lacks a signal that others have.
    """
    left_out = set(excluded)
    trials = [trial for trial in recording.trials if trial.trial_idx not in left_out]
    _check(trials, tiers)
    bins = _bins_per_condition(recording, trials, preprocessing.frame_rate)
    signals = tuple(n for n in BEHAVIOR + PUPIL if n in recording.signals(trials[0].trial_idx))
    gathered = {name: RunningStatistics() for name in ("inputs", "responses", *signals)}
    spikes = np.zeros(len(recording.units), np.int64)
    seen: set[str] = set()
    with write_dataset(path) as writer:
        for done, trial in enumerate(trials):
            training = tiers[trial.condition_hash] == "train"
            if trial.condition_hash not in seen:
                seen.add(trial.condition_hash)
                frames = _movie(recording, trial, preprocessing, bins[trial.condition_hash])
                writer.add_stimulus(trial.condition_hash, "videos", frames)
                if training:
                    gathered["inputs"].update(frames.reshape(1, -1))
            row = _trial_row(recording, trial, preprocessing.frame_rate, bins[trial.condition_hash], signals)
            writer.add_trial({**row, "tier": tiers[trial.condition_hash]})
            spikes += row["responses"].sum(axis=1, dtype=np.int64)
            if training:
                gathered["responses"].update(row["responses"])
                for name in signals:
                    tensor, names = ("behavior", BEHAVIOR) if name in BEHAVIOR else ("pupil_location", PUPIL)
                    channel = [n for n in names if n in signals].index(name)
                    gathered[name].update(row[tensor][channel : channel + 1])
            if progress:
                progress(done + 1, len(trials))
        statistics = {name: running.result() for name, running in gathered.items()}
        writer.metadata = {
            "unit_ids": [unit.unit_id for unit in recording.units],
            "frame_rate": preprocessing.frame_rate,
            "behavior": [name for name in BEHAVIOR if name in signals],
            "statistics": {name: asdict(value) for name, value in statistics.items()},
        }
    return Conversion(
        n_trials=len(trials),
        n_conditions=len(seen),
        n_bins=sum(bins[trial.condition_hash] for trial in trials),
        responses=statistics["responses"],
        spikes=tuple(int(n) for n in spikes),
        tensors=_describe(signals),
    )


def _check(trials: list[Trial], tiers: Mapping[str, str]) -> None:
    for trial in trials:
        tier = tiers.get(trial.condition_hash)
        if tier not in TIERS:
            raise DatasetError(
                f"trial {trial.trial_idx}: its condition {trial.condition_hash[:12]} has "
                f"{'no tier' if tier is None else f'the unknown tier {tier!r}'}; ConditionTier must give one of {TIERS}"
            )
    if not any(tiers[trial.condition_hash] == "train" for trial in trials):
        raise DatasetError("no trial is in the training tier: statistics and models need one; see ConditionTier")


def _bins_per_condition(recording: Recording, trials: list[Trial], frame_rate: float) -> dict[str, int]:
    """All repeats of a movie get equal length, so that they can be compared: that of the shortest."""
    bins: dict[str, int] = {}
    for trial in trials:
        stimulus = recording.stimuli[trial.condition_hash]
        if stimulus.frame_rate is None:
            raise DatasetError(f"trial {trial.trial_idx} shows the still image {stimulus.stimulus_name}: not a movie")
        duration = min(trial.duration, stimulus.shape[1] / stimulus.frame_rate)
        here = pre.n_bins(duration, frame_rate)
        bins[trial.condition_hash] = min(here, bins.get(trial.condition_hash, here))
    return bins


def _movie(recording: Recording, trial: Trial, preprocessing: pre.Movie, bins: int) -> np.ndarray:
    source_rate = recording.stimuli[trial.condition_hash].frame_rate
    frames = pre.resize_frames(recording.frames(trial.condition_hash), preprocessing.height, preprocessing.width)
    return pre.hold_frames(frames, float(source_rate or 0), preprocessing.frame_rate, bins)


def _trial_row(recording: Recording, trial: Trial, frame_rate: float, bins: int, signals: tuple[str, ...]) -> dict:
    clock = (trial.start, frame_rate, bins)
    traces = recording.signals(trial.trial_idx)
    different = [name for name in BEHAVIOR + PUPIL if (name in signals) != (name in traces)]
    if different:
        raise DatasetError(
            f"some trials have {', '.join(different)} and others do not (trial {trial.trial_idx} differs from the "
            "first): exclude the trials without, or leave the signal out of the source"
        )
    row = {
        "trial_idx": trial.trial_idx,
        "condition_hash": trial.condition_hash,
        "responses": pre.bin_spikes(recording.responses(trial.trial_idx).times, *clock),
        "optogenetic_signal": pre.pulse_trace(recording.opto_pulses(trial.trial_idx), *clock),
    }
    for tensor, names in (("behavior", BEHAVIOR), ("pupil_location", PUPIL)):
        present = [pre.resample_trace(traces[name], *clock) for name in names if name in signals]
        if present:
            row[tensor] = np.stack(present)
    return row


def _describe(signals: tuple[str, ...]) -> tuple[TensorInfo, ...]:
    tensors = [
        TensorInfo("videos", "uint8", "channel, time, height, width", "grey value, 0 to 255"),
        TensorInfo("responses", "float32", "unit, time", "spikes in a bin"),
        TensorInfo("optogenetic_signal", "float32", "time", "1 while the light is on"),
    ]
    behavior = [name for name in BEHAVIOR if name in signals]
    if behavior:
        tensors.append(TensorInfo("behavior", "float32", f"channel ({', '.join(behavior)}), time", "as in the source"))
    if any(name in signals for name in PUPIL):
        tensors.append(TensorInfo("pupil_location", "float32", "channel (x, y), time", "as in the source"))
    return tuple(tensors)
