"""An open NWB file: finding what a reader needs in it, and saying what there is where that fails."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from pipeline.errors import RecordingError
from pipeline.recordings.checks import require_file, text_array
from pipeline.recordings.sequences import Sequence

ABSENT = "none"
"""Argument that leaves something out."""

NO_TRIALS = ("epochs", "invalid_times")
"""Tables of intervals that never list presentations."""


class Contents:
    """The objects of an NWB file, which stays open, its arrays on disk.

    Parameters
    ----------
    path : str

    Raises
    ------
    RecordingError
        If pynwb is not installed, or the file is missing or no NWB file.
    """

    def __init__(self, path: str) -> None:
        self.path = require_file(path, "an NWB recording")
        try:
            import pynwb
        except ImportError as error:
            raise RecordingError(f"{path}: reading NWB needs pynwb: pip install 'geniculate[nwb]'") from error
        try:
            files = pynwb.NWBHDF5IO(str(self.path), mode="r", load_namespaces=True)
            self.nwb: Any = files.read()
        except Exception as error:  # h5py, hdmf and pynwb raise kinds of their own for every way to be damaged
            raise RecordingError(f"{self.path} cannot be read as NWB: {error}") from error
        weakref.finalize(self, files.close)
        labelled = ((self.label(item), item) for item in self.nwb.all_children())
        self._objects = dict(sorted(((label, item) for label, item in labelled if label), key=lambda pair: pair[0]))

    @staticmethod
    def label(item: Any) -> str:
        """Return the names that lead to an object, as 'behavior/BehavioralTimeSeries/running_speed'."""
        names: list[str] = []
        while item is not None and item.parent is not None:
            names.append(item.name)
            item = item.parent
        return "/".join(reversed(names))

    def where(self, item: Any) -> str:
        """Return the file and the label of an object, for errors."""
        return f"{self.path}: {self.label(item)}"

    def of_type(self, *types: str) -> dict[str, Any]:
        """Return the objects of some neurodata types, or of types derived from them, by their labels."""
        return {label: item for label, item in self._objects.items() if is_a(item, *types)}

    def named(self, name: str, candidates: Mapping[str, Any], argument: str) -> Any:
        """Return the one object whose label is, or ends with, a name that the user gave."""
        found = [label for label in candidates if label == name or label.endswith(f"/{name}")]
        if len(found) != 1:
            wrong = f"there is no {name!r}" if not found else f"{name!r} may be {' or '.join(found)}"
            raise self.lacking(f"{wrong}; {argument} can be {', '.join(candidates) or 'nothing here'}")
        return candidates[found[0]]

    def only(self, name: str, candidates: Mapping[str, Any], argument: str, fits: Callable[[Any], bool]) -> Any | None:
        """Return the object that the user names, else the only one that fits, else None; 'none' asks for none."""
        if name == ABSENT:
            return None
        if name:
            return self.named(name, candidates, argument)
        found = [label for label, item in candidates.items() if fits(item)]
        if len(found) > 1:
            raise self.lacking(f"{', '.join(found)} could each be meant: name one as {argument}")
        return candidates[found[0]] if found else None

    def sequence(self, series: Any, names: tuple[str, ...], columns: tuple[int, ...] | None = None) -> Sequence:
        """Return a time series as signals that stay on disk, in the units that its ``conversion`` leads to."""
        return Sequence(
            self.where(series), names, self.times(series), series.data, columns,
            scale=float(series.conversion), offset=float(series.offset),
        )  # fmt: skip

    def times(self, series: Any) -> np.ndarray:
        """Return the times (s) of a series: its timestamps, else from its rate and starting time."""
        if series.timestamps is not None:
            return np.asarray(series.timestamps[:], np.float64)
        if not series.rate or series.rate <= 0:
            raise RecordingError(f"{self.where(series)}: neither timestamps nor a rate above 0")
        return float(series.starting_time or 0.0) + np.arange(series.data.shape[0]) / float(series.rate)

    def tables(self) -> dict[str, Any]:
        """Return the tables of intervals that may list presentations, by their names."""
        return {item.name: item for item in self.of_type("TimeIntervals").values() if item.name not in NO_TRIALS}

    def lacking(self, problem: str) -> RecordingError:
        """Return an error that says what is wrong and what the file contains."""
        tables = [f"{name} ({', '.join(table.colnames)})" for name, table in self.tables().items()]
        series = [
            f"{label} ({type(item).__name__})"
            for label, item in self.of_type("TimeSeries", "Images").items()
        ]  # fmt: skip
        units = "no" if self.nwb.units is None else str(len(self.nwb.units))
        return RecordingError(
            f"{self.path}: {problem}. The file contains {units} units; tables of intervals: "
            f"{'; '.join(tables) or 'none'}; series and images: {', '.join(series) or 'none'}"
        )


def is_a(item: Any, *types: str) -> bool:
    """Return whether an object has one of some neurodata types, or one derived from it; extensions make new ones."""
    return any(kind.__name__ in types for kind in type(item).__mro__)


def column(table: Any, *names: str) -> np.ndarray | None:
    """Return the first column of a table that has one of some names, None where it has none of them."""
    name = next((name for name in names if name in table.colnames), None)
    if name is None or is_a(table[name], "VectorIndex"):
        return None
    return np.asarray(table[name].data[:])


def texts(values: np.ndarray | None, count: int) -> list[str | None]:
    """Return a column as text, None where it says nothing."""
    if values is None:
        return [None] * count
    return [None if text in ("", "nan", "None") else text for text in text_array(values)]
