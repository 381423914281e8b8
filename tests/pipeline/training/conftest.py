from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from pipeline.datasets.batches import MovieBatch
from pipeline.datasets.info import DataInfo, ScanInfo
from pipeline.metrics import single_trial_correlation


@dataclass(frozen=True)
class Population:
    """Linear-nonlinear units with known filters, shown filtered noise; counts are Poisson."""

    loaders: dict[str, dict[str, list[MovieBatch]]]
    info: DataInfo
    centers: np.ndarray  # (unit, 2): x, y in px
    ceiling: float  # correlation of the true rate with the validation counts

    def with_nan(self, batch: int, unit: int) -> dict[str, dict[str, list[MovieBatch]]]:
        """Loaders with one missing response."""
        train = list(self.loaders["train"]["lgn"])
        responses = train[batch].responses.clone()
        responses[1, unit, -2] = float("nan")
        train[batch] = train[batch]._replace(responses=responses)
        return self.loaders | {"train": {"lgn": train}}


def _center_surround(height: int, width: int, center: tuple[float, float], sign: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    distance = (x - center[0]) ** 2 + (y - center[1]) ** 2
    gauss = [np.exp(-distance / (2 * s**2)) / s**2 for s in (1.2, 2.2)]
    return sign * (gauss[0] - 0.7 * gauss[1])


@pytest.fixture
def make_population() -> Callable[..., Population]:
    """Return a function that simulates a population (see `Population`)."""

    def make(
        units: int = 4, train: int = 24, validation: int = 8, frames: int = 40, size: tuple[int, int] = (11, 13)
    ) -> Population:
        rng = np.random.default_rng(4)
        height, width = size
        movies = gaussian_filter(rng.standard_normal((train + validation, frames, height, width)), (0, 0.7, 1, 1))
        movies /= movies.std()
        t = np.arange(8)
        temporal = np.exp(-((t - 2) ** 2) / 2) - 0.6 * np.exp(-((t - 4.5) ** 2) / 3)  # lag in frames
        places = rng.uniform((3, 3), (width - 4, height - 4), (units, 2))
        rates = np.empty((train + validation, units, frames))
        for unit, place in enumerate(places):
            drive = np.einsum("nthw,hw->nt", movies, _center_surround(height, width, place, 1 if unit % 2 else -1))
            filtered = np.stack([np.convolve(trial, temporal)[:frames] for trial in drive])
            rates[:, unit] = np.log1p(np.exp(2 * filtered / filtered.std() - 0.5))
        counts = rng.poisson(rates)

        def batches(start: int, stop: int) -> list[MovieBatch]:
            clips = [slice(i, min(i + 8, stop)) for i in range(start, stop, 8)]
            return [MovieBatch(torch.tensor(movies[c, None]).float(), torch.tensor(counts[c]).float()) for c in clips]

        return Population(
            loaders={"train": {"lgn": batches(0, train)}, "validation": {"lgn": batches(train, train + validation)}},
            info={
                "lgn": ScanInfo(
                    tuple(range(units)), (1, *size), tuple(counts[:train].mean(axis=(0, 2))), frame_rate=30.0
                )
            },
            centers=places,
            ceiling=float(single_trial_correlation(list(counts[train:]), list(rates[train:])).mean()),
        )

    return make
