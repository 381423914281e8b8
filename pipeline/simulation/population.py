"""A linear-nonlinear-Poisson population whose rate also depends on gaze, running and cortical feedback."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter1d

from pipeline.simulation.fields import N_LAGS, RATE, ReceptiveField

SHARPNESS = 2.5
"""How abruptly the rate leaves zero: softplus(SHARPNESS x) / SHARPNESS."""
SATURATION = 4.0
"""Softplus output at which the rate reaches half of its highest value."""
RUN_HALF_SPEED = 10.0
"""Running speed (cm/s) at which the locomotion gain has most of its effect."""
PUPIL_CENTER = (52.0, 40.0)
"""Mean pupil position (px of the eye camera): horizontal, vertical."""
SHIFT_PER_PUPIL = (0.20, 0.18)
"""Shift of the image on the retina (px of the screen) for each pixel of pupil movement: horizontal, vertical."""
SURROUND_WITHOUT_FEEDBACK = 0.5
"""Strength of the surround while feedback is silenced."""


@dataclass(frozen=True)
class PopulationParameters:
    """What makes up each neuron beside its receptive field; every array is (unit,).

    Attributes
    ----------
    row, column : ndarray
        Centre of the receptive field (px).
    polarity : ndarray
        1 for ON, -1 for OFF.
    drive_scale : ndarray
        Standard deviation of the drive on training movies, by which it is divided.
    threshold : ndarray
        Drive, in these standard deviations, at which the neuron starts to fire.
    rate_scale : ndarray
        Spikes a second for each standard deviation above threshold.
    locomotion_gain : ndarray
        Relative change of the rate in full run; may be negative.
    feedback_suppression : ndarray
        Share of the rate that is lost while feedback is silenced by light.
    """

    row: np.ndarray
    column: np.ndarray
    polarity: np.ndarray
    drive_scale: np.ndarray
    threshold: np.ndarray
    rate_scale: np.ndarray
    locomotion_gain: np.ndarray
    feedback_suppression: np.ndarray


@dataclass(frozen=True)
class TrialState:
    """The animal during one trial; every array is (time,), one value for each bin.

    Attributes
    ----------
    run : ndarray
        Running speed (cm/s).
    pupil_size, pupil_x, pupil_y : ndarray
        Px of the eye camera.
    opto : ndarray of bool
        True while the light silences feedback.
    """

    run: np.ndarray
    pupil_size: np.ndarray
    pupil_x: np.ndarray
    pupil_y: np.ndarray
    opto: np.ndarray


def still_state(n_bins: int) -> TrialState:
    """Return the state of an animal that sits, looks ahead and receives no light."""
    nothing = np.zeros(n_bins)
    return TrialState(
        nothing, nothing + 30.0, nothing + PUPIL_CENTER[0], nothing + PUPIL_CENTER[1], np.zeros(n_bins, bool)
    )


def random_state(n_bins: int, opto: np.ndarray, rng: np.random.Generator) -> TrialState:
    """Return running and pupil traces for one trial: smooth random processes, the pupil wider in run."""

    def smooth(seconds: float) -> np.ndarray:
        margin = int(4 * seconds * RATE)
        noise = gaussian_filter1d(rng.normal(size=n_bins + 2 * margin), seconds * RATE)[margin : margin + n_bins]
        return noise * np.sqrt(2 * np.sqrt(np.pi) * seconds * RATE)  # standard deviation 1 again

    run = np.maximum(8 * (smooth(1.0) + rng.normal(0, 0.7)) - 2, 0)
    pupil_size = 30 + 4 * np.tanh(run / RUN_HALF_SPEED) + 3 * (0.7 * smooth(0.8) + 0.7 * rng.normal())
    gaze = [center + 4 * (0.6 * smooth(0.5) + 0.8 * rng.normal()) for center in PUPIL_CENTER]
    return TrialState(run, pupil_size, gaze[0], gaze[1], opto)


def contrast(frames: np.ndarray) -> np.ndarray:
    """Return grey values 0 to 255 as contrast, -1 (black) to 1 (white)."""
    return frames.astype(np.float32) / 127.5 - 1


def shift_movie(movie: np.ndarray, right: np.ndarray, down: np.ndarray) -> np.ndarray:
    """Return a movie sampled ``right`` and ``down`` of each pixel (bilinear; the border is repeated).

    Parameters
    ----------
    movie : ndarray
        (time, height, width).
    right, down : ndarray
        (time,), px.
    """

    def along(frames: np.ndarray, shift: np.ndarray, axis: int) -> np.ndarray:
        size = frames.shape[axis]
        shape = [-1, 1, 1]
        shape[axis] = size
        place = np.clip(np.arange(size)[None] + shift[:, None], 0, size - 1)
        low = np.minimum(place.astype(int), size - 2)
        part = (place - low).astype(np.float32)
        index, weight = (x[:, :, None] if axis == 1 else x[:, None, :] for x in (low, part))
        first = np.take_along_axis(frames, index, axis)
        return first + weight * (np.take_along_axis(frames, index + 1, axis) - first)

    return along(along(movie, right, 2), down, 1)


class Population:
    """Simulated neurons: receptive fields and parameters, and the rates that follow from them.

    The rate of a unit (spikes/s) is ::

        rate_scale * f(drive / drive_scale - threshold), f(x) = s / (1 + s / SATURATION), s = softplus(x)
            * (1 + locomotion_gain * tanh(run / RUN_HALF_SPEED))
            * (1 - feedback_suppression * opto)

    where the drive is the contrast movie, as it lies on the retina, filtered by centre + surround; while light
    silences feedback the surround counts `SURROUND_WITHOUT_FEEDBACK`. Before a movie the screen is grey.

    Parameters
    ----------
    fields : list of ReceptiveField
    parameters : PopulationParameters
    """

    def __init__(self, fields: list[ReceptiveField], parameters: PopulationParameters) -> None:
        self.fields = fields
        self.parameters = parameters
        self._filters = _filter_matrix(fields)

    @classmethod
    def calibrated(cls, fields: list[ReceptiveField], movies: list[np.ndarray], rng: np.random.Generator) -> Population:
        """Draw parameters so that each unit's mean rate on the movies is 10 to 25 spikes/s at rest.

        Parameters
        ----------
        fields : list of ReceptiveField
        movies : list of ndarray
            Contrast movies, (time, height, width) at `RATE`.
        rng : Generator
        """
        n_units = len(fields)
        filters = _filter_matrix(fields)
        drive = np.concatenate([_drives(movie, filters, n_units).sum(axis=0) for movie in movies], axis=1)
        scale = drive.std(axis=1)
        threshold = rng.uniform(-0.1, 0.4, n_units)
        shape = _nonlinearity(drive / scale[:, None] - threshold[:, None]).mean(axis=1)
        parameters = PopulationParameters(
            row=np.array([field.row for field in fields]),
            column=np.array([field.column for field in fields]),
            polarity=np.array([field.polarity for field in fields]),
            drive_scale=scale,
            threshold=threshold,
            rate_scale=rng.uniform(10, 25, n_units) / shape,
            locomotion_gain=rng.uniform(-0.15, 0.5, n_units),
            feedback_suppression=rng.uniform(0.15, 0.45, n_units),
        )
        return cls(fields, parameters)

    def rates(self, movie: np.ndarray, state: TrialState) -> np.ndarray:
        """Return the noiseless rates, (unit, time) in spikes/s.

        Parameters
        ----------
        movie : ndarray
            Contrast, (time, height, width) at `RATE`.
        state : TrialState
        """
        seen = shift_movie(
            movie,
            right=SHIFT_PER_PUPIL[0] * (state.pupil_x - PUPIL_CENTER[0]),
            down=SHIFT_PER_PUPIL[1] * (state.pupil_y - PUPIL_CENTER[1]),
        )
        center, surround = _drives(seen, self._filters, len(self.fields))
        drive = center + np.where(state.opto, SURROUND_WITHOUT_FEEDBACK, 1.0) * surround
        p = self.parameters
        rate = p.rate_scale[:, None] * _nonlinearity(drive / p.drive_scale[:, None] - p.threshold[:, None])
        locomotion = 1 + p.locomotion_gain[:, None] * np.tanh(state.run / RUN_HALF_SPEED)
        return rate * locomotion * (1 - p.feedback_suppression[:, None] * state.opto)


def draw_spikes(rates: np.ndarray, start: float, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Return sorted Poisson spike times (s) for each unit; every spike lies well inside its bin.

    Parameters
    ----------
    rates : ndarray
        (unit, time), spikes/s at `RATE` bins a second.
    start : float
        Time of the first bin's beginning (s).
    rng : Generator
    """
    counts = rng.poisson(rates / RATE)
    bins = np.arange(rates.shape[1])
    return tuple(np.sort(start + (np.repeat(bins, n) + rng.uniform(0.01, 0.99, int(n.sum()))) / RATE) for n in counts)


def _nonlinearity(x: np.ndarray) -> np.ndarray:
    rectified = np.logaddexp(0, SHARPNESS * x) / SHARPNESS
    return rectified / (1 + rectified / SATURATION)


def _filter_matrix(fields: list[ReceptiveField]) -> np.ndarray:
    """Return (pixel, part x unit x lag) with the parts centre and surround."""
    parts = np.stack([[field.center for field in fields], [field.surround for field in fields]])
    return parts.reshape(2 * len(fields) * N_LAGS, -1).T.astype(np.float32)


def _drives(movie: np.ndarray, filters: np.ndarray, n_units: int) -> np.ndarray:
    """Return (part, unit, time): the movie filtered in space and time; the screen was grey before."""
    n_bins = len(movie)
    products = (movie.reshape(n_bins, -1) @ filters).reshape(n_bins, 2, n_units, N_LAGS)
    drive = np.zeros((2, n_units, n_bins))
    for lag in range(min(N_LAGS, n_bins)):
        age = N_LAGS - 1 - lag
        if age < n_bins:
            drive[:, :, age:] += products[: n_bins - age, :, :, lag].transpose(1, 2, 0)
    return drive
