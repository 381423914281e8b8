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
    masks : ndarray or None
        (unit, row, column) of the feature maps: how the units weigh places; None if they look at a point.
    first_place : tuple of float
        x and y of the feature maps' first place, in pixels as above.
    pitch : float
        Pixels between neighbouring places of the feature maps.
    """

    positions: np.ndarray
    spread: np.ndarray
    feature_weights: np.ndarray
    sparsity: np.ndarray
    masks: np.ndarray | None
    first_place: tuple[float, float]
    pitch: float


GAZES = ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1))
"""Eye positions at which `gaze_shifts` looks: horizontal and vertical, in std from the training mean."""


def readout_properties(encoder: Encoder, data_key: str, scan: ScanInfo) -> ReadoutProperties:
    """Read positions and features out of one scan's readout.

    The grid of a readout spans -1 to 1 between the centres of the outermost places of the core's output.
    """
    first_row, first_column = encoder.core.first_place(*scan.input_shape[1:])
    half = _half_map(encoder, scan)
    centre = np.array([first_column, first_row]) + half
    readout = encoder.readouts[data_key]
    with torch.no_grad():
        grid = readout.positions().cpu().numpy().astype(float)
        spread = readout.position_spread().cpu().numpy().astype(float)
        weights = readout.feature_weights().cpu().numpy()
        masks = readout.spatial_masks()
    return ReadoutProperties(
        positions=centre + grid * half,
        spread=spread * half,
        feature_weights=weights,
        sparsity=hoyer_sparsity(weights),
        masks=None if masks is None else masks.cpu().numpy(),
        first_place=(first_column, first_row),
        pitch=float(encoder.core.pitch),
    )


def gaze_shifts(encoder: Encoder, data_key: str, scan: ScanInfo) -> dict[tuple[int, int], tuple[float, float]]:
    """Return how far a scan's shifter moves all its readouts at each of `GAZES`: x to the right and y down (px).

    Nothing is returned for a scan without a shifter, or if the spread of its eye positions is not known.
    """
    if data_key not in encoder.shifters or scan.mean_pupil_center is None or scan.std_pupil_center is None:
        return {}
    eyes = np.array(scan.mean_pupil_center) + np.array(GAZES) * np.array(scan.std_pupil_center)
    with torch.no_grad():
        shifts = encoder.shifters[data_key](torch.tensor(eyes[:, :, None], dtype=torch.float32, device=encoder.device))
    moved = shifts[:, 0].cpu().numpy().astype(float) * _half_map(encoder, scan)
    return {gaze: (float(x), float(y)) for gaze, (x, y) in zip(GAZES, moved, strict=True)}


def _half_map(encoder: Encoder, scan: ScanInfo) -> np.ndarray:
    """Return half the distance between the outermost places of the feature maps, x and y (px)."""
    out_height, out_width = encoder.core.out_size(*scan.input_shape[1:])
    return np.array([(out_width - 1) / 2, (out_height - 1) / 2]) * encoder.core.pitch


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
    from_centre = np.stack([positions[:, 0] - (width - 1) / 2, (height - 1) / 2 - positions[:, 1]], axis=1)
    return from_centre * pixel_size(frame, screen)


def pixel_size(frame: tuple[int, int], screen: tuple[float, float]) -> np.ndarray:
    """Return the width and the height of a pixel (deg); see `pixels_to_degrees`."""
    return np.array([screen[0] / frame[1], screen[1] / frame[0]])
