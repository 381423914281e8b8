"""Still images: staticnet's kinds of configuration, the trials of one scan, and the order in which they are seen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch.utils.data import Sampler

from pipeline.configuration import setting
from pipeline.datasets.batches import ImageBatch
from pipeline.datasets.memory import Block
from pipeline.datasets.repeats import reliability, repeated_responses, unit_oracles
from pipeline.datasets.scans import Scan
from pipeline.datasets.selection import DataConfiguration, listed
from pipeline.datasets.store import StoredDataset
from pipeline.errors import ConfigurationError

EVALUATION_IMAGES = 256
"""Images in a batch of an evaluation."""


@dataclass(frozen=True)
class ImageConfiguration(DataConfiguration):
    """What all kinds of still images share."""

    stimulus: ClassVar[str] = "images"

    normalize_per_image: bool = setting(False, "subtract each image's own mean instead of that of all images")

    def _refuse_several(self, name: str, remedy: str) -> None:
        if len(listed(getattr(self, name))) > 1:
            raise ConfigurationError(f"{self.kind()}.{name}: {getattr(self, name)!r} names several, use {remedy}")


@dataclass(frozen=True)
class CorrectedAreaLayer(ImageConfiguration):
    """Still images for the units of one area and one layer, or of all; normalised by the std, not the mean."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._refuse_several("brain_area", "MultipleAreasOneLayer")
        self._refuse_several("layer", "MultipleAreasMultipleLayers")


