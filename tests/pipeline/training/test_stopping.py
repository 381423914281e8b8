from __future__ import annotations

import pytest
from torch import nn

from pipeline.training import Default
from pipeline.training.stopping import Plateau


def follow(scores: list[float], start: float = 0.0, **settings: float) -> tuple[list[str], list[float], nn.Linear]:
    """Run a plateau over scores; the model's weight is the number of the epoch. Return verdicts, rates and model."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    plateau = Plateau(Default(**{"lr_init": 1.0, "min_lr": 0.0, "patience": 2, "lr_decay_factor": 0.5} | settings))
    plateau.start(start, model)
    verdicts, rates = [], []
    for epoch, score in enumerate(scores, start=1):
        nn.init.constant_(model.weight, epoch)
        verdicts.append(plateau.update(score, epoch, model).value)
        rates.append(plateau.learning_rate)
        if verdicts[-1] == "stop":
            break
    return verdicts, rates, model


def test_patience_cuts_and_then_ends() -> None:
    verdicts, rates, model = follow([0.1, 0.3, 0.2, 0.3, 0.2, 0.1, 0.0, 0.0], lr_decay_steps=2)
    assert verdicts == ["improved", "improved", "waiting", "cut", "waiting", "cut", "waiting", "stop"]
    assert rates == [1, 1, 1, 0.5, 0.5, 0.25, 0.25, 0.25]
    assert model.weight.item() == 2, "the best epoch's weights are back"


def test_improvement_resets_the_count_and_moves_the_best() -> None:
    verdicts, rates, model = follow([0.1, 0.0, 0.2, 0.1, 0.1, 0.3, 0.1, 0.1], lr_decay_steps=1)
    assert verdicts == ["improved", "waiting", "improved", "waiting", "cut", "improved", "waiting", "stop"]
    assert rates == [1, 1, 1, 1, 0.5, 0.5, 0.5, 0.5]
    assert model.weight.item() == 6


def test_a_cut_restores_the_best_weights() -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 5.0)
    plateau = Plateau(Default(patience=1, lr_init=1.0))
    plateau.start(0.5, model)
    nn.init.constant_(model.weight, 6.0)
    assert plateau.update(0.4, 1, model).value == "cut"
    assert model.weight.item() == 5


def test_stages_may_be_named() -> None:
    """The schedule of staticnet: each learning rate until patience runs out, from the best weights on."""
    verdicts, rates, model = follow([0.1, 0.0, 0.0, 0.2, 0.1, 0.1], schedule=(0.005, 0.001), min_lr=0.1)
    assert verdicts == ["improved", "waiting", "cut", "improved", "waiting", "stop"]
    assert rates == [0.005, 0.005, 0.001, 0.001, 0.001, 0.001]
    assert model.weight.item() == 4


def test_the_evaluation_before_training_must_be_beaten() -> None:
    verdicts, _, model = follow([0.3, 0.4], start=0.5, lr_decay_steps=0)
    assert verdicts == ["waiting", "stop"]
    assert model.weight.item() == 0


def test_smaller_rises_than_min_delta_do_not_count() -> None:
    verdicts, _, _ = follow([0.1, 0.1009, 0.1011, 0.2], min_delta=1e-3, start=0.0)
    assert verdicts == ["improved", "waiting", "improved", "improved"]


@pytest.mark.parametrize("undefined", [float("nan"), float("inf")])
def test_undefined_scores_never_improve_but_any_score_beats_them(undefined: float) -> None:
    verdicts, _, model = follow([undefined, -0.2, undefined, undefined], start=float("nan"), lr_decay_steps=0)
    assert verdicts == ["waiting", "improved", "waiting", "stop"]
    assert model.weight.item() == 2


def test_training_ends_rather_than_go_below_the_smallest_rate() -> None:
    verdicts, rates, _ = follow([0.0] * 10, min_lr=0.25, lr_decay_steps=9)
    assert verdicts == ["waiting", "cut", "waiting", "cut", "waiting", "stop"]
    assert rates[-1] == 0.25
