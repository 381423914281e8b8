"""How close a most exciting movie is to a receptive field that is known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.errors import ConfigurationError


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


def best_lag(field: np.ndarray) -> int:
    """Return the lag at which a receptive field, (lag, height, width), has most energy."""
    return int(np.nansum(field**2, axis=(1, 2)).argmax())


def match_receptive_field(movie: np.ndarray, field: np.ndarray) -> FieldMatch:
    """Correlate an MEI with a true receptive field at the field's best lag.

    Both end with the frame at which the response is taken, so lags are counted from the end.

    Parameters
    ----------
    movie : ndarray
        (time, height, width); any offset and scale.
    field : ndarray
        (lag, height, width), the last lag being the most recent.

    Raises
    ------
    ConfigurationError
        If the movie is too short to reach back to the best lag.
    """
    lag = best_lag(field)
    frame = len(movie) - len(field) + lag
    if frame < 0:
        raise ConfigurationError(
            f"the receptive field's best lag is {len(field) - lag} frames from the end, but the MEI has only "
            f"{len(movie)}: use a larger Movie.frames"
        )
    correlation = np.corrcoef(movie[frame].ravel(), field[lag].ravel())[0, 1]
    return FieldMatch(float(correlation), lag, frame)
