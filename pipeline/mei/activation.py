"""Responses of chosen units to stimuli in grey values, under the conditions of an MEI."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from pipeline.datasets.info import ScanInfo
from pipeline.mei.conditions import Conditions
from pipeline.models.base import EncodingModel

Respond = Callable[[Tensor, Tensor], Tensor]
"""From stimuli, (stimulus, channel[, time], height, width) in grey values, and positions of units to the responses,
(stimulus, unit), in the last frame. `Responses` is one."""

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
        self._conditions = Conditions(encoder, data_key, scan, eye_position, behavior)
        self._units = torch.tensor(list(units), dtype=torch.long)
        self._planes = torch.tensor(scan.plane_means)[None, :, None, None, None]

    def __call__(self, stimuli: Tensor, units: Tensor) -> Tensor:
        """Return the responses of the units (stimulus, unit) in the last frame of stimuli in grey values."""
        responses = self.of_inputs(self._z_scored(stimuli), units)
        return responses if responses.dim() == 2 else responses[:, :, -1]

    def only(self, chosen: Sequence[int]) -> Responses:
        """Return the same of some of the units: positions count these from then on."""
        some = copy.copy(self)
        some._units = self._units[torch.as_tensor(chosen, dtype=torch.long)]
        return some

    def own(self, stimuli: Tensor, owners: Tensor) -> Tensor:
        """Return the response of one unit to each stimulus in grey values, (stimulus,); see `own_responses`."""
        movies = stimuli.unsqueeze(2) if stimuli.dim() == 4 else stimuli
        told = self._conditions
        found = told.own(self._z_scored(movies).to(told.device), self._units[owners.cpu()].to(told.device))
        return found.to(stimuli.device)

    def of_inputs(self, inputs: Tensor, units: Tensor) -> Tensor:
        """Return the responses (stimulus, unit[, time]) to normalised pixels; planes after them are replaced."""
        if inputs.dim() == 4:
            return self.of_inputs(inputs.unsqueeze(2), units).squeeze(2)
        told = self._conditions
        pixels = inputs[:, : told.scan.pixel_channels]
        planes = self._planes.to(pixels).expand(len(pixels), -1, *pixels.shape[2:])
        responses: Tensor = told.encoder(
            torch.cat([pixels, planes], dim=1).to(told.device),
            told.data_key,
            behavior=told.told_behavior,
            pupil_center=told.told_eye,
            unit_idx=self._units[units.cpu()].to(told.device),
        )
        return responses.to(inputs.device)

    def _z_scored(self, stimuli: Tensor) -> Tensor:
        scan = self._conditions.scan
        return (stimuli - scan.input_mean) / scan.input_std


def own_responses(respond: Respond, stimuli: Tensor, owners: Tensor) -> Tensor:
    """Return the response of each stimulus's own unit, (stimulus,).

    Of models, only that unit is read out for a stimulus, as far as they can. Of anything else, the units of a part of
    the stimuli are asked together, so stimuli of one unit should be neighbours.

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
        if isinstance(respond, Responses):
            found.append(respond.own(stimuli[part], owners[part]))
            continue
        units, column = torch.unique(owners[part], return_inverse=True)
        found.append(respond(stimuli[part], units).gather(1, column[:, None])[:, 0])
    return torch.cat(found)


def parts(count: int) -> Iterator[slice]:
    """Yield slices of at most `STIMULI_AT_ONCE` that cover so many stimuli."""
    for first in range(0, count, STIMULI_AT_ONCE):
        yield slice(first, min(first + STIMULI_AT_ONCE, count))
