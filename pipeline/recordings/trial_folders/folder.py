"""The layout ``data/<name>/{i}.npy``, ``meta/trials/*.npy``, ``meta/neurons/*.npy``: one file a trial and quantity."""

from __future__ import annotations

import logging
import lzma
import os
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Protocol

import numpy as np

from pipeline.errors import RecordingError
from pipeline.recordings.base import Unit
from pipeline.recordings.checks import require_file, require_folder, require_numbers, text_array
from pipeline.recordings.tiers import tier_called
from pipeline.recordings.trial_folders.npy import read_npy

logger = logging.getLogger(__name__)

ABSENT = ("", "unset", "nan", "NaT", "None")
"""How exporters write a label that is not there."""

UNREADABLE = (
    ValueError, EOFError, OSError, MemoryError, RuntimeError, zipfile.BadZipFile, zlib.error, lzma.LZMAError,
)  # fmt: skip
"""What numpy and zipfile raise at damaged, encrypted or unknown content."""


class _Files(Protocol):
    path: Path

    def inside(self, folder: str) -> list[str]: ...

    def open(self, name: str) -> BinaryIO: ...


class _Unpacked:
    """The files of a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def inside(self, folder: str) -> list[str]:
        where = self.path / folder
        return sorted(os.listdir(where)) if where.is_dir() else []

    def open(self, name: str) -> BinaryIO:
        return open(f"{self.path}/{name}", "rb", buffering=0)  # nearly all files are read in two calls


class _Zipped:
    """The files of a .zip archive, each unpacked in memory when it is read; nothing is written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._archive = zipfile.ZipFile(path)
        except (OSError, zipfile.BadZipFile) as error:
            raise RecordingError(f"{path} is no .zip archive, or a damaged one: {error}; copy it again") from error
        found: dict[str, set[str]] = defaultdict(set)
        names = self._archive.namelist()
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise RecordingError(f"{path} holds {twice} twice, so it is not clear which one is meant: zip it again")
        for name in names:
            member = PurePosixPath(name)
            if member.is_absolute() or ".." in member.parts or "\\" in name:
                raise RecordingError(f"{path}: the member {name!r} points outside the archive: zip the folder again")
            for inner, outer in zip(member.parts, ("", *map(str, reversed(member.parents[:-1]))), strict=True):
                found[outer].add(inner)
        self._inside = {folder: sorted(content) for folder, content in found.items()}

    def inside(self, folder: str) -> list[str]:
        return self._inside.get(folder.rstrip("/"), [])

    def open(self, name: str) -> BinaryIO:
        try:
            member = self._archive.getinfo(name)
        except KeyError:
            raise FileNotFoundError(name) from None
        return self._archive.open(member)  # type: ignore[return-value]


