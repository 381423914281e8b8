"""A picture of all tables: one box a schema from left to right, parts below their masters, foreign keys as curves."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyBboxPatch, PathPatch
from matplotlib.path import Path

from pipeline.figures.checks import FigureError
from pipeline.figures.layout import Layout, Slot, TableNode, arrange
from pipeline.figures.style import styled

__all__ = ["SCHEMA_ORDER", "TIER_COLOURS", "TableNode", "schema_diagram"]

SCHEMA_ORDER = (
    "recording",
    "stimulus",
    "config",
    "dataset",
    "model",
    "analysis",
    "receptive_field",
    "tuning",
    "selection",
    "mei",
    "mei_analysis",
    "mei_exchange",
    "closed_loop",
)
TIER_COLOURS = {
    "manual": ("#dcefd8", "#5b9a4f"),
    "lookup": ("#e8e8e8", "#8d8d8d"),
    "imported": ("#d6e6f7", "#4a86c5"),
    "computed": ("#fbe0d3", "#d1703c"),
    "part": ("#ffffff", "#bdbdbd"),
}
# One hue a column, so that a curve can be followed back to the schema that it leaves.
_EDGE_COLOURS = ("#4477aa", "#228833", "#aa7a00", "#aa3377", "#cc4433", "#117788", "#665599", "#555555")
_FONT, _TITLE_FONT = 6.8, 8.5
Edge = tuple[str, str, bool]


@dataclass(frozen=True)
class _Curve:
    """One foreign key: its ends and its way as a path (inches)."""

    child: str
    parent: str
    is_primary: bool
    path: Path
    colour: str


@styled
def schema_diagram(
    tables: Sequence[TableNode], edges: Sequence[Edge], *, schema_order: Sequence[str] = SCHEMA_ORDER
) -> Figure:
    """Draw tables and foreign keys, parents to the left of their children wherever they are in different schemas.

    Every table's text has the gid ``table:<name>``, every foreign key's curve ``edge:<child>:<parent>``.

    Parameters
    ----------
    tables : sequence of TableNode
        Parts are named ``Master.Part`` and lie in their master's schema.
    edges : sequence of (child, parent, is_primary)
        Foreign keys by table names. A part's reference to its own master is drawn as its place below the master.
    schema_order : sequence of str
        From left to right; schemas that it lacks follow in the order of `tables`.

    Raises
    ------
    FigureError
        No tables, a name twice, an unknown tier, a part without its master, or an edge to an unknown table.
    """
    _check(tables, edges)
    layout = arrange(tables, edges, schema_order, _FONT, _TITLE_FONT)
    figure = Figure(figsize=(layout.width, layout.height))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, layout.width), ylim=(0, layout.height))
    axes.set_axis_off()
    for number, box in enumerate(layout.boxes):
        axes.add_patch(_rounded(box.x, box.y, box.width, box.height, 0.09, "#f6f7f8", "#e2e4e6", 0))
        axes.text(
            box.x + 0.1, box.y + box.height - 0.1, box.schema, fontsize=_TITLE_FONT, color=_hue(number),
            va="top", fontweight="bold", zorder=4,
        )  # fmt: skip
    for curve in _curves(edges, layout):
        _draw_curve(axes, curve)
    for table in tables:
        _draw_table(axes, table, layout.slots[table.name])
    _draw_legend(figure, {table.tier for table in tables}, {is_primary for *_, is_primary in edges})
    return figure


def _check(tables: Sequence[TableNode], edges: Sequence[Edge]) -> None:
    names = [table.name for table in tables]
    if not names:
        raise FigureError("No tables were given: there is no diagram to draw.")
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise FigureError(f"Tables appear twice: {', '.join(twice)}. Give each a name of its own.")
    for table in tables:
        if table.tier not in TIER_COLOURS:
            raise FigureError(f"Table {table.name} has tier {table.tier!r}, expected one of {', '.join(TIER_COLOURS)}.")
        if table.master and table.master not in names:
            raise FigureError(f"Part {table.name} has no master: give {table.master} too.")
    for child, parent, _ in edges:
        for name in (child, parent):
            if name not in names:
                raise FigureError(f"The edge from {child} to {parent} names {name}, which is not among the tables.")


def _rounded(
    x: float, y: float, width: float, height: float, radius: float, face: str, edge: str, order: float
) -> FancyBboxPatch:
    return FancyBboxPatch(
        (x + radius, y + radius), width - 2 * radius, height - 2 * radius, boxstyle=f"round,pad={radius}",
        facecolor=face, edgecolor=edge, linewidth=0.8, zorder=order,
    )  # fmt: skip


def _draw_table(axes: Axes, table: TableNode, slot: Slot) -> None:
    face, edge = TIER_COLOURS[table.tier]
    axes.add_patch(_rounded(slot.x, slot.y, slot.width, slot.height, 0.035, face, edge, 3))
    axes.text(
        slot.x + 0.07, slot.y + slot.height / 2, table.label, fontsize=_FONT, va="center_baseline", zorder=4,
        color="#1d1d1d" if table.tier != "part" else "#4a4a4a", gid=f"table:{table.name}",
    )  # fmt: skip


def _hue(column: int) -> str:
    return _EDGE_COLOURS[column % len(_EDGE_COLOURS)]


def _curves(edges: Sequence[Edge], layout: Layout) -> list[_Curve]:
    """Find the way of every edge; edges that share a corridor run side by side in it."""
    taken: dict[tuple[int, float], int] = defaultdict(int)
    curves = []
    for child, parent, is_primary in edges:
        start, end = layout.slots[parent], layout.slots[child]
        colour = _hue(start.column)
        if child.rpartition(".")[0] == parent:
            path, colour = _elbow(start, end), TIER_COLOURS["part"][1]
        elif start.column < end.column:
            path = _across(start, end, layout, taken)
        elif layout.is_next_below(start, end):
            path = Path([(start.x + 0.2, start.y), (start.x + 0.2, end.y + end.height)])
        else:
            path = _bow(start, end)
        curves.append(_Curve(child, parent, is_primary, path, colour))
    return curves


def _elbow(master: Slot, part: Slot) -> Path:
    """From below a master to its part."""
    x = (master.x + part.x) / 2
    return Path([(x, master.y), (x, part.middle), (part.x, part.middle)])


def _bow(start: Slot, end: Slot) -> Path:
    """Between the left ends of two tables of one column; deeper the longer it is, so that nested bows stay apart."""
    reach = min(start.x, end.x) - min(0.07 + 0.05 * abs(end.middle - start.middle), 0.3)
    points = [(start.x, start.middle), (reach, start.middle), (reach, end.middle), (end.x, end.middle)]
    return Path(points, [Path.MOVETO] + [Path.CURVE4] * 3)


def _across(start: Slot, end: Slot, layout: Layout, taken: dict[tuple[int, float], int]) -> Path:
    """From the parent's right to the child's left, level through free corridors of the columns between them."""
    x, y = start.x + start.width, start.middle
    vertices, codes = [(x, y)], [Path.MOVETO]

    def swing(to_x: float, to_y: float) -> None:
        half = (to_x - x) / 2
        vertices.extend([(x + half, y), (to_x - half, to_y), (to_x, to_y)])
        codes.extend([Path.CURVE4] * 3)

    for column in range(start.column + 1, end.column):
        left, right = layout.column_span(column)
        share = (left - start.x) / (end.x - start.x)
        wish = start.middle + share * (end.middle - start.middle)
        corridor = layout.nearest_corridor(column, wish)
        place = taken[column, corridor]
        taken[column, corridor] += 1
        # Lanes 0, 1, -1, 2, -2 from the corridor's middle; a corridor is five lanes wide.
        lane = max(-2, min(2, ((place + 1) // 2) * (1 if place % 2 else -1)))
        level = corridor + 0.018 * lane
        swing(left, level)
        vertices.append((right, level))
        codes.append(Path.LINETO)
        x, y = right, level
    swing(end.x, end.middle)
    return Path(vertices, codes)


def _draw_curve(axes: Axes, curve: _Curve) -> None:
    is_elbow = curve.child.rpartition(".")[0] == curve.parent
    axes.add_patch(
        PathPatch(
            curve.path, facecolor="none", edgecolor=curve.colour, alpha=1.0 if is_elbow else 0.65, linewidth=0.8,
            zorder=2, linestyle="-" if curve.is_primary else (0, (3.5, 2.2)), gid=f"edge:{curve.child}:{curve.parent}",
        )
    )  # fmt: skip
    if not is_elbow:
        x, y = np.asarray(curve.path.vertices)[-1]
        axes.plot(x, y, "o", color=curve.colour, markersize=2.6, markeredgewidth=0, zorder=3.5)


def _draw_legend(figure: Figure, tiers: set[str], kinds: set[bool]) -> None:
    handles: list[Line2D] = []
    for tier, (face, edge) in TIER_COLOURS.items():
        if tier in tiers:
            handles.append(
                Line2D([], [], marker="s", markersize=7, color=face, markeredgecolor=edge, linestyle="", label=tier)
            )
    for is_primary, label in ((True, "part of the primary key"), (False, "other reference")):
        if is_primary in kinds:
            handles.append(Line2D([], [], color="#666666", linestyle="-" if is_primary else "--", lw=0.9, label=label))
    figure.legend(
        handles=handles, loc="lower left", ncols=len(handles), fontsize=7.5, borderaxespad=0.6, columnspacing=1.6
    )
