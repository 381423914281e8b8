"""The benchmark ``mei``: seconds a unit, ours against one stimulus at a time over whole frames and all units."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from torch import Tensor

from benchmarks.harness import OURS, Alternative, Target, Work, compare, one_core, print_comparison, ratios, report
from benchmarks.networks import DATA_KEY, Task, plain_network
from pipeline.configuration import Configuration
from pipeline.mei.engine import find_meis
from pipeline.mei.settings import Modern, Movie
from pipeline.mei.smoothing import gaussian_matrix
from pipeline.models import Encoder
from pipeline.training.memory import keep_freed_memory

FULL = {
    "images": Task(batch=1, units=5335, frames=0, channels=(64,)),
    "movies": Task(batch=1, units=1000, frames=20, channels=(32, 64, 128)),
}
QUICK = {
    "images": Task(batch=1, units=20, frames=0, channels=(8,)),
    "movies": Task(batch=1, units=20, frames=20, channels=(4, 4, 4)),
}
ITERATIONS = {"images": 100, "movies": 30}
UNITS = {"full": (64, 4), "quick": (6, 2)}
"""Units whose stimuli are found by ours, and by the loop, which takes too long for all."""

_DRIVE = 30.0
"""Factor of the feature weights, by which responses rise to several times those to grey."""

_IMPORTS = ("benchmarks.mei",)


@dataclass(frozen=True)
class Case:
    """What stimuli are found for.

    Attributes
    ----------
    task : Task
        The network.
    iterations : int
        Steps of both; all are made.
    device : str
    """

    task: Task
    iterations: int
    device: str = "cpu"

    def settings(self) -> Movie:
        """Return what both do: steps of scheduled length along the blurred gradient, at a norm of 10 (images)."""
        frames = max(1, self.task.frames)
        return Movie(
            frames=frames,
            norm=10.0 * frames**0.5,
            iterations=self.iterations,
            patience=self.iterations + 1,
            blur_time=0,
        )

    def encoder(self) -> Encoder:
        """Return our network, always with the same weights; units have places all over the frame."""
        encoder = self.task.encoder()
        random = torch.Generator().manual_seed(4)
        with torch.no_grad():
            readout = encoder.readouts[DATA_KEY]
            readout.mu.copy_(torch.rand(readout.mu.shape, generator=random) * 1.8 - 0.9)
            # Untrained features hardly vary: what stimuli do must not be lost beside the response to grey.
            readout.features.normal_(generator=random).mul_(_DRIVE)
            if readout.bias is not None:
                readout.bias.zero_()
        return encoder.eval().to(self.device)

    def chosen(self, count: int) -> list[int]:
        """Return so many units, spread over all."""
        return torch.linspace(0, self.task.units - 1, count).long().tolist()


def open_ours(case: Case, units: int, settings: Configuration, window: bool = True, paired: bool = True) -> Work:
    """Return work that finds the stimuli of so many units together.

    Parameters
    ----------
    case : Case
    units : int
    settings : Configuration
    window, paired : bool
        Without: whole frames go through the core; all units asked for are evaluated on all stimuli.
    """
    keep_freed_memory()
    encoder, chosen = case.encoder(), case.chosen(units)
    if not window or not paired:
        encoder.core.local_layers = lambda: None  # type: ignore[method-assign]
    if not paired:
        encoder.respond_paired = super(Encoder, encoder).respond_paired  # type: ignore[method-assign]

    def work() -> int:
        find_meis(encoder, DATA_KEY, encoder.data_info[DATA_KEY], chosen, settings)
        return units

    return work


def open_loop(case: Case, units: int) -> Work:
    """Return work that finds the stimuli of so many units one after the other, as `loop` does."""
    keep_freed_memory()
    step = loop(case)

    def work() -> int:
        for unit in case.chosen(units):
            for _ in step(unit):
                pass
        return units

    return work


def loop(case: Case) -> Callable[[int], Iterator[float]]:
    """Return the loop that there was: one stimulus through neuralpredictors' network, all units, and backwards.

    Given a unit, it yields the response at each step. It does what `Case.settings` says. The objective is evaluated
    once a step; the package ``mei`` does so twice.
    """
    settings, task = case.settings(), case.task
    network = plain_network(task, case.encoder().cpu()).eval().to(case.device)
    rows, columns = (gaussian_matrix(n, settings.blur_space).to(case.device) for n in (task.height, task.width))
    scan = case.encoder().data_info[DATA_KEY]
    low, high = ((level - scan.input_mean) / scan.input_std for level in (0.0, 255.0))
    shape = (1, settings.frames, task.height, task.width)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * settings.start_contrast

    def constrained(stimulus: Tensor) -> Tensor:
        return (stimulus * (settings.norm / stimulus.norm())).clamp(low, high)

    def run(unit: int) -> Iterator[float]:
        stimulus = constrained(noise[None].to(case.device))
        for iteration in range(settings.iterations):
            stimulus = stimulus.detach().requires_grad_(True)
            responses = network(stimulus if task.frames else stimulus[:, :, 0], data_key=DATA_KEY)
            response = responses[0, unit, -1] if task.frames else responses[0, unit]
            response.backward()
            yield float(response.detach())
            assert stimulus.grad is not None
            smooth = rows @ stimulus.grad @ columns.T
            progress = iteration / max(settings.iterations - 1, 1)
            length = settings.norm * (settings.step_start + (settings.step_end - settings.step_start) * progress)
            stimulus = constrained(stimulus.detach() + length * smooth / smooth.norm())
        with torch.no_grad():
            responses = network(stimulus if task.frames else stimulus[:, :, 0], data_key=DATA_KEY)
        yield float(responses[0, unit, -1] if task.frames else responses[0, unit])

    return run


def gaps(case: Case, units: int) -> dict[str, float]:
    """Return by how much activations differ at most, relative to those of the loop.

    Returns
    -------
    dict
        ``activation_gap`` of ours, either way; ``activation_shortfall_modern`` of images that converge, which may be
        better; negative if all are.
    """
    chosen, encoder, run = case.chosen(units), case.encoder(), loop(case)
    looped = torch.tensor([max(run(unit)) for unit in chosen])

    def found(settings: Configuration) -> Tensor:
        return torch.tensor(find_meis(encoder, DATA_KEY, encoder.data_info[DATA_KEY], chosen, settings).activation)

    figures = {"activation_gap": float((found(case.settings()) / looped - 1).abs().max())}
    if not case.task.frames:
        figures["activation_shortfall_modern"] = float((1 - found(modern(case)) / looped).max())
    return figures


def modern(case: Case) -> Modern:
    """Return images of the same norm that stop where nothing is gained any more."""
    return Modern(norm=case.settings().norm)


def mei(
    json: Annotated[Path | None, typer.Option(help="write the figures to this file")] = None,
    only: Annotated[str, typer.Option(help="one part: images or movies; default: both")] = "",
    quick: Annotated[bool, typer.Option(help="tiny networks: whether it works, not how fast")] = False,
    device: Annotated[str, typer.Option(help="cpu, or cuda where there is one")] = "cpu",
    threads: Annotated[int, typer.Option(help="threads; 1 also keeps the process on one core")] = 1,
    units: Annotated[int, typer.Option(help="units whose stimuli ours finds; 0 for 64")] = 0,
    loop_units: Annotated[int, typer.Option(help="units of the loop; 0 for 4")] = 0,
    iterations: Annotated[int, typer.Option(help="steps of each stimulus; 0 for 100 (images) and 30 (movies)")] = 0,
    repetitions: Annotated[int, typer.Option(help="repetitions of everything")] = 3,
    memory: Annotated[bool, typer.Option(help="measure memory too, each in a process of its own")] = True,
    levers: Annotated[bool, typer.Option(help="measure also what single levers give")] = False,
) -> None:
    """Most exciting images and movies of many units against a loop over units, at the same activation."""
    if threads == 1:
        one_core()
    torch.set_num_threads(threads)
    options = {name: value for name, value in locals().items() if isinstance(value, int | str)}
    tasks = QUICK if quick else FULL
    if only and only not in tasks:
        raise typer.BadParameter(f"{only!r} is none of {', '.join(tasks)}", param_hint="--only")
    ours, theirs = UNITS["quick" if quick else "full"]
    console, figures = Console(width=120), {}
    for name in [only] if only else tasks:
        case = Case(tasks[name], iterations or (3 if quick else ITERATIONS[name]), device)
        alternatives = _alternatives(case, units or ours, loop_units or theirs, levers)
        measured = compare(alternatives, repetitions, memory)
        title = f"Most exciting {name} of {units or ours} units, {case.iterations} steps of each"
        print_comparison(console, title, measured, "units/1000 s")
        found = ratios(measured, "units_per_kilosecond") | gaps(case, loop_units or theirs)
        for which, what in measured.items():
            found["seconds_per_unit" + ("" if which == OURS else f"_{which}")] = 1000 / what.rate
        figures |= {f"{name}_{figure}": value for figure, value in found.items()}
    for figure, value in figures.items():
        if "seconds_per_unit" in figure or "activation" in figure:
            console.print(f"{figure}: {value:,.4g}")
    report(console, "mei", figures, _targets(figures), options, json)


def _alternatives(case: Case, units: int, loop_units: int, levers: bool) -> list[Alternative]:
    same = {"case": case, "units": units, "settings": case.settings()}
    found = [Alternative("loop", _thousandfold, {"of": "loop", "case": case, "units": loop_units}, _IMPORTS)]
    found.append(Alternative(OURS, _thousandfold, {"of": "ours", **same}, _IMPORTS))
    if not case.task.frames:
        converging = {**same, "settings": modern(case)}
        found.append(Alternative("modern", _thousandfold, {"of": "ours", **converging}, _IMPORTS))
    if levers:
        found.append(Alternative("whole_frames", _thousandfold, {"of": "ours", **same, "window": False}, _IMPORTS))
        found.append(Alternative("all_units", _thousandfold, {"of": "ours", **same, "paired": False}, _IMPORTS))
    return found


def _thousandfold(of: str, **arguments: object) -> Work:
    """Open an alternative; rates are units in 1,000 s, so that slow ones can be read."""
    work = {"ours": open_ours, "loop": open_loop}[of](**arguments)  # type: ignore[arg-type, operator]
    return lambda: 1000 * work()


def _targets(figures: dict[str, float]) -> list[Target]:
    wanted = [
        Target("images_ratio_loop", at_least=10),
        Target("images_activation_gap", at_most=0.01),
        Target("images_activation_shortfall_modern", at_most=0.01),
        Target("movies_ratio_loop", at_least=8),
        Target("movies_activation_gap", at_most=0.01),
    ]
    return [target for target in wanted if target.figure in figures]
