"""In which settings models differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from pipeline.configuration import Configuration
from pipeline.functions import FunctionConfiguration


def flat_settings(parts: Mapping[str, Configuration]) -> dict[str, Any]:
    """Return all settings of a model's parts in one mapping: ``core_kind``, ``core_layers``, ``train_lr_init`` ...

    Parameters
    ----------
    parts : mapping
        Name of each part, which becomes the prefix, to its configuration.
    """
    flat: dict[str, Any] = {}
    for name, part in parts.items():
        flat[f"{name}_kind"] = part.kind()
        flat |= {f"{name}_{setting}": value for setting, value in part.settings().items()}
    return flat


def differing_settings(models: Sequence[Mapping[str, Configuration]]) -> pd.DataFrame:
    """Return one row a model with the settings in which they differ; a setting that a kind lacks is None.

    Parameters
    ----------
    models : sequence of mapping
        For each model the configurations of its parts by name.

    Examples
    --------
    >>> from pipeline.models import Stacked2d
    >>> differing_settings([{"core": Stacked2d(layers=2)}, {"core": Stacked2d(layers=4)}])
       core_layers
    0            2
    1            4
    """
    rows = [flat_settings(parts) for parts in models]
    names = list(dict.fromkeys(name for row in rows for name in row))
    differing = [name for name in names if any(row.get(name) != rows[0].get(name) for row in rows)]
    # As objects: a number beside None would become a float, and 2 layers 2.0.
    return pd.DataFrame([[row.get(name) for name in differing] for row in rows], columns=differing, dtype=object)


def labels(parts: Sequence[Configuration | None]) -> list[str]:
    """Name parts by their kind, or their function, and the settings in which parts of that kind differ."""
    found = []
    for part in parts:
        if part is None:
            found.append("")
            continue
        same_kind = [other.settings() for other in parts if type(other) is type(part)]
        differing = [f"{n}={v}" for n, v in part.settings().items() if any(other[n] != v for other in same_kind)]
        name = part.function if isinstance(part, FunctionConfiguration) else part.kind()
        found.append(name + (f"({', '.join(differing)})" if differing else ""))
    return found
