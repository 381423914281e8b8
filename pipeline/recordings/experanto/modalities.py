"""What an experanto recording holds beside the screen: sequences, spikes, intervals and their metadata."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from pipeline.errors import RecordingError
from pipeline.recordings.base import SIGNALS, Unit
from pipeline.recordings.checks import load_array, require_file, require_folder, require_numbers, text_array
from pipeline.recordings.sequences import Sequence

logger = logging.getLogger(__name__)

ABSENT = "none"
"""Argument that leaves a modality out."""

LARGEST_ID = 2**31 - 1


def read_yaml(path: Path, what: str) -> dict[str, Any]:
    """Return the mapping in a YAML file; nothing but plain values is ever made from it."""
    require_file(path, what)
    try:
        content = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecordingError(f"{path} ({what}) is no YAML of plain values: {error}") from error
    if not isinstance(content, dict):
        raise RecordingError(f"{path} ({what}) must hold names and values, not {type(content).__name__}")
    return content


def require_modality(folder: Path, wanted: str) -> dict[str, Any]:
    """Return the ``meta.yml`` of a folder that must hold one kind of modality."""
    meta = read_yaml(require_folder(folder, wanted) / "meta.yml", f"{wanted} metadata")
    if meta.get("modality") != wanted:
        raise RecordingError(f"{folder / 'meta.yml'}: modality {meta.get('modality')!r}, but {wanted!r} is needed")
    return meta


def read_sequence(folder: Path, names: Mapping[str, int] | None = None) -> Sequence:
    """Return the signals of a folder of modality 'sequence', left on disk.

    Parameters
    ----------
    folder : Path
    names : mapping, optional
        Column of each signal that is wanted; without it all columns, under their numbers.
    """
    meta = require_modality(folder, "sequence")
    where = f"{folder / 'meta.yml'}"
    n_signals = _count(meta, "n_signals", where)
    values = _values(folder, meta, n_signals)
    times = _sample_times(folder, meta, len(values))
    delays = None
    if meta.get("phase_shift_per_signal"):
        path = folder / "meta" / "phase_shifts.npy"
        delays = require_numbers(load_array(path, "phase shifts"), (n_signals,), str(path)).astype(np.float64)
    if names is None:
        return Sequence(str(folder), tuple(map(str, range(n_signals))), times, values, delays=delays)
    columns = tuple(names.values())
    if max(columns) >= n_signals:
        raise RecordingError(f"{folder}: column {max(columns)} does not exist, there are {n_signals} (from 0)")
    chosen = None if delays is None else delays[list(columns)]
    return Sequence(str(folder), tuple(names), times, values, columns, chosen)


def _values(folder: Path, meta: Mapping[str, Any], n_signals: int) -> np.ndarray:
    """Return the samples (sample, signal), mapped from ``data.npy`` or ``data.mem``."""
    mapped = meta.get("is_mem_mapped", not (folder / "data.npy").exists())
    if not mapped:
        path = folder / "data.npy"
        values = load_array(path, "samples", mapped=True)
        require_numbers(values, (None,) * values.ndim, str(path))
        if values.ndim == 1 and n_signals == 1:
            values = values[:, None]
        expected = _count(meta, "n_timestamps", str(folder / "meta.yml")) if "n_timestamps" in meta else None
        return require_numbers(values, (expected, n_signals), str(path))
    path = require_file(folder / "data.mem", "samples")
    shape = (_count(meta, "n_timestamps", str(folder / "meta.yml")), n_signals)
    return _map_raw(path, meta.get("dtype"), shape)


def _map_raw(path: Path, dtype: object, shape: tuple[int, ...]) -> np.ndarray:
    try:
        kind = np.dtype(str(dtype))
    except TypeError:
        kind = np.dtype("O")
    if kind.kind not in "biuf":
        raise RecordingError(f"{path.parent / 'meta.yml'}: dtype {dtype!r} of {path.name} is no type of numbers")
    needed = int(np.prod(shape)) * kind.itemsize
    if path.stat().st_size != needed:
        raise RecordingError(
            f"{path} has {path.stat().st_size} bytes, but {' x '.join(map(str, shape))} numbers of type {kind} need "
            f"{needed}: correct meta.yml or export it again"
        )
    return np.memmap(path, kind, "r", shape=shape) if needed else np.zeros(shape, kind)


def _sample_times(folder: Path, meta: Mapping[str, Any], n_samples: int) -> np.ndarray:
    for path in (folder / "timestamps.npy", folder / "meta" / "timestamps.npy"):
        if path.is_file():
            return require_numbers(load_array(path, "times of the samples"), (n_samples,), str(path)).astype(np.float64)
    where = str(folder / "meta.yml")
    rate = positive(meta.get("sampling_rate"), f"{where}: sampling_rate")
    start = _number(meta, "start_time", where)
    if "end_time" in meta:
        # Exporters differ in whether the end is that of the last sample or one period later, and round rates.
        lasted = _number(meta, "end_time", where) - start
        if abs(lasted * rate - n_samples) > 2.5:
            raise RecordingError(
                f"{where}: {n_samples} samples at {rate:g} Hz are {n_samples / rate:.3f} s, but start_time and "
                f"end_time are {lasted:.3f} s apart: correct them, or write the samples' times to timestamps.npy"
            )
    return start + np.arange(n_samples) / rate


def read_behavior(root: Path, name: str, argument: str, columns: str) -> list[Sequence]:
    """Return the sequence with the signals of a folder, or nothing where it is absent or left out."""
    default = name in ("eye_tracker", "treadmill")
    if name == ABSENT or columns in (ABSENT, f"run={ABSENT}") or (default and not (root / name).is_dir()):
        return []
    folder = inside(root, name, argument)
    if not columns:
        n_signals = require_modality(folder, "sequence").get("n_signals")
        raise RecordingError(
            f"{folder} has {n_signals} columns and the format does not tell what they are: say so in {argument}, as "
            f"pupil_size=0,pupil_x=2,pupil_y=3, or leave the folder out with --eye-tracker {ABSENT}"
        )
    return [read_sequence(folder, _columns(columns, argument))]


def _columns(text: str, argument: str) -> dict[str, int]:
    wanted: dict[str, int] = {}
    for part in text.split(","):
        name, _, column = (piece.strip() for piece in part.partition("="))
        if name not in SIGNALS or not column.isdecimal() or name in wanted:
            raise RecordingError(
                f"{argument}: {part.strip()!r} is not a signal and its column, as pupil_x=2; signals are "
                f"{', '.join(SIGNALS)}, each once"
            )
        wanted[name] = int(column)
    return wanted


def read_spikes(folder: Path, meta: Mapping[str, Any]) -> tuple[tuple[np.ndarray, ...], float, float]:
    """Return the mapped, sorted spike times of each unit, and from when to when they are known (s)."""
    where = str(folder / "meta.yml")
    bounds = np.asarray(meta.get("spike_indices"))
    if bounds.ndim != 1 or bounds.dtype.kind not in "iu" or not len(bounds) or bounds[0] or (np.diff(bounds) < 0).any():
        raise RecordingError(f"{where}: spike_indices must be whole numbers from 0 that do not fall")
    if meta.get("n_signals", len(bounds) - 1) != len(bounds) - 1:
        raise RecordingError(f"{where}: n_signals {meta['n_signals']}, but spike_indices bound {len(bounds) - 1} units")
    path = folder / ("spikes.mem" if meta.get("is_mem_mapped") else "spikes.npy")
    require_file(path, "spike times")
    with path.open("rb") as file:
        is_npy = file.read(6) == b"\x93NUMPY"
    # Earlier versions of the format wrote bare numbers under the name spikes.npy.
    spikes = load_array(path, "spike times", mapped=True) if is_npy else _map_raw(
        path, meta.get("dtype", "float64"), (int(bounds[-1]),)
    )  # fmt: skip
    require_numbers(spikes, (int(bounds[-1]),), str(path))
    units = tuple(spikes[first:last] for first, last in pairwise(bounds))
    for number, times in enumerate(units):
        if not np.isfinite(times).all() or (np.diff(times) < 0).any():
            raise RecordingError(f"{path}, unit {number}: spike times must be finite and sorted")
    return units, _number(meta, "start_time", where), _number(meta, "end_time", where)


def read_units(folder: Path, meta: Mapping[str, Any], n_units: int) -> tuple[Unit, ...]:
    """Return the units with what ``neuron_properties`` tells of them: unit_ids, cell_motor_coordinates, area, layer."""
    files = meta.get("neuron_properties") or {}

    def column(*names: str) -> np.ndarray | None:
        name = next((name for name in names if name in files), None)
        if name is None:
            return None
        path = inside(folder, str(files[name]), f"neuron_properties, {name}")
        values = load_array(path, f"{name} of the units")
        if values.ndim == 0 or len(values) != n_units:
            raise RecordingError(f"{path}: shape {values.shape}, but there are {n_units} units")
        return values

    ids, area, layer = column("unit_ids"), column("area", "areas"), column("layer", "layers")
    position = column("cell_motor_coordinates")
    if position is not None and position.shape[1:] != (3,):
        logger.info("%s: positions of shape %s are no x, y, z and are left out", folder, position.shape)
        position = None
    names = [str(number) for number in range(n_units)] if ids is None else text_array(ids)
    areas, layers = ([None] * n_units if found is None else text_array(found) for found in (area, layer))
    numbered = (
        ids is not None and ids.dtype.kind in "iu" and ids.min(initial=0) >= 0 and ids.max(initial=0) <= LARGEST_ID
    )
    return tuple(
        Unit(
            int(names[n]) if numbered else n,
            names[n],
            areas[n] or None,
            layers[n] or None,
            None if position is None else (float(position[n, 0]), float(position[n, 1]), float(position[n, 2])),
        )
        for n in range(n_units)
    )


def read_pulses(root: Path, opto: str) -> np.ndarray:
    """Return the pulses (pulse, 2) of a folder of modality 'time_interval', in order of time."""
    name, _, label = opto.partition("/")
    folder = inside(root, name, "opto")
    labels = require_modality(folder, "time_interval").get("labels") or {}
    if label not in labels and (label or len(labels) != 1):
        raise RecordingError(
            f"{folder} has the labels {', '.join(labels)}: name one, as --opto {name}/{next(iter(labels), 'label')}"
        )
    path = inside(folder, str(labels[label or next(iter(labels))]), "labels")
    pulses = require_numbers(load_array(path, "light pulses"), (None, 2), str(path)).astype(np.float64)
    if not np.isfinite(pulses).all() or (pulses[:, 1] < pulses[:, 0]).any():
        raise RecordingError(f"{path}: pulses must be finite, each start before its end")
    return pulses[np.argsort(pulses[:, 0], kind="stable")]


def inside(root: Path, name: str, argument: str) -> Path:
    """Return a path that must lie below a folder: metadata may not lead elsewhere."""
    path = root / name
    if not name or not path.resolve().is_relative_to(root.resolve()):
        raise RecordingError(f"{argument}: {name!r} is no name in {root}")
    return path


def _count(meta: Mapping[str, Any], name: str, where: str) -> int:
    value = meta.get(name)
    if not isinstance(value, int) or value < 1:
        raise RecordingError(f"{where}: {name} is {value!r}, but a number of at least 1 is needed")
    return value


def _number(meta: Mapping[str, Any], name: str, where: str) -> float:
    value = meta.get(name)
    if not isinstance(value, int | float) or not np.isfinite(value):
        raise RecordingError(f"{where}: {name} is {value!r}, but a number of seconds is needed")
    return float(value)


def positive(value: object, name: str) -> float:
    """Return a number that must be above 0, given as one or as text; ``name`` says for people what it is."""
    try:
        number = float(str(value))
    except ValueError:
        number = np.nan
    if not (np.isfinite(number) and number > 0):
        raise RecordingError(f"{name} is {value!r}, but a number above 0 is needed")
    return number
