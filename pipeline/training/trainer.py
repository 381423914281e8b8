"""The trainer: descends the loss, watches the validation correlation and leaves the best weights in the encoder."""

from __future__ import annotations

import hashlib
import itertools
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch

from pipeline.datasets.batches import Batch
from pipeline.datasets.info import data_info_to_json
from pipeline.models.base import EncodingModel
from pipeline.training.checkpoints import Checkpointing, Position, description
from pipeline.training.cycling import Loader, Loaders, joint_batches, refuse_empty
from pipeline.training.finiteness import FinitenessWatch
from pipeline.training.gradients import Gradients
from pipeline.training.history import Epoch, TrainingResult
from pipeline.training.member import Member
from pipeline.training.memory import keep_freed_memory
from pipeline.training.prediction import on_device, scores
from pipeline.training.settings import Default

logger = logging.getLogger(__name__)


def train(
    encoder: EncodingModel,
    loaders: Loaders,
    settings: Default,
    seed: int,
    on_epoch: Callable[[Epoch], None] | None = None,
    checkpointing: Checkpointing | None = None,
) -> TrainingResult:
    """Train an encoder on one or several scans.

    A step adds up the loss of one batch of each scan, with the penalties that apply to it, or is taken for each batch;
    scans with fewer batches start over within the epoch. After each epoch the single-trial correlation on the
    validation tier decides, by the rules of `Plateau`. The same arguments give the same weights on a CPU, also if
    training was interrupted and goes on from its checkpoint.

    Parameters
    ----------
    encoder : EncodingModel
        Trained in place, where its weights are; holds the best weights in evaluation mode at the end.
    loaders : mapping
        ``{"train": {data_key: loader}, "validation": {data_key: loader}}``.
    settings : Default
        Of the trainer.
    seed : int
        Of the positions that readouts sample. PyTorch's global random state is left as it was.
    on_epoch : callable, optional
        Called with each `Epoch`, for progress bars.
    checkpointing : Checkpointing, optional
        Where and when what has been reached is written; if the file exists, training goes on from there. The caller
        deletes it.

    Raises
    ------
    TrainingError
        If the loss is not finite, or validation has nothing to correlate.
    """
    return train_together([encoder], loaders, settings, [seed], on_epoch, checkpointing)[0]


def train_together(
    encoders: Sequence[EncodingModel],
    loaders: Loaders,
    settings: Default,
    seeds: Sequence[int],
    on_epoch: Callable[[Epoch], None] | None = None,
    checkpointing: Checkpointing | None = None,
) -> list[TrainingResult]:
    """Train encoders that differ in their seed only, on one pass through the data; the results are those of `train`.

    Every batch is loaded once. Each encoder has its own learning rate and stops by its own validation correlation.

    Parameters
    ----------
    encoders : sequence of EncodingModel
        Of one network and the same data information, on one device.
    seeds : sequence of int
        One for each.
    loaders, settings, on_epoch, checkpointing
        See `train`; ``on_epoch`` is called for each encoder.
    """
    refuse_empty(loaders)
    with _own_state(encoders[0].device):
        members = [Member(encoder, settings, seed) for encoder, seed in zip(encoders, seeds, strict=True)]
        return _Training(members, loaders, settings, checkpointing).run(on_epoch)


@contextmanager
def _own_state(device: torch.device) -> Iterator[None]:
    if device.type == "cpu":
        keep_freed_memory()
    # Values near the smallest float make arithmetic on CPUs many times slower, and mean nothing here.
    torch.set_flush_denormal(True)
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            yield
    finally:
        torch.set_flush_denormal(False)


