"""Weighted sums of channels at points are those of `grid_sample`, and so are all their gradients."""

from __future__ import annotations

import pytest
import torch

from pipeline.models.readouts.places import at_points
from pipeline.models.readouts.sampling import weighed_at_own_point, weighed_at_points

Inputs = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def plain(frames: torch.Tensor, points: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    return (at_points(frames, points) * weights.t()).sum(dim=1)


def inputs(height: int, width: int, reach: float = 1.3, dtype: torch.dtype = torch.float64, units: int = 6) -> Inputs:
    """Maps, points, some of them outside the map and some in its corners, and weights."""
    torch.manual_seed(0)
    frames = torch.randn(3, 2, height, width, dtype=dtype).to(memory_format=torch.channels_last)
    points = torch.empty(3, units, 2, dtype=dtype).uniform_(-reach, reach)
    return frames.requires_grad_(), points.requires_grad_(), torch.randn(units, 2, dtype=dtype).requires_grad_()


@pytest.mark.parametrize("size", [(5, 7), (1, 4), (4, 1), (2, 2), (1, 1), (1, 3)])
def test_gradients_are_derivatives(size: tuple[int, int]) -> None:
    assert torch.autograd.gradcheck(weighed_at_points, inputs(*size))


@pytest.mark.parametrize("reach", [0.9, 1.8, 40.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_everything_equals_grid_sample(reach: float, dtype: torch.dtype) -> None:
    made = inputs(9, 12, reach, dtype, units=50)
    found, expected = weighed_at_points(*made), plain(*made)
    tolerance = {"rtol": 1e-4, "atol": 1e-4} if dtype == torch.float32 else {"rtol": 1e-10, "atol": 1e-10}
    torch.testing.assert_close(found, expected, **tolerance)
    gradients = (torch.autograd.grad(result.sin().sum(), made) for result in (found, expected))
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, **tolerance)


def test_corners_of_the_map_are_its_outermost_pixels() -> None:
    frames = torch.arange(30.0).view(1, 1, 5, 6).to(memory_format=torch.channels_last)
    points = torch.tensor([[[-1.0, -1.0], [1.0, -1.0], [-1.0, 1.0], [1.0, 1.0], [0.0, 0.0]]])
    found = weighed_at_points(frames, points, torch.full((5, 1), 2.0))
    assert torch.equal(found, torch.tensor([[0.0, 10.0, 48.0, 58.0, 29.0]]))


def test_maps_may_lie_in_memory_in_any_order() -> None:
    frames, points, weights = inputs(4, 5)
    places, channels = (3, 2, 0, 1), (2, 3, 1, 0)
    for order, back in ((places, channels), ((0, 1, 2, 3), (0, 1, 2, 3)), ((2, 0, 3, 1), (1, 3, 0, 2))):
        lying = frames.permute(order).contiguous().permute(back)
        assert torch.equal(lying, frames)
        torch.testing.assert_close(weighed_at_points(lying, points, weights), plain(frames, points, weights))
        own = weighed_at_own_point(lying, points[:, 0], weights[:3])
        torch.testing.assert_close(own, plain(frames, points[:, :1].expand(-1, 3, -1), weights[:3]).diagonal())


@pytest.mark.parametrize("wanted", [(True, False, False), (False, True, False), (False, False, True)])
def test_only_what_needs_a_gradient_gets_one(wanted: tuple[bool, ...]) -> None:
    made = [tensor.detach().requires_grad_(need) for tensor, need in zip(inputs(4, 5), wanted, strict=True)]
    weighed_at_points(*made).sum().backward()
    assert tuple(tensor.grad is not None for tensor in made) == wanted


def test_the_operator_keeps_the_promises_of_pytorch() -> None:
    """Shapes without data, gradients under a compiler and no hidden mutation, by PyTorch's own checks."""
    frames, points, weights = (tensor.detach() for tensor in inputs(4, 5, dtype=torch.float32))
    rows = frames.permute(0, 2, 3, 1).reshape(-1, 2).requires_grad_()
    operator = torch.ops.geniculate.weighed.default
    made = rows, points.permute(2, 1, 0).contiguous().requires_grad_(), weights.requires_grad_(), 4, 5, [20, 5, 1]
    torch.library.opcheck(operator, made)


def test_half_precision_frames_are_read_in_single_precision() -> None:
    frames, points, weights = inputs(9, 12, dtype=torch.float32)
    half = frames.detach().bfloat16()
    found = weighed_at_points(half, points, weights)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, plain(half.float(), points, weights))
