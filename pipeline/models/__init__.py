"""Encoding models: the kinds that networks are made of, and the encoder that joins them."""

from __future__ import annotations

from pipeline.configuration import Configuration
from pipeline.models.cores import (
    CNN,
    CORES,
    Basic3d,
    Dense,
    Depthwise3d,
    Factorized3d,
    FastCNN,
    GaborEnergy,
    GaussianLaplace,
    Linear,
    RotationEquivariant2d,
    SE2d,
    Stacked2d,
    StackedLinearGaussianLaplace,
    ViT,
)
from pipeline.models.encoder import Encoder, Network, build_encoder, encoder_to_bytes, load_encoder
from pipeline.models.modulators import History, MLPElu, MLPGain, NoModulator
from pipeline.models.readouts import (
    READOUTS,
    Attention,
    FullFactorized2d,
    FullGaussian2d,
    FullyConnected,
    GaussianMask,
    PointPooled2d,
    SpatialTransformerPyramid2d,
)
from pipeline.models.recurrent import ConvGRU, NoRecurrence
from pipeline.models.shifters import MLP, NoShifter, StaticAffine2d

RECURRENTS: tuple[type[Configuration], ...] = (NoRecurrence, ConvGRU)
SHIFTERS: tuple[type[Configuration], ...] = (NoShifter, MLP, StaticAffine2d)
MODULATORS: tuple[type[Configuration], ...] = (NoModulator, MLPGain, MLPElu, History)

__all__ = [
    "CORES",
    "MODULATORS",
    "READOUTS",
    "RECURRENTS",
    "SHIFTERS",
    "Attention",
    "Basic3d",
    "CNN",
    "ConvGRU",
    "Dense",
    "Depthwise3d",
    "Encoder",
    "Factorized3d",
    "FastCNN",
    "FullFactorized2d",
    "FullGaussian2d",
    "FullyConnected",
    "GaborEnergy",
    "GaussianLaplace",
    "GaussianMask",
    "History",
    "Linear",
    "MLP",
    "MLPElu",
    "MLPGain",
    "Network",
    "NoModulator",
    "NoRecurrence",
    "NoShifter",
    "PointPooled2d",
    "RotationEquivariant2d",
    "SE2d",
    "SpatialTransformerPyramid2d",
    "Stacked2d",
    "StackedLinearGaussianLaplace",
    "StaticAffine2d",
    "ViT",
    "build_encoder",
    "encoder_to_bytes",
    "load_encoder",
]
