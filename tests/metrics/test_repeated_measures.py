"""The repeated-measures correlation against the analysis of covariance, done by least squares with one dummy variable
per subject as Bakdash and Marusich 2017 define it, and against cases counted by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from plurimask.metrics.bootstrap import interval
from plurimask.metrics.repeated_measures import centred_sums, correlation


def pooled(subjects):
    return float(correlation(np.array([[centred_sums(x, y) for x, y in subjects]]))[0])


def residual_sum_of_squares(design, y):
    fitted = design @ np.linalg.lstsq(design, y, rcond=None)[0]
    return float(((y - fitted) ** 2).sum())


def by_covariance(subjects):
    """sign(slope) sqrt(SS_measure / (SS_measure + SS_error)) from two linear models."""
    x, y = (np.concatenate([pair[k] for pair in subjects]) for k in (0, 1))
    owner = np.repeat(np.arange(len(subjects)), [len(pair[0]) for pair in subjects])
    dummies = (owner[:, None] == np.arange(len(subjects))).astype(float)
    both = np.column_stack([dummies, x])
    error = residual_sum_of_squares(both, y)
    measure = residual_sum_of_squares(dummies, y) - error
    slope = np.linalg.lstsq(both, y, rcond=None)[0][-1]
    return math.copysign(math.sqrt(measure / (measure + error)), slope)


@pytest.mark.parametrize("seed", range(20))
def test_the_analysis_of_covariance_agrees(seed):
    generator = np.random.default_rng(seed)
    subjects = []
    for size in generator.integers(2, 9, size=6):
        x = generator.normal(size=size) + 5 * generator.normal()
        subjects.append((x, generator.normal() * 5 + generator.choice([-0.7, 0.7]) * x + generator.normal(size=size)))
    assert pooled(subjects) == pytest.approx(by_covariance(subjects), abs=1e-9)


def test_by_hand():
    # First subject, centred: x -1, 0, 1 and y -1, 2, -1: products 0, squares 2 and 6.
    # Second: x -1/2, 1/2 and y -1, 1: products 1, squares 1/2 and 2.
    sums = [centred_sums([1, 2, 3], [4, 7, 4]), centred_sums([0, 1], [0, 2])]
    np.testing.assert_allclose(sums, [[2, 6, 0], [0.5, 2, 1]])
    assert correlation(np.array([sums]))[0] == pytest.approx(1 / math.sqrt(2.5 * 8))


def test_one_subject_has_pearsons_correlation():
    x, y = np.random.default_rng(0).normal(size=(2, 50))
    assert pooled([(x, y)]) == pytest.approx(stats.pearsonr(x, y).statistic)


def test_what_differs_between_subjects_does_not_count():
    """Within each of two subjects y falls with x; over all observations it rises."""
    subjects = [([0.0, 1.0], [1.0, 0.0]), ([10.0, 11.0], [11.0, 10.0])]
    assert pooled(subjects) == -1
    x, y = np.concatenate([np.array(pair) for pair in subjects], axis=1)
    assert stats.pearsonr(x, y).statistic > 0.9


def test_nothing_changes():
    assert math.isnan(pooled([([1, 1], [0, 2]), ([3, 3, 3], [1, 2, 3])]))
    assert math.isnan(pooled([([0, 1], [2, 2])]))


def test_equal_values_have_no_variance_by_rounding():
    """The mean of many equal floats is not quite that float."""
    values = np.full(5461, 0.1)
    assert (values - values.mean()).any()
    np.testing.assert_array_equal(centred_sums(np.arange(5461) % 2, values)[1:], 0)


def test_a_group_has_the_sums_of_its_subjects():
    generator = np.random.default_rng(1)
    sums = np.array([centred_sums(*generator.normal(size=(2, 7))) for _ in range(6)])
    grouped = sums.reshape(3, 2, 3).sum(axis=1)
    np.testing.assert_allclose(correlation(sums[None]), correlation(grouped[None]))


def test_the_bootstrap_covers_what_the_sums_are_made_of():
    """Subjects with slope 1 and noise of the same variance: r = sqrt(1/2)."""
    generator = np.random.default_rng(2)
    x = generator.normal(size=(200, 20))
    y = x + generator.normal(size=x.shape) + 3 * generator.normal(size=(200, 1))
    found = interval([centred_sums(*pair) for pair in zip(x, y, strict=True)], statistic=correlation)
    assert found.low < math.sqrt(0.5) < found.high
    assert found.high - found.low < 0.05


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [([1, 2], [1], r"\(2,\), y \(1,\)"), ([], [], "at least 1"), ([[1]], [[1]], r"\(n,\)"), ([np.nan], [1], "finite")],
)
def test_wrong_input(x, y, message):
    with pytest.raises(ValueError, match=message):
        centred_sums(x, y)
