"""Datasets written directly, with everything that went into them at hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.datasets.store import write_dataset

SIZE = (5, 6)
BEHAVIOR = ["pupil_size", "run"]
PUPIL = ["pupil_x", "pupil_y"]


@dataclass(frozen=True)
class Written:
    """A dataset and its raw values: rows of `trials` by name, `stimuli` by condition."""

    path: Path
    stimuli: dict[str, np.ndarray]
    trials: list[dict[str, Any]]
    statistics: dict[str, dict[str, dict[str, list[float]]]]

    def moments(self, *names: str, of: str = "all") -> tuple[np.ndarray, np.ndarray]:
        """Mean and std of the named statistics, joined, (row,)."""
        found = [self.statistics[name][of] for name in names]
        return tuple(np.concatenate([one[m] for one in found]) for m in ("mean", "std"))  # type: ignore[return-value]

    def rows(self, tier: str) -> list[int]:
        return [i for i, t in enumerate(self.trials) if t["tier"] == tier and not t["withheld"]]


def _moments(blocks: Sequence[np.ndarray]) -> dict[str, list[float]]:
    joined = np.concatenate([b.reshape(len(b), -1) for b in blocks], axis=1).astype(float)
    return {"mean": joined.mean(axis=1).tolist(), "std": joined.std(axis=1, ddof=1).tolist()}


def write(
    path: Path,
    tiers: Sequence[str],
    lengths: Sequence[int] | int | None = 30,
    conditions: Sequence[int] | None = None,
    types: Sequence[str] | None = None,
    withheld: Sequence[int] = (),
    units: int = 4,
    trains: int = 1,
    light: dict[int, np.ndarray] | None = None,
    responses: Callable[[int, np.ndarray], np.ndarray] | None = None,
    signals: bool = True,
    size: tuple[int, int] = SIZE,
    spoil: dict[int, str] | None = None,
) -> Written:
    """Write trials of movies of these lengths, or of images where ``lengths`` is None; statistics are those of numpy.

    Parameters
    ----------
    tiers, conditions, types
        One entry a trial; by default each trial shows a stimulus of its own, of type 'clip'.
    withheld
        Trials whose responses are withheld.
    light
        For some trials the light trains, (train, time); the others are dark.
    responses
        Makes the responses of a trial from its number and stimulus; random by default.
    spoil
        For some trials the tensor that holds a NaN.
    """
    rng = np.random.default_rng(0)
    count = len(tiers)
    conditions = range(count) if conditions is None else conditions
    types = ["clip"] * count if types is None else types
    frames = lengths if isinstance(lengths, Sequence) else [lengths] * count
    stimuli: dict[str, np.ndarray] = {}
    trials = []
    for i in range(count):
        name, time = f"c{conditions[i]}", () if frames[i] is None else (frames[i],)
        stimuli.setdefault(name, rng.integers(0, 256, (1, *time, *size), dtype=np.uint8))
        spread = np.arange(1, units + 1).reshape(-1, *[1] * len(time))
        said = {"trial_idx": 10 + i, "condition_hash": name, "tier": tiers[i], "withheld": int(i in withheld)}
        row = {**said, "stimulus_type": types[i]}
        made = rng.gamma(2, spread, (units, *time)) if responses is None else responses(i, stimuli[name])
        row["responses"] = made.astype(np.float32)
        if signals:
            row["behavior"] = rng.gamma(2, 3, (2, *time)).astype(np.float32)
            row["pupil_location"] = rng.normal(4, 2, (2, *time)).astype(np.float32)
        if trains:
            dark = np.zeros((trains, *time), np.float32)
            row["optogenetic_signal"] = dark if light is None else light.get(i, dark).astype(np.float32)
        if spoil and i in spoil:
            row[spoil[i]][0, ...] = np.nan
        trials.append(row)
    statistics: dict[str, dict[str, dict[str, list[float]]]] = {}
    for kind in ["all", *sorted(set(types))]:
        train = [
            t for t in trials if t["tier"] == "train" and not t["withheld"] and kind in ("all", t["stimulus_type"])
        ]
        if not train:
            continue
        shown = {t["condition_hash"]: stimuli[t["condition_hash"]].reshape(1, -1) for t in train}
        statistics.setdefault("inputs", {})[kind] = _moments(list(shown.values()))
        statistics.setdefault("responses", {})[kind] = _moments([t["responses"] for t in train])
        for tensor, names in (("behavior", BEHAVIOR), ("pupil_location", PUPIL)):
            for k, name in enumerate(names if signals else ()):
                statistics.setdefault(name, {})[kind] = _moments([t[tensor][k][None] for t in train])
    with write_dataset(path) as writer:
        for row in trials:
            name = row["condition_hash"]
            writer.add_stimulus(name, "images" if frames[0] is None else "videos", stimuli[name])
            writer.add_trial(row)
        writer.metadata = {
            "unit_ids": list(range(101, 101 + units)),
            "frame_rate": None if frames[0] is None else 30.0,
            "behavior": BEHAVIOR if signals else [],
            "opto_groups": [0] * units if trains else [],
            "response_unit": "spikes",
            "statistics": statistics,
        }
    return Written(path, stimuli, trials, statistics)


@pytest.fixture(scope="session")
def written() -> Callable[..., Written]:
    """Return `write`."""
    return write
