"""Penalties on the weights of cores: smoothness in space and in time, and sparse use of channels."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

_LAPLACE = ((0.0, -1.0, 0.0), (-1.0, 4.0, -1.0), (0.0, -1.0, 0.0))
_SECOND_DIFFERENCE = ((-1.0,), (2.0,), (-1.0,))
_TINY = 1e-12


def spatial_laplace(weight: Tensor) -> Tensor:
    """Return how rough filters are in space: sum of squares after the Laplace filter over sum of squares before.

    Parameters
    ----------
    weight : Tensor
        (out channel, in channel, height, width).

    Notes
    -----
    LaplaceL2norm of neuralpredictors: sum((L * w)^2) / sum(w^2), filters padded with zeros by one pixel.
    """
    return _share(laplace(weight), weight)


def temporal_laplace(weight: Tensor) -> Tensor:
    """Return how rough filters are in time: the same ratio as `spatial_laplace` for second differences.

    Parameters
    ----------
    weight : Tensor
        (out channel, in channel, time, 1).
    """
    return _share(_filtered(weight, _SECOND_DIFFERENCE, padding=(1, 0)), weight)


def laplace(weight: Tensor, padding: int | None = None) -> Tensor:
    """Return filters after the 3 x 3 Laplace filter.

    Parameters
    ----------
    weight : Tensor
        (out channel, in channel, height, width).
    padding : int, optional
        Pixels of zeros around each filter; 1, which keeps its size, if not given.
    """
    edge = 1 if padding is None else padding
    return _filtered(weight, _LAPLACE, (edge, edge))


def _filtered(weight: Tensor, kernel: tuple[tuple[float, ...], ...], padding: tuple[int, int]) -> Tensor:
    filters = weight.flatten(0, 1).unsqueeze(1)
    rough = F.conv2d(filters, weight.new_tensor(kernel)[None, None], padding=padding)
    return rough.unflatten(0, weight.shape[:2]).squeeze(2)


def _share(rough: Tensor, weight: Tensor) -> Tensor:
    return rough.square().sum() / (weight.square().sum() + _TINY)


def group_sparsity(weight: Tensor) -> Tensor:
    """Return the mean over output channels of the summed norms of the filters on each input channel.

    Parameters
    ----------
    weight : Tensor
        (out channel, in channel, height, width).

    Notes
    -----
    The norms are smoothed by 1e-12 below the root, so that a filter of zeros has a gradient.
    """
    return torch.sqrt(weight.square().sum(dim=(2, 3)) + _TINY).sum(dim=1).mean()
