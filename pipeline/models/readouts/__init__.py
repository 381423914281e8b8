"""Readouts: where in the feature maps each unit looks, and how it weighs the channels there."""

from __future__ import annotations

from pipeline.models.readouts.base import Readout, ReadoutConfiguration, ReadoutSite, UnitIndex
from pipeline.models.readouts.gaussian2d import FullGaussian2d, FullGaussian2dReadout

READOUTS: tuple[type[ReadoutConfiguration], ...] = (FullGaussian2d,)
"""Kinds of readouts; see `ReadoutConfiguration`."""

__all__ = [
    "READOUTS", "FullGaussian2d", "FullGaussian2dReadout", "Readout", "ReadoutConfiguration", "ReadoutSite",
    "UnitIndex",
]  # fmt: skip
