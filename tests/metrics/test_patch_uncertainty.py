"""Patches counted by hand on drawn scenes, by plain loops, and under what must change nothing."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest

from plurimask.agglomerate import CompleteLinkage
from plurimask.instances import Instances
from plurimask.metrics.bootstrap import Interval
from plurimask.metrics.matching import match
from plurimask.metrics.patch_uncertainty import MEASURES, THRESHOLDS, PatchCurve, Patches, curve, patches
from plurimask.probabilistic import ProbabilisticInstances

H_HALF, H_QUARTER, H_EIGHTH = math.log(2), 0.5623351446188083, 0.37677016125643675


def one_hypothesis(counts, *, draws=8):
    """A single hypothesis whose box is the image."""
    counts = np.asarray(counts, np.uint8)
    members = (tuple((draw, 0) for draw in range(draws)),)
    box = np.array([[[0] * counts.ndim, counts.shape]])
    return ProbabilisticInstances(box, (counts,), draws, np.ones(1), members, np.zeros((0, 2), np.int64), counts.shape)


def scene():
    """One object over six patches of 4 x 4, and 2 columns and 1 row that are no whole patch (right, below).

    ::

        A: sure, and right            B: 7 of 15 right, 1 pixel at 1/2   C: missed, 2 pixels of truth    ragged
        D: all 16 at 3/4, and right   E: one pixel at 1/8, nothing else  F: one pixel at 1/8, 2 of truth ragged
    """
    counts, true = np.zeros((9, 14), np.uint8), np.zeros((9, 14), bool)
    a, b, c = (np.s_[:4, 4 * column : 4 * column + 4] for column in range(3))
    d, e, f = (np.s_[4:8, 4 * column : 4 * column + 4] for column in range(3))
    counts[a], counts[b], counts[d] = 8, 8, 6
    counts[b][0, 0], counts[e][1, 1], counts[f][1, 1] = 4, 1, 1
    true[a], true[d] = True, True
    true[b][3, :], true[b][2, 1:] = True, True
    true[c][0, :2], true[f][3, 2:] = True, True
    counts[8, :], true[:, 12:] = 8, True
    return one_hypothesis(counts), Instances.from_masks([true], true.shape)


def ordered(found):
    """The patches as rows (entropy, accurate) in rising order."""
    return sorted(zip(found.entropy.round(12).tolist(), found.accurate.tolist(), strict=True))


def test_counted_by_hand():
    found, truth = scene()
    measured = patches(truth, found, found.threshold(0.75), min_iou=0.4)
    expected = {
        "A": (0.0, True),
        "B": (H_HALF / 16, False),
        "C": (0.0, False),
        "D": (H_QUARTER, True),
        "F": (H_EIGHTH / 16, False),
    }
    assert ordered(measured) == sorted((round(entropy, 12), right) for entropy, right in expected.values())
    # At 0.03 certain are A, C, F; at 0.05 also B; below ln(2) all.
    assert measured.counts([0.03, 0.05, 0.6]).tolist() == [[1, 1, 2, 1], [1, 1, 3, 0], [2, 0, 3, 0]]
    pooled = curve([measured], [0.03, 0.05, 0.6])
    assert pooled.at(0.03) == pytest.approx(dict(zip(MEASURES, (1 / 3, 1 / 3, 2 / 5), strict=True)))
    np.testing.assert_allclose(pooled.p_accurate_if_certain, [1 / 3, 1 / 4, 2 / 5])
    np.testing.assert_allclose(pooled.p_uncertain_if_inaccurate, [1 / 3, 0, 0])
    np.testing.assert_allclose(pooled.pavpu, [2 / 5, 1 / 5, 2 / 5])


def test_the_truth_of_an_object_without_partner_is_empty():
    found, truth = scene()
    measured = patches(truth, found, found.threshold(0.75), min_iou=0.9)
    # C and F have no found pixel, and now no true one either; A, B, D are false.
    assert ordered(measured) == [(0.0, False), (round(H_HALF / 16, 12), False), (round(H_QUARTER, 12), False)]


def test_precision_of_exactly_one_half_is_accurate():
    for right, accurate in ((2, True), (1, False)):
        counts, true = np.zeros((4, 8), int), np.zeros((4, 8), bool)
        counts[0], true[0] = 8, [True] * right + [False] * (4 - right) + [True] * 4
        measured = patches(Instances.from_masks([true], true.shape), *counted(one_hypothesis(counts)))
        assert ordered(measured) == [(0.0, accurate), (0.0, True)]


def test_one_pixel_at_an_eighth_is_below_the_threshold_of_the_paper_and_three_are_above():
    for pixels in (1, 2, 3):
        counts = np.full((4, 4), 8)
        counts[0, :pixels] = 7
        found = one_hypothesis(counts)
        measured = patches(found.hypotheses(), found, found.threshold(0.75))
        assert measured.entropy == pytest.approx([pixels * H_EIGHTH / 16])
        assert curve([measured], [0.05]).counts.tolist() == [[[1, 0, 0, 0] if pixels < 3 else [0, 1, 0, 0]]]


@pytest.mark.parametrize(("shape", "size"), [((4, 40), 4), ((7, 7, 70), 7)])
def test_at_ln_2_nothing_is_uncertain(shape, size):
    # The second case is one in which the sum of the 343 entropies, each ln 2, is rounded upwards.
    found = one_hypothesis(np.full(shape, 4))
    measured = patches(found.hypotheses(), found, found.best(), size=size)
    assert measured.entropy == pytest.approx(np.full(10, math.log(2)))
    assert measured.counts([math.log(2)]).tolist() == [[10, 0, 0, 0]]


# ------------------------------------------------------------------------------------------------------ plain loops


def drawn(seed, shape=(24, 30), *, draws=8):
    """Overlapping rectangles; draws that lose them or move them by a pixel; a truth that is one pixel lower."""
    generator = np.random.default_rng(seed)
    masks = np.zeros((5, *shape), bool)
    for mask in masks:
        start = [int(generator.integers(0, side - 5)) for side in shape]
        mask[tuple(slice(at, at + int(generator.integers(5, 12))) for at in start)] = True
    seen = []
    for _ in range(draws):
        steps = generator.choice([-1, 0, 0, 0, 1], len(masks))
        moved = [np.roll(mask, step, axis=1) for mask, step in zip(masks, steps, strict=True)]
        seen.append(Instances.from_masks([mask for mask in moved if generator.random() < 0.95], shape))
    return Instances.from_masks(np.roll(masks, 1, axis=1), shape), CompleteLinkage()(seen)


def counted(found):
    return found, found.threshold(0.75)


def entropy_of(p):
    return 0.0 if p in (0, 1) else -p * math.log(p) - (1 - p) * math.log(1 - p)


def by_loops(truth, found, chosen, size):
    """Every patch of the image for every object, pixel by pixel."""
    rows = []
    partner = {column: row for row, column in match(truth, chosen, min_iou=0.5).pairs.tolist()}
    for index, mask in enumerate(chosen.to_masks()):
        hypothesis = chosen.features["hypothesis"][index]
        shares = np.zeros(found.shape)
        start, stop = found.boxes[hypothesis]
        shares[tuple(map(slice, start, stop))] = found.counts[hypothesis] / found.draws
        true = truth.to_masks()[partner[index]] if index in partner else np.zeros(found.shape, bool)
        for corner in itertools.product(*(range(0, side - size + 1, size) for side in found.shape)):
            pixels = list(itertools.product(*(range(at, at + size) for at in corner)))
            positive = sum(mask[pixel] for pixel in pixels)
            hit = sum(mask[pixel] and true[pixel] for pixel in pixels)
            if positive or any(true[pixel] for pixel in pixels):
                entropy = sum(entropy_of(shares[pixel]) for pixel in pixels) / len(pixels)
                rows.append((round(entropy, 12), bool(positive and hit / positive >= 0.5)))
    return sorted(rows)


def test_the_scenes_of_the_loops_have_patches_of_every_kind():
    kinds = np.sum([patches(truth, *counted(found)).counts([0.05]) for truth, found in map(drawn, range(4))], axis=0)
    assert (kinds > 5).all(), "test invalid: too little to compare"


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("size", [1, 3, 4])
def test_plain_loops_agree(seed, size):
    truth, found = drawn(seed)
    for chosen in (found.threshold(0.75), found.best()):
        assert ordered(patches(truth, found, chosen, size=size)) == by_loops(truth, found, chosen, size)


def test_plain_loops_agree_in_a_volume():
    truth, found = drawn(0, (9, 10, 11))
    measured = patches(truth, found, found.best())
    assert ordered(measured) == by_loops(truth, found, found.best(), 4)
    assert measured.accurate.any() and (measured.entropy > 0).any(), "test invalid: nothing to see"


@pytest.mark.parametrize("seed", range(3))
def test_counts_are_those_of_plain_comparison(seed):
    generator = np.random.default_rng(seed)
    entropy, accurate = generator.integers(8, size=200) / 10, generator.random(200) < 0.6
    thresholds = [0.0, 0.1, 0.15, 0.3, 0.69, 0.8]
    expected = [
        [
            np.count_nonzero(accurate & (entropy <= t)),
            np.count_nonzero(accurate & (entropy > t)),
            np.count_nonzero(~accurate & (entropy <= t)),
            np.count_nonzero(~accurate & (entropy > t)),
        ]
        for t in thresholds
    ]
    assert Patches(entropy, accurate).counts(thresholds).tolist() == expected


# ------------------------------------------------------------------------------------------------------ invariances


@pytest.mark.parametrize("change", [np.flipud, np.fliplr, np.transpose, lambda image: np.pad(image, ((8, 0), (4, 4)))])
def test_mirrors_axes_and_whole_patches_of_margin_change_nothing(change):
    counts = np.zeros((20, 24), np.uint8)
    counts[2:18, 3:20] = np.random.default_rng(0).integers(0, 9, (16, 17))
    rows = []
    for seen in (counts, change(counts)):
        truth = Instances.from_masks([seen > 3], seen.shape)
        rows.append(ordered(patches(truth, *counted(one_hypothesis(seen)), min_iou=0.2)))
    assert len(rows[0]) > 10
    assert rows[1] == rows[0]


def test_the_order_of_objects_changes_nothing():
    truth, found = drawn(1)
    chosen = found.threshold(0.75)
    turned = patches(truth.select(np.arange(len(truth))[::-1]), found, chosen.select(np.arange(len(chosen))[::-1]))
    assert ordered(turned) == ordered(patches(truth, found, chosen))


def test_a_true_object_that_nobody_found_changes_nothing():
    found, truth = scene()
    missed = np.zeros(truth.shape, bool)
    missed[5:7, 9:12] = True
    more = Instances.from_masks([*truth.to_masks(), missed], truth.shape)
    chosen = found.threshold(0.75)
    assert ordered(patches(more, found, chosen, min_iou=0.4)) == ordered(patches(truth, found, chosen, min_iou=0.4))


def test_more_certainty_at_a_higher_threshold():
    pooled = curve([patches(truth, *counted(found)) for truth, found in map(drawn, range(4))])
    certain = pooled.counts.sum(axis=0)[:, [0, 2]]
    assert (np.diff(certain, axis=0) >= 0).all()
    assert (pooled.counts.sum(axis=2) == pooled.counts.sum(axis=2)[:, :1]).all()
    accurate = pooled.counts[:, -1, 0].sum() / pooled.counts[:, -1].sum()
    assert pooled.pavpu[-1] == pooled.p_accurate_if_certain[-1] == accurate
    assert pooled.p_uncertain_if_inaccurate[-1] == 0


# ---------------------------------------------------------------------------------------------------------- pooling


def of_counts(accurate_certain, accurate_uncertain, inaccurate_certain, inaccurate_uncertain):
    """Patches of entropy 0 (certain) and 0.5 (uncertain)."""
    numbers = [accurate_certain, accurate_uncertain, inaccurate_certain, inaccurate_uncertain]
    return Patches(np.repeat([0.0, 0.5, 0.0, 0.5], numbers), np.repeat([True, True, False, False], numbers))


def test_patches_are_pooled_and_not_images():
    pooled = curve([of_counts(1, 0, 1, 0), of_counts(8, 1, 0, 2)])
    assert pooled.at(0.05) == pytest.approx(dict(zip(MEASURES, (9 / 10, 2 / 3, 11 / 13), strict=True)))


def test_interval_over_two_images_by_hand():
    # The second image twice has no inaccurate patch: for p(uncertain|inaccurate) one resample in four says nothing.
    pooled = curve([of_counts(1, 0, 1, 1), of_counts(3, 1, 0, 0)])
    narrow, wide = (pooled.intervals(0.05, level=level) for level in (0.4, 0.6))
    assert narrow["p(uncertain|inaccurate)"] == Interval(1 / 2, 1 / 2, 1 / 2)
    assert wide["p(uncertain|inaccurate)"] == Interval(1 / 2, 0.0, 1.0)
    # PAvPU: 2/3 of the first twice, 5/7 of both, 3/4 of the second twice.
    assert narrow["PAvPU"] == Interval(5 / 7, 5 / 7, 5 / 7)
    assert wide["PAvPU"] == Interval(5 / 7, 2 / 3, 3 / 4)


def test_one_image_leaves_no_doubt_and_a_seed_is_a_result():
    one = curve([of_counts(3, 1, 2, 2)]).intervals(0.05, resamples=50)
    assert all(value.low == value.mean == value.high for value in one.values())
    many = curve([of_counts(*row) for row in np.random.default_rng(0).integers(1, 9, (12, 4))])
    found = many.intervals(0.05, resamples=500, seed=3)
    assert found == many.intervals(0.05, resamples=500, seed=3)
    assert {name: value.mean for name, value in found.items()} == many.at(0.05)
    assert all(value.low < value.mean < value.high for value in found.values())


def test_the_threshold_of_the_paper_is_on_the_curve():
    assert THRESHOLDS[0] == 0 and 0.05 in THRESHOLDS and THRESHOLDS[-1] == math.log(2)
    assert (np.diff(THRESHOLDS) > 0).all()
    with pytest.raises(ValueError, match="no value at"):
        curve([of_counts(1, 1, 1, 1)]).at(0.051)


# ------------------------------------------------------------------------------------------------------- degenerate


NOTHING = ProbabilisticInstances.empty((8, 8), draws=8)


def test_nothing_found():
    measured = patches(Instances.from_masks([np.ones((8, 8), bool)], (8, 8)), *counted(NOTHING))
    assert measured.entropy.shape == measured.accurate.shape == (0,)
    pooled = curve([measured])
    assert all(math.isnan(value) for value in pooled.at(0.05).values())
    assert all(np.isnan([v.mean, v.low, v.high]).all() for v in pooled.intervals(0.05, resamples=10).values())
    assert np.isnan(pooled.pavpu).all()


def test_no_truth():
    measured = patches(Instances.empty((8, 8)), *counted(one_hypothesis(np.full((8, 8), 8))))
    assert ordered(measured) == [(0.0, False)] * 4
    assert curve([measured]).at(0.05) == {MEASURES[0]: 0.0, MEASURES[1]: 0.0, MEASURES[2]: 0.0}


def test_neither_found_nor_true_and_an_empty_denominator_alone():
    empty = patches(Instances.empty((8, 8)), *counted(NOTHING))
    values = curve([empty, of_counts(2, 0, 0, 0)]).at(0.05)
    assert values[MEASURES[0]] == values[MEASURES[2]] == 1
    assert math.isnan(values[MEASURES[1]])


def test_an_object_in_the_ragged_border_or_an_image_below_a_patch_has_no_patch():
    counts = np.zeros((4, 6), int)
    counts[:, 4:] = 8
    for image in (counts, np.full((3, 3), 8)):
        found = one_hypothesis(image)
        assert len(patches(found.hypotheses(), found, found.threshold(0.75)).entropy) == 0


# -------------------------------------------------------------------------------------------------------- bad input


def test_objects_of_something_else_are_refused():
    found, truth = scene()
    chosen = found.threshold(0.75)
    with pytest.raises(ValueError, match="'hypothesis'"):
        patches(truth, found, replace(chosen, features={}))
    with pytest.raises(ValueError, match="only 1 were found"):
        patches(truth, found, replace(chosen, features={"hypothesis": np.array([1])}))
    with pytest.raises(ValueError, match=r"\(8, 8\)"):
        patches(truth, NOTHING, chosen)
    with pytest.raises(ValueError, match=r"\(8, 8\)"):
        patches(Instances.empty((8, 8)), found, chosen)
    with pytest.raises(ValueError, match="size must be"):
        patches(truth, found, chosen, size=0)


@pytest.mark.parametrize("thresholds", [[], [0.1, 0.1], [0.2, 0.1], [0.1, math.nan]])
def test_thresholds_must_rise(thresholds):
    with pytest.raises(ValueError, match="finite and rising"):
        curve([of_counts(1, 1, 1, 1)], thresholds)


def test_no_image_is_refused():
    with pytest.raises(ValueError, match="nothing to pool"):
        curve([])
    assert PatchCurve(np.array([0.0]), np.array([[[1, 0, 0, 0]]])).pavpu.tolist() == [1.0]
