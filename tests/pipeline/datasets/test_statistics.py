from __future__ import annotations

import numpy as np
import pytest

from pipeline.datasets.statistics import RunningStatistics, Statistics


def test_running_statistics_equal_numpy_on_everything() -> None:
    rng = np.random.default_rng(0)
    offsets = np.array([0.0, 1e6, -3.0, 1e-3])[:, None]  # a large mean loses digits in one-pass sums of squares
    blocks = [offsets + rng.normal(size=(4, n)) * rng.uniform(0.5, 2) for n in (1, 50, 0, 3, 400)]
    running = RunningStatistics()
    for block in blocks:
        running.update(block)
    every = np.concatenate(blocks, axis=1)
    result = running.result()
    assert running.count == every.shape[1]
    np.testing.assert_allclose(result.mean, every.mean(1), rtol=1e-12)
    np.testing.assert_allclose(result.std, every.std(1, ddof=1), rtol=1e-9)


def test_integers_are_summed_without_overflow() -> None:
    running = RunningStatistics()
    block = np.random.default_rng(1).integers(0, 256, (1, 100_000), dtype=np.uint8)
    for _ in range(3):
        running.update(block)
    every = np.tile(block.astype(float), 3)
    np.testing.assert_allclose(running.result().mean, every.mean(1))
    np.testing.assert_allclose(running.result().std, every.std(1, ddof=1))


def test_one_sample_has_no_spread() -> None:
    running = RunningStatistics()
    running.update(np.array([[2.0], [5.0]]))
    assert running.result() == Statistics((2.0, 5.0), (0.0, 0.0))


@pytest.mark.parametrize(
    ("std", "precision"),
    [
        ((1.0, 2.0, 4.0), (1.0, 0.5, 0.25)),
        ((0.0, 2.0), (1 / 0.01, 0.5)),  # mean 1, a hundredth of it is 0.01
        ((0.009, 1.991), (1 / 0.01, 1 / 1.991)),
        ((0.011, 1.989), (1 / 0.011, 1 / 1.989)),
        ((0.0, 0.0), (1.0, 1.0)),
        ((0.0,), (1.0,)),
        ((4.0,), (0.25,)),
    ],
)
def test_precision_has_a_floor(std: tuple[float, ...], precision: tuple[float, ...]) -> None:
    np.testing.assert_allclose(Statistics((0.0,) * len(std), std).precision(), precision)
