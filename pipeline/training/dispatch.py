"""The one function that trains a model, whatever kind its settings are of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

from pipeline.configuration import Configuration
from pipeline.errors import ConfigurationError
from pipeline.models.base import EncodingModel
from pipeline.models.encoder import Encoder
from pipeline.training.cycling import Loaders
from pipeline.training.function import Function, train_by_function
from pipeline.training.history import Epoch, TrainingResult
from pipeline.training.settings import Default
from pipeline.training.trainer import train


def train_model(
    encoder: EncodingModel,
    loaders: Loaders,
    settings: Configuration,
    seed: int,
    on_epoch: Callable[[Epoch], None] | None = None,
    checkpoint: Path | None = None,
    uid: Mapping[str, Any] | None = None,
) -> TrainingResult:
    """Train a model with settings of any kind of `TRAINERS`; see `train` and `train_by_function`.

    Parameters
    ----------
    encoder : EncodingModel
        Trained in place.
    loaders : mapping
        ``{tier: {data_key: loader}}``.
    settings : Configuration
        Of the trainer.
    seed : int
    on_epoch : callable, optional
        Called after each epoch, for progress bars.
    checkpoint : Path, optional
        Where training goes on if it was interrupted. Functions start over.
    uid : mapping, optional
        The key of the model, for functions.

    Raises
    ------
    ConfigurationError
        If there is no trainer for this kind of settings.
    """
    if isinstance(settings, Function):
        return train_by_function(encoder, loaders, settings, seed, on_epoch, uid)
    if isinstance(settings, Default):
        # It asks no more of the encoder than every model offers.
        return train(cast(Encoder, encoder), loaders, settings, seed, on_epoch, checkpoint)
    raise ConfigurationError(f"no trainer for settings of kind {settings.kind()}")
