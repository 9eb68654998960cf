"""The two covers against walks over sets."""

import numpy as np
import pytest

from plurimask.ops.patch_consensus import Patches, restrict
from plurimask.ops.patch_cover import ranked_cover, thin_out


def random_cover(seed, shape=(12, 13), size=(5, 3)):
    """Runs, values and number of pixels; the same as sets of pixels, one per patch; and a ranking."""
    rng = np.random.default_rng(seed)
    centres = np.argwhere(rng.random(shape) < 0.5)
    patches = Patches(centres, rng.random((len(centres), int(np.prod(size))), np.float32), size, shape)
    cover = rng.random(shape) < 0.6
    runs, values = restrict(patches, cover, np.arange(len(patches)))
    above = values > 0.7
    sets = [set(runs.members[above & (runs.centres == patch)].tolist()) for patch in range(len(patches))]
    return runs, values, np.count_nonzero(cover), sets, rng.permutation(len(patches))


def naive_walk(sets, ranking):
    covered, taken = set(), []
    for patch in ranking:
        if sets[patch] - covered:
            covered |= sets[patch]
            taken.append(patch)
    return taken


def naive_greedy(sets, chosen):
    uncovered, kept = set().union(*(sets[patch] for patch in chosen)), []
    while uncovered:
        best = max(chosen, key=lambda patch: len(sets[patch] & uncovered))  # max takes the first of equals
        uncovered -= sets[best]
        kept.append(best)
    return [patch for patch in chosen if patch in kept]


@pytest.mark.parametrize("seed", range(10))
def test_covers_equal_the_walks_over_sets(seed):
    runs, values, pixels, sets, ranking = random_cover(seed)
    taken = ranked_cover(runs, values, ranking, threshold=0.7, pixels=pixels)
    assert taken.tolist() == naive_walk(sets, ranking)
    kept = thin_out(runs, values, taken, threshold=0.7, pixels=pixels)
    assert kept.tolist() == naive_greedy(sets, taken)
    assert len(kept) < len(taken) < len(ranking), "test invalid: nothing was left out"
    # Some pixels no patch reaches: both end all the same, and cover what can be covered.
    assert set().union(*sets) == set().union(*(sets[patch] for patch in kept))
    assert len(set().union(*sets)) < pixels, "test invalid: everything can be covered"


@pytest.mark.parametrize("shape", [(4, 4), (3, 4, 5)])
def test_nothing_to_cover_and_nothing_to_cover_with(shape):
    size = (3,) * len(shape)
    centres = np.argwhere(np.ones(shape))
    patches = Patches(centres, np.ones((len(centres), int(np.prod(size))), np.float32), size, shape)
    nowhere, everywhere = np.zeros(shape, bool), np.ones(shape, bool)
    ranking = np.arange(len(patches))
    for cover, indices in ((nowhere, ranking), (everywhere, ranking[:0])):
        runs, values = restrict(patches, cover, indices)
        taken = ranked_cover(runs, values, indices, threshold=0.5, pixels=np.count_nonzero(cover))
        assert len(taken) == 0
        assert len(thin_out(runs, values, taken, threshold=0.5, pixels=np.count_nonzero(cover))) == 0


def test_a_set_cover_drawn_by_hand():
    # Ranked a, b, c on a row of six pixels: aaa..., .bbb.., ..cccc. All three gain on the walk; a and c cover.
    values = np.zeros((3, 11), np.float32)
    for patch, (centre, start, stop) in enumerate([(1, 0, 3), (2, 1, 4), (3, 2, 6)]):
        values[patch, start - centre + 5 : stop - centre + 5] = 0.9
    patches = Patches(np.array([[0, 1], [0, 2], [0, 3]]), values, (1, 11), (1, 6))
    runs, inside = restrict(patches, np.ones((1, 6), bool), np.arange(3))
    taken = ranked_cover(runs, inside, np.arange(3), threshold=0.5, pixels=6)
    assert taken.tolist() == [0, 1, 2]
    assert thin_out(runs, inside, taken, threshold=0.5, pixels=6).tolist() == [0, 2]
