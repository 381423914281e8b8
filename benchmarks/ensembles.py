"""Several seeds of one network, trained together and one after the other, on a scan from disk."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.harness import Work
from benchmarks.ingest import convert_recording, open_scan
from benchmarks.networks import DATA_KEY, Task
from benchmarks.whole import PRESET, Sizes
from pipeline.datasets.info import DataInfo
from pipeline.datasets.loaders import ScanLoaders, open_loaders
from pipeline.models import Encoder, build_encoder
from pipeline.presets import preset
from pipeline.simulation.v1 import simulate_v1
from pipeline.training import Default, train, train_together

SMALLEST = 40
"""Images of a recording: fewer cannot be simulated."""


def open_seeds(
    task: Task, seeds: Sequence[int], together: bool, steps: int, device: str = "cpu", reopen: bool = True
) -> Work:
    """Return work that trains every seed for one epoch of some steps, with evaluations before, after and at the end.

    It begins with a simulated recording that has been converted, opens it as `Model.populate` does, and counts images.

    Parameters
    ----------
    task : Task
        Of images.
    seeds : sequence of int
    together : bool
        On one pass through the data; otherwise one seed after the other.
    steps : int
        More if their batches are fewer images than `SMALLEST`.
    device : str
    reopen : bool
        One after the other, each seed opens the scan for itself, as every training of its own does; otherwise all use
        the loaders of the first, whose data are in memory then.
    """
    folder = tempfile.TemporaryDirectory(prefix="benchmark-")  # gone with the work
    tree = Path(folder.name) / "recording"
    images = max(steps * task.batch, SMALLEST)
    simulate_v1(tree, Sizes.of(task, images, task.batch, 1).recording)
    convert_recording(open_scan(tree), Path(folder.name) / "stored")
    settings = Default(max_epochs=1, optimizer="adam", batch_size=task.batch)

    def opened() -> tuple[ScanLoaders, DataInfo]:
        paths = {DATA_KEY: Path(folder.name) / "stored"}
        return open_loaders(paths, preset(PRESET).data, settings.batch_size, settings.order_seed)

    def fresh(info: DataInfo, seed: int) -> Encoder:
        return build_encoder(task.network(), info, seed).to(device)

    def work() -> int:
        loaders, info = opened()
        if together:
            train_together([fresh(info, seed) for seed in seeds], loaders, settings, list(seeds))
        else:
            for number, seed in enumerate(seeds):
                if number and reopen:
                    loaders, info = opened()
                train(fresh(info, seed), loaders, settings, seed)
        if device != "cpu":
            torch.cuda.synchronize()
        return len(seeds) * images

    return work
