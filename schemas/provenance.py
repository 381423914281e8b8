"""The columns by which a computed row says where it came from.

Each table prefixes them with its own name, so that joins of computed tables stay possible.
"""

from __future__ import annotations

from typing import Any

from pipeline.provenance import provenance

_COLUMNS = (
    ("version", "varchar(32)", "version of geniculate"),
    ("commit", "varchar(40)", "git commit of geniculate, empty if installed without its history"),
    ("dirty=null", "bool", "whether its files differed from that commit"),
    ("torch", "varchar(32)", "version of torch"),
    ("datajoint", "varchar(32)", "version of datajoint"),
    ("deeplake", "varchar(32)", "version of deeplake"),
    ("host", "varchar(255)", "machine that computed this row"),
    ("device", "varchar(64)", "compute device"),
)


def provenance_columns(table: str) -> str:
    """Return the lines of a definition for the columns of ``table``, and the seconds that it took."""
    lines = [f"{table}_{name} : {declared}  # {meaning}" for name, declared, meaning in _COLUMNS]
    return "\n".join([*lines, f"{table}_seconds : float64  # (s) time to compute this row"])


def provenance_row(table: str, seconds: float, device: str = "cpu") -> dict[str, Any]:
    """Return the values of those columns for something computed by this process just now."""
    made = provenance(device)
    row = {f"{table}_{name.removesuffix('=null')}": getattr(made, name.removesuffix("=null")) for name, *_ in _COLUMNS}
    return {**row, f"{table}_seconds": seconds}
