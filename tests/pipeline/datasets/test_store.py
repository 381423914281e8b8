from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import deeplake
import numpy as np
import pytest

from pipeline.datasets import store
from pipeline.datasets.statistics import Statistics
from pipeline.datasets.store import DatasetWriter, StoredDataset, write_dataset
from pipeline.errors import DatasetError

ROOT = Path(__file__).resolve().parents[3]

WRITE_FOR_EVER = """
import sys, time
from pathlib import Path
import numpy as np
from pipeline.datasets.store import write_dataset
with write_dataset(Path(sys.argv[1])) as writer:
    writer.add_stimulus("a", "videos", np.zeros((1, 3, 2, 2), np.uint8))
    for i in range(14):  # more than are kept back in memory
        writer.add_trial({"trial_idx": i, "condition_hash": "a", "tier": "train", "withheld": 0, "stimulus_type": "",
                          "responses": np.ones((2**18, 3), "f4")})
    print("writing", flush=True)
    time.sleep(600)
"""


def movie(seed: int, frames: int = 4) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (1, frames, 3, 5), dtype=np.uint8)


def trial(index: int, condition: str, frames: int = 4, tier: str = "train") -> dict[str, Any]:
    responses = np.random.default_rng(100 + index).normal(size=(2, frames)).astype(np.float32)
    said = {"trial_idx": index, "condition_hash": condition, "tier": tier, "withheld": 0, "stimulus_type": f"t{frames}"}
    return {**said, "responses": responses}


def fill(writer: DatasetWriter) -> None:
    """Three trials of two movies of different lengths."""
    for index, (condition, frames, tier) in enumerate([("a", 4, "train"), ("b", 7, "test"), ("a", 4, "train")]):
        writer.add_stimulus(condition, "videos", movie(frames, frames))
        writer.add_trial(trial(3 * index, condition, frames, tier))
    writer.metadata = {"unit_ids": [4, 9]}


def contents(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_was_written_is_read(tmp_path: Path) -> None:
    with write_dataset(tmp_path / "new" / "data") as writer:
        fill(writer)
    stored = StoredDataset(tmp_path / "new" / "data")
    assert (stored.trial_idx, stored.condition_hash) == ([0, 3, 6], ["a", "b", "a"])
    assert (stored.tier, stored.rows("train"), stored.rows("validation")) == (["train", "test", "train"], [0, 2], [])
    assert (stored.tensors, stored.stimulus_tensor) == (("responses",), "videos")
    assert stored.metadata["unit_ids"] == [4, 9]
    assert (stored.bins, stored.withheld, stored.stimulus_type) == ([4, 7, 4], [False] * 3, ["t4", "t7", "t4"])
    for row, frames in enumerate((4, 7, 4)):
        expected = trial(3 * row, "", frames)["responses"]
        assert stored.tensor("responses", row).dtype == np.float32
        assert np.array_equal(stored.tensor("responses", row), expected)
    for condition, frames in (("a", 4), ("b", 7)):
        assert stored.stimulus(condition).dtype == np.uint8
        assert np.array_equal(stored.stimulus(condition), movie(frames, frames))
    assert stat.S_IMODE((tmp_path / "new" / "data").stat().st_mode) == 0o755


def test_each_distinct_stimulus_is_stored_once(tmp_path: Path) -> None:
    with write_dataset(tmp_path / "data") as writer:
        fill(writer)
    assert len(deeplake.open_read_only(f"file://{tmp_path / 'data' / 'stimuli'}")) == 2
    assert len(deeplake.open_read_only(f"file://{tmp_path / 'data' / 'trials'}")) == 3


def test_still_images_keep_their_name(tmp_path: Path) -> None:
    image = movie(1)[:, 0]
    with write_dataset(tmp_path / "data") as writer:
        writer.add_stimulus("a", "images", image)
        writer.add_trial({**trial(0, "a"), "responses": np.ones(2, np.float32)})
    stored = StoredDataset(tmp_path / "data")
    assert stored.stimulus_tensor == "images"
    assert np.array_equal(stored.stimulus("a"), image)


def test_nothing_is_visible_before_the_end(tmp_path: Path) -> None:
    with write_dataset(tmp_path / "data") as writer:
        fill(writer)
        assert not (tmp_path / "data").exists()
    assert contents(tmp_path) == ["data"]


def test_an_error_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), write_dataset(tmp_path / "data") as writer:
        fill(writer)
        _ = 1 / 0
    assert contents(tmp_path) == []


