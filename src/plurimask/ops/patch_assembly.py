"""PatchPerPix: from predicted patches to objects.

Mais, Hirsch, Kainmueller 2020, *PatchPerPix for Instance Segmentation*, Eqs. 1-6; docs/algorithms.md, "Assembly".
Consensus -> ranking -> cover -> patch affinity graph -> partition -> painting. Defaults are the paper's definitions.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from plurimask.instances import Instances, bounding_box, slices
from plurimask.ops.components import within
from plurimask.ops.mutex_watershed import mutex_components
from plurimask.ops.patch_consensus import (
    Background,
    Consensus,
    Floats,
    Integers,
    Mask,
    Patches,
    Votes,
    consensus,
    restrict,
    scores,
    votes,
)
from plurimask.ops.patch_cover import ranked_cover, thin_out
from plurimask.ops.window_runs import mask_at, runs_around

Partition = Literal["mutex", "components"]


@dataclass(frozen=True, eq=False)
class Assembled:
    """Objects put together from patches.

    Attributes:
        instances: overlaps kept. An object's score is the mean over its mask of the highest probability that one of
            its patches gives the pixel, in [0, 1]; its feature "patch_score" the mean score (Eq. 4) of its patches.
        probabilities: that highest probability, per object a float32 crop of its box, 0 outside its mask.
        patches: ``(K,)`` indices of the selected patches, in the order of their pixels.
        owners: ``(K,)`` the object of each of them, -1 for none.
    """

    instances: Instances
    probabilities: tuple[Floats, ...]
    patches: Integers
    owners: Integers

    def within(self, region: Mask) -> Instances:
        """The objects cut to a region ``(*spatial)``, scored by the pixels that are left."""
        pairs = zip(self.instances.boxes, self.instances.masks, self.probabilities, strict=True)
        left = [values[mask & region[slices(box)]] for box, mask, values in pairs]
        scores = np.array([values.mean(dtype=np.float64) if len(values) else 0.0 for values in left], np.float64)
        return within(replace(self.instances, scores=scores), region)

    def labels(self) -> NDArray[np.int32]:
        """``(*spatial)`` int32: object n becomes n + 1; the highest probability owns a pixel, the first on ties."""
        labels = np.zeros(self.instances.shape, np.int32)
        highest = np.zeros(self.instances.shape, np.float32)
        for number, (box, values) in enumerate(zip(self.instances.boxes, self.probabilities, strict=True), start=1):
            region = slices(box)
            wins = values > highest[region]
            labels[region][wins] = number
            highest[region][wins] = values[wins]
        return labels


@dataclass(frozen=True)
class Graph:
    """The patch affinity graph: edges between K patches (Eqs. 5 and 6), from a patch to itself included.

    Attributes:
        first, second: ``(E,)`` patches, ``first <= second``.
        weights: ``(E,)`` float64 in [-1, 1], never 0.
        nodes: K.
    """

    first: Integers
    second: Integers
    weights: NDArray[np.float64]
    nodes: int


@dataclass(frozen=True)
class Assembly:
    """How patches become objects.

    Attributes:
        threshold: t; a patch says foreground above it: votes, scores, affinities and painting.
        cover_threshold: fc; a patch covers the pixels of which it says more than this.
        select: keep only patches that cover; False is the ablation in which every valid patch is a node: a minute or
            two and 2 GB for 13,000 patches of 41 x 41 instead of seconds.
        thin_out: a greedy set cover among the selected. As overlap needs no cover, what is left may not contain all
            of an overlap, above all where patches are small: the objects then have holes there.
        partition: of the graph, by mutex watershed or by components of positive edges.
        background: a patch says background below 1 - t (the paper, Eq. 2), t/2, or t (the released BBBC010 settings).
        normalised_product: votes mapped from [t^2, 1] to [0, 1], the released default; not in the paper.
    """

    threshold: float = 0.5
    cover_threshold: float = 0.5
    select: bool = True
    thin_out: bool = True
    partition: Partition = "mutex"
    background: Background = "below 1-t"
    normalised_product: bool = False

    def __post_init__(self) -> None:
        for name, value in (("threshold", self.threshold), ("cover_threshold", self.cover_threshold)):
            if not 0 <= value < 1:
                raise ValueError(f"{name} {value}: a number from 0 up to, and without, 1 is wanted.")

    def __call__(self, patches: Patches, *, cover: Mask, overlap: Mask) -> Assembled:
        """Objects from patches.

        A pixel that no patch covers, and a patch that holds no second valid pixel, end in no object.

        Args:
            patches: of N pixels; only those that call their own centre foreground, off the overlap, take part.
            cover: ``(*spatial)`` bool, pixels that have to be covered; overlap is left out of it.
            overlap: ``(*spatial)`` bool, pixels of several objects.

        Raises:
            ValueError: cover or overlap have not the shape of the patches' image.
        """
        for name, mask in (("cover", cover), ("overlap", overlap)):
            if mask.shape != tuple(patches.shape):
                raise ValueError(f"{name} has the shape {mask.shape}, the patches' image {patches.shape}.")
        cast = votes(patches, overlap, threshold=self.threshold, background=self.background)
        agreed = consensus(cast, normalised_product=self.normalised_product)
        rated = scores(cast, agreed)
        chosen = np.sort(self.selected(patches, cast, rated, cover=cover & ~overlap))
        graph = patch_graph(cast, agreed, chosen)
        partition = mutex_components if self.partition == "mutex" else positive_components
        owners = partition(graph.first, graph.second, graph.weights, nodes=graph.nodes)
        return paint(patches, cast.patches[chosen], owners - 1, scores=rated[chosen], threshold=self.threshold)

    def selected(self, patches: Patches, cast: Votes, rated: NDArray[np.float64], *, cover: Mask) -> Integers:
        """Numbers, among those that vote, of the patches that become nodes. cover: ``(*spatial)``, without overlap.

        The better score ranks first, then the earlier pixel.
        """
        if not self.select:
            return np.arange(len(cast))
        runs, values = restrict(patches, cover, cast.patches)
        pixels = int(np.count_nonzero(cover))
        ranking = np.argsort(-rated, kind="stable")
        chosen = ranked_cover(runs, values, ranking, threshold=self.cover_threshold, pixels=pixels)
        if self.thin_out:
            chosen = thin_out(runs, values, chosen, threshold=self.cover_threshold, pixels=pixels)
        return chosen


def patch_graph(cast: Votes, agreed: Consensus, chosen: Integers) -> Graph:
    """Affinities of the chosen patches: the mean over v in fg(x), w in fg(y) of the defined aff(v, w) (Eqs. 5, 6).

    chosen: ``(K,)`` ascending. With A the affinities, D their presence and f indicators of foreground, that is
    f_x^T A f_y / f_x^T D f_y: a sparse product for every x, and dot products. An affinity of 0 makes no edge.
    """
    centres = cast.centres[chosen]
    # Farther apart than twice the reach of a pair, two patches have no pair in common.
    around = runs_around(centres, mask_at(centres, cast.shape), tuple(4 * side - 3 for side in cast.size))
    sums, counts = _directed(
        chosen,
        around.first,
        around.offsets,
        cast.runs.first,
        cast.runs.offsets,
        cast.signed,
        agreed.runs.first,
        agreed.runs.offsets,
        agreed.affinity,
        agreed.defined,
    )
    first, second = around.centres, around.members
    # Each pair stands at its earlier pixel: A = U + U^T. Entries in the order of (second, first) are the mirror image.
    mirror = np.argsort(second, kind="stable")
    sums, counts = sums + sums[mirror], counts + counts[mirror]
    kept = (first <= second) & (counts > 0) & (sums != 0)
    return Graph(first[kept], second[kept], sums[kept] / counts[kept], len(chosen))


def positive_components(first: Integers, second: Integers, weights: NDArray[Any], *, nodes: int) -> Integers:
    """Labels ``(nodes,)`` of the components of the positive edges, in order; 0 for a node without any."""
    kept = weights > 0
    graph = coo_array((np.ones(kept.sum(), np.bool_), (first[kept], second[kept])), shape=(nodes, nodes))
    roots = connected_components(graph, directed=False)[1]
    touched = np.zeros(nodes, np.bool_)
    touched[first[kept]] = touched[second[kept]] = True
    labels = np.zeros(nodes, np.int64)
    firsts, numbers = np.unique(roots[touched], return_index=True, return_inverse=True)[1:]
    labels[touched] = np.argsort(np.argsort(firsts))[numbers] + 1
    return labels


def paint(
    patches: Patches, chosen: Integers, owners: Integers, *, scores: NDArray[np.float64], threshold: float
) -> Assembled:
    """Paints the objects: each is the union of ``{p_x > t}`` of its patches.

    Args:
        patches: of the whole image.
        chosen: ``(K,)`` indices of the selected patches.
        owners: ``(K,)`` their objects 0, 1, ..., or -1.
        scores: ``(K,)`` their scores (Eq. 4).
        threshold: t.
    """
    order = np.argsort(owners, kind="stable")
    order = order[owners[order] >= 0]
    groups = np.split(order, np.flatnonzero(np.diff(owners[order])) + 1) if len(order) else []
    boxes, crops = [], []
    for group in groups:
        box, crop = _highest(patches, chosen[group])
        crop[~(crop > np.float32(threshold))] = 0
        tight = bounding_box(crop > 0)
        assert tight is not None, "a selected patch calls its own centre foreground"
        boxes.append(tight + box[0])
        crops.append(crop[slices(tight)])
    masks = [crop > 0 for crop in crops]
    means = [float(crop[mask].mean(dtype=np.float64)) for crop, mask in zip(crops, masks, strict=True)]
    rated = np.array([scores[group].mean() for group in groups])
    shape = tuple(patches.shape)
    found = Instances.from_crops(boxes, masks, shape, scores=means, features={"patch_score": rated})
    return Assembled(found, tuple(crops), chosen, owners)


def _highest(patches: Patches, chosen: Integers) -> tuple[Integers, Floats]:
    """The box around some patches, and in it the highest probability that one of them gives each pixel."""
    radius = np.asarray(patches.size) // 2
    centres = patches.centres[chosen].astype(np.int64)
    starts = np.maximum(centres - radius, 0)
    stops = np.minimum(centres + radius + 1, patches.shape)
    box = np.stack([starts.min(axis=0), stops.max(axis=0)])
    crop = np.zeros(box[1] - box[0], np.float32)
    for index, corners in zip(chosen, np.stack([starts, stops], axis=1), strict=True):
        window = patches.values[index].reshape(patches.size)
        inner = window[slices(corners - patches.centres[index] + radius)].astype(np.float32)
        region = crop[slices(corners - box[0])]
        np.maximum(region, inner, out=region)
    return box, crop


@njit(cache=True, parallel=True, fastmath={"reassoc", "nsz", "contract"})
def _directed(
    chosen: Integers,
    near_first: NDArray[np.int32],
    near_offsets: Integers,
    first: NDArray[np.int32],
    offsets: Integers,
    signed: Floats,
    pair_first: NDArray[np.int32],
    pair_offsets: Integers,
    affinity: Floats,
    defined: Mask,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """f_x^T U f_y and the number of defined pairs, U the table of pairs, for every patch y near every patch x."""
    lines, pair_lines, near_lines = first.shape[1], pair_first.shape[1], near_first.shape[1]
    sums, counts = np.zeros(near_offsets[-1], np.float64), np.zeros(near_offsets[-1], np.float64)
    for k in prange(len(chosen)):
        x, product, present = chosen[k], np.zeros(len(first), np.float64), np.zeros(len(first), np.float64)
        for line in range(lines):
            begin = offsets[x * lines + line]
            for entry in range(begin, offsets[x * lines + line + 1]):
                v = first[x, line] + entry - begin
                for row in range(pair_lines if signed[entry] > 0 else 0):
                    pair, w = np.uint64(pair_offsets[v * pair_lines + row]), np.uint64(pair_first[v, row])
                    for step in range(np.uint64(pair_offsets[v * pair_lines + row + 1]) - pair):
                        product[w + step] += affinity[pair + step]
                        present[w + step] += defined[pair + step]
        for row in range(near_lines):
            begin = near_offsets[k * near_lines + row]
            for near in range(begin, near_offsets[k * near_lines + row + 1]):
                y, total, number = chosen[near_first[k, row] + near - begin], 0.0, 0.0
                for line in range(lines):
                    other, w = np.uint64(offsets[y * lines + line]), np.uint64(first[y, line])
                    for step in range(np.uint64(offsets[y * lines + line + 1]) - other):
                        inside = 1.0 if signed[other + step] > 0 else 0.0
                        total += product[w + step] * inside
                        number += present[w + step] * inside
                sums[near], counts[near] = total, number
    return sums, counts
