"""Products of matrices in single precision on a CPU.

PyTorch hands them to MKL, which computes with half of an AMD processor's width: one core reached 100 GFLOP/s where
oneDNN, which computes PyTorch's convolutions, reached 220. Its products are to be had as fully connected layers. Where
PyTorch comes without oneDNN, its own products are taken.
"""

from __future__ import annotations

import torch
from torch import Tensor

_LAYER = getattr(torch.ops.mkldnn, "_linear_pointwise", None) if torch.backends.mkldnn.is_available() else None
"""A fully connected layer by oneDNN: of inputs (item, in) and weights (out, in)."""

_WORTH_A_CALL = 2**22
"""Multiplications of one product below which a single call of many products is faster than one call for each."""


def product(matrix: Tensor, values: Tensor) -> Tensor:
    """Return the product of (row, place) with (place, column), whose columns may be very many.

    Gradients are not recorded, nor in the other functions here.
    """
    return matrix @ values if _LAYER is None else _layer(matrix, values)


def products(left: Tensor, right: Tensor, out: Tensor) -> None:
    """Fill in the product of each pair of matrices.

    Parameters
    ----------
    left : Tensor
        (pair, row, place).
    right : Tensor
        (pair, place, column).
    out : Tensor
        (pair, row, ..), as many values a row as there are columns.
    """
    if _LAYER is None or left[0].numel() * right.shape[2] < _WORTH_A_CALL:
        out.copy_(torch.bmm(left, right).view(out.shape))
        return
    for first, second, made in zip(left, right, out, strict=True):
        made.copy_(_layer(first, second).view(made.shape))


def _layer(inputs: Tensor, weights: Tensor) -> Tensor:
    assert _LAYER is not None
    # oneDNN falls back on a loop in scalar arithmetic where columns lie neither side by side nor each in one piece.
    dense = weights if weights.is_contiguous() or weights.t().is_contiguous() else weights.contiguous()
    made: Tensor = _LAYER(inputs, dense.t(), None, "none", [], "")
    return made
