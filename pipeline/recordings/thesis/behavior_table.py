"""The behaviour table of the thesis format: running and pupil, one row for each scene or presentation."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.errors import RecordingError
from pipeline.recordings.base import Trace
from pipeline.recordings.checks import valid_length
from pipeline.recordings.thesis.pickles import read_pickled_frame
from pipeline.recordings.thesis.responses_table import Experiment, Presentation
from pipeline.recordings.thesis.table_columns import (
    read_array,
    read_intervals,
    require_columns,
    settle_nan,
    whole_numbers,
)

SIGNALS = ("run", "pupil_size", "pupil_x", "pupil_y")
SAME_TIME = 1e-6
"""Two tables mean the same presentation if their times differ by less than this (s)."""


def read_behavior(path: Path, experiment: Experiment, nan: str) -> tuple[tuple[dict[str, Trace], ...], tuple[str, ...]]:
    """Return the signals of each presentation, in the order of ``experiment.presentations``, and why it is excluded.

    Samples are spread evenly over the presentation: sample i of n stands at its start + (i + 0.5) / n of its duration.
    NaN at the end of a row is padding, and not counted, as long as the samples before it are as dense as in the other
    presentations; otherwise it is data that were lost.

    Parameters
    ----------
    path : Path
        The pickle. Where it has a column u, a presentation may have one row for each unit, all alike.
    experiment : Experiment
    nan : str
        One of `pipeline.recordings.checks.NAN_RULES`.

    Raises
    ------
    RecordingError
        If a column or row is missing, a row is doubtful, or a sample is NaN against the rule; the message names signal
        and scene.
    """
    table = read_pickled_frame(path)
    require_columns(table, ("scene_id", "m", "s"), path)
    names = [name for name in SIGNALS if name in table.columns]
    if not names:
        raise RecordingError(f"{path} has no column {', '.join(SIGNALS)}: at least one is needed")
    table = _rows_of_experiment(table, experiment, path)
    _check_repeats(experiment.presentations, table, path)
    rows = _rows_of_presentations(table, experiment.presentations, names, path)
    wheres = [
        f"scene {showing.scene_id} at [{showing.start}, {showing.stop}] s" for showing in experiment.presentations
    ]
    samples = [
        {name: _read_samples(table[name].iat[row], f"{path}: {name} of {where}") for name in names}
        for row, where in zip(rows, wheres, strict=True)
    ]
    _cut_padding(samples, np.array([showing.stop - showing.start for showing in experiment.presentations]))
    signals, exclusions = [], []
    for showing, where, values in zip(experiment.presentations, wheres, samples, strict=True):
        settled = {name: settle_nan(one, nan, f"{path}: {name} of {where}") for name, one in values.items()}
        signals.append({name: _spread(one, showing) for name, (one, _) in settled.items()})
        excluded = [name for name, (_, is_excluded) in settled.items() if is_excluded]
        exclusions.append(f"NaN in {', '.join(excluded)}" if excluded else "")
    return tuple(signals), tuple(exclusions)


def _rows_of_experiment(table: pd.DataFrame, experiment: Experiment, path: Path) -> pd.DataFrame:
    table = whole_numbers(table, [name for name in ("scene_id", "s", "e", "u") if name in table.columns], path)
    same = (table["m"].astype(str) == experiment.mouse) & (table["s"] == experiment.series)
    wanted = f"mouse {experiment.mouse}, series {experiment.series}"
    if "e" in table.columns:
        same &= table["e"] == experiment.experiment
        wanted += f", experiment {experiment.experiment}"
    if not same.any():
        raise RecordingError(f"{path} has no rows for {wanted}")
    return table[same].reset_index(drop=True)


def _check_repeats(presentations: tuple[Presentation, ...], table: pd.DataFrame, path: Path) -> None:
    shown = Counter(showing.scene_id for showing in presentations)
    repeated = sorted(scene for scene, times in shown.items() if times > 1)
    if repeated and "trange" not in table.columns:
        raise RecordingError(
            f"{path}: scene {repeated[0]} was shown {shown[repeated[0]]} times ({len(repeated)} scenes repeat), "
            "so the behaviour table needs a column trange ([start, end] in s) to tell the presentations apart"
        )


def _rows_of_presentations(
    table: pd.DataFrame, presentations: tuple[Presentation, ...], names: list[str], path: Path
) -> list[int]:
    """Return the row of each presentation; the first of those that the units have, which must be alike."""
    scenes = table["scene_id"].tolist()
    shown = read_intervals(table["trange"], lambda row: f"{path}: scene {scenes[row]}") if "trange" in table else None
    of_scene: dict[int, list[int]] = defaultdict(list)
    for row, scene in enumerate(scenes):
        of_scene[scene].append(row)
    rows = []
    for showing in presentations:
        found = np.array(of_scene[showing.scene_id], np.int64)
        if shown is not None:
            found = found[(np.abs(shown[found] - (showing.start, showing.stop)) < SAME_TIME).all(axis=1)]
        where = f"scene {showing.scene_id} at [{showing.start}, {showing.stop}] s"
        by_unit = "u" in table and table["u"].iloc[found].is_unique
        if not len(found) or (len(found) > 1 and not by_unit):
            raise RecordingError(
                f"{path}: {where} has {len(found) or 'no'} rows of behaviour; each presentation needs exactly one, or "
                "one for each unit (column u)"
            )
        for name in names:
            cells = [read_array(table[name].iat[row], f"{path}: {name} of {where}") for row in found]
            if not all(np.array_equal(cell, cells[0], equal_nan=True) for cell in cells[1:]):
                raise RecordingError(f"{path}: {name} of {where} differs between the rows of its units")
        rows.append(int(found[0]))
    return rows


def _read_samples(value: object, where: str) -> np.ndarray:
    samples = read_array(value, where)
    if samples.ndim != 1 or samples.size == 0:
        raise RecordingError(f"{where} is {value!r}, not an array of samples")
    return samples


def _cut_padding(samples: list[dict[str, np.ndarray]], durations: np.ndarray) -> None:
    """Shorten arrays by the NaN at their ends, but not below the density (samples/s) that is usual in the table."""
    lengths = [_valid_lengths(values) for values in samples]
    for name in samples[0]:
        usual = float(np.median([length[name] for length in lengths] / durations))
        for values, length, duration in zip(samples, lengths, durations, strict=True):
            expected = round(usual * duration)
            kept = length[name] if length[name] >= expected - 1 else expected
            values[name] = values[name][: max(kept, 1)]


def _valid_lengths(values: dict[str, np.ndarray]) -> dict[str, int]:
    """Return how many samples come before padding; where all signals are equally long, it is padding in all of them."""
    if len({one.size for one in values.values()}) > 1:
        return {name: valid_length(one) for name, one in values.items()}
    return dict.fromkeys(values, valid_length(np.stack(list(values.values()))))


def _spread(values: np.ndarray, showing: Presentation) -> Trace:
    step = (showing.stop - showing.start) / values.size
    return Trace(times=showing.start + (np.arange(values.size) + 0.5) * step, values=values)
