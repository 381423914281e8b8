"""Recordings of the Sensorium competitions: images (2022) and movies (2023), with responses that are withheld."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from pipeline.errors import RecordingError
from pipeline.recordings.base import Traces, hash_pixels
from pipeline.recordings.checks import NAN_RULES, ReadBefore, digest_values, fill_nan, sealed, valid_length
from pipeline.recordings.trial_folders.filetree import (
    ROWS,
    FileTreeRecording,
    Shown,
    TrialFolderRecording,
    in_threads,
    sample_times,
    usable_behavior,
    withheld_tiers,
)
from pipeline.recordings.trial_folders.folder import TrialFolder, our_tier, positive_number, read_units, told_number

logger = logging.getLogger(__name__)

STIMULUS_TYPES = (
    "movie",
    "directional pink noise",
    "gaussian dots",
    "random dot kinematogram",
    "drifting gabor",
    "image",
)
"""What the numbers in ``meta/trials/stimulus_ids.npy`` mean, a file that the ViV1T project adds to Sensorium 2023."""


class Sensorium2022Recording(FileTreeRecording):
    """A scan of Sensorium 2022: `FileTreeRecording`, in which responses may be withheld.

    A tier of the source, other than those for training and validation, in whose trials all responses are exactly zero
    is withheld: its trials have stimuli and signals, and `responses` refuses them. A single trial of zeros among
    others is data. Withheld behaviour never enters as zeros: what is zero in every trial of the scan, as in
    26872-17-20, is left out; what is zero throughout a withheld tier takes there its mean over the other trials.

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

    source_format: ClassVar[str] = "sensorium2022"
    example: ClassVar[str] = "--path static27204-5-13-GrayImageNet.zip --subject 27204 --session 5 --scan 13"
    _remedy: ClassVar[str] = ""


@dataclass(frozen=True)
class _Extent:
    """What is to be known of an array whose last axis is time: samples before its padding, and the NaN among them."""

    n_valid: int
    is_zero: bool
    first_nan: tuple[int, int] | None
    """(sample, row) of the earliest NaN before the padding, all other axes flattened to rows."""


@dataclass(frozen=True)
class _Clip:
    condition_hash: str
    shape: tuple[int, int, int, int]
    video: _Extent
    responses: _Extent
    behavior: dict[str, np.ndarray]
    n_samples: int
    """Of the shortest array."""
    digest: bytes | None
    """Of the responses cut to that length; None if they have NaN there."""


