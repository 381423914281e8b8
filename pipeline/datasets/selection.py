"""Which units, trials and signals a data configuration takes from a stored dataset, and where signals go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from pipeline.configuration import Configuration, setting
from pipeline.datasets.store import StoredDataset
from pipeline.errors import ConfigurationError, DatasetError
from pipeline.recordings.base import TIERS

WITHHELD = "withheld"
"""Name, among the tiers of loaders, of the trials whose responses the source keeps to itself."""

PLACEMENTS = ("none", "apart", "channels", "both")
LIGHT_PLACEMENTS = ("none", "apart", "behavior", "channels")
_LISTS = ("stimulus_type", "exclude", "brain_area", "layer")


def listed(text: str) -> tuple[str, ...]:
    """Return the names in a text that separates them by commas: sorted, each once."""
    return tuple(sorted({name.strip() for name in text.split(",")} - {""}))


@dataclass(frozen=True)
class DataConfiguration(Configuration):
    """What all kinds of data configuration share; lists of names are texts with commas, their order does not matter.

    Normalised are, with the statistics of the training tier: pixels to (grey value - mean) / std, responses and
    behaviour to multiples of their std, pupil positions to z-scores. Light stays 0 or 1. "Apart" means for a
    modulator, a shifter or, light, for the gates of a recurrent unit; "channels" are planes behind the input's pixels
    that hold the value at every place. Batches have the light trains in any case; models see them only as told here.
    Sub-selections by number are those of neuralpredictors' loaders: n units (or training trials) are drawn with the
    seed ``base seed * n``, so that a smaller number is no subset of a larger one.
    """

    stimulus: ClassVar[str]
    """Name of the inputs, in the dataset and in batches."""

    stats_source: str = setting("all", "type of stimuli whose statistics normalise; all: of every type")
    stimulus_type: str = setting("", "only trials with stimuli of these types; empty: all")
    exclude: str = setting("", "what is not normalised: inputs, responses, behavior, pupil_center; or nothing")
    normalize: bool = setting(True, "normalise with the statistics of the training tier")
    behavior: str = setting(
        "apart", "running and pupil size: left out, apart, as channels, or both", choices=PLACEMENTS
    )
    pupil: str = setting("apart", "pupil position: left out, apart, as channels, or both", choices=PLACEMENTS)
    opto: str = setting(
        "behavior", "light trains: left out, apart, channels of behaviour, or of the input", choices=LIGHT_PLACEMENTS
    )
    brain_area: str = setting("", "only units of these areas; empty: all")
    layer: str = setting("", "only units of these layers; empty: all")
    unit_n: int = setting(0, "number of units to draw; 0 for all", unit="units", ge=0)
    unit_exclude_n: int = setting(0, "units drawn before those, and left out", unit="units", ge=0)
    unit_seed: int = setting(1, "base seed of the units drawn", ge=1)
    trial_n: int = setting(0, "number of training trials to draw; 0 for all", unit="trials", ge=0)
    trial_seed: int = setting(1, "base seed of the training trials drawn", ge=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in _LISTS:
            object.__setattr__(self, name, ",".join(listed(getattr(self, name))))
        known = {"inputs": self.stimulus} | {n: n for n in (self.stimulus, "responses", "behavior", "pupil_center")}
        unknown = [name for name in listed(self.exclude) if name not in known]
        if unknown:
            raise ConfigurationError(f"{self.kind()}.exclude: {unknown[0]!r} is none of {', '.join(known)}")
        object.__setattr__(self, "exclude", ",".join(sorted({known[name] for name in listed(self.exclude)})))
        if self.unit_exclude_n and not self.unit_n:
            raise ConfigurationError(f"{self.kind()}.unit_exclude_n needs a unit_n: how many to draw after those")

    def normalizes(self, name: str) -> bool:
        """Tell whether a field of batches is normalised."""
        return self.normalize and name not in listed(self.exclude)

    def require_stimuli(self, held: str, data_key: str) -> None:
        """Refuse a dataset that holds stimuli of the other sort, ``held`` being the name of their tensor."""
        if held != self.stimulus:
            remedy = "MovieClips" if held == "videos" else "CorrectedAreaLayer or its relatives"
            raise ConfigurationError(
                f"{self.kind()} is for {self.stimulus}, but the dataset of {data_key} holds {held}: use {remedy}"
            )

    def further_units(self, stored: StoredDataset, units: np.ndarray) -> np.ndarray:
        """Return which of the units, positions in the dataset, pass what the kind asks of their responses."""
        return units


@dataclass(frozen=True)
class UnitTable:
    """What the database knows of one scan's units.

    Attributes
    ----------
    unit_id : sequence of int
    brain_area, layer : sequence of str or None
        One entry a unit; None where unknown.
    position : sequence of tuple or None
        x, y and z of each unit in the tissue (um); None where unknown. Empty: unknown for all.
    match_id : sequence of int or None
        Units with the same number, also of other scans of the group, are one neuron; None where no match is known.
        Empty: known for none.
    """

    unit_id: Sequence[int]
    brain_area: Sequence[str | None]
    layer: Sequence[str | None]
    position: Sequence[tuple[float, float, float] | None] = ()
    match_id: Sequence[int | None] = ()

    def __post_init__(self) -> None:
        if not len(self.unit_id) == len(self.brain_area) == len(self.layer):
            raise DatasetError(
                f"a table of {len(self.unit_id)} units has {len(self.brain_area)} areas and {len(self.layer)} layers"
            )
        if self.position and len(self.position) != len(self.unit_id):
            raise DatasetError(f"a table of {len(self.unit_id)} units has {len(self.position)} positions")
        if self.match_id and len(self.match_id) != len(self.unit_id):
            raise DatasetError(f"a table of {len(self.unit_id)} units has {len(self.match_id)} matches")

    def positions_of(self, unit_ids: Sequence[int]) -> tuple[tuple[float, float, float], ...] | None:
        """Return x, y and z (um) of these units, or None unless the positions of all of them are known."""
        places = dict(zip(self.unit_id, self.position, strict=False))
        known = [place for unit in unit_ids if (place := places.get(unit)) is not None]
        return tuple(known) if len(known) == len(unit_ids) else None

    def matches_of(self, unit_ids: Sequence[int]) -> tuple[int | None, ...] | None:
        """Return the numbers of the neurons that these units are, None where unknown, or None if none is known."""
        numbers = dict(zip(self.unit_id, self.match_id, strict=False))
        found = tuple(numbers.get(unit) for unit in unit_ids)
        return found if any(number is not None for number in found) else None


def choose_units(
    config: DataConfiguration, stored: StoredDataset, table: UnitTable | None, data_key: str
) -> np.ndarray:
    """Return the positions, in the dataset's order, of the units that a configuration takes.

    Areas and layers choose first, then what the kind asks of responses, then the numbers.

    Raises
    ------
    ConfigurationError
        If areas or layers are asked for but not known, or no or too few units are left.
    """
    units = _of_area_and_layer(config, stored.metadata["unit_ids"], table, data_key)
    units = config.further_units(stored, units)
    if not len(units):
        raise ConfigurationError(f"{config.kind()} leaves no unit of {data_key}: ask less of their responses")
    if not config.unit_n:
        return units
    wanted = config.unit_exclude_n + config.unit_n
    if wanted > len(units):
        raise ConfigurationError(
            f"{config.kind()} draws {wanted} units (unit_exclude_n + unit_n), but {data_key} has {len(units)} to draw"
        )
    return np.sort(_drawn(units, wanted, config.unit_seed * config.unit_n)[config.unit_exclude_n :])


def _of_area_and_layer(
    config: DataConfiguration, unit_ids: Sequence[int], table: UnitTable | None, data_key: str
) -> np.ndarray:
    chosen = np.ones(len(unit_ids), bool)
    for name in ("brain_area", "layer"):
        wanted = listed(getattr(config, name))
        if not wanted:
            continue
        known = {} if table is None else dict(zip(table.unit_id, getattr(table, name), strict=True))
        chosen &= [known.get(unit) in wanted for unit in unit_ids]
        if not chosen.any():
            there = sorted({str(value) for value in known.values() if value is not None})
            raise ConfigurationError(
                f"{config.kind()}.{name} is {getattr(config, name)!r}, but no unit of {data_key} that is left has it: "
                f"known there are {', '.join(there) or 'none; fill AreaMembership or LayerMembership'}"
            )
    return np.flatnonzero(chosen)


def _drawn(items: np.ndarray, count: int, seed: int) -> np.ndarray:
    # RandomState, whose stream never changes, gives what neuralpredictors' loaders draw with numpy's global one.
    return np.random.RandomState(seed % 2**32).choice(items, count, replace=False)


def choose_trials(config: DataConfiguration, stored: StoredDataset, data_key: str) -> dict[str, list[int]]:
    """Return the rows that a configuration takes from each tier, in order of time.

    Every tier is there, also if it has no trial, and `WITHHELD`: the trials without responses, which are in no tier.

    Raises
    ------
    ConfigurationError
        If no trial has a type that is asked for, or there are fewer training trials than are to be drawn.
    DatasetError
        If training or validation trials are missing.
    """
    types = listed(config.stimulus_type)
    absent = [name for name in types if name not in stored.stimulus_type]
    if absent:
        raise ConfigurationError(
            f"{config.kind()}.stimulus_type: {data_key} has no trial of type {absent[0]!r}: "
            f"it has {', '.join(map(repr, sorted(set(stored.stimulus_type))))}"
        )

    def of_type(rows: Sequence[int]) -> list[int]:
        return [row for row in rows if not types or stored.stimulus_type[row] in types]

    trials = {tier: of_type(stored.rows(tier)) for tier in TIERS}
    trials[WITHHELD] = of_type(np.flatnonzero(stored.withheld).tolist())
    for tier in ("train", "validation"):
        if not trials[tier]:
            raise DatasetError(
                f"{data_key} has no {tier} trials{f' of type {config.stimulus_type}' if types else ''}: "
                "see ConditionTier for this scan"
            )
    if config.trial_n:
        count = len(trials["train"])
        if config.trial_n > count:
            raise ConfigurationError(f"{config.kind()}.trial_n is {config.trial_n}, but {data_key} trains with {count}")
        drawn = _drawn(np.array(trials["train"]), config.trial_n, config.trial_seed * config.trial_n)
        trials["train"] = np.sort(drawn).tolist()
    return trials
