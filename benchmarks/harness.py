"""What every benchmark shares: alternatives run in turn, medians, ratios, peak memory, a table and a JSON file."""

from __future__ import annotations

import contextlib
import importlib
import json
import multiprocessing
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

Work = Callable[[], int]
"""One repetition: does the work and returns how many items (frames, images, bytes) it did."""

MIB = 2**20
OURS = "ours"

MEMORY_REPETITIONS = 3
"""Work done before the peak of memory is read: caches that fill slowly shall have filled."""


@dataclass(frozen=True)
class Alternative:
    """One way of doing the work.

    Attributes
    ----------
    name : str
        Part of figures' names, such as 'filetree'; `OURS` for our own.
    open : callable
        Called with ``arguments`` it opens what is needed and returns the `Work`. A function of a module, so that a
        process of its own can run it.
    arguments : mapping
        Its keyword arguments.
    imports : tuple of str
        Modules that are imported before memory counts: libraries are no data.
    """

    name: str
    open: Callable[..., Work]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    imports: tuple[str, ...] = ()


@dataclass(frozen=True)
class Measured:
    """What was measured of one alternative.

    Attributes
    ----------
    rates : tuple of float
        Items a second, one for each repetition.
    opening : float
        Seconds until the work could begin.
    busy : float
        Share of the wall clock's time in which the process computed; well below 1 it waited, for the disk or because
        the machine was busy with something else.
    peak : float
        Peak of the resident memory (bytes) above that before opening, in a process of its own; NaN if not measured.
    computing : tuple of float
        Seconds of the processor that an item took, one for each repetition.
    """

    rates: tuple[float, ...]
    opening: float
    busy: float
    peak: float = float("nan")
    computing: tuple[float, ...] = ()

    @property
    def rate(self) -> float:
        """The median rate."""
        return statistics.median(self.rates)


@dataclass(frozen=True)
class Target:
    """A bound that a figure should keep."""

    figure: str
    at_least: float | None = None
    at_most: float | None = None

    def met(self, figures: Mapping[str, float]) -> bool:
        """Tell whether the figure keeps the bound; NaN keeps none."""
        value = figures[self.figure]
        low = -float("inf") if self.at_least is None else self.at_least
        high = float("inf") if self.at_most is None else self.at_most
        return low <= value <= high

    def __str__(self) -> str:
        bound = f"at least {self.at_least:,.6g}" if self.at_most is None else f"at most {self.at_most:,.6g}"
        return f"{self.figure} {bound}"


def one_core() -> None:
    """Keep this process on one core and torch on one thread."""
    import torch

    torch.set_num_threads(1)
    if hasattr(os, "sched_setaffinity"):  # also holds libraries that start threads of their own
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def compare(alternatives: Sequence[Alternative], repetitions: int, memory: bool = True) -> dict[str, Measured]:
    """Measure alternatives by name.

    All are opened in this process and do their work once unmeasured, which fills caches. Then they take turns, so that
    whatever slows the machine down for a while slows all of them.
    """
    work, opening = {}, {}
    for alternative in alternatives:
        started = time.perf_counter()
        work[alternative.name] = alternative.open(**alternative.arguments)
        opening[alternative.name] = time.perf_counter() - started
        work[alternative.name]()
    rates: dict[str, list[float]] = {name: [] for name in work}
    busy: dict[str, list[float]] = {name: [] for name in work}
    spent: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(repetitions):
        for name, run in work.items():
            wall, computing = time.perf_counter(), time.process_time()
            items = run()
            wall, computing = time.perf_counter() - wall, time.process_time() - computing
            rates[name].append(items / wall)
            busy[name].append(computing / wall)
            spent[name].append(computing / items)
    return {
        alternative.name: Measured(
            rates=tuple(rates[alternative.name]),
            opening=opening[alternative.name],
            busy=statistics.median(busy[alternative.name]),
            peak=peak_memory(alternative) if memory else float("nan"),
            computing=tuple(spent[alternative.name]),
        )
        for alternative in alternatives
    }


def peak_memory(alternative: Alternative) -> float:
    """Return by how many bytes the resident memory of a fresh process grows at most while it opens and works."""
    return memory_of_work(alternative, MEMORY_REPETITIONS).peak


@dataclass(frozen=True)
class Memory:
    """Resident memory of a fresh process above that before opening (bytes).

    Attributes
    ----------
    peak : float
        The highest.
    after : tuple of float
        After each repetition.
    """

    peak: float
    after: tuple[float, ...]


