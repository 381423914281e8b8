"""The trainer: descends the loss, watches the validation correlation and leaves the best weights in the encoder."""

from __future__ import annotations

import hashlib
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.optim import Adam, AdamW, Optimizer

from pipeline.datasets.batches import Batch
from pipeline.errors import TrainingError
from pipeline.models.encoder import Encoder
from pipeline.training.checkpoints import Progress, load_checkpoint, save_checkpoint
from pipeline.training.cycling import Loader, Loaders, joint_batches, refuse_empty
from pipeline.training.history import Epoch, TrainingResult
from pipeline.training.losses import PoissonLoss
from pipeline.training.prediction import on_device, score
from pipeline.training.settings import Default
from pipeline.training.stopping import Plateau, Verdict

logger = logging.getLogger(__name__)

_OPTIMIZERS: dict[str, type[Optimizer]] = {"adam": Adam, "adamw": AdamW}
_PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def train(
    encoder: Encoder,
    loaders: Loaders,
    settings: Default,
    seed: int,
    on_epoch: Callable[[Epoch], None] | None = None,
    checkpoint: Path | None = None,
) -> TrainingResult:
    """Train an encoder on one or several scans.

    Every step adds up the loss of one batch of each scan, with the penalties that apply to it; scans with fewer batches
    start over within the epoch. After each epoch the single-trial correlation on the validation tier decides, by the
    rules of `Plateau`. The same arguments give the same weights on a CPU, also if training was interrupted and goes on
    from its checkpoint.

    Parameters
    ----------
    encoder : Encoder
        Trained in place, where its weights are; holds the best weights in evaluation mode at the end.
    loaders : mapping
        ``{"train": {data_key: loader}, "validation": {data_key: loader}}``.
    settings : Default
        Of the trainer.
    seed : int
        Of the positions that readouts sample. PyTorch's global random state is left as it was.
    on_epoch : callable, optional
        Called with each `Epoch`, for progress bars.
    checkpoint : Path, optional
        File written after every epoch; if it exists, training goes on from there. The caller deletes it.

    Raises
    ------
    TrainingError
        If the loss is not finite, or validation has nothing to correlate.
    """
    refuse_empty(loaders)
    with _own_randomness(encoder):
        return _Training(encoder, loaders, settings, seed, checkpoint).run(on_epoch)


@contextmanager
def _own_randomness(encoder: Encoder) -> Iterator[None]:
    devices = [encoder.device] if encoder.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        yield


