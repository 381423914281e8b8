"""Whole trainings of one network, ours and the plain composition, until validation says that it is enough."""

from __future__ import annotations

import dataclasses
import importlib
import math
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from benchmarks.harness import OURS
from benchmarks.ingest import convert_recording, open_scan
from benchmarks.networks import DATA_KEY, Task, plain_network
from benchmarks.steps import poisson
from pipeline.datasets.info import ScanInfo
from pipeline.datasets.loaders import open_loaders
from pipeline.legacy import neuralpredictors_module
from pipeline.models import Encoder, build_encoder
from pipeline.presets import preset
from pipeline.simulation.v1 import V1Settings, simulate_v1
from pipeline.training import Default, train
from pipeline.training.memory import keep_freed_memory

PRESET = "lurz2020"
SEED = 1
SHARE = 0.98
"""Part of the lower of the two best correlations that both have to reach."""

_IMPORTS = ("benchmarks.baselines", "deeplake")

OnEpoch = Callable[[float], None]
"""Called with the validation correlation after each epoch."""


@dataclass(frozen=True)
class Sizes:
    """What is trained on which recording.

    Attributes
    ----------
    task : Task
        Network and batch; its images are those of the recording.
    recording : V1Settings
    max_epochs : int
    """

    task: Task
    recording: V1Settings
    max_epochs: int

    @classmethod
    def of(cls, task: Task, n_train: int, n_validation: int, max_epochs: int) -> Sizes:
        """Return sizes with a recording of the task's units and images."""
        recording = V1Settings(
            n_units=task.units,
            n_train=n_train,
            n_validation=n_validation,
            n_test=2,
            test_repeats=2,
            height=task.height,
            width=task.width,
        )
        return cls(task, recording, max_epochs)

    @property
    def settings(self) -> Default:
        """The preset's trainer."""
        return dataclasses.replace(preset(PRESET).train, batch_size=self.task.batch, max_epochs=self.max_epochs)

    def encoder(self, mean_responses: Sequence[float]) -> Encoder:
        """Return our encoder, always with the same weights; biases give the mean responses."""
        shape = (1, self.task.height, self.task.width)
        scan = ScanInfo(tuple(range(self.task.units)), shape, tuple(mean_responses))
        return build_encoder(self.task.network(), {DATA_KEY: scan}, SEED)


@dataclass(frozen=True)
class Reached:
    """Where a training stands after an epoch, counted from its start without the other's turns.

    Attributes
    ----------
    seconds, computing : float
        By the clock, and of the processor.
    correlation : float
        Single-trial correlation on the validation tier.
    """

    seconds: float
    computing: float
    correlation: float


@dataclass(frozen=True)
class Course:
    """A whole training.

    Attributes
    ----------
    initial : float
        Validation correlation before the first epoch.
    epochs : tuple of Reached
    seconds : float
        Until it ended by itself.
    """

    initial: float
    epochs: tuple[Reached, ...]
    seconds: float

    @property
    def best(self) -> float:
        """The highest validation correlation."""
        return max(reached.correlation for reached in self.epochs)

    def first(self, level: float) -> int:
        """Return the number of the first epoch, counted from 1, after which the correlation is at least this high."""
        return next(number for number, reached in enumerate(self.epochs, 1) if reached.correlation >= level)


def whole_training(console: Console, sizes: Sizes, device: str) -> dict[str, float]:
    """Train both on a simulated recording, epoch by epoch in turns; print the courses and return figures."""
    with tempfile.TemporaryDirectory(prefix="benchmark-") as scratch:
        tree, stored = Path(scratch) / "recording", Path(scratch) / "stored"
        simulate_v1(tree, sizes.recording)
        write_statistics(tree)
        started = time.perf_counter()
        recording = open_scan(tree)
        opened = time.perf_counter()
        convert_recording(recording, stored)
        ingest = {"reading_seconds": opened - started, "conversion_seconds": time.perf_counter() - opened}
        courses = in_turns({OURS: (train_ours, stored), "plain": (train_plain, tree)}, sizes, device)
    _print(console, sizes, courses)
    figures = ingest | figures_of(courses, sum(ingest.values()))
    for figure, value in figures.items():
        if not figure.startswith("after_epoch_"):
            console.print(f"{figure}: {value:,.4g}")
    return figures


