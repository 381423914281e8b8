"""What every core is, and the memory layout that all share.

Channels come last in memory. Most cores work on movies that lie by frames, (batch, time, height, width, channel), of
which convolutions over space see (batch * time, channel, height, width) and convolutions over time (batch, channel,
time, height * width) without a copy. Movies may also lie by places, (width, height, batch, time, channel), as
convolutions by way of spectra make them; convolutions over time see (width * height * batch, channel, 1, time) then.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from typing_extensions import Self

from pipeline.errors import ConfigurationError
from pipeline.models.cores.windows import LocalLayers
from pipeline.models.needs import NetworkPart


@dataclass(frozen=True)
class CoreConfiguration(NetworkPart):
    """Base of all kinds of cores."""

    @abstractmethod
    def build(self, in_channels: int) -> Core:
        """Return the core for movies with ``in_channels`` channels."""


class Core(nn.Module, ABC):
    """What every core offers.

    Attributes
    ----------
    out_channels : int
        Channels of the feature maps.
    lost_frames : int
        Frames by which the output is shorter than the input. Cores are causal: output frame k is computed from input
        frames k to k + `lost_frames`, so it belongs to input frame k + `lost_frames`, and the last frames align.
    pitch : int
        Pixels between neighbouring places of the feature maps.
    frozen : bool
        Whether the core stays in evaluation mode while the encoder around it is trained; see
        `pipeline.models.transfer`.
    """

    out_channels: int
    lost_frames: int
    pitch: int = 1
    frozen: bool = False

    @abstractmethod
    def forward(self, videos: Tensor) -> Tensor:
        """Map movies to feature maps.

        Parameters
        ----------
        videos : Tensor
            (batch, channel, time, height, width).

        Returns
        -------
        Tensor
            (batch, `out_channels`, time - `lost_frames`, height, width), of the size that `out_size` gives.
        """

    @abstractmethod
    def out_size(self, height: int, width: int) -> tuple[int, int]:
        """Return the height and width of the feature maps for frames of this size, in pixels."""

    def first_place(self, height: int, width: int) -> tuple[float, float]:
        """Return the row and the column of the frame, in pixels, on which the first place of the maps is centred.

        Cores whose maps do not lie in the middle of the frame say so here.
        """
        rows, columns = self.out_size(height, width)
        return (height - 1 - (rows - 1) * self.pitch) / 2, (width - 1 - (columns - 1) * self.pitch) / 2

    def local_layers(self) -> LocalLayers | None:
        """Return the core as local layers, if that is what it is in evaluation mode; else None.

        Cores in which a place depends on the whole frame are none.
        """
        return None

    @abstractmethod
    def regularizer(self) -> dict[str, Tensor]:
        """Return the weighted penalties by name."""

    def train(self, mode: bool = True) -> Self:
        """Switch between training and evaluation; a `frozen` core stays in evaluation."""
        return super().train(mode and not self.frozen)


def to_frames(videos: Tensor) -> Tensor:
    """Fold time into the batch: (batch, channel, time, height, width) to (batch * time, channel, height, width)."""
    batch, channel, time, height, width = videos.shape
    frames = videos.permute(0, 2, 3, 4, 1).reshape(batch * time, height, width, channel)
    return frames.permute(0, 3, 1, 2)


def to_videos(frames: Tensor, batch: int) -> Tensor:
    """Undo `to_frames`."""
    folded, channel, height, width = frames.shape
    videos = frames.permute(0, 2, 3, 1).reshape(batch, folded // batch, height, width, channel)
    return videos.permute(0, 4, 1, 2, 3)


def lies_by_places(frames: Tensor) -> bool:
    """Tell whether frames (frame, channel, height, width) lie in memory by places, (width, height, frame, channel)."""
    return frames.permute(3, 2, 0, 1).is_contiguous()


def to_sequences(frames: Tensor, batch: int) -> Tensor:
    """Line up what each place sees over time: (batch * time, channel, height, width) to (sequence, channel, 1, time).

    Sequences lie by places, (width, height, batch) in this order; no copy is made of frames that do.
    """
    folded, channel, height, width = frames.shape
    sequences = frames.permute(3, 2, 0, 1).reshape(width * height * batch, 1, folded // batch, channel)
    return sequences.permute(0, 3, 1, 2)


def from_sequences(sequences: Tensor, height: int, width: int) -> Tensor:
    """Return the movies of sequences: (sequence, channel, 1, time) to (batch, channel, time, height, width)."""
    count, channel, _, time = sequences.shape
    videos = sequences.permute(0, 2, 3, 1).reshape(width, height, count // (width * height), time, channel)
    return videos.permute(2, 4, 3, 1, 0)


def channels_last(module: nn.Module) -> None:
    """Store the weights of 2-D convolutions in the layout that keeps their results in it."""
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def refuse_even(kind: str, field: str, kernels: tuple[int, ...]) -> None:
    """Refuse filters of even size, naming the setting, where frames are to be padded."""
    if any(k % 2 == 0 for k in kernels):
        raise ConfigurationError(
            f"{kind}.{field}: {kernels} has an even size, which cannot be padded symmetrically: use odd sizes"
        )
