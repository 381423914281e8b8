"""What neurons did, in an NWB file: spikes in the table of units, or traces of regions of interest."""

from __future__ import annotations

from collections.abc import Sequence as Ordered
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.errors import RecordingError
from pipeline.recordings.base import SpikeTimes, Unit
from pipeline.recordings.nwb.contents import Contents, column, is_a, texts
from pipeline.recordings.sequences import SLACK, Sequence, spikes_between

AREA_COLUMNS = ("area", "brain_area", "location", "brain_region", "structure")
LAYER_COLUMNS = ("layer", "cortical_layer")
NAME_COLUMNS = ("unit_name", "name")


@dataclass(frozen=True)
class SpikeTrains:
    """Spikes of the whole recording; they are kept in memory (8 bytes each), as every trial needs some of every unit.

    Attributes
    ----------
    times : tuple of ndarray
        Sorted times (s) of each unit.
    first, last : ndarray
        (trial,) from when to when (s) all units are known around each trial.
    obstacles : tuple of str
        For each trial why it cannot be used, empty if it can.
    """

    times: tuple[np.ndarray, ...]
    first: np.ndarray
    last: np.ndarray
    obstacles: tuple[str, ...]

    def read(self, trial_idx: int, start: float, stop: float, margin: float) -> SpikeTimes:
        """Return the spikes from ``start`` to ``stop`` (s) and ``margin`` (s) around, as far as they are known."""
        span = max(start - margin, float(self.first[trial_idx])), min(stop + margin, float(self.last[trial_idx]))
        return SpikeTimes(tuple(spikes_between(times, *span) for times in self.times), span)


def spiking(contents: Contents) -> bool:
    """Return whether there are sorted units with spike times."""
    units = contents.nwb.units
    return units is not None and len(units) > 0 and "spike_times" in units.colnames


def read_units(contents: Contents) -> tuple[Unit, ...]:
    """Return the neurons in the table of units, with the area of their electrodes where they tell none themselves."""
    table = contents.nwb.units
    units = _describe(contents, table, np.arange(len(table)), None)
    if "electrodes" not in table.colnames or any(unit.area for unit in units):
        return units
    places = texts(column(contents.nwb.electrodes, "location"), len(contents.nwb.electrodes))
    wired = [np.asarray(table["electrodes"].get(n, df=False, index=True)).ravel() for n in range(len(table))]
    areas = [places[int(rows[0])] if len(rows) else None for rows in wired]
    return tuple(Unit(**{**vars(unit), "area": area}) for unit, area in zip(units, areas, strict=True))


def read_spikes(contents: Contents, units: Ordered[Unit], starts: np.ndarray, stops: np.ndarray) -> SpikeTrains:
    """Return the spikes, and what is known of them around each trial.

    A trial must lie in one of every unit's ``obs_intervals``; where the file has none, units are known from the first
    to the last spike or trial.

    Parameters
    ----------
    contents : Contents
    units : sequence of Unit
    starts, stops : ndarray
        (trial,) s.

    Raises
    ------
    RecordingError
        If spike times are not finite and sorted, naming the unit.
    """
    table = contents.nwb.units
    times = tuple(np.asarray(table.get_unit_spike_times(n), np.float64) for n in range(len(units)))
    for unit, train in zip(units, times, strict=True):
        if not np.isfinite(train).all() or (np.diff(train) < 0).any():
            raise RecordingError(f"{contents.path}, unit {unit.unit_name}: spike times must be finite and sorted")
    if "obs_intervals" not in table.colnames:
        seen = [train for train in times if len(train)]
        first = min([starts.min(), *(train[0] for train in seen)])
        last = max([stops.max(), *(train[-1] for train in seen)])
        return SpikeTrains(times, np.full(len(starts), first), np.full(len(starts), last), ("",) * len(starts))
    first, last = np.full(len(starts), -np.inf), np.full(len(starts), np.inf)
    obstacles = [""] * len(starts)
    for number, unit in enumerate(units):
        observed = np.asarray(table["obs_intervals"][number], np.float64).reshape(-1, 2)
        observed = np.vstack([[[-np.inf, -np.inf]], observed[np.argsort(observed[:, 0])]])
        around = np.searchsorted(observed[:, 0], starts + SLACK, side="right") - 1
        first, last = np.maximum(first, observed[around, 0]), np.minimum(last, observed[around, 1])
        for trial in np.flatnonzero(observed[around, 1] < stops - SLACK):
            obstacles[trial] = obstacles[trial] or f"unit {unit.unit_name} was not observed (obs_intervals)"
    return SpikeTrains(times, first, last, tuple(obstacles))


def find_traces(contents: Contents, responses: str) -> Any:
    """Return the traces that the user names, else the only dF/F, else the only fluorescence, else the only ones."""
    series = contents.of_type("RoiResponseSeries")
    if responses not in ("", "ophys"):
        return contents.named(responses, {"units": None, **series}, "responses")
    for kind in ("DfOverF", "Fluorescence", ""):
        found = {label: item for label, item in series.items() if not kind or is_a(item.parent, kind)}
        if found:
            return contents.only("", found, "responses", lambda item: True)
    raise contents.lacking("there are neither units with spike times nor traces of regions of interest")


def read_traces(contents: Contents, series: Any) -> tuple[tuple[Unit, ...], Sequence, str]:
    """Return the regions of interest, their traces (sample, unit) on disk, and what the traces measure."""
    table = series.rois.table
    rows = np.asarray(series.rois.data[:], int)
    shape = tuple(series.data.shape)
    if (shape[1] if len(shape) == 2 else 1) != len(rows):
        raise RecordingError(
            f"{contents.where(series)}: shape {shape} for {len(rows)} regions of interest, (sample, region) is needed"
        )
    if len(rows) and not 0 <= rows.min() <= rows.max() < len(table):
        raise RecordingError(f"{contents.where(series)}: rois point beyond the {len(table)} rows of {table.name}")
    plane = getattr(table, "imaging_plane", None)
    units = _describe(contents, table, rows, getattr(plane, "location", None))
    names = tuple(f"unit {unit.unit_name}" for unit in units)
    unit = "dF/F" if is_a(series.parent, "DfOverF") else str(series.unit)
    return units, contents.sequence(series, names), unit


def _describe(contents: Contents, table: Any, rows: np.ndarray, area: str | None) -> tuple[Unit, ...]:
    ids = np.asarray(table.id[:], int)
    count = len(ids)
    names = texts(column(table, *NAME_COLUMNS), count)
    areas, layers = texts(column(table, *AREA_COLUMNS), count), texts(column(table, *LAYER_COLUMNS), count)
    places = [column(table, axis) for axis in "xyz"]
    known = all(place is not None and place.dtype.kind in "iuf" for place in places)

    def position(row: int) -> tuple[float, float, float] | None:
        if not known:
            return None
        x, y, z = (float(place[row]) for place in places if place is not None)
        return (x, y, z) if np.isfinite([x, y, z]).all() else None

    if len(set(ids[rows].tolist())) < len(rows):
        raise RecordingError(f"{contents.where(table)}: one id stands for several units; make ids unique")
    return tuple(
        Unit(int(ids[row]), names[row] or str(ids[row]), areas[row] or area or None, layers[row], position(row))
        for row in rows
    )
