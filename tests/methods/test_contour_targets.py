"""What contours are compared with, on drawn objects."""

import numpy as np
import pytest

from plurimask.instances import Instances
from plurimask.methods.contour_targets import centres, contour_rows, depth, in_one_piece, points_along

POSITIONS = np.array([0.0, 0.25, 0.5, 0.75, 1.0])


def drawing(*lines):
    """Label map from digits; a dot is 0."""
    return np.array([[0 if c == "." else int(c) for c in line] for line in lines])


def square(side, frame=2):
    return np.pad(np.ones((side, side), int), frame)


def labelled(labels, least=0.5, most=0.5):
    truth = Instances.from_labels(labels)
    return centres(truth, in_one_piece(truth), least=least, most=most)


def test_depth_is_the_share_of_the_largest_distance():
    # 7 x 7: distances of the rings to the outside are 1, 2, 3, 4.
    found = depth(np.ones((7, 7), bool))
    rings = np.minimum.outer(np.minimum(np.arange(1, 8), np.arange(7, 0, -1)), [1, 2, 3, 4, 3, 2, 1])
    assert found == pytest.approx(rings / 4)


def test_small_objects_are_centre_all_over():
    assert (depth(np.ones((6, 6), bool)) == 1).all()  # 36 pixels
    assert (depth(np.ones((37, 1), bool)) == 1).all()  # thin: the same distance everywhere
    labels = drawing("1.", ".2")
    assert (labelled(labels) == labels).all()


def test_centres_by_depth():
    labels = square(7)
    found = labelled(labels, least=0.75, most=0.75)
    assert (found == np.pad(np.ones((3, 3), int), 4)).all()  # rings of depth 3 and 4 of 4
    # Between the two thresholds nothing is known: the ring of depth 2 of 4 is background, that of 3 unknown.
    found = labelled(labels, least=1.0, most=0.5)
    assert found[5].tolist() == [0, 0, 0, 0, -1, 1, -1, 0, 0, 0, 0]


def test_the_border_of_the_image_is_outside():
    labels = np.zeros((20, 8), int)
    labels[:, :7] = 1  # cut by three sides
    found = labelled(labels, least=1, most=1)
    assert np.unique(np.nonzero(found)[1]).tolist() == [3]
    assert np.nonzero(found)[0].tolist() == list(range(3, 17))


def test_overlaps_and_objects_in_pieces_are_unknown_and_have_no_row():
    masks = np.zeros((3, 6, 12), bool)
    masks[0, :, 0:3] = True
    masks[1, 2, 2:5] = True  # meets the first one in a pixel
    masks[2, 0, [7, 10]] = True  # two pieces
    truth = Instances.from_masks(masks, (6, 12))
    whole = in_one_piece(truth)
    assert whole.tolist() == [True, True, False]
    found = centres(truth, whole, least=0.5, most=0.5)
    assert found[2, :6].tolist() == [1, 1, -1, 2, 2, 0]
    assert found[0].tolist() == [1, 1, 1, 0, 0, 0, 0, -1, 0, 0, -1, 0]


def test_numbers_skip_what_has_no_row():
    masks = np.zeros((2, 3, 9), bool)
    masks[0, 0, [0, 2]] = True
    masks[1, :, 5:8] = True
    truth = Instances.from_masks(masks, (3, 9))
    found = centres(truth, in_one_piece(truth), least=0.5, most=0.5)
    assert np.unique(found).tolist() == [-1, 0, 1]
    assert (found[:, 5:8] == 1).all()


def test_points_at_shares_of_the_length():
    contour = np.array([[0, 0], [4, 0], [4, 2], [0, 2], [0, 0]])  # length 12
    found = points_along(contour, np.array([0, 1 / 12, 4 / 12, 5 / 12, 8 / 12, 1]))
    assert found == pytest.approx(np.array([[0, 0], [1, 0], [4, 0], [4, 1], [2, 2], [0, 0]]))
    single = points_along(np.array([[3, 4], [3, 4]]), POSITIONS)
    assert (single == [3, 4]).all()


def test_rows_of_a_square():
    # Traced through pixel centres from the top left corner down: side 4, corners at quarters of the length.
    truth = Instances.from_labels(square(5, frame=3))
    rows = contour_rows(truth, order=40, positions=POSITIONS)
    assert rows["contour"][0].tolist() == [[3, 3], [7, 3], [7, 7], [3, 7], [3, 3]]
    assert rows["location"][0].tolist() == pytest.approx([5, 5])
    phases = 2 * np.pi * np.arange(1, 41)[:, None] * POSITIONS
    x_cos, x_sin, y_cos, y_sin = rows["fourier"][0].T
    y = 5 + y_cos @ np.cos(phases) + y_sin @ np.sin(phases)
    x = 5 + x_cos @ np.cos(phases) + x_sin @ np.sin(phases)
    assert np.stack([y, x], 1) == pytest.approx(rows["contour"][0], abs=0.1)
    assert {name: values.dtype for name, values in rows.items()} == dict.fromkeys(rows, np.float32)


def test_overlapping_objects_keep_their_own_contours():
    masks = np.zeros((2, 9, 9), bool)
    masks[0, 4, :] = True
    masks[1, :, 4] = True
    rows = contour_rows(Instances.from_masks(masks, (9, 9)), order=3, positions=POSITIONS)
    assert rows["contour"][0, 2].tolist() == [4, 8]  # half-way is the other end, through the crossing
    assert rows["contour"][1, 2].tolist() == [8, 4]


def test_no_object_has_no_row():
    empty = Instances.empty((5, 7))
    rows = contour_rows(empty, order=3, positions=POSITIONS)
    assert {name: values.shape for name, values in rows.items()} == {
        "location": (0, 2),
        "fourier": (0, 3, 4),
        "contour": (0, 5, 2),
    }
    assert (centres(empty, in_one_piece(empty), least=0.5, most=0.5) == 0).all()
