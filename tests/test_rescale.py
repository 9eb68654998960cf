"""To the scale of the training images and back."""

from dataclasses import replace

import numpy as np
import pytest

from plurimask.agglomerate import CompleteLinkage
from plurimask.instances import Instances
from plurimask.model import Scale
from plurimask.rescale import rescale_image, rescale_result, training_zoom

SCALE = Scale(pixel_size=0.5, diameter=20.0)


@pytest.mark.parametrize(
    ("given", "zoom"),
    [
        ({}, 1),
        ({"pixel_size": 0.5}, 1),
        ({"pixel_size": 1.0}, 2),  # coarser than the training images: it must grow
        ({"pixel_size": 0.25}, 0.5),
        ({"diameter": 10.0}, 2),  # smaller objects than in the training images: it must grow
        ({"diameter": 40.0}, 0.5),
    ],
)
def test_zoom_by_hand(given, zoom):
    assert training_zoom(SCALE, **{"pixel_size": None, "diameter": None, **given}) == zoom


@pytest.mark.parametrize(
    ("scale", "given", "complaint"),
    [
        (SCALE, {"pixel_size": 1.0, "diameter": 10.0}, "not both"),
        (SCALE, {"pixel_size": 0.0}, "must be positive, not 0"),
        (SCALE, {"diameter": -3.0}, "must be positive, not -3"),
        (SCALE, {"diameter": float("nan")}, "must be positive, not nan"),
        (Scale(diameter=20.0), {"pixel_size": 1.0}, "does not know the pixel size"),
        (Scale(pixel_size=1.0), {"diameter": 1.0}, "does not know the diameter"),
    ],
)
def test_what_cannot_be_is_refused(scale, given, complaint):
    with pytest.raises(ValueError, match=complaint):
        training_zoom(scale, **{"pixel_size": None, "diameter": None, **given})


@pytest.mark.parametrize("diameter", [4.0, 100.0])
def test_far_from_the_training_scale_there_is_a_warning(diameter):
    with pytest.warns(UserWarning, match="far from the training images; check the diameter"):
        training_zoom(SCALE, pixel_size=None, diameter=diameter)


@pytest.mark.parametrize("zoom", [0.5, 2.0, 1.3])
@pytest.mark.parametrize("shape", [(40, 60), (12, 20, 16)])
def test_a_ramp_stays_a_ramp(zoom, shape):
    # Pixel centres lie at (n + 1/2) / zoom - 1/2 of the old grid, whatever the size.
    ramp = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij")).astype(np.uint16)
    found = rescale_image(ramp, zoom)
    assert found.shape == (len(shape), *(round(size * zoom) for size in shape))
    for axis, size in enumerate(shape):
        number = np.arange(found.shape[axis + 1])
        wanted = (number + 0.5) * size / len(number) - 0.5
        profile = np.moveaxis(found[axis], axis, 0).reshape(len(number), -1)
        inside = slice(3, -3)  # at the border the ramp ends
        np.testing.assert_allclose(profile[inside].mean(1), wanted[inside], atol=0.01 if zoom != 0.5 else 0.1)


def test_the_same_scale_is_the_same_image():
    image = np.zeros((1, 4, 5), np.uint8)
    assert rescale_image(image, 1.0) is image


def test_a_tiny_image_keeps_a_pixel():
    assert rescale_image(np.ones((1, 2, 3), np.uint8), 0.1).shape == (1, 1, 1)


def result(labels, draws=2):
    return CompleteLinkage()([Instances.from_labels(labels)] * draws)


def test_twice_as_large_by_hand():
    found = rescale_result(result(np.array([[0, 1, 1], [0, 1, 0]])), (4, 6))
    wanted = np.repeat(np.repeat([[0, 1, 1], [0, 1, 0]], 2, 0), 2, 1)
    np.testing.assert_array_equal(found.best().to_labels(), wanted)
    assert found.shape == (4, 6)
    assert found.boxes.tolist() == [[[0, 2], [4, 6]]]


def test_half_as_large_by_hand():
    labels = np.repeat(np.repeat([[0, 1, 1], [2, 1, 0]], 2, 0), 2, 1)
    found = rescale_result(result(labels), (2, 3))
    assert found.best().to_labels().tolist() in ([[0, 1, 1], [2, 1, 0]], [[0, 2, 2], [1, 2, 0]])
    assert {tuple(count.ravel()) for count in found.counts} >= {(2,)}


def test_an_odd_size_keeps_boxes_tight_and_inside():
    generator = np.random.default_rng(0)
    labels = np.kron(generator.integers(0, 9, (7, 9)), np.ones((5, 5), int))
    before = result(labels)
    for shape in ((13, 17), (50, 64), (35, 45), (100, 31)):
        found = rescale_result(before, shape)
        assert len(found) == len(before)
        for box, count in zip(found.boxes, found.counts, strict=True):
            assert (box[0] >= 0).all() and (box[1] <= shape).all()
            assert count.shape == tuple(box[1] - box[0])
            for axis in range(2):  # no empty row or column at the sides
                rows = count.any(axis=1 - axis)
                assert rows[0] and rows[-1]
        # Area goes with the square of the zoom.
        factor = np.prod(shape) / labels.size
        assert found.best().areas.sum() == pytest.approx(before.best().areas.sum() * factor, rel=0.25)


def test_a_thin_object_does_not_vanish():
    labels = np.zeros((40, 40), int)
    labels[4, 4:10] = 1  # between the centres of the blocks of 4 pixels (at 2, 6, 10) along the first axis
    labels[20:30, 20:30] = 2
    found = rescale_result(result(labels), (10, 10))
    assert len(found) == 2
    assert all(count.any() for count in found.counts)
    row, column = np.argwhere(found.best().to_labels() == 1 + int(found.best().areas.argmin()))[0]
    assert (row, column) in {(1, 1), (1, 2)}


def test_nothing_stays_nothing():
    assert rescale_result(result(np.zeros((4, 4), int)), (8, 8)).shape == (8, 8)
    assert len(rescale_result(result(np.zeros((4, 4), int)), (8, 8))) == 0


def test_contours_and_borders_are_in_pixels_of_the_new_frame():
    # A contour through the centres of the corner pixels of a block: half a pixel outside of it are the block's sides,
    # and the sides of a pixel lie half a pixel beside its centre.
    labels = np.zeros((6, 8), int)
    labels[2:5, 1:5] = 1
    corners = np.array([[[2, 1], [2, 4], [4, 4], [4, 1]]], np.float32)
    border = np.array([[[1.0, 2.0], [3.0, 4.0]]])
    drawn = replace(Instances.from_labels(labels), features={"contour": corners, "border": border})
    found = rescale_result(CompleteLinkage()([drawn]), (12, 24))  # twice as high, three times as wide
    assert found.boxes.tolist() == [[[4, 3], [10, 15]]]
    contour = found.features["contour"]
    half = np.array([1.0, 1.5])  # an old pixel, in new ones
    np.testing.assert_allclose(np.stack([contour.min(1) - half, contour.max(1) + half], 1), found.boxes - 0.5)
    assert contour.dtype == np.float32
    assert found.features["border"].tolist() == [[[2.0, 6.0], [6.0, 12.0]]]
    back = rescale_result(found, (6, 8))
    np.testing.assert_allclose(back.features["contour"], corners)
    np.testing.assert_allclose(back.features["border"], border)
