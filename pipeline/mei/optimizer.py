"""Gradient ascent on many stimuli side by side, put together of small parts."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.mei.constraints import Constraint
from pipeline.mei.objectives import Objective
from pipeline.mei.penalties import Penalty
from pipeline.mei.smoothing import Smoothing
from pipeline.mei.starts import Start
from pipeline.mei.steps import Adaptive, Plateau, Scheduled


@dataclass(frozen=True)
class Recipe:
    """How stimuli are optimised, in the order of evaluation.

    A step: the constraints; the stimuli, jittered, are evaluated, and the best so far kept; the gradient of objective
    minus penalties is smoothed; the stimuli move along it; they are smoothed themselves.

    Attributes
    ----------
    start : Start
    step : Scheduled or Adaptive
        How far to go.
    stopper : Plateau
    iterations : int
        Steps at most.
    constraints : tuple of Constraint
        Hold for whatever is evaluated, so for what is returned.
    jitter : int
        All stimuli are shifted by up to so many pixels in each direction while they are evaluated; what leaves on one
        side enters on the other.
    seed : int
        Of the jitter.
    smooth_gradient : tuple of Smoothing
    penalties : tuple of Penalty
    after_step : tuple of Constraint
        Applied to the stimuli after each step, before they are smoothed; the start has not seen them.
    smooth_stimuli : tuple of Smoothing
    """

    start: Start
    step: Scheduled | Adaptive
    stopper: Plateau
    iterations: int
    constraints: tuple[Constraint, ...] = ()
    jitter: int = 0
    seed: int = 0
    smooth_gradient: tuple[Smoothing, ...] = ()
    penalties: tuple[Penalty, ...] = ()
    after_step: tuple[Constraint, ...] = ()
    smooth_stimuli: tuple[Smoothing, ...] = ()


@dataclass(frozen=True)
class Optimised:
    """The best stimuli met.

    Attributes
    ----------
    stimuli : Tensor
        (batch, channel, time, height, width).
    objective : Tensor
        (batch,), without penalties.
    value : Tensor
        (batch,), objective minus penalties, by which they were the best.
    best_iteration : Tensor of int
        (batch,) step at which each was met.
    converged : Tensor of bool
        (batch,) whether the value had stopped rising; not where no gradient told what raises it.
    trajectory : Tensor
        (batch, iteration) objective at each step; of what had converged, the last one.
    """

    stimuli: Tensor
    objective: Tensor
    value: Tensor
    best_iteration: Tensor
    converged: Tensor
    trajectory: Tensor


def optimise(
    objective: Objective, recipe: Recipe, start: Tensor, on_step: Callable[[], None] | None = None
) -> Optimised:
    """Find for each stimulus the best that the recipe meets.

    The objective is evaluated once a step, and only for what has not converged.

    Parameters
    ----------
    objective : Objective
    recipe : Recipe
        Its ``start`` is not used: the stimuli to start from are given.
    start : Tensor
        (batch, channel, time, height, width), on the device of the model.
    on_step : callable, optional
        Called after each step.
    """
    ascent = _Ascent(objective, recipe, start)
    trajectory = []
    for iteration in range(recipe.iterations + 1):
        ascent.evaluate(iteration)
        trajectory.append(ascent.objective.clone())
        if iteration == recipe.iterations or not len(ascent.moving()):
            break
        ascent.move(iteration / max(recipe.iterations - 1, 1))
        if on_step:
            on_step()
    return Optimised(
        ascent.best,
        ascent.best_objective,
        ascent.best_value,
        ascent.best_iteration,
        (ascent.waiting >= recipe.stopper.patience) & ascent.best_gradient.flatten(1).any(dim=1),
        torch.stack(trajectory, dim=1),
    )


class _Ascent:
    """The stimuli, and the best of them so far."""

    def __init__(self, objective: Objective, recipe: Recipe, start: Tensor) -> None:
        self._objective, self._recipe = objective, recipe
        self._random = torch.Generator().manual_seed(recipe.seed)
        count = len(start)
        self.stimuli = self._constrained(start)
        self.gradient = torch.zeros_like(self.stimuli)
        self.objective = start.new_zeros(count)
        self.best, self.best_gradient = self.stimuli.clone(), torch.zeros_like(self.stimuli)
        self.best_objective, self.best_value = (start.new_full((count,), -math.inf) for _ in range(2))
        self.best_iteration = torch.zeros(count, dtype=torch.long, device=start.device)
        self.waiting = torch.zeros_like(self.best_iteration)
        self.lengths = start.new_full((count,), recipe.step.first)

    def moving(self) -> Tensor:
        """Return the numbers of the stimuli that are still optimised."""
        stopper = self._recipe.stopper
        wanted = self.waiting < stopper.patience if stopper.ends else torch.ones_like(self.waiting, dtype=torch.bool)
        return wanted.nonzero()[:, 0]

    def evaluate(self, iteration: int) -> None:
        """Evaluate what is still moving, and keep what is better than all before."""
        index = self.moving()
        if not len(index):
            return
        stimuli = self.stimuli[index]
        objective, value, gradient = self._evaluated(stimuli, index)
        better = value > self.best_value[index]
        rose = self._recipe.stopper.rose(value, self.best_value[index])
        self.objective[index], self.gradient[index] = objective, gradient
        self.waiting[index] = torch.where(rose, 0, self.waiting[index] + 1)
        self.lengths[index] = self._recipe.step.adapted(self.lengths[index], better)
        kept = index[better]
        self.best[kept], self.best_gradient[kept] = stimuli[better], gradient[better]
        self.best_objective[kept], self.best_value[kept] = objective[better], value[better]
        self.best_iteration[kept] = iteration

    def _evaluated(self, stimuli: Tensor, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        stimuli = stimuli.detach().requires_grad_(True)
        jitter = self._recipe.jitter
        shift = torch.randint(-jitter, jitter + 1, (2,), generator=self._random).tolist()
        objective = self._objective(stimuli.roll(shift, (3, 4)) if jitter else stimuli, index)
        value = objective
        for penalty in self._recipe.penalties:
            value = value - penalty(stimuli, index)
        (gradient,) = torch.autograd.grad(value.sum(), stimuli)
        return objective.detach(), value.detach(), gradient

    def move(self, progress: float) -> None:
        """Make a step; what has converged stays, however long the others take."""
        recipe, index = self._recipe, self.moving()
        step = recipe.step
        origin, gradient = (self.best, self.best_gradient) if step.from_best else (self.stimuli, self.gradient)
        stimuli = origin[index]
        direction = step.followed(gradient[index], stimuli)
        for smooth in recipe.smooth_gradient:
            direction = smooth(direction, progress)
        stimuli = stimuli + step.difference(direction, stimuli, self.lengths[index], progress)
        for constraint in recipe.after_step:
            stimuli = constraint(stimuli)
        for smooth in recipe.smooth_stimuli:
            stimuli = smooth(stimuli, progress)
        self.stimuli[index] = self._constrained(stimuli)

    def _constrained(self, stimuli: Tensor) -> Tensor:
        for constraint in self._recipe.constraints:
            stimuli = constraint(stimuli)
        return stimuli
