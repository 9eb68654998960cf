"""Objects with doubt, on drawn scenes and against dense arrays."""

import math
from dataclasses import replace

import numpy as np
import pytest

from plurimask.agglomerate import CompleteLinkage
from plurimask.instances import Instances
from plurimask.platt import Platt
from plurimask.probabilistic import ProbabilisticInstances

#             whole           halves          and something apart
WHOLE = np.array([[1, 1, 1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1, 0, 0]])
HALVES = np.array([[1, 1, 1, 2, 2, 2, 0, 0], [1, 1, 1, 2, 2, 2, 0, 0]])


def drawn(*labels, score=1.0):
    draws = [Instances.from_labels(np.asarray(label)) for label in labels]
    draws = [replace(draw, scores=np.full(len(draw), score)) for draw in draws]
    return CompleteLinkage()(draws)


def one(counts, *, draws, members=None, existence=1.0, shape=None):
    """A single hypothesis at the origin."""
    counts = np.asarray(counts, np.uint8)
    count = int(counts.max()) if members is None else members
    return ProbabilisticInstances(
        boxes=np.array([[[0] * counts.ndim, counts.shape]]),
        counts=(counts,),
        draws=draws,
        existence=np.array([existence]),
        members=(tuple((draw, 0) for draw in range(count)),),
        conflicts=np.zeros((0, 2), np.int64),
        shape=shape or counts.shape,
    )


def test_mask_probabilities():
    found = one([[8, 4, 2]], draws=8)
    np.testing.assert_array_equal(found.probabilities(0), [[1, 0.5, 0.25]])
    rare = one([[4, 4, 2]], draws=8)
    np.testing.assert_array_equal(rare.probabilities(0), [[0.5, 0.5, 0.25]])
    np.testing.assert_array_equal(rare.probabilities_if_exists(0), [[1, 1, 0.5]])


def test_threshold_counts_exactly_six_of_eight():
    found = one([[8, 7, 6, 5, 0]], draws=8, existence=0.9)
    objects = found.threshold(0.75)
    assert objects.areas.tolist() == [3]
    assert objects.scores.tolist() == [0.9]
    assert objects.features["hypothesis"].tolist() == [0]
    assert len(one([[5, 5]], draws=8).threshold(0.75)) == 0


@pytest.mark.parametrize("draws", [3, 7, 10, 50, 255])
def test_threshold_does_not_stumble_over_rounding(draws):
    counts = np.arange(1, draws + 1, dtype=np.uint8)[None]
    for least in range(1, draws + 1):
        assert one(counts, draws=draws).threshold(least / draws).areas.tolist() == [draws + 1 - least]


@pytest.mark.parametrize("p", [0, -1, 1.1, math.nan])
def test_threshold_out_of_range(p):
    with pytest.raises(ValueError, match="must be in"):
        one([[1]], draws=1).threshold(p)


def test_whole_in_half_of_the_draws_keeps_exactly_one_side():
    found = drawn(*[WHOLE] * 4, *[HALVES] * 4)
    assert found.existence.tolist() == [0.5, 0.5, 0.5]
    np.testing.assert_array_equal(found.best().to_masks(), [WHOLE == 1])
    assert len(found.threshold(0.75)) == 0  # the papers' mode loses it


def test_halves_in_the_majority_win():
    found = drawn(*[WHOLE] * 3, *[HALVES] * 5)
    np.testing.assert_array_equal(found.best().to_labels(), HALVES)
    np.testing.assert_array_equal(found.to_labels(), HALVES)
    np.testing.assert_array_equal(found.to_masks(), [HALVES == 1, HALVES == 2])


def test_an_unsure_network_does_not_make_a_disputed_object_vanish():
    # Scores of 0.8: every existence is 0.4.
    found = drawn(*[WHOLE] * 4, *[HALVES] * 4, score=0.8)
    np.testing.assert_array_equal(found.best().to_masks(), [WHOLE == 1])


def test_best_masks_are_the_pixels_of_half_of_the_members_in_tight_boxes():
    counts = np.zeros((6, 7), np.uint8)
    counts[2, 3:6] = [2, 3, 6]
    counts[4, 1] = 1
    found = replace(one(counts, draws=8, members=6, existence=0.75), features={"kind": np.array([7])})
    best = found.best()
    assert best.boxes.tolist() == [[[2, 4], [3, 6]]]
    assert best.features["kind"].tolist() == [7]
    assert best.scores.tolist() == [0.75]


