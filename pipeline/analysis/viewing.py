"""A model that looks at stimuli of ours: grey where nothing is shown, eye and animal at rest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.datasets.info import ScanInfo
from pipeline.models.base import EncodingModel, Signal
from pipeline.training.prediction import evaluating

GREY_LEVELS = (0.0, 255.0)


@dataclass(frozen=True)
class Viewer:
    """A model and one scan of it, in the state in which its units are examined.

    Attributes
    ----------
    encoder : EncodingModel
        Any kind; it is evaluated where its weights are, in evaluation mode.
    data_key : str
    scan : ScanInfo
        Data information of that scan.
    eye_position, behavior : str
        What shifter and modulator are told: ``center`` and ``none`` for nothing, or ``training_mean``, which is nothing
        too where the scan has no such mean.
    """

    encoder: EncodingModel
    data_key: str
    scan: ScanInfo
    eye_position: str = "center"
    behavior: str = "none"

    @property
    def sees_movies(self) -> bool:
        """Whether inputs are (batch, channel, time, height, width); still images have no time."""
        return self.scan.clip_frames is not None or self.scan.frame_rate is not None

    @property
    def background(self) -> float:
        """Grey value of the screen where nothing is shown: the mean of the training stimuli.

        Of data that were not normalised the mean is not known; the middle of the screen's range stands in for it.
        """
        low, high = GREY_LEVELS
        return self.scan.input_mean if low < self.scan.input_mean < high else (low + high) / 2

    def pixels(self, contrast: Tensor) -> Tensor:
        """Return contrast as the pixels that the model was trained on.

        1 and -1 are as far from `background` as the nearer end of the screen's range.

        Parameters
        ----------
        contrast : Tensor
            Any shape, -1 to 1, 0 for grey.
        """
        low, high = GREY_LEVELS
        reach = min(self.background - low, high - self.background)
        return (self.background + reach * contrast - self.scan.input_mean) / self.scan.input_std

    def inputs(self, pixels: Tensor) -> Tensor:
        """Return pixels, (batch, channel, ...), with the planes of behaviour and so on at their training means."""
        if not self.scan.plane_means:
            return pixels
        shape = (-1, *(1 for _ in pixels.shape[2:]))
        planes = torch.tensor(self.scan.plane_means, dtype=pixels.dtype, device=pixels.device).view(1, *shape)
        return torch.cat([pixels, planes.expand(len(pixels), -1, *pixels.shape[2:])], dim=1)

    def respond(self, pixels: Tensor, units: Sequence[int]) -> Tensor:
        """Return the responses of some units to pixels, (batch, unit, time); time is 1 for images.

        Parameters
        ----------
        pixels : Tensor
            (batch, channel, height, width), or (batch, channel, time, height, width) for movies; normalised.
        units : sequence of int
            Positions of the units in the readout.
        """
        responses: Tensor = self.encoder(
            self.inputs(pixels),
            self.data_key,
            behavior=self._mean_of("behavior", self.behavior),
            pupil_center=self._mean_of("pupil_center", self.eye_position),
            unit_idx=torch.tensor(list(units), device=pixels.device),
        )
        return responses if responses.dim() == 3 else responses.unsqueeze(2)

    def show(self, contrast: Tensor, units: Sequence[int]) -> Tensor:
        """Return the responses of some units to a contrast, (batch, unit, time), without gradients.

        Parameters
        ----------
        contrast : Tensor
            (batch, time, height, width); time is 1 for images. It is the same in all channels of pixels.
        units : sequence of int
            Positions of the units in the readout.
        """
        shown = self.pixels(contrast.to(self.encoder.device, torch.float32))
        if not self.sees_movies:
            shown = shown.squeeze(1)
        shown = shown.unsqueeze(1)
        with evaluating(self.encoder):
            return self.respond(shown.expand(-1, self.scan.pixel_channels, *shown.shape[2:]), units).cpu()

    def grey(self, frames: int) -> Tensor:
        """Return the pixels of a grey image or, for models of movies, of a grey movie: a batch of one."""
        _, height, width = self.scan.input_shape
        time = (frames,) if self.sees_movies else ()
        zero = torch.zeros(1, self.scan.pixel_channels, *time, height, width, device=self.encoder.device)
        return self.pixels(zero)

    @contextmanager
    def differentiating(self) -> Iterator[None]:
        """Put the encoder in evaluation mode with gradients to its inputs, and back as it was."""
        with evaluating(self.encoder), torch.enable_grad():
            yield

    def _mean_of(self, name: str, told: str) -> Signal:
        known = getattr(self.scan, f"mean_{name}") is not None
        return "mean" if told == "training_mean" and known else None
