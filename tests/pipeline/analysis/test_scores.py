from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from pipeline import metrics
from pipeline.analysis import scores
from pipeline.analysis.scores import UnitScores, score, score_trials

CONDITIONS = ["a", "b", "a", "c", "b", "a"]
"""Two repeated conditions, shown in mixed order, and one shown once."""
LENGTHS = {"a": 30, "b": 20, "c": 25}


@pytest.fixture
def trials() -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Rates of three units, the last one silent, and predictions that differ a little from trial to trial."""
    rng = np.random.default_rng(0)
    rates = {name: rng.gamma(1, 2, (3, length)) for name, length in LENGTHS.items()}
    responses = [rng.poisson(rates[name]).astype(float) for name in CONDITIONS]
    predictions = [rates[name] * rng.uniform(0.8, 1.2, (3, LENGTHS[name])) for name in CONDITIONS]
    for trial in responses:
        trial[2] = 0
    return responses, predictions


def corr(x: np.ndarray, y: np.ndarray) -> float:
    return float(np.corrcoef(x, y)[0, 1])


def test_each_measure_uses_its_own_trials(trials: tuple[list[np.ndarray], list[np.ndarray]]) -> None:
    responses, predictions = trials
    found = score(responses, predictions, CONDITIONS)
    groups = [[0, 2, 5], [1, 4]]
    for unit in (0, 1):
        pairs = [(r[unit], p[unit]) for r, p in zip(responses, predictions, strict=True)]
        joined = [np.concatenate(side) for side in zip(*pairs, strict=True)]
        assert found.single_trial_correlation[unit] == pytest.approx(corr(*joined))
        assert found.per_clip_correlation[unit] == pytest.approx(np.mean([corr(r, p) for r, p in pairs]))
        means = [
            np.concatenate([np.mean([pairs[i][side] for i in group], axis=0) for group in groups]) for side in (0, 1)
        ]
        assert found.correlation_to_average[unit] == pytest.approx(corr(*means))
    repeats, predicted = ([np.stack([side[i] for i in group]) for group in groups] for side in trials)
    np.testing.assert_allclose(found.fev, metrics.fev(repeats))
    np.testing.assert_allclose(found.feve, metrics.feve(repeats, predicted))
    np.testing.assert_allclose(found.normalized_correlation, metrics.normalized_correlation(repeats, predicted))
    np.testing.assert_allclose(found.poisson_loss, metrics.poisson_loss(responses, predictions))
    np.testing.assert_allclose(found.oracle, metrics.oracle_correlation(repeats))
    np.testing.assert_allclose(found.fraction_oracle, found.single_trial_correlation / found.oracle)


def test_undefined_is_nan(trials: tuple[list[np.ndarray], list[np.ndarray]]) -> None:
    found = score(*trials, CONDITIONS)
    assert np.isnan(found.single_trial_correlation[2])
    assert np.isfinite(found.single_trial_correlation[:2]).all()
    once = score(*(side[2:4] for side in trials), ["a", "c"])
    for name in ("correlation_to_average", "fev", "feve", "normalized_correlation"):
        assert np.isnan(getattr(once, name)).all()
        assert getattr(once, name).shape == (3,)
    assert np.isfinite(once.single_trial_correlation[:2]).all()


def test_perfect_predictions(trials: tuple[list[np.ndarray], list[np.ndarray]]) -> None:
    _, rates = trials
    found = score(rates, rates, CONDITIONS)
    for name in ("single_trial_correlation", "per_clip_correlation", "correlation_to_average"):
        np.testing.assert_allclose(getattr(found, name), 1)


def test_names_are_the_fields() -> None:
    assert UnitScores.names()[0] == "single_trial_correlation"
    assert len(UnitScores.names()) == 9


def test_still_images_have_one_frame() -> None:
    rng = np.random.default_rng(3)
    conditions = list("abcdefgh") * 3
    rates = {name: rng.gamma(2, 2, (4, 1)) for name in "abcdefgh"}
    responses = [rates[name] + rng.normal(size=(4, 1)) for name in conditions]
    predictions = [rates[name] for name in conditions]
    found = score(responses, predictions, conditions)
    joined = np.concatenate(responses, axis=1), np.concatenate(predictions, axis=1)
    for unit in range(4):
        assert found.single_trial_correlation[unit] == pytest.approx(corr(joined[0][unit], joined[1][unit]))
        means = [
            np.mean([r[unit, 0] for r, c in zip(responses, conditions, strict=True) if c == n]) for n in "abcdefgh"
        ]
        expected = corr(np.array(means), np.array([rates[n][unit, 0] for n in "abcdefgh"]))
        assert found.correlation_to_average[unit] == pytest.approx(expected)
    assert np.isnan(found.per_clip_correlation).all()
    assert np.isfinite(found.feve).all()


def test_units_together_are_means_but_the_fraction_oracle_is_a_slope(
    trials: tuple[list[np.ndarray], list[np.ndarray]],
) -> None:
    found = score(*trials, CONDITIONS)
    correlation, oracle = found.single_trial_correlation[:2], found.oracle[:2]
    assert found.over_units("feve") == (pytest.approx(found.feve[:2].mean()), 1)
    slope = np.linalg.lstsq(oracle[:, None], correlation, rcond=None)[0][0]
    assert found.over_units("fraction_oracle") == (pytest.approx(slope), 1)


def test_an_oracle_below_zero_has_no_fraction() -> None:
    rng = np.random.default_rng(1)
    rate = rng.normal(size=(1, 50))
    found = score([rate, -rate], [rate, rate], ["a", "a"])
    assert found.oracle[0] == pytest.approx(-1)
    assert np.isnan(found.fraction_oracle[0])


def test_trials_of_complete_conditions_are_let_go() -> None:
    rng = np.random.default_rng(2)
    units, bins, repeats, conditions = 50, 200, 3, 60
    tracemalloc.start()
    trials = ((x, x + 1) for x in (rng.normal(size=(units, bins)) for _ in range(repeats * conditions)))
    score_trials(trials, [str(i // repeats) for i in range(repeats * conditions)])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 0.2 * 2 * units * bins * 8 * repeats * conditions


def test_units_are_scored_each_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(4)
    responses = list(rng.gamma(2, 1, (6, 7, 40)))
    predictions = [trial + rng.normal(0, 1, trial.shape) ** 2 for trial in responses]
    together = score(responses, predictions, list("abcabc"))
    monkeypatch.setattr(scores, "UNITS_AT_ONCE", 3)
    apart = score(responses, predictions, list("abcabc"))
    for name in UnitScores.names():
        assert getattr(apart, name).shape == (7,)
        np.testing.assert_allclose(getattr(apart, name), getattr(together, name), rtol=1e-12)
