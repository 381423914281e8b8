"""When the learning rate is cut and when training ends: one class owns patience, cuts and the best weights."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from enum import Enum

from torch import Tensor, nn

from pipeline.training.settings import Default


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
    After `patience` evaluations without improvement, the next stage begins with the best weights, its own learning rate
    and counting anew; the optimiser has to forget its moments then, for they belong to other weights. After the last
    stage training ends, with the best weights restored.

    Parameters
    ----------
    settings : Default
        Has patience, min_delta and the learning rates.
    """

    def __init__(self, settings: Default) -> None:
        self._patience, self._min_delta = settings.patience, settings.min_delta
        self._rates = settings.learning_rates()
        self.state = PlateauState()
        self.best_weights: dict[str, Tensor] = {}

    @property
    def learning_rate(self) -> float:
        """Of the present stage."""
        return self._rates[self.state.cuts]

    def start(self, score: float, model: nn.Module) -> None:
        """Take the evaluation before training as the one to beat."""
        self._take(score, 0, model)

    def update(self, score: float, epoch: int, model: nn.Module) -> Verdict:
        """Judge the evaluation after an epoch; a cut or the end gives the model its best weights."""
        best = self.state.best_score
        if math.isfinite(score) and (best is None or score > best + self._min_delta):
            self._take(score, epoch, model)
            return Verdict.IMPROVED
        self.state = dataclasses.replace(self.state, waited=self.state.waited + 1)
        if self.state.waited < self._patience:
            return Verdict.WAITING
        self.restore(model)
        if self.state.cuts + 1 == len(self._rates):
            return Verdict.STOP
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
