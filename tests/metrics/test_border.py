"""The honesty of border sigmas: by hand, on made-up errors of known sigma, and against SciPy."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from plurimask.agglomerate import CompleteLinkage
from plurimask.instances import Instances
from plurimask.metrics.border import BorderErrors, SigmaScale, border_errors, pool, rank_correlation, summarise

NOTHING = Instances.empty((20, 30))


def block(start, stop, *, shape=(20, 30), **features):
    """One rectangle."""
    mask = np.ones(np.subtract(stop, start), bool)
    rows = {name: np.asarray(values, float)[None] for name, values in features.items()}
    return Instances.from_crops([[start, stop]], [mask], shape, features=rows)


def made_up(*, factor=1.0, sides=4000, seed=0, bias=0.0):
    """Gaussian errors whose standard deviation is the factor times what is said of it."""
    generator = np.random.default_rng(seed)
    sigmas = generator.uniform(0.2, 3, sides)
    errors = generator.normal(bias * sigmas, factor * sigmas)
    return BorderErrors(errors, sigmas, generator.integers(50, 500, sides))


def test_errors_by_hand():
    # Found: a row higher at the top, two rows lower at the bottom, equal at the left, a column too narrow at the right.
    truth, border = block((4, 6), (12, 16)), [[0.1, 0.2], [0.3, 0.4]]  # top, left; bottom, right
    sides = border_errors(truth, block((3, 6), (14, 15), border=border))
    assert sides.errors.tolist() == [1, 0, 2, -1]
    assert sides.sigmas.tolist() == [0.1, 0.2, 0.3, 0.4]
    assert sides.areas.tolist() == [80] * 4
    assert sides.ratios == pytest.approx([10, 0, 2 / 0.3, -1 / 0.4])


def test_a_contour_gives_fractions_of_a_pixel():
    # Through the centres of the border pixels of the truth, but for the top, which is 0.4 pixels too high.
    truth = block((4, 6), (12, 16))
    contour = [[3.6, 6], [3.6, 15], [11, 15], [11, 6]]
    found = block((4, 6), (12, 16), border=np.ones((2, 2)), contour=contour)
    assert border_errors(truth, found).errors == pytest.approx([0.4, 0, 0, 0])


def test_what_leaves_the_image_ends_at_its_edge():
    truth = block((4, 6), (12, 29))
    found = block((4, 6), (12, 30), border=np.ones((2, 2)), contour=[[4, 6], [4, 40], [11, 40], [11, 6]])
    assert border_errors(truth, found).errors.tolist() == [0, 0, 0, 1]


def test_boxes_wider_than_their_masks_are_not_taken_for_the_object():
    mask = np.zeros((12, 20), bool)
    mask[4:, 3:13] = True
    wide = Instances.from_crops([[[0, 3], [12, 23]]], [mask], (20, 30), features={"border": np.ones((1, 2, 2))})
    assert border_errors(block((4, 6), (12, 16)), wide).errors.tolist() == [0, 0, 0, 0]


def test_at_the_edge_of_the_image_nothing_is_known():
    truth = block((0, 6), (12, 30))
    found = block((1, 5), (13, 29), border=[[0.1, 0.2], [0.3, 0.4]])
    sides = border_errors(truth, found)
    assert sides.errors.tolist() == [1, 1] and sides.sigmas.tolist() == [0.2, 0.3]  # left, bottom


def test_without_partner_or_without_sigma_there_is_no_side():
    found = block((4, 6), (12, 16), border=np.ones((2, 2)))
    for truth, seen in ((NOTHING, found), (found, NOTHING), (block((4, 6), (12, 28)), found)):  # IoU 10 / 22
        assert len(border_errors(truth, seen)) == 0
    assert len(border_errors(found, replace(found, features={}))) == 0
    with pytest.raises(ValueError, match="has shape"):
        border_errors(Instances.empty((3, 3)), found)


def test_of_two_that_claim_an_object_the_surer_one_counts():
    truth = block((4, 6), (12, 16))
    both = [block((4, 6), (12, 15), border=np.ones((2, 2))), block((5, 6), (12, 16), border=np.ones((2, 2)))]
    masks, boxes = tuple(one.masks[0] for one in both), np.concatenate([one.boxes for one in both])
    for scores, errors in (([0.9, 0.5], [0, 0, 0, -1]), ([0.5, 0.9], [-1, 0, 0, 0])):
        found = Instances(boxes, masks, np.array(scores), (20, 30), {"border": np.ones((2, 2, 2))})
        assert border_errors(truth, found).errors.tolist() == errors


def test_volumes():
    truth = block((2, 3, 4), (6, 8, 9), shape=(10, 12, 14))
    found = block((2, 3, 3), (7, 8, 9), shape=(10, 12, 14), border=np.arange(1.0, 7).reshape(2, 3))
    sides = border_errors(truth, found)
    assert sides.errors.tolist() == [0, 0, 1, 1, 0, 0] and sides.sigmas.tolist() == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("factor", [0.25, 1.0, 3.0])
def test_the_factor_is_found_and_mends_what_is_said(factor):
    sides = made_up(factor=factor)
    scale = SigmaScale.fit(sides)
    assert scale.factor == pytest.approx(factor, rel=3 / math.sqrt(2 * len(sides)))  # three standard errors
    before, after = summarise([sides]), summarise([replace(sides, sigmas=sides.sigmas * scale.factor)])
    assert before.spread.mean == pytest.approx(factor, rel=0.05)
    assert after.spread.mean == pytest.approx(1, abs=0.002)
    assert after.surprise.mean <= before.surprise.mean
    np.testing.assert_allclose(after.reliability.observed, after.reliability.predicted, rtol=0.2)
    # Of all factors it is the one of the largest likelihood (but for the side that is added).
    likelihoods = [
        stats.norm.logpdf(sides.errors, scale=scale.factor * sides.sigmas * off).sum() for off in (0.98, 1, 1.02)
    ]
    assert likelihoods[1] == max(likelihoods)


def test_numbers_by_hand():
    sides = BorderErrors(np.array([1.0, -2.0, 0.0, 3.0]), np.array([1.0, 1.0, 2.0, 3.0]), np.array([5, 5, 5, 5]))
    found = summarise([sides])
    assert found.count == 4
    assert found.error.mean == 6 / 4
    assert found.bias.mean == 0  # 1, -2, 0, 1
    assert found.spread.mean == pytest.approx(math.sqrt(6 / 4))
    assert found.surprise.mean == pytest.approx(-stats.norm.logpdf(sides.errors, scale=sides.sigmas).mean())
    assert SigmaScale.fit(sides).factor == pytest.approx(math.sqrt((6 + 1) / (4 + 1)))
    # Sigmas 1 (twice), 2 and 3 in bins of their own: root mean squares.
    assert found.reliability.predicted == pytest.approx([1, 2, 3])
    assert found.reliability.observed == pytest.approx([math.sqrt(5 / 2), 0, 3])
    assert found.reliability.count.tolist() == [2, 1, 1]


def test_bias_is_outwards():
    found = summarise([made_up(bias=0.5)])
    assert found.bias.mean == pytest.approx(0.5, abs=0.05)
    assert found.spread.mean == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("seed", range(5))
def test_ranks_are_scipys_and_weights_are_repetitions(seed):
    generator = np.random.default_rng(seed)
    a, b = generator.integers(0, 8, (2, 40))  # many ties
    assert rank_correlation(a, b) == pytest.approx(stats.spearmanr(a, b).statistic)
    times = generator.integers(0, 4, 40)
    assert rank_correlation(a, b, weights=times) == pytest.approx(
        stats.spearmanr(np.repeat(a, times), np.repeat(b, times)).statistic
    )
    assert rank_correlation(a, a) == pytest.approx(1) and rank_correlation(a, -a) == pytest.approx(-1)


def test_what_has_no_rank_correlation():
    assert math.isnan(rank_correlation([1, 1, 1], [1, 2, 3]))
    assert math.isnan(rank_correlation([], []))
    assert math.isnan(rank_correlation([1, 2], [1, 2], weights=[0, 0]))


def by_size(image, *, informed, seed=0):
    """Objects of three sizes; errors and sigmas grow with the size, and with each other only if informed."""
    generator = np.random.default_rng([seed, image])
    areas = np.repeat([10, 100, 1000], 30)
    sigmas = generator.uniform(0.5, 1.5, 90) * areas
    own = sigmas if informed else areas
    return BorderErrors(generator.normal(0, own), sigmas, areas)


def test_size_alone_is_no_knowledge():
    images = [by_size(image, informed=False) for image in range(12)]
    every = pool(images)
    assert rank_correlation(np.abs(every.errors), every.sigmas) > 0.6, "test invalid"
    assert all(each.low < 0 < each.high for each in summarise(images).correlations)
    informed = [by_size(image, informed=True) for image in range(12)]
    assert all(0 < each.low < each.mean < each.high for each in summarise(informed).correlations)


def test_correlations_are_those_of_every_third():
    images = [by_size(image, informed=True) for image in range(3)]
    every = pool(images)
    for area, found in zip((10, 100, 1000), summarise(images).correlations, strict=True):
        chosen = every.areas == area
        wanted = stats.spearmanr(np.abs(every.errors[chosen]), every.sigmas[chosen]).statistic
        assert found.mean == pytest.approx(wanted)


def test_a_size_without_objects_has_no_correlation_and_images_without_sides_say_nothing():
    empty = BorderErrors(np.zeros(0), np.zeros(0), np.zeros(0, int))
    sides = made_up(sides=50)
    alike = replace(sides, areas=np.full(50, 7))
    found = summarise([alike])
    assert [math.isnan(each.mean) for each in found.correlations] == [True, False, True]
    assert summarise([empty, alike, empty]).spread == found.spread
    assert summarise([empty]) is None and summarise([]) is None
    assert SigmaScale.fit(empty).factor == 1
    assert SigmaScale.fit(replace(alike, errors=np.zeros(50))).factor > 0


def test_scaled_results_keep_everything_else():
    drawn = block((4, 6), (12, 16), border=np.array([[1.0, 2.0], [3.0, 4.0]]).astype(np.float32))
    found = CompleteLinkage()([drawn, drawn])
    scaled = SigmaScale(1.5)(found)
    assert scaled.features["border"].tolist() == [[[1.5, 3], [4.5, 6]]]
    assert scaled.features["border"].dtype == found.features["border"].dtype
    assert scaled.existence is found.existence and scaled.counts is found.counts
    assert SigmaScale()(found) is found
    bare = CompleteLinkage()([replace(drawn, features={})])
    assert SigmaScale(2.0)(bare) is bare


@pytest.mark.parametrize(
    ("errors", "sigmas", "complaint"),
    [
        ([1.0], [1.0, 2.0], "shapes"),
        ([1.0], [0.0], "not a positive number"),
        ([1.0], [math.nan], "not a positive number"),
        ([math.inf], [1.0], "not finite"),
    ],
)
def test_what_is_no_error_is_told(errors, sigmas, complaint):
    with pytest.raises(ValueError, match=complaint):
        BorderErrors(np.array(errors), np.array(sigmas), np.ones(len(errors), int))


@pytest.mark.parametrize("factor", [0.0, -1.0, math.inf, math.nan])
def test_factors_that_calibrate_nothing(factor):
    for given in ({"factor": factor}, {"spread": factor}):
        with pytest.raises(ValueError, match="must be positive"):
            SigmaScale(**given)


def two_doubts(*, factor, spread, sides=20_000):
    """Errors whose variance is made of noise and disagreement, in shares that differ from side to side."""
    generator = np.random.default_rng(0)
    noise, apart = generator.uniform(0.2, 2, (2, sides))
    apart[::5] = 0  # some objects are seen by one draw
    errors = generator.normal(0, np.hypot(factor * noise, spread * apart))
    return BorderErrors(errors, np.hypot(noise, apart), np.full(sides, 9), apart)


@pytest.mark.parametrize(("factor", "spread"), [(1.0, 1.0), (0.7, 3.0), (2.0, 0.3)])
def test_two_kinds_of_doubt_are_told_apart(factor, spread):
    sides = two_doubts(factor=factor, spread=spread)
    scale = SigmaScale.fit(sides)
    assert scale.factor == pytest.approx(factor, rel=0.03)
    assert scale.spread == pytest.approx(spread, rel=0.03, abs=0.03)
    after = replace(sides, sigmas=scale.of(sides.sigmas, sides.apart), spreads=scale.spread * sides.apart)
    assert summarise([after]).spread.mean == pytest.approx(1, abs=0.01)
    # No other numbers near them are as likely.
    likelihood = {
        off: stats.norm.logpdf(
            sides.errors,
            scale=SigmaScale(scale.factor * off[0], scale.spread * off[1]).of(sides.sigmas, sides.apart),
        ).sum()
        for off in [(1, 1), (0.98, 1), (1.02, 1), (1, 0.95), (1, 1.05), (0.98, 1.05)]
    }
    assert max(likelihood, key=likelihood.get) == (1, 1)


def test_both_parts_of_a_result_are_calibrated():
    truth, low = block((4, 6), (12, 16)), block((4, 6), (12, 18), border=np.full((2, 2), 3.0))
    high = block((4, 6), (12, 16), border=np.full((2, 2), 3.0))
    scale = SigmaScale(0.5, 4.0)
    raw = CompleteLinkage()([replace(high, scores=np.array([0.9])), replace(low, scores=np.array([0.8]))])
    found = scale(raw)
    assert found.features["border_spread"][0].tolist() == [[0, 0], [0, 8]]  # two columns, times four
    np.testing.assert_allclose(found.features["border"][0], [[1.5, 1.5], [1.5, np.hypot(1.5, 8)]], rtol=1e-6)
    sides = border_errors(truth, raw.hypotheses())
    np.testing.assert_allclose(sides.apart, [0, 0, 0, 2])
    np.testing.assert_allclose(scale.of(sides.sigmas, sides.apart), found.features["border"].ravel(), rtol=1e-6)
    lonely = scale(CompleteLinkage()([high, NOTHING]))
    assert np.isnan(lonely.features["border_spread"]).all() and (lonely.features["border"] == 1.5).all()


def test_a_spread_larger_than_its_sigma():
    with pytest.raises(ValueError, match="no part of its sigma"):
        BorderErrors(np.ones(1), np.ones(1), np.ones(1, int), np.full(1, 1.1))


def test_nothing_to_pool():
    with pytest.raises(ValueError, match="nothing to pool"):
        pool([])
