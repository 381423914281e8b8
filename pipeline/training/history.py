"""What training reports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Epoch:
    """One epoch of training and the evaluation after it.

    Attributes
    ----------
    epoch : int
        Counted from 1.
    loss : float
        Training loss of one response (a unit in a frame), mean over the epoch, without penalties.
    penalties : mapping of str to float
        The weighted penalties by name, summed over the scans, mean over the epoch.
    validation_correlation : float
        The score that selects models, mean over units; NaN if it is undefined for all.
    undefined_units : int
        Units for which it is undefined.
    learning_rate : float
        At the end of this epoch.
    verdict : str
        ``improved``, ``waiting``, ``cut`` (of the learning rate, after this epoch) or ``stop``.
    seconds : float
        Training and evaluation; of all members where several are trained together.
    seed : int
        Of the model.
    """

    epoch: int
    loss: float
    penalties: Mapping[str, float]
    validation_correlation: float
    undefined_units: int
    learning_rate: float
    verdict: str
    seconds: float
    seed: int

    @property
    def regularization(self) -> float:
        """Sum of the penalties."""
        return sum(self.penalties.values())


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
    initial_correlation : float
        Score before training; NaN if it was undefined for all units.
    stopped_by : str
        ``patience``, ``max_epochs`` or ``function``.
    undefined_units : mapping of str to tuple of int
        For each data_key the positions of units whose score is undefined: their validation responses are constant, or
        the trained model's predictions are.
    """

    history: tuple[Epoch, ...]
    best_epoch: int | None
    validation_correlation: float
    initial_correlation: float
    stopped_by: str
    undefined_units: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
