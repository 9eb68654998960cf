"""Which objects are shown, and what their crops show."""

import base64
import io
import re
from xml.etree import ElementTree

import imageio.v3 as imageio
import numpy as np
import pytest

from plurimask.data.io import Image
from plurimask.export.gallery import SHOWN, gallery
from plurimask.instances import Instances
from plurimask.testing import toy_truths

SVG = "{http://www.w3.org/2000/svg}"


def kinds(exhibits):
    return [exhibit.facts["kind"] for exhibit in exhibits]


def parsed(exhibit):
    return ElementTree.fromstring(exhibit.svg.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"', 1))


def paths(exhibit, kind):
    return [path.get("d") for path in parsed(exhibit).iter(f"{SVG}path") if path.get("class") == kind]


def test_the_worst_come_first(report_of, bars, seen):
    # Missed at 8; invented at 16 (doubted) and 24 (sure); 0 is found.
    report = report_of([(bars(0, 8), seen(bars(0, 16, 24), 10, 6, 9))])
    shown = gallery(report)
    assert kinds(shown.worst) == ["missed", "false positive", "false positive", "ok"]
    assert [exhibit.facts["p_exists"] for exhibit in shown.worst[1:3]] == [0.9, 0.6]
    assert [exhibit.facts["p_exists"] for exhibit in shown.doubtful] == [0.6, 0.9, 1.0]
    assert {exhibit.image for exhibit in shown.worst} == {"image 0"}


def test_one_error_is_shown_once(report_of, bars):
    # The bar at 8 is found three of four columns beside its place: an IoU of 1/7.
    shown = gallery(report_of([(bars(8), bars(11))]))
    assert kinds(shown.worst) == ["low IoU"]
    assert shown.doubtful == ()


def test_ten_at_most_out_of_all_images(report_of, bars, seen):
    report = report_of([(bars(0), seen(bars(8, 16), 9, 6))] * 6)
    shown = gallery(report)
    assert len(shown.worst) == len(shown.doubtful) == SHOWN
    assert kinds(shown.worst[:6]) == ["missed"] * 6
    assert {exhibit.facts["p_exists"] for exhibit in shown.doubtful[:6]} == {0.6}
    assert len({exhibit.image for exhibit in shown.doubtful[:6]}) == 6


def test_a_crop_is_around_its_object(report_of):
    labels = np.zeros((400, 500), np.uint8)
    labels[200:220, 300:340] = 1
    labels[0:20, 0:30] = 2
    shown = gallery(report_of([(labels, np.zeros_like(labels))]))
    frames = {
        exhibit.facts["label"]: [float(part) for part in parsed(exhibit).get("viewBox").split()]
        for exhibit in shown.worst
    }
    # 40 pixels and 30 % on either side; the second is at the corner, and at least 64 are shown.
    assert frames[1] == [288, 178, 64, 64]
    assert frames[2] == [0, 0, 64, 64]
    # The outline runs around its pixels.
    numbers = [float(number) for number in re.findall(r"[\d.]+", paths(shown.worst[0], "truth target")[0])]
    assert (min(numbers[::2]), max(numbers[::2])) in {(300, 340), (0, 30)}


def test_the_target_stands_out_from_its_neighbours(report_of):
    truth = toy_truths(2)["touching blobs"]
    shown = gallery(report_of([(truth, truth.select([0]))]))
    missed = shown.worst[0]
    assert len(paths(missed, "truth target")) == 1
    assert len(paths(missed, "truth")) == 1
    assert len(paths(missed, "found")) == 1
    assert paths(missed, "found target") == []


def test_an_object_in_pieces_has_several_outlines(report_of):
    mask = np.zeros((20, 20), bool)
    mask[2:5, 2:5] = mask[10:14, 10:14] = True
    both = Instances.from_masks([mask], mask.shape)
    (exhibit,) = gallery(report_of([(both, both)])).worst
    assert paths(exhibit, "found target")[0].count("M") == 2


def picture_in(exhibit):
    (image,) = parsed(exhibit).iter(f"{SVG}image")
    data = image.get("href").removeprefix("data:image/png;base64,")
    return image, imageio.imread(io.BytesIO(base64.b64decode(data)))


def test_the_image_is_under_the_outlines(report_of, bars):
    data = np.zeros((1, 8, 32), np.uint16)
    data[:, :, 8:12] = 900
    report = report_of([(bars(8), bars(8))], image=lambda: Image(data, "image 0"))
    (exhibit,) = gallery(report).worst
    element, picture = picture_in(exhibit)
    assert (element.get("x"), element.get("width"), element.get("height")) == ("0", "32", "8")
    assert picture.shape == (8, 32)
    assert picture[:, 8:12].min() > picture[:, :8].max()


def test_large_crops_are_reduced_and_colours_stay(report_of):
    labels = np.zeros((900, 1000), np.uint8)
    labels[100:800, 100:900] = 1
    data = np.random.default_rng(0).integers(0, 255, (3, 900, 1000)).astype(np.uint8)
    report = report_of([(labels, labels)], image=lambda: Image(data, "image 0"))
    _, picture = picture_in(gallery(report).worst[0])
    assert max(picture.shape[:2]) <= 480
    assert picture.shape[2] == 3


@pytest.mark.parametrize("broken", ["shape", "file"])
def test_without_its_image_an_object_is_shown_nevertheless(report_of, bars, caplog, broken):
    def read():
        if broken == "file":
            raise OSError("cut off")
        return Image(np.zeros((1, 4, 4), np.uint8), "image 0")

    (exhibit,) = gallery(report_of([(bars(8), bars(8))], image=read)).worst
    assert "<image" not in exhibit.svg
    assert "image 0 is shown without its image" in caplog.text


def test_a_volume_is_projected(report_of, touching_balls):
    data = np.zeros((1, *touching_balls.shape), np.uint8)
    report = report_of([(touching_balls, touching_balls)], image=lambda: Image(data, "image 0"))
    exhibit = gallery(report).worst[0]
    height, width = touching_balls.shape[1:]
    assert parsed(exhibit).get("viewBox") == f"0 0 {width} {height}"


def test_nothing_to_show(report_of):
    nothing = Instances.empty((8, 8))
    shown = gallery(report_of([(nothing, nothing)]))
    assert (shown.worst, shown.doubtful) == ((), ())
