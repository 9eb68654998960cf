"""COCO's average precision against pycocotools, closed forms and lists counted by hand."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as run_length
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from scipy import sparse

from plurimask.instances import Instances
from plurimask.metrics.average_precision import Candidates, candidates, coco_ap, coco_ap_constant
from plurimask.metrics.bootstrap import interval
from plurimask.metrics.segmentation import THRESHOLDS, score

SHAPE = (10, 10)


def rectangles(generator, count):
    """``(count, *SHAPE)`` overlapping rectangles."""
    masks = np.zeros((count, *SHAPE), bool)
    for mask in masks:
        start = generator.integers(0, 7, 2)
        stop = start + generator.integers(2, 6, 2)
        mask[start[0] : stop[0], start[1] : stop[1]] = True
    return masks


def drawn(seed, counts, *, levels):
    """Images with some true objects each; most are found a pixel off, some twice. Scores are one of a few levels."""
    generator = np.random.default_rng(seed)
    images = []
    for count in counts:
        truth = rectangles(generator, count)
        shifts = generator.integers(-1, 2, (count, 2))
        near = [np.roll(mask, shift, axis=(0, 1)) for mask, shift in zip(truth, shifts, strict=True)]
        masks = [*near, *truth[generator.random(count) < 0.4], *rectangles(generator, generator.integers(0, 3))]
        masks = [masks[place] for place in generator.permutation(len(masks))]
        found = Instances.from_masks(masks, SHAPE)
        scores = generator.integers(1, levels + 1, len(found)) / (levels + 1)
        images.append((Instances.from_masks(truth, SHAPE), scored(found, scores)))
    return images


def scored(objects, scores):
    return Instances.from_crops(objects.boxes, objects.masks, objects.shape, scores=scores)


def pycocotools(images, *, max_detections=1000):
    """``(T,)`` average precision of COCOeval, area "all"."""
    tables = [COCO(), COCO()]
    for side, table in enumerate(tables):
        annotations = []
        for image, pair in enumerate(images, start=1):
            for mask, confidence in zip(pair[side].to_masks(), pair[side].scores.tolist(), strict=True):
                code = run_length.encode(np.asfortranarray(mask.astype(np.uint8)))
                annotation = {"segmentation": code, "area": int(mask.sum()), "iscrowd": 0, "score": confidence}
                annotations.append({"id": len(annotations) + 1, "image_id": image, "category_id": 1, **annotation})
        table.dataset = {"categories": [{"id": 1}], "annotations": annotations}
        size = {"height": SHAPE[0], "width": SHAPE[1]}
        table.dataset["images"] = [{"id": image, **size} for image in range(1, len(images) + 1)]
        table.createIndex()
    evaluation = COCOeval(*tables, "segm")
    evaluation.params.maxDets = [max_detections]
    evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
    evaluation.evaluate()
    evaluation.accumulate()
    return evaluation.eval["precision"][:, :, 0, 0, 0].mean(axis=1)


def pooled(images):
    return [candidates(truth, found) for truth, found in images]


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    counts=st.lists(st.integers(0, 6), min_size=1, max_size=5).filter(any),
    levels=st.sampled_from([1, 2, 5, 10_000]),
    max_detections=st.sampled_from([1000, 100, 3, 1]),
)
def test_it_is_that_of_pycocotools(seed, counts, levels, max_detections):
    images = drawn(seed, counts, levels=levels)
    ours = coco_ap(pooled(images), max_detections=max_detections)
    np.testing.assert_allclose(ours.values, pycocotools(images, max_detections=max_detections), atol=1e-12)


def test_recalls_are_rounded_as_in_pycocotools():
    # 35 of 100 truths are found: 35 / 100 is less than linspace's 0.35000000000000003.
    truth = Instances.from_labels(np.arange(1, 101).reshape(10, 10))
    images = [(truth, truth.select(range(35)))]
    assert coco_ap(pooled(images)).measures()["COCO_AP"] == pytest.approx(35 / 101, abs=1e-12)
    np.testing.assert_allclose(pycocotools(images), 35 / 101)


def row(ious, scores):
    """One image from its matrix of IoUs."""
    return Candidates(sparse.csr_array(np.array(ious, float)), np.array(scores, float))


def test_counted_by_hand():
    # List: hit, miss, hit of three truths: precision 1 up to recall 1/3 (34 recalls), 2/3 up to 2/3 (33 more), then 0.
    image = row([[0.9, 0, 0], [0, 0, 0.7], [0, 0, 0]], [0.9, 0.8, 0.3])
    result = coco_ap([image], thresholds=[0.5, 0.8])
    assert result.values.tolist() == pytest.approx([(34 + 33 * 2 / 3) / 101, 34 / 101])
    assert result.measures() == pytest.approx(
        {"COCO_AP": (68 + 22) / 202, "COCO_AP@0.5": 56 / 101, "COCO_AP@0.8": 34 / 101}
    )


def test_precision_that_rises_counts_from_the_left():
    # miss, hit, hit: precisions 0, 1/2, 2/3; the last is the largest at any recall up to 1.
    assert coco_ap([row([[0, 1, 0], [0, 0, 1]], [3, 2, 1])]).values.tolist() == pytest.approx([2 / 3] * 10)


def test_false_objects_at_the_end_of_the_list_are_free_and_at_its_head_are_not():
    truth = row([[1.0]], [0.9])
    noise = row(np.zeros((0, 99)), np.full(99, 0.5))
    assert coco_ap([truth, noise]).measures()["COCO_AP"] == pytest.approx(1)
    noise = row(np.zeros((0, 99)), np.full(99, 0.95))
    assert coco_ap([truth, noise]).measures()["COCO_AP"] == pytest.approx(1 / 100)


def test_the_confident_object_takes_the_truth_even_if_another_fits_better():
    # The first takes the only truth, the better fitting second is a false object at the end of the list.
    assert coco_ap([row([[0.6, 0.9]], [0.9, 0.8])], thresholds=[0.5]).values[0] == pytest.approx(1)
    assert coco_ap([row([[0.6, 0.9]], [0.9, 0.8])], thresholds=[0.75]).values[0] == pytest.approx(1 / 2)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), counts=st.lists(st.integers(1, 6), min_size=1, max_size=4))
def test_renumbering_changes_nothing(seed, counts):
    generator = np.random.default_rng(seed)
    images, renumbered = [], []
    for count in counts:
        # All IoUs and scores differ: ties are the only place where the order of the objects may matter.
        ious, scores = generator.random((count, count + 1)), generator.permutation(count + 1) + generator.random()
        order, columns = generator.permutation(count), generator.permutation(count + 1)
        images.append(row(ious, scores))
        renumbered.append(row(ious[order][:, columns], scores[columns]))
    expected = coco_ap(images).values
    np.testing.assert_allclose(coco_ap(renumbered).values, expected, atol=1e-12)
    np.testing.assert_allclose(coco_ap(renumbered[::-1]).values, expected, atol=1e-12)
    # Only the order of the scores counts.
    monotone = [Candidates(image.ious, np.exp(image.scores) - 7) for image in images]
    np.testing.assert_allclose(coco_ap(monotone).values, expected, atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 6))
def test_it_never_exceeds_recall_and_reaches_it_with_a_perfect_ranking(seed, count):
    ((truth, found),) = drawn(seed, [count], levels=10_000)
    recall = score(truth, found).recall
    reached = np.searchsorted(np.linspace(0, 1, 101), recall, side="right") * (recall > 0) / 101
    assert (coco_ap(pooled([(truth, found)])).values <= reached + 1e-12).all()
    found = Instances.from_masks(
        [*truth.to_masks()[: count // 2 + 1], *rectangles(np.random.default_rng(seed), 3)], SHAPE
    )
    found = scored(found, np.linspace(1, 0, len(found)))
    wanted = np.searchsorted(np.linspace(0, 1, 101), (count // 2 + 1) / count, side="right") / 101
    assert (coco_ap(pooled([(truth, found)])).values >= wanted - 1e-12).all()


def test_constant_scores_make_pycocotools_depend_on_the_order_of_the_files():
    easy, hard = row(np.eye(4), np.ones(4)), row(np.zeros((4, 4)), np.ones(4))
    assert coco_ap([easy, hard]).values[0] == pytest.approx(51 / 101)
    assert coco_ap([hard, easy]).values[0] == pytest.approx(51 / 101 / 2)
    forward, backward = (coco_ap_constant(images, orders=3000).values[0] for images in ([easy, hard], [hard, easy]))
    assert forward == pytest.approx(backward, abs=0.01)


def test_constant_scores_are_the_mean_over_all_orders():
    # Hits and misses are the same in every order here, so that all lists can be written down.
    image = row([[1, 0, 0, 0, 0], [0, 1, 0, 0, 0]], np.ones(5))
    lists = itertools.permutations([True, True, False, False, False])
    expected = np.mean([by_definition(np.array(hits), 2) for hits in lists])
    found = coco_ap_constant([image], orders=5000)
    assert found.values[0] == pytest.approx(expected, abs=0.01)
    assert set(found.measures()) == {"COCO_AP_constant", *(f"COCO_AP_constant@{at:.3g}" for at in THRESHOLDS)}


def by_definition(hits, truth_count):
    """The mean over 101 recalls of the largest precision at this recall or beyond."""
    tp = np.cumsum(hits)
    precision, recall = tp / np.arange(1, len(hits) + 1), tp / truth_count
    return np.mean([max(precision[recall >= wanted], default=0) for wanted in np.linspace(0, 1, 101)])


def test_one_truth_among_k_found_has_the_harmonic_mean_over_orders():
    # The hit stands at every place with 1 / k, and its precision there is 1 / place: (1 + 1/2 + 1/3) / 3.
    found = coco_ap_constant([row([[1.0, 0, 0]], [0.1, 0.2, 0.3])], orders=5000)
    assert found.values[0] == pytest.approx(11 / 18, abs=0.01)


def test_constant_scores_do_not_look_at_the_scores_and_keep_the_seed():
    images = pooled(drawn(3, [4, 5, 6], levels=10_000))
    blind = [Candidates(image.ious, np.zeros(len(image.scores))) for image in images]
    first = coco_ap_constant(images, seed=1)
    np.testing.assert_array_equal(first.values, coco_ap_constant(blind, seed=1).values)
    assert (first.values != coco_ap_constant(images, seed=2).values).any()
    assert len(first.rankings) < 100, "a hundred lists would be kept for nothing"


def test_constant_scores_lie_a_little_above_the_product():
    # 5 of 6 truths are found once, beside 2 false objects: P = 5 / 7, R = 5 / 6.
    images = [row(np.eye(6, 7) * (np.arange(6) < 5)[:, None], np.ones(7))] * 60
    generator = np.random.default_rng(1)
    hits = np.repeat([True, False], [300, 120])
    expected = np.mean([by_definition(generator.permutation(hits), 360) for _ in range(100)])
    found = coco_ap_constant(images).values[0]
    assert found == pytest.approx(expected, abs=0.01)
    assert found > 25 / 42


def test_constant_scores_of_duplicates_lie_far_above_the_product():
    # Whichever copy comes first is the hit: of 2 k objects for k truths, the head of the list is nearly all hits.
    images = [row(np.tile(np.eye(6), 2), np.ones(12))] * 60
    assert coco_ap_constant(images).values[0] > 1 / 2 + 0.1, "P * R is 1 / 2"


def test_intervals_are_those_of_images_drawn_again():
    images = pooled(drawn(7, [5, 0, 3, 6, 2, 4], levels=10_000))
    result = coco_ap(images)

    def drawn_again(rows):
        return np.array([coco_ap([images[int(index)] for index in row]).measures()["COCO_AP"] for row in rows])

    expected = interval(np.arange(len(images)), resamples=150, seed=3, statistic=drawn_again)
    found = result.intervals(resamples=150, seed=3)
    assert list(found) == list(result.measures())
    overall = found["COCO_AP"]
    assert [overall.mean, overall.low, overall.high] == pytest.approx([expected.mean, expected.low, expected.high])
    assert {name: value.mean for name, value in found.items()} == pytest.approx(result.measures())


def test_intervals_of_constant_scores_hold_the_mean():
    intervals = coco_ap_constant(pooled(drawn(9, [6] * 20, levels=1))).intervals(resamples=300)
    assert all(value.low <= value.mean <= value.high for value in intervals.values())
    assert intervals["COCO_AP_constant@0.5"].high - intervals["COCO_AP_constant@0.5"].low < 0.4


def test_resamples_without_a_true_object_count_nothing():
    images = [row([[1.0]], [0.5]), row(np.zeros((0, 1)), [0.1])]
    assert coco_ap(images).intervals(resamples=200)["COCO_AP"].low == 0


def test_nothing_found_is_zero_and_images_without_any_object_change_nothing():
    missed = candidates(Instances.from_labels(np.eye(3, dtype=int)), Instances.empty((3, 3)))
    assert coco_ap([missed]).measures()["COCO_AP"] == 0
    assert coco_ap_constant([missed]).measures()["COCO_AP_constant"] == 0
    nothing = candidates(Instances.empty((3, 3)), Instances.empty((3, 3)))
    images = pooled(drawn(1, [4, 3], levels=5))
    np.testing.assert_array_equal(coco_ap([images[0], nothing, images[1]]).values, coco_ap(images).values)


def test_no_truth_at_all_is_refused():
    nothing = candidates(Instances.empty((3, 3)), Instances.from_labels(np.eye(3, dtype=int)))
    for images in ([], [nothing], [nothing, nothing]):
        with pytest.raises(ValueError, match=f"no true object in these {len(images)} images"):
            coco_ap(images)
        with pytest.raises(ValueError, match="no true object"):
            coco_ap_constant(images)


def test_bad_input_is_told():
    image = row([[1.0]], [0.5])
    with pytest.raises(ValueError, match="no IoU threshold"):
        coco_ap([image], thresholds=[])
    with pytest.raises(ValueError, match=r"in \(0, 1\]"):
        coco_ap([image], thresholds=[50])
    with pytest.raises(ValueError, match="max_detections"):
        coco_ap([image], max_detections=0)
    with pytest.raises(ValueError, match="orders"):
        coco_ap_constant([image], orders=0)
    with pytest.raises(ValueError, match="level"):
        coco_ap([image]).intervals(level=95)
    dot = Instances.from_labels(np.ones((1, 1), int))
    with pytest.raises(ValueError, match=r"objects \[0\] are not finite"):
        candidates(dot, scored(dot, [np.nan]))
    with pytest.raises(ValueError, match=r"\(1, 1\).*\(1, 2\)"):
        candidates(dot, Instances.empty((1, 2)))
