"""COCO's average precision: how good the found objects are *and* how well their scores rank them.

The found objects of all images stand in one list, the most confident first; down the list, precision falls while recall
grows, and the area under that curve is averaged over ten IoU thresholds. It is neither S, which the field also calls
"AP", nor precision, nor P * R (see :mod:`plurimask.metrics.segmentation`), and its names here always begin with
``COCO_AP``. It never counts what comes at the end of the list: a thousand false objects of low score are free.

The rules are those of pycocotools (Lin et al. 2014; docs/algorithms.md, section 7.4), area "all", one class:

* within an image the most confident object chooses first, and takes the best true one that is still free;
* all images are pooled by falling score with a stable sort, so that equal scores stay in the order of the images;
* the precision at a recall is the largest at this or any larger recall; 0 beyond the largest recall that is reached;
* AP at a threshold is the mean precision at 101 recalls, COCO AP the mean over the thresholds 0.5, 0.55, ..., 0.95.

Departure: no limit on the number of found objects in an image, where pycocotools leaves out all but the 100 best.

>>> from plurimask.instances import Instances
>>> truth = Instances.from_labels(np.array([[1, 1, 1, 2, 2, 2, 0, 0]]))
>>> found = Instances.from_labels(np.array([[1, 1, 1, 0, 0, 0, 3, 3]]))
>>> coco_ap([candidates(truth, found)]).measures()["COCO_AP@0.5"]  # recalls 0, 0.01, ..., 0.5 of 101
0.504...
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.sparse import csr_array

from plurimask.instances import Instances
from plurimask.metrics.bootstrap import Interval
from plurimask.metrics.matching import by_confidence, check_shapes, greedy_partners
from plurimask.metrics.segmentation import THRESHOLDS
from plurimask.ops.overlap import iou

_RECALLS = np.linspace(0, 1, 101)  # not k / 100: pycocotools' rounding decides where a recall is exactly one of these

_ORDERS_PER_RESAMPLE = 10  # random orders behind every resample of the bootstrap


@dataclass(frozen=True)
class Candidates:
    """What the average precision has to know of one image; the masks may go.

    Attributes:
        ious: ``(n, m)`` intersection over union of n true and m found objects; zeros are not stored.
        scores: ``(m,)`` float64, the confidence in every found object.
    """

    ious: csr_array
    scores: NDArray[np.float64]


class Ranking(NamedTuple):
    """The D found objects of all images, the most confident first.

    Attributes:
        image: ``(D,)`` int64, the index of the object's image.
        hits: ``(H,)`` int64, places of the objects that have taken a true one: those of one threshold, rising, then of
            the next.
        starts: ``(T + 1,)`` int64, where the places of every threshold begin.
    """

    image: NDArray[np.int64]
    hits: NDArray[np.int64]
    starts: NDArray[np.int64]


@dataclass(frozen=True)
class AveragePrecision:
    """COCO's average precision of a data set.

    Attributes:
        name: ``COCO_AP``, or ``COCO_AP_constant`` where the scores were not used.
        thresholds: the T intersections over union from which a pair counts.
        values: ``(T,)`` float64, the average precision at every threshold.
        truth_counts: ``(n,)`` int64, number of true objects in every image.
        rankings: the list behind the values, or some of the lists, from which :meth:`intervals` draws.
    """

    name: str
    thresholds: tuple[float, ...]
    values: NDArray[np.float64]
    truth_counts: NDArray[np.int64]
    rankings: tuple[Ranking, ...]

    def measures(self) -> dict[str, float]:
        """``COCO_AP``, the mean over the thresholds, and ``COCO_AP@0.5``, ... at each of them."""
        return dict(zip(self._names(), _with_mean(self.values).tolist(), strict=True))

    def intervals(self, *, level: float = 0.95, resamples: int = 10_000, seed: int = 0) -> dict[str, Interval]:
        """Every measure with its percentile bootstrap interval over images.

        An image that is drawn again brings all its objects, which stand in the list side by side with their copies;
        what an object takes does not depend on other images, so nothing is matched anew. The same n and seed draw the
        same images as in :func:`plurimask.metrics.bootstrap.interval`. A resample without a true object counts 0.

        Raises:
            ValueError: level or resamples are out of range.
        """
        if not 0 < level < 1 or resamples < 1:
            raise ValueError(f"level must be in (0, 1) and resamples at least 1, not {level} and {resamples}.")
        generator, count = np.random.default_rng(seed), len(self.truth_counts)
        drawn = np.empty((resamples, 1 + len(self.thresholds)))
        for row in drawn:
            weights = np.bincount(generator.integers(count, size=count), minlength=count)
            values = [_precisions(ranking, weights, self.truth_counts) for ranking in self.rankings]
            row[:] = _with_mean(np.mean(values, axis=0))
        low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2], axis=0).tolist()
        ends = zip(_with_mean(self.values).tolist(), low, high, strict=True)
        return {name: Interval(*values) for name, values in zip(self._names(), ends, strict=True)}

    def _names(self) -> list[str]:
        return [self.name, *(f"{self.name}@{threshold:.3g}" for threshold in self.thresholds)]


def candidates(truth: Instances, found: Instances) -> Candidates:
    """One image's share in the average precision; the confidence is ``found.scores``. Objects may overlap.

    Raises:
        ValueError: the images differ in shape, or a score is not finite.
    """
    check_shapes(truth, found)
    by_confidence(found.scores)  # complains here, where the image is still known
    return Candidates(iou(truth, found), found.scores)


def coco_ap(
    images: Sequence[Candidates], *, thresholds: Sequence[float] = THRESHOLDS, max_detections: int | None = None
) -> AveragePrecision:
    """The average precision of a data set, ranked by the scores.

    images: in the order of their names, where the number is to equal pycocotools' in spite of equal scores.
    max_detections: only so many of the most confident objects of an image count; 100 in pycocotools.

    Raises:
        ValueError: there is no true object in any image (pycocotools says -1), a threshold is not in (0, 1], or none is
            given, or max_detections is not positive.
    """
    _check(images, thresholds, max_detections)
    ranking = _rank(images, [image.scores for image in images], thresholds, max_detections)
    return _average("COCO_AP", images, thresholds, [ranking])


def coco_ap_constant(
    images: Sequence[Candidates],
    *,
    thresholds: Sequence[float] = THRESHOLDS,
    max_detections: int | None = None,
    orders: int = 100,
    seed: int = 0,
) -> AveragePrecision:
    """The average precision of found objects without a confidence: the scores are not used.

    Given constant scores, pycocotools ranks the objects as the files happen to lie: a data set that begins with an easy
    image gets a better number. This is the mean over random orders of all objects instead, in which the objects of an
    image choose in that order, too. It lies a little above P * R, and far above it where true objects are found twice,
    as whichever comes first is the hit. In :meth:`AveragePrecision.intervals`, a resample is a mean over at most ten of
    the orders.

    Raises:
        ValueError: as :func:`coco_ap`, or orders is not positive.
    """
    _check(images, thresholds, max_detections)
    if orders < 1:
        raise ValueError(f"orders must be at least 1, not {orders}; 100 make the mean steady.")
    generator = np.random.default_rng(seed)
    rankings = (
        _rank(images, [generator.random(len(image.scores)) for image in images], thresholds, max_detections)
        for _ in range(orders)
    )
    return _average("COCO_AP_constant", images, thresholds, rankings)


def _check(images: Sequence[Candidates], thresholds: Sequence[float], max_detections: int | None) -> None:
    if not any(image.ious.shape[0] for image in images):
        raise ValueError(
            f"there is no true object in these {len(images)} images, so no recall and no average precision; "
            "leave the measure out, or give images with objects."
        )
    if not thresholds:
        raise ValueError("no IoU threshold given; leave them out for 0.5, 0.55, ..., 0.95.")
    if max_detections is not None and max_detections < 1:
        raise ValueError(f"max_detections must be at least 1, or None for no limit, not {max_detections}.")


def _rank(
    images: Sequence[Candidates],
    keys: Sequence[NDArray[np.float64]],
    thresholds: Sequence[float],
    max_detections: int | None,
) -> Ranking:
    """keys: of every image ``(m,)``; large ones choose first and stand at the head of the list."""
    orders = [by_confidence(values)[:max_detections] for values in keys]
    hits = [
        greedy_partners(image.ious, order, thresholds)[:, order] >= 0
        for image, order in zip(images, orders, strict=True)
    ]
    pooled = by_confidence(np.concatenate([values[order] for values, order in zip(keys, orders, strict=True)]))
    owners = np.repeat(np.arange(len(images)), [len(order) for order in orders])
    thresholds_hit, places = np.nonzero(np.concatenate(hits, axis=1)[:, pooled])
    return Ranking(owners[pooled], places, np.searchsorted(thresholds_hit, np.arange(len(thresholds) + 1)))


def _average(
    name: str, images: Sequence[Candidates], thresholds: Sequence[float], rankings: Iterable[Ranking]
) -> AveragePrecision:
    truth_counts = np.array([image.ious.shape[0] for image in images], np.int64)
    once = np.ones(len(images), np.int64)
    kept: list[Ranking] = []
    values = []
    for ranking in rankings:
        values.append(_precisions(ranking, once, truth_counts))
        kept += [ranking] if len(kept) < _ORDERS_PER_RESAMPLE else []
    return AveragePrecision(name, tuple(thresholds), np.mean(values, axis=0), truth_counts, tuple(kept))


def _with_mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """``(T,)`` values -> ``(1 + T,)``: their mean, and they themselves."""
    return np.concatenate([[values.mean()], values])


def _precisions(ranking: Ranking, weights: NDArray[np.int64], truth_counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """``(T,)`` average precision where image i occurs ``weights[i]`` times; 0 where there is no true object."""
    total = int(weights @ truth_counts)
    needed = np.searchsorted(np.arange(total + 1) / max(1, total), _RECALLS)
    areas: NDArray[np.float64] = _areas(*ranking, weights, needed)
    return areas


@njit(cache=True)
def _areas(
    image: NDArray[np.int64],
    hits: NDArray[np.int64],
    starts: NDArray[np.int64],
    weights: NDArray[np.int64],
    needed: NDArray[np.int64],
) -> NDArray[np.float64]:
    """needed: the least number of hits that reaches each of the recalls, ascending."""
    areas = np.zeros(len(starts) - 1)
    best = np.empty(len(needed))
    listed = weights[image].cumsum()
    for threshold in range(len(areas)):
        best[:] = 0  # the largest precision while just this recall was reached
        tp, level = 0, 0
        for place in hits[starts[threshold] : starts[threshold + 1]]:
            # Only hits raise precision. The copies of an object come at once: the last of them has the largest.
            tp += weights[image[place]]
            while level + 1 < len(needed) and tp >= needed[level + 1]:
                level += 1
            best[level] = max(best[level], tp / max(1, listed[place]))
        ceiling = 0.0
        for reached in range(len(needed) - 1, -1, -1):
            ceiling = max(ceiling, best[reached])
            areas[threshold] += ceiling / len(needed)
    return areas
