"""The responses table of the thesis format: one row for each unit and presentation of a scene, checked as a whole."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.errors import RecordingError
from pipeline.recordings.base import SpikeTimes, Traces, Unit
from pipeline.recordings.thesis.pickles import read_pickled_frame
from pipeline.recordings.thesis.presentation_grid import PresentationGrid
from pipeline.recordings.thesis.response_columns import (
    NO_PSTH,
    psth_of_trials,
    read_bins,
    read_spikes,
    spikes_of_trials,
)
from pipeline.recordings.thesis.table_columns import (
    Ragged,
    Where,
    read_arrays,
    read_intervals,
    require_columns,
    whole_numbers,
)

logger = logging.getLogger(__name__)

EXPERIMENT = ["m", "s", "e"]
REQUIRED = (*EXPERIMENT, "u", "train_vs_test", "scene_id", "trange", "opto_tranges")
RESPONSE_COLUMNS = ("spike_times", "psth")
"""Columns that hold responses, the one that is read where a table has both first."""
TIER_NAMES = {"train": "train", "validation": "validation", "val": "validation", "test": "test"}


@dataclass(frozen=True)
class Presentation:
    """One showing of one scene to all units.

    Attributes
    ----------
    scene_id : int
    start, stop : float
        On the recording's clock (s).
    tier : str or None
    responses : SpikeTimes or Traces
        In the order of the units.
    pulses : tuple of ndarray
        For each experiment (pulse, 2): start and end of the light pulses that touch the presentation (s).
    n_bins : int or None
        Length of the ready-made histograms (psth); None where the table has none.
    exclusion : str
        Why no dataset may use it; empty if it may.
    """

    scene_id: int
    start: float
    stop: float
    tier: str | None
    responses: SpikeTimes | Traces
    pulses: tuple[np.ndarray, ...]
    n_bins: int | None
    exclusion: str = ""


@dataclass(frozen=True)
class Experiment:
    """Units and presentations of one (mouse, series, experiment), presentations in order of time."""

    mouse: str
    series: int
    experiment: int
    units: tuple[Unit, ...]
    presentations: tuple[Presentation, ...]

    @property
    def name(self) -> str:
        """As it is chosen: mouse, series and experiment."""
        return f"mouse={self.mouse} series={self.series} experiment={self.experiment}"


@dataclass(frozen=True)
class Selection:
    """What of a table is read; an empty text asks for everything."""

    mouse: str = ""
    series: str = ""
    experiment: str = ""
    exclude_units: str = ""
    several: bool = False
    """Whether more than one experiment is welcome."""

    @property
    def wanted(self) -> dict[str, str]:
        """What is asked of the experiments."""
        named = {"mouse": self.mouse, "series": self.series, "experiment": self.experiment}
        return {name: str(value) for name, value in named.items() if value}


def read_experiments(path: Path, selection: Selection, response_column: str, nan: str) -> tuple[Experiment, ...]:
    """Read and check the responses table of the thesis format, experiments in order of mouse, series and number.

    Parameters
    ----------
    path : Path
        The pickle.
    selection : Selection
    response_column : str
        One of `RESPONSE_COLUMNS`, or empty: the first of them that the table has.
    nan : str
        What to do with NaN in psth, one of `pipeline.recordings.checks.NAN_RULES`.

    Raises
    ------
    RecordingError
        Naming the file and the first column, unit, scene or trial that is wrong.
    """
    table = read_pickled_frame(path)
    require_columns(table, REQUIRED, path)
    present = [name for name in RESPONSE_COLUMNS if name in table.columns]
    column = response_column or next(iter(present), RESPONSE_COLUMNS[0])
    require_columns(table, (column,), path)
    # the other columns, receptive fields among them, would stay in memory as long as one cell of theirs is in use
    kept = [name for name in (*REQUIRED, *RESPONSE_COLUMNS, "psth_t") if name in table.columns]
    table = whole_numbers(table[kept], ("s", "e", "u", "scene_id"), path)
    table = table.assign(m=table["m"].astype(str))
    table = _leave_out(_select(table, selection, path), selection.exclude_units, path)
    experiments = []
    parts = list(table.groupby(EXPERIMENT, sort=True))
    for (mouse, series, number), part in parts:
        place = f"{path}, mouse={mouse} series={series} experiment={number}" if len(parts) > 1 else str(path)
        unit_ids = np.unique(part["u"]).tolist()
        units = tuple(Unit(unit_id, unit_name(mouse, series, number, unit_id)) for unit_id in unit_ids)
        presentations = _read_presentations(part.reset_index(drop=True), place, column, nan)
        experiments.append(Experiment(str(mouse), int(series), int(number), units, presentations))
        logger.info("%s: %d units, %d trials", place, len(units), len(presentations))
    return tuple(experiments)


def unit_name(mouse: str, series: int, experiment: int, unit: int) -> str:
    """Return the thesis' key of a unit: the last four characters of the mouse, series, experiment, unit."""
    return f"m{mouse[-4:]}_s{series:02d}_e{experiment:02d}_u{unit:02d}"


