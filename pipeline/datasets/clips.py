"""Movies as clips: the configuration, the data of one scan in memory and its loaders.

Videos stay uint8 in memory and are normalised a batch at a time. Loaders are ordinary torch DataLoaders in the nested
dictionary ``{tier: {data_key: loader}}`` that trainers of this family expect.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from pipeline.configuration import Configuration, setting
from pipeline.datasets.batches import MovieBatch
from pipeline.datasets.info import DataInfo, ScanInfo
from pipeline.datasets.statistics import Statistics
from pipeline.datasets.store import StoredDataset
from pipeline.errors import ConfigurationError, DatasetError
from pipeline.recordings.base import TIERS

EVALUATION_BATCH = 8

Clip = tuple[int, int, int]
"""Index of a trial, first frame, number of frames."""


@dataclass(frozen=True)
class MovieClips(Configuration):
    """Random crops of movies for training, whole movies for validation and test.

    Normalised are: videos to (grey value - mean) / std, responses and behaviour to multiples of their std, pupil
    positions to z-scores, all with the statistics of each scan's training tier.
    """

    clip_frames: int = setting(80, "frames in a training clip", unit="frames", ge=1)
    normalize: bool = setting(True, "normalise with the statistics of the training tier")
    behavior: str = setting(
        "apart", "running and pupil size: left out, or apart for a modulator", choices=("none", "apart")
    )
    pupil: str = setting("apart", "pupil position: left out, or apart for a shifter", choices=("none", "apart"))
    opto: str = setting(
        "behavior", "optogenetic trace: left out, or one more channel of behaviour", choices=("none", "behavior")
    )
    opto_window: str = setting(
        "any",
        "training clips: any, or only with the light constant, on or off",
        choices=("any", "constant", "on", "off"),
    )


DATA_KINDS = (MovieClips,)


class ScanMovies(Dataset[MovieBatch]):
    """All trials of one scan, in memory, asked for by lists of clips (trial, first frame, frames).

    Attributes
    ----------
    lengths : list of int
        Frames of each trial.
    tiers : list of str
        Tier of each trial.
    condition_hashes : list of str
        Stimulus of each trial.
    """

    def __init__(self, stored: StoredDataset, config: MovieClips) -> None:
        self.data_path = str(stored.path)
        self.tiers = stored.tier
        self.condition_hashes = stored.condition_hash
        self._config = config
        self._statistics = {n: Statistics(**s) for n, s in stored.metadata["statistics"].items()}
        self._behavior_names: list[str] = stored.metadata["behavior"] if config.behavior == "apart" else []
        self._videos = {h: torch.from_numpy(stored.stimulus(h).copy()) for h in set(stored.condition_hash)}
        rows = range(len(stored.tier))
        self._responses = self._scaled([stored.tensor("responses", r) for r in rows], ["responses"])
        self._opto = [torch.from_numpy(stored.tensor("optogenetic_signal", r).copy()) for r in rows]
        self._behavior = None
        if self._behavior_names:
            self._behavior = self._scaled([stored.tensor("behavior", r) for r in rows], self._behavior_names)
        if config.opto == "behavior":
            opto = [trace[None] for trace in self._opto]
            joined = zip(self._behavior, opto, strict=True) if self._behavior else zip(opto)
            self._behavior = [torch.cat(parts) for parts in joined]
        self._pupil = None
        if config.pupil == "apart" and "pupil_location" in stored.tensors:
            self._pupil = self._zscored([stored.tensor("pupil_location", r) for r in rows], ["pupil_x", "pupil_y"])
        self.lengths = [responses.shape[1] for responses in self._responses]
        self.info = self._describe(stored)

    def _moments(self, names: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and precision of the rows that the named statistics describe; 0 and 1 if not normalised."""
        chosen = [self._statistics[name] for name in names]
        mean = np.concatenate([s.mean for s in chosen])
        precision = np.concatenate([s.precision() for s in chosen])
        if self._config.normalize:
            return mean, precision
        return np.zeros_like(mean), np.ones_like(precision)

    def _scaled(self, trials: list[np.ndarray], names: list[str]) -> list[Tensor]:
        _, precision = self._moments(names)
        return [torch.from_numpy((x * precision[:, None]).astype(np.float32)) for x in trials]

    def _zscored(self, trials: list[np.ndarray], names: list[str]) -> list[Tensor]:
        mean, precision = self._moments(names)
        return [torch.from_numpy(((x - mean[:, None]) * precision[:, None]).astype(np.float32)) for x in trials]

    def _describe(self, stored: StoredDataset) -> ScanInfo:
        channels, _, height, width = next(iter(self._videos.values())).shape
        train = [row for row, tier in enumerate(self.tiers) if tier == "train"]
        pixel_mean, pixel_precision = self._moments(["inputs"])
        behavior = torch.cat([self._behavior[r] for r in train], dim=1).mean(1).tolist() if self._behavior else None
        pupil = torch.cat([self._pupil[r] for r in train], dim=1).mean(1).tolist() if self._pupil else None
        return ScanInfo(
            unit_ids=tuple(stored.metadata["unit_ids"]),
            input_shape=(channels, height, width),
            mean_responses=tuple(torch.cat([self._responses[r] for r in train], dim=1).mean(1).tolist()),
            n_behavior=len(behavior) if behavior else 0,
            mean_pupil_center=(pupil[0], pupil[1]) if pupil else None,
            mean_behavior=tuple(behavior) if behavior else None,
            frame_rate=float(stored.metadata["frame_rate"]),
            input_mean=float(pixel_mean[0]),
            input_std=float(1 / pixel_precision[0]),
        )

    def opto_allows(self, trial: int, starts: np.ndarray, frames: int) -> np.ndarray:
        """Tell for each first frame in ``starts`` whether the clip that begins there meets ``opto_window``."""
        lit_before = np.concatenate([[0], np.cumsum(self._opto[trial].numpy() != 0)])
        lit = lit_before[starts + frames] - lit_before[starts]
        on, off = lit == frames, lit == 0
        return {"any": np.ones_like(on), "constant": on | off, "on": on, "off": off}[self._config.opto_window]

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, clip: Clip) -> MovieBatch:
        return self.__getitems__([clip])

    def __getitems__(self, clips: list[Clip]) -> MovieBatch:
        """Return one batch of clips of equal length."""

        def crop(trials: list[Tensor] | None) -> Tensor | None:
            return None if trials is None else torch.stack([trials[i][..., s : s + n] for i, s, n in clips])

        videos = torch.stack([self._videos[self.condition_hashes[i]][:, s : s + n] for i, s, n in clips])
        responses = crop(self._responses)
        assert responses is not None
        return MovieBatch(
            videos=(videos.float() - self.info.input_mean) / self.info.input_std,
            responses=responses,
            behavior=crop(self._behavior),
            pupil_center=crop(self._pupil),
            optogenetic_signal=crop(self._opto),
        )


