"""The one door from stored datasets to batches: nested loaders and what a model must know of the data."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader, Sampler

from pipeline.configuration import Configuration
from pipeline.datasets.batches import Batch
from pipeline.datasets.clips import MovieClips, ScanMovies, TrainingClips
from pipeline.datasets.function import ForeignLoader, Function, open_function
from pipeline.datasets.images import (
    AreaLayerPercentOracle,
    AreaLayerReliable,
    CorrectedAreaLayer,
    ImageConfiguration,
    MultipleAreasMultipleLayers,
    MultipleAreasOneLayer,
    ScanImages,
    TrainingImages,
)
from pipeline.datasets.info import DataInfo
from pipeline.datasets.scans import Scan, in_full
from pipeline.datasets.selection import DataConfiguration, UnitTable, choose_trials, choose_units
from pipeline.datasets.store import StoredDataset
from pipeline.errors import ConfigurationError

DATA_KINDS: tuple[type[Configuration], ...] = (
    MovieClips,
    CorrectedAreaLayer,
    MultipleAreasOneLayer,
    MultipleAreasMultipleLayers,
    AreaLayerPercentOracle,
    AreaLayerReliable,
    Function,
)

PROCESS_BYTES = 40 * 2**20
"""What Deeplake and the rows at hand take in each process that reads, as measured."""

SCAN_BYTES = 8 * 2**20
"""What each open dataset adds to that, as measured."""

TRIAL_BYTES = 2**10
"""What the names of a trial and of its stimulus take, as measured."""

ALWAYS = ("train", "validation", "test")
"""Tiers that loaders have for every scan, if only without a batch."""


class ScanLoader(DataLoader[Batch]):
    """A loader of one scan and tier: an ordinary torch DataLoader that knows its trials.

    Attributes
    ----------
    dataset : ScanMovies or ScanImages
    trials : list of int
        Rows of the dataset. Loaders of other tiers than training give them whole and in this order.
    """

    dataset: Scan[Any]

    def __init__(
        self, scan: Scan[Any], trials: Sequence[int], batches: Sampler[Any] | list[Any], workers: int = 0
    ) -> None:
        super().__init__(
            scan, batch_sampler=batches, collate_fn=_as_is, num_workers=workers, persistent_workers=workers > 0
        )
        self.trials = list(trials)

    @property
    def conditions(self) -> list[str]:
        """The stimulus of each trial, its condition_hash."""
        return [self.dataset.condition_hashes[row] for row in self.trials]

    def in_full(self) -> Iterator[Batch]:
        """Yield the trials whole and in order, read by this process, also those of the training tier."""
        return in_full(self.dataset, self.trials)


def _as_is(batch: Any) -> Batch:
    return batch


ScanLoaders = Mapping[str, Mapping[str, ScanLoader | ForeignLoader]]
"""By tier and data_key."""


def open_loaders(
    paths: Mapping[str, Path],
    config: Configuration,
    batch_size: int,
    seed: int,
    units: Mapping[str, UnitTable] | None = None,
    workers: int = 0,
    memory: int = 4 * 2**30,
) -> tuple[ScanLoaders, DataInfo]:
    """Return loaders ``{tier: {data_key: loader}}`` and the data information for a group of scans.

    Tiers are 'train', 'validation' and 'test' for every scan, 'final' and 'ood' for scans that have such trials, and
    'withheld' for trials, of any tier, whose responses the source keeps to itself: they are NaN. Nothing is read before
    the first batch but shapes, statistics, what chooses units, and the light trains where they choose or join inputs.

    Parameters
    ----------
    paths : mapping
        data_key to the folder of its stored dataset.
    config : Configuration
        One of `DATA_KINDS`.
    batch_size : int
        Training clips or images in a batch.
    seed : int
        Sets the order and the places of training clips; evaluation loaders do not depend on it.
    units : mapping, optional
        data_key to what is known of its units; needed to choose areas or layers.
    workers : int
        Processes that prepare each scan's training batches ahead of time; they give the same batches. Other batches
        are prepared by the calling process.
    memory : int
        Bytes that the loaders may take, over all scans and processes. Two batches, those that workers have ready, and
        `PROCESS_BYTES`, `SCAN_BYTES` and `TRIAL_BYTES` are set aside; as much data as fits into what is left stays in
        memory, the rest is read each time. Training trials have precedence. If nothing is left, every trial is read
        each time: slower, with the same batches, and the loaders take what is set aside all the same.

    Raises
    ------
    DatasetError
        If a scan has no training or no validation trials.
    ConfigurationError
        If the configuration is for the other sort of stimuli, or chooses nothing; see also `TrainingClips`.
    """
    if isinstance(config, Function):
        return open_function(config, paths, batch_size, seed)
    if not isinstance(config, DataConfiguration):
        raise ConfigurationError(f"no loaders for data of kind {config.kind()}")
    tables = units or {}
    scans = {key: _open_scan(path, config, tables.get(key), key) for key, path in paths.items()}
    _share_memory(list(scans.values()), memory - _aside(list(scans.values()), batch_size, workers), workers)
    loaders: dict[str, dict[str, ScanLoader]] = {tier: {} for tier in ALWAYS}
    for data_key, scan in scans.items():
        for tier, rows in scan.trials.items():
            if tier == "train":
                sampler = _training_sampler(scan, batch_size, seed)
                loaders[tier][data_key] = ScanLoader(scan, rows, sampler, workers)
            elif rows or tier in ALWAYS:
                loaders.setdefault(tier, {})[data_key] = ScanLoader(scan, rows, scan.whole_batches(rows))
    return loaders, {data_key: scan.info for data_key, scan in scans.items()}


def _open_scan(path: Path, config: DataConfiguration, table: UnitTable | None, data_key: str) -> Scan[Any]:
    stored = StoredDataset(path)
    config.require_stimuli(stored.stimulus_tensor, data_key)
    trials = choose_trials(config, stored, data_key)
    chosen = choose_units(config, stored, table, data_key)
    scan: ScanMovies | ScanImages
    if isinstance(config, MovieClips):
        scan = ScanMovies(stored, config, chosen, trials)
    else:
        assert isinstance(config, ImageConfiguration)
        scan = ScanImages(stored, config, chosen, trials)
    if table is not None:
        ids = scan.info.unit_ids
        scan.info = dataclasses.replace(
            scan.info, unit_positions=table.positions_of(ids), match_ids=table.matches_of(ids)
        )
    return scan


def _training_sampler(scan: Scan[Any], batch_size: int, seed: int) -> Sampler[Any]:
    if isinstance(scan, ScanMovies):
        return TrainingClips(scan, batch_size, seed)
    assert isinstance(scan, ScanImages)
    return TrainingImages(scan, batch_size, seed)


def _aside(scans: Sequence[Scan[Any]], batch_size: int, workers: int) -> int:
    """Return the bytes that batches and reading take, whatever stays in memory."""
    training, whole = zip(*(scan.batch_bytes(batch_size) for scan in scans), strict=True)
    # Of each scan one batch is in use while the next is made, and a worker has two ready; evaluation goes scan by scan.
    batches = max((2 + 2 * workers) * sum(training), 2 * max(whole))
    opened = sum(SCAN_BYTES + TRIAL_BYTES * len(scan.lengths) for scan in scans) * (1 + workers)
    return batches + opened + PROCESS_BYTES * (1 + workers * len(scans))  # each scan has workers of its own


def _share_memory(scans: Sequence[Scan[Any]], memory: int, workers: int) -> None:
    """Let scans keep equal fractions of their data: first of their training trials, then of the others."""
    left = max(memory, 0)
    for training, copies in ((True, max(workers, 1)), (False, 1)):  # each worker keeps its own copy
        rows = [[row for t, r in scan.trials.items() if (t == "train") == training for row in r] for scan in scans]
        sizes = [scan.nbytes(own) * copies for scan, own in zip(scans, rows, strict=True)]
        share = min(1.0, left / max(sum(sizes), 1))
        for scan, own, size in zip(scans, rows, sizes, strict=True):
            left -= scan.keep(own, int(size * share) // copies) * copies
