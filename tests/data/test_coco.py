"""COCO: our decoder against pycocotools, and drawn cases."""

import json

import numpy as np
import pytest
from pycocotools import mask as oracle
from scipy import ndimage

from plurimask.data.coco import decode, read_coco
from plurimask.data.io import UnreadableImage


@pytest.mark.parametrize("seed", range(5))
def test_run_lengths_are_those_of_pycocotools(seed):
    generator = np.random.default_rng(seed)
    mask = generator.random((37, 53)) < generator.uniform(0.02, 0.98)
    mask[:, 20:40] = seed % 2  # long runs need more than one character
    compressed = oracle.encode(np.asfortranarray(mask.astype(np.uint8)))
    np.testing.assert_array_equal(decode(compressed, mask.shape), mask)
    text = {"size": compressed["size"], "counts": compressed["counts"].decode("ascii")}
    np.testing.assert_array_equal(decode(text, mask.shape), mask)


def test_plain_run_lengths_go_down_the_columns():
    drawn = np.array([[0, 1, 1], [0, 1, 0]], bool)
    np.testing.assert_array_equal(decode({"size": [2, 3], "counts": [2, 3, 1]}, (2, 3)), drawn)


def test_run_lengths_that_do_not_fit():
    with pytest.raises(ValueError, match=r"add up to 5.*2 x 3"):
        decode({"size": [2, 3], "counts": [2, 3]}, (2, 3))


# pycocotools' Cython class does not know NumPy 2's copy keyword.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("seed", range(5))
def test_polygons_are_those_of_pycocotools_up_to_the_outline(seed):
    generator = np.random.default_rng(seed)
    angle = np.sort(generator.uniform(0, 2 * np.pi, 12))
    radius = generator.uniform(10, 25, 12)
    corners = np.stack([40 + radius * np.cos(angle), 30 + radius * np.sin(angle)], 1).ravel().tolist()
    ours = decode([corners], (60, 80))
    theirs = oracle.decode(oracle.merge(oracle.frPyObjects([corners], 60, 80))).astype(bool)
    assert (ours & theirs).sum() / (ours | theirs).sum() > 0.93
    # pycocotools rounds the corners to a fifth of a pixel and thickens: what differs lies on the outline.
    assert not (ndimage.binary_erosion(ours) & ~theirs).any()
    assert not (theirs & ~ndimage.binary_dilation(ours)).any()


def test_polygons_of_whole_numbers_and_of_parts():
    drawn = np.zeros((6, 8), bool)
    drawn[1:4, 2:5] = drawn[0:2, 6:8] = True
    polygons = [[2, 1, 5, 1, 5, 4, 2, 4], [6, 0, 8, 0, 8, 2, 6, 2]]
    np.testing.assert_array_equal(decode(polygons, (6, 8)), drawn)


def test_a_file_with_two_images(tmp_path):
    square = [[0, 0, 3, 0, 3, 3, 0, 3]]
    content = {
        "images": [
            {"id": 7, "file_name": "sub/a.tif", "height": 6, "width": 8},
            {"id": 8, "file_name": "b.tif", "height": 4, "width": 4},
        ],
        "annotations": [
            {"image_id": 7, "segmentation": square, "category_id": 3},
            {"image_id": 7, "segmentation": [[2, 2, 5, 2, 5, 5, 2, 5]], "category_id": 4},  # overlaps in one pixel
            {"image_id": 7, "segmentation": {"size": [6, 8], "counts": [48]}},  # without a pixel
            {"image_id": 7, "segmentation": {"size": [6, 8], "counts": [0, 48]}, "iscrowd": 1},
        ],
    }
    (tmp_path / "c.json").write_text(json.dumps(content))
    found = read_coco(tmp_path / "c.json")
    assert {name: image.file for name, image in found.items()} == {"a": "sub/a.tif", "b": "b.tif"}
    first, second = found["a"].instances(), found["b"].instances()
    assert first.areas.tolist() == [9, 9] and (first.owners() == 2).sum() == 1
    assert first.features["category"].tolist() == [3, 4]
    assert len(second) == 0 and second.shape == (4, 4)


@pytest.mark.parametrize(("text", "why"), [("{", "not a JSON"), ("{}", "not a COCO"), ("[]", "not a COCO")])
def test_other_json(tmp_path, text, why):
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(UnreadableImage, match=why):
        read_coco(tmp_path / "c.json")


def test_an_annotation_of_no_image(tmp_path):
    (tmp_path / "c.json").write_text(json.dumps({"images": [], "annotations": [{"image_id": 1}]}))
    with pytest.raises(UnreadableImage, match="image 1"):
        read_coco(tmp_path / "c.json")
