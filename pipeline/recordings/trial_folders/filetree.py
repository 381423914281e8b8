"""Recordings of still images with one ``.npy`` file a trial, in the layout of FileTreeDataset (Lurz et al. 2020)."""

from __future__ import annotations

import logging
import os
from abc import abstractmethod
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import numpy as np

from pipeline.errors import RecordingError
from pipeline.recordings.base import BEHAVIOR, PUPIL, Recording, Stimulus, Trace, Trial, TrialValues, hash_pixels
from pipeline.recordings.checks import ReadBefore, digest_values, sealed, unchanged, watched
from pipeline.recordings.trial_folders.folder import (
    TrialFolder,
    our_tier,
    positive_number,
    read_units,
    start_times,
    time_order,
    told_number,
)

logger = logging.getLogger(__name__)

T = TypeVar("T")

ROWS: dict[str, dict[int, tuple[str, ...]]] = {
    "behavior": {2: ("pupil_size", "run"), 3: BEHAVIOR},
    "pupil_center": {2: PUPIL},
}
"""Which signal each row is, by folder below ``data``, either of which may be missing, and by number of rows."""

NO_TIER = "the source puts the trial into no tier ('none')"


@dataclass(frozen=True)
class Shown:
    """What the files of one trial tell: what was shown, for how long (s), and why it may not be used."""

    condition_hash: str
    shape: tuple[int, int, int, int]
    duration: float
    exclusion: str = ""


class TrialFolderRecording(Recording):
    """What recordings of this layout share. Trials are numbered in order of time; files keep their own numbers."""

    response_unit = "a.u."
    _folder: TrialFolder
    _frame_rate: float | None
    _behavior: dict[str, list[np.ndarray]]
    """By folder, then by file: (row, sample)."""

    def frames(self, condition_hash: str) -> np.ndarray:
        """Return the pixels of one stimulus, (channel, time, height, width), in the source's dtype.

        Raises
        ------
        RecordingError
            If the recording has no such condition, or its file is gone or changed since the recording was opened.
        """
        if condition_hash not in self._file_of_condition:
            raise RecordingError(f"{self._folder.path} has no condition {condition_hash}")
        index = self._file_of_condition[condition_hash]
        where = f"the stimulus of trial {index} in {self._folder.path}"
        return unchanged(self._pixels(index), self.stimuli[condition_hash], where)

    def signals(self, trial_idx: int, margin: float = 0.0) -> dict[str, Trace]:
        """Return the behaviour of one trial, sampled evenly: sample i of n at (i + 0.5) / n of its duration."""
        index, trial = self._file(trial_idx), self.trials[trial_idx]
        found: dict[str, Trace] = {}
        for group, of_file in self._behavior.items():
            rows = of_file[index]
            times = sample_times(trial, rows.shape[1])
            found |= {name: Trace(times, values) for name, values in zip(ROWS[group][len(rows)], rows, strict=True)}
        return found

    @abstractmethod
    def _pixels(self, index: int) -> np.ndarray:
        """Return what was shown in the trial of one file, (channel, time, height, width)."""

    def _file(self, trial_idx: int) -> int:
        if not 0 <= trial_idx < len(self.trials):
            raise RecordingError(
                f"{self._folder.path} has no trial {trial_idx}: trials are 0 to {len(self.trials) - 1}"
            )
        return self._order[trial_idx]

    def _require_data(self, trial_idx: int) -> int:
        index = self._file(trial_idx)
        if self.trials[trial_idx].withheld:
            raise RecordingError(f"{self._folder.where('responses', index)}: the source withholds these responses")
        return index

    def _arrange(
        self, shown: Sequence[Shown], withheld: Collection[str], names: Sequence[str], kinds: Sequence[str]
    ) -> None:
        """Set trials and stimuli; all arguments but ``withheld``, the source's tiers without data, are by file."""
        folder = self._folder
        self._order = time_order(folder)
        starts = start_times(folder, self._order, [shown[index].duration for index in self._order])
        self._file_of_condition: dict[str, int] = {}
        trials, stimuli = [], {}
        for number, (index, start) in enumerate(zip(self._order, starts, strict=True)):
            what, tier = shown[index], folder.tiers[index]
            exclusion = what.exclusion or (NO_TIER if our_tier(tier) is None else "")
            trials.append(
                Trial(number, what.condition_hash, start, what.duration, our_tier(tier), tier in withheld, exclusion)
            )
            if what.condition_hash not in stimuli:
                self._file_of_condition[what.condition_hash] = index
                stimuli[what.condition_hash] = Stimulus(
                    what.condition_hash, self._frame_rate, what.shape, names[index] or f"{index}.npy", kinds[index]
                )
        self.trials, self.stimuli = tuple(trials), stimuli


