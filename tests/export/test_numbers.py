"""metrics.json: its layout, and that it never holds what JSON cannot."""

import json
from dataclasses import replace

import numpy as np
import pytest

from plurimask.export.numbers import FORMAT, numbers
from plurimask.instances import Instances
from plurimask.probabilistic import ProbabilisticInstances

NUMBER = {"value", "low", "high"}
THRESHOLDS = ["0.50", "0.55", "0.60", "0.65", "0.70", "0.75", "0.80", "0.85", "0.90", "0.95"]


def every_number(content):
    if isinstance(content, dict):
        if set(content) == NUMBER:
            yield content
        else:
            for value in content.values():
                yield from every_number(value)


def test_what_is_written_is_read_back(report_of, planted):
    content = numbers(report_of(planted))
    assert json.loads(json.dumps(content, allow_nan=False)) == content
    assert content["format"] == FORMAT == 1
    assert (content["images"], content["truth_count"], content["found_count"]) == (2, 4, 4)
    assert content["left_out"] == ["other"]


def test_the_layout(report_of, planted):
    content = numbers(report_of(planted))
    assert list(content["mean"]) == [
        *("avS", "avS_nuclei", "S", "P", "R", "F1", "PxR"),
        *("PQ", "SQ", "RQ", "split_rate", "merge_rate", "F1_challenge", "rRAND", "rINF"),
    ]
    assert list(content["median"]) == ["F1_challenge"]
    assert list(content["mean"]["S"]) == THRESHOLDS
    assert set(content["pooled"]) == {
        *("F1_0.8", "PQ", "SQ", "RQ", "split_rate", "merge_rate"),
        *("COCO_AP", "COCO_AP_at", "COCO_AP_constant", "COCO_AP_constant_at"),
    }
    assert list(content["pooled"]["COCO_AP_at"]) == THRESHOLDS
    doubt = content["doubt"]
    assert list(doubt) == ["existence", "mask", "expected_iou", "border", "patches", "ranking", "proofreading"]
    assert doubt["border"] is None  # nothing was said of borders
    assert set(doubt["existence"]) == set(doubt["mask"]) == {"brier", "ece", "bins"}
    assert set(doubt["expected_iou"]) == {"error", "bins", "above"}
    assert list(doubt["expected_iou"]["above"]) == ["0.50", "0.75", "0.90"]
    assert set(doubt["patches"]) == {
        *("threshold", "p(accurate|certain)", "p(uncertain|inaccurate)", "PAvPU", "curve"),
    }
    assert set(doubt["proofreading"]["curves"]) == {"share", "peaks", "doubt", "random", "ideal"}
    assert all(set(number) == NUMBER for number in every_number(content))
    assert len(list(every_number(content))) > 80
    curves = [*doubt["patches"]["curve"].values()]
    assert {len(curve) for curve in curves} == {len(doubt["patches"]["curve"]["threshold"])}


def test_counted_by_hand(report_of, planted):
    content = numbers(report_of(planted))
    # S is 2/3 and 1/2.
    assert content["mean"]["S"]["0.50"]["value"] == pytest.approx(7 / 12)
    assert content["mean"]["S"]["0.50"]["low"] == pytest.approx(1 / 2)
    assert content["mean"]["avS"]["value"] == pytest.approx(7 / 12)
    # Three pairs with an IoU of 1 among eight objects.
    assert content["pooled"]["PQ"]["value"] == pytest.approx(3 / 4)
    assert [image["S"]["0.50"] for image in content["per_image"]] == pytest.approx([2 / 3, 1 / 2])
    assert [image["name"] for image in content["per_image"]] == ["image 0", "image 1"]
    ranking = content["doubt"]["ranking"]
    assert (ranking["objects"], ranking["errors"]) == (4, 1)
    # The invented object is the most doubtful one.
    assert ranking["errors_found"]["share"][25:] == [1] * 76
    assert content["doubt"]["existence"]["bins"]["predicted"] == pytest.approx([0.6, 0.8, 1.0])
    assert content["doubt"]["existence"]["bins"]["count"] == [1, 1, 2]
    assert content["doubt"]["proofreading"]["missed"] == 1
    # All draws agree on the outlines; expected are 1, 0.8, 0.6 and 1, observed 1, 1, 0 and 1.
    assert content["doubt"]["expected_iou"]["error"]["value"] == pytest.approx((0.2 + 0.6) / 4)
    assert content["doubt"]["expected_iou"]["above"]["0.75"] == {"expected": 0.75, "observed": 0.75}


