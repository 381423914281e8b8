"""Receptive fields in space and time, with the outline of what was fitted to them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse

from pipeline.figures.checks import as_array, same_length
from pipeline.figures.style import PALETTE, RECORDED, styled

OUTLINE_STDS = 2.0
"""Radius of outlines, in standard deviations of the Gaussian."""
_IN_A_ROW = 4


@styled
def receptive_fields(
    spatial: np.ndarray,
    unit_names: Sequence[str],
    *,
    screen_deg: tuple[float, float],
    temporal: np.ndarray | None = None,
    lag_ms: np.ndarray | None = None,
    outlines: np.ndarray | None = None,
    quality: np.ndarray | None = None,
) -> Figure:
    """Draw each unit's field on the screen with its fit's outline, and its course in time beside it.

    Colours are symmetric about zero and scaled to each field's own largest deviation: red for ON, blue for OFF. The
    outline is 2 standard deviations from the centre.

    Parameters
    ----------
    spatial : ndarray
        (unit, height, width). A field with undefined pixels is called undefined.
    unit_names : sequence of str
        (unit,).
    screen_deg : tuple of float
        Width and height of the screen (degrees).
    temporal : ndarray, optional
        (unit, channel, lag), for fields in time; each is drawn in units of its largest deviation.
    lag_ms : ndarray, optional
        (lag,), time of each lag relative to the response (ms), 0 or negative; needed with `temporal`.
    outlines : ndarray, optional
        (unit, 5): x and y of the centre, standard deviations along the longer and the shorter axis (px, y down), and
        the angle of the longer axis (degrees counter-clockwise). Rows with NaN are not drawn.
    quality : ndarray, optional
        (unit,), explained share of the energy, which is written beside the name.

    Raises
    ------
    FigureError
        Shapes disagree.
    """
    spatial = as_array("spatial", spatial, "unit", "height", "width")
    same_length("unit", spatial=spatial, unit_names=unit_names)
    count = len(spatial)
    courses = None
    if temporal is not None:
        courses = as_array("temporal", temporal, "unit", "channel", "lag")
        lags = as_array("lag_ms", lag_ms, "lag")
        same_length("unit", spatial=spatial, temporal=courses)
        same_length("lag", temporal=courses[0, 0], lag_ms=lags)
    if outlines is not None:
        outlines = as_array("outlines", outlines, "unit", "place")
        same_length("unit", spatial=spatial, outlines=outlines)
    if quality is not None:
        quality = as_array("quality", quality, "unit")
        same_length("unit", spatial=spatial, quality=quality)

    columns = min(count, _IN_A_ROW) if courses is None else 2 * min(count, 2)
    rows = -(-count * (1 if courses is None else 2) // columns)
    panel = float(np.clip(2.0 * screen_deg[1] / screen_deg[0], 0.9, 2.0))
    figure = Figure(figsize=(2.0 * columns + 0.7, (panel + 0.3) * rows + 0.5), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    flat = grid.ravel()
    step = 1 if courses is None else 2
    for unit in range(count):
        axes = flat[step * unit]
        title = unit_names[unit]
        if quality is not None:
            title += f", fit {100 * quality[unit]:.0f} %" if np.isfinite(quality[unit]) else ", no fit"
        _draw_field(axes, spatial[unit], screen_deg, None if outlines is None else outlines[unit])
        axes.set_title(title, fontsize=8, pad=3)
        if courses is not None:
            _draw_course(flat[step * unit + 1], courses[unit], lags, screen_deg[1] / screen_deg[0])
    for axes in flat[step * count :]:
        axes.set_axis_off()
    _label(flat[: step * count], columns, step)
    return figure


def _draw_field(axes: Axes, field: np.ndarray, screen_deg: tuple[float, float], outline: np.ndarray | None) -> None:
    height, width = field.shape
    across, up = screen_deg
    axes.set(xlim=(-across / 2, across / 2), ylim=(-up / 2, up / 2), aspect="equal")
    axes.tick_params(labelsize=6.5)
    if not np.isfinite(field).all():
        axes.text(0.5, 0.5, "undefined", transform=axes.transAxes, ha="center", va="center", color="#666666")
        return
    limit = float(np.abs(field).max()) or 1.0
    axes.imshow(
        field, cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest",
        extent=(-across / 2, across / 2, -up / 2, up / 2),
    )  # fmt: skip
    if outline is not None and np.isfinite(outline).all():
        axes.add_patch(_ellipse(outline, (height, width), screen_deg))


def _ellipse(outline: np.ndarray, frame: tuple[int, int], screen_deg: tuple[float, float]) -> Ellipse:
    """Return the outline in degrees from the screen's centre, also if pixels are not square."""
    x, y, major, minor, angle = outline
    scale = np.diag([screen_deg[0] / frame[1], screen_deg[1] / frame[0]])
    centre = scale @ np.array([x - (frame[1] - 1) / 2, (frame[0] - 1) / 2 - y])
    turn = np.deg2rad(angle)
    axes = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    covariance = scale @ axes @ np.diag([major**2, minor**2]) @ axes.T @ scale
    variances, directions = np.linalg.eigh(covariance)
    wide, high = 2 * OUTLINE_STDS * np.sqrt(variances[::-1])
    return Ellipse(
        (float(centre[0]), float(centre[1])), float(wide), float(high),
        angle=float(np.rad2deg(np.arctan2(directions[1, 1], directions[0, 1]))),
        facecolor="none", edgecolor=RECORDED, linewidth=1.0,
    )  # fmt: skip


def _draw_course(axes: Axes, temporal: np.ndarray, lag_ms: np.ndarray, aspect: float) -> None:
    largest = float(np.abs(temporal[np.isfinite(temporal)]).max(initial=0)) or 1.0
    axes.axhline(0, color="#dddddd", linewidth=0.8, zorder=0)
    for channel, colour in zip(temporal, PALETTE, strict=False):
        axes.plot(lag_ms, channel / largest, color=colour)
    axes.set(ylim=(-1.1, 1.1), yticks=[-1, 0, 1], box_aspect=aspect)
    axes.tick_params(labelsize=6.5)


def _label(panels: np.ndarray, columns: int, step: int) -> None:
    """Say on the outer panels what is on the axes."""
    for place, axes in enumerate(panels):
        lowest = place + columns >= len(panels)
        field = place % step == 0
        if lowest:
            axes.set_xlabel("Horizontal (degrees)" if field else "Time to response (ms)", fontsize=8)
        if place % columns == 0:
            axes.set_ylabel("Vertical (degrees)", fontsize=8)
        elif not field and place % columns == 1:
            axes.set_ylabel("Of peak", fontsize=8)
