"""Places for the tables of the schema diagram, in inches: columns of schemas, masters with their parts, corridors."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path

_ROW, _PART_GAP, _GAP = 0.165, 0.02, 0.125
_PAD, _TITLE, _GUTTER, _MARGIN, _LEGEND = 0.14, 0.36, 0.36, 0.12, 0.42
_INDENT = 0.12
_SWEEPS = 6


@dataclass(frozen=True)
class TableNode:
    """One table of the diagram.

    Attributes
    ----------
    name : str
        'Dataset', or 'Dataset.Unit' for a part.
    schema : str
        The module that defines it.
    tier : str
        manual, lookup, imported, computed or part.
    """

    name: str
    schema: str
    tier: str

    @property
    def master(self) -> str | None:
        """Name of the master of a part; None for any other table."""
        return self.name.rpartition(".")[0] or None

    @property
    def label(self) -> str:
        """What is written: a part's name without its master."""
        return self.name.rpartition(".")[2]


@dataclass(frozen=True)
class Slot:
    """The place of one table (inches from the lower left) and its column."""

    x: float
    y: float
    width: float
    height: float
    column: int

    @property
    def middle(self) -> float:
        """Height of the middle (inches)."""
        return self.y + self.height / 2


@dataclass(frozen=True)
class SchemaBox:
    """The box behind one schema's tables (inches from the lower left)."""

    schema: str
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class Layout:
    """Where everything goes.

    Attributes
    ----------
    width, height : float
        Of the whole figure (inches).
    slots : mapping of table name to Slot
    boxes : tuple of SchemaBox
        One a column, from left to right.
    corridors : tuple of tuple of float
        For each column the heights (inches) at which a line can cross it without touching a table.
    """

    width: float
    height: float
    slots: Mapping[str, Slot]
    boxes: tuple[SchemaBox, ...]
    corridors: tuple[tuple[float, ...], ...]

    def column_span(self, column: int) -> tuple[float, float]:
        """Return the left and right edge of a column's box (inches)."""
        box = self.boxes[column]
        return box.x, box.x + box.width

    def nearest_corridor(self, column: int, wish: float) -> float:
        """Return the height of the corridor through a column that is nearest to the height wished for (inches)."""
        return min(self.corridors[column], key=lambda height: abs(height - wish))

    def is_next_below(self, upper: Slot, lower: Slot) -> bool:
        """Whether a straight line joins the two tables of one column without touching a third."""
        tops = (slot.y + slot.height for slot in self.slots.values() if slot.column == upper.column)
        below = lower.y + lower.height
        return upper.column == lower.column and below < upper.y and not any(below < top <= upper.y for top in tops)


Block = tuple[TableNode, ...]


def arrange(
    tables: Sequence[TableNode],
    edges: Sequence[tuple[str, str, bool]],
    schema_order: Sequence[str],
    font: float,
    title_font: float,
) -> Layout:
    """Place all tables.

    Columns follow `schema_order`. Within a column parents stand above their children, and blocks (a master with its
    parts) otherwise go near the mean height of the tables they are joined to (Sugiyama's barycentres), so that few
    curves cross.

    Parameters
    ----------
    tables, edges, schema_order
        As in `pipeline.figures.diagram.schema_diagram`.
    font, title_font : float
        Font sizes of tables and of schema names (points).
    """
    columns = _columns(tables, schema_order)
    height = max(_column_height(blocks) for blocks in columns.values())
    orders = _sort_blocks(list(columns.values()), edges, height)
    slots: dict[str, Slot] = {}
    boxes, corridors = [], []
    base, x = _MARGIN + _LEGEND, _MARGIN
    for number, (schema, blocks) in enumerate(zip(columns, orders, strict=True)):
        width = _column_width(schema, blocks, font, title_font)
        placed, free = _place_column(blocks, x, base, width, height, number)
        slots |= placed
        boxes.append(SchemaBox(schema, x, base, width, height))
        corridors.append(tuple(free))
        x += width + _GUTTER
    return Layout(x - _GUTTER + _MARGIN, base + height + _MARGIN, slots, tuple(boxes), tuple(corridors))


