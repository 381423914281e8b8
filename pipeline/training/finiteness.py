"""Losses that are not finite: found without making every step wait, and traced to the batch, the unit and the cause."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.datasets.batches import Batch
from pipeline.errors import TrainingError

_AT_ONCE = 50
_NAMED = 5


@dataclass(frozen=True)
class _Seen:
    step: int
    data_key: str
    seed: int | None
    per_unit: Tensor
    penalty: Tensor


class FinitenessWatch:
    """Looks at the losses of each batch: at once on a CPU, in bundles where asking would make the device wait.

    Parameters
    ----------
    batches : callable
        Gives the joint batches of an epoch, always the same.
    device : torch.device
        Of the losses.
    """

    def __init__(self, batches: Callable[[int], Iterator[Mapping[str, Batch]]], device: torch.device) -> None:
        self._batches = batches
        self._bundle = 1 if device.type == "cpu" else _AT_ONCE
        self._seen: list[_Seen] = []

    def add(
        self, epoch: int, step: int, data_key: str, per_unit: Tensor, penalty: Tensor, seed: int | None = None
    ) -> None:
        """Take in the losses of units for one batch, (unit,), and the summed penalties; ``seed`` tells one of many."""
        self._seen.append(_Seen(step, data_key, seed, per_unit, penalty))
        if len(self._seen) >= self._bundle:
            self.check(epoch)

    def check(self, epoch: int) -> None:
        """Raise a TrainingError for the first batch of the epoch whose loss was not finite."""
        seen, self._seen = self._seen, []
        if not seen:
            return
        totals = torch.stack([one.per_unit.sum() + one.penalty for one in seen]).cpu()
        for one, total in zip(seen, totals, strict=True):
            if not torch.isfinite(total):
                raise TrainingError(self._complaint(epoch, one))

    def _complaint(self, epoch: int, one: _Seen) -> str:
        where = f"epoch {epoch}, batch {one.step}, {one.data_key!r}"
        if one.seed is not None:
            where += f", seed {one.seed}"
        units = torch.nonzero(~torch.isfinite(one.per_unit)).flatten().tolist()
        if not units:
            return f"the penalties on the weights are {one.penalty.item()} at {where}: lower their gammas or lr_init"
        batches = next(itertools.islice(self._batches(epoch), one.step, None))
        named = ", ".join(map(str, units[:_NAMED])) + (
            f" and {len(units) - _NAMED} more" if len(units) > _NAMED else ""
        )
        return (
            f"the loss is not finite at {where}, unit {named} (of {len(one.per_unit)}, counted from 0): "
            f"{_cause(batches[one.data_key])}"
        )


def _cause(batch: Batch) -> str:
    for name, values in batch._asdict().items():
        if values is not None and not torch.isfinite(values).all():
            trial, place, *_ = torch.nonzero(~torch.isfinite(values))[0].tolist()
            what = "unit" if name == "responses" else "channel"
            return f"{name} of trial {trial} of the batch, {what} {place}, hold NaN or infinity; mend the recording"
    return (
        "what the batch holds is finite, so the weights have diverged; lower lr_init, set max_gradient_norm, or bound "
        "the output with the non-linearity 'elu' or 'softplus'"
    )
