"""Several members evaluated as one: their parameters lie in one stack, and one pass serves all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from pipeline.datasets.batches import Batch
from pipeline.models.base import EncodingModel
from pipeline.models.readouts.noise import StandardNormal
from pipeline.training.member import Member

Tensors = dict[str, Tensor]
UnitLosses = Callable[[Tensor, Tensor], Tensor]


class Objective(nn.Module):
    """The losses of an encoder's units and its penalties for one batch."""

    def __init__(self, encoder: EncodingModel, losses: UnitLosses) -> None:
        super().__init__()
        self.encoder, self._losses = encoder, losses

    def forward(self, batch: Batch, data_key: str) -> tuple[Tensor, Tensors]:
        """Return losses (unit,), summed over batch and frames, and the weighted penalties by name."""
        predictions = self.encoder.respond(batch, data_key)
        with torch.autocast(predictions.device.type, enabled=False):
            return self._losses(at_least_single(predictions), batch.responses), self.encoder.regularizer(data_key)


def at_least_single(predictions: Tensor) -> Tensor:
    """Return predictions in single precision if they are in half."""
    return predictions.to(torch.promote_types(predictions.dtype, torch.float32))


class Stack:
    """The parameters and buffers of members in one piece of memory each.

    The members stay what they are: each tensor of an encoder becomes its slice of the stack, laid out as before, so
    that optimisers, checkpoints and evaluation see nothing of it.

    Parameters
    ----------
    members : sequence of Member
        Whose encoders have the same architecture.
    losses : callable
        See `pipeline.training.losses.unit_losses`.
    """

    def __init__(self, members: Sequence[Member], losses: UnitLosses) -> None:
        self._members = members
        self._objectives = [Objective(member.encoder, losses) for member in members]
        self._noise = [
            [module for module in member.encoder.modules() if isinstance(module, StandardNormal)] for member in members
        ]
        self._parameters = _stacked([dict(objective.named_parameters()) for objective in self._objectives])
        self._buffers = _stacked([dict(objective.named_buffers()) for objective in self._objectives])
        for name, stacked in self._parameters.items():
            stacked.requires_grad_(self._objectives[0].get_parameter(name).requires_grad)

    def losses(self, batch: Batch, data_key: str) -> tuple[Tensor, Tensors]:
        """Return the losses (member, unit) and the penalties (member,) by name.

        Raises
        ------
        RuntimeError
            If the network does something that cannot be done for all members at once, such as drawing random numbers
            elsewhere than in a readout.
        """
        drawn = self._drawn(batch, data_key)

        def one(parameters: Tensors, buffers: Tensors, drawn: dict[int, Tensor]) -> tuple[Tensor, Tensors]:
            with _given(self._noise[0], drawn):
                found: tuple[Tensor, Tensors] = functional_call(
                    self._objectives[0], (parameters, buffers), (batch, data_key)
                )
            return found

        return vmap(one)(self._parameters, self._buffers, drawn)

    def _frames(self, batch: Batch) -> int:
        """Return how many frames readouts see."""
        if batch.inputs.dim() == 4:
            return len(batch.inputs)
        return len(batch.inputs) * (batch.inputs.shape[2] - self._members[0].encoder.lost_frames)

    def _drawn(self, batch: Batch, data_key: str) -> dict[int, Tensor]:
        """Return what each member would have drawn for the readout of this scan, by the position of the readout."""
        frames = self._frames(batch)
        seen = [position for position, module in enumerate(self._noise[0]) if self._is_of(module, data_key)]
        numbers: dict[int, list[Tensor]] = {position: [] for position in seen}
        for member, noise in zip(self._members, self._noise, strict=True):
            with member.random.drawn():
                for position in seen:
                    numbers[position].append(noise[position].draw(frames, like=batch.inputs))
        return {position: torch.stack(of_members) for position, of_members in numbers.items()}

    def _is_of(self, module: nn.Module, data_key: str) -> bool:
        readouts = getattr(self._members[0].encoder, "readouts", {})
        return data_key in readouts and any(module is other for other in readouts[data_key].modules())

    def hand_out(self) -> None:
        """Give the gradients that have been added up in the stack to the members, and forget them."""
        for name, stacked in self._parameters.items():
            if stacked.grad is not None:
                for objective, gradient in zip(self._objectives, stacked.grad, strict=True):
                    objective.get_parameter(name).grad = gradient
                stacked.grad = None


def _stacked(tensors: Sequence[Tensors]) -> Tensors:
    """Return stacks of tensors by name, of which the tensors become slices that lie in memory as they did."""
    stacks = {}
    for name, first in tensors[0].items():
        memory = first.detach().new_empty(len(tensors), first.numel())
        shape, stride = (len(tensors), *first.shape), (first.numel(), *first.stride())
        stack = memory.as_strided(shape, stride)
        for position, of_member in enumerate(tensors):
            stack[position].copy_(of_member[name].detach())
            of_member[name].data = stack[position]
        stacks[name] = stack
    return stacks


@contextmanager
def _given(noise: Sequence[StandardNormal], drawn: dict[int, Tensor]) -> Iterator[None]:
    for position, numbers in drawn.items():
        noise[position].given = numbers
    try:
        yield
    finally:
        for module in noise:
            module.given = None
