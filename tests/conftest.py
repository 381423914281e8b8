"""One database for the whole run: an embedded PostgreSQL in a temporary home, or the MySQL that is named.

``GENICULATE_TEST_MYSQL`` names it as ``host:port:user:password`` or ``mysql://user:password@host:port``. The
environment is set here, before any test imports a table; the user's own server and files are never touched.
"""

from __future__ import annotations

import os
import secrets
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest


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
