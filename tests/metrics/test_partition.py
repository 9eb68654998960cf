"""Both scores against counts over all pairs of pixels, the script's formulas, scikit-learn and scikit-image."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from scipy.stats import entropy
from skimage.io import imread
from skimage.metrics import adapted_rand_error, variation_of_information
from sklearn.metrics import homogeneity_completeness_v_measure

from plurimask.metrics.partition import (
    THRESHOLDS,
    Agreement,
    PartitionScores,
    ThresholdScores,
    cells,
    filled,
    score_labels,
    score_map,
    thinned,
)

SEEDS = st.integers(0, 2**32 - 1)

# Two cells that touch at a gap of the membrane (x), and a proposal that closes the gap.
TRUTH = """
    11111.22222
    11111.22222
    11111.22222
    .....x.....
    33333.44444
    33333.44444
"""


def drawn(text):
    """``(Y, X)`` int: digits are labels, all else is 0."""
    return np.array([[int(c) if c.isdigit() else 0 for c in line.strip()] for line in text.strip().splitlines()])


def random_labels(generator, *, shape, highest, holes):
    """Labels 1 to ``highest``, with ``holes`` as the share of pixels at 0."""
    labels = generator.integers(1, highest + 1, shape)
    labels[generator.random(shape) < holes] = 0
    return labels


def smooth_map(generator, shape):
    """A probability map with some structure, from 0 to 1."""
    noise = ndimage.gaussian_filter(generator.normal(size=shape), (*[0] * (len(shape) - 2), 1.0, 1.0))
    return (noise - noise.min()) / np.ptp(noise)


def pair_counts(truth, found):
    """Ordered pairs of true pixels, a pixel with itself included: in one cell, one segment, both.

    A pixel at 0 of ``found`` shares its segment with itself alone.
    """
    a, b = truth[truth > 0], found[truth > 0]
    same_cell = a[:, None] == a[None]
    same_segment = ((b[:, None] == b[None]) & (b[:, None] > 0)) | np.eye(len(b), dtype=bool)
    return same_cell.sum(), same_segment.sum(), (same_cell & same_segment).sum()


def official(truth, found):
    """F of V_Rand and V_Info by the script's formulas, with the terms of the dams (docs/algorithms.md, 7.6)."""
    pixels = truth > 0
    n = np.count_nonzero(pixels)
    p = np.zeros((truth.max() + 1, found.max() + 1))
    for i, j in zip(truth[pixels], found[pixels], strict=True):
        p[i, j] += 1 / n
    a, b, on_dams = p.sum(axis=1), p.sum(axis=0)[1:], p[:, 0].sum()
    sum_a, sum_b = (a**2).sum(), (b**2).sum() + on_dams / n
    sum_ab = (p[:, 1:] ** 2).sum() + on_dams / n
    h_a, h_b = entropy(a) * a.sum(), plogp(b) + on_dams * math.log(n)
    h_ab = plogp(p[:, 1:]) + on_dams * math.log(n)
    return 2 * sum_ab / (sum_a + sum_b), 2 * (h_a + h_b - h_ab) / (h_a + h_b)


def plogp(p):
    return -sum(value * math.log(value) for value in p.ravel() if value > 0)


def test_split_and_merge_counted_by_hand():
    # 8 true pixels, 4 and 4. Cut into 2 + 2 and 4: pairs in one cell 32, in one segment 4 + 4 + 16, in both the same.
    truth = drawn("11112222")
    scores = score_labels(truth, drawn("55663333"))
    assert scores.rand.split == pytest.approx([24 / 32])
    assert scores.rand.merge.tolist() == [1.0]
    assert scores.rand.score == pytest.approx(2 * 24 / (32 + 24))
    # In bits: H(truth) = 1, H(found) = 1.5, all of the truth is known.
    assert scores.info.split == pytest.approx([1 / 1.5])
    assert scores.info.merge == pytest.approx([1.0])
    assert scores.info.score == pytest.approx(2 / 2.5)


def test_merging_lowers_merge_alone():
    scores = score_labels(drawn("11223333"), drawn("77778888"))
    assert scores.rand.split.tolist() == [1.0]
    assert scores.rand.merge == pytest.approx([24 / 32])
    assert scores.info.split == pytest.approx([1.0])
    assert scores.info.merge == pytest.approx([1 / 1.5])


