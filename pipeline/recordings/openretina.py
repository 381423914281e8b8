"""Recordings in openretina's generic layout: long movies as ``.npy`` files, and an HDF5 file of responses a session."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import h5py
import numpy as np

from pipeline.errors import RecordingError
from pipeline.recordings.base import Recording, Stimulus, Traces, Trial, Unit, hash_pixels
from pipeline.recordings.checks import load_array, require_file, require_numbers, sealed, unchanged

_RESPONSES, _BY_TRIAL, _STIMULUS = "responses_", "_by_trial", "stimulus_"


@dataclass(frozen=True)
class _Movie:
    """One stimulus and the responses to it.

    Attributes
    ----------
    name : str
    inside : bool
        The pixels are in the session's file, not in the folder of stimuli.
    size : tuple of int
        (channel, height, width).
    n_frames, n_repeats : int
    by_trial : bool
        The responses have an axis of trials.
    tier : str or None
        'test' or 'ood'; None: for training.
    """

    name: str
    inside: bool
    size: tuple[int, int, int]
    n_frames: int
    n_repeats: int
    by_trial: bool
    tier: str | None

    @property
    def dataset(self) -> str:
        return f"{_RESPONSES}{self.name}{_BY_TRIAL if self.by_trial else ''}"


@dataclass(frozen=True)
class _Clip:
    """Frames ``first`` to ``stop`` of a movie."""

    movie: _Movie
    first: int
    stop: int


@dataclass(frozen=True)
class _Showing:
    """One repeat of a clip; ``origin`` is when the first frame of its movie was shown (s)."""

    clip: _Clip
    repeat: int
    origin: float


class OpenRetinaRecording(Recording):
    """One session in openretina's layout: ``stimuli/<stimulus>.npy`` and ``<session>.h5`` beside that folder.

    The session's file holds ``responses_<stimulus>`` (neuron, time), with as many samples as the stimulus has frames,
    or ``responses_<stimulus>_by_trial`` (trial, neuron, time), which goes before it and makes every repeat a trial.
    It may hold pixels itself, as ``stimulus_<stimulus>`` (channel, time, height, width), which go before the folder's,
    and ``session_info/roi_ids`` (neuron,), whole numbers that become the units' ids.

    Training movies are cut into clips, since clips are what is drawn for validation. A rest shorter than half a clip
    belongs to the last clip. Movies for testing stay whole, so that models lose frames at their beginning only once;
    so does a training movie with the same pixels as one of them, which makes both one stimulus: a leak. The source
    knows no times: movies are put one after another in order of name. A response belongs to the middle of its frame.
    Everything is read clip by clip.

    Parameters
    ----------
    session_file : str
        The session's ``.h5``.
    frame_rate : str
        Frames a second of movies and responses (Hz).
    test_names : str
        Stimuli for testing, separated by commas; all others train. Left empty, test clips are drawn.
    ood_names : str
        Further stimuli for testing that are of another distribution, separated by commas.
    stimuli : str
        Folder of the movies; 'stimuli' beside the session's file if not given.
    clip_frames : str
        Length of a training clip.
    validation_clips : str
        Numbers of the clips that validate, separated by commas: from 0, over all training movies in order of name. If
        none are given, validation is drawn from the training clips.
    response_unit : str
        Of the responses, such as 'spikes' or 'dF/F'.

    Raises
    ------
    RecordingError
        At construction, naming the stimulus or dataset that is missing, damaged or of another size.
    """

    source_format = "openretina"
    example = "--session-file session_1.h5 --frame-rate 30 --test-names natural_test --subject r1 --session 1 --scan 1"

    def __init__(
        self,
        session_file: str,
        frame_rate: str,
        test_names: str = "",
        ood_names: str = "",
        stimuli: str = "",
        clip_frames: str = "300",
        validation_clips: str = "",
        response_unit: str = "a.u.",
    ) -> None:
        self._path = require_file(session_file, "openretina responses")
        self._folder = Path(stimuli).expanduser().absolute() if stimuli else self._path.parent / "stimuli"
        self._rate = _positive("frame_rate", frame_rate, float)
        length = int(_positive("clip_frames", clip_frames, int))
        self.response_unit = response_unit
        with self._session() as session:
            movies, n_units = self._movies(session, _named(test_names), _named(ood_names))
            self.units = self._read_units(session, n_units)
            twins = self._twins(session, movies, length)
            clips = [clip for movie in movies for clip in _cut(movie, movie.n_frames if movie in twins else length)]
            hashes = {clip: self._hash(session, clip) for clip in clips}
        tiers = _tiers(clips, hashes, validation_clips, bool(_named(test_names)))
        self._clips = {hashes[clip]: clip for clip in reversed(clips)}
        self.stimuli = {condition: self._stimulus(condition, self._clips[condition]) for condition in hashes.values()}
        self._showings = _in_order(clips, self._rate)
        self.trials = tuple(
            Trial(
                trial_idx, hashes[clip], showing.origin + clip.first / self._rate,
                (clip.stop - clip.first) / self._rate, tiers[clip],
            )
            for trial_idx, showing in enumerate(self._showings)
            for clip in (showing.clip,)
        )  # fmt: skip
        self.source = sealed(
            self,
            {
                "session_file": str(self._path), "frame_rate": frame_rate, "test_names": test_names,
                "ood_names": ood_names, "stimuli": str(self._folder), "clip_frames": clip_frames,
                "validation_clips": validation_clips, "response_unit": response_unit,
            },
        )  # fmt: skip

    def frames(self, condition_hash: str) -> np.ndarray:
        """Return the pixels of one clip, (channel, time, height, width), in the dtype of its movie.

        Raises
        ------
        RecordingError
            If the recording has no such condition, or its movie changed since the recording was opened.
        """
        if condition_hash not in self._clips:
            raise RecordingError(f"{self._path} has no condition {condition_hash}")
        with self._session() as session:
            pixels = self._pixels(session, self._clips[condition_hash])
        stimulus = self.stimuli[condition_hash]
        return unchanged(pixels, stimulus, f"{self._path}: {stimulus.stimulus_name}")

    def responses(self, trial_idx: int, margin: float = 0.0) -> Traces:
        """Return the responses of all units in one trial, and ``margin`` (s) around it as far as its movie goes."""
        if not 0 <= trial_idx < len(self._showings):
            raise RecordingError(f"{self._path} has no trial {trial_idx}: trials are 0 to {len(self._showings) - 1}")
        showing = self._showings[trial_idx]
        clip, movie = showing.clip, showing.clip.movie
        extra = int(margin * self._rate + 0.5 + 1e-9)
        first, stop = max(clip.first - extra, 0), min(clip.stop + extra, movie.n_frames)
        with self._session() as session:
            dataset = session[movie.dataset]
            values = dataset[showing.repeat, :, first:stop] if movie.by_trial else dataset[:, first:stop]
        return Traces(showing.origin + (np.arange(first, stop) + 0.5) / self._rate, values)

    @contextmanager
    def _session(self) -> Iterator[h5py.File]:
        """Open the session's file for one reading: a file kept open would not survive a fork."""
        try:
            with h5py.File(self._path, "r") as session:
                yield session
        except OSError as error:
            raise RecordingError(f"{self._path} cannot be read as HDF5 ({error}): copy or write it again") from error

    def _movies(self, session: h5py.File, test: list[str], ood: list[str]) -> tuple[list[_Movie], int]:
        """Return the stimuli that have responses, all checked against each other, and the number of units."""
        answered = [key.removeprefix(_RESPONSES) for key in session if key.startswith(_RESPONSES)]
        names = sorted({name.removesuffix(_BY_TRIAL) for name in answered})
        if not names:
            raise RecordingError(f"{self._path} has no dataset {_RESPONSES}<stimulus>")
        for name in test + ood:
            if name not in names or (name in test and name in ood):
                fault = "is named both for test and for ood" if name in names else "has no responses"
                raise RecordingError(
                    f"{self._path}: stimulus {name!r} {fault}; those with responses: {', '.join(names)}"
                )
        tier = dict.fromkeys(names) | dict.fromkeys(test, "test") | dict.fromkeys(ood, "ood")
        movies: list[_Movie] = []
        counts: dict[str, int] = {}
        sizes: dict[str, tuple[int, int, int]] = {}
        for name in names:
            inside = f"{_STIMULUS}{name}" in session
            pixels = self._movie(session, name, inside)
            n_channels, n_frames, height, width = pixels.shape
            sizes[name] = (n_channels, height, width)
            _same(sizes, name, f"{self._path}: (channel, height, width) of stimulus")
            n_repeats, by_trial = 1, False
            for key, trials in ((_RESPONSES + name, False), (_RESPONSES + name + _BY_TRIAL, True)):
                if key in session:
                    shape = (*(None,) * (1 + trials), n_frames)
                    values = self._numbers(session, key, shape, " (as many samples as the stimulus has frames)")
                    counts[key] = values.shape[-2]
                    _same(counts, key, f"{self._path}: number of neurons in")
                    n_repeats, by_trial = values.shape[0] if trials else 1, trials
            movies.append(_Movie(name, inside, sizes[name], n_frames, n_repeats, by_trial, tier[name]))
        return movies, next(iter(counts.values()))

    def _movie(self, session: h5py.File, name: str, inside: bool) -> np.ndarray | h5py.Dataset:
        """Return a movie (channel, time, height, width) whose pixels are read when sliced."""
        if inside:
            return self._numbers(session, _STIMULUS + name, (None, None, None, None))
        path = self._folder / f"{name}.npy"
        return require_numbers(load_array(path, f"stimulus {name}", mapped=True), (None, None, None, None), str(path))

    def _numbers(self, session: h5py.File, key: str, shape: tuple[int | None, ...], why: str = "") -> h5py.Dataset:
        if not isinstance(session[key], h5py.Dataset):
            raise RecordingError(f"{self._path}: {key} is a group, but a dataset is needed")
        require_numbers(session[key], shape, f"{self._path}: {key}{why}")
        return session[key]

    def _twins(self, session: h5py.File, movies: list[_Movie], length: int) -> set[_Movie]:
        """Return the training movies whose pixels a movie for testing has too; ``length`` frames are held at once."""

        def alike(one: _Movie, other: _Movie) -> bool:
            first, second = (self._movie(session, movie.name, movie.inside) for movie in (one, other))
            parts = [slice(at, at + length) for at in range(0, one.n_frames, length)]
            return (first.shape, first.dtype) == (second.shape, second.dtype) and all(
                np.array_equal(first[:, part], second[:, part]) for part in parts
            )

        held_out = [movie for movie in movies if movie.tier is not None]
        return {movie for movie in movies if movie.tier is None and any(alike(movie, other) for other in held_out)}

    def _read_units(self, session: h5py.File, n_units: int) -> tuple[Unit, ...]:
        if "session_info/roi_ids" not in session:
            return tuple(Unit(index, f"unit_{index}") for index in range(n_units))
        ids = self._numbers(session, "session_info/roi_ids", (n_units,))
        if ids.dtype.kind not in "iu":
            raise RecordingError(f"{self._path}: session_info/roi_ids has dtype {ids.dtype}, but ids are whole numbers")
        return tuple(Unit(int(unit), f"unit_{unit}") for unit in ids[:])

    def _pixels(self, session: h5py.File, clip: _Clip) -> np.ndarray:
        return np.array(self._movie(session, clip.movie.name, clip.movie.inside)[:, clip.first : clip.stop])

    def _hash(self, session: h5py.File, clip: _Clip) -> str:
        pixels = self._pixels(session, clip)
        if not np.isfinite(pixels).all():
            raise RecordingError(
                f"{self._path}: stimulus {clip.movie.name} holds NaN or infinity in frames {clip.first} to "
                f"{clip.stop - 1}; write its pixels again"
            )
        return hash_pixels(pixels, self._rate)

    def _stimulus(self, condition: str, clip: _Clip) -> Stimulus:
        movie = clip.movie
        channels, height, width = movie.size
        whole = clip.stop - clip.first == movie.n_frames
        name = movie.name if whole else f"{movie.name} frames {clip.first}-{clip.stop - 1}"
        return Stimulus(condition, self._rate, (channels, clip.stop - clip.first, height, width), name, movie.name)


