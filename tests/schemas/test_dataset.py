"""Datasets, groups of them and oracles, from a tiny simulated recording."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipeline.errors import ConfigurationError, DatasetError

Key = dict[str, Any]


def test_row_says_what_was_made_and_where_from(stored: Key) -> None:
    import torch

    from pipeline.recordings.base import TIERS
    from schemas.connection import datasets_root
    from schemas.dataset import Dataset

    row = (Dataset & stored).fetch1()
    prefix = os.environ["GENICULATE_PREFIX"]
    assert row["dataset_path"] == f"{prefix}/tiny-1-1_{stored['preprocessing_hash'][:12]}"
    assert (datasets_root() / row["dataset_path"] / "trials").is_dir()
    assert (row["dataset_format"], row["dataset_trials"], row["dataset_conditions"]) == ("deeplake", 18, 12)
    assert row["dataset_bins"] == 18 * 60  # 2 s at 30 Hz
    assert row["dataset_torch"] == torch.__version__
    assert row["dataset_host"]
    assert row["dataset_seconds"] > 0
    dataset = Dataset.open(stored)
    assert [dataset.tier.count(tier) for tier in TIERS] == [8, 2, 8, 0, 0]
    assert dataset.stimulus(dataset.condition_hash[0]).shape == (1, 60, 17, 27)


def test_units_have_the_statistics_of_the_training_tier(stored: Key, simulated: Path) -> None:
    from schemas.dataset import Dataset

    table = pd.read_pickle(simulated / "responses.pkl")
    rows = (Dataset.Unit & stored).to_dicts(order_by="unit_id")
    assert [row["unit_id"] for row in rows] == sorted(set(table["u"]))
    for row in rows:
        mine = table[table["u"] == row["unit_id"]]
        assert row["response_total"] == sum(map(len, mine["spike_times"]))
        counts = []
        for _, trial in mine[mine["train_vs_test"] == "train"].iterrows():
            bins = np.floor((np.asarray(trial["spike_times"]) - trial["trange"][0]) * 30 + 1e-9).astype(int)
            counts.append(np.bincount(bins, minlength=60))
        counts = np.concatenate(counts)
        assert len(counts) == 8 * 60
        assert row["response_mean"] == pytest.approx(counts.mean())
        assert row["response_std"] == pytest.approx(counts.std(ddof=1))


def test_tensors_are_described_as_they_are(stored: Key) -> None:
    from schemas.dataset import Dataset

    dataset = Dataset.open(stored)
    rows = {row["tensor"]: row for row in (Dataset.Tensor & stored).to_dicts()}
    assert set(rows) == {"videos", *dataset.tensors}
    for name, row in rows.items():
        array = dataset.stimulus(dataset.condition_hash[0]) if name == "videos" else dataset.tensor(name, 0)
        assert row["tensor_dtype"] == str(array.dtype)
        assert (
            row["tensor_dimensions"].count(", ") - (name == "behavior") - (name == "pupil_location") == array.ndim - 1
        )


def rows_of(key: Key) -> tuple[Any, ...]:
    """What tells one conversion from another: all but how long it took and where."""
    from schemas.dataset import Dataset

    names = ("dataset_path", "dataset_trials", "dataset_conditions", "dataset_bins")
    row = (Dataset & key).fetch1()
    units = (Dataset.Unit & key).to_dicts(order_by="unit_id")
    return tuple(row[name] for name in names), units, (Dataset.Tensor & key).to_dicts(order_by="tensor")


def test_excluded_trials_are_left_out(simulated: Path, open_simulated: Any, scan: Key) -> None:
    from populate.ingest import ingest
    from schemas import config, stimulus
    from schemas.dataset import Dataset

    source = open_simulated(simulated)
    key = {
        **ingest(source, "excluding", 1, 1).key,
        **config.PreprocessingConfig.Movie.fill(frame_rate=15, height=8, width=8)[0],
    }
    gone = next(t for t in source.trials if t.tier == "train")
    stimulus.ExcludedTrial.insert1(
        {**key, "trial_idx": gone.trial_idx, "exclusion_comment": "the mouse slept"}, ignore_extra_fields=True
    )
    Dataset.populate(key)
    dataset = Dataset.open(key)
    assert dataset.trial_idx == [t.trial_idx for t in source.trials if t is not gone]
    assert gone.condition_hash not in dataset.condition_hash
    assert (Dataset & key).fetch1("dataset_trials") == 17
    other = {**scan, "preprocessing_hash": key["preprocessing_hash"]}
    Dataset.populate(other)
    assert (Dataset & other).fetch1("dataset_trials") == 18  # the exclusion is of one scan's trial


def test_a_source_that_changed_is_refused(simulated: Path, open_simulated: Any, tmp_path: Path) -> None:
    from populate.ingest import ingest
    from schemas import config
    from schemas.dataset import Dataset

    folder = shutil.copytree(simulated, tmp_path / "copy")
    key = {
        **ingest(open_simulated(folder), "changing", 1, 1).key,
        **config.PreprocessingConfig.Movie.fill(frame_rate=15, height=8, width=8)[0],
    }
    table = pd.read_pickle(folder / "responses.pkl")
    table.at[0, "spike_times"] = np.append(table.at[0, "spike_times"], table.at[0, "trange"][1] - 1e-3)
    table.to_pickle(folder / "responses.pkl")
    outcome = Dataset.populate(key, suppress_errors=True)
    ((_, message),) = outcome["error_list"]
    assert "changing-1-1: the source at" in message
    assert "has changed since it was ingested; restore it, or delete the scan" in message
    assert not len(Dataset & key)
    assert not len(Dataset.Unit & key)


CONVERT_AND_DIE = """
import os, signal
from pipeline.datasets import conversion
from schemas import config
from schemas.dataset import Dataset
read = conversion._TrialReader.read
def deadly(reader, trial):
    if trial.trial_idx == 11:
        os.kill(os.getpid(), signal.SIGKILL)
    return read(reader, trial)
