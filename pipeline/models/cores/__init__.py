"""Cores: the layers that all units of all scans share. They turn movies into feature maps."""

from __future__ import annotations

from pipeline.models.cores.base import Core, CoreConfiguration
from pipeline.models.cores.basic3d import Basic3d
from pipeline.models.cores.cnn import CNN, FastCNN
from pipeline.models.cores.depthwise3d import Depthwise3d
from pipeline.models.cores.factorized3d import Factorized3d
from pipeline.models.cores.gabor import GaborEnergy
from pipeline.models.cores.gaussian_laplace import GaussianLaplace, StackedLinearGaussianLaplace
from pipeline.models.cores.linear2d import Dense, Linear
from pipeline.models.cores.pretrained import Pretrained
from pipeline.models.cores.rotation2d import RotationEquivariant2d
from pipeline.models.cores.se2d import SE2d
from pipeline.models.cores.stacked2d import Stacked2d
from pipeline.models.cores.vit import ViT

CORES: tuple[type[CoreConfiguration], ...] = (
    Basic3d,
    CNN,
    FastCNN,
    Depthwise3d,
    Factorized3d,
    GaborEnergy,
    GaussianLaplace,
    StackedLinearGaussianLaplace,
    Dense,
    Linear,
    RotationEquivariant2d,
    SE2d,
    Stacked2d,
    ViT,
)
"""Kinds of cores, by family; see `CoreConfiguration`."""

__all__ = [
    "CORES",
    "Core",
    "CoreConfiguration",
    "Basic3d",
    "CNN",
    "Dense",
    "Depthwise3d",
    "Factorized3d",
    "FastCNN",
    "GaborEnergy",
    "GaussianLaplace",
    "Linear",
    "Pretrained",
    "RotationEquivariant2d",
    "SE2d",
    "Stacked2d",
    "StackedLinearGaussianLaplace",
    "ViT",
]
