"""Predictions for whole loaders, trial by trial, and the score that selects models."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch

from pipeline.datasets.batches import Batch
from pipeline.metrics import mean_of_defined, single_trial_correlation
from pipeline.models.base import EncodingModel

BatchT = TypeVar("BatchT", bound=Batch)


def on_device(batch: BatchT, device: torch.device) -> BatchT:
    """Return the batch on this device."""
    moved = {name: field.to(device, non_blocking=True) for name, field in batch._asdict().items() if field is not None}
    return type(batch)(**moved)


@contextmanager
def evaluating(encoder: EncodingModel) -> Iterator[None]:
    """Put the encoder in evaluation mode without gradients, and back as it was."""
    was_training = encoder.training
    encoder.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        encoder.train(was_training)


def predict(encoder: EncodingModel, loader: Iterable[Batch], data_key: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """Predict every trial of a loader.

    Parameters
    ----------
    encoder : EncodingModel
        Evaluated where its weights are, in evaluation mode; left in the mode it was in.
    loader : iterable of MovieBatch or ImageBatch
        Its trials, in the order of the result.
    data_key : str
        The scan.

    Returns
    -------
    list of (responses, predictions)
        For each trial two arrays (unit, time), of the frames that have predictions; time is 1 for images.
    """
    pairs = []
    with evaluating(encoder):
        for batch in loader:
            batch = on_device(batch, encoder.device)
            predictions = encoder.respond(batch, data_key)
            aligned = batch.responses[..., batch.responses.shape[-1] - predictions.shape[-1] :]
            if predictions.dim() == 2:
                aligned, predictions = aligned.unsqueeze(2), predictions.unsqueeze(2)
            pairs += list(zip(aligned.cpu().numpy(), predictions.cpu().numpy(), strict=True))
    return pairs


@dataclass(frozen=True)
class Score:
    """The score that selects models.

    Attributes
    ----------
    correlation : float
        Single-trial correlation, mean over the units of all scans where it is defined; NaN if it is for none.
    undefined_units : int
        Units whose responses or predictions are constant.
    """

    correlation: float
    undefined_units: int


def score(encoder: EncodingModel, loaders: Mapping[str, Iterable[Batch]]) -> Score:
    """Return the mean single-trial correlation over the units of all scans, by data_key in ``loaders``."""
    per_scan = []
    for data_key, loader in loaders.items():
        responses, predictions = zip(*predict(encoder, loader, data_key), strict=True)
        per_scan.append(single_trial_correlation(responses, predictions))
    return Score(*mean_of_defined(np.concatenate(per_scan)))
