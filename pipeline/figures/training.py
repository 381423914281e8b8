"""How training went: loss, validation correlation and learning-rate cuts over epochs."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.figures.checks import FigureError
from pipeline.figures.style import PALETTE, QUIET, styled

_OTHERS = "#c4c4c4"
_COLUMNS = ("epoch", "train_loss", "validation_correlation", "learning_rate")


@styled
def learning_curves(epochs: Mapping[str, pd.DataFrame], *, loss_label: str = "Training loss (nats per bin)") -> Figure:
    """Overlay the learning curves of models; a tick marks each learning-rate cut, a dot the best epoch.

    With more models than colours, only the best one has a colour and marks; the others are grey.

    Parameters
    ----------
    epochs : mapping of str to DataFrame
        For each model a row an epoch: epoch, train_loss, validation_correlation, learning_rate.
    loss_label : str
        The loss with its unit.

    Raises
    ------
    FigureError
        No model, a column is missing, or a model has no epochs.
    """
    if not epochs:
        raise FigureError("No model was given: there are no learning curves to draw.")
    frames = {label: _checked(label, frame) for label, frame in epochs.items()}
    colours = _colours(frames)

    figure = Figure(figsize=(7.2, 4.8), layout="constrained")
    loss_axes, score_axes = figure.subplots(2, 1, sharex=True)
    for label, frame in frames.items():
        colour = colours[label]
        for axes, column in ((loss_axes, "train_loss"), (score_axes, "validation_correlation")):
            (line,) = axes.plot(frame["epoch"], frame[column], color=colour, label=label)
            if colour == _OTHERS:
                line.set(linewidth=0.9, zorder=1.5)
        if colour != _OTHERS:
            _mark_cuts(score_axes, frame, colour)
            _mark_best(score_axes, frame, colour)
    loss_axes.set_ylabel(loss_label)
    score_axes.set_ylabel("Validation correlation")
    score_axes.set_xlabel("Epoch")
    score_axes.locator_params(axis="x", integer=True)
    for axes in (loss_axes, score_axes):
        axes.locator_params(axis="y", nbins=5)
    figure.align_ylabels()
    named = [label for label, colour in colours.items() if colour != _OTHERS]
    lines = {str(line.get_label()): line for line in loss_axes.lines}
    handles = [lines[label] for label in named]
    labels = named if len(named) == len(frames) else [f"{named[0]} (best of {len(frames)} models)"]
    handles += [
        loss_axes.plot([], [], "o", color=QUIET, markersize=4)[0],
        loss_axes.plot([], [], "|", color=QUIET, markersize=8, markeredgewidth=1.4)[0],
    ]
    figure.legend(handles, [*labels, "best epoch", "learning rate cut"], loc="outside upper left", ncols=4)
    return figure


def learning_rate_cuts(frame: pd.DataFrame) -> np.ndarray:
    """Return the epochs that are the first with a lower learning rate than the epoch before.

    Parameters
    ----------
    frame : DataFrame
        Columns epoch and learning_rate, in order of epoch.
    """
    rate = frame["learning_rate"].to_numpy(dtype=float)
    return frame["epoch"].to_numpy()[1:][np.diff(rate) < 0]


def _checked(label: str, frame: pd.DataFrame) -> pd.DataFrame:
    missing = [column for column in _COLUMNS if column not in frame]
    if missing:
        raise FigureError(f"The epochs of {label} lack the column {', '.join(missing)}.")
    if frame.empty:
        raise FigureError(f"{label} has no epochs to draw.")
    return frame.sort_values("epoch")


def _best_score(frame: pd.DataFrame) -> float:
    scores = frame["validation_correlation"].to_numpy(dtype=float)
    return float(np.nanmax(scores)) if np.isfinite(scores).any() else -np.inf


def _colours(frames: Mapping[str, pd.DataFrame]) -> dict[str, str]:
    """One colour a model while they last; otherwise the best model in colour and the others in grey."""
    if len(frames) < len(PALETTE):
        return dict(zip(frames, PALETTE, strict=False))
    best = max(frames, key=lambda label: _best_score(frames[label]))
    return {label: PALETTE[0] if label == best else _OTHERS for label in frames}


def _mark_cuts(axes: Axes, frame: pd.DataFrame, colour: str) -> None:
    cuts = learning_rate_cuts(frame)
    scores = frame.set_index("epoch")["validation_correlation"].astype(float).interpolate(limit_direction="both")
    marks = axes.plot(cuts, scores.loc[cuts], "|", color=colour, markersize=11, markeredgewidth=1.6, zorder=4)
    marks[0].set_gid("cuts")


def _mark_best(axes: Axes, frame: pd.DataFrame, colour: str) -> None:
    if not np.isfinite(_best_score(frame)):
        return
    row = frame.loc[frame["validation_correlation"].astype(float).idxmax()]
    axes.plot(
        row["epoch"], row["validation_correlation"], "o", color=colour, markersize=6, zorder=5,
        markeredgecolor="white", markeredgewidth=0.8,
    )  # fmt: skip
