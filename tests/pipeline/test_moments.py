"""Sums that are gathered piece by piece equal what NumPy finds in the whole."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.moments import Moments, RepeatSums


def test_pieces_of_any_length_add_up_to_the_whole() -> None:
    rng = np.random.default_rng(5)
    x, y = rng.normal(1e4, 1, (2, 3, 100))
    moments = Moments()
    for first, last in ((0, 1), (1, 1), (1, 40), (40, 99), (99, 100)):
        moments.add(x[:, first:last], y[:, first:last])
    assert moments.n == 100
    np.testing.assert_allclose(moments.mean(1), y.mean(axis=1), rtol=1e-12)
    np.testing.assert_allclose(moments.variance(0, ddof=1), x.var(axis=1, ddof=1), rtol=1e-9)
    expected = [np.cov(a, b, ddof=0)[0, 1] for a, b in zip(x, y, strict=True)]
    np.testing.assert_allclose(moments.covariance(0, 1), expected, atol=1e-9)


def test_a_piece_is_not_changed_when_others_join_it() -> None:
    first, second = Moments([[0.0, 2.0]]), Moments([[4.0, 6.0]])
    joined = Moments()
    joined.merge(first)
    joined.merge(second)
    assert joined.variance() == pytest.approx(5)
    assert first.variance() == second.variance() == pytest.approx(1)


def test_a_trace_that_differs_only_between_pieces_varies() -> None:
    moments = Moments([[1.0, 1.0]])
    assert not moments.varies()
    moments.add([[2.0, 2.0]])
    assert moments.varies()


def test_a_value_that_is_not_finite_spoils_its_unit_in_all_pieces() -> None:
    moments = Moments([[1.0, np.nan], [1.0, 2.0]])
    moments.add([[1.0, 2.0], [1.0, 2.0]])
    assert np.isnan(moments.variance()).tolist() == [True, False]


def test_repeats_may_be_given_as_lists_or_arrays() -> None:
    trials = np.random.default_rng(6).normal(size=(4, 2, 30))
    as_list = RepeatSums(4)
    as_list.add(list(trials), list(trials))
    np.testing.assert_array_equal(as_list.feve(), RepeatSums.of([trials], [trials]).feve())
    np.testing.assert_allclose(as_list.correlation_to_average(), 1)
