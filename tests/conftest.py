"""One database for the whole run: an embedded PostgreSQL in a temporary home, or the MySQL that is named.

``GENICULATE_TEST_MYSQL`` names it as ``host:port:user:password`` or ``mysql://user:password@host:port``. The
environment is set here, before any test imports a table; the user's own server and files are never touched.
"""

from __future__ import annotations

import os
import secrets
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import pytest

if TYPE_CHECKING:
    from pipeline.recordings import Recording

ROOT = Path(__file__).resolve().parents[1]
Key = dict[str, Any]


def _open_temporary_folder() -> Path:
    """A new folder that other users can pass through, as the embedded server needs when run as root."""
    for parent in (Path(tempfile.gettempdir()), Path("/tmp"), Path("/var/tmp")):
        if os.geteuid() != 0 or all(p.stat().st_mode & stat.S_IXOTH for p in (parent, *parent.parents)):
            folder = Path(tempfile.mkdtemp(prefix="geniculate-test-", dir=parent))
            folder.chmod(0o755)
            return folder
    raise pytest.UsageError("No temporary folder is open to other users: set TMPDIR to one that is.")


def _mysql(named: str) -> dict[str, str]:
    if "://" in named:
        url = urlsplit(named)
        parts = [url.hostname or "", str(url.port or 3306), unquote(url.username or ""), unquote(url.password or "")]
    else:
        parts = named.split(":", 3)
    if len(parts) != 4 or not all(parts):
        raise pytest.UsageError("GENICULATE_TEST_MYSQL is host:port:user:password or mysql://user:password@host:port.")
    return {"DJ_BACKEND": "mysql", **dict(zip(("DJ_HOST", "DJ_PORT", "DJ_USER", "DJ_PASS"), parts, strict=True))}


_FOLDER = _open_temporary_folder()
for _name in [n for n in os.environ if n.startswith("DJ_") or n in ("GENICULATE_DATASETS", "GENICULATE_HOME")]:
    del os.environ[_name]
os.environ["DJ_IGNORE_CONFIG_FILE"] = "true"
# Networks as small as the tests' are slower on several threads, and much slower where other processes run beside them.
os.environ["OMP_NUM_THREADS"] = os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"
os.environ["GENICULATE_HOME"] = str(_FOLDER / "home")
os.environ["GENICULATE_PREFIX"] = f"test_{secrets.token_hex(4)}"
if os.environ.get("GENICULATE_TEST_MYSQL"):
    os.environ.update(_mysql(os.environ["GENICULATE_TEST_MYSQL"]))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything under tests/schemas is about tables, so it runs on both kinds of server."""
    for item in items:
        if "schemas" in item.path.parts[-3:-1] and item.get_closest_marker("embedded") is None:
            item.add_marker("database")


def pytest_report_header() -> str:
    server = "MySQL at {DJ_HOST}:{DJ_PORT}".format(**os.environ) if "DJ_HOST" in os.environ else "embedded PostgreSQL"
    return f"server: {server}, schemas {os.environ['GENICULATE_PREFIX']}_*"


def _drop_schemas() -> None:
    import datajoint as dj

    from schemas.connection import connect

    connection = connect()
    prefix = os.environ["GENICULATE_PREFIX"]
    left = [name for name in dj.list_schemas(connection) if name.startswith(f"{prefix}_")]
    if connection.adapter.backend == "postgresql":
        for name in left:
            connection.query(f'DROP SCHEMA "{name}" CASCADE')
        return
    connection.query("SET FOREIGN_KEY_CHECKS = 0")
    for name in left:
        connection.query(f"DROP DATABASE `{name}`")
    connection.query("SET FOREIGN_KEY_CHECKS = 1")


def pytest_sessionfinish() -> None:
    """Drop this run's schemas, stop the embedded server, remove the folder."""
    module = sys.modules.get("schemas.connection")
    try:
        if module is not None and module._connection is not None and "DJ_HOST" in os.environ:
            _drop_schemas()
        if module is not None and "DJ_HOST" not in os.environ:
            module.stop_embedded()
    finally:
        shutil.rmtree(_FOLDER, ignore_errors=True)


@pytest.fixture
def fresh_home() -> Iterator[Path]:
    """A home folder of its own with no server; one that the test started there is stopped."""
    from schemas import embedded

    home = Path(tempfile.mkdtemp(prefix="home-", dir=_FOLDER))
    home.chmod(0o755)
    yield home
    embedded.stop(home)


@pytest.fixture(scope="session")
def begin() -> Callable[..., subprocess.Popen[str]]:
    """Start Python code in a process of its own that uses the same tables."""

    def start(code: str, **extra: str) -> subprocess.Popen[str]:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), **extra}
        pipe = subprocess.PIPE
        return subprocess.Popen(
            [sys.executable, "-c", code], env=environment, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=pipe, text=True
        )

    return start


