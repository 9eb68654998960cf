"""Reliability against scikit-learn, plain loops, simulated truth and cases counted by hand."""

import math

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss, log_loss

from plurimask.agglomerate import CompleteLinkage
from plurimask.instances import Instances
from plurimask.metrics.calibration import (
    Forecasts,
    equal_mass,
    existence_forecasts,
    iou_reliability,
    mask_forecasts,
    pool,
)
from plurimask.metrics.matching import match, match_greedily
from plurimask.probabilistic import ProbabilisticInstances


def single(probability, outcome):
    """One row per forecast."""
    outcome = np.asarray(outcome, np.int64)
    return Forecasts(np.asarray(probability, np.float64), outcome, np.ones_like(outcome))


def simulated(seed=0, *, count=2000, distort=1.0):
    """Things that happen with probability p and were said to with p ** distort."""
    generator = np.random.default_rng(seed)
    p = generator.random(count)
    return single(p**distort, generator.random(count) < p)


NONE = single([], [])


def test_by_hand():
    # Said 0.2 five times, one came true; said 0.6 five times, five came true.
    forecasts = Forecasts(np.array([0.2, 0.6]), np.array([1, 5]), np.array([5, 5]))
    reliability = forecasts.by_value()
    np.testing.assert_allclose(reliability.predicted, [0.2, 0.6])
    np.testing.assert_allclose(reliability.observed, [0.2, 1.0])
    assert reliability.count.tolist() == [5, 5]
    assert reliability.ece == pytest.approx((5 * 0 + 5 * 0.4) / 10)
    assert forecasts.brier == pytest.approx((1 * 0.8**2 + 4 * 0.2**2 + 5 * 0.4**2) / 10)
    assert forecasts.log_loss() == pytest.approx(-(math.log(0.2) + 4 * math.log(0.8) + 5 * math.log(0.6)) / 10)


@pytest.mark.parametrize("seed", range(3))
def test_scikit_learn_agrees(seed):
    forecasts = simulated(seed)
    assert forecasts.brier == pytest.approx(brier_score_loss(forecasts.hits, forecasts.probability))
    assert forecasts.log_loss() == pytest.approx(log_loss(forecasts.hits, forecasts.probability))


def test_certain_errors_cost_what_they_are_clipped_at():
    wrong = single([0.0, 1.0], [1, 0])
    assert wrong.log_loss() == pytest.approx(-math.log(1e-6))
    assert wrong.log_loss(clip=1 / 16) == pytest.approx(math.log(16))
    assert single([0.0, 1.0], [0, 1]).log_loss() == pytest.approx(1e-6)


def test_true_probabilities_are_reliable_and_distorted_ones_are_not():
    assert simulated(count=20_000).by_mass().ece < 0.015
    # The mean of |p - p^2| over [0, 1] is 1/6.
    assert simulated(count=20_000, distort=2.0).by_mass(100).ece == pytest.approx(1 / 6, abs=0.02)


def test_rows_may_be_joined_or_apart():
    generator = np.random.default_rng(0)
    probability, outcome = generator.integers(9, size=400) / 8, generator.integers(2, size=400)
    apart = single(probability, outcome)
    joined = pool([apart])
    assert len(joined.probability) == 9
    for one, other in ((apart.by_value(), joined.by_value()), (apart.by_mass(4), joined.by_mass(4))):
        np.testing.assert_allclose(one.predicted, other.predicted)
        np.testing.assert_allclose(one.observed, other.observed)
        np.testing.assert_array_equal(one.count, other.count)
        assert one.ece == pytest.approx(other.ece)
    assert apart.brier == pytest.approx(joined.brier)
    assert apart.log_loss() == pytest.approx(joined.log_loss())


def test_pooling_is_putting_images_one_after_the_other():
    first, second = simulated(0, count=30), Forecasts(np.array([0.5, 0.5]), np.array([1, 2]), np.array([2, 4]))
    pooled = pool([first, NONE, second])
    assert pooled.count.sum() == 36 and pooled.hits.sum() == first.hits.sum() + 3
    assert pooled.count[pooled.probability == 0.5].tolist() == [6]
    assert pooled.brier == pytest.approx((30 * first.brier + 6 * second.brier) / 36)


def test_equal_mass_by_hand():
    reliability = single([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], [0, 0, 1, 0, 1, 1]).by_mass(3)
    assert reliability.count.tolist() == [2, 2, 2]
    np.testing.assert_allclose(reliability.predicted, [0.15, 0.35, 0.55])
    np.testing.assert_allclose(reliability.observed, [0, 0.5, 1])


@pytest.mark.parametrize("seed", range(4))
def test_equal_probabilities_share_a_bin_in_any_order(seed):
    generator = np.random.default_rng(seed)
    probability, outcome = generator.integers(12, size=100) / 11, generator.integers(2, size=100)
    order = generator.permutation(100)
    bins, turned = (equal_mass(values, np.ones(100, np.int64), bins=5) for values in (probability, probability[order]))
    np.testing.assert_array_equal(turned, bins[order])
    assert all(len(set(bins[probability == value])) == 1 for value in np.unique(probability))
    assert (np.diff(bins[np.argsort(probability)]) >= 0).all() and set(bins) <= set(range(5))
    there, back = single(probability, outcome).by_mass(5), single(probability[order], outcome[order]).by_mass(5)
    assert there.ece == pytest.approx(back.ece)


