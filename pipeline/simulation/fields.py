"""Spatiotemporal receptive fields for simulated dLGN neurons: three measured ones, and centre-surround ones."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources

import numpy as np
from skimage.transform import resize

HEIGHT, WIDTH = 33, 53
"""Size of the screen that the neurons see (px)."""
DEGREES_PER_PIXEL = 108 / 53
N_LAGS = 15
RATE = 60.0
"""Lags and bins a second (Hz)."""


@dataclass(frozen=True)
class ReceptiveField:
    """The linear stage of one neuron, as the sum of two parts.

    Attributes
    ----------
    kind : str
        Where it comes from, for example ``measured Ntsr1Cre_2019_0008_s03_e07_u25`` or ``ON transient``.
    center : ndarray
        (lag, height, width): what remains when feedback is silenced.
    surround : ndarray
        (lag, height, width): the part that feedback strengthens; zero for measured fields.
    row, column : float
        Place of the centre (px).
    polarity : int
        1 for ON (brighter means more spikes), -1 for OFF.
    """

    kind: str
    center: np.ndarray
    surround: np.ndarray
    row: float
    column: float
    polarity: int

    @property
    def strf(self) -> np.ndarray:
        """The whole field, (lag, height, width) float32; the last lag is the most recent; its energy is 1."""
        return (self.center + self.surround).astype(np.float32)


def measured_fields() -> list[ReceptiveField]:
    """Return the three measured fields, resampled to the screen and scaled to energy 1."""
    fields = []
    with resources.files("pipeline.simulation").joinpath("dlgn_strf.npz").open("rb") as file:
        arrays = dict(np.load(file, allow_pickle=False))
    for name, array in arrays.items():
        lags = [resize(lag, (HEIGHT, WIDTH), order=3, mode="edge", anti_aliasing=False) for lag in array]
        strf = np.stack(lags).astype(np.float64)
        strf /= np.linalg.norm(strf)
        lag, row, column = np.unravel_index(np.abs(strf).argmax(), strf.shape)
        polarity = 1 if strf[lag, row, column] > 0 else -1
        fields.append(
            ReceptiveField(f"measured {name}", strf, np.zeros_like(strf), float(row), float(column), polarity)
        )
    return fields


def temporal_kernel(transient: bool) -> np.ndarray:
    """Return a biphasic response to a flash, (lag,), positive peak 1, last lag most recent.

    A difference of two gamma functions (t / p)^5 exp(5 (1 - t / p)) with peaks p at 40 and 80 ms (transient) or 55
    and 120 ms (sustained), the later one weighted 0.75 or 0.25.
    """
    first, second, weight = (0.040, 0.080, 0.75) if transient else (0.055, 0.120, 0.25)
    age = (np.arange(N_LAGS)[::-1] + 0.5) / RATE
    early, late = ((age / peak) ** 5 * np.exp(5 * (1 - age / peak)) for peak in (first, second))
    kernel = early - weight * late
    return kernel / kernel.max()


def center_surround_field(
    row: float, column: float, sigma: float, polarity: int, transient: bool, surround_weight: float = 0.7
) -> ReceptiveField:
    """Return a difference of Gaussians in space times a biphasic kernel in time.

    Parameters
    ----------
    row, column : float
        Centre (px).
    sigma : float
        Standard deviation of the centre (px); the surround's is 2.2 times as large.
    polarity : int
        1 for ON, -1 for OFF.
    transient : bool
        Transient or sustained in time.
    surround_weight : float
        Volume of the surround relative to that of the centre.
    """
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    distance = (rows - row) ** 2 + (columns - column) ** 2

    def gaussian(width: float) -> np.ndarray:
        return np.exp(-distance / (2 * width**2)) / (2 * np.pi * width**2)

    kernel = polarity * temporal_kernel(transient)[:, None, None]
    center = kernel * gaussian(sigma)
    surround = -surround_weight * kernel * gaussian(2.2 * sigma)
    energy = np.linalg.norm(center + surround)
    kind = f"{'ON' if polarity > 0 else 'OFF'} {'transient' if transient else 'sustained'}"
    return ReceptiveField(kind, center / energy, surround / energy, row, column, polarity)


def make_fields(n_units: int, rng: np.random.Generator) -> list[ReceptiveField]:
    """Return fields for a population: the measured ones first, then centre-surround ones over the screen.

    The centres follow a plane-filling sequence (multiples of the plastic number's powers), so that any number of
    units covers the screen; ON and OFF, sustained and transient take turns; centres are 4 to 7 degrees wide (sigma).
    """
    fields = measured_fields()[:n_units]
    start = rng.random(2)
    for index in range(n_units - len(fields)):
        place = (start + index * np.array([0.7548776662466927, 0.5698402909980532])) % 1
        fields.append(
            center_surround_field(
                row=5 + place[0] * (HEIGHT - 11),
                column=6 + place[1] * (WIDTH - 13),
                sigma=rng.uniform(4, 7) / DEGREES_PER_PIXEL,
                polarity=1 if index % 2 == 0 else -1,
                transient=index // 2 % 2 == 0,
            )
        )
    return fields