@pytest.fixture(scope="session")
def finish() -> Callable[..., str]:
    """Wait for such a process, and return its last line; its status must be the expected one."""

    def wait(process: subprocess.Popen[str], status: int = 0) -> str:
        output, errors = process.communicate(timeout=300)
        assert process.returncode == status, errors
        return output.strip().splitlines()[-1] if output.strip() else ""

    return wait


@pytest.fixture(scope="session")
def together(begin: Any, finish: Any) -> Callable[..., list[str]]:
    """Run code in processes that go on side by side: each prints 'ready' and reads a line when it is prepared."""

    def run(*codes: str) -> list[str]:
        processes = [begin(code) for code in codes]
        for process in processes:
            line = process.stdout.readline().strip()
            assert line == "ready", process.communicate()[1]
        for process in processes:
            process.stdin.write("go\n")
            process.stdin.flush()
        return [finish(process) for process in processes]

    return run


@pytest.fixture(scope="session")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of a tiny simulated recording: 6 units; 8, 2 and 2 scenes of 2 s, those of the test tier 4 times."""
    from pipeline.simulation import SimulationSettings, simulate_dlgn

    folder = tmp_path_factory.mktemp("simulated") / "recording"
    simulate_dlgn(
        folder,
        SimulationSettings(
            n_units=6,
            n_train=8,
            n_validation=2,
            n_test=2,
            test_repeats=4,
            scene_seconds=2,
            width=106,
            height=66,
            seed=3,
        ),
    )
    return folder


@pytest.fixture(scope="session")
def open_simulated() -> Callable[[Path], Recording]:
    """Open the files of a simulated recording."""
    from pipeline.recordings import open_recording

    def opened(folder: Path) -> Recording:
        files = {"responses": "responses.pkl", "videos": "videos", "behavior": "resp_behav_df.pkl"}
        return open_recording("thesis", **{name: str(folder / file) for name, file in files.items()})

    return opened


@pytest.fixture(scope="session")
def scan(simulated: Path, open_simulated: Any) -> Key:
    """The tiny recording, ingested."""
    from populate.ingest import ingest

    return ingest(open_simulated(simulated), "tiny", 1, 1, screen_deg=(90.0, 60.0)).key


@pytest.fixture(scope="session")
def stored(scan: Key) -> Key:
    """Its Dataset, at 30 Hz and 17 x 27 pixels."""
    from schemas import config, dataset

    (preprocessing,) = config.PreprocessingConfig.Movie.fill(frame_rate=30.0, height=17, width=27)
    key = {**scan, **preprocessing}
    dataset.Dataset.populate(key)
    return key


@pytest.fixture(scope="session")
def group(stored: Key) -> Key:
    """A MultiDataset of it alone, with a DataConfig."""
    from schemas import config, dataset

    (data,) = config.DataConfig.MovieClips.fill(clip_frames=40)
    return {**dataset.MultiDataset.fill(stored, "one tiny scan"), **data}


@pytest.fixture(scope="session")
def network() -> Key:
    """A network of one layer with 4 channels."""
    from pipeline.models import Factorized3d, FullGaussian2d, Network, NoModulator, NoRecurrence, NoShifter
    from schemas import config

    core = Factorized3d(hidden_channels=(4,), spatial_kernels=(5,), temporal_kernels=(5,))
    return config.NetworkConfig.add(Network(core, NoRecurrence(), FullGaussian2d(), NoShifter(), NoModulator()))


@pytest.fixture(scope="session")
def trained(group: Key, network: Key) -> Key:
    """A model of it, trained for five epochs, of which the third or so is the best."""
    from schemas import config, model

    (trainer,) = config.TrainConfig.Default.fill(max_epochs=5, batch_size=4, lr_init=0.05)
    key = {**group, **network, **trainer, "seed": 1009}
    model.ModelSelection.fill(key)
    model.Model.populate(key)
    return key


@pytest.fixture(scope="session")
def stored_images(tmp_path_factory: pytest.TempPathFactory) -> Key:
    """The Dataset of a scan of 30 still images and 4 units in V1, layer 2/3."""
    import numpy as np

    from pipeline.recordings import Recording
    from populate.ingest import ingest
    from schemas import config, dataset

    rng = np.random.default_rng(8)
    source = Recording.from_arrays(
        str(tmp_path_factory.mktemp("images") / "recording"),
        images=rng.integers(0, 256, (30, 18, 32), dtype=np.uint8),
        responses=rng.poisson(3.0, (30, 4)).astype(float),
        durations=np.full(30, 0.5),
        areas=["V1"] * 4,
        layers=["L2/3"] * 4,
    )
    (preprocessing,) = config.PreprocessingConfig.Image.fill(height=18, width=32)
    key = {**ingest(source, "still", 1, 1).key, **preprocessing}
    dataset.Dataset.populate(key)
    return key
