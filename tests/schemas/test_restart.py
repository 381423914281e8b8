"""A worker goes on when its MySQL server is stopped and started again within an epoch: a real server of its own."""

from __future__ import annotations

import os
import re
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

TOOL = Path(__file__).parents[2] / "tools" / "mysql.sh"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "geniculate-mysql"
PACKAGES = Path(os.environ.get("GENICULATE_MYSQL_HOME") or CACHE) / "packages"

pytestmark = pytest.mark.embedded  # the server that the other tests use does not matter


class Server:
    """A private MySQL server of `tools/mysql.sh`, whose program has been fetched before."""

    def __init__(self, home: Path) -> None:
        (home / "packages").symlink_to(PACKAGES)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self._environment = {**os.environ, "GENICULATE_MYSQL_HOME": str(home), "GENICULATE_MYSQL_PORT": str(port)}

    def _run(self, command: str) -> str:
        done = subprocess.run([TOOL, command], env=self._environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def start(self) -> dict[str, str]:
        """Start it and return the variables that name it."""
        return {"DJ_BACKEND": "mysql", **dict(re.findall(r"^export (\w+)=(.*)$", self._run("start"), re.MULTILINE))}

    def stop(self) -> None:
        """Stop it; its data stay."""
        self._run("stop")


@pytest.fixture
def mysql(fresh_home: Path) -> Iterator[Server]:
    if not (PACKAGES / "root/usr/sbin/mysqld").exists():
        pytest.skip(f"no MySQL under {PACKAGES}: run tools/mysql.sh start once")
    home = fresh_home / "mysql"
    home.mkdir()
    server = Server(home)
    yield server
    server.stop()


WORKER = """
import sys
import numpy as np
from pipeline.models import FullGaussian2d, Network, Stacked2d
from pipeline.recordings import Recording
from populate.ingest import ingest
from schemas import config, dataset, model, training

rng = np.random.default_rng(8)
source = Recording.from_arrays(
    {folder!r},
    images=rng.integers(0, 256, (30, 18, 32), dtype=np.uint8),
    responses=rng.poisson(3.0, (30, 4)).astype(float),
    durations=np.full(30, 0.5),
    areas=["V1"] * 4,
    layers=["L2/3"] * 4,
)
key = {**ingest(source, "still", 1, 1).key, **config.PreprocessingConfig.Image.fill(height=18, width=32)[0]}
dataset.Dataset.populate(key)
core = Stacked2d(hidden_channels=3, input_kern=5, layers=1)
key = {**dataset.MultiDataset.fill(key), **config.DataConfig.CorrectedAreaLayer.fill()[0],
       **config.NetworkConfig.add(Network(core, readout=FullGaussian2d())),
       **config.TrainConfig.Default.fill(max_epochs=3, batch_size=8)[0], "seed": 1009}
model.ModelSelection.fill(key)

seen, train = [], training.train_models

def wait(module, *_):
    seen.append(module.training)
    if sum(seen) == 2:  # the second batch of the first epoch
        print("within an epoch", flush=True)
        sys.stdin.readline()

def watched(encoders, *rest):
    encoders[0].register_forward_hook(wait)
    return train(encoders, *rest)

training.train_models = watched
model.Model.populate(key, reserve_jobs=True)
print(len(model.Model & key), len(model.Model.Epoch & key), len(model.Model().jobs & "status = 'error'"))
"""


@pytest.mark.slow
def test_training_survives_a_restart_of_mysql_within_an_epoch(
    mysql: Server, fresh_home: Path, begin: Any, finish: Any
) -> None:
    code = WORKER.replace("{folder!r}", repr(str(fresh_home / "recording")))
    process = begin(code, GENICULATE_HOME=str(fresh_home / "home"), GENICULATE_PREFIX="restarted", **mysql.start())
    for line in process.stdout:
        if line.strip() == "within an epoch":
            break
    else:
        pytest.fail(process.communicate()[1])
    mysql.stop()
    mysql.start()
    process.stdin.write("go on\n")
    process.stdin.flush()
    assert finish(process) == "1 3 0"
