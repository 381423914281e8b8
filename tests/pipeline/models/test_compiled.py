"""Whole encoders, compiled by PyTorch's default backend and in half precision, predict what they always did."""

from __future__ import annotations

import shutil

import pytest
import torch

from pipeline.datasets.info import ScanInfo
from pipeline.models import (
    MLP,
    ConvGRU,
    Encoder,
    Factorized3d,
    FullFactorized2d,
    FullGaussian2d,
    FullyConnected,
    History,
    MLPGain,
    Network,
    Stacked2d,
    build_encoder,
)
from pipeline.models.cores import FastCNN

LAYERS = {"hidden_channels": (4, 4), "spatial_kernels": (5, 3), "temporal_kernels": (4, 3)}
SMALL = Stacked2d(hidden_channels=4, layers=2)
IMAGES = {
    "images": Network(SMALL, readout=FullGaussian2d(), shifter=MLP(), modulator=MLPGain()),
    "small maps": Network(FastCNN(), readout=FullyConnected(), nonlinearity="learned"),
}
MOVIES = {
    "movies": Network(Factorized3d(**LAYERS), readout=FullGaussian2d(), shifter=MLP(), modulator=History()),
    "recurrent": Network(SMALL, ConvGRU(hidden_channels=3), FullFactorized2d()),
}
NETWORKS = IMAGES | MOVIES


def built(name: str) -> tuple[Encoder, dict[str, torch.Tensor]]:
    """An encoder whose parts all matter, and a batch for it."""
    torch.manual_seed(2)
    time = (9,) if name in MOVIES else ()
    scan = ScanInfo(
        tuple(range(5)), (1, 18, 20), (1.0,) * 5, n_behavior=2, mean_pupil_center=(0.0, 0.0), frame_rate=30.0
    )
    encoder = build_encoder(NETWORKS[name], {"a": scan}, seed=1)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    batch = {
        "inputs": torch.randn(4, 1, *time, 18, 20),
        "behavior": torch.randn(4, 2, *time),
        "pupil_center": torch.randn(4, 2, *time),
    }
    encoder(data_key="a", **batch)  # moves the running statistics
    return encoder.eval(), batch


@pytest.mark.slow
@pytest.mark.skipif(not (shutil.which("gcc") or shutil.which("clang")), reason="compiling needs gcc or clang")
@pytest.mark.parametrize("name", ["images", "small maps", "movies"])
def test_compiled_encoders_predict_the_same(name: str) -> None:
    encoder, batch = built(name)
    torch._dynamo.reset()
    compiled = torch.compile(encoder, fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(
            compiled(data_key="a", **batch), encoder(data_key="a", **batch), rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize("name", NETWORKS)
def test_half_precision_is_close(name: str) -> None:
    encoder, batch = built(name)
    with torch.no_grad():
        expected = encoder(data_key="a", **batch)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = encoder(data_key="a", **batch).float()
    assert not torch.equal(found, expected)
    assert (found - expected).abs().max() < 0.05 * expected.abs().max()
