"""rRAND and rINF of the ISBI 2012 challenge: do the cells of a slice and what was found part its pixels alike?

Both compare two partitions of the n pixels that are cell in the truth, and no others: A, the true cells, and B, what
was found. With p_ij the share of the pixels in cell i and segment j, a_i and b_j its sums over j and over i
(Arganda-Carreras et al. 2015, Frontiers in Neuroanatomy 9:142; docs/algorithms.md, 7.6)::

    rRAND (V_Rand)   split = sum p_ij^2 / sum a_i^2    merge = sum p_ij^2 / sum b_j^2
    rINF  (V_Info)   split = I(A, B) / H(B)            merge = I(A, B) / H(A)

and the score is the harmonic mean F of the two. **split** falls where a true cell is cut into several segments,
**merge** where a segment joins several cells. Other programs attach these two names (or "precision" and "recall") the
other way round; only F may be compared between programs.

A proposal comes as a probability map, :func:`score_map`, scored as the challenge did it: binarised at many thresholds,
its membranes thinned to dams of one pixel; or as a label map, :func:`score_labels`, as papers on instances do it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from skimage.measure import label

THRESHOLDS: tuple[float, ...] = tuple(accumulate([0.1] * 10, initial=0.0))
"""0, 0.1, ..., 1, added up as the challenge's script does: the last is just below 1, so that a 1 is above it."""

_UNREACHED, _WAITING = -1, -2  # pixels that the flood has not seen, and those in its queue


@dataclass(frozen=True)
class Agreement:
    """How far two partitions of Z slices agree; 1 where they are equal.

    Attributes:
        split: ``(Z,)`` float64 in [0, 1], falls where true cells are cut into several segments.
        merge: ``(Z,)`` float64 in [0, 1], falls where a segment joins several true cells.
    """

    split: NDArray[np.float64]
    merge: NDArray[np.float64]

    @property
    def f(self) -> NDArray[np.float64]:
        """``(Z,)`` harmonic mean of split and merge, 0 where both are 0."""
        total = self.split + self.merge
        result: NDArray[np.float64] = 2 * self.split * self.merge / np.where(total > 0, total, 1.0)
        return result

    @property
    def score(self) -> float:
        """The mean of F over the slices: rRAND or rINF of the stack."""
        return float(self.f.mean())


@dataclass(frozen=True)
class PartitionScores:
    """Both scores of one proposal.

    Attributes:
        rand: ``rand.score`` is rRAND.
        info: ``info.score`` is rINF.
    """

    rand: Agreement
    info: Agreement


@dataclass(frozen=True)
class ThresholdScores:
    """The scores of a probability map at T thresholds.

    ``rand`` and ``info`` are those at the threshold with the largest mean over slices (the first of several): the
    challenge's maximum over thresholds of the average, not the average of every slice's own maximum. So the threshold
    is chosen on the images that are reported; for an honest number choose it on others and give it to
    :func:`score_map`.

    Attributes:
        thresholds: the T thresholds; what is above one is cell.
        scores: the T scores.
    """

    thresholds: tuple[float, ...]
    scores: tuple[PartitionScores, ...]

    @property
    def rand(self) -> Agreement:
        """The best ``rand``; its ``score`` is rRAND."""
        return self.scores[_best([one.rand for one in self.scores])].rand

    @property
    def rand_threshold(self) -> float:
        """Where ``rand`` was measured."""
        return self.thresholds[_best([one.rand for one in self.scores])]

    @property
    def info(self) -> Agreement:
        """The best ``info``; its ``score`` is rINF."""
        return self.scores[_best([one.info for one in self.scores])].info

    @property
    def info_threshold(self) -> float:
        """Where ``info`` was measured, often not where ``rand`` was."""
        return self.thresholds[_best([one.info for one in self.scores])]


