from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from pipeline.datasets.info import ScanInfo
from pipeline.errors import ConfigurationError
from pipeline.models import MLP, READOUTS, Network, Stacked2d, build_encoder
from pipeline.models.readouts import (
    Attention,
    FullFactorized2d,
    FullGaussian2d,
    FullyConnected,
    GaussianMask,
    PointPooled2d,
    Readout,
    ReadoutConfiguration,
    ReadoutSite,
    SpatialTransformerPyramid2d,
)

UNITS, CHANNELS, TIME = 7, 4, 3

KINDS: list[ReadoutConfiguration] = [
    FullGaussian2d(),
    FullGaussian2d(gauss_type="full", grid_mean_predictor="cortex"),
    PointPooled2d(pool_steps=2, pool_kern=2),
    SpatialTransformerPyramid2d(scale_n=2, positive=True),
    SpatialTransformerPyramid2d(scale_n=3, downsample=False, pyramid_type="laplace5x5"),
    FullFactorized2d(gamma_smooth=0.1),
    FullFactorized2d(constrain_pos=True, normalize=False),
    GaussianMask(init_sigma=0.5),
    FullyConnected(gamma_smooth=0.1),
    Attention(),
    Attention(attention_layers=2, attention_kernel=3, positional=False),
]
MOVE_AS_ONE = [kind for kind in KINDS if not isinstance(kind, PointPooled2d | SpatialTransformerPyramid2d)]
"""Kinds for which a shift is the same as feature maps that move the other way: all without coarser maps."""


def name(kind: ReadoutConfiguration) -> str:
    return f"{kind.kind()}-{kind.hash()[:4]}"


def site(height: int = 9, width: int = 12, **more: torch.Tensor) -> ReadoutSite:
    torch.manual_seed(1)
    positions = 100 * torch.randn(UNITS, 3)
    return ReadoutSite(CHANNELS, height, width, torch.linspace(-1, 1, UNITS), unit_positions=positions, **more)


def built(kind: ReadoutConfiguration, height: int = 9, width: int = 12) -> Readout:
    """Return a readout in which every parameter matters."""
    made = kind.build(site(height, width))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    made.constrain()
    return made


def maps(height: int = 9, width: int = 12) -> torch.Tensor:
    torch.manual_seed(3)
    return torch.randn(2, CHANNELS, TIME, height, width)


def test_every_kind_is_tested() -> None:
    assert {type(kind) for kind in KINDS} == set(READOUTS)


@pytest.mark.parametrize("kind", KINDS, ids=name)
@pytest.mark.parametrize("size", [(9, 12), (8, 7)])
def test_chosen_units_equal_a_slice_of_all(kind: ReadoutConfiguration, size: tuple[int, int]) -> None:
    made = built(kind, *size).eval()
    shift = torch.empty(2, TIME, 2).uniform_(-0.5, 0.5)
    drive = made(maps(*size), shift=shift)
    assert drive.shape == (2, UNITS, TIME)
    assert not torch.allclose(drive, made(maps(*size)), atol=1e-3), "the shift matters"
    for unit_idx in ([4, 1], torch.tensor([6]), slice(2, 5), np.array([0, 3])):
        found = made(maps(*size), shift=shift, unit_idx=unit_idx)
        torch.testing.assert_close(found, drive[:, unit_idx], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS, ids=name)