@dataclass(frozen=True)
class MultipleAreasOneLayer(ImageConfiguration):
    """Still images for the units of any number of areas and one layer, or of all layers."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._refuse_several("layer", "MultipleAreasMultipleLayers")


@dataclass(frozen=True)
class MultipleAreasMultipleLayers(ImageConfiguration):
    """Still images for the units of any number of areas and layers."""


@dataclass(frozen=True)
class AreaLayerPercentOracle(ImageConfiguration):
    """Still images for the units whose oracle correlation lies between two percentiles, both included.

    Percentiles are those of the units of the areas and layers; the oracle is `pipeline.metrics.oracle_correlation` over
    the stored test repeats. Units whose oracle is undefined are left out.
    """

    percent_low: float = setting(75.0, "lower percentile of the oracle", unit="%", ge=0, le=100)
    percent_high: float = setting(100.0, "upper percentile of the oracle", unit="%", ge=0, le=100)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.percent_low >= self.percent_high:
            raise ConfigurationError(
                f"{self.kind()}.percent_low: {self.percent_low} is not below percent_high, {self.percent_high}"
            )

    def further_units(self, stored: StoredDataset, units: np.ndarray) -> np.ndarray:
        """Return the units between the percentiles."""
        oracle = unit_oracles(stored, units=units, stimulus_types=listed(self.stimulus_type)).correlation
        defined = oracle[np.isfinite(oracle)]
        if not len(defined):
            raise ConfigurationError(
                f"{self.kind()}: no unit of {stored.path} has an oracle; it needs repeated test stimuli"
            )
        low, high = np.percentile(defined, [self.percent_low, self.percent_high])
        return units[(oracle >= low) & (oracle <= high)]


@dataclass(frozen=True)
class AreaLayerReliable(ImageConfiguration):
    """Still images for the units whose oracle correlation exceeds that of shuffled test repeats.

    A unit is reliable if p = (1 + shuffles with at least its oracle) / (1 + shuffles) is below 10 ** p_val_power; see
    `pipeline.datasets.repeats.reliability`.
    """

    p_val_power: int = setting(-2, "exponent of ten: p must be below that power", ge=-6, le=-1)
    shuffles: int = setting(200, "shuffles of the repeats; p cannot fall below 1 / (1 + shuffles)", ge=1)
    shuffle_seed: int = setting(1, "seed of the shuffles", ge=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.shuffles < 10**-self.p_val_power:
            raise ConfigurationError(
                f"{self.kind()}.shuffles: with {self.shuffles} no p is below 1e{self.p_val_power}; use at least "
                f"{10**-self.p_val_power}"
            )

    def further_units(self, stored: StoredDataset, units: np.ndarray) -> np.ndarray:
        """Return the reliable units."""
        types = listed(self.stimulus_type)
        repeats = [found for _, found in repeated_responses(stored, "test", units, types)]
        if not repeats:
            raise ConfigurationError(f"{self.kind()}: {stored.path} has no repeated test stimuli to judge units by")
        return units[reliability(repeats, self.shuffles, self.shuffle_seed) < 10.0**self.p_val_power]


class ScanImages(Scan[ImageBatch]):
    """The image trials of one scan, asked for by lists of rows."""

    config: ImageConfiguration

    def __init__(
        self, stored: StoredDataset, config: ImageConfiguration, units: np.ndarray, trials: dict[str, list[int]]
    ) -> None:
        super().__init__(stored, config, units, trials)
        numbers: dict[str, int] = {}
        self._image_of = np.array([numbers.setdefault(name, len(numbers)) for name in self.condition_hashes])
        self._shown_in = np.unique(self._image_of, return_index=True)[1]
        self._images, self._responses, self._behavior = Block(len(numbers)), Block(len(self)), Block(len(self))

    def _trial_lengths(self, stored: StoredDataset) -> list[int]:
        return [1] * len(stored.bins)

    def _keep(self, rows: list[int]) -> None:
        self._responses.keep(rows)
        self._behavior.keep(rows)
        self._images.keep(np.unique(self._image_of[rows]).tolist())

    def _normalize_pixels(self, pixels: np.ndarray) -> None:
        if not (self.config.normalize_per_image and self.config.normalizes("images")):
            super()._normalize_pixels(pixels)
            return
        pixels -= pixels.mean(axis=(1, 2, 3), keepdims=True)
        pixels *= self._input_scale

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, row: int) -> ImageBatch:
        return self.__getitems__([row])

    def __getitems__(self, rows: Sequence[int]) -> ImageBatch:
        """Return one batch of images."""
        asked = np.asarray(rows)
        channels, height, width = self.info.input_shape
        images = np.empty((len(asked), channels, height, width), np.float32)
        pixels = images[:, : self.info.pixel_channels]
        pixels[:] = self._images.take(self._image_of[asked], self._read_images)
        self._normalize_pixels(pixels)
        responses = self._responses.take(asked, self._read_responses)
        fields = self._torch_signals(self._behavior.take(asked, self._read_signals), images)
        return ImageBatch(torch.from_numpy(images), torch.from_numpy(responses), **fields)

    def _read_images(self, numbers: np.ndarray) -> np.ndarray:
        rows = self._shown_in[numbers]
        return self._checked(rows, "image", self.stored.stimuli([self.condition_hashes[row] for row in rows]))

    def _read_responses(self, rows: np.ndarray) -> np.ndarray:
        responses = self.stored.several("responses", rows)[:, self._units].astype(np.float32, copy=False)
        responses[[row in self._withheld for row in rows]] = np.nan
        self._checked(rows, "responses", responses)
        responses *= self._precision
        return responses

    def _read_signals(self, rows: np.ndarray) -> np.ndarray:
        tensors = [self.stored.several(name, rows) for name in self._signals.tensors]
        signals = np.concatenate(tensors, axis=1) if tensors else np.empty((len(rows), 0), np.float32)
        return self._checked(rows, " or ".join(self._signals.tensors), signals)

    def _checked(self, rows: np.ndarray, name: str, values: np.ndarray) -> np.ndarray:
        """Return values (row, ...), NaN only where the source withholds responses."""
        if values.dtype.kind == "f" and not np.isfinite(values.sum()):
            for row, of_trial in zip(rows.tolist(), values, strict=True):
                if row not in self._withheld:
                    self._refuse_nan(row, name, of_trial)
        return values

    def batch_bytes(self, batch_size: int) -> tuple[int, int]:
        """Return the memory (bytes) of the largest batch of training and of the largest one of an evaluation."""
        training, others = len(self.trials["train"]), max(map(len, self.trials.values()))
        return min(batch_size, training) * self._frame_bytes(), min(EVALUATION_IMAGES, others) * self._frame_bytes()

    def whole_batches(self, rows: Sequence[int]) -> list[list[int]]:
        """Return images in this order."""
        return [list(rows[first : first + EVALUATION_IMAGES]) for first in range(0, len(rows), EVALUATION_IMAGES)]


class TrainingImages(Sampler[list[int]]):
    """Batches of training images, each once an epoch, in an order that only seed and epoch set.

    Attributes
    ----------
    epoch : int
        Sets the order of the next pass, which adds 1.
    """

    def __init__(self, scan: ScanImages, batch_size: int, seed: int) -> None:
        self._rows, self._batch_size, self._seed = scan.trials["train"], batch_size, seed
        self.epoch = 0

    def __len__(self) -> int:
        return -(-len(self._rows) // self._batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        order = np.random.default_rng([self._seed, self.epoch]).permutation(self._rows).tolist()
        self.epoch += 1
        for first in range(0, len(order), self._batch_size):
            yield order[first : first + self._batch_size]
