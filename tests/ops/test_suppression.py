"""Suppression against the plain greedy rule over all pairs."""

import numpy as np
import pytest

from plurimask.instances import slices
from plurimask.ops.contours import rasterise
from plurimask.ops.fourier import closed_positions, reconstruct
from plurimask.ops.suppression import suppress_boxes, suppress_coarse, suppress_contours


def greedy(weights, overlap, threshold):
    """overlap: a function of two indices. Every proposal is compared with all that were kept."""
    kept = []
    for this in sorted(range(len(weights)), key=lambda index: (-weights[index], index)):
        if all(overlap(this, other) <= threshold for other in kept):
            kept.append(this)
    return kept


def box_iou(a, b):
    sides = [max(0.0, min(a[1][axis], b[1][axis]) - max(a[0][axis], b[0][axis])) for axis in (0, 1)]
    areas = [(box[1][0] - box[0][0]) * (box[1][1] - box[0][1]) for box in (a, b)]
    shared = sides[0] * sides[1]
    return shared / (areas[0] + areas[1] - shared) if shared else 0.0


def masks_of(contours, shape):
    masks = np.zeros((len(contours), *shape), bool)
    for mask, contour in zip(masks, contours, strict=True):
        box, crop = rasterise(contour, shape)
        mask[slices(box)] = crop
    return masks


def mask_iou(a, b):
    shared = np.count_nonzero(a & b)
    return shared / np.count_nonzero(a | b) if shared else 0.0


