"""One unit an input: the same responses and gradients as all units on all inputs, for every kind of readout."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from pipeline.datasets.info import DataInfo, ScanInfo
from pipeline.models import MLP, Encoder, MLPGain, Network, build_encoder
from pipeline.models.base import EncodingModel
from pipeline.models.cores import Basic3d, CoreConfiguration, Stacked2d
from pipeline.models.ensemble import EnsembleEncoder
from pipeline.models.foreign import ForeignEncoder
from pipeline.models.modulators import History
from pipeline.models.readouts import Attention, FullGaussian2d, ReadoutConfiguration
from tests.pipeline.models.test_every_pair import READOUT_SETTINGS

HEIGHT, WIDTH = 15, 18
UNITS = torch.tensor([4, 0, 2, 4])
"""The unit of each input: not in order, and one of them twice."""
IMAGES = Stacked2d(hidden_channels=3, input_kern=5, hidden_kern=3, layers=2)
MOVIES = Basic3d(hidden_channels=(3,), input_kernel=(3, 5, 5))


def encoder_of(core: CoreConfiguration, readout: ReadoutConfiguration, seed: int = 0, **parts: object) -> Encoder:
    """Return an encoder with random weights, whose units look at places within and beyond the map."""
    scan = ScanInfo(
        tuple(range(5)), (1, HEIGHT, WIDTH), (1.0,) * 5, n_behavior=2, mean_pupil_center=(0.3, -0.2),
        mean_behavior=(0.5, 1.0), frame_rate=30.0 if core is MOVIES else None,
    )  # fmt: skip
    info: DataInfo = {"a": scan}
    kinds: dict[str, object] = {"shifter": MLP(), "modulator": MLPGain(), **parts}
    encoder = build_encoder(Network(core, readout=readout, **kinds), info, seed=seed)  # type: ignore[arg-type]
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(0.5 * torch.randn(parameter.shape, generator=random))
    return encoder.eval()


def require_equal(encoder: EncodingModel, inputs: Tensor, **signals: object) -> None:
    """Compare with all units on all inputs: values, and gradients for the inputs."""
    inputs.requires_grad_(True)
    units = UNITS[: len(inputs)]
    all_units: Tensor = encoder(inputs, "a", **signals)
    expected = torch.stack([all_units[i, unit] for i, unit in enumerate(units)])
    found = encoder.respond_paired(inputs, "a", units, **signals)  # type: ignore[arg-type]
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    weights = torch.linspace(1, 2, found.numel()).view_as(found)
    (wanted,), (gradient,) = (torch.autograd.grad((x * weights).sum(), inputs) for x in (expected, found))
    assert wanted.abs().max() > 1e-3
    torch.testing.assert_close(gradient, wanted, rtol=1e-5, atol=1e-5 * float(wanted.abs().max()))


READOUTS = (*READOUT_SETTINGS, Attention(attention_kernel=3, attention_layers=2))


@pytest.mark.parametrize("readout", READOUTS, ids=lambda readout: readout.kind())
def test_images(readout: ReadoutConfiguration) -> None:
    encoder = encoder_of(IMAGES, readout)
    torch.manual_seed(1)
    images = torch.randn(4, 1, HEIGHT, WIDTH)
    require_equal(encoder, images)
    require_equal(encoder, images, behavior="mean", pupil_center="mean")
    require_equal(encoder, images, behavior=torch.randn(4, 2), pupil_center=torch.randn(4, 2))


@pytest.mark.parametrize("readout", READOUTS, ids=lambda readout: readout.kind())
def test_movies(readout: ReadoutConfiguration) -> None:
    encoder = encoder_of(MOVIES, readout, modulator=History(history_frames=2))
    torch.manual_seed(2)
    movies = torch.randn(4, 1, 6, HEIGHT, WIDTH)
    require_equal(encoder, movies, behavior=torch.randn(4, 2, 6), pupil_center=torch.randn(4, 2, 6))


def test_ensembles_and_foreign_models() -> None:
    torch.manual_seed(3)
    images = torch.randn(4, 1, HEIGHT, WIDTH)
    members: dict[int, EncodingModel] = {seed: encoder_of(IMAGES, FullGaussian2d(), seed) for seed in (1, 2)}
    require_equal(EnsembleEncoder(members), images, behavior="mean", pupil_center="mean")
    network = nn.Sequential(nn.Flatten(), nn.Linear(HEIGHT * WIDTH, 5))
    require_equal(ForeignEncoder(network, {"a": encoder_of(IMAGES, FullGaussian2d()).data_info["a"]}, "lab"), images)
