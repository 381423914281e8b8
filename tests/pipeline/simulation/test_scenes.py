"""Movies are natural, move, keep their grey values in range, and never share a photograph across tiers."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from pipeline.datasets.pixels import resize_frames
from pipeline.simulation.scenes import SOURCES, make_scene, photograph


def test_no_photograph_serves_two_tiers():
    for left, right in itertools.combinations(SOURCES.values(), 2):
        assert not set(left) & set(right)
        for one, other in itertools.product(left, right):
            assert not np.array_equal(photograph(one), photograph(other))


def test_photographs_are_grey_and_not_graphics():
    for name in itertools.chain(*SOURCES.values()):
        picture = photograph(name)
        assert picture.dtype == np.uint8
        assert picture.ndim == 2
        assert min(picture.shape) >= 300
        assert len(np.unique(picture)) > 100


@pytest.mark.parametrize("tier", list(SOURCES))
def test_scene(tier):
    scene = make_scene(tier, 5.0, 212, 132, np.random.default_rng(1))
    assert scene.frames.shape == (1, 150, 132, 212)
    assert scene.frames.dtype == np.uint8
    assert set(scene.photographs) <= set(SOURCES[tier])
    assert scene.frames.mean() == pytest.approx(127, abs=15)
    assert 30 < scene.frames.std() < 70
    clipped = np.isin(scene.frames, (0, 255)).mean()
    assert clipped < 0.08
    seen = resize_frames(scene.frames, 33, 53)[0].reshape(150, -1).astype(float)
    alike = np.array([np.corrcoef(one, other)[0, 1] for one, other in itertools.pairwise(seen)])
    assert 2 <= (alike < 0.6).sum() <= 9  # a few cuts
    assert np.median(alike) > 0.9  # smooth motion between them
    assert alike.max() < 1 - 1e-6  # no frame stands still


def test_natural_spectrum():
    """Power falls with spatial frequency, roughly as its inverse square (Field 1987)."""
    rng = np.random.default_rng(2)
    power = []
    for _ in range(6):
        frames = make_scene("train", 2.0, 128, 128, rng).frames[0, ::10].astype(float)
        window = np.hanning(128)[:, None] * np.hanning(128)
        spectrum = np.abs(np.fft.fft2((frames - frames.mean(axis=(1, 2), keepdims=True)) * window)) ** 2
        power.append(spectrum.mean(axis=0))
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(128), np.fft.fftfreq(128)))
    lowest = (0.02, 0.04, 0.08, 0.16)
    bands = [np.mean(power, axis=0)[(frequency >= low) & (frequency < 2 * low)].mean() for low in lowest]
    slope = np.polyfit(np.log(lowest), np.log(bands), 1)[0]
    assert -3.5 < slope < -1.2


def test_same_seed_same_scene():
    one, two = (make_scene("test", 1.0, 106, 66, np.random.default_rng(5)).frames for _ in range(2))
    assert np.array_equal(one, two)
    assert not np.array_equal(one, make_scene("test", 1.0, 106, 66, np.random.default_rng(6)).frames)
