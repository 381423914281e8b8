"""Where each readout looks on the screen, how surely, and which features it weighs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from pipeline.datasets.info import ScanInfo
from pipeline.models import Encoder


@dataclass(frozen=True)
class ReadoutProperties:
    """Positions and features of one scan's readouts.

    Attributes
    ----------
    positions : ndarray
        (unit, 2): x to the right and y down, in pixels of the stored frames; 0 is the first pixel's centre.
    spread : ndarray
        (unit, 2): standard deviation of the position along x and y (px).
    feature_weights : ndarray
        (unit, channel).
    sparsity : ndarray
        (unit,): 0 if all channels weigh alike, 1 if only one does.
    """

    positions: np.ndarray
    spread: np.ndarray
    feature_weights: np.ndarray
    sparsity: np.ndarray


def readout_properties(encoder: Encoder, data_key: str, scan: ScanInfo) -> ReadoutProperties:
    """Read positions and features out of one scan's readout.

    The grid of a readout spans -1 to 1 between the centres of the outermost places of the core's output.
    """
    _, height, width = scan.input_shape
    out_height, out_width = encoder.core.out_size(height, width)
    first_row, first_column = encoder.core.first_place(height, width)
    half = np.array([(out_width - 1) / 2, (out_height - 1) / 2]) * encoder.core.pitch
    centre = np.array([first_column, first_row]) + half
    readout = encoder.readouts[data_key]
    with torch.no_grad():
        grid = readout.positions().cpu().numpy().astype(float)
        spread = readout.position_spread().cpu().numpy().astype(float)
        weights = readout.feature_weights().cpu().numpy()
    return ReadoutProperties(
        positions=centre + grid * half,
        spread=spread * half,
        feature_weights=weights,
        sparsity=hoyer_sparsity(weights),
    )


def hoyer_sparsity(weights: np.ndarray) -> np.ndarray:
    """Return (sqrt(n) - L1 / L2) / (sqrt(n) - 1) of each row, NaN for a row of zeros (Hoyer 2004).

    Parameters
    ----------
    weights : ndarray
        (unit, channel).

    Returns
    -------
    ndarray
        (unit,): 0 if all entries are equal in size, 1 if one alone is not zero.
    """
    root = np.sqrt(weights.shape[1])
    length = np.sqrt((weights**2).sum(axis=1, dtype=float))
    if root == 1:
        return np.where(length > 0, 1.0, np.nan)
    ratio = np.abs(weights).sum(axis=1, dtype=float) / np.where(length > 0, length, np.nan)
    return (root - ratio) / (root - 1)


def pixels_to_degrees(positions: np.ndarray, frame: tuple[int, int], screen: tuple[float, float]) -> np.ndarray:
    """Return positions as visual angle from the screen's centre: x to the right, y up (deg).

    Parameters
    ----------
    positions : ndarray
        (unit, 2) x and y in pixels, y down.
    frame : tuple of int
        Height and width of the frame (px).
    screen : tuple of float
        Width and height of the stimulus (deg).
    """
    height, width = frame
    x = (positions[:, 0] - (width - 1) / 2) * screen[0] / width
    y = ((height - 1) / 2 - positions[:, 1]) * screen[1] / height
    return np.stack([x, y], axis=1)
