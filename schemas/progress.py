"""Progress bars of the makes: on a terminal or in a notebook, silent in a log file."""

from __future__ import annotations

from typing import Any

from tqdm.auto import tqdm


def bar(total: int | None, what: str, unit: str) -> Any:
    """Return a tqdm bar that shows only where somebody can watch it."""
    return tqdm(total=total, desc=what, unit=unit, leave=False, disable=None, dynamic_ncols=True)
