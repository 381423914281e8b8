from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from pipeline.figures.checks import FigureError
from pipeline.figures.style import PALETTE
from pipeline.figures.training import learning_curves, learning_rate_cuts


def epochs(seed: int, best: float = 0.4) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    score = rng.uniform(0, best - 0.05, 10)
    score[6] = best
    rate = [0.01] * 4 + [0.003] * 4 + [0.001] * 2
    return pd.DataFrame(
        {"epoch": range(10), "train_loss": rng.random(10), "validation_correlation": score, "learning_rate": rate}
    )


def test_cuts_are_the_first_epochs_with_a_lower_rate():
    assert learning_rate_cuts(epochs(0)).tolist() == [4, 8]
    warm_up = pd.DataFrame({"epoch": [0, 1, 2], "learning_rate": [0.001, 0.01, 0.01]})
    assert learning_rate_cuts(warm_up).tolist() == []


def test_curves_cuts_and_best_epochs_are_those_of_the_frames():
    frames = {"a": epochs(1), "b": epochs(2).sample(frac=1, random_state=0)}
    figure = learning_curves(frames)
    loss, score = figure.axes
    for label in frames:
        frame = frames[label].sort_values("epoch")
        (loss_line,) = [line for line in loss.lines if line.get_label() == label]
        (score_line,) = [line for line in score.lines if line.get_label() == label]
        np.testing.assert_array_equal(loss_line.get_xydata(), frame[["epoch", "train_loss"]])
        np.testing.assert_array_equal(score_line.get_xydata(), frame[["epoch", "validation_correlation"]])
    cuts = [line for line in score.lines if line.get_gid() == "cuts"]
    assert [line.get_xdata().tolist() for line in cuts] == [[4, 8], [4, 8]]
    best = [line for line in score.lines if line.get_marker() == "o"]
    assert [(line.get_xdata()[0], line.get_ydata()[0]) for line in best] == [(6, 0.4), (6, 0.4)]
    assert "nats per bin" in loss.get_ylabel()
    assert (score.get_xlabel(), score.get_ylabel()) == ("Epoch", "Validation correlation")


def test_among_many_models_only_the_best_has_a_colour():
    frames = {f"seed {seed}": epochs(seed, 0.3 + 0.1 * (seed == 5)) for seed in range(12)}
    figure = learning_curves(frames)
    coloured = [line.get_label() for line in figure.axes[0].lines if line.get_color() == PALETTE[0]]
    assert coloured == ["seed 5"]
    assert figure.legends[0].get_texts()[0].get_text() == "seed 5 (best of 12 models)"


def test_a_model_without_validation_scores_is_drawn_without_a_best_epoch():
    figure = learning_curves({"a": epochs(1).assign(validation_correlation=np.nan)})
    assert not [line for line in figure.axes[1].lines if line.get_marker() == "o"]


def test_missing_columns_and_empty_frames_are_named():
    with pytest.raises(FigureError, match="epochs of a lack the column learning_rate"):
        learning_curves({"a": epochs(1).drop(columns="learning_rate")})
    with pytest.raises(FigureError, match="b has no epochs"):
        learning_curves({"a": epochs(1), "b": epochs(1).iloc[:0]})
    with pytest.raises(FigureError, match="No model"):
        learning_curves({})
