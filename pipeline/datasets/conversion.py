"""A recording becomes a stored dataset: binned, resized, described, with the training tier's statistics."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.configuration import Configuration
from pipeline.datasets.preprocessing import Pixels
from pipeline.datasets.sampling import Sampling, sampling_of
from pipeline.datasets.statistics import Statistics, TrainingStatistics
from pipeline.datasets.store import write_dataset
from pipeline.errors import DatasetError
from pipeline.recordings.base import BEHAVIOR, PUPIL, SIGNALS, TIERS, Recording, Trace, Trial

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

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of its channels, of 'channel (treadmill, pupil_dilation), time'; empty if they have none."""
        named = re.match(r"channel \((.*)\)", self.tensor_dimensions)
        return tuple(named[1].split(", ")) if named else ()


@dataclass(frozen=True)
class Conversion:
    """What a conversion made.

    Attributes
    ----------
    n_trials, n_withheld, n_conditions, n_bins : int
        All trials, those of them whose responses are withheld, distinct stimuli, and bins over all trials.
    responses : Statistics
        Of the training tier, one entry a unit.
    totals : tuple of float
        Each unit's responses summed over all trials that have them: of spike counts, its spikes.
    tensors : tuple of TensorInfo
        The stimulus first.
    """

    n_trials: int
    n_withheld: int
    n_conditions: int
    n_bins: int
    responses: Statistics
    totals: tuple[float, ...]
    tensors: tuple[TensorInfo, ...]


def convert(
    recording: Recording,
    preprocessing: Configuration,
    tiers: Mapping[str, str],
    path: Path,
    excluded: Collection[int] = (),
    progress: Progress | None = None,
) -> Conversion:
    """Write a recording as a dataset at ``path``; memory holds one trial at a time.

    Trials that the source or ``excluded`` leaves out are not in it. Withheld ones are, with NaN for responses, and
    count in no statistics.

    Parameters
    ----------
    recording : Recording
        Open source.
    preprocessing : Movie or Image
        See `pipeline.datasets.preprocessing`.
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
        If a condition has no tier, the training tier is empty, a trial lacks a signal that others have, or a stimulus
        or response is not what the preprocessing needs.
    ConfigurationError
        If the preprocessing asks for something that the recording does not have.
    """
    left_out = set(excluded)
    trials = [trial for trial in recording.trials if trial.trial_idx not in left_out and not trial.exclusion]
    learned = _training_conditions(trials, tiers)
    sampling = sampling_of(preprocessing, recording, trials)
    example = next(t for t in trials if t.condition_hash in learned and not t.withheld)
    unit = sampling.response_unit(recording.responses(example.trial_idx), recording.response_unit)
    reader = _TrialReader(recording, sampling, trials[0])
    statistics = TrainingStatistics()
    totals = np.zeros(len(recording.units))
    pixels: dict[str, _PixelForm] = {}
    with write_dataset(path) as writer:
        for done, trial in enumerate(trials):
            stimulus = recording.stimuli[trial.condition_hash]
            if trial.condition_hash not in pixels:
                stored = sampling.stimulus(trial, stimulus, recording.frames(trial.condition_hash))
                pixels[trial.condition_hash] = _PixelForm.of(stored, stimulus.stimulus_name, trial, pixels)
                writer.add_stimulus(trial.condition_hash, sampling.stimulus_tensor, stored)
                if trial.condition_hash in learned:
                    statistics.add_stimulus(stimulus.stimulus_type, stored)
            tensors = reader.read(trial)
            columns = {
                "trial_idx": trial.trial_idx,
                "condition_hash": trial.condition_hash,
                "tier": tiers[trial.condition_hash],
                "withheld": int(trial.withheld),
                "stimulus_type": stimulus.stimulus_type,
            }
            writer.add_trial({**columns, **tensors})
            if not trial.withheld:
                totals += _samples(tensors["responses"]).sum(axis=1, dtype=np.float64)
                if trial.condition_hash in learned:
                    _learn(statistics, stimulus.stimulus_type, tensors, reader.rows)
            if progress:
                progress(done + 1, len(trials))
        found = statistics.result()
        writer.metadata = {
            "unit_ids": [unit.unit_id for unit in recording.units],
            "frame_rate": sampling.frame_rate,
            "behavior": reader.rows.get("behavior", []),
            "opto_groups": list(recording.opto_groups),
            "response_unit": unit,
            "statistics": {name: {kind: asdict(s) for kind, s in kinds.items()} for name, kinds in found.items()},
        }
    return Conversion(
        n_trials=len(trials),
        n_withheld=sum(trial.withheld for trial in trials),
        n_conditions=len(pixels),
        n_bins=sum(sampling.bins(trial) for trial in trials),
        responses=found["responses"]["all"],
        totals=tuple(totals.tolist()),
        tensors=_describe(sampling, preprocessing, next(iter(pixels.values())), reader, unit),
    )


