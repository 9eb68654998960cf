"""Mutex watershed against a brute force with sets, and the kernel for graphs against the library for them."""

import mwatershed
import numpy as np
import pytest

from plurimask.ops.mutex_watershed import (
    EM_ATTRACTIVE,
    EM_OFFSETS,
    EM_STRIDES,
    dense_patches,
    mutex_components,
    mutex_watershed,
    signed,
)
from plurimask.ops.patch_consensus import Patches


def naive(edges, nodes):
    """Clusters as sets, forbidden pairs of nodes looked up one by one. edges: (node, node, weight)."""
    clusters = [{node} for node in nodes]
    forbidden = set()
    for a, b, weight in sorted(edges, key=lambda edge: -abs(edge[2])):
        ours = next(cluster for cluster in clusters if a in cluster)
        theirs = next(cluster for cluster in clusters if b in cluster)
        if weight < 0:
            forbidden.add(frozenset((a, b)))
        allowed = not any(frozenset((u, v)) in forbidden for u in ours for v in theirs)
        if weight > 0 and ours is not theirs and allowed:
            clusters.remove(theirs)
            ours |= theirs
    attracted = {node for a, b, weight in edges if weight > 0 for node in (a, b)}
    return {frozenset(cluster) for cluster in clusters if cluster & attracted}


def clusters_of(labels):
    return {frozenset(np.flatnonzero(labels == number).tolist()) for number in np.unique(labels[labels > 0])}


def random_graph(seed, nodes=14, edges=60):
    """A node in four is in no positive edge, some are in a positive edge with themselves, and some weights are 0."""
    rng = np.random.default_rng(seed)
    first, second = rng.integers(0, nodes, (2, edges))
    weights = rng.permutation(np.linspace(-1, 1, edges))
    weights[(first % 4 == 0) | (second % 4 == 0)] *= -np.sign(weights[(first % 4 == 0) | (second % 4 == 0)])
    weights[rng.integers(0, edges, 3)] = 0
    loops = np.arange(0, nodes, 8)
    first, second = np.append(first, loops), np.append(second, loops)
    return first, second, np.append(weights, np.full(len(loops), 0.5))


@pytest.mark.parametrize("seed", range(30))
def test_graphs_equal_the_brute_force(seed):
    first, second, weights = random_graph(seed)
    edges = list(zip(first.tolist(), second.tolist(), weights.tolist(), strict=True))
    expected = naive(edges, range(14))
    assert len(expected) > 1, "test invalid: one cluster"
    labels = mutex_components(first, second, weights, nodes=14)
    assert clusters_of(labels) == expected
    firsts = [np.flatnonzero(labels == number)[0] for number in range(1, labels.max() + 1)]
    assert firsts == sorted(firsts)


@pytest.mark.parametrize("seed", range(5))
def test_large_graphs_equal_the_library(seed):
    rng = np.random.default_rng(seed)
    first, second = rng.integers(0, 2000, (2, 20000))
    near = first // 40 == second // 40
    weights = np.where(near | (rng.random(20000) < 0.02), 1, -1) * rng.random(20000)
    ours = mutex_components(first, second, weights, nodes=2000)
    theirs = np.full(2000, -1)
    edges = list(zip(weights.tolist(), first.tolist(), second.tolist(), strict=True))
    for node, root in mwatershed.cluster_edges(edges):
        theirs[node] = root
    theirs[np.setdiff1d(np.arange(2000), np.concatenate([first[weights > 0], second[weights > 0]]))] = -1
    assert clusters_of(ours) == clusters_of(theirs + 1)
    assert ours.max() > 20


def test_five_nodes():
    # 2 | 3 comes first; then 0 joins 3, and 2 can no more join 0. Node 4 is only ever repelled.
    first, second, weights = [2, 0, 0, 1, 1], [3, 3, 2, 0, 4], [-5, 4, 3, 2, -1]
    np.testing.assert_array_equal(mutex_components(first, second, weights, nodes=5), [1, 1, 2, 1, 0])
    np.testing.assert_array_equal(mutex_components(first[1:], second[1:], weights[1:], nodes=5), [1, 1, 1, 1, 0])


