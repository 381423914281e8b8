"""Models with names can be built and run, and have the settings that were published."""

from __future__ import annotations

import pytest
import torch

from pipeline.datasets.clips import MovieClips
from pipeline.datasets.info import ScanInfo
from pipeline.errors import ConfigurationError
from pipeline.models import build_encoder
from pipeline.presets import PRESETS, preset

UNITS = 3


def information(name: str) -> ScanInfo:
    movie = isinstance(preset(name).data, MovieClips)
    planes = 2 if movie and preset(name).data.behavior == "channels" else 0
    return ScanInfo(
        unit_ids=tuple(range(UNITS)),
        input_shape=(1 + planes, 36, 64),
        mean_responses=(0.5, 1.0, 1.5),
        n_behavior=3,
        mean_pupil_center=(0.0, 0.0),
        mean_behavior=(0.0, 0.0, 0.0),
        frame_rate=30.0 if movie else None,
        unit_positions=((0.0, 0.0, 1.0), (10.0, 5.0, 2.0), (-20.0, 9.0, 0.0)),
    )


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_predicts(name: str) -> None:
    info = information(name)
    encoder = build_encoder(preset(name).network, {"scan": info}, seed=1).eval()
    frames = encoder.lost_frames + 2 if info.frame_rate else 1
    inputs = torch.randn(2, info.input_shape[0], frames, *info.input_shape[1:])
    with torch.no_grad():
        rates = encoder(inputs if info.frame_rate else inputs[:, :, 0], "scan")
    assert rates.shape == ((2, UNITS, 2) if info.frame_rate else (2, UNITS))
    assert torch.isfinite(rates).all()
    assert (rates >= 0).all()


@pytest.mark.parametrize(
    ("name", "linear"),
    [
        ("lurz2020_linear", True),
        ("lviv_lurz_linear", True),
        ("lviv_ln", True),
        ("lurz2020", False),
        ("lviv_lurz", False),
        ("lviv_fast_cnn", False),
    ],
)
def test_linearised_presets_are_affine_in_the_image(name: str, linear: bool) -> None:
    encoder = build_encoder(preset(name).network, {"scan": information(name)}, seed=1).eval()
    torch.manual_seed(3)
    first, second = torch.randn(2, 1, 1, 1, 36, 64)
    with torch.no_grad():
        a, b, middle = (
            encoder.readouts["scan"](encoder.core(images)) for images in (first, second, (first + second) / 2)
        )
    assert torch.allclose((a + b) / 2, middle, atol=1e-6) == linear


