"""Mutex watershed: signed edges, the strongest first, merge what they join or forbid that it ever be merged.

Wolf et al. 2018, *The Mutex Watershed*; docs/algorithms.md, "Mutex watershed". Dense grids go to the library
``mwatershed``. It takes the edges of a graph as a list of tuples, seconds and 250 MB for a million edges; graphs have
a kernel of their own here, and the tests hold the two against each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mwatershed
import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray

from plurimask.ops.patch_consensus import Integers, Mask, Patches, restrict
from plurimask.ops.window_runs import mask_at

EM_OFFSETS: tuple[tuple[int, int, int], ...] = (
    *((-1, 0, 0), (0, -1, 0), (0, 0, -1)),
    *((-1, -1, -1), (-1, 1, 1), (-1, -1, 1), (-1, 1, -1)),
    *((0, -9, 0), (0, 0, -9), (0, -9, -9), (0, 9, -9), (0, -9, -4), (0, -4, -9), (0, 4, -9), (0, 9, -4)),
    *((0, -27, 0), (0, 0, -27)),
)
"""The 17 offsets (z, y, x) of the mutex watershed's authors for neurons in electron microscopy; 3 are attractive."""

EM_ATTRACTIVE = 3
"""How many of :data:`EM_OFFSETS`, from the first, attract."""

EM_STRIDES: tuple[tuple[int, int, int], ...] = ((1, 1, 1),) * 3 + ((1, 10, 10),) * 14
"""The repulsive edges of :data:`EM_OFFSETS` are used at every tenth row and column only."""


def signed(affinities: NDArray[Any], attractive: int) -> NDArray[np.float64]:
    """Affinities a in [0, 1], 1 for "one object" -> weights ``(E, *spatial)``.

    a for the first ``attractive`` channels; for the others a - 1, so that a strong edge is a certain border.

    >>> signed(np.array([[0.9], [0.2]]), attractive=1)
    array([[ 0.9],
           [-0.8]])
    """
    weights: NDArray[np.float64] = affinities.astype(np.float64)
    weights[attractive:] -= 1
    return weights


def mutex_watershed(
    weights: NDArray[Any], offsets: Sequence[Sequence[int]], *, strides: Sequence[Sequence[int]] | None = None
) -> NDArray[np.int32]:
    """Labels ``(*spatial)``, 1, 2, ... in the order of their first pixels; 0 where no edge attracts.

    Args:
        weights: ``(E, *spatial)``, of the edge from a pixel to the pixel at the offset: above 0 it attracts, else it
            repels (a weight of 0 does nothing). Edges that leave the image are ignored.
        offsets: ``(E, D)``.
        strides: ``(E, D)``, only every n-th pixel has an edge, counted along each axis from the first pixel whose edge
            stays in the image (the library's convention); None for every pixel.

    Raises:
        ValueError: the numbers of channels, offsets and strides differ, or a weight is not finite.
    """
    ndim = weights.ndim - 1
    for name, rows in (("offsets", offsets), ("strides", strides)):
        if rows is not None and np.shape(rows) != (len(weights), ndim):
            raise ValueError(f"{name} of shape {np.shape(rows)} came; {(len(weights), ndim)} are wanted.")
    if not np.isfinite(weights).all():
        raise ValueError("a weight is not finite; the network that made it is broken.")
    # The library panics where an offset is longer than the image, and no edge of it stays inside.
    fits = [edge for edge, offset in enumerate(offsets) if (np.abs(offset) < weights.shape[1:]).all()]
    weights, offsets = weights[fits], [[int(step) for step in offsets[edge]] for edge in fits]
    thinned = None if strides is None else [[int(step) for step in strides[edge]] for edge in fits]
    if not fits:
        return np.zeros(weights.shape[1:], np.int32)
    found = mwatershed.agglom(weights.astype(np.float64), offsets, strides=thinned)
    labels: NDArray[np.int64] = found.ravel().astype(np.int64)
    # The library (0.5.4) names a cluster after one of its pixels; alone, the first pixel is taken for background.
    if labels.size and labels[0] == 0 and _first_attracted(weights, np.asarray(offsets, np.int64)):
        labels[0] = labels.max() + 1
    return _in_order(labels).reshape(found.shape).astype(np.int32)