def _select(table: pd.DataFrame, selection: Selection, path: Path) -> pd.DataFrame:
    wanted = selection.wanted
    found = sorted(set(table[EXPERIMENT].itertuples(index=False, name=None)))
    listing = "; ".join("mouse={} series={} experiment={}".format(*key) for key in found)
    columns = dict(zip(("mouse", "series", "experiment"), EXPERIMENT, strict=True))
    chosen = np.ones(len(table), bool)
    for name, value in wanted.items():
        chosen &= (table[columns[name]].astype(str) == value).to_numpy()
    if not chosen.any():
        asked = ", ".join(f"{name}={value}" for name, value in wanted.items())
        raise RecordingError(f"{path} has no recording with {asked}: it holds {listing}")
    if not selection.several and len(table.loc[chosen, EXPERIMENT].drop_duplicates()) > 1:
        raise RecordingError(
            f"{path} holds {len(found)} recordings: choose one with mouse, series and experiment from {listing}; "
            "or make one of them all with pool='experiments'"
        )
    return table[chosen]


def _leave_out(table: pd.DataFrame, excluded: str, path: Path) -> pd.DataFrame:
    """Return the table without some units, which are given by number or name."""
    entries = [entry.strip() for entry in excluded.split(",") if entry.strip()]
    if not entries:
        return table
    known = table[[*EXPERIMENT, "u"]].drop_duplicates().sort_values([*EXPERIMENT, "u"])
    names = [unit_name(*key) for key in known.itertuples(index=False, name=None)]
    numbers = known["u"].tolist()
    out: list[int] = []
    for entry in entries:
        matches = [i for i in range(len(known)) if names[i] == entry or (entry.isdigit() and numbers[i] == int(entry))]
        if not matches:
            listing = ", ".join(f"{number} ({name})" for number, name in zip(numbers, names, strict=True))
            raise RecordingError(f"{path}: exclude_units names {entry}, but the units are {listing}")
        if len(matches) > 1:
            listing = ", ".join(names[i] for i in matches)
            raise RecordingError(f"{path}: exclude_units names {entry}, which could be any of {listing}: give the name")
        out += matches
    if len(set(out)) == len(known):
        raise RecordingError(f"{path}: exclude_units leaves no unit")
    gone = pd.MultiIndex.from_frame(known.iloc[out])
    return table[~pd.MultiIndex.from_frame(table[[*EXPERIMENT, "u"]]).isin(gone)]


def _read_presentations(table: pd.DataFrame, place: str, column: str, nan: str) -> tuple[Presentation, ...]:
    """Return the presentations of one experiment from its rows, which are numbered from 0."""
    unit, scene = table["u"].to_numpy(), table["scene_id"].to_numpy()

    def where(row: int) -> str:
        return f"{place}: unit {unit[row]}, scene {scene[row]}"

    shown = read_intervals(table["trange"], where)
    tiers = _read_tiers(table["train_vs_test"], where)
    pulses = _read_pulses(table["opto_tranges"], shown, where)
    spikes = read_spikes(table["spike_times"], where) if column == "spike_times" else None
    grid = PresentationGrid.of(unit, scene, shown, place)
    grid.require_same(tiers, "train_vs_test")
    grid.require_same_arrays(pulses, "opto_tranges")
    bins = read_bins(table)
    grid.require_same(bins, "the length of psth")
    responses: Sequence[SpikeTimes | Traces]
    responses, exclusions = (spikes_of_trials(spikes, grid), None) if spikes else psth_of_trials(table, grid, nan)
    return tuple(
        Presentation(
            scene_id=int(grid.scene[trial]),
            start=float(grid.shown[trial, 0]),
            stop=float(grid.shown[trial, 1]),
            tier=str(tiers[row]),
            responses=responses[trial],
            pulses=(pulses.of(row),),
            n_bins=None if bins[row] == NO_PSTH else int(bins[row]),
            exclusion=exclusions[trial] if exclusions else "",
        )
        for trial, row in enumerate(grid.rows[:, 0].tolist())
    )


def _read_tiers(column: pd.Series, where: Where) -> np.ndarray:
    tiers = [TIER_NAMES.get(value) if isinstance(value, str) else None for value in column.tolist()]
    if None in tiers:
        row = tiers.index(None)
        raise RecordingError(
            f"{where(row)}: train_vs_test is {column.iloc[row]!r}, it must be one of {', '.join(TIER_NAMES)}"
        )
    return np.array(tiers)


def _read_pulses(column: pd.Series, shown: np.ndarray, where: Where) -> Ragged:
    """Return the pulses of each row, (pulse, 2), that touch its presentation, in order of time."""
    cells = read_arrays(column, where)
    for row, cell in enumerate(cells):
        if cell.ndim and not cell.size:
            cells[row] = cell.reshape(0, 2)
        elif cell.ndim != 2 or cell.shape[1] != 2:
            raise RecordingError(
                f"{where(row)}: opto_tranges is {column.iloc[row]!r}, it must be a list of [start, end] in seconds"
            )
    pulses = Ragged.joined(cells)
    start, end = pulses.values.T
    wrong = ~np.isfinite(pulses.values).all(axis=1) | ~(end > start)
    if wrong.any():
        raise RecordingError(
            f"{where(int(pulses.row[wrong][0]))}: the light pulse {pulses.values[wrong][0].tolist()} in opto_tranges "
            "is not [start, end] (s), finite and start before end"
        )
    touching = pulses.kept((end > shown[pulses.row, 0]) & (start < shown[pulses.row, 1]))
    return touching.kept(np.lexsort((touching.values[:, 0], touching.row)))