def memory_of_work(alternative: Alternative, repetitions: int) -> Memory:
    """Open an alternative in a fresh process, do its work again and again, and return the memory that it took."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_report_memory, args=(alternative, repetitions, sender))
    process.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        raise RuntimeError(f"{alternative.name}: the process that measures memory died; see above") from None
    finally:
        process.join()


def _report_memory(alternative: Alternative, repetitions: int, sender: Any) -> None:
    one_core()
    for module in alternative.imports:
        importlib.import_module(module)
    _forget_peak()
    before = psutil.Process().memory_info().rss
    work = alternative.open(**alternative.arguments)
    after = []
    for _ in range(repetitions):
        work()
        after.append(float(psutil.Process().memory_info().rss - before))
    sender.send(Memory(float(_peak() - before), tuple(after)))


def _forget_peak() -> None:
    with contextlib.suppress(OSError):  # without it, as on macOS, the peak includes that of the imports
        Path("/proc/self/clear_refs").write_text("5")


def _peak() -> int:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def ratios(measured: Mapping[str, Measured], rate: str, prefix: str = "") -> dict[str, float]:
    """Return the flat figures of one comparison.

    Parameters
    ----------
    measured : mapping
        From `compare`; one is `OURS`.
    rate : str
        What the rate is called, such as 'frames_per_second'.
    prefix : str
        Begins every name, such as 'budget_'.

    Returns
    -------
    dict
        ``<rate>`` and ``peak_mib`` of ours, ``<rate>_<name>``, ``peak_mib_<name>`` and ``ratio_<name>`` (our median
        rate divided by that one's) of the others.
    """
    figures: dict[str, float] = {}
    for name, what in measured.items():
        suffix = "" if name == OURS else f"_{name}"
        figures[f"{prefix}{rate}{suffix}"] = what.rate
        figures[f"{prefix}opening_seconds{suffix}"] = what.opening
        if what.peak == what.peak:
            figures[f"{prefix}peak_mib{suffix}"] = what.peak / MIB
        if suffix:
            figures[f"{prefix}ratio{suffix}"] = measured[OURS].rate / what.rate
    return figures


def cpu_ratios(measured: Mapping[str, Measured]) -> dict[str, float]:
    """Return ``cpu_ratio_<name>``: by how much more of the processor's time the others took than ours.

    Each repetition is compared with ours of the same turn. The median, and ``_lowest`` and ``_highest`` after its name:
    unlike ratios of the wall clock's time they hold on a machine that is shared.
    """
    figures: dict[str, float] = {}
    for name, what in measured.items():
        if name != OURS:
            found = [theirs / ours for theirs, ours in zip(what.computing, measured[OURS].computing, strict=True)]
            figures[f"cpu_ratio_{name}"] = statistics.median(found)
            figures |= {f"cpu_ratio_{name}_lowest": min(found), f"cpu_ratio_{name}_highest": max(found)}
    return figures


def print_comparison(console: Console, title: str, measured: Mapping[str, Measured], unit: str) -> None:
    """Print one line for each alternative."""
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for heading in (unit, "slowest to fastest", "ours / this", "open (s)", "busy", "peak (MiB)"):
        table.add_column(heading, justify="right")
    for name, what in measured.items():
        table.add_row(
            name,
            f"{what.rate:,.0f}",
            f"{min(what.rates):,.0f} to {max(what.rates):,.0f}",
            f"{measured[OURS].rate / what.rate:.2f}" if OURS in measured else "",
            f"{what.opening:.2f}",
            f"{what.busy:.0%}",
            f"{what.peak / MIB:,.0f}" if what.peak == what.peak else "",
        )
    console.print(table)


def machine() -> dict[str, Any]:
    """Return the facts of this machine and its software that speeds depend on."""
    import numpy
    import torch

    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "cores_used": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def report(
    console: Console,
    name: str,
    figures: Mapping[str, float],
    targets: Iterable[Target] = (),
    settings: Mapping[str, Any] | None = None,
    path: Path | None = None,
) -> None:
    """Print which targets are met and the machine; write ``{"name": ..., "figures": {...}, ...}`` to ``path``."""
    met = {str(target): target.met(figures) for target in targets}
    for target in targets:
        outcome = "[green]met[/green]" if met[str(target)] else "[red]MISSED[/red]"
        console.print(f"{outcome}  {target}: {figures[target.figure]:,.6g}")
    facts = machine()
    console.print("[dim]" + ", ".join(f"{key} {value}" for key, value in facts.items()) + "[/dim]")
    if path is not None:
        content = {"name": name, "figures": dict(figures), "targets": met, "settings": settings or {}, "machine": facts}
        path.write_text(json.dumps(content, indent=1) + "\n")