LURZ_CORE = {
    "hidden_channels": 64, "input_kern": 9, "hidden_kern": 7, "layers": 4, "gamma_input": 6.3831, "skip": 0,
    "bias": False, "final_nonlinearity": True, "momentum": 0.9, "pad_input": False, "batch_norm": True,
    "hidden_dilation": 1, "laplace_padding": None, "input_regularizer": "LaplaceL2norm", "use_avg_reg": False,
    "stack": -1, "depth_separable": True, "linear": False,
}  # fmt: skip
LURZ_READOUT = {
    "init_mu_range": 0.3, "init_sigma": 0.1, "bias": True, "gamma_readout": 0.0076, "gauss_type": "full",
    "grid_mean_predictor": "cortex", "predictor_input_dimensions": 2, "predictor_hidden_layers": 0,
    "predictor_hidden_features": 30, "predictor_final_tanh": True, "share": "none",
}  # fmt: skip
LURZ_TRAIN = {
    "batch_size": 64, "optimizer": "adam", "lr_init": 0.005, "lr_decay_factor": 0.3, "lr_decay_steps": 3,
    "min_lr": 1e-4, "patience": 5, "min_delta": 1e-6, "max_epochs": 200, "loss": "poisson", "average_loss": False,
    "scale_loss": True, "accumulate_scans": True,
}  # fmt: skip
COURSE_CORE = LURZ_CORE | {"input_kern": 15, "hidden_kern": 13, "gamma_input": 1.0}
COURSE_READOUT = LURZ_READOUT | {
    "init_mu_range": 0.55, "init_sigma": 0.4, "gamma_readout": 2.439, "predictor_final_tanh": False,
}  # fmt: skip
COURSE_TRAIN = LURZ_TRAIN | {"batch_size": 30}
SENSORIUM_READOUT = LURZ_READOUT | {"predictor_hidden_layers": 1}
SENSORIUM_TRAIN = LURZ_TRAIN | {"batch_size": 128, "lr_init": 0.009, "lr_decay_steps": 4}
DYNAMIC_READOUT = SENSORIUM_READOUT | {"init_mu_range": 0.2, "init_sigma": 1.0, "gamma_readout": 0.0}
DYNAMIC_TRAIN = LURZ_TRAIN | {"batch_size": 8, "optimizer": "adamw", "lr_decay_steps": 4}
GAZE = {"hidden_channels": 5, "layers": 3, "gamma_shifter": 0.0}
PUBLISHED = {
    "lurz2020": {"core": LURZ_CORE, "readout": LURZ_READOUT, "train": LURZ_TRAIN},
    "lurz2020_linear": {"core": LURZ_CORE | {"linear": True}, "readout": LURZ_READOUT, "train": LURZ_TRAIN},
    "lviv_lurz": {"core": COURSE_CORE, "readout": COURSE_READOUT, "train": COURSE_TRAIN},
    "lviv_lurz_linear": {"core": COURSE_CORE | {"linear": True}, "readout": COURSE_READOUT, "train": COURSE_TRAIN},
    "sensorium2022": {"core": LURZ_CORE, "readout": SENSORIUM_READOUT, "train": SENSORIUM_TRAIN},
    "sensorium2022_ln": {
        "core": LURZ_CORE | {"layers": 3, "linear": True}, "readout": SENSORIUM_READOUT, "train": SENSORIUM_TRAIN,
    },
    "sensorium2023_gru": {
        "core": {
            "hidden_channels": 8, "num_rotations": 8, "input_kern": 9, "hidden_kern": 7, "layers": 4, "stack": -1,
            "gamma_input": 500.0, "gamma_hidden": 0.0, "momentum": 0.9, "pad_input": False,
            "final_nonlinearity": False, "linear": False, "rot_eq_batch_norm": True,
        },
        "recurrent": {"hidden_channels": 64, "input_kernel": 9, "recurrent_kernel": 9, "gamma_recurrent": 0.0},
        "readout": DYNAMIC_READOUT,
        "shifter": GAZE,
        "train": DYNAMIC_TRAIN,
    },
    "sensorium2023_factorized": {
        "core": {
            "hidden_channels": (32, 64, 128), "spatial_kernels": (11, 5, 5), "temporal_kernels": (11, 5, 5),
            "strides": (1,), "gamma_input_spatial": 10.0, "gamma_input_temporal": 0.01, "gamma_hidden": 0.0,
            "padding": False, "final_nonlinearity": True, "momentum": 0.7, "linear": False,
        },
        "readout": DYNAMIC_READOUT,
        "shifter": GAZE,
        "train": DYNAMIC_TRAIN,
    },
    "staticnet": {
        "core": {
            "hidden_channels": 32, "input_kern": 15, "hidden_kern": 7, "layers": 3, "gamma_hidden": 0.1,
            "gamma_input": 50.0, "skip": 3, "final_nonlinearity": True, "bias": False, "pad_input": False,
            "laplace_padding": 1, "gauss_sigma": 0.5, "gauss_bias": 0.0,
        },
        "readout": {
            "scale_n": 5, "pyramid_type": "gauss5x5", "downsample": True, "gamma_readout": 1.0, "positive": False,
        },
        "shifter": GAZE,
        "modulator": {"hidden_channels": 10, "layers": 3, "gamma_modulator": 0.0},  # its 2 are hidden ones
        "train": {
            "batch_size": 125, "optimizer": "adam", "schedule": (0.005, 0.001), "max_epochs": 500, "patience": 10,
            "min_delta": 1e-6, "average_loss": True, "scale_loss": False, "accumulate_scans": False,
        },
    },
    "thesis_gru": {
        "core": {
            "hidden_channels": 32, "input_kern": 7, "hidden_kern": 5, "layers": 3, "gamma_input": 500.0,
            "momentum": 0.9, "pad_input": False,
        },
        "recurrent": {"hidden_channels": 32, "input_kernel": 7, "recurrent_kernel": 7},
        "readout": {"init_mu_range": 0.2, "init_sigma": 1.0, "gamma_readout": 0.0, "grid_mean_predictor": "none"},
        "train": LURZ_TRAIN | {"batch_size": 8, "optimizer": "adamw"},
    },
}  # fmt: skip
"""What the publications, or their code, say of each part."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_settings_are_the_published_ones(name: str) -> None:
    made = preset(name)
    for part, wanted in PUBLISHED[name].items():
        found = (made.train if part == "train" else getattr(made.network, part)).settings()
        assert {setting: found[setting] for setting in wanted} == wanted, part
    assert made.network.nonlinearity == "elu"


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="no preset 'lurz2021': there are lurz2020, lurz2020_linear"):
        preset("lurz2021")
