"""Most exciting inputs as images: galleries, pairs with receptive fields, and movies that move."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from pipeline.figures.checks import FigureError, as_array, same_length
from pipeline.figures.style import styled

_DIVERGING = "RdBu_r"
_WHITE = 255.0
_PANEL = 1.75
"""Width of an image (inches)."""
_GAP = 2
"""Between movies side by side (px of the stimulus)."""


@styled
def mei_gallery(
    mei: np.ndarray,
    unit_names: Sequence[str],
    activation: np.ndarray,
    *,
    grey: float | None = None,
    columns: int = 6,
    title: str = "Most exciting inputs",
) -> Figure:
    """Draw MEIs in a grid, each under its unit and predicted response.

    Images of one channel are drawn as differences from grey on a signed colour scale up to their own largest deviation;
    those of two or three channels as they look, see `screen_colours`.

    Parameters
    ----------
    mei : ndarray
        (unit, channel, height, width), grey values; of movies, one frame.
    unit_names : sequence of str
        (unit,).
    activation : ndarray
        (unit,), predicted responses; NaN is called undefined.
    grey : float, optional
        What is drawn white; each image's mean without it.
    columns : int
        Images beside each other, at most.
    title : str

    Raises
    ------
    FigureError
        Shapes disagree, or there are more channels than colours.
    """
    mei = as_array("mei", mei, "unit", "channel", "height", "width")
    activation = as_array("activation", activation, "unit")
    same_length("unit", mei=mei, unit_names=unit_names, activation=activation)
    figure, panels = _grid(len(mei), min(columns, len(mei)), mei.shape[2:])
    for axes, image, name, response in zip(panels, mei, unit_names, activation, strict=True):
        _show(axes, image, grey)
        axes.set_title(f"{name}: {_number(response)}", fontsize=8, pad=3)
    figure.suptitle(title, x=0.01, ha="left", fontsize=10)
    return figure


@styled
def fields_beside_meis(
    mei: np.ndarray,
    rf: np.ndarray,
    unit_names: Sequence[str],
    correlations: np.ndarray | None = None,
    *,
    grey: float | None = None,
    rf_title: str = "Receptive field",
) -> Figure:
    """Draw the receptive field of each unit beside its MEI, both on signed colour scales of their own.

    Parameters
    ----------
    mei : ndarray
        (unit, height, width), grey values.
    rf : ndarray
        (unit, height, width), zero where the stimulus has no influence.
    unit_names : sequence of str
        (unit,).
    correlations : ndarray, optional
        (unit,), between the two; NaN is called undefined.
    grey : float, optional
        What is drawn white in MEIs; each one's mean without it.
    rf_title : str
        What the receptive fields are called.

    Raises
    ------
    FigureError
        Shapes disagree.
    """
    mei, rf = as_array("mei", mei, "unit", "height", "width"), as_array("rf", rf, "unit", "height", "width")
    if mei.shape != rf.shape:
        raise FigureError(f"rf has shape {rf.shape} and mei {mei.shape}: bring them to the same pixels.")
    same_length("unit", mei=mei, unit_names=unit_names)
    if correlations is not None:
        same_length("unit", mei=mei, correlations=as_array("correlations", correlations, "unit"))
    figure, panels = _grid(2 * len(mei), 2 * min(3, len(mei)), mei.shape[1:])
    for unit, name in enumerate(unit_names):
        left, right = panels[2 * unit : 2 * unit + 2]
        _show(left, mei[unit, None], grey)
        _show(right, rf[unit, None], 0.0)
        left.set_title(f"{name}: MEI", fontsize=8, pad=3)
        if correlations is not None:
            value = _number(correlations[unit])
            right.set_title("r undefined" if value == "undefined" else f"r = {value}", fontsize=8, pad=3)
    figure.suptitle(f"Most exciting input, and {rf_title[:1].lower()}{rf_title[1:]}", x=0.01, ha="left", fontsize=10)
    return figure


def mei_gif(
    mei: np.ndarray, *, frame_ms: float, grey: float, columns: int = 4, scale: int = 4, hold_ms: float = 400.0
) -> bytes:
    """Return movies side by side as an animated GIF that repeats for ever.

    Movies of one channel are stretched about grey, which stays in the middle, up to their own largest deviation; others
    are shown as they look, see `screen_colours`.

    Parameters
    ----------
    mei : ndarray
        (unit, channel, time, height, width), grey values.
    frame_ms : float
        How long a frame lasts (ms); GIF knows steps of 10 ms, and viewers show none for less than 20.
    grey : float
        Value of the grey screen.
    columns : int
        Movies beside each other, at most.
    scale : int
        Pixels of the GIF for one of the stimulus.
    hold_ms : float
        How long grey is shown before the movie starts again.

    Raises
    ------
    FigureError
        There are more channels than colours, or frames last no time.
    """
    mei = as_array("mei", mei, "unit", "channel", "time", "height", "width")
    if frame_ms <= 0 or scale < 1 or columns < 1:
        raise FigureError(f"frame_ms {frame_ms}, scale {scale} and columns {columns} must be above 0.")
    frames = np.stack([_colours(movie, grey) for movie in mei])  # unit, time, height, width, colour
    units, time, height, width, _ = frames.shape
    columns = min(columns, units)
    rows = -(-units // columns)
    level = grey if mei.shape[1] > 1 else _WHITE / 2
    canvas = np.full(
        (time + 1, rows * (height + _GAP) - _GAP, columns * (width + _GAP) - _GAP, 3), round(level), np.uint8
    )
    for unit in range(units):
        top, left = (unit // columns) * (height + _GAP), (unit % columns) * (width + _GAP)
        canvas[:time, top : top + height, left : left + width] = frames[unit]
    pictures = [Image.fromarray(frame.repeat(scale, axis=0).repeat(scale, axis=1)) for frame in canvas]
    buffer = io.BytesIO()
    pictures[0].save(
        buffer, format="GIF", save_all=True, append_images=pictures[1:], loop=0, optimize=False,
        duration=[max(20, round(frame_ms, -1))] * time + [hold_ms],
    )  # fmt: skip
    return buffer.getvalue()


def screen_colours(image: np.ndarray) -> np.ndarray:
    """Return an image as it looks, (..., height, width, 3) from 0 to 1.

    Three channels are red, green and blue; two are green and ultraviolet, which is drawn blue.

    Parameters
    ----------
    image : ndarray
        (channel, ..., height, width), grey values.

    Raises
    ------
    FigureError
        There is another number of channels.
    """
    if len(image) not in (2, 3):
        raise FigureError(f"an image of {len(image)} channels has no colours: choose one, two or three of them.")
    channels = image if len(image) == 3 else np.concatenate([np.zeros_like(image[:1]), image])
    return np.asarray(np.moveaxis(channels / _WHITE, 0, -1).clip(0, 1))


def _number(value: float) -> str:
    """Write two digits, with a true minus sign."""
    return "undefined" if np.isnan(value) else f"{value:.2f}".replace("-", "\N{MINUS SIGN}")


def _colours(movie: np.ndarray, grey: float) -> np.ndarray:
    """Return (time, height, width, 3) as bytes."""
    if len(movie) > 1:
        shown = screen_colours(movie)
    else:
        difference = movie[0] - grey
        limit = float(np.abs(difference).max()) or 1.0
        shown = np.repeat((difference / limit / 2 + 0.5)[..., None], 3, axis=-1)
    return np.asarray((shown * 255).round().astype(np.uint8))


def _show(axes: Axes, image: np.ndarray, grey: float | None) -> None:
    """Show an image (channel, height, width)."""
    if len(image) > 1:
        axes.imshow(screen_colours(image), interpolation="nearest")
        return
    difference = image[0] - (np.nanmean(image[0]) if grey is None else grey)
    limit = float(np.nanmax(np.abs(difference), initial=0)) or 1.0
    axes.imshow(difference, cmap=_DIVERGING, vmin=-limit, vmax=limit, interpolation="nearest")


def _grid(count: int, columns: int, size: tuple[int, ...]) -> tuple[Figure, list[Axes]]:
    """Return a figure with so many bare panels for images of this size."""
    rows = -(-count // columns)
    height = float(np.clip(_PANEL * size[0] / size[1], 0.6, 2.4))
    figure = Figure(figsize=(_PANEL * columns + 0.2, (height + 0.28) * rows + 0.35), layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in panels:
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_visible(True)
        axes.spines[:].set(linewidth=0.6, color="#999999")
    for axes in panels[count:]:
        axes.set_visible(False)
    return figure, panels[:count]
