"""Movies as clips: the configuration, the trials of one scan, and the order in which clips of them are seen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch.utils.data import Sampler

from pipeline.configuration import setting
from pipeline.datasets.batches import MovieBatch
from pipeline.datasets.memory import Arrays, Shelf
from pipeline.datasets.scans import Scan
from pipeline.datasets.selection import DataConfiguration
from pipeline.datasets.signals import LIGHT
from pipeline.datasets.store import StoredDataset
from pipeline.errors import ConfigurationError

EVALUATION_TRIALS = 8
"""Trials in a batch of whole trials."""

Clip = tuple[int, int, int]
"""Row of a trial in the dataset, first frame, number of frames."""


@dataclass(frozen=True)
class MovieClips(DataConfiguration):
    """Crops of movies for training, whole movies for everything else."""

    stimulus: ClassVar[str] = "videos"

    clip_frames: int = setting(80, "frames in a training clip", unit="frames", ge=1)
    clip_start: int = setting(-1, "first frame of training clips; -1 for a random one", unit="frames", ge=-1)
    max_frames: int = setting(0, "only the first frames of each trial are used; 0 for all", unit="frames", ge=0)
    opto_window: str = setting(
        "any",
        "training clips: any, or only with every light train constant, on or off",
        choices=("any", "constant", "on", "off"),
    )


class ScanMovies(Scan[MovieBatch]):
    """The movie trials of one scan, asked for by lists of clips."""

    config: MovieClips

    def __init__(
        self, stored: StoredDataset, config: MovieClips, units: np.ndarray, trials: dict[str, list[int]]
    ) -> None:
        super().__init__(stored, config, units, trials)
        self._trials, self._movies = Shelf(), Shelf()
        self._checked: set[int] = set()

    def _trial_lengths(self, stored: StoredDataset) -> list[int]:
        return [min(bins, self.config.max_frames or bins) for bins in stored.bins]

    def _keep(self, rows: list[int]) -> None:
        self._trials.kept.update(rows)
        self._movies.kept.update(self.condition_hashes[row] for row in rows)

    def _trial(self, row: int) -> Arrays:
        """Return responses (unit, time) and signals (signal, time) of one trial as they were stored."""
        return self._trials.get(row, lambda: self._read_trial(row))

    def _read_trial(self, row: int) -> Arrays:
        stored, length = self.stored, self.lengths[row]
        responses = stored.tensor("responses", row)[self._units, :length]
        signals = [stored.tensor(name, row)[:, :length] for name in self._signals.tensors]
        joined = np.concatenate(signals) if signals else np.empty((0, length), np.float32)
        if row in self._withheld:
            return np.full(responses.shape, np.nan, np.float32), joined
        if row not in self._checked:
            self._refuse_nan(row, "responses", responses)
            self._refuse_nan(row, " or ".join(self._signals.tensors), joined)
            self._checked.add(row)
        return responses, joined

    def _movie(self, row: int) -> np.ndarray:
        """Return the pixels of a trial's movie, (channel, time, height, width)."""
        return self._movies.get(self.condition_hashes[row], lambda: self._read_movie(row))[0]

    def _read_movie(self, row: int) -> Arrays:
        name = self.condition_hashes[row]
        movie = self.stored.stimulus(name)[:, : self._longest[name]]
        if movie.dtype.kind == "f":
            self._refuse_nan(row, "movie", movie)
        return (movie,)

    def light(self, row: int) -> np.ndarray:
        """Return the light trains of one trial, (train, time); no train if the dataset has none."""
        if LIGHT not in self.stored.tensors:
            return np.zeros((0, self.lengths[row]))
        return self.stored.tensor(LIGHT, row)[:, : self.lengths[row]]

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, clip: Clip) -> MovieBatch:
        return self.__getitems__([clip])

    def __getitems__(self, clips: Sequence[Clip]) -> MovieBatch:
        """Return one batch of clips of equal length."""
        count, frames = len(clips), clips[0][2]
        channels, height, width = self.info.input_shape
        videos = np.empty((count, channels, frames, height, width), np.float32)
        responses = np.empty((count, self.info.n_units, frames), np.float32)
        signals = np.empty((count, len(self._signals), frames), np.float32)
        pixels, precision = videos[:, : self.info.pixel_channels], self._precision[:, None]
        for position, (row, start, _) in enumerate(clips):
            clip = (slice(None), slice(start, start + frames))
            own_responses, own_signals = self._trial(row)
            np.multiply(own_responses[clip], precision, out=responses[position])
            signals[position] = own_signals[clip]
            pixels[position] = self._movie(row)[clip]
        self._normalize_pixels(pixels)
        fields = self._torch_signals(signals, videos)
        return MovieBatch(torch.from_numpy(videos), torch.from_numpy(responses), **fields)

    def whole_batches(self, rows: Sequence[int]) -> list[list[Clip]]:
        """Return trials in full and in this order; a batch holds consecutive trials of one length."""
        batches: list[list[Clip]] = []
        for row in rows:
            length = self.lengths[row]
            if batches and len(batches[-1]) < EVALUATION_TRIALS and batches[-1][0][2] == length:
                batches[-1].append((row, 0, length))
            else:
                batches.append([(row, 0, length)])
        return batches


