"""Means, intervals and tests over seeds, against scipy, closed forms and brute force."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from mirrorlib.comparison.statistics import (
    MINIMUM_SEEDS,
    holm,
    paired,
    sign_flip_test,
    summarise,
    t_interval,
    t_test,
)

finite = st.floats(-1e3, 1e3, allow_nan=False).map(lambda x: round(x, 4))


def flips_by_hand(values: list[float]) -> float:
    """The share of all sign vectors whose sum is as far from zero."""
    sums = [
        sum(sign * abs(v) for sign, v in zip(signs, values, strict=True))
        for signs in itertools.product((-1, 1), repeat=len(values))
    ]
    return float(np.mean([abs(s) >= abs(sum(values)) - 1e-7 for s in sums]))


def holm_by_hand(p: list[float]) -> list[float]:
    """Holm's own words: the hypotheses of the smallest p-values fall one by one; adjusted is the
    level at which each falls."""
    order = sorted(range(len(p)), key=p.__getitem__)
    return [
        max(min(1.0, (len(p) - j) * p[order[j]]) for j in range(order.index(i) + 1))
        for i in range(len(p))
    ]


@given(st.lists(finite, min_size=2, max_size=30))
def test_intervals_are_scipys(values: list[float]):
    mean, low, high = t_interval(np.array(values))
    assert mean == pytest.approx(np.mean(values), abs=1e-9)
    if np.ptp(values) > 0:
        expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
        assert (low, high) == pytest.approx((expected.low, expected.high), rel=1e-9, abs=1e-9)
    assert low <= mean <= high


def test_the_interval_in_closed_form():
    """1 to 5: mean 3, deviation sqrt(2.5); t(.975, 4) is 2.776445 in every table."""
    found = summarise(dict(enumerate([1.0, 2.0, 3.0, 4.0, 5.0])))
    half = 2.7764451 * math.sqrt(2.5 / 5)
    assert (found.mean, found.low, found.high) == pytest.approx((3, 3 - half, 3 + half), abs=1e-6)


@pytest.mark.parametrize("count", range(MINIMUM_SEEDS))
def test_a_few_seeds_have_no_interval(count: int):
    found = summarise({seed: 1.0 + seed for seed in range(count)})
    assert (found.n, found.low, found.high) == (count, None, None)
    assert not found.excludes_zero
    assert math.isnan(found.mean) if count == 0 else found.mean == (count + 1) / 2


@pytest.mark.parametrize("value", [0.0, 0.1, -3.0])
def test_an_interval_without_width_excludes_nothing(value: float):
    found = summarise(dict.fromkeys(range(8), value))
    assert found.constant
    assert (found.mean, found.low, found.high) == (value, value, value)
    assert not found.excludes_zero
    assert math.isnan(t_test([value] * 8))


def test_differences_that_differ_by_rounding_alone_are_constant():
    baseline = {seed: 0.1 * seed for seed in range(6)}
    found = paired({seed: value + 0.3 for seed, value in baseline.items()}, baseline)
    assert len(set(found.values.values())) > 1
    assert found.constant


def test_pairs_are_the_seeds_that_both_have():
    found = paired({0: 1.0, 2: 5.0, 3: 7.0}, {3: 1.0, 2: 2.0, 9: 0.0})
    assert found.values == {2: 3.0, 3: 6.0}


def test_what_is_no_number_is_left_out():
    found = summarise({0: 1.0, 1: math.nan, 2: math.inf, 3: 3.0})
    assert (found.values, found.mean) == ({0: 1.0, 3: 3.0}, 2.0)


@settings(deadline=None)
@given(st.lists(finite, min_size=1, max_size=9))
def test_the_sign_flip_test_is_brute_force(values: list[float]):
    assert sign_flip_test(values) == flips_by_hand(values)


def test_the_sign_flip_test_is_scipys_at_twelve_pairs():
    values = np.random.default_rng(0).normal(0.5, 1, 12)
    expected = stats.permutation_test(
        (values,), np.mean, permutation_type="samples", n_resamples=np.inf
    )
    assert sign_flip_test(values) == pytest.approx(expected.pvalue, abs=1e-12)


@pytest.mark.parametrize(("pairs", "p"), [(1, 1.0), (5, 0.0625), (20, 2**-19), (40, 2**-39)])
def test_the_smallest_p_of_a_sign_flip_test(pairs: int, p: float):
    assert sign_flip_test(np.linspace(1, 2, pairs)) == p


@pytest.mark.parametrize("pairs", [0, 41])
def test_what_cannot_be_flipped_is_refused(pairs: int):
    with pytest.raises(ValueError, match=f"{pairs} differences"):
        sign_flip_test([1.0] * pairs)


@given(st.lists(finite, min_size=2, max_size=20).filter(lambda v: np.ptp(v) > 0.01))
def test_the_t_test_is_scipys_and_agrees_with_the_interval(values: list[float]):
    p = t_test(values)
    assert p == pytest.approx(stats.ttest_1samp(values, 0).pvalue, rel=1e-6)
    if len(values) >= MINIMUM_SEEDS and abs(p - 0.05) > 1e-6:
        assert (p < 0.05) == summarise(dict(enumerate(values))).excludes_zero


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8, unique=True))
def test_holm_by_hand(p: list[float]):
    assert holm(p) == holm_by_hand(p)


def test_holm_counts_a_test_without_result():
    adjusted = holm([math.nan, 0.02])
    assert math.isnan(adjusted[0])
    assert adjusted[1] == 0.04
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])


SUITES, SEEDS, ROLLOUTS = 6000, 20, 600


def suites(effect: float, generator: np.random.Generator) -> np.ndarray:
    """Paired differences (SUITES, SEEDS) of success counts: seeds differ in luck of training,
    arms in a part of it, and each arm's rollouts are a sample."""
    shared = generator.normal(0.70, 0.05, (SUITES, SEEDS))
    own = generator.normal(0, 0.025, (2, SUITES, SEEDS))
    rates = (shared + own + np.array([0.0, effect])[:, None, None]).clip(0.02, 0.98)
    baseline, arm = generator.binomial(ROLLOUTS, rates) / ROLLOUTS
    return arm - baseline


def called(differences: np.ndarray) -> float:
    _, low, high = t_interval(differences)
    return float(((low > 0) | (high < 0)).mean())


def test_about_one_null_suite_in_twenty_is_called():
    share = called(suites(0.0, np.random.default_rng(1)))
    low, high = stats.binom.interval(0.999, SUITES, 0.05)
    assert low / SUITES <= share <= high / SUITES


def test_a_planted_effect_is_found_as_often_as_the_formula_says():
    differences = suites(0.035, np.random.default_rng(2))
    shift = differences.mean() / differences.std() * math.sqrt(SEEDS)
    critical = stats.t.ppf(0.975, SEEDS - 1)
    power = stats.nct.sf(critical, SEEDS - 1, shift) + stats.nct.cdf(-critical, SEEDS - 1, shift)
    assert 0.8 < power < 0.99
    low, high = stats.binom.interval(0.999, SUITES, power)
    assert low / SUITES <= called(differences) <= high / SUITES


def test_the_sign_flip_test_calls_no_more_null_suites_than_it_may():
    differences = suites(0.0, np.random.default_rng(3))[:1500, :10]
    share = np.mean([sign_flip_test(row) <= 0.05 for row in differences])
    assert 0.02 < share <= stats.binom.ppf(0.999, 1500, 0.05) / 1500
