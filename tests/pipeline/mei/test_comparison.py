from __future__ import annotations

import numpy as np
import pytest

from pipeline.errors import ConfigurationError
from pipeline.mei.comparison import match_receptive_field


def field(lags: int = 4, best: int = 2) -> np.ndarray:
    made = np.random.default_rng(0).normal(size=(lags, 5, 6))
    made[best] *= -3  # most energy, wherever its largest value is
    return made


@pytest.mark.parametrize("frames", [4, 9])
@pytest.mark.parametrize("best", [0, 2, 3])
def test_lags_are_counted_from_the_end(frames: int, best: int) -> None:
    truth = field(best=best)
    movie = np.random.default_rng(1).normal(size=(frames, 5, 6))
    movie[-4:] = 128 + 20 * truth  # offset and scale do not matter
    match = match_receptive_field(movie, truth)
    assert match.correlation == pytest.approx(1)
    assert (match.lag, match.mei_frame) == (best, frames - 4 + best)
    assert match_receptive_field(-movie, truth).correlation == pytest.approx(-1)


def test_correlation_by_hand() -> None:
    truth = np.zeros((2, 1, 4))
    truth[1, 0] = [1, 0, 0, -1]
    movie = np.ones((3, 1, 4))
    movie[2, 0] = [1, 1, -1, -1]
    assert match_receptive_field(movie, truth).correlation == pytest.approx(1 / 2**0.5)


def test_movies_that_end_before_the_best_lag_are_refused() -> None:
    truth = field(lags=6, best=1)  # five frames from the end
    movie = np.random.default_rng(1).normal(size=(5, 5, 6))
    movie[0] = truth[1]
    assert match_receptive_field(movie, truth).mei_frame == 0
    with pytest.raises(ConfigurationError, match=r"5 frames from the end, but the MEI has only 4"):
        match_receptive_field(movie[:4], truth)
