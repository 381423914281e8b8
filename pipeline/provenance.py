"""Where a result came from: the code, the libraries and the machine that made it."""

from __future__ import annotations

import functools
import socket
import subprocess
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path


@dataclass(frozen=True)
class Provenance:
    """Code, libraries and machine.

    Attributes
    ----------
    version : str
        Of this package.
    commit : str
        Git commit of this package's folder; empty if it is installed without its history.
    dirty : bool or None
        Whether files differ from that commit; None without one.
    torch, datajoint, deeplake : str
        Versions of the libraries.
    host, device : str
        Machine and compute device.
    """

    version: str
    commit: str
    dirty: bool | None
    torch: str
    datajoint: str
    deeplake: str
    host: str
    device: str


def package_version(name: str = "geniculate") -> str:
    """Return the installed version of a package, or an empty string if it runs from a bare folder."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


@functools.cache
def _git_state() -> tuple[str, bool | None]:
    # Asked of the package's own folder: the current directory belongs to the user's notebook.
    folder = Path(__file__).resolve().parent.parent
    if not (folder / ".git").exists():
        return "", None

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD"), bool(git("status", "--porcelain", "--", "pipeline", "schemas", "populate"))
    except (OSError, subprocess.SubprocessError):
        return "", None


def provenance(device: str = "cpu") -> Provenance:
    """Return the provenance of what this process computes on ``device``."""
    import torch  # here, so that the command's --version need not wait for it; it tells the build (+cpu, +cu130) too

    commit, dirty = _git_state()
    return Provenance(
        version=package_version(),
        commit=commit,
        dirty=dirty,
        torch=torch.__version__,
        datajoint=package_version("datajoint"),
        deeplake=package_version("deeplake"),
        host=socket.gethostname(),
        device=device,
    )