def score_labels(truth: NDArray[Any], found: NDArray[Any]) -> PartitionScores:
    """The scores rRAND and rINF of a label map, slice by slice, over the pixels of true cells.

    Pixels without a found object are first given to the objects around them (:func:`filled`): a gap between objects is
    not a segment. If no object is found in a slice, all its pixels are one segment, as in :func:`thinned`. Where truth
    and proposal are both one segment, rINF is 1, as in :func:`score_map`.

    Args:
        truth: ``(Y, X)`` or ``(Z, Y, X)`` int, 0 = membrane; :func:`cells` makes it from a mask.
        found: the same shape, int, 0 = no object.

    Raises:
        ValueError: the shapes differ, these are no label maps, or a slice of the truth has no cell.

    >>> scores = score_labels(np.array([[1, 1, 0, 2, 2]]), np.array([[7, 7, 7, 7, 7]]))
    >>> scores.rand
    Agreement(split=array([1.]), merge=array([0.5]))
    >>> round(scores.rand.score, 3)
    0.667
    """
    for name, labels in (("truth", truth), ("found", found)):
        if labels.size and (labels.dtype.kind not in "iu" or labels.min() < 0):
            raise ValueError(
                f"{name} is of type {labels.dtype} and goes down to {labels.min()}; wanted is a label map of integers "
                "from 0 = none on."
            )
    pairs = zip(*_slices(truth, found), strict=True)
    inside = ((true[true > 0], filled(own, true > 0)[true > 0]) for true, own in pairs)
    return _scores([_compare(_from_zero(cell), _from_zero(segment)) for cell, segment in inside])


def score_map(
    truth: NDArray[np.bool_], probability: ArrayLike, *, thresholds: Sequence[float] | None = None
) -> ThresholdScores:
    """The scores rRAND and rINF of a probability map, as the challenge's script for Fiji computes them.

    At every threshold, what is above it is cell, :func:`thinned` makes segments of it, and every pixel on a dam is a
    segment of its own; these add p_0 / n to sum p_ij^2 and to sum b_j^2, and p_0 ln n to H(B) and to H(A, B), with p_0
    the share of the n pixels that lie on dams. One departure: where truth and proposal are both one segment, rINF is 1,
    not 0.

    Args:
        truth: ``(Y, X)`` or ``(Z, Y, X)`` bool, true in cells, false on membranes.
        probability: the same shape, in [0, 1], high in *cells*: of a membrane probability give 1 minus it.
        thresholds: by default :data:`THRESHOLDS`; of a map with no other values than 0 and 1, 0 alone, because there
            all of them say the same.

    Raises:
        ValueError: the shapes differ, truth is not boolean or a slice of it has no cell, a probability or a threshold
            is not in [0, 1], or there is no threshold.
    """
    values = np.asarray(probability, np.float64)  # a float32 would be compared with a threshold rounded to float32
    if truth.dtype != np.bool_:
        raise ValueError(f"truth is of type {truth.dtype}; give a boolean map of the cells, for instance truth > 0.")
    if not ((values >= 0) & (values <= 1)).all():
        raise ValueError(f"probabilities must lie in [0, 1], but reach from {values.min()} to {values.max()}.")
    if thresholds is None:
        thresholds = (0.0,) if np.isin(values, (0.0, 1.0)).all() else THRESHOLDS
    chosen = tuple(float(threshold) for threshold in thresholds)
    if not chosen or not all(0 <= threshold <= 1 for threshold in chosen):
        raise ValueError(f"thresholds must lie in [0, 1], at least one of them; these are {chosen}.")
    slices = [(cells(mask), own, mask) for mask, own in zip(*_slices(truth, values), strict=True)]
    scores = tuple(
        _scores([_compare(true[mask], _dams_apart(thinned(own > threshold)[mask])) for true, own, mask in slices])
        for threshold in chosen
    )
    return ThresholdScores(chosen, scores)