class _Training:
    """One run of `train`."""

    def __init__(
        self, encoder: Encoder, loaders: Loaders, settings: Default, seed: int, checkpoint: Path | None
    ) -> None:
        self.encoder = encoder
        self.loaders = loaders
        self.settings = settings
        self.seed = seed
        self.checkpoint = checkpoint
        self.loss = PoissonLoss(average=settings.average_loss)
        self.optimizer = _OPTIMIZERS[settings.optimizer](
            encoder.parameters(),
            lr=settings.lr_init,  # type: ignore[call-arg]
            weight_decay=settings.weight_decay,
        )
        self.plateau = Plateau(settings)

    def run(self, on_epoch: Callable[[Epoch], None] | None) -> TrainingResult:
        progress = self._begin()
        while not progress.ended:
            epoch = self._epoch(len(progress.history) + 1)
            ended = epoch.verdict == Verdict.STOP.value or epoch.epoch >= self.settings.max_epochs
            progress = Progress(progress.initial_correlation, (*progress.history, epoch), ended)
            if self.checkpoint is not None:
                save_checkpoint(
                    self.checkpoint, self._fingerprint(), self.encoder, self.optimizer, self.plateau, progress
                )
            logger.debug("%s", epoch)
            if on_epoch is not None:
                on_epoch(epoch)
        return self._result(progress)

    def _begin(self) -> Progress:
        if self.checkpoint is not None and self.checkpoint.exists():
            return load_checkpoint(self.checkpoint, self._fingerprint(), self.encoder, self.optimizer, self.plateau)
        before = score(self.encoder, self.loaders["validation"])
        self.plateau.start(before.correlation, self.encoder)
        return Progress(before.correlation)

    def _fingerprint(self) -> str:
        shapes = [(name, tuple(value.shape)) for name, value in self.encoder.state_dict().items()]
        text = f"{self.settings.canonical_json()} seed {self.seed} weights {shapes}"
        return hashlib.sha256(text.encode()).hexdigest()

    def _epoch(self, number: int) -> Epoch:
        started = time.perf_counter()
        # Seeded anew for each epoch: an interrupted training continues with the numbers it would have drawn.
        torch.manual_seed(int(np.random.SeedSequence([self.seed, number]).generate_state(1)[0]))
        self.encoder.train()
        losses = []
        for position, batches in enumerate(joint_batches(self.loaders["train"], number)):
            losses.append(self._step(batches, f"epoch {number}, batch {position}"))
        evaluation = score(self.encoder, self.loaders["validation"])
        lr = self.optimizer.param_groups[0]["lr"]
        verdict = self.plateau.update(evaluation.correlation, number, self.encoder, self.optimizer)
        loss, regularization = np.mean(losses, axis=0).tolist()
        return Epoch(
            epoch=number,
            loss=loss,
            regularization=regularization,
            validation_correlation=evaluation.correlation,
            undefined_units=evaluation.undefined_units,
            learning_rate=lr,
            verdict=verdict.value,
            seconds=time.perf_counter() - started,
        )

    def _step(self, batches: Mapping[str, Batch], where: str) -> tuple[float, float]:
        """Descend the loss of one batch of each scan; return the mean loss of a response and the summed penalties."""
        self.optimizer.zero_grad(set_to_none=True)
        per_scan = []
        for data_key, batch in batches.items():
            terms = self._loss_terms(on_device(batch, self.encoder.device), data_key)
            penalty = torch.stack(list(self.encoder.regularizer(data_key).values())).sum()
            data_loss = terms.mean() if self.settings.average_loss else terms.sum()
            total = self._scale(self.loaders["train"][data_key]) * data_loss + penalty
            if not math.isfinite(total.item()):
                raise TrainingError(self._complaint(terms, penalty, f"{where}, {data_key!r}"))
            total.backward()
            per_scan.append((terms.detach().mean().item(), penalty.item()))
        if self.settings.max_gradient_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.encoder.parameters(), self.settings.max_gradient_norm)
        self.optimizer.step()
        self.encoder.constrain()
        losses, penalties = zip(*per_scan, strict=True)
        return float(np.mean(losses)), float(np.sum(penalties))

    def _loss_terms(self, batch: Batch, data_key: str) -> Tensor:
        precision = _PRECISIONS[self.settings.precision]
        with torch.autocast(batch.inputs.device.type, dtype=precision, enabled=precision != torch.float32):
            predictions = self.encoder.respond(batch, data_key)
        return self.loss.terms(predictions.float(), batch.responses)

    def _scale(self, loader: Loader) -> float:
        return math.sqrt(len(loader)) if self.settings.scale_loss else 1.0

    @staticmethod
    def _complaint(terms: Tensor, penalty: Tensor, where: str) -> str:
        per_unit = terms.detach().transpose(0, 1).flatten(1).sum(dim=1)
        units = torch.nonzero(~torch.isfinite(per_unit)).flatten().tolist()
        if not units:
            return f"the penalties on the weights are {penalty.item()} at {where}: lower their gammas or lr_init"
        named = ", ".join(map(str, units[:5])) + (f" and {len(units) - 5} more" if len(units) > 5 else "")
        return (
            f"the loss is not finite at {where}, unit {named} (of {len(per_unit)}, counted from 0): "
            "look for NaN in its responses and in the inputs, or lower lr_init"
        )

    def _result(self, progress: Progress) -> TrainingResult:
        self.plateau.restore(self.encoder)
        self.encoder.eval()
        best = self.plateau.state
        if best.best_score is None:
            raise TrainingError(
                "the validation correlation was undefined for every unit in every epoch: "
                "check that validation responses vary, or lower lr_init"
            )
        history = progress.history
        undefined = (
            history[best.best_epoch - 1].undefined_units
            if best.best_epoch
            else score(self.encoder, self.loaders["validation"]).undefined_units
        )
        stopped = "patience" if history[-1].verdict == Verdict.STOP.value else "max_epochs"
        return TrainingResult(
            history, best.best_epoch, best.best_score, undefined, progress.initial_correlation, stopped
        )