def _columns(tables: Sequence[TableNode], schema_order: Sequence[str]) -> dict[str, list[Block]]:
    """Blocks of every schema, in the order of the schemas."""
    present = list(dict.fromkeys(table.schema for table in tables))
    ordered = [schema for schema in schema_order if schema in present]
    ordered += [schema for schema in present if schema not in ordered]
    parts: dict[str, list[TableNode]] = defaultdict(list)
    for table in tables:
        if table.master:
            parts[table.master].append(table)
    return {
        schema: [(table, *parts[table.name]) for table in tables if table.schema == schema and not table.master]
        for schema in ordered
    }


def _block_height(block: Block) -> float:
    return len(block) * _ROW + (len(block) - 1) * _PART_GAP


def _column_height(blocks: Sequence[Block]) -> float:
    return _TITLE + sum(_block_height(block) for block in blocks) + _GAP * (len(blocks) + 1) + _PAD


def _column_width(schema: str, blocks: Sequence[Block], font: float, title_font: float) -> float:
    def inches(text: str, size: float) -> float:
        return text_to_path.get_text_width_height_descent(text, FontProperties(size=size), ismath=False)[0] / 72

    widest = max(inches(table.label, font) + (_INDENT if table.master else 0.0) for block in blocks for table in block)
    # The title is bold, which is about an eighth wider than what is measured here.
    return max(widest + 0.14 + 2 * _PAD, 1.15 * inches(schema, title_font) + 0.2)


def _sort_blocks(
    columns: list[list[Block]], edges: Sequence[tuple[str, str, bool]], height: float
) -> list[list[Block]]:
    """Order the blocks of each column: generations first, then repeated sweeps of barycentres."""
    home = {table.name: block[0].name for blocks in columns for block in blocks for table in block}
    neighbours: dict[str, set[str]] = defaultdict(set)
    parents: dict[str, set[str]] = defaultdict(set)
    for child, parent, _ in edges:
        if home[child] != home[parent]:
            neighbours[home[child]].add(home[parent])
            neighbours[home[parent]].add(home[child])
            parents[home[child]].add(home[parent])
    for _ in range(_SWEEPS):
        heights = {name: y for blocks in columns for name, y in _middles(blocks, height).items()}
        for number, blocks in enumerate(columns):
            wish = {
                block[0].name: float(np.mean([heights[name] for name in neighbours[block[0].name]] or [height / 2]))
                for block in blocks
            }
            columns[number] = _topological(blocks, parents, wish)
            heights |= _middles(columns[number], height)
    return columns


def _topological(blocks: Sequence[Block], parents: Mapping[str, set[str]], wish: Mapping[str, float]) -> list[Block]:
    """Repeatedly take, of the blocks whose parents in this column are placed, the one that wishes to be highest."""
    waiting = {block[0].name: block for block in blocks}
    order = []
    while waiting:
        ready = [name for name in waiting if not (parents.get(name, set()) & (waiting.keys() - {name}))]
        chosen = max(ready or waiting, key=lambda name: wish[name])
        order.append(waiting.pop(chosen))
    return order


def _middles(blocks: Sequence[Block], height: float) -> dict[str, float]:
    """Height of each block's master in a column that is spread over the whole height."""
    gap = _gap(blocks, height)
    middles, y = {}, height - _TITLE - gap
    for block in blocks:
        middles[block[0].name] = y - _ROW / 2
        y -= _block_height(block) + gap
    return middles


def _gap(blocks: Sequence[Block], height: float) -> float:
    """Space between blocks that spreads a column over the height, up to a limit that keeps it together."""
    free = height - _TITLE - _PAD - sum(_block_height(block) for block in blocks)
    return free / (len(blocks) + 1)


def _place_column(
    blocks: Sequence[Block], x: float, base: float, width: float, height: float, column: int
) -> tuple[dict[str, Slot], list[float]]:
    """Give every table of one column its slot, and list the corridors between the blocks."""
    gap = _gap(blocks, height)
    slots: dict[str, Slot] = {}
    top = base + height - _TITLE
    corridors = [top - gap / 2]
    y = top - gap
    for block in blocks:
        for table in block:
            indent = _INDENT if table.master else 0.0
            y -= _ROW
            slots[table.name] = Slot(x + _PAD + indent, y, width - 2 * _PAD - indent, _ROW, column)
            y -= _PART_GAP
        y += _PART_GAP
        corridors.append(y - gap / 2)
        y -= gap
    return slots, corridors
