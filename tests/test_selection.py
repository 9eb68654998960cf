"""The most probable conflict-free set against all subsets, and by hand."""

from itertools import combinations

import numpy as np
import pytest

from plurimask import selection
from plurimask.selection import independent_set, most_probable


def heaviest_by_trying_all(weights, pairs):
    best = 0.0
    for size in range(len(weights) + 1):
        for chosen in combinations(range(len(weights)), size):
            if not any(a in chosen and b in chosen for a, b in pairs):
                best = max(best, sum(weights[index] for index in chosen))
    return best


def random_case(seed, count, density):
    rng = np.random.default_rng(seed)
    pairs = np.array([pair for pair in combinations(range(count), 2) if rng.random() < density]).reshape(-1, 2)
    return rng.uniform(-0.3, 1, count), pairs.astype(np.int64)


@pytest.mark.parametrize("seed", range(25))
@pytest.mark.parametrize("density", [0.1, 0.3, 0.7])
def test_small_groups_are_solved_exactly(seed, density):
    weights, pairs = random_case(seed, 10, density)
    chosen = independent_set(weights, pairs)
    assert weights[chosen].sum() == pytest.approx(heaviest_by_trying_all(weights, pairs.tolist()))
    assert not chosen[pairs].all(axis=1).any()


@pytest.mark.parametrize("seed", range(10))
def test_large_groups_are_free_of_conflicts_and_cannot_be_extended(seed, monkeypatch):
    monkeypatch.setattr(selection, "EXACT_SIZE", 3)
    weights, pairs = random_case(seed, 40, 0.1)
    chosen = independent_set(weights, pairs)
    assert not chosen[pairs].all(axis=1).any()
    for index in np.flatnonzero(~chosen & (weights > 0)):
        rivals = {a + b - index for a, b in pairs if index in (a, b)}
        assert any(chosen[rival] for rival in rivals)


def choose(existence, areas, conflicts=()):
    """conflicts: (first, second, shared pixels)."""
    rows = np.array(conflicts, np.int64).reshape(-1, 3)
    chosen = most_probable(np.array(existence), np.array(areas), conflicts=rows[:, :2], shared=rows[:, 2])
    return np.flatnonzero(chosen).tolist()


WHOLE_AND_HALVES = [(0, 1, 50), (0, 2, 50)]


@pytest.mark.parametrize(("whole", "best"), [(0.6, [0]), (0.4, [1, 2])])
def test_a_majority_wins(whole, best):
    assert choose([whole, 1 - whole, 1 - whole], [100, 50, 50], WHOLE_AND_HALVES) == best


@pytest.mark.parametrize("score", [1.0, 0.9, 0.55])
@pytest.mark.parametrize(("area", "best"), [(101, [0]), (100, [0]), (99, [1, 2])])
def test_half_and_half_keeps_the_side_that_explains_more(score, area, best):
    half = 0.5 * score
    assert choose([half, half, half], [area, 50, 50], WHOLE_AND_HALVES) == best


def test_three_readings_of_one_place_leave_one():
    # Nobody reaches 1/2, but every draw sees something here.
    conflicts = [*WHOLE_AND_HALVES, (0, 3, 90), (1, 3, 45), (2, 3, 45)]
    assert choose([3 / 8, 3 / 8, 3 / 8, 2 / 8], [100, 49, 49, 90], conflicts) == [0]


def test_what_is_seen_rarely_is_not_believed_even_with_rivals():
    assert choose([1 / 8, 2 / 8], [50, 50], [(0, 1, 40)]) == []
    # A rival that covers little of it is little support: 0.4 + 0.4 * 12 / 50 < 1/2.
    assert choose([0.4, 0.4], [50, 50], [(0, 1, 12)]) == []
    assert choose([0.4, 0.4], [50, 50], [(0, 1, 13)]) == [0]


def test_a_chain_of_weak_hypotheses_does_not_add_up():
    # Left half in 2 draws of 8, right half in 2 others, the whole in 1: every pixel is background in 5 of 8.
    assert choose([1 / 8, 2 / 8, 2 / 8], [100, 50, 50], WHOLE_AND_HALVES) == []


def test_the_rival_of_a_chosen_one_is_no_support():
    # 2 is in conflict with 1 only, which is excluded by 0.
    assert choose([5 / 8, 3 / 8, 2 / 8], [50, 50, 50], [(0, 1, 40), (1, 2, 40)]) == [0]


def test_undisputed_objects():
    assert choose([1.0, 0.5, 0.49], [5, 5, 5]) == [0, 1]
    assert choose([1.0, 0.7], [0, 5]) == [1]
    assert choose([], []) == []
