"""From draws to hypotheses: invariances, drawn scenes and an exhaustive twin."""

from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plurimask.agglomerate import CompleteLinkage, SequentialUnion, Suppression
from plurimask.instances import Instances

BOTH = [CompleteLinkage(), SequentialUnion()]


def strip(*lengths, gap=0, width=40):
    """Objects of these lengths, one after the other, three pixels thick."""
    labels, start = np.zeros((3, width), int), 0
    for number, length in enumerate(lengths, start=1):
        labels[:, start : start + length] = number
        start += length + gap
    return Instances.from_labels(labels)


def noisy_draws(seed, draws=6, count=8, *, ragged=False):
    """Rectangles that wander, come and go, and overlap; scores differ. ragged: larger, with
    random outlines and holes, so that no two IoU are equal.
    """
    shape = (120, 120) if ragged else (30, 30)
    rng = np.random.default_rng(seed)
    corners = rng.integers(0, 20, (count, 2))
    result = []
    for _ in range(draws):
        masks, scores = [], []
        for corner in corners[rng.random(count) < 0.8]:
            mask = np.zeros(shape, bool)
            low = np.clip(corner + rng.integers(-1, 2, 2), 0, None)
            mask[low[0] : low[0] + 8, low[1] : low[1] + rng.integers(6, 10)] = True
            if ragged:
                mask = mask[:30, :30].repeat(4, axis=0).repeat(4, axis=1) & (rng.random(shape) < 0.97)
            masks.append(mask)
            scores.append(rng.random())
        found = Instances.from_masks(masks, shape)
        result.append(replace(found, scores=np.array(scores, float), features={"score_copy": np.array(scores, float)}))
    return result


def dense_iou(a, b):
    return np.count_nonzero(a & b) / np.count_nonzero(a | b)


@pytest.mark.parametrize("agglomerate", BOTH)
@pytest.mark.parametrize("seed", range(10))
def test_every_object_is_in_one_hypothesis_and_none_holds_two_of_a_draw(agglomerate, seed):
    draws = noisy_draws(seed)
    found = agglomerate(draws)
    members = [pair for pairs in found.members for pair in pairs]
    assert sorted(members) == [(draw, index) for draw, part in enumerate(draws) for index in range(len(part))]
    assert all(len({draw for draw, _ in pairs}) == len(pairs) for pairs in found.members)


@pytest.mark.parametrize("agglomerate", BOTH)
@pytest.mark.parametrize("seed", range(5))
def test_counts_existence_and_features_are_those_of_the_members(agglomerate, seed):
    draws = noisy_draws(seed)
    found = agglomerate(draws)
    dense = [draw.to_masks() for draw in draws]
    for n, pairs in enumerate(found.members):
        total = np.zeros(found.shape, int)
        box = tuple(slice(*ends) for ends in found.boxes[n].T)
        total[box] = found.counts[n]
        np.testing.assert_array_equal(total, sum(dense[draw][index].astype(int) for draw, index in pairs))
        scores = [draws[draw].scores[index] for draw, index in pairs]
        assert found.existence[n] == pytest.approx(sum(scores) / len(draws))
        assert found.features["score_copy"][n] == max(scores)


