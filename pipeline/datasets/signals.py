"""Behaviour, pupil position and light of one scan: normalised together, then handed out to where each belongs."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from pipeline.datasets.selection import DataConfiguration, listed
from pipeline.datasets.store import StoredDataset

LIGHT = "optogenetic_signal"
_PUPIL = ("pupil_x", "pupil_y")


@dataclass(frozen=True)
class Signals:
    """The signals that a configuration uses, one row each: behaviour, pupil position, trains of light.

    Attributes
    ----------
    tensors : tuple of str
        Tensors of the dataset that, joined, hold the rows.
    offset, scale : ndarray
        (row,): normalised is (value - offset) * scale.
    training_mean : ndarray
        (row,): of the normalised values.
    pupil_std : tuple of float
        Standard deviation of the normalised pupil position, x and y, in training; empty without it.
    behavior, pupil, light, planes : tuple of int
        Rows that make up each field of a batch, and those that become planes of the input.
    """

    tensors: tuple[str, ...]
    offset: np.ndarray
    scale: np.ndarray
    training_mean: np.ndarray
    pupil_std: tuple[float, ...]
    behavior: tuple[int, ...]
    pupil: tuple[int, ...]
    light: tuple[int, ...]
    planes: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.offset)

    def normalize(self, values: np.ndarray) -> None:
        """Normalise (batch, row, time) or (batch, row) in place."""
        trailing = (slice(None),) + (None,) * (values.ndim - 2)
        values -= self.offset[trailing]
        values *= self.scale[trailing]

    @staticmethod
    def pick(values: Tensor, rows: tuple[int, ...]) -> Tensor | None:
        """Return these rows of normalised values (batch, row, ...), None if there are none."""
        return values[:, list(rows)] if rows else None


@dataclass(frozen=True)
class Places:
    """Where the rows of the signals go: behaviour, pupil position, trains of light, in this order."""

    behavior: tuple[int, ...]
    pupil: tuple[int, ...]
    light: tuple[int, ...]
    planes: tuple[int, ...]


def place_signals(config: DataConfiguration, n_behavior: int, n_pupil: int, n_light: int) -> Places:
    """Return where a configuration puts so many rows of each sort; those that it leaves out are not counted."""
    ends = list(itertools.accumulate((n_behavior, n_pupil, n_light)))
    rows = {"behavior": range(n_behavior), "pupil": range(n_behavior, ends[1])}
    light = tuple(range(ends[1], ends[2]))
    apart = {n: tuple(r) if getattr(config, n) in ("apart", "both") else () for n, r in rows.items()}
    planes = [row for n, r in rows.items() if getattr(config, n) in ("channels", "both") for row in r]
    return Places(
        behavior=apart["behavior"] + (light if config.opto == "behavior" else ()),
        pupil=apart["pupil"],
        light=light,
        planes=(*planes, *(light if config.opto == "channels" else ())),
    )


def plan_signals(config: DataConfiguration, stored: StoredDataset, train: list[int]) -> Signals:
    """Return the signals that a configuration takes from a dataset.

    Training means follow from the stored statistics of the types that the configuration shows (of all types where it
    shows several); only those of light, which has no statistics, are read from the training rows ``train``.
    """
    behavior: list[str] = stored.metadata["behavior"] if config.behavior != "none" else []
    has_pupil = config.pupil != "none" and "pupil_location" in stored.tensors
    has_light = LIGHT in stored.tensors
    names = [*behavior, *(_PUPIL if has_pupil else ())]
    shown = shown_type(config, stored)
    offset, scale, mean, std = [], [], [], []
    for name in names:
        field = "behavior" if name in behavior else "pupil_center"
        statistics = stored.statistics(name, config.stats_source)
        normalized = config.normalizes(field)
        offset.append(statistics.mean[0] if normalized and field == "pupil_center" else 0.0)
        scale.append(statistics.precision()[0] if normalized else 1.0)
        training = stored.statistics(name, shown)
        mean.append((training.mean[0] - offset[-1]) * scale[-1])
        std.append(training.std[0] * scale[-1])
    trains = len(stored.tensor(LIGHT, train[0])) if has_light else 0
    lit = _mean_light(stored, train) if trains and config.opto != "none" else np.zeros(trains)
    used = {"behavior": bool(behavior), "pupil_location": has_pupil, LIGHT: has_light}
    return Signals(
        tensors=tuple(tensor for tensor, is_used in used.items() if is_used),
        offset=np.array([*offset, *[0.0] * trains], np.float32),
        scale=np.array([*scale, *[1.0] * trains], np.float32),
        training_mean=np.array([*mean, *lit]),
        pupil_std=tuple(std[len(behavior) :]),
        **vars(place_signals(config, len(behavior), len(names) - len(behavior), trains)),
    )


def shown_type(config: DataConfiguration, stored: StoredDataset) -> str:
    """Return the type of stimuli whose statistics are those of the training trials that a configuration takes."""
    types = listed(config.stimulus_type)
    return types[0] if len(types) == 1 and types[0] in stored.metadata["statistics"]["responses"] else "all"


def _mean_light(stored: StoredDataset, train: list[int]) -> np.ndarray:
    traces = [stored.tensor(LIGHT, row) for row in train]
    return np.concatenate([trace.reshape(len(trace), -1) for trace in traces], axis=1).mean(axis=1)
