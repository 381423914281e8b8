"""From whatever a laboratory has in numpy to the arrays of a recording."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline.errors import RecordingError
from pipeline.recordings.arrays.content import Description, Series
from pipeline.recordings.checks import require_numbers


def gathered_images(images: Any, where: str) -> Series:
    """Return each image as (channel, height, width), from (height, width) or (channel, height, width)."""
    needed = "(height, width) or (channel, height, width), the same for all images,"
    items = _items(images, f"{where}: images", "stimulus", (2, 3), needed)
    _require_alike(items, slice(None), f"{where}: images, stimulus", needed)
    return Series([item[None] if item.ndim == 2 else item for item in items])


def gathered_videos(videos: Any, where: str) -> Series:
    """Return each video as (frame, channel, height, width), from (time, height, width) or with a channel before."""
    needed = "(time, height, width) or (channel, time, height, width), but for time the same for all videos,"
    items = _items(videos, f"{where}: videos", "stimulus", (3, 4), needed)
    items = [item[None] if item.ndim == 3 else item for item in items]
    _require_alike(items, [0, 2, 3], f"{where}: videos, stimulus", needed)
    return Series([item.swapaxes(0, 1) for item in items], np.array([item.shape[1] for item in items]))


def gathered_responses(responses: Any, where: str) -> Series:
    """Return for each trial numbers (unit,), or samples (sample, unit) from (unit, time)."""
    needed = "(unit,) or (unit, time), with as many units in all trials,"
    items = _items(responses, f"{where}: responses", "trial", (1, 2), needed)
    _require_alike(items, [0], f"{where}: responses, trial", needed)
    if items[0].ndim == 1:
        return Series(items)
    return Series([item.T for item in items], np.array([item.shape[1] for item in items]))


def gathered_spikes(spike_times: Sequence[Sequence[Any]], where: str) -> Series:
    """Return for each trial and unit, trial after trial, the times (s) of its spikes."""
    items: list[np.ndarray] = []
    for trial, units in enumerate(spike_times):
        if len(units) != len(spike_times[0]):
            raise RecordingError(
                f"{where}: spike_times, trial {trial} has {len(units)} units, but trial 0 has {len(spike_times[0])}"
            )
        for unit, times in enumerate(units):
            here = f"{where}: spike_times, trial {trial}, unit {unit}"
            items.append(require_numbers(as_numbers(times, here), (None,), here).astype(np.float64))
    if not items:
        raise RecordingError(f"{where}: spike_times are empty")
    return Series(items, np.array([len(item) for item in items]).reshape(len(spike_times), -1))


def gathered_signal(name: str, values: Any, where: str) -> Series:
    """Return one number a trial, or samples (sample,) for each trial."""
    items = _items(values, f"{where}: {name}", "trial", (0, 1), "one number or (time,) in every trial")
    return Series(items, np.array([len(item) for item in items]) if items[0].ndim else None)


def gathered_pulses(opto_pulses: Sequence[Any], where: str) -> Series:
    """Return the light pulses of each trial, (pulse, 2); a trial without any may be an empty list."""
    items = []
    for trial, pulses in enumerate(opto_pulses):
        here = f"{where}: opto_pulses, trial {trial} (pulse, start and end)"
        values = as_numbers(pulses, here).astype(np.float64)
        items.append(require_numbers(values if values.size else values.reshape(0, 2), (None, 2), here))
    return Series(items, np.array([len(item) for item in items]))


def gathered_durations(
    durations: Any, shown: np.ndarray, stimuli: Series, responses: Series | None, said: Description, where: str
) -> np.ndarray:
    """Return how long each trial lasted (s), (trial,); if it is not given, as videos or sampled responses say."""
    if durations is not None:
        seconds = as_numbers(durations, f"{where}: durations").astype(np.float64)
        return np.full(len(shown), seconds) if seconds.ndim == 0 else seconds
    if stimuli.counts is not None and said.frame_rate:
        return stimuli.counts[shown] / said.frame_rate
    if responses is not None and responses.counts is not None and said.response_rate and said.response_offset is None:
        return responses.counts / said.response_rate
    raise RecordingError(f"{where}: durations are needed, for example durations=0.5 if every image was shown for 0.5 s")


def as_numbers(values: Any, where: str) -> np.ndarray:
    """Return an array of real numbers.

    Raises
    ------
    RecordingError
        Saying ``where``, if the rows differ in length or anything else than a number is among them.
    """
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise RecordingError(f"{where}: rows of different lengths make no array ({error})") from error
    if array.dtype.kind not in "biuf":
        raise RecordingError(f"{where}: dtype {array.dtype}, but numbers are needed")
    return array


def as_column(values: Any) -> list:
    """Return names or numbers as a plain list, NaN and rows with NaN as None; None gives an empty list."""
    if values is None:
        return []
    entries = [entry.tolist() if hasattr(entry, "tolist") else entry for entry in values]
    entries = [entry.decode() if isinstance(entry, bytes) else entry for entry in entries]
    entries = [list(entry) if isinstance(entry, tuple) else entry for entry in entries]
    return [None if _unknown(entry) else entry for entry in entries]


def _unknown(entry: Any) -> bool:
    # NaN alone differs from itself, and text need not be asked whether it is finite.
    return any(part != part for part in (entry if isinstance(entry, list) else [entry]))


def _items(values: Any, where: str, what: str, n_axes: tuple[int, ...], needed: str) -> list[np.ndarray]:
    """Return one array for each trial or stimulus, all with the same number of axes."""
    items: list[np.ndarray] = []
    for index, value in enumerate(values):
        item = as_numbers(value, f"{where}, {what} {index}")
        if item.ndim not in n_axes or (items and item.ndim != items[0].ndim):
            raise RecordingError(f"{where}, {what} {index} has the shape {item.shape}, but {needed} is needed")
        items.append(item)
    if not items:
        raise RecordingError(f"{where} are empty")
    return items


def _require_alike(items: list[np.ndarray], axes: Any, where: str, needed: str) -> None:
    shapes = np.array([item.shape for item in items])[:, axes]
    other = np.flatnonzero((shapes != shapes[0]).any(axis=1))
    if len(other):
        raise RecordingError(
            f"{where} {other[0]} has the shape {items[other[0]].shape}, stimulus or trial 0 {items[0].shape}, but "
            f"{needed} is needed"
        )
