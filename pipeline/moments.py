"""Sums from which measures of prediction follow, gathered trial by trial so that no population need be in memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations_with_replacement

import numpy as np
from numpy.typing import ArrayLike

Trials = np.ndarray | Sequence[np.ndarray]
"""Arrays (unit, time), one for each trial."""

CONSTANT = 1e-6
"""A trace is constant if its standard deviation is below this share of its largest absolute value."""


class Moments:
    """Means, variances and covariances, over time, of traces that are joined in time piece by piece.

    All in double precision. Pieces are merged as by Chan, Golub and LeVeque (1983): of two with n and m samples and
    means a and b, sums of squared deviations add up and gain (a - b)^2 n m / (n + m).

    Parameters
    ----------
    *traces : array_like
        The first piece of each trace, (..., time), all of one shape; none to begin with nothing.

    Attributes
    ----------
    n : int
        Samples so far.

    Raises
    ------
    ValueError
        If the shapes differ.
    """

    def __init__(self, *traces: ArrayLike) -> None:
        self.n = 0
        self._means: list[np.ndarray] = []
        self._largest: list[np.ndarray] = []
        self._products: dict[tuple[int, int], np.ndarray] = {}
        self._finite: np.ndarray = np.array(True)
        if traces:
            self._measure([np.asarray(trace, dtype=float) for trace in traces])

    def _measure(self, traces: list[np.ndarray]) -> None:
        if len({trace.shape for trace in traces}) > 1:
            shapes = " and ".join(str(trace.shape) for trace in traces)
            raise ValueError(f"traces to be correlated have the shapes {shapes}: they must be equal")
        self.n = traces[0].shape[-1]
        if not self.n:
            return
        self._finite = np.logical_and.reduce([np.isfinite(trace).all(axis=-1) for trace in traces])
        if not self._finite.all():
            traces = [np.where(self._finite[..., None], trace, 0) for trace in traces]
        self._means = [trace.mean(axis=-1) for trace in traces]
        self._largest = [np.maximum(trace.max(axis=-1), -trace.min(axis=-1)) for trace in traces]
        centred = [trace - mean[..., None] for trace, mean in zip(traces, self._means, strict=True)]
        for i, j in combinations_with_replacement(range(len(centred)), 2):
            self._products[i, j] = np.einsum("...t,...t->...", centred[i], centred[j])

    def add(self, *traces: ArrayLike) -> None:
        """Append to each trace a piece (..., time); see the class."""
        self.merge(Moments(*traces))

    def merge(self, piece: Moments) -> None:
        """Append to each trace a piece that was measured by itself."""
        if not piece.n:
            return
        if not self.n:
            self.n, self._finite = piece.n, piece._finite
            self._means, self._largest, self._products = piece._means, piece._largest, dict(piece._products)
            return
        total = self.n + piece.n
        steps = [there - here for there, here in zip(piece._means, self._means, strict=True)]
        for i, j in self._products:
            gained = steps[i] * steps[j] * (self.n * piece.n / total)
            self._products[i, j] = self._products[i, j] + piece._products[i, j] + gained
        self._means = [mean + step * (piece.n / total) for mean, step in zip(self._means, steps, strict=True)]
        self._largest = [np.maximum(a, b) for a, b in zip(self._largest, piece._largest, strict=True)]
        self._finite = self._finite & piece._finite
        self.n = total

    def mean(self, trace: int = 0) -> np.ndarray:
        """Return the mean of a trace, NaN where a value of any was not finite."""
        return np.where(self._finite, self._means[trace], np.nan)

    def covariance(self, first: int, second: int, ddof: int = 0) -> np.ndarray:
        """Return the covariance of two traces, the lower number first; NaN where a value was not finite."""
        return np.where(self._finite, self._products[first, second] / max(self.n - ddof, 1), np.nan)

    def variance(self, trace: int = 0, ddof: int = 0) -> np.ndarray:
        """Return the variance of a trace, NaN where a value of any was not finite."""
        return self.covariance(trace, trace, ddof)

    def varies(self, trace: int = 0) -> np.ndarray:
        """Tell whether a trace is finite and not constant.

        It counts as constant if its standard deviation is below a millionth of its largest absolute value, which is
        what single-precision models that do not respond produce.
        """
        spread = np.sqrt(self._products[trace, trace] / self.n)
        return self._finite & (spread > CONSTANT * self._largest[trace]) & (self.n > 1)

    def correlation(self) -> np.ndarray:
        """Return Pearson's correlation of the first two traces, NaN where one is constant or not finite."""
        defined = self.varies(0) & self.varies(1)
        scale = np.sqrt(self._products[0, 0] * self._products[1, 1])
        return np.where(defined, np.clip(self._products[0, 1] / np.where(defined, scale, 1), -1, 1), np.nan)