@pytest.mark.parametrize("seed", range(20))
def test_rand_is_a_count_over_all_pairs_of_pixels(seed):
    generator = np.random.default_rng(seed)
    truth = random_labels(generator, shape=(7, 9), highest=5, holes=0.3)
    found = random_labels(generator, shape=(7, 9), highest=6, holes=0)
    in_cell, in_segment, in_both = pair_counts(truth, found)
    scores = score_labels(truth, found)
    assert scores.rand.split == pytest.approx([in_both / in_cell])
    assert scores.rand.merge == pytest.approx([in_both / in_segment])
    assert scores.rand.score == pytest.approx(2 * in_both / (in_cell + in_segment))


# Seeds with true pixels on dams.
@pytest.mark.parametrize("seed", [0, 1, 2, 4, 6, 7, 8, 9, 10, 11])
def test_the_map_s_rand_is_a_count_in_which_a_dam_pixel_is_alone(seed):
    generator = np.random.default_rng(seed)
    mask, probability = smooth_map(generator, (16, 18)) > 0.4, smooth_map(generator, (16, 18))
    scores = score_map(mask, probability, thresholds=[0.6])
    truth, found = ndimage.label(mask)[0], thinned(probability > 0.6)
    assert (found[mask] == 0).any(), "test invalid: no true pixel lies on a dam"
    in_cell, in_segment, in_both = pair_counts(truth, found)
    assert scores.rand.split == pytest.approx([in_both / in_cell])
    assert scores.rand.merge == pytest.approx([in_both / in_segment])
    rand, info = official(truth, found)
    assert scores.rand.score == pytest.approx(rand)
    assert scores.info.score == pytest.approx(info)


@pytest.mark.parametrize("seed", range(10))
def test_against_scikit_image(seed):
    """Its Rand F leaves out the pairs of a pixel with itself; its precision and recall are exchanged and not used."""
    generator = np.random.default_rng(seed)
    truth = random_labels(generator, shape=(20, 20), highest=5, holes=0.2)
    found = np.where(generator.random(truth.shape) < 0.7, np.maximum(truth, 1), generator.integers(1, 9, truth.shape))
    scores = score_labels(truth, found)
    a, b = truth[truth > 0], found[truth > 0]
    counts_a, counts_b = np.bincount(a)[1:], np.bincount(b)[1:]
    in_cell, in_segment, n = (counts_a**2).sum(), (counts_b**2).sum(), len(a)
    error, _, _ = adapted_rand_error(truth, found, ignore_labels=(0,))
    in_both = (1 - error) * (in_cell + in_segment - 2 * n) / 2 + n
    assert scores.rand.score == pytest.approx(2 * in_both / (in_cell + in_segment))
    assert scores.rand.split == pytest.approx([in_both / in_cell])
    assert scores.rand.merge == pytest.approx([in_both / in_segment])
    found_given_truth, truth_given_found = variation_of_information(a, b)
    h_a, h_b = entropy(counts_a, base=2), entropy(counts_b, base=2)
    assert scores.info.split == pytest.approx([1 - found_given_truth / h_b])
    assert scores.info.merge == pytest.approx([1 - truth_given_found / h_a])
    assert scores.info.score == pytest.approx(1 - (found_given_truth + truth_given_found) / (h_a + h_b))


