"""Models whose receptive fields are known: a linear filter, a simple cell, a complex cell."""

from __future__ import annotations

import dataclasses

from torch import Tensor, nn

from pipeline.datasets.info import ScanInfo
from pipeline.models.foreign import ForeignEncoder

KEY = "known"


class Filters(nn.Module):
    """Each unit sums what its filters make of the input: (unit, filter, channel, [time,] height, width)."""

    def __init__(self, filters: Tensor, kind: str = "linear", offset: float = 0.0) -> None:
        super().__init__()
        self.filters = nn.Parameter(filters.float())
        self.kind, self.offset = kind, offset

    def forward(self, stimulus: Tensor) -> Tensor:
        """Return (batch, unit) or (batch, unit, time)."""
        units, filters = self.filters.shape[:2]
        if stimulus.dim() == 4:
            drive = stimulus.flatten(1) @ self.filters.flatten(2).flatten(0, 1).T
        else:
            drive = nn.functional.conv3d(stimulus, self.filters.flatten(0, 1))[..., 0, 0]
        drive = drive.unflatten(1, (units, filters))
        if self.kind == "simple":
            drive = drive.relu()
        if self.kind == "energy":
            drive = drive.square()
        return drive.sum(dim=2) + self.offset


def scan_for(filters: Tensor, frame_rate: float = 30.0) -> ScanInfo:
    """Data information that fits the filters: mean grey 120, std 50."""
    units, _, channels, *time, height, width = filters.shape
    return ScanInfo(
        tuple(range(units)),
        (channels, height, width),
        (1.0,) * units,
        frame_rate=frame_rate if time else None,
        clip_frames=time[0] + 10 if time else None,
        input_mean=120.0,
        input_std=50.0,
    )


def model_of(filters: Tensor, kind: str = "linear", offset: float = 0.0, **changed: object) -> ForeignEncoder:
    """A model of one scan, `KEY`, whose units are filters."""
    scan = dataclasses.replace(scan_for(filters), **changed)
    return ForeignEncoder(Filters(filters, kind, offset), {KEY: scan}, "filters")
