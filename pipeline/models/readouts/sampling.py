"""Features at points between pixels, weighted and summed over channels, without writing them down for every unit.

A unit that looks at one point of a frame needs four pixels. `weighed_at_points` takes their channels where they lie, so
that nothing of the size (frame, channel, unit) is ever made. This is for CPUs; GPUs do well with `at_points`.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.models.cores.base import lies_by_places
from pipeline.models.readouts.places import at_points

with warnings.catch_warnings():  # PyTorch says once that sparse matrices are new, at the first one
    warnings.simplefilter("ignore")
    torch.sparse_csr_tensor([0, 0], torch.empty(0, dtype=torch.long), [], size=(1, 1))


Pair = tuple[Tensor, Tensor]


def weighed_at_points(frames: Tensor, points: Tensor, weights: Tensor) -> Tensor:
    """Return each unit's weighted sum of the channels at its point, (frame, unit): bilinear, zeros outside the map.

    Parameters
    ----------
    frames : Tensor
        (frame, channel, height, width), in memory by frames or by places, with channels last.
    points : Tensor
        (frame, unit, 2), x and y in half maps.
    weights : Tensor
        (unit, channel).
    """
    # The sparse matrix of `_products` cannot name more elements than there are.
    if frames.device.type != "cpu" or frames.shape[2] * frames.shape[3] < 4:
        return (at_points(frames, points) * weights.t()).sum(dim=1)
    dtype = torch.promote_types(weights.dtype, torch.float32)  # frames come in bfloat16 from under autocast
    rows, steps = _rows(frames)
    points = points.permute(2, 1, 0).contiguous().to(dtype)
    sums: Tensor = _weighed(rows.to(dtype), points, weights.to(dtype), *frames.shape[2:], steps)[0]
    return sums.t()


def weighed_at_own_point(frames: Tensor, points: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted sum of the channels at one point of each frame, (frame,): bilinear, zeros outside the map.

    Parameters
    ----------
    frames : Tensor
        (frame, channel, height, width).
    points : Tensor
        (frame, 2), x and y in half maps.
    weights : Tensor
        (frame, channel).
    """
    if frames.device.type != "cpu":
        return (at_points(frames, points[:, None]).squeeze(2) * weights).sum(dim=1)
    height, width = frames.shape[2:]
    (left, right), _, columns = _neighbours(points[:, 0], width)
    (above, below), _, lines = _neighbours(points[:, 1], height)
    rows, steps = _rows(frames)
    pixels = _pixels(lines, columns, steps)
    shares = torch.stack([above * left, above * right, below * left, below * right])
    return torch.einsum("pfc,pf,fc->f", rows[pixels], shares, weights)


def _rows(frames: Tensor) -> tuple[Tensor, list[int]]:
    """Return the channels of all pixels, (pixel, channel), and how many pixels further the next frame, line, column is.

    Frames (frame, channel, height, width) may lie in memory by places, (width, height, frame, channel), or by frames;
    others are copied.
    """
    count, channel, height, width = frames.shape
    if lies_by_places(frames):
        return frames.permute(3, 2, 0, 1).reshape(-1, channel), [1, count, height * count]
    return frames.permute(0, 2, 3, 1).reshape(-1, channel), [height * width, width, 1]


def _pixels(lines: Pair, columns: Pair, steps: list[int]) -> Tensor:
    """Return the rows of the four pixels around each point, (.., 4, frame) for lines and columns (.., frame)."""
    frame, line, column = steps
    first = torch.arange(lines[0].shape[-1], dtype=lines[0].dtype) * frame
    return torch.stack([y.mul(line).add_(first).add_(x, alpha=column) for y in lines for x in columns], dim=-2)