def mutex_components(first: ArrayLike, second: ArrayLike, weights: ArrayLike, *, nodes: int) -> Integers:
    """The same on a graph: labels ``(nodes,)``, 1, 2, ... in the order of their first nodes.

    A node without a positive edge gets 0; a positive edge from a node to itself counts (PatchPerPix: a patch that
    agrees with itself survives alone).

    Args:
        first: ``(E,)`` nodes.
        second: ``(E,)`` nodes.
        weights: ``(E,)`` above 0 attracts, below 0 repels, 0 does nothing; equal strengths by their order here.
        nodes: their number.

    >>> mutex_components([2, 0, 0, 1], [3, 3, 2, 1], [-3, 2, 1, 0.5], nodes=5)
    array([1, 2, 3, 1, 0])
    """
    one, other, strength = np.asarray(first, np.int64), np.asarray(second, np.int64), np.asarray(weights)
    if np.isnan(strength).any():
        raise ValueError("a weight is NaN; leave the edge out or give it 0.")
    wanted = np.zeros(nodes, np.bool_)
    wanted[one[strength > 0]] = wanted[other[strength > 0]] = True
    used = np.flatnonzero((strength != 0) & (one != other))
    order = used[np.argsort(-np.abs(strength[used]), kind="stable")]
    roots = _merge(one[order], other[order], strength[order] > 0, nodes)
    return _in_order(np.where(wanted, roots + 1, 0))


def dense_patches(patches: Patches, foreground: Mask) -> NDArray[np.int32]:
    """The patches as affinities, without assembly: "MWS-Dense" (Mais, Hirsch, Kainmueller 2020, Table 2).

    Every p_x(y) between foreground pixels is used twice, to attract with weight a and to repel with 1 - a: one edge of
    weight a - 1/2. foreground: ``(*spatial)`` bool. Labels ``(*spatial)``; 0 where no patch is centred.
    """
    pixels = patches.pixels
    inside = np.flatnonzero(foreground.ravel()[pixels])
    inside = inside[np.argsort(pixels[inside])]
    members = mask_at(patches.centres[inside].astype(np.int64), patches.shape)
    runs, values = restrict(patches, members, inside)
    labels = np.zeros(patches.shape, np.int32)
    labels[members] = mutex_components(runs.centres, runs.members, values - np.float32(0.5), nodes=len(inside))
    return labels


def _first_attracted(weights: NDArray[Any], offsets: Integers) -> bool:
    """Does an edge attract the first pixel? Strides keep every edge that it has."""
    for channel, offset in zip(weights, offsets, strict=True):
        start = np.maximum(-offset, 0)
        one_way = (offset >= 0).all() or (offset <= 0).all()
        if one_way and (np.maximum(start, start + offset) < channel.shape).all() and channel[tuple(start)] > 0:
            return True
    return False


def _in_order(labels: Integers) -> Integers:
    """Numbers 1, 2, ... in the order of first occurrence; 0 stays 0."""
    ids, firsts, flat = np.unique(labels, return_index=True, return_inverse=True)
    firsts[ids == 0] = -1
    ranks = np.empty(len(ids), np.int64)
    ranks[np.argsort(firsts)] = np.arange(len(ids)) + (0 if 0 in ids else 1)
    return ranks[flat]


@njit(cache=True)
def _merge(first: Integers, second: Integers, attractive: Mask, nodes: int) -> Integers:
    """Roots ``(nodes,)``; the edges come strongest first.

    Forbidden pairs of roots are a set of numbers. Every root also has a linked list of nodes in forbidden clusters:
    when two clusters merge, the pairs of the one with the shorter list are entered anew.
    """
    parent, length = np.arange(nodes), np.zeros(nodes, np.int64)
    head, tail = np.full(nodes, -1), np.full(nodes, -1)
    repulsive = len(attractive) - attractive.sum()
    other, following = np.empty(2 * repulsive, np.int64), np.full(2 * repulsive, -1)
    forbidden, cells = {np.int64(-1)}, 0
    for edge in range(len(first)):
        a, b = _root(parent, first[edge]), _root(parent, second[edge])
        if a == b or min(a, b) * nodes + max(a, b) in forbidden:
            continue
        if attractive[edge]:
            if length[a] < length[b]:
                a, b = b, a
            cell = head[b]
            while cell >= 0:
                c = _root(parent, other[cell])
                forbidden.add(np.int64(min(a, c) * nodes + max(a, c)))
                cell = following[cell]
            parent[b] = a
            if length[b] > 0:
                following[tail[a]] = head[b]
                tail[a] = tail[b]
                length[a] += length[b]
        else:
            forbidden.add(np.int64(min(a, b) * nodes + max(a, b)))
            for mine, theirs in ((a, b), (b, a)):
                other[cells] = theirs
                if head[mine] < 0:
                    head[mine] = cells
                else:
                    following[tail[mine]] = cells
                tail[mine] = cells
                length[mine] += 1
                cells += 1
    for node in range(nodes):
        parent[node] = _root(parent, node)
    return parent


@njit(cache=True)
def _root(parent: Integers, node: int) -> int:
    while parent[node] != node:
        parent[node] = parent[parent[node]]
        node = parent[node]
    return node
