"""Every measure of how well responses are predicted, each under its own name.

"Correlation" means different things in the literature; here

- `single_trial_correlation` joins trials and time first and correlates once (Sensorium; what models are selected by),
- `per_clip_correlation` correlates each trial over time and averages (openretina, ViV1T),
- `correlation_to_average` correlates with the mean over the repeats of each condition.

All return one value for each unit, NaN where the measure is undefined. Repeated responses come as one array
(repeat, unit, time) for each condition; still images have one frame. Variances are over all conditions and frames.
`pipeline.moments` computes most of them from sums, which scores gather trial by trial.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from pipeline.moments import Moments, RepeatSums, TrialSums

Trials = np.ndarray | Sequence[np.ndarray]
"""One array (unit, time), or one for each trial."""

_MIN_SIGNAL_POWER = 1e-4


def correlation(first: ArrayLike, second: ArrayLike) -> np.ndarray:
    """Return Pearson's correlation over the last axis, NaN where one of the two is constant or not finite.

    A trace counts as constant if its standard deviation is below a millionth of its largest absolute value, which is
    what single-precision models that do not respond produce.
    """
    return Moments(first, second).correlation()


def single_trial_correlation(responses: Trials, predictions: Trials) -> np.ndarray:
    """Return each unit's correlation between responses and predictions, trials joined in time.

    Cov(y, p) / sqrt(Var(y) Var(p)) over all frames of all trials (Willeke et al. 2022, Turishcheva et al. 2023).

    Parameters
    ----------
    responses, predictions : ndarray or sequence of ndarray
        (unit, time), or one such array for each trial; trials may differ in length.

    Returns
    -------
    ndarray
        (unit,), NaN where responses or predictions are constant.
    """
    return _trial_sums(responses, predictions).single_trial_correlation()


def per_clip_correlation(responses: Sequence[np.ndarray], predictions: Sequence[np.ndarray]) -> np.ndarray:
    """Return each unit's correlation over the time of each trial, averaged over the trials where it is defined.

    Mean over trials of Cov(y, p) / sqrt(Var(y) Var(p)), each over the frames of one (Höfling et al. 2024).

    Parameters
    ----------
    responses, predictions : sequence of ndarray
        (unit, time) for each trial.
    """
    return _trial_sums(responses, predictions).per_clip_correlation()


def correlation_to_average(repeats: Sequence[np.ndarray], predictions: Sequence[np.ndarray]) -> np.ndarray:
    """Return each unit's correlation of predictions with responses averaged over repeats, conditions joined in time.

    Cov(m, p) / sqrt(Var(m) Var(p)), m being the mean over the repeats of a condition (Willeke et al. 2022).

    Parameters
    ----------
    repeats : sequence of ndarray
        (repeat, unit, time) for each condition.
    predictions : sequence of ndarray
        For each condition (unit, time), or (repeat, unit, time) where behaviour makes predictions differ between
        repeats; these are averaged too.
    """
    sums = Moments()
    for condition, guess in zip(repeats, predictions, strict=True):
        sums.add(np.mean(condition, axis=0, dtype=float), _averaged(guess))
    return sums.correlation()


def oracle_correlation(repeats: Sequence[np.ndarray]) -> np.ndarray:
    """Return each unit's leave-one-out oracle: the correlation of each repeat with the mean of the others.

    Cov(y, m) / sqrt(Var(y) Var(m)), m being the mean of the other repeats, over all frames of all repeats of all
    conditions (Sinz et al. 2018). The mean of few repeats is noisy, so this underestimates what a perfect model would
    reach.

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
    return RepeatSums.of(repeats).oracle_correlation()


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
    mean, noise = Moments(), Moments()
    for condition in repeats:
        mean.add(np.mean(condition, axis=0, dtype=float))
        noise.add(np.var(condition, axis=0, dtype=float))
    signal, defined = mean.variance(), mean.varies()
    scale = np.sqrt(signal * (signal + noise.mean()))
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

    The negative log-likelihood of Poisson counts less log(response!), which does not depend on the prediction.
    Undefined where a prediction is below 0.
    """
    return _trial_sums(responses, predictions, bias).poisson_loss()


def fev(repeats: Sequence[np.ndarray]) -> np.ndarray:
    """Return each unit's fraction of explainable variance: (total - noise) / total.

    Total is the variance of all responses, noise the mean over conditions and frames of the variance over repeats, both
    with n - 1 (Cadena et al. 2019). Can be negative; nothing is clipped. Undefined where responses are constant.

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
    return RepeatSums.of(repeats).fev()


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
    _refuse_single(repeats)
    return RepeatSums.of(repeats, predictions).feve()


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
    return RepeatSums.of(repeats, predictions).normalized_correlation(_MIN_SIGNAL_POWER)


def mean_of_defined(values: ArrayLike) -> tuple[float, int]:
    """Return the mean over the units where a measure is defined (NaN if none) and the number where it is not."""
    found = np.asarray(values, dtype=float)
    defined = found[~np.isnan(found)]
    return float(defined.mean()) if defined.size else float("nan"), int(found.size - defined.size)


def _trial_sums(responses: Trials, predictions: Trials, bias: float = 1e-8) -> TrialSums:
    sums = TrialSums(bias)
    for trial, guess in zip(_as_trials(responses), _as_trials(predictions), strict=True):
        sums.add(trial, guess)
    return sums


def _as_trials(trials: Trials) -> Trials:
    return [trials] if isinstance(trials, np.ndarray) and trials.ndim == 2 else trials


def _averaged(prediction: np.ndarray) -> np.ndarray:
    values = np.asarray(prediction, dtype=float)
    return values.mean(axis=0) if values.ndim == 3 else values


def _refuse_single(repeats: Sequence[np.ndarray]) -> None:
    for position, condition in enumerate(repeats):
        if len(condition) < 2:
            raise ValueError(
                f"condition {position} was shown {len(condition)} time(s): this needs at least two repeats"
            )