def test_calibration_keeps_what_it_was(crossing_worms):
    raw = CompleteLinkage()([crossing_worms, crossing_worms.select([0]), Instances.empty(crossing_worms.shape)])
    assert raw.raw_existence is raw.existence
    once = raw.calibrated(lambda p: p**2)
    np.testing.assert_allclose(once.existence, np.square([1 / 3, 2 / 3]))
    np.testing.assert_array_equal(once.raw_existence, raw.existence)
    twice = once.calibrated(np.sqrt)  # anew, not on top
    np.testing.assert_allclose(twice.existence, np.sqrt([1 / 3, 2 / 3]))
    np.testing.assert_array_equal(twice.raw_existence, raw.existence)
    assert "raw_existence" not in raw.features
    np.testing.assert_array_equal(once.table()["p_exists"], once.existence)


def test_the_expected_iou_is_calibrated_after_existence():
    counts = np.zeros((4, 6), np.uint8)
    counts[1, 1:5] = [1, 4, 4, 3]
    raw = one(counts, draws=8, members=4, existence=0.5)
    agreement = 11 / (12 + 4 * 3 - 11)
    assert raw.expected_ious == pytest.approx([0.5 * agreement])
    once = raw.calibrated(lambda p: p / 2, lambda p: p**2)
    assert once.expected_ious == once.table()["expected_iou"] == pytest.approx([(0.25 * agreement) ** 2])
    assert once.table()["review_order"].tolist() == [1]
    again = once.calibrated(lambda p: p)  # what was calibrated before is forgotten
    np.testing.assert_array_equal(again.expected_ious, raw.expected_ious)
    nothing = one(np.zeros((4, 6), np.uint8), draws=8, members=0, existence=0.5)
    assert np.isnan(nothing.calibrated(Platt(offset=1), Platt(offset=1)).expected_ious).all()


def test_calibrated_probabilities_decide_what_is_there():
    seen, faint = np.zeros((4, 9), int), np.zeros((4, 9), int)
    seen[:, :4] = faint[:, :4] = 1
    faint[:, 6:] = 2
    raw = drawn(seen, seen, seen, faint, faint)  # existences 1 and 2/5
    assert len(raw.best()) == 1
    timid, bold = raw.calibrated(Platt(offset=-9)), raw.calibrated(Platt(offset=2))
    assert (len(timid.best()), len(bold.best())) == (0, 2)
    # What the papers cut at is a share of the draws, not an existence.
    for found in (timid, bold):
        np.testing.assert_array_equal(found.threshold(0.4).to_masks(), raw.threshold(0.4).to_masks())
        np.testing.assert_array_equal(found.entropy_map(), raw.entropy_map())


def test_entropy_map_is_the_largest_of_the_objects():
    found = drawn(*[WHOLE] * 6, *[HALVES] * 2)
    expected = -0.25 * math.log(0.25) - 0.75 * math.log(0.75)
    np.testing.assert_allclose(found.entropy_map(), np.where(WHOLE, expected, 0), rtol=1e-6)
    assert found.entropy_map().dtype == np.float32
    assert drawn(WHOLE, WHOLE).entropy_map().max() == 0


def test_count_interval_comes_from_the_draws():
    found = drawn(*[WHOLE] * 3, *[HALVES] * 4, np.zeros_like(WHOLE))
    assert found.draw_counts().tolist() == [1, 1, 1, 2, 2, 2, 2, 0]
    assert found.mean_count == 11 / 8
    assert found.count_interval() == (0, 2)
    assert found.count_interval(0.5) == (1, 2)
    assert drawn(*[HALVES] * 3).count_interval() == (2, 2)
    with pytest.raises(ValueError, match="level"):
        found.count_interval(95)


def test_table_of_a_disputed_object():
    table = drawn(*[WHOLE] * 5, *[HALVES] * 3).table()
    assert next(iter(table)) == "label"
    whole = int(np.flatnonzero(table["area"] == 12)[0])
    halves = np.flatnonzero(table["area"] == 6)
    assert table["label"][whole] == 1 and table["alternative_of"][whole] == 0
    assert table["label"][halves].tolist() == [0, 0] and table["alternative_of"][halves].tolist() == [1, 1]
    assert table["p_exists"][whole] == 5 / 8
    assert table["p_split"][whole] == 3 / 8 and table["p_merge"][whole] == 0
    assert table["p_merge"][halves].tolist() == [5 / 8, 5 / 8] and not table["p_split"][halves].any()
    assert (table["centroid-0"][whole], table["centroid-1"][whole]) == (0.5, 2.5)
    assert [table[f"bbox-{place}"][whole] for place in range(4)] == [0, 0, 2, 6]
    assert table["agreement"].tolist() == [1, 1, 1]
    np.testing.assert_allclose(table["entropy"], -3 / 8 * math.log(3 / 8) - 5 / 8 * math.log(5 / 8))
    # Losing either half is as likely as the whole being wrong: 3/8 each; the chosen one comes first.
    assert table["review_order"][whole] == 1


