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
"""Trials in a batch of whole trials, if they fit into `EVALUATION_BYTES`."""

EVALUATION_BYTES = 16 * 2**20
"""Memory of a batch of more than one whole trial."""

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

    def _trial(self, row: int, clip: slice) -> Arrays:
        """Return normalised responses (time, unit) and signals (signal, time) as stored, of a clip of one trial."""
        if row not in self._trials.kept:
            return self._read_trial(row, clip)
        responses, signals = self._trials.get(row, lambda: self._read_trial(row, slice(self.lengths[row])))
        return responses[clip], signals[:, clip]

    def _read_trial(self, row: int, clip: slice) -> Arrays:
        stored, length = self.stored, self.lengths[row]
        responses = stored.tensor("responses", row)[self._units, :length]
        signals = [stored.tensor(name, row)[:, :length] for name in self._signals.tensors]
        joined = np.concatenate(signals) if signals else np.empty((0, length), np.float32)
        if row not in self._checked and row not in self._withheld:
            self._refuse_nan(row, "responses", responses)
            self._refuse_nan(row, " or ".join(self._signals.tensors), joined)
            self._checked.add(row)
        # Time first, a clip is one piece of memory to copy; models predict in this order too.
        asked = responses[:, clip].T
        time_first = np.empty(asked.shape, np.float32)
        np.multiply(asked, np.nan if row in self._withheld else self._precision, out=time_first)
        return time_first, joined[:, clip]

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
        """Return one batch of clips of equal length; its responses are a view of (batch, time, unit)."""
        count, frames = len(clips), clips[0][2]
        channels, height, width = self.info.input_shape
        videos = np.empty((count, channels, frames, height, width), np.float32)
        responses = np.empty((count, frames, self.info.n_units), np.float32)
        signals = np.empty((count, len(self._signals), frames), np.float32)
        pixels = videos[:, : self.info.pixel_channels]
        for position, (row, start, _) in enumerate(clips):
            clip = slice(start, start + frames)
            responses[position], signals[position] = self._trial(row, clip)
            pixels[position] = self._movie(row)[:, clip]
        self._normalize_pixels(pixels)
        fields = self._torch_signals(signals, videos)
        return MovieBatch(torch.from_numpy(videos), torch.from_numpy(responses).transpose(1, 2), **fields)

    def batch_bytes(self, batch_size: int) -> tuple[int, int]:
        """Return the memory (bytes) of the largest batch of training and of the largest one of whole trials."""
        clips = min(batch_size, len(self)) * self.config.clip_frames
        whole = max(sum(frames for *_, frames in b) for rows in self.trials.values() for b in self.whole_batches(rows))
        return clips * self._frame_bytes(), whole * self._frame_bytes()

    def whole_batches(self, rows: Sequence[int]) -> list[list[Clip]]:
        """Return trials in full and in this order; a batch holds consecutive trials of one length."""
        batches: list[list[Clip]] = []
        for row in rows:
            length = self.lengths[row]
            fitting = min(EVALUATION_TRIALS, EVALUATION_BYTES // (length * self._frame_bytes()))
            if batches and len(batches[-1]) < fitting and batches[-1][0][2] == length:
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
