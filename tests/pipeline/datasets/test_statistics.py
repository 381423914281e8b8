from __future__ import annotations

import time

import numpy as np
import pytest

from pipeline.datasets.statistics import RunningStatistics, Statistics, TrainingStatistics


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


def test_streams_merge_as_if_they_had_been_one() -> None:
    rng = np.random.default_rng(2)
    parts = [rng.normal(5, 3, size=(7, n)) for n in (1, 600_000 // 7, 40, 1)]
    merged = RunningStatistics()
    for part in parts:
        stream = RunningStatistics()
        stream.update(part)
        merged.merge(stream)
    merged.merge(RunningStatistics())
    every = np.concatenate(parts, axis=1)
    assert merged.count == every.shape[1]
    np.testing.assert_allclose(merged.result().mean, every.mean(1), rtol=1e-12)
    np.testing.assert_allclose(merged.result().std, every.std(1, ddof=1), rtol=1e-12)


def test_many_single_samples_are_quick() -> None:
    values = np.random.default_rng(3).normal(size=(1000, 1000)).astype(np.float32)
    running, started = RunningStatistics(), time.perf_counter()
    for row in values:
        running.update(row[:, None])
    result = running.result()
    assert time.perf_counter() - started < 1
    np.testing.assert_allclose(result.mean, values.mean(0, dtype=float), rtol=1e-9)
    np.testing.assert_allclose(result.std, values.std(0, ddof=1, dtype=float), rtol=1e-9)


def test_types_of_stimuli_have_statistics_of_their_own() -> None:
    rng = np.random.default_rng(4)
    trials = [(kind, rng.normal(size=(3, n))) for kind, n in (("gabor", 5), ("", 9), ("noise", 2), ("gabor", 1))]
    training = TrainingStatistics()
    for kind, block in trials:
        training.add("responses", kind, block)
        training.add("run", kind, block[:1])
    found = training.result()
    assert found.keys() == {"responses", "run"}
    assert found["responses"].keys() == {"all", "gabor", "noise"}
    of_type = {"all": trials, "gabor": [trials[0], trials[3]], "noise": [trials[2]]}
    for kind, mine in of_type.items():
        every = np.concatenate([block for _, block in mine], axis=1)
        np.testing.assert_allclose(found["responses"][kind].mean, every.mean(1))
        np.testing.assert_allclose(found["responses"][kind].std, every.std(1, ddof=1))
        np.testing.assert_allclose(found["run"][kind].std, every[:1].std(1, ddof=1))


def test_images_have_statistics_of_each_image() -> None:
    rng = np.random.default_rng(5)
    images = np.stack([rng.integers(0, bright, (1, 6, 8), dtype=np.uint8) for bright in (256, 128, 85, 64)])
    training = TrainingStatistics()
    for image, kind in zip(images, ("a", "b", "a", "a"), strict=True):
        training.add_stimulus(kind, image)
    found = training.result()
    for kind, mine in (("all", images), ("a", images[[0, 2, 3]]), ("b", images[1:2])):
        np.testing.assert_allclose(found["inputs"][kind].mean, [mine.mean()])
        np.testing.assert_allclose(found["inputs"][kind].std, [mine.std(ddof=1)])
        pixels = mine.reshape(len(mine), -1)
        np.testing.assert_allclose(found["inputs_per_image"][kind].mean, [pixels.mean(1).mean()])
        np.testing.assert_allclose(found["inputs_per_image"][kind].std, [pixels.std(1, ddof=1).mean()])
    movie = TrainingStatistics()
    movie.add_stimulus("", images[:, :, None][0])
    assert movie.result().keys() == {"inputs"}