def test_the_doubt_about_sides_is_what_members_say_and_how_far_they_disagree():
    # Three draws of a bar that begins at column 10 and ends at 30, 30 and 33; the last one is sure, its end is not.
    bars = np.zeros((3, 4, 40), int)
    for bar, stop in zip(bars, (30, 30, 33), strict=True):
        bar[1:4, 10:stop] = 1
    said = [[[1.0, 2.0], [3.0, 2.0]], [[1.0, 2.0], [3.0, 6.0]], [[1.0, 2.0], [3.0, 0.0]]]  # [start, stop] x [y, x]
    draws = [
        replace(Instances.from_labels(bar), scores=np.array([score]), features={"border": np.array([each], np.float32)})
        for bar, each, score in zip(bars, said, (0.9, 0.8, 0.7), strict=True)
    ]
    for order in permutations(draws):
        found = CompleteLinkage()(order)
        spread = (0**2 + 3**2) / 2  # of the other two from the best
        np.testing.assert_allclose(found.features["border_spread"], [[[0, 0], [0, np.sqrt(spread)]]])
        total = np.sqrt((2**2 + 6**2 + 0**2) / 3 + spread)
        np.testing.assert_allclose(found.features["border"], [[[1, 2], [3, total]]], rtol=1e-6)
    np.testing.assert_allclose(CompleteLinkage()(draws[:1]).features["border"], draws[0].features["border"])
    assert "border_spread" not in CompleteLinkage()(draws[:1]).features
    alone = CompleteLinkage()([draws[0], draws[1].select([])])
    np.testing.assert_allclose(alone.features["border"], draws[0].features["border"])
    assert np.isnan(alone.features["border_spread"]).all()
    with_contour = [
        replace(draw, features={**draw.features, "contour": np.array([[[1.0, 10.0], [3.0, stop]]])})
        for draw, stop in zip(draws, (29.5, 30.5, 30.0), strict=True)
    ]
    spread = CompleteLinkage()(with_contour).features["border_spread"]
    np.testing.assert_allclose(spread, [[[0, 0], [0, np.sqrt((1**2 + 0.5**2) / 2)]]], rtol=1e-6)


def test_the_doubt_about_a_side_is_the_error_to_be_expected():
    # Truth and draws are equally likely to be anywhere around the same place; every draw knows its noise.
    generator, ratios = np.random.default_rng(0), []
    for _ in range(300):
        *ends, truth = generator.normal(140, 3, 9)
        draws = []
        for end in ends:
            contour = np.array([[[2.0, 10.0], [8.0, end]]])
            features = {"contour": contour, "border": np.full((1, 2, 2), 1.0)}
            bar = np.zeros((12, 180), int)
            bar[2:9, 10 : round(end) + 1] = 1
            scores = generator.uniform(0.8, 1, 1)
            draws.append(replace(Instances.from_labels(bar), scores=scores, features=features))
        found = CompleteLinkage()(draws)
        error = found.features["contour"][0, 1, 1] - (truth + generator.normal(0, 1))
        ratios.append(error / found.features["border"][0, 1, 1])
    assert 0.85 < np.sqrt(np.mean(np.square(ratios))) < 1.25  # few draws: the tails of a t distribution


@given(seed=st.integers(0, 10**6), order=st.permutations(range(6)))
@settings(max_examples=60, deadline=None)
def test_permuting_the_draws_changes_nothing(seed, order):
    draws = noisy_draws(seed)
    one, other = CompleteLinkage()(draws), CompleteLinkage()([draws[draw] for draw in order])
    np.testing.assert_array_equal(one.boxes, other.boxes)
    np.testing.assert_array_equal(one.existence, other.existence)
    np.testing.assert_array_equal(one.conflicts, other.conflicts)
    assert all(np.array_equal(a, b) for a, b in zip(one.counts, other.counts, strict=True))
    renamed = [sorted((order[draw], index) for draw, index in pairs) for pairs in other.members]
    assert [list(pairs) for pairs in one.members] == renamed
    np.testing.assert_array_equal(one.best().to_labels(), other.best().to_labels())


@pytest.mark.parametrize("order", list(permutations(range(4))))
def test_ties_are_broken_by_geometry(order):
    # Three bars in a row of equal overlap with their neighbours: the middle one may go with either.
    bars = [np.zeros((1, 30), int) for _ in range(4)]
    for bar, start in zip(bars, (0, 2, 4, 6), strict=True):
        bar[:, start : start + 14] = 1
    draws = [Instances.from_labels(bar) for bar in bars]
    found = CompleteLinkage(min_iou=0.7)([draws[place] for place in order])
    assert found.boxes[:, :, 1].tolist() == [[0, 16], [4, 20]]
    assert found.existence.tolist() == [0.5, 0.5]


