"""Where in the visual field the readouts look, and which features they use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from scipy.cluster.hierarchy import leaves_list, linkage

from pipeline.figures.checks import FigureError, as_array, same_length
from pipeline.figures.style import PALETTE, PREDICTED, QUIET, RECORDED, VALIDATION, styled, undefined_note

MINUS = "\N{MINUS SIGN}"
FEW_ROWS = 500
"""Rows whose order is made the best there is; among more, nobody sees single ones."""


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

    figure, axes = _screen(screen_deg)
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
    _count(axes, placed)
    if true_x_deg is not None or open_ones.any():
        axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=3, borderaxespad=0.2)
    return figure


@styled
def readout_positions_by_group(
    x_deg: np.ndarray,
    y_deg: np.ndarray,
    group: Sequence[str | None],
    group_label: str,
    *,
    screen_deg: tuple[float, float],
) -> Figure:
    """Draw every unit's readout position on the outline of the screen, in the colour of its group, such as its area.

    Parameters
    ----------
    x_deg, y_deg : ndarray
        (unit,), degrees of visual angle, right and up positive. Units without a position are counted, not drawn.
    group : sequence of str or None
        (unit,); None where unknown. More groups than there are colours repeat them with another marker.
    group_label : str
        What the groups are.
    screen_deg : tuple of float
        (width, height) of the screen in degrees.

    Raises
    ------
    FigureError
        Shapes disagree.
    """
    x_deg, y_deg = as_array("x_deg", x_deg, "unit"), as_array("y_deg", y_deg, "unit")
    same_length("unit", x_deg=x_deg, y_deg=y_deg, group=group)
    placed = np.isfinite(x_deg) & np.isfinite(y_deg)
    names = np.array(["unknown" if name is None else name for name in group])
    known = sorted({name for name in group if name is not None})

    figure, axes = _screen(screen_deg)
    for number, name in enumerate([*known, *(["unknown"] if len(known) < len(set(names)) else [])]):
        units = placed & (names == name)
        colour = QUIET if name == "unknown" else PALETTE[number % len(PALETTE)]
        axes.scatter(
            x_deg[units], y_deg[units], s=32, color=colour, marker="os^D"[number // len(PALETTE) % 4], zorder=4,
            linewidths=0.6, edgecolors="white", label=f"{name} ({np.count_nonzero(units)})",
        )  # fmt: skip
    _count(axes, placed)
    figure.legend(title=group_label, loc="outside right upper")
    return figure


@styled
def gaze_shifts(
    x_deg: np.ndarray,
    y_deg: np.ndarray,
    shifts_deg: Mapping[tuple[int, int], tuple[float, float]],
    *,
    screen_deg: tuple[float, float],
    arrows: int = 40,
) -> Figure:
    """Draw where readouts look at the mean eye position, and where they go when the eye moves by one std.

    Parameters
    ----------
    x_deg, y_deg : ndarray
        (unit,), positions without a shift, degrees of visual angle, right and up positive.
    shifts_deg : mapping
        Of horizontal and vertical eye position, (0, 0) and four of one std to each side, to the shift to the right and
        up (deg), the same for all units.
    screen_deg : tuple of float
        (width, height) of the screen in degrees.
    arrows : int
        Units at most that have arrows, evenly spaced from left to right.

    Raises
    ------
    FigureError
        Shapes disagree, an eye position is missing, or no unit has a position.
    """
    x_deg, y_deg = as_array("x_deg", x_deg, "unit"), as_array("y_deg", y_deg, "unit")
    same_length("unit", x_deg=x_deg, y_deg=y_deg)
    missing = [gaze for gaze in ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1)) if gaze not in shifts_deg]
    if missing:
        raise FigureError(f"The shift at the eye position {missing[0]} is missing.")
    placed = np.isfinite(x_deg) & np.isfinite(y_deg)
    if not placed.any():
        raise FigureError("No unit has a position: nothing to draw.")
    rest = np.array(shifts_deg[0, 0])
    x, y = x_deg[placed] + rest[0], y_deg[placed] + rest[1]
    shown = np.argsort(x, kind="stable")[np.unique(np.linspace(0, len(x) - 1, min(arrows, len(x))).round().astype(int))]

    figure, axes = _screen(screen_deg)
    axes.scatter(x, y, s=9, color=RECORDED, zorder=3, linewidths=0, alpha=0.6, label="mean")
    for axis, colour, name in ((0, VALIDATION, "horizontal"), (1, PREDICTED, "vertical")):
        for sign, alpha in ((1, 1.0), (-1, 0.4)):
            step = np.array(shifts_deg[(sign, 0) if axis == 0 else (0, sign)]) - rest
            axes.quiver(
                x[shown], y[shown], *np.tile(step, (len(shown), 1)).T, angles="xy", scale_units="xy", scale=1,
                width=0.0028, headwidth=4, headlength=4.5, headaxislength=4, color=colour, alpha=alpha, zorder=4,
                label=f"{name} {'+' if sign > 0 else MINUS}1 std: {np.hypot(*step):.1f}°",
            )  # fmt: skip
    _count(axes, placed)
    figure.legend(title="Eye position", loc="outside right upper")
    return figure


@styled
def spatial_masks(
    masks: np.ndarray,
    unit_names: Sequence[str],
    *,
    frame_px: tuple[int, int],
    first_place_px: tuple[float, float] = (0.0, 0.0),
    pitch_px: float = 1.0,
    columns: int = 6,
) -> Figure:
    """Show how units weigh places of the feature maps, each with a colour scale of its own, symmetric about zero.

    Parameters
    ----------
    masks : ndarray
        (unit, row, column).
    unit_names : sequence of str
        (unit,).
    frame_px : tuple of int
        Height and width of the stimulus, which every panel spans.
    first_place_px : tuple of float
        x and y of the maps' first place in the stimulus.
    pitch_px : float
        Pixels between neighbouring places.
    columns : int
        Panels side by side.

    Raises
    ------
    FigureError
        Shapes disagree.
    """
    masks = as_array("masks", masks, "unit", "row", "column")
    same_length("unit", masks=masks, unit_names=unit_names)
    columns = min(columns, len(masks))
    rows = -(-len(masks) // columns)
    height, width = frame_px
    left, top = (place - pitch_px / 2 for place in first_place_px)
    extent = (left, left + pitch_px * masks.shape[2], top + pitch_px * masks.shape[1], top)

    figure = Figure(figsize=(7.2, rows * (0.25 + 7.0 / columns * height / width) + 0.35), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    for axes in grid.flat[len(masks) :]:
        axes.set_axis_off()
    for axes, mask, name in zip(grid.flat, masks, unit_names, strict=False):
        limit = float(np.abs(mask).max()) or 1.0
        axes.set_facecolor("#e4e4e0")
        axes.imshow(mask, cmap="RdBu_r", vmin=-limit, vmax=limit, extent=extent, interpolation="nearest")
        axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5), aspect="equal")
        axes.set_title(name, fontsize=7.5, pad=3)
        axes.tick_params(labelsize=6.5, length=2)
    figure.supxlabel("Horizontal position (px)", fontsize=9)
    figure.supylabel("Vertical position (px)", fontsize=9)
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

    Average linkage on the cosine distance. Up to `FEW_ROWS`, the leaves are turned so that neighbours are closest
    (Bar-Joseph, Gifford and Jaakkola 2001), which takes minutes for thousands. Rows of zeros have no direction and go
    last.

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
    tree = linkage(directions, "average", metric="sqeuclidean", optimal_ordering=len(directions) <= FEW_ROWS)
    return np.concatenate([directed[leaves_list(tree)], rest])


def _screen(screen_deg: tuple[float, float]) -> tuple[Figure, Axes]:
    """Return a figure with the outline of the screen, its centre at (0, 0)."""
    width, height = screen_deg
    figure = Figure(figsize=(6.6, 0.72 + 5.3 * height / width), layout="constrained")
    axes = figure.subplots()
    axes.add_patch(Rectangle((-width / 2, -height / 2), width, height, facecolor="#f4f4f2", edgecolor="#999999"))
    axes.axhline(0, color="white", linewidth=1.2, zorder=1)
    axes.axvline(0, color="white", linewidth=1.2, zorder=1)
    axes.set(xlabel="Horizontal position (degrees)", ylabel="Vertical position (degrees)", aspect="equal")
    axes.set(xlim=(-0.53 * width, 0.53 * width), ylim=(-0.53 * height, 0.53 * height))
    return figure, axes


def _count(axes: Axes, placed: np.ndarray) -> None:
    """Say in the title how many units are drawn, and how many have no position."""
    missing = undefined_note(np.where(placed, 0.0, np.nan)).replace("undefined", "without a position")
    axes.set_title(f"{np.count_nonzero(placed)} units" + (f", {missing}" if missing else ""), fontsize=9)


def _limits(values: np.ndarray) -> Normalize:
    """Colour limits, widened where all values are the same."""
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    return Normalize(low, high if high > low else low + 1.0)