class TrialFolder:
    """Access to one such folder, or to a .zip of it, in which it may lie one folder deep.

    Parameters
    ----------
    path : str
        The folder or archive.
    needed : sequence of str
        Names of folders below ``data`` that must be there.
    optional : sequence of str
        Names of folders below ``data`` that may be there.

    Attributes
    ----------
    path : Path
        Absolute.
    groups : tuple of str
        Those of ``needed`` and ``optional`` that are there; each holds 0.npy to n-1.npy.
    tiers : tuple of str
        The source's tier of each trial, in the order of the files.

    Raises
    ------
    RecordingError
        If the layout is another one, a tier is unknown, or a trial's file is missing or one too many.
    """

    def __init__(self, path: str, needed: Sequence[str], optional: Sequence[str] = ()) -> None:
        self.path = Path(path).expanduser().absolute()
        if self.path.suffix.lower() == ".zip" and not self.path.is_dir():
            self._files: _Files = _Zipped(require_file(self.path, "a recording (.zip)"))
        else:
            self._files = _Unpacked(require_folder(self.path, "a recording, nor a .zip of one"))
        self._root = self._find_root()
        present = self._files.inside(f"{self._root}data")
        for group in needed:
            if group not in present:
                raise RecordingError(f"{self.path} has no data/{group}: it holds data/{', data/'.join(present)}")
        self.groups = (*needed, *(group for group in optional if group in present))
        tiers = self._load("meta/trials/tiers.npy")
        if tiers.ndim != 1 or tiers.dtype.kind not in "SU" or not len(tiers):
            raise RecordingError(
                f"{self.name('meta/trials/tiers.npy')}: {tiers.dtype} {tiers.shape}, but one text a trial is needed"
            )
        self.tiers = tuple(self._text(tiers, "meta/trials/tiers.npy"))
        for index, tier in enumerate(self.tiers):
            our_tier(tier, f"{self.name('meta/trials/tiers.npy')}, trial {index}")
        for group in self.groups:
            self._check_count(group)

    def __len__(self) -> int:
        return len(self.tiers)

    def name(self, member: str) -> str:
        """Return what people know a file by: its path, or the archive's path and its name therein."""
        return f"{self.path}/{self._root}{member}"

    def where(self, group: str, index: int) -> str:
        """Return the name of one trial's file."""
        return self.name(f"data/{group}/{index}.npy")

    def read(self, group: str, index: int, *shapes: Sequence[int | None]) -> np.ndarray:
        """Return one quantity of one trial, by the number of its file: numbers, in one of the shapes.

        Raises
        ------
        RecordingError
            If the file is missing or damaged, or the array has another shape or no numbers; naming the file.
        """
        values = self._load(f"data/{group}/{index}.npy")
        fits = [s for s in shapes if len(s) == values.ndim]
        # A wrong length is told of the shape that has as many axes, if there is one.
        same = [s for s in fits if all(want in (None, have) for want, have in zip(s, values.shape, strict=True))]
        return require_numbers(values, (same or fits or list(shapes))[0], self.where(group, index))

    def about_trials(self, *names: str) -> np.ndarray | None:
        """Return the first of ``meta/trials/<name>.npy`` that exists, (trial,), in the order of the files."""
        return self._about("trials", names, len(self))

    def about_units(self, name: str, n_units: int) -> np.ndarray | None:
        """Return ``meta/neurons/<name>.npy``, (unit, ...), if it exists."""
        return self._about("neurons", (name,), n_units)

    def labels(self, *names: str) -> list[str]:
        """Return `about_trials` as text, '' for each trial without."""
        values = self.about_trials(*names)
        texts = [""] * len(self) if values is None else self._text(values, f"meta/trials/{names[0]}.npy")
        return ["" if text in ABSENT else text for text in texts]

    def unit_labels(self, name: str, n_units: int) -> list[str | None]:
        """Return `about_units` as text, None for each unit without."""
        values = self.about_units(name, n_units)
        texts = [""] * n_units if values is None else self._text(values, f"meta/neurons/{name}.npy")
        return [None if text in ABSENT else text for text in texts]

    def warn_of_statistics(self, n_units: int) -> None:
        """Log a warning if the stored deviation of responses is not one number a unit; ours are computed anew.

        The export for Sensorium 2023 has one a unit and video frame; models trained with it cannot be compared.
        """
        top = "meta/statistics/responses"
        for kind in self._files.inside(f"{self._root}{top}"):
            member = f"{top}/{kind}/std.npy"
            if "std.npy" in self._files.inside(f"{self._root}{top}/{kind}"):
                try:
                    found = str(self._load(member).shape)
                except RecordingError:
                    found = "unreadable"
                if found != str((n_units,)):
                    logger.warning(
                        "%s is ignored: its shape is %s, not one deviation for each of %d units. "
                        "Statistics are always computed from the training tier, one for each unit.",
                        self.name(member), found, n_units,
                    )  # fmt: skip

    def _find_root(self) -> str:
        tops = ["", *(f"{name}/" for name in self._files.inside(""))]
        roots = [top for top in tops if {"data", "meta"} <= set(self._files.inside(top))]
        if not roots or (roots[0] and len(roots) > 1):
            found = f"{len(roots)} recordings ({', '.join(roots)}); name one" if roots else "no folders data and meta"
            raise RecordingError(
                f"{self.path} holds {found}: data/<name>/<trial>.npy and meta/trials/tiers.npy are needed"
            )
        return roots[0]

    def _check_count(self, group: str) -> None:
        files = [file for file in self._files.inside(f"{self._root}data/{group}") if not file.startswith(".")]
        wanted = {f"{index}.npy": index for index in range(len(self))}
        odd = sorted(set(files) - set(wanted))
        missing = sorted(wanted[file] for file in set(wanted) - set(files))
        said = f"meta/trials/tiers.npy has {len(self)} trials, data/{group} has {len(files)} files"
        if missing:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise RecordingError(f"{self.where(group, missing[0])} (trial {missing[0]}){more} is missing: {said}")
        if odd:
            raise RecordingError(f"{self.name(f'data/{group}/{odd[0]}')} belongs to no trial: {said}")

    def _about(self, kind: str, names: Sequence[str], count: int) -> np.ndarray | None:
        present = self._files.inside(f"{self._root}meta/{kind}")
        for name in names:
            if f"{name}.npy" in present:
                values = self._load(f"meta/{kind}/{name}.npy")
                if values.shape[:1] != (count,):
                    raise RecordingError(
                        f"{self.name(f'meta/{kind}/{name}.npy')}: shape {values.shape}, but there are {count} {kind}"
                    )
                return values
        return None

    def _text(self, values: np.ndarray, member: str) -> list[str]:
        if values.size != len(values):
            raise RecordingError(f"{self.name(member)}: shape {values.shape}, but one value each is needed")
        try:
            return text_array(values)
        except UnicodeDecodeError as error:
            raise RecordingError(f"{self.name(member)} holds text that is not UTF-8: {error}") from error

    def _load(self, member: str) -> np.ndarray:
        try:
            with self._files.open(self._root + member) as stream:
                return read_npy(stream)
        except FileNotFoundError as error:
            raise RecordingError(f"{self.name(member)} is missing") from error
        except UNREADABLE as error:
            raise RecordingError(
                f"{self.name(member)} cannot be read as a .npy array of numbers or text: {error}; "
                "copy or export it again (Python objects are never loaded)"
            ) from error


