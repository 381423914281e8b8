"""The folder in which a recording made of arrays lies; `pipeline.recordings.arrays.reader` describes its files."""

from __future__ import annotations

import dataclasses
import filecmp
import json
import os
import shutil
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import RecordingError
from pipeline.recordings.arrays.content import Content, Description, Rows, Series, require_whole
from pipeline.recordings.base import SIGNALS
from pipeline.recordings.checks import load_array, require_file, require_folder, require_numbers

DESCRIPTION = "recording.json"
_FORMAT = {"format": "geniculate arrays", "version": 1}
_COUNTED = ("videos", "responses", "spike_times", "opto_pulses", *SIGNALS)
_PLAIN = ("images", "shown", "starts", "durations")
# Opening a mapped file costs more than reading a small one, and an empty array cannot be mapped.
_SMALL = 1 << 16


def write_folder(content: Content, folder: Path) -> None:
    """Write all arrays aside and put the folder in place in one step; a folder with the same files is left as it is.

    Raises
    ------
    RecordingError
        If the folder holds anything else.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
    aside.mkdir()
    try:
        _write(content, aside)
        if not folder.exists() or not any(folder.iterdir()):
            os.replace(aside, folder)
        elif not _same(aside, folder):
            raise RecordingError(f"{folder} holds something else already: choose a new folder, or remove it first")
    except NotADirectoryError:
        raise RecordingError(f"{folder} is a file: choose a new folder") from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def read_folder(folder: Path) -> Content:
    """Return the arrays in a folder, large ones mapped from disk.

    Raises
    ------
    RecordingError
        Naming the file that is missing, damaged or unknown, or does not have the size that its counts say.
    """
    require_folder(folder, "arrays")
    description = _read_description(folder)
    known = {f"{name}.npy" for name in (*_PLAIN, *_COUNTED)} | {f"{name}_counts.npy" for name in _COUNTED}
    unknown = sorted({path.name for path in folder.glob("*.npy")} - known)
    if unknown:
        raise RecordingError(
            f"{folder / unknown[0]}: no array of a recording is called so; known are {', '.join(known)}"
        )
    present = {path.name.removesuffix(".npy") for path in folder.glob("*.npy")}
    if len(present & {"images", "videos"}) != 1:
        raise RecordingError(f"{folder}: either images.npy or videos.npy is needed")
    if "videos" in present:
        stimuli = _read_series(folder, "videos", (None, None, None, None))
    else:
        path = folder / "images.npy"
        stimuli = Series(require_numbers(_load(path), (None, None, None, None), str(path)))
    shown_path = folder / "shown.npy"
    durations = require_numbers(_load(folder / "durations.npy"), (None,), str(folder / "durations.npy"))
    return Content(
        description,
        stimuli,
        require_whole(_load(shown_path), str(shown_path)),
        require_numbers(_load(folder / "starts.npy"), (None,), str(folder / "starts.npy")),
        durations,
        _read_series(folder, "responses", (None, None)) if "responses" in present else None,
        _read_series(folder, "spike_times", (None,), 2) if "spike_times" in present else None,
        {name: _read_series(folder, name, (None,)) for name in SIGNALS if name in present},
        _read_series(folder, "opto_pulses", (None, 2)) if "opto_pulses" in present else None,
    )


def _write(content: Content, folder: Path) -> None:
    for name in ("shown", "starts", "durations"):
        np.save(folder / f"{name}.npy", getattr(content, name))
    named = {
        "videos" if content.stimuli.counts is not None else "images": content.stimuli,
        "responses": content.responses,
        "spike_times": content.spike_times,
        "opto_pulses": content.opto_pulses,
        **content.signals,
    }
    for name, series in named.items():
        if series is not None:
            _write_series(series, folder, name)
    usual = Description()
    said = {key: value for key, value in vars(content.description).items() if value != getattr(usual, key)}
    lines = [f" {json.dumps(key)}: {json.dumps(value, allow_nan=False)}" for key, value in (_FORMAT | said).items()]
    (folder / DESCRIPTION).write_text("{\n" + ",\n".join(lines) + "\n}\n", "utf-8")


def _write_series(series: Series, folder: Path, name: str) -> None:
    """Write items one at a time, so that they need not fit into memory together."""
    dtype = np.result_type(*{item.dtype for item in series.items})
    tail = series.items[0].shape
    if series.counts is None:
        _fill(folder / f"{name}.npy", dtype, (len(series.items), *tail), ((item[None], 1) for item in series.items))
        return
    n_rows = int(series.counts.sum())
    _fill(folder / f"{name}.npy", dtype, (n_rows, *tail[1:]), ((item, len(item)) for item in series.items))
    np.save(folder / f"{name}_counts.npy", series.counts)


def _fill(path: Path, dtype: np.dtype, shape: tuple[int, ...], parts: Iterable[tuple[np.ndarray, int]]) -> None:
    if 0 in shape:
        np.save(path, np.empty(shape, dtype))
        return
    out = np.lib.format.open_memmap(path, "w+", dtype, shape)
    first = 0
    for rows, count in parts:
        out[first : first + count] = rows
        first += count
    out.flush()


def _same(one: Path, other: Path) -> bool:
    names = sorted(path.name for path in one.iterdir())
    if names != sorted(path.name for path in other.iterdir()):
        return False
    return filecmp.cmpfiles(one, other, names, shallow=False)[0] == names


def _load(path: Path) -> np.ndarray:
    require_file(path, "arrays")
    return load_array(path, path.stem, mapped=path.stat().st_size > _SMALL)


def _read_series(folder: Path, name: str, shape: tuple[int | None, ...], count_axes: int = 1) -> Series:
    """Return one array a trial or stimulus; with ``<name>_counts.npy`` beside it, items lie one after another.

    Parameters
    ----------
    folder : Path
    name : str
    shape : tuple
        Of the file: rows come first.
    count_axes : int
        How many axes the counts have.
    """
    path, counts_path = folder / f"{name}.npy", folder / f"{name}_counts.npy"
    values = require_numbers(_load(path), shape, str(path))
    if not counts_path.exists() and name in ("responses", *SIGNALS):
        return Series(values)
    counts = require_whole(_load(counts_path), str(counts_path))
    if counts.ndim != count_axes or (counts < 0).any() or counts.sum() != len(values):
        raise RecordingError(
            f"{counts_path}: counts of shape {counts.shape} that add up to {counts.sum()}, but {path} has "
            f"{len(values)} rows; counts must be at least 0 and have {count_axes} ax{'es' if count_axes > 1 else 'is'}"
        )
    return Series(Rows(values, counts.ravel()), counts)


def _read_description(folder: Path) -> Description:
    path = require_file(folder / DESCRIPTION, "the description of arrays")
    try:
        said: Any = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise RecordingError(f"{path} is no JSON: {error}") from error
    if not isinstance(said, dict) or {key: said.pop(key, None) for key in _FORMAT} != _FORMAT:
        raise RecordingError(f"{path}: a JSON object with {json.dumps(_FORMAT)} is needed")
    known = [item.name for item in dataclasses.fields(Description)]
    unknown = [key for key in said if key not in known]
    if unknown:
        raise RecordingError(f"{path}: unknown field {unknown[0]!r}; known are {', '.join(known)}")
    return Description(**said)
