"""How well an encoder predicts each unit of a tier, by every measure of `pipeline.metrics`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np

from pipeline.datasets.batches import Batch
from pipeline.datasets.function import ForeignLoader
from pipeline.datasets.loaders import ScanLoader, ScanLoaders
from pipeline.datasets.scans import in_full
from pipeline.metrics import fraction_oracle, mean_of_defined
from pipeline.models.base import EncodingModel
from pipeline.moments import RepeatSums, TrialSums
from pipeline.training.prediction import predicted_trials

MEASURES = {
    "single_trial_correlation": "trials and time joined",
    "per_clip_correlation": "over the time of each trial, averaged",
    "correlation_to_average": "with the mean of the repeats",
    "oracle": "leave-one-out correlation of the same responses, whatever the model",
    "fraction_oracle": "single_trial_correlation / oracle",
    "fev": "fraction of explainable variance, whatever the model",
    "feve": "fraction of explainable variance explained",
    "normalized_correlation": "CCnorm of Schoppe et al. 2016",
    "poisson_loss": "per bin, of normalised responses",
}
"""The measures of `UnitScores`, in a few words."""

SCORED_TIERS = ("validation", "test", "final", "ood")
"""Tiers that models are scored on, where they have trials with responses."""

UNITS_AT_ONCE = 256
"""Units whose sums are gathered together: few enough for a trial of them to stay in a processor's cache."""


@dataclass(frozen=True)
class UnitScores:
    """One value for each unit, NaN where a measure is undefined; see the functions of the same names.

    Attributes
    ----------
    single_trial_correlation, per_clip_correlation : ndarray
        (unit,).
    correlation_to_average, fev, feve, normalized_correlation : ndarray
        (unit,). These and the next two need repeated conditions.
    oracle : ndarray
        (unit,) `oracle_correlation` of the responses that were predicted.
    fraction_oracle : ndarray
        (unit,) single_trial_correlation / oracle, undefined where the oracle is not above 0.
    poisson_loss : ndarray
        (unit,) per bin, of the normalised responses that the model was trained on.
    """

    single_trial_correlation: np.ndarray
    per_clip_correlation: np.ndarray
    correlation_to_average: np.ndarray
    oracle: np.ndarray
    fraction_oracle: np.ndarray
    fev: np.ndarray
    feve: np.ndarray
    normalized_correlation: np.ndarray
    poisson_loss: np.ndarray

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Return the names of the measures."""
        return tuple(field.name for field in fields(cls))

    def over_units(self, name: str) -> tuple[float, int]:
        """Return a measure of all units together, NaN if it is undefined, and the number of units where it is.

        It is the mean; of `fraction_oracle` it is the slope of `pipeline.metrics.fraction_oracle`.
        """
        mean, undefined = mean_of_defined(getattr(self, name))
        if name == "fraction_oracle":
            return fraction_oracle(self.single_trial_correlation, self.oracle), undefined
        return mean, undefined


def score(responses: Sequence[np.ndarray], predictions: Sequence[np.ndarray], conditions: Sequence[str]) -> UnitScores:
    """Score the trials of one scan and tier that are in memory.

    Parameters
    ----------
    responses, predictions : sequence of ndarray
        (unit, time) for each trial.
    conditions : sequence of str
        The stimulus of each trial; measures over repeats use the conditions that were shown at least twice.
    """
    return score_trials(zip(responses, predictions, strict=True), conditions)


def score_trials(trials: Iterable[tuple[np.ndarray, np.ndarray]], conditions: Sequence[str]) -> UnitScores:
    """Score trials as they come; those of a repeated condition are held until its last one.

    Parameters
    ----------
    trials : iterable of (responses, predictions)
        Two arrays (unit, time) for each trial, at least one.
    conditions : sequence of str
        The stimulus of each trial; measures over repeats use the conditions that were shown at least twice.
    """
    shown = {name: count for name, count in Counter(conditions).items() if count > 1}
    held: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {name: [] for name in shown}
    blocks: list[tuple[slice, TrialSums, RepeatSums]] = []
    for (responses, predictions), name in zip(trials, conditions, strict=True):
        for first in range(0, 0 if blocks else len(responses), UNITS_AT_ONCE):
            units = slice(first, first + UNITS_AT_ONCE)
            blocks.append((units, TrialSums(), RepeatSums(min(shown.values(), default=2))))
        for units, single, _ in blocks:
            single.add(responses[units], predictions[units])
        if name in held:
            held[name].append((np.array(responses), np.array(predictions)))  # not views, which keep whole batches
            if len(held[name]) == shown[name]:
                repeats, guesses = zip(*held.pop(name), strict=True)
                for units, _, repeated in blocks:
                    repeated.add([trial[units] for trial in repeats], [guess[units] for guess in guesses])
    found = [_scores(single, repeated if shown else None) for _, single, repeated in blocks]
    return UnitScores(**{name: np.concatenate([getattr(part, name) for part in found]) for name in UnitScores.names()})


def _scores(single: TrialSums, repeated: RepeatSums | None) -> UnitScores:
    correlation = single.single_trial_correlation()
    undefined = np.full(len(correlation), np.nan)
    oracle = repeated.oracle_correlation() if repeated else undefined
    positive = oracle > 0
    return UnitScores(
        single_trial_correlation=correlation,
        per_clip_correlation=single.per_clip_correlation(),
        correlation_to_average=repeated.correlation_to_average() if repeated else undefined,
        oracle=oracle,
        fraction_oracle=np.where(positive, correlation / np.where(positive, oracle, 1), np.nan),
        fev=repeated.fev() if repeated else undefined,
        feve=repeated.feve() if repeated else undefined,
        normalized_correlation=repeated.normalized_correlation() if repeated else undefined,
        poisson_loss=single.poisson_loss(),
    )


def score_loader(encoder: EncodingModel, loader: ScanLoader | ForeignLoader, data_key: str) -> UnitScores | None:
    """Score an encoder on all trials of a loader, None if it has none.

    Loaders of ours give the repeats of a condition one after the other, so that no more than one condition is in
    memory; those of a function come as they come, and what they repeat is held until it is complete.
    """
    conditions = list(loader.conditions)
    if not conditions:
        return None
    batches: Iterable[Batch] = loader
    if isinstance(loader, ScanLoader):
        first = {name: position for position, name in reversed(list(enumerate(conditions)))}
        order = sorted(range(len(conditions)), key=lambda position: first[conditions[position]])
        conditions = [conditions[position] for position in order]
        batches = in_full(loader.dataset, [loader.trials[position] for position in order])
    return score_trials(predicted_trials(encoder, batches, data_key), conditions)


def score_loaders(encoder: EncodingModel, loaders: ScanLoaders) -> dict[tuple[str, str], UnitScores]:
    """Score an encoder on all trials of every scan that do not train and have responses, by (tier, data_key)."""
    scores = {}
    for tier in SCORED_TIERS:
        for data_key, loader in loaders.get(tier, {}).items():
            found = score_loader(encoder, loader, data_key)
            if found is not None:
                scores[tier, data_key] = found
    return scores


def mean_over_units(scores: Mapping[tuple[str, str], UnitScores], tier: str) -> float:
    """Return the mean single-trial correlation of the units of all scans on a tier; NaN if it is defined for none."""
    values = [v for (name, _), found in scores.items() if name == tier for v in found.single_trial_correlation]
    return mean_of_defined(values)[0]
