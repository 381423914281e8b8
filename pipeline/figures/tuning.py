"""Tuning curves: round ones for orientation and direction, lines for frequency and size."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.projections.polar import PolarAxes

from pipeline.figures.checks import FigureError, as_array, same_length
from pipeline.figures.style import PREDICTED, QUIET, VALIDATION, styled

_IN_A_ROW = 5


@styled
def direction_tuning(
    curves: np.ndarray,
    directions: np.ndarray,
    unit_names: Sequence[str],
    *,
    preferred: np.ndarray | None = None,
    selectivity: np.ndarray | None = None,
    selectivity_label: str = "1 \N{MINUS SIGN} CV",
) -> Figure:
    """Draw each unit's responses to directions around a circle, in units of the largest.

    Directions over 180 degrees are those of images; each is drawn at both ends of its line.

    Parameters
    ----------
    curves : ndarray
        (unit, direction), 0 or positive.
    directions : ndarray
        (direction,), degrees counter-clockwise, 0 to the right, evenly spaced.
    unit_names : sequence of str
        (unit,).
    preferred : ndarray, optional
        (unit,), degrees as those of the curves, drawn as a line from the centre; NaN is left out. The orientation of
        stripes lies across, 90 degrees away.
    selectivity : ndarray, optional
        (unit,), written below the name.
    selectivity_label : str
        What it is.

    Raises
    ------
    FigureError
        Shapes disagree.
    """
    curves = as_array("curves", curves, "unit", "direction")
    directions = as_array("directions", directions, "direction")
    same_length("unit", curves=curves, unit_names=unit_names)
    same_length("direction", curves=curves[0], directions=directions)
    for name, values in (("preferred", preferred), ("selectivity", selectivity)):
        if values is not None:
            same_length("unit", curves=curves, **{name: as_array(name, values, "unit")})
    half = directions.max() < 180
    angles = np.concatenate([directions, directions + 180]) if half else directions
    columns = min(len(curves), _IN_A_ROW)
    rows = -(-len(curves) // columns)
    figure = Figure(figsize=(1.75 * columns + 0.2, 2.15 * rows + 0.25), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, subplot_kw={"projection": "polar"}).ravel()
    for unit, axes in enumerate(grid):
        assert isinstance(axes, PolarAxes)
        if unit >= len(curves):
            axes.set_axis_off()
            continue
        axes.set(ylim=(0, 1.05), yticks=[0.5, 1], yticklabels=[])
        axes.set_xticks(np.deg2rad([0, 90, 180, 270]), ["0°", "90°", "180°", "270°"], fontsize=6.5)
        axes.tick_params(pad=-3)
        axes.grid(color="#dddddd", linewidth=0.6)
        axes.spines["polar"].set_color("#bbbbbb")
        title = unit_names[unit]
        if selectivity is not None:
            value = f"{selectivity[unit]:.2f}" if np.isfinite(selectivity[unit]) else "undefined"
            title += f"\n{selectivity_label} {value}"
        axes.set_title(title, fontsize=7.5, loc="center", pad=6)
        largest = float(np.nanmax(curves[unit], initial=0))
        if largest <= 0:
            axes.text(0.5, 0.62, "not driven", transform=axes.transAxes, ha="center", fontsize=7, color="#666666")
            continue
        curve = np.tile(curves[unit], 2) if half else curves[unit]
        around = np.deg2rad(np.append(angles, angles[0] + 360))
        axes.plot(around, np.append(curve, curve[0]) / largest, color=VALIDATION, linewidth=1.2)
        if preferred is not None and np.isfinite(preferred[unit]):
            ends = (preferred[unit], preferred[unit] + 180) if half else (preferred[unit],)
            for end in ends:
                axes.plot(np.deg2rad([end, end]), [0, 1], color=PREDICTED, linewidth=1.2)
    word = "Across the stripes" if half else "Direction of drift"
    figure.supxlabel(f"{word} (degrees); radius: response above grey, of the largest", fontsize=8)
    return figure


@styled
def tuning_lines(
    curves: np.ndarray,
    values: np.ndarray,
    unit_names: Sequence[str],
    *,
    label: str,
    preferred: np.ndarray | None = None,
    notes: Sequence[str] | None = None,
    response_label: str = "Response above grey\n(normalised responses)",
) -> Figure:
    """Draw each unit's responses over a quantity with a logarithmic axis: frequency, or diameter.

    Parameters
    ----------
    curves : ndarray
        (unit, value).
    values : ndarray
        (value,), positive and ascending.
    unit_names : sequence of str
        (unit,).
    label : str
        What the values are, with their unit, such as 'Diameter (degrees)'.
    preferred : ndarray, optional
        (unit,), drawn as a vertical line; NaN is left out.
    notes : sequence of str, optional
        (unit,), written below the name, such as an index.
    response_label : str
        Of the vertical axes, with the unit.

    Raises
    ------
    FigureError
        Shapes disagree, or values cannot stand on a logarithmic axis.
    """
    curves = as_array("curves", curves, "unit", "value")
    values = as_array("values", values, "value")
    same_length("unit", curves=curves, unit_names=unit_names)
    same_length("value", curves=curves[0], values=values)
    if values[0] <= 0 or (np.diff(values) <= 0).any():
        raise FigureError("values must be positive and ascending: the axis is logarithmic.")
    if preferred is not None:
        preferred = as_array("preferred", preferred, "unit")
        same_length("unit", curves=curves, preferred=preferred)
    if notes is not None:
        same_length("unit", curves=curves, notes=notes)
    columns = min(len(curves), _IN_A_ROW)
    rows = -(-len(curves) // columns)
    figure = Figure(figsize=(1.75 * columns + 0.45, 1.55 * rows + 0.45), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True).ravel()
    ticks = values[:: max(-(-len(values) // 4), 1)]
    for unit, axes in enumerate(grid):
        if unit >= len(curves):
            axes.set_axis_off()
            continue
        axes.axhline(0, color="#dddddd", linewidth=0.8, zorder=0)
        axes.plot(values, curves[unit], color=VALIDATION, marker="o", markersize=2.6)
        if preferred is not None and np.isfinite(preferred[unit]):
            axes.axvline(preferred[unit], color=QUIET, linewidth=0.9, linestyle="--", zorder=1)
        axes.set_xscale("log")
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
        axes.tick_params(labelsize=6.5, labelbottom=unit + columns >= len(curves))
        if unit % columns == 0:
            axes.set_ylabel(response_label, fontsize=7.5)
        axes.set_title(unit_names[unit] + (f"\n{notes[unit]}" if notes else ""), fontsize=7.5, pad=3)
    figure.supxlabel(label, fontsize=8)
    return figure
