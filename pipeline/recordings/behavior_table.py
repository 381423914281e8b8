"""The behaviour table of the thesis format: running and pupil, one row for each scene or presentation."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline.errors import RecordingError
from pipeline.recordings.base import Trace
from pipeline.recordings.pickles import read_pickled_frame
from pipeline.recordings.responses_table import (
    Presentation,
    ResponseTable,
    read_array,
    read_interval,
    require_columns,
    whole_numbers,
)

SIGNALS = ("run", "pupil_size", "pupil_x", "pupil_y")
SAME_TIME = 1e-6
"""Two tables mean the same presentation if their times differ by less than this (s)."""


def read_behavior(path: Path, responses: ResponseTable) -> tuple[dict[str, Trace], ...]:
    """Return the signals of each presentation, in the order of ``responses.presentations``.

    Samples are spread evenly over the presentation: sample i of n stands at its start + (i + 0.5) / n of its duration.

    Raises
    ------
    RecordingError
        If a column or row is missing, a row is doubtful, or a sample is NaN; the message names signal and scene.
    """
    table = read_pickled_frame(path)
    require_columns(table, ("scene_id", "m", "s", *SIGNALS), path)
    table = whole_numbers(table, [name for name in ("scene_id", "s", "e") if name in table.columns], path)
    same = (table["m"].astype(str) == responses.mouse) & (table["s"] == responses.series)
    wanted = f"mouse {responses.mouse}, series {responses.series}"
    if "e" in table.columns:
        same &= table["e"] == responses.experiment
        wanted += f", experiment {responses.experiment}"
    records: list[dict[str, Any]] = table[same].to_dict("records")
    if not records:
        raise RecordingError(f"{path} has no rows for {wanted}")
    _check_repeats(responses.presentations, table, path)
    of_scene: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for record in records:
        of_scene[record["scene_id"]].append(record)
    rows = [_row_of(showing, of_scene[showing.scene_id], path) for showing in responses.presentations]
    return tuple(
        {signal: _read_trace(row[signal], signal, showing, path) for signal in SIGNALS}
        for row, showing in zip(rows, responses.presentations, strict=True)
    )


def _check_repeats(presentations: tuple[Presentation, ...], table: pd.DataFrame, path: Path) -> None:
    shown = Counter(showing.scene_id for showing in presentations)
    repeated = sorted(scene for scene, times in shown.items() if times > 1)
    if repeated and "trange" not in table.columns:
        raise RecordingError(
            f"{path}: scene {repeated[0]} was shown {shown[repeated[0]]} times ({len(repeated)} scenes repeat), "
            "so the behaviour table needs a column trange ([start, end] in s) to tell the presentations apart"
        )


def _row_of(showing: Presentation, found: list[dict[str, Any]], path: Path) -> dict[str, Any]:
    """Return the one of a scene's rows that belongs to a presentation."""
    where = f"{path}: scene {showing.scene_id}"
    if found and "trange" in found[0]:
        found = [
            row for row in found
            if np.abs(np.subtract(read_interval(row["trange"], where), (showing.start, showing.stop))).max() < SAME_TIME
        ]  # fmt: skip
    if len(found) != 1:
        raise RecordingError(
            f"{where} at [{showing.start}, {showing.stop}] s has {len(found) or 'no'} rows of behaviour; "
            "each presentation needs exactly one"
        )
    return found[0]


def _read_trace(value: Any, signal: str, showing: Presentation, path: Path) -> Trace:
    where = f"{path}: {signal} of scene {showing.scene_id} at [{showing.start}, {showing.stop}] s"
    values = read_array(value, where)
    if values.ndim != 1 or values.size == 0:
        raise RecordingError(f"{where} is {value!r}, not an array of samples")
    bad = ~np.isfinite(values)
    if bad.any():
        raise RecordingError(
            f"{where}: {int(bad.sum())} of {values.size} samples are NaN or infinite, the first is "
            f"sample {int(bad.argmax())}; interpolate them, or leave the trial out of both tables"
        )
    step = (showing.stop - showing.start) / values.size
    return Trace(times=showing.start + (np.arange(values.size) + 0.5) * step, values=values)
