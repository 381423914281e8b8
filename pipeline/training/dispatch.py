"""The one function that trains models, whatever kind their settings are of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pipeline.configuration import Configuration
from pipeline.errors import ConfigurationError
from pipeline.models.base import EncodingModel
from pipeline.training.checkpoints import Checkpointing
from pipeline.training.cycling import Loaders
from pipeline.training.function import Function, train_by_function
from pipeline.training.history import Epoch, TrainingResult
from pipeline.training.settings import Default
from pipeline.training.trainer import train_together


def train_models(
    encoders: Sequence[EncodingModel],
    loaders: Loaders,
    settings: Configuration,
    seeds: Sequence[int],
    on_epoch: Callable[[Epoch], None] | None = None,
    checkpointing: Checkpointing | None = None,
    uid: Mapping[str, Any] | None = None,
) -> list[TrainingResult]:
    """Train models that differ in their seed with settings of any kind; see `train_together` and `train_by_function`.

    Parameters
    ----------
    encoders : sequence of EncodingModel
        Trained in place.
    loaders : mapping
        ``{tier: {data_key: loader}}``.
    settings : Configuration
        Of the trainer.
    seeds : sequence of int
        One for each encoder.
    on_epoch : callable, optional
        Called after each epoch of each model, for progress bars.
    checkpointing : Checkpointing, optional
        Where training goes on if it was interrupted. Functions start over, and train one model after the other.
    uid : mapping, optional
        The key of the model, for functions, each of which finds its own seed in it.

    Raises
    ------
    ConfigurationError
        If there is no trainer for this kind of settings.
    """
    if isinstance(settings, Function):
        return [
            train_by_function(encoder, loaders, settings, seed, on_epoch, uid and {**uid, "seed": seed})
            for encoder, seed in zip(encoders, seeds, strict=True)
        ]
    if isinstance(settings, Default):
        return train_together(encoders, loaders, settings, seeds, on_epoch, checkpointing)
    raise ConfigurationError(f"no trainer for settings of kind {settings.kind()}")
