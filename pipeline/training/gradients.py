"""The gradients of members for a batch."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch._dynamo.exc import TorchDynamoException

from pipeline.datasets.batches import Batch
from pipeline.models.base import EncodingModel
from pipeline.training.losses import unit_losses
from pipeline.training.member import Member
from pipeline.training.settings import Default

logger = logging.getLogger(__name__)


class Gradients:
    """Adds the gradients of one batch after the other to the parameters of members.

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

    @contextmanager
    def prepared(self, members: Sequence[Member]) -> Iterator[None]:
        """Let the encoders of these members be compiled, if that is wanted; inside the block they are trained."""
        for member in members:
            member.encoder.train()
            if self._compile:
                member.encoder.compile()
        try:
            yield
        finally:
            for member in members:
                _undo_compile(member.encoder)

    def add(self, member: Member, batch: Batch, data_key: str, scale: float) -> tuple[Tensor, Tensor]:
        """Add a member's gradients; return the losses of the units, (unit,), and the summed penalties.

        Parameters
        ----------
        member : Member
        batch : MovieBatch or ImageBatch
            On the device of the members.
        data_key : str
            Its scan.
        scale : float
            What the loss, but not the penalties, is multiplied by.
        """
        with member.random.drawn():
            predictions = self._predictions(member.encoder, batch, data_key)
        losses = self._losses(predictions.float(), batch.responses)
        penalties = member.encoder.regularizer(data_key)
        penalty = torch.stack(list(penalties.values())).sum() if penalties else losses.new_zeros(())
        loss, mean = losses.sum(), losses.sum() / predictions.numel()
        (scale * (mean if self._average else loss) + penalty).backward()
        member.sums.add(mean.detach(), penalties)
        return losses.detach(), penalty.detach()

    def _predictions(self, encoder: EncodingModel, batch: Batch, data_key: str) -> Tensor:
        try:
            with torch.autocast(batch.inputs.device.type, dtype=torch.bfloat16, enabled=self._half):
                return encoder.respond(batch, data_key)
        except TorchDynamoException as error:
            logger.warning("the network cannot be compiled here, going on without (%s)", str(error).splitlines()[0])
            self._compile = False
            _undo_compile(encoder)
            return self._predictions(encoder, batch, data_key)


def _undo_compile(encoder: EncodingModel) -> None:
    encoder._compiled_call_impl = None


def _has_bfloat16(device: torch.device) -> bool:
    if device.type != "cuda" or torch.cuda.is_bf16_supported():
        return True
    logger.warning("this GPU has no bfloat16: training in float32")
    return False
