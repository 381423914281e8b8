"""Every core works with every readout: it learns, all weights take part, and predictions have the announced shape."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from scipy.ndimage import gaussian_filter

from pipeline.datasets.batches import Batch, ImageBatch, MovieBatch
from pipeline.datasets.info import ScanInfo
from pipeline.errors import ConfigurationError
from pipeline.models import CORES, READOUTS, Network, build_encoder
from pipeline.models.cores import (
    CNN,
    Basic3d,
    CoreConfiguration,
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
from pipeline.models.readouts import (
    Attention,
    FullFactorized2d,
    FullGaussian2d,
    FullyConnected,
    GaussianMask,
    PointPooled2d,
    ReadoutConfiguration,
    SpatialTransformerPyramid2d,
)
from pipeline.training import Default, train

HEIGHT, WIDTH, UNITS, FRAMES = 16, 18, 3, 10
SMALL = {"hidden_channels": 3, "input_kern": 5, "hidden_kern": 3, "layers": 2, "gamma_input": 0.01}

CORE_SETTINGS: tuple[CoreConfiguration, ...] = (
    Basic3d(hidden_channels=(3, 3), input_kernel=(3, 5, 5), hidden_kernel=(2, 3, 3), gamma_input_spatial=0.01),
    CNN(hidden_channels=(4, 3), kernels=(5, 3), strides=(1, 2), gamma_input=0.01),
    FastCNN(hidden_channels=(4,), kernels=(3,), strides=(2,), gamma_input=0.01),
    Depthwise3d(channels=(4,), blocks=(2,), strides=(2,), temporal_kernel=3, expansion=2, drop_path=0),
    Factorized3d(
        hidden_channels=(3, 3), spatial_kernels=(5, 3), temporal_kernels=(3, 2), gamma_input_spatial=0.01,
        gamma_hidden=0.01,
    ),
    GaborEnergy(wavelengths=(4.0, 8.0), orientations=2, pool=4),
    GaussianLaplace(**SMALL),
    StackedLinearGaussianLaplace(**SMALL),
    Dense(),
    Linear(hidden_channels=3, input_kern=5, gamma_input=0.01),
    RotationEquivariant2d(**SMALL, num_rotations=4),
    SE2d(**SMALL, n_se_blocks=1, se_reduction=1),
    Stacked2d(**SMALL, gamma_hidden=0.01),
    ViT(patch=4, stride=3, embedding=8, heads=2, depth=1, dropout=0),
)  # fmt: skip
"""Each kind of core as small as it still has all its layers."""

READOUT_SETTINGS: tuple[ReadoutConfiguration, ...] = (
    FullGaussian2d(init_sigma=0.1, gauss_type="full"),
    PointPooled2d(pool_steps=1, pool_kern=2),
    SpatialTransformerPyramid2d(scale_n=2, gamma_readout=0.01),
    FullFactorized2d(init_noise=0.1, gamma_readout=0.01, gamma_smooth=0.01),
    GaussianMask(mask_l1_reg=0.01, feature_weights_l1_reg=0.01),
    FullyConnected(gamma_readout=0.01, gamma_smooth=0.01),
    Attention(gamma_readout=0.01),
)

MOVIES = (Basic3d, Depthwise3d, Factorized3d)
"""Cores that filter over time; all others see one frame at a time and are trained on images here."""

EVERY_PAIR = [(core, readout) for core in CORE_SETTINGS for readout in READOUT_SETTINGS]
DIAGONAL = [(core, READOUT_SETTINGS[i % len(READOUT_SETTINGS)]) for i, core in enumerate(CORE_SETTINGS)]
"""Every core once and every readout twice."""

SENSELESS = [
    (Depthwise3d(pool=True), PointPooled2d(), (1, 36, 64), "1 x 1 px cannot be pooled"),  # nothing is left to pool
    (CNN(), PointPooled2d(), (1, 36, 64), "6 x 13 px cannot be pooled 2 times by 3"),
    (ViT(), PointPooled2d(), (1, 36, 64), "8 x 15 px cannot be pooled 2 times by 3"),
    (GaborEnergy(), FullyConnected(), (4, 36, 64), "not frames of 4 channels"),  # planes of behaviour are not colours
    (GaborEnergy(), FullyConnected(), (1, 7, 18), "larger than the 7 x 18 px frames of 'a'"),
    (ViT(patch=17), Attention(), (1, 16, 18), "larger than the 16 x 18 px frames of 'a'"),
    (CNN(), FullyConnected(), (1, 11, 18), "larger than the 11 x 18 px frames of 'a'"),
    (Basic3d(padding=False), FullyConnected(), (1, 12, 18), "larger than the 12 x 18 px frames of 'a'"),
]
"""What no unit could be read from, the reason being what its message says: core, readout, input shape, message."""


def stimuli(movies: bool) -> torch.Tensor:
    """Smooth noise, (trial, channel, ...): images, or short movies."""
    torch.manual_seed(0)
    noise = torch.randn(8 if movies else 40, *([FRAMES] if movies else []), HEIGHT, WIDTH)
    smooth = gaussian_filter(noise.numpy(), (*[0] * (noise.dim() - 2), 1.5, 1.5))
    return torch.tensor(smooth / smooth.std())[:, None]


def batch_of(movies: bool) -> Batch:
    """Units that see the middle of one half of the frame each, without noise."""
    shown = stimuli(movies)
    halves = [shown[..., 4:12, 1:9], shown[..., 4:12, 9:17], -shown[..., 4:12, 5:13]]
    responses = torch.stack([torch.exp(2 * half.mean(dim=(-2, -1)))[:, 0] for half in halves], dim=1)
    return MovieBatch(shown, responses) if movies else ImageBatch(shown, responses)


def name(pair: tuple[CoreConfiguration, ReadoutConfiguration]) -> str:
    return "-".join(part.kind() for part in pair)


def require_that_it_learns(core: CoreConfiguration, readout: ReadoutConfiguration) -> None:
    movies = isinstance(core, MOVIES)
    batch = batch_of(movies)
    scan = ScanInfo(
        tuple(range(UNITS)), (1, HEIGHT, WIDTH), tuple(batch.responses.transpose(0, 1).flatten(1).mean(dim=1).tolist()),
        frame_rate=30.0 if movies else None,
    )  # fmt: skip
    encoder = build_encoder(Network(core, readout=readout), {"a": scan}, seed=1)
    assert (encoder.lost_frames > 0) == movies

    before = {part: value.clone() for part, value in encoder.named_parameters()}
    loaders = {"train": {"a": [batch] * 6}, "validation": {"a": [batch]}}
    result = train(encoder, loaders, Default(lr_init=0.02, max_epochs=2), seed=1)

    first, second = (epoch.loss for epoch in result.history)
    assert second < first < float("inf")
    assert result.best_epoch > 0
    assert [part for part, value in encoder.named_parameters() if torch.equal(value, before[part])] == []
    predictions = encoder(batch.inputs, "a")
    expected = (len(batch.inputs), UNITS, *([FRAMES - encoder.lost_frames] if movies else []))
    assert predictions.shape == expected
    assert torch.isfinite(predictions).all() and (predictions > 0).all()


def test_every_kind_is_in_the_tables() -> None:
    assert {type(core) for core in CORE_SETTINGS} == set(CORES)
    assert {type(readout) for readout in READOUT_SETTINGS} == set(READOUTS)
    assert {type(readout) for _, readout in DIAGONAL} == set(READOUTS)


@pytest.mark.parametrize("pair", DIAGONAL, ids=name)
def test_every_core_and_every_readout_learns(pair: tuple[CoreConfiguration, ReadoutConfiguration]) -> None:
    require_that_it_learns(*pair)


@pytest.mark.slow
@pytest.mark.parametrize("pair", [pair for pair in EVERY_PAIR if pair not in DIAGONAL], ids=name)
def test_every_other_pair_learns(pair: tuple[CoreConfiguration, ReadoutConfiguration]) -> None:
    require_that_it_learns(*pair)


@pytest.mark.slow
@pytest.mark.parametrize(
    "core", [core for core in CORE_SETTINGS if "linear" in core.settings()], ids=lambda c: c.kind()
)
def test_linearised_cores_learn_too(core: CoreConfiguration) -> None:
    gates = {"n_se_blocks": 0} if isinstance(core, SE2d) else {}  # they are not linear
    require_that_it_learns(dataclasses.replace(core, linear=True, **gates), FullyConnected(gamma_readout=0.01))


@pytest.mark.parametrize(("core", "readout", "shape", "message"), SENSELESS)
def test_pairs_without_sense_are_refused_when_they_are_built(
    core: CoreConfiguration, readout: ReadoutConfiguration, shape: tuple[int, int, int], message: str
) -> None:
    scan = ScanInfo(tuple(range(UNITS)), shape, (1.0,) * UNITS, frame_rate=30.0)
    with pytest.raises(ConfigurationError, match=message):
        build_encoder(Network(core, readout=readout), {"a": scan}, seed=1)


@pytest.mark.parametrize("core", [core for core in CORE_SETTINGS if isinstance(core, MOVIES)], ids=lambda c: c.kind())
def test_cores_that_filter_over_time_refuse_images(core: CoreConfiguration) -> None:
    scan = ScanInfo(tuple(range(UNITS)), (1, HEIGHT, WIDTH), (1.0,) * UNITS)
    with pytest.raises(ConfigurationError, match=f"over {core.build(1).lost_frames + 1} frames, which 'a' does not"):
        build_encoder(Network(core), {"a": scan}, seed=1)
