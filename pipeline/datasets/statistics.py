"""Statistics of the training tier, gathered while a dataset is written, and the normalisation that uses them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

STD_FLOOR = 0.01


@dataclass(frozen=True)
class Statistics:
    """Mean and standard deviation (ddof 1) over training trials; one entry a row of the tensor.

    Attributes
    ----------
    mean, std : tuple of float
        For responses one entry a unit, never one a frame; for pixels a single entry.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def precision(self) -> np.ndarray:
        """Return what responses and behaviour are multiplied by: 1 / std, with the std of quiet rows floored.

        A row whose std is below a hundredth of the rows' mean std is divided by that hundredth instead. This is the
        rule of neuralpredictors' ``NeuroNormalizer``; neuro_data's older rule left such rows unscaled. If no row
        varies at all, the precision is 1.
        """
        std = np.asarray(self.std)
        floor = STD_FLOOR * std.mean()
        return 1 / np.maximum(std, floor) if floor > 0 else np.ones_like(std)


class RunningStatistics:
    """Mean and standard deviation of a stream of (row, sample) blocks, in float64, one pass.

    Uses the pairwise update of Chan, Golub and LeVeque (1983), which stays exact when means are large.
    """

    def __init__(self) -> None:
        self._count = 0
        self._mean: np.ndarray | float = 0.0
        self._squares: np.ndarray | float = 0.0

    def update(self, block: np.ndarray) -> None:
        """Add a block, (row, sample)."""
        block = np.asarray(block, np.float64)
        count = block.shape[1]
        if not count:
            return
        mean = block.mean(axis=1)
        squares = ((block - mean[:, None]) ** 2).sum(axis=1)
        total = self._count + count
        step = mean - self._mean
        self._squares = self._squares + squares + step**2 * self._count * count / total
        self._mean = self._mean + step * count / total
        self._count = total

    @property
    def count(self) -> int:
        """Samples a row seen so far."""
        return self._count

    def result(self) -> Statistics:
        """Return the statistics; the standard deviation of fewer than two samples is 0."""
        variance = np.atleast_1d(self._squares) / max(self._count - 1, 1)
        return Statistics(tuple(np.atleast_1d(self._mean).tolist()), tuple(np.sqrt(variance).tolist()))
