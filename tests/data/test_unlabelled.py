"""Images without truth: which ones are found, and that teacher and student see the same place."""

from dataclasses import replace

import imageio.v3 as imageio
import numpy as np
import pytest

from plurimask.data.sources import open_source
from plurimask.data.transforms import Augmentation
from plurimask.data.unlabelled import UnlabelledCrops, find_unlabelled

GREY = np.zeros((4, 5), np.uint8)
CALM = Augmentation(contrast=0, brightness=0, gamma=1, blur=0, noise=0)


def write(folder, names, *, labels=()):
    for place, some in (("images", names), ("labels", labels)) if labels else (("images", names),):
        folder.joinpath(place).mkdir(parents=True, exist_ok=True)
        for number, name in enumerate(some, start=1):
            imageio.imwrite(folder / place / f"{name}.png", GREY + np.uint8(number))
    return folder


def names(found):
    return [one.name for one in found]


def test_any_folder_of_images(tmp_path):
    (tmp_path / "deep").mkdir()
    for name in ("b10", "b9", "deep/a"):
        imageio.imwrite(tmp_path / f"{name}.png", GREY)
    found = find_unlabelled(tmp_path, without=[tmp_path / "deep" / ".." / "b9.png"])
    assert names(found) == ["b10", "deep/a"]
    assert found[0].image().data.shape == (1, 4, 5)


def test_the_images_that_nobody_has_annotated(tmp_path):
    for part in ("fit", "tune", "report"):
        write(tmp_path / part, ["a", "b", "c"], labels=["a", "b"])
    fitted = [file for sample in open_source(tmp_path, split="fit") for file in sample.files]
    assert names(find_unlabelled(tmp_path, without=fitted)) == ["fit/images/c"]
    assert names(find_unlabelled(tmp_path)) == ["fit/images/a", "fit/images/b", "fit/images/c"]


def test_images_that_are_held_out_by_their_name_are_left_out(tmp_path):
    write(tmp_path, "abcdefgh", labels="abcdefgh")
    held_out = {sample.name for sample in open_source(tmp_path, split="tune")}
    assert held_out
    assert {name.removeprefix("images/") for name in names(find_unlabelled(tmp_path))} == set("abcdefgh") - held_out


def test_of_a_benchmark_the_fit_part(tmp_path):
    write(tmp_path, "abcd", labels="abcd")
    (tmp_path / "index.csv").write_text("id,split\na,fit\nb,fit\nc,tune\nd,report\n")
    assert names(find_unlabelled(tmp_path)) == ["a", "b"]
    (known,) = open_source(tmp_path, split="fit")[0].files
    assert names(find_unlabelled(tmp_path, without=[known])) == ["b"]


def test_no_image_is_left(tmp_path):
    write(tmp_path, ["a"])
    with pytest.raises(ValueError, match="no unlabelled images to learn from: 1 were found"):
        find_unlabelled(tmp_path, without=[tmp_path / "images" / "a.png"])
    with pytest.raises(FileNotFoundError, match="no such folder"):
        find_unlabelled(tmp_path / "elsewhere")


def crops(ndim=2, **settings):
    shape = (1, *(40,) * ndim)
    images = [np.random.default_rng(number).random(shape, np.float32) for number in range(2)]
    return UnlabelledCrops(images, **{"size": 16, "count": 9, "seed": (3, 0), **settings})


@pytest.mark.parametrize("ndim", [2, 3])
def test_both_see_the_same_place(ndim):
    crop = crops(ndim)[0]
    assert crop["image"].shape == crop["plain"].shape == (1, *(16,) * ndim)
    assert crop["image"].dtype == crop["plain"].dtype == np.float32
    assert not np.array_equal(crop["image"], crop["plain"])
    calm = crops(ndim, augmentation=CALM)[0]
    np.testing.assert_allclose(calm["image"], calm["plain"], atol=1e-6)
    np.testing.assert_allclose(calm["plain"], crop["plain"], atol=1e-6)


def test_a_stream_goes_on_and_every_process_has_its_own():
    whole, rest = crops(), crops(first=4)
    assert (len(whole), len(rest)) == (9, 5)
    assert np.array_equal(rest[1]["image"], whole[5]["image"])
    assert not np.array_equal(whole[5]["image"], whole[4]["image"])
    assert not np.array_equal(replace(whole, seed=(3, 1))[5]["image"], whole[5]["image"])
