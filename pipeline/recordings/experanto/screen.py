"""The screen of an experanto folder: which stimulus was shown when, and its pixels."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipeline.errors import RecordingError
from pipeline.recordings.checks import load_array, require_numbers
from pipeline.recordings.experanto.modalities import read_yaml, require_modality
from pipeline.recordings.sequences import channels_first, require_increasing
from pipeline.recordings.video import read_video

MODALITIES = ("image", "video", "blank", "invalid")

SUFFIXES = {"image": (".npy", ".png", ".jpg", ".jpeg"), "video": (".npy", ".mp4", ".avi")}


@dataclass(frozen=True)
class ScreenTrial:
    """One entry of the screen's metadata, with its times.

    Attributes
    ----------
    key : str
        Number of the trial in the source, as '00012'.
    modality : str
        One of `MODALITIES`.
    start, stop : float
        On the screen's clock (s), which all modalities of a folder share.
    interval : float
        Median time between frames (s) of a video that has several, else 0.
    n_frames : int
        Of a video; else 1.
    meta : mapping
        Everything that the source says of it.
    file : Path or None
        With the pixels; None for blank and invalid trials.
    """

    key: str
    modality: str
    start: float
    stop: float
    interval: float
    n_frames: int
    meta: Mapping[str, Any]
    file: Path | None

    @property
    def name(self) -> str:
        """The stimulus for people."""
        named = self.meta.get("stimulus_name") or self.meta.get("image_name")
        return str(named or (self.file.name if self.file else self.modality))


def read_screen(folder: Path) -> list[ScreenTrial]:
    """Return the trials of a screen in order of time.

    An image or blank lasts until the next trial begins, as it has one timestamp; the last one lasts as long as the
    median of its kind. A video lasts until the next trial begins, but at most one frame longer than its own timestamps.

    Raises
    ------
    RecordingError
        If a file is missing, timestamps do not increase, or trials do not fit the timestamps; it names the trial.
    """
    require_modality(folder, "screen")
    path = folder / "timestamps.npy"
    times = require_numbers(load_array(path, "the times of the frames"), (None,), str(path)).astype(np.float64)
    require_increasing(times, str(path))
    entries = [_entry(folder, key, meta) for key, meta in _metadata(folder).items()]
    if not entries:
        raise RecordingError(f"{folder}: neither combined_meta.json nor meta/*.yml lists a trial")
    entries.sort(key=lambda entry: entry[1])
    firsts = [first for _, first, _ in entries] + [len(times)]
    trials: list[ScreenTrial] = []
    for (key, first, meta), following in zip(entries, firsts[1:], strict=True):
        modality = str(meta["modality"]).lower()
        n_frames = _whole(meta, "num_frames", f"{folder}, trial {key}") if modality == "video" else 1
        if first + n_frames > min(following, len(times)):
            limit = f"the next trial starts at {following}" if following < len(times) else f"there are {len(times)}"
            raise RecordingError(
                f"{folder}, trial {key}: its {n_frames} frames from {first} do not fit the timestamps, {limit}"
            )
        own = times[first : first + n_frames]
        interval = float(np.median(np.diff(own))) if n_frames > 1 else 0.0
        stop = float(times[following]) if following < len(times) else np.inf
        if interval:
            stop = min(stop, float(own[-1]) + interval)
        file = _pixel_file(folder, key, modality, meta)
        trials.append(ScreenTrial(key, modality, float(own[0]), stop, interval, n_frames, meta, file))
    return _ended(trials, times, folder)


def read_pixels(trial: ScreenTrial) -> np.ndarray:
    """Return the frames of an image or video, (channel, time, height, width); those in a video file are read in grey.

    Raises
    ------
    RecordingError
        If the file is damaged or its shape is not that of the trial's modality and number of frames.
    """
    assert trial.file is not None
    where = str(trial.file)
    if trial.file.suffix in (".mp4", ".avi"):
        frames = read_video(trial.file)[0]
    elif trial.file.suffix == ".npy":
        frames = channels_first(_with_time(trial, load_array(trial.file, "pixels")), where)
    else:
        frames = channels_first(_read_image(trial.file)[None], where)
    if frames.shape[1] != trial.n_frames:
        raise RecordingError(f"{where} holds {frames.shape[1]} frames, but trial {trial.key} shows {trial.n_frames}")
    return frames


def grey(trial: ScreenTrial, size: tuple[int, ...]) -> np.ndarray:
    """Return the one frame of a blank or invalid trial, (channel, 1, height, width), all of its interleave value."""
    value = trial.meta.get("interleave_value", 0 if trial.modality == "invalid" else None)
    if not isinstance(value, int | float) or isinstance(value, bool) or not np.isfinite(value):
        raise RecordingError(f"trial {trial.key} ({trial.modality}): interleave_value {value!r} is no grey value")
    fits = 0 <= value <= 255 and value == int(value)
    return channels_first(np.full((1, *size), value, np.uint8 if fits else np.float32), f"trial {trial.key}")


def image_size(trial: ScreenTrial) -> tuple[int, ...]:
    """Return (height, width) or (height, width, channel) as the metadata tell it, () where they do not."""
    size = trial.meta.get("image_size") or ()
    if not isinstance(size, list | tuple) or not all(isinstance(n, int) and n > 0 for n in size) or len(size) == 1:
        raise RecordingError(
            f"trial {trial.key}: image_size {size!r} must be [height, width] or [height, width, channel]"
        )
    return tuple(size)


def _metadata(folder: Path) -> dict[str, dict[str, Any]]:
    for path in (folder / "combined_meta.json", folder / "meta" / "combined_meta.json"):
        if path.is_file():
            try:
                content = json.loads(path.read_text())
            except ValueError as error:
                raise RecordingError(f"{path} is no JSON: {error}") from error
            if not isinstance(content, dict) or not all(isinstance(meta, dict) for meta in content.values()):
                raise RecordingError(f"{path} must hold the metadata of each trial under its number")
            return content
    paths = [path for path in (folder / "meta").glob("*.yml") if re.fullmatch(r"\d+", path.stem)]
    return {path.stem: read_yaml(path, "metadata of a trial") for path in sorted(paths)}


def _entry(folder: Path, key: str, meta: dict[str, Any]) -> tuple[str, int, dict[str, Any]]:
    where = f"{folder}, trial {key}"
    if str(meta.get("modality")).lower() not in MODALITIES:
        raise RecordingError(f"{where}: modality {meta.get('modality')!r}, known are {', '.join(MODALITIES)}")
    return key, _whole(meta, "first_frame_idx", where), meta


def _whole(meta: Mapping[str, Any], name: str, where: str) -> int:
    value = meta.get(name)
    if not isinstance(value, int | float) or value != int(value) or value < (name == "num_frames"):
        raise RecordingError(f"{where}: {name} is {value!r}, but a whole number is needed")
    return int(value)


def _pixel_file(folder: Path, key: str, modality: str, meta: Mapping[str, Any]) -> Path | None:
    """Return the file under the trial's number or, where stimuli are stored once, under the stimulus' name."""
    if modality not in SUFFIXES:
        return None
    data = folder / "data"
    for stem in (key, meta.get("stimulus_name"), meta.get("image_name")):
        if not stem:
            continue
        if Path(str(stem)).name != str(stem):
            raise RecordingError(f"{folder}, trial {key}: {stem!r} is no name of a file in {data}")
        for suffix in SUFFIXES[modality]:
            if (data / f"{stem}{suffix}").is_file():
                return data / f"{stem}{suffix}"
    raise RecordingError(f"{folder}, trial {key}: no pixels, {data / key}.npy does not exist")


def _ended(trials: list[ScreenTrial], times: np.ndarray, folder: Path) -> list[ScreenTrial]:
    last = trials[-1]
    if np.isfinite(last.stop):
        return trials
    alike = [trial.stop - trial.start for trial in trials[:-1] if trial.modality == last.modality]
    lengths = alike or np.diff(times)
    if not len(lengths):
        raise RecordingError(f"{folder}: one timestamp does not tell how long trial {last.key} lasted")
    return [*trials[:-1], ScreenTrial(**{**vars(last), "stop": last.start + float(np.median(lengths))})]


def _with_time(trial: ScreenTrial, pixels: np.ndarray) -> np.ndarray:
    """Give images an axis of time, unless they have one: (1, height, width) is told by the metadata's image size."""
    if trial.modality == "video" or pixels.ndim == 4:
        return pixels
    if pixels.ndim == 3 and len(pixels) == 1 and pixels.shape[1:] == image_size(trial)[:2]:
        return pixels
    return pixels[None]


def _read_image(path: Path) -> np.ndarray:
    try:
        with Image.open(path, formats=("PNG", "JPEG")) as image:
            if image.mode not in ("L", "RGB", "I;16"):
                raise RecordingError(f"{path}: an image of mode {image.mode}; write it in grey or RGB")
            return np.asarray(image)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise RecordingError(f"{path} cannot be read as an image: {error}") from error
