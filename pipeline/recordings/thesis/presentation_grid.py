"""Rows of one experiment's table sorted into a grid of presentations and units, one row in each place."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from pipeline.errors import RecordingError
from pipeline.recordings.thesis.table_columns import Ragged

OVERLAP_TOLERANCE = 1e-3
"""Trials that follow one another may overlap by this much (s): clocks are written with finite digits."""


@dataclass(frozen=True)
class PresentationGrid:
    """Which row of a table holds each unit in each trial.

    Attributes
    ----------
    unit_ids : ndarray
        (unit,) ascending.
    scene : ndarray
        (trial,) scene_id, trials in order of time.
    shown : ndarray
        (trial, 2): start and end (s).
    rows : ndarray
        (trial, unit): row of the table.
    place : str
        File, and experiment where it holds several, for the beginning of errors.
    """

    unit_ids: np.ndarray
    scene: np.ndarray
    shown: np.ndarray
    rows: np.ndarray
    place: str

    @classmethod
    def of(cls, unit: np.ndarray, scene: np.ndarray, shown: np.ndarray, place: str) -> PresentationGrid:
        """Sort rows into the grid: their unit (row,), scene (row,), and start and end, (row, 2).

        Raises
        ------
        RecordingError
            If presentations overlap, or a unit has no row or several for a presentation.
        """
        keys = pd.DataFrame({"start": shown[:, 0], "stop": shown[:, 1], "scene": scene})
        trial = keys.groupby(["start", "stop", "scene"], sort=True).ngroup().to_numpy()
        unit_ids, column = np.unique(unit, return_inverse=True)
        first = np.unique(trial, return_index=True)[1]
        cell = trial * len(unit_ids) + column
        order = np.argsort(cell, kind="stable")
        rows = np.full(len(first) * len(unit_ids), -1)
        rows[cell[order]] = order
        grid = cls(unit_ids, scene[first], shown[first], rows.reshape(len(first), len(unit_ids)), place)
        grid._check_overlaps()
        grid._check_duplicates(np.bincount(cell, minlength=len(rows)))
        grid._check_gaps()
        return grid

    def name(self, trial: int) -> str:
        """Return the scene and time of a trial, for people."""
        return f"scene {self.scene[trial]} at {self.shown[trial].tolist()} s"

    def require_same(self, values: np.ndarray, what: str) -> None:
        """Refuse values (row,) that differ between the units of a trial."""
        of_trial = values[self.rows]
        self._refuse_difference(of_trial != of_trial[:, :1], [str(value) for value in values.tolist()], what)

    def require_same_arrays(self, arrays: Ragged, what: str) -> None:
        """Refuse arrays, one for each row, that differ between the units of a trial."""
        mate = np.empty(arrays.n_rows, np.int64)
        mate[self.rows] = self.rows[:, :1]
        lengths, offsets = arrays.lengths, arrays.offsets
        differs = lengths != lengths[mate]
        entry = np.flatnonzero(~differs[arrays.row])
        row = arrays.row[entry]
        of_mate = offsets[mate[row]] + entry - offsets[row]
        unequal = arrays.values[entry] != arrays.values[of_mate]
        differs[row[unequal.any(axis=tuple(range(1, unequal.ndim)))]] = True
        self._refuse_difference(differs[self.rows], arrays, what)

    def _refuse_difference(self, differs: np.ndarray, values: list[str] | Ragged, what: str) -> None:
        if not differs.any():
            return
        trial, column = (int(at) for at in np.argwhere(differs)[0])
        rows = (int(self.rows[trial, 0]), int(self.rows[trial, column]))
        found = [values.of(row).tolist() if isinstance(values, Ragged) else values[row] for row in rows]
        raise RecordingError(
            f"{self.place}: {self.name(trial)}: {what} differs between unit {self.unit_ids[0]} and "
            f"unit {self.unit_ids[column]} ({found[0]}, {found[1]})"
        )

    def _check_overlaps(self) -> None:
        # in order of time, whatever a trial overlaps, it overlaps its successor too
        overlapping = self.shown[1:, 0] < self.shown[:-1, 1] - OVERLAP_TOLERANCE
        if not overlapping.any():
            return
        earlier = int(overlapping.argmax())
        later = earlier + 1
        units = [self.unit_ids[self.rows[trial] >= 0] for trial in (earlier, later)]
        if self.scene[earlier] == self.scene[later] and not np.intersect1d(*units).size:
            raise RecordingError(
                f"{self.place}: scene {self.scene[later]}: trange differs between units: unit {units[0][0]} has "
                f"{self.shown[earlier].tolist()}, unit {units[1][0]} has {self.shown[later].tolist()} (s); "
                "a trial has one trange"
            )
        raise RecordingError(
            f"{self.place}: trials overlap: {self.name(earlier)} and {self.name(later)}; one screen shows one scene at "
            "a time"
        )

    def _check_duplicates(self, count: np.ndarray) -> None:
        if (count > 1).any():
            trial, column = divmod(int((count > 1).argmax()), len(self.unit_ids))
            raise RecordingError(
                f"{self.place}: unit {self.unit_ids[column]} has more than one row for {self.name(trial)}: "
                "remove the duplicate"
            )

    def _check_gaps(self) -> None:
        gaps = np.argwhere(self.rows < 0)
        if not len(gaps):
            return
        trial, column = gaps[0]
        others = self.shown[(self.scene == self.scene[trial]) & (self.rows[:, column] >= 0)]
        hint = (
            f"it has that scene at {others.tolist()} s: does its trange differ from the other units'?"
            if len(others)
            else "every unit needs a row for every trial: complete the table or leave the unit out with exclude_units"
        )
        raise RecordingError(
            f"{self.place}: unit {self.unit_ids[column]} has no row for {self.name(trial)} ({len(gaps)} such gaps); "
            f"{hint}"
        )