def _training_conditions(trials: list[Trial], tiers: Mapping[str, str]) -> set[str]:
    """Return the conditions that statistics are made of, after checking that every condition has a tier."""
    for trial in trials:
        tier = tiers.get(trial.condition_hash)
        if tier not in TIERS:
            raise DatasetError(
                f"trial {trial.trial_idx}: its condition {trial.condition_hash[:12]} has "
                f"{'no tier' if tier is None else f'the unknown tier {tier!r}'}; ConditionTier must give one of {TIERS}"
            )
    found = {t.condition_hash for t in trials if tiers[t.condition_hash] == "train" and not t.withheld}
    if not found:
        raise DatasetError(
            "no trial with responses is in the training tier: statistics and models need one; see ConditionTier"
        )
    return found


@dataclass(frozen=True)
class _PixelForm:
    """What all stored stimuli of a dataset must have in common."""

    dtype: str
    channels: int

    @classmethod
    def of(cls, stored: np.ndarray, name: str, trial: Trial, others: Mapping[str, _PixelForm]) -> _PixelForm:
        form, first = cls(str(stored.dtype), len(stored)), next(iter(others.values()), None)
        if first not in (None, form):
            raise DatasetError(
                f"trial {trial.trial_idx}: stimulus {name} has {form.channels} channels of {form.dtype}, those before "
                f"it {first.channels} of {first.dtype}: choose a color other than 'source', exclude its trials, or "
                "give all stimuli the same type in the source"
            )
        return form


class _TrialReader:
    """Reads the tensors of one trial after another and checks that all have the same.

    Attributes
    ----------
    rows : dict
        Names of the signals in the tensors 'behavior' and 'pupil_location', those that there are.
    trains : int
        Trains of light.
    """

    def __init__(self, recording: Recording, sampling: Sampling, first: Trial) -> None:
        self._recording, self._sampling = recording, sampling
        self._names = set(self._signals(first))
        of_tensor = {"behavior": BEHAVIOR, "pupil_location": PUPIL}
        present = {tensor: [n for n in names if n in self._names] for tensor, names in of_tensor.items()}
        self.rows = {tensor: names for tensor, names in present.items() if names}
        self.trains = len(recording.opto_pulses(first.trial_idx))

    def _signals(self, trial: Trial) -> dict[str, Trace]:
        found = self._recording.signals(trial.trial_idx, self._sampling.margin)
        size = found.get("pupil_size")
        if self._sampling.derivative and size and "pupil_derivative" not in found and len(size.times) > 1:
            change = np.gradient(size.values.astype(np.float64), size.times)
            found = {**found, "pupil_derivative": Trace(size.times, change)}
        return found

    def read(self, trial: Trial) -> dict[str, np.ndarray]:
        """Return responses, behaviour, pupil location and light, those that there are."""
        traces = self._signals(trial)
        different = [name for name in SIGNALS if (name in self._names) != (name in traces)]
        if different:
            raise DatasetError(
                f"some trials have {', '.join(different)} and others do not (trial {trial.trial_idx} differs from the "
                "first): exclude the trials without, or leave the signal out of the source"
            )
        pulses = self._recording.opto_pulses(trial.trial_idx)
        if len(pulses) != self.trains:
            raise DatasetError(
                f"trial {trial.trial_idx} has {len(pulses)} trains of light, the first has {self.trains}: give each "
                "trial as many, without pulses where the light was off"
            )
        tensors = {"responses": self._responses(trial)}
        for tensor, names in self.rows.items():
            tensors[tensor] = np.stack([self._sampling.signal(trial, name, traces[name]) for name in names])
        if pulses:
            tensors["optogenetic_signal"] = np.stack([self._sampling.light(trial, train) for train in pulses])
        return tensors

    def _responses(self, trial: Trial) -> np.ndarray:
        if trial.withheld:
            return self._sampling.unknown(trial, len(self._recording.units))
        return self._sampling.responses(trial, self._recording.responses(trial.trial_idx, self._sampling.margin))


def _samples(tensor: np.ndarray) -> np.ndarray:
    """Return a tensor as (row, sample): of an image's trial one sample."""
    return tensor.reshape(len(tensor), -1)


def _learn(
    statistics: TrainingStatistics, stimulus_type: str, tensors: Mapping[str, np.ndarray], rows: Mapping[str, list[str]]
) -> None:
    statistics.add("responses", stimulus_type, _samples(tensors["responses"]))
    for tensor, names in rows.items():
        for name, values in zip(names, _samples(tensors[tensor]), strict=True):
            statistics.add(name, stimulus_type, values[None])


def _describe(
    sampling: Sampling, preprocessing: Any, pixels: _PixelForm, reader: _TrialReader, unit: str
) -> tuple[TensorInfo, ...]:
    assert isinstance(preprocessing, Pixels)
    pixel_unit = "grey value, 0 to 255" if preprocessing.monitor == "none" else "cd/m2"
    time = sampling.time_axis
    tensors = [
        TensorInfo(sampling.stimulus_tensor, pixels.dtype, sampling.stimulus_axes, pixel_unit),
        TensorInfo("responses", "float32", f"unit{time}", unit),
    ]
    for tensor, names in reader.rows.items():
        tensors.append(TensorInfo(tensor, "float32", f"channel ({', '.join(names)}){time}", "as in the source"))
    if reader.trains:
        tensors.append(TensorInfo("optogenetic_signal", "float32", f"train{time}", sampling.light_unit))
    return tuple(tensors)