@settings(max_examples=60, deadline=None)
@given(seed=SEEDS, highest=st.tuples(st.integers(1, 5), st.integers(1, 5)))
def test_info_is_scikit_learn_s_v_measure(seed, highest):
    """Homogeneity is I / H(truth), completeness I / H(found), both 1 where the entropy is 0."""
    generator = np.random.default_rng(seed)
    truth = random_labels(generator, shape=(6, 6), highest=highest[0], holes=0.2)
    found = random_labels(generator, shape=(6, 6), highest=highest[1], holes=0)
    homogeneity, completeness, v_measure = homogeneity_completeness_v_measure(truth[truth > 0], found[truth > 0])
    info = score_labels(truth, found).info
    assert info.merge == pytest.approx([homogeneity], abs=1e-12)
    assert info.split == pytest.approx([completeness], abs=1e-12)
    assert info.score == pytest.approx(v_measure, abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(seed=SEEDS)
def test_numbers_do_not_matter_and_equal_is_one(seed):
    generator = np.random.default_rng(seed)
    truth = random_labels(generator, shape=(2, 6, 7), highest=4, holes=0.3)
    found = random_labels(generator, shape=(2, 6, 7), highest=4, holes=0)
    others = np.array([0, *generator.permutation([3, 10, 2**31, 2**62])])
    scores, renamed = score_labels(truth, found), score_labels(others[truth], others[found])
    np.testing.assert_allclose(renamed.rand.f, scores.rand.f)
    np.testing.assert_allclose(renamed.info.f, scores.info.f, atol=1e-12)
    same = score_labels(truth, others[truth])
    for agreement in (same.rand, same.info):
        np.testing.assert_allclose([agreement.split, agreement.merge], 1)
    for agreement in (scores.rand, scores.info):
        assert ((agreement.split >= 0) & (agreement.split <= 1)).all()
        assert ((agreement.merge >= 0) & (agreement.merge <= 1)).all()


def test_what_is_found_on_true_membranes_does_not_count():
    truth, found = drawn("11.22"), drawn("33344")
    assert score_labels(truth, found).rand.score == 1.0
    changed = found.copy()
    changed[0, 2] = 9
    assert score_labels(truth, changed).info.score == pytest.approx(1.0)


def test_the_score_of_a_stack_is_the_mean_over_its_slices():
    generator = np.random.default_rng(3)
    truth = random_labels(generator, shape=(3, 8, 8), highest=4, holes=0.2)
    found = random_labels(generator, shape=(3, 8, 8), highest=4, holes=0)
    found[1] = truth[1]
    scores = score_labels(truth, found)
    single = [score_labels(*pair) for pair in zip(truth, found, strict=True)]
    np.testing.assert_allclose(scores.rand.f, [one.rand.score for one in single])
    assert scores.rand.score == pytest.approx(np.mean([one.rand.score for one in single]))
    assert scores.info.score == pytest.approx(np.mean([one.info.score for one in single]))


# One segment in truth, in the proposal, in both. F of the script for Fiji: 0, 0, and 0 in the third case, too.
@pytest.mark.parametrize(
    ("truth", "found", "info", "rand"),
    [
        ("111111", "223344", (0.0, 1.0, 0.0), (1 / 3, 1.0, 1 / 2)),
        ("112233", "444444", (1.0, 0.0, 0.0), (1.0, 1 / 3, 1 / 2)),
        ("111111", "444444", (1.0, 1.0, 1.0), (1.0, 1.0, 1.0)),
    ],
)
def test_one_segment(truth, found, info, rand):
    scores = score_labels(drawn(truth), drawn(found))
    assert (scores.info.split[0], scores.info.merge[0], scores.info.score) == info
    assert (scores.rand.split[0], scores.rand.merge[0], scores.rand.score) == pytest.approx(rand)


def test_nothing_known_is_zero():
    scores = score_labels(drawn("1122"), drawn("1212"))
    assert scores.info.score == pytest.approx(0.0)
    assert scores.rand.score == pytest.approx(1 / 2)
    assert Agreement(np.zeros(2), np.zeros(2)).f.tolist() == [0.0, 0.0]


def test_nothing_found_is_one_segment_in_labels_and_in_maps():
    truth = drawn(TRUTH)
    nothing = score_labels(truth, np.zeros_like(truth))
    whole = score_labels(truth, np.ones_like(truth))
    mapped = score_map(truth > 0, np.zeros(truth.shape))
    for scores in (nothing, mapped):
        assert (scores.rand.split[0], scores.info.score) == (1.0, 0.0)
        assert scores.rand.score == pytest.approx(whole.rand.score)


def test_gaps_between_objects_are_filled_from_around():
    found = drawn("1...2")
    assert filled(found, np.ones((1, 5), bool)).tolist() == [[1, 1, 2, 2, 2]]
    # The region is complete after one step; the rest is left.
    assert filled(drawn("1....2"), np.array([[1, 1, 0, 0, 1, 1]], bool)).tolist() == [[1, 1, 0, 0, 2, 2]]
    # A label of a corner arrives over the corner, and from outside the region.
    assert filled(drawn("3.\n.."), np.array([[0, 0], [0, 1]], bool)).tolist() == [[3, 3], [3, 3]]
    complete = drawn("12")
    assert filled(complete, np.ones((1, 2), bool)) is complete


def test_labels_with_gaps_are_scored_as_the_filled_ones():
    truth = drawn(TRUTH)
    shrunk = np.where(ndimage.minimum_filter(truth, size=3) == truth, truth, 0)
    assert (shrunk[truth > 0] == 0).any(), "test invalid: there is no gap"
    scores = score_labels(truth, shrunk)
    assert (scores.rand.score, scores.info.score) == pytest.approx((1.0, 1.0))


def test_cells_touch_by_edges_and_belong_to_one_slice():
    mask = np.array([[[1, 0], [0, 1]], [[1, 1], [0, 1]]], bool)
    assert cells(mask).tolist() == [[[1, 0], [0, 2]], [[1, 1], [0, 1]]]


def test_a_thick_membrane_becomes_a_dam_of_one_pixel():
    assert thinned(drawn("11...22") > 0).tolist() == [[1, 1, 1, 0, 2, 2, 2]]
    # Of even width, the left and the upper side grow first.
    assert thinned(drawn("11....22") > 0).tolist() == [[1, 1, 1, 1, 0, 2, 2, 2]]
    assert thinned(drawn("11....22").T > 0).tolist() == [[1], [1], [1], [1], [0], [2], [2], [2]]
    # A membrane that ends inside a cell is no border of anything.
    assert (thinned(np.array([[1, 1, 1], [1, 0, 0], [1, 1, 1]], bool)) == 1).all()
    cross = thinned(drawn(TRUTH) > 0)
    np.testing.assert_array_equal(cross, drawn(TRUTH))
    assert (thinned(np.zeros((3, 3), bool)) == 1).all()
    assert (thinned(np.ones((3, 3), bool)) == 1).all()


def test_ties_are_decided_column_by_column():
    # Shore, in this order: (1, 0) and (2, 1) next to 2, between them (1, 1) in column 1, then (0, 2), (2, 2) next to 1.
    # (1, 1) and (2, 2) meet both labels. Of the last two, (0, 0) was seen first and is 2, so that (0, 1) meets both.
    # Row by row, (0, 1) would be first and take the 1 of (0, 2).
    assert thinned(drawn("...\n..1\n1..") > 0).tolist() == [[2, 0, 1], [2, 0, 1], [2, 2, 0]]


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS)
def test_thinning_keeps_the_cells_apart_and_whole(seed):
    mask = smooth_map(np.random.default_rng(seed), (16, 17)) > 0.5
    segments, parts = thinned(mask), cells(mask)
    assert (segments[mask] == parts[mask]).all(), "a cell was changed"
    assert set(np.unique(segments[segments > 0])) == set(np.unique(parts[mask]))
    for axis in (0, 1):
        one, other = np.moveaxis(segments, axis, 0)[:-1], np.moveaxis(segments, axis, 0)[1:]
        assert ((one == other) | (one == 0) | (other == 0)).all(), "two segments touch"
    for segment in range(1, parts.max() + 1):
        assert ndimage.label(segments == segment)[1] == 1


