"""Panoptic quality against its definition on label maps, and cases counted by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plurimask.instances import Instances
from plurimask.metrics.panoptic import Panoptic, panoptic, summarise
from plurimask.metrics.segmentation import score

SHAPE = (12, 12)
NOTHING = Instances.empty((1, 18))


def drawn(seed, count):
    """``(count, *SHAPE)`` overlapping rectangles, and the same up to a pixel with one lost and one invented."""
    generator = np.random.default_rng(seed)
    masks = np.zeros((count + 1, *SHAPE), bool)
    for mask in masks:
        start = generator.integers(0, 8, 2)
        stop = start + generator.integers(2, 6, 2)
        mask[start[0] : stop[0], start[1] : stop[1]] = True
    moved = [np.roll(mask, generator.integers(-1, 2), axis=int(generator.integers(2))) for mask in masks]
    sides = masks[:-1], [moved[index] for index in generator.permutation(len(moved))[1:]]
    return tuple(Instances.from_masks(side, SHAPE) for side in sides)


def four_in_a_row():
    """Truth 1 found exactly, truth 2 with IoU 3/4, truth 3 with IoU 1/2, truth 4 missed; one invention."""
    truth = Instances.from_labels(np.array([[1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 0, 0]]))
    found = Instances.from_labels(np.array([[4, 4, 4, 4, 0, 5, 5, 5, 0, 0, 6, 6, 0, 0, 0, 0, 8, 8]]))
    return truth, found


def test_counted_by_hand():
    # An IoU of exactly 1/2 is no match: 2 pairs of 4 + 4 objects with IoUs 1 and 3/4.
    quality = panoptic(*four_in_a_row())
    assert (quality.tp, quality.truth_count, quality.found_count) == (2, 4, 4)
    assert quality.sq == pytest.approx((1 + 3 / 4) / 2)
    assert quality.rq == pytest.approx(2 / (2 + 2 / 2 + 2 / 2))
    assert quality.pq == pytest.approx((1 + 3 / 4) / 4)


def by_definition(truth, found):
    """PQ of two label maps, Kirillov et al. 2019, Eq. 1: all pairs with an IoU above 1/2."""
    truths, finds = ([labels == number for number in np.unique(labels) if number] for labels in (truth, found))
    ious = [np.sum(a & b) / np.sum(a | b) for a in truths for b in finds if 2 * np.sum(a & b) > np.sum(a | b)]
    fp, fn = len(finds) - len(ious), len(truths) - len(ious)
    return sum(ious) / (len(ious) + fp / 2 + fn / 2)


@settings(max_examples=80, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 6))
def test_it_is_its_definition_on_label_maps(seed, count):
    truth, found = (side.to_labels() for side in drawn(seed, count))
    quality = panoptic(Instances.from_labels(truth), Instances.from_labels(found))
    assert quality.pq == pytest.approx(by_definition(truth, found))


@settings(max_examples=80, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(0, 6))
def test_order_of_the_measures(seed, count):
    truth, found = drawn(seed, count)
    quality = panoptic(truth, found)
    at_half = score(truth, found, thresholds=[np.nextafter(0.5, 1)])
    assert quality.pq == pytest.approx(quality.sq * quality.rq)
    assert quality.rq == pytest.approx(at_half.f1[0])
    assert quality.pq <= quality.rq + 1e-12
    assert at_half.product[0] <= at_half.s[0] + 1e-12 <= quality.rq + 2e-12
    assert quality.sq == 0 or 0.5 < quality.sq <= 1


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 6), data=st.data())
def test_renumbering_changes_nothing(seed, count, data):
    # Label maps: where objects overlap, two matchings may be equally good.
    truth, found = (Instances.from_labels(side.to_labels()) for side in drawn(seed, count))
    orders = [data.draw(st.permutations(range(len(side)))) for side in (truth, found)]
    renumbered = panoptic(truth.select(orders[0]), found.select(orders[1]))
    assert renumbered.measures() == pytest.approx(panoptic(truth, found).measures())


def test_overlapping_objects_may_have_two_partners_above_one_half():
    # Two nested found objects fit one true one with IoUs 3/4 and 1; the better one is its pair, the other is false.
    truth = Instances.from_masks([np.ones((1, 4), bool)], (1, 4))
    found = Instances.from_masks([np.array([[1, 1, 1, 0]]), np.ones((1, 4), bool)], (1, 4))
    assert panoptic(truth, found) == Panoptic(1.0, 1, 1, 2)


def test_nothing_to_find_and_nothing_found_is_right():
    assert set(panoptic(NOTHING, NOTHING).measures().values()) == {1.0}
    assert set(panoptic(NOTHING, NOTHING, empty=0.25).measures().values()) == {0.25}


def test_one_empty_side_has_no_quality():
    truth, found = four_in_a_row()
    for quality in (panoptic(truth, NOTHING), panoptic(NOTHING, found)):
        assert quality.measures() == {"PQ": 0, "SQ": 0, "RQ": 0}


def test_pooled_and_per_image_are_kept_apart():
    truth, found = four_in_a_row()
    images = [panoptic(truth, found), panoptic(truth.select([0]), found.select([0])), panoptic(truth, NOTHING)]
    summary = summarise(images, resamples=200)
    assert summary.images == 3
    assert {name: value.mean for name, value in summary.per_image.items()} == pytest.approx(
        {"PQ": (7 / 16 + 1 + 0) / 3, "SQ": (7 / 8 + 1 + 0) / 3, "RQ": (1 / 2 + 1 + 0) / 3}
    )
    # Together: IoUs 1, 3/4, 1 of three pairs; 9 true and 5 found objects.
    assert {name: value.mean for name, value in summary.pooled.items()} == pytest.approx(
        {"PQ": 11 / 4 / 7, "SQ": 11 / 12, "RQ": 3 / 7}
    )
    for value in (*summary.pooled.values(), *summary.per_image.values()):
        assert value.low <= value.mean <= value.high


def test_a_data_set_without_objects_counts_as_its_images_do():
    summary = summarise([panoptic(NOTHING, NOTHING, empty=0.5)] * 2, resamples=10)
    assert {value.mean for value in (*summary.pooled.values(), *summary.per_image.values())} == {0.5}


def test_what_cannot_be_measured_is_refused():
    with pytest.raises(ValueError, match="nothing to summarise"):
        summarise([])
    with pytest.raises(ValueError, match="empty"):
        summarise([panoptic(NOTHING, NOTHING), panoptic(NOTHING, NOTHING, empty=0)])
    with pytest.raises(ValueError, match=r"\(1, 18\).*\(2, 2\)"):
        panoptic(NOTHING, Instances.empty((2, 2)))
