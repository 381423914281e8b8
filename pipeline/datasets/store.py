"""Deeplake on disk: the one module that knows its calls.

A stored dataset is a folder with two Deeplake tables: ``stimuli`` holds each distinct stimulus once, ``trials`` one
row a trial with everything else. It is written beside its final place, marked complete and renamed: a folder that can
be opened is whole.
"""

from __future__ import annotations

import functools
import glob
import json
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import psutil

from pipeline.datasets.statistics import Statistics
from pipeline.errors import DatasetError

FORMAT = "deeplake"
FORMAT_VERSION = 2

PENDING_BYTES = 16 * 2**20
"""Rows are handed to Deeplake in blocks of about this size, which bounds the memory that waits."""

ROWS_AT_ONCE = 32
"""Rows of one tensor that Deeplake is asked for together."""


@functools.cache
def _deeplake() -> ModuleType:
    # Importing deeplake looks up a crash-report host at once, so only those who read or write data do it.
    import deeplake

    return deeplake


def _column_type(example: Any) -> Any:
    types = _deeplake().types
    if isinstance(example, str):
        return types.Text()
    if isinstance(example, int | np.integer):
        return types.Int32()
    return types.Array(str(example.dtype), dimensions=example.ndim)


def _joined(values: list[Any]) -> Any:
    """Return a column's values as one array if they have one shape: Deeplake stores a list half as fast, one by one."""
    arrays = isinstance(values[0], np.ndarray)
    return np.stack(values) if arrays and len({value.shape for value in values}) == 1 else values


class _TableWriter:
    """Appends rows to one Deeplake table whose columns are those of its first row."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._table: Any = None
        self._pending: dict[str, list[Any]] = {}
        self._pending_bytes = 0
        self.rows = 0

    def append(self, row: Mapping[str, Any]) -> None:
        if self._table is None:
            self._table = _deeplake().create(f"file://{self._path}")
            for name, value in row.items():
                self._table.add_column(name, _column_type(value))
            self._pending = {name: [] for name in row}
        for name, value in row.items():
            self._pending[name].append(value)
            self._pending_bytes += getattr(value, "nbytes", 0)
        self.rows += 1
        if self._pending_bytes > PENDING_BYTES:
            self._flush()

    def _flush(self) -> None:
        if next(iter(self._pending.values())):
            self._table.append({name: _joined(values) for name, values in self._pending.items()})
            self._table.commit()
        self._pending = {name: [] for name in self._pending}
        self._pending_bytes = 0

    def finish(self, metadata: Mapping[str, Any]) -> None:
        if self._table is None:
            raise DatasetError(f"nothing to store in {self._path.name}: the recording has no trial with a tier")
        self._flush()
        self._table.metadata["geniculate"] = json.dumps({**metadata, "rows": self.rows, "complete": True})
        self._table.commit("complete")
        self._table = None


class DatasetWriter:
    """Collects stimuli and trials of one dataset; made by `write_dataset`."""

    def __init__(self, folder: Path) -> None:
        self._stimuli = _TableWriter(folder / "stimuli")
        self._trials = _TableWriter(folder / "trials")
        self._seen: set[str] = set()
        self.metadata: dict[str, Any] = {}

    def add_stimulus(self, condition_hash: str, tensor: str, frames: np.ndarray) -> None:
        """Store the pixels of a stimulus, (channel, time, height, width) or (channel, height, width), once."""
        if condition_hash not in self._seen:
            self._stimuli.append({"condition_hash": condition_hash, tensor: frames})
            self._seen.add(condition_hash)

    def add_trial(self, row: Mapping[str, Any]) -> None:
        """Store one trial: trial_idx, condition_hash, tier, withheld, stimulus_type, and its tensors by name."""
        if row["condition_hash"] not in self._seen:
            raise DatasetError(f"trial {row['trial_idx']}: its stimulus {row['condition_hash'][:12]} was not stored")
        responses = row["responses"]
        self._trials.append({**row, "bins": responses.shape[1] if responses.ndim == 2 else 1})

    def finish(self) -> None:
        """Mark both tables complete."""
        self._stimuli.finish({"format_version": FORMAT_VERSION})
        self._trials.finish({"format_version": FORMAT_VERSION, **self.metadata})


@contextmanager
def write_dataset(path: Path) -> Iterator[DatasetWriter]:
    """Write a dataset at ``path``: it appears there whole when the block ends, or not at all.

    A folder left at ``path`` by an earlier attempt is replaced.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(path)
    aside = Path(tempfile.mkdtemp(prefix=f".{path.name}.{socket.gethostname()}.{os.getpid()}.", dir=path.parent))
    try:
        writer = DatasetWriter(aside)
        yield writer
        writer.finish()
        os.chmod(aside, 0o755)  # mkdtemp makes it private; colleagues share the store
        shutil.rmtree(path, ignore_errors=True)
        aside.rename(path)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _remove_abandoned(path: Path) -> None:
    """Remove what processes of this machine that were killed left beside ``path``; those that live still write."""
    mine = f".{path.name}.{socket.gethostname()}."
    for aside in path.parent.glob(f"{glob.escape(mine)}*"):
        pid = aside.name.removeprefix(mine).split(".")[0]
        if pid.isdigit() and int(pid) != os.getpid() and not psutil.pid_exists(int(pid)):
            shutil.rmtree(aside, ignore_errors=True)


