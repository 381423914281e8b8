"""Shape checks that the figure functions share; they say which argument does not fit."""

from __future__ import annotations

from collections.abc import Sized
from typing import Any

import numpy as np

from pipeline.errors import GeniculateError


class FigureError(GeniculateError):
    """What a figure is to show does not fit together, or there is nothing to show."""


def as_array(name: str, values: Any, *axes: str) -> np.ndarray:
    """Return `values` as a float array, refusing one that has other axes than those named.

    Parameters
    ----------
    name : str
        The argument, for the message.
    values : array_like
    *axes : str
        Names of the axes expected.

    Raises
    ------
    FigureError
        The number of axes differs, or an axis is empty.
    """
    array = np.asarray(values, dtype=float)
    if array.ndim != len(axes):
        raise FigureError(f"{name} has shape {array.shape}, expected axes ({', '.join(axes)}).")
    if array.size == 0:
        raise FigureError(f"{name} is empty (shape {array.shape}): there is nothing to show.")
    return array


def same_length(axis: str, **arguments: Sized) -> None:
    """Refuse arguments whose lengths along `axis` differ.

    Raises
    ------
    FigureError
        With every argument's length.
    """
    lengths = {name: len(value) for name, value in arguments.items()}
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise FigureError(f"These must be equally long along the {axis} axis: {found}.")