class Sensorium2023Recording(TrialFolderRecording):
    """A scan of Sensorium 2023, or another with movies in that layout. Implements `Recording`.

    ``data/videos/{i}.npy`` (height, width, time), ``data/responses/{i}.npy`` (unit, time), one sample a frame, taken at
    its middle, and, where there are, ``data/behavior/{i}.npy`` (2, time): pupil size, treadmill, or (3, time): pupil
    size, its derivative, treadmill, and ``data/pupil_center/{i}.npy`` (2, time). ``meta/trials/tiers.npy`` is required.

    Exporters fill every array with NaN up to the longest clip. A stimulus is cut only by the padding of its own video,
    so that repeats of one clip stay one condition though their responses end at different times. Responses and
    signals are cut to the shortest array of their trial, and `Trial.duration` is that length: it may be shorter than
    the stimulus, never longer. A trial in which some array has no sample at all is excluded.

    A tier of the source, other than those for training and validation, in whose trials all responses are exactly zero
    (or NaN) is withheld: its trials have stimuli and signals, and `responses` refuses them. Behaviour that is zero
    throughout such a tier takes there its mean over the other trials; what is zero in all trials is left out.

    Clips without a clock of their own (see `start_times`) are laid one after another. Statistics in the source, which
    in the official release hold one deviation of the responses a frame, are not used.

    Opening reads everything once, one trial at a time; behaviour stays in memory. Responses are read twice only if they
    have NaN within the trial, or if their trial is cut by behaviour that other trials show to be withheld.

    Parameters
    ----------
    path : str
        The folder that holds data/ and meta/, or a .zip of it, which is read as it is, without unpacking.
    frame_rate : str
        Frames of the videos and samples of the responses a second (Hz).
    nan : str
        NaN within a trial, not at its end: 'refuse' the recording, 'exclude' the trial, or 'interpolate' the trace of
        that unit or signal. NaN in a video is never interpolated.

    Raises
    ------
    RecordingError
        At construction, if anything is missing, damaged or contradicts itself; the message names the file.
    """

    source_format: ClassVar[str] = "sensorium2023"
    example: ClassVar[str] = "--path dynamic29515-10-12-Video.zip --subject 29515 --session 10 --scan 12"
    _frame_rate: float

    def __init__(self, path: str, frame_rate: str = "30", nan: str = "refuse") -> None:
        if nan not in NAN_RULES:
            raise RecordingError(f"nan is {nan!r}: choose one of {', '.join(NAN_RULES)}")
        self._nan = nan
        self._frame_rate = positive_number(frame_rate, "frame_rate")
        self._folder = folder = TrialFolder(path, ("videos", "responses"), tuple(ROWS))
        self._check_frame_rate()
        self._size = folder.read("videos", 0, (None, None, None)).shape[:2]
        self.units = read_units(folder, folder.read("responses", 0, (None, None)).shape[0])
        self._n_rows = {
            group: len(folder.read(group, 0, *((rows, None) for rows in ROWS[group])))
            for group in ROWS
            if group in folder.groups
        }
        folder.warn_of_statistics(len(self.units))
        logger.info("reading %d clips in %s", len(folder), folder.path)
        clips = in_threads(self._read_clip, len(folder))
        withheld = withheld_tiers(folder, lambda index: clips[index].responses.is_zero)
        behavior = {group: [clip.behavior[group] for clip in clips] for group in self._n_rows}
        behavior = usable_behavior(folder, behavior, withheld)
        shown = [
            self._shown(index, clip, {group: arrays[index] for group, arrays in behavior.items()}, withheld)
            for index, clip in enumerate(clips)
        ]
        self._behavior = {
            group: [self._cut(values, what.duration) for values, what in zip(arrays, shown, strict=True)]
            for group, arrays in behavior.items()
        }
        kinds = folder.labels("types", "type")
        kinds = kinds if any(kinds) else [_stimulus_type(text) for text in folder.labels("stimulus_ids")]
        names = folder.labels("movie_names", "video_ids", "condition_hashes", "condition_hash")
        self._arrange(shown, withheld, names, kinds)
        location = {"path": str(folder.path), "frame_rate": frame_rate, "nan": nan}
        self.source = sealed(self, location, dict(self._read_before(clips)))

    def responses(self, trial_idx: int, margin: float = 0.0) -> Traces:
        """Return the responses of all units in one trial, one sample at the middle of each frame.

        Raises
        ------
        RecordingError
            If the source withholds them, or NaN is to be interpolated of a unit that has no number in the trial.
        """
        index, trial = self._require_data(trial_idx), self.trials[trial_idx]
        values = self._cut(self._folder.read("responses", index, (len(self.units), None)), trial.duration)
        if self._nan == "interpolate" and not trial.exclusion:
            lost = np.flatnonzero(np.isnan(values).all(axis=1))
            if lost.size:
                raise RecordingError(
                    f"{self._folder.where('responses', index)}, unit {self.units[int(lost[0])].unit_name}: "
                    "no number in the trial to interpolate from; leave the unit out, or choose nan='exclude'"
                )
        return Traces(sample_times(trial, values.shape[1]), values)

    def _pixels(self, index: int) -> np.ndarray:
        return self._video(index)[0]

    def _video(self, index: int) -> tuple[np.ndarray, _Extent]:
        """Return a video without its padding, (1, time, height, width); one that is nothing but padding as it is."""
        video = self._folder.read("videos", index, (*self._size, None))
        where = self._folder.where("videos", index)
        if not video.shape[-1]:
            raise RecordingError(f"{where}: shape {video.shape}, the video has no frames")
        extent = _extent(video, where)
        return _time_first(video[..., : extent.n_valid or None])[None], extent

    def _read_clip(self, index: int) -> _Clip:
        folder, (pixels, video) = self._folder, self._video(index)
        channel, time, height, width = pixels.shape
        values = folder.read("responses", index, (len(self.units), None))
        responses = _extent(values, folder.where("responses", index))
        behavior = {group: folder.read(group, index, (rows, None)) for group, rows in self._n_rows.items()}
        others = [_extent(rows, folder.where(group, index)).n_valid for group, rows in behavior.items()]
        n_samples = min(video.n_valid, responses.n_valid, *others)
        whole = responses.first_nan is None or responses.first_nan[0] >= n_samples
        return _Clip(
            hash_pixels(pixels, self._frame_rate),
            (channel, time, height, width),
            video,
            responses,
            behavior,
            n_samples,
            digest_values(values[:, :n_samples]) if whole else None,
        )

    def _read_before(self, clips: list[_Clip]) -> Iterator[tuple[int, ReadBefore]]:
        """Tell of the trials whose responses were read as `responses` will return them."""
        for trial, index in zip(self.trials, self._order, strict=True):
            n_samples, digest = round(trial.duration * self._frame_rate), clips[index].digest
            if digest and clips[index].n_samples == n_samples and not trial.withheld and not trial.exclusion:
                yield trial.trial_idx, ReadBefore(digest, sample_times(trial, n_samples))

    def _shown(self, index: int, clip: _Clip, behavior: dict[str, np.ndarray], withheld: frozenset[str]) -> Shown:
        """Decide how long a trial is and whether it may be used."""
        folder = self._folder
        extents = {"videos": clip.video, "responses": clip.responses}
        if folder.tiers[index] in withheld:
            del extents["responses"]
        extents |= {group: _extent(values, folder.where(group, index)) for group, values in behavior.items()}
        n_samples = min(extent.n_valid for extent in extents.values())
        if n_samples == 0:
            empty = ", ".join(group for group, extent in extents.items() if extent.n_valid == 0)
            duration = clip.shape[1] / self._frame_rate
            return Shown(clip.condition_hash, clip.shape, duration, f"no valid frame in {empty}")
        problem = ""
        for group, extent in extents.items():
            # All of the video is shown to a model, of the rest only what all arrays have.
            end = extent.n_valid if group == "videos" else n_samples
            if extent.first_nan and extent.first_nan[0] < end and (group == "videos" or self._nan != "interpolate"):
                problem = problem or f"{self._row_name(group, extent.first_nan[1])}: NaN at frame {extent.first_nan[0]}"
                if self._nan != "exclude" and our_tier(folder.tiers[index]):
                    raise RecordingError(
                        f"{folder.where(group, index)} (trial {index}), {problem}, before the padding at the end; "
                        "correct it, or choose nan='exclude'" + (" or 'interpolate'" if group != "videos" else "")
                    )
        return Shown(clip.condition_hash, clip.shape, n_samples / self._frame_rate, problem)

    def _row_name(self, group: str, row: int) -> str:
        if group == "videos":
            return f"pixel {row // self._size[1]}, {row % self._size[1]}"
        return f"unit {self.units[row].unit_name}" if group == "responses" else ROWS[group][self._n_rows[group]][row]

    def _cut(self, values: np.ndarray, duration: float) -> np.ndarray:
        """Return what a trial has of an array (row, time), with its NaN filled where that is wanted."""
        kept = values[:, : round(duration * self._frame_rate)]
        return fill_nan(kept) if self._nan == "interpolate" and np.isnan(kept).any() else kept

    def _check_frame_rate(self) -> None:
        told = sorted(set(self._folder.labels("target_fps")) - {""})
        if any(told_number(rate) != self._frame_rate for rate in told):
            raise RecordingError(
                f"{self._folder.name('meta/trials/target_fps.npy')} says {', '.join(told)} Hz, but frame_rate is "
                f"{self._frame_rate:g}: give the rate of the videos as frame_rate"
            )


