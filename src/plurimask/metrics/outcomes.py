"""What became of every object of an image: found, or which kind of error.

The optimal one-to-one matching at ``min_iou`` says which objects are right. Every other object is one error, so that
the counts of the kinds add up to those of S: *ok* is TP, the next four together FP, *missed* FN.

* **ok**: a found object with a partner;
* **merge**: without partner, and at least two true objects are pieces of it;
* **split**: without partner, and a piece of a true object that has at least two. A duplicate is one, too;
* **low IoU**: none of these, but its IoU with some true object is at least 1/10;
* **false positive**: every other found object;
* **missed**: a true object without partner, whatever was found in its place.

A piece is what :mod:`plurimask.metrics.splits` calls so, but the numbers differ: there also an object that has a
partner may be split or merged.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from plurimask.instances import Instances
from plurimask.metrics.matching import check_shapes, match_ious
from plurimask.metrics.splits import pieces
from plurimask.ops.overlap import intersections, iou

KINDS = ("ok", "merge", "split", "low IoU", "false positive", "missed")

_LOW = 0.1


@dataclass(frozen=True, eq=False)
class Outcomes:
    """The M found objects of an image in their order, then its true objects without partner in theirs; K in all.

    Attributes:
        kind: ``(K,)`` texts out of :data:`KINDS`.
        iou: ``(K,)`` float64: with the partner; without one the largest with any object of the other side.
        missed: ``(K - M,)`` int64, indices of the true objects without partner.
    """

    kind: NDArray[np.str_]
    iou: NDArray[np.float64]
    missed: NDArray[np.int64]


def outcomes(truth: Instances, found: Instances, *, min_iou: float = 0.5) -> Outcomes:
    """Judge every object of one image. Objects may overlap.

    Raises:
        ValueError: the images differ in shape, or min_iou is not in (0, 1].

    >>> truth = Instances.from_labels(np.array([[1, 1, 1, 1, 0, 2, 2, 3, 3, 0]]))
    >>> found = Instances.from_labels(np.array([[1, 1, 1, 2, 0, 3, 3, 3, 3, 4]]))
    >>> outcomes(truth, found).kind.tolist()  # 3 is matched with the second true object, at an IoU of 1/2
    ['ok', 'split', 'ok', 'false positive', 'missed']
    """
    check_shapes(truth, found)
    ious, shared = iou(truth, found), intersections(truth, found)
    (matching,) = match_ious(ious, [min_iou])
    kind = np.full(len(found), "false positive", dtype=f"<U{max(map(len, KINDS))}")
    best = _largest(ious, axis=0)
    kind[best >= _LOW] = "low IoU"
    kind[_in_parts(shared, truth.areas, found.areas)] = "split"
    kind[_joining(shared, truth.areas, found.areas)] = "merge"
    kind[matching.pairs[:, 1]] = "ok"
    best[matching.pairs[:, 1]] = matching.ious
    missed = np.setdiff1d(np.arange(len(truth)), matching.pairs[:, 0])
    return Outcomes(
        np.concatenate([kind, np.full(len(missed), "missed")]),
        np.concatenate([best, _largest(ious, axis=1)[missed]]),
        missed,
    )


def _largest(ious: csr_array, *, axis: int) -> NDArray[np.float64]:
    if 0 in ious.shape:
        return np.zeros(ious.shape[1 - axis])
    largest: NDArray[np.float64] = ious.max(axis=axis).toarray().ravel()
    return largest


def _in_parts(shared: csr_array, truth: NDArray[np.int64], found: NDArray[np.int64]) -> NDArray[np.bool_]:
    """``(M,)`` whether a found object is one of several pieces of a true one. truth, found: areas."""
    rows, columns = pieces(shared, truth, found)
    several = np.bincount(rows, minlength=len(truth)) > 1
    return np.isin(np.arange(len(found)), columns[several[rows]])


def _joining(shared: csr_array, truth: NDArray[np.int64], found: NDArray[np.int64]) -> NDArray[np.bool_]:
    """``(M,)`` whether several true objects are pieces of a found one. truth, found: areas."""
    rows, _ = pieces(shared.T.tocsr(), found, truth)
    return np.asarray(np.bincount(rows, minlength=len(found)) > 1)