def our_tier(tier: str, where: str = "") -> str | None:
    """Return our name of a source's tier; None if no dataset may use the trial. ``where`` is for the error."""
    if tier == "none":
        return None
    return "ood" if tier.endswith("_bonus") else tier_called(tier, where)


def read_units(folder: TrialFolder, n_units: int) -> tuple[Unit, ...]:
    """Return the units in the order of the responses, with all that ``meta/neurons`` says of them.

    ``unit_id`` is that of unit_ids.npy if those are whole numbers and differ, as they do within one scan; otherwise
    units are numbered from 0. The name is made of animal, session, scan and unit, as far as they are known.
    """
    ids = folder.about_units("unit_ids", n_units)
    distinct = ids is not None and ids.dtype.kind in "iu" and len(np.unique(ids)) == n_units
    numbers = [int(i) for i in ids] if ids is not None and distinct else list(range(n_units))
    scan = [folder.unit_labels(name, n_units) for name in ("animal_ids", "sessions", "scan_idx")]
    told = folder.unit_labels("unit_ids", n_units)
    said = [label or str(number) for label, number in zip(told, numbers, strict=True)]
    names = _joined([*scan, said])
    if len(set(names)) < n_units:
        names = _joined([*scan, [str(number) for number in numbers]])
    areas, layers = folder.unit_labels("area", n_units), folder.unit_labels("layer", n_units)
    places = folder.about_units("cell_motor_coordinates", n_units)
    if places is not None:
        require_numbers(places, (n_units, 3), folder.name("meta/neurons/cell_motor_coordinates.npy"))
    return tuple(
        Unit(numbers[i], names[i], areas[i], layers[i], None if places is None else _position(places[i]))
        for i in range(n_units)
    )


def _joined(columns: Sequence[Sequence[str | None]]) -> list[str]:
    return ["-".join(part for part in parts if part is not None) for parts in zip(*columns, strict=True)]


def _position(place: np.ndarray) -> tuple[float, float, float] | None:
    x, y, z = (float(value) for value in place)
    return (x, y, z) if np.isfinite(place).all() else None


def time_order(folder: TrialFolder) -> list[int]:
    """Return the numbers of the files in order of time: by trial_idx where it is whole numbers that differ.

    Competitions hide the order by hashing trial_idx to text; then the files' own order is all there is.
    """
    idx = folder.about_trials("trial_idx")
    if idx is None or idx.ndim != 1 or idx.dtype.kind not in "iu" or len(np.unique(idx)) < len(folder):
        return list(range(len(folder)))
    return np.argsort(idx).tolist()


def start_times(folder: TrialFolder, order: Sequence[int], durations: Sequence[float]) -> list[float]:
    """Return when each trial, in order of time, began (s, the first at 0).

    From the clock of the experiment (``*trial_ts.npy``: seconds, or text such as ``Timestamp('2018-03-05 14:08:51')``)
    where it increases from trial to trial; many exports cut it to whole seconds. Otherwise each trial begins on the
    first whole second after the end of the one before it, so that images of 0.5 s lie 1 s apart.
    """
    clock = folder.about_trials("frame_trial_ts", "colorframeprojector_trial_ts", "trial_ts")
    seconds = np.full(len(folder), np.nan) if clock is None else _seconds(clock)[list(order)]
    if np.isfinite(seconds).all() and (np.diff(seconds) > 0).all():
        return (seconds - seconds[0]).tolist()
    steps = np.floor(np.asarray(durations[:-1], float)) + 1
    return np.concatenate([[0.0], np.cumsum(steps)]).tolist()


def _seconds(clock: np.ndarray) -> np.ndarray:
    if clock.dtype.kind in "iuf":
        return clock.astype(np.float64)
    try:
        stamps = np.array([text.removeprefix("Timestamp('").removesuffix("')") for text in text_array(clock)])
        moments = stamps.astype("datetime64[us]")
    except ValueError:
        return np.full(len(clock), np.nan)
    return np.where(np.isnat(moments), np.nan, (moments - moments[0]) / np.timedelta64(1, "s"))


def positive_number(text: str, name: str) -> float:
    """Return a number above 0 that a user gave as text for the argument ``name``."""
    try:
        number = float(text)
    except ValueError:
        number = float("nan")
    if not 0 < number < float("inf"):
        raise RecordingError(f"{name} is {text!r}: give a number above 0")
    return number


def told_number(text: str) -> float | None:
    """Return a number above 0 that a source tells; exporters also write it as text such as ``Decimal('0.500')``."""
    try:
        number = float(text.removeprefix("Decimal('").removesuffix("')"))
    except ValueError:
        return None
    return number if 0 < number < float("inf") else None