def _cut(movie: _Movie, length: int) -> list[_Clip]:
    if movie.tier is not None:
        return [_Clip(movie, 0, movie.n_frames)]
    n_clips = max((movie.n_frames + length // 2) // length, 1)
    edges = [*range(0, n_clips * length, length), movie.n_frames]
    return [_Clip(movie, first, stop) for first, stop in pairwise(edges)]


def _in_order(clips: list[_Clip], rate: float) -> list[_Showing]:
    """Return every repeat of every clip in order of time: movie after movie, repeat after repeat."""
    by_movie: dict[_Movie, list[_Clip]] = {}
    for clip in clips:
        by_movie.setdefault(clip.movie, []).append(clip)
    showings, n_before = [], 0
    for movie, parts in by_movie.items():
        for repeat in range(movie.n_repeats):
            showings += [_Showing(clip, repeat, n_before / rate) for clip in parts]
            n_before += movie.n_frames
    return showings


def _tiers(
    clips: list[_Clip], hashes: Mapping[_Clip, str], validation_clips: str, test_is_named: bool
) -> dict[_Clip, str | None]:
    """Return the tier of each clip; None where the clip may be drawn for another tier than training."""
    tiers = {clip: clip.movie.tier for clip in clips}
    cut = [clip for clip in clips if clip.movie.tier is None]
    for number in _named(validation_clips):
        if not number.isdigit() or int(number) >= len(cut):
            raise RecordingError(f"validation_clips: {number!r} is no clip; training clips are 0 to {len(cut) - 1}")
        tiers[cut[int(number)]] = "validation"
    if validation_clips:
        return {clip: tier or "train" for clip, tier in tiers.items()}
    if test_is_named:
        # Conditions without a tier that were shown more than once would go to test.
        shown: Counter[str] = Counter()
        for clip, condition in hashes.items():
            shown[condition] += clip.movie.n_repeats
        tiers |= {clip: "train" for clip in cut if shown[hashes[clip]] > 1}
    return tiers


def _same(values: Mapping[str, object], name: str, what: str) -> None:
    first = next(iter(values))
    if values[name] != values[first]:
        raise RecordingError(f"{what} {name} is {values[name]}, but {values[first]} in {first}")


def _named(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _positive(name: str, text: str, kind: type) -> float:
    try:
        value = kind(text)
    except ValueError:
        value = kind(0)
    if not 0 < value < float("inf"):
        raise RecordingError(f"{name} {text!r} must be a {'whole ' if kind is int else ''}number above 0")
    return value
