"""Which server holds the tables, and the one connection to it.

A server named by DataJoint's own settings (``DJ_HOST``, or ``datajoint.json``) is used; where none is named, an
embedded PostgreSQL starts under ``GENICULATE_HOME``. Importing this module touches neither.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import logging
import math
import os
import re
import threading
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import datajoint as dj
from datajoint import instance as _instance
from datajoint.settings import find_config_file, find_secrets_dir, read_secret_file
from datajoint.user_tables import Computed, Imported

from pipeline.errors import ConfigurationError, ConnectionRefusedByDesign, GeniculateError
from schemas import embedded
from schemas.outdated import refuse_outdated

STORE = "main"
_Table = TypeVar("_Table", bound=type[Any])
_LOCK_SECONDS = 600.0
_guard = threading.RLock()
_server: _Server | None = None
_connection: Connection | None = None

if "DJ_LOG_LEVEL" not in os.environ:
    logging.getLogger("datajoint").setLevel(logging.WARNING)


class ServerUnavailableError(GeniculateError):
    """The configured server cannot be reached, or refuses the user."""


@dataclass(frozen=True)
class Settings:
    """Where Geniculate keeps its files and what its schemas are called.

    Attributes
    ----------
    home : Path
        Folder of the embedded server, the file store and the datasets (``GENICULATE_HOME``).
    prefix : str
        First part of every schema's name on the server (``GENICULATE_PREFIX``).
    data_memory : int
        Bytes that loaders may take, kept data and batches together (``GENICULATE_DATA_MEMORY``, in GiB).
    checkpoint_seconds : float
        How much training may be lost when a process dies (``GENICULATE_CHECKPOINT_SECONDS``).
    checkpoint_epochs : int or None
        After how many epochs training is kept in any case (``GENICULATE_CHECKPOINT_EPOCHS``).
    epoch_hooks : str
        Functions that are told of every epoch of training (``GENICULATE_EPOCH_HOOKS``), see `pipeline.training.hooks`.
    """

    home: Path
    prefix: str
    data_memory: int = 4 * 2**30
    checkpoint_seconds: float = 60.0
    checkpoint_epochs: int | None = None
    epoch_hooks: str = ""


@dataclass(frozen=True)
class _Server:
    """How to reach a server; ``home`` is the embedded server's, None for a configured one."""

    host: str
    port: int
    user: str
    password: str = field(repr=False)  # a traceback or log may show the rest
    backend: str
    home: Path | None = None


class Connection(dj.Connection):
    """A DataJoint connection that survives forks, threads and a restart of the embedded server.

    A child process opens its own session instead of sharing the parent's socket, threads take turns, and a lost
    embedded server is started again before the session is.
    """

    _in_transaction: bool

    def __init__(self, server: _Server) -> None:
        self._server = server
        self._turn = threading.RLock()
        self._pid = os.getpid()
        super().__init__(server.host, server.user, server.password, server.port, dj.config.database.use_tls)

    def connect(self) -> None:
        """Open the session, starting the embedded server where it is the one in use."""
        if self._server.home is not None:
            embedded.start(self._server.home)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="MariaDB is not officially supported")
            super().connect()
        self._pid = os.getpid()

    def ping(self) -> None:
        """Ask the server for a sign of life.

        Raises
        ------
        datajoint.errors.LostConnectionError
            The session is gone. (DataJoint's PostgreSQL adapter only returns False, which goes unnoticed.)
        """
        self._leave_parent()
        if self.adapter.ping(self._conn) is False:
            raise dj.errors.LostConnectionError("The server does not answer.")

    def query(self, *args: Any, **kwargs: Any) -> Any:
        """Execute one statement; see :meth:`datajoint.Connection.query`.

        Raises
        ------
        datajoint.errors.LostConnectionError
            The session was lost in a transaction, of which nothing is kept. Outside one it is opened again.
        """
        self._leave_parent()
        with self._turn:
            try:
                return super().query(*args, **kwargs)
            except Exception as error:
                # DataJoint does not know all the words in which psycopg2 says that a session is gone.
                if not getattr(self._conn, "closed", 0):
                    raise
                in_transaction, self._in_transaction = self._in_transaction, False
                self.connect()
                if in_transaction:
                    raise dj.errors.LostConnectionError(
                        "The session was lost in a transaction, of which nothing was kept: do it again."
                    ) from error
            return super().query(*args, **kwargs)

    def _leave_parent(self) -> None:
        """Open a session of one's own in a forked child: one word on the parent's socket would break the parent's."""
        if self._pid != os.getpid():
            self._turn = threading.RLock()
            self.connect()


