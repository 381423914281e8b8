"""Tuning to gratings, Gabors and plaids: orientation, direction, spatial and temporal frequency."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from torch import Tensor

from pipeline.analysis.presenting import grey_responses, harmonics, responses_to, screen_of
from pipeline.analysis.settings import Gabors, Gratings, Plaids
from pipeline.analysis.stimuli import Screen, gaussian_window, grating, plaid
from pipeline.analysis.viewing import Viewer
from pipeline.errors import ConfigurationError


@dataclass(frozen=True)
class GratingTuning:
    """What gratings tell of one scan's units; NaN for units that no grating drives above grey.

    The drive of a stimulus is what its mean response adds to that of the grey screen, plus the amplitude of its first
    harmonic over phase or time, and 0 if that is negative: it serves cells that follow the phase and cells that do not.

    Attributes
    ----------
    drive : ndarray
        (unit, direction, spatial frequency, temporal frequency) in normalised responses; images have one temporal
        frequency.
    preferred_orientation : ndarray
        (unit,), as all that follow. Degrees counter-clockwise, 0 to 180; stripes of 0 are horizontal.
    preferred_direction : ndarray
        Degrees counter-clockwise, 0 for drift to the right; NaN for images.
    preferred_spatial_frequency, preferred_temporal_frequency : ndarray
        Cycles/deg and Hz, between those shown; NaN for the temporal one of images.
    orientation_selectivity, direction_selectivity : ndarray
        1 - circular variance: the length of the mean vector, with doubled angles for orientation (Ringach et al. 2002).
    orientation_index, direction_index : ndarray
        (preferred - other) / (preferred + other), the other being orthogonal or opposite.
    modulation_ratio : ndarray
        First harmonic / mean above grey at the best stimulus; above 1 for simple cells (Skottun et al. 1991). Infinite
        where the mean stays at grey or falls below.
    """

    drive: np.ndarray
    preferred_orientation: np.ndarray
    preferred_direction: np.ndarray
    preferred_spatial_frequency: np.ndarray
    preferred_temporal_frequency: np.ndarray
    orientation_selectivity: np.ndarray
    direction_selectivity: np.ndarray
    orientation_index: np.ndarray
    direction_index: np.ndarray
    modulation_ratio: np.ndarray

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Return the names of what is one number a unit."""
        return tuple(field.name for field in fields(cls) if field.name != "drive")


