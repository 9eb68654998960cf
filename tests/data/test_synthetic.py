"""Made-up images: exact truth, the sizes of real worms, and the same image for the same seed."""

from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from plurimask.data.io import read_image
from plurimask.data.sources import open_source
from plurimask.data.synthetic import blobs, worms, write_dataset
from plurimask.data.truth import truths

MAKERS = [worms, blobs]


@pytest.mark.parametrize("make", MAKERS)
def test_a_seed_is_a_function(make):
    (first, truth), (again, same), (other, _) = make(seed=1), make(seed=1), make(seed=2)
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(truth.to_labels(), same.to_labels())
    assert (first != other).any()


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize(("shape", "count"), [((96, 130), 3), ((64, 64), 1), ((520, 400), 9), ((128, 128), 30)])
def test_shape_count_and_masks(make, shape, count):
    image, truth = make(shape, count=count, seed=3)
    assert image.shape == (1, *shape) and image.dtype == np.uint16 and image.max() <= 4095
    assert len(truth) == count and truth.shape == shape
    assert (truth.areas > 0).all()
    for box, mask in zip(truth.boxes, truth.masks, strict=True):
        assert mask.shape == tuple(box[1] - box[0])
        assert mask[0].any() and mask[-1].any() and mask[:, 0].any() and mask[:, -1].any()  # boxes are tight


@pytest.mark.parametrize("make", MAKERS)
def test_an_image_without_objects(make):
    image, truth = make((64, 80), count=0, seed=0)
    assert len(truth) == 0 and image.shape == (1, 64, 80)


def test_worms_are_like_those_of_the_wells():
    """algorithms.md 1.1: median 970 pixels (5 %: 561, 95 %: 1215), about 1 % of the foreground shared."""
    truths_ = [worms(seed=seed)[1] for seed in range(8)]
    areas = np.concatenate([truth.areas for truth in truths_])
    assert np.median(areas) == pytest.approx(970, rel=0.1)
    assert np.percentile(areas, 5) > 561 and np.percentile(areas, 95) < 1300
    shared = [(truth.owners() > 1).sum() for truth in truths_]
    assert min(shared) >= 20 and 50 < np.mean(shared) < 600
    for truth in truths_:
        for mask in truth.masks:
            assert ndimage.label(mask, np.ones((3, 3)))[1] == 1
            assert 8 <= 2 * ndimage.distance_transform_edt(np.pad(mask, 1)).max() <= 16


def test_worms_are_darker_than_their_well_and_the_rim_is_dark():
    image, truth = worms(seed=4)
    inside = ndimage.binary_erosion(truth.owners() > 0, iterations=2)
    around = ndimage.binary_dilation(truth.owners() > 0, iterations=6) & (truth.owners() == 0)
    assert np.median(image[0][inside]) < 0.6 * np.median(image[0][around])
    assert image[0, :10, :10].mean() == pytest.approx(100, abs=20)


def test_blobs_are_bright_and_touch():
    image, truth = blobs(seed=5)
    assert np.median(image[0][truth.owners() > 0]) > 3 * np.median(image[0][truth.owners() == 0])
    assert ndimage.label(truth.owners() > 0)[1] < 0.7 * len(truth)


@pytest.mark.parametrize("kind", ["worms", "blobs"])
def test_a_data_set_can_be_read_as_a_users_folder(tmp_path, kind):
    names = write_dataset(tmp_path / "made", kind, count=2, seed=7)
    source = open_source(tmp_path / "made")
    assert [sample.name for sample in source] == names == [f"{kind}_001", f"{kind}_002"]
    image, truth = source[0].read()
    assert image.data.dtype == np.uint16 and len(truth) > 10
    assert list(truths(tmp_path / "made" / "masks")) == names
    write_dataset(tmp_path / "again", kind, count=1, seed=7)
    np.testing.assert_array_equal(open_source(tmp_path / "again")[0].read()[0].data, image.data)


def test_the_example_is_small_and_can_be_read():
    path = Path(__file__).parents[2] / "examples" / "worms.tif"
    image = read_image(path)
    assert image.data.shape == (1, 520, 696) and image.data.dtype == np.uint16
    assert path.stat().st_size < 500_000


def test_a_data_set_overwrites_nothing(tmp_path):
    (tmp_path / "mine.txt").touch()
    with pytest.raises(FileExistsError, match="not empty"):
        write_dataset(tmp_path, "worms", count=1)
    with pytest.raises(ValueError, match="worms, blobs"):
        write_dataset(tmp_path / "new", "cats", count=1)
