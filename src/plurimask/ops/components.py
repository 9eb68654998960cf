"""From a map of single owners and a map of overlaps to whole objects: which overlap belongs to whom.

An object is a set of *pieces* (connected parts of its label outside the overlaps); the overlap map falls into *blobs*.
Who touches whom is found once, along the blobs, and everything else happens on the graph of pieces and blobs.
Connected means touching by faces, edges or corners (8 neighbours in 2-D, 26 in 3-D).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import combinations, product
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage, sparse
from scipy.sparse.csgraph import connected_components
from skimage import measure

from plurimask.instances import Instances, Mask, bounding_box, slices

Integers = NDArray[np.int64]
Region = tuple[slice, ...]


SLACK = 1.5
"""How many pixels a bridge may lead around the shortest way (so that it is as wide as the ends it joins)."""


def reconnect(
    labels: NDArray[Any],
    overlap: NDArray[np.bool_],
    *,
    min_contact: float = 0.0,
    max_gap: float = 0.0,
    min_piece: float = 0.1,
) -> Instances:
    """One object per label, in one connected part, with the overlaps that belong to it.

    The defaults are the post-processing of Rumberger et al. 2020: the object is united with the whole overlap map,
    and of the connected components of that the one with the largest IoU with the object is the result. It takes in
    every overlap that touches the object, however slightly, and of an object whose pieces no overlap joins it keeps
    the largest. Two departures, both off by default:

    * ``min_contact``: an object takes a blob only if it touches at least this share of the blob pixels that the
      object with the most contact touches, or if the blob joins two of its pieces. 0.2 is a good value.
    * ``max_gap``: pieces at most so many pixels apart are joined by :func:`bridges`, as if the overlap map had told
      of a crossing there. The width of an object, or two, is a good value.

    Args:
        labels: ``(*spatial)`` int, 0 where there is no object. Pixels under an overlap may be labelled or not; a
            label that occurs nowhere else becomes an object of its own there.
        overlap: ``(*spatial)`` bool.
        min_contact: see above, in [0, 1].
        max_gap: see above, in pixels.
        min_piece: pieces count in both departures from this share of their object on.

    Returns:
        One object per id in ``labels``, in the order of the ids, with scores of 1.

    >>> labels = np.array([[1, 1, 0, 1], [0, 0, 0, 0], [2, 2, 0, 0]])
    >>> overlap = np.array([[0, 0, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]], bool)
    >>> reconnect(labels, overlap).areas
    array([4, 2])
    """
    _check(labels, overlap)
    if max_gap > 0:
        overlap = overlap | bridges(labels, overlap, max_gap=max_gap, min_piece=min_piece)
    graph = _touching(labels, overlap)
    if not graph.count:
        return Instances.empty(labels.shape)
    return _paint(graph, _largest(graph, graph.edges[_accepted(graph, min_contact, min_piece)]))


def bridges(
    labels: NDArray[Any], overlap: NDArray[np.bool_], *, max_gap: float, min_piece: float = 0.1
) -> NDArray[np.bool_]:
    """``(*spatial)`` bool: overlaps that the map does not know, between the pieces of objects that are cut in two.

    Where another object passes over this one, a missed overlap leaves two pieces that face each other. The bridge
    between them is every pixel, not the object's own, from which the way to both is together at most ``SLACK``
    longer than the gap.

    Args:
        labels: ``(*spatial)`` int, 0 where there is no object.
        overlap: ``(*spatial)`` bool, the overlaps that are known; pieces that they join need no bridge.
        max_gap: largest distance between two pieces, in pixels from centre to centre.
        min_piece: pieces smaller than this share of their object get no bridge.
    """
    missing = np.zeros(labels.shape, np.bool_)
    for number, region in enumerate(ndimage.find_objects(labels), start=1):
        if region is None:
            continue
        own = labels[region] == number
        parts, _ = ndimage.label(own | overlap[region], _around(labels.ndim))
        sizes = np.bincount(parts[own])
        large = np.flatnonzero(sizes >= max(1, min_piece * sizes.sum()))
        if len(large) > 1:
            ways = [ndimage.distance_transform_edt(~(own & (parts == part))) for part in large]
            for here, there in combinations(ways, 2):
                gap = here[there == 0].min()
                if gap <= max_gap:
                    missing[region] |= ~own & (here + there <= gap + SLACK)
    return missing


def objects(labels: NDArray[Any], *, scores: ArrayLike | None = None, min_area: int = 0) -> Instances:
    """The objects of a label map ``(*spatial)``, 0 = none, scored by :func:`scored`, without the small ones."""
    found = Instances.from_labels(labels)
    return without_small(found if scores is None else scored(found, scores), min_area)


def scored(found: Instances, scores: ArrayLike) -> Instances:
    """The same objects with other scores: one number per object ``(N,)``, or a map ``(*spatial)`` to average over it.

    Raises:
        ValueError: another shape, or scores outside [0, 1] (or not a number).
    """
    values = np.asarray(scores, np.float64)
    if values.shape == found.shape:
        crops = (values[slices(box)] for box in found.boxes)
        values = np.array([crop[mask].mean() for crop, mask in zip(crops, found.masks, strict=True)])
    if values.shape != (len(found),):
        raise ValueError(
            f"scores have shape {values.shape}; give one per object, ({len(found)},), or a map {found.shape}."
        )
    if not ((values >= 0) & (values <= 1)).all():
        raise ValueError(f"scores must lie in [0, 1], but reach from {values.min()} to {values.max()}.")
    return replace(found, scores=values)


def without_small(found: Instances, min_area: int) -> Instances:
    """The objects of at least ``min_area`` pixels."""
    return found.select(found.areas >= min_area)


def within(found: Instances, region: NDArray[np.bool_]) -> Instances:
    """The objects without their pixels outside of a region ``(*spatial)``; objects that lie outside are left out."""
    masks = [mask & region[slices(box)] for box, mask in zip(found.boxes, found.masks, strict=True)]
    left = {number: box for number, mask in enumerate(masks) if (box := bounding_box(mask)) is not None}
    boxes = [box + found.boxes[number, 0] for number, box in left.items()]
    return replace(
        found.select(list(left)),
        boxes=np.array(boxes, np.int64).reshape(-1, 2, found.ndim),
        masks=tuple(masks[number][slices(box)] for number, box in left.items()),
    )


def other_sizes(min_area: int) -> tuple[int, ...]:
    """Values of ``min_area`` worth trying around a present one, for ``Method.tunable``.

    >>> other_sizes(20)
    (5, 10, 15, 30, 40, 80)
    """
    sizes = (round(max(min_area, 4) * factor) for factor in (0.25, 0.5, 0.75, 1.5, 2.0, 4.0))
    return tuple(size for size in sizes if size != min_area)


@dataclass(frozen=True)
class _Graph:
    """Pieces and blobs of one image, and who touches whom.

    Objects are counted from 0 in the order of their ids; pieces and blobs from 1 as in their maps (entry 0 of an
    array over them stands for nothing). A blob may belong to several objects, so every *pair* of an object and a
    blob is a thing of its own.
    """

    pieces: NDArray[Any]  # (*spatial) number of the piece, 0 = none
    blobs: NDArray[Any]  # (*spatial) number of the blob, 0 = none
    count: int  # number of objects
    owner: Integers  # (P + 1,) object of a piece
    piece_size: Integers  # (P + 1,) pixels
    blob_size: Integers  # (B + 1,) pixels
    pairs: Integers  # (M, 2) object and blob that touch or share pixels
    contact: Integers  # (M,) pixels of the blob that touch the object
    shared: Integers  # (M,) pixels of the blob that are the object's
    edges: Integers  # (E, 2) piece, and pair of its object and a blob that it touches


def _check(labels: NDArray[Any], overlap: NDArray[np.bool_]) -> None:
    if labels.shape != overlap.shape:
        raise ValueError(f"labels have shape {labels.shape}, overlap {overlap.shape}; they must be equal.")
    if overlap.dtype != np.bool_:
        raise ValueError(f"the overlap map is of type {overlap.dtype}; give a boolean one.")
    if labels.size and labels.min() < 0:
        raise ValueError(f"labels go down to {labels.min()}; 0 is no object, so add 1 to indices that begin at 0.")


def _around(ndim: int) -> NDArray[np.bool_]:
    """All neighbours of a pixel, diagonal ones included."""
    return np.ones((3,) * ndim, np.bool_)


def _touching(labels: NDArray[Any], overlap: NDArray[np.bool_]) -> _Graph:
    """Pieces, blobs, and their contacts by a look at the neighbours of every overlap pixel."""
    pieces = measure.label(np.where(overlap, 0, labels), background=0, connectivity=labels.ndim)
    blobs, _ = ndimage.label(overlap, _around(labels.ndim))
    foreground = np.flatnonzero(pieces)
    piece_size = np.bincount(pieces.ravel()[foreground], minlength=1)
    piece_id = np.zeros(len(piece_size), np.int64)
    piece_id[pieces.ravel()[foreground]] = labels.ravel()[foreground]
    inside, blob = labels[overlap], blobs[overlap].astype(np.int64)
    blob_size = np.bincount(blob, minlength=1)
    ids = np.unique(np.concatenate([piece_id[1:], inside[inside > 0]]))
    owner = np.searchsorted(ids, piece_id)
    own = np.flatnonzero(inside)
    pixel, piece = _neighbours(pieces, overlap)
    # A pair of object and blob as one number: keys sort as the pairs do.
    own_key = np.searchsorted(ids, inside[own]) * len(blob_size) + blob[own]
    touch_key = owner[piece] * len(blob_size) + blob[pixel]
    keys = np.unique(np.concatenate([own_key, touch_key]))
    pair = np.searchsorted(keys, touch_key)
    contact = np.bincount(_distinct(pair, pixel)[:, 0], minlength=len(keys))
    shared = np.bincount(np.searchsorted(keys, own_key), minlength=len(keys))
    pairs = np.column_stack([keys // len(blob_size), keys % len(blob_size)])
    return _Graph(pieces, blobs, len(ids), owner, piece_size, blob_size, pairs, contact, shared, _distinct(piece, pair))


def _neighbours(pieces: NDArray[Any], overlap: NDArray[np.bool_]) -> tuple[Integers, Integers]:
    """Overlap pixels (by their rank) and the pieces next to them, once per neighbour."""
    padded = np.pad(pieces, 1)
    places = np.argwhere(overlap) + 1
    ranks, touched = [], []
    for offset in product((-1, 0, 1), repeat=pieces.ndim):
        piece = padded[tuple((places + offset).T)]
        ranks.append(np.flatnonzero(piece))
        touched.append(piece[ranks[-1]])
    return np.concatenate(ranks), np.concatenate(touched).astype(np.int64)


def _distinct(first: Integers, second: Integers) -> Integers:
    """``(K, 2)``: the different pairs, sorted."""
    pairs: Integers = np.unique(np.column_stack([first, second]), axis=0)
    return pairs


def _accepted(graph: _Graph, min_contact: float, min_piece: float) -> NDArray[np.bool_]:
    """``(E,)``: which contacts of a piece and a blob hold (see :func:`reconnect`)."""
    most = np.zeros(len(graph.blob_size), np.int64)
    np.maximum.at(most, graph.pairs[:, 1], graph.contact)
    enough = graph.contact >= min_contact * most[graph.pairs[:, 1]]
    areas = np.bincount(graph.owner, graph.piece_size, graph.count)
    large = graph.piece_size >= min_piece * areas[graph.owner]
    piece, pair = graph.edges.T
    joined = np.bincount(pair[large[piece]], minlength=len(graph.pairs)) >= 2
    accepted: NDArray[np.bool_] = (enough | joined)[pair]
    return accepted


def _largest(graph: _Graph, edges: Integers) -> NDArray[np.bool_]:
    """``(P + 1 + M,)``: the pieces and pairs that remain, for every object the connected part with the largest IoU.

    edges: ``(E, 2)`` piece and pair. Pieces, then pairs, are the nodes of the graph that falls into parts.
    """
    nodes = len(graph.owner) + len(graph.pairs)
    ends = (edges[:, 0], len(graph.owner) + edges[:, 1])
    owner = np.concatenate([graph.owner, graph.pairs[:, 0]])
    own = np.concatenate([graph.piece_size, graph.shared])
    size = np.concatenate([graph.piece_size, graph.blob_size[graph.pairs[:, 1]]])
    matrix = sparse.coo_array((np.ones(len(edges)), ends), shape=(nodes, nodes))
    parts, part = connected_components(matrix, directed=False)
    common = np.bincount(part, own, parts)
    belongs = np.zeros(parts, np.int64)
    belongs[part] = owner
    area = np.bincount(owner, own, graph.count)[belongs]
    iou = common / (np.bincount(part, size, parts) + area - common)
    # The first of every object in this order is its best part; of equal ones the first in the image.
    order = np.lexsort((-iou, belongs))
    _, first = np.unique(belongs[order], return_index=True)
    return np.isin(part, order[first])


def _paint(graph: _Graph, kept: NDArray[np.bool_]) -> Instances:
    """The kept pieces and pairs, put together to one crop per object."""
    pieces, pairs = np.split(kept, [len(graph.owner)])
    piece_regions, blob_regions = ndimage.find_objects(graph.pieces), ndimage.find_objects(graph.blobs)
    parts: list[list[tuple[Region, Mask]]] = [[] for _ in range(graph.count)]
    for piece in np.flatnonzero(pieces):
        region = piece_regions[piece - 1]
        parts[graph.owner[piece]].append((region, graph.pieces[region] == piece))
    for index, blob in graph.pairs[pairs]:
        region = blob_regions[blob - 1]
        parts[index].append((region, graph.blobs[region] == blob))
    crops = [_united(members) for members in parts]
    return Instances.from_crops([box for box, _ in crops], [mask for _, mask in crops], graph.pieces.shape)


def _united(parts: list[tuple[Region, Mask]]) -> tuple[Integers, Mask]:
    """One box ``(2, D)`` and one crop of several crops."""
    starts, stops = ([[getattr(side, end) for side in region] for region, _ in parts] for end in ("start", "stop"))
    box = np.array([np.min(starts, axis=0), np.max(stops, axis=0)])
    mask = np.zeros(box[1] - box[0], np.bool_)
    for start, (_, part) in zip(starts - box[0], parts, strict=True):
        mask[tuple(slice(low, low + size) for low, size in zip(start, part.shape, strict=True))] |= part
    return box, mask
