"""What every encoding model is, ours or a laboratory's own: what training, prediction and scores ask of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Literal, Protocol, TypeVar

import torch
from torch import Tensor, nn

from pipeline.datasets.batches import Batch
from pipeline.datasets.info import DataInfo
from pipeline.errors import ConfigurationError
from pipeline.models.readouts.base import UnitIndex

Signal = Tensor | Literal["mean"] | None
"""Behaviour or eye position: values, the training mean of the scan, or none."""


class EncodingModel(nn.Module, ABC):
    """Predicts the responses of the units of one or several scans.

    Attributes
    ----------
    data_info : dict of str to ScanInfo
        What the model was built for, by data_key; no part of the weights.
    """

    data_info: DataInfo

    @property
    def data_keys(self) -> tuple[str, ...]:
        """Names of the scans."""
        return tuple(self.data_info)

    @property
    @abstractmethod
    def lost_frames(self) -> int:
        """Frames at the start of a movie for which there is no prediction."""

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @abstractmethod
    def forward(
        self,
        inputs: Tensor,
        data_key: str,
        behavior: Signal = None,
        pupil_center: Signal = None,
        unit_idx: UnitIndex | None = None,
        optogenetic_signal: Tensor | None = None,
    ) -> Tensor:
        """Predict the responses of one scan's units; see `pipeline.models.encoder.Encoder.forward`."""

    def respond(self, batch: Batch, data_key: str, unit_idx: UnitIndex | None = None) -> Tensor:
        """Predict the responses to a batch from everything that it carries; see `forward`."""
        prediction: Tensor = self(
            batch.inputs, data_key, batch.behavior, batch.pupil_center, unit_idx, batch.optogenetic_signal
        )
        return prediction

    def respond_paired(
        self,
        inputs: Tensor,
        data_key: str,
        units: Tensor,
        behavior: Signal = None,
        pupil_center: Signal = None,
    ) -> Tensor:
        """Predict the response of one unit to each input: what stimuli that are made for units need.

        Models that can do with less than all units on all inputs override this.

        Parameters
        ----------
        inputs, data_key, behavior, pupil_center
            As in `forward`.
        units : Tensor
            (batch,), the unit of each input; a unit may come several times.

        Returns
        -------
        Tensor
            (batch, time - `lost_frames`); (batch,) for images.
        """
        wanted, which = units.unique(return_inverse=True)
        rates: Tensor = self(inputs, data_key, behavior, pupil_center, wanted)
        return rates[torch.arange(len(units), device=units.device), which]

    @abstractmethod
    def regularizer(self, data_key: str) -> dict[str, Tensor]:
        """Return the weighted penalties that apply when this scan is trained, by name."""

    def constrain(self) -> None:
        """Bring parameters with a range back into it; the trainer calls this after every step."""
        return

    def _given(self, name: str, signal: Signal, inputs: Tensor, data_key: str) -> Tensor | None:
        """Return a signal as it is or, if asked for, its training mean (batch, channel, time)."""
        if signal is None or isinstance(signal, Tensor):
            return signal
        if signal != "mean":
            raise ConfigurationError(f"{name} is {signal!r}: give a tensor, 'mean' for the training mean, or None")
        mean = getattr(self.data_info[data_key], f"mean_{name}")
        if mean is None:
            raise ConfigurationError(
                f"{data_key!r} has no known mean {name}: give a tensor, or None, or load the data with {name}"
            )
        batch, time = inputs.shape[0], inputs.shape[2]
        return torch.tensor(mean, dtype=inputs.dtype, device=inputs.device)[None, :, None].expand(batch, -1, time)


ModelT_co = TypeVar("ModelT_co", bound=EncodingModel, covariant=True)


class Architecture(Protocol[ModelT_co]):
    """What describes a model so that it can be built: a `Network` of ours or a function that makes one."""

    def build(self, data_info: DataInfo, seed: int, loaders: Any = None) -> ModelT_co:
        """Make the model with fresh weights, which the seed sets.

        Parameters
        ----------
        data_info : DataInfo
            Of its scans.
        seed : int
        loaders : mapping, optional
            ``{tier: {data_key: loader}}``, for functions that look at the data; without them it is built all the same.
        """
        ...
