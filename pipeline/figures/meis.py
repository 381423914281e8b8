"""Most exciting inputs (MEIs) beside the receptive fields that they should resemble."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from pipeline.figures.checks import FigureError, as_array, same_length
from pipeline.figures.style import PREDICTED, QUIET, RECORDED, styled
from pipeline.mei.comparison import best_lag

_DIVERGING = "RdBu_r"


@styled
def meis_beside_receptive_fields(
    mei: np.ndarray,
    rf: np.ndarray | None,
    unit_names: Sequence[str],
    correlations: np.ndarray | None,
    *,
    lag_ms: np.ndarray,
    degrees_per_pixel: float,
    rf_title: str = "True receptive field",
    grey: float = 0.0,
) -> Figure:
    """Draw for each unit a frame of its MEI and of its receptive field, and both over time.

    Where the receptive field is known, both frames are those at its best lag, the one of largest energy, so that they
    can be compared; otherwise the frame of the MEI that deviates most is shown. Colours are symmetric about grey and
    scaled to each panel's own largest deviation; the time courses are those of the pixel that deviates most, each
    divided by its largest deviation.

    Parameters
    ----------
    mei : ndarray
        (unit, lag, height, width).
    rf : ndarray or None
        Receptive fields on the same pixels and lags, zero where the stimulus has no influence; None where unknown.
    unit_names : sequence of str
        (unit,).
    correlations : ndarray or None
        (unit,), between MEI and receptive field; NaN is called undefined. None where unknown.
    lag_ms : ndarray
        (lag,), time of each frame relative to the response (ms), 0 or negative for frames before it.
    degrees_per_pixel : float
        Degrees of visual angle.
    rf_title : str
        Title of the receptive fields' column.
    grey : float
        Value of the grey screen in the units of `mei`.

    Raises
    ------
    FigureError
        Shapes disagree.
    """
    mei = as_array("mei", mei, "unit", "lag", "height", "width") - grey
    lag_ms = as_array("lag_ms", lag_ms, "lag")
    same_length("unit", mei=mei, unit_names=unit_names)
    same_length("lag", mei=mei[0], lag_ms=lag_ms)
    if rf is not None:
        rf = as_array("rf", rf, "unit", "lag", "height", "width")
        if rf.shape != mei.shape:
            raise FigureError(f"rf has shape {rf.shape} and mei {mei.shape}: bring them to the same pixels and lags.")
    scores: list[float | None] = [None] * len(mei)
    if correlations is not None:
        scores = list(as_array("correlations", correlations, "unit"))
        same_length("unit", mei=mei, correlations=scores)

    images = 1 if rf is None else 2
    panel_height = float(np.clip(2.1 * mei.shape[2] / mei.shape[3], 0.8, 2.1))
    figure = Figure(figsize=(2.3 * images + 3.4, 0.75 + (panel_height + 0.28) * len(mei)), layout="constrained")
    grid = figure.subplots(len(mei), images + 1, squeeze=False, width_ratios=[2.3] * images + [2.6])
    for row, name, movie, score, unit in zip(grid, unit_names, mei, scores, range(len(mei)), strict=True):
        lag = None if rf is None else best_lag(rf[unit])
        _draw_frame(row[0], movie, lag_ms, lag)
        row[0].annotate(name, (0, 1), (0, 2), "axes fraction", "offset points", va="bottom", fontsize=7)
        _draw_course(row[-1], lag_ms, movie, "MEI", PREDICTED, "-")
        if rf is not None:
            _draw_frame(row[1], rf[unit], lag_ms, lag)
            _draw_course(row[-1], lag_ms, rf[unit], rf_title, RECORDED, "--")
        _dress_course(row[-1], score, unit == len(mei) - 1)
    for axes, title in zip(grid[0], ["MEI", rf_title][:images], strict=False):
        axes.set_title(title, pad=16)
    _scale_bar(grid[-1, 0], mei.shape[2:], degrees_per_pixel)
    grid[0, -1].legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2, borderaxespad=0.2)
    return figure


@styled
def mei_filmstrip(
    mei: np.ndarray,
    *,
    lag_ms: np.ndarray,
    degrees_per_pixel: float,
    title: str = "MEI",
    grey: float = 0.0,
    max_frames: int = 8,
) -> Figure:
    """Show the last frames of one MEI as they would look on the screen, one grey scale for all, grey in its middle.

    Parameters
    ----------
    mei : ndarray
        (lag, height, width).
    lag_ms : ndarray
        (lag,), time of each frame relative to the response (ms).
    degrees_per_pixel : float
        Degrees of visual angle.
    title : str
        For example the unit's name.
    grey : float
        Value of the grey screen in the units of `mei`.
    max_frames : int
        Frames shown at most: those nearest to the response.

    Raises
    ------
    FigureError
        Shapes disagree.
    """
    mei, lag_ms = as_array("mei", mei, "lag", "height", "width") - grey, as_array("lag_ms", lag_ms, "lag")
    same_length("lag", mei=mei, lag_ms=lag_ms)
    latest = np.sort(np.argsort(np.abs(lag_ms), kind="stable")[:max_frames])
    limit = _largest(mei)
    width = 1.25
    height = width * mei.shape[1] / mei.shape[2]
    figure = Figure(figsize=(width * len(latest) + 0.75, height + 0.66), layout="constrained")
    row = figure.subplots(1, len(latest), squeeze=False)[0]
    for axes, frame in zip(row, latest, strict=True):
        image = axes.imshow(mei[frame], cmap="gray", vmin=-limit, vmax=limit, interpolation="nearest")
        _bare(axes)
        axes.set_title(_milliseconds(lag_ms[frame]), loc="center", fontsize=8, pad=3)
    _scale_bar(row[0], mei.shape[1:], degrees_per_pixel)
    bar = figure.colorbar(image, ax=list(row), shrink=0.62, aspect=9, pad=0.01, label="From grey")
    bar.outline.set_visible(False)  # type: ignore[operator]  # the stubs call this Spine a container
    bar.set_ticks([-limit, 0, limit], labels=[f"{-limit:.2g}".replace("-", "\N{MINUS SIGN}"), "0", f"{limit:.2g}"])
    figure.suptitle(title, x=0.01, ha="left", fontsize=10)
    return figure


def peak(movie: np.ndarray) -> tuple[int, int, int]:
    """Return (lag, row, column) of the largest deviation from zero.

    Parameters
    ----------
    movie : ndarray
        (lag, height, width); at least one value defined.
    """
    lag, row, column = np.unravel_index(int(np.nanargmax(np.abs(movie))), movie.shape)
    return int(lag), int(row), int(column)


def _largest(movie: np.ndarray) -> float:
    """Largest deviation; 1 for a flat or undefined movie, so that it is drawn grey instead of failing."""
    deviations = np.abs(movie[np.isfinite(movie)])
    return (float(deviations.max()) or 1.0) if deviations.size else 1.0


def _draw_frame(axes: Axes, movie: np.ndarray, lag_ms: np.ndarray, lag: int | None = None) -> AxesImage | None:
    """Show the frame with the largest deviation and say which it is."""
    _bare(axes)
    if not np.isfinite(movie).any():
        axes.text(0.5, 0.5, "undefined", transform=axes.transAxes, ha="center", va="center", color="#666666")
        return None
    if lag is None:
        lag, _, _ = peak(movie)
    limit = _largest(movie[lag])
    image = axes.imshow(movie[lag], cmap=_DIVERGING, vmin=-limit, vmax=limit, interpolation="nearest")
    axes.annotate(
        _milliseconds(lag_ms[lag]), (1, 0), (-3, 3), "axes fraction", "offset points",
        ha="right", va="bottom", fontsize=7, color="#555555",
    )  # fmt: skip
    return image


def _milliseconds(lag: float) -> str:
    """Write a lag with a true minus sign."""
    return f"{round(lag)} ms".replace("-", "\N{MINUS SIGN}")


def _draw_course(axes: Axes, lag_ms: np.ndarray, movie: np.ndarray, label: str, colour: str, dashes: str) -> None:
    """Draw the time course at the peak pixel, in units of the peak."""
    if np.isfinite(movie).any():
        _, row, column = peak(movie)
        course = movie[:, row, column] / _largest(movie)
        axes.plot(lag_ms, course, color=colour, linestyle=dashes, label=label, linewidth=1.5)


def _dress_course(axes: Axes, score: float | None, is_last: bool) -> None:
    """Give the time courses one scale, and write the correlation where they start: far from the response, near 0."""
    if score is not None:
        text = "r undefined" if np.isnan(score) else f"r = {score:.2f}"
        axes.text(0.02, 0.97, text, transform=axes.transAxes, va="top", fontsize=8)
    axes.axhline(0, color=QUIET, linewidth=0.7, zorder=0)
    axes.set_ylim(-1.12, 1.12)
    axes.set_yticks([-1, 0, 1])
    axes.set_ylabel("Fraction of peak")
    if is_last:
        axes.set_xlabel("Time from the response (ms)")
    else:
        axes.tick_params(labelbottom=False)


def _bare(axes: Axes) -> None:
    """Keep only a thin frame."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(True)
    axes.spines[:].set(linewidth=0.6, color="#999999")


def _scale_bar(axes: Axes, shape: tuple[int, ...], degrees_per_pixel: float) -> None:
    """Put a bar below the image: the largest of 1, 2, 5 or 10 times a power of ten that spans at most a third of it."""
    width = shape[1]
    third = width * degrees_per_pixel / 3
    decade = 10.0 ** np.floor(np.log10(third))
    degrees = max(step * decade for step in (1, 2, 5) if step * decade <= third)
    # Axes fractions, so that the bar can lie below the image without widening its limits.
    end = degrees / degrees_per_pixel / width
    below = -0.06
    axes.plot(
        [0, end], [below, below], color="#222222", linewidth=2, solid_capstyle="butt", clip_on=False,
        transform=axes.transAxes, gid="scale bar",
    )  # fmt: skip
    axes.annotate(
        f"{degrees:g}°", (end, below), (4, 0), "axes fraction", "offset points", ha="left", va="center", fontsize=7
    )