conversion._TrialReader.read = deadly
Dataset.populate({key!r}, reserve_jobs=True)
"""


@pytest.mark.slow
def test_killed_conversion_leaves_nothing_and_can_be_repeated(scan: Key, begin: Any, finish: Any) -> None:
    from populate.work import populate_all
    from schemas import config
    from schemas.connection import datasets_root
    from schemas.dataset import Dataset

    key = {**scan, **config.PreprocessingConfig.Movie.fill(frame_rate=15.0, height=9, width=9)[0]}
    finish(begin(CONVERT_AND_DIE.replace("{key!r}", repr(key))), status=-signal.SIGKILL)
    path = f"tiny-1-1_{key['preprocessing_hash'][:12]}"
    folder = datasets_root() / os.environ["GENICULATE_PREFIX"]
    assert not len(Dataset & key)
    assert not (folder / path).exists()
    assert list(folder.glob(f".{path}.*"))  # half of it lies aside
    assert len(Dataset().jobs.reserved & key) == 1

    assert populate_all(Dataset, key) == 1
    assert not list(folder.glob(f".{path}.*"))
    after_a_kill = rows_of(key)
    responses = [Dataset.open(key).tensor("responses", i) for i in range(18)]
    (Dataset & key).delete(prompt=False)
    assert populate_all(Dataset, key) == 1
    assert rows_of(key) == after_a_kill
    again = Dataset.open(key)
    assert all(np.array_equal(again.tensor("responses", i), before) for i, before in enumerate(responses))


def test_groups_are_found_again(stored: Key, group: Key) -> None:
    from schemas.dataset import Dataset, MultiDataset

    same = MultiDataset.fill(Dataset & stored, "another description")
    assert same == {"group_id": group["group_id"]}
    member = (MultiDataset.Member & same).fetch1()
    assert member["data_key"] == f"tiny-1-1-{stored['preprocessing_hash'][:8]}"
    assert (MultiDataset & same).fetch1("group_description") == "one tiny scan"
    with pytest.raises(DatasetError, match="no dataset matches"):
        MultiDataset.fill({"subject": "nobody"})


GROUP = """
from schemas.dataset import MultiDataset
print("ready", flush=True); input()
print(MultiDataset.fill({key!r})["group_id"])
"""


@pytest.mark.slow
def test_two_processes_make_one_group(scan: Key, together: Any) -> None:
    from schemas import config
    from schemas.dataset import Dataset, MultiDataset

    key = {**scan, **config.PreprocessingConfig.Movie.fill(frame_rate=10.0, height=6, width=6)[0]}
    Dataset.populate(key)
    before = len(MultiDataset())
    code = GROUP.replace("{key!r}", repr(key))
    first, second = together(code, code)
    assert first == second
    assert len(MultiDataset()) == before + 1
    assert len(MultiDataset.Member & {"group_id": int(first)}) == 1


def test_stimuli_held_out_in_one_scan_only_are_told(
    simulated: Path, open_simulated: Any, stored: Key, caplog: pytest.LogCaptureFixture
) -> None:
    import dataclasses

    from populate.ingest import ingest
    from schemas.dataset import Dataset, MultiDataset

    source = open_simulated(simulated)
    held_out = next(t.condition_hash for t in source.trials if t.tier == "test")
    source.trials = tuple(
        dataclasses.replace(t, tier="train") if t.condition_hash == held_out else t for t in source.trials
    )
    key = {**ingest(source, "torn-group", 1, 1).key, "preprocessing_hash": stored["preprocessing_hash"]}
    Dataset.populate(key)
    caplog.clear()
    MultiDataset.fill(key, "alone")
    assert "held out" not in caplog.text
    MultiDataset.fill([key, stored], "torn")
    assert (
        f"1 stimuli train in one scan of the group and are held out in another, such as {held_out[:12]}" in caplog.text
    )


def test_loaders_are_nested_by_tier_and_scan(group: Key, stored: Key) -> None:
    from schemas.dataset import get_data_info, get_dataloaders

    loaders, info = get_dataloaders(group, batch_size=4, seed=1), get_data_info(group)
    (data_key,) = info
    assert {tier: list(by_scan) for tier, by_scan in loaders.items()} == {
        tier: [data_key] for tier in ("train", "validation", "test")
    }
    batch = next(iter(loaders["train"][data_key]))
    assert batch.videos.shape == (4, 1, 40, 17, 27)
    assert batch.responses.shape == (4, 6, 40)
    assert info[data_key].unit_ids == (1, 2, 3, 4, 5, 6)
    with pytest.raises(ConfigurationError, match="DataConfig has no data_hash"):
        get_dataloaders({**group, "data_hash": "0" * 64})


def test_oracle_is_each_repeat_against_the_mean_of_the_others(group: Key, stored: Key) -> None:
    from schemas.dataset import Dataset, Oracle

    Oracle.populate(group)
    dataset = Dataset.open(stored)
    trials: dict[str, list[np.ndarray]] = {}
    for row, (tier, condition) in enumerate(zip(dataset.tier, dataset.condition_hash, strict=True)):
        if tier == "test":
            trials.setdefault(condition, []).append(dataset.tensor("responses", row).astype(float))
    expected = []
    for unit in range(6):
        single, others = [], []
        for repeats in trials.values():
            for i, trial in enumerate(repeats):
                single.append(trial[unit])
                others.append(np.mean([r[unit] for j, r in enumerate(repeats) if j != i], axis=0))
        expected.append(np.corrcoef(np.concatenate(single), np.concatenate(others))[0, 1])
    rows = (Oracle.Unit & group).to_dicts(order_by="unit_id")
    assert [row["oracle_correlation"] for row in rows] == pytest.approx(expected)
    assert {row["oracle_conditions"] for row in rows} == {2}
    whole = (Oracle & group).fetch1()
    assert whole["oracle_mean"] == pytest.approx(np.mean(expected))
    assert whole["oracle_undefined"] == 0


def test_oracle_without_spikes_is_null_and_counted(simulated: Path, open_simulated: Any, tmp_path: Path) -> None:
    from populate.ingest import ingest
    from schemas import config
    from schemas.dataset import Dataset, MultiDataset, Oracle

    folder = shutil.copytree(simulated, tmp_path / "copy")
    table = pd.read_pickle(folder / "responses.pkl")
    silent = (table["u"] == 2) & (table["train_vs_test"] == "test")
    table["spike_times"] = [np.empty(0) if s else t for s, t in zip(silent, table["spike_times"], strict=True)]
    table.drop(columns="psth").to_pickle(folder / "responses.pkl")
    key = {
        **ingest(open_simulated(folder), "silent", 1, 1).key,
        **config.PreprocessingConfig.Movie.fill(frame_rate=15, height=8, width=8)[0],
    }
    Dataset.populate(key)
    (data,) = config.DataConfig.MovieClips.fill(clip_frames=20)
    group = {**MultiDataset.fill(key), **data}
    Oracle.populate(group)
    assert (Oracle & group).fetch1("oracle_undefined") == 1
    values = dict(zip(*(Oracle.Unit & group).to_arrays("unit_id", "oracle_correlation"), strict=True))
    assert values.pop(2) is None or np.isnan((Oracle.Unit & group & {"unit_id": 2}).fetch1("oracle_correlation"))
    assert len(Oracle.Unit & group & "oracle_correlation IS NULL") == 1
    assert (Oracle & group).fetch1("oracle_mean") == pytest.approx(np.mean(np.array(list(values.values()), float)))
