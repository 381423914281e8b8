from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from pipeline import legacy, metrics


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(3)


@pytest.fixture
def repeats(rng: np.random.Generator) -> list[np.ndarray]:
    """Three conditions with 5, 4 and 7 repeats of 3 units and different lengths."""
    made = []
    for n, time in ((5, 20), (4, 31), (7, 12)):
        signal = rng.gamma(2, 1, (1, 3, time))
        made.append(rng.poisson(signal.repeat(n, axis=0)).astype(float))
    return made


def test_single_trial_correlation_equals_scipy_on_joined_trials(rng: np.random.Generator) -> None:
    responses = [rng.poisson(2, (4, t)).astype(float) for t in (30, 17)]
    predictions = [r + rng.normal(0, 2, r.shape) for r in responses]
    found = metrics.single_trial_correlation(responses, predictions)
    for unit in range(4):
        x = np.concatenate([r[unit] for r in responses])
        y = np.concatenate([p[unit] for p in predictions])
        assert found[unit] == pytest.approx(stats.pearsonr(x, y).statistic, abs=1e-12)


def test_joining_trials_is_not_averaging_over_them() -> None:
    responses = [np.array([[0.0, 1.0]]), np.array([[10.0, 11.0]])]
    predictions = [np.array([[1.0, 0.0]]), np.array([[11.0, 10.0]])]
    assert metrics.per_clip_correlation(responses, predictions)[0] == pytest.approx(-1)
    # Means differ by 10 between trials: joint variance 25.25, joint covariance 24.75.
    assert metrics.single_trial_correlation(responses, predictions)[0] == pytest.approx(24.75 / 25.25)


def test_per_clip_correlation_is_the_mean_of_scipys_over_clips_where_it_is_defined(rng: np.random.Generator) -> None:
    responses = [rng.poisson(2, (3, t)).astype(float) for t in (30, 17, 9)]
    predictions = [r + rng.normal(0, 2, r.shape) for r in responses]
    responses[1][2] = 4.0  # a clip without a correlation for the last unit
    found = metrics.per_clip_correlation(responses, predictions)
    for unit in range(3):
        clips = [clip for clip in range(3) if (unit, clip) != (2, 1)]
        each = [stats.pearsonr(responses[clip][unit], predictions[clip][unit]).statistic for clip in clips]
        assert found[unit] == pytest.approx(np.mean(each), abs=1e-12)


def test_correlations_of_images_equal_neuralpredictors(rng: np.random.Generator) -> None:
    corr = legacy.neuralpredictors_module("measures.np_functions").corr
    responses = rng.poisson(3, (40, 5)).astype(float)  # image, unit
    predictions = responses + rng.normal(0, 2, responses.shape)
    found = metrics.single_trial_correlation(list(responses[..., None]), list(predictions[..., None]))
    np.testing.assert_allclose(found, corr(responses, predictions, axis=0), rtol=1e-6)
    repeats = rng.poisson(3, (40, 6, 5, 1)).astype(float)
    found = metrics.correlation_to_average(list(repeats), list(predictions[..., None]))
    np.testing.assert_allclose(found, corr(repeats.mean(axis=1)[..., 0], predictions, axis=0), rtol=1e-6)


def test_correlation_of_constants_is_undefined_and_counted() -> None:
    responses = np.array([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0], [4.0, 4.0, 4.0]])
    predictions = np.array([[2.0, 4.0, 6.0], [0.1, 0.1 + 1e-9, 0.1], [1.0, 2.0, 3.0]])
    found = metrics.single_trial_correlation(responses, predictions)
    assert found[0] == pytest.approx(1)
    assert np.isnan(found[1:]).all()
    assert metrics.mean_of_defined(found) == (pytest.approx(1), 2)
    assert np.isnan(metrics.mean_of_defined([np.nan])[0])


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_correlation_with_a_value_that_is_not_finite_is_undefined(bad: float) -> None:
    responses = np.array([[1.0, 2.0, 4.0], [1.0, 2.0, 4.0]])
    predictions = np.array([[1.0, bad, 3.0], [2.0, 4.0, 8.0]])
    found = metrics.single_trial_correlation(responses, predictions)
    assert np.isnan(found[0]) and found[1] == pytest.approx(1)


def test_correlation_of_different_shapes_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(2, 5\) and \(2, 4\)"):
        metrics.single_trial_correlation(np.zeros((2, 5)), np.zeros((2, 4)))