def test_equal_strengths_follow_the_order_of_the_edges():
    assert mutex_components([0, 0], [1, 1], [1, -1], nodes=2).tolist() == [1, 1]
    assert mutex_components([0, 0], [1, 1], [-1, 1], nodes=2).tolist() == [1, 2]


def test_graphs_without_edges_or_nodes():
    assert mutex_components([], [], [], nodes=3).tolist() == [0, 0, 0]
    assert mutex_components([], [], [], nodes=0).tolist() == []
    assert mutex_components([1], [1], [0.1], nodes=3).tolist() == [0, 1, 0]


def test_nan_is_refused():
    with pytest.raises(ValueError, match="NaN"):
        mutex_components([0], [1], [np.nan], nodes=2)
    with pytest.raises(ValueError, match="not finite"):
        mutex_watershed(np.full((1, 2, 2), np.nan), [(0, 1)])


def grid_edges(weights, offsets, strides):
    shape = weights.shape[1:]
    for channel, (offset, stride) in enumerate(zip(offsets, strides, strict=True)):
        for pixel in np.ndindex(*shape):
            partner = tuple(np.add(pixel, offset))
            inside = all(0 <= place < side for place, side in zip(partner, shape, strict=True))
            steps = np.subtract(pixel, np.maximum(np.negative(offset), 0))
            if inside and not (steps % stride).any():
                ends = np.ravel_multi_index(pixel, shape), np.ravel_multi_index(partner, shape)
                yield *map(int, ends), float(weights[(channel, *pixel)])


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(
    ("shape", "offsets", "strides"),
    [
        ((6, 7), [(-1, 0), (0, -1), (-3, 0), (0, -3), (2, -3)], None),
        ((6, 7), [(-1, 0), (0, -1), (-3, 0), (0, -3), (2, -3)], [(1, 1), (1, 1), (2, 2), (1, 3), (2, 1)]),
        ((3, 4, 5), [(-1, 0, 0), (0, -1, 0), (0, 0, -1), (0, -2, -2), (-1, 1, 1)], None),
        ((3, 4, 5), [(-1, 0, 0), (0, -1, 0), (0, 0, -1), (0, -2, -2), (-1, 1, 1)], [(1, 1, 1)] * 3 + [(1, 2, 2)] * 2),
    ],
)
def test_grids_equal_the_brute_force(shape, offsets, strides, seed):
    rng = np.random.default_rng(seed)
    weights = rng.normal(0.3, 1, (len(offsets), *shape))
    edges = list(grid_edges(weights, offsets, strides or [(1,) * len(shape)] * len(offsets)))
    expected = naive(edges, range(int(np.prod(shape))))
    assert len(expected) > 1, "test invalid: one cluster"
    labels = mutex_watershed(weights, offsets, strides=strides)
    assert labels.shape == shape and labels.dtype == np.int32
    assert clusters_of(labels.ravel()) == expected
    assert set(np.unique(labels)) - {0} == set(range(1, labels.max() + 1))


def test_the_first_pixel_can_be_an_object_of_its_own():
    # The edge that attracts it comes after the one that repels it; the library calls that background.
    weights = np.array([[[0.4, 0.5, 0.0]], [[-0.9, 0.0, 0.0]]])
    np.testing.assert_array_equal(mutex_watershed(weights, [(0, 1), (0, 2)]), [[1, 2, 2]])
    weights[0, 0, 0] = -0.4
    np.testing.assert_array_equal(mutex_watershed(weights, [(0, 1), (0, 2)]), [[0, 1, 1]])


def test_equal_weights_on_a_grid_give_the_same_labels_again():
    weights = np.round(np.random.default_rng(0).normal(0.2, 1, (3, 40, 40)), 1)
    results = [mutex_watershed(weights, [(0, -1), (-1, 0), (-3, -3)]) for _ in range(5)]
    assert all((labels == results[0]).all() for labels in results)


