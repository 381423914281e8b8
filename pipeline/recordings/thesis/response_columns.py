"""Responses in the table of the thesis format: spike times, or the firing rates of ready-made histograms (psth)."""

from __future__ import annotations

import numpy as np
import pandas as pd

from pipeline.errors import RecordingError
from pipeline.recordings.base import SpikeTimes, Traces
from pipeline.recordings.thesis.presentation_grid import PresentationGrid
from pipeline.recordings.thesis.table_columns import Ragged, Where, read_array, read_arrays, settle_nan

NO_PSTH = -1
"""Stands for the length of a psth that is not there."""


def read_spikes(column: pd.Series, where: Where) -> list[np.ndarray]:
    """Return the spike times (s) of every row.

    Raises
    ------
    RecordingError
        If a row holds no array, or times that are not finite and sorted.
    """
    cells = read_arrays(column, where)
    for row, cell in enumerate(cells):
        if cell.ndim != 1:
            raise RecordingError(f"{where(row)}: spike_times is {column.iloc[row]!r}, not an array of times (s)")
    spikes = Ragged.joined(cells)
    bad = ~np.isfinite(spikes.values)
    if bad.any():
        row = int(spikes.row[bad][0])
        raise RecordingError(f"{where(row)}: {int(bad[spikes.row == row].sum())} spike times are NaN or infinite")
    unsorted = (np.diff(spikes.values) < 0) & (np.diff(spikes.row) == 0)
    if unsorted.any():
        at = int(unsorted.argmax())
        raise RecordingError(
            f"{where(int(spikes.row[at]))}: spike times are not sorted ({spikes.values[at]:.6f} s comes before "
            f"{spikes.values[at + 1]:.6f} s); check where they came from, then sort them in the table"
        )
    return cells


def spikes_of_trials(cells: list[np.ndarray], grid: PresentationGrid) -> list[SpikeTimes]:
    """Return the spikes of each trial.

    Raises
    ------
    RecordingError
        If a unit is silent, or the clock of the spikes is not that of the trials.
    """
    spikes = Ragged.joined(cells)
    shown = np.empty((len(cells), 2))
    shown[grid.rows] = grid.shown[:, None]
    within = (spikes.values >= shown[spikes.row, 0]) & (spikes.values < shown[spikes.row, 1])
    total, inside = spikes.lengths[grid.rows], spikes.kept(within).lengths[grid.rows]
    _refuse_silent(total.sum(axis=0) == 0, "spike", grid)
    remedy = "are spike_times on the same clock as trange (s from the start of the recording)?"
    astray = inside.sum(axis=0) == 0
    if astray.any():
        unit = grid.unit_ids[astray.argmax()]
        raise RecordingError(f"{grid.place}: unit {unit}: all spike times lie outside their trials; {remedy}")
    astray = (inside.sum(axis=1) == 0) & (total.sum(axis=1) > 0)
    if astray.any():
        raise RecordingError(
            f"{grid.place}: {grid.name(int(astray.argmax()))}: the spike times of all units lie outside the trial; "
            f"{remedy}"
        )
    return [SpikeTimes(tuple(cells[row] for row in rows)) for rows in grid.rows.tolist()]


def read_bins(table: pd.DataFrame) -> np.ndarray:
    """Return the length of psth in every row, `NO_PSTH` where there is none."""
    if "psth" not in table.columns:
        return np.full(len(table), NO_PSTH)
    return np.array([len(cell) if np.ndim(cell) == 1 else NO_PSTH for cell in table["psth"].tolist()])


