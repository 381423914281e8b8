"""What an example of a format is: a source that can be written anywhere, and what can be changed in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pipeline.datasets.preprocessing import Image, Movie
from pipeline.recordings import Recording, Responses, SpikeTimes, Traces, Trial, open_recording

Change = Callable[[Path], Mapping[str, str] | None]
"""Alters the source in a folder; returns what changes among the arguments of its reader, if anything."""


@dataclass(frozen=True)
class Example:
    """One small recording on disk.

    Attributes
    ----------
    name, source_format : str
    write : callable
        Writes the source into a folder.
    arguments : mapping
        Of the reader; ``{}`` stands for the folder.
    preprocessing : Movie or Image
        Leaves size and frame rate as they are.
    trials : mapping
        How many trials each tier's loader has; 'withheld' and 'excluded' count apart.
    response, pixel, tier : callable
        Change one value of each kind.
    leaks : mapping
        Ways in which a training stimulus gets into the test tier.
    """

    name: str
    source_format: str
    write: Callable[[Path], object]
    arguments: Mapping[str, str]
    preprocessing: Movie | Image
    trials: Mapping[str, int]
    response: Change
    pixel: Change
    tier: Change
    leaks: Mapping[str, Change] = field(default_factory=dict)

    def open(self, folder: Path, change: Change | None = None) -> Recording:
        """Open the source in a folder, after a change if one is given."""
        changed = (change(folder) if change else None) or {}
        location = {name: text.replace("{}", str(folder)) for name, text in {**self.arguments, **changed}.items()}
        return open_recording(self.source_format, **location)


def binned(recording: Recording, trial: Trial, preprocessing: Movie | Image, bins: int = 1) -> np.ndarray:
    """Return the responses of one trial as a dataset must hold them, (unit, time) or (unit,), by numpy alone.

    Sampled traces are interpolated, so their clock must not be faster than the bins.
    """
    found: Responses = recording.responses(trial.trial_idx, margin=1.0)
    if isinstance(preprocessing, Image):
        edges = trial.start + preprocessing.offset + np.array([0, preprocessing.duration])
    else:
        edges = trial.start + np.arange(bins + 1) / preprocessing.frame_rate
    if isinstance(found, SpikeTimes):
        counts = np.stack([np.histogram(times, edges)[0] for times in found.times])
        return counts if isinstance(preprocessing, Movie) else counts[:, 0]
    if isinstance(found, Traces):
        delays = np.zeros(len(found.values)) if found.delays is None else found.delays
        centres = (edges[1:] + edges[:-1]) / 2
        pairs = zip(found.values, delays, strict=True)
        return np.stack([np.interp(centres, found.times + delay, trace) for trace, delay in pairs])
    return found.values


def usable(recording: Recording) -> list[Trial]:
    """Return the trials that the source does not exclude."""
    return [trial for trial in recording.trials if not trial.exclusion]


def bins_of(recording: Recording, trials: list[Trial], frame_rate: float) -> dict[str, int]:
    """Return for how many bins each condition was shown in every one of the trials."""
    found: dict[str, int] = {}
    for trial in trials:
        stimulus = recording.stimuli[trial.condition_hash]
        seconds = [trial.duration, *([stimulus.shape[1] / stimulus.frame_rate] if stimulus.frame_rate else [])]
        here = int(min(seconds) * frame_rate + 1e-6)
        found[trial.condition_hash] = min(here, found.get(trial.condition_hash, here))
    return found


def edit(path: Path, *index: int, by: float = 1) -> None:
    """Add to one value of an array on disk; pixels wrap around."""
    values = np.load(path)
    values[index] += np.asarray(by).astype(values.dtype)
    np.save(path, values)


def copied(source: Path, target: Path) -> None:
    target.write_bytes(source.read_bytes())
