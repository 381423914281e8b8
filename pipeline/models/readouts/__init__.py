"""Readouts: where in the feature maps each unit looks, and how it weighs the channels there."""

from __future__ import annotations

from pipeline.models.readouts.attention import Attention, AttentionReadout
from pipeline.models.readouts.base import Readout, ReadoutConfiguration, ReadoutSite, UnitIndex
from pipeline.models.readouts.dense import FullyConnected, FullyConnectedReadout
from pipeline.models.readouts.gaussian2d import FullGaussian2d, FullGaussian2dReadout
from pipeline.models.readouts.masks import (
    FullFactorized2d,
    FullFactorized2dReadout,
    GaussianMask,
    GaussianMaskReadout,
)
from pipeline.models.readouts.points import (
    PointPooled2d,
    PointPooled2dReadout,
    SpatialTransformerPyramid2d,
    SpatialTransformerPyramid2dReadout,
)

READOUTS: tuple[type[ReadoutConfiguration], ...] = (
    FullGaussian2d,
    PointPooled2d,
    SpatialTransformerPyramid2d,
    FullFactorized2d,
    GaussianMask,
    FullyConnected,
    Attention,
)
"""Kinds of readouts; see `ReadoutConfiguration`."""

__all__ = [
    "READOUTS", "Attention", "AttentionReadout", "FullFactorized2d", "FullFactorized2dReadout", "FullGaussian2d",
    "FullGaussian2dReadout", "FullyConnected", "FullyConnectedReadout", "GaussianMask", "GaussianMaskReadout",
    "PointPooled2d", "PointPooled2dReadout", "Readout", "ReadoutConfiguration", "ReadoutSite",
    "SpatialTransformerPyramid2d", "SpatialTransformerPyramid2dReadout", "UnitIndex",
]  # fmt: skip