def settings() -> Settings:
    """Read the variables ``GENICULATE_...`` of the environment that `Settings` names.

    Returns
    -------
    Settings
        The home folder is absolute and need not exist; by default ``~/.geniculate``, as root ``/var/lib/geniculate``.

    Raises
    ------
    ConfigurationError
        The prefix is not a lower-case name of at most 32 letters, digits and underscores, or a number is none.
    """
    default = "/var/lib/geniculate" if os.geteuid() == 0 else "~/.geniculate"
    home = Path(os.environ.get("GENICULATE_HOME") or default).expanduser().absolute()
    prefix = os.environ.get("GENICULATE_PREFIX") or "geniculate"
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,31}", prefix):
        raise ConfigurationError(
            f"GENICULATE_PREFIX is {prefix!r}: use a lower-case letter and then at most 31 lower-case letters, digits "
            "or underscores."
        )
    memory = _number("GENICULATE_DATA_MEMORY", "4", "a number of GiB, such as 4 or 0.5")
    seconds = _number("GENICULATE_CHECKPOINT_SECONDS", "60", "a number of seconds, such as 60")
    epochs = _number("GENICULATE_CHECKPOINT_EPOCHS", "0", "a number of epochs, such as 5, or 0 for none")
    hooks = os.environ.get("GENICULATE_EPOCH_HOOKS") or ""
    return Settings(home, prefix, int(memory * 2**30), seconds, int(epochs) or None, hooks)


def _number(variable: str, default: str, wanted: str) -> float:
    text = os.environ.get(variable) or default
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not (0 <= number < math.inf):
        raise ConfigurationError(f"{variable} is {text!r}: give {wanted}.")
    return number


def datasets_root() -> Path:
    """The folder that holds the converted datasets: ``GENICULATE_DATASETS``, by default ``datasets`` in the home."""
    named = os.environ.get("GENICULATE_DATASETS")
    return Path(named).expanduser().absolute() if named else settings().home / "datasets"


def is_embedded() -> bool:
    """Whether the embedded server is the one in use: no server is configured. Touches no server."""
    return _configured_host() is None


def connect() -> Connection:
    """The connection that all tables share; opened by the first call.

    Returns
    -------
    Connection
        Also DataJoint's own (``dj.conn()``). A call in a forked child or after the server was lost gives a working
        session again.

    Raises
    ------
    ServerUnavailableError
        The configured server cannot be reached or refuses the user.
    ConnectionRefusedByDesign
        The configured server is MariaDB or a MySQL before version 8.
    EmbeddedServerError
        The embedded server cannot be started.
    """
    global _connection
    with _guard:
        if _connection is None:
            _connection = new_connection()
            _instance._singleton_connection = _connection
            _use_store()
        elif not _connection.is_connected:
            _open(_connection.connect)
        return _connection


def new_connection() -> Connection:
    """Open one more session of one's own on the same server, such as for a heartbeat beside a long transaction.

    Returns
    -------
    Connection
        The caller closes it.

    Raises
    ------
    ServerUnavailableError, ConnectionRefusedByDesign, EmbeddedServerError
        As for :func:`connect`.
    """
    global _server
    with _guard:
        if _server is None:
            _server = _find_server()
        server = _server
    connection: Connection = _open(lambda: Connection(server))
    _refuse_unsuitable(connection)
    return connection


