"""Intervals over seeds against scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats

from sfumato.claims.c05_noise_adapts import fall_of_kl, rank_correlation, rise_of_noise
from sfumato.claims.statistics import mean_interval, paired, t_quantile


@pytest.mark.parametrize("degrees", [1, 2, 4, 5, 9, 30, 200])
@pytest.mark.parametrize("probability", [0.6, 0.95, 0.975, 0.999])
def test_students_quantiles(probability: float, degrees: int) -> None:
    exact = scipy.stats.t.ppf(probability, degrees)
    assert t_quantile(probability, degrees) == pytest.approx(exact, rel=1e-9)


def test_a_mean_with_its_interval() -> None:
    values = np.random.default_rng(0).normal(3, 2, size=7)
    found = mean_interval(values)
    low, high = scipy.stats.t.interval(0.95, 6, values.mean(), scipy.stats.sem(values))
    assert (found.value, found.low, found.high, found.n) == pytest.approx((values.mean(), low, high, 7))


def test_arms_are_compared_seed_by_seed() -> None:
    """What the seeds have in common cancels: two noisy arms whose difference is nearly constant."""
    common = np.random.default_rng(1).normal(0, 100, size=6)
    one, other = common + np.array([1.0, 1.1, 0.9, 1.0, 1.05, 0.95]), common
    exact = scipy.stats.ttest_rel(one, other).confidence_interval(0.95)
    found = paired(one, other)
    assert (found.low, found.high) == pytest.approx((exact.low, exact.high))
    assert found.inside(0.8, 1.2)


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    generator = np.random.default_rng(2)
    found = [mean_interval(generator.normal(size=5)) for _ in range(2000)]
    share = np.mean([interval.low < 0 < interval.high for interval in found])
    assert share == pytest.approx(0.95, abs=4 * math.sqrt(0.95 * 0.05 / 2000))


def test_one_seed_proves_nothing_and_nan_is_on_no_side() -> None:
    alone = mean_interval([5.0])
    assert not alone.above(0)
    assert not alone.below(1e9)
    assert alone.to_dict() == {"value": 5.0, "low": None, "high": None, "n": 1}
    broken = mean_interval([1.0, math.nan, 2.0])
    assert not broken.above(-1e9)
    assert not broken.below(1e9)
    assert broken.to_dict()["value"] is None


def test_rank_correlation() -> None:
    one, other = np.random.default_rng(3).normal(size=(2, 30))
    assert rank_correlation(one, other) == pytest.approx(scipy.stats.spearmanr(one, other).statistic)


def test_what_falls_and_rises_again() -> None:
    """A constant tail is the end of the smoothed curve, a plateau its lowest point."""
    curve = np.array([[5.0] * 5 + [1.0] * 5 + [2.0] * 5, [5.0] * 5 + [2.0] * 5 + [2.0] * 5])
    np.testing.assert_allclose(rise_of_noise(curve), [1.0, 0.0])
    np.testing.assert_allclose(fall_of_kl(1 / curve), [0.5, 0.0])
