"""What every readout is: it turns the feature maps of one scan into the drive of its units."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from pipeline.models.cores.base import to_frames
from pipeline.models.cores.windows import Window
from pipeline.models.needs import NetworkPart

UnitIndex = Sequence[int] | Tensor | slice
"""Which units to evaluate: positions in the order of the scan's `unit_ids`, or a slice of them."""


@dataclass(frozen=True)
class ReadoutSite:
    """Where a readout is built: the feature maps that it sees and the units that it serves.

    Attributes
    ----------
    in_channels, height, width : int
        Of the feature maps.
    mean_drive : Tensor
        (unit,), the drive at which each unit gives its mean response; where biases start.
    centers : Tensor or None
        (unit, 2), x and y in half maps: where the units' receptive fields are known to lie.
    unit_positions : Tensor or None
        (unit, 3), x, y and z of the units in the tissue (um), where they are known.
    data_key : str
        Name of the scan, for messages.
    match_ids : tuple of int or None, or None
        Units with the same number, also in other scans, are one neuron; None where a unit's match is not known.
    """

    in_channels: int
    height: int
    width: int
    mean_drive: Tensor
    centers: Tensor | None = None
    unit_positions: Tensor | None = None
    data_key: str = ""
    match_ids: tuple[int | None, ...] | None = None

    @property
    def n_units(self) -> int:
        """Number of units."""
        return len(self.mean_drive)


@dataclass(frozen=True)
class ReadoutConfiguration(NetworkPart):
    """Base of all kinds of readouts. Kinds that have places to start from have a setting ``init_positions``."""

    @property
    def needs_centers(self) -> bool:
        """Whether the centres of the receptive fields are to be estimated before the readout is built."""
        return getattr(self, "init_positions", "") == "triggered_average"

    def require_maps(self, height: int, width: int) -> None:
        """Refuse feature maps of a size (px) that nothing could be read from."""
        return

    @abstractmethod
    def build(self, site: ReadoutSite) -> Readout:
        """Return the readout of one scan."""

    def build_all(self, sites: Mapping[str, ReadoutSite]) -> Mapping[str, Readout]:
        """Return the readouts of all scans by data_key. Kinds whose scans have parameters in common override this."""
        return {data_key: self.build(site) for data_key, site in sites.items()}


@dataclass(frozen=True)
class Sight:
    """Where one unit for each item of a batch looks, if that is a small part of the maps.

    Attributes
    ----------
    window : Window
        What is needed of the maps.
    points : Tensor
        (batch, time, 2), x and y in half windows.
    """

    window: Window
    points: Tensor


class Readout(nn.Module, ABC):
    """What every readout offers. A kind writes `drive_of_frames`, which sees one frame at a time.

    Attributes
    ----------
    bias : Parameter or None
        (unit,), starts at the drive of the mean response.
    """

    def __init__(self, site: ReadoutSite, bias: bool) -> None:
        super().__init__()
        self.bias = nn.Parameter(site.mean_drive.clone()) if bias else None

    def forward(self, features: Tensor, shift: Tensor | None = None, unit_idx: UnitIndex | None = None) -> Tensor:
        """Return the drive of each unit.

        Parameters
        ----------
        features : Tensor
            (batch, channel, time, height, width).
        shift : Tensor, optional
            (batch, time, 2), added to all positions of a frame, x and y in units of half the feature map. What is
            shifted out of the map reads zeros.
        unit_idx : sequence of int, Tensor or slice, optional
            Evaluate only these units.

        Returns
        -------
        Tensor
            (batch, unit, time).
        """
        batch, _, time, _, _ = features.shape
        units = slice(None) if unit_idx is None else unit_idx
        drive = self.drive_of_frames(to_frames(features), None if shift is None else shift.flatten(0, 1), units)
        if self.bias is not None:
            drive = drive + self.bias[units]
        return drive.unflatten(0, (batch, time)).transpose(1, 2)

    @abstractmethod
    def drive_of_frames(self, frames: Tensor, shift: Tensor | None, units: UnitIndex) -> Tensor:
        """Return the drive without bias, (frame, unit).

        Parameters
        ----------
        frames : Tensor
            (frame, channel, height, width), channels last in memory.
        shift : Tensor or None
            (frame, 2), as in `forward`.
        units : sequence of int, Tensor or slice
            Evaluate only these units.
        """

    def paired(self, features: Tensor, units: Tensor, shift: Tensor | None = None) -> Tensor:
        """Return the drive of one unit for each item of the batch, which is all of `forward` that a unit's MEI needs.

        Parameters
        ----------
        features : Tensor
            (batch, channel, time, height, width).
        units : Tensor
            (batch,), the unit of each item; a unit may come several times.
        shift : Tensor, optional
            (batch, time, 2), as in `forward`.

        Returns
        -------
        Tensor
            (batch, time).
        """
        batch, _, time, _, _ = features.shape
        shifts = None if shift is None else shift.flatten(0, 1)
        drive = self.paired_drive_of_frames(to_frames(features), shifts, units.repeat_interleave(time))
        return drive.unflatten(0, (batch, time)) + (0 if self.bias is None else self.bias[units][:, None])

    def paired_drive_of_frames(self, frames: Tensor, shift: Tensor | None, units: Tensor) -> Tensor:
        """Return the drive of one unit for each frame without bias, (frame,).

        This evaluates all units on all frames; kinds that can do with less override it.

        Parameters
        ----------
        frames, shift : Tensor
            As in `drive_of_frames`.
        units : Tensor
            (frame,).
        """
        wanted, which = units.unique(return_inverse=True)
        return self.drive_of_frames(frames, shift, wanted).gather(1, which[:, None]).squeeze(1)

    def sight(self, units: Tensor, shift: Tensor | None, size: tuple[int, int]) -> Sight | None:
        """Return where units look in maps of this height and width; None if they look everywhere.

        Parameters
        ----------
        units, shift : Tensor
            As in `paired`.
        size : tuple of int
            Height and width of the maps.
        """
        return None

    def paired_in_sight(self, seen: Tensor, units: Tensor, sight: Sight) -> Tensor:
        """Return what `paired` returns, from the maps in the window of the units' sight alone.

        Parameters
        ----------
        seen : Tensor
            (batch, channel, time, window height, window width), zero outside the maps.
        units : Tensor
            (batch,).
        sight : Sight
            Of these units.
        """
        raise NotImplementedError(f"{type(self).__name__} has no sight")

    def constrain(self) -> None:
        """Bring parameters with a range back into it, after an optimiser's step."""
        return

    @abstractmethod
    def positions(self) -> Tensor:
        """Return where units look, (unit, 2): x, y between -1 and 1, the centres of the outermost pixels."""

    @abstractmethod
    def position_spread(self) -> Tensor:
        """Return how wide units look around their position, (unit, 2): a standard deviation in x and y."""

    def spatial_masks(self) -> Tensor | None:
        """Return how units weigh places of the maps, (unit, height, width), or None if they look at a point."""
        return None

    @abstractmethod
    def feature_weights(self) -> Tensor:
        """Return the weights of the channels, (unit, channel)."""

    @abstractmethod
    def regularizer(self) -> dict[str, Tensor]:
        """Return the weighted penalties by name."""