class _Training:
    """One run of `train_together`."""

    def __init__(
        self, members: Sequence[Member], loaders: Loaders, settings: Default, checkpointing: Checkpointing | None
    ) -> None:
        self.members = members
        self.loaders = loaders
        self.settings = settings
        self.checkpointing = checkpointing
        self.device = members[0].encoder.device
        self.gradients = Gradients(settings, self.device)
        self.watch = FinitenessWatch(self._batches, self.device)
        self.joint_steps = max(len(loader) for loader in loaders["train"].values())
        self.scales = {data_key: _scale(loader, settings) for data_key, loader in loaders["train"].items()}
        self.fingerprint = self._fingerprint()

    def run(self, on_epoch: Callable[[Epoch], None] | None) -> list[TrainingResult]:
        position = self._begin()
        while running := [member for member in self.members if not member.ended]:
            for epoch in self._epoch(running, position):
                if on_epoch is not None:
                    on_epoch(epoch)
            position = Position(position.epoch + 1)
        for member in self.members:
            member.finish()
        kept = scores([member.encoder for member in self.members], self.loaders["validation"])
        return [member.result(score) for member, score in zip(self.members, kept, strict=True)]

    def _begin(self) -> Position:
        if self.checkpointing is not None and self.checkpointing.path.exists():
            return self.checkpointing.load(self.fingerprint, self.members)
        before = scores([member.evaluated for member in self.members], self.loaders["validation"])
        for member, score in zip(self.members, before, strict=True):
            member.start(score)
        return Position(epoch=1)

    def _fingerprint(self) -> str:
        """Return what tells this training from others."""
        encoder, seeds = self.members[0].encoder, [member.seed for member in self.members]
        text = (
            f"{self.settings.canonical_json()} seeds {seeds} steps {self.joint_steps} network {description(encoder)} "
            f"data {data_info_to_json(encoder.data_info)}"
        )
        return hashlib.sha256(text.encode()).hexdigest()

    def _batches(self, epoch: int) -> Iterator[Mapping[str, Batch]]:
        return joint_batches(self.loaders["train"], epoch, self.settings.order_seed)

    def _epoch(self, running: Sequence[Member], position: Position) -> list[Epoch]:
        started = time.perf_counter() - position.seconds
        if position.step == 0:
            for member in running:
                member.begin_epoch(position.epoch)
        batches = self._batches(position.epoch)
        with self.gradients.prepared(running):
            for step, joint in enumerate(itertools.islice(batches, position.step, None), position.step):
                self._step(running, joint, position.epoch, step)
                if self.checkpointing is not None and self.checkpointing.is_due():
                    self._save(Position(position.epoch, step + 1, time.perf_counter() - started))
        self.watch.check(position.epoch)
        evaluations = scores([member.evaluated for member in running], self.loaders["validation"])
        seconds = time.perf_counter() - started
        epochs = [
            member.end_epoch(score, seconds, self.joint_steps)
            for member, score in zip(running, evaluations, strict=True)
        ]
        ended = all(member.ended for member in self.members)
        if self.checkpointing is not None and (ended or self.checkpointing.is_due(position.epoch)):
            self._save(Position(position.epoch + 1))
        return epochs

    def _step(self, running: Sequence[Member], joint: Mapping[str, Batch], epoch: int, step: int) -> None:
        for number, (data_key, batch) in enumerate(joint.items()):
            batch = on_device(batch, self.device)
            added = self.gradients.add(running, batch, data_key, self.scales[data_key])
            for member, (losses, penalty) in zip(running, added, strict=True):
                self.watch.add(epoch, step, data_key, losses, penalty, member.seed if len(self.members) > 1 else None)
            if not self.settings.accumulate_scans:
                self._descend(running, epoch, step + (number + 1) / len(joint))
        if self.settings.accumulate_scans:
            self._descend(running, epoch, step + 1)

    def _descend(self, running: Sequence[Member], epoch: int, done: float) -> None:
        self.gradients.hand_out()
        for member in running:
            member.step(self._learning_rate(member, epoch, done))

    def _learning_rate(self, member: Member, epoch: int, done: float) -> float:
        """Return the rate of the member's stage, in the warm-up the part of it that is reached by ``done`` steps."""
        rate = member.plateau.learning_rate
        if epoch > self.settings.warmup_epochs:
            return rate
        return rate * ((epoch - 1) * self.joint_steps + done) / (self.settings.warmup_epochs * self.joint_steps)

    def _save(self, position: Position) -> None:
        assert self.checkpointing is not None
        self.watch.check(position.epoch)
        self.checkpointing.save(self.fingerprint, self.members, position)


def _scale(loader: Loader, settings: Default) -> float:
    return math.sqrt(len(loader)) if settings.scale_loss else 1.0
