"""What readers share: files that must be there, values that must be finite, and the seal on what was read."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from tqdm.auto import tqdm

from pipeline.errors import RecordingError
from pipeline.recordings.base import (
    SIGNALS,
    TIERS,
    Recording,
    Responses,
    Source,
    SpikeTimes,
    Stimulus,
    Trace,
    Traces,
    Trial,
    hash_pixels,
)

T = TypeVar("T")

NAN_RULES = ("refuse", "exclude", "interpolate")
"""What to do with NaN inside a trial: refuse the recording, exclude the trial, or fill from the samples beside it."""


def watched(items: Iterable[T], total: int, what: str) -> Iterable[T]:
    """Return the items behind a bar of how far reading is, which appears on terminals only and after two seconds."""
    bar: Iterable[T] = tqdm(items, what, total, leave=False, unit="trial", delay=2, disable=None, dynamic_ncols=True)
    return bar


def require_folder(path: str | Path, what: str) -> Path:
    """Return the absolute path of a folder that must exist; ``what`` says for people what it holds."""
    folder = Path(path).expanduser().absolute()
    if not folder.is_dir():
        raise RecordingError(f"{folder}: no such folder of {what}")
    return folder


def require_file(path: str | Path, what: str) -> Path:
    """Return the absolute path of a file that must exist; ``what`` says for people what it holds."""
    file = Path(path).expanduser().absolute()
    if not file.is_file():
        raise RecordingError(f"{file}: no such file of {what}")
    return file


def load_array(path: Path, what: str, *, mapped: bool = False) -> np.ndarray:
    """Return the array in a ``.npy`` file; nothing pickled is ever loaded.

    Parameters
    ----------
    path : Path
    what : str
        What it holds, for the error.
    mapped : bool
        Leave the values on disk until they are asked for.

    Raises
    ------
    RecordingError
        If the file is missing, truncated, no ``.npy`` file or holds Python objects.
    """
    require_file(path, what)
    try:
        found = np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise RecordingError(f"{path} ({what}) cannot be read as a .npy array of numbers or text: {error}") from error
    if not isinstance(found, np.ndarray):
        raise RecordingError(f"{path} ({what}) is an archive of several arrays (.npz): save one array as .npy")
    return found


def require_numbers(values: np.ndarray, shape: Sequence[int | None], where: str) -> np.ndarray:
    """Return an array that must hold real numbers in a given shape; None stands for any length.

    Raises
    ------
    RecordingError
        Saying ``where``, and what was found and wanted.
    """
    if values.dtype.kind not in "biuf":
        raise RecordingError(f"{where}: dtype {values.dtype}, but numbers are needed")
    fits = len(values.shape) == len(shape)
    if not fits or any(want is not None and have != want for have, want in zip(values.shape, shape, strict=True)):
        wanted = ", ".join("any" if n is None else str(n) for n in shape)
        raise RecordingError(f"{where}: shape {values.shape}, but ({wanted}) is needed")
    return values


def unchanged(pixels: np.ndarray, stimulus: Stimulus, where: str) -> np.ndarray:
    """Return pixels that were read again, (channel, time, height, width), if they still are those of the stimulus.

    Raises
    ------
    RecordingError
        Saying ``where`` they were read, if they are not.
    """
    if hash_pixels(pixels, stimulus.frame_rate) != stimulus.condition_hash:
        raise RecordingError(f"{where} changed since the recording was opened: open the recording again")
    return pixels


def text_array(values: np.ndarray) -> list[str]:
    """Return the items of an array of text, which exporters write as bytes or as str."""
    return [item.decode() if isinstance(item, bytes) else str(item) for item in np.asarray(values).ravel().tolist()]


def valid_length(values: np.ndarray) -> int:
    """Return how many samples, along the last axis, come before NaN padding at the end begins.

    A sample belongs to the padding if it and everything after it is NaN in every row.
    """
    present = ~np.isnan(values).reshape(-1, values.shape[-1]).all(axis=0)
    return int(np.flatnonzero(present)[-1]) + 1 if present.any() else 0


def fill_nan(values: np.ndarray) -> np.ndarray:
    """Return rows (row, sample) with each NaN replaced by linear interpolation; beyond the ends the nearest is held.

    A row without any number stays NaN.
    """
    filled = np.array(values, np.float64)
    at = np.arange(filled.shape[-1])
    for row in filled.reshape(-1, filled.shape[-1]):
        known = ~np.isnan(row)
        if known.any() and not known.all():
            row[~known] = np.interp(at[~known], at[known], row[known])
    return filled.astype(values.dtype)


@dataclass(frozen=True)
class ReadBefore:
    """Responses of one trial that a reader has read and found finite while it opened, so that `sealed` need not.

    Attributes
    ----------
    digest : bytes
        From `digest_values`, of what `Recording.responses` returns.
    times : ndarray or None
        (sample,) of `Traces`; None for `TrialValues`.
    """

    digest: bytes
    times: np.ndarray | None = None


def digest_values(values: np.ndarray) -> bytes:
    """Return the SHA-256 of an array: its dtype, its shape and every value."""
    digest = hashlib.sha256()
    _add(digest, "values", values)
    return digest.digest()


def sealed(
    recording: Recording, location: Mapping[str, str | None], read_before: Mapping[int, ReadBefore] | None = None
) -> Source:
    """Check everything that a recording says of itself, reading every trial once, and return its source.

    Parameters
    ----------
    recording : Recording
        With units, stimuli, trials and all methods in place.
    location : mapping
        Keyword arguments of the reader; those that are None or empty are left out.
    read_before : mapping, optional
        By trial_idx, responses that the reader has read and checked already. They are not read again.

    Returns
    -------
    Source
        With the SHA-256 of all units, trials, stimuli, responses, signals and pulses.

    Raises
    ------
    RecordingError
        Naming the unit or trial, if numbers are missing, not finite, out of order, or of the wrong count.
    """
    kept = {name: str(value) for name, value in location.items() if value not in (None, "")}
    where = next(iter(kept.values()), recording.source_format)
    _check_units(recording, where)
    digest = hashlib.sha256(f"{recording.response_unit}|{recording.opto_groups}".encode())
    for unit in recording.units:
        digest.update(f"|{unit}".encode())
    named: set[str] | None = None
    read_before = read_before or {}
    for index, trial in enumerate(watched(recording.trials, len(recording.trials), "checking trials")):
        here = f"{where}, trial {trial.trial_idx}"
        _check_trial(recording, trial, index, here)
        digest.update(f"|{trial}".encode())
        if trial.trial_idx in read_before:
            known = read_before[trial.trial_idx]
            if known.times is not None:
                _check_times(known.times, here)
                _add(digest, "times", known.times)
            digest.update(known.digest)
        elif not trial.withheld and not trial.exclusion:
            responses = recording.responses(trial.trial_idx)
            _check_responses(responses, recording, here)
            _digest_responses(digest, responses)
        signals = {} if trial.exclusion else recording.signals(trial.trial_idx)
        if not trial.exclusion:
            named = set(signals) if named is None else named
            _check_signals(signals, named, here)
        for name in sorted(signals):
            _add(digest, name, signals[name].times)
            _add(digest, name, signals[name].values)
        for pulses in recording.opto_pulses(trial.trial_idx):
            _check_pulses(pulses, here)
            _add(digest, "opto", pulses)
    return Source(recording.source_format, kept, digest.hexdigest())


def _check_units(recording: Recording, where: str) -> None:
    if not recording.units:
        raise RecordingError(f"{where}: the recording has no units")
    if not recording.trials:
        raise RecordingError(f"{where}: the recording has no trials")
    ids = [unit.unit_id for unit in recording.units]
    repeated = sorted({i for i in ids if ids.count(i) > 1}) if len(set(ids)) < len(ids) else []
    if repeated:
        raise RecordingError(f"{where}: unit_id {repeated[0]} is that of {ids.count(repeated[0])} units")
    groups = recording.opto_groups
    if groups and len(groups) != len(ids):
        raise RecordingError(f"{where}: opto_groups has {len(groups)} entries for {len(ids)} units")


def _check_trial(recording: Recording, trial: Trial, index: int, here: str) -> None:
    if trial.trial_idx != index:
        raise RecordingError(f"{here}: its trial_idx should be {index}; trials are numbered in order of time, from 0")
    if trial.condition_hash not in recording.stimuli:
        raise RecordingError(f"{here}: its stimulus {trial.condition_hash[:12]} is not in the recording")
    if trial.tier is not None and trial.tier not in TIERS:
        raise RecordingError(f"{here}: unknown tier {trial.tier!r}; known are {', '.join(TIERS)}")
    if not (np.isfinite(trial.start) and np.isfinite(trial.duration) and trial.duration > 0):
        raise RecordingError(f"{here}: start {trial.start} s and duration {trial.duration} s must be numbers, > 0 long")


def _check_responses(responses: Responses, recording: Recording, here: str) -> None:
    names = recording.units
    if isinstance(responses, SpikeTimes):
        if len(responses.times) != len(names):
            raise RecordingError(f"{here}: spikes of {len(responses.times)} units, but there are {len(names)}")
        _check_spikes(responses.times, recording, here)
        return
    if len(responses.values) != len(names):
        raise RecordingError(f"{here}: responses of {len(responses.values)} units, but there are {len(names)}")
    bad = ~np.isfinite(responses.values.reshape(len(names), -1)).all(axis=1)
    if bad.any():
        unit = names[int(np.flatnonzero(bad)[0])]
        raise RecordingError(
            f"{here}, unit {unit.unit_name}: responses hold NaN or infinity"
            f"{f' ({int(bad.sum())} units in all)' if bad.sum() > 1 else ''}; correct them, leave the unit out, "
            "or choose what to do with NaN (exclude, interpolate) where the format offers it"
        )
    if isinstance(responses, Traces):
        if responses.times.shape != responses.values.shape[1:]:
            raise RecordingError(
                f"{here}: {responses.values.shape[1]} samples of responses, but {len(responses.times)} times"
            )
        _check_times(responses.times, here)


def _check_times(times: np.ndarray, here: str) -> None:
    if not (np.isfinite(times).all() and (np.diff(times) > 0).all()):
        raise RecordingError(f"{here}: the times of the responses must be finite and increase")


def _check_spikes(times: Sequence[np.ndarray], recording: Recording, here: str) -> None:
    joined = np.concatenate(times)
    starts = np.cumsum([len(spikes) for spikes in times])[:-1]
    falls = np.diff(joined) < 0
    falls[starts[(starts > 0) & (starts < len(joined))] - 1] = False  # from one unit to the next
    if not np.isfinite(joined).all() or falls.any():  # all units at once, for one at a time takes seconds
        bad = next(
            u
            for u, t in zip(recording.units, times, strict=True)
            if not (np.isfinite(t).all() and (np.diff(t) >= 0).all())
        )
        raise RecordingError(f"{here}, unit {bad.unit_name}: spike times must be finite and sorted")


def _check_signals(signals: Mapping[str, Trace], named: set[str], here: str) -> None:
    if set(signals) != named:
        different = ", ".join(sorted(set(signals) ^ named))
        raise RecordingError(f"{here}: some trials have {different} and others do not; exclude the trials without")
    for name, trace in signals.items():
        if name not in SIGNALS:
            raise RecordingError(f"{here}: unknown signal {name!r}; known are {', '.join(SIGNALS)}")
        if trace.values.shape != trace.times.shape or trace.values.ndim != 1 or not len(trace.values):
            raise RecordingError(f"{here}, {name}: {trace.values.shape} values at {trace.times.shape} times")
        if not np.isfinite(trace.values).all():
            raise RecordingError(
                f"{here}, {name}: NaN or infinity; correct it, or choose what to do with NaN (exclude, interpolate) "
                "where the format offers it"
            )


def _check_pulses(pulses: np.ndarray, here: str) -> None:
    if pulses.ndim != 2 or pulses.shape[1] != 2 or not np.isfinite(pulses).all() or (pulses[:, 1] < pulses[:, 0]).any():
        raise RecordingError(f"{here}: light pulses must be (pulse, 2), finite, each start before its end")


def _digest_responses(digest: hashlib._Hash, responses: Responses) -> None:
    if isinstance(responses, SpikeTimes):
        for times in responses.times:
            _add(digest, "spikes", times)
        return
    if isinstance(responses, Traces):
        _add(digest, "times", responses.times)
        if responses.delays is not None:
            _add(digest, "delays", responses.delays)
    digest.update(digest_values(responses.values))


def _add(digest: hashlib._Hash, name: str, values: np.ndarray) -> None:
    # In the source's own type: hashing is what opening costs, and doubling the bytes would double it.
    digest.update(f"|{name}|{values.dtype.str}|{values.shape}|".encode())
    digest.update(np.ascontiguousarray(values).data)
