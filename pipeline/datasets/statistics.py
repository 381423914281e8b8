"""Statistics of the training tier, gathered while a dataset is written, and the normalisation that uses them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

STD_FLOOR = 0.01

_WORTH_THE_WORK = 2**18
"""Values that are worth a pass of numpy: thousands of trials with one value a unit are hundreds of times faster."""


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

    Uses the pairwise update of Chan, Golub and LeVeque (1983), which stays exact when means are large. Small blocks
    wait until they are worth the work; a block must not be changed after it was given.
    """

    def __init__(self) -> None:
        self._count = 0
        self._mean: np.ndarray | float = 0.0
        self._squares: np.ndarray | float = 0.0
        self._waiting: list[np.ndarray] = []
        self._values_waiting = 0

    def update(self, block: np.ndarray) -> None:
        """Add a block, (row, sample)."""
        if block.size:
            self._waiting.append(block)
            self._values_waiting += block.size
        if self._values_waiting > _WORTH_THE_WORK:
            self._work()

    def merge(self, other: RunningStatistics) -> None:
        """Add everything that another stream has seen."""
        other._work()
        self._work()
        self._absorb(other._count, other._mean, other._squares)

    def _work(self) -> None:
        if self._waiting:
            block = np.concatenate(self._waiting, axis=1, dtype=np.float64)
            self._waiting, self._values_waiting = [], 0
            mean = block.mean(axis=1)
            block -= mean[:, None]
            self._absorb(block.shape[1], mean, np.einsum("rs,rs->r", block, block))

    def _absorb(self, count: int, mean: np.ndarray | float, squares: np.ndarray | float) -> None:
        if not count:
            return
        total = self._count + count
        step = mean - self._mean
        self._squares = self._squares + squares + step**2 * self._count * count / total
        self._mean = self._mean + step * count / total
        self._count = total

    @property
    def count(self) -> int:
        """Samples a row seen so far."""
        self._work()
        return self._count

    def result(self) -> Statistics:
        """Return the statistics; the standard deviation of fewer than two samples is 0."""
        self._work()
        variance = np.atleast_1d(self._squares) / max(self._count - 1, 1)
        return Statistics(tuple(np.atleast_1d(self._mean).tolist()), tuple(np.sqrt(variance).tolist()))


class TrainingStatistics:
    """Statistics of everything in the training tier: of all trials, and of those of each type of stimuli apart."""

    def __init__(self) -> None:
        self._streams: dict[str, dict[str, RunningStatistics]] = {}
        self._images: dict[str, dict[str, RunningStatistics]] = {}

    def add(self, name: str, stimulus_type: str, block: np.ndarray) -> None:
        """Add a block (row, sample) of responses or of a signal."""
        self._streams.setdefault(name, {}).setdefault(stimulus_type, RunningStatistics()).update(block)

    def add_stimulus(self, stimulus_type: str, pixels: np.ndarray) -> None:
        """Add the pixels of one stimulus: to 'inputs', and those of an image (channel, height, width) by themselves."""
        block = pixels.reshape(1, -1)
        self.add("inputs", stimulus_type, block)
        if pixels.ndim == 3:
            alone = RunningStatistics()
            alone.update(block)
            result = alone.result()
            streams = self._images.setdefault("inputs_per_image", {})
            both = np.array([result.mean, result.std])
            streams.setdefault(stimulus_type, RunningStatistics()).update(both)

    def result(self) -> dict[str, dict[str, Statistics]]:
        """Return the statistics by name, then by type of stimuli; 'all' is over all types.

        'inputs_per_image' has the mean over images of each image's own mean and of its own standard deviation, which
        is what neuro_data calls ``stats_per_input``.
        """
        found = {
            name: {kind: stream.result() for kind, stream in _with_all(streams).items()}
            for name, streams in self._streams.items()
        }
        for name, streams in self._images.items():
            means = {kind: stream.result().mean for kind, stream in _with_all(streams).items()}
            found[name] = {kind: Statistics((mean,), (std,)) for kind, (mean, std) in means.items()}
        return found


def _with_all(streams: dict[str, RunningStatistics]) -> dict[str, RunningStatistics]:
    every = RunningStatistics()
    for stream in streams.values():
        every.merge(stream)
    return {"all": every, **{kind: stream for kind, stream in streams.items() if kind not in ("", "all")}}
