"""The benchmark ``training``: steps of published networks, ours against plain modules in the usual loop."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console

from benchmarks.ensembles import open_seeds
from benchmarks.harness import (
    MIB,
    OURS,
    Alternative,
    Target,
    compare,
    cpu_ratios,
    memory_of_work,
    one_core,
    print_comparison,
    ratios,
    report,
)
from benchmarks.networks import Task
from benchmarks.steps import flops, losses, multiply, open_steps
from benchmarks.whole import Sizes, whole_training

SETTLING, EPOCHS = 4, 5
"""Repetitions until memory has settled in the allocator, and those after them over which it should not grow."""

FULL = {
    "images": Task(batch=64, units=5335, frames=0, channels=(64,)),
    "movies": Task(batch=8, units=1000, frames=80, channels=(32, 64, 128)),
    "seeds": Task(batch=64, units=1000, frames=0, channels=(32,)),
    "whole": Task(batch=64, units=300, frames=0, channels=(16,)),
}
QUICK = {
    "images": Task(batch=4, units=20, frames=0, channels=(8,)),
    "movies": Task(batch=2, units=20, frames=24, channels=(4, 4, 4)),
    "seeds": Task(batch=4, units=20, frames=0, channels=(8,)),
    "whole": Task(batch=8, units=12, frames=0, channels=(4,)),
}

TRIALS = {"full": (2000, 300), "quick": (60, 20)}
"""Images of whole trainings, and of their validation."""

_IMPORTS = ("benchmarks.steps",)


@dataclass(frozen=True)
class Options:
    """What all parts of the benchmark share; see `training`."""

    console: Console
    tasks: Mapping[str, Task]
    device: str
    quick: bool
    steps: int
    repetitions: int
    curve: int
    memory: bool
    levers: bool
    seeds: int
    epochs: int


def training(
    json: Annotated[Path | None, typer.Option(help="write the figures to this file")] = None,
    only: Annotated[str, typer.Option(help="one part: images, movies, seeds or whole; default: all")] = "",
    quick: Annotated[bool, typer.Option(help="tiny networks and batches: whether it works, not how fast")] = False,
    device: Annotated[str, typer.Option(help="cpu, or cuda where there is one")] = "cpu",
    threads: Annotated[int, typer.Option(help="threads; 1 also keeps the process on one core")] = 1,
    batch: Annotated[int, typer.Option(help="images in a batch; 0 for the published size")] = 0,
    movie_batch: Annotated[int, typer.Option(help="clips in a batch; 0 for the published size")] = 0,
    full_convolutions: Annotated[bool, typer.Option(help="hidden layers of images not depth-separable")] = False,
    steps: Annotated[int, typer.Option(help="steps of one repetition, which is an epoch for the memory")] = 3,
    repetitions: Annotated[int, typer.Option(help="repetitions of everything")] = 7,
    curve: Annotated[int, typer.Option(help="steps over which loss curves are compared")] = 10,
    memory: Annotated[bool, typer.Option(help="measure memory too, each in a process of its own")] = True,
    levers: Annotated[bool, typer.Option(help="measure also what single levers give")] = False,
    seeds: Annotated[int, typer.Option(help="seeds that are trained together and one by one")] = 8,
    epochs: Annotated[int, typer.Option(help="epochs after which a whole training ends in any case")] = 20,
) -> None:
    """Training steps of ours against neuralpredictors' or plain modules: speed, loss curves, memory.

    Both start with the same weights and see the same batches, from memory.
    """
    if threads == 1:
        one_core()
    torch.set_num_threads(threads)
    settings = {name: value for name, value in locals().items() if isinstance(value, int | str)}
    tasks = dict(QUICK if quick else FULL)
    tasks["images"] = dataclasses.replace(tasks["images"], depth_separable=not full_convolutions)
    for name, size in (("images", batch), ("movies", movie_batch)):
        if size:
            tasks[name] = dataclasses.replace(tasks[name], batch=size)
    if only and only not in PARTS:
        raise typer.BadParameter(f"{only!r} is none of {', '.join(PARTS)}", param_hint="--only")
    options = Options(
        Console(width=120), tasks, device, quick, steps, repetitions, curve, memory, levers, seeds, epochs
    )
    figures: dict[str, float] = {}
    for name in [only] if only else PARTS:
        figures |= {f"{name}_{figure}": value for figure, value in PARTS[name](options, name).items()}
    report(options.console, "training", figures, _targets(figures), settings, json)


def _steps(options: Options, name: str) -> dict[str, float]:
    """Compare steps on one task."""
    task = options.tasks[name]
    alternatives = {
        "plain": _alternative(options, task, "plain"),
        OURS: _alternative(options, task, OURS),
        **(_levers(options, task) if options.levers else {}),
    }
    ceiling = Alternative("matmul", multiply, {"side": 2048, "device": options.device})
    measured = compare([*alternatives.values(), ceiling], options.repetitions, memory=False)
    available = measured.pop("matmul").rate
    kind = f"clips of {task.frames} frames" if task.frames else "images"
    title = f"Steps of training: {name}, {task.batch} {kind}, {task.units:,} units"
    print_comparison(options.console, title, measured, "frames/s" if task.frames else "images/s")
    figures = ratios(measured, "per_second")
    figures["step_gflop"] = flops(task) / 1e9
    figures["matmul_gflop_per_second"] = available / 1e9
    for which, what in measured.items():
        suffix = "" if which == OURS else f"_{which}"
        seconds = task.items / what.rate
        figures[f"step_seconds{suffix}"] = seconds
        figures[f"of_matmul{suffix}"] = flops(task) / seconds / available
    figures["largest_difference_of_losses"] = _difference(options, task)
    if options.memory:
        for which in (OURS, "plain"):
            figures |= _memory(alternatives[which])
    for figure, value in figures.items():
        if figure.startswith(("step_", "of_matmul", "largest", "peak", "growth")):
            options.console.print(f"{figure}: {value:,.4g}")
    return figures


def _seeds(options: Options, name: str) -> dict[str, float]:
    """Compare several seeds that are trained together with one after the other."""
    task = options.tasks[name]
    common = {"task": task, "seeds": range(1, options.seeds + 1), "steps": options.steps, "device": options.device}
    alternatives = [
        Alternative(OURS, open_seeds, {**common, "together": True}),
        Alternative("one_by_one", open_seeds, {**common, "together": False}),
        Alternative("one_by_one_opened", open_seeds, {**common, "together": False, "reopen": False}),
    ]
    measured = compare(alternatives, options.repetitions, memory=False)
    title = f"{options.seeds} seeds: {task.batch} images, {task.units:,} units, evaluations included"
    print_comparison(options.console, title, measured, "images/s")
    ratios_of_cpu = cpu_ratios(measured)
    for figure, value in ratios_of_cpu.items():
        options.console.print(f"{figure}: {value:,.4g}")
    return ratios(measured, "per_second") | ratios_of_cpu


def _whole(options: Options, name: str) -> dict[str, float]:
    """Compare whole trainings on a simulated recording."""
    sizes = Sizes.of(options.tasks[name], *TRIALS["quick" if options.quick else "full"], options.epochs)
    return whole_training(options.console, sizes, options.device)


PARTS: dict[str, Callable[[Options, str], dict[str, float]]] = {
    "images": _steps,
    "movies": _steps,
    "seeds": _seeds,
    "whole": _whole,
}
"""By name: functions of the options and that name which print what they measure and return figures."""


def _alternative(options: Options, task: Task, which: str, name: str = "", **settings: Any) -> Alternative:
    arguments = {"task": task, "which": which, "steps": options.steps, "device": options.device, **settings}
    return Alternative(name or which, open_steps, arguments, _IMPORTS)


def _levers(options: Options, task: Task) -> dict[str, Alternative]:
    """Return ours and the plain network with single things changed."""
    changed: dict[str, tuple[str, dict[str, Any]]] = {
        "unfused": (OURS, {"fused": False}),
        "bfloat16": (OURS, {"bfloat16": True}),
        "compiled": (OURS, {"compiled": True}),
        "plain_channels_last": ("plain", {"channels_last": True}),
    }
    return {name: _alternative(options, task, which, name, **what) for name, (which, what) in changed.items()}


def _difference(options: Options, task: Task) -> float:
    """Return the largest relative difference of the losses of the first steps."""
    curves = [losses(task, which, options.curve, options.device) for which in (OURS, "plain")]
    return max(abs(a - b) / abs(b) for a, b in zip(*curves, strict=True))


def _memory(alternative: Alternative) -> dict[str, float]:
    """Return the peak of a fresh process, and by how much it grows over `EPOCHS`."""
    suffix = "" if alternative.name == OURS else f"_{alternative.name}"
    used = memory_of_work(alternative, SETTLING + EPOCHS)
    return {
        f"peak_mib{suffix}": used.peak / MIB,
        f"growth_mib{suffix}": (used.after[-1] - used.after[SETTLING - 1]) / MIB,
    }


def _targets(figures: Mapping[str, float]) -> list[Target]:
    targets = [
        *[Target(f"{name}_ratio_plain", at_least=2.5) for name in ("images", "movies")],
        *[Target(f"{name}_largest_difference_of_losses", at_most=1e-3) for name in FULL],
        *[Target(f"{name}_growth_mib", at_most=16) for name in FULL],
        Target("seeds_cpu_ratio_one_by_one", at_least=1),
        Target("whole_ratio_plain", at_least=2),
        *[Target(f"whole_difference_{when}", at_most=1e-3) for when in ("at_start", "after_epoch_1")],
    ]
    return [target for target in targets if target.figure in figures]
