"""Orders of objects against every order that is possible, closed forms, and scikit-learn."""

import itertools
import math

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from plurimask.instances import Instances
from plurimask.metrics.bootstrap import Interval, interval
from plurimask.metrics.matching import match
from plurimask.metrics.selective import area_difference, errors_found, observed_ious, risk_coverage


def objects(seed, count, *, levels=3):
    """Doubts with many ties, and values in [0, 1] with ties, too."""
    generator = np.random.default_rng(seed)
    return generator.integers(levels, size=count) / levels, generator.integers(5, size=count) / 4


def possible_orders(key):
    """All orders in which the key does not fall."""
    orders = map(list, itertools.permutations(range(len(key))))
    return [order for order in orders if (np.diff(np.asarray(key)[order]) >= 0).all()]


@pytest.mark.parametrize("seed", range(8))
def test_risk_is_the_mean_over_all_orders_of_ties(seed):
    doubt, risk = objects(seed, 6)
    orders = possible_orders(doubt)
    assert len(orders) > 1, "test invalid: no ties"
    curves = [[risk[order[:k]].mean() for k in range(1, 7)] for order in orders]
    curve = risk_coverage(doubt, risk)
    np.testing.assert_allclose(curve.risk, np.mean(curves, axis=0))
    assert curve.aurc == pytest.approx(np.mean(curves))
    least = min(
        np.mean([risk[list(order[:k])].mean() for k in range(1, 7)]) for order in itertools.permutations(range(6))
    )
    assert curve.aurc - curve.excess == pytest.approx(least)


@pytest.mark.parametrize("seed", range(8))
def test_errors_found_are_the_mean_over_all_orders_of_ties(seed):
    doubt, risk = objects(seed, 6)
    wrong = risk > 0.3
    curves = [np.concatenate([[0], np.cumsum(wrong[order])]) for order in possible_orders(-doubt)]
    np.testing.assert_allclose(errors_found(doubt, wrong).found, np.mean(curves, axis=0))


def test_risk_coverage_by_hand():
    # By rising doubt the risks are 0, 1, 0.5: means 0, 1/2, 1/2. Ideal 0, 0.5, 1: means 0, 1/4, 1/2.
    curve = risk_coverage([0.9, 0.1, 0.5], [0.5, 0.0, 1.0])
    np.testing.assert_allclose(curve.coverage, [1 / 3, 2 / 3, 1])
    np.testing.assert_allclose(curve.risk, [0, 1 / 2, 1 / 2])
    np.testing.assert_allclose(curve.ideal, [0, 1 / 4, 1 / 2])
    assert curve.aurc == pytest.approx(1 / 3)
    assert curve.excess == pytest.approx(1 / 12)


def test_without_knowledge_the_risk_is_the_mean_everywhere():
    curve = risk_coverage(np.zeros(5), [0.0, 0.2, 0.4, 0.6, 0.8])
    np.testing.assert_allclose(curve.risk, 0.4)


def test_errors_found_by_hand():
    # Inspected: wrong, right, wrong, right.
    found = errors_found([0.1, 0.9, 0.5, 0.7], [False, True, True, False])
    assert (found.objects, found.errors) == (4, 2)
    np.testing.assert_allclose(found.share, [0, 1 / 2, 1 / 2, 1, 1])
    np.testing.assert_allclose(found.random, [0, 1 / 4, 1 / 2, 3 / 4, 1])
    np.testing.assert_allclose(found.ideal, [0, 1 / 2, 1, 1, 1])
    # Trapezoids of width 1/4: 1/4, 1/2, 3/4, 1; ideal 1/4, 3/4, 1, 1.
    assert found.area == pytest.approx(10 / 16)
    assert found.gain == pytest.approx((10 / 16 - 1 / 2) / (12 / 16 - 1 / 2))


@pytest.mark.parametrize(("errors", "right"), [(1, 9), (5, 5), (9, 1)])
def test_best_worst_and_random_order(errors, right):
    wrong = np.repeat([True, False], [errors, right])
    first, last, random = (errors_found(doubt, wrong) for doubt in (wrong, ~wrong, np.ones(10)))
    assert first.area == pytest.approx(1 - errors / 20)
    assert [first.gain, last.gain] == pytest.approx([1, -1])
    assert random.area == pytest.approx(0.5)
    assert random.gain == pytest.approx(0)
    np.testing.assert_allclose(first.share, first.ideal)
    np.testing.assert_allclose(random.share, random.random)


@pytest.mark.parametrize("seed", range(5))
def test_scikit_learn_agrees(seed):
    doubt, risk = objects(seed, 60, levels=7)
    wrong = risk > 0.6
    assert errors_found(doubt, wrong).gain == pytest.approx(2 * roc_auc_score(wrong, doubt) - 1)


@pytest.mark.parametrize("seed", range(5))
def test_the_order_of_the_files_does_not_matter(seed):
    doubt, risk = objects(seed, 30)
    order = np.random.default_rng(seed).permutation(30)
    np.testing.assert_allclose(risk_coverage(doubt[order], risk[order]).risk, risk_coverage(doubt, risk).risk)
    there, back = errors_found(doubt, risk > 0.5), errors_found(doubt[order], risk[order] > 0.5)
    np.testing.assert_allclose(there.found, back.found)


