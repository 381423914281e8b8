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


def test_settings_of_lurz() -> None:
    made = preset("lurz2020")
    core, readout = made.network.core.settings(), made.network.readout.settings()
    wanted = {"hidden_channels": 64, "input_kern": 9, "hidden_kern": 7, "layers": 4, "gamma_input": 6.3831}
    assert {name: core[name] for name in wanted} == wanted
    assert (readout["init_mu_range"], readout["init_sigma"], readout["gamma_readout"]) == (0.3, 0.1, 0.0076)
    assert (made.train.lr_init, made.train.patience, made.train.lr_decay_steps) == (0.005, 5, 3)


def test_settings_of_the_course() -> None:
    for name, linear in (("lviv_lurz", False), ("lviv_lurz_linear", True)):
        core, readout = preset(name).network.core.settings(), preset(name).network.readout.settings()
        assert (core["input_kern"], core["hidden_kern"], core["gamma_input"], core["linear"]) == (15, 13, 1.0, linear)
        assert (readout["init_mu_range"], readout["init_sigma"], readout["gamma_readout"]) == (0.55, 0.4, 2.439)
        assert (readout["predictor_hidden_layers"], readout["predictor_final_tanh"]) == (0, False)
        assert preset(name).train.batch_size == 30


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="no preset 'lurz2021': there are lurz2020, lurz2020_linear"):
        preset("lurz2021")
