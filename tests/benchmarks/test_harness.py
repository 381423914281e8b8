"""The benchmarks measure what they say: known ratios and memory, equal batches from all loaders, all figures."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import baselines
from benchmarks.harness import MIB, Alternative, Measured, Target, Work, compare, cpu_ratios, peak_memory, ratios
from benchmarks.ingest import convert_recording, open_scan, sampled
from benchmarks.scans import Scan, file_tree, hdf5_file
from pipeline.datasets.clips import MovieClips
from pipeline.datasets.images import CorrectedAreaLayer
from pipeline.datasets.loaders import open_loaders
from pipeline.recordings.base import hash_pixels

ROOT = Path(__file__).resolve().parents[2]


def touching(mib: int) -> Work:
    """An alternative that needs so much memory while it works, and less afterwards."""

    def work() -> int:
        return int(np.ones(mib * MIB, np.uint8).size)

    return work


def test_ratios_are_those_of_the_medians() -> None:
    measured = {
        "ours": Measured((10.0, 30.0, 20.0), opening=0.5, busy=1.0, peak=3 * MIB),
        "slow": Measured((4.0, 1.0, 5.0), opening=0.25, busy=1.0),
    }
    assert ratios(measured, "frames_per_second", "x_") == {
        "x_frames_per_second": 20.0,
        "x_opening_seconds": 0.5,
        "x_peak_mib": 3.0,
        "x_frames_per_second_slow": 4.0,
        "x_opening_seconds_slow": 0.25,
        "x_ratio_slow": 5.0,
    }


def test_ratios_of_the_processors_time_are_those_of_the_same_turn() -> None:
    measured = {
        "ours": Measured((1.0,) * 3, opening=0, busy=1, computing=(1.0, 2.0, 4.0)),
        "slow": Measured((1.0,) * 3, opening=0, busy=1, computing=(2.0, 6.0, 4.0)),
    }
    assert cpu_ratios(measured) == {
        "cpu_ratio_slow": 2.0,
        "cpu_ratio_slow_lowest": 1.0,
        "cpu_ratio_slow_highest": 3.0,
    }


@pytest.mark.parametrize(
    ("target", "value", "met"),
    [
        (Target("f", at_least=5), 5.0, True),
        (Target("f", at_least=5), 4.9, False),
        (Target("f", at_most=5), 5.1, False),
        (Target("f", at_most=5), math.nan, False),
    ],
)
def test_targets(target: Target, value: float, met: bool) -> None:
    assert target.met({"f": value}) is met


def test_alternatives_take_turns() -> None:
    calls: list[str] = []

    def alternative(name: str) -> Alternative:
        def work() -> int:
            calls.append(name)
            return 7

        return Alternative(name, lambda: work)

    measured = compare([alternative("a"), alternative("b")], repetitions=2, memory=False)
    assert calls == ["a", "b", "a", "b", "a", "b"]
    assert len(measured["a"].rates) == 2
    assert math.isnan(measured["a"].peak)


@pytest.mark.slow
def test_peak_memory_is_that_of_the_work_alone() -> None:
    assert peak_memory(Alternative("large", touching, {"mib": 96})) / MIB == pytest.approx(96, abs=16)


def test_samples_name_the_busy_line() -> None:
    pixels = np.zeros((1, 64, 144, 256), np.uint8)
    with sampled() as samples:
        for _ in range(20):
            hash_pixels(pixels, None)
    assert samples.most_common(1)[0][0].startswith("pipeline.recordings.base.hash_pixels")


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A scan in all forms. Movies of 81 frames: clips of 80 begin at frame 0 or 1."""
    folder = tmp_path_factory.mktemp("scan")
    movies = Scan(trials=10, units=5, frames=81, height=6, width=8)
    tree = file_tree(movies, folder / "movies")
    convert_recording(open_scan(tree), folder / "stored")
    return {"scan": movies, "tree": tree, "hdf5": hdf5_file(movies, folder / "m.h5"), "stored": folder / "stored"}