def server_description() -> str:
    """Name the server in use for people, as ``embedded PostgreSQL 18 under /home/...`` or ``MySQL 8.4.2 at db:3306``.

    Raises
    ------
    ServerUnavailableError, ConnectionRefusedByDesign, EmbeddedServerError
        As for :func:`connect`.
    """
    connection = connect()
    version = _version(connection)
    if connection.adapter.backend == "postgresql":
        version = " ".join(version.split()[:2])
        if is_embedded():
            return f"embedded {version} under {settings().home}"
    else:
        version = f"MySQL {version}"
    return f"{version} at {connection.conn_info['host']}:{connection.conn_info['port']}"


def embedded_status() -> embedded.EmbeddedStatus:
    """Tell whether the embedded server of ``GENICULATE_HOME`` runs; starts nothing."""
    return embedded.status(settings().home)


def stop_embedded() -> bool:
    """Stop the embedded server of ``GENICULATE_HOME``, whichever process started it.

    Returns
    -------
    bool
        True where a running server was stopped.
    """
    return embedded.stop(settings().home)


def schema(module: str) -> dj.Schema:
    """Connect and activate the schema of one module; its tables are declared one process at a time.

    Parameters
    ----------
    module : str
        The module's name, such as ``model``: the schema is ``<prefix>_model``.

    Returns
    -------
    datajoint.Schema
        Decorates the module's table classes. Each computed table gets its queue (the ``~~`` table) with it.

    Raises
    ------
    ServerUnavailableError, ConnectionRefusedByDesign, EmbeddedServerError
        As for :func:`connect`.
    OutdatedTablesError
        When a table is decorated that another version has declared with other columns.
    """
    return _Schema(f"{settings().prefix}_{module}", connection=connect())


class _Schema(dj.Schema):
    """A schema that holds the declaration lock while it makes itself, a table, its parts or its queue."""

    def activate(self, schema_name: str | None = None, **kwargs: Any) -> None:
        with declaration_lock(kwargs.get("connection") or self.connection or connect()):
            super().activate(schema_name, **kwargs)

    def __call__(self, cls: _Table, *, context: dict[str, Any] | None = None) -> _Table:
        frame = inspect.currentframe()
        if frame is None or frame.f_back is None:
            raise RuntimeError("This Python has no frames, which DataJoint needs to declare tables.")
        context = context or self.context or frame.f_back.f_locals
        with declaration_lock(self.connection):
            declared = super().__call__(cls, context=context)
            if issubclass(cls, (Computed, Imported)) and dj.config.database.create_tables:
                _declare_queue(cls)
        refuse_outdated(cls)
        return declared


