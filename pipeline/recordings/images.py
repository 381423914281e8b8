"""Recordings that are a folder or zip of image files and one array of responses, as image data are often published."""

from __future__ import annotations

import csv
import logging
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from pipeline.errors import RecordingError
from pipeline.recordings.base import Recording, Stimulus, Trial, TrialValues, Unit, hash_pixels
from pipeline.recordings.checks import load_array, require_file, require_numbers, sealed, unchanged
from pipeline.recordings.image_files import ImageFiles
from pipeline.recordings.tiers import tier_called

logger = logging.getLogger(__name__)

NAN_CHOICES = ("refuse", "exclude")


class ImagesRecording(Recording):
    """Responses to still images: image files, and one array with a number for each unit, image and repeat.

    A trial is one repeat of one image of which the responses are numbers. The source knows no times: trials are put in
    the order of repeats, in each repeat in the order of images, one right after another. A repeat that is NaN for
    every unit never took place. Two files with the same pixels are one condition, their repeats are pooled; an image
    without any repeat is left out.

    Parameters
    ----------
    images : str
        Folder or zip of image files (png, jpg, tif, bmp), grey or RGB, all of one size. Sorted, they go with the
        second axis of the responses; hidden and other files are ignored.
    responses : str
        ``.npy`` file, (unit, image, repeat) with NaN where there was no repeat, or (unit, image).
    tiers : str
        Tiers separated by commas, dealt to the sorted images again and again: 'train,train,train,validation,test' puts
        every fifth image into test. Or the path of a CSV file with the columns image and tier, an empty tier leaving
        the image open. Left open otherwise: repeated images are then for testing, validation is drawn.
    suffix : str
        Take only files that end so, for example '.png', where images of several kinds lie together.
    order : str
        'name' sorts image files as text, 'number' by the numbers in their names; to be given where the two differ.
    presentation_time : str
        How long each image was shown (s).
    nan : str
        What to do with a repeat that is NaN for some units only: 'refuse' the recording, or 'exclude' that trial.
    response_unit : str
        Of the responses, such as 'spikes' or 'dF/F'.

    Raises
    ------
    RecordingError
        At construction, naming the image, repeat or unit that is missing, damaged or of another size.
    """

    source_format = "images"
    example = "--images images.zip --responses responses.npy --subject m1 --session 1 --scan 1"

    def __init__(
        self,
        images: str,
        responses: str,
        tiers: str = "",
        suffix: str = "",
        order: str = "",
        presentation_time: str = "0.1",
        nan: str = "refuse",
        response_unit: str = "spikes",
    ) -> None:
        self._files = ImageFiles(images, suffix, order)
        self._path = require_file(responses, "responses")
        self._values = _load_responses(self._path, self._files)
        self.response_unit = response_unit
        self.units = tuple(Unit(index, f"unit_{index}") for index in range(len(self._values)))
        duration, names = _seconds(presentation_time), self._files.names
        table = Path(tiers).expanduser().absolute() if tiers.lower().endswith(".csv") else None
        tier = _tiers_from_csv(table, names) if table else _tiers_in_turn(tiers, names)
        missing = _count_nan(self._values)
        shown = [names[index] for index in np.flatnonzero((missing < len(self.units)).any(axis=1))]
        if len(shown) < len(names):
            logger.warning("%s: %d images without responses are left out", self._path, len(names) - len(shown))
        hashes = self._hash_images(shown, tier)
        self._showings = [
            (image, repeat)
            for repeat in range(missing.shape[1])
            for image in range(len(names))
            if missing[image, repeat] < len(self.units)
        ]
        self.trials = tuple(
            Trial(
                trial_idx, hashes[names[image]], trial_idx * duration, duration, tier[names[image]],
                exclusion=self._gap(image, repeat, int(missing[image, repeat]), nan),
            )
            for trial_idx, (image, repeat) in enumerate(self._showings)
        )  # fmt: skip
        self.source = sealed(
            self,
            {
                "images": str(self._files.path), "responses": str(self._path), "tiers": str(table or tiers),
                "suffix": suffix, "order": order, "presentation_time": presentation_time, "nan": nan,
                "response_unit": response_unit,
            },
        )  # fmt: skip

    def frames(self, condition_hash: str) -> np.ndarray:
        """Return the pixels of one image, (channel, time = 1, height, width).

        Raises
        ------
        RecordingError
            If the recording has no such condition, or the file changed since the recording was opened.
        """
        if condition_hash not in self.stimuli:
            raise RecordingError(f"{self._files.path} has no condition {condition_hash}")
        name = self.stimuli[condition_hash].stimulus_name
        return unchanged(self._files.read(name), self.stimuli[condition_hash], self._files.place(name))

    def responses(self, trial_idx: int, margin: float = 0.0) -> TrialValues:
        """Return the response of every unit in one trial; there is nothing around it."""
        if not 0 <= trial_idx < len(self._showings):
            raise RecordingError(f"{self._path} has no trial {trial_idx}: trials are 0 to {len(self._showings) - 1}")
        image, repeat = self._showings[trial_idx]
        return TrialValues(np.array(self._values[:, image, repeat]))

    def _hash_images(self, names: list[str], tier: Mapping[str, str | None]) -> dict[str, str]:
        """Read every image once; fill in `stimuli` and return the condition of each file."""
        layouts = {name: self._files.layout(name) for name in names}
        for name, layout in layouts.items():
            if layout != layouts[names[0]]:
                raise RecordingError(
                    f"{self._files.place(name)} has {layout}, but {self._files.place(names[0])} has "
                    f"{layouts[names[0]]}: bring all images to what was shown"
                )
        with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
            hashes = dict(
                zip(names, pool.map(lambda name: hash_pixels(self._files.read(name), None), names), strict=True)
            )
        first: dict[str, str] = {}
        for name, condition in hashes.items():
            twin = first.setdefault(condition, name)
            if tier[twin] != tier[name]:
                logger.warning(
                    "%s: %s (%s) and %s (%s) have the same pixels", self._files.path, twin, tier[twin], name, tier[name]
                )
        self.stimuli = {
            condition: Stimulus(condition, None, layouts[name].shape, name) for condition, name in first.items()
        }
        return hashes

    def _gap(self, image: int, repeat: int, n_missing: int, nan: str) -> str:
        """Return why a repeat must be excluded, empty if all units have numbers."""
        if nan not in NAN_CHOICES:
            raise RecordingError(f"nan {nan!r} must be one of {', '.join(NAN_CHOICES)}")
        if not n_missing:
            return ""
        unit = int(np.flatnonzero(np.isnan(self._values[:, image, repeat]))[0])
        if nan == "refuse":
            raise RecordingError(
                f"{self._path}: image {image} ({self._files.names[image]}), repeat {repeat}, unit {unit} is NaN "
                f"({n_missing} of {len(self.units)} units in all); correct the responses, or leave such repeats out "
                "with nan=exclude"
            )
        return f"responses of {n_missing} of {len(self.units)} units are NaN"


