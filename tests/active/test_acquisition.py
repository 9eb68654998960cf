"""Scores by hand, choices by brute force."""

import math
from itertools import product

import numpy as np
import pytest

from plurimask.active.acquisition import DEFAULT, SCORES, Strategy, choose, crop_boxes, k_centre, scores, why
from plurimask.pixelwise import doubt_of_draws
from plurimask.probabilistic import ProbabilisticInstances

LN2 = np.log(2)
WHOLE = np.array([[[0, 0], [4, 10]]])


def hypotheses(boxes, seen, shape=(4, 10), conflicts=()):
    """Full boxes, each seen in these of 10 draws."""
    boxes = np.array(boxes, np.int64).reshape(-1, 2, len(shape))
    return ProbabilisticInstances(
        boxes,
        tuple(np.full(stop - start, len(draws), np.uint8) for (start, stop), draws in zip(boxes, seen, strict=True)),
        10,
        np.array([len(draws) / 10 for draws in seen]),
        tuple(tuple((draw, n) for draw in draws) for n, draws in enumerate(seen)),
        np.array(conflicts, np.int64).reshape(-1, 2),
        shape,
    )


def whole_or_halves():
    boxes = [[[0, 0], [4, 8]], [[0, 0], [4, 3]], [[0, 3], [4, 8]]]
    return hypotheses(boxes, [range(7), range(7, 10), range(7, 10)], conflicts=[(0, 1), (0, 2)])


