"""One scan of a stored dataset as trainers see it: what movies and still images have in common."""

from __future__ import annotations

import math
import os
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch.utils.data import Dataset

from pipeline.datasets.batches import ImageBatch, MovieBatch
from pipeline.datasets.info import ScanInfo
from pipeline.datasets.selection import DataConfiguration
from pipeline.datasets.signals import plan_signals, shown_type
from pipeline.datasets.store import StoredDataset
from pipeline.errors import DatasetError

BatchT = TypeVar("BatchT", bound=MovieBatch | ImageBatch)


class Scan(Dataset[BatchT], Generic[BatchT]):
    """The trials of one scan, read from disk when they are asked for; a part of them stays in memory.

    A copy in another process (by pickle or fork) opens the dataset again and starts with nothing in memory.

    Parameters
    ----------
    stored : StoredDataset
    config : DataConfiguration
    units : ndarray of int
        Positions of the chosen units in the dataset.
    trials : dict
        Rows of the chosen trials, by tier.

    Attributes
    ----------
    path : Path
    trials : dict
        As above.
    lengths : list of int
        Frames of each of the dataset's trials that are used; 1 for images.
    condition_hashes : list of str
        Stimulus of each of the dataset's trials.
    info : ScanInfo
    """

    def __init__(
        self, stored: StoredDataset, config: DataConfiguration, units: np.ndarray, trials: dict[str, list[int]]
    ) -> None:
        self.path = stored.path
        self.config = config
        self.trials = trials
        self._stored: StoredDataset | None = stored
        self._process = os.getpid()
        self.condition_hashes = stored.condition_hash
        self.lengths = self._trial_lengths(stored)
        self._longest: dict[str, int] = {}
        for name, length in zip(self.condition_hashes, self.lengths, strict=True):
            self._longest[name] = max(length, self._longest.get(name, 0))
        everything = len(units) == len(stored.metadata["unit_ids"])
        self._units: slice | np.ndarray = slice(None) if everything else units
        self._withheld = set(np.flatnonzero(stored.withheld).tolist())
        self._signals = plan_signals(config, stored, trials["train"])
        first = trials["train"][0]
        pixels = stored.stimulus(stored.condition_hash[first])
        self._frame = np.empty((pixels.shape[0], *pixels.shape[-2:]), pixels.dtype)  # as are those of all stimuli
        self._input_offset, self._input_scale = self._input_normalization(stored)
        responses = stored.statistics("responses", config.stats_source)
        precision = responses.precision() if config.normalizes("responses") else np.ones(len(responses.std))
        self._precision = precision[units].astype(np.float32)
        self.info = self._describe(stored, units)

    @abstractmethod
    def _trial_lengths(self, stored: StoredDataset) -> list[int]:
        """Return the frames of each trial that are used."""

    def _input_normalization(self, stored: StoredDataset) -> tuple[np.float32, np.float32]:
        if not self.config.normalizes(self.config.stimulus):
            return np.float32(0), np.float32(1)
        inputs = stored.statistics("inputs", self.config.stats_source)
        return np.float32(inputs.mean[0]), np.float32(inputs.precision()[0])

    def _describe(self, stored: StoredDataset, units: np.ndarray) -> ScanInfo:
        channels, height, width = self._frame.shape
        signals = self._signals
        mean = np.array(stored.statistics("responses", shown_type(self.config, stored)).mean)[units] * self._precision
        pupil = signals.training_mean[list(signals.pupil)].tolist()
        behavior = signals.training_mean[list(signals.behavior)].tolist()
        rate = stored.metadata["frame_rate"]
        return ScanInfo(
            unit_ids=tuple(np.array(stored.metadata["unit_ids"])[units].tolist()),
            input_shape=(channels + len(signals.planes), height, width),
            mean_responses=tuple(mean.tolist()),
            n_behavior=len(behavior),
            mean_pupil_center=(pupil[0], pupil[1]) if pupil else None,
            std_pupil_center=(signals.pupil_std[0], signals.pupil_std[1]) if pupil else None,
            mean_behavior=tuple(behavior) if behavior else None,
            frame_rate=None if rate is None else float(rate),
            input_mean=float(self._input_offset),
            input_std=float(1 / self._input_scale),
            plane_means=tuple(signals.training_mean[list(signals.planes)].tolist()),
            clip_frames=getattr(self.config, "clip_frames", None),  # still images have no clips
            n_opto=len(signals.light) if self.config.opto == "apart" else 0,
        )

    @property
    def stored(self) -> StoredDataset:
        """The dataset, opened by this process."""
        if self._stored is None or self._process != os.getpid():
            self._stored, self._process = StoredDataset(self.path), os.getpid()
        return self._stored

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_stored": None}

    def nbytes(self, rows: Sequence[int]) -> int:
        """Return the memory (bytes) that these trials and their stimuli take."""
        stimuli = {self.condition_hashes[row] for row in rows}
        return sum(map(self._trial_bytes, rows)) + sum(map(self._stimulus_bytes, stimuli))

    def _trial_bytes(self, row: int) -> int:
        return 4 * (self.info.n_units + len(self._signals)) * self.lengths[row]

    def _stimulus_bytes(self, name: str) -> int:
        return self._frame.nbytes * self._longest[name]

    @abstractmethod
    def batch_bytes(self, batch_size: int) -> tuple[int, int]:
        """Return the memory (bytes) of the largest batch of training and of the largest one of whole trials."""

    def _frame_bytes(self) -> int:
        """Return what one frame, or one image, takes in a batch: its input, responses and signals, these twice."""
        return 4 * (math.prod(self.info.input_shape) + self.info.n_units + 2 * len(self._signals))

    def keep(self, rows: Sequence[int], budget: int) -> int:
        """Keep in memory, once they are read, as many of these trials as fit into ``budget`` (bytes).

        Returns
        -------
        int
            Bytes that they take.
        """
        spent, kept, stimuli = 0, [], set()
        for row in rows:
            name = self.condition_hashes[row]
            cost = self._trial_bytes(row) + (0 if name in stimuli else self._stimulus_bytes(name))
            if spent + cost > budget:
                break
            spent += cost
            kept.append(row)
            stimuli.add(name)
        self._keep(kept)
        return spent

    @abstractmethod
    def _keep(self, rows: list[int]) -> None:
        """Keep these trials and their stimuli."""

    def _refuse_nan(self, row: int, name: str, values: np.ndarray) -> None:
        """Refuse what is not finite; a sum is finite only if all of its terms are, and is quickly made."""
        if not np.isfinite(values.sum()):
            raise DatasetError(
                f"trial {self.stored.trial_idx[row]} of {self.path}: NaN or infinity in its {name}; exclude the trial "
                "(ExcludedTrial) and make the dataset again"
            )

    @abstractmethod
    def whole_batches(self, rows: Sequence[int]) -> list[Any]:
        """Return what to ask of this dataset, batch by batch, to see trials in full and in this order."""

    def _normalize_pixels(self, pixels: np.ndarray) -> None:
        if self.config.normalizes(self.config.stimulus):
            pixels -= self._input_offset
            pixels *= self._input_scale

    def _torch_signals(self, signals: np.ndarray, inputs: np.ndarray) -> dict[str, torch.Tensor | None]:
        """Normalise signals, write their planes behind the pixels of the inputs, and return the fields of a batch."""
        plan = self._signals
        plan.normalize(signals)
        if plan.planes:
            inputs[:, self.info.pixel_channels :] = signals[:, list(plan.planes), ..., None, None]
        values = torch.from_numpy(signals)
        return {
            "behavior": plan.pick(values, plan.behavior),
            "pupil_center": plan.pick(values, plan.pupil),
            "optogenetic_signal": plan.pick(values, plan.light),
        }


def in_full(scan: Scan[Any], rows: Sequence[int]) -> Iterator[MovieBatch | ImageBatch]:
    """Yield trials in full and in order, batch by batch."""
    for asked in scan.whole_batches(rows):
        yield scan.__getitems__(asked)  # type: ignore[attr-defined]
