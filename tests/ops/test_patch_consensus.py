"""Consensus and scores against loops that follow Eqs. 1-4 word by word."""

from itertools import combinations

import numpy as np
import pytest

from plurimask.ops.patch_consensus import Patches, consensus, restrict, scores, votes

LIMITS = {"below 1-t": lambda t: 1 - t, "below t/2": lambda t: t / 2, "below t": lambda t: t}
CASES = [((6, 7), (5, 3)), ((4, 5), (7, 11)), ((4, 3, 5), (3, 3, 5))]  # the second window is larger than its image


def random_patches(shape, size, *, seed, dtype=np.float32):
    """Patches of nine pixels in ten, in no order, four centres in five above 0.7; overlap at one pixel in eight."""
    rng = np.random.default_rng(seed)
    centres = rng.permutation(np.argwhere(rng.random(shape) < 0.9))
    values = rng.random((len(centres), int(np.prod(size)))).astype(dtype)
    values[:, values.shape[1] // 2] = np.where(rng.random(len(centres)) < 0.8, 0.9, 0.4)
    return Patches(centres, values, size, shape), rng.random(shape) < 0.12


def said(patches, overlap, threshold):
    """pixel -> {pixel: p} for the valid pixels, both of them valid."""
    table = {}
    for centre, values in zip(patches.centres, patches.values.reshape(-1, *patches.size), strict=True):
        corner = centre - np.array(patches.size) // 2
        cells = np.ndindex(*patches.size)
        table[tuple(centre.tolist())] = {tuple((corner + cell).tolist()): float(values[cell]) for cell in cells}
    table = {x: patch for x, patch in table.items() if patch[x] > threshold and not overlap[x]}
    return {x: {y: p for y, p in table[x].items() if y in table} for x in sorted(table)}


def naive_consensus(table, threshold, *, background="below 1-t", normalised=False):
    """Eq. 3: {(y, z): affinity}, y before z, for the pairs of which a patch has a say."""

    def product(a, b):
        return (a * b - threshold**2) / (1 - threshold**2) if normalised else a * b

    limit = LIMITS[background](threshold)
    affinities = {}
    for y, z in combinations(table, 2):
        total = count = 0
        for patch in table.values():
            if y not in patch or z not in patch or max(patch[y], patch[z]) <= threshold:
                continue
            count += 1
            if min(patch[y], patch[z]) > threshold:
                total += product(patch[y], patch[z])
            elif min(patch[y], patch[z]) < limit:
                total -= product(max(patch[y], patch[z]), 1 - min(patch[y], patch[z]))
        if count:
            affinities[y, z] = total / count
    return affinities


def naive_scores(table, affinities, threshold, *, background="below 1-t"):
    """Eq. 4, in the order of the table."""
    limit, found = LIMITS[background](threshold), []
    for patch in table.values():
        total = pairs = 0
        for y, z in combinations(sorted(patch), 2):
            if max(patch[y], patch[z]) > threshold:
                pairs += 1
                if min(patch[y], patch[z]) > threshold:
                    total += affinities[y, z]
                elif min(patch[y], patch[z]) < limit:
                    total -= affinities[y, z]
        found.append(total / pairs if pairs else 0.0)
    return found


def as_pairs(cast, agreed):
    """The table of pairs in the form of :func:`naive_consensus`."""
    pixels = [tuple(centre) for centre in cast.centres.tolist()]
    ends = zip(agreed.runs.centres[agreed.defined], agreed.runs.members[agreed.defined], strict=True)
    keys = [(pixels[y], pixels[z]) for y, z in ends]
    return dict(zip(keys, agreed.affinity[agreed.defined].tolist(), strict=True))


@pytest.mark.parametrize(("shape", "size"), CASES)
@pytest.mark.parametrize("threshold", [0.5, 0.7])
@pytest.mark.parametrize("background", LIMITS)
@pytest.mark.parametrize("normalised", [False, True])
def test_equals_the_equations(shape, size, threshold, background, normalised):
    patches, overlap = random_patches(shape, size, seed=1)
    table = said(patches, overlap, threshold)
    assert 8 < len(table) < len(patches), "test invalid: overlap and weak centres must occur"
    cast = votes(patches, overlap, threshold=threshold, background=background)
    agreed = consensus(cast, normalised_product=normalised)
    expected = naive_consensus(table, threshold, background=background, normalised=normalised)
    found = as_pairs(cast, agreed)
    assert found.keys() == expected.keys()
    np.testing.assert_allclose([found[pair] for pair in expected], list(expected.values()), atol=1e-6)
    rated = naive_scores(table, expected, threshold, background=background)
    np.testing.assert_allclose(scores(cast, agreed), rated, atol=1e-6)


def test_float16_is_read_exactly():
    patches, overlap = random_patches((6, 7), (5, 3), seed=2, dtype=np.float16)
    cast = votes(patches, overlap, threshold=0.6)
    expected = naive_consensus(said(patches, overlap, 0.6), 0.6)
    found = as_pairs(cast, consensus(cast))
    np.testing.assert_allclose([found[pair] for pair in expected], list(expected.values()), atol=1e-6)


def test_gram_identity():
    # sum over x of f f^T - f b^T - b f^T = (f - b)(f - b)^T - b b^T, over dense vectors.
    patches, overlap = random_patches((5, 6), (5, 5), seed=3)
    cast = votes(patches, overlap, threshold=0.6)
    agreed = consensus(cast)
    count = len(cast)
    value, seen = np.zeros((count, count)), np.zeros((count, count), bool)
    value[cast.runs.centres, cast.runs.members] = cast.signed
    seen[cast.runs.centres, cast.runs.members] = True
    f, b = np.maximum(value, 0), np.maximum(-value, 0)
    numerator = (f - b).T @ (f - b) - b.T @ b
    np.testing.assert_allclose(numerator, f.T @ f - f.T @ b - b.T @ f, atol=1e-9)
    inform = (f > 0).astype(int)
    counts = inform.T @ seen + seen.T.astype(int) @ inform - inform.T @ inform
    y, z = agreed.runs.centres, agreed.runs.members
    np.testing.assert_array_equal(agreed.defined, counts[y, z] > 0)
    np.testing.assert_allclose(agreed.affinity, numerator[y, z] / np.maximum(counts[y, z], 1), atol=1e-6)


def test_the_released_background_with_the_normalised_product_can_attract():
    # p_y = .95, p_z = .5, t = .9: v_fb = -1.763, and subtracting it attracts. y's patch says so, z's says z alone.
    centres, shape = np.array([[0, 0], [0, 1]]), (1, 2)
    values = np.array([[0.0, 0.95, 0.5], [0.0, 0.95, 0.0]], np.float32)
    cast = votes(Patches(centres, values, (1, 3), shape), np.zeros(shape, bool), threshold=0.9, background="below t")
    quirk = consensus(cast, normalised_product=True).affinity
    other = -(0.95 - 0.81) / 0.19  # z's patch: .95 (1 - 0), a full vote against
    np.testing.assert_allclose(quirk, [(1.763158 + other) / 2], atol=1e-5)
    assert quirk[0] > 0 > consensus(cast).affinity[0]


def test_patches_on_overlap_do_not_vote():
    patches, overlap = random_patches((5, 6), (3, 3), seed=4)
    before = consensus(votes(patches, overlap)).affinity
    on = overlap[tuple(patches.centres.T)]
    assert on.any(), "test invalid"
    patches.values[on] = np.random.default_rng(0).random(patches.values[on].shape)
    np.testing.assert_array_equal(consensus(votes(patches, overlap)).affinity, before)


def test_the_order_of_the_patches_does_not_matter():
    patches, overlap = random_patches((6, 7), (5, 3), seed=5)
    order = np.random.default_rng(0).permutation(len(patches))
    cast, shuffled = votes(patches, overlap), votes(patches.select(order), overlap)
    np.testing.assert_array_equal(order[shuffled.patches], cast.patches)
    np.testing.assert_array_equal(scores(cast, consensus(cast)), scores(shuffled, consensus(shuffled)))


def test_restriction_equals_indexing_of_a_padded_image():
    patches, members = random_patches((6, 7), (5, 3), seed=6)
    indices = np.array([4, 0, 9])
    runs, values = restrict(patches, members, indices)
    dense = np.full((3, *members.shape), np.nan)
    for image, index in zip(dense, indices, strict=True):
        for cell in np.argwhere(np.ones(patches.size)):
            pixel = patches.centres[index] + cell - [2, 1]
            if (pixel >= 0).all() and (pixel < members.shape).all() and members[tuple(pixel)]:
                image[tuple(pixel)] = patches.values[index].reshape(patches.size)[tuple(cell)]
    found = np.full((3, members.sum()), np.nan)
    found[runs.centres, runs.members] = values
    np.testing.assert_array_equal(found, dense[:, members])


def test_nothing_to_vote_about():
    shape, size = (5, 6), (3, 3)
    none = Patches(np.zeros((0, 2), int), np.zeros((0, 9), np.float16), size, shape)
    weak = Patches(np.array([[1, 1]]), np.zeros((1, 9), np.float16), size, shape)
    for patches in (none, weak):
        cast = votes(patches, np.zeros(shape, bool))
        assert len(cast) == len(consensus(cast).affinity) == len(scores(cast, consensus(cast))) == 0


def test_a_patch_of_one_pixel_scores_nothing():
    patches = Patches(np.array([[2, 2]]), np.ones((1, 9), np.float32), (3, 3), (5, 5))
    cast = votes(patches, np.zeros((5, 5), bool))
    assert scores(cast, consensus(cast)).tolist() == [0.0]


@pytest.mark.parametrize(
    ("centres", "values", "size", "message"),
    [
        ([[0, 0]], np.ones((1, 6)), (2, 3), "odd sides"),
        ([[0, 0]], np.ones((1, 9)), (3, 3, 1), "odd sides"),
        ([[0, 0]], np.ones((1, 8)), (3, 3), "are wanted"),
        ([[0, 4]], np.ones((1, 9)), (3, 3), "outside the image"),
        ([[1, 1], [1, 1]], np.ones((2, 9)), (3, 3), "same centre"),
    ],
)
def test_patches_that_do_not_fit_are_refused(centres, values, size, message):
    with pytest.raises(ValueError, match=message):
        Patches(np.array(centres), values, size, (4, 4))


@pytest.mark.parametrize("value", [np.nan, 1.5, -0.5])
def test_values_that_are_no_probabilities_are_refused(value):
    values = np.ones((2, 9), np.float32)
    values[0, 5] = value
    with pytest.raises(ValueError, match="probabilities"):
        Patches(np.array([[1, 1], [1, 2]]), values, (3, 3), (4, 4))