def write_statistics(tree: Path) -> None:
    """Add the statistics of the training tier, which published recordings have and neuralpredictors asks for."""
    train = np.flatnonzero(np.load(tree / "meta" / "trials" / "tiers.npy") == b"train")
    for name in ("images", "responses"):
        values = np.stack([np.load(tree / "data" / name / f"{index}.npy") for index in train]).astype(np.float64)
        axis = None if name == "images" else 0
        folder = tree / "meta" / "statistics" / name / "all"
        folder.mkdir(parents=True)
        np.save(folder / "mean.npy", np.float32(values.mean(axis=axis)))
        np.save(folder / "std.npy", np.float32(values.std(axis=axis, ddof=1)))


def train_ours(stored: Path, sizes: Sizes, device: str, on_epoch: OnEpoch) -> float:
    """Train by our loaders and trainer; return the correlation before training."""
    settings, config = sizes.settings, preset(PRESET).data
    loaders, info = open_loaders({DATA_KEY: stored}, config, settings.batch_size, settings.order_seed)
    encoder = sizes.encoder(info[DATA_KEY].mean_responses).to(device)
    result = train(encoder, loaders, settings, SEED, lambda epoch: on_epoch(epoch.validation_correlation))
    return result.initial_correlation


def train_plain(tree: Path, sizes: Sizes, device: str, on_epoch: OnEpoch) -> float:
    """Train by neuralpredictors' modules, cached FileTree and early stopping; return the correlation before training.

    The loop is that of the Sensorium trainers. Loss, its scale and all settings are those of ours. So are the order of
    the images and the random numbers of the readout, without which courses differ by luck.
    """
    from benchmarks import baselines

    keep_freed_memory()  # as ours: the usual loop has no such thing
    loaders = baselines.filetree_tiers(tree, sizes.task.batch, sizes.settings.order_seed)
    mean, std = (np.load(tree / "meta" / "statistics" / "responses" / "all" / f"{of}.npy") for of in ("mean", "std"))
    network: Any = plain_network(sizes.task, sizes.encoder((mean / std).tolist())).to(device).train()
    settings, scale = sizes.settings, math.sqrt(len(loaders["train"]))
    optimizer = torch.optim.Adam(network.parameters(), lr=settings.lr_init)
    found: list[float] = []
    epochs = 0

    def evaluate(network: nn.Module) -> float:
        correlation = plain_correlation(network, loaders["validation"], device)
        if len(found) == epochs:  # not once more when the best weights are restored
            found.append(correlation)
            if epochs:
                on_epoch(correlation)
        return correlation

    for _ in _early_stopping(network, evaluate, optimizer, settings):
        epochs += 1
        torch.manual_seed(int(np.random.SeedSequence((SEED, epochs)).generate_state(1)[0]))  # as `Member.random`
        for images, responses in loaders["train"]:
            images, responses = images.to(device), responses.to(device)
            optimizer.zero_grad()
            loss = scale * poisson(network(images, data_key=DATA_KEY), responses)
            loss = loss + network.regularizer(data_key=DATA_KEY)
            loss.backward()
            optimizer.step()
            loss.item()
    return found[0]


def _early_stopping(network: nn.Module, evaluate: Any, optimizer: torch.optim.Optimizer, settings: Default) -> Any:
    """Return neuralpredictors' iterator over (epoch, correlation before it), with the scheduler that goes with it."""
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer,
        mode="max",
        factor=settings.lr_decay_factor,
        patience=settings.patience,
        threshold=settings.min_delta,
        threshold_mode="abs",
        min_lr=settings.min_lr,
    )
    return neuralpredictors_module("training").early_stopping(
        network,
        evaluate,
        interval=1,
        patience=settings.patience,
        max_iter=settings.max_epochs,
        tolerance=settings.min_delta,
        scheduler=scheduler,
        lr_decay_steps=settings.lr_decay_steps,
    )


def plain_correlation(network: nn.Module, loader: Any, device: str) -> float:
    """Return the validation correlation as the Sensorium trainers do: everything joined, then each unit; mean."""
    targets, outputs = torch.empty(0), torch.empty(0)
    with torch.no_grad():
        for images, responses in loader:
            outputs = torch.cat((outputs, network(images.to(device), data_key=DATA_KEY).detach().cpu()))
            targets = torch.cat((targets, responses.detach().cpu()))
    found = neuralpredictors_module("measures").corr(targets.numpy(), outputs.numpy(), axis=0)
    return float(np.nan_to_num(found, nan=0.0).mean())


Training = Callable[[Path, Sizes, str, OnEpoch], float]


