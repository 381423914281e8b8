"""When the learning rate is cut and when training ends: one class owns patience, cuts and the best weights."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from enum import Enum

from torch import Tensor, nn
from torch.optim import Optimizer

from pipeline.training.settings import Default

_ROUNDING = 1e-9


class Verdict(Enum):
    """What `Plateau.update` decided."""

    IMPROVED = "improved"
    WAITING = "waiting"
    CUT = "cut"
    STOP = "stop"


@dataclass(frozen=True)
class PlateauState:
    """The counters of a `Plateau`, for checkpoints.

    Attributes
    ----------
    best_score : float or None
        None until one was finite.
    best_epoch : int
        0 before training.
    waited : int
        Evaluations without improvement since the last improvement or cut.
    cuts : int
        Cuts of the learning rate so far.
    """

    best_score: float | None = None
    best_epoch: int = 0
    waited: int = 0
    cuts: int = 0


class Plateau:
    """Watches a score that should rise.

    An evaluation improves if it exceeds the best one by more than `min_delta`; a score that is not finite never does.
    After `patience` evaluations without improvement, the best weights are restored, the learning rate is multiplied by
    `lr_decay_factor`, the optimiser forgets its moments (they belong to other weights) and counting starts anew. After
    `lr_decay_steps` cuts, or if a cut would go below `min_lr`, training ends instead, with the best weights restored.

    Parameters
    ----------
    settings : Default
        Has patience, min_delta and the three settings of the learning rate.
    """

    def __init__(self, settings: Default) -> None:
        self._settings = settings
        self.state = PlateauState()
        self.best_weights: dict[str, Tensor] = {}

    def start(self, score: float, model: nn.Module) -> None:
        """Take the evaluation before training as the one to beat."""
        self._take(score, 0, model)

    def update(self, score: float, epoch: int, model: nn.Module, optimizer: Optimizer) -> Verdict:
        """Judge the evaluation after an epoch; may change the model's weights and the optimiser's learning rate."""
        best = self.state.best_score
        if math.isfinite(score) and (best is None or score > best + self._settings.min_delta):
            self._take(score, epoch, model)
            return Verdict.IMPROVED
        self.state = dataclasses.replace(self.state, waited=self.state.waited + 1)
        if self.state.waited < self._settings.patience:
            return Verdict.WAITING
        self.restore(model)
        lr = optimizer.param_groups[0]["lr"] * self._settings.lr_decay_factor
        if self.state.cuts >= self._settings.lr_decay_steps or lr < self._settings.min_lr * (1 - _ROUNDING):
            return Verdict.STOP
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.state.clear()
        self.state = dataclasses.replace(self.state, waited=0, cuts=self.state.cuts + 1)
        return Verdict.CUT

    def restore(self, model: nn.Module) -> None:
        """Give the model its best weights so far."""
        model.load_state_dict(self.best_weights)

    def _take(self, score: float, epoch: int, model: nn.Module) -> None:
        self.state = dataclasses.replace(
            self.state, best_score=score if math.isfinite(score) else None, best_epoch=epoch, waited=0
        )
        self.best_weights = {name: value.detach().clone() for name, value in model.state_dict().items()}
