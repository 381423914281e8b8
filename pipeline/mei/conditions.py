"""What MEIs are found under: the model, the scan, and what shifter and modulator are told."""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.datasets.info import ScanInfo
from pipeline.errors import ConfigurationError
from pipeline.models.base import EncodingModel, Signal

GREY_LEVELS = (0.0, 255.0)


class Conditions:
    """One scan as its units see it, with eye and behaviour as configured.

    Stimuli are (batch, channel, time, height, width) in z-scores, pixels only; images have one frame. Planes of
    behaviour, pupil position or light among the input's channels stay at their training means.

    Parameters
    ----------
    encoder : EncodingModel
        Trained, in evaluation mode.
    data_key : str
        Scan whose readout is used.
    scan : ScanInfo
        Its data information: size and pixel statistics.
    eye_position, behavior : str
        ``training_mean`` to tell the shifter or the modulator the mean of the scan, if it has one; else they are told
        nothing.
    """

    def __init__(
        self,
        encoder: EncodingModel,
        data_key: str,
        scan: ScanInfo,
        eye_position: str = "center",
        behavior: str = "none",
    ) -> None:
        self.encoder, self.data_key, self.scan = encoder, data_key, scan
        has_eye, has_behavior = scan.mean_pupil_center is not None, scan.mean_behavior is not None
        self.told_eye: Signal = "mean" if eye_position == "training_mean" and has_eye else None
        self.told_behavior: Signal = "mean" if behavior == "training_mean" and has_behavior else None
        self._planes = torch.tensor(scan.plane_means, device=encoder.device)[None, :, None, None, None]

    @property
    def device(self) -> torch.device:
        """Where stimuli must be."""
        return self.encoder.device

    @property
    def limits(self) -> tuple[float, float]:
        """Black and white in z-scores."""
        low, high = ((level - self.scan.input_mean) / self.scan.input_std for level in GREY_LEVELS)
        return low, high

    def shape(self, frames: int, what: str = "the stimulus") -> tuple[int, int, int, int]:
        """Return (channel, time, height, width) of one stimulus.

        Raises
        ------
        ConfigurationError
            If it is shorter than what the network needs for one response; the message says what is.
        """
        if frames <= self.encoder.lost_frames:
            raise ConfigurationError(
                f"{what} is {frames}, but this network needs {self.encoder.lost_frames + 1} frames for a response"
            )
        _, height, width = self.scan.input_shape
        return self.scan.pixel_channels, frames, height, width

    def own(self, stimuli: Tensor, units: Tensor) -> Tensor:
        """Return the response of one unit to the last frame of each stimulus, (batch,)."""
        rates = self.encoder.respond_paired(
            self._inputs(stimuli), self.data_key, units, behavior=self.told_behavior, pupil_center=self.told_eye
        )
        return rates[:, -1]

    def all(self, stimuli: Tensor, units: Tensor) -> Tensor:
        """Return the responses of all these units to the last frame of each stimulus, (batch, unit)."""
        rates: Tensor = self.encoder(
            self._inputs(stimuli),
            self.data_key,
            behavior=self.told_behavior,
            pupil_center=self.told_eye,
            unit_idx=units,
        )
        return rates[:, :, -1]

    def to_grey(self, stimuli: Tensor) -> Tensor:
        """Return stimuli in grey values, 0 to 255."""
        return (stimuli * self.scan.input_std + self.scan.input_mean).clamp(*GREY_LEVELS)

    def _inputs(self, stimuli: Tensor) -> Tensor:
        count, _, *size = stimuli.shape
        return torch.cat([stimuli, self._planes.expand(count, -1, *size)], dim=1)
