"""What training reports."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Epoch:
    """One epoch of training and the evaluation after it.

    Attributes
    ----------
    epoch : int
        Counted from 1.
    loss : float
        Training loss of one response (a unit in a frame), mean over the epoch, without penalties.
    regularization : float
        Sum of the penalties of a step, mean over the epoch.
    validation_correlation : float
        The score that selects models, mean over units; NaN if it is undefined for all.
    undefined_units : int
        Units for which it is undefined.
    learning_rate : float
        In this epoch.
    verdict : str
        ``improved``, ``waiting``, ``cut`` (of the learning rate, after this epoch) or ``stop``.
    seconds : float
        Training and evaluation.
    """

    epoch: int
    loss: float
    regularization: float
    validation_correlation: float
    undefined_units: int
    learning_rate: float
    verdict: str
    seconds: float


@dataclass(frozen=True)
class TrainingResult:
    """How training went. The best weights are in the encoder.

    Attributes
    ----------
    history : tuple of Epoch
        All epochs; of a function those that it reported.
    best_epoch : int or None
        The one whose weights were kept; 0 for those before training; None if a function trained, which does not tell.
    validation_correlation : float
        Score of the best weights.
    undefined_units : int
        Units for which it is undefined.
    initial_correlation : float
        Score before training; NaN if it was undefined for all units.
    stopped_by : str
        ``patience``, ``max_epochs`` or ``function``.
    """

    history: tuple[Epoch, ...]
    best_epoch: int | None
    validation_correlation: float
    undefined_units: int
    initial_correlation: float
    stopped_by: str
