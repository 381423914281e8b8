"""What is measured of most exciting inputs: masks, Gabors beside them, contrast curves, and responses to others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.figures.checks import FigureError, as_array, same_length
from pipeline.figures.style import PALETTE, PREDICTED, QUIET, RECORDED, styled, undefined_note

_DIVERGING = "RdBu_r"
_COLUMNS = 4
"""Panels beside each other in galleries."""


@styled
def mei_masks(
    mei: np.ndarray,
    mask: np.ndarray,
    unit_names: Sequence[str],
    *,
    ratios: np.ndarray | None = None,
    centers: np.ndarray | None = None,
    covariances: np.ndarray | None = None,
    grey: float | None = None,
) -> Figure:
    """Draw the outline of each mask, where it is 0.5, over its MEI, and Gaussian fits one std from their centre.

    Colours are symmetric about grey, up to each MEI's own largest deviation.

    Parameters
    ----------
    mei : ndarray
        (unit, height, width), grey values; of movies, one frame.
    mask : ndarray
        (unit, height, width), 0 to 1.
    unit_names : sequence of str
        (unit,).
    ratios : ndarray, optional
        (unit,), response with the mask relative to that with the first one; NaN is called undefined.
    centers : ndarray, optional
        (unit, 2), x and y of Gaussian fits (px); with `covariances`.
    covariances : ndarray, optional
        (unit, 2, 2), of x and y (px^2).
    grey : float, optional
        What is drawn white; each MEI's mean without it.

    Raises
    ------
    FigureError
        Shapes disagree.
    """
    mei, mask = as_array("mei", mei, "unit", "height", "width"), as_array("mask", mask, "unit", "height", "width")
    if mei.shape != mask.shape:
        raise FigureError(f"mask has shape {mask.shape} and mei {mei.shape}: give one mask for each MEI.")
    same_length("unit", mei=mei, unit_names=unit_names)
    figure, panels = _gallery(len(mei), mei.shape[1:])
    for unit, axes in enumerate(panels):
        _show(axes, mei[unit], grey)
        if np.nanmax(mask[unit], initial=0) > 0.5:
            axes.contour(mask[unit], levels=[0.5], colors=[RECORDED], linewidths=1.2)
        if centers is not None and covariances is not None:
            outline = _ellipse(np.asarray(centers)[unit], np.asarray(covariances)[unit])
            axes.plot(*outline, color=PREDICTED, linewidth=1.2, linestyle="--", gid="Gaussian fit")
            axes.set_xlim(-0.5, mei.shape[2] - 0.5)
            axes.set_ylim(mei.shape[1] - 0.5, -0.5)
        label = unit_names[unit]
        if ratios is not None:
            label += ": undefined" if np.isnan(ratios[unit]) else f": {100 * ratios[unit]:.0f}%"
        axes.set_title(label, fontsize=8, pad=3)
    figure.suptitle("Masks over most exciting inputs", x=0.01, ha="left", fontsize=10)
    return figure


@styled
def gabors_beside_meis(
    mei: np.ndarray,
    gabor: np.ndarray,
    unit_names: Sequence[str],
    *,
    mei_activation: np.ndarray,
    gabor_activation: np.ndarray,
    grey: float | None = None,
) -> Figure:
    """Draw the MEI and the best Gabor of each unit, with the response to the Gabor relative to that to the MEI.

    Colours are symmetric about grey, up to each image's own largest deviation.

    Parameters
    ----------
    mei, gabor : ndarray
        (unit, height, width), grey values; of movies, one frame.
    unit_names : sequence of str
        (unit,).
    mei_activation, gabor_activation : ndarray
        (unit,), responses.
    grey : float, optional
        What is drawn white; each image's mean without it.

    Raises
    ------
    FigureError
        Shapes disagree.
    """
    mei, gabor = as_array("mei", mei, "unit", "height", "width"), as_array("gabor", gabor, "unit", "height", "width")
    own, other = (
        as_array(name, values, "unit")
        for name, values in (("mei_activation", mei_activation), ("gabor_activation", gabor_activation))
    )
    same_length("unit", mei=mei, gabor=gabor, unit_names=unit_names, mei_activation=own, gabor_activation=other)
    figure, panels = _gallery(len(mei), mei.shape[1:], images=2)
    ratios = np.divide(other, own, out=np.full(len(own), np.nan), where=own > 0)
    for unit in range(len(mei)):
        left, right = panels[2 * unit : 2 * unit + 2]
        _show(left, mei[unit], grey)
        _show(right, gabor[unit], grey)
        left.set_title(f"{unit_names[unit]}: MEI", fontsize=8, pad=3)
        share = "undefined" if np.isnan(ratios[unit]) else f"{100 * ratios[unit]:.0f}% of its response"
        right.set_title(f"Gabor, {share}", fontsize=8, pad=3)
    return figure


@styled
def contrast_curves_figure(
    contrast: np.ndarray,
    activation: np.ndarray,
    unit_names: Sequence[str],
    *,
    mei_contrast: np.ndarray | None = None,
    natural_best: np.ndarray | None = None,
) -> Figure:
    """Draw each unit's response to its MEI against contrast, and as a line that to the best stimulus of the data.

    Parameters
    ----------
    contrast, activation : ndarray
        (unit, step): root mean square contrast (grey values) and response (normalised responses); NaN for units whose
        curve is undefined.
    unit_names : sequence of str
        (unit,).
    mei_contrast : ndarray, optional
        (unit,), contrast of each MEI as it was found, marked on its curve (grey values).
    natural_best : ndarray, optional
        (unit,), highest response to a stimulus of the data.

    Raises
    ------
    FigureError
        Shapes disagree.
    """
    contrast = as_array("contrast", contrast, "unit", "step")
    activation = as_array("activation", activation, "unit", "step")
    if contrast.shape != activation.shape:
        raise FigureError(f"activation has shape {activation.shape} and contrast {contrast.shape}: give them alike.")
    same_length("unit", contrast=contrast, unit_names=unit_names)
    columns = min(_COLUMNS, len(contrast))
    rows = -(-len(contrast) // columns)
    figure = Figure(figsize=(2.1 * columns + 0.4, 1.7 * rows + 0.4), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True)
    for unit, axes in enumerate(grid.flat):
        if unit >= len(contrast):
            axes.set_visible(False)
            continue
        axes.set_title(unit_names[unit], fontsize=8, pad=3)
        if not np.isfinite(activation[unit]).any():
            axes.text(0.5, 0.5, "undefined", transform=axes.transAxes, ha="center", va="center", color="#666666")
            axes.set_yticks([])
            continue
        axes.plot(contrast[unit], activation[unit], color=PREDICTED, linewidth=1.5, label="MEI")
        if mei_contrast is not None:
            there = np.interp(mei_contrast[unit], contrast[unit], activation[unit])
            axes.plot(mei_contrast[unit], there, "o", color=PREDICTED, markersize=4, label="as found")
        if natural_best is not None:
            axes.axhline(natural_best[unit], color=RECORDED, linestyle="--", linewidth=1, label="best natural")
        axes.set_xlim(left=0)
    figure.supxlabel("Contrast (grey values)", fontsize=9)
    figure.supylabel("Response (normalised)", fontsize=9)
    first = next((axes for axes in grid.flat if axes.lines), None)
    if first is not None and (mei_contrast is not None or natural_best is not None):
        first.legend(loc="best", fontsize=7)
    return figure


@styled
def cross_activation_matrix(
    matrix: np.ndarray,
    unit_names: Sequence[str],
    *,
    label: str = "Response (normalised)",
    signed: bool = False,
    groups: Sequence[str] | None = None,
) -> Figure:
    """Show the responses of all units to the MEIs of all, and how each unit's own MEI stands among the others.

    Parameters
    ----------
    matrix : ndarray
        (unit, MEI), the MEI of unit i in column i; NaN is left white.
    unit_names : sequence of str
        (unit,); written if there are at most 30.
    label : str
        What the values are: `pipeline.mei.transplant.normalized` scales them.
    signed : bool
        Colours symmetric about 0, for z-scores.
    groups : sequence of str, optional
        (unit,), such as areas; lines are drawn where neighbours differ.

    Raises
    ------
    FigureError
        The matrix is not square, shapes disagree, or nothing is defined.
    """
    matrix = as_array("matrix", matrix, "unit", "MEI")
    if matrix.shape[0] != matrix.shape[1]:
        raise FigureError(f"matrix has shape {matrix.shape}: give one MEI for each unit.")
    same_length("unit", matrix=matrix, unit_names=unit_names)
    if not np.isfinite(matrix).any():
        raise FigureError("no response of the matrix is defined: there is nothing to show.")
    limit = float(np.nanmax(np.abs(matrix))) or 1.0
    low = -limit if signed else min(0.0, float(np.nanmin(matrix)))
    high = limit if signed else float(np.nanmax(matrix)) or 1.0
    figure = Figure(figsize=(7.4, 3.6), layout="constrained")
    image_axes, axes = figure.subplots(1, 2, width_ratios=[1.25, 1])
    shown = image_axes.imshow(
        matrix, cmap=_DIVERGING if signed else "viridis", vmin=low, vmax=high, interpolation="nearest"
    )
    bar = figure.colorbar(shown, ax=image_axes, shrink=0.85, label=label)
    bar.outline.set_visible(False)  # type: ignore[operator]  # the stubs call this Spine a container
    image_axes.set(xlabel="MEI of unit", ylabel="Unit", title="Responses to the MEIs of all")
    image_axes.spines[:].set_visible(False)
    if len(matrix) <= 30:
        image_axes.set_xticks(range(len(matrix)), unit_names, rotation=90, fontsize=6)
        image_axes.set_yticks(range(len(matrix)), unit_names, fontsize=6)
    for border in _borders(groups, len(matrix)):
        image_axes.axhline(border, color="white", linewidth=0.8)
        image_axes.axvline(border, color="white", linewidth=0.8)
    _own_against_others(axes, matrix, label)
    return figure


def _own_against_others(axes: Axes, matrix: np.ndarray, label: str) -> None:
    """Draw each unit's response to its own MEI against its highest response to another."""
    own = np.diagonal(matrix)
    others = np.where(np.eye(len(matrix), dtype=bool), -np.inf, np.nan_to_num(matrix, nan=-np.inf)).max(axis=1)
    others = np.where(np.isfinite(others), others, np.nan)
    first = (own >= others)[np.isfinite(own) & np.isfinite(others)]
    axes.plot(others, own, "o", color=PALETTE[0], markersize=4, alpha=0.7, markeredgewidth=0, gid="units")
    if len(first):
        low, high = np.nanmin([own, others]), np.nanmax([own, others])
        axes.plot([low, high], [low, high], color=QUIET, linewidth=0.8, zorder=0)
        share = f"{first.sum()} of {len(first)} units prefer their own"
        note = undefined_note(np.where(np.isfinite(others), own, np.nan))
        axes.text(0.02, 0.98, "\n".join(filter(None, [share, note])), transform=axes.transAxes, va="top", fontsize=8)
    axes.set(xlabel="Highest for another unit's MEI", ylabel="For its own MEI", title="Own against others")
    axes.margins(0.08, 0.15)