def _open_table(path: Path) -> tuple[Any, dict[str, Any]]:
    remedy = "delete its Dataset row and populate again"
    if not path.is_dir():
        raise DatasetError(f"no dataset at {path}: the folder was moved or deleted; restore it, or {remedy}")
    try:
        table = _deeplake().open_read_only(f"file://{path}")
    except Exception as error:  # deeplake has an exception of its own for each kind of damage, without a common base
        raise DatasetError(f"the dataset at {path} cannot be read ({error}): {remedy}") from error
    metadata = json.loads(table.metadata["geniculate"]) if "geniculate" in table.metadata.keys() else {}  # noqa: SIM118
    if not metadata.get("complete") or metadata["rows"] != len(table):
        raise DatasetError(f"the dataset at {path} is incomplete: {remedy}")
    if metadata["format_version"] != FORMAT_VERSION:
        raise DatasetError(
            f"the dataset at {path} has format {metadata['format_version']}, this version reads {FORMAT_VERSION}: "
            f"{remedy}"
        )
    return table, metadata


def _together(column: Any, rows: np.ndarray) -> np.ndarray:
    # Of a slice, Deeplake keeps every chunk that it touched as long as the table is open; of a list it holds several
    # copies, so that short lists need little memory.
    for first in range(0, len(rows), ROWS_AT_ONCE):
        piece = np.asarray(column[rows[first : first + ROWS_AT_ONCE].tolist()])
        if not first:
            found = np.empty((len(rows), *piece.shape[1:]), piece.dtype)
        found[first : first + ROWS_AT_ONCE] = piece
    return found


_TRIAL_COLUMNS = ("trial_idx", "condition_hash", "tier", "withheld", "stimulus_type", "bins")


class StoredDataset:
    """Reads one dataset. Values stay on disk until they are asked for; reading a trial costs about a memory copy.

    Attributes
    ----------
    metadata : dict
        What the writer recorded: unit ids, names of the behaviour's channels, statistics, frame rate.
    trial_idx, condition_hash, tier, withheld, stimulus_type : list
        One entry a trial, in order of time.
    bins : list of int
        Length of each trial's responses; 1 for images.
    tensors : tuple of str
        Names of the trials' tensors.
    stimulus_tensor : str
        'videos' or 'images'.

    Raises
    ------
    DatasetError
        If the folder is missing, incomplete or of another format; the message says what to do.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._trials, self.metadata = _open_table(self.path / "trials")
        self._stimuli, _ = _open_table(self.path / "stimuli")
        self.trial_idx: list[int] = [int(i) for i in self._trials["trial_idx"][:]]
        self.condition_hash: list[str] = list(self._trials["condition_hash"][:])
        self.tier: list[str] = list(self._trials["tier"][:])
        self.withheld: list[bool] = [bool(i) for i in self._trials["withheld"][:]]
        # Deeplake gives empty text back as None.
        self.stimulus_type: list[str] = [kind or "" for kind in self._trials["stimulus_type"][:]]
        self.bins: list[int] = [int(n) for n in self._trials["bins"][:]]
        names = [column.name for column in self._trials.schema.columns]
        self.tensors = tuple(n for n in names if n not in _TRIAL_COLUMNS)
        (self.stimulus_tensor,) = (c.name for c in self._stimuli.schema.columns if c.name != "condition_hash")
        self._stimulus_row = {name: row for row, name in enumerate(self._stimuli["condition_hash"][:])}

    def rows(self, tier: str) -> list[int]:
        """Return the rows of one tier's trials that have responses, in order of time."""
        return [row for row, name in enumerate(self.tier) if name == tier and not self.withheld[row]]

    def tensor(self, name: str, row: int) -> np.ndarray:
        """Return one tensor of one trial."""
        return np.asarray(self._trials[row][name])

    def stimulus(self, condition_hash: str) -> np.ndarray:
        """Return the pixels of one stimulus."""
        return np.asarray(self._stimuli[self._stimulus_row[condition_hash]][self.stimulus_tensor])

    def several(self, name: str, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return one tensor of several trials that have one shape, (trial, ...): many times as fast as one by one."""
        return _together(self._trials[name], np.asarray(rows))

    def stimuli(self, condition_hashes: Sequence[str]) -> np.ndarray:
        """Return the pixels of several stimuli that have one shape, (stimulus, ...)."""
        rows = np.array([self._stimulus_row[name] for name in condition_hashes])
        return _together(self._stimuli[self.stimulus_tensor], rows)

    def statistics(self, name: str, stimulus_type: str = "all") -> Statistics:
        """Return the training tier's statistics of 'inputs', 'inputs_per_image', 'responses' or a signal.

        Raises
        ------
        DatasetError
            If the dataset has none for this type of stimuli.
        """
        known = self.metadata["statistics"].get(name, {})
        if stimulus_type not in known:
            raise DatasetError(
                f"the dataset at {self.path} has no statistics of {name!r} for stimuli of type {stimulus_type!r}: "
                f"it has {', '.join(known) or 'none'}"
            )
        return Statistics(**{moment: tuple(values) for moment, values in known[stimulus_type].items()})
