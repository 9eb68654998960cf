"""The challenge's F1 against its published procedure on label maps, and cases drawn by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from plurimask.instances import Instances
from plurimask.metrics import challenge
from plurimask.metrics.challenge import ChallengeCounts, challenge_counts, summarise


def drawn(seed, shape, count):
    """Two label maps ``shape``: rectangles, and the same up to a pixel with some lost. Ids have gaps."""
    generator = np.random.default_rng(seed)
    truth, found = np.zeros((2, *shape), np.int32)
    for number in range(1, count + 1):
        start = generator.integers(0, np.array(shape) - 2)
        stop = start + generator.integers(2, 7, 2)
        truth[start[0] : stop[0], start[1] : stop[1]] = number
        if generator.random() < 0.8:
            start = np.maximum(0, start + generator.integers(-1, 2, 2))
            found[start[0] : stop[0], start[1] : stop[1]] = number
    return truth, found


def without_frame(labels):
    """The published rule: ids that occur in the outermost two pixels go."""
    frame = np.ones(labels.shape, bool)
    frame[2:-2, 2:-2] = False
    kept = np.where(np.isin(labels, labels[frame]), 0, labels)
    return np.unique(np.append(kept.ravel(), 0), return_inverse=True)[1][:-1].reshape(labels.shape)


def published(truth, found, *, large, region):
    """TP and numbers of objects as the challenge's evaluation counts them, with other sizes."""
    parts = [(truth, found)]
    if truth.size >= large:
        padded = [np.pad(labels, [(0, -size % region) for size in labels.shape]) for labels in (truth, found)]
        corners = [(y, x) for y in range(0, truth.shape[0], region) for x in range(0, truth.shape[1], region)]
        parts = [tuple(labels[y : y + region, x : x + region] for labels in padded) for y, x in corners]
    totals = np.zeros(3, int)
    for part in parts:
        a, b = (without_frame(labels) for labels in part)
        overlap = np.zeros((a.max() + 1, b.max() + 1))
        np.add.at(overlap, (a.ravel(), b.ravel()), 1)
        ious = overlap / np.maximum(1, overlap.sum(axis=0) + overlap.sum(axis=1)[:, None] - overlap)
        ious = ious[1:, 1:]
        pairs = linear_sum_assignment(-(ious >= 0.5).astype(float) - ious / (2 * max(1, min(ious.shape))))
        totals += [np.count_nonzero(ious[pairs] >= 0.5), a.max(), b.max()]
    return tuple(totals.tolist())


def counts_of(truth, found):
    counts = challenge_counts(Instances.from_labels(truth), Instances.from_labels(found))
    return counts.tp, counts.truth_count, counts.found_count


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(0, 12))
def test_it_is_the_published_procedure(seed, count):
    truth, found = drawn(seed, (24, 30), count)
    assert counts_of(truth, found) == published(truth, found, large=25_000_000, region=2000)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(0, 40), shape=st.sampled_from([(40, 60), (45, 50), (60, 41)]))
def test_large_images_are_pooled_over_regions_as_published(seed, count, shape):
    truth, found = drawn(seed, shape, count)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(challenge, "_LARGE", 2250)
        patch.setattr(challenge, "_REGION", 20)
        assert counts_of(truth, found) == published(truth, found, large=2250, region=20)


def squares(corners, shape, side=4):
    boxes = [[corner, np.add(corner, side)] for corner in corners]
    return Instances.from_crops(boxes, [np.ones((side, side), bool)] * len(corners), shape)


def test_objects_in_the_outermost_two_pixels_do_not_count():
    # Sides of 4: the frame ends before 2, and begins at 18 in an image of 20.
    touching = [(1, 8), (8, 1), (15, 8), (8, 15)]
    free = [(2, 2), (14, 14)]
    objects = squares([*touching, *free], (20, 20))
    assert challenge_counts(objects, objects) == ChallengeCounts(2, 2, 2)


def test_an_object_of_one_side_may_go_alone():
    truth, found = squares([(1, 8)], (20, 20)), squares([(2, 8)], (20, 20))
    assert challenge_counts(truth, found) == ChallengeCounts(0, 0, 1)
    assert challenge_counts(truth, found).f1 == 0


def test_boxes_may_be_wider_than_their_masks():
    mask = np.zeros((20, 20), bool)
    mask[5:9, 5:9] = True
    wide = Instances.from_crops([[[0, 0], [20, 20]]], [mask], (20, 20))
    assert challenge_counts(wide, squares([(5, 5)], (20, 20))) == ChallengeCounts(1, 1, 1)


def test_an_image_of_25_megapixels_is_cut_and_a_smaller_one_is_not():
    # Across a border of regions, inside the second region, at the lower edge of the image.
    corners = [(1998, 100), (2500, 2500), (4996, 2500)]
    large, small = squares(corners, (5000, 5000)), squares(corners, (5000, 4999))
    assert challenge_counts(large, large) == ChallengeCounts(2, 2, 2), "the lower edge is inside its padded region"
    assert challenge_counts(small, small) == ChallengeCounts(2, 2, 2), "the lower edge goes, the first is whole"
    first = squares(corners[:1], (5000, 5000))
    assert challenge_counts(first, first).tp == 0


def test_f1_by_hand():
    assert ChallengeCounts(3, 4, 5).f1 == pytest.approx(2 * (3 / 4) * (3 / 5) / (3 / 4 + 3 / 5))


@pytest.mark.parametrize(("true_corners", "found_corners"), [([], []), ([(5, 5)], []), ([], [(5, 5)])])
def test_without_a_pair_f1_is_zero(true_corners, found_corners):
    sides = [squares(corners, (20, 20)) for corners in (true_corners, found_corners)]
    assert challenge_counts(*sides).f1 == 0


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), data=st.data())
def test_renumbering_changes_nothing(seed, data):
    sides = [Instances.from_labels(labels) for labels in drawn(seed, (24, 30), 10)]
    renumbered = [side.select(data.draw(st.permutations(range(len(side))))) for side in sides]
    assert challenge_counts(*renumbered) == challenge_counts(*sides)


def test_mean_and_median_are_over_images():
    summary = summarise([ChallengeCounts(1, 1, 1), ChallengeCounts(1, 2, 2), ChallengeCounts(0, 3, 3)], resamples=300)
    assert summary.images == 3
    assert summary.mean.mean == pytest.approx(1 / 2)
    assert summary.median.mean == pytest.approx(1 / 2)
    summary = summarise([ChallengeCounts(1, 1, 1), ChallengeCounts(1, 1, 1), ChallengeCounts(0, 3, 3)], resamples=300)
    assert summary.mean.mean == pytest.approx(2 / 3)
    assert summary.median.mean == 1


def test_bad_input_is_told():
    crossing = squares([(5, 5), (6, 6)], (20, 20))
    apart = squares([(5, 5)], (20, 20))
    with pytest.raises(ValueError, match=r"^true objects overlap.*to_labels"):
        challenge_counts(crossing, apart)
    with pytest.raises(ValueError, match=r"^found objects overlap"):
        challenge_counts(apart, crossing)
    with pytest.raises(ValueError, match="2-D"):
        challenge_counts(Instances.empty((5, 5, 5)), Instances.empty((5, 5, 5)))
    with pytest.raises(ValueError, match=r"\(20, 20\).*\(20, 21\)"):
        challenge_counts(apart, Instances.empty((20, 21)))
    with pytest.raises(ValueError, match="threshold"):
        challenge_counts(apart, apart, min_iou=0)
    with pytest.raises(ValueError, match="no image"):
        summarise([])
