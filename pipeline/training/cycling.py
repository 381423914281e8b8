"""The order in which batches of several scans are seen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from pipeline.datasets.batches import Batch
from pipeline.errors import TrainingError
from pipeline.functions import drawn_alike


class Loader(Protocol):
    """A finite, repeatable source of batches: a torch DataLoader, or a list."""

    def __iter__(self) -> Iterator[Batch]: ...

    def __len__(self) -> int: ...


Loaders = Mapping[str, Mapping[str, Loader]]
"""``{tier: {data_key: loader}}``."""


def joint_batches(loaders: Mapping[str, Loader], epoch: int, order_seed: int = 0) -> Iterator[dict[str, Batch]]:
    """Yield one batch of every scan at a time until the longest loader is through; shorter ones start over.

    Batches depend on the epoch only and not on what was drawn before: where a loader, or its batch sampler, has an
    attribute ``epoch`` that sets its order, it is set; all others draw random numbers of their own.

    Parameters
    ----------
    loaders : mapping of str to Loader
        By data_key.
    epoch : int
        Counted from 1.
    order_seed : int
        For loaders without an ``epoch``, such as a DataLoader that shuffles.
    """
    steps = max(len(loader) for loader in loaders.values())
    endless = {
        data_key: _repeated(loader, epoch, steps, order_seed, number)
        for number, (data_key, loader) in enumerate(loaders.items())
    }
    for _ in range(steps):
        yield {data_key: next(batches) for data_key, batches in endless.items()}


def _repeated(loader: Loader, epoch: int, steps: int, *seeds: int) -> Iterator[Batch]:
    passes = -(-steps // len(loader))
    ordered: Any = loader if hasattr(loader, "epoch") else getattr(loader, "batch_sampler", None)
    for restart in range((epoch - 1) * passes, epoch * passes):
        if hasattr(ordered, "epoch"):
            ordered.epoch = restart
            yield from loader
        else:
            yield from drawn_alike(loader, restart, *seeds)


def refuse_empty(loaders: Loaders) -> None:
    """Raise a TrainingError that names the tier and the scan if there is nothing to train or validate with."""
    for tier in ("train", "validation"):
        if not loaders.get(tier):
            raise TrainingError(f"there are no {tier} loaders: give loaders[{tier!r}][data_key]")
        for data_key, loader in loaders[tier].items():
            if not len(loader):
                raise TrainingError(f"{data_key!r} has no {tier} batches: check its tiers and the batch size")