def test_a_perfect_map_is_one_and_a_hole_in_a_membrane_joins_two_cells():
    truth = drawn(TRUTH) > 0
    perfect = score_map(truth, truth)
    assert (perfect.rand.score, perfect.info.score) == pytest.approx((1.0, 1.0))
    assert perfect.thresholds == (0.0,)
    holed = truth.copy()
    holed[1, 5] = True
    scores = score_map(truth, holed)
    # 15 + 15 pixels in one segment, 10 and 10.
    assert scores.rand.split.tolist() == [1.0]
    assert scores.rand.merge == pytest.approx([(15**2 + 15**2 + 200) / (30**2 + 200)])


def test_a_thick_membrane_costs_next_to_nothing_in_a_map():
    """What thinning is for: without it the proposal would lose more than a third of its true pixels."""
    truth = drawn(TRUTH) > 0
    thick = ~ndimage.binary_dilation(~truth)
    assert np.count_nonzero(thick) < 2 / 3 * np.count_nonzero(truth), "test invalid: the membrane is hardly thicker"
    assert score_map(truth, thick).rand.score == 1.0


def test_thresholds_are_those_of_the_script():
    np.testing.assert_allclose(THRESHOLDS, [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
    added = 0.0
    for threshold in THRESHOLDS:
        assert threshold == added
        added += 0.1
    assert THRESHOLDS[-1] < 1


def test_of_a_binary_map_all_thresholds_say_the_same():
    generator = np.random.default_rng(1)
    truth, found = smooth_map(generator, (2, 15, 15)) > 0.4, smooth_map(generator, (2, 15, 15)) > 0.5
    every = score_map(truth, found, thresholds=THRESHOLDS)
    single = score_map(truth, found.astype(np.float32))
    assert single.thresholds == (0.0,)
    for scores in every.scores:
        np.testing.assert_array_equal(scores.rand.f, single.rand.f)
        np.testing.assert_array_equal(scores.info.f, single.info.f)


def test_what_equals_the_threshold_is_membrane_in_float32_too():
    truth = drawn("11.22") > 0
    membrane = np.array([[1, 1, 0.5, 1, 1]])
    assert score_map(truth, membrane, thresholds=[0.5]).rand.score == 1.0
    assert score_map(truth, membrane, thresholds=[0.49]).rand.score < 1.0
    # As a float32, 0.1 is larger than 0.1: above the threshold, as in the script, which compares it with a double.
    above = membrane.astype(np.float32)
    above[0, 2] = 0.1
    assert score_map(truth, above, thresholds=[0.1]).rand.score < 1.0


def test_the_maximum_is_that_of_the_average_over_slices():
    """Two slices whose membranes are seen at different thresholds: none serves both."""
    truth = np.stack([drawn("1111.2222") > 0] * 2)
    probability = np.ones(truth.shape)
    probability[0, :, 4] = 0.75  # membrane from 0.8 on
    probability[1, :, 4] = 0.0  # membrane at every threshold
    probability[1, :, 2] = 0.5  # cuts a cell from 0.5 on
    scores = score_map(truth, probability)
    table = np.array([one.rand.f for one in scores.scores])
    assert table.shape == (11, 2)
    assert table.max(axis=0) == pytest.approx([1, 1])
    assert scores.rand.score == pytest.approx(table.mean(axis=1).max())
    assert scores.rand.score < 1, "test invalid: one threshold serves both slices"
    # Joined: 8 of 8 in one, truth 32, found 64. Cut: on the dam 1, segments 2 + 1 + 4, in both the same, truth 32.
    joined, cut = 2 * 32 / (32 + 64), 2 * 22 / (32 + 22)
    assert scores.rand.score == pytest.approx(max((joined + 1) / 2, (1 + cut) / 2))
    assert scores.rand_threshold == pytest.approx(0.8)


def test_each_score_has_its_own_threshold_and_the_first_of_equals():
    def agreement(f):
        return Agreement(np.array([f]), np.array([f]))

    scores = tuple(
        PartitionScores(agreement(rand), agreement(info)) for rand, info in [(0.5, 0.9), (0.8, 0.1), (0.8, 0.2)]
    )
    summary = ThresholdScores((0.1, 0.2, 0.3), scores)
    assert (summary.rand_threshold, summary.info_threshold) == (0.2, 0.1)
    assert (summary.rand.score, summary.info.score) == pytest.approx((0.8, 0.9))


def test_what_cannot_be_scored_is_refused():
    truth = drawn("1122")
    with pytest.raises(ValueError, match=r"\(1, 4\).*\(1, 3\)"):
        score_labels(truth, truth[:, :3])
    with pytest.raises(ValueError, match=r"\(4,\)"):
        score_labels(truth[0], truth[0])
    with pytest.raises(ValueError, match=r"slice \[1\] of the 2"):
        score_labels(np.stack([truth, 0 * truth]), np.stack([truth, truth]))
    with pytest.raises(ValueError, match=r"slice \[0\] of the 1"):
        score_map(np.zeros((2, 2), bool), np.zeros((2, 2)))
    with pytest.raises(ValueError, match="nothing to score"):
        score_labels(np.zeros((0, 4, 4), int), np.zeros((0, 4, 4), int))
    with pytest.raises(ValueError, match="found is of type float64"):
        score_labels(truth, truth * 0.5)
    with pytest.raises(ValueError, match="truth is of type int64 and goes down to -1"):
        score_labels(truth - 2, truth)


def test_maps_are_checked():
    truth = drawn("11.22") > 0
    with pytest.raises(ValueError, match="truth is of type int64"):
        score_map(drawn("11.22"), truth)
    with pytest.raises(ValueError, match=r"reach from 0\.0 to 255\.0"):
        score_map(truth, 255 * truth)
    with pytest.raises(ValueError, match="nan"):
        score_map(truth, np.where(truth, np.nan, 0))
    with pytest.raises(ValueError, match="thresholds"):
        score_map(truth, truth, thresholds=[])
    with pytest.raises(ValueError, match="thresholds"):
        score_map(truth, truth, thresholds=[0.5, 1.5])
    with pytest.raises(ValueError, match=r"\(1, 5\).*\(1, 4\)"):
        score_map(truth, truth[:, :4])


@pytest.mark.data
def test_a_real_slice_agrees_with_itself_and_with_its_labels(real_data):
    """Labels and map of the same cells differ by where gaps are divided, and by the dams."""
    truth = imread(real_data / "isbi2012" / "label" / "00.png")[:256, :256] > 0
    found = ndimage.distance_transform_edt(truth) > 5  # cells fall apart where they are narrow
    mapped, labelled = score_map(truth, found), score_labels(cells(truth), cells(found))
    assert max(mapped.info.split[0], mapped.info.merge[0]) < 0.99, "test invalid: nothing is cut or joined"
    assert mapped.rand.score == pytest.approx(labelled.rand.score, abs=0.01)
    assert mapped.info.score == pytest.approx(labelled.info.score, abs=0.01)
    same = score_map(truth, truth)
    assert (same.rand.score, same.info.score) == pytest.approx((1.0, 1.0))
