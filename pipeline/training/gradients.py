"""The gradients of members for a batch."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from pipeline.datasets.batches import Batch
from pipeline.models.base import EncodingModel
from pipeline.training.losses import unit_losses
from pipeline.training.member import Member
from pipeline.training.settings import Default
from pipeline.training.stack import Stack, at_least_single

logger = logging.getLogger(__name__)


class Gradients:
    """Adds the gradients of one batch after the other to the parameters of members.

    On a GPU several members are evaluated as one (`Stack`), where their network allows it; on a CPU, which is busy
    with one of them already, one after the other.

    Parameters
    ----------
    settings : Default
        Say what the loss is, and how it is computed.
    device : torch.device
        Of the members.
    """

    def __init__(self, settings: Default, device: torch.device) -> None:
        self._average = settings.average_loss
        self._losses = unit_losses(settings)
        self._half = settings.precision == "bfloat16" and _has_bfloat16(device)
        self._compile = settings.compiled
        self.stacked = device.type == "cuda" and not settings.compiled
        self._stack: Stack | None = None
        self._proven = False

    @contextmanager
    def prepared(self, members: Sequence[Member]) -> Iterator[None]:
        """Let the encoders of these members be compiled or stacked, if that is wanted, and trained in the block."""
        for member in members:
            member.encoder.train()
            if self._compile:
                member.encoder.compile()
        self._stack = Stack(members, self._losses) if self.stacked and len(members) > 1 else None
        try:
            yield
        finally:
            self._stack = None
            for member in members:
                _undo_compile(member.encoder)

    def add(self, members: Sequence[Member], batch: Batch, data_key: str, scale: float) -> list[tuple[Tensor, Tensor]]:
        """Add the gradients of members; return for each the losses of the units, (unit,), and the summed penalties.

        Parameters
        ----------
        members : sequence of Member
            Those that were prepared.
        batch : MovieBatch or ImageBatch
            On their device.
        data_key : str
            Its scan.
        scale : float
            What the loss, but not the penalties, is multiplied by.
        """
        if self._stack is not None:
            before = [] if self._proven else [_changed_by_evaluation(member) for member in members]
            try:
                added = self._add_stacked(self._stack, members, batch, data_key, scale)
                self._proven = True
                return added
            except RuntimeError as error:
                if self._proven:
                    raise
                logger.warning("the members cannot be evaluated as one, only in turn (%s)", str(error).splitlines()[0])
                self.stacked, self._stack = False, None
                for member, (random, buffers) in zip(members, before, strict=True):
                    member.random.states = random
                    member.encoder.load_state_dict(buffers, strict=False)
        return [self._add_alone(member, batch, data_key, scale) for member in members]

    def hand_out(self) -> None:
        """Bring the gradients to the parameters of the members, before they step."""
        if self._stack is not None:
            self._stack.hand_out()

    def _add_stacked(
        self, stack: Stack, members: Sequence[Member], batch: Batch, data_key: str, scale: float
    ) -> list[tuple[Tensor, Tensor]]:
        with torch.autocast(batch.inputs.device.type, dtype=torch.bfloat16, enabled=self._half):
            losses, penalties = stack.losses(batch, data_key)
        penalty = torch.stack([losses.new_zeros(len(members)), *penalties.values()]).sum(dim=0)
        mean = losses.sum(dim=1) / _elements(losses[0], batch, members[0].encoder.lost_frames)
        ((scale * (mean if self._average else losses.sum(dim=1))) + penalty).sum().backward()
        for position, member in enumerate(members):
            member.sums.add(mean[position].detach(), {name: value[position] for name, value in penalties.items()})
        return list(zip(losses.detach(), penalty.detach(), strict=True))

    def _add_alone(self, member: Member, batch: Batch, data_key: str, scale: float) -> tuple[Tensor, Tensor]:
        with member.random.drawn():
            predictions = self._predictions(member.encoder, batch, data_key)
        losses = self._losses(at_least_single(predictions), batch.responses)
        penalties = member.encoder.regularizer(data_key)
        penalty = torch.stack([losses.new_zeros(()), *penalties.values()]).sum()
        loss, mean = losses.sum(), losses.sum() / predictions.numel()
        (scale * (mean if self._average else loss) + penalty).backward()
        member.sums.add(mean.detach(), penalties)
        return losses.detach(), penalty.detach()

    def _predictions(self, encoder: EncodingModel, batch: Batch, data_key: str) -> Tensor:
        try:
            with torch.autocast(batch.inputs.device.type, dtype=torch.bfloat16, enabled=self._half):
                return encoder.respond(batch, data_key)
        except _compilation_error() as error:
            logger.warning("the network cannot be compiled here, going on without (%s)", str(error).splitlines()[0])
            self._compile = False
            _undo_compile(encoder)
            return self._predictions(encoder, batch, data_key)


def _compilation_error() -> type[Exception]:
    """Return the base of what compiling raises; imported when something was raised, because that takes a second."""
    from torch._dynamo.exc import TorchDynamoException

    return TorchDynamoException


def _changed_by_evaluation(member: Member) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the random state and the running statistics, as they are."""
    return member.random.states, {name: buffer.clone() for name, buffer in member.encoder.named_buffers()}


def _elements(losses: Tensor, batch: Batch, lost_frames: int) -> int:
    """Return over how many responses the losses (unit,) of a batch are summed."""
    return losses.numel() * len(batch.inputs) * (batch.inputs.shape[2] - lost_frames if batch.inputs.dim() == 5 else 1)


def _undo_compile(encoder: EncodingModel) -> None:
    encoder._compiled_call_impl = None


def _has_bfloat16(device: torch.device) -> bool:
    if device.type != "cuda" or torch.cuda.is_bf16_supported():
        return True
    logger.warning("this GPU has no bfloat16: training in float32")
    return False