def psth_of_trials(table: pd.DataFrame, grid: PresentationGrid, nan: str) -> tuple[list[Traces], list[str]]:
    """Return the firing rates of each trial (spikes/s), and why it is excluded, which is mostly empty.

    Samples stand at psth_t where the table has it, else in the middle of as many equal bins from the trial's start to
    its end.

    Parameters
    ----------
    table : DataFrame
        With rows numbered from 0.
    grid : PresentationGrid
    nan : str
        One of `pipeline.recordings.checks.NAN_RULES`.

    Raises
    ------
    RecordingError
        If a psth is no array, a unit's is zero throughout, a sample is NaN against the rule, or psth_t does not fit.
    """
    traces, exclusions = [], []
    silent = np.ones(len(grid.unit_ids), bool)
    values = [_stacked(table["psth"], trial, grid, "psth") for trial in range(len(grid.rows))]
    for trial, times in enumerate(_times(table, grid, [v.shape[1] for v in values])):
        rates, excluded = settle_nan(values[trial], nan, f"{grid.place}: psth of {grid.name(trial)}")
        traces.append(Traces(times, rates))
        exclusions.append("NaN in psth" if excluded else "")
        silent &= ~(rates != 0).any(axis=1)
    _refuse_silent(silent, "firing", grid)
    return traces, exclusions


def _stacked(column: pd.Series, trial: int, grid: PresentationGrid, name: str) -> np.ndarray:
    """Return one column of a trial as (unit, sample)."""
    arrays: list[np.ndarray] = []
    for unit, row in zip(grid.unit_ids, grid.rows[trial], strict=True):
        where = f"{grid.place}: unit {unit}, {grid.name(trial)}: {name}"
        array = read_array(column.iat[row], where)
        if array.ndim != 1 or not array.size or (arrays and array.shape != arrays[0].shape):
            raise RecordingError(f"{where} is {column.iat[row]!r}, not an array of one length for all units")
        arrays.append(array)
    return np.stack(arrays)


def _times(table: pd.DataFrame, grid: PresentationGrid, n_samples: list[int]) -> list[np.ndarray]:
    """Return when the samples of each trial were taken, on the recording's clock (s)."""
    if "psth_t" not in table.columns:
        return [
            start + (np.arange(n) + 0.5) / n * (stop - start)
            for n, (start, stop) in zip(n_samples, grid.shown, strict=True)
        ]
    given = []
    for trial, n in enumerate(n_samples):
        stacked = _stacked(table["psth_t"], trial, grid, "psth_t")
        times = stacked[0]
        if (stacked != times).any():
            unit = grid.unit_ids[(stacked != times).any(axis=1).argmax()]
            raise RecordingError(
                f"{grid.place}: {grid.name(trial)}: psth_t differs between unit {grid.unit_ids[0]} and unit {unit}"
            )
        if len(times) != n or not (np.isfinite(times).all() and (np.diff(times) > 0).all()):
            raise RecordingError(
                f"{grid.place}: {grid.name(trial)}: psth_t must be {n} finite and increasing times, one a sample"
            )
        given.append(times)
    return _on_clock(given, grid)


def _on_clock(given: list[np.ndarray], grid: PresentationGrid) -> list[np.ndarray]:
    """Return times that are either on the recording's clock or count from each trial's start on that clock."""
    for origins in (np.zeros(len(given)), grid.shown[:, 0]):
        times = [one + origin for one, origin in zip(given, origins, strict=True)]
        slack = [(stop - start) / len(one) for one, (start, stop) in zip(given, grid.shown, strict=True)]
        inside = [
            one[0] >= start - late and one[-1] <= stop + late
            for one, (start, stop), late in zip(times, grid.shown, slack, strict=True)
        ]
        if all(inside):
            return times
    raise RecordingError(
        f"{grid.place}: {grid.name(inside.index(False))}: psth_t lies outside the trial, whether it counts from the "
        "start of the trial or of the recording"
    )


def _refuse_silent(silent: np.ndarray, what: str, grid: PresentationGrid) -> None:
    if silent.any():
        units = [str(unit) for unit in grid.unit_ids[silent]]
        raise RecordingError(
            f"{grid.place}: unit {', '.join(units)} has no {what} in any trial, so it has no response to learn: "
            f"leave it out with exclude_units={','.join(units)!r}"
        )