def random_boxes(generator, count, extent):
    """Clusters of near duplicates, sizes from under a pixel to most of the image, some without area."""
    starts = generator.uniform(0, extent, (count, 2))
    starts[count // 2 :] = starts[: count - count // 2] + generator.normal(0, 1, (count - count // 2, 2))
    sides = np.exp(generator.uniform(-2, 3, (count, 2)))
    sides[:: count // 5 or 1, 0] = 0
    sides[1] = extent
    return np.stack([starts, starts + sides], axis=1)


@pytest.mark.parametrize("seed", range(20))
def test_boxes_as_all_pairs_would(seed):
    generator = np.random.default_rng(seed)
    boxes = random_boxes(generator, 120, (20, 200)[seed % 2])
    weights = generator.integers(0, 9, 120) / 8  # many ties
    threshold = generator.choice([0.0, 0.1, np.pi / 10, 0.7, 1.0])
    expected = greedy(weights, lambda a, b: box_iou(boxes[a], boxes[b]), threshold)
    assert suppress_boxes(boxes, weights, threshold=threshold).tolist() == expected


def test_boxes_on_whole_pixels_touch_the_threshold_exactly():
    generator = np.random.default_rng(7)
    starts = generator.integers(0, 12, (150, 2))
    boxes = np.stack([starts, starts + generator.integers(0, 6, (150, 2))], axis=1)
    weights = generator.integers(0, 3, 150)
    for threshold in (0.25, 1 / 3, 0.5):
        expected = greedy(weights, lambda a, b: box_iou(boxes[a], boxes[b]), threshold)
        assert suppress_boxes(boxes, weights, threshold=threshold).tolist() == expected


def test_equal_weights_keep_the_first():
    boxes = np.array([[[0, 0], [4, 4]]] * 3)
    assert suppress_boxes(boxes, [0.5, 0.5, 0.5], threshold=0.5).tolist() == [0]


def test_boxes_without_area_are_kept_and_suppress_nothing():
    boxes = np.array([[[2, 2], [2, 2]], [[2, 2], [2, 2]], [[0, 0], [5, 5]], [[0, 0], [5, 0]]])
    assert suppress_boxes(boxes, [0.9, 0.8, 0.7, 0.6], threshold=0.0).tolist() == [0, 1, 2, 3]


def test_nothing_to_suppress():
    assert suppress_boxes(np.zeros((0, 2, 2)), [], threshold=0.5).tolist() == []
    assert suppress_contours(np.zeros((0, 8, 2)), [], threshold=0.5, shape=(9, 9)).tolist() == []


def test_boxes_far_apart():
    # Few small boxes in a wide field: the grid must not have a cell for every one of their sizes.
    boxes = np.array([[[0, 0], [1e-3, 1e-3]], [[1e9, 1e9], [1e9 + 1, 1e9 + 1]], [[0, 0], [1e-3, 2e-3]]])
    assert suppress_boxes(boxes, [1, 2, 3], threshold=0.4).tolist() == [2, 1]


def random_contours(generator, count, extent):
    coefficients = generator.normal(size=(count, 3, 4)) * np.array([4, 1.5, 0.7])[:, None]
    coefficients *= np.exp(generator.uniform(-3, 1, (count, 1, 1)))  # some are smaller than a pixel
    location = generator.uniform(-3, extent + 3, (count, 2))
    half = count // 2
    coefficients[half:], location[half:] = coefficients[: count - half], location[: count - half]
    location[half:] += generator.normal(0, 1, (count - half, 2))
    return location, coefficients


@pytest.mark.parametrize("seed", range(10))
def test_contours_as_all_pairs_would(seed):
    generator = np.random.default_rng(seed)
    contours = reconstruct(*random_contours(generator, 80, 40), closed_positions(24))
    weights = generator.integers(0, 9, 80) / 8
    masks = masks_of(contours, (40, 44))
    threshold = generator.choice([0.0, 0.2, 0.5, 1.0])
    expected = greedy(weights, lambda a, b: mask_iou(masks[a], masks[b]), threshold)
    assert suppress_contours(contours, weights, threshold=threshold, shape=(40, 44)).tolist() == expected


def test_crossing_bars_share_a_box_and_both_stay():
    along = np.array([[0, 0], [2, 0], [20, 18], [20, 20], [18, 20], [0, 2]], float)
    across = along * (-1, 1) + (20, 0)
    contours = np.stack([along, across])
    boxes = np.stack([contours.min(axis=1), contours.max(axis=1)], axis=1)
    assert suppress_boxes(boxes, [0.9, 0.8], threshold=0.5).tolist() == [0]
    assert suppress_contours(contours, [0.9, 0.8], threshold=0.5, shape=(21, 21)).tolist() == [0, 1]


def test_contours_outside_the_image_are_kept():
    contours = np.full((2, 5, 2), -9.0)
    assert suppress_contours(contours, [0.1, 0.2], threshold=0.0, shape=(5, 5)).tolist() == [1, 0]


def test_coarse_boxes_are_those_of_the_contours():
    generator = np.random.default_rng(2)
    location, coefficients = random_contours(generator, 60, 40)
    weights = generator.uniform(size=60)
    contours = reconstruct(location, coefficients, np.linspace(0, 1, 32))
    boxes = np.stack([contours.min(axis=1), contours.max(axis=1)], axis=1)
    expected = greedy(weights, lambda a, b: box_iou(boxes[a], boxes[b]), 0.8)
    assert suppress_coarse(location, coefficients, weights, threshold=0.8).tolist() == expected


@pytest.mark.parametrize(
    ("boxes", "weights", "threshold", "message"),
    [
        (np.zeros((2, 4)), [1, 1], 0.5, r"\(2, 2, 2\)"),
        (np.zeros((2, 2, 2)), [1], 0.5, "weights of shape"),
        (np.zeros((1, 2, 2)), [np.nan], 0.5, "finite"),
        (np.full((1, 2, 2), np.nan), [1], 0.5, "not finite"),
        ([[[3, 3], [1, 4]]], [1], 0.5, "stops before"),
        (np.zeros((1, 2, 2)), [1], 1.5, "threshold is 1.5"),
    ],
)
def test_bad_input_is_told(boxes, weights, threshold, message):
    with pytest.raises(ValueError, match=message):
        suppress_boxes(boxes, weights, threshold=threshold)


def test_bad_contours_are_told():
    with pytest.raises(ValueError, match=r"contours \[1\]"):
        suppress_contours(np.array([[[0.0, 0]], [[np.nan, 0]]]), [1, 1], threshold=0.5, shape=(4, 4))
