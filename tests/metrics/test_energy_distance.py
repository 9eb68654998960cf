"""The energy distance against loops over pairs, cases counted by hand, and its expectation over all possible draws."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plurimask.metrics.energy_distance import energy_distance, sampled_energy_distance, soft_dice_distance

SEEDS = st.integers(0, 2**32 - 1)

# Three masks without a common pixel, all equally likely: a draw equals another with probability 1/3, so E d = 2/3.
APART = np.eye(3, dtype=bool)


def random_masks(generator, count, shape=(5, 6)):
    """Some sets hold an empty mask, or the same one twice."""
    masks = generator.random((count, *shape)) < generator.random((count, 1, 1))
    masks[generator.random(count) < 0.2] = False
    return masks


def distance(a, b):
    union = np.count_nonzero(a | b)
    return 1 - np.count_nonzero(a & b) / union if union else 0.0


def mean_distance(first, second):
    """Over all pairs, by a loop."""
    return sum(distance(a, b) for a, b in itertools.product(first, second)) / (len(first) * len(second))


def mean_of_different(masks):
    """Over all pairs of different places, by a loop."""
    pairs = list(itertools.permutations(masks, 2))
    return sum(distance(a, b) for a, b in pairs) / len(pairs)


def test_counted_by_hand():
    # IoUs of the samples with the annotations: 1/2, 0; 1, 1/3. Between the samples 1/2, between the annotations 1/3.
    samples = np.array([[1, 0, 0, 0], [1, 1, 0, 0]], bool)
    annotations = np.array([[1, 1, 0, 0], [0, 1, 1, 0]], bool)
    result = energy_distance(samples, annotations)
    assert result.between == pytest.approx((1 / 2 + 1 + 0 + 2 / 3) / 4)
    assert result.diversity == pytest.approx((0 + 1 / 2 + 1 / 2 + 0) / 4)
    assert result.disagreement == pytest.approx((0 + 2 / 3 + 2 / 3 + 0) / 4)
    assert result.value == pytest.approx(2 * 13 / 24 - 1 / 4 - 1 / 3)
    assert energy_distance(samples, annotations, unbiased=True).diversity == pytest.approx(1 / 2)


def test_empty_masks():
    """Two empty masks are equal; an empty one shares nothing with another."""
    empty, full = np.zeros((1, 2, 2), bool), np.ones((1, 2, 2), bool)
    assert energy_distance(empty, empty).value == 0
    assert energy_distance(empty, full).between == 1
    assert energy_distance(full, empty).value == 2
    both = energy_distance(np.concatenate([empty, full]), empty)
    assert (both.between, both.diversity, both.disagreement) == (0.5, 0.5, 0.0)


def test_one_mask_drawn_and_annotated_is_at_distance_zero():
    mask = random_masks(np.random.default_rng(0), 1) | np.eye(5, 6, dtype=bool)
    samples, annotations = np.repeat(mask, 4, axis=0), np.repeat(mask, 3, axis=0)
    for unbiased in (False, True):
        assert energy_distance(samples, annotations, unbiased=unbiased).value == 0
        assert sampled_energy_distance(samples, annotations, seed=0, unbiased=unbiased).value == 0


def test_with_one_sample_and_one_annotation_it_is_twice_their_distance():
    a, b = np.array([[1, 1, 0]], bool), np.array([[0, 1, 1]], bool)
    assert energy_distance(a, b).value == pytest.approx(2 * 2 / 3)
    assert sampled_energy_distance(a, b, seed=0).value == pytest.approx(2 * 2 / 3)


@settings(max_examples=60, deadline=None)
@given(seed=SEEDS, counts=st.tuples(st.integers(2, 6), st.integers(1, 5)))
def test_it_is_a_mean_over_pairs(seed, counts):
    generator = np.random.default_rng(seed)
    samples, annotations = (random_masks(generator, count) for count in counts)
    result = energy_distance(samples, annotations)
    assert result.between == pytest.approx(mean_distance(samples, annotations))
    assert result.diversity == pytest.approx(mean_distance(samples, samples))
    assert result.disagreement == pytest.approx(mean_distance(annotations, annotations))
    assert result.value == pytest.approx(2 * result.between - result.diversity - result.disagreement)
    assert result.value >= -1e-12
    unbiased = energy_distance(samples, annotations, unbiased=True)
    assert unbiased.diversity == pytest.approx(mean_of_different(samples))
    assert (unbiased.between, unbiased.disagreement) == (result.between, result.disagreement)


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS)
def test_probabilities_count_an_annotation_several_times(seed):
    generator = np.random.default_rng(seed)
    samples, annotations = random_masks(generator, 4), random_masks(generator, 3)
    times = generator.integers([1, 0, 0], 4)
    weighted = energy_distance(samples, annotations, probabilities=times / times.sum())
    repeated = energy_distance(samples, np.repeat(annotations, times, axis=0))
    assert weighted.between == pytest.approx(repeated.between)
    assert weighted.disagreement == pytest.approx(repeated.disagreement)
    assert weighted.diversity == repeated.diversity


def all_draws(count, masks=APART):
    """Every sequence of ``count`` draws with replacement; all are equally likely."""
    return [masks[list(places)] for places in itertools.product(range(len(masks)), repeat=count)]


@pytest.mark.parametrize("n", [1, 2, 3])
def test_expectation_for_equal_distributions(n):
    """Both sides drawn: 2 E d / n for the V-statistic. Annotators exact: E d / n. U-statistic: 0."""
    expected = 2 / 3
    drawn = [energy_distance(a, b).value for a in all_draws(n) for b in all_draws(n)]
    assert np.mean(drawn) == pytest.approx(2 * expected / n)
    exact = [energy_distance(a, APART).value for a in all_draws(n)]
    assert np.mean(exact) == pytest.approx(expected / n)
    if n > 1:
        unbiased = [energy_distance(a, APART, unbiased=True).value for a in all_draws(n)]
        assert np.mean(unbiased) == pytest.approx(0, abs=1e-12)
        assert min(unbiased) < 0 < max(unbiased)


def test_expectation_for_different_distributions():
    """The bias is (E d_AA + E d_BB) / n with both sides drawn, and E d_AA / n with exact annotators."""
    generator = np.random.default_rng(5)
    model, annotators, n = random_masks(generator, 3), random_masks(generator, 2), 3
    within_model, within_annotators = mean_distance(model, model), mean_distance(annotators, annotators)
    distributions = 2 * mean_distance(model, annotators) - within_model - within_annotators
    drawn = [energy_distance(a, b).value for a in all_draws(n, model) for b in all_draws(n, annotators)]
    assert np.mean(drawn) == pytest.approx(distributions + (within_model + within_annotators) / n)
    exact = [energy_distance(a, annotators).value for a in all_draws(n, model)]
    assert np.mean(exact) == pytest.approx(distributions + within_model / n)
    unbiased = [energy_distance(a, annotators, unbiased=True).value for a in all_draws(n, model)]
    assert np.mean(unbiased) == pytest.approx(distributions)


@pytest.mark.parametrize(("unbiased", "expected"), [(False, 2 * (2 / 3) / 4), (True, 0.0)])
def test_sampled_annotators_have_the_expected_bias(unbiased, expected):
    """Four samples and four drawn annotations of the same distribution; a mean over seeds, within 4 standard errors."""
    generator = np.random.default_rng(0)
    samples = APART[generator.integers(3, size=(1500, 4))]
    values = [sampled_energy_distance(a, APART, seed=seed, unbiased=unbiased).value for seed, a in enumerate(samples)]
    assert abs(np.mean(values) - expected) < 4 * np.std(values) / np.sqrt(len(values))


def test_sampled_annotators_are_drawn_with_replacement_by_the_seed():
    generator = np.random.default_rng(2)
    samples, annotations = random_masks(generator, 3), random_masks(generator, 2)
    possible = {round(energy_distance(samples, drawn).value, 9) for drawn in all_draws(3, annotations)}
    seen = [sampled_energy_distance(samples, annotations, seed=seed) for seed in range(60)]
    assert {round(result.value, 9) for result in seen} == possible
    assert len(possible) > 2, "test invalid: the draw makes no difference"
    assert seen[7] == sampled_energy_distance(samples, annotations, seed=7)
    assert len({result.diversity for result in seen}) == 1


def test_volumes_are_flattened():
    generator = np.random.default_rng(4)
    samples, annotations = generator.random((2, 3, 2, 3, 4)) < 0.5
    flat = energy_distance(samples.reshape(3, -1), annotations.reshape(3, -1))
    assert energy_distance(samples, annotations) == flat


def test_too_few_or_strange_masks_are_refused():
    masks = np.ones((2, 3, 3), bool)
    for function in (energy_distance, lambda a, b: sampled_energy_distance(a, b, seed=0)):
        with pytest.raises(ValueError, match="samples are of type float64"):
            function(masks * 0.5, masks)
        with pytest.raises(ValueError, match="annotations are of type int64"):
            function(masks, masks * 2)
        with pytest.raises(ValueError, match=r"\(2, 3, 3\).*\(2, 3, 2\)"):
            function(masks, masks[..., :2])
        with pytest.raises(ValueError, match="at least 1"):
            function(masks[:0], masks)
        with pytest.raises(ValueError, match="at least 1"):
            function(masks, masks[:0])
    with pytest.raises(ValueError, match="at least two"):
        energy_distance(masks[:1], masks, unbiased=True)
    with pytest.raises(ValueError, match="at least two"):
        sampled_energy_distance(masks[:1], masks, seed=0, unbiased=True)


@pytest.mark.parametrize("probabilities", [[1.0], [0.5, 0.6], [1.5, -0.5], [float("nan"), 1.0]])
def test_probabilities_are_checked(probabilities):
    masks = np.ones((2, 3, 3), bool)
    with pytest.raises(ValueError, match="one per annotation, 2, with sum 1"):
        energy_distance(masks, masks, probabilities=probabilities)


def test_soft_dice_of_masks_is_one_minus_dice():
    a, b = np.array([1, 1, 1, 0, 0]), np.array([0, 1, 1, 1, 1])
    assert soft_dice_distance(a, b) == pytest.approx(1 - 2 * 2 / (3 + 4))
    assert soft_dice_distance(a, a) == 0
    assert soft_dice_distance(a, 1 - a) == 1
    # Half sure everywhere, of a mask that fills half of the image: 1 - 2 * 1 / (1 + 2).
    assert soft_dice_distance(np.full(4, 0.5), [1, 1, 0, 0]) == pytest.approx(1 / 3)


def test_soft_dice_of_nothing():
    nothing = np.zeros((2, 2))
    assert soft_dice_distance(nothing, nothing) == 0
    assert soft_dice_distance(nothing, nothing + 0.1) == 1


def test_soft_dice_refuses_what_is_no_map_of_probabilities():
    with pytest.raises(ValueError, match=r"\(3,\).*\(2,\)"):
        soft_dice_distance(np.zeros(3), np.zeros(2))
    with pytest.raises(ValueError, match="prediction must lie in"):
        soft_dice_distance([2.0], [1.0])
    with pytest.raises(ValueError, match=r"annotation must lie in .* nan"):
        soft_dice_distance([1.0], [float("nan")])
