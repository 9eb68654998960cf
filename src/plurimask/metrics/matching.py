"""One-to-one matching of found objects with true ones.

Objects may overlap, so that even above an IoU of 1/2 a partner need not be unique: the matching is an assignment
problem, not a lookup. It falls apart into the connected components of the graph "these two share a pixel", which are
small, so that hundreds of objects in an image cost milliseconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

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
    if truth.shape != found.shape:
        raise ValueError(
            f"the truth's image has shape {truth.shape}, the found objects' {found.shape}; they must be equal: "
            "are these two files of the same image, and neither cropped nor rescaled?"
        )
    return match_ious(iou(truth, found), thresholds)


def match_ious(ious: csr_array, thresholds: Sequence[float]) -> tuple[Matching, ...]:
    """:func:`match` at every threshold from the ``(n, m)`` matrix of IoUs; zeros are not stored."""
    for threshold in thresholds:
        if not 0 < threshold <= 1:
            raise ValueError(f"an IoU threshold must be in (0, 1], not {threshold}.")
    return tuple(_assign(ious, min_iou=threshold) for threshold in thresholds)


def _assign(ious: csr_array, *, min_iou: float) -> Matching:
    truth_count, found_count = ious.shape
    gains = (ious.data >= min_iou) + ious.data / (2 * max(1, min(ious.shape)))
    rows, columns = maximum_assignment(csr_array((gains, ious.indices, ious.indptr), shape=ious.shape))
    values = ious[rows][:, columns].diagonal()
    kept = values >= min_iou
    pairs = np.stack([rows[kept], columns[kept]], axis=1)
    return Matching(pairs, values[kept], truth_count, found_count, min_iou=min_iou)
