"""Work: side by side without doing anything twice, on after interruptions, and stopped by real errors."""

from __future__ import annotations

import datetime
import os
import platform
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.database
Key = dict[str, Any]


def keys_of(scan: Key, *sizes: int) -> list[Key]:
    """Keys of Dataset, one for each size of frames (px)."""
    from schemas import config

    return [
        {**scan, **key} for key in config.PreprocessingConfig.Movie.fill(frame_rate=12.0, height=4, width=list(sizes))
    ]


# A shell's background job ignores Ctrl-C, and so would its children, the tests' processes.
WATCHED = """
import os, signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)
import populate.work as work
from schemas.dataset import Dataset
compute = Dataset.make_compute
def logged(self, key, *fetched):
    with open({log!r}, "a") as log:
        log.write(key["preprocessing_hash"] + "\\n")
    print("computing", flush=True)
    time.sleep({pause!r})
    return compute(self, key, *fetched)
Dataset.make_compute = logged
"""


def watched(log: Path, pause: float, end: str) -> str:
    return WATCHED.replace("{log!r}", repr(str(log))).replace("{pause!r}", repr(pause)) + end


@pytest.mark.slow
def test_two_processes_compute_no_key_twice(scan: Key, together: Any, tmp_path: Path) -> None:
    from schemas.dataset import Dataset

    keys = keys_of(scan, 11, 12, 13, 14, 15, 16)
    end = f'print("ready", flush=True); input()\nprint(work.populate_all(Dataset, {keys!r}, poll_seconds=0.1))'
    code = watched(tmp_path / "log", 0.3, end)
    made = [int(count) for count in together(code, code)]
    assert sum(made) == 6
    assert min(made) >= 1
    computed = (tmp_path / "log").read_text().split()
    assert sorted(computed) == sorted(key["preprocessing_hash"] for key in keys)
    assert len(Dataset & keys) == 6
    assert not len(Dataset().jobs & keys)


@pytest.fixture
def busy(begin: Any, tmp_path: Path) -> Iterator[Any]:
    """Start a process that computes keys for minutes, and wait until it does."""
    started = []

    def start(keys: list[Key]) -> subprocess.Popen[str]:
        code = watched(tmp_path / "log", 200.0, f"work.populate_all(Dataset, {keys!r})")
        process: subprocess.Popen[str] = begin(code)
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "computing"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_keys_of_a_killed_process_are_taken_over(scan: Key, busy: Any) -> None:
    from populate.work import populate_all, release_interrupted
    from schemas.dataset import Dataset

    keys = keys_of(scan, 21, 22)
    release_interrupted(Dataset)
    process = busy(keys)
    assert release_interrupted(Dataset) == 0  # it lives
    said: list[str] = []
    threading.Timer(1.5, process.kill).start()
    began = time.monotonic()
    assert populate_all(Dataset, keys, on_wait=said.append, poll_seconds=0.1) == 2
    assert time.monotonic() - began > 1
    assert said == [f"waiting for {platform.node()} (process {process.pid}), which computes Dataset"]
    assert len(Dataset & keys) == 2


def reserved(key: Key, pid: int, host: str, seconds_ago: float) -> None:
    from schemas.dataset import Dataset

    jobs = Dataset().jobs
    jobs.refresh(key)
    (job,) = (jobs & key).keys()
    now = jobs.connection.query("SELECT LOCALTIMESTAMP(3)").fetchone()[0]
    then = now - datetime.timedelta(seconds=seconds_ago)
    jobs.update1({**job, "status": "reserved", "host": host, "pid": pid, "reserved_time": then})


def test_a_process_number_may_be_used_again(scan: Key) -> None:
    from populate.work import release_interrupted
    from schemas.dataset import Dataset

    (key,) = keys_of(scan, 31)
    release_interrupted(Dataset)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as young:
        reserved(key, young.pid, platform.node(), 0)
        assert release_interrupted(Dataset) == 0  # it may well have reserved the key
        reserved(key, young.pid, platform.node(), 3600)
        assert release_interrupted(Dataset) == 1  # it did not exist an hour ago
        reserved(key, young.pid, "another-machine", 3600)
        assert release_interrupted(Dataset) == 0
        assert young.stdin is not None
        young.stdin.close()
    (Dataset().jobs & key).delete_quick()