def sample_times(trial: Trial, n_samples: int) -> np.ndarray:
    """Return the middles of ``n_samples`` equal parts of a trial (s)."""
    return trial.start + (np.arange(n_samples) + 0.5) * (trial.duration / n_samples)


def in_threads(work: Callable[[int], T], n_trials: int) -> list[T]:
    """Return ``work(index)`` of every file; reading and hashing wait for the disk and leave the interpreter free."""
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        return list(watched(pool.map(work, range(n_trials)), n_trials, "reading trials"))


def withheld_tiers(folder: TrialFolder, is_silent: Callable[[int], bool], remedy: str = "") -> frozenset[str]:
    """Return the source's tiers in which every response of every trial is exactly zero: their data are withheld.

    One silent trial among others is data. The tiers that models are made from cannot be withheld.

    Parameters
    ----------
    folder : TrialFolder
    is_silent : callable
        Whether all responses of a file are zero.
    remedy : str
        Said if any tier is withheld, where the format knows no such thing; empty if it does.

    Raises
    ------
    RecordingError
        If a tier is withheld that may not be.
    """
    files: dict[str, list[int]] = {}
    for index, tier in enumerate(folder.tiers):
        files.setdefault(tier, []).append(index)
    silent = [tier for tier in files if our_tier(tier) and all(is_silent(index) for index in files[tier])]
    for tier in silent:
        if remedy or our_tier(tier) in ("train", "validation"):
            raise RecordingError(
                f"{folder.name('data/responses')}: all {len(files[tier])} trials of the tier {tier!r} (the first is "
                f"{files[tier][0]}.npy) have responses of zero only; "
                + (remedy or "models are made from this tier, so it needs data: get the data that are not withheld")
            )
    return frozenset(silent)


def usable_behavior(
    folder: TrialFolder, behavior: dict[str, list[np.ndarray]], withheld: Collection[str]
) -> dict[str, list[np.ndarray]]:
    """Return behaviour without the zeros that stand for withheld values.

    A quantity that is zero in every trial is left out. One that is zero throughout a tier with withheld responses
    takes there its mean over the trials that have it, so that all trials have the same signals and a shifter or
    modulator, which saw values around that mean, stays neutral.

    Parameters
    ----------
    folder : TrialFolder
    behavior : dict
        By folder, then by file: (row, sample).
    withheld : collection of str
        The source's tiers whose responses are withheld.
    """
    usable = {}
    for group, arrays in behavior.items():
        present = [bool(((values < 0) | (values > 0)).any()) for values in arrays]  # NaN is neither
        if not any(present):
            logger.warning("%s holds nothing but zeros or NaN: left out as withheld", folder.name(f"data/{group}"))
            continue
        known = np.concatenate([values for values, there in zip(arrays, present, strict=True) if there], axis=1)
        mean = np.nanmean(known, axis=1, keepdims=True)
        replaced = list(arrays)
        for tier in withheld:
            files = [index for index, name in enumerate(folder.tiers) if name == tier]
            if not any(present[index] for index in files):
                for index in files:
                    replaced[index] = np.broadcast_to(mean, arrays[index].shape).astype(mean.dtype)
        usable[group] = replaced
    return usable


@dataclass(frozen=True)
class _Exposure:
    condition_hash: str
    shape: tuple[int, int, int, int]
    is_silent: bool
    digest: bytes | None
    """Of the responses; None if they are not finite."""
    behavior: dict[str, np.ndarray]


