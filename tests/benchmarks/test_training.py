"""Training is measured with equal networks, and what is said about them is right."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.ensembles import SMALLEST, open_seeds
from benchmarks.networks import DATA_KEY, Task, plain_network
from benchmarks.steps import BATCHES, flops, losses, open_steps
from benchmarks.training import QUICK
from benchmarks.whole import Course, Reached, figures_of

ROOT = Path(__file__).resolve().parents[2]
TASKS = {**QUICK, "full convolutions": Task(batch=3, units=7, frames=0, channels=(4,), depth_separable=False)}


@pytest.mark.parametrize("name", TASKS)
def test_the_plain_network_is_the_same_network(name: str) -> None:
    task = TASKS[name]
    ours = task.encoder().eval()
    plain = plain_network(task, ours).eval()
    stimuli, responses = task.batches(1)[0]
    with torch.no_grad():
        found, expected = ours(stimuli, DATA_KEY), plain(stimuli, data_key=DATA_KEY)
        assert found.shape == responses[..., -found.shape[-1] :].shape
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        penalty = sum(ours.regularizer(DATA_KEY).values())
        torch.testing.assert_close(penalty, plain.regularizer(data_key=DATA_KEY), rtol=1e-4, atol=1e-4)
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in plain.parameters())


@pytest.mark.parametrize("name", TASKS)
def test_both_learn_the_same(name: str) -> None:
    ours, plain = (losses(TASKS[name], which, 2 * BATCHES) for which in ("ours", "plain"))
    assert ours == pytest.approx(plain, rel=1e-4)
    assert sum(ours[BATCHES:]) < sum(ours[:BATCHES])


def test_operations_are_those_of_the_convolutions() -> None:
    """Two 9 x 9 filters on one channel, then mixing 2 by 2, 7 x 7 in each channel and mixing, three times."""
    task = Task(batch=3, units=7, frames=0, channels=(2,))
    first, hidden = 2 * 81, 2 * 2 + 2 * 49 + 2 * 2
    assert flops(task) == 2 * 3 * 28 * 56 * (2 * first + 3 * 3 * hidden)


STEPS_OF = ("images", "movies")


OF_COURSE = {
    *("initial_correlation", "best_correlation", "epochs", "epochs_to_level", "seconds_to_level"),
    *("cpu_seconds_to_level", "epoch_seconds", "training_seconds", "busy"),
    *(f"after_epoch_{number}_{what}" for number in (1, 2) for what in ("seconds", "correlation")),
}
WHOLE = {
    *("reading_seconds", "conversion_seconds", "level", "difference_at_start", "difference_after_epoch_1"),
    *("ratio_plain", "ratio_with_ingest_plain", "cpu_ratio_plain", "epoch_ratio_plain"),
    *OF_COURSE,
    *(f"{name}_plain" for name in OF_COURSE),
}


def course(*epochs: tuple[float, float]) -> Course:
    """Return a training that computed half of the time, from seconds and correlations after each epoch."""
    return Course(0.1, tuple(Reached(seconds, seconds / 2, found) for seconds, found in epochs), epochs[-1][0] + 1)


def test_both_trainings_have_to_reach_the_same_level() -> None:
    """The level is 0.98 of the lower of the two best, 0.5: later and better epochs do not count."""
    ours = course((2.0, 0.2), (3.0, 0.5), (4.0, 0.6), (5.0, 0.4))
    figures = figures_of({"ours": ours, "plain": course((10.0, 0.48), (20.0, 0.5))}, ingest=2.0)
    assert set(figures) >= {name for name in WHOLE if not name.startswith(("reading", "conversion"))}
    assert figures["level"] == pytest.approx(0.49)
    assert (figures["epochs_to_level"], figures["epochs_to_level_plain"]) == (2, 2)
    assert (figures["seconds_to_level"], figures["seconds_to_level_plain"]) == (3, 20)
    assert figures["ratio_plain"] == figures["cpu_ratio_plain"] == pytest.approx(20 / 3)
    assert figures["ratio_with_ingest_plain"] == pytest.approx(20 / (3 + 2))
    assert figures["epoch_ratio_plain"] == pytest.approx(10 / 1)
    assert figures["training_seconds"] == 6 and figures["busy"] == 0.5
    assert figures["best_correlation"] == 0.6


def test_work_counts_images_or_frames() -> None:
    assert open_steps(QUICK["images"], "ours", 2)() == 2 * 4
    assert open_steps(QUICK["movies"], "plain", 3)() == 3 * 2 * 24


def test_seeds_count_the_images_of_all() -> None:
    task = QUICK["seeds"]
    for together, reopen in ((True, True), (False, True), (False, False)):
        assert open_seeds(task, [1, 2], together, steps=1, reopen=reopen)() == 2 * SMALLEST
    assert open_seeds(task, [1, 2, 3], True, steps=11)() == 3 * 11 * task.batch


@pytest.mark.slow
def test_training_reports_all_figures(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    options = ["--quick", "--repetitions=2", "--steps=1", "--curve=3", "--epochs=2", f"--json={path}"]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "training", *options], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(path.read_text())
    figures = found["figures"]
    one = {"step_gflop", "matmul_gflop_per_second", "largest_difference_of_losses", "ratio_plain"}
    each = {"per_second", "opening_seconds", "step_seconds", "of_matmul", "peak_mib", "growth_mib"}
    names = one | each | {f"{name}_plain" for name in each}
    of_seeds = {"per_second", "opening_seconds"}
    others = ("one_by_one", "one_by_one_opened")
    of_seeds |= {f"{name}_{other}" for name in (*of_seeds, "ratio") for other in others}
    of_seeds |= {f"cpu_ratio_{other}{end}" for other in others for end in ("", "_lowest", "_highest")}
    expected = {f"{part}_{name}" for part in STEPS_OF for name in names} | {f"seeds_{name}" for name in of_seeds}
    assert set(figures) == expected | {f"whole_{name}" for name in WHOLE}
    for part in STEPS_OF:
        ratio = figures[f"{part}_step_seconds_plain"] / figures[f"{part}_step_seconds"]
        assert figures[f"{part}_ratio_plain"] == pytest.approx(ratio)
        share = figures[f"{part}_step_gflop"] / figures[f"{part}_step_seconds"]
        assert figures[f"{part}_of_matmul"] == pytest.approx(share / figures[f"{part}_matmul_gflop_per_second"])
        assert found["targets"][f"{part}_largest_difference_of_losses at most 0.001"] is True
    for when in ("at_start", "after_epoch_1"):
        assert found["targets"][f"whole_difference_{when} at most 0.001"] is True


def test_unknown_parts_are_refused() -> None:
    command = [sys.executable, "-m", "benchmarks", "training", "--only=sounds"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert "images, movies, seeds, whole" in done.stderr
