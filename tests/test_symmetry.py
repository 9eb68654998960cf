"""Symmetries of the pixel grid: all of them, there and back, for maps and for objects."""

import numpy as np
import pytest
import torch

from plurimask.instances import Instances
from plurimask.symmetry import IDENTITY, Symmetry, symmetries


def by_numpy(image):
    """The eight symmetries of an image as quarter turns of it and of its mirror image."""
    return [np.rot90(mirrored, turns) for mirrored in (image, image[:, ::-1]) for turns in range(4)]


def test_all_eight_of_the_plane():
    image = np.arange(12).reshape(3, 4)
    found = {str(symmetry.apply(torch.from_numpy(image)).tolist()) for symmetry in symmetries(2)}
    assert found == {str(turned.tolist()) for turned in by_numpy(image)}
    assert len(found) == 8 and symmetries(2)[0] == IDENTITY


def test_sixteen_of_a_volume_whose_planes_stay_planes():
    volume = torch.arange(2 * 3 * 4).reshape(2, 3, 4)
    found = [symmetry.apply(volume) for symmetry in symmetries(3)]
    assert len({str(turned.tolist()) for turned in found}) == 16
    planes = {str(turned.tolist()) for plane in volume.numpy() for turned in by_numpy(plane)}
    assert all(str(plane.tolist()) in planes for turned in found for plane in turned)


@pytest.mark.parametrize("ndim", [2, 3])
def test_maps_come_back(ndim):
    values = torch.randn(2, 3, *(4, 5, 6)[:ndim])
    for symmetry in symmetries(ndim):
        assert torch.equal(symmetry.undo(symmetry.apply(values)), values)


def objects(ndim):
    """Overlapping random masks, with scores and a feature."""
    generator = np.random.default_rng(0)
    masks = generator.random((3, *(5, 7, 6)[:ndim])) < 0.2
    found = Instances.from_masks(masks, masks.shape[1:])
    # Places of some of their pixels: the first and the last one.
    contours = np.stack([np.argwhere(mask)[[0, -1]] + 0.25 for mask in masks]).astype(np.float32)
    border = generator.random((3, 2, ndim))
    features = {"class": np.arange(3), "contour": contours, "border": border}
    return Instances.from_crops(found.boxes, found.masks, found.shape, scores=[0.1, 0.2, 0.3], features=features)


def seen(truth, symmetry):
    """Places and lengths in the turned image, by turning the coordinates that every pixel has, and marked planes."""
    ndim, shape = truth.ndim, truth.shape
    coordinates = symmetry.apply(torch.from_numpy(np.indices(shape).astype(float))).numpy()  # (D, *turned)
    # Linear along every axis of the turned image, hence: place before = start + steps @ place now.
    start = coordinates[(slice(None), *(0,) * ndim)]
    steps = np.stack([np.take(np.diff(coordinates, axis=axis + 1).reshape(ndim, -1), 0, 1) for axis in range(ndim)], 1)
    contour = (truth.features["contour"] - start) @ np.linalg.inv(steps).T
    border = np.empty_like(truth.features["border"])
    for axis in range(ndim):
        (before,) = np.flatnonzero(steps[:, axis])
        ends = truth.features["border"][:, :, before]
        border[:, :, axis] = ends if steps[before, axis] > 0 else ends[:, ::-1]
    return {**truth.features, "contour": contour.astype(np.float32), "border": border}


@pytest.mark.parametrize("ndim", [2, 3])
def test_objects_come_back(ndim):
    truth = objects(ndim)
    stack = torch.from_numpy(truth.to_masks())
    for symmetry in symmetries(ndim):
        masks = symmetry.apply(stack).numpy()
        turned = Instances.from_masks(masks, masks.shape[1:])
        turned = Instances.from_crops(
            turned.boxes, turned.masks, turned.shape, scores=truth.scores, features=seen(truth, symmetry)
        )
        back = symmetry.undo_objects(turned)
        assert back.shape == truth.shape
        np.testing.assert_array_equal(back.boxes, truth.boxes)
        np.testing.assert_array_equal(back.to_masks(), truth.to_masks())
        np.testing.assert_array_equal(back.scores, truth.scores)
        np.testing.assert_array_equal(back.features["class"], [0, 1, 2])
        np.testing.assert_allclose(back.features["contour"], truth.features["contour"], atol=1e-6)
        np.testing.assert_array_equal(back.features["border"], truth.features["border"])


@pytest.mark.parametrize("ndim", [2, 3])
def test_points_and_ends_of_a_box_come_back(ndim):
    # Mark the pixel of a point in an empty mask, turn that, and look where it went.
    sides, point = (4, 5, 7)[:ndim], (1, 0, 4)[:ndim]
    mark = torch.zeros(sides)
    mark[point] = 1
    for symmetry in symmetries(ndim):
        turned = symmetry.apply(mark)
        place = torch.nonzero(turned).numpy()
        assert symmetry.undo_points(place, turned.shape).tolist() == [list(point)]
    # Values that stand at the ends of the axes: first and last plane along each.
    ends = np.arange(2.0 * ndim).reshape(2, ndim)
    for symmetry in symmetries(ndim):
        seen = np.empty_like(ends)
        for axis in range(ndim):
            for end in range(2):
                marked = torch.zeros((3,) * ndim)
                marked.select(axis, 2 * end)[:] = 1
                turned = symmetry.apply(marked)
                (where,) = [
                    (last, other) for last in range(2) for other in range(ndim) if turned.select(other, 2 * last).all()
                ]
                seen[where] = ends[end, axis]
        np.testing.assert_array_equal(symmetry.undo_ends(seen[None]), ends[None])


def test_no_object_comes_back():
    back = Symmetry(exchanged=True, flipped=(-1,)).undo_objects(Instances.empty((4, 6)))
    assert len(back) == 0 and back.shape == (6, 4)
