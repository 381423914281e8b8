"""The look that all figures share: fonts, despined axes, and a few colours that colour-blind readers can tell apart."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, ParamSpec

import matplotlib as mpl
import numpy as np
from cycler import cycler
from matplotlib.figure import Figure

RECORDED = "#404040"
PREDICTED = "#d55e00"
VALIDATION = "#0072b2"
TEST = "#009e73"
LIGHT_ON = "#56b4e9"
QUIET = "#8a8a8a"
# Okabe and Ito's colours, in an order whose neighbours differ in lightness too.
PALETTE = (VALIDATION, PREDICTED, TEST, "#cc79a7", "#e69f00", LIGHT_ON, RECORDED)

_RC: dict[Any, Any] = {
    # Matplotlib brings this font along, so a figure looks the same on every machine.
    "font.family": "DejaVu Sans",
    "font.size": 9.0,
    "axes.titlesize": 10.0,
    "axes.labelsize": 9.0,
    "axes.titlelocation": "left",
    "axes.titlepad": 7.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#555555",
    "axes.linewidth": 0.8,
    "axes.labelcolor": "#222222",
    "axes.prop_cycle": cycler(color=PALETTE),
    "xtick.labelsize": 8.0,
    "ytick.labelsize": 8.0,
    "xtick.color": "#555555",
    "ytick.color": "#555555",
    "xtick.labelcolor": "#222222",
    "ytick.labelcolor": "#222222",
    "xtick.major.size": 3.0,
    "ytick.major.size": 3.0,
    "legend.frameon": False,
    "legend.fontsize": 8.0,
    "legend.handlelength": 1.6,
    "lines.linewidth": 1.3,
    "lines.solid_capstyle": "round",
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    # The same figure gives the same SVG bytes, so an unchanged report is an unchanged file.
    "svg.hashsalt": "geniculate",
}

Arguments = ParamSpec("Arguments")


@contextmanager
def style() -> Iterator[None]:
    """Apply the shared style inside a ``with`` block and put the caller's settings back after it."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_RC)
        yield


def styled(draw: Callable[Arguments, Figure]) -> Callable[Arguments, Figure]:
    """Make a figure function draw in the shared style, whatever the caller's own settings are."""

    @wraps(draw)
    def wrapper(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Figure:
        with style():
            figure = draw(*args, **kwargs)
            # Ticks are made when a figure is first drawn, and take their look from the settings of that moment.
            figure.draw_without_rendering()
        return figure

    return wrapper


def png_bytes(figure: Figure, dpi: float = 110.0) -> bytes:
    """Return a figure as a PNG file.

    Parameters
    ----------
    figure : Figure
    dpi : float
        Pixels an inch.
    """
    buffer = io.BytesIO()
    with style():
        figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()


def svg_bytes(figure: Figure) -> bytes:
    """Return a figure as an SVG file with its text as outlines, so that no font is needed to show it."""
    buffer = io.BytesIO()
    with style():
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def undefined_note(values: np.ndarray, noun: str = "unit") -> str:
    """Say how many values are NaN, for example '2 units undefined'; empty where there are none.

    Parameters
    ----------
    values : ndarray
        (unit,).
    noun : str
        What one value belongs to, in the singular.
    """
    count = int(np.count_nonzero(np.isnan(np.asarray(values, dtype=float))))
    if not count:
        return ""
    return f"{count} {noun if count == 1 else noun + 's'} undefined"


def rank_spread(values: np.ndarray, count: int) -> np.ndarray:
    """Choose units that show the whole range: evenly spaced ranks from the best to the worst, undefined ones left out.

    Parameters
    ----------
    values : ndarray
        (unit,); NaN is undefined.
    count : int
        How many units at most.

    Returns
    -------
    ndarray
        (chosen,) positions in `values`, the highest value first.
    """
    values = np.asarray(values, dtype=float)
    defined = np.flatnonzero(~np.isnan(values))
    ranked = defined[np.argsort(-values[defined], kind="stable")]
    count = min(count, len(ranked))
    return ranked[np.round(np.linspace(0, len(ranked) - 1, count)).astype(int)] if count else ranked
