"""Truth in every layout comes back as the same objects."""

import json

import imageio.v3 as imageio
import numpy as np
import pytest
import tifffile

from plurimask.data.io import UnreadableImage
from plurimask.data.truth import read_instances, truths


def write(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    imageio.imwrite(path, values.astype(np.uint8) * (255 if values.dtype == bool else 1))


def same(found, masks):
    np.testing.assert_array_equal(found.to_masks(), masks)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_a_label_map(tmp_path, touching_blobs, suffix):
    path = tmp_path / f"a.{suffix}"
    write(path, touching_blobs.to_labels())
    same(read_instances(path), touching_blobs.to_masks())


def test_a_label_map_of_a_volume_needs_no_axes(tmp_path, touching_balls):
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for plane in touching_balls.to_labels().astype(np.uint16):
            file.write(plane, contiguous=False, metadata=None)
    same(read_instances(tmp_path / "a.tif"), touching_balls.to_masks())


def test_label_maps_that_are_none(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.full((5, 7), 0.5, np.float32))
    with pytest.raises(UnreadableImage, match="whole numbers"):
        read_instances(tmp_path / "a.tif")
    tifffile.imwrite(tmp_path / "c.tif", np.full((5, 7), -1, np.int16))
    with pytest.raises(UnreadableImage, match="positive numbers"):
        read_instances(tmp_path / "c.tif")
    imageio.imwrite(tmp_path / "b.png", np.arange(105, dtype=np.uint8).reshape(5, 7, 3))
    with pytest.raises(UnreadableImage, match="3 channels"):
        read_instances(tmp_path / "b.png")


def test_one_mask_per_file_in_a_folder_of_its_own(tmp_path, crossing_worms_masks):
    for name, mask in zip(("cafe", "f00d"), crossing_worms_masks, strict=True):  # as in the Data Science Bowl
        write(tmp_path / "IMG" / f"{name}.png", mask)
    same(read_instances(tmp_path / "IMG"), crossing_worms_masks)
    assert list(truths(tmp_path)) == ["IMG"]


@pytest.mark.parametrize("ending", ["", "_ground_truth"])
def test_one_mask_per_file_of_many_images_in_one_folder(tmp_path, crossing_worms_masks, ending):
    for well in ("B10", "B9"):
        for number, mask in enumerate(crossing_worms_masks, start=1):
            write(tmp_path / f"{well}_{number:02d}{ending}.png", mask)
    found = truths(tmp_path)
    assert list(found) == ["B9", "B10"]
    same(found["B9"](), crossing_worms_masks)
    with pytest.raises(UnreadableImage, match="2 images"):
        read_instances(tmp_path)


def test_numbered_label_maps_are_not_taken_for_masks(tmp_path, touching_blobs):
    for number in (1, 2):
        write(tmp_path / f"img_{number}.png", touching_blobs.to_labels())
    assert list(truths(tmp_path)) == ["img_1", "img_2"]  # by their content
    same(truths(tmp_path)["img_2"](), touching_blobs.to_masks())
    for number in (1, 2):
        write(tmp_path / f"img_{number}.png", touching_blobs.to_labels() > 1)
    assert list(truths(tmp_path)) == ["img"]  # one object each: nothing tells them from masks ...
    assert list(truths(tmp_path, names=["img_1", "img_2"])) == ["img_1", "img_2"]  # ... but the images' names


def test_masks_of_different_shapes(tmp_path):
    write(tmp_path / "a_1.png", np.ones((5, 7), bool))
    write(tmp_path / "a_2.png", np.ones((5, 8), bool))
    with pytest.raises(UnreadableImage, match=r"a_2.png.*\(5, 8\).*\(5, 7\)"):
        read_instances(tmp_path)


def test_label_maps_beside_their_images(tmp_path, touching_blobs):
    write(tmp_path / "x.tif", np.ones((24, 40)))
    write(tmp_path / "x_masks.tif", touching_blobs.to_labels())
    write(tmp_path / "y_cp_masks.png", touching_blobs.to_labels())
    found = truths(tmp_path)
    assert list(found) == ["x", "y"]
    same(found["x"](), touching_blobs.to_masks())


def test_a_folder_of_masks_inside(tmp_path, touching_blobs):
    write(tmp_path / "masks" / "x.png", touching_blobs.to_labels())
    write(tmp_path / "images" / "x.png", np.ones((24, 40)))
    same(truths(tmp_path)["x"](), touching_blobs.to_masks())


def test_coco(tmp_path):
    content = {
        "images": [{"id": 1, "file_name": "x.png", "height": 6, "width": 8}],
        "annotations": [{"image_id": 1, "segmentation": [[0, 0, 3, 0, 3, 3, 0, 3]]}],
    }
    (tmp_path / "c.json").write_text(json.dumps(content))
    for path in (tmp_path, tmp_path / "c.json"):
        assert truths(path)["x"]().areas.tolist() == [9]
        assert read_instances(path).areas.tolist() == [9]


def test_our_own_results(tmp_path, crossing_worms):
    from plurimask.agglomerate import CompleteLinkage
    from plurimask.data.storage import save

    result = CompleteLinkage()([crossing_worms, crossing_worms])
    for name in ("a", "deep/b"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        save(result, tmp_path / f"{name}.plurimask.zarr")
        write(tmp_path / f"{name}_labels.tif", crossing_worms.to_labels())
    found = truths(tmp_path)
    assert list(found) == ["a", "deep/b"]
    kept = {mask.tobytes() for mask in found["deep/b"]().to_masks()}
    assert kept == {mask.tobytes() for mask in crossing_worms.to_masks()}
    assert list(truths(tmp_path / "a.plurimask.zarr")) == ["a"]


def test_nothing_there(tmp_path):
    with pytest.raises(FileNotFoundError):
        truths(tmp_path / "none")
    with pytest.raises(UnreadableImage, match=r"label maps.*COCO"):
        truths(tmp_path)
    with pytest.raises(UnreadableImage, match="no objects"):
        read_instances(tmp_path)


def test_label_maps_in_folders_do_not_become_masks(tmp_path):
    (tmp_path / "plate").mkdir()
    labels = np.array([[1, 1, 0], [0, 2, 2]], np.uint16)
    for name in ("a_labels.tif", "b_labels.tif"):
        tifffile.imwrite(tmp_path / "plate" / name, labels)
    with pytest.raises(UnreadableImage, match=r"a_labels\.tif: a label map of 2 objects.*one mask per file"):
        truths(tmp_path)["plate"]()


def test_masks_may_have_soft_edges(tmp_path):
    (tmp_path / "well").mkdir()
    imageio.imwrite(tmp_path / "well" / "1.png", np.array([[0, 64, 255, 128]], np.uint8))
    assert truths(tmp_path)["well"]().to_labels().tolist() == [[0, 1, 1, 1]]
