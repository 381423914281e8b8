from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from pipeline import provenance as module
from pipeline.provenance import package_version, provenance

ASK = "import json, pipeline.provenance as p; print(json.dumps([p.__file__, *p._git_state()]))"


def git(folder: Path, *arguments: str) -> str:
    settings = ["-c", "user.name=A", "-c", "user.email=a@b.invalid", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", *settings, "-C", str(folder), *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def state(package: Path, cwd: Path) -> tuple[str, bool | None]:
    """Ask a new process, elsewhere, that imports this copy of the package."""
    environment = os.environ | {"PYTHONPATH": str(package), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", ASK], cwd=cwd, env=environment, capture_output=True, text=True, check=True
    )
    file, commit, dirty = json.loads(done.stdout)
    assert Path(file).is_relative_to(package)
    return commit, dirty


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A folder with the package's provenance module alone."""
    package = tmp_path / "copy"
    (package / "pipeline").mkdir(parents=True)
    (package / "pipeline" / "__init__.py").touch()
    shutil.copy(module.__file__, package / "pipeline" / "provenance.py")
    return package


def test_libraries_and_machine() -> None:
    found = provenance("cuda:1")
    for name in ("torch", "datajoint", "deeplake"):
        assert getattr(found, name) == metadata.version(name) != ""
    assert (found.host, found.device, provenance().device) == (socket.gethostname(), "cuda:1", "cpu")
    assert package_version("there-is-no-such-package") == ""


def test_without_history_there_is_no_commit(copy: Path, tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet")  # the user's own repository, around an installed package
    assert state(copy, tmp_path) == ("", None)
    (copy / ".git").mkdir()  # not a repository
    assert state(copy, tmp_path) == ("", None)


def test_commit_and_changes_are_those_of_the_package_not_of_the_current_folder(copy: Path, tmp_path: Path) -> None:
    for folder in (copy, tmp_path / "notebook"):
        folder.mkdir(exist_ok=True)
        git(folder, "init", "--quiet")
    (copy / "schemas").mkdir()
    (copy / "schemas" / "model.py").touch()
    (copy / "populate").mkdir()
    (copy / "populate" / "cli.py").touch()
    git(copy, "add", ".")
    git(copy, "commit", "--quiet", "-m", "one")
    commit = git(copy, "rev-parse", "HEAD")
    (copy / "notes.txt").touch()  # no code
    assert state(copy, tmp_path / "notebook") == (commit, False)
    (copy / "schemas" / "model.py").write_text("changed = True\n")
    assert state(copy, tmp_path / "notebook") == (commit, True)
    git(copy, "commit", "--quiet", "-am", "two")
    assert state(copy, tmp_path / "notebook") == (git(copy, "rev-parse", "HEAD"), False)
    (copy / "populate" / "new.py").touch()
    assert state(copy, tmp_path / "notebook")[1] is True
