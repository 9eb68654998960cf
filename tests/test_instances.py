"""Objects as crops, against dense arrays."""

import numpy as np
import pytest

from plurimask.instances import Instances, bounding_box, concatenate, slices


def random_masks(seed, count=12, shape=(20, 24)):
    """Rectangles with holes that overlap; none is empty."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((count, *shape), bool)
    for mask in masks:
        start = [rng.integers(0, size - 4) for size in shape]
        stop = [rng.integers(low + 3, min(low + 10, size) + 1) for low, size in zip(start, shape, strict=True)]
        region = tuple(slice(low, high) for low, high in zip(start, stop, strict=True))
        mask[region] = rng.random(mask[region].shape) < 0.7
        mask[tuple(start)] = True
    return masks


SHAPES = [(20, 24), (9, 14, 11)]


@pytest.mark.parametrize("shape", SHAPES)
def test_masks_come_back_as_they_went_in(shape):
    masks = random_masks(0, shape=shape)
    objects = Instances.from_masks(masks, shape)
    np.testing.assert_array_equal(objects.to_masks(), masks)
    np.testing.assert_array_equal(objects.areas, masks.sum(axis=tuple(range(1, masks.ndim))))
    np.testing.assert_array_equal(objects.owners(), masks.sum(axis=0))
    assert all(mask.shape == tuple(box[1] - box[0]) for box, mask in zip(objects.boxes, objects.masks, strict=True))


def test_empty_masks_are_left_out():
    masks = np.zeros((3, 4, 4), bool)
    masks[1, 2, 3] = True
    objects = Instances.from_masks(masks, (4, 4))
    assert objects.boxes.tolist() == [[[2, 3], [3, 4]]]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.int64, np.uint64, np.float32])
def test_labels_need_not_be_consecutive(dtype):
    labels = np.array([[0, 9, 9], [4, 0, 200], [4, 4, 0]]).astype(dtype)
    objects = Instances.from_labels(labels)
    np.testing.assert_array_equal(objects.to_masks(), [labels == 4, labels == 9, labels == 200])
    np.testing.assert_array_equal(objects.to_labels(), [[0, 2, 2], [1, 0, 3], [1, 1, 0]])


def test_labels_without_background_without_objects_and_as_truth_values():
    assert Instances.from_labels(np.full((2, 3), 5)).areas.tolist() == [6]
    assert len(Instances.from_labels(np.zeros((2, 3), int))) == 0
    assert Instances.from_labels(np.eye(3, dtype=bool)).areas.tolist() == [3]
    assert len(Instances.from_labels(np.zeros((0, 3), int))) == 0


def test_a_negative_label_is_an_error():
    with pytest.raises(ValueError, match="has the id -1"):
        Instances.from_labels(np.array([[-1, 0, 2]]))


def test_the_higher_score_owns_shared_pixels_and_the_first_of_equals():
    masks = np.array([[1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]], bool)[:, None]
    boxes = [bounding_box(mask) for mask in masks]
    crops = [mask[slices(box)] for mask, box in zip(masks, boxes, strict=True)]
    by_score = Instances.from_crops(boxes, crops, (1, 4), scores=[0.2, 0.9, 0.5])
    assert by_score.to_labels().tolist() == [[1, 2, 2, 3]]
    assert Instances.from_crops(boxes, crops, (1, 4)).to_labels().tolist() == [[1, 1, 2, 3]]


@pytest.mark.parametrize("shape", SHAPES)
def test_crop_equals_the_crop_of_the_dense_masks(shape):
    masks = random_masks(1, shape=shape)
    box = np.array([[2] * len(shape), [size - 3 for size in shape]])
    dense = masks[(slice(None), *slices(box))]
    found = Instances.from_masks(masks, shape).crop(box)
    np.testing.assert_array_equal(found.to_masks(), dense[dense.reshape(len(dense), -1).any(axis=1)])


def test_crop_keeps_scores_and_features_with_their_objects():
    objects = Instances.from_labels(np.array([[1, 0, 2, 0, 3]]))
    objects = Instances(objects.boxes, objects.masks, np.array([0.1, 0.2, 0.3]), (1, 5), {"kind": np.array([7, 8, 9])})
    part = objects.crop([[0, 2], [1, 5]])
    assert part.shape == (1, 3)
    assert part.scores.tolist() == [0.2, 0.3]
    assert part.features["kind"].tolist() == [8, 9]


def test_shift_and_back_is_the_identity():
    masks = random_masks(2)
    moved = Instances.from_masks(masks, (20, 24)).shift((5, 3), (40, 30))
    np.testing.assert_array_equal(moved.to_masks()[:, 5:25, 3:27], masks)
    np.testing.assert_array_equal(moved.shift((-5, -3), (20, 24)).to_masks(), masks)


def with_outline(ndim=2):
    """One object, its outline through the centres of two of its pixels, and a length for every side of its box."""
    mask, low = np.ones((3,) * ndim, bool), np.arange(1, ndim + 1)
    features = {
        "contour": np.stack([low, low + 2])[None].astype(np.float32),
        "border": np.arange(2.0 * ndim).reshape(1, 2, ndim),
        "class": np.array([4]),
    }
    return Instances.from_crops([[low, low + 3]], [mask], (9, 8, 7)[:ndim], features=features)


@pytest.mark.parametrize("ndim", [2, 3])
def test_places_move_with_their_object_and_lengths_stay(ndim):
    found = with_outline(ndim)
    moved = found.shift([5, -1, 2][:ndim], (20,) * ndim)
    assert moved.features["contour"][0, 0].tolist() == moved.boxes[0, 0].tolist() == [6, 1, 5][:ndim]
    assert moved.features["contour"].dtype == np.float32
    assert (moved.features["border"] == found.features["border"]).all() and moved.features["class"].tolist() == [4]
    assert (found.features["contour"][0, 0] == found.boxes[0, 0]).all()  # the object that was asked stays as it is


def test_a_cut_object_keeps_its_whole_contour():
    # It starts at (1, 2); the part of the image starts at (2, 3), and ends before the object does.
    cut = with_outline().crop([[2, 3], [4, 4]])
    assert cut.boxes.tolist() == [[[0, 0], [2, 1]]]
    assert cut.features["contour"].tolist() == [[[-1, -1], [1, 1]]]
    assert len(with_outline().crop([[6, 6], [9, 8]]).features["contour"]) == 0


@pytest.mark.parametrize(
    ("name", "shape", "complaint"),
    [("contour", (1, 5, 3), r"places \(N, ..., 2\)"), ("contour", (1,), "places"), ("border", (1, 4), "lengths")],
)
def test_places_and_lengths_have_as_many_axes_as_the_image(name, shape, complaint):
    with pytest.raises(ValueError, match=f"feature '{name}' has shape .*{complaint}"):
        Instances.from_crops([[[0, 0], [1, 1]]], [np.ones((1, 1), bool)], (4, 4), features={name: np.zeros(shape)})


def test_select_by_indices_and_by_truth_values():
    objects = Instances.from_labels(np.array([[1, 2, 2, 3, 3, 3]]))
    assert objects.select([2, 0]).areas.tolist() == [3, 1]
    assert objects.select(np.array([False, True, True])).areas.tolist() == [2, 3]
    assert len(objects.select([])) == 0


def test_concatenate_keeps_common_features_and_asks_empty_parts_for_none():
    one = Instances.from_labels(np.array([[1, 0, 0]]))
    a = Instances(one.boxes, one.masks, one.scores, one.shape, {"kind": np.array([3]), "other": np.array([1])})
    b = Instances(one.boxes, one.masks, one.scores, one.shape, {"kind": np.array([5])})
    both = concatenate([a, Instances.empty((1, 3)), b])
    assert both.features.keys() == {"kind"}
    assert both.features["kind"].tolist() == [3, 5]
    assert len(concatenate([Instances.empty((1, 3))] * 2)) == 0


def test_concatenate_refuses_other_images_and_nothing():
    with pytest.raises(ValueError, match="shapes"):
        concatenate([Instances.empty((3, 3)), Instances.empty((3, 4))])
    with pytest.raises(ValueError, match="nothing to concatenate"):
        concatenate([])


def test_what_does_not_fit_together_is_an_error():
    with pytest.raises(ValueError, match="leaves its image"):
        Instances.from_crops([[[0, 2], [2, 5]]], [np.ones((2, 3), bool)], (4, 4))
    with pytest.raises(ValueError, match="wants a mask of shape"):
        Instances.from_crops([[[0, 0], [2, 2]]], [np.ones((2, 3), bool)], (4, 4))
    with pytest.raises(ValueError, match="need boxes of shape"):
        Instances(np.zeros((1, 2, 2), np.int64), (), np.zeros(0), (4, 4))
    with pytest.raises(ValueError, match="feature 'kind' has 2 rows"):
        Instances.from_crops([[[0, 0], [1, 1]]], [np.ones((1, 1), bool)], (4, 4), features={"kind": np.zeros(2)})
    with pytest.raises(ValueError, match="they must be equal"):
        Instances.from_masks([np.ones((2, 2), bool)], (4, 4))


def test_masks_of_numbers_become_truth_values():
    objects = Instances.from_crops([[[0, 0], [1, 3]]], [np.array([[0, 2, 255]], np.uint8)], (2, 3))
    assert objects.masks[0].dtype == bool
    assert objects.areas.tolist() == [2]


def test_bounding_box():
    mask = np.zeros((4, 5, 6), bool)
    assert bounding_box(mask) is None
    mask[1, 2, 3] = mask[3, 2, 5] = True
    np.testing.assert_array_equal(bounding_box(mask), [[1, 2, 3], [4, 3, 6]])
