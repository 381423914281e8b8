"""Several seeds of one network, trained together and one after the other."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from benchmarks.harness import Work
from benchmarks.networks import DATA_KEY, Task
from pipeline.datasets.batches import Batch, ImageBatch, MovieBatch
from pipeline.datasets.info import ScanInfo
from pipeline.models import build_encoder
from pipeline.training import Default, train, train_together

VALIDATION_BATCHES = 1


def open_seeds(task: Task, seeds: Sequence[int], together: bool, steps: int, device: str = "cpu") -> Work:
    """Return work that trains every seed for one epoch of some steps, with evaluations before, after and at the end.

    Parameters
    ----------
    task : Task
    seeds : sequence of int
    together : bool
        On one pass through the data; otherwise one seed after the other.
    steps : int
    device : str
    """
    batches = [as_batch(*batch) for batch in task.batches(steps + VALIDATION_BATCHES)]
    loaders = {"train": {DATA_KEY: batches[:steps]}, "validation": {DATA_KEY: batches[steps:]}}
    info = {DATA_KEY: ScanInfo(tuple(range(task.units)), (1, task.height, task.width), (1.0,) * task.units)}
    settings = Default(max_epochs=1, optimizer="adam")

    def work() -> int:
        encoders = [build_encoder(task.network(), info, seed).to(device) for seed in seeds]
        if together:
            train_together(encoders, loaders, settings, list(seeds))
        else:
            for encoder, seed in zip(encoders, seeds, strict=True):
                train(encoder, loaders, settings, seed)
        if device != "cpu":
            torch.cuda.synchronize()
        return len(seeds) * steps * task.items

    return work


def as_batch(stimuli: torch.Tensor, responses: torch.Tensor) -> Batch:
    """Return a batch as loaders give it."""
    return ImageBatch(stimuli, responses) if stimuli.dim() == 4 else MovieBatch(stimuli, responses)