class TrainingClips(Sampler[list[Clip]]):
    """Batches of training clips, in an order that only seed and epoch set.

    With random first frames, an epoch sees about every frame once; with a given one, each trial once.

    Parameters
    ----------
    scan : ScanMovies
    batch_size : int
    seed : int

    Attributes
    ----------
    epoch : int
        Sets the order of the next pass, which adds 1.

    Raises
    ------
    ConfigurationError
        If a trial is shorter than its clips, or no clip meets ``opto_window``.
    """

    def __init__(self, scan: ScanMovies, batch_size: int, seed: int) -> None:
        config, rows = scan.config, scan.trials["train"]
        self._frames, self._batch_size, self._seed = config.clip_frames, batch_size, seed
        self.epoch = 0
        needed = config.clip_frames + max(config.clip_start, 0)
        short = [row for row in rows if scan.lengths[row] < needed]
        if short:
            raise ConfigurationError(
                f"MovieClips.clip_frames is {config.clip_frames}"
                f"{f' from frame {config.clip_start}' if config.clip_start > 0 else ''}, but training trial {short[0]} "
                f"of {scan.path} has only {scan.lengths[short[0]]} frames: use at most "
                f"{min(scan.lengths[row] for row in rows) - max(config.clip_start, 0)}"
            )
        self._starts = {row: self._allowed(scan, row) for row in rows}
        times = {row: scan.lengths[row] // self._frames if config.clip_start < 0 else 1 for row in rows}
        self._draws = [row for row in rows for _ in range(times[row]) if len(self._starts[row])]
        if not self._draws:
            raise ConfigurationError(
                f"MovieClips.opto_window is {config.opto_window!r}, but no training clip of {self._frames} frames in "
                f"{scan.path} meets it: use shorter clips or another window"
            )

    @staticmethod
    def _allowed(scan: ScanMovies, row: int) -> np.ndarray:
        """Return the first frames at which clips of a trial may begin."""
        config = scan.config
        last = scan.lengths[row] - config.clip_frames
        starts = np.arange(last + 1) if config.clip_start < 0 else np.array([config.clip_start])
        if config.opto_window == "any":
            return starts
        return starts[light_allows(config.opto_window, scan.light(row), starts, config.clip_frames)]

    def __len__(self) -> int:
        return -(-len(self._draws) // self._batch_size)

    def __iter__(self) -> Iterator[list[Clip]]:
        rng = np.random.default_rng([self._seed, self.epoch])
        self.epoch += 1
        order = rng.permutation(self._draws).tolist()
        clips = [(row, int(self._starts[row][rng.integers(len(self._starts[row]))]), self._frames) for row in order]
        for first in range(0, len(clips), self._batch_size):
            yield clips[first : first + self._batch_size]


def light_allows(window: str, light: np.ndarray, starts: np.ndarray, frames: int) -> np.ndarray:
    """Tell for each first frame in ``starts`` whether the clip that begins there meets a window.

    Parameters
    ----------
    window : str
        One of the choices of `MovieClips.opto_window`.
    light : ndarray
        (train, time): not 0 while a train's light is on. Without any train the light is off.
    starts : ndarray of int
        First frames.
    frames : int
        Length of the clips.
    """
    lit_before = np.pad(np.cumsum(light != 0, axis=1), ((0, 0), (1, 0)))
    lit = lit_before[:, starts + frames] - lit_before[:, starts]
    on, off = lit == frames, lit == 0
    has_light = len(light) > 0
    return {
        "any": np.ones(len(starts), bool),
        "constant": (on | off).all(axis=0),
        "on": on.all(axis=0) & has_light,
        "off": off.all(axis=0),
    }[window]
