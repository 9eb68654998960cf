"""Sparse overlaps against dense one-liners and pycocotools."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco

from plurimask.instances import Instances
from plurimask.ops.overlap import intersections, iou, overlap_fraction


def dense_intersections(a, b):
    return np.array([[np.count_nonzero(x & y) for y in b] for x in a]).reshape(len(a), len(b))


def dense_iou(a, b):
    return np.array([[(x & y).sum() / (x | y).sum() for y in b] for x in a]).reshape(len(a), len(b))


def dense_fraction(a, b):
    return np.array([[(x & y).sum() / min(x.sum(), y.sum()) for y in b] for x in a]).reshape(len(a), len(b))


def random_masks(seed, count, shape):
    rng = np.random.default_rng(seed)
    masks = np.zeros((count, *shape), bool)
    for mask in masks:
        start = [int(rng.integers(0, size)) for size in shape]
        region = tuple(slice(low, low + int(rng.integers(1, 9))) for low in start)
        mask[region] = rng.random(mask[region].shape) < 0.6
        mask[tuple(start)] = True
    return masks


@pytest.mark.parametrize("shape", [(40,), (20, 30), (8, 11, 13), (4, 5, 6, 7)])
@pytest.mark.parametrize("seed", range(4))
def test_equals_the_dense_definitions(shape, seed):
    a, b = random_masks(seed, 30, shape), random_masks(seed + 100, 23, shape)
    found, others = Instances.from_masks(a, shape), Instances.from_masks(b, shape)
    np.testing.assert_array_equal(intersections(found, others).toarray(), dense_intersections(a, b))
    np.testing.assert_array_equal(iou(found, others).toarray(), dense_iou(a, b))
    np.testing.assert_array_equal(overlap_fraction(found, others).toarray(), dense_fraction(a, b))


@given(seed=st.integers(0, 10**6), first=st.integers(0, 6), second=st.integers(0, 60))
def test_any_number_of_objects(seed, first, second):
    a, b = random_masks(seed, first, (12, 12)), random_masks(seed + 1, second, (12, 12))
    shared = intersections(Instances.from_masks(a, (12, 12)), Instances.from_masks(b, (12, 12)))
    np.testing.assert_array_equal(shared.toarray(), dense_intersections(a, b))


def test_more_pairs_than_the_first_guess():
    masks = np.ones((40, 3, 3), bool)
    objects = Instances.from_masks(masks, (3, 3))
    np.testing.assert_array_equal(intersections(objects, objects).toarray(), np.full((40, 40), 9))


def test_touching_boxes_and_boxes_without_common_pixels_are_not_stored():
    labels = np.array([[1, 1, 2], [1, 2, 2]])
    objects = Instances.from_labels(labels)
    shared = intersections(objects, objects)
    assert shared.nnz == 2
    assert shared.toarray().tolist() == [[3, 0], [0, 3]]


def test_no_objects():
    none, some = Instances.empty((3, 4)), Instances.from_labels(np.ones((3, 4), int))
    assert iou(none, some).shape == (0, 1)
    assert iou(some, none).shape == (1, 0)
    assert overlap_fraction(none, none).shape == (0, 0)


def test_crops_that_are_views_of_other_memory_order():
    base = np.asfortranarray(random_masks(3, 1, (9, 14))[0] | np.eye(9, 14, dtype=bool))
    objects = Instances.from_crops([[[0, 0], [9, 14]]], [base], (9, 14))
    straight = Instances.from_masks([np.ascontiguousarray(base)], (9, 14))
    assert intersections(objects, straight).toarray() == base.sum()


def test_other_images_are_an_error():
    with pytest.raises(ValueError, match="cannot overlap"):
        intersections(Instances.empty((3, 4)), Instances.empty((4, 3)))


def test_equals_pycocotools():
    a, b = random_masks(5, 50, (60, 70)), random_masks(6, 50, (60, 70))
    codes = [[coco.encode(np.asfortranarray(mask, np.uint8)) for mask in masks] for masks in (a, b)]
    theirs = coco.iou(*codes, [0] * len(b))
    ours = iou(Instances.from_masks(a, (60, 70)), Instances.from_masks(b, (60, 70)))
    np.testing.assert_allclose(ours.toarray(), theirs, atol=1e-12)
