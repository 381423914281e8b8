"""Columns of pickled tables as arrays, checked whole: what the tables of the thesis format share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline.errors import RecordingError
from pipeline.recordings.checks import fill_nan

Where = Callable[[int], str]
"""Says for people which row of a table a number is, for the beginning of an error."""


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


def read_arrays(column: pd.Series, where: Where) -> list[np.ndarray]:
    """Return the numbers of every cell of a column as float64; see `read_array`."""
    arrays = []
    for row, value in enumerate(column.tolist()):
        try:
            arrays.append(np.asarray(value, dtype=np.float64))
        except (TypeError, ValueError):
            raise RecordingError(f"{where(row)}: {column.name} is {value!r}, not an array of numbers") from None
    return arrays


@dataclass(frozen=True)
class Ragged:
    """Arrays of different lengths, one for each row of a table, end to end.

    Attributes
    ----------
    values : ndarray
        (entry, ...).
    row : ndarray
        (entry,) the row that each entry is in, never decreasing.
    n_rows : int
    """

    values: np.ndarray
    row: np.ndarray
    n_rows: int

    @classmethod
    def joined(cls, arrays: list[np.ndarray]) -> Ragged:
        """Put arrays that agree in all but their lengths end to end."""
        lengths = np.fromiter(map(len, arrays), np.int64, len(arrays))
        return cls(np.concatenate(arrays), np.repeat(np.arange(len(arrays)), lengths), len(arrays))

    def kept(self, which: np.ndarray) -> Ragged:
        """Return the entries that are marked, or listed in ascending order of their rows."""
        return Ragged(self.values[which], self.row[which], self.n_rows)

    def of(self, row: int) -> np.ndarray:
        """Return the entries of one row."""
        first, last = np.searchsorted(self.row, [row, row + 1])
        return self.values[first:last]

    @property
    def lengths(self) -> np.ndarray:
        """(row,) how many entries each row has."""
        return np.bincount(self.row, minlength=self.n_rows)

    @property
    def offsets(self) -> np.ndarray:
        """(row,) where each row begins."""
        return np.searchsorted(self.row, np.arange(self.n_rows))


def read_intervals(column: pd.Series, where: Where) -> np.ndarray:
    """Return a column of [start, end] (s) as (row, 2).

    Raises
    ------
    RecordingError
        If a cell is not two finite numbers in ascending order.
    """
    cells = read_arrays(column, where)
    pairs = np.full((len(cells), 2), np.nan)
    whole = np.array([cell.shape == (2,) for cell in cells])
    if whole.any():
        pairs[whole] = np.stack([cell for cell, two in zip(cells, whole, strict=True) if two])
    good = np.isfinite(pairs).all(axis=1) & (pairs[:, 1] > pairs[:, 0])
    if not good.all():
        row = int(np.argmin(good))
        raise RecordingError(
            f"{where(row)}: {column.name} is {column.iloc[row]!r}, it must be [start, end] (s), start before end"
        )
    return pairs


def settle_nan(values: np.ndarray, rule: str, where: str) -> tuple[np.ndarray, bool]:
    """Return samples (..., sample) with the NaN among them filled, and whether the trial must be excluded instead.

    Parameters
    ----------
    values : ndarray
    rule : str
        One of `pipeline.recordings.checks.NAN_RULES`.
    where : str
        Begins the error.

    Raises
    ------
    RecordingError
        If the rule refuses NaN, there is no number to interpolate from, or a sample is infinite.
    """
    if np.isinf(values).any():
        at = int(np.isinf(values).reshape(-1, values.shape[-1]).any(axis=0).argmax())
        raise RecordingError(f"{where}: sample {at} is infinite; correct it in the table")
    missing = np.isnan(values)
    if not missing.any():
        return values, False
    if rule == "exclude":
        return values, True
    filled = fill_nan(values) if rule == "interpolate" else values
    if np.isnan(filled).any():
        at = int(missing.reshape(-1, values.shape[-1]).any(axis=0).argmax())
        remedy = "nan='exclude'" if rule == "interpolate" else "nan='exclude' or nan='interpolate'"
        raise RecordingError(
            f"{where}: {int(missing.sum())} of {missing.size} samples are NaN, the first is sample {at}; "
            f"correct them, or choose {remedy}"
        )
    return filled, False
