"""Predictions for whole loaders, trial by trial, and the score that selects models."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch

from pipeline.datasets.batches import Batch
from pipeline.metrics import mean_of_defined
from pipeline.models.base import EncodingModel
from pipeline.training.losses import aligned
from pipeline.training.running import RunningCorrelation

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
    """Predict every trial of a loader and return all of them; see `predicted_trials`."""
    return list(predicted_trials(encoder, loader, data_key))


def predicted_trials(
    encoder: EncodingModel, loader: Iterable[Batch], data_key: str
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Predict every trial of a loader, one batch at a time.

    Parameters
    ----------
    encoder : EncodingModel
        Evaluated where its weights are, in evaluation mode; left in the mode it was in.
    loader : iterable of MovieBatch or ImageBatch
        Its trials, in the order of the result.
    data_key : str
        The scan.

    Yields
    ------
    tuple of (responses, predictions)
        For each trial two arrays (unit, time), of the frames that have predictions; time is 1 for images.
    """
    for batch in loader:
        with evaluating(encoder):  # not while others use the trials, who may want gradients
            batch = on_device(batch, encoder.device)
            predictions = encoder.respond(batch, data_key)
        responses = aligned(predictions, batch.responses)
        if predictions.dim() == 2:
            responses, predictions = responses.unsqueeze(2), predictions.unsqueeze(2)
        yield from zip(responses.cpu().numpy(), predictions.cpu().numpy(), strict=True)


@dataclass(frozen=True)
class Score:
    """The score that selects models.

    Attributes
    ----------
    correlation : float
        Single-trial correlation, mean over the units of all scans where it is defined; NaN if it is for none.
    undefined : mapping of str to tuple of int
        For each data_key the positions of units whose responses or predictions are constant.
    """

    correlation: float
    undefined: Mapping[str, tuple[int, ...]]

    @property
    def undefined_units(self) -> int:
        """Number of units for which it is undefined."""
        return sum(len(units) for units in self.undefined.values())


def score(encoder: EncodingModel, loaders: Mapping[str, Iterable[Batch]]) -> Score:
    """Return the mean single-trial correlation over the units of all scans, by data_key in ``loaders``."""
    return scores([encoder], loaders)[0]


def scores(encoders: Sequence[EncodingModel], loaders: Mapping[str, Iterable[Batch]]) -> list[Score]:
    """Return the `score` of several encoders, which see each batch while it is there."""
    found: list[dict[str, np.ndarray]] = [{} for _ in encoders]
    device = encoders[0].device
    with ExitStack() as stack:
        for encoder in encoders:
            stack.enter_context(evaluating(encoder))
        for data_key, loader in loaders.items():
            running = [RunningCorrelation() for _ in encoders]
            for batch in loader:
                batch = on_device(batch, device)
                for encoder, correlation in zip(encoders, running, strict=True):
                    predictions = encoder.respond(batch, data_key)
                    correlation.add(aligned(predictions, batch.responses), predictions)
            for per_scan, correlation in zip(found, running, strict=True):
                per_scan[data_key] = correlation.value()
    return [_score(per_scan) for per_scan in found]


def _score(per_scan: Mapping[str, np.ndarray]) -> Score:
    undefined = {key: tuple(np.flatnonzero(np.isnan(values)).tolist()) for key, values in per_scan.items()}
    return Score(mean_of_defined(np.concatenate(list(per_scan.values())))[0], undefined)