def test_an_error_leaves_the_earlier_dataset(tmp_path: Path) -> None:
    with write_dataset(tmp_path / "data") as writer:
        fill(writer)
    with pytest.raises(ZeroDivisionError), write_dataset(tmp_path / "data") as writer:
        writer.add_stimulus("c", "videos", movie(1))
        _ = 1 / 0
    assert contents(tmp_path) == ["data"]
    assert StoredDataset(tmp_path / "data").condition_hash == ["a", "b", "a"]


def test_a_new_dataset_replaces_the_earlier_one(tmp_path: Path) -> None:
    with write_dataset(tmp_path / "data") as writer:
        fill(writer)
    with write_dataset(tmp_path / "data") as writer:
        writer.add_stimulus("c", "videos", movie(1))
        writer.add_trial(trial(5, "c"))
    assert StoredDataset(tmp_path / "data").condition_hash == ["c"]


def test_a_killed_writer_leaves_nothing_that_can_be_taken_for_a_dataset(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    target = tmp_path / "data"
    command = [sys.executable, "-c", WRITE_FOR_EVER, str(target)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, cwd=tmp_path) as writing:
        assert writing.stdout is not None
        assert writing.stdout.readline() == "writing\n"
        os.kill(writing.pid, signal.SIGKILL)
    (aside,) = tmp_path.iterdir()
    assert aside != target
    assert aside.name.startswith(".")
    with pytest.raises(DatasetError, match="incomplete"):
        StoredDataset(aside)
    with write_dataset(target) as writer:
        fill(writer)
    assert contents(tmp_path) == ["data"]
    assert len(StoredDataset(target).tier) == 3


def test_a_writer_that_lives_is_left_alone(tmp_path: Path) -> None:
    target = tmp_path / "data"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", WRITE_FOR_EVER, str(target)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, cwd=tmp_path) as writing:
        assert writing.stdout is not None
        assert writing.stdout.readline() == "writing\n"
        (aside,) = tmp_path.iterdir()
        with write_dataset(target) as writer:
            fill(writer)
        assert contents(tmp_path) == [aside.name, "data"]
        writing.kill()


def test_missing_and_broken_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"no dataset at .*gone.*populate again"):
        StoredDataset(tmp_path / "gone")
    (tmp_path / "empty" / "trials").mkdir(parents=True)
    with pytest.raises(DatasetError, match=r"empty/trials cannot be read .*populate again"):
        StoredDataset(tmp_path / "empty")
    with write_dataset(tmp_path / "half") as writer:
        fill(writer)
    shutil.rmtree(tmp_path / "half" / "stimuli")
    with pytest.raises(DatasetError, match=r"no dataset at .*half/stimuli"):
        StoredDataset(tmp_path / "half")


def test_other_formats_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as other_version:
        other_version.setattr(store, "FORMAT_VERSION", store.FORMAT_VERSION - 1)
        with write_dataset(tmp_path / "old") as writer:
            fill(writer)
    old, new = store.FORMAT_VERSION - 1, store.FORMAT_VERSION
    with pytest.raises(DatasetError, match=f"has format {old}, this version reads {new}: delete its Dataset row"):
        StoredDataset(tmp_path / "old")


def test_trials_need_their_stimulus_and_datasets_need_trials(tmp_path: Path) -> None:
    with (
        pytest.raises(DatasetError, match="trial 7: its stimulus abc was not stored"),
        write_dataset(tmp_path / "data") as writer,
    ):
        writer.add_trial(trial(7, "abc"))
    with pytest.raises(DatasetError, match="nothing to store"), write_dataset(tmp_path / "data"):
        pass
    assert contents(tmp_path) == []


def test_withheld_trials_are_in_no_tier_and_blocks_do_not_reorder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "PENDING_BYTES", 100)  # a block for every few rows
    with write_dataset(tmp_path / "data") as writer:
        writer.add_stimulus("a", "videos", movie(1))
        for index in range(20):
            writer.add_trial({**trial(index, "a", tier="test"), "withheld": int(index % 5 == 2)})
    stored = StoredDataset(tmp_path / "data")
    assert stored.rows("test") == [i for i in range(20) if i % 5 != 2]
    for row in range(20):
        assert np.array_equal(stored.tensor("responses", row), trial(row, "a")["responses"])


def test_statistics_are_asked_for_by_name_and_type_of_stimulus(tmp_path: Path) -> None:
    with write_dataset(tmp_path / "data") as writer:
        fill(writer)
        writer.metadata["statistics"] = {"inputs": {"all": {"mean": [3.0], "std": [2.0]}}}
    stored = StoredDataset(tmp_path / "data")
    assert stored.statistics("inputs") == Statistics((3.0,), (2.0,))
    with pytest.raises(DatasetError, match="no statistics of 'inputs' for stimuli of type 'gabor': it has all"):
        stored.statistics("inputs", "gabor")