def test_borders_have_numbers_where_they_have_sigmas(report_of, planted):
    truth, found = planted[0]
    wide = replace(found, features={"border": np.full((3, 2, 2), 0.5)})
    moved = replace(wide, boxes=wide.boxes + np.array([0, 1]))
    border = numbers(report_of([(truth, wide), (truth, moved)]))["doubt"]["border"]
    assert set(border) == {"count", "error", "bias", "spread", "surprise", "correlation", "bins"}
    # The bars at 0 and 8 are as high as the image, and the first one touches its left edge: three sides an image.
    assert border["count"] == 6
    assert border["error"] == {"value": 0.5, "low": 0.0, "high": 1.0}
    assert border["bias"]["value"] == pytest.approx((2 + 2 - 2) / 6)
    assert border["correlation"] == [dict.fromkeys(NUMBER)] * 3  # all sigmas are equal
    assert border["bins"] == {"predicted": [0.5], "observed": [pytest.approx(0.5**0.5)], "count": [6]}


def test_label_maps_have_no_doubt(report_of, bars):
    content = numbers(report_of([(bars(0, 8), bars(0)), (bars(0), bars(0))]))
    assert content["doubt"] is None
    assert content["pooled"]["COCO_AP"] is None and content["pooled"]["COCO_AP_at"] is None
    assert content["pooled"]["COCO_AP_constant"]["value"] == pytest.approx(67 / 101)


def test_a_single_image_has_no_interval(report_of, planted):
    content = numbers(report_of(planted[:1]))
    found = list(every_number(content))
    assert {(number["low"], number["high"]) for number in found} == {(None, None)}
    assert content["mean"]["avS"]["value"] == pytest.approx(2 / 3)


def test_nothing_to_measure_is_null(report_of):
    nothing = Instances.empty((8, 32))
    content = numbers(report_of([(nothing, ProbabilisticInstances.empty((8, 32), 4))] * 2))
    json.dumps(content, allow_nan=False)
    assert content["pooled"]["COCO_AP"] is None and content["pooled"]["F1_0.8"] is None
    assert content["mean"]["avS"] == {"value": 1, "low": 1, "high": 1}
    unknown = dict.fromkeys(NUMBER)
    assert content["doubt"]["existence"]["brier"] == unknown
    assert content["doubt"]["ranking"]["aurc"] == unknown
    assert content["doubt"]["ranking"]["errors_found"]["share"] == [None] * 101
    assert content["doubt"]["expected_iou"]["error"] == unknown
    assert content["doubt"]["expected_iou"]["above"]["0.50"] == {"expected": None, "observed": None}
    # The challenge gives an image without an object 0.
    assert content["mean"]["F1_challenge"]["value"] == content["median"]["F1_challenge"]["value"] == 0


def test_what_tiles_an_image_and_what_does_not(report_of):
    labels = np.repeat(np.repeat([[1, 2]], 8, axis=0), 8, axis=1)
    truth, joined = Instances.from_labels(labels), Instances.from_labels(np.ones_like(labels))
    content = numbers(report_of([(truth, joined), (truth, truth)]))
    # Of two halves in one segment: split 1 and merge 1/2, so that F is 2/3; joined they say nothing.
    assert content["mean"]["rRAND"]["value"] == pytest.approx((2 / 3 + 1) / 2)
    assert [image["rINF"] for image in content["per_image"]] == pytest.approx([0, 1])
    alone = numbers(report_of([(truth, joined), (truth.select([]), truth)]))
    assert alone["mean"]["rRAND"] is alone["mean"]["rINF"] is None
    assert [image["rRAND"] for image in alone["per_image"]] == [pytest.approx(2 / 3), None]


def test_thresholds_of_ones_own(report_of, bars):
    content = numbers(report_of([(bars(0), bars(1))], thresholds=(0.3, 0.333, 0.6)))
    # A bar moved by one of its four columns has an IoU of 3/5.
    assert {name: number["value"] for name, number in content["mean"]["S"].items()} == {
        "0.30": 1,
        "0.333": 1,
        "0.60": 1,
    }
    assert "avS" not in content["mean"]