def test_equal_probabilities_go_where_the_middle_one_belongs():
    # Places 2 to 6 of six: the middle one is the 4th, in the upper half.
    assert equal_mass(np.array([0.1, 0.2, 0.2, 0.2, 0.2, 0.2]), np.ones(6, np.int64), bins=2).tolist() == [
        0,
        1,
        1,
        1,
        1,
        1,
    ]


def test_distinct_probabilities_fill_bins_evenly():
    bins = equal_mass(np.random.default_rng(0).random(103), np.ones(103, np.int64), bins=10)
    assert set(np.bincount(bins)) <= {10, 11}


def test_one_value_is_one_bin():
    reliability = single([0.7] * 10, [1] * 7 + [0] * 3).by_mass(10)
    assert reliability.count.tolist() == [10]
    assert reliability.ece == pytest.approx(0)


def test_without_forecasts_every_measure_is_nan():
    assert math.isnan(NONE.brier) and math.isnan(NONE.log_loss())
    for reliability in (NONE.by_value(), NONE.by_mass(), pool([NONE, NONE]).by_value()):
        assert reliability.predicted.shape == reliability.observed.shape == reliability.count.shape == (0,)
        assert math.isnan(reliability.ece)


@pytest.mark.parametrize(
    ("probability", "hits", "count", "message"),
    [
        ([1.1], [0], [1], "not a probability"),
        ([np.nan], [0], [1], "not a probability"),
        ([0.5], [2], [1], "more hits"),
        ([0.5], [-1], [1], "negative"),
        ([0.5, 0.5], [1], [1], "shapes"),
    ],
)
def test_what_is_no_forecast_is_refused(probability, hits, count, message):
    with pytest.raises(ValueError, match=message):
        Forecasts(np.array(probability), np.array(hits), np.array(count))


def test_bad_options_are_refused():
    with pytest.raises(ValueError, match="bins"):
        simulated().by_mass(0)
    with pytest.raises(ValueError, match="clip"):
        simulated().log_loss(clip=0.0)
    with pytest.raises(ValueError, match="nothing to pool"):
        pool([])


# -------------------------------------------------------------------------------------------------------- existence


def row_of(*spans, scores=None):
    """Objects of one row of 12 pixels from (start, stop)."""
    boxes = [[[0, start], [1, stop]] for start, stop in spans]
    masks = [np.ones((1, stop - start), bool) for start, stop in spans]
    return Instances.from_crops(boxes, masks, (1, 12), scores=scores)


def test_the_surer_of_two_claimants_gets_the_object():
    truth = row_of((0, 6))
    found = row_of((0, 6), (0, 4), (8, 12), scores=[0.6, 0.9, 0.2])
    assert match(truth, found, min_iou=0.5).pairs.tolist() == [[0, 0]], "test invalid: the optimal matching agrees"
    forecasts = existence_forecasts(truth, found)
    assert forecasts.probability.tolist() == [0.6, 0.9, 0.2]
    assert forecasts.hits.tolist() == [0, 1, 0]
    assert forecasts.count.tolist() == [1, 1, 1]


def test_an_object_exists_from_the_iou_on():
    truth, found = row_of((0, 6)), row_of((0, 3), scores=[0.5])
    assert existence_forecasts(truth, found).hits.tolist() == [1]
    assert existence_forecasts(truth, found, min_iou=0.51).hits.tolist() == [0]


def test_empty_sides_of_existence():
    nothing = Instances.empty((1, 12))
    assert existence_forecasts(nothing, row_of((0, 3), scores=[0.5])).hits.tolist() == [0]
    assert existence_forecasts(row_of((0, 3)), nothing).count.size == 0
    assert math.isnan(existence_forecasts(nothing, nothing).brier)


# ------------------------------------------------------------------------------------------------------------ masks


def hypotheses(*rows, draws, existence):
    """Hypotheses about one row of pixels from their counts; the box is the row."""
    counts = tuple(np.array([row], np.uint8) for row in rows)
    boxes = np.array([[[0, 0], [1, len(row)]] for row in rows])
    members = tuple(tuple((draw, 0) for draw in range(max(row))) for row in rows)
    conflicts = np.zeros((0, 2), np.int64)
    return ProbabilisticInstances(boxes, counts, draws, np.array(existence), members, conflicts, counts[0].shape)


def test_masks_by_hand():
    found = hypotheses([4, 4, 3, 1, 0, 0], [0, 0, 0, 0, 2, 1], draws=4, existence=[1.0, 0.5])
    truth = Instances.from_labels(np.array([[1, 1, 0, 1, 1, 0]]))  # IoU of the first: 2 or 3 of 5 pixels
    forecasts = mask_forecasts(truth, found, min_iou=0.4)
    np.testing.assert_allclose(forecasts.probability, [0, 1 / 4, 2 / 4, 3 / 4, 1])
    # The second has no partner: none of its pixels is true, though the truth has one of them.
    assert forecasts.count.tolist() == [2 + 4, 1 + 1, 0 + 1, 1, 2]
    assert forecasts.hits.tolist() == [1, 1, 0, 0, 2]
    assert forecasts.by_value().count.tolist() == [6, 2, 1, 1, 2]


