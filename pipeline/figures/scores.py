"""How well the units are predicted: distributions of scores, scores of two models, and scores against the oracle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pipeline.figures.checks import FigureError, as_array, same_length
from pipeline.figures.style import PALETTE, PREDICTED, QUIET, RECORDED, TEST, VALIDATION, styled, undefined_note
from pipeline.metrics import fraction_oracle

_FIXED_COLOURS = {"validation": VALIDATION, "test": TEST, "oracle": RECORDED}


@styled
def score_histogram(scores: Mapping[str, np.ndarray], xlabel: str, *, bins: int = 20) -> Figure:
    """Draw the distribution of a score over units, one outline a label, with the mean of each as a dashed line.

    Parameters
    ----------
    scores : mapping of str to ndarray
        (unit,) for each label; NaN is left out and counted in the legend.
    xlabel : str
        The score with its unit, for example 'Single-trial correlation'.
    bins : int
        Bins at most; all labels share them, and their edges are round numbers.

    Raises
    ------
    FigureError
        No value is defined.
    """
    arrays = {label: as_array(label, values, "unit") for label, values in scores.items()}
    defined = {label: values[~np.isnan(values)] for label, values in arrays.items()}
    together = np.concatenate(list(defined.values())) if defined else np.empty(0)
    if not together.size:
        raise FigureError(f"No value of {xlabel} is defined for {', '.join(scores) or 'any label'}: nothing to draw.")
    edges = MaxNLocator(bins, steps=[1, 2, 5, 10]).tick_values(together.min(), together.max())

    figure = Figure(figsize=(5.4, 3.4), layout="constrained")
    axes = figure.subplots()
    for position, (label, values) in enumerate(defined.items()):
        colour = _FIXED_COLOURS.get(label, PALETTE[position % len(PALETTE)])
        facts = [f"mean {values.mean():.2f}" if len(values) else "no mean", f"n = {len(values)}"]
        note = undefined_note(arrays[label])
        axes.hist(
            values, edges, histtype="stepfilled", facecolor=(colour, 0.18), edgecolor=colour, linewidth=1.3,
            label=f"{label}: " + ", ".join([*facts, *([note] if note else [])]),
        )  # fmt: skip
        if len(values):
            axes.plot(
                [values.mean()] * 2, [0, 1.015], color=colour, linestyle="--", linewidth=1, marker="v", markevery=[1],
                markersize=6, clip_on=False, transform=axes.get_xaxis_transform(),
            )  # fmt: skip
    axes.set_xlabel(xlabel)
    axes.set_ylabel("Units")
    axes.locator_params(axis="y", integer=True)
    if edges[0] < 0 < edges[-1]:
        axes.axvline(0, color=QUIET, linewidth=0.8, linestyle=":", zorder=0)
    figure.legend(loc="outside upper left")
    return figure


@styled
def scores_against_oracle(
    oracle: np.ndarray,
    score: np.ndarray,
    unit_names: Sequence[str],
    *,
    score_label: str = "Model correlation",
    named_units: int = 3,
) -> Figure:
    """Scatter the model's score against the leave-one-out oracle, with the identity and the fraction oracle as a slope.

    Parameters
    ----------
    oracle, score : ndarray
        (unit,); units with either undefined are left out and counted.
    unit_names : sequence of str
        (unit,).
    score_label : str
        Axis label of the score.
    named_units : int
        How many of the units farthest below their oracle are named.

    Raises
    ------
    FigureError
        Shapes disagree, or no unit has both scores.
    """
    oracle, score = as_array("oracle", oracle, "unit"), as_array("score", score, "unit")
    same_length("unit", oracle=oracle, score=score, unit_names=unit_names)
    both = np.isfinite(oracle) & np.isfinite(score)
    if not both.any():
        raise FigureError("No unit has both an oracle and a model score: nothing to draw.")
    slope = slope_through_origin(oracle[both], score[both])
    figure, axes = _scatter(oracle, score, both)
    high = axes.get_xlim()[1]
    axes.plot([0, high], [0, slope * high], color=TEST, linewidth=1.8, label=f"fraction oracle {slope:.2f}")
    axes.set(xlabel="Oracle correlation", ylabel=score_label)
    _name_farthest(axes, oracle, score, unit_names, named_units)
    axes.legend(loc="upper left")
    return figure


@styled
def scores_of_two_models(
    first: np.ndarray, second: np.ndarray, names: tuple[str, str], score_label: str = "Single-trial correlation"
) -> Figure:
    """Scatter each unit's score in one model against that in another, with the identity and the means of both.

    Parameters
    ----------
    first, second : ndarray
        (unit,) scores of the same units in the two models, horizontal and vertical; units with either undefined are
        left out and counted.
    names : tuple of str
        Of the two models.
    score_label : str
        The score with its unit.

    Raises
    ------
    FigureError
        Shapes disagree, or no unit has both scores.
    """
    first, second = as_array("first", first, "unit"), as_array("second", second, "unit")
    same_length("unit", first=first, second=second)
    both = np.isfinite(first) & np.isfinite(second)
    if not both.any():
        raise FigureError(f"No unit has a score in both {names[0]} and {names[1]}: nothing to draw.")
    figure, axes = _scatter(first, second, both)
    means = first[both].mean(), second[both].mean()
    axes.plot(
        *means, color=PREDICTED, marker="+", markersize=13, markeredgewidth=2, linestyle="none", zorder=4,
        label=f"means {means[0]:.3f} and {means[1]:.3f}",
    )  # fmt: skip
    higher = np.count_nonzero(second[both] > first[both])
    axes.set(xlabel=f"{score_label}, {names[0]}", ylabel=f"{score_label}, {names[1]}")
    axes.set_title(f"{axes.get_title(loc='left')}, {higher} higher in {names[1]}", fontsize=9)
    axes.legend(loc="upper left")
    return figure


def _scatter(x: np.ndarray, y: np.ndarray, shown: np.ndarray) -> tuple[Figure, Axes]:
    """Scatter units on two equal axes with the identity; the title counts them."""
    low = min(0.0, x[shown].min(), y[shown].min()) - 0.03
    high = max(x[shown].max(), y[shown].max(), 0.0) * 1.08 + 0.01
    figure = Figure(figsize=(6.0, 4.6), layout="constrained")
    axes = figure.subplots()
    axes.plot([low, high], [low, high], color=QUIET, linewidth=1, linestyle="--", label="identity")
    axes.scatter(x[shown], y[shown], s=22, color=RECORDED, alpha=0.65, linewidths=0, zorder=3)
    axes.set(xlim=(low, high), ylim=(low, high), box_aspect=1)
    left_out = np.count_nonzero(~shown)
    axes.set_title(f"{np.count_nonzero(shown)} units" + (f", {left_out} undefined" if left_out else ""), fontsize=9)
    return figure, axes


def slope_through_origin(oracle: np.ndarray, score: np.ndarray) -> float:
    """Return the least-squares slope of score on oracle without an intercept: the population's fraction oracle.

    Parameters
    ----------
    oracle, score : ndarray
        (unit,), finite.

    Raises
    ------
    FigureError
        Every oracle is 0, which leaves the slope undefined.
    """
    slope = fraction_oracle(score, oracle)
    if np.isnan(slope):
        raise FigureError("Every oracle correlation is 0: the fraction oracle is undefined.")
    return slope


def _name_farthest(axes: Axes, oracle: np.ndarray, score: np.ndarray, names: Sequence[str], count: int) -> None:
    """Name the units that fall shortest of their oracle, in the right margin at the height of their points."""
    shortfall = oracle - score
    worst = [unit for unit in np.argsort(-shortfall, kind="stable") if shortfall[unit] > 0][:count]
    low, high = axes.get_ylim()
    place = -1.0
    for unit in sorted(worst, key=lambda unit: score[unit]):
        # Names whose points are at the same height stand one above the other.
        place = max(place + 0.045, float(score[unit] - low) / (high - low))
        axes.annotate(
            names[unit], (oracle[unit], score[unit]), (1.02, place), textcoords="axes fraction", va="center",
            fontsize=7, color="#444444", arrowprops={"arrowstyle": "-", "color": QUIET, "linewidth": 0.5, "shrinkB": 3},
        )  # fmt: skip
