"""Folders of images with truth: layouts, pairs by name, and parts that never share an image."""

import json

import numpy as np
import pytest
import tifffile

from plurimask.data.folders import _hold_out
from plurimask.data.io import UnreadableImage
from plurimask.data.sources import open_source


def test_images_and_masks_of_equal_names(tmp_path, pictures):
    for name in ("i_1", "i_2", "i_10"):
        pictures.image(tmp_path / "images" / f"{name}.tif")
        pictures.write(tmp_path / "masks" / f"{name}.png", pictures.labels)
    pictures.image(tmp_path / "images" / "not annotated yet.tif")
    pictures.check(open_source(tmp_path), ["i_1", "i_2", "i_10"])


def test_images_and_one_mask_per_file(tmp_path, pictures):
    for name in ("a", "b"):
        pictures.image(tmp_path / "flat" / "images" / f"{name}.tif")
        pictures.image(tmp_path / "deep" / "images" / f"{name}.tif")
        for number in (1, 2):
            pictures.mask(tmp_path / "flat" / "masks" / f"{name}_{number}.png", number)
            pictures.mask(tmp_path / "deep" / "masks" / name / f"{number}.png", number)
    pictures.check(open_source(tmp_path / "flat"), ["a", "b"])
    pictures.check(open_source(tmp_path / "deep"), ["a", "b"])


def test_masks_beside_images(tmp_path, pictures):
    for name in ("a", "b"):
        pictures.image(tmp_path / f"{name}.tif")
        pictures.write(tmp_path / f"{name}_masks.tif", pictures.labels)
    pictures.check(open_source(tmp_path), ["a", "b"])


def test_a_folder_per_image(tmp_path, pictures):
    for name in ("a", "b"):
        pictures.image(tmp_path / name / "images" / f"{name}.png")
        for number in (1, 2):
            pictures.mask(tmp_path / name / "masks" / f"{number}f.png", number)
    pictures.check(open_source(tmp_path), ["a", "b"])


@pytest.mark.parametrize("place", ["", "images"])
def test_coco_and_its_images(tmp_path, place, pictures):
    square = [[0, 0, 2, 0, 2, 1, 0, 1]]
    content = {
        "images": [{"id": 1, "file_name": "a.png", "height": 6, "width": 8}],
        "annotations": [{"image_id": 1, "segmentation": square}, {"image_id": 1, "segmentation": square}],
    }
    pictures.image(tmp_path / place / "a.png")
    (tmp_path / "annotations.json").write_text(json.dumps(content))
    pictures.check(open_source(tmp_path), ["a"])


def test_sub_folders_are_the_split(tmp_path, pictures):
    for part in ("train", "val", "test"):
        pictures.image(tmp_path / part / "images" / "001.tif")
        pictures.write(tmp_path / part / "masks" / "001.tif", pictures.labels)
    pictures.check(open_source(tmp_path, split="fit"), ["train/001"])
    pictures.check(open_source(tmp_path, split="tune"), ["val/001"])
    pictures.check(open_source(tmp_path, split="report"), ["test/001"])
    assert len(open_source(tmp_path)) == 3


def test_without_sub_folders_some_are_held_out(tmp_path, pictures):
    for number in range(20):
        pictures.image(tmp_path / "images" / f"{number}.tif")
        pictures.write(tmp_path / "masks" / f"{number}.tif", pictures.labels)
    fit, tune = ({sample.name for sample in open_source(tmp_path, split=part)} for part in ("fit", "tune"))
    assert fit | tune == {str(number) for number in range(20)} and not fit & tune
    assert fit and tune
    with pytest.raises(FileNotFoundError, match="'report'"):
        open_source(tmp_path, split="report")


def test_holding_out():
    names = [f"image {number}" for number in range(2000)]
    parts = _hold_out(names, [None] * 2000)
    assert parts.count("tune") / 2000 == pytest.approx(0.2, abs=0.03)
    # Images that come later move none of the earlier ones.
    assert _hold_out(names[:1000], [None] * 1000) == parts[:1000]
    assert _hold_out(["a"], [None]) == ["fit"]
    for few in (names[:2], names[5:7], names[100:102]):
        assert sorted(_hold_out(few, [None] * 2)) == ["fit", "tune"]
    assert _hold_out(["a", "b", "c"], ["fit", "fit", "tune"]) == ["fit", "fit", "tune"]


def test_truth_without_an_image_is_told(tmp_path, pictures):
    pictures.image(tmp_path / "images" / "a.tif")
    pictures.write(tmp_path / "masks" / "a.tif", pictures.labels)
    pictures.write(tmp_path / "masks" / "c.tif", pictures.labels)
    with pytest.raises(UnreadableImage, match="without an image: c"):
        open_source(tmp_path)


def test_shapes_that_differ_are_told(tmp_path, pictures):
    pictures.write(tmp_path / "images" / "a.tif", np.zeros((5, 5), np.uint8))
    pictures.write(tmp_path / "masks" / "a.tif", pictures.labels)
    with pytest.raises(UnreadableImage, match=r"a\.tif.*\(5, 5\).*\(6, 8\)"):
        open_source(tmp_path)[0].read()


def test_a_layout_that_is_not_known(tmp_path, pictures):
    pictures.image(tmp_path / "a.tif")
    with pytest.raises(ValueError, match=r"(?s)is no data set.*COCO.*IMG_masks\.tif"):
        open_source(tmp_path)
    with pytest.raises(FileNotFoundError):
        open_source(tmp_path / "none")


def test_axes_reach_the_images(tmp_path, pictures):
    (tmp_path / "images").mkdir()
    tifffile.imwrite(tmp_path / "images" / "a.tif", np.zeros((3, *pictures.shape), np.uint8), photometric="minisblack")
    pictures.write(tmp_path / "masks" / "a.tif", pictures.labels)
    with pytest.raises(UnreadableImage, match="--axes CYX"):
        open_source(tmp_path)[0].read()
    assert open_source(tmp_path, axes="CYX")[0].read()[0].data.shape == (3, *pictures.shape)


def test_channel_files_where_a_file_has_all_channels(tmp_path, pictures):
    pictures.image(tmp_path / "images" / "a.tif")
    pictures.write(tmp_path / "masks" / "a.tif", pictures.labels)
    with pytest.raises(
        ValueError, match=r"one file for all channels of an image.*w2, w1 cannot.*leave --channel-files"
    ):
        open_source(tmp_path, channel_files=["w2", "w1"])