def test_only_the_order_counts():
    doubt, risk = objects(0, 30)
    np.testing.assert_array_equal(risk_coverage(np.exp(5 * doubt), risk).risk, risk_coverage(doubt, risk).risk)


def test_infinite_doubt_comes_first():
    found = errors_found([0.3, np.inf, -np.inf, np.inf], [False, True, False, False])
    np.testing.assert_allclose(found.share, [0, 0.5, 1, 1, 1])


def test_nothing_found():
    curve = risk_coverage([], [])
    assert curve.risk.shape == curve.coverage.shape == (0,)
    assert math.isnan(curve.aurc) and math.isnan(curve.excess)
    found = errors_found([], [])
    assert (found.objects, found.errors) == (0, 0)
    assert np.isnan(found.share).all() and math.isnan(found.area) and math.isnan(found.gain)


def test_no_error_to_find():
    found = errors_found([0.1, 0.2], [False, False])
    assert np.isnan(found.share).all() and np.isnan(found.random).all() and np.isnan(found.ideal).all()
    assert math.isnan(found.area) and math.isnan(found.gain)


def test_everything_is_wrong():
    found = errors_found([0.1, 0.2], [True, True])
    np.testing.assert_allclose(found.share, [0, 0.5, 1])
    assert found.area == pytest.approx(0.5) and math.isnan(found.gain)


@pytest.mark.parametrize(
    ("doubt", "values", "message"),
    [([0.1], [0.1, 0.2], "shape"), ([np.nan, 0.1], [0.0, 0.0], r"\[0\] are NaN"), ([[0.1]], [[0.0]], "shape")],
)
def test_what_has_no_order_is_refused(doubt, values, message):
    with pytest.raises(ValueError, match=message):
        risk_coverage(doubt, values)
    with pytest.raises(ValueError, match=message):
        errors_found(doubt, values)


def test_a_risk_that_is_not_finite_is_refused():
    with pytest.raises(ValueError, match=r"risks of objects \[1\]"):
        risk_coverage([0.1, 0.2], [0.0, np.nan])


def test_observed_ious_of_matched_and_unmatched():
    # Found 1 is 3 of the 4 pixels of truth 1; found 2 is beside truth 2, which nobody found.
    truth = Instances.from_labels(np.array([[1, 1, 1, 1, 0, 2, 2, 0, 0]]))
    found = Instances.from_labels(np.array([[0, 1, 1, 1, 0, 0, 0, 2, 2]]))
    assert observed_ious(match(truth, found, min_iou=0.5)).tolist() == [0.75, 0.0]
    assert observed_ious(match(truth, Instances.empty((1, 9)), min_iou=0.5)).shape == (0,)


# ------------------------------------------------------------------------------------------ difference of two orders


def queues(seed, sizes):
    """Two doubts and the errors of some images, the first doubt a good one; with ties."""
    generator = np.random.default_rng(seed)
    wrong = [generator.random(size) < 0.3 for size in sizes]
    good = [np.round(errors + generator.normal(size=len(errors)), 1) for errors in wrong]
    poor = [generator.integers(3, size=len(errors)).astype(float) for errors in wrong]
    return good, poor, wrong


def pooled_area(doubt, wrong, images):
    found = errors_found(*(np.concatenate([part[index] for index in images]) for part in (doubt, wrong)))
    return found.area if found.errors else 0.0


@pytest.mark.parametrize("sizes", [(5, 1, 0, 7, 12, 3), (2, 1, 1), (4,)])
def test_every_resample_is_the_pooled_queue_of_its_images(sizes):
    a, b, wrong = queues(3, sizes)

    def brute(drawn):
        images = drawn.astype(int)
        return np.array([pooled_area(a, wrong, row) - pooled_area(b, wrong, row) for row in images])

    expected = interval(np.arange(len(sizes)), statistic=brute, resamples=200, seed=5)
    ours = area_difference(a, b, wrong, resamples=200, seed=5)
    assert [ours.mean, ours.low, ours.high] == pytest.approx([expected.mean, expected.low, expected.high])


def test_a_better_order_is_seen():
    a, b, wrong = queues(0, [20] * 30)
    difference = area_difference(a, b, wrong, resamples=500)
    assert difference.low > 0
    reverse = area_difference(b, a, wrong, resamples=500)
    assert [reverse.mean, reverse.low, reverse.high] == pytest.approx(
        [-difference.mean, -difference.high, -difference.low]
    )
    assert area_difference(a, a, wrong, resamples=500) == Interval(0.0, 0.0, 0.0)


def test_equal_doubts_are_the_random_order():
    a, _, wrong = queues(1, [20] * 5)
    difference = area_difference(a, [np.zeros(20)] * 5, wrong, resamples=10)
    assert difference.mean == pytest.approx(errors_found(np.concatenate(a), np.concatenate(wrong)).area - 0.5)


def test_where_there_is_no_error_neither_order_is_better():
    assert area_difference([[0.1, 0.2], []], [[0.2, 0.1], []], [[False] * 2, []]) == Interval(0.0, 0.0, 0.0)


def test_orders_of_different_images_are_refused():
    with pytest.raises(ValueError, match="give the same ones"):
        area_difference([[0.1]], [[0.1], [0.2]], [[True]])
    with pytest.raises(ValueError, match="at least one"):
        area_difference([], [], [])
    with pytest.raises(ValueError, match="shape"):
        area_difference([[0.1]], [[0.1, 0.2]], [[True]])
