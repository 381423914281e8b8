"""The order in which batches of several scans are seen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol

from pipeline.datasets.batches import Batch
from pipeline.errors import TrainingError


class Loader(Protocol):
    """A finite, repeatable source of batches: a torch DataLoader, or a list."""

    def __iter__(self) -> Iterator[Batch]: ...

    def __len__(self) -> int: ...


Loaders = Mapping[str, Mapping[str, Loader]]
"""``{tier: {data_key: loader}}``."""


def joint_batches(loaders: Mapping[str, Loader], epoch: int) -> Iterator[dict[str, Batch]]:
    """Yield one batch of every scan at a time until the longest loader is through; shorter ones start over.

    Where a loader's batch sampler has an attribute ``epoch`` that sets its order, it is set, so that the order depends
    only on the epoch and not on what was drawn before.

    Parameters
    ----------
    loaders : mapping of str to Loader
        By data_key.
    epoch : int
        Counted from 1.
    """
    steps = max(len(loader) for loader in loaders.values())
    endless = {data_key: _repeated(loader, epoch, steps) for data_key, loader in loaders.items()}
    for _ in range(steps):
        yield {data_key: next(batches) for data_key, batches in endless.items()}


def _repeated(loader: Loader, epoch: int, steps: int) -> Iterator[Batch]:
    passes = -(-steps // len(loader))
    sampler = getattr(loader, "batch_sampler", None)
    for restart in range(passes):
        if sampler is not None and hasattr(sampler, "epoch"):
            sampler.epoch = (epoch - 1) * passes + restart
        yield from loader


def refuse_empty(loaders: Loaders) -> None:
    """Raise a TrainingError that names the tier and the scan if there is nothing to train or validate with."""
    for tier in ("train", "validation"):
        if not loaders.get(tier):
            raise TrainingError(f"there are no {tier} loaders: give loaders[{tier!r}][data_key]")
        for data_key, loader in loaders[tier].items():
            if not len(loader):
                raise TrainingError(f"{data_key!r} has no {tier} batches: check its tiers and the batch size")
