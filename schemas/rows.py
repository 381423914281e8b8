"""From numbers to values that every server takes."""

from __future__ import annotations

import numpy as np


def null(value: float | np.floating) -> float | None:
    """Return a number as a float, and NaN or infinity as None: MySQL has no column for them, NULL says undefined."""
    return float(value) if np.isfinite(value) else None
