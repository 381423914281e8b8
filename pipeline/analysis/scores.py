"""How well an encoder predicts each unit of a tier, by every measure of `pipeline.metrics`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from pipeline import metrics


@dataclass(frozen=True)
class UnitScores:
    """One value for each unit, NaN where a measure is undefined; see the functions of the same names.

    Attributes
    ----------
    single_trial_correlation, per_clip_correlation, correlation_to_average, fev, feve, normalized_correlation : ndarray
        (unit,). The last four need repeated conditions.
    poisson_loss : ndarray
        (unit,) per bin, of the normalised responses that the model was trained on.
    """

    single_trial_correlation: np.ndarray
    per_clip_correlation: np.ndarray
    correlation_to_average: np.ndarray
    fev: np.ndarray
    feve: np.ndarray
    normalized_correlation: np.ndarray
    poisson_loss: np.ndarray

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Return the names of the measures."""
        return tuple(field.name for field in fields(cls))


def score(responses: Sequence[np.ndarray], predictions: Sequence[np.ndarray], conditions: Sequence[str]) -> UnitScores:
    """Score the trials of one scan and tier.

    Parameters
    ----------
    responses, predictions : sequence of ndarray
        (unit, time) for each trial.
    conditions : sequence of str
        The stimulus of each trial; measures over repeats use the conditions that were shown at least twice.
    """
    undefined = np.full(len(responses[0]), np.nan)
    shown: dict[str, list[int]] = {}
    for trial, name in enumerate(conditions):
        shown.setdefault(name, []).append(trial)
    groups = [group for group in shown.values() if len(group) > 1]
    repeats = [np.stack([responses[i] for i in group]) for group in groups]
    predicted = [np.stack([predictions[i] for i in group]) for group in groups]
    return UnitScores(
        single_trial_correlation=metrics.single_trial_correlation(responses, predictions),
        per_clip_correlation=metrics.per_clip_correlation(responses, predictions),
        correlation_to_average=metrics.correlation_to_average(repeats, predicted) if repeats else undefined,
        fev=metrics.fev(repeats) if repeats else undefined,
        feve=metrics.feve(repeats, predicted) if repeats else undefined,
        normalized_correlation=metrics.normalized_correlation(repeats, predicted) if repeats else undefined,
        poisson_loss=metrics.poisson_loss(responses, predictions),
    )
