"""Scores against definitions written out anew, and against cases counted by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from plurimask.instances import Instances
from plurimask.metrics.segmentation import NUCLEI_THRESHOLDS, THRESHOLDS, Scores, score, summarise

SHAPE = (12, 12)


def drawn(seed: int, count: int) -> NDArray[np.bool_]:
    """``(count, *SHAPE)`` overlapping rectangles."""
    generator = np.random.default_rng(seed)
    masks = np.zeros((count, *SHAPE), bool)
    for mask in masks:
        start = generator.integers(0, 8, 2)
        stop = start + generator.integers(2, 6, 2)
        mask[start[0] : stop[0], start[1] : stop[1]] = True
    return masks


def nudged(masks: NDArray[np.bool_], seed: int) -> NDArray[np.bool_]:
    """The masks in another order, some moved by a pixel, one lost."""
    generator = np.random.default_rng(seed)
    moved = [np.roll(mask, generator.integers(-1, 2), axis=int(generator.integers(2))) for mask in masks]
    return np.array([moved[index] for index in generator.permutation(len(moved))[1:]]).reshape(-1, *SHAPE)


def instances(masks: NDArray[np.bool_]) -> Instances:
    return Instances.from_masks(masks, SHAPE)


def four_in_a_row() -> tuple[Instances, Instances]:
    """Truth 1 found exactly, truth 2 with IoU 3/4, truth 3 with IoU 1/2, truth 4 missed; one invention."""
    truth = Instances.from_labels(np.array([[1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 0, 0]]))
    found = Instances.from_labels(np.array([[4, 4, 4, 4, 0, 5, 5, 5, 0, 0, 6, 6, 0, 0, 0, 0, 8, 8]]))
    return truth, found


def test_counted_by_hand() -> None:
    scores = score(*four_in_a_row(), thresholds=[0.5, 0.75, 0.8])
    assert scores.tp.tolist() == [3, 2, 1]
    assert scores.fp.tolist() == [1, 2, 3]
    assert scores.fn.tolist() == [1, 2, 3]
    np.testing.assert_allclose(scores.s, [3 / 5, 2 / 6, 1 / 7])
    np.testing.assert_allclose(scores.precision, [3 / 4, 2 / 4, 1 / 4])
    np.testing.assert_allclose(scores.recall, [3 / 4, 2 / 4, 1 / 4])
    np.testing.assert_allclose(scores.f1, [3 / 4, 2 / 4, 1 / 4])
    np.testing.assert_allclose(scores.product, [9 / 16, 4 / 16, 1 / 16])
    assert scores.close == 2


def test_precision_and_recall_are_not_exchanged() -> None:
    truth, found = four_in_a_row()
    scores = score(truth, found.select([0]), thresholds=[0.5])
    assert scores.measures() == {"S@0.5": 0.25, "P@0.5": 1.0, "R@0.5": 0.25, "F1@0.5": 0.4, "PxR@0.5": 0.25}


def test_averages_are_over_the_thresholds_of_the_papers() -> None:
    # IoUs 1, 3/4, 1/2: tp is 3 at .5, 2 at .55 to .75, 1 at .8 to .95; S = tp / (8 - tp).
    measures = score(*four_in_a_row()).measures()
    assert measures["avS"] == pytest.approx((3 / 5 + 5 * 2 / 6 + 4 / 7) / 10)
    assert measures["avS_nuclei"] == pytest.approx((3 / 5 + 2 * 2 / 6 + 2 / 7) / 5)
    assert "avS" not in score(*four_in_a_row(), thresholds=[0.5]).measures()


def test_thresholds_are_the_exact_quotients() -> None:
    assert THRESHOLDS == (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
    assert NUCLEI_THRESHOLDS == (0.5, 0.6, 0.7, 0.8, 0.9)


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(0, 6))
def test_order_of_the_measures(seed: int, count: int) -> None:
    masks = drawn(seed, count)
    scores = score(instances(masks), instances(nudged(masks, seed)))
    assert (scores.product <= scores.s + 1e-12).all()
    assert (scores.s <= scores.f1 + 1e-12).all()
    np.testing.assert_allclose(scores.f1, 2 * scores.s / (1 + scores.s))
    assert (np.diff(scores.tp) <= 0).all(), "a stricter threshold cannot find more"


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 6), data=st.data())
def test_renumbering_changes_nothing(seed: int, count: int, data: st.DataObject) -> None:
    masks = drawn(seed, count)
    truth, found = instances(masks), instances(nudged(masks, seed))
    orders = [data.draw(st.permutations(range(len(part)))) for part in (truth, found)]
    expected = score(truth, found)
    renumbered = score(truth.select(orders[0]), found.select(orders[1]))
    assert renumbered.measures() == expected.measures()


@given(shared=st.integers(1, 60), only_truth=st.integers(0, 40), only_found=st.integers(0, 40))
def test_pixel_f1_of_four_fifths_is_an_iou_of_two_thirds(shared: int, only_truth: int, only_found: int) -> None:
    row = np.repeat([[True, True], [True, False], [False, True]], [shared, only_truth, only_found], axis=0).T[:, None]
    truth, found = (Instances.from_masks([mask], mask.shape) for mask in row)
    # F1 = 2 I / (|A| + |B|) >= 4 / 5, in whole numbers.
    is_close = 5 * 2 * shared >= 4 * (2 * shared + only_truth + only_found)
    assert score(truth, found).close == is_close


def stardist_accuracy(truth: NDArray[np.intp], found: NDArray[np.intp], threshold: float) -> float:
    """StarDist's published definition on label maps: tp / (fp + tp + fn) after an optimal assignment."""
    ious = np.zeros((truth.max(), found.max()))
    for i in range(1, truth.max() + 1):
        for j in range(1, found.max() + 1):
            union = np.count_nonzero((truth == i) | (found == j))
            ious[i - 1, j - 1] = np.count_nonzero((truth == i) & (found == j)) / union if union else 0
    costs = -(ious >= threshold).astype(float) - ious / (2 * max(1, min(ious.shape)))
    pairs = linear_sum_assignment(costs)
    tp = np.count_nonzero(ious[pairs] >= threshold)
    fp, fn = found.max() - tp, truth.max() - tp
    return float(tp / (tp + fp + fn)) if tp else 0.0