def moments(scan: Scan, name: str, axes: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    values = np.stack([scan.trial(i)[name] for i in np.flatnonzero(scan.tiers == "train")]).astype(np.float64)
    return values.mean(axes), values.std(axes, ddof=1)


def expected_clips(scan: Scan, behavior_channels: bool) -> list[dict[str, np.ndarray]]:
    """All clips of the training tier that a loader may give, normalised here once more."""
    video_mean, video_std = moments(scan, "videos", (0, 1, 2, 3))
    response_std = moments(scan, "responses", (0, 2))[1]
    behavior_std = moments(scan, "behavior", (0, 2))[1]
    pupil_mean, pupil_std = moments(scan, "pupil_center", (0, 2))
    clips = []
    for index in np.flatnonzero(scan.tiers == "train"):
        trial = scan.trial(index)
        for start in (0, 1):
            cut = {name: values[..., start : start + 80] for name, values in trial.items()}
            videos = np.moveaxis((cut["videos"] - video_mean) / video_std, -1, 0)[None]
            behavior = cut["behavior"] / behavior_std[:, None]
            if behavior_channels:
                planes = np.broadcast_to(behavior[..., None, None], (2, *videos.shape[1:]))
                videos = np.concatenate([videos, planes])
            pupil = (cut["pupil_center"] - pupil_mean[:, None]) / pupil_std[:, None]
            responses = cut["responses"] / response_std[:, None]
            clips.append({"videos": videos, "responses": responses, "behavior": behavior, "pupil_center": pupil})
    return clips


def our_batch(scan: dict[str, Any], behavior: str) -> Any:
    loaders, _ = open_loaders({"scan": scan["stored"]}, MovieClips(clip_frames=80, behavior=behavior), 8, seed=1)
    return next(iter(loaders["train"]["scan"]))


@pytest.mark.parametrize(
    ("name", "behavior_channels"),
    [("ours", False), ("ours", True), ("filetree", False), ("filetree", True), ("h5py", False)],
)
def test_all_loaders_give_the_same_normalised_clips(scan: dict[str, Any], name: str, behavior_channels: bool) -> None:
    """Behaviour: size of the pupil and treadmill, in the order of the source."""
    if name == "ours":
        batch = our_batch(scan, "both" if behavior_channels else "apart")
    elif name == "filetree":
        batch = next(iter(baselines.filetree_movies(scan["tree"], 80, 8, cache=True, published=behavior_channels)))
    else:
        batch = next(iter(baselines.h5_movies(scan["hdf5"], scan["tree"] / "meta" / "statistics", 80, 8)))
    clips = expected_clips(scan["scan"], behavior_channels)
    assert {part.dtype for part in batch if part is not None} == {torch.float32}
    for videos, responses, behavior, pupil in zip(*batch[:4], strict=True):
        found = min(clips, key=lambda clip: float(np.abs(clip["responses"] - responses.numpy()).max()))
        given = {"videos": videos, "responses": responses, "behavior": behavior, "pupil_center": pupil}
        for field, values in given.items():
            np.testing.assert_allclose(values.numpy(), found[field], rtol=1e-4, atol=1e-4, err_msg=field)


def test_ours_and_filetree_give_the_same_images(tmp_path: Path) -> None:
    tree = file_tree(Scan(trials=10, units=5, frames=0, height=6, width=8), tmp_path / "images")
    convert_recording(open_scan(tree), tmp_path / "stored")
    loaders, _ = open_loaders({"scan": tmp_path / "stored"}, CorrectedAreaLayer(), 8, seed=1)
    ours = next(iter(loaders["train"]["scan"]))
    theirs = next(iter(baselines.filetree_images(tree, 8, cache=False)))
    order, other = ours.responses[:, 0].argsort(), theirs.responses[:, 0].argsort()
    for name in ("images", "responses", "behavior", "pupil_center"):
        torch.testing.assert_close(getattr(ours, name)[order], getattr(theirs, name)[other], rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_loading_reports_all_figures(tmp_path: Path) -> None:
    size = {"trials": 10, "frames": 100, "units": 8, "images": 20, "image-units": 6, "budget": 1}
    options = [f"--{name}={value}" for name, value in {**size, "batches": 2, "repetitions": 3}.items()]
    command = [sys.executable, "-m", "benchmarks", "loading", f"--json={tmp_path / 'figures.json'}", "--no-memory"]
    done = subprocess.run([*command, *options], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "figures.json").read_text())
    figures = found["figures"]
    rates = {
        "frames_per_second": ("", ("filetree", "filetree_uncached", "h5py")),
        "published_frames_per_second": ("published_", ("filetree", "filetree_uncached")),
        "budget_frames_per_second": ("budget_", ("filetree_uncached", "h5py")),
        "images_per_second": ("images_", ("filetree", "filetree_uncached")),
        "images_budget_per_second": ("images_budget_", ("filetree_uncached",)),
    }
    named = {"budget_mib", "open_of_disk", "convert_of_disk"}
    named |= {f"{what}_mb_per_second" for what in ("open", "convert", "disk_read_hash", "disk_copy")}
    for rate, (prefix, others) in rates.items():
        named |= {rate, f"{prefix}opening_seconds"}
        for other in others:
            named |= {f"{rate}_{other}", f"{prefix}opening_seconds_{other}", f"{prefix}ratio_{other}"}
            assert figures[f"{prefix}ratio_{other}"] == pytest.approx(figures[rate] / figures[f"{rate}_{other}"])
    assert set(figures) == named
    assert all(isinstance(value, int | float) and value > 0 for value in figures.values())
    assert found["name"] == "loading"
    assert {"cpu", "cores", "threads", "torch"} <= set(found["machine"])
    assert "ratio_filetree" in done.stdout


def test_the_names_are_listed() -> None:
    done = subprocess.run([sys.executable, "-m", "benchmarks"], cwd=ROOT, capture_output=True, text=True)
    assert "loading" in done.stdout + done.stderr
