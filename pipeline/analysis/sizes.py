"""Tuning to size: discs of growing diameter, and discs with rings around them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline.analysis.presenting import Render, grey_responses, responses_to, screen_of
from pipeline.analysis.settings import CentreSurround, Spots
from pipeline.analysis.stimuli import Screen, disc, ring
from pipeline.analysis.viewing import Viewer
from pipeline.errors import ConfigurationError


@dataclass(frozen=True)
class SizeTuning:
    """What discs tell of one scan's units; NaN for units that no disc drives above grey.

    Attributes
    ----------
    drive : ndarray
        (unit, diameter): highest response while the disc of the preferred contrast is shown, above that to grey, in
        normalised responses; it may be negative.
    preferred_contrast : ndarray
        (unit,) 1 if the best disc is bright, -1 if it is dark.
    preferred_diameter : ndarray
        (unit,) of those shown (deg).
    suppression_index : ndarray
        (unit,) (best - largest) / best: 0 if large discs drive the unit as well as the best, 1 if not at all.
    """

    drive: np.ndarray
    preferred_contrast: np.ndarray
    preferred_diameter: np.ndarray
    suppression_index: np.ndarray

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Return the names of what is one number a unit."""
        return "preferred_contrast", "preferred_diameter", "suppression_index"


@dataclass(frozen=True)
class SurroundTuning:
    """What rings around a disc do to one scan's units; NaN for units that no disc drives above grey.

    Attributes
    ----------
    drive : ndarray
        (unit, 3): above grey, by a disc of the preferred contrast alone, with a ring of the same contrast, and with one
        of the opposite contrast, in normalised responses.
    preferred_contrast : ndarray
        (unit,) 1 for a bright disc, -1 for a dark one.
    suppression_by_same, suppression_by_opposite : ndarray
        (unit,) (disc alone - disc with ring) / disc alone; negative where the ring facilitates.
    """

    drive: np.ndarray
    preferred_contrast: np.ndarray
    suppression_by_same: np.ndarray
    suppression_by_opposite: np.ndarray

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Return the names of what is one number a unit."""
        return "preferred_contrast", "suppression_by_same", "suppression_by_opposite"


def size_tuning(
    viewer: Viewer, units: Sequence[int], settings: Spots, screen_deg: tuple[float, float], centres: np.ndarray
) -> SizeTuning:
    """Show bright and dark discs of every diameter around each unit's receptive field.

    Movies show grey until the first prediction, then the disc.

    Parameters
    ----------
    viewer : Viewer
    units : sequence of int
        Positions of the units in the readout.
    settings : Spots
    screen_deg : tuple of float
        Width and height of the screen (deg).
    centres : ndarray
        (unit, 2) receptive fields (px, y down).

    Raises
    ------
    ConfigurationError
        If the diameters are not ascending.
    """
    diameters = np.array(settings.diameters)
    if (np.diff(diameters) <= 0).any():
        raise ConfigurationError(f"Spots.diameters must be ascending, not {settings.diameters}")
    screen = screen_of(viewer, screen_deg)

    def draw(stimulus: np.ndarray, places: np.ndarray | None) -> Tensor:
        return disc(screen, diameters[stimulus], places)

    drive, contrast = _of_preferred_contrast(viewer, units, settings, screen, len(diameters), draw, centres)
    best = drive.max(axis=1)
    driven = best > 0
    return SizeTuning(
        drive=drive,
        preferred_contrast=np.where(driven, contrast, np.nan),
        preferred_diameter=np.where(driven, diameters[drive.argmax(axis=1)], np.nan),
        suppression_index=np.where(driven, (best - drive[:, -1]) / np.where(driven, best, 1), np.nan),
    )


def surround_tuning(
    viewer: Viewer,
    units: Sequence[int],
    settings: CentreSurround,
    screen_deg: tuple[float, float],
    centres: np.ndarray,
) -> SurroundTuning:
    """Show a disc alone, and with rings of the same and the opposite contrast; see `size_tuning`."""
    if settings.surround_diameter <= settings.centre_diameter:
        raise ConfigurationError(
            f"CentreSurround.surround_diameter of {settings.surround_diameter:g} deg must be above the "
            f"centre_diameter of {settings.centre_diameter:g}"
        )
    screen = screen_of(viewer, screen_deg)
    signs = torch.tensor([0.0, 1.0, -1.0], dtype=torch.float64)

    def draw(stimulus: np.ndarray, places: np.ndarray | None) -> Tensor:
        around = ring(screen, settings.centre_diameter, settings.surround_diameter, places)
        return disc(screen, settings.centre_diameter, places) + signs[stimulus].view(-1, 1, 1, 1) * around

    drive, contrast = _of_preferred_contrast(viewer, units, settings, screen, 3, draw, centres, judged=1)
    alone = drive[:, 0]
    driven = alone > 0
    same, opposite = (np.where(driven, 1 - drive[:, i] / np.where(driven, alone, 1), np.nan) for i in (1, 2))
    return SurroundTuning(drive, np.where(driven, contrast, np.nan), same, opposite)


def _of_preferred_contrast(
    viewer: Viewer,
    units: Sequence[int],
    settings: Spots | CentreSurround,
    screen: Screen,
    count: int,
    draw: Render,
    centres: np.ndarray,
    judged: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Show stimuli bright and dark, and return the drive (unit, stimulus) of the better, and its sign (unit,).

    The better is that with the highest drive by the first ``judged`` stimuli, or all.
    """
    frames, lost = screen.frames(settings.duration), viewer.encoder.lost_frames if screen.frame_rate else 0

    def render(numbers: np.ndarray, places: np.ndarray | None) -> Tensor:
        sign = torch.as_tensor(1.0 - 2.0 * (numbers // count)).view(-1, 1, 1, 1)
        shown = settings.contrast * sign * draw(numbers % count, places)
        return torch.cat([torch.zeros_like(shown).expand(-1, lost, -1, -1), shown.expand(-1, frames, -1, -1)], dim=1)

    responses = responses_to(viewer, units, 2 * count, render, centres).max(axis=2).astype(float)
    drive = (responses - grey_responses(viewer, units)[:, None]).reshape(len(units), 2, count)
    dark = (drive[:, 1, :judged].max(axis=1) > drive[:, 0, :judged].max(axis=1)).astype(int)
    return drive[np.arange(len(units)), dark], 1.0 - 2.0 * dark
