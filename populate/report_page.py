"""One self-contained HTML page from text, figures, tables and queries: it works offline, in the dark, and on paper."""

from __future__ import annotations

import base64
import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure

from pipeline.figures.style import png_bytes, svg_bytes

FIGURE_DPI = 110
# Outlines stay sharp at any size; beyond this many bytes (dense scatters and traces) pixels are the smaller file.
SVG_LIMIT = 250_000
# CSS pixels inside a card, as the template's measures give it.
COLUMN_WIDTH = 980
UNDEFINED = "\N{EN DASH}"


@dataclass(frozen=True)
class Animation:
    """A picture that moves: the bytes of a GIF, shown at one CSS pixel for each of its own."""

    gif: bytes


class Illustration(NamedTuple):
    """A figure with its caption, and the words that stand for it where it cannot be seen."""

    figure: Figure | Animation
    caption: str
    alt: str


@dataclass(frozen=True)
class Section:
    """One section of the report.

    Attributes
    ----------
    title : str
        The heading.
    text : str
        Plain text; an empty line ends a paragraph.
    figures : tuple of Illustration or (Figure or Animation, caption, alt)
        In order; they are numbered through the page.
    table : DataFrame or None
        Named index levels become its first columns. Numbers are shown with three significant digits.
    code : str or None
        For example the query that gives the table.
    """

    title: str
    text: str = ""
    figures: tuple[Illustration | tuple[Figure | Animation, str, str], ...] = ()
    table: pd.DataFrame | None = None
    code: str | None = None


@dataclass(frozen=True)
class _Column:
    title: str
    is_numeric: bool


@dataclass(frozen=True)
class _Table:
    columns: tuple[_Column, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class _Picture:
    source: str
    alt: str
    caption: str
    number: int
    width: int
    height: int

    @property
    def is_broad(self) -> bool:
        """Whether it is wider than the column of text, and may spread beyond it."""
        return self.width > COLUMN_WIDTH


@dataclass(frozen=True)
class _Block:
    title: str
    paragraphs: tuple[str, ...]
    figures: tuple[_Picture, ...]
    table: _Table | None
    code: str | None


def render_report(title: str, subtitle: str, facts: Mapping[str, str], sections: Sequence[Section]) -> str:
    """Return the page as HTML. Everything that comes from data is escaped, and nothing is loaded from elsewhere.

    Parameters
    ----------
    title, subtitle : str
        What the report is about, in plain text.
    facts : mapping of str to str
        Short facts below the title: recording, units, versions.
    sections : sequence of Section
        In order; more than three get a table of contents.
    """
    environment = Environment(
        loader=PackageLoader("populate"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    blocks, number = [], 1
    for section in sections:
        pictures = tuple(
            _picture(Illustration(*figure), number + place) for place, figure in enumerate(section.figures)
        )
        number += len(pictures)
        paragraphs = tuple(" ".join(part.split()) for part in section.text.split("\n\n") if part.strip())
        table = None if section.table is None else _table(section.table)
        code = section.code.strip("\n") if section.code else None
        blocks.append(_Block(section.title, paragraphs, pictures, table, code))
    template = environment.get_template("report.html.j2")
    return template.render(title=title, subtitle=subtitle, facts=facts, sections=blocks)


def format_value(value: object) -> str:
    """Write one cell: floats with three significant digits (all digits left of the point), undefined as a dash.

    Very large and very small numbers are written as powers of ten.
    """
    if value is None or value is pd.NA or value is pd.NaT:
        return UNDEFINED
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    if isinstance(value, numbers.Integral):
        return str(int(value)).replace("-", "\N{MINUS SIGN}")
    if not isinstance(value, numbers.Real):
        return str(value)
    number = float(value)
    if not np.isfinite(number):
        return UNDEFINED if np.isnan(number) else str(number).replace("inf", "\N{INFINITY}")
    if number == 0:
        return "0"
    size = int(np.floor(np.log10(abs(float(f"{number:.2e}")))))
    text = f"{number:.{max(0, 2 - size)}f}" if -4 <= size < 7 else f"{number:.2e}"
    return text.replace("-", "\N{MINUS SIGN}")


def _table(frame: pd.DataFrame) -> _Table:
    """Lay out a frame; a column whose defined values are all numbers is right aligned."""
    named = [name for name in frame.index.names if name is not None]
    whole = frame.reset_index(level=named) if named else frame
    cells = [whole.iloc[:, place].astype(object).tolist() for place in range(whole.shape[1])]
    columns = tuple(
        _Column(str(title), _is_numeric(values)) for title, values in zip(whole.columns, cells, strict=True)
    )
    rows = tuple(tuple(format_value(value) for value in row) for row in zip(*cells, strict=True))
    return _Table(columns, rows)


def _is_numeric(values: Sequence[object]) -> bool:
    defined = [value for value in values if not pd.api.types.is_scalar(value) or not pd.isna(value)]
    return bool(defined) and all(
        isinstance(value, numbers.Real) and not isinstance(value, (bool, np.bool_)) for value in defined
    )


def _picture(illustration: Illustration, number: int) -> _Picture:
    """Embed a figure at its size on paper: 96 CSS pixels an inch."""
    if isinstance(illustration.figure, Animation):
        return _moving(illustration.figure.gif, illustration, number)
    svg = svg_bytes(illustration.figure)
    if len(svg) <= SVG_LIMIT:
        source = "data:image/svg+xml;base64," + base64.b64encode(svg).decode()
    else:
        source = "data:image/png;base64," + base64.b64encode(png_bytes(illustration.figure, FIGURE_DPI)).decode()
    width, height = (round(96 * inches) for inches in illustration.figure.get_size_inches())
    return _Picture(source, illustration.alt, illustration.caption, number, width, height)


def _moving(gif: bytes, illustration: Illustration, number: int) -> _Picture:
    width, height = (int.from_bytes(gif[at : at + 2], "little") for at in (6, 8))  # GIF's logical screen
    source = "data:image/gif;base64," + base64.b64encode(gif).decode()
    return _Picture(source, illustration.alt, illustration.caption, number, width, height)