def _load_responses(path: Path, files: ImageFiles) -> np.ndarray:
    values = load_array(path, "responses", mapped=True)
    values = values[..., None] if values.ndim == 2 else values
    require_numbers(values, (None, None, None), f"{path} (unit, image, repeat)")
    if values.shape[1] != len(files.names):
        raise RecordingError(
            f"{path} has responses to {values.shape[1]} images, but {files.path} holds {len(files.names)} image files "
            f"({files.names[0]} to {files.names[-1]}); the axes are (unit, image, repeat)"
        )
    return values


def _count_nan(values: np.ndarray) -> np.ndarray:
    """Return for how many units each image and repeat is NaN, (image, repeat); reads one unit at a time."""
    missing = np.zeros(values.shape[1:], np.int64)
    for unit in values:
        missing += np.isnan(unit)
    return missing


def _seconds(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise RecordingError(f"presentation_time {text!r} must be a number of seconds") from None


def _tiers_in_turn(text: str, names: tuple[str, ...]) -> dict[str, str | None]:
    turn = [tier_called(part.strip(), "tiers") for part in text.split(",")] if text else [None]
    return {name: turn[index % len(turn)] for index, name in enumerate(names)}


def _tiers_from_csv(path: Path, names: tuple[str, ...]) -> dict[str, str | None]:
    require_file(path, "tiers")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (csv.Error, UnicodeDecodeError) as error:
        raise RecordingError(f"{path} cannot be read as a CSV file: {error}") from error
    tiers: dict[str, str | None] = {}
    known = set(names)
    for line, row in enumerate(rows, 2):
        if row.get("image") is None or row.get("tier") is None:
            raise RecordingError(f"{path}, line {line}: the columns image and tier are needed")
        image, tier = row["image"].strip(), row["tier"].strip()
        here = f"{path}, line {line}"
        if image not in known:
            raise RecordingError(f"{here}: {image!r} is none of the image files ({names[0]} to {names[-1]})")
        if image in tiers:
            raise RecordingError(f"{here}: {image} has a row already")
        tiers[image] = tier_called(tier, f"{here}, {image}") if tier else None
    left = [name for name in names if name not in tiers]
    if left:
        raise RecordingError(
            f"{path} has no row for {left[0]} ({len(left)} images in all); an empty tier leaves one open"
        )
    return tiers