def test_the_certain_object_is_reviewed_last():
    certain, now_and_then = np.zeros((4, 9), int), np.zeros((4, 9), int)
    certain[:, :4] = now_and_then[:, :4] = 1
    now_and_then[:, 6:] = 2
    table = drawn(*[certain] * 3, *[now_and_then] * 5).table()
    assert table["label"].tolist() == [1, 2]
    assert table["review_order"].tolist() == [2, 1]


def test_table_in_3d_and_of_nothing():
    labels = np.zeros((4, 5, 6), int)
    labels[1:3, 2:4, 3:5] = 1
    table = drawn(labels, labels).table()
    assert [float(table[f"centroid-{axis}"][0]) for axis in range(3)] == [1.5, 2.5, 3.5]
    assert [int(table[f"bbox-{place}"][0]) for place in range(6)] == [1, 2, 3, 3, 4, 5]
    nothing = ProbabilisticInstances.empty((4, 5, 6), 8)
    assert nothing.table().keys() == table.keys()
    assert all(len(column) == 0 for column in nothing.table().values())


def test_no_object_at_all():
    nothing = ProbabilisticInstances.empty((4, 5), 8)
    assert len(nothing.best()) == len(nothing.threshold()) == 0
    assert nothing.to_masks().shape == (0, 4, 5)
    assert not nothing.to_labels().any() and not nothing.entropy_map().any()
    assert nothing.count_interval() == (0, 0) and nothing.mean_count == 0


def test_a_hypothesis_without_majority_is_in_the_table_but_not_in_best():
    found = one([[1, 1, 1]], draws=3, members=3)
    table = found.table()
    assert len(found.best()) == 0
    assert table["label"].tolist() == [0] and table["area"].tolist() == [0]
    assert np.isnan(table["centroid-0"]).all()


def test_a_nan_is_an_error_and_not_a_certain_object():
    with pytest.raises(FloatingPointError, match="existence of objects"):
        one([[1]], draws=1, existence=math.nan)


def test_what_does_not_fit_together_is_an_error():
    with pytest.raises(ValueError, match="1 to 255"):
        one([[1]], draws=256)
    with pytest.raises(ValueError, match="need boxes of shape"):
        one([[1]], draws=1, shape=(1, 1, 1))
    with pytest.raises(ValueError, match="one row of every feature"):
        replace(one([[1]], draws=1), features={"kind": np.zeros(2)})


def test_counts_of_many_draws_do_not_overflow():
    found = one([[255, 128, 127]], draws=255)
    assert found.best().areas.tolist() == [2]


def test_the_sides_of_a_box_have_a_column_each():
    labels = np.array([[1, 0, 2]])
    border = np.array([[[1.0, 4.0], [3.0, 2.0]], [[5.0, 8.0], [7.0, 6.0]]])  # clockwise from the top
    draw = replace(Instances.from_labels(labels), features={"border": border})
    table = CompleteLinkage()([draw, draw]).table()
    named = {name: values.tolist() for name, values in table.items() if name.startswith("border")}
    clockwise = ["top", "right", "bottom", "left"]
    assert list(named) == [f"border_{side}" for side in clockwise] + [f"border_spread_{side}" for side in clockwise]
    assert [named[f"border_{side}"] for side in clockwise] == [[1, 5], [2, 6], [3, 7], [4, 8]]
    assert [named[f"border_spread_{side}"] for side in clockwise] == 4 * [[0, 0]]  # the draws agree
    assert not any(name.startswith("border") for name in drawn(labels).table())


def test_a_volume_has_six_sides():
    draw = replace(Instances.from_labels(np.ones((2, 3, 4), int)), features={"border": np.arange(6.0).reshape(1, 2, 3)})
    table = CompleteLinkage()([draw]).table()
    named = {name: values.tolist() for name, values in table.items() if name.startswith("border")}
    assert named.pop("border_front") == [0] and named.pop("border_back") == [3]
    assert named.pop("border_top") == [1] and named.pop("border_bottom") == [4]
    assert named.pop("border_left") == [2] and named.pop("border_right") == [5]
    assert not named
