"""Recorded and predicted responses over time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from pipeline.figures.checks import FigureError, as_array, same_length
from pipeline.figures.style import LIGHT_ON, PREDICTED, RECORDED, rank_spread, styled, undefined_note


@styled
def predicted_and_recorded(
    time_s: np.ndarray,
    recorded: np.ndarray,
    predicted: np.ndarray,
    unit_names: Sequence[str],
    correlations: np.ndarray,
    *,
    rate_unit: str = "Hz",
    recorded_label: str = "recorded",
    max_units: int = 6,
    opto: np.ndarray | None = None,
) -> Figure:
    """Stack the responses of units spread from the best to the worst predicted, one row each.

    Parameters
    ----------
    time_s : ndarray
        (time,), seconds.
    recorded, predicted : ndarray
        (unit, time), in `rate_unit`; recorded is a repeat mean or a single trial.
    unit_names : sequence of str
        (unit,).
    correlations : ndarray
        (unit,); units whose correlation is NaN are not drawn but counted.
    rate_unit : str
        Unit of the responses.
    recorded_label : str
        For the legend, for example 'recorded, mean of 10 repeats'.
    max_units : int
        Rows at most.
    opto : ndarray, optional
        (time,), above 0 where the light was on.

    Raises
    ------
    FigureError
        Shapes disagree, or no unit has a defined correlation.
    """
    time_s = as_array("time_s", time_s, "time")
    recorded = as_array("recorded", recorded, "unit", "time")
    predicted = as_array("predicted", predicted, "unit", "time")
    correlations = as_array("correlations", correlations, "unit")
    same_length("unit", recorded=recorded, predicted=predicted, unit_names=unit_names, correlations=correlations)
    same_length("time", time_s=time_s, recorded=recorded[0], predicted=predicted[0])
    units = rank_spread(correlations, max_units)
    if not len(units):
        raise FigureError(f"All {len(correlations)} correlations are undefined (NaN): no unit can be ranked and shown.")
    on_spans = [] if opto is None else light_spans(time_s, opto)

    figure = Figure(figsize=(8.2, 0.75 + 0.92 * len(units)), layout="constrained")
    rows = figure.subplots(len(units), 1, sharex=True, squeeze=False)[:, 0]
    for rank, (axes, unit) in enumerate(zip(rows, units, strict=True)):
        for start, end in on_spans:
            axes.axvspan(start, end, color=LIGHT_ON, alpha=0.22, linewidth=0)
        axes.plot(time_s, recorded[unit], color=RECORDED, linewidth=1.0, label=recorded_label)
        axes.plot(time_s, predicted[unit], color=PREDICTED, linewidth=1.5, label="predicted")
        _name_row(axes, unit_names[unit], correlations[unit], _place(rank, len(units)))
    rows[-1].set_xlabel("Time (s)")
    rows[-1].set_xlim(time_s[0], time_s[-1])
    figure.supylabel(f"Response ({rate_unit})", fontsize=9)
    _legend(figure, rows[0], bool(on_spans), undefined_note(correlations))
    return figure


def light_spans(time_s: np.ndarray, opto: np.ndarray) -> list[tuple[float, float]]:
    """Return start and end (s) of every run of samples with the light on; a sample lasts until the next one.

    Parameters
    ----------
    time_s, opto : ndarray
        (time,).
    """
    time_s, opto = as_array("time_s", time_s, "time"), as_array("opto", opto, "time")
    same_length("time", time_s=time_s, opto=opto)
    changes = np.diff(np.concatenate([[False], opto > 0, [False]]).astype(np.int8))
    step = time_s[-1] - time_s[-2] if len(time_s) > 1 else 0.0
    edges = np.append(time_s, time_s[-1] + step)
    starts, ends = edges[np.flatnonzero(changes == 1)], edges[np.flatnonzero(changes == -1)]
    return [(float(start), float(end)) for start, end in zip(starts, ends, strict=True)]


def _place(rank: int, rows: int) -> str:
    """Name the first, middle and last rank."""
    if rows == 1 or rank == 0:
        return "best"
    if rank == rows - 1:
        return "worst"
    return "median" if rows % 2 and rank == rows // 2 else ""


def _name_row(axes: Axes, name: str, correlation: float, place: str) -> None:
    """Write the unit's name and score to the right of its row, away from the data."""
    axes.margins(y=0.08)
    axes.locator_params(axis="y", nbins=3)
    axes.annotate(
        f"{name}\nr = {correlation:.2f}" + (f"  ({place})" if place else ""),
        (1, 0.5), (8, 0), "axes fraction", "offset points", va="center", fontsize=8, linespacing=1.4,
    )  # fmt: skip


def _legend(figure: Figure, axes: Axes, has_light: bool, note: str) -> None:
    """Put one legend above all rows, and what is missing beside it."""
    handles, labels = axes.get_legend_handles_labels()
    if has_light:
        handles, labels = [*handles, Patch(color=LIGHT_ON, alpha=0.22, linewidth=0)], [*labels, "light on"]
    axes.legend(handles, labels, loc="lower left", bbox_to_anchor=(0, 1.02), ncols=len(handles), borderaxespad=0)
    if note:
        axes.set_title(note, loc="right", fontsize=8, color="#666666")
