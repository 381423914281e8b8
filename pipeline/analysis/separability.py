"""Receptive fields in space and time as a product of both."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class SeparableParts:
    """The products of a place and a time course that come nearest to receptive fields.

    Attributes
    ----------
    spatial : ndarray
        (unit, height, width) in the fields' own units: times `temporal` it is the product.
    temporal : ndarray
        (unit, channel, lag) of length 1. Its largest deviation is positive, so that the sign of `spatial` is that of
        the field when it is strongest: positive for ON.
    separability : ndarray
        (unit,) share of the field's energy in the product, 1 if the field is one; NaN for a field of zeros.
    """

    spatial: np.ndarray
    temporal: np.ndarray
    separability: np.ndarray


def separate(fields: np.ndarray) -> SeparableParts:
    """Return the first component of each field's singular value decomposition, time and channels against places.

    Parameters
    ----------
    fields : ndarray
        (unit, channel, lag, height, width).
    """
    units, channels, lags, height, width = fields.shape
    matrix = fields.reshape(units, channels * lags, height * width).astype(float)
    # There are far fewer lags than places: the eigenvectors of the small product are the left singular vectors.
    energies, vectors = np.linalg.eigh(matrix @ matrix.transpose(0, 2, 1))
    temporal = vectors[:, :, -1]
    largest = np.take_along_axis(temporal, np.abs(temporal).argmax(axis=1)[:, None], axis=1)
    temporal = temporal * np.where(largest < 0, -1, 1)
    total = (matrix**2).sum(axis=(1, 2))
    defined = total > 0
    return SeparableParts(
        spatial=np.einsum("ut,utp->up", temporal, matrix).reshape(units, height, width),
        temporal=temporal.reshape(units, channels, lags),
        separability=np.where(defined, np.clip(energies[:, -1] / np.where(defined, total, 1), 0, 1), np.nan),
    )