def unsure(shape=(4, 10)):
    """Left: both draws are sure of opposites; right: both draws doubt."""
    one = np.full(shape, 0.5)
    one[:, : shape[1] // 2] = 1.0
    other = np.where(one == 1.0, 0.0, one)
    return doubt_of_draws([np.stack([p, 1 - p]) for p in (one, other)])


def test_one_or_two_by_hand():
    # In seven of ten cases the whole is right; in three it is one false and two missed objects.
    found = scores(unsure(), whole_or_halves(), WHOLE)
    assert found["expected_errors"] == pytest.approx([0.3 * 3])
    assert found["splits_and_merges"] == pytest.approx([0.3])
    assert found["entropy_sum"] == pytest.approx([40 * LN2])
    assert found["entropy_mean"] == pytest.approx([LN2])
    assert found["bald_sum"] == pytest.approx([20 * LN2])  # what both draws doubt is no disagreement
    assert found["bald_mean"] == pytest.approx([LN2 / 2])
    assert set(found) == set(SCORES) - {"random"}


def test_expected_errors_are_those_of_the_draws_themselves():
    # Brute force: every draw in turn is the truth, and the most probable set is compared with it.
    found = whole_or_halves()
    best = set(found.best().features["hypothesis"].tolist())
    truths = [set(np.flatnonzero(found.occurs[:, draw]).tolist()) for draw in range(found.draws)]
    mean = np.mean([len(truth ^ best) for truth in truths])
    assert scores(unsure(), found, WHOLE)["expected_errors"] == pytest.approx([mean])


def test_regions_that_tile_an_image_share_its_scores():
    found = hypotheses([[[0, 0], [2, 3]], [[1, 3], [3, 9]], [[2, 8], [4, 10]]], [range(9), range(4), range(6)])
    boxes = crop_boxes((4, 10), 2)
    parts, whole = scores(unsure(), found, boxes), scores(unsure(), found, WHOLE)
    for name in ("entropy_sum", "bald_sum", "expected_errors", "splits_and_merges"):
        assert parts[name].sum() == pytest.approx(whole[name][0])
    assert whole["expected_errors"] == pytest.approx([0.1 + 0.4 + 0.4])


def test_without_objects_nothing_is_expected_to_be_wrong():
    nothing = scores(unsure(), ProbabilisticInstances.empty((4, 10), 10), WHOLE)
    assert nothing["expected_errors"] == [0] and nothing["splits_and_merges"] == [0]


def naive_k_centre(points, count, centres):
    taken = []
    while len(taken) < min(count, len(points)):
        left = [n for n in range(len(points)) if n not in taken]
        others = [*centres, *points[taken]]
        far = [min((np.linalg.norm(points[n] - other) for other in others), default=np.inf) for n in left]
        taken.append(left[int(np.argmax(far))])
    return taken


@pytest.mark.parametrize("known", [0, 1, 4])
def test_k_centre_against_brute_force(known):
    generator = np.random.default_rng(known)
    points = generator.integers(0, 4, (15, 2)).astype(float)  # with ties and twins
    centres = generator.integers(0, 4, (known, 2)).astype(float)
    taken, distances = k_centre(points, 15, centres=centres)
    assert taken.tolist() == naive_k_centre(points, 15, centres)
    assert math.isnan(distances[0]) == (known == 0)
    assert (np.diff(distances[known == 0 :]) <= 0).all()


def chosen(values, count, strategy=Strategy("entropy_sum"), seed=0, looks=None, annotated=None):
    size = len(values) if values is not None else len(looks)
    looks = np.arange(size, dtype=float)[:, None] if looks is None else looks
    values = None if values is None else np.array(values, float)
    generator = np.random.default_rng(seed)
    return choose(values, looks, count, strategy=strategy, generator=generator, annotated=annotated)


def test_the_highest_scores_are_chosen():
    made = chosen([1, 5, 3, 9], 2)
    assert made.indices.tolist() == [3, 1] and made.places.tolist() == [1, 2]
    assert np.isnan(made.distances).all()


def test_ties_are_broken_by_the_seed():
    first = {tuple(chosen([1, 1, 1, 0], 2, seed=seed).indices) for seed in range(40)}
    assert first == {(a, b) for a, b in product(range(3), repeat=2) if a != b}
    assert (chosen([1] * 9, 4, seed=3).indices == chosen([1] * 9, 4, seed=3).indices).all()


@pytest.mark.parametrize("diversity", [1, 2, math.inf])
def test_without_replacement_and_a_small_pool_whole(diversity):
    looks = np.zeros((5, 3))  # all alike: distance 0
    made = chosen(None, 9, Strategy("random", diversity), looks=looks)
    assert sorted(made.indices.tolist()) == [0, 1, 2, 3, 4]
    assert sorted(made.places.tolist()) == [1, 2, 3, 4, 5]


def test_random_choices_are_uniform():
    counts = np.zeros(5)
    for seed in range(600):
        counts[chosen(None, 2, Strategy("random"), seed=seed, looks=np.zeros((5, 1))).indices] += 1
    assert abs(counts - 240).max() < 5 * np.sqrt(600 * 0.4 * 0.6)


def test_a_mixture_is_diverse_within_its_shortlist():
    looks = np.array([[0.0], [0.1], [5.0], [9.0]])
    values = [9, 8, 7, 1]
    assert chosen(values, 2, looks=looks).indices.tolist() == [0, 1]
    assert chosen(values, 2, Strategy("entropy_sum", 1.5), looks=looks).indices.tolist() == [0, 2]
    assert chosen(values, 2, Strategy("entropy_sum", math.inf), looks=looks).indices.tolist() == [0, 3]
    annotated = np.array([[9.0]])
    found = chosen(values, 1, Strategy("entropy_sum", math.inf), looks=looks, annotated=annotated)
    assert found.indices.tolist() == [0]
    assert found.distances == pytest.approx(9 / np.std([0, 0.1, 5, 9, 9]))


def test_what_is_not_finite_is_never_ranked():
    with pytest.raises(ValueError, match="scores"):
        chosen([1, np.nan, 2], 1)
    with pytest.raises(ValueError, match="descriptors"):
        chosen(None, 1, looks=np.array([[np.inf], [0.0]]))
    with pytest.raises(ValueError, match="0 images"):
        chosen([1.0], 0)


def test_an_empty_pool_has_no_choices():
    assert len(chosen(None, 3, DEFAULT, looks=np.zeros((0, 2))).indices) == 0


@pytest.mark.parametrize(("wrong", "message"), [({"score": "bold"}, "no score 'bold'"), ({"diversity": 0.5}, "0.5")])
def test_strategies_that_there_are_not(wrong, message):
    with pytest.raises(ValueError, match=message):
        Strategy(**wrong)


def test_reasons():
    made = chosen([1, 5, 3, 9], 2, Strategy("entropy_sum", 2))
    reasons = [why(made, n, strategy=Strategy("entropy_sum", 2), pool=4, unit="crop") for n in range(2)]
    assert reasons[0] == "number 1 of 4 by entropy_sum; the first crop"
    assert "unlike all" in reasons[1]
    assert why(made, 0, strategy=Strategy("random"), pool=4, unit="image") == "drawn at random"


@pytest.mark.parametrize(("shape", "size"), [((7, 10), 3), ((3, 12), 5), ((4, 5, 9), 2), ((6, 6), 6)])
def test_crops_do_not_overlap_and_stay_inside(shape, size):
    boxes = crop_boxes(shape, size)
    covered = np.zeros(shape, int)
    for start, stop in boxes:
        covered[tuple(map(slice, start, stop))] += 1
    assert covered.max() == 1
    assert covered.sum() == sum(np.prod(stop - start) for start, stop in boxes)
    assert len(boxes) == np.prod([max(1, length // size) for length in shape])
    assert ((boxes[:, 1] - boxes[:, 0]) == np.minimum(size, shape)).all()


def test_crops_without_pixels():
    with pytest.raises(ValueError, match="0 pixels"):
        crop_boxes((4, 4), 0)
