"""Correlation over batches that are not kept, computed where they are."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from pipeline.moments import CONSTANT


class RunningCorrelation:
    """Pearson's correlation of each unit over all batches joined, defined where `pipeline.metrics.correlation` is.

    Sums are taken of deviations from the first batch's means, in double precision, on the device of the batches, so
    that nothing waits for the host before `value` is asked for.
    """

    def __init__(self) -> None:
        self._origin = torch.empty(0)
        self._sums = torch.empty(0)
        self._largest = torch.empty(0)
        self._count = 0

    def add(self, first: Tensor, second: Tensor) -> None:
        """Take in one batch of both, (batch, unit[, time])."""
        both = torch.stack([_by_unit(first), _by_unit(second)]).double()  # 2, unit, sample
        if not self._count:
            self._origin = both.mean(dim=2, keepdim=True)
            self._sums = both.new_zeros(5, both.shape[1])
            self._largest = both.new_zeros(both.shape[:2])
        x, y = both - self._origin
        self._sums += torch.stack([x.sum(1), y.sum(1), (x * x).sum(1), (y * y).sum(1), (x * y).sum(1)])
        self._largest = torch.maximum(self._largest, both.abs().amax(dim=2))
        self._count += both.shape[2]

    def value(self) -> np.ndarray:
        """Return the correlation of each unit, (unit,), after at least one batch.

        It is NaN where one of the two is constant or not finite.
        """
        sums, largest, n = self._sums.cpu().numpy(), self._largest.cpu().numpy(), self._count
        with np.errstate(invalid="ignore", divide="ignore"):
            x, y, xx, yy, xy = sums / n
            variances = np.stack([xx - x * x, yy - y * y]).clip(min=0)
            varies = np.sqrt(variances) > CONSTANT * largest
            found = (xy - x * y) / np.sqrt(variances[0] * variances[1])
            return np.where(varies.all(axis=0) & (n > 1), found.clip(-1, 1), np.nan)


def _by_unit(values: Tensor) -> Tensor:
    """Return (unit, sample) from (batch, unit[, time])."""
    return values.transpose(0, 1).flatten(1)
