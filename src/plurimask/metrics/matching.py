"""One-to-one matching of found objects with true ones.

Objects may overlap, so that even above an IoU of 1/2 a partner need not be unique: the matching is an assignment
problem, not a lookup. It falls apart into the connected components of the graph "these two share a pixel", which are
small, so that hundreds of objects in an image cost milliseconds. COCO's average precision wants another matching, the
greedy one, in which every found object chooses for itself, the most confident first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import connected_components

from plurimask.instances import Instances
from plurimask.ops.assignment import maximum_assignment
from plurimask.ops.overlap import iou


@dataclass(frozen=True)
class Matching:
    """Which found object is which true one.

    Attributes:
        pairs: ``(K, 2)`` int64, index of the true and of the found object, in the order of the true ones.
        ious: ``(K,)`` float64, intersection over union of every pair, all of them at least ``min_iou``.
        truth_count: number of true objects.
        found_count: number of found objects.
        min_iou: from which intersection over union on a pair counts.
    """

    pairs: NDArray[np.int64]
    ious: NDArray[np.float64]
    truth_count: int
    found_count: int
    min_iou: float

    @property
    def tp(self) -> int:
        """True positives: matched pairs."""
        return len(self.pairs)

    @property
    def fp(self) -> int:
        """False positives: found objects without a true one."""
        return self.found_count - self.tp

    @property
    def fn(self) -> int:
        """False negatives: true objects that were not found."""
        return self.truth_count - self.tp


def match(truth: Instances, found: Instances, *, min_iou: float) -> Matching:
    """As many pairs with an IoU of at least ``min_iou`` as possible; among equals, the largest sum of IoUs.

    Mais et al. 2020 (PatchPerPix), evaluation: the assignment that minimises the sum of
    ``-[IoU >= min_iou] - IoU / (2 min(n, m))`` over n true and m found objects. The second term never reaches the
    weight of one pair. "At least", as in the papers' tables; an IoU of exactly the threshold counts.

    Raises:
        ValueError: the images differ in shape, or ``min_iou`` is not in (0, 1].
    """
    return match_many(truth, found, [min_iou])[0]


def match_many(truth: Instances, found: Instances, thresholds: Sequence[float]) -> tuple[Matching, ...]:
    """:func:`match` at every threshold; the overlaps are computed once.

    Raises:
        ValueError: the images differ in shape, or a threshold is not in (0, 1].
    """
    check_shapes(truth, found)
    return match_ious(iou(truth, found), thresholds)


def match_ious(ious: csr_array, thresholds: Sequence[float]) -> tuple[Matching, ...]:
    """:func:`match` at every threshold from the ``(n, m)`` matrix of IoUs; zeros are not stored."""
    _check(thresholds)
    meetings = _Meetings.of(ious)
    return tuple(_assign(meetings, min_iou=threshold) for threshold in thresholds)


def match_greedily(truth: Instances, found: Instances, *, min_iou: float) -> Matching:
    """The matching of COCO: the most confident found object first, each takes the best true one that is still free.

    As in pycocotools (Lin et al. 2014): by falling ``found.scores``, equal ones in their order; of equal IoUs the later
    true object is taken. Never more pairs than :func:`match`, and fewer only where objects overlap or ``min_iou`` is
    below 1/2.

    Raises:
        ValueError: the images differ in shape, ``min_iou`` is not in (0, 1], or a score is not finite.
    """
    check_shapes(truth, found)
    ious = iou(truth, found)
    (partners,) = greedy_partners(ious, by_confidence(found.scores), [min_iou])
    columns = np.flatnonzero(partners >= 0)
    columns = columns[np.argsort(partners[columns])]
    pairs = np.stack([partners[columns], columns], axis=1)
    return Matching(pairs, ious[pairs[:, 0]][:, columns].diagonal(), len(truth), len(found), min_iou=min_iou)


def by_confidence(scores: NDArray[np.float64]) -> NDArray[np.int64]:
    """Indices of ``(m,)`` scores by falling score; equal ones keep their order.

    Raises:
        ValueError: a score is not finite.
    """
    if not np.isfinite(scores).all():
        bad = np.flatnonzero(~np.isfinite(scores)).tolist()
        raise ValueError(f"the scores of the found objects {bad} are not finite; a ranking needs a number for each.")
    return np.argsort(-scores, kind="stable")


def greedy_partners(ious: csr_array, order: NDArray[np.int64], thresholds: Sequence[float]) -> NDArray[np.int64]:
    """The true object that every found one takes at each threshold: ``(T, m)``, -1 where none is left.

    ious: ``(n, m)``; zeros are not stored. order: the found objects that may choose, as indices, the first one first.

    Raises:
        ValueError: a threshold is not in (0, 1].
    """
    _check(thresholds)
    columns = ious.tocsc()  # true objects ascend within a column, so that ties go to the later one
    least = np.minimum(np.asarray(thresholds, np.float64), 1 - 1e-10)  # as in pycocotools
    partners: NDArray[np.int64] = _choose(columns.indptr, columns.indices, columns.data, order, least)
    return partners


def check_shapes(truth: Instances, found: Instances) -> None:
    """Complain about objects of two different images.

    Raises:
        ValueError: the images differ in shape.
    """
    if truth.shape != found.shape:
        raise ValueError(
            f"the truth's image has shape {truth.shape}, the found objects' {found.shape}; they must be equal: "
            "are these two files of the same image, and neither cropped nor rescaled?"
        )


def _check(thresholds: Sequence[float]) -> None:
    for threshold in thresholds:
        if not 0 < threshold <= 1:
            raise ValueError(f"an IoU threshold must be in (0, 1], not {threshold}.")


@dataclass(frozen=True)
class _Meetings:
    """The E pairs that share a pixel, row by row of the ``(n, m)`` matrix of IoUs.

    Attributes:
        rows: ``(E,)``.
        columns: ``(E,)``, rising in every row.
        ious: ``(E,)``.
        home: ``(E,)`` which connected component of the graph a pair belongs to.
        shape: n and m.
    """

    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    ious: NDArray[np.float64]
    home: NDArray[np.int64]
    shape: tuple[int, int]

    @classmethod
    def of(cls, ious: csr_array) -> _Meetings:
        entries = coo_array(ious.sorted_indices())
        rows, columns = (part.astype(np.int64) for part in entries.coords)
        nodes = sum(ious.shape)
        graph = coo_array((entries.data > 0, (rows, columns + ious.shape[0])), shape=(nodes, nodes))
        home = connected_components(graph, directed=False)[1][rows] if len(rows) else rows
        return cls(rows, columns, entries.data, home, ious.shape)


def _assign(meetings: _Meetings, *, min_iou: float) -> Matching:
    rows, columns, home = meetings.rows, meetings.columns, meetings.home
    near = meetings.ious >= min_iou
    # Of near pairs that have no object in common all are matched; only components where some have are a question.
    rivals = near & (_shared(rows, near) | _shared(columns, near))
    asked = np.isin(home, home[rivals])
    chosen = near & ~asked
    if asked.any():
        gains = near[asked] + meetings.ious[asked] / (2 * max(1, min(meetings.shape)))
        taken = maximum_assignment(csr_array((gains, (rows[asked], columns[asked])), shape=meetings.shape))
        places = rows * meetings.shape[1] + columns  # rising
        chosen[np.searchsorted(places, taken[0] * meetings.shape[1] + taken[1])] = True
    chosen &= near
    pairs = np.stack([rows[chosen], columns[chosen]], axis=1)
    return Matching(pairs, meetings.ious[chosen], *meetings.shape, min_iou=min_iou)


def _shared(objects: NDArray[np.int64], near: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """``(E,)`` whether the object of a pair, row or column, is in several near pairs."""
    return np.asarray(np.bincount(objects[near], minlength=objects.max(initial=-1) + 1)[objects] > 1)


@njit(cache=True)
def _choose(
    pointers: NDArray[np.int32],
    rows: NDArray[np.int32],
    ious: NDArray[np.float64],
    order: NDArray[np.int64],
    thresholds: NDArray[np.float64],
) -> NDArray[np.int64]:
    """:func:`greedy_partners` of the columns of a CSC matrix."""
    partners = np.full((len(thresholds), len(pointers) - 1), -1, np.int64)
    for place, threshold in enumerate(thresholds):
        taken = np.zeros(rows.max() + 1 if len(rows) else 0, np.bool_)
        for column in order:
            best, best_iou = -1, threshold
            for entry in range(pointers[column], pointers[column + 1]):
                if ious[entry] >= best_iou and not taken[rows[entry]]:
                    best, best_iou = rows[entry], ious[entry]
            if best >= 0:
                taken[best] = True
                partners[place, column] = best
    return partners