@dataclass(frozen=True)
class PlaidTuning:
    """What plaids tell of one scan's units.

    Attributes
    ----------
    grating_drive, drive : ndarray
        (unit, direction) to gratings and to plaids, in normalised responses; see `GratingTuning`.
    pattern_correlation, component_correlation : ndarray
        (unit,) partial correlations of the drive to plaids with that of a unit that sees the plaid's own direction, and
        of one that sees its two gratings.
    pattern_index : ndarray
        (unit,) difference of the two after Fisher's transform, each over its standard error: above 1.28 for pattern,
        below -1.28 for component cells (Smith, Majaj and Movshon 2005).
    """

    grating_drive: np.ndarray
    drive: np.ndarray
    pattern_correlation: np.ndarray
    component_correlation: np.ndarray
    pattern_index: np.ndarray

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Return the names of what is one number a unit."""
        return "pattern_correlation", "component_correlation", "pattern_index"


def directions_of(settings: Gratings | Plaids, movies: bool) -> np.ndarray:
    """Return the directions shown (degrees), over 360 for movies and over 180 for images."""
    if settings.directions % 4:
        raise ConfigurationError(
            f"{settings.kind()}.directions is {settings.directions}: it must be a multiple of 4, so that orthogonal "
            "and opposite ones are among them"
        )
    return np.arange(settings.directions) * (360 if movies else 180) / settings.directions


def grating_tuning(
    viewer: Viewer,
    units: Sequence[int],
    settings: Gratings,
    screen_deg: tuple[float, float],
    centres: np.ndarray | None = None,
) -> GratingTuning:
    """Show gratings, or Gabors if the settings say so, and describe the responses.

    Parameters
    ----------
    viewer : Viewer
    units : sequence of int
        Positions of the units in the readout.
    settings : Gratings or Gabors
    screen_deg : tuple of float
        Width and height of the screen (deg).
    centres : ndarray, optional
        (unit, 2) receptive fields (px, y down), for Gabors.

    Raises
    ------
    ConfigurationError
        If the screen cannot show a frequency, or a movie is shorter than a cycle.
    """
    screen = screen_of(viewer, screen_deg)
    movies = screen.frame_rate is not None
    directions = directions_of(settings, movies)
    spatial = np.array(settings.spatial_frequencies)
    temporal = np.array(settings.temporal_frequencies if movies else (0.0,))
    screen.refuse_aliases(settings.spatial_frequencies, settings.temporal_frequencies if movies else ())
    if movies and settings.duration < 1 / temporal.min():
        raise ConfigurationError(
            f"{settings.kind()}.duration of {settings.duration:g} s is less than a cycle of {temporal.min():g} Hz"
        )
    shown = _Waves(viewer, screen, settings.contrast, settings.duration, settings.phases)
    across, cycles, rates = (part.ravel() for part in np.meshgrid(directions, spatial, temporal, indexing="ij"))
    if not isinstance(settings, Gabors):
        centres = None
    elif centres is None:
        raise ConfigurationError("Gabors are shown around the receptive field of each unit: centres are needed")
    window = settings.window_sigma if isinstance(settings, Gabors) else None
    mean, harmonic = shown.measure(units, across, cycles, rates, window=window, centres=centres)
    shape = (len(units), len(directions), len(spatial), len(temporal))
    return _described(mean.reshape(shape), harmonic.reshape(shape), directions, spatial, temporal, movies)


def plaid_tuning(
    viewer: Viewer, units: Sequence[int], settings: Plaids, screen_deg: tuple[float, float]
) -> PlaidTuning:
    """Show gratings and plaids over the whole screen; see `grating_tuning` for the parameters."""
    screen = screen_of(viewer, screen_deg)
    movies = screen.frame_rate is not None
    directions = directions_of(settings, movies)
    steps = settings.plaid_angle / 2 / (directions[1] - directions[0])
    if abs(steps - round(steps)) > 1e-9:
        raise ConfigurationError(
            f"half of Plaids.plaid_angle, {settings.plaid_angle / 2:g} degrees, is no multiple of the step of "
            f"directions, {directions[1] - directions[0]:g}"
        )
    temporal = settings.temporal_frequency if movies else 0.0
    screen.refuse_aliases([settings.spatial_frequency], [temporal])
    shown = _Waves(viewer, screen, settings.contrast, settings.duration, settings.phases)
    cycles, rates = (np.full(len(directions), value) for value in (settings.spatial_frequency, temporal))
    gratings = _drive(*shown.measure(units, directions, cycles, rates))
    plaids = _drive(*shown.measure(units, directions, cycles, rates, between=settings.plaid_angle))
    turn = round(steps)
    components = np.roll(gratings, turn, axis=1) + np.roll(gratings, -turn, axis=1)
    return PlaidTuning(gratings, plaids, *_pattern(plaids, gratings, components))


@dataclass(frozen=True)
class _Waves:
    """Shows gratings and plaids, and measures what follows their phase and what does not."""

    viewer: Viewer
    screen: Screen
    contrast: float
    duration: float
    phases: int

    def measure(
        self,
        units: Sequence[int],
        directions: np.ndarray,
        spatial: np.ndarray,
        temporal: np.ndarray,
        between: float | None = None,
        window: float | None = None,
        centres: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the mean above grey and the first harmonic, two of (unit, stimulus).

        Movies last `duration` after the frames that have no prediction; images come in `phases`.
        """
        rate = self.screen.frame_rate
        samples = self.screen.frames(self.duration) if rate else self.phases
        lost = self.viewer.encoder.lost_frames if rate else 0
        steps = np.arange(self.phases) * 360 / self.phases

        def render(numbers: np.ndarray, places: np.ndarray | None) -> Tensor:
            stimulus, phase = (numbers, np.zeros(1)) if rate else (numbers // self.phases, steps[numbers % self.phases])
            shown = spatial[stimulus], temporal[stimulus], phase, lost + samples if rate else 1, places
            if between is None:
                wave = grating(self.screen, directions[stimulus], *shown)
            else:
                wave = plaid(self.screen, directions[stimulus], between, *shown)
            return self.contrast * (wave if window is None else wave * gaussian_window(self.screen, window, places))

        count = len(directions) if rate else len(directions) * self.phases
        responses = responses_to(self.viewer, units, count, render, centres)
        if rate:
            responses = responses[:, :, -samples:]
            degrees = 360 * temporal[:, None] * np.arange(samples) / rate
        else:
            responses = responses.reshape(len(units), len(directions), self.phases)
            degrees = np.broadcast_to(steps, (len(directions), self.phases))
        mean, harmonic = harmonics(responses, degrees)
        return mean - grey_responses(self.viewer, units)[:, None], harmonic


def _drive(mean: np.ndarray, harmonic: np.ndarray) -> np.ndarray:
    drive = mean + harmonic
    # What rounding leaves of a unit that nothing drives is no tuning.
    return np.where(drive > 1e-6 * (1 + np.abs(mean)), drive, 0.0)


def _described(
    mean: np.ndarray,
    harmonic: np.ndarray,
    directions: np.ndarray,
    spatial: np.ndarray,
    temporal: np.ndarray,
    movies: bool,
) -> GratingTuning:
    drive = _drive(mean, harmonic)
    units = np.arange(len(drive))
    best = np.unravel_index(drive.reshape(len(drive), -1).argmax(axis=1), drive.shape[1:])
    at_best = (units, *best)
    driven = drive[at_best] > 0

    def known(values: np.ndarray) -> np.ndarray:
        return np.where(driven, values, np.nan)

    curve = drive[units, :, best[1], best[2]]
    orientation = (_mean_angle(curve, 2 * directions) / 2 - 90) % 180
    top = curve.argmax(axis=1)
    half = len(directions) // 2
    folded = curve + np.roll(curve, half, axis=1) if movies else curve
    quarter = half // 2 if movies else half
    nothing = np.full(len(drive), np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(mean[at_best] > 1e-6 * harmonic[at_best], harmonic[at_best] / mean[at_best], np.inf)
    return GratingTuning(
        drive=drive,
        preferred_orientation=known(orientation),
        preferred_direction=known(_towards(curve, directions, orientation)) if movies else nothing,
        preferred_spatial_frequency=known(_peak(drive[units, best[0], :, best[2]], spatial)),
        preferred_temporal_frequency=known(_peak(drive[units, best[0], best[1]], temporal)) if movies else nothing,
        orientation_selectivity=_vector_length(curve, 2 * directions),
        direction_selectivity=_vector_length(curve, directions) if movies else nothing,
        orientation_index=_index(folded, top, quarter),
        direction_index=_index(curve, top, half) if movies else nothing,
        modulation_ratio=known(ratio),
    )


def _vector(curve: np.ndarray, degrees: np.ndarray) -> np.ndarray:
    return curve @ np.exp(1j * np.deg2rad(degrees))


def _mean_angle(curve: np.ndarray, degrees: np.ndarray) -> np.ndarray:
    return np.rad2deg(np.angle(_vector(curve, degrees)))


def _vector_length(curve: np.ndarray, degrees: np.ndarray) -> np.ndarray:
    total = curve.sum(axis=1)
    return np.where(total > 0, np.abs(_vector(curve, degrees)) / np.where(total > 0, total, 1), np.nan)


def _towards(curve: np.ndarray, directions: np.ndarray, orientation: np.ndarray) -> np.ndarray:
    """Return that of the two directions across the preferred orientation to which the responses add up to more."""
    one = (orientation + 90) % 360
    balance = (curve * np.cos(np.deg2rad(directions - one[:, None]))).sum(axis=1)
    return np.where(balance >= 0, one, (one + 180) % 360)


def _index(curve: np.ndarray, top: np.ndarray, away: int) -> np.ndarray:
    """Return (preferred - other) / (preferred + other), the other being ``away`` steps away."""
    units = np.arange(len(curve))
    preferred, other = curve[units, top], curve[units, (top + away) % curve.shape[1]]
    total = preferred + other
    return np.where(total > 0, (preferred - other) / np.where(total > 0, total, 1), np.nan)


def _peak(curve: np.ndarray, frequencies: np.ndarray) -> np.ndarray:
    """Return where the parabola through the highest value and its neighbours has its top, over log frequency.

    Frequencies are ascending; at either end the end itself is returned.
    """
    logs, count = np.log(frequencies), len(frequencies)
    found = []
    for values in curve:
        top = int(values.argmax())
        if 0 < top < count - 1:
            a, b, _ = np.polyfit(logs[top - 1 : top + 2] - logs[top], values[top - 1 : top + 2], 2)
            found.append(np.exp(logs[top] - b / (2 * a) if a < 0 else logs[top]))
        else:
            found.append(frequencies[top])
    return np.array(found)


def _pattern(plaids: np.ndarray, pattern: np.ndarray, component: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return the partial correlations of plaids with both predictions, and the difference of their z."""

    def correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        a, b = (x - x.mean(axis=1, keepdims=True) for x in (a, b))
        return (a * b).sum(axis=1) / np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))

    with np.errstate(divide="ignore", invalid="ignore"):
        rp, rc, between = correlation(plaids, pattern), correlation(plaids, component), correlation(pattern, component)
        pattern_r = (rp - rc * between) / np.sqrt((1 - rc**2) * (1 - between**2))
        component_r = (rc - rp * between) / np.sqrt((1 - rp**2) * (1 - between**2))
        error = 1 / np.sqrt(plaids.shape[1] - 3)
        limited = (np.arctanh(np.clip(r, -1 + 1e-9, 1 - 1e-9)) for r in (pattern_r, component_r))
        z_pattern, z_component = (z / error for z in limited)
    return pattern_r, component_r, z_pattern - z_component