def cells(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """``(Y, X)`` or ``(Z, Y, X)`` int64: the cells of every slice, its 4-connected components counted from 1 on."""
    if mask.ndim == 3:
        return np.stack([cells(single) for single in mask])
    return np.asarray(label(mask, connectivity=1), np.int64)


def thinned(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """``(Y, X)`` int64: the :func:`cells` of a slice, grown until they are parted by dams (0) of one pixel, rarely two.

    The watershed of Vincent and Soille (1991) of a binary image over 4 neighbours, its ties decided as in Fiji: the
    rules of :func:`_flood`, column by column. (scikit-image's watershed lines differ by a pixel here and there, and let
    labels pass: scores would differ in the fourth decimal.) Without any cell the whole slice is one segment, 1: there
    is one basin.
    """
    if not mask.any():
        return np.ones(mask.shape, np.int64)
    grown = np.ascontiguousarray(np.pad(np.where(mask, cells(mask), _UNREACHED).T, 1))
    shore = np.flatnonzero(np.pad((ndimage.binary_dilation(mask) & ~mask).T, 1))
    _flood(grown.ravel(), shore, np.array([-grown.shape[1], -1, grown.shape[1], 1]))
    return grown[1:-1, 1:-1].T


def filled(labels: NDArray[Any], region: NDArray[np.bool_]) -> NDArray[Any]:
    """Labels grown into 0 (8 neighbours, the larger id first) until the region has a label everywhere.

    labels, region: ``(Y, X)``. Labels outside the region grow, too. Without any label all stays 0.
    """
    grown = labels
    while grown.any() and not grown[region].all():
        grown = np.where(grown == 0, ndimage.maximum_filter(grown, size=3), grown)
    return grown


def _slices(truth: NDArray[Any], found: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Both as ``(Z, Y, X)``, checked."""
    if truth.shape != found.shape or truth.ndim not in (2, 3):
        raise ValueError(
            f"the truth has shape {truth.shape}, the proposal {found.shape}; wanted is (Y, X) or (Z, Y, X) for both."
        )
    if truth.ndim == 2:
        truth, found = truth[None], found[None]
    empty = np.flatnonzero(~truth.any(axis=(1, 2))).tolist()
    if empty or not len(truth):
        raise ValueError(f"no cell in slice {empty} of the {len(truth)} of the truth: nothing to score; leave it out.")
    return truth, found


@njit(cache=True)
def _flood(labels: NDArray[np.int64], shore: NDArray[np.int64], steps: NDArray[np.int64]) -> None:
    """Grow labels, in place, into all that is unreached, breadth first from the pixels of the shore.

    A pixel whose turn has come takes the label of its neighbours; if it has neighbours of several labels, or of none
    (only dams), it is a dam itself. labels: the flattened map with a frame of 0; steps: from a pixel to its neighbours.
    """
    queue = np.empty(labels.size, np.int64)
    start, stop = 0, len(shore)
    for place in range(stop):
        queue[place] = shore[place]
        labels[shore[place]] = _WAITING
    while start < stop:
        pixel = queue[start]
        start += 1
        owner, several = 0, False
        for step in steps:
            neighbour = labels[pixel + step]
            if neighbour > 0:
                several |= owner not in (0, neighbour)
                owner = neighbour
            elif neighbour == _UNREACHED:
                labels[pixel + step] = _WAITING
                queue[stop] = pixel + step
                stop += 1
        labels[pixel] = 0 if several else owner


def _best(agreements: list[Agreement]) -> int:
    """The first of those with the largest score."""
    return int(np.argmax([agreement.score for agreement in agreements]))


def _from_zero(labels: NDArray[Any]) -> NDArray[np.int64]:
    """``(n,)``: the same segments, numbered without gaps, so that a product of two numbers is never too large."""
    return np.unique(labels, return_inverse=True)[1]


def _dams_apart(segments: NDArray[np.int64]) -> NDArray[np.int64]:
    """``(n,)``: every pixel on a dam (0) is a segment of its own."""
    return np.where(segments == 0, segments.max() + 1 + np.arange(len(segments)), segments)


def _compare(cell: NDArray[np.int64], segment: NDArray[np.int64]) -> tuple[float, float, float, float]:
    """Split and merge of rRAND, split and merge of rINF, from the cell and the segment (from 0 on) of n pixels."""
    both = cell * (segment.max() + 1) + segment
    counts = [np.unique(ids, return_counts=True)[1] for ids in (cell, segment, both)]
    same_cell, same_segment, same_both = (int(count @ count) for count in counts)
    of_truth, of_found, of_both = (_entropy(count / len(cell)) for count in counts)
    mutual = of_truth + of_found - of_both
    rand = same_both / same_cell, same_both / same_segment
    return *rand, _known(mutual, of_found), _known(mutual, of_truth)


def _entropy(shares: NDArray[np.float64]) -> float:
    return float(-(shares @ np.log(shares)))


def _known(mutual: float, entropy: float) -> float:
    """The share of an entropy that is mutual information; of one segment everything is known."""
    return min(1.0, max(0.0, mutual / entropy)) if entropy > 0 else 1.0


def _scores(rows: list[tuple[float, float, float, float]]) -> PartitionScores:
    columns = np.array(rows).T
    return PartitionScores(Agreement(columns[0], columns[1]), Agreement(columns[2], columns[3]))
