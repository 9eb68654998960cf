"""The assembly against loops that follow Eqs. 1-6 word by word, and ideal patches of drawn objects."""

from itertools import combinations

import numpy as np
import pytest

from plurimask.data.synthetic import worms
from plurimask.instances import Instances, slices
from plurimask.ops.patch_assembly import Assembly, paint, patch_graph, positive_components
from plurimask.ops.patch_consensus import Patches, consensus, scores, votes
from plurimask.testing import toy_truths

T = 0.5


def ideal(truth, size, *, noise=0.0, dtype=np.float16):
    """Patches of a perfect network at every pixel of an object: 1 where the two pixels share an object."""
    masks, radius = truth.to_masks(), np.array(size) // 2
    padded = np.pad(masks, [(0, 0), *((width, width) for width in radius)])
    centres = np.argwhere(masks.any(axis=0))
    values = np.zeros((len(centres), int(np.prod(size))))
    for value, centre in zip(values, centres, strict=True):
        window = padded[(slice(None), *map(slice, centre, centre + size))]
        value[:] = window[masks[(slice(None), *centre)]].any(axis=0).ravel()
    values = np.abs(values - np.random.default_rng(0).random(values.shape) * noise)
    return Patches(centres, values.astype(dtype), tuple(size), truth.shape)


def assembled(truth, size, assembly=None, **options):
    owners = truth.owners()
    return (assembly or Assembly())(ideal(truth, size, **options), cover=owners == 1, overlap=owners > 1)


def masks_of(instances):
    return {mask.tobytes() for mask in instances.to_masks()}