def test_correlation_to_average(repeats: list[np.ndarray], rng: np.random.Generator) -> None:
    predictions = [rng.normal(size=x.shape[1:]) for x in repeats]
    found = metrics.correlation_to_average(repeats, predictions)
    for unit in range(3):
        mean = np.concatenate([x[:, unit].mean(0) for x in repeats])
        guess = np.concatenate([p[unit] for p in predictions])
        assert found[unit] == pytest.approx(np.corrcoef(mean, guess)[0, 1])
    per_repeat = [np.stack([p - 1, p + 1]) for p in predictions]
    np.testing.assert_allclose(metrics.correlation_to_average(repeats, per_repeat), found)


def test_oracle_equals_leaving_out_each_repeat_by_hand(repeats: list[np.ndarray]) -> None:
    for unit in range(3):
        left_out, rest = [], []
        for condition in repeats:
            for i in range(len(condition)):
                others = [condition[j, unit] for j in range(len(condition)) if j != i]
                left_out += list(condition[i, unit])
                rest += list(sum(others) / len(others))
        expected = stats.pearsonr(left_out, rest).statistic
        assert metrics.oracle_correlation(repeats)[unit] == pytest.approx(expected, abs=1e-12)


def test_oracles_of_images_equal_neuralpredictors(rng: np.random.Generator) -> None:
    images = [rng.poisson(rng.gamma(2, 2, (1, 6)).repeat(8, axis=0)).astype(float) for _ in range(15)]
    as_movies = [image[:, :, None] for image in images]
    measures = legacy.neuralpredictors_module("measures.np_functions")
    np.testing.assert_allclose(metrics.oracle_correlation(as_movies), measures.oracle_corr_jackknife(images), rtol=1e-6)
    np.testing.assert_allclose(
        metrics.conservative_oracle_correlation(as_movies), measures.oracle_corr_conservative(images), rtol=1e-6
    )


def test_oracle_without_noise_is_one(rng: np.random.Generator) -> None:
    same = [rng.normal(size=(1, 2, 50)).repeat(3, axis=0)]
    np.testing.assert_allclose(metrics.oracle_correlation(same), 1)
    np.testing.assert_allclose(metrics.conservative_oracle_correlation(same), 1)


def test_oracles_enclose_the_correlation_of_the_true_rate(rng: np.random.Generator) -> None:
    signal, noise = 1.0, 2.0
    rate = rng.normal(0, np.sqrt(signal), (1, 1, 200_000))
    trials = rate + rng.normal(0, np.sqrt(noise), (5, 1, 200_000))
    truth = np.sqrt(signal / (signal + noise))
    jackknife = signal / np.sqrt((signal + noise) * (signal + noise / 4))
    assert metrics.oracle_correlation([trials])[0] == pytest.approx(jackknife, abs=0.01)
    # The mean of 5 repeats has variance 1 + 2/5, the variance over repeats (divided by n) is 2 * 4/5.
    assert metrics.conservative_oracle_correlation([trials])[0] == pytest.approx(np.sqrt(1.4 / 3.0), abs=0.01)
    assert jackknife < truth < np.sqrt(1.4 / 3.0)


def test_oracle_refuses_a_condition_shown_once(repeats: list[np.ndarray]) -> None:
    with pytest.raises(ValueError, match="condition 1 was shown 1 time"):
        metrics.oracle_correlation([repeats[0], repeats[1][:1]])


def test_fraction_oracle_is_the_slope_through_the_origin() -> None:
    oracles = np.array([0.2, 0.5, 0.9, np.nan, 0.4])
    correlations = np.array([0.1, 0.3, 0.8, 0.5, np.nan])
    slope = np.linalg.lstsq(oracles[:3, None], correlations[:3], rcond=None)[0][0]
    assert metrics.fraction_oracle(correlations, oracles) == pytest.approx(slope)
    assert metrics.fraction_oracle(0.7 * oracles, oracles) == pytest.approx(0.7)
    assert np.isnan(metrics.fraction_oracle([0.3], [np.nan]))


def test_poisson_loss_is_the_likelihood_up_to_a_constant(rng: np.random.Generator) -> None:
    counts = rng.poisson(2, (1, 100))
    first, second = np.full((1, 100), 1.5), rng.gamma(2, 1, (1, 100))
    difference = metrics.poisson_loss(counts, first) - metrics.poisson_loss(counts, second)
    likelihood = stats.poisson.logpmf(counts, second).mean() - stats.poisson.logpmf(counts, first).mean()
    assert difference[0] == pytest.approx(likelihood, abs=1e-6)


def test_explained_variance_in_closed_form(rng: np.random.Generator) -> None:
    time = 100_000
    rate = rng.normal(0, 1, (1, 1, time))
    trials = [rate + rng.normal(0, np.sqrt(3), (4, 1, time))]
    assert metrics.fev(trials)[0] == pytest.approx(1 / 4, abs=0.01)
    assert metrics.feve(trials, [rate[0]])[0] == pytest.approx(1, abs=0.03)
    assert metrics.feve(trials, [0.5 * rate[0]])[0] == pytest.approx(1 - 0.25, abs=0.03)
    assert metrics.feve(trials, [np.zeros((1, time))])[0] == pytest.approx(0, abs=0.03)


