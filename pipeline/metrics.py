"""Every measure of how well responses are predicted, each under its own name.

"Correlation" means different things in the literature; here

- `single_trial_correlation` joins trials and time first and correlates once (Sensorium; what models are selected by),
- `per_clip_correlation` correlates each trial over time and averages (openretina, ViV1T),
- `correlation_to_average` correlates with the mean over the repeats of each condition.

All return one value for each unit, NaN where the measure is undefined. Repeated responses come as one array
(repeat, unit, time) for each condition; still images have one frame. Variances are over all conditions and frames.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

Trials = np.ndarray | Sequence[np.ndarray]
"""One array (unit, time), or one for each trial."""

CONSTANT = 1e-6
"""A trace is constant if its standard deviation is below this share of its largest absolute value."""

_MIN_SIGNAL_POWER = 1e-4


def correlation(first: ArrayLike, second: ArrayLike) -> np.ndarray:
    """Return Pearson's correlation over the last axis, NaN where one of the two is constant or not finite.

    A trace counts as constant if its standard deviation is below a millionth of its largest absolute value, which is
    what single-precision models that do not respond produce.
    """
    x, y = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    if x.shape != y.shape:
        raise ValueError(f"traces to be correlated have the shapes {x.shape} and {y.shape}: they must be equal")
    finite = (np.isfinite(x) & np.isfinite(y)).all(axis=-1, keepdims=True)
    x, y = np.where(finite, x, 0), np.where(finite, y, 0)
    defined = _varies(x) & _varies(y)
    x = x - x.mean(axis=-1, keepdims=True)
    y = y - y.mean(axis=-1, keepdims=True)
    scale = np.sqrt((x * x).sum(axis=-1) * (y * y).sum(axis=-1))
    found = (x * y).sum(axis=-1) / np.where(defined, scale, 1)
    return np.where(defined, np.clip(found, -1, 1), np.nan)


def _varies(x: np.ndarray) -> np.ndarray:
    if x.shape[-1] < 2:
        return np.zeros(x.shape[:-1], dtype=bool)
    return x.std(axis=-1) > CONSTANT * np.abs(x).max(axis=-1)


def single_trial_correlation(responses: Trials, predictions: Trials) -> np.ndarray:
    """Return each unit's correlation between responses and predictions, trials joined in time.

    Parameters
    ----------
    responses, predictions : ndarray or sequence of ndarray
        (unit, time), or one such array for each trial; trials may differ in length.

    Returns
    -------
    ndarray
        (unit,), NaN where responses or predictions are constant.
    """
    return correlation(_joined(responses), _joined(predictions))


def per_clip_correlation(responses: Sequence[np.ndarray], predictions: Sequence[np.ndarray]) -> np.ndarray:
    """Return each unit's correlation over the time of each trial, averaged over the trials where it is defined.

    Parameters
    ----------
    responses, predictions : sequence of ndarray
        (unit, time) for each trial.
    """
    per_trial = [correlation(r, p) for r, p in zip(responses, predictions, strict=True)]
    return _mean_of_defined(np.stack(per_trial), axis=0)


def correlation_to_average(repeats: Sequence[np.ndarray], predictions: Sequence[np.ndarray]) -> np.ndarray:
    """Return each unit's correlation of predictions with responses averaged over repeats, conditions joined in time.

    Parameters
    ----------
    repeats : sequence of ndarray
        (repeat, unit, time) for each condition.
    predictions : sequence of ndarray
        For each condition (unit, time), or (repeat, unit, time) where behaviour makes predictions differ between
        repeats; these are averaged too.
    """
    averages = [np.asarray(condition, dtype=float).mean(axis=0) for condition in repeats]
    return correlation(_joined(averages), _joined([_averaged(p) for p in predictions]))


def oracle_correlation(repeats: Sequence[np.ndarray]) -> np.ndarray:
    """Return each unit's leave-one-out oracle: the correlation of each repeat with the mean of the others.

    All repeats of all conditions are joined before correlating. The mean of few repeats is noisy, so this
    underestimates what a perfect model would reach.

    Parameters
    ----------
    repeats : sequence of ndarray
        (repeat, unit, time) for each condition, at least two repeats.

    Raises
    ------
    ValueError
        If a condition was shown only once.
    """
    _refuse_single(repeats)
    data = [np.asarray(condition, dtype=float) for condition in repeats]
    others = [(x.sum(axis=0, keepdims=True) - x) / (len(x) - 1) for x in data]
    return correlation(_repeats_joined(data), _repeats_joined(others))


def conservative_oracle_correlation(repeats: Sequence[np.ndarray]) -> np.ndarray:
    """Return each unit's oracle from variances: Var(mean) / sqrt(Var(mean) (Var(mean) + Var(noise))).

    Var(mean) is the variance over conditions and frames of the mean over repeats, Var(noise) the mean over them of the
    variance over repeats (both divided by n). The mean still contains some noise, so this overestimates what a perfect
    model would reach; the formula is nnsysident's "corrected" oracle.

    Raises
    ------
    ValueError
        If a condition was shown only once.
    """
    _refuse_single(repeats)
    mean = _joined([np.mean(x, axis=0, dtype=float) for x in repeats])
    noise = _joined([np.var(x, axis=0, dtype=float) for x in repeats]).mean(axis=1)
    signal = mean.var(axis=1)
    defined = _varies(mean)
    scale = np.sqrt(signal * (signal + noise))
    return np.where(defined, signal / np.where(defined, scale, 1), np.nan)


def fraction_oracle(correlations: ArrayLike, oracles: ArrayLike) -> float:
    """Return the slope, without intercept, of the line that predicts units' correlations from their oracles.

    The slope is sum(c o) / sum(o^2) over the units where both are defined (staticnet; Sinz et al. 2018).

    Parameters
    ----------
    correlations, oracles : array_like
        (unit,).

    Returns
    -------
    float
        NaN if no unit has both, or all oracles are 0.
    """
    found, possible = np.asarray(correlations, dtype=float), np.asarray(oracles, dtype=float)
    if found.shape != possible.shape:
        raise ValueError(f"{found.shape} correlations but {possible.shape} oracles: give one of each for every unit")
    both = np.isfinite(found) & np.isfinite(possible)
    power = float((possible[both] ** 2).sum())
    return float((found[both] * possible[both]).sum() / power) if power > 0 else float("nan")


def poisson_loss(responses: Trials, predictions: Trials, bias: float = 1e-8) -> np.ndarray:
    """Return each unit's mean over trials and time of prediction - response * log(prediction + bias).

    The negative log-likelihood of Poisson counts less a term that does not depend on the prediction.
    """
    y, rate = _joined(responses), _joined(predictions)
    return (rate - y * np.log(rate + bias)).mean(axis=1)


def fev(repeats: Sequence[np.ndarray]) -> np.ndarray:
    """Return each unit's fraction of explainable variance: (total - noise) / total.

    Total is the variance of all responses, noise the mean over conditions and frames of the variance over repeats, both
    with n - 1 (Cadena et al. 2019). Can be negative; nothing is clipped.

    Parameters
    ----------
    repeats : sequence of ndarray
        (repeat, unit, time) for each condition, at least two repeats.

    Raises
    ------
    ValueError
        If a condition was shown only once.
    """
    total, noise = _total_and_noise(repeats)
    return np.where(total > 0, (total - noise) / np.where(total > 0, total, 1), np.nan)


def feve(repeats: Sequence[np.ndarray], predictions: Sequence[np.ndarray]) -> np.ndarray:
    """Return each unit's fraction of explainable variance explained: 1 - (error - noise) / (total - noise).

    Error is the mean squared error over single repeats; total and noise are those of `fev` (Cadena et al. 2019).
    Nothing is clipped; undefined where total - noise is not above 0. Compare only units with a fair `fev`.

    Parameters
    ----------
    repeats : sequence of ndarray
        (repeat, unit, time) for each condition, at least two repeats.
    predictions : sequence of ndarray
        (unit, time) or (repeat, unit, time) for each condition.
    """
    total, noise = _total_and_noise(repeats)
    pairs = zip(repeats, predictions, strict=True)
    error = _repeats_joined([np.square(np.asarray(y, dtype=float) - np.asarray(p)) for y, p in pairs]).mean(axis=1)
    explainable = total - noise
    defined = explainable > 0
    return np.where(defined, 1 - (error - noise) / np.where(defined, explainable, 1), np.nan)


def normalized_correlation(repeats: Sequence[np.ndarray], predictions: Sequence[np.ndarray]) -> np.ndarray:
    """Return each unit's CCnorm: Cov(prediction, mean response) / sqrt(Var(prediction) * signal power).

    Signal power is (Var(sum over repeats) - sum of Var(repeat)) / (N (N - 1)) for N repeats (Schoppe et al. 2016).
    If conditions differ in their number of repeats, the first N of each are used, N being the smallest number.
    Undefined where signal power is at most 1e-4 or the prediction is constant. Can exceed 1 by chance.

    Parameters
    ----------
    repeats : sequence of ndarray
        (repeat, unit, time) for each condition, at least two repeats.
    predictions : sequence of ndarray
        (unit, time) or (repeat, unit, time) for each condition.
    """
    _refuse_single(repeats)
    n = min(len(condition) for condition in repeats)
    trials = np.concatenate([np.asarray(condition[:n], dtype=float) for condition in repeats], axis=2)
    rate = _joined([_averaged(p) for p in predictions])
    power = (trials.sum(axis=0).var(axis=1) - trials.var(axis=2).sum(axis=0)) / (n * (n - 1))
    mean = trials.mean(axis=0)
    covariance = ((mean - mean.mean(axis=1, keepdims=True)) * (rate - rate.mean(axis=1, keepdims=True))).mean(axis=1)
    defined = (power > _MIN_SIGNAL_POWER) & _varies(rate)
    return np.where(defined, covariance / np.sqrt(np.where(defined, rate.var(axis=1) * power, 1)), np.nan)


def mean_of_defined(values: ArrayLike) -> tuple[float, int]:
    """Return the mean over the units where a measure is defined (NaN if none) and the number where it is not."""
    found = np.asarray(values, dtype=float)
    return float(_mean_of_defined(found, axis=0)), int(np.isnan(found).sum())


def _mean_of_defined(values: np.ndarray, axis: int) -> np.ndarray:
    defined = ~np.isnan(values)
    count = defined.sum(axis=axis)
    total = np.where(defined, values, 0).sum(axis=axis)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _joined(trials: Trials) -> np.ndarray:
    if isinstance(trials, np.ndarray) and trials.ndim == 2:
        return trials.astype(float)
    return np.concatenate([np.asarray(trial, dtype=float) for trial in trials], axis=-1)


def _repeats_joined(repeats: Sequence[np.ndarray]) -> np.ndarray:
    """Join (repeat, unit, time) arrays to one (unit, repeat and time of all conditions)."""
    return np.concatenate([x.transpose(1, 0, 2).reshape(x.shape[1], -1) for x in repeats], axis=1)


def _averaged(prediction: np.ndarray) -> np.ndarray:
    values = np.asarray(prediction, dtype=float)
    return values.mean(axis=0) if values.ndim == 3 else values


def _total_and_noise(repeats: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    _refuse_single(repeats)
    total = _repeats_joined([np.asarray(x, dtype=float) for x in repeats]).var(axis=1, ddof=1)
    noise = _joined([np.var(x, axis=0, ddof=1, dtype=float) for x in repeats]).mean(axis=1)
    return total, noise


def _refuse_single(repeats: Sequence[np.ndarray]) -> None:
    for position, condition in enumerate(repeats):
        if len(condition) < 2:
            raise ValueError(
                f"condition {position} was shown {len(condition)} time(s): this needs at least two repeats"
            )