def test_each_frame_is_read_by_itself(kind: ReadoutConfiguration) -> None:
    made, shift = built(kind).eval(), torch.empty(2, TIME, 2).uniform_(-0.5, 0.5)
    drive = made(maps(), shift=shift)
    torch.testing.assert_close(made(maps()[1:, :, 2:], shift=shift[1:, 2:]), drive[1:, :, 2:], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(made(maps(), shift=0 * shift), made(maps()), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", MOVE_AS_ONE, ids=name)
@pytest.mark.parametrize("moved", [(2, -1), (0, 3)])
def test_shifts_are_in_half_maps(kind: ReadoutConfiguration, moved: tuple[int, int]) -> None:
    made, (x, y) = built(kind).eval(), moved
    shift = torch.tensor([x / 5.5, y / 4.0]).expand(2, TIME, 2)  # half of a map of 9 x 12 px spans 4 and 5.5 px
    # The shifted place is at every pixel's own place in maps that were moved, with zeros from outside.
    elsewhere = F.pad(maps(), (5, 5, 5, 5))[..., 5 + y : 14 + y, 5 + x : 17 + x]
    torch.testing.assert_close(made(maps(), shift=shift), made(elsewhere), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS, ids=name)
def test_every_parameter_gets_a_gradient(kind: ReadoutConfiguration) -> None:
    made = kind.build(site())
    (made(maps()).square().sum() + sum(made.regularizer().values())).backward()
    assert [n for n, p in made.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []
    assert all(torch.isfinite(p.grad).all() for p in made.parameters())


@pytest.mark.parametrize("kind", KINDS, ids=name)
def test_saved_and_loaded_readouts_give_the_same_each_time(kind: ReadoutConfiguration) -> None:
    made = built(kind)
    made(maps())  # moves running statistics
    other = kind.build(site())
    other.load_state_dict(made.state_dict())
    made.eval()
    assert torch.equal(made(maps()), made(maps()))
    assert torch.equal(other.eval()(maps()), made(maps()))


@pytest.mark.parametrize("kind", KINDS, ids=name)
def test_biases_start_at_the_mean_drive(kind: ReadoutConfiguration) -> None:
    dark = torch.zeros_like(maps())
    drive = kind.build(site()).eval()(dark)
    torch.testing.assert_close(drive, torch.linspace(-1, 1, UNITS)[None, :, None].expand_as(drive))
    without = dataclasses.replace(kind, bias=False).build(site()).eval()
    assert "bias" not in dict(without.named_parameters())
    assert torch.equal(without(dark), torch.zeros_like(drive))


@pytest.mark.parametrize("kind", KINDS, ids=name)
def test_parameters_come_back_into_their_range(kind: ReadoutConfiguration) -> None:
    made = built(kind)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(4 * torch.randn_like(parameter))
    made.constrain()
    places = [getattr(made, n) for n in ("mu", "grid") if hasattr(made, n)]
    assert all(p.abs().max() == 1 for p in places)
    positive = getattr(kind, "positive", False) or getattr(kind, "constrain_pos", False)
    assert (made.features.min() >= 0) == positive if hasattr(made, "features") else not positive
    before = made.eval()(maps())
    made.constrain()
    assert torch.equal(made(maps()), before)


@pytest.mark.parametrize("kind", KINDS, ids=name)
@pytest.mark.parametrize("size", [(9, 12), (8, 7)])
def test_properties_have_the_announced_shape_and_range(kind: ReadoutConfiguration, size: tuple[int, int]) -> None:
    made = built(kind, *size)
    positions, spread, weights = made.positions(), made.position_spread(), made.feature_weights()
    assert positions.shape == spread.shape == (UNITS, 2)
    assert weights.shape == (UNITS, CHANNELS)
    assert not any(values.requires_grad for values in (positions, spread, weights))
    assert positions.abs().max() <= 1
    assert (spread >= 0).all() and torch.isfinite(spread).all()


@pytest.mark.parametrize("kind", [kind for kind in READOUTS if hasattr(kind, "init_positions")])
def test_units_start_where_their_receptive_fields_are(kind: type[ReadoutConfiguration]) -> None:
    centers = torch.empty(UNITS, 2).uniform_(-0.5, 0.5)
    narrow = {n: 0.1 for n in ("init_sigma",) if hasattr(kind, n)}
    assert not kind().needs_centers
    settings = kind(init_positions="triggered_average", **narrow)
    assert settings.needs_centers
    made = settings.build(site(27, 33, centers=centers))
    torch.testing.assert_close(made.positions(), centers, rtol=0, atol=0.02)
    outside = settings.build(site(27, 33, centers=3 * centers.sign()))
    torch.testing.assert_close(outside.positions(), centers.sign(), rtol=0, atol=0.12)


@pytest.mark.parametrize("kind", KINDS, ids=name)
def test_graph_is_traced_as_a_whole(kind: ReadoutConfiguration) -> None:
    made, shift = built(kind).eval(), torch.full((2, TIME, 2), 0.1)
    torch._dynamo.reset()
    traced = torch.compile(made, backend="eager", fullgraph=True)
    torch.testing.assert_close(traced(maps(), shift), made(maps(), shift))


@pytest.mark.parametrize("kind", KINDS, ids=name)
def test_half_precision_is_close(kind: ReadoutConfiguration) -> None:
    made, shift = built(kind).eval(), torch.full((2, TIME, 2), 0.1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = made(maps().bfloat16(), shift)
    expected = made(maps(), shift)
    assert (found.float() - expected).abs().max() < 0.03 * expected.abs().max() + 0.03


@pytest.mark.parametrize("kind", [kind for kind in KINDS if not isinstance(kind, PointPooled2d)], ids=name)
def test_maps_of_one_pixel_are_read(kind: ReadoutConfiguration) -> None:
    made = built(kind, 1, 1).eval()
    assert torch.isfinite(made(maps(1, 1), shift=torch.full((2, TIME, 2), 0.3))).all()
    assert torch.isfinite(made.positions()).all() and torch.isfinite(made.position_spread()).all()


@pytest.mark.parametrize("kind", [FullFactorized2d(), GaussianMask(), FullyConnected(), Attention()], ids=name)
def test_maps_of_another_size_are_refused(kind: ReadoutConfiguration) -> None:
    with pytest.raises(ConfigurationError, match="feature maps of 9 x 12 px, not 12 x 9"):
        kind.build(site())(maps(12, 9))


@pytest.mark.parametrize("kind", KINDS, ids=name)
def test_encoders_give_readouts_what_they_need(kind: ReadoutConfiguration) -> None:
    positions = ((0.0, 1.0, 2.0), (5.0, 3.0, 2.0), (-4.0, 0.0, 1.0))
    scan = ScanInfo((1, 2, 3), (1, 16, 18), (1.0, 0.5, 2.0), mean_pupil_center=(0.0, 0.0), unit_positions=positions)
    network = Network(core=Stacked2d(hidden_channels=3, layers=2), readout=kind, shifter=MLP())
    encoder = build_encoder(network, {"a": scan}, seed=1).eval()
    images = torch.randn(5, 1, 16, 18)
    responses = encoder(images, "a", pupil_center=torch.randn(5, 2))
    assert responses.shape == (5, 3)
    torch.testing.assert_close(encoder(images, "a", unit_idx=[2]), encoder(images, "a")[:, [2]])
    if getattr(kind, "grid_mean_predictor", "none") == "cortex":
        with pytest.raises(
            ConfigurationError, match="grid_mean_predictor: 'cortex' needs the position in the tissue of every unit"
        ):
            build_encoder(network, {"a": dataclasses.replace(scan, unit_positions=None)}, seed=1)
