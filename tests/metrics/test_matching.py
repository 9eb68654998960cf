"""The matching against every possible assignment, and against cases counted by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import sparse

from plurimask.instances import Instances
from plurimask.metrics.matching import greedy_partners, match, match_greedily, match_ious, match_many

SHAPE = (9, 9)


def rectangles(seed: int, count: int) -> Instances:
    """Overlapping rectangles; some sets hold the same one twice."""
    generator = np.random.default_rng(seed)
    masks = np.zeros((count, *SHAPE), bool)
    for mask in masks:
        start = generator.integers(0, 7, 2)
        stop = start + generator.integers(1, 6, 2)
        mask[start[0] : stop[0], start[1] : stop[1]] = True
    return Instances.from_masks(masks, SHAPE)


def dense_ious(truth: Instances, found: Instances) -> NDArray[np.float64]:
    result = np.zeros((len(truth), len(found)))
    for (i, a), (j, b) in itertools.product(enumerate(truth.to_masks()), enumerate(found.to_masks())):
        result[i, j] = np.count_nonzero(a & b) / np.count_nonzero(a | b)
    return result


def cheapest(ious: NDArray[np.float64], min_iou: float) -> tuple[int, float]:
    """Number of pairs and the value of the cheapest assignment, by trying all of them."""
    if ious.shape[0] > ious.shape[1]:
        ious = ious.T
    n, m = ious.shape
    if n == 0:
        return 0, 0.0
    cost = -(ious >= min_iou).astype(float) - ious / (2 * min(n, m))
    choices = (tuple(enumerate(columns)) for columns in itertools.permutations(range(m), n))
    best = min(choices, key=lambda pairs: sum(cost[pair] for pair in pairs))
    return sum(bool(ious[pair] >= min_iou) for pair in best), sum(cost[pair] for pair in best)


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    counts=st.tuples(st.integers(0, 5), st.integers(0, 5)),
    min_iou=st.sampled_from([0.05, 0.2, 0.35, 0.5, 2 / 3, 0.9]),
)
def test_it_is_the_cheapest_of_all_assignments(seed: int, counts: tuple[int, int], min_iou: float) -> None:
    truth, found = rectangles(seed, counts[0]), rectangles(seed + 1, counts[1])
    ious = dense_ious(truth, found)
    matching = match(truth, found, min_iou=min_iou)
    tp, value = cheapest(ious, min_iou)
    assert matching.tp == tp
    assert (matching.tp + matching.fn, matching.tp + matching.fp) == counts
    assert all(np.unique(side).size == tp for side in matching.pairs.T), "an object was used twice"
    np.testing.assert_array_equal(matching.ious, ious[tuple(matching.pairs.T)])
    assert (matching.ious >= min_iou).all()
    # Pairs below the threshold take part in the cost, but are not returned: what is left cannot be cheaper.
    reached = -tp - matching.ious.sum() / (2 * max(1, min(counts)))
    assert value - 1e-12 <= reached


def test_greedy_would_lose_a_pair() -> None:
    # IoUs: the best single pair (0, 0) would leave (1, 1) without a partner.
    ious = sparse.csr_array(np.array([[0.8, 0.6], [0.6, 0.0]]))
    (matching,) = match_ious(ious, [0.5])
    assert matching.pairs.tolist() == [[0, 1], [1, 0]]
    (strict,) = match_ious(ious, [0.7])
    assert strict.pairs.tolist() == [[0, 0]], "test invalid: at 0.7 only the best pair counts"


def scored(objects: Instances, scores: NDArray[np.float64]) -> Instances:
    return Instances.from_crops(objects.boxes, objects.masks, objects.shape, scores=scores)


def greedy_by_definition(
    ious: NDArray[np.float64], scores: NDArray[np.float64], min_iou: float
) -> set[tuple[int, int]]:
    """Pairs of a true and a found object: the most confident first, each takes the best of what is free."""
    free, pairs = set(range(ious.shape[0])), set()
    for found in sorted(range(ious.shape[1]), key=lambda index: (-scores[index], index)):
        choices = [(ious[truth, found], truth) for truth in free if ious[truth, found] >= min_iou]
        if choices:
            pairs.add((max(choices)[1], found))
            free.remove(max(choices)[1])
    return pairs


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    counts=st.tuples(st.integers(0, 6), st.integers(0, 6)),
    levels=st.sampled_from([1, 3, 1000]),
    min_iou=st.sampled_from([0.05, 0.2, 0.5, 2 / 3, 1.0]),
)
def test_greedy_is_its_definition_and_never_finds_more(
    seed: int, counts: tuple[int, int], levels: int, min_iou: float
) -> None:
    truth, found = rectangles(seed, counts[0]), rectangles(seed + 1, counts[1])
    found = scored(found, np.random.default_rng(seed).integers(0, levels, counts[1]) / levels)
    greedy = match_greedily(truth, found, min_iou=min_iou)
    ious = dense_ious(truth, found)
    assert set(map(tuple, greedy.pairs.tolist())) == greedy_by_definition(ious, found.scores, min_iou)
    assert (np.diff(greedy.pairs[:, 0]) > 0).all()
    np.testing.assert_array_equal(greedy.ious, ious[tuple(greedy.pairs.T)])
    assert (greedy.tp + greedy.fn, greedy.tp + greedy.fp) == counts
    assert greedy.tp <= match(truth, found, min_iou=min_iou).tp


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_greedy_is_optimal_on_label_maps_from_one_half_on(seed: int) -> None:
    truth, found = (Instances.from_labels(rectangles(number, 6).to_labels()) for number in (seed, seed + 1))
    found = scored(found, np.random.default_rng(seed).random(len(found)))
    for min_iou in (0.5, 0.75):
        assert match_greedily(truth, found, min_iou=min_iou).tp == match(truth, found, min_iou=min_iou).tp


def test_greedy_loses_the_pair_that_the_optimum_keeps() -> None:
    ious = sparse.csr_array(np.array([[0.8, 0.6], [0.6, 0.0]]))
    first = np.array([0, 1])
    assert greedy_partners(ious, first, [0.5, 0.7]).tolist() == [[0, -1], [0, -1]]
    assert greedy_partners(ious, first[::-1], [0.5, 0.7]).tolist() == [[1, 0], [0, -1]]
    assert greedy_partners(ious, first[1:], [0.5]).tolist() == [[-1, 0]], "the first may not choose"


def test_greedy_gives_ties_to_the_later_true_object() -> None:
    ious = sparse.csr_array(np.array([[0.7], [0.7], [0.6]]))
    assert greedy_partners(ious, np.array([0]), [0.5]).tolist() == [[1]]


def test_greedy_complains_as_the_optimal_one_does() -> None:
    truth = rectangles(0, 2)
    with pytest.raises(ValueError, match=r"objects \[1\] are not finite"):
        match_greedily(truth, scored(truth, np.array([0.5, np.nan])), min_iou=0.5)
    with pytest.raises(ValueError, match="threshold"):
        match_greedily(truth, truth, min_iou=0.0)
    with pytest.raises(ValueError, match=r"\(9, 9\).*\(9, 8\)"):
        match_greedily(truth, Instances.empty((9, 8)), min_iou=0.5)


def test_among_equally_many_pairs_the_larger_overlap_wins() -> None:
    ious = sparse.csr_array(np.array([[0.6, 0.9], [0.9, 0.6]]))
    (matching,) = match_ious(ious, [0.5])
    assert matching.pairs.tolist() == [[0, 1], [1, 0]]
    assert matching.ious.tolist() == [0.9, 0.9]


def test_an_iou_of_exactly_the_threshold_counts() -> None:
    truth = Instances.from_labels(np.array([[1, 1, 1, 1, 1]]))
    found = Instances.from_labels(np.array([[1, 1, 1, 0, 0]]))
    assert match(truth, found, min_iou=3 / 5).tp == 1
    assert match(truth, found, min_iou=np.nextafter(3 / 5, 1)).tp == 0


def test_a_duplicate_is_a_false_positive() -> None:
    truth = Instances.from_masks([np.ones((3, 3), bool)], (3, 3))
    found = Instances.from_masks([np.ones((3, 3), bool)] * 3, (3, 3))
    matching = match(truth, found, min_iou=0.5)
    assert (matching.tp, matching.fp, matching.fn) == (1, 2, 0)


def test_crossing_objects_are_both_found() -> None:
    # Two crossing bars share a pixel; a label map could hold only one of them whole.
    masks = np.zeros((2, 5, 5), bool)
    masks[0, 2, :], masks[1, :, 2] = True, True
    bars = Instances.from_masks(masks, (5, 5))
    matching = match(bars, bars, min_iou=1.0)
    assert matching.pairs.tolist() == [[0, 0], [1, 1]]


@pytest.mark.parametrize("counts", [(0, 0), (0, 3), (3, 0)])
def test_empty_sides(counts: tuple[int, int]) -> None:
    matching = match(rectangles(0, counts[0]), rectangles(1, counts[1]), min_iou=0.5)
    assert (matching.tp, matching.fn, matching.fp) == (0, *counts)
    assert matching.pairs.shape == (0, 2) and matching.ious.shape == (0,)
    greedy = match_greedily(rectangles(0, counts[0]), rectangles(1, counts[1]), min_iou=0.5)
    assert (greedy.tp, greedy.fn, greedy.fp) == (0, *counts)
    assert greedy.pairs.shape == (0, 2) and greedy.ious.shape == (0,)


def test_many_thresholds_are_single_ones() -> None:
    truth, found = rectangles(3, 5), rectangles(4, 5)
    thresholds = [0.1, 0.3, 0.5]
    for threshold, matching in zip(thresholds, match_many(truth, found, thresholds), strict=True):
        np.testing.assert_array_equal(matching.pairs, match(truth, found, min_iou=threshold).pairs)
        assert matching.min_iou == threshold


def test_three_dimensions() -> None:
    cube = np.zeros((4, 4, 4), np.int32)
    cube[:2], cube[3] = 1, 2
    moved = np.zeros_like(cube)
    moved[1:3], moved[3] = 1, 2  # one of two planes shared: IoU 1 / 3
    volumes = Instances.from_labels(cube), Instances.from_labels(moved)
    assert match(*volumes, min_iou=1 / 3).tp == 2
    assert match(*volumes, min_iou=0.5).tp == 1


@pytest.mark.parametrize("threshold", [0.0, -0.1, 1.01, float("nan")])
def test_thresholds_are_checked(threshold: float) -> None:
    with pytest.raises(ValueError, match="threshold"):
        match(rectangles(0, 1), rectangles(1, 1), min_iou=threshold)


def test_images_of_different_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(9, 9\).*\(9, 8\)"):
        match(rectangles(0, 1), Instances.empty((9, 8)), min_iou=0.5)
