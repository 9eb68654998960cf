"""Modes and labels against scikit-learn's MeanShift and against clouds whose modes are known."""

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.cluster import MeanShift
from sklearn.metrics import adjusted_rand_score

from plurimask.ops.mean_shift import assign, mean_shift, modes


def clouds(dimensions: int, count: int, *, seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Six clouds with a spread of one unit in two dimensions and 0.1 in the others, centres 8 or more apart."""
    generator = np.random.default_rng(seed)
    owner = generator.integers(0, 6, count)
    points = generator.normal(0, 0.1, (count, dimensions))
    points[:, :2] = generator.normal(0, 1, (count, 2)) + 9 * np.array([owner % 3, owner // 3]).T
    return points, owner


@pytest.mark.parametrize("dimensions", [2, 16])
@pytest.mark.parametrize("binned", [False, True])
def test_agrees_with_scikit_learn(dimensions: int, binned: bool) -> None:
    points, _ = clouds(dimensions, 600)
    peer = MeanShift(bandwidth=3, bin_seeding=binned).fit(points)
    found = mean_shift(points, bandwidth=3)
    assert adjusted_rand_score(peer.labels_, found.labels) >= 0.99
    assert len(found.centres) == len(peer.cluster_centers_)
    # A flat kernel has several fixed points near a top; which of them is reached depends on the seeds.
    nearest = np.linalg.norm(found.centres[:, None] - peer.cluster_centers_, axis=2).min(axis=1)
    assert nearest.max() < 0.3


def test_a_sample_finds_the_modes_of_all_points() -> None:
    points, owner = clouds(16, 12_000)
    centres, support = modes(points, 3, sample=1000)
    assert len(centres) == 6
    assert adjusted_rand_score(owner, assign(points, centres)) > 0.999
    distance = np.linalg.norm(points[:, None] - centres, axis=2)
    np.testing.assert_allclose(support, (distance <= 3).sum(axis=0), atol=2)
    # A mode is a fixed point over all points: the mean of what is in reach.
    means = [points[near].mean(axis=0) for near in (distance <= 3).T]
    np.testing.assert_allclose(centres, means, atol=0.01)


@pytest.mark.parametrize("dimensions", [2, 16])
def test_the_order_of_the_points_does_not_matter(dimensions: int) -> None:
    points, _ = clouds(dimensions, 2000)
    order = np.random.default_rng(1).permutation(len(points))
    plain, permuted = mean_shift(points, bandwidth=3), mean_shift(points[order], bandwidth=3)
    np.testing.assert_array_equal(plain.labels[order], permuted.labels)
    np.testing.assert_allclose(plain.centres, permuted.centres, atol=1e-4)


def test_a_shift_of_the_points_shifts_the_centres() -> None:
    points, _ = clouds(2, 2000)
    near, far = mean_shift(points, bandwidth=3), mean_shift(points + 1000.0, bandwidth=3)
    np.testing.assert_allclose(far.centres, near.centres + 1000, atol=0.05)
    assert adjusted_rand_score(near.labels, far.labels) > 0.99


def test_the_same_seed_gives_the_same_result() -> None:
    points, _ = clouds(16, 8000)
    first, second = (mean_shift(points, bandwidth=3, seed=5) for _ in range(2))
    np.testing.assert_array_equal(first.labels, second.labels)
    np.testing.assert_array_equal(first.centres, second.centres)


def test_modes_of_another_draw_as_seeds() -> None:
    points, _ = clouds(16, 3000)
    plain = modes(points, 3)
    again = modes(points, 3, seeds=plain.centres)
    np.testing.assert_allclose(again.centres, plain.centres, atol=1e-3)
    # A seed far from every point leads nowhere.
    lost = modes(points, 3, seeds=np.full((1, 16), 500.0))
    np.testing.assert_allclose(lost.centres, plain.centres, atol=1e-3)


def test_seeds_reach_what_the_sample_missed() -> None:
    points = np.concatenate([np.random.default_rng(0).normal(0, 0.5, (5000, 2)), [[40.0, 40.0]]])
    assert len(modes(points, 1, max_seeds=1).centres) == 1
    assert len(modes(points, 1, max_seeds=1, sample=5001, seeds=[[40.0, 40.5]]).centres) == 2


def test_no_points() -> None:
    found = mean_shift(np.zeros((0, 16)), bandwidth=1)
    assert found.labels.shape == (0,) and found.centres.shape == (0, 16)


def test_one_point() -> None:
    found = mean_shift([[3.0, 4.0]], bandwidth=1)
    assert found.labels.tolist() == [0] and found.centres.tolist() == [[3, 4]]


@pytest.mark.parametrize("count", [2, 7000])
def test_equal_points(count: int) -> None:
    centres, support = modes(np.full((count, 3), 2.5), 1)
    assert centres.tolist() == [[2.5, 2.5, 2.5]] and support.tolist() == [count]


def test_repeating_all_points_changes_nothing_but_the_support() -> None:
    points, _ = clouds(2, 500)
    once, twice = modes(points, 3), modes(np.repeat(points, 2, axis=0), 3)
    np.testing.assert_allclose(twice.centres, once.centres, atol=1e-4)
    np.testing.assert_array_equal(twice.support, 2 * once.support)


def test_of_two_near_modes_the_fuller_stays() -> None:
    # 5 points at 0 and 3 at 1.5: neither sees the other with a bandwidth of 1.4, with one of 1.6 all are one.
    points = np.repeat([[0.0], [1.5]], [5, 3], axis=0)
    assert modes(points, 1.4).support.tolist() == [5, 3]
    assert modes(points, 1.6).centres.tolist() == [[pytest.approx(3 * 1.5 / 8)]]


def test_a_bin_whose_mean_reaches_no_point_still_has_modes() -> None:
    # Two corners of one bin in 16 dimensions: 1.6 bandwidths from their mean, 3.2 from each other.
    found = mean_shift([[0.4] * 16, [-0.4] * 16], bandwidth=1)
    assert found.labels.min() == 0


def test_assign_takes_the_nearest_within_the_threshold() -> None:
    points = np.array([[0.0, 0], [2, 0], [3, 0], [5, 0], [9, 0]])
    centres = np.array([[0.0, 0], [4, 0]])
    assert assign(points, centres, 1.5).tolist() == [0, -1, 1, 1, -1]
    assert assign(points, centres, 2).tolist() == [0, 0, 1, 1, -1]
    assert assign(points, centres).tolist() == [0, 0, 1, 1, 1]
    assert assign(points, np.zeros((0, 2))).tolist() == [-1] * 5


def test_what_is_not_a_cloud_is_refused() -> None:
    with pytest.raises(ValueError, match="wanted is"):
        modes(np.zeros(5), 1)
    with pytest.raises(ValueError, match="bandwidth"):
        modes(np.zeros((5, 2)), 0)
    with pytest.raises(ValueError, match="seeds have shape"):
        modes(np.zeros((5, 2)), 1, seeds=np.zeros((1, 3)))
    with pytest.raises(FloatingPointError, match="1 are not finite"):
        modes([[0.0, 1], [np.nan, 0]], 1)
