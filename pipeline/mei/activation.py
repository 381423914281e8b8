"""Responses of chosen units to stimuli in grey values, under the conditions of an MEI."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from pipeline.datasets.info import ScanInfo
from pipeline.models.base import EncodingModel, Signal

Respond = Callable[[Tensor, Tensor], Tensor]
"""From stimuli, (stimulus, channel[, time], height, width) in grey values, and positions of units to the responses,
(stimulus, unit), in the last frame. `Responses` is one."""

GREY_LEVELS = (0.0, 255.0)
"""What the screen can show."""

STIMULI_AT_ONCE = 64
"""Stimuli in one pass through a network, which bounds its memory."""


class Responses:
    """What an encoder predicts for the units of one scan, with eye and behaviour as they were for the MEIs.

    Parameters
    ----------
    encoder : EncodingModel
        In evaluation mode.
    data_key : str
    scan : ScanInfo
        Its pixel statistics, and the training means of the planes that follow the pixels.
    units : sequence of int
        Positions in the readout of the units that positions in calls count.
    eye_position, behavior : str
        'training_mean' to tell the shifter or the modulator the training mean; else they are told nothing.
    """

    def __init__(
        self,
        encoder: EncodingModel,
        data_key: str,
        scan: ScanInfo,
        units: Sequence[int],
        eye_position: str = "center",
        behavior: str = "none",
    ) -> None:
        self._encoder, self._data_key, self._scan = encoder, data_key, scan
        self._units = torch.tensor(list(units), dtype=torch.long)
        has_eye, has_behavior = scan.mean_pupil_center is not None, scan.mean_behavior is not None
        self._eye: Signal = "mean" if eye_position == "training_mean" and has_eye else None
        self._behavior: Signal = "mean" if behavior == "training_mean" and has_behavior else None

    def __call__(self, stimuli: Tensor, units: Tensor) -> Tensor:
        """Return the responses of the units (stimulus, unit) in the last frame of stimuli in grey values."""
        responses = self.of_inputs((stimuli - self._scan.input_mean) / self._scan.input_std, units)
        return responses if responses.dim() == 2 else responses[:, :, -1]

    def of_inputs(self, inputs: Tensor, units: Tensor) -> Tensor:
        """Return the responses (stimulus, unit[, time]) to normalised pixels; planes after them are replaced.

        Movies of one frame are images for networks that were trained on images.
        """
        if inputs.dim() == 5 and self._scan.frame_rate is None and inputs.shape[2] == 1:
            inputs = inputs[:, :, 0]
        pixels = inputs[:, : self._scan.pixel_channels].to(self._encoder.device, torch.float32)
        means = torch.tensor(self._scan.plane_means, device=pixels.device)
        planes = means.view(1, -1, *[1] * (pixels.dim() - 2)).expand(len(pixels), -1, *pixels.shape[2:])
        responses: Tensor = self._encoder(
            torch.cat([pixels, planes], dim=1),
            self._data_key,
            behavior=self._behavior,
            pupil_center=self._eye,
            unit_idx=self._units[units.cpu()].to(pixels.device),
        )
        return responses.to(inputs.device)


def own_responses(respond: Respond, stimuli: Tensor, owners: Tensor) -> Tensor:
    """Return the response of each stimulus's own unit, (stimulus,).

    Only the units of a part of the stimuli are read out for that part, so stimuli of one unit should be neighbours.

    Parameters
    ----------
    respond : Respond
    stimuli : Tensor
        (stimulus, channel[, time], height, width), grey values.
    owners : Tensor of int
        (stimulus,), position of each one's unit.
    """
    found = []
    for part in parts(len(stimuli)):
        units, column = torch.unique(owners[part], return_inverse=True)
        found.append(respond(stimuli[part], units).gather(1, column[:, None])[:, 0])
    return torch.cat(found)


def parts(count: int) -> Iterator[slice]:
    """Yield slices of at most `STIMULI_AT_ONCE` that cover so many stimuli."""
    for first in range(0, count, STIMULI_AT_ONCE):
        yield slice(first, min(first + STIMULI_AT_ONCE, count))