def test_the_remedy_for_keys_of_a_lost_machine_works(scan: Key) -> None:
    from populate.work import populate_all
    from schemas.dataset import Dataset

    (key,) = keys_of(scan, 33)
    reserved(key, 1, "lost-machine", 60)
    said: list[str] = []

    def heed(sentence: str) -> None:
        said.append(sentence)
        eval(sentence.split("Python: ")[1], {"Dataset": Dataset})

    assert populate_all(Dataset, key, on_wait=heed, poll_seconds=0.1) == 1
    assert len(said) == 1
    assert "lost-machine (process 1)" in said[0]


@pytest.mark.slow
@pytest.mark.parametrize("told", [signal.SIGTERM, signal.SIGINT])
def test_keys_of_a_stopped_process_return_to_the_queue(told: signal.Signals, scan: Key, busy: Any) -> None:
    from populate.work import populate_all
    from schemas.dataset import Dataset

    keys = keys_of(scan, 41 + told)
    process = busy(keys)
    process.send_signal(told)
    _, errors = process.communicate(timeout=20)
    assert process.returncode != 0
    assert ("KeyboardInterrupt" if told == signal.SIGINT else "SIGTERM received") in errors or told == signal.SIGTERM
    assert not len(Dataset & keys)
    assert populate_all(Dataset, keys) == 1


def test_a_real_error_waits_for_retry(scan: Key, simulated: Path, open_simulated: Any, tmp_path: Path) -> None:
    from populate.ingest import ingest
    from populate.work import WorkError, populate_all, retry, status
    from schemas.dataset import Dataset

    folder = shutil.copytree(simulated, tmp_path / "copy")
    broken = ingest(open_simulated(folder), "broken", 1, 1).key
    keys = [*keys_of(broken, 50, 51), *keys_of(scan, 50, 51)]
    folder.rename(tmp_path / "moved")
    complaint = r"Dataset: 2 key\(s\) failed, the first is {'subject': 'broken'.*responses.pkl.*'geniculate retry'"
    with pytest.raises(WorkError, match=complaint):
        populate_all(Dataset, keys)
    assert len(Dataset & keys) == 2  # what can be computed is, before the error is raised
    failed = (Dataset().jobs.errors & broken).to_dicts(order_by="KEY")
    assert len(failed) == 2

    (tmp_path / "moved").rename(folder)
    with pytest.raises(WorkError, match=complaint):  # not tried again
        populate_all(Dataset, keys)
    assert (Dataset().jobs.errors & broken).to_dicts(order_by="KEY") == failed
    assert populate_all(Dataset, scan, keys) == 0  # other keys are not concerned
    (progress,) = (p for p in status() if p.table == "Dataset")
    assert progress.errors >= 2
    assert progress.computed == len(Dataset())

    assert retry() == progress.errors + sum(p.errors for p in status() if p.table != "Dataset")
    assert populate_all(Dataset, keys) == 2
    assert len(Dataset & keys) == 4


def test_ignored_keys_are_not_waited_for(scan: Key) -> None:
    from populate.work import populate_all
    from schemas.dataset import Dataset

    first, second = keys_of(scan, 61, 62)
    Dataset().jobs.ignore(first)
    assert populate_all(Dataset, [first, second]) == 1
    assert (Dataset & [first, second]).keys() == [second]
    (Dataset().jobs & first).delete_quick()


def test_status_counts_what_there_is_to_do(scan: Key) -> None:
    from populate.work import COMPUTED, Progress, status
    from schemas.dataset import Dataset

    (key,) = keys_of(scan, 71)

    def of_dataset() -> Progress:
        found = list(status())
        assert [p.table for p in found] == [table.__name__ for table in COMPUTED]
        return found[0]

    before = of_dataset()
    Dataset().jobs.refresh(key)
    assert of_dataset() == before  # in the queue or not, it waits
    reserved(key, os.getpid(), platform.node(), 0)
    assert of_dataset() == Progress("Dataset", before.computed, before.pending - 1, before.reserved + 1, before.errors)
    (Dataset().jobs & key).delete_quick()
    Dataset.populate(key)
    assert of_dataset() == Progress("Dataset", before.computed + 1, before.pending - 1, before.reserved, before.errors)
