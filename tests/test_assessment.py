"""All measures of one image and of several: that they are those of the metrics, and the table of objects."""

import math

import numpy as np
import pytest

from plurimask.assessment import DOUBTS, assess, parse_mode, summarise, tiles
from plurimask.instances import Instances
from plurimask.metrics import average_precision, challenge, panoptic, partition, segmentation, splits
from plurimask.probabilistic import ProbabilisticInstances


def row_of(text):
    """Objects of a drawing of one line, twice."""
    labels = np.array([0 if letter == "." else ord(letter) for letter in text])
    return Instances.from_labels(np.stack([labels, labels]))


TRUTH, FOUND = row_of("aaaa.bbbb...cc"), row_of("aaa..bb......d")


def doubtful():
    """Two hypotheses in conflict (one whole and its left half, in four and six of ten draws) and a sure one."""
    objects = Instances.from_masks([row_of(text).to_masks()[0] for text in ("aaaa..", "aa....", "....bb")], (2, 6))
    times = (4, 6, 10)
    counts = tuple(mask * np.uint8(count) for mask, count in zip(objects.masks, times, strict=True))
    starts = (0, 4, 0)
    members = tuple(
        tuple((start + draw, 0) for draw in range(count)) for start, count in zip(starts, times, strict=True)
    )
    return ProbabilisticInstances(
        objects.boxes, counts, 10, np.array(times) / 10, members, np.array([[0, 1]]), objects.shape
    )


def test_measures_are_those_of_the_metrics():
    image = assess(TRUTH, FOUND, thresholds=[0.5, 0.75])
    assert image.scores.measures() == segmentation.score(TRUTH, FOUND, thresholds=[0.5, 0.75]).measures()
    assert image.panoptic == panoptic.panoptic(TRUTH, FOUND)
    assert image.splits == splits.splits(TRUTH, FOUND)
    assert image.examination is None


def test_the_table_of_objects():
    objects = assess(TRUTH, FOUND).objects
    assert list(objects) == ["label", "area", "centroid-0", "centroid-1", *DOUBTS, "matched", "iou", "kind"]
    # The last found object has an IoU of exactly 1/2 with c.
    assert objects["kind"].tolist() == ["ok", "ok", "ok"]
    assert objects["label"].tolist() == [1, 2, 3]
    assert objects["area"].tolist() == [6, 4, 2]
    assert objects["centroid-0"].tolist() == [0.5] * 3
    assert objects["centroid-1"].tolist() == [1, 5.5, 13]
    assert objects["iou"].tolist() == [0.75, 0.5, 0.5]
    assert all(np.isnan(objects[name]).all() for name in DOUBTS)


def test_a_missed_object_has_its_place_among_the_true_ones():
    objects = assess(TRUTH, FOUND.select([0])).objects
    assert objects["kind"].tolist() == ["ok", "missed", "missed"]
    assert objects["label"].tolist() == [1, 2, 3]
    assert objects["area"].tolist() == [6, 8, 4]
    assert objects["matched"].tolist() == [True, False, False]


def test_doubt_is_that_of_the_hypothesis():
    found = doubtful()
    table = found.table()
    truth = Instances.from_masks([found.hypotheses().to_masks()[0]], found.shape)
    best = assess(truth, found)
    assert best.objects["label"].tolist() == [1, 2]  # as in to_labels()
    assert best.objects["kind"].tolist() == ["ok", "false positive"]
    assert best.objects["p_exists"].tolist() == [0.6, 1.0]
    assert best.objects["p_merge"].tolist() == table["p_merge"][[1, 2]].tolist()
    assert best.examination is not None
    cut = assess(truth, found, choose=lambda result: result.threshold(0.9))
    assert cut.objects["p_exists"][:-1].tolist() == [1.0]
    assert cut.objects["label"].tolist() == [2, 1]
    assert cut.objects["kind"].tolist() == ["false positive", "missed"]


def test_a_set_with_its_intervals():
    images = [assess(TRUTH, FOUND), assess(TRUTH, TRUTH)]
    quality = summarise(images)
    assert quality.honesty is None
    assert quality.segmentation.measures["S@0.5"].mean == 1
    # Four of six pairs: for PQ an IoU of 1/2 is too little.
    assert quality.panoptic.pooled["PQ"].mean == pytest.approx((0.75 + 3) / 6)
    assert quality.splits.pooled["split_rate"].mean == 0
    # Label maps have no confidence.
    assert {name.partition("@")[0] for name in quality.coco} == {"COCO_AP_constant"}
    expected = average_precision.coco_ap_constant([image.candidates for image in images], orders=20)
    assert quality.coco["COCO_AP_constant"].mean == pytest.approx(expected.measures()["COCO_AP_constant"])


