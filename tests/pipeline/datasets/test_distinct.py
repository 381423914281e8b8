from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from pipeline.datasets.clips import MovieClips
from pipeline.datasets.distinct import distinct_stimuli
from pipeline.datasets.images import CorrectedAreaLayer
from pipeline.datasets.loaders import open_loaders
from pipeline.errors import DatasetError

TIERS = ["train"] * 6 + ["validation"] * 2 + ["test"] * 6
CONDITIONS = [0, 1, 2, 3, 4, 0, 5, 6, 7, 8, 7, 8, 7, 7]


@pytest.fixture(scope="module")
def images(written: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    scan = written(tmp_path_factory.mktemp("images") / "data", TIERS, None, CONDITIONS, units=3)
    return scan, open_loaders({"a": scan.path}, CorrectedAreaLayer(), 4, 1)[0]


@pytest.fixture(scope="module")
def movies(written: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    frames = [20 + 2 * condition for condition in CONDITIONS]
    scan = written(tmp_path_factory.mktemp("movies") / "data", TIERS, frames, CONDITIONS, units=3)
    return scan, open_loaders({"a": scan.path}, MovieClips(clip_frames=10), 4, 1)[0]


def names_in_order(scan: Any, tiers: list[str]) -> list[str]:
    rows = [row for tier in tiers for row, other in enumerate(TIERS) if other == tier]
    return list(dict.fromkeys(scan.trials[row]["condition_hash"] for row in rows))


@pytest.mark.parametrize("tiers", [["test"], ["train", "validation", "test"]])
def test_every_stimulus_comes_once(images: Any, movies: Any, tiers: list[str]) -> None:
    for scan, loaders in (images, movies):
        found = distinct_stimuli(loaders, "a", tiers)
        assert list(found.conditions) == names_in_order(scan, tiers)
        (mean,), (std,) = scan.moments("inputs")
        shown = [stimulus.numpy() for batch in found.inputs() for stimulus in batch]
        for name, stimulus in zip(found.conditions, shown, strict=True):
            pixels = scan.stimuli[name]
            np.testing.assert_allclose(stimulus[: len(pixels)], (pixels - mean) / std, rtol=1e-4, atol=1e-4)


def test_drawn_images_are_repeated_in_grey_values(images: Any) -> None:
    scan, loaders = images
    every = distinct_stimuli(loaders, "a", ["train"])
    names, pixels = every.draw(3, 2, seed=5)
    assert len(set(names)) == 3 and set(names) <= set(every.conditions)
    assert (pixels.shape[:3], pixels.dtype) == ((3, 1, 2), np.float32)
    for name, drawn in zip(names, pixels, strict=True):
        np.testing.assert_allclose(drawn[:, 0], scan.stimuli[name], atol=0.01)
        np.testing.assert_array_equal(drawn[:, 1], drawn[:, 0])
    assert every.draw(3, 2, seed=5)[0] == names
    assert len({every.draw(3, 1, seed)[0] for seed in range(8)}) > 1
    assert sorted(every.draw(100, 1, seed=0)[0]) == sorted(every.conditions)


def test_of_drawn_movies_the_last_frames_are_taken(movies: Any) -> None:
    scan, loaders = movies
    names, pixels = distinct_stimuli(loaders, "a", ["test"]).draw(2, 7, seed=0)
    for name, drawn in zip(names, pixels, strict=True):
        np.testing.assert_allclose(drawn, scan.stimuli[name][:, -7:], atol=0.01)
    with pytest.raises(DatasetError, match="has 34 frames, but 35 are wanted"):
        distinct_stimuli(loaders, "a", ["test"]).draw(2, 35, seed=0)


def test_nothing_to_choose_from_is_refused(images: Any) -> None:
    with pytest.raises(DatasetError, match="'b' has no stimuli of its own in the tiers test"):
        distinct_stimuli(images[1], "b", ["test"])
    with pytest.raises(DatasetError, match="'a' has no stimuli of its own in the tiers final"):
        distinct_stimuli(images[1], "a", ["final"])
