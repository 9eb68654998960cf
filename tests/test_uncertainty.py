"""Numbers of doubt against values worked out by hand."""

import math

import numpy as np
import pytest

from plurimask import uncertainty


def test_entropies_of_eight_draws():
    # Rumberger et al. 2020, Eq. 5 in nats, for k of 8.
    values = uncertainty.binary_entropy(np.arange(9) / 8)
    np.testing.assert_allclose(values[:5], [0, 0.3768, 0.5623, 0.6616, 0.6931], atol=1e-4)
    np.testing.assert_allclose(values, values[::-1])
    assert np.isnan(uncertainty.binary_entropy(np.array([np.nan]))).all()


def test_mean_entropy_is_over_touched_pixels():
    counts = np.array([[0, 8, 4, 0]], np.uint8)
    assert uncertainty.mean_entropy(counts, draws=8) == pytest.approx(math.log(2) / 2)
    assert math.isnan(uncertainty.mean_entropy(np.zeros((2, 2), np.uint8), draws=8))


def test_agreement_against_the_members_themselves():
    members = np.array([[1, 1, 1, 0], [1, 1, 0, 0], [1, 1, 1, 1]], bool)
    majority = np.array([1, 1, 1, 0], bool)
    shared = sum((member & majority).sum() for member in members)
    united = sum((member | majority).sum() for member in members)
    assert uncertainty.agreement(members.sum(axis=0).astype(np.uint8), members=3) == shared / united == 8 / 10


def test_agreement_of_equals_of_one_and_of_none():
    assert uncertainty.agreement(np.full((3, 3), 5, np.uint8), members=5) == 1
    assert uncertainty.agreement(np.full((3, 3), 1, np.uint8), members=1) == 1
    assert uncertainty.agreement(np.full(300, 200, np.uint8), members=200) == 1
    assert math.isnan(uncertainty.agreement(np.zeros(4, np.uint8), members=2))
    # Three members without a common pixel have no majority.
    assert uncertainty.agreement(np.ones(3, np.uint8), members=3) == 0


@pytest.mark.parametrize(("members", "least"), [(0, 1), (1, 1), (2, 1), (3, 2), (4, 2), (8, 4), (255, 128)])
def test_majority(members, least):
    assert uncertainty.majority(members) == least


def test_parts_are_smaller_and_mostly_inside():
    areas = np.array([100, 50, 40, 100])
    pairs = np.array([[0, 1], [2, 0], [0, 3], [1, 3]])
    parts = uncertainty.parts_of_wholes(pairs, np.array([50, 20, 90, 26]), areas)
    # 2 has only half of its pixels in 0; 0 and 3 are equally large.
    assert parts.tolist() == [[1, 0], [1, 3]]


def test_split_and_merge_of_a_whole_and_its_halves():
    occurs = np.array([[1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1], [0, 0, 0, 1, 1, 0]], bool)
    split, merge = uncertainty.split_and_merge(occurs, np.array([[1, 0], [2, 0]]))
    np.testing.assert_allclose(split, [2 / 6, 0, 0])
    np.testing.assert_allclose(merge, [0, 3 / 6, 3 / 6])


def test_a_larger_outline_of_one_object_is_neither():
    occurs = np.array([[1, 1, 0, 0], [0, 0, 1, 1]], bool)
    split, merge = uncertainty.split_and_merge(occurs, np.array([[1, 0]]))
    assert not split.any() and not merge.any()


def test_doubt_is_the_expected_loss_and_unknown_comes_first():
    existence, agreements = np.array([1.0, 0.5, 0.25, 0.9]), np.array([0.9, 1.0, 0.8, np.nan])
    chosen = np.array([True, True, False, True])
    doubts = uncertainty.doubt(existence * agreements, chosen)
    np.testing.assert_allclose(doubts, [0.1, 0.5, 0.2, np.inf])
    assert uncertainty.review_order(doubts, chosen).tolist() == [4, 2, 3, 1]
    assert uncertainty.review_order(np.zeros(0), np.zeros(0, bool)).size == 0
