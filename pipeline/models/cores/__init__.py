"""Cores: the layers that all units of all scans share. They turn movies into feature maps."""

from __future__ import annotations

from pipeline.models.cores.base import Core, CoreConfiguration
from pipeline.models.cores.basic3d import Basic3d
from pipeline.models.cores.factorized3d import Factorized3d
from pipeline.models.cores.gabor import GaborEnergy
from pipeline.models.cores.stacked2d import Stacked2d

CORES: tuple[type[CoreConfiguration], ...] = (Basic3d, Factorized3d, GaborEnergy, Stacked2d)
"""Kinds of cores; see `CoreConfiguration`."""

__all__ = ["CORES", "Core", "CoreConfiguration", "Basic3d", "Factorized3d", "GaborEnergy", "Stacked2d"]