def test_grids_where_nothing_attracts_are_background():
    assert not mutex_watershed(np.full((2, 3, 4), -0.5), [(0, -1), (-1, 0)]).any()
    assert not mutex_watershed(np.zeros((2, 3, 4)), [(0, -1), (-1, 0)]).any()


def test_ideal_affinities_of_neurons_give_them_back():
    truth = np.zeros((2, 36, 40), int)
    truth[:, :, :19], truth[:, :18, 19:], truth[:, 18:, 19:] = 1, 2, 3
    affinities = np.zeros((len(EM_OFFSETS), *truth.shape))
    for channel, offset in enumerate(EM_OFFSETS):
        for pixel in np.argwhere(np.ones_like(truth)):
            partner = pixel + offset
            if (partner >= 0).all() and (partner < truth.shape).all():
                affinities[(channel, *pixel)] = truth[tuple(partner)] == truth[tuple(pixel)]
    labels = mutex_watershed(signed(affinities, EM_ATTRACTIVE), EM_OFFSETS, strides=EM_STRIDES)
    np.testing.assert_array_equal(labels, truth)


def test_the_offsets_of_the_baseline():
    assert len(EM_OFFSETS) == len(set(EM_OFFSETS)) == len(EM_STRIDES) == 17
    assert set(EM_OFFSETS[:EM_ATTRACTIVE]) == {(-1, 0, 0), (0, -1, 0), (0, 0, -1)}


@pytest.mark.parametrize("rows", [[(0, -1)], [(0, 0, -1)] * 2])
def test_offsets_that_do_not_fit_are_refused(rows):
    with pytest.raises(ValueError, match="offsets of shape"):
        mutex_watershed(np.zeros((2, 3, 4)), rows)
    with pytest.raises(ValueError, match="strides of shape"):
        mutex_watershed(np.zeros((2, 3, 4)), [(0, -1), (-1, 0)], strides=rows)


@pytest.mark.parametrize(("shape", "size"), [((5, 6), (3, 5)), ((3, 4, 3), (3, 3, 3))])
def test_dense_patches_equal_the_brute_force(shape, size):
    rng = np.random.default_rng(0)
    centres = rng.permutation(np.argwhere(rng.random(shape) < 0.8))
    patches = Patches(centres, rng.random((len(centres), int(np.prod(size))), np.float32), size, shape)
    foreground = rng.random(shape) < 0.8
    nodes = [tuple(centre) for centre in centres.tolist() if foreground[tuple(centre)]]
    edges = []
    for centre, values in zip(centres, patches.values.reshape(-1, *size), strict=True):
        for cell in np.ndindex(*size):
            partner = tuple((centre + cell - np.array(size) // 2).tolist())
            if foreground[tuple(centre)] and partner in nodes and partner != tuple(centre):
                edges.append((tuple(centre.tolist()), partner, float(values[cell]) - 0.5))
    expected = naive(edges, nodes)
    labels = dense_patches(patches, foreground)
    found = {frozenset(map(tuple, np.argwhere(labels == number).tolist())) for number in range(1, labels.max() + 1)}
    assert found == expected
    assert len(expected) > 1, "test invalid: one cluster"


def test_dense_patches_without_foreground():
    patches = Patches(np.zeros((1, 2), int), np.ones((1, 9), np.float32), (3, 3), (4, 4))
    assert not dense_patches(patches, np.zeros((4, 4), bool)).any()


def test_offsets_longer_than_the_image_have_no_edges():
    weights = np.full((3, 1, 4), 0.9)
    offsets = [(0, -1), (-1, 0), (0, 9)]
    assert mutex_watershed(weights, offsets, strides=[(1, 1), (1, 1), (1, 2)]).tolist() == [[1, 1, 1, 1]]
    assert mutex_watershed(weights[1:], offsets[1:]).tolist() == [[0, 0, 0, 0]]
