from __future__ import annotations

import pytest
import torch

from pipeline import legacy
from pipeline.errors import ConfigurationError
from pipeline.models.readouts import (
    PointPooled2d,
    PointPooled2dReadout,
    ReadoutSite,
    SpatialTransformerPyramid2d,
    SpatialTransformerPyramid2dReadout,
)

UNITS, CHANNELS, TIME = 6, 3, 4
POOLED = [PointPooled2d(pool_steps=steps, pool_kern=kern) for steps, kern in ((0, 2), (1, 3), (2, 2))]
PYRAMIDS = [
    SpatialTransformerPyramid2d(scale_n=n, downsample=halved, pyramid_type=blur)
    for n, halved, blur in (
        (1, True, "gauss5x5"),
        (3, True, "gauss3x3"),
        (3, False, "laplace5x5"),
        (2, True, "gauss5x5"),
    )
]


def site(height: int, width: int) -> ReadoutSite:
    torch.manual_seed(1)
    return ReadoutSite(CHANNELS, height, width, torch.linspace(-1, 1, UNITS))


def built(
    kind: PointPooled2d | SpatialTransformerPyramid2d, height: int = 9, width: int = 12
) -> PointPooled2dReadout | SpatialTransformerPyramid2dReadout:
    made = kind.build(site(height, width))
    torch.nn.init.normal_(made.features)
    torch.nn.init.uniform_(made.grid, -1, 1)
    return made


def theirs(kind: PointPooled2d | SpatialTransformerPyramid2d, shape: tuple[int, int, int]) -> torch.nn.Module:
    if isinstance(kind, PointPooled2d):
        module = legacy.neuralpredictors_module("layers.readouts.point_pooled")
        return module.PointPooled2d(shape, UNITS, kind.pool_steps, True, kind.pool_kern, kind.init_range)
    module = legacy.neuralpredictors_module("layers.readouts.pyramid")
    settings = {"positive": kind.positive, "downsample": kind.downsample, "type": kind.pyramid_type}
    return module.PointPyramid2d(shape, UNITS, kind.scale_n, bias=True, init_range=kind.init_range, **settings)


@pytest.mark.parametrize("kind", [*POOLED, *PYRAMIDS], ids=lambda kind: f"{kind.kind()}-{kind.hash()[:4]}")
@pytest.mark.parametrize("size", [(9, 12), (8, 7)])
def test_readout_equals_neuralpredictors(
    kind: PointPooled2d | SpatialTransformerPyramid2d, size: tuple[int, int]
) -> None:
    ours, reference = built(kind, *size).eval(), theirs(kind, (CHANNELS, *size)).eval()
    with torch.no_grad():
        reference.grid.copy_(ours.grid[None, :, None])
        reference.features.copy_(ours.features.flatten(1).t()[None, :, None])
        reference.bias.copy_(ours.bias)
    features, shift = torch.randn(2, CHANNELS, TIME, *size), torch.empty(2, TIME, 2).uniform_(-0.6, 0.6)
    found, shifted = ours(features), ours(features, shift=shift)
    for t in range(TIME):
        torch.testing.assert_close(found[..., t], reference(features[:, :, t]), rtol=1e-5, atol=1e-5)
        expected = reference(features[:, :, t], shift=shift[:, t])
        torch.testing.assert_close(shifted[..., t], expected, rtol=1e-5, atol=1e-5)
    penalty = ours.regularizer()["readout"]
    torch.testing.assert_close(penalty, kind.gamma_readout * reference.feature_l1())


def test_levels_add_up_to_the_map() -> None:
    made = built(SpatialTransformerPyramid2d(scale_n=3, downsample=False))
    frames = torch.randn(2, CHANNELS, 11, 8)
    torch.testing.assert_close(sum(made.levels(frames)), frames, rtol=1e-5, atol=1e-5)
    halved = built(SpatialTransformerPyramid2d(scale_n=3, downsample=True))
    sizes = [tuple(level.shape[2:]) for level in halved.levels(frames)]
    assert sizes == [(11, 8), (6, 4), (3, 2), (2, 1)]


@pytest.mark.parametrize("blur", ["gauss5x5", "gauss3x3", "laplace5x5"])
@pytest.mark.parametrize("downsample", [True, False])
def test_spread_of_the_last_level_is_that_of_its_pixels(blur: str, downsample: bool) -> None:
    size = 81
    made = SpatialTransformerPyramid2d(scale_n=3, downsample=downsample, pyramid_type=blur).build(site(size, size))
    with torch.no_grad():
        made.features.zero_()
        made.features[:, -1] = 1.0
        made.grid.zero_()  # at a pixel in all levels: these have 81, 41, 21 and 11 px
    frame = torch.zeros(1, CHANNELS, 1, size, size, requires_grad=True)
    made(frame)[0, 0, 0].backward()
    influence = frame.grad[0, 0, 0].sum(dim=0)
    offsets = torch.arange(size) - size // 2
    std = ((influence * offsets.square()).sum() / influence.sum()).sqrt()
    torch.testing.assert_close(made.position_spread()[0], (std / (size // 2)).expand(2), rtol=1e-3, atol=0)


def test_spread_of_pooled_points_is_that_of_squares() -> None:
    made = built(PointPooled2d(pool_steps=2, pool_kern=3), 9, 19)
    with torch.no_grad():
        made.features.zero_()
        made.features[0, 0] = 2.0  # a point alone
        made.features[1, 2] = 2.0  # 9 x 9 px alone: their variance is (81 - 1) / 12
        made.features[2, 0, 1], made.features[2, 1, 0] = 3.0, 4.0  # 9/25 a point and 16/25 3 x 3 px
    half = torch.tensor([9.0, 4.0])
    found = made.position_spread()
    torch.testing.assert_close(found[0], torch.zeros(2))
    torch.testing.assert_close(found[1], (80 / 12) ** 0.5 / half)
    torch.testing.assert_close(found[2], (16 / 25 * 8 / 12) ** 0.5 / half)
    torch.testing.assert_close(made.feature_weights()[2], torch.tensor([4.0, 3.0, 0.0]))
    torch.testing.assert_close(made.positions(), made.grid.detach())


def test_pooling_more_often_than_maps_allow_is_refused() -> None:
    PointPooled2d(pool_steps=2, pool_kern=3).build(site(9, 12))
    with pytest.raises(ConfigurationError, match="8 x 12 px cannot be pooled 2 times by 3"):
        PointPooled2d(pool_steps=2, pool_kern=3).build(site(8, 12))