def _declare_queue(table: type[Computed] | type[Imported]) -> None:
    """Make the queue (``~~`` table) of a computed table, without DataJoint's warning about its own column types."""
    logger = logging.getLogger("datajoint")

    def about_others(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith("Native type")

    logger.addFilter(about_others)
    try:
        _ = table.jobs  # reading the attribute declares the queue
    finally:
        logger.removeFilter(about_others)


@contextlib.contextmanager
def declaration_lock(connection: dj.Connection) -> Iterator[None]:
    """Hold the server-wide lock under which tables are declared; may be nested.

    DataJoint looks whether a table exists and then makes it, which fails where two processes do so at once.

    Parameters
    ----------
    connection : datajoint.Connection
        The session that holds the lock; it is released with the session at the latest.

    Raises
    ------
    ServerUnavailableError
        Another process has held the lock for ten minutes.
    """
    name: str | int = f"geniculate:{settings().prefix}"
    take, release = "SELECT GET_LOCK(%s, 1)", "SELECT RELEASE_LOCK(%s)"
    if connection.adapter.backend == "postgresql":
        name = int.from_bytes(hashlib.sha256(str(name).encode()).digest()[:8], "big", signed=True)
        take, release = "SELECT pg_try_advisory_lock(%s)", "SELECT pg_advisory_unlock(%s)"
    deadline = time.monotonic() + _LOCK_SECONDS
    while not connection.query(take, (name,)).fetchone()[0]:
        if time.monotonic() > deadline:
            raise ServerUnavailableError(
                f"Another process has been declaring tables of {settings().prefix!r} for {_LOCK_SECONDS:.0f} s: look "
                "for a hanging one and end it."
            )
        time.sleep(0.02)
    try:
        yield
    finally:
        # A lost session has lost the lock too; its own error is the one to see.
        with contextlib.suppress(dj.errors.LostConnectionError):
            connection.query(release, (name,))


def _configured_host() -> str | None:
    """The host that DataJoint's settings name, None where they name none (its default is no one's wish)."""
    if _server is not None:
        return None if _server.home is not None else _server.host
    if "host" in dj.config.database.model_fields_set:
        return dj.config.database.host.strip() or None
    if dj.config.ignore_config_file:
        return None
    return read_secret_file(find_secrets_dir(find_config_file()), "database.host")


def _find_server() -> _Server:
    """Take the configured server, or start the embedded one and tell DataJoint's settings of it."""
    database = dj.config.database
    host = _configured_host()
    if host is None:
        home = settings().home
        folder = embedded.start(home)
        database.backend, database.host, database.port = "postgresql", str(folder), embedded.PORT
        database.user, database.password, database.name = embedded.USER, "unused", None
        database.use_tls = False
        return _Server(str(folder), embedded.PORT, embedded.USER, "unused", "postgresql", home)
    database.host = host
    if database.user is None or database.password is None:
        missing = "user (DJ_USER)" if database.user is None else "password (DJ_PASS)"
        raise ServerUnavailableError(
            f"The server {host} is configured, but not its {missing}: set it, or unset the host to use the embedded "
            "server."
        )
    password = database.password.get_secret_value()
    return _Server(host, database.port, database.user, password, database.backend)


def _open(opener: Any) -> Any:
    """Open a session; the drivers' errors become one sentence that names host and user."""
    try:
        return opener()
    except GeniculateError:
        raise
    except Exception as error:
        if not isinstance(error, (dj.DataJointError, OSError)) and "OperationalError" not in type(error).__name__:
            raise
        database = dj.config.database
        lines = str(error.args[-1] if error.args else error).strip().splitlines()
        reason = lines[-1].strip().rstrip(".") if lines else type(error).__name__
        raise ServerUnavailableError(
            f"No connection to {database.backend} at {database.host}:{database.port} as {database.user!r}: {reason}. "
            "Check DJ_HOST, DJ_PORT, DJ_USER and DJ_PASS (or datajoint.json); without them the embedded server is used."
        ) from None


def _version(connection: dj.Connection) -> str:
    return str(connection.query("SELECT version()").fetchone()[0])


def _refuse_unsuitable(connection: dj.Connection) -> None:
    """Refuse servers on which rows would be lost or definitions fail."""
    if connection.adapter.backend != "mysql":
        return
    version = _version(connection)
    where = f"{connection.conn_info['host']}:{connection.conn_info['port']}"
    remedy = "use MySQL 8 or later, or unset DJ_HOST for the embedded server."
    if "mariadb" in version.lower():
        connection.close()
        raise ConnectionRefusedByDesign(
            f"The server at {where} is MariaDB ({version}), on which DataJoint 2 cannot keep values in stores "
            f"(<blob@{STORE}>) because MariaDB keeps JSON as text: {remedy}"
        )
    if int(version.split(".")[0]) < 8:
        connection.close()
        raise ConnectionRefusedByDesign(f"The server at {where} is MySQL {version}, too old for DataJoint 2: {remedy}")


def _use_store() -> None:
    """Keep the configured store ``main``; where none is, make one of files in the home folder."""
    if STORE in dj.config.stores:
        return
    folder = settings().home / "store"
    folder.mkdir(parents=True, exist_ok=True)
    dj.config.stores = {**dj.config.stores, STORE: {"protocol": "file", "location": str(folder)}}
