"""Published models by name, and two of ours: what was trained, on which data, by which trainer.

Settings are those of the publications or of their code; staticnet's modulator counted hidden layers only. Two things
differ on purpose: batch normalisation carries the only bias of a layer, and the two recurrent models have no penalty on
their hidden layers, whose published weight of 500,000 outweighs the data before anything is learned. The Lviv course
asks for a simpler CNN than its own: `lviv_cnn` is one, and `lviv_fast_cnn` trains about as fast as its linear model.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from pipeline.datasets.clips import MovieClips
from pipeline.datasets.images import CorrectedAreaLayer
from pipeline.datasets.selection import DataConfiguration
from pipeline.errors import ConfigurationError
from pipeline.models import MLP, ConvGRU, MLPGain, Network
from pipeline.models.cores import (
    CNN,
    Dense,
    Factorized3d,
    FastCNN,
    GaborEnergy,
    GaussianLaplace,
    RotationEquivariant2d,
    Stacked2d,
)
from pipeline.models.readouts import FullFactorized2d, FullGaussian2d, FullyConnected, SpatialTransformerPyramid2d
from pipeline.training.settings import Default


@dataclass(frozen=True)
class Preset:
    """A model with a name.

    Attributes
    ----------
    network : Network
    data : DataConfiguration
        Which signals the model sees, and how they are normalised.
    train : Default
        Its trainer.
    source : str
        Where the settings come from.
    """

    network: Network
    data: DataConfiguration
    train: Default
    source: str


_LURZ_READOUT = FullGaussian2d(
    init_mu_range=0.3,
    init_sigma=0.1,
    gauss_type="full",
    gamma_readout=0.0076,
    grid_mean_predictor="cortex",
    predictor_hidden_layers=0,
)
_SENSORIUM_READOUT = dataclasses.replace(_LURZ_READOUT, predictor_hidden_layers=1)
_COURSE_READOUT = dataclasses.replace(
    _LURZ_READOUT, init_mu_range=0.55, init_sigma=0.4, gamma_readout=2.439, predictor_final_tanh=False
)
_DENSE_READOUT = FullyConnected(gamma_readout=0.1)
_THESIS_READOUT = FullGaussian2d(init_mu_range=0.2, init_sigma=1.0, gauss_type="full", gamma_readout=0.0)
_DYNAMIC_READOUT = dataclasses.replace(_THESIS_READOUT, grid_mean_predictor="cortex", predictor_hidden_layers=1)
_PIXELS_ONLY = CorrectedAreaLayer(behavior="none", pupil="none", opto="none")
_BEHAVIOR_CHANNELS = MovieClips(clip_frames=80, behavior="channels", opto="none")


def _lurz_core(layers: int = 4, linear: bool = False) -> Stacked2d:
    return Stacked2d(
        hidden_channels=64,
        input_kern=9,
        hidden_kern=7,
        layers=layers,
        gamma_input=6.3831,
        depth_separable=True,
        momentum=0.9,
        linear=linear,
    )


def _course_core(linear: bool = False) -> Stacked2d:
    return dataclasses.replace(_lurz_core(linear=linear), input_kern=15, hidden_kern=13, gamma_input=1.0)


def _trainer(batch_size: int, lr_init: float = 0.005, lr_decay_steps: int = 3, optimizer: str = "adam") -> Default:
    return Default(batch_size=batch_size, lr_init=lr_init, lr_decay_steps=lr_decay_steps, optimizer=optimizer)


_LURZ = "Lurz et al. 2021, ICLR"
_LVIV = "course 'Deep Learning in Neuroscience', Lviv Data Science Summer School 2021"
_SENSORIUM = "Willeke et al. 2022, Sensorium competition"
_V4 = "ours, for 384 images of a macaque V4 recording, stored at 28 x 28 px; docs/macaque_v4.md"
_DYNAMIC = "Turishcheva et al. 2024, dynamic Sensorium competition"

PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        "lurz2020": Preset(Network(_lurz_core(), readout=_LURZ_READOUT), _PIXELS_ONLY, _trainer(64), _LURZ),
        "lurz2020_linear": Preset(
            Network(_lurz_core(linear=True), readout=_LURZ_READOUT), _PIXELS_ONLY, _trainer(64), _LURZ
        ),
        "lviv_ln": Preset(Network(Dense(), readout=_DENSE_READOUT), _PIXELS_ONLY, _trainer(30), _LVIV),
        "lviv_cnn": Preset(Network(CNN(), readout=_DENSE_READOUT), _PIXELS_ONLY, _trainer(30), _LVIV),
        "lviv_fast_cnn": Preset(Network(FastCNN(), readout=_DENSE_READOUT), _PIXELS_ONLY, _trainer(30), _LVIV),
        "lviv_lurz": Preset(Network(_course_core(), readout=_COURSE_READOUT), _PIXELS_ONLY, _trainer(30), _LVIV),
        "lviv_lurz_linear": Preset(
            Network(_course_core(linear=True), readout=_COURSE_READOUT), _PIXELS_ONLY, _trainer(30), _LVIV
        ),
        "sensorium2022": Preset(
            Network(_lurz_core(), readout=_SENSORIUM_READOUT), _PIXELS_ONLY, _trainer(128, 0.009, 4), _SENSORIUM
        ),
        "sensorium2022_ln": Preset(
            Network(_lurz_core(layers=3, linear=True), readout=_SENSORIUM_READOUT),
            _PIXELS_ONLY,
            _trainer(128, 0.009, 4),
            _SENSORIUM,
        ),
        "sensorium2023_gru": Preset(
            Network(
                RotationEquivariant2d(
                    hidden_channels=8,
                    num_rotations=8,
                    input_kern=9,
                    hidden_kern=7,
                    layers=4,
                    gamma_input=500.0,
                    final_nonlinearity=False,
                    momentum=0.9,
                ),
                ConvGRU(hidden_channels=64, input_kernel=9, recurrent_kernel=9),
                _DYNAMIC_READOUT,
                MLP(hidden_channels=5, layers=3),
            ),
            _BEHAVIOR_CHANNELS,
            _trainer(8, lr_decay_steps=4, optimizer="adamw"),
            _DYNAMIC,
        ),
        "sensorium2023_factorized": Preset(
            Network(
                Factorized3d(
                    hidden_channels=(32, 64, 128),
                    spatial_kernels=(11, 5, 5),
                    temporal_kernels=(11, 5, 5),
                    gamma_input_spatial=10.0,
                    gamma_input_temporal=0.01,
                    momentum=0.7,
                    padding=False,
                ),
                readout=_DYNAMIC_READOUT,
                shifter=MLP(hidden_channels=5, layers=3),
            ),
            _BEHAVIOR_CHANNELS,
            _trainer(8, lr_decay_steps=4, optimizer="adamw"),
            _DYNAMIC,
        ),
        "staticnet": Preset(
            Network(
                GaussianLaplace(
                    hidden_channels=32,
                    input_kern=15,
                    hidden_kern=7,
                    layers=3,
                    gamma_hidden=0.1,
                    gamma_input=50.0,
                    skip=3,
                ),
                readout=SpatialTransformerPyramid2d(scale_n=5, downsample=True, gamma_readout=1.0),
                shifter=MLP(hidden_channels=5, layers=3),
                modulator=MLPGain(hidden_channels=10, layers=3),
            ),
            CorrectedAreaLayer(opto="none"),
            Default(
                batch_size=125,
                accumulate_scans=False,
                optimizer="adam",
                schedule=(0.005, 0.001),
                average_loss=True,
                scale_loss=False,
                patience=10,
                max_epochs=500,
            ),
            "Walker et al. 2019, Nature Neuroscience",
        ),
        "thesis_gru": Preset(
            Network(
                Stacked2d(hidden_channels=32, input_kern=7, hidden_kern=5, layers=3, gamma_input=500.0, momentum=0.9),
                ConvGRU(hidden_channels=32, input_kernel=7, recurrent_kernel=7),
                _THESIS_READOUT,
                MLP(hidden_channels=5, layers=3),
            ),
            MovieClips(clip_frames=80),
            _trainer(8, optimizer="adamw"),
            "dLGN thesis, its convolutional recurrent model",
        ),
        "v4_cnn": Preset(
            Network(
                CNN(
                    hidden_channels=(32, 32, 32),
                    kernels=(5, 3, 3),
                    strides=(1, 2, 2),
                    gamma_input=10.0,
                ),
                readout=FullFactorized2d(gamma_readout=5.0),
            ),
            _PIXELS_ONLY,
            dataclasses.replace(_trainer(64, 0.003, 2, "adamw"), patience=3, max_epochs=40),
            _V4,
        ),
        "v4_gabor": Preset(
            Network(
                GaborEnergy(wavelengths=(2.0, 4.0, 8.0, 16.0), pool=4),
                readout=FullyConnected(init_noise=1e-4, gamma_readout=8.0),
            ),
            _PIXELS_ONLY,
            dataclasses.replace(_trainer(64, 0.002, 2, "adamw"), patience=3, max_epochs=40),
            _V4,
        ),
    }
)
"""By name."""


def preset(name: str) -> Preset:
    """Return a published model.

    Raises
    ------
    ConfigurationError
        If no preset has this name.
    """
    if name not in PRESETS:
        raise ConfigurationError(f"there is no preset {name!r}: there are {', '.join(PRESETS)}")
    return PRESETS[name]