def _time_first(video: np.ndarray) -> np.ndarray:
    """Return a video (height, width, time) as (time, height, width), contiguous."""
    height, width, time = video.shape
    frames = np.empty((time, height, width), video.dtype)
    for row in range(height):  # all at once numpy strides through the whole video for each frame, half as fast
        frames[:, row] = video[row].T
    return frames


def _extent(values: np.ndarray, where: str) -> _Extent:
    """Measure an array; infinity is refused wherever it is."""
    n_samples = values.shape[-1]
    if values.dtype.kind != "f" or np.isfinite(values).all():
        return _Extent(n_samples, not values.any(), None)
    rows = values.reshape(-1, n_samples)
    if np.isinf(rows).any():
        raise RecordingError(f"{where}: infinite values; correct them, or leave the trial out")
    missing, n_valid, first = np.isnan(rows), valid_length(rows), None
    with_gap = missing[:, :n_valid].any(axis=0)
    if with_gap.any():
        sample = int(with_gap.argmax())
        first = (sample, int(missing[:, sample].argmax()))
    return _Extent(n_valid, not ((rows != 0) & ~missing).any(), first)


def _stimulus_type(number: str) -> str:
    return STIMULUS_TYPES[int(number)] if number.isdigit() and int(number) < len(STIMULUS_TYPES) else number