@torch.library.custom_op("geniculate::weighed", mutates_args=())
def _weighed(
    rows: Tensor, points: Tensor, weights: Tensor, height: int, width: int, steps: list[int]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return sums over four pixels, and what their gradients need.

    Parameters
    ----------
    rows : Tensor
        (pixel of all frames, channel).
    points : Tensor
        (2, unit, frame), x and y in half maps.
    weights : Tensor
        (unit, channel).
    height, width : int
        Of the maps (px).
    steps : list of int
        How many rows further the next frame, line and column is.

    Returns
    -------
    sums : Tensor
        (unit, frame).
    slopes : Tensor
        (2, unit, frame), derivatives of the sums for x and y.
    pixels : Tensor
        (unit, 4, frame), the rows of the pixels around each point, int32.
    shares : Tensor
        (unit, 4, frame), by which they count.
    """
    scale = [(size - 1) / 2 for size in (width, height)]
    (left, right), across, columns = _neighbours(points[0], width)
    (above, below), down, lines = _neighbours(points[1], height)
    pixels = _pixels(lines, columns, steps)
    products = _products(rows, pixels, weights)
    shares = torch.stack([above * left, above * right, below * left, below * right], dim=1)
    # Pixels outside the map are zeros: their slopes, too, are those of the pixels inside.
    upper_left, upper_right, lower_left, lower_right = products.unbind(dim=1)
    slope_x = above * (across[1] * upper_right - across[0] * upper_left)
    slope_x += below * (across[1] * lower_right - across[0] * lower_left)
    slope_y = down[1] * (left * lower_left + right * lower_right) - down[0] * (left * upper_left + right * upper_right)
    return products.mul_(shares).sum(dim=1), torch.stack([slope_x * scale[0], slope_y * scale[1]]), pixels, shares


def _neighbours(places: Tensor, size: int) -> tuple[Pair, Pair, Pair]:
    """Return, of the pixels before and after each place: their shares, whether they are inside, and their positions."""
    exact = (places + 1).mul_((size - 1) / 2)
    before = exact.floor()
    share = exact.sub_(before)
    first, second = (((place >= 0) & (place < size)).to(share.dtype) for place in (before, before + 1))
    lower = before.int()
    positions = lower.clamp(0, size - 1), (lower + 1).clamp_(0, size - 1)
    return ((1 - share).mul_(first), share.mul_(second)), (first, second), positions


def _products(rows: Tensor, pixels: Tensor, weights: Tensor) -> Tensor:
    """Return the products of each unit's weights with its pixels, of the shape of ``pixels``."""
    # They are the few elements of the matrix (unit, pixel) that a sparse matrix names.
    starts = torch.arange(len(pixels) + 1, dtype=pixels.dtype) * pixels.shape[1:].numel()
    size = len(pixels), len(rows)
    wanted = torch.sparse_csr_tensor(starts, pixels.flatten(), rows.new_zeros(pixels.numel()), size)
    return torch.sparse.sampled_addmm(wanted, weights, rows.t()).values().view(pixels.shape)


@_weighed.register_fake
def _(
    rows: Tensor, points: Tensor, weights: Tensor, height: int, width: int, steps: list[int]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    _, unit, frame = points.shape
    shares = points.new_empty(unit, 4, frame)
    return points.new_empty(unit, frame), torch.empty_like(points), shares.int(), shares


@torch.library.custom_op("geniculate::weighed_gradients", mutates_args=())
def _gradients(
    rows: Tensor, pixels: Tensor, shares: Tensor, weights: Tensor, of_rows: bool, of_weights: bool
) -> tuple[Tensor, Tensor]:
    """Return gradients for rows and weights, empty where not asked for; ``shares`` are times the sums' gradients."""
    to_rows, to_weights = rows.new_empty(0), weights.new_empty(0)
    if of_rows:
        seen, order = torch.sort(pixels.flatten(), stable=True)
        starts = torch.searchsorted(seen, torch.arange(len(rows), dtype=seen.dtype), out_int32=True)
        units = order.int().div_(pixels.shape[1:].numel(), rounding_mode="floor")
        to_rows = F.embedding_bag(units, weights, starts, per_sample_weights=shares.flatten()[order], mode="sum")
    if of_weights:
        to_weights = F.embedding_bag(pixels.flatten(1), rows, per_sample_weights=shares.flatten(1), mode="sum")
    return to_rows, to_weights


@_gradients.register_fake
def _(
    rows: Tensor, pixels: Tensor, shares: Tensor, weights: Tensor, of_rows: bool, of_weights: bool
) -> tuple[Tensor, Tensor]:
    empty = rows.new_empty(0)
    return torch.empty_like(rows) if of_rows else empty, torch.empty_like(weights) if of_weights else empty


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    rows, _, weights, *_ = inputs
    ctx.save_for_backward(rows, weights, *output[1:])
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, grad: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return None, None, None, None, None, None
    rows, weights, slopes, pixels, shares = ctx.saved_tensors
    of_rows, of_points, of_weights = ctx.needs_input_grad[:3]
    to_rows = to_weights = None
    if of_rows or of_weights:
        found = _gradients(rows, pixels, shares * grad.unsqueeze(1), weights, of_rows, of_weights)
        to_rows, to_weights = found[0] if of_rows else None, found[1] if of_weights else None
    return to_rows, slopes * grad if of_points else None, to_weights, None, None, None


_weighed.register_autograd(_backward, setup_context=_setup)
