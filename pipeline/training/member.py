"""One model in training: its encoder and everything that changes with it."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from pipeline.errors import TrainingError
from pipeline.models.base import EncodingModel
from pipeline.training.history import Epoch, TrainingResult
from pipeline.training.prediction import Score
from pipeline.training.settings import Default
from pipeline.training.stopping import Plateau, Verdict

logger = logging.getLogger(__name__)


class Randomness:
    """PyTorch's random numbers of one member, whoever else draws some in between."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.states = self._current()

    def seed(self, *numbers: int) -> None:
        """Start anew from these numbers."""
        with self.drawn():
            torch.manual_seed(int(np.random.SeedSequence(numbers).generate_state(1)[0]))

    @contextmanager
    def drawn(self) -> Iterator[None]:
        """Draw this member's numbers inside the block."""
        torch.set_rng_state(self.states["cpu"])
        if "cuda" in self.states:
            torch.cuda.set_rng_state(self.states["cuda"], self._device)
        yield
        self.states = self._current()

    def _current(self) -> dict[str, Tensor]:
        states = {"cpu": torch.get_rng_state()}
        if self._device.type == "cuda":
            states["cuda"] = torch.cuda.get_rng_state(self._device)
        return states


@dataclass
class Sums:
    """What an epoch adds up, on the device, so that no step waits for it.

    Attributes
    ----------
    loss : Tensor or float
        Mean losses of a response.
    penalties : dict of str to Tensor
        By name.
    batches, steps : int
        How many losses and how many steps there were.
    """

    loss: Tensor | float = 0.0
    penalties: dict[str, Tensor] = field(default_factory=dict)
    batches: int = 0
    steps: int = 0

    def add(self, loss: Tensor, penalties: Mapping[str, Tensor]) -> None:
        """Take in one batch."""
        self.loss = self.loss + loss.double()
        self.batches += 1
        for name, value in penalties.items():
            self.penalties[name] = self.penalties.get(name, torch.zeros(())) + value.detach()


class Member:
    """An encoder in training, with its optimiser, its random numbers and its own opinion on when to stop.

    Attributes
    ----------
    encoder : EncodingModel
    seed : int
    optimizer : Optimizer
    plateau : Plateau
    average : AveragedModel or None
        The running mean of the weights, if the settings ask for one; then it is what is evaluated and kept.
    random : Randomness
    sums : Sums
        Of the epoch that runs.
    history : list of Epoch
    initial_correlation : float
    ended : bool
    """

    def __init__(self, encoder: EncodingModel, settings: Default, seed: int) -> None:
        self.encoder, self.seed, self._settings = encoder, seed, settings
        self.optimizer = _optimizer(encoder, settings)
        self.plateau = Plateau(settings)
        self.average: AveragedModel | None = None
        if settings.ema_decay is not None:
            self.average = AveragedModel(
                encoder, multi_avg_fn=get_ema_multi_avg_fn(settings.ema_decay), use_buffers=True
            )
        self.random = Randomness(encoder.device)
        self.sums = Sums()
        self.history: list[Epoch] = []
        self.initial_correlation = math.nan
        self.ended = False

    @property
    def evaluated(self) -> EncodingModel:
        """What is scored and kept: the encoder, or the one with the mean weights."""
        return self.encoder if self.average is None else cast(EncodingModel, self.average.module)

    def start(self, score: Score) -> None:
        """Take the evaluation before training."""
        self.initial_correlation = score.correlation
        self.plateau.start(score.correlation, self.evaluated)

    def begin_epoch(self, number: int) -> None:
        """Prepare for an epoch.

        Random numbers are seeded anew in each: they do not depend on how many were drawn before.
        """
        self.random.seed(self.seed, number)
        self.sums = Sums()

    def step(self, learning_rate: float) -> None:
        """Take one step of the optimiser along the gradients that have been added up, and forget them."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        if self._settings.max_gradient_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.encoder.parameters(), self._settings.max_gradient_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.encoder.constrain()
        if self.average is not None:
            self.average.update_parameters(self.encoder)
        self.sums.steps += 1

    def end_epoch(self, score: Score, seconds: float, joint_steps: int) -> Epoch:
        """Judge an epoch by its evaluation."""
        number = len(self.history) + 1
        learning_rate = self.optimizer.param_groups[0]["lr"]
        verdict = self.plateau.update(score.correlation, number, self.evaluated)
        if verdict in (Verdict.CUT, Verdict.STOP):
            self.encoder.load_state_dict(self.plateau.best_weights)
            self.optimizer.state.clear()  # moments belong to the weights that were given up
        epoch = Epoch(
            epoch=number,
            loss=float(self.sums.loss) / self.sums.batches,
            penalties={name: value.item() / joint_steps for name, value in self.sums.penalties.items()},
            validation_correlation=score.correlation,
            undefined_units=score.undefined_units,
            learning_rate=learning_rate,
            verdict=verdict.value,
            seconds=seconds,
            seed=self.seed,
        )
        self.history.append(epoch)
        self.ended = verdict is Verdict.STOP or number >= self._settings.max_epochs
        logger.debug("%s", epoch)
        return epoch

    def finish(self) -> None:
        """Leave the best weights in the encoder, in evaluation mode."""
        self.plateau.restore(self.encoder)
        self.encoder.eval()
        if self.plateau.state.best_score is None:
            raise TrainingError(
                "the validation correlation was undefined for every unit in every epoch: "
                "check that validation responses vary, or lower lr_init"
            )

    def result(self, score: Score) -> TrainingResult:
        """Tell how training went; ``score`` is that of the best weights."""
        best = self.plateau.state
        assert best.best_score is not None
        stopped = "patience" if self.history[-1].verdict == Verdict.STOP.value else "max_epochs"
        return TrainingResult(
            tuple(self.history), best.best_epoch, best.best_score, self.initial_correlation, stopped, score.undefined
        )


def _optimizer(encoder: EncodingModel, settings: Default) -> Optimizer:
    trained = [parameter for parameter in encoder.parameters() if parameter.requires_grad]
    lr, decay = settings.lr_init, settings.weight_decay
    if settings.optimizer == "sgd":
        return SGD(trained, lr=lr, momentum=settings.momentum, weight_decay=decay, fused=True)
    kind = {"adam": Adam, "adamw": AdamW}[settings.optimizer]
    return kind(trained, lr=lr, weight_decay=decay, fused=True)
