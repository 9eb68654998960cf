"""Bootstrap intervals against closed forms and against SciPy's."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from plurimask.metrics import bootstrap
from plurimask.metrics.bootstrap import interval, paired_difference


def normal(count: int, seed: int = 0) -> NDArray[np.float64]:
    return np.random.default_rng(seed).normal(3.0, 2.0, count)


def test_a_large_sample_has_the_normal_interval() -> None:
    values = normal(400)
    margin = stats.norm.ppf(0.975) * values.std() / 20
    found = interval(values, resamples=20_000)
    assert found.mean == pytest.approx(values.mean())
    np.testing.assert_allclose([found.low, found.high], values.mean() + np.array([-margin, margin]), atol=0.02)


def test_scipy_agrees() -> None:
    values = np.random.default_rng(1).exponential(size=30)
    theirs = stats.bootstrap((values,), np.mean, n_resamples=20_000, method="percentile", rng=0).confidence_interval
    ours = interval(values, resamples=20_000)
    np.testing.assert_allclose([ours.low, ours.high], [theirs.low, theirs.high], atol=0.015)


def test_coverage_is_about_the_level() -> None:
    inside = [found.low <= 3.0 <= found.high for found in (interval(normal(40, s), resamples=500) for s in range(300))]
    assert 0.90 <= np.mean(inside) <= 0.98


def test_equal_values_leave_no_doubt() -> None:
    assert interval([0.5, 0.5, 0.5]) == bootstrap.Interval(0.5, 0.5, 0.5)
    assert interval([0.5]) == bootstrap.Interval(0.5, 0.5, 0.5)


def test_two_values_by_hand() -> None:
    # Means of two draws from {0, 1}: 0 with 1/4, 1/2 with 1/2, 1 with 1/4.
    assert interval([0, 1], level=0.4) == bootstrap.Interval(0.5, 0.5, 0.5)
    assert interval([0, 1], level=0.6) == bootstrap.Interval(0.5, 0.0, 1.0)


def test_a_seed_is_a_result() -> None:
    values = normal(10)
    assert interval(values, seed=4) == interval(values, seed=4)
    assert interval(values, seed=4) != interval(values, seed=5)


def test_memory_is_bounded_by_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    values = normal(10)
    widest: list[int] = []

    def watched(rows: NDArray[np.float64]) -> NDArray[np.float64]:
        widest.append(rows.size)
        return bootstrap.mean(rows)

    monkeypatch.setattr(bootstrap, "_CHUNK", 1000)
    interval(values, resamples=1_234, statistic=watched)
    assert max(widest) <= 1000
    assert sum(widest) == 1_234 * 10 + 10


def test_pairing_sees_a_small_difference_between_images_of_all_kinds() -> None:
    hard = np.linspace(0.2, 0.9, 20)
    better = hard + 0.01 + 0.002 * np.sin(np.arange(20))
    assert not interval(better).low > interval(hard).high, "test invalid: the two are apart without pairing"
    difference = paired_difference(better, hard)
    assert difference.mean == pytest.approx((better - hard).mean())
    assert difference.excludes_zero() and difference.low > 0
    assert paired_difference(hard, better).excludes_zero()
    assert not paired_difference(hard, hard).excludes_zero()


@pytest.mark.parametrize("values", [[], [1.0, float("nan")], [float("inf")]])
def test_bad_values_are_told(values: list[float]) -> None:
    with pytest.raises(ValueError, match=r"no image|not finite"):
        interval(values)


def test_bad_options_are_told() -> None:
    with pytest.raises(ValueError, match="level"):
        interval([1.0], level=95)
    with pytest.raises(ValueError, match="shape"):
        paired_difference([1.0], [1.0, 2.0])