def in_turns(trainings: Mapping[str, tuple[Training, Path]], sizes: Sizes, device: str) -> dict[str, Course]:
    """Run trainings in processes of their own, one epoch of each after the other.

    So whatever slows the machine down for a while slows all of them, and none shares another's allocator, random
    numbers or settings of arithmetic.
    """
    context = multiprocessing.get_context("spawn")
    running, found = {}, {}
    epochs: dict[str, list[Reached]] = {name: [] for name in trainings}
    for name, (training, path) in trainings.items():
        ours, theirs = context.Pipe()
        arguments = (training, path, sizes, device, torch.get_num_threads(), theirs)
        process = context.Process(target=_take_turns, args=arguments, daemon=True)
        process.start()
        theirs.close()
        running[name] = ours
    while running:
        for name, connection in list(running.items()):
            connection.send(None)
            try:
                reached = connection.recv()
            except EOFError:
                raise RuntimeError(f"{name}: the process that trains died; see above") from None
            if isinstance(reached, Reached):
                epochs[name].append(reached)
            else:
                initial, seconds = reached
                found[name] = Course(initial, tuple(epochs[name]), seconds)
                del running[name]
    return found


def _take_turns(training: Training, path: Path, sizes: Sizes, device: str, threads: int, connection: Any) -> None:
    torch.set_num_threads(threads)
    for module in _IMPORTS:
        importlib.import_module(module)
    connection.recv()
    begun, spent = _clocks(), np.zeros(2)

    def on_epoch(correlation: float) -> None:
        nonlocal begun, spent
        spent = spent + _clocks() - begun
        connection.send(Reached(*spent.tolist(), correlation))
        connection.recv()
        begun = _clocks()

    initial = training(path, sizes, device, on_epoch)
    connection.send((initial, float((spent + _clocks() - begun)[0])))


def _clocks() -> np.ndarray:
    return np.array([time.perf_counter(), time.process_time()])


def figures_of(courses: Mapping[str, Course], ingest: float) -> dict[str, float]:
    """Return the flat figures of both courses; ``ingest`` are the seconds that ours took before its loaders."""
    lower = min(course.best for course in courses.values())
    level = lower - (1 - SHARE) * abs(lower)
    figures = {"level": level}
    for name, course in courses.items():
        suffix = "" if name == OURS else f"_{name}"
        needed = course.first(level)
        last = (0.0, *[reached.seconds for reached in course.epochs])
        own = {
            "initial_correlation": course.initial,
            "best_correlation": course.best,
            "epochs": len(course.epochs),
            "epochs_to_level": needed,
            "seconds_to_level": course.epochs[needed - 1].seconds,
            "cpu_seconds_to_level": course.epochs[needed - 1].computing,
            "epoch_seconds": statistics.median(np.diff(last).tolist()),
            "training_seconds": course.seconds,
            "busy": course.epochs[-1].computing / course.epochs[-1].seconds,
        }
        for number, reached in enumerate(course.epochs, 1):
            own[f"after_epoch_{number}_seconds"] = reached.seconds
            own[f"after_epoch_{number}_correlation"] = reached.correlation
        figures |= {f"{figure}{suffix}": value for figure, value in own.items()}
    ours, plain = figures["seconds_to_level"], figures["seconds_to_level_plain"]
    figures["ratio_plain"] = plain / ours
    figures["ratio_with_ingest_plain"] = plain / (ours + ingest)
    figures["cpu_ratio_plain"] = figures["cpu_seconds_to_level_plain"] / figures["cpu_seconds_to_level"]
    figures["epoch_ratio_plain"] = figures["epoch_seconds_plain"] / figures["epoch_seconds"]
    for when, figure in (("at_start", "initial_correlation"), ("after_epoch_1", "after_epoch_1_correlation")):
        figures[f"difference_{when}"] = abs(figures[figure] - figures[f"{figure}_plain"])
    return figures


def _print(console: Console, sizes: Sizes, courses: Mapping[str, Course]) -> None:
    task, recording = sizes.task, sizes.recording
    title = (
        f"Whole training: {recording.n_train:,} images {task.height} x {task.width}, {task.batch} a batch, "
        f"{task.units:,} units, {task.channels[0]} channels"
    )
    table = Table(title=title, title_justify="left")
    table.add_column("epoch", justify="right")
    for name in courses:
        table.add_column(f"{name}, s", justify="right")
        table.add_column("correlation", justify="right")
    for number in range(max(len(course.epochs) for course in courses.values())):
        cells = []
        for course in courses.values():
            there = course.epochs[number : number + 1]
            cells += [f"{there[0].seconds:,.1f}", f"{there[0].correlation:.4f}"] if there else ["", ""]
        table.add_row(str(number + 1), *cells)
    console.print(table)