class RandomClips(Sampler[list[Clip]]):
    """Batches of random training clips. An epoch sees about every frame once, in an order set by seed and epoch.

    Parameters
    ----------
    scan : ScanMovies
    trials : list of int
        Training trials.
    config : MovieClips
    batch_size : int
    seed : int

    Raises
    ------
    ConfigurationError
        If a trial is shorter than a clip, or no clip meets ``opto_window``.
    """

    def __init__(self, scan: ScanMovies, trials: list[int], config: MovieClips, batch_size: int, seed: int) -> None:
        frames = config.clip_frames
        short = [i for i in trials if scan.lengths[i] < frames]
        if short:
            raise ConfigurationError(
                f"MovieClips.clip_frames is {frames}, but training trial {short[0]} of {scan.data_path} has only "
                f"{scan.lengths[short[0]]} frames: use at most {min(scan.lengths[i] for i in trials)}"
            )
        all_starts = {i: np.arange(scan.lengths[i] - frames + 1) for i in trials}
        self._starts = {i: starts[scan.opto_allows(i, starts, frames)] for i, starts in all_starts.items()}
        self._draws = [i for i in trials for _ in range(scan.lengths[i] // frames) if len(self._starts[i])]
        if not self._draws:
            raise ConfigurationError(
                f"MovieClips.opto_window is {config.opto_window!r}, but no training clip of {frames} frames in "
                f"{scan.data_path} meets it: use shorter clips or another window"
            )
        self._frames, self._batch_size, self._seed = frames, batch_size, seed
        self.epoch = 0

    def __len__(self) -> int:
        return -(-len(self._draws) // self._batch_size)

    def __iter__(self) -> Iterator[list[Clip]]:
        rng = np.random.default_rng([self._seed, self.epoch])
        self.epoch += 1
        order = rng.permutation(self._draws)
        clips = [(int(i), int(rng.choice(self._starts[int(i)])), self._frames) for i in order]
        for first in range(0, len(clips), self._batch_size):
            yield clips[first : first + self._batch_size]


def whole_trials(scan: ScanMovies, tier: str) -> list[list[Clip]]:
    """Return batches of a tier's whole trials in order of time; a batch holds consecutive trials of one length."""
    batches: list[list[Clip]] = []
    for trial, (length, name) in enumerate(zip(scan.lengths, scan.tiers, strict=True)):
        if name != tier:
            continue
        if batches and len(batches[-1]) < EVALUATION_BATCH and batches[-1][0][2] == length:
            batches[-1].append((trial, 0, length))
        else:
            batches.append([(trial, 0, length)])
    return batches


def _as_is(batch: Any) -> MovieBatch:
    return batch


class MovieLoader(DataLoader[MovieBatch]):
    """A loader of one scan's clips."""

    dataset: ScanMovies


MovieLoaders = dict[str, dict[str, MovieLoader]]
"""By tier and data_key."""


def movie_loaders(
    paths: Mapping[str, Path], config: MovieClips, batch_size: int, seed: int
) -> tuple[MovieLoaders, DataInfo]:
    """Return loaders ``{tier: {data_key: loader}}`` and the data information for a group of scans.

    Parameters
    ----------
    paths : mapping
        data_key to the folder of its stored dataset.
    config : MovieClips
    batch_size : int
        Training clips in a batch.
    seed : int
        Sets the order and the places of training clips; evaluation loaders do not depend on it.

    Raises
    ------
    DatasetError
        If a scan has no training or no validation trials.
    ConfigurationError
        See `RandomClips`.
    """
    loaders: MovieLoaders = {tier: {} for tier in TIERS}
    info: DataInfo = {}
    for data_key, path in paths.items():
        scan = ScanMovies(StoredDataset(path), config)
        info[data_key] = scan.info
        for tier in TIERS:
            trials = [i for i, name in enumerate(scan.tiers) if name == tier]
            if not trials and tier != "test":
                raise DatasetError(f"{data_key} has no {tier} trials: see ConditionTier for this scan")
            sampler = (
                RandomClips(scan, trials, config, batch_size, seed) if tier == "train" else whole_trials(scan, tier)
            )
            loaders[tier][data_key] = MovieLoader(scan, batch_sampler=sampler, collate_fn=_as_is)
    return loaders, info


def repeated_responses(stored: StoredDataset, tier: str) -> dict[str, np.ndarray]:
    """Return the responses to each condition of a tier that was repeated: (repeat, unit, time) in spikes a bin."""
    repeats: dict[str, list[np.ndarray]] = {}
    for row in stored.rows(tier):
        repeats.setdefault(stored.condition_hash[row], []).append(stored.tensor("responses", row))
    return {name: np.stack(trials) for name, trials in repeats.items() if len(trials) > 1}