@pytest.mark.parametrize("seed", range(4, 34))
def test_equals_complete_linkage_by_trying_all_pairs(seed):
    draws = noisy_draws(seed, draws=4, count=5, ragged=True)
    dense = [(draw, index, mask) for draw, part in enumerate(draws) for index, mask in enumerate(part.to_masks())]
    groups = [[item] for item in dense]

    def similarity(a, b):
        if {draw for draw, *_ in a} & {draw for draw, *_ in b}:
            return 0.0
        return min(dense_iou(x, y) for *_, x in a for *_, y in b)

    while True:
        pairs = [(similarity(a, b), i, j) for i, a in enumerate(groups) for j, b in enumerate(groups) if i < j]
        best = max(pairs, default=(0.0, 0, 0))
        if best[0] < 0.7:
            break
        assert sum(value == best[0] for value, *_ in pairs) == 1, "a tie, which the twin does not resolve"
        _, i, j = best
        groups[i] += groups.pop(j)
    expected = sorted(sorted((draw, index) for draw, index, _ in group) for group in groups)
    assert sorted(sorted(pairs) for pairs in CompleteLinkage()(draws).members) == expected


@pytest.mark.parametrize("seed", range(5))
def test_members_agree_by_at_least_the_threshold(seed):
    draws = noisy_draws(seed)
    dense = [draw.to_masks() for draw in draws]
    for pairs in CompleteLinkage(0.6)(draws).members:
        masks = [dense[draw][index] for draw, index in pairs]
        assert all(dense_iou(a, b) >= 0.6 for a in masks for b in masks)


@pytest.mark.parametrize("times", [(4, 4), (5, 3), (3, 5)])
@pytest.mark.parametrize("lengths", [(10, 10), (12, 8)], ids=["50/50", "60/40"])
def test_whole_or_halves_stays_a_question(times, lengths):
    draws = [strip(20)] * times[0] + [strip(*lengths)] * times[1]
    found = CompleteLinkage()(draws)
    assert len(found) == 3
    assert found.existence.max() < 1
    whole = int(np.argmax(found.hypotheses().areas))
    halves = [n for n in range(3) if n != whole]
    assert found.existence[whole] == times[0] / 8
    assert found.existence[halves].tolist() == [times[1] / 8] * 2
    assert sorted(map(sorted, found.conflicts.tolist())) == sorted(sorted((whole, half)) for half in halves)
    best = found.best()
    assert sorted(best.features["hypothesis"].tolist()) == (halves if times[1] > times[0] else [whole])
    assert best.owners().max() == 1
    np.testing.assert_array_equal(best.owners() > 0, strip(20).to_labels() > 0)


def test_the_papers_scheme_makes_the_whole_certain():
    found = SequentialUnion()([strip(20)] * 4 + [strip(10, 10)] * 4)
    assert found.existence.max() == 1.0
    assert found.existence.tolist() == [1.0, 0.5]


def test_the_papers_scheme_by_hand():
    # Base: the draw with two objects. The first draw's object grows the left one by union; the third finds the union.
    draws = [strip(14), strip(10, 10, gap=10), strip(12)]
    found = SequentialUnion()(draws)
    assert found.members == (((0, 0), (1, 0), (2, 0)), ((1, 1),))
    assert found.counts[0][0].tolist() == [3] * 10 + [2] * 2 + [1] * 2
    # Nothing in common with the base: a hypothesis of its own, found again by the next draw.
    apart = np.zeros((3, 40), int)
    apart[:, 35:] = 1
    found = SequentialUnion()([strip(5), Instances.from_labels(apart), Instances.from_labels(apart)])
    assert found.members == (((0, 0),), ((1, 0), (2, 0)))


@pytest.mark.parametrize("agglomerate", BOTH)
def test_identical_draws_are_certain(agglomerate):
    found = agglomerate([strip(8, 5, 6, gap=2)] * 8)
    assert found.existence.tolist() == [1, 1, 1]
    assert all((counts == 8).all() for counts in found.counts)
    assert len(found.conflicts) == 0
    np.testing.assert_array_equal(found.best().to_labels(), strip(8, 5, 6, gap=2).to_labels())


