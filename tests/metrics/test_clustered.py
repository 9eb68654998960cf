"""The cluster bootstrap against intervals of independent units, a closed form and a case counted by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from plurimask.metrics.bootstrap import Interval, interval
from plurimask.metrics.clustered import interval_by_group, sums_by_group


def test_sums_by_hand():
    values = [[1, 10], [2, 20], [3, 30]]
    np.testing.assert_array_equal(sums_by_group(values, ["b", "a", "b"]), [[4, 40], [2, 20]])
    np.testing.assert_array_equal(sums_by_group(values, [None, None, None]), values)


def test_an_image_without_group_is_not_that_of_the_same_number():
    np.testing.assert_array_equal(sums_by_group([1, 2, 4], ["1", None, "1"]), [5, 2])


def test_groups_of_one_image_are_images():
    values = np.random.default_rng(0).normal(size=30)
    expected = interval(values, seed=3)
    for groups in ([None] * 30, [str(n) for n in range(30)]):
        found = interval_by_group(values, groups, seed=3)
        np.testing.assert_allclose(
            [found.mean, found.low, found.high], [expected.mean, expected.low, expected.high], rtol=1e-12
        )


def test_copies_of_an_image_tell_nothing_new():
    values = np.random.default_rng(1).normal(size=25)
    once = interval(values)
    copied = interval_by_group(np.repeat(values, 4), [str(n) for n in range(25) for _ in range(4)])
    np.testing.assert_allclose([copied.mean, copied.low, copied.high], [once.mean, once.low, once.high], rtol=1e-12)
    assert copied.high - copied.low > 1.8 * (interval(np.repeat(values, 4)).high - interval(np.repeat(values, 4)).low)


def test_two_groups_by_hand():
    # Groups of sizes 1 and 3 with sums 0 and 3: (0, 0) has mean 0, both 3/4, (1, 1) has mean 1; 1/4, 1/2, 1/4 likely.
    values, groups = [0.0, 1.0, 1.0, 1.0], ["a", "b", "b", "b"]
    assert interval_by_group(values, groups, level=0.4) == Interval(0.75, 0.75, 0.75)
    assert interval_by_group(values, groups, level=0.6) == Interval(0.75, 0.0, 1.0)


def test_many_groups_have_the_normal_interval():
    # Of equal sizes: the mean of the groups' means.
    generator = np.random.default_rng(2)
    values = generator.normal(size=(400, 1)) + 0.3 * generator.normal(size=(400, 5))
    margin = stats.norm.ppf(0.975) * values.mean(axis=1).std() / 20
    found = interval_by_group(values.ravel(), [str(n) for n in range(400) for _ in range(5)])
    np.testing.assert_allclose([found.low, found.high], values.mean() + np.array([-margin, margin]), atol=0.01)


@pytest.mark.parametrize(
    ("values", "groups", "message"),
    [
        ([1.0, 2.0], ["a"], "1 groups"),
        (1.0, ["a"], "one per image"),
        ([1.0, np.nan, np.inf], ["a", "b", None], r"images \[1, 2\] are not finite"),
        ([[1.0, 2.0]], ["a"], "one per image"),
        ([], [], "no image"),
    ],
)
def test_wrong_input(values, groups, message):
    with pytest.raises(ValueError, match=message):
        interval_by_group(values, groups)