class TrialSums:
    """What measures over single trials need; trials may differ in length.

    Parameters
    ----------
    bias : float
        Added to predictions in the logarithm of the Poisson loss.
    """

    def __init__(self, bias: float = 1e-8) -> None:
        self._bias = bias
        self.joined = Moments()
        self._clips: np.ndarray = np.array(0.0)
        self._defined_clips: np.ndarray = np.array(0)
        self._losses: np.ndarray = np.array(0.0)

    def add(self, responses: np.ndarray, predictions: np.ndarray) -> None:
        """Add one trial, two arrays (unit, time)."""
        y, rate = np.asarray(responses, dtype=float), np.asarray(predictions, dtype=float)
        trial = Moments(y, rate)
        self.joined.merge(trial)
        if trial.n > 1:
            found = trial.correlation()
            self._clips = self._clips + np.nan_to_num(found)
            self._defined_clips = self._defined_clips + np.isfinite(found)
        with np.errstate(invalid="ignore", divide="ignore"):
            self._losses = self._losses + (rate - y * np.log(rate + self._bias)).sum(axis=-1)

    def single_trial_correlation(self) -> np.ndarray:
        """See `pipeline.metrics.single_trial_correlation`."""
        return self.joined.correlation()

    def per_clip_correlation(self) -> np.ndarray:
        """See `pipeline.metrics.per_clip_correlation`."""
        count = self._defined_clips
        found = np.where(count > 0, self._clips / np.maximum(count, 1), np.nan)
        return np.broadcast_to(found, self.joined.mean().shape).copy()  # no trial of images is a clip

    def poisson_loss(self) -> np.ndarray:
        """See `pipeline.metrics.poisson_loss`."""
        return np.where(np.isfinite(self._losses), self._losses / self.joined.n, np.nan)


class RepeatSums:
    """What measures over repeated conditions need, condition by condition.

    Parameters
    ----------
    fewest : int
        Smallest number of repeats of a condition, at least two.
    """

    def __init__(self, fewest: int) -> None:
        self.fewest = fewest
        self._averages, self._left_out = Moments(), Moments()
        self._of_repeat = [Moments() for _ in range(fewest)]
        self._of_first = Moments()
        self._noise: np.ndarray = np.array(0.0)
        self._error: np.ndarray = np.array(0.0)
        self._frames = 0

    @classmethod
    def of(cls, repeats: Sequence[np.ndarray], predictions: Iterable[np.ndarray | None] | None = None) -> RepeatSums:
        """Return the sums of conditions (repeat, unit, time) and, if given, of their predictions; see `add`."""
        sums = cls(min(map(len, repeats)))
        guesses = [None] * len(repeats) if predictions is None else predictions
        for condition, guess in zip(repeats, guesses, strict=True):
            sums.add(condition, guess)
        return sums

    def add(self, responses: Trials, predictions: Trials | None = None) -> None:
        """Add one condition.

        Parameters
        ----------
        responses : sequence of ndarray
            (unit, time) for each repeat.
        predictions : sequence of ndarray, optional
            (unit, time) for each repeat, or one array (unit, time) for all.
        """
        repeats = len(responses)
        total = np.sum(responses, axis=0, dtype=float)
        first = np.sum(responses[: self.fewest], axis=0, dtype=float)
        alike = isinstance(predictions, np.ndarray) and predictions.ndim == 2
        for i, trial in enumerate(responses):
            with_others = Moments(trial, (total - trial) / (repeats - 1))
            self._left_out.merge(with_others)
            if i < self.fewest:
                self._of_repeat[i].merge(with_others)
            self._noise = self._noise + np.square(trial - total / repeats).sum(axis=-1) / (repeats - 1)
            if predictions is not None:
                guess = np.asarray(predictions if alike else predictions[i], dtype=float)
                self._error = self._error + np.square(trial - guess).sum(axis=-1)
        self._frames += total.shape[-1]
        if predictions is None:
            self._of_first.add(first)
        else:
            rate = predictions if alike else np.mean(predictions, axis=0, dtype=float)
            self._averages.add(total / repeats, rate)
            self._of_first.add(first, rate)

    def oracle_correlation(self) -> np.ndarray:
        """See `pipeline.metrics.oracle_correlation`."""
        return self._left_out.correlation()

    def correlation_to_average(self) -> np.ndarray:
        """See `pipeline.metrics.correlation_to_average`."""
        return self._averages.correlation()

    def fev(self) -> np.ndarray:
        """See `pipeline.metrics.fev`."""
        total = self._left_out.variance(ddof=1)
        defined = self._left_out.varies()
        return np.where(defined, (total - self._noise / self._frames) / np.where(defined, total, 1), np.nan)

    def feve(self) -> np.ndarray:
        """See `pipeline.metrics.feve`."""
        noise, error = self._noise / self._frames, self._error / self._left_out.n
        explainable = self._left_out.variance(ddof=1) - noise
        defined = self._left_out.varies() & (explainable > 0) & np.isfinite(error)
        return np.where(defined, 1 - (error - noise) / np.where(defined, explainable, 1), np.nan)

    def normalized_correlation(self, least_power: float = 1e-4) -> np.ndarray:
        """See `pipeline.metrics.normalized_correlation`."""
        n = self.fewest
        apart = np.sum([of_repeat.variance(0) for of_repeat in self._of_repeat], axis=0)
        power = (self._of_first.variance(0) - apart) / (n * (n - 1))
        defined = (power > least_power) & self._of_first.varies(1)
        scale = np.sqrt(np.where(defined, self._of_first.variance(1) * power, 1))
        return np.where(defined, self._of_first.covariance(0, 1) / n / scale, np.nan)