@pytest.mark.parametrize("agglomerate", BOTH)
def test_empty_draws_count_as_draws_and_keep_the_features_of_the_others(agglomerate):
    seen = replace(strip(8), features={"kind": np.array([3])})
    found = agglomerate([Instances.empty(seen.shape), seen, seen, Instances.empty(seen.shape)])
    assert found.existence.tolist() == [0.5]
    assert found.draws == 4
    assert found.features["kind"].tolist() == [3]
    nothing = agglomerate([Instances.empty((3, 40))] * 3)
    assert len(nothing) == 0 and nothing.draws == 3 and nothing.shape == (3, 40)


@pytest.mark.parametrize("agglomerate", BOTH)
def test_draws_of_different_lengths_and_one_draw(agglomerate):
    found = agglomerate([strip(8), strip(8, 5, gap=2), strip(8, 5, 6, gap=2)])
    np.testing.assert_allclose(found.existence, [1, 2 / 3, 1 / 3])
    single = agglomerate([replace(strip(8, 5), scores=np.array([0.9, 0.2]))])
    assert single.existence.tolist() == [0.9, 0.2]


def test_two_objects_of_one_draw_stay_two_even_if_equal():
    twice = Instances.from_masks([strip(8).to_masks()[0]] * 2, (3, 40))
    found = CompleteLinkage()([twice, strip(8), strip(8)])
    assert sorted(found.existence.tolist()) == [1 / 3, 1.0]
    assert len(found.conflicts) == 0  # a draw shows both


def test_conflicts_need_more_than_a_fifth_of_the_smaller():
    def bar(start):
        labels = np.zeros((1, 40), int)
        labels[:, start : start + 10] = 1
        return Instances.from_labels(labels)

    assert len(CompleteLinkage()([bar(0), bar(8)]).conflicts) == 0
    assert CompleteLinkage()([bar(0), bar(7)]).conflicts.tolist() == [[0, 1]]


def test_3d():
    labels = np.zeros((6, 8, 9), int)
    labels[1:4, 1:4, 1:4], labels[4:, 5:, 5:] = 1, 2
    found = CompleteLinkage()([Instances.from_labels(labels)] * 3)
    np.testing.assert_array_equal(found.best().to_labels(), labels)


@pytest.mark.parametrize("agglomerate", [*BOTH, Suppression()])
def test_errors(agglomerate):
    with pytest.raises(ValueError, match="0 draws"):
        agglomerate([])
    with pytest.raises(ValueError, match="256 draws"):
        agglomerate([strip(3)] * 256)
    assert agglomerate([strip(3)] * 255).draws == (1 if isinstance(agglomerate, Suppression) else 255)
    with pytest.raises(ValueError, match="shapes"):
        agglomerate([strip(3), strip(3, width=41)])
    with pytest.raises(FloatingPointError, match="not finite"):
        agglomerate([replace(strip(3), scores=np.array([np.nan]))])


@pytest.mark.parametrize("min_iou", [0, -0.1, 1.1])
def test_threshold_out_of_range(min_iou):
    with pytest.raises(ValueError, match="min_iou"):
        CompleteLinkage(min_iou)


@pytest.mark.parametrize("min_iou", [0.3, 0.5, 0.55, 0.7, 0.95, 1.0])
def test_values_to_try_tell_halves_apart(min_iou):
    values = CompleteLinkage(min_iou).tunable()["min_iou"]
    assert all(0.5 < CompleteLinkage(value).min_iou < 1 for value in values)
    assert min_iou not in values
    assert SequentialUnion().tunable() == {}


def scored(objects, *scores):
    features = {"border": np.asarray(scores)[:, None, None] * np.ones((2, 2))}
    return replace(objects, scores=np.asarray(scores, float), features=features)


