"""Most exciting inputs of many units at once, by any kind of configuration."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.configuration import Configuration
from pipeline.datasets.info import ScanInfo
from pipeline.errors import ConfigurationError
from pipeline.functions import named, own_randomness
from pipeline.mei.conditions import Conditions
from pipeline.mei.objectives import Objective, OneUnit
from pipeline.mei.optimizer import Optimised, optimise
from pipeline.mei.recipes import recipe_of
from pipeline.mei.settings import Function, Movie
from pipeline.models.base import EncodingModel

STIMULI_AT_ONCE = 64
"""Stimuli that are optimised side by side, which bounds the memory."""


@dataclass(frozen=True)
class MEIs:
    """The best stimuli met, one for each unit.

    Attributes
    ----------
    stimuli : ndarray of float32
        (unit, channel, time, height, width) in grey values, 0 to 255; pixels only; images have one frame.
    activation : ndarray
        (unit,) predicted response to the last frame, in normalised responses.
    grey_activation : ndarray
        (unit,) predicted response to mean grey.
    best_iteration : ndarray of int
        (unit,) step at which the stimulus was met.
    converged : ndarray of bool
        (unit,) whether the response had stopped rising before the last step.
    trajectory : ndarray
        (unit, iteration) response at each step; of units that had converged, the last one.
    """

    stimuli: np.ndarray
    activation: np.ndarray
    grey_activation: np.ndarray
    best_iteration: np.ndarray
    converged: np.ndarray
    trajectory: np.ndarray


def find_meis(
    encoder: EncodingModel,
    data_key: str,
    scan: ScanInfo,
    units: Sequence[int],
    settings: Configuration,
    on_step: Callable[[], None] | None = None,
) -> MEIs:
    """Find the stimulus that drives each unit best in its last frame.

    All units, and all starts of each, are optimised side by side, `STIMULI_AT_ONCE` at a time; a unit's stimulus does
    not depend on which others are asked for.

    Parameters
    ----------
    encoder : EncodingModel
        Trained, in evaluation mode.
    data_key : str
        Scan whose readout is used.
    scan : ScanInfo
        Its data information: size and pixel statistics.
    units : sequence of int
        Positions of the units in the readout.
    settings : Configuration
        One of `pipeline.mei.settings.MEI_KINDS`.
    on_step : callable, optional
        Called after each step, `steps_at_most` times at most.

    Raises
    ------
    ConfigurationError
        If the stimulus is shorter than what the network needs for one response, or a function fails.
    """
    conditions = Conditions(encoder, data_key, scan, settings.eye_position, settings.behavior)  # type: ignore[attr-defined]
    if isinstance(settings, Function):
        return _by_function(conditions, units, settings)
    with frozen(encoder):
        return _by_ascent(conditions, units, settings, on_step)


def find_stimuli(
    conditions: Conditions,
    settings: Configuration,
    objective: Objective,
    count: int,
    on_step: Callable[[], None] | None = None,
) -> Optimised:
    """Find stimuli for any objective, such as those of `pipeline.mei.objectives`, by the recipe of a kind.

    Parameters
    ----------
    conditions : Conditions
        The model and the scan, and what it is told of eye and behaviour; those of ``settings`` are not used.
    settings : Configuration
        A kind that has a recipe. Its ``starts`` are not used.
    objective : Objective
        Of so many stimuli.
    count : int
        Stimuli, each from noise of its own. They are optimised in one pass.
    on_step : callable, optional
        Called after each step.

    Returns
    -------
    Optimised
        Stimuli in z-scores; `Conditions.to_grey` makes grey values of them.
    """
    recipe = recipe_of(settings, conditions)
    start = recipe.start(conditions.shape(*_length(settings)), count).to(conditions.device)
    with frozen(conditions.encoder):
        return optimise(objective, recipe, start, on_step)


@contextmanager
def frozen(encoder: EncodingModel) -> Iterator[None]:
    """Tell PyTorch that no gradients for weights are wanted, which would cost as much as those for stimuli."""
    learning = [parameter for parameter in encoder.parameters() if parameter.requires_grad]
    for parameter in learning:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)


def _by_ascent(
    conditions: Conditions, units: Sequence[int], settings: Configuration, on_step: Callable[[], None] | None
) -> MEIs:
    """Optimise by the recipe of the kind."""
    recipe, starts = recipe_of(settings, conditions), _starts(settings)
    shape = conditions.shape(*_length(settings))
    start = recipe.start(shape, starts).to(conditions.device)
    found = []
    for part in _parts(len(units), starts):
        owners = torch.tensor(list(units)[part]).repeat_interleave(starts)
        objective = OneUnit(conditions, owners)
        optimised = optimise(objective, recipe, start.repeat(len(owners) // starts, 1, 1, 1, 1), on_step)
        found.append(_best_start(optimised, starts))
    steps = max(part.trajectory.shape[1] for part in found)
    trajectory = torch.cat([_continued(part.trajectory, steps) for part in found])
    return MEIs(
        stimuli=torch.cat([conditions.to_grey(part.stimuli) for part in found]).cpu().numpy(),
        activation=torch.cat([part.objective for part in found]).cpu().numpy(),
        grey_activation=_grey_activation(conditions, shape, units),
        best_iteration=torch.cat([part.best_iteration for part in found]).cpu().numpy(),
        converged=torch.cat([part.converged for part in found]).cpu().numpy(),
        trajectory=trajectory.cpu().numpy(),
    )


def steps_at_most(settings: Configuration, units: int) -> int:
    """Return how often `find_meis` reports a step, at most; for progress bars."""
    if isinstance(settings, Function):
        return 0
    return len(_parts(units, _starts(settings))) * int(settings.iterations)  # type: ignore[attr-defined]


def _length(settings: Configuration) -> tuple[int, str]:
    """Return the number of frames, and what it is called in messages."""
    if isinstance(settings, Movie):
        return settings.frames, "Movie.frames"
    return 1, f"{settings.kind()} is for images: the number of its frames"


def _starts(settings: Configuration) -> int:
    return int(getattr(settings, "starts", 1))


def _parts(units: int, starts: int) -> list[slice]:
    size = max(1, STIMULI_AT_ONCE // starts)
    return [slice(first, first + size) for first in range(0, units, size)]


def _best_start(found: Optimised, starts: int) -> Optimised:
    """Keep for each unit the best of its starts, which are neighbours."""
    best = found.value.unflatten(0, (-1, starts)).argmax(dim=1)
    chosen = best + torch.arange(len(best), device=best.device) * starts
    return Optimised(
        found.stimuli[chosen], found.objective[chosen], found.value[chosen], found.best_iteration[chosen],
        found.converged[chosen], found.trajectory[chosen],
    )  # fmt: skip


def _continued(trajectory: Tensor, steps: int) -> Tensor:
    """Repeat the last value of trajectories that ended before others."""
    return torch.cat([trajectory, trajectory[:, -1:].expand(-1, steps - trajectory.shape[1])], dim=1)


def _grey_activation(conditions: Conditions, shape: tuple[int, ...], units: Sequence[int]) -> np.ndarray:
    grey = torch.zeros(1, *shape, device=conditions.device)
    with torch.no_grad():
        return conditions.all(grey, torch.tensor(list(units), device=conditions.device))[0].cpu().numpy()


def _by_function(conditions: Conditions, units: Sequence[int], settings: Function) -> MEIs:
    """Call the function, and evaluate what it returns."""
    function = settings.resolve()
    offered = {
        "data_key": conditions.data_key,
        "scan_info": conditions.scan,
        "seed": settings.mei_seed,
        "behavior": conditions.told_behavior,
        "pupil_center": conditions.told_eye,
    }
    given: dict[str, Any] = {**named(function, offered), **settings.keywords}
    settings.refuse_misfit(function, conditions.encoder, list(units), **given)
    try:
        with own_randomness(settings.mei_seed):
            made = function(conditions.encoder, list(units), **given)
    except Exception as error:
        raise ConfigurationError(f"{settings.function} failed ({type(error).__name__}: {error})") from error
    stimuli = _as_stimuli(made, len(units), conditions, settings.function)
    owners = torch.tensor(list(units), device=conditions.device)
    with torch.no_grad():
        own = torch.cat(
            [conditions.own(stimuli[part], owners[part]) for part in _parts(len(units), 1)]
        )  # fmt: skip
    return MEIs(
        stimuli=conditions.to_grey(stimuli).cpu().numpy(),
        activation=own.cpu().numpy(),
        grey_activation=_grey_activation(conditions, stimuli.shape[1:], units),
        best_iteration=np.zeros(len(units), dtype=int),
        converged=np.ones(len(units), dtype=bool),
        trajectory=own.cpu().numpy()[:, None],
    )


def _as_stimuli(made: Any, units: int, conditions: Conditions, name: str) -> Tensor:
    """Return what a function made as (unit, channel, time, height, width), within the range of the screen."""
    try:
        stimuli = torch.as_tensor(made, dtype=torch.float32, device=conditions.device).detach()
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigurationError(f"{name} must return a tensor or an array, not a {type(made).__name__}") from error
    stimuli = stimuli.unsqueeze(2) if stimuli.dim() == 4 else stimuli
    _, height, width = conditions.scan.input_shape
    wanted = (units, conditions.scan.pixel_channels, height, width)
    if stimuli.dim() != 5 or (*stimuli.shape[:2], *stimuli.shape[3:]) != wanted:
        raise ConfigurationError(
            f"{name} returned stimuli of shape {tuple(stimuli.shape)}, not (unit, channel[, time], height, width) = "
            f"{wanted[:2]} + [time] + {wanted[2:]}"
        )
    if not bool(torch.isfinite(stimuli).all()):
        raise ConfigurationError(f"{name} returned stimuli with values that are not finite")
    conditions.shape(stimuli.shape[2], f"the number of frames of what {name} returned")
    return stimuli.clamp(*conditions.limits)
