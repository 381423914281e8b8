"""The responses table of the thesis format: one row for each unit and presentation of a scene, checked as a whole."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline.errors import RecordingError
from pipeline.recordings.base import Unit
from pipeline.recordings.pickles import read_pickled_frame

logger = logging.getLogger(__name__)

REQUIRED = ("m", "s", "e", "u", "train_vs_test", "scene_id", "trange", "spike_times", "opto_tranges")
TIER_NAMES = {"train": "train", "validation": "validation", "val": "validation", "test": "test"}
OVERLAP_TOLERANCE = 1e-3
"""Trials that follow one another may overlap by this much (s): clocks are written with finite digits."""


@dataclass(frozen=True)
class Presentation:
    """One showing of one scene to all units.

    Attributes
    ----------
    scene_id : int
    start, stop : float
        On the recording's clock (s).
    tier : str or None
    spike_times : tuple of ndarray
        One sorted array (s) for each unit, in the order of `ResponseTable.units`.
    pulses : ndarray
        (pulse, 2): start and end of the light pulses that touch the presentation (s).
    n_bins : int or None
        Length of the ready-made histograms (psth); None where the table has none.
    """

    scene_id: int
    start: float
    stop: float
    tier: str | None
    spike_times: tuple[np.ndarray, ...]
    pulses: np.ndarray
    n_bins: int | None


@dataclass(frozen=True)
class ResponseTable:
    """Units and presentations of one (mouse, series, experiment), presentations in order of time."""

    mouse: str
    series: int
    experiment: int
    units: tuple[Unit, ...]
    presentations: tuple[Presentation, ...]


@dataclass(frozen=True)
class _Row:
    """One unit in one presentation."""

    unit_id: int
    scene_id: int
    start: float
    stop: float
    tier: str | None
    spikes: np.ndarray
    pulses: np.ndarray
    n_bins: int | None

    @property
    def trial(self) -> tuple[float, float, int]:
        return self.start, self.stop, self.scene_id


def read_responses(
    path: Path, mouse: str | None, series: str | None, experiment: str | None, exclude_units: Iterable[int]
) -> ResponseTable:
    """Read and check the responses table of the thesis format.

    Parameters
    ----------
    path : Path
        The pickle.
    mouse, series, experiment : str or None
        Select one recording where the table holds several.
    exclude_units : iterable of int
        Unit numbers to leave out.

    Raises
    ------
    RecordingError
        Naming the file and the first column, unit, scene or trial that is wrong.
    """
    table = read_pickled_frame(path)
    require_columns(table, REQUIRED, path)
    table = whole_numbers(table, ("s", "e", "u", "scene_id"), path)
    table = _select_recording(table, path, mouse, series, experiment)
    table = _leave_out(table, tuple(exclude_units), path)
    first = table.iloc[0]
    name, serial, number = str(first["m"]), int(first["s"]), int(first["e"])
    rows = [_read_row(record, path) for record in table.to_dict("records")]
    units = tuple(
        Unit(unit_id, f"m{name[-4:]}_s{serial:02d}_e{number:02d}_u{unit_id:02d}")
        for unit_id in sorted({row.unit_id for row in rows})
    )
    _check_overlaps(rows, path)
    grid = _fill_grid(rows, [unit.unit_id for unit in units], path)
    presentations = tuple(_join_units(grid[trial], path) for trial in sorted(grid))
    _check_spikes(units, presentations, path)
    logger.info("%s: %d units, %d trials", path, len(units), len(presentations))
    return ResponseTable(name, serial, number, units, presentations)


def require_columns(table: pd.DataFrame, names: Iterable[str], path: Path) -> None:
    """Refuse a table that lacks a column or has no rows.

    Raises
    ------
    RecordingError
        Naming the file and what is missing.
    """
    missing = [name for name in names if name not in table.columns]
    if missing:
        has = ", ".join(map(str, table.columns)) or "no columns"
        raise RecordingError(f"{path} has no column {', '.join(missing)} (it has {has})")
    if table.empty:
        raise RecordingError(f"{path} holds a table without rows")


def whole_numbers(table: pd.DataFrame, names: Iterable[str], path: Path) -> pd.DataFrame:
    """Return the table with these columns as integers.

    Raises
    ------
    RecordingError
        If a value is no whole number, naming file, column and value.
    """
    converted = {}
    for name in names:
        numbers = pd.to_numeric(table[name], errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
        wrong = ~(numbers == np.round(numbers))
        if wrong.any():
            first = table[name].iloc[int(wrong.argmax())]
            raise RecordingError(f"{path}: column {name} holds {first}, which is no whole number")
        converted[name] = numbers.astype(np.int64)
    return table.assign(**converted)


def read_array(value: Any, where: str) -> np.ndarray:
    """Return a cell's numbers as float64.

    Raises
    ------
    RecordingError
        If the cell holds something else than numbers; ``where`` begins the message.
    """
    try:
        return np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise RecordingError(f"{where} is {value!r}, not an array of numbers") from None


def _select_recording(
    table: pd.DataFrame, path: Path, mouse: str | None, series: str | None, experiment: str | None
) -> pd.DataFrame:
    keys = list(zip(table["m"].astype(str), table["s"].map(str), table["e"].map(str), strict=True))
    wanted = (mouse, series, experiment)
    found = sorted(set(keys))
    chosen = [key for key in found if all(w is None or str(w) == k for w, k in zip(wanted, key, strict=True))]
    listing = "; ".join("mouse={} series={} experiment={}".format(*key) for key in found)
    if not chosen:
        asked = ", ".join(f"{n}={w}" for n, w in zip(("mouse", "series", "experiment"), wanted, strict=True) if w)
        raise RecordingError(f"{path} has no recording with {asked}: it holds {listing}")
    if len(chosen) > 1:
        raise RecordingError(
            f"{path} holds {len(found)} recordings: choose one with mouse, series and experiment from {listing}"
        )
    return table[[key == chosen[0] for key in keys]]


def _leave_out(table: pd.DataFrame, excluded: tuple[int, ...], path: Path) -> pd.DataFrame:
    numbers = set(table["u"].tolist())
    unknown = [unit for unit in excluded if unit not in numbers]
    if unknown:
        raise RecordingError(f"{path}: exclude_units names {unknown}, but the units are {sorted(numbers)}")
    kept = table[~table["u"].isin(excluded)]
    if kept.empty:
        raise RecordingError(f"{path}: exclude_units leaves no unit")
    return kept


def _read_row(record: dict[str, Any], path: Path) -> _Row:
    unit_id, scene_id = int(record["u"]), int(record["scene_id"])
    where = f"{path}: unit {unit_id}, scene {scene_id}"
    start, stop = read_interval(record["trange"], where)
    spikes = read_array(record["spike_times"], f"{where}: spike_times")
    if spikes.ndim != 1:
        raise RecordingError(f"{where}: spike_times is {record['spike_times']!r}, not an array of times (s)")
    if not np.isfinite(spikes).all():
        raise RecordingError(f"{where}: {int((~np.isfinite(spikes)).sum())} spike times are NaN or infinite")
    if (np.diff(spikes) < 0).any():
        at = int(np.argmax(np.diff(spikes) < 0))
        raise RecordingError(
            f"{where}: spike times are not sorted ({spikes[at]:.6f} s comes before {spikes[at + 1]:.6f} s); "
            "check where they came from, then sort them in the table"
        )
    histogram = record.get("psth")
    return _Row(
        unit_id=unit_id,
        scene_id=scene_id,
        start=start,
        stop=stop,
        tier=_read_tier(record["train_vs_test"], where),
        spikes=spikes,
        pulses=_read_pulses(record["opto_tranges"], start, stop, where),
        n_bins=None if histogram is None or np.ndim(histogram) != 1 else len(histogram),
    )


def read_interval(value: Any, where: str) -> tuple[float, float]:
    """Return a ``trange`` as (start, stop) in seconds.

    Raises
    ------
    RecordingError
        If it is not two finite numbers in ascending order; ``where`` begins the message.
    """
    pair = read_array(value, f"{where}: trange")
    if pair.shape != (2,) or not np.isfinite(pair).all() or pair[1] <= pair[0]:
        raise RecordingError(f"{where}: trange is {value!r}, it must be [start, end] (s), start before end")
    return float(pair[0]), float(pair[1])


def _read_tier(value: Any, where: str) -> str:
    if not isinstance(value, str) or value not in TIER_NAMES:
        raise RecordingError(f"{where}: train_vs_test is {value!r}, it must be one of {', '.join(TIER_NAMES)}")
    return TIER_NAMES[value]


def _read_pulses(value: Any, start: float, stop: float, where: str) -> np.ndarray:
    pulses = read_array(value, f"{where}: opto_tranges")
    if pulses.size == 0 and pulses.ndim:
        return np.zeros((0, 2))
    if pulses.ndim != 2 or pulses.shape[1] != 2:
        raise RecordingError(f"{where}: opto_tranges is {value!r}, it must be a list of [start, end] in seconds")
    wrong = ~np.isfinite(pulses).all(axis=1) | ~(pulses[:, 1] > pulses[:, 0])
    if wrong.any():
        raise RecordingError(
            f"{where}: the light pulse {pulses[wrong][0].tolist()} in opto_tranges is not [start, end] (s), "
            "finite and start before end"
        )
    touching = pulses[(pulses[:, 1] > start) & (pulses[:, 0] < stop)]
    return touching[np.argsort(touching[:, 0], kind="stable")]


def _check_overlaps(rows: list[_Row], path: Path) -> None:
    showings: dict[tuple[float, float, int], set[int]] = defaultdict(set)
    for row in rows:
        showings[row.trial].add(row.unit_id)
    trials = sorted(showings)
    longest = trials[0]
    for trial in trials[1:]:
        if trial[0] < longest[1] - OVERLAP_TOLERANCE:
            raise RecordingError(_overlap_message(longest, trial, showings, path))
        if trial[1] > longest[1]:
            longest = trial


def _overlap_message(
    earlier: tuple[float, float, int],
    later: tuple[float, float, int],
    showings: dict[tuple[float, float, int], set[int]],
    path: Path,
) -> str:
    if earlier[2] == later[2] and not showings[earlier] & showings[later]:
        return (
            f"{path}: scene {earlier[2]}: trange differs between units: unit {min(showings[earlier])} has "
            f"{list(earlier[:2])}, unit {min(showings[later])} has {list(later[:2])} (s); a trial has one trange"
        )
    return (
        f"{path}: trials overlap: scene {earlier[2]} at {list(earlier[:2])} and scene {later[2]} at "
        f"{list(later[:2])} (s); one screen shows one scene at a time"
    )


def _fill_grid(rows: list[_Row], unit_ids: list[int], path: Path) -> dict[tuple[float, float, int], list[_Row]]:
    """Return the rows of each trial in the order of the units, after checking that each unit has exactly one."""
    cells: dict[tuple[float, float, int], dict[int, _Row]] = defaultdict(dict)
    for row in rows:
        if row.unit_id in cells[row.trial]:
            raise RecordingError(
                f"{path}: unit {row.unit_id} has more than one row for scene {row.scene_id} at "
                f"[{row.start}, {row.stop}] s: remove the duplicate"
            )
        cells[row.trial][row.unit_id] = row
    gaps = [(unit, trial) for trial in sorted(cells) for unit in unit_ids if unit not in cells[trial]]
    if gaps:
        unit, (start, stop, scene) = gaps[0]
        others = [[row.start, row.stop] for row in rows if row.unit_id == unit and row.scene_id == scene]
        hint = (
            f"it has that scene at {others} s: does its trange differ from the other units'?"
            if others
            else ("every unit needs a row for every trial: complete the table or leave the unit out with exclude_units")
        )
        raise RecordingError(
            f"{path}: unit {unit} has no row for scene {scene} at [{start}, {stop}] s ({len(gaps)} such gaps); {hint}"
        )
    return {trial: [cell[unit] for unit in unit_ids] for trial, cell in cells.items()}


def _join_units(rows: list[_Row], path: Path) -> Presentation:
    first = rows[0]
    where = f"{path}: scene {first.scene_id} at [{first.start}, {first.stop}] s"
    for row in rows[1:]:
        pair = f"differs between unit {first.unit_id} and unit {row.unit_id}"
        if row.tier != first.tier:
            raise RecordingError(f"{where}: train_vs_test {pair} ({first.tier}, {row.tier})")
        if not np.array_equal(row.pulses, first.pulses):
            raise RecordingError(f"{where}: opto_tranges {pair} ({first.pulses.tolist()}, {row.pulses.tolist()})")
        if row.n_bins != first.n_bins:
            raise RecordingError(f"{where}: the length of psth {pair} ({first.n_bins}, {row.n_bins})")
    return Presentation(
        scene_id=first.scene_id,
        start=first.start,
        stop=first.stop,
        tier=first.tier,
        spike_times=tuple(row.spikes for row in rows),
        pulses=first.pulses,
        n_bins=first.n_bins,
    )


def _check_spikes(units: tuple[Unit, ...], presentations: tuple[Presentation, ...], path: Path) -> None:
    """Refuse silent units, and spikes whose clock is not that of the trials."""
    total = np.array([[len(t) for t in showing.spike_times] for showing in presentations])
    inside = np.array([[int(((t >= p.start) & (t < p.stop)).sum()) for t in p.spike_times] for p in presentations])
    silent = [str(unit.unit_id) for unit, n in zip(units, total.sum(axis=0), strict=True) if n == 0]
    if silent:
        raise RecordingError(
            f"{path}: unit {', '.join(silent)} has no spike in any trial, so it has no response to learn: "
            f"leave it out with exclude_units={','.join(silent)!r}"
        )
    remedy = "are spike_times on the same clock as trange (s from the start of the recording)?"
    for unit, within in zip(units, inside.sum(axis=0), strict=True):
        if within == 0:
            raise RecordingError(f"{path}: unit {unit.unit_id}: all spike times lie outside their trials; {remedy}")
    for showing, spikes, within in zip(presentations, total.sum(axis=1), inside.sum(axis=1), strict=True):
        if spikes and not within:
            raise RecordingError(
                f"{path}: scene {showing.scene_id} at [{showing.start}, {showing.stop}] s: the spike times of all "
                f"units lie outside the trial; {remedy}"
            )
