"""Where in the visual field the readouts look, and which features they use."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from scipy.cluster.hierarchy import leaves_list, linkage

from pipeline.figures.checks import FigureError, as_array, same_length
from pipeline.figures.style import QUIET, RECORDED, styled, undefined_note


@styled
def readout_positions(
    x_deg: np.ndarray,
    y_deg: np.ndarray,
    value: np.ndarray,
    value_label: str,
    *,
    screen_deg: tuple[float, float],
    true_x_deg: np.ndarray | None = None,
    true_y_deg: np.ndarray | None = None,
) -> Figure:
    """Draw every unit's readout position on the outline of the screen, whose centre is (0, 0).

    Parameters
    ----------
    x_deg, y_deg : ndarray
        (unit,), degrees of visual angle, right and up positive. Units without a position are counted, not drawn.
    value : ndarray
        (unit,), shown as colour; NaN is drawn as an open circle.
    value_label : str
        What the colour means, with its unit.
    screen_deg : tuple of float
        (width, height) of the screen in degrees.
    true_x_deg, true_y_deg : ndarray, optional
        (unit,), the real positions of simulated units; a line joins each to its estimate.

    Raises
    ------
    FigureError
        Shapes disagree, or only one of the true coordinates is given.
    """
    x_deg, y_deg = as_array("x_deg", x_deg, "unit"), as_array("y_deg", y_deg, "unit")
    value = as_array("value", value, "unit")
    same_length("unit", x_deg=x_deg, y_deg=y_deg, value=value)
    if (true_x_deg is None) != (true_y_deg is None):
        raise FigureError("Give both true_x_deg and true_y_deg, or neither.")
    placed = np.isfinite(x_deg) & np.isfinite(y_deg)
    graded = placed & np.isfinite(value)
    width, height = screen_deg

    figure = Figure(figsize=(6.6, 0.72 + 5.3 * height / width), layout="constrained")
    axes = figure.subplots()
    axes.add_patch(Rectangle((-width / 2, -height / 2), width, height, facecolor="#f4f4f2", edgecolor="#999999"))
    axes.axhline(0, color="white", linewidth=1.2, zorder=1)
    axes.axvline(0, color="white", linewidth=1.2, zorder=1)
    if true_x_deg is not None and true_y_deg is not None:
        same_length("unit", x_deg=x_deg, true_x_deg=true_x_deg, true_y_deg=true_y_deg)
        axes.plot([true_x_deg, x_deg], [true_y_deg, y_deg], color=QUIET, linewidth=0.8, zorder=2)
        axes.scatter(true_x_deg, true_y_deg, marker="+", s=34, color=RECORDED, linewidths=1.1, zorder=3, label="true")
    points = axes.scatter(
        x_deg[graded], y_deg[graded], c=value[graded], s=38, cmap="viridis", zorder=4, linewidths=0.6,
        edgecolors="white", label="readout", norm=_limits(value[graded]),
    )  # fmt: skip
    open_ones = placed & ~graded
    if open_ones.any():
        axes.scatter(
            x_deg[open_ones], y_deg[open_ones], s=30, facecolors="none", edgecolors=RECORDED, zorder=4,
            label=undefined_note(value[placed]),
        )  # fmt: skip
    figure.colorbar(points, ax=axes, label=value_label, shrink=0.75, aspect=22, pad=0.015).outline.set_visible(False)
    axes.set(xlabel="Horizontal position (degrees)", ylabel="Vertical position (degrees)", aspect="equal")
    axes.set(xlim=(-0.53 * width, 0.53 * width), ylim=(-0.53 * height, 0.53 * height))
    missing = undefined_note(np.where(placed, 0.0, np.nan)).replace("undefined", "without a position")
    axes.set_title(f"{np.count_nonzero(placed)} units" + (f", {missing}" if missing else ""), fontsize=9)
    if true_x_deg is not None or open_ones.any():
        axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=3, borderaxespad=0.2)
    return figure


@styled
def feature_weights(matrix: np.ndarray, unit_names: Sequence[str], *, weight_label: str = "Readout weight") -> Figure:
    """Show the feature weights of all units, units and channels in the order of their similarity.

    Parameters
    ----------
    matrix : ndarray
        (unit, channel). Units with an undefined weight are left out and counted.
    unit_names : sequence of str
        (unit,).
    weight_label : str
        For the colour bar.

    Raises
    ------
    FigureError
        Shapes disagree, or no unit has all its weights defined.
    """
    matrix = as_array("matrix", matrix, "unit", "channel")
    same_length("unit", matrix=matrix, unit_names=unit_names)
    whole = np.flatnonzero(np.isfinite(matrix).all(axis=1))
    if not len(whole):
        raise FigureError("No unit has all its feature weights defined: nothing to draw.")
    units, channels = whole[similarity_order(matrix[whole])], similarity_order(matrix[whole].T)
    limit = float(np.abs(matrix[whole]).max()) or 1.0
    few = len(units) <= 60

    figure = Figure(figsize=(7.2, float(np.clip(1.2 + 0.15 * len(units), 2.6, 7.5))), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(
        matrix[np.ix_(units, channels)], cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto", interpolation="nearest"
    )
    if few:
        axes.set_yticks(range(len(units)), [unit_names[unit] for unit in units], fontsize=6.5)
        axes.tick_params(axis="y", length=0)
    if len(channels) <= 40:
        axes.set_xticks(range(len(channels)), [str(channel) for channel in channels], fontsize=6.5)
        axes.tick_params(axis="x", length=0)
    else:
        axes.set_xticks([])
    axes.spines[:].set_visible(False)
    axes.set_xlabel("Channel of the core, by similarity")
    axes.set_ylabel("Unit" if few else f"Unit, by similarity (n = {len(units)})")
    note = undefined_note(matrix.sum(axis=1))
    if note:
        axes.set_title(note, fontsize=8, color="#666666")
    figure.colorbar(image, ax=axes, label=weight_label, shrink=0.75, aspect=22, pad=0.015).outline.set_visible(False)
    return figure


def similarity_order(rows: np.ndarray) -> np.ndarray:
    """Return the order of rows that puts similar ones side by side.

    Average linkage on the cosine distance, with the leaves turned so that neighbours are closest
    (Bar-Joseph, Gifford and Jaakkola 2001). Rows of zeros have no direction and go last.

    Parameters
    ----------
    rows : ndarray
        (row, feature), finite.
    """
    norms = np.linalg.norm(rows, axis=1)
    directed = np.flatnonzero(norms > 0)
    rest = np.flatnonzero(norms == 0)
    if len(directed) < 3:
        return np.concatenate([directed, rest])
    directions = rows[directed] / norms[directed, None]
    # On unit vectors the squared Euclidean distance is twice the cosine distance, and needs no guard against rounding.
    tree = linkage(directions, "average", metric="sqeuclidean", optimal_ordering=True)
    return np.concatenate([directed[leaves_list(tree)], rest])


def _limits(values: np.ndarray) -> Normalize:
    """Colour limits, widened where all values are the same."""
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    return Normalize(low, high if high > low else low + 1.0)