class FileTreeRecording(TrialFolderRecording):
    """Still images and one response a unit and trial, in the layout of FileTreeDataset. Implements `Recording`.

    ``data/images/{i}.npy`` (height, width) or (channel, height, width), ``data/responses/{i}.npy`` (unit,) and, where
    there are, ``data/behavior/{i}.npy`` (3,): pupil size, its derivative, treadmill, and ``data/pupil_center/{i}.npy``
    (2,); a leading axis of 1 is dropped from all but images. ``meta/trials/tiers.npy`` is required. Pixels alone say
    which trials showed the same stimulus: image ids and condition hashes of the source are names for people.

    Trials are ordered by ``meta/trials/trial_idx.npy``, start as `start_times` says, and last as
    ``meta/trials/frame_presentation_time.npy`` says. ``unit_id`` is that of ``meta/neurons/unit_ids.npy`` if those
    are whole numbers that differ, else 0 to n - 1. Statistics in the source are not used.

    Opening reads everything once; afterwards images and responses are read when they are asked for.

    Parameters
    ----------
    path : str
        The folder that holds data/ and meta/, or a .zip of it, which is read as it is, without unpacking.
    presentation : str
        How long an image was shown (s), where the source does not say.

    Raises
    ------
    RecordingError
        At construction, if anything is missing, damaged or contradicts itself; the message names the file.
    """

    source_format: ClassVar[str] = "filetree"
    example: ClassVar[str] = "--path static20457-5-9 --subject 20457 --session 5 --scan 9"
    _remedy: ClassVar[str] = (
        "if they are withheld, as in the Sensorium competition, open the recording as 'sensorium2022', which leaves "
        "such trials out; if not, correct the files"
    )
    _frame_rate = None

    def __init__(self, path: str, presentation: str = "0.5") -> None:
        self._folder = folder = TrialFolder(path, ("images", "responses"), tuple(ROWS))
        self.units = read_units(folder, folder.read("responses", 0, (None,), (1, None)).size)
        folder.warn_of_statistics(len(self.units))
        durations = self._durations(positive_number(presentation, "presentation"))
        logger.info("reading %d images in %s", len(folder), folder.path)
        exposures = in_threads(self._read_exposure, len(folder))
        withheld = withheld_tiers(folder, lambda index: exposures[index].is_silent, self._remedy)
        groups = [group for group in ROWS if group in folder.groups]
        behavior = {group: [what.behavior[group] for what in exposures] for group in groups}
        self._behavior = usable_behavior(folder, behavior, withheld)
        shape = exposures[0].shape
        for index, what in enumerate(exposures):
            if what.shape != shape:
                raise RecordingError(
                    f"{folder.where('images', index)}: (channel, time, height, width) is {what.shape}, but "
                    f"{shape} in 0.npy; all images of a recording need one size"
                )
        shown = [
            Shown(what.condition_hash, shape, duration) for what, duration in zip(exposures, durations, strict=True)
        ]
        kinds = folder.labels("frame_image_class", "colorframeprojector_image_class")
        ids = folder.labels("frame_image_id", "colorframeprojector_image_id", "condition_hash")
        names = [f"{kind} {number}".strip() for kind, number in zip(kinds, ids, strict=True)]
        self._arrange(shown, withheld, names, kinds)
        read_before = {
            trial.trial_idx: ReadBefore(digest)
            for trial, index in zip(self.trials, self._order, strict=True)
            if (digest := exposures[index].digest) and not trial.withheld and not trial.exclusion
        }
        self.source = sealed(self, {"path": str(folder.path), "presentation": presentation}, read_before)

    def responses(self, trial_idx: int, margin: float = 0.0) -> TrialValues:
        """Return the responses of all units in one trial.

        Raises
        ------
        RecordingError
            If the source withholds them, or a value is NaN or infinite.
        """
        index = self._require_data(trial_idx)
        values = self._response(index)
        if not np.isfinite(values).all():
            unit = self.units[int(np.flatnonzero(~np.isfinite(values))[0])]
            raise RecordingError(
                f"{self._folder.where('responses', index)}, unit {unit.unit_name}: NaN or infinity in the response; "
                "correct it, or leave the trial or the unit out"
            )
        return TrialValues(values)

    def _response(self, index: int) -> np.ndarray:
        n_units = len(self.units)
        return self._folder.read("responses", index, (n_units,), (1, n_units)).reshape(-1)

    def _behavior_of(self, group: str, index: int) -> np.ndarray:
        n_rows = max(ROWS[group])
        values = self._folder.read(group, index, (n_rows,), (1, n_rows)).reshape(n_rows, 1)
        finite = np.isfinite(values)
        if not finite.all():
            row = int(finite.argmin())
            raise RecordingError(
                f"{self._folder.where(group, index)}: {ROWS[group][n_rows][row]} is {values[row, 0]}; correct it or "
                "leave the trial out"
            )
        return values

    def _pixels(self, index: int) -> np.ndarray:
        image = self._folder.read("images", index, (None, None, None), (None, None))
        image = image[None] if image.ndim == 2 else image
        where = self._folder.where("images", index)
        if not 1 <= len(image) <= 4 or 0 in image.shape:
            raise RecordingError(f"{where}: shape {image.shape}, but (1 to 4 channels, height, width) is needed")
        if image.dtype.kind == "f" and not np.isfinite(image).all():
            raise RecordingError(f"{where}: {(~np.isfinite(image)).sum()} pixels are NaN or infinite; correct them")
        return image[:, None]

    def _read_exposure(self, index: int) -> _Exposure:
        pixels, responses = self._pixels(index), self._response(index)
        channel, time, height, width = pixels.shape
        return _Exposure(
            hash_pixels(pixels, None),
            (channel, time, height, width),
            not responses.any(),
            digest_values(responses) if np.isfinite(responses).all() else None,
            {group: self._behavior_of(group, index) for group in ROWS if group in self._folder.groups},
        )

    def _durations(self, default: float) -> list[float]:
        told = self._folder.labels("frame_presentation_time", "colorframeprojector_presentation_time")
        return [told_number(text) or default for text in told]