def test_explained_variance_equals_neuralpredictors_on_images(rng: np.random.Generator) -> None:
    images = [rng.poisson(rng.gamma(2, 2, (1, 6)).repeat(8, axis=0)).astype(float) for _ in range(15)]
    guesses = [rng.gamma(2, 2, (1, 6)).repeat(8, axis=0) for _ in images]
    expected_fev, expected_feve = legacy.measures.np_functions.fev(images, guesses, return_exp_var=True)
    as_movies, as_guesses = [x[:, :, None] for x in images], [g[0][:, None] for g in guesses]
    np.testing.assert_allclose(metrics.fev(as_movies), expected_fev)
    np.testing.assert_allclose(metrics.feve(as_movies, as_guesses), expected_feve)


def test_explained_variance_of_silent_units_is_undefined() -> None:
    silent = [np.zeros((3, 1, 10))]
    assert np.isnan(metrics.fev(silent)[0])
    assert np.isnan(metrics.feve(silent, [np.zeros((1, 10))])[0])


def test_normalized_correlation_of_the_true_rate_is_one(rng: np.random.Generator) -> None:
    rate = rng.normal(0, 1, (1, 1, 100_000))
    trials = rate + rng.normal(0, 2, (3, 1, 100_000))
    half = [trials[..., :50_000], np.concatenate([trials[..., 50_000:]] * 2)]  # more repeats of the second half
    assert metrics.normalized_correlation([trials], [3 * rate[0] + 1])[0] == pytest.approx(1, abs=0.02)
    assert metrics.normalized_correlation(half, [rate[0, :, :50_000], rate[0, :, 50_000:]])[0] == pytest.approx(
        1, abs=0.02
    )
    noise = rng.normal(0, 1, (3, 1, 1000)) * 1e-3
    assert np.isnan(metrics.normalized_correlation([noise], [rate[0, :, :1000]])[0])


def test_explained_variance_equals_a_direct_loop(repeats: list[np.ndarray], rng: np.random.Generator) -> None:
    predictions = [rng.gamma(2, 1, x.shape) for x in repeats]
    for unit in range(3):
        values, errors, noise = [], [], []
        for condition, guess in zip(repeats, predictions, strict=True):
            for frame in range(condition.shape[2]):
                shown = condition[:, unit, frame]
                values += list(shown)
                errors += [(y - p) ** 2 for y, p in zip(shown, guess[:, unit, frame], strict=True)]
                noise.append(sum((shown - shown.mean()) ** 2) / (len(shown) - 1))
        total = stats.tvar(values)
        explainable = total - np.mean(noise)
        assert metrics.fev(repeats)[unit] == pytest.approx(explainable / total)
        expected = 1 - (np.mean(errors) - np.mean(noise)) / explainable
        assert metrics.feve(repeats, predictions)[unit] == pytest.approx(expected)


def test_normalized_correlation_equals_a_direct_loop(repeats: list[np.ndarray], rng: np.random.Generator) -> None:
    predictions = [rng.gamma(2, 1, x.shape[1:]) for x in repeats]
    found = metrics.normalized_correlation(repeats, predictions)
    for unit in range(3):
        shown = [np.concatenate([x[i, unit] for x in repeats]) for i in range(4)]
        guess = np.concatenate([p[unit] for p in predictions])
        power = (np.var(sum(shown)) - sum(np.var(y) for y in shown)) / (4 * 3)
        covariance = np.cov(sum(shown) / 4, guess, ddof=0)[0, 1]
        assert found[unit] == pytest.approx(covariance / np.sqrt(np.var(guess) * power))


@pytest.mark.filterwarnings("error")
def test_what_is_not_finite_leaves_only_its_unit_undefined(repeats: list[np.ndarray], rng: np.random.Generator) -> None:
    predictions = [rng.gamma(2, 1, x.shape[1:]) for x in repeats]
    predictions[1][2, 3] = np.inf
    for measure in (metrics.feve, metrics.normalized_correlation, metrics.correlation_to_average):
        assert np.isfinite(measure(repeats, predictions)).tolist() == [True, True, False]
    below = -np.ones((1, 3))
    assert np.isnan(metrics.poisson_loss(np.ones((1, 3)), below)).all()


def test_variance_of_a_constant_that_rounds_is_undefined() -> None:
    constant = [np.full((3, 1, 7), 0.1)]
    assert np.isnan(metrics.fev(constant)[0])
    assert np.isnan(metrics.feve(constant, [np.ones((1, 7))])[0])