def random_patches(shape, size, seed):
    """Two touching bands with noise, so that the graph has edges of both signs; pixels without patch and overlap."""
    rng = np.random.default_rng(seed)
    bands = np.zeros(shape, int)
    bands[..., : shape[-1] // 2], bands[..., shape[-1] // 2 :] = 1, 2
    patches = ideal(Instances.from_labels(bands), size, dtype=np.float32)
    values = np.clip(0.8 * patches.values + 0.1 + rng.normal(0, 0.25, patches.values.shape), 0, 1).astype(np.float32)
    values[:, values.shape[1] // 2] = np.where(rng.random(len(values)) < 0.85, 0.9, 0.3)
    kept = rng.permutation(np.flatnonzero(rng.random(len(values)) < 0.95))
    return Patches(patches.centres, values, size, shape).select(kept), rng.random(shape) < 0.1


def said(patches, overlap, threshold):
    """pixel -> {pixel: p} for the valid pixels; every pixel of the image in the patch."""
    table = {}
    for centre, values in zip(patches.centres, patches.values.reshape(-1, *patches.size), strict=True):
        corner = centre - np.array(patches.size) // 2
        cells = [(tuple((corner + cell).tolist()), float(values[cell])) for cell in np.ndindex(*patches.size)]
        inside = {y: p for y, p in cells if all(0 <= k < side for k, side in zip(y, patches.shape, strict=True))}
        table[tuple(centre.tolist())] = inside
    return {x: table[x] for x in sorted(table) if table[x][x] > threshold and not overlap[x]}


def naive_affinities(table):
    found = {}
    for y, z in combinations(table, 2):
        said_of = [(patch[y], patch[z]) for patch in table.values() if y in patch and z in patch]
        pairs = [(max(pair), min(pair)) for pair in said_of if max(pair) > T]
        value = [high * low if low > T else -high * (1 - low) if low < 1 - T else 0 for high, low in pairs]
        if value:
            found[y, z] = found[z, y] = sum(value) / len(value)
    return found


def naive_score(patch, table, affinities):
    valid = [y for y in patch if y in table]
    inside = {y for y in valid if patch[y] > T}
    pairs = [(y, z) for y, z in combinations(valid, 2) if y in inside or z in inside]
    signs = [1 if {y, z} <= inside else -1 if min(patch[y], patch[z]) < 1 - T else 0 for y, z in pairs]
    total = sum(sign * affinities[pair] for sign, pair in zip(signs, pairs, strict=True))
    return total / len(pairs) if pairs else 0.0


def naive_selection(table, rated, cover, *, thinned):
    """The pixels of the selected patches, by rank."""
    covers = {x: {y for y, p in table[x].items() if p > T and cover[y]} for x in table}
    uncovered, chosen = set(map(tuple, np.argwhere(cover).tolist())), []
    for x in sorted(table, key=lambda x: (-round(rated[x], 6), x)):
        if covers[x] & uncovered:
            uncovered -= covers[x]
            chosen.append(x)
    uncovered, kept = set().union(*(covers[x] for x in chosen)), []
    while uncovered:
        kept.append(max(chosen, key=lambda x: len(covers[x] & uncovered)))
        uncovered -= covers[kept[-1]]
    return kept if thinned else chosen


def naive_edges(table, chosen, affinities):
    edges = {}
    for x, y in [*combinations(chosen, 2), *((x, x) for x in chosen)]:
        ours, theirs = ([v for v in table[at] if v in table and table[at][v] > T] for at in (x, y))
        defined = [affinities[v, w] for v in ours for w in theirs if (v, w) in affinities]
        if defined and sum(defined):
            edges[x, y] = sum(defined) / len(defined)
    return edges


def naive_partition(edges, chosen, *, mutex):
    clusters, forbidden = [{x} for x in chosen], set()
    for (x, y), weight in sorted(edges.items(), key=lambda edge: -abs(edge[1])):
        ours, theirs = (next(cluster for cluster in clusters if at in cluster) for at in (x, y))
        if weight < 0:
            forbidden.add(frozenset((x, y)))
        elif ours is not theirs and not (mutex and any(frozenset((u, v)) in forbidden for u in ours for v in theirs)):
            clusters.remove(theirs)
            ours |= theirs
    positive = {x for pair, weight in edges.items() if weight > 0 for x in pair}
    return [cluster for cluster in clusters if cluster & positive]


CASES = [((8, 9), (5, 3), 0), ((5, 12), (3, 9), 1), ((4, 3, 7), (3, 3, 5), 2)]


@pytest.mark.parametrize(("shape", "size", "seed"), CASES)
@pytest.mark.parametrize("thinned", [True, False])
@pytest.mark.parametrize("mutex", [True, False])
def test_equals_the_equations(shape, size, seed, thinned, mutex):
    patches, overlap = random_patches(shape, size, seed)
    cover = np.random.default_rng(seed).random(shape) < 0.8
    table = said(patches, overlap, T)
    affinities = naive_affinities(table)
    rated = {x: naive_score(table[x], table, affinities) for x in table}
    chosen = naive_selection(table, rated, cover & ~overlap, thinned=thinned)
    edges = naive_edges(table, chosen, affinities)
    clusters = naive_partition(edges, chosen, mutex=mutex)
    assert min(edges.values()) < 0 < max(edges.values()) and len(chosen) < len(table), "test invalid"

    assembly = Assembly(thin_out=thinned, partition="mutex" if mutex else "components")
    found = assembly(patches, cover=cover, overlap=overlap)
    assert {tuple(centre) for centre in patches.centres[found.patches].tolist()} == set(chosen)
    masks = np.zeros((len(clusters), *shape), bool)
    for mask, cluster in zip(masks, clusters, strict=True):
        for x in cluster:
            for y, p in table[x].items():
                mask[y] |= p > T
    assert masks_of(found.instances) == {mask.tobytes() for mask in masks}
    for index, object_scores in enumerate(found.instances.features["patch_score"]):
        own = [tuple(centre) for centre in patches.centres[found.patches[found.owners == index]].tolist()]
        assert object_scores == pytest.approx(np.mean([rated[x] for x in own]), abs=1e-6)


@pytest.mark.parametrize(("shape", "size", "seed"), CASES)
def test_the_graph_equals_the_equations(shape, size, seed):
    patches, overlap = random_patches(shape, size, seed)
    table = said(patches, overlap, T)
    cast = votes(patches, overlap)
    chosen = np.arange(0, len(cast), 3)
    pixels = [tuple(centre) for centre in cast.centres[chosen].tolist()]
    expected = naive_edges(table, pixels, naive_affinities(table))
    graph = patch_graph(cast, consensus(cast), chosen)
    pairs = [(pixels[x], pixels[y]) for x, y in zip(graph.first, graph.second, strict=True)]
    assert set(pairs) == set(expected) and graph.nodes == len(chosen)
    np.testing.assert_allclose(graph.weights, [expected[pair] for pair in pairs], atol=1e-6)


@pytest.mark.parametrize(
    ("case", "size", "thin_out"),
    [
        ("touching blobs", (3, 7), True),
        ("touching blobs", (21, 21), True),
        ("crossing worms", (9, 13), False),
        ("crossing worms", (21, 21), True),
        ("crossing worms", (61, 61), True),  # larger than the image
    ],
)
def test_ideal_patches_give_the_drawn_objects_back(case, size, thin_out):
    truth = toy_truths(2)[case]
    found = assembled(truth, size, Assembly(thin_out=thin_out))
    assert masks_of(found.instances) == masks_of(truth)
    np.testing.assert_array_equal(found.instances.scores, 1)
    np.testing.assert_allclose(found.instances.features["patch_score"], 1)


@pytest.mark.parametrize(
    "assembly",
    [
        Assembly(select=False),
        Assembly(thin_out=False),
        Assembly(partition="components"),
        Assembly(threshold=0.9, background="below t", normalised_product=True),
        Assembly(threshold=0.9, background="below t/2"),
        Assembly(threshold=0.3, cover_threshold=0.1),
    ],
)
def test_every_variant_gives_the_crossing_worms_back(assembly):
    truth = toy_truths(2)["crossing worms"]
    assert masks_of(assembled(truth, (21, 21), assembly).instances) == masks_of(truth)


@pytest.mark.parametrize("size", [(9, 13), (11, 11)])
def test_thinned_out_small_patches_may_leave_holes_in_overlaps_only(size):
    # Overlap needs no cover, so the few patches that are left need not contain all of it.
    truth = toy_truths(2)["crossing worms"]
    found = assembled(truth, size).instances
    assert len(found) == 2 and masks_of(found) != masks_of(truth)
    whole = truth.to_masks()
    for mask in found.to_masks():
        missed = min((mask ^ own for own in whole), key=np.count_nonzero)
        assert not (missed & (truth.owners() < 2)).any()


def test_patches_that_do_not_reach_across_an_overlap_leave_the_worms_cut():
    truth = toy_truths(2)["crossing worms"]
    assert len(assembled(truth, (7, 7)).instances) == 4


def test_ideal_patches_give_touching_balls_back():
    truth = toy_truths(3)["touching blobs"]
    assert masks_of(assembled(truth, (5, 5, 5)).instances) == masks_of(truth)


def test_noisy_patches_give_crossing_worms_of_a_well_back():
    truth = worms((200, 240), count=4, seed=4)[1]
    assert (truth.owners() > 1).any(), "test invalid: no crossing"
    found = assembled(truth, (25, 25), noise=0.3).instances
    assert masks_of(found) == masks_of(truth)
    assert (found.scores > 0.8).all() and (found.scores < 1).all()


def test_the_highest_probability_owns_a_pixel_of_the_label_map():
    # Two patches on a row of five pixels, said with different certainty: 9 8 6 . . and . . 7 8 9.
    values = np.zeros((2, 9), np.float32)
    values[0, 4:7], values[1, 2:5] = [0.9, 0.8, 0.6], [0.7, 0.8, 0.9]
    patches = Patches(np.array([[0, 0], [0, 4]]), values, (1, 9), (1, 5))
    found = paint(patches, np.array([0, 1]), np.array([0, 1]), scores=np.array([0.5, 0.25]), threshold=0.5)
    np.testing.assert_array_equal(found.labels(), [[1, 1, 2, 2, 2]])
    np.testing.assert_array_equal(found.instances.owners(), [[1, 1, 2, 1, 1]])
    np.testing.assert_allclose(found.instances.scores, [(0.9 + 0.8 + 0.6) / 3, 0.8], rtol=1e-6)
    np.testing.assert_array_equal(found.instances.features["patch_score"], [0.5, 0.25])
    one = paint(patches, np.array([0, 1]), np.array([0, 0]), scores=np.array([0.5, 0.25]), threshold=0.5)
    np.testing.assert_allclose(one.probabilities[0], [[0.9, 0.8, 0.7, 0.8, 0.9]], rtol=1e-6)
    assert len(paint(patches, np.array([0]), np.array([-1]), scores=np.zeros(1), threshold=0.5).instances) == 0


def test_objects_cut_to_a_region_are_scored_by_what_is_left_and_keep_their_patch_score():
    # Three patches side by side, an object each: 9 8 6, 7 8 9 and 6 9 7.
    values = np.array([[0.9, 0.8, 0.6], [0.7, 0.8, 0.9], [0.6, 0.9, 0.7]], np.float32)
    patches = Patches(np.array([[0, 1], [0, 4], [0, 7]]), values, (1, 3), (1, 9))
    rated = np.array([0.5, 0.25, 0.75])
    found = paint(patches, np.arange(3), np.arange(3), scores=rated, threshold=0.5)
    np.testing.assert_allclose(found.instances.scores, [2.3 / 3, 0.8, 2.2 / 3], rtol=1e-6)
    region = np.array([[1, 1, 0, 0, 0, 0, 0, 1, 0]], bool)  # nothing of the second object
    cut = found.within(region)
    assert cut.to_masks().tolist() == [[[True, True, *[False] * 7]], [[*[False] * 7, True, False]]]
    np.testing.assert_allclose(cut.scores, [0.85, 0.9], rtol=1e-6)
    assert cut.features["patch_score"].tolist() == [0.5, 0.75]
    whole, nothing = found.within(np.ones((1, 9), bool)), found.within(np.zeros((1, 9), bool))
    assert masks_of(whole) == masks_of(found.instances) and whole.features["patch_score"].tolist() == rated.tolist()
    np.testing.assert_array_equal(whole.scores, found.instances.scores)
    assert len(nothing) == len(nothing.features["patch_score"]) == 0


@pytest.mark.parametrize("shape", [(9, 10), (4, 5, 6)])
def test_empty_foreground(shape):
    none = Patches(np.zeros((0, len(shape)), int), np.zeros((0, 3 ** len(shape)), np.float16), (3,) * len(shape), shape)
    everywhere, nowhere = np.ones(shape, bool), np.zeros(shape, bool)
    for select in (True, False):
        found = Assembly(select=select)(none, cover=everywhere, overlap=nowhere)
        assert len(found.instances) == 0 and found.instances.shape == shape and not found.labels().any()


def test_nothing_to_cover_selects_nothing():
    truth = toy_truths(2)["touching blobs"]
    nowhere = np.zeros(truth.shape, bool)
    assert len(Assembly()(ideal(truth, (5, 5)), cover=nowhere, overlap=nowhere).instances) == 0
    # All foreground is overlap: no patch may be selected.
    assert len(Assembly()(ideal(truth, (5, 5)), cover=~nowhere, overlap=~nowhere).instances) == 0


def test_pixels_that_no_patch_covers_are_left():
    truth = toy_truths(2)["touching blobs"]
    everywhere = np.ones(truth.shape, bool)
    assert masks_of(Assembly()(ideal(truth, (5, 5)), cover=everywhere, overlap=~everywhere).instances) == masks_of(
        truth
    )


def test_objects_smaller_than_a_patch_and_at_the_border():
    labels = np.zeros((20, 20), int)
    labels[0:2, 0:2], labels[0, 4:6], labels[18:20, 17:20], labels[10, 10] = 1, 2, 3, 4
    truth = Instances.from_labels(labels)
    found = assembled(truth, (9, 9)).instances
    # A patch of one pixel has no pair, so no affinity even with itself: the paper's rule lets it go.
    assert masks_of(found) == masks_of(truth.select([0, 1, 2]))


def test_a_single_patch_survives_through_its_affinity_with_itself():
    truth = Instances.from_labels(np.pad(np.ones((2, 2), int), 3))
    found = assembled(truth, (7, 7))
    assert len(found.patches) == 1 and masks_of(found.instances) == masks_of(truth)


def test_the_order_of_the_patches_does_not_matter():
    patches, overlap = random_patches((8, 9), (5, 3), 4)
    shuffled = patches.select(np.random.default_rng(0).permutation(len(patches)))
    one, other = (Assembly()(each, cover=~overlap, overlap=overlap).instances for each in (patches, shuffled))
    np.testing.assert_array_equal(one.to_masks(), other.to_masks())
    np.testing.assert_array_equal(one.scores, other.scores)


def test_positive_components_number_in_order():
    first, second, weights = np.array([4, 1, 0, 2]), np.array([5, 3, 2, 2]), np.array([1.0, 0.5, -1.0, 0.1])
    assert positive_components(first, second, weights, nodes=7).tolist() == [0, 1, 2, 1, 3, 3, 0]
    assert positive_components(first[:0], second[:0], weights[:0], nodes=2).tolist() == [0, 0]
    assert positive_components(first[:0], second[:0], weights[:0], nodes=0).tolist() == []


def test_crops_are_tight_and_hold_the_probabilities():
    found = assembled(toy_truths(2)["crossing worms"], (9, 9), noise=0.2)
    for box, mask, crop in zip(found.instances.boxes, found.instances.masks, found.probabilities, strict=True):
        assert mask.any(axis=1)[[0, -1]].all() and mask.any(axis=0)[[0, -1]].all()
        assert ((crop > T) == mask).all() and not crop[~mask].any()
        assert np.zeros(found.instances.shape)[slices(box)].shape == crop.shape


@pytest.mark.parametrize("name", ["cover", "overlap"])
def test_masks_of_another_shape_are_refused(name):
    patches, overlap = random_patches((8, 9), (5, 3), 0)
    with pytest.raises(ValueError, match=name):
        Assembly()(patches, **{"cover": overlap, "overlap": overlap, name: overlap[1:]})


@pytest.mark.parametrize("options", [{"threshold": 1.0}, {"cover_threshold": -0.1}])
def test_thresholds_outside_their_range_are_refused(options):
    with pytest.raises(ValueError, match="threshold"):
        Assembly(**options)


def test_scores_of_patches_that_disagree_are_lower():
    truth = toy_truths(2)["touching blobs"]
    patches = ideal(truth, (7, 7))
    wrong = 10
    patches.values[wrong] = 1 - patches.values[wrong]
    patches.values[wrong, 24] = 1
    cast = votes(patches, np.zeros(truth.shape, bool))
    assert scores(cast, consensus(cast)).argmin() == wrong