def test_the_best_of_all_draws_wins_by_hand():
    # Two bars that overlap by 8 of 12 columns (IoU 2/3), and one that only the second network finds.
    bars = [np.zeros((2, 40), int) for _ in range(2)]
    bars[0][:, 0:10], bars[1][:, 2:12], bars[1][:, 20:25] = 1, 1, 2
    first, second = scored(Instances.from_labels(bars[0]), 0.7), scored(Instances.from_labels(bars[1]), 0.9, 0.4)
    for draws in ([first, second], [second, first]):
        found = Suppression(0.6)(draws)
        assert found.draws == 1 and len(found.conflicts) == 0
        assert found.boxes[:, :, 1].tolist() == [[2, 12], [20, 25]]
        assert found.existence.tolist() == [0.9, 0.4]
        np.testing.assert_allclose(found.features["border"][:, 0, 0], [0.9, 0.4], rtol=1e-6)
        assert "border_spread" not in found.features  # nothing is compared
        assert [mask.all() for mask in found.threshold(0.75).masks] == [True, True]
        assert sorted(len(pairs) for pairs in found.members) == [1, 1]
    assert Suppression(0.67)([first, second]).existence.tolist() == [0.7, 0.9, 0.4]  # not above it: all stay
    # A weaker one that only what is gone overlaps stays: it competes with what was kept.
    chain = [np.zeros((1, 40), int) for _ in range(3)]
    for number, bar in enumerate(chain):
        bar[:, 4 * number : 4 * number + 10] = 1  # neighbours share 6 of 14
    draws = [scored(Instances.from_labels(bar), score) for bar, score in zip(chain, (0.9, 0.8, 0.7), strict=True)]
    assert Suppression(0.4)(draws).existence.tolist() == [0.9, 0.7]


def test_objects_that_cross_survive_and_equal_ones_are_one(crossing_worms):
    found = Suppression()([crossing_worms] * 3)
    assert len(found) == 2 and found.existence.tolist() == [1, 1]
    np.testing.assert_array_equal(found.to_masks(), crossing_worms.to_masks()[::-1])  # by position, from the top


@pytest.mark.parametrize("seed", range(8))
def test_equals_suppression_by_trying_all_pairs(seed):
    draws = noisy_draws(seed, draws=4)
    every = sorted(
        ((score, mask) for draw in draws for score, mask in zip(draw.scores, draw.to_masks(), strict=True)),
        key=lambda pair: -pair[0],
    )
    kept = []
    for score, mask in every:
        if all(dense_iou(mask, better) <= 0.3 for _, better in kept):
            kept.append((score, mask))
    assert 0 < len(kept) < len(every), "test invalid"
    found = Suppression(0.3)(draws)
    assert sorted(found.existence) == sorted(score for score, _ in kept)
    for mask, score in zip(found.hypotheses().to_masks(), found.existence, strict=True):
        assert any(score == other and np.array_equal(mask, dense) for other, dense in kept)


@given(order=st.permutations(range(6)))
@settings(max_examples=20, deadline=None)
def test_equal_scores_are_decided_by_geometry_not_by_the_order_of_draws(order):
    draws = [replace(draw, scores=np.full(len(draw), 0.5)) for draw in noisy_draws(3)]
    one, other = Suppression()(draws), Suppression()([draws[place] for place in order])
    np.testing.assert_array_equal(one.hypotheses().to_masks(), other.hypotheses().to_masks())


def test_nothing_to_suppress():
    assert len(Suppression()([Instances.empty((3, 40))] * 2)) == 0
    assert Suppression()([Instances.empty((3, 40)), scored(strip(8), 0.3)]).existence.tolist() == [0.3]


def test_overlaps_out_of_range_and_values_to_try():
    for wrong in (-0.1, 1.1):
        with pytest.raises(ValueError, match="max_iou"):
            Suppression(wrong)
    for value in (0.1, Suppression().max_iou, 0.9):
        values = Suppression(value).tunable()["max_iou"]
        assert values and value not in values and all(0 < Suppression(other).max_iou < 1 for other in values)