@pytest.mark.parametrize("seed", range(20))
def test_s_is_the_accuracy_of_stardist(seed: int) -> None:
    masks = drawn(seed, 6)
    truth = instances(masks).to_labels()
    found = instances(nudged(masks, seed)).to_labels()
    # Covered objects leave gaps in the ids; both definitions need dense ones.
    truth, found = (np.unique(labels, return_inverse=True)[1].reshape(SHAPE) for labels in (truth, found))
    scores = score(Instances.from_labels(truth), Instances.from_labels(found))
    expected = [stardist_accuracy(truth, found, threshold) for threshold in THRESHOLDS]
    np.testing.assert_allclose(scores.s, expected)


NOTHING = Instances.empty((1, 18))


def test_nothing_to_find_and_nothing_found_is_right() -> None:
    assert set(score(NOTHING, NOTHING).measures().values()) == {1.0}
    assert set(score(NOTHING, NOTHING, empty=0.0).measures().values()) == {0.0}


def test_one_empty_side_scores_nothing() -> None:
    truth, found = four_in_a_row()
    for scores in (score(truth, NOTHING), score(NOTHING, found)):
        assert set(scores.measures().values()) == {0.0}


def test_summary_is_the_mean_over_images_but_f1_is_pooled() -> None:
    truth, found = four_in_a_row()
    scores = [score(truth, found), score(truth.select([0]), found.select([0])), score(NOTHING, NOTHING)]
    summary = summarise(scores)
    assert (summary.images, summary.truth_count, summary.found_count) == (3, 5, 5)
    assert summary.measures["S@0.5"].mean == pytest.approx((3 / 5 + 1 + 1) / 3)
    assert summary.measures["R@0.8"].mean == pytest.approx((1 / 4 + 1 + 1) / 3)
    assert summary.measures["F1_0.8"].mean == pytest.approx((2 + 1) / (4 + 1))
    assert all(value.low <= value.mean <= value.high for value in summary.measures.values())


def test_a_data_set_without_objects_has_no_pooled_recall() -> None:
    assert "F1_0.8" not in summarise([score(NOTHING, NOTHING)]).measures


def test_summary_refuses_what_cannot_be_averaged() -> None:
    with pytest.raises(ValueError, match="nothing to summarise"):
        summarise([])
    truth, found = four_in_a_row()
    with pytest.raises(ValueError, match="different thresholds"):
        summarise([score(truth, found), score(truth, found, thresholds=[0.5])])
    with pytest.raises(ValueError, match="no IoU threshold"):
        score(truth, found, thresholds=[])


def test_scores_keep_what_they_were_given() -> None:
    scores = Scores((0.5,), np.array([0]), 0, 0, close=0, empty=0.25)
    assert scores.s.tolist() == [0.25]
