"""Made-up trees: thin, branching, touching, overlapping; the same for the same seed; readable back."""

import numpy as np
import pytest
from scipy import ndimage
from skimage.morphology import skeletonize

from plurimask.data.sources import open_source
from plurimask.data.synthetic import write_dataset
from plurimask.data.synthetic_trees import THICKEST, trees

SMALL = (24, 48, 48)


@pytest.fixture(scope="module")
def volumes():
    return [trees(SMALL, count=4, seed=seed) for seed in range(4)]


def end_points(mask):
    """Voxels of the skeleton with one neighbour; a thread has two."""
    skeleton = skeletonize(mask)
    neighbours = ndimage.convolve(skeleton.astype(int), np.ones((3, 3, 3), int), mode="constant") - 1
    return int((skeleton & (neighbours == 1)).sum())


def test_a_seed_is_a_function(volumes):
    image, truth = trees(SMALL, count=4, seed=0)
    np.testing.assert_array_equal(image, volumes[0][0])
    np.testing.assert_array_equal(truth.to_masks(), volumes[0][1].to_masks())
    assert (image != volumes[1][0]).any()


@pytest.mark.parametrize(("count", "channels"), [(0, 1), (1, 2), (5, 4)])
def test_shape_and_count(count, channels):
    image, truth = trees(SMALL, count=count, channels=channels, seed=3)
    assert image.shape == (channels, *SMALL) and image.dtype == np.uint16 and image.max() <= 4095
    assert len(truth) == count and truth.shape == SMALL


def test_where_there_is_no_room_trees_lie_on_others():
    truth = trees((5, 6, 7), count=12, seed=0)[1]
    assert len(truth) == 12 and (truth.areas > 0).all()


def test_trees_overlap_and_touch(volumes):
    for _, truth in volumes:
        first, second, third, _ = truth.to_masks()
        assert 0 < (first & second).sum() < 0.5 * second.sum()
        others = first | second
        assert (ndimage.binary_dilation(others) & third).any() and not (others & third).any()


def test_trees_are_thin_and_whole(volumes):
    for _, truth in volumes:
        for mask in truth.to_masks():
            assert ndimage.label(mask)[1] == 1  # by faces
            # Forks are wider than their branches; a patch of 7 voxels holds all of them.
            assert ndimage.distance_transform_edt(np.pad(mask, 1)).max() <= THICKEST + 1.5


def test_trees_branch(volumes):
    ends = [end_points(mask) for _, truth in volumes for mask in truth.to_masks()]
    assert np.mean(np.array(ends) > 2) > 0.8
    # The measure itself: a thread has two ends, a T three.
    thread = np.zeros((5, 9, 9), bool)
    thread[2, 4, 1:8] = True
    assert end_points(thread) == 2
    thread[2, 4:8, 4] = True
    assert end_points(thread) == 3


def test_every_tree_has_its_colour(volumes):
    image, truth = volumes[0]
    alone = [mask & (truth.owners() == 1) for mask in truth.to_masks()]
    colours = np.array([image[:, mask].mean(1) for mask in alone])
    colours /= np.linalg.norm(colours, axis=1, keepdims=True)
    similar = colours @ colours.T
    assert (similar[np.triu_indices(len(colours), 1)] < 0.999).all()
    ground = image[:, ~ndimage.binary_dilation(truth.owners() > 0, iterations=3)]
    assert all(image[:, mask].mean(1).max() > 3 * ground.mean() for mask in alone)


def test_a_data_set_keeps_its_overlaps(tmp_path):
    names = write_dataset(tmp_path / "made", "trees", count=1, seed=7)
    source = open_source(tmp_path / "made")
    assert [sample.name for sample in source] == names == ["trees_001"]
    read, truth = source[0].read()
    objects = int(np.random.default_rng([7, 0]).integers(4, 9))
    image, wanted = trees(count=objects, seed=[7, 0])
    np.testing.assert_array_equal(read.data, image)
    np.testing.assert_array_equal(truth.to_masks(), wanted.to_masks())
    assert (truth.owners() > 1).any()