def drawn(seed, shape=(20, 24), *, draws=5):
    """Overlapping rectangles, and draws that move or lose them."""
    generator = np.random.default_rng(seed)
    masks = np.zeros((4, *shape), bool)
    for mask in masks:
        y, x = generator.integers(0, 14, 2)
        mask[y : y + generator.integers(3, 8), x : x + generator.integers(3, 8)] = True
    seen = []
    for _ in range(draws):
        moved = [np.roll(mask, int(generator.integers(-1, 2)), axis=int(generator.integers(2))) for mask in masks]
        seen.append(Instances.from_masks([mask for mask in moved if generator.random() < 0.8], shape))
    return Instances.from_masks(masks, shape), CompleteLinkage()(seen)


@pytest.mark.parametrize("seed", range(5))
def test_masks_pixel_by_pixel(seed):
    truth, found = drawn(seed)
    partner = {column: row for row, column in match_greedily(truth, found.hypotheses(), min_iou=0.5).pairs.tolist()}
    assert 0 < len(partner) <= len(truth), "test invalid: no partner"
    rows = {}
    for hypothesis, (start, _) in enumerate(found.boxes):
        true = truth.to_masks()[partner[hypothesis]] if hypothesis in partner else np.zeros(found.shape, bool)
        for place, count in np.ndenumerate(found.counts[hypothesis]):
            hits, total = rows.get(int(count), (0, 0))
            rows[int(count)] = hits + bool(true[tuple(start + place)]), total + 1
    forecasts = mask_forecasts(truth, found)
    expected = [rows.get(count, (0, 0)) for count in range(found.draws + 1)]
    assert list(zip(forecasts.hits.tolist(), forecasts.count.tolist(), strict=True)) == expected


def test_empty_sides_of_masks():
    truth, found = drawn(0)
    nothing = ProbabilisticInstances.empty(found.shape, draws=5)
    for forecasts in (mask_forecasts(truth, nothing), mask_forecasts(Instances.empty(found.shape), nothing)):
        assert forecasts.count.tolist() == [0] * 6
        assert math.isnan(forecasts.brier) and math.isnan(forecasts.by_value().ece)
    false = mask_forecasts(Instances.empty(found.shape), found)
    assert false.hits.sum() == 0 and false.count.sum() == sum(counts.size for counts in found.counts)


def test_images_of_different_shape_are_refused():
    truth, found = drawn(0)
    for other in (Instances.empty((3, 3)),):
        with pytest.raises(ValueError, match=r"\(3, 3\)"):
            mask_forecasts(other, found)
        with pytest.raises(ValueError, match=r"\(3, 3\)"):
            existence_forecasts(other, truth)


# -------------------------------------------------------------------------------------------------------------- IoU


def test_iou_by_hand():
    reliability = iou_reliability([0.6, 0.9, 0.5, 0.8], [0.5, 1.0, 0.0, 0.6], thresholds=[0.5, 0.85], bins=2)
    np.testing.assert_allclose(reliability.predicted, [0.55, 0.85])
    np.testing.assert_allclose(reliability.observed, [0.25, 0.8])
    assert reliability.count.tolist() == [2, 2]
    np.testing.assert_allclose(reliability.above, [[0, 0], [1, 0.5]])  # 0.5 is not above 0.5
    np.testing.assert_allclose(reliability.predicted_above, [0.75, 0.25])
    np.testing.assert_allclose(reliability.observed_above, [0.5, 0.25])


def test_a_perfect_prediction_of_the_iou():
    values = np.random.default_rng(0).random(500)
    reliability = iou_reliability(values, values, thresholds=[0.2, 0.5, 0.9], bins=5)
    np.testing.assert_array_equal(reliability.predicted, reliability.observed)
    np.testing.assert_array_equal(reliability.predicted_above, reliability.observed_above)
    np.testing.assert_allclose(reliability.count @ reliability.above / 500, reliability.observed_above)
    assert (np.diff(reliability.above, axis=0) >= 0).all()


def test_no_object_to_compare():
    reliability = iou_reliability([], [], thresholds=[0.5, 0.75])
    assert reliability.count.shape == (0,) and reliability.above.shape == (0, 2)
    assert np.isnan(reliability.predicted_above).all() and np.isnan(reliability.observed_above).all()


@pytest.mark.parametrize(
    ("predicted", "observed", "message"),
    [([0.5], [0.5, 0.6], "shapes"), ([np.nan], [0.5], "agreement is NaN"), ([0.5], [1.5], r"not in \[0, 1\]")],
)
def test_what_is_no_iou_is_refused(predicted, observed, message):
    with pytest.raises(ValueError, match=message):
        iou_reliability(predicted, observed)
    with pytest.raises(ValueError, match="bins"):
        iou_reliability([0.5], [0.5], bins=0)