def _borders(groups: Sequence[str] | None, count: int) -> list[float]:
    """Places between units of different groups."""
    if groups is None:
        return []
    if len(groups) != count:
        raise FigureError(f"there are {len(groups)} groups for {count} units: give one each.")
    return [i - 0.5 for i in range(1, count) if groups[i] != groups[i - 1]]


def _gallery(units: int, size: tuple[int, ...], images: int = 1) -> tuple[Figure, list[Axes]]:
    """Return a figure with panels for images of this size, units from left to right."""
    columns = min(max(_COLUMNS // images, 1), units) * images
    rows = -(-units * images // columns)
    width = 1.9
    height = float(np.clip(width * size[0] / size[1], 0.6, 2.4))
    figure = Figure(figsize=(width * columns + 0.2, (height + 0.28) * rows + 0.35), layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in panels:
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_visible(True)
        axes.spines[:].set(linewidth=0.6, color="#999999")
    for axes in panels[units * images :]:
        axes.set_visible(False)
    return figure, panels[: units * images]


def _show(axes: Axes, image: np.ndarray, grey: float | None) -> None:
    """Show an image about its grey."""
    difference = image - (np.nanmean(image) if grey is None else grey)
    limit = float(np.nanmax(np.abs(difference), initial=0)) or 1.0
    axes.imshow(difference, cmap=_DIVERGING, vmin=-limit, vmax=limit, interpolation="nearest")


def _ellipse(center: np.ndarray, covariance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return x and y of the points one standard deviation from the centre; NaN for undefined fits."""
    if not (np.isfinite(center).all() and np.isfinite(covariance).all()):
        return np.full(1, np.nan), np.full(1, np.nan)
    angle = np.linspace(0, 2 * np.pi, 73)
    values, vectors = np.linalg.eigh(covariance)
    x, y = center[:, None] + vectors @ (np.sqrt(values.clip(min=0))[:, None] * np.array([np.cos(angle), np.sin(angle)]))
    return x, y
