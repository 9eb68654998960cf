"""Overlaps shared out: drawn cases, and the nearest owner by looking at every pixel."""

import numpy as np
import pytest

from plurimask.instances import Instances
from plurimask.ops.flatten import flatten


def bars(*spans, scores=None, length=8):
    """Objects in one row: (start, stop) of each."""
    masks = [np.ones((1, stop - start), bool) for start, stop in spans]
    boxes = [[[0, start], [1, stop]] for start, stop in spans]
    return Instances.from_crops(boxes, masks, (1, length), scores=scores)


def nearest_owner(objects):
    """For every pixel the owner with the least distance to a pixel of its own; ties by score, then by order."""
    masks = objects.to_masks()
    own = masks & (masks.sum(axis=0) == 1)
    labels = np.zeros(objects.shape, int)
    for place in map(tuple, np.argwhere(masks.any(axis=0))):
        candidates = []
        for n in np.flatnonzero(masks[(slice(None), *place)]):
            places = np.argwhere(own[n])
            far = ((places - place) ** 2).sum(axis=1).min() if len(places) else np.inf
            candidates.append((far, -objects.scores[n], n))
        labels[place] = min(candidates)[2] + 1
    return labels


def test_an_overlap_is_halved():
    assert flatten(bars((0, 6), (2, 8))).tolist() == [[1, 1, 1, 1, 2, 2, 2, 2]]


def test_the_middle_pixel_goes_to_the_better_one():
    assert flatten(bars((0, 5), (2, 8))).tolist() == [[1, 1, 1, 1, 2, 2, 2, 2]]
    assert flatten(bars((0, 5), (2, 8), scores=[0.4, 0.6])).tolist() == [[1, 1, 1, 2, 2, 2, 2, 2]]


def test_scores_matter_at_ties_only():
    assert flatten(bars((0, 6), (2, 8), scores=[0.1, 0.9])).tolist() == [[1, 1, 1, 1, 2, 2, 2, 2]]


def test_a_neighbour_that_does_not_own_the_overlap_gets_none_of_it():
    # The third object begins where the overlap of the others ends.
    masks = np.zeros((3, 2, 6), bool)
    masks[0, 0, 0:4] = masks[1, 0, 1:4] = masks[1, 1, 1] = masks[2, 0, 4:6] = True
    assert flatten(Instances.from_masks(masks, (2, 6))).tolist() == [[1, 1, 2, 2, 3, 3], [0, 2, 0, 0, 0, 0]]


def test_an_object_within_another_vanishes_and_duplicates_go_to_the_best():
    assert flatten(bars((0, 8), (2, 5), scores=[0.1, 0.9])).tolist() == [[1] * 8]
    assert flatten(bars((1, 4), (1, 4), scores=[0.1, 0.9])).tolist() == [[0, 2, 2, 2, 0, 0, 0, 0]]
    assert flatten(bars((1, 4), (1, 4))).tolist() == [[0, 1, 1, 1, 0, 0, 0, 0]]


def test_without_overlaps_the_labels_are_those_of_the_objects(touching_blobs):
    np.testing.assert_array_equal(flatten(touching_blobs), touching_blobs.to_labels())


def test_no_objects(empty_image):
    labels = flatten(empty_image)
    assert labels.shape == empty_image.shape and labels.dtype == np.int32 and not labels.any()


@pytest.mark.parametrize("shape", [(30, 34), (9, 10, 11)])
def test_every_pixel_goes_to_its_nearest_owner(shape):
    generator = np.random.default_rng(len(shape))
    for _ in range(6):
        boxes = np.stack([generator.integers(0, np.array(shape) - 4) for _ in range(9)])
        stops = np.minimum(boxes + generator.integers(3, 14, boxes.shape), shape)
        masks = [generator.random(stop - start) < 0.8 for start, stop in zip(boxes, stops, strict=True)]
        scores = generator.integers(0, 4, 9) / 4
        objects = Instances.from_crops(np.stack([boxes, stops], axis=1), masks, shape, scores=scores)
        np.testing.assert_array_equal(flatten(objects), nearest_owner(objects))
