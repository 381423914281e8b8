"""Responses of many units to many stimuli, the same for all or one set around each unit's receptive field."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from torch import Tensor, arange

from pipeline.analysis.stimuli import Screen
from pipeline.analysis.viewing import Viewer
from pipeline.errors import ConfigurationError

STIMULI_AT_ONCE = 64
"""Images or movies in one pass, which bounds memory."""

Render = Callable[[np.ndarray, np.ndarray | None], Tensor]
"""Draws the stimuli of some numbers, around centres (stimulus, 2) if given, as (stimulus, time, height, width)."""


def screen_of(viewer: Viewer, screen_deg: tuple[float, float]) -> Screen:
    """Return the screen that a model saw, given its width and height in degrees.

    Raises
    ------
    ConfigurationError
        If the model is for movies whose frame rate is not known.
    """
    if viewer.sees_movies and viewer.scan.frame_rate is None:
        raise ConfigurationError(
            f"{viewer.data_key}: the frame rate of its movies is not known, so no stimulus can be timed; data that a "
            "function gives have none"
        )
    return Screen.of_size(viewer.scan.input_shape, screen_deg, viewer.scan.frame_rate if viewer.sees_movies else None)


def responses_to(
    viewer: Viewer, units: Sequence[int], count: int, render: Render, centres: np.ndarray | None = None
) -> np.ndarray:
    """Return the responses of units to stimuli, (unit, stimulus, time); of images, time is 1.

    Parameters
    ----------
    viewer : Viewer
    units : sequence of int
        Positions of the units in the readout.
    count : int
        Number of stimuli.
    render : callable
        Draws some of them; see `Render`.
    centres : ndarray, optional
        (unit, 2): where the stimuli are for each unit (px). Each unit is then shown its own only.
    """
    chosen = np.asarray(units)
    if centres is None:
        parts = np.array_split(np.arange(count), -(-count // STIMULI_AT_ONCE))
        shown = [viewer.show(render(part, None), chosen.tolist()).numpy() for part in parts]
        return np.concatenate(shown).transpose(1, 0, 2)
    pairs = np.arange(len(chosen) * count)
    found = []
    for part in np.array_split(pairs, -(-len(pairs) // STIMULI_AT_ONCE)):
        of_unit, stimulus = part // count, part % count
        asked, position = np.unique(of_unit, return_inverse=True)
        responses = viewer.show(render(stimulus, centres[of_unit]), chosen[asked].tolist())
        found.append(responses[arange(len(part)), position].numpy())
    joined = np.concatenate(found)
    return joined.reshape(len(chosen), count, -1)


def grey_responses(viewer: Viewer, units: Sequence[int]) -> np.ndarray:
    """Return the responses to the grey screen, (unit,)."""
    frames = viewer.encoder.lost_frames + 1 if viewer.sees_movies else 1
    _, height, width = viewer.scan.input_shape
    pixels = viewer.grey(1).new_zeros(1, frames, height, width)
    return viewer.show(pixels, list(units))[0, :, -1].numpy().astype(float)


def harmonics(responses: np.ndarray, degrees: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and first harmonic of responses at several phases, by least squares.

    They need not fill whole cycles: mean, cosine and sine are fitted together.

    Parameters
    ----------
    responses : ndarray
        (unit, stimulus, sample).
    degrees : ndarray
        (stimulus, sample): phase at each sample.

    Returns
    -------
    tuple of ndarray
        Two of (unit, stimulus): the mean and the amplitude of the first harmonic.
    """
    radians = np.deg2rad(degrees)
    design = np.stack([np.ones_like(radians), np.cos(radians), np.sin(radians)], axis=2)
    parts = np.einsum("nks,uns->unk", np.linalg.pinv(design), responses.astype(float))
    return parts[:, :, 0], np.hypot(parts[:, :, 1], parts[:, :, 2])