def test_the_challenge_counts_label_maps():
    # Two discs side by side, clear of the frame, and one that overlaps the second and is less probable.
    labels = np.zeros((12, 30), int)
    labels[3:9, 3:9], labels[3:9, 12:18] = 1, 2
    truth = Instances.from_labels(labels)
    masks = [*truth.to_masks(), np.roll(truth.to_masks()[1], 3, axis=1)]
    found = Instances.from_masks(masks, labels.shape)
    found = Instances(found.boxes, found.masks, np.array([0.9, 0.8, 0.7]), found.shape)
    image = assess(truth, found)
    assert image.challenge == challenge.challenge_counts(truth, Instances.from_labels(found.to_labels()))
    assert (image.challenge.tp, image.challenge.found_count) == (2, 3)
    quality = summarise([image, assess(truth, truth), assess(truth, truth)])
    assert quality.challenge.mean.mean == pytest.approx((4 / 5 + 2) / 3)
    assert quality.challenge.median.mean == 1
    assert quality.partition == {}


def test_a_volume_has_no_challenge(touching_balls):
    image = assess(touching_balls, touching_balls)
    assert image.challenge is None
    assert summarise([image]).challenge is None


@pytest.mark.parametrize(
    ("lines", "expected"),
    [(["aabb", "aabb"], True), (["aa..", "aa.."], True), (["a...", "aa.."], False), (["....", "...."], False)],
)
def test_what_tiles_an_image(lines, expected):
    labels = np.array([[0 if letter == "." else ord(letter) for letter in line] for line in lines])
    objects = Instances.from_labels(labels)
    assert tiles(objects) is expected
    slices = np.stack([np.ones_like(labels), labels])
    assert tiles(Instances.from_labels(slices)) is expected  # of a volume every slice
    whole = np.ones(labels.shape, bool)
    assert not tiles(Instances.from_masks([whole, whole], labels.shape))


def test_tiled_images_are_scored_as_partitions():
    labels = np.repeat(np.repeat([[1, 2], [3, 3]], 6, axis=0), 6, axis=1)
    halves = np.repeat(np.repeat([[1, 1], [3, 4]], 6, axis=0), 6, axis=1)
    truth, found = Instances.from_labels(labels), Instances.from_labels(halves)
    scores = partition.score_labels(labels, halves)
    quality = summarise([assess(truth, found), assess(truth, truth)])
    assert quality.partition["rRAND"].mean == pytest.approx((scores.rand.score + 1) / 2)
    assert quality.partition["rINF"].mean == pytest.approx((scores.info.score + 1) / 2)
    assert scores.rand.score < 1, "test invalid"


def test_confidence_ranks_where_there_is_one():
    found = doubtful()
    truth = Instances.from_masks(found.hypotheses().to_masks()[1:], found.shape)
    quality = summarise([assess(truth, found)])
    assert quality.coco["COCO_AP"].mean == pytest.approx(1)
    assert quality.honesty is not None


def test_no_truth_at_all():
    nothing = Instances.empty(doubtful().shape)
    for found in (nothing, ProbabilisticInstances.empty(nothing.shape, 4), doubtful()):
        quality = summarise([assess(nothing, found), assess(nothing, found)])
        assert quality.coco == {}
        right = float(len(found) == 0)
        assert quality.segmentation.measures["avS"].mean == right
        assert quality.panoptic.pooled["PQ"].mean == right
    empty = summarise([assess(nothing, nothing, empty=0)])
    assert empty.segmentation.measures["avS"].mean == 0
    assert empty.panoptic.pooled["PQ"].mean == 0


def test_an_object_without_a_pixel_has_no_centroid():
    found = Instances(np.zeros((1, 2, 2), np.int64), (np.zeros((0, 0), bool),), np.ones(1), TRUTH.shape)
    objects = assess(TRUTH, found).objects
    assert math.isnan(objects["centroid-0"][0])
    assert objects["kind"].tolist() == ["false positive", "missed", "missed", "missed"]


@pytest.mark.parametrize("mode", ["", "bst", "threshold", "threshold x", "threshold 75", "threshold nan", "best 0.5"])
def test_modes_are_checked(mode):
    with pytest.raises(ValueError, match=r'"threshold 0\.75"'):
        parse_mode(mode)
