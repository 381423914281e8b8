"""How close a most exciting movie is to a receptive field that is known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class FieldMatch:
    """An MEI beside a receptive field.

    Attributes
    ----------
    correlation : float
        Pearson correlation of the two frames over pixels.
    lag : int
        The receptive field's best lag: its frame of largest energy, counted from the oldest.
    mei_frame : int
        The MEI's frame at that lag.
    """

    correlation: float
    lag: int
    mei_frame: int


def match_receptive_field(movie: np.ndarray, field: np.ndarray) -> FieldMatch:
    """Correlate an MEI with a true receptive field at the field's best lag.

    Both end with the frame at which the response is taken, so lags are counted from the end.

    Parameters
    ----------
    movie : ndarray
        (time, height, width); any offset and scale.
    field : ndarray
        (lag, height, width), the last lag being the most recent.
    """
    lag = int(np.argmax((field**2).sum(axis=(1, 2))))
    frame = len(movie) - len(field) + lag
    correlation = np.corrcoef(movie[frame].ravel(), field[lag].ravel())[0, 1]
    return FieldMatch(float(correlation), lag, frame)
