"""How good a segmentation is: S, precision, recall and F1 at IoU thresholds, per image and over images.

The names are kept apart, because the field calls three different things "AP":

* ``S = TP / (TP + FP + FN)``, the score of the 2018 Data Science Bowl: ``AP_dsb`` of PatchPerPix (Mais et al. 2020) and
  of Rumberger et al. 2020, "accuracy" of StarDist, "AP" of Cellpose;
* ``P = TP / (TP + FP)``, precision (what the "AP_COCO" columns of the first two papers hold, as far as one can tell);
* ``PxR = P * R``, the "AP" of PatchPerPix's evaluation code since 2023.

Always ``P * R <= S <= F1``, and ``F1 = 2 S / (1 + S)``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from plurimask.instances import Instances
from plurimask.metrics.bootstrap import Interval, interval, pooled_share
from plurimask.metrics.matching import match_many

THRESHOLDS: tuple[float, ...] = tuple(twentieths / 20 for twentieths in range(10, 20))
"""0.5, 0.55, ..., 0.95. Quotients, so that 0.6 is 3 / 5 and not 0.5 + 0.1: an IoU of exactly 3 / 5 has to count."""

NUCLEI_THRESHOLDS: tuple[float, ...] = tuple(tenths / 10 for tenths in range(5, 10))
"""0.5, 0.6, ..., 0.9: what papers on nuclei average over."""

_MATCHED = 0.5
_CLOSE = 2 / 3


@dataclass(frozen=True)
class Scores:
    """What was found and missed in one image, at T thresholds.

    Quotients of 0 / 0 are 0, as in the papers' code, with one exception: **an image without an object in which nothing
    is found counts ``empty``**, 1 by default. The papers' code gives it 0, which punishes the only right answer. To
    leave such images out of the means would be worse: whether an image is averaged would depend on what is being
    measured (one false object brings it back, with a 0), and two methods would not be compared on the same images.

    Attributes:
        thresholds: the T intersections over union from which a pair counts.
        tp: ``(T,)`` int64, matched pairs.
        truth_count: number of true objects.
        found_count: number of found objects.
        close: pairs matched at an IoU of 0.5 whose pixel F1 is at least 0.8 (their IoU at least 2/3).
        empty: the value of all measures where there is nothing in the truth and nothing is found.
    """

    thresholds: tuple[float, ...]
    tp: NDArray[np.int64]
    truth_count: int
    found_count: int
    close: int
    empty: float = 1.0

    @property
    def fp(self) -> NDArray[np.int64]:
        """``(T,)`` found objects without a true one."""
        return self.found_count - self.tp

    @property
    def fn(self) -> NDArray[np.int64]:
        """``(T,)`` true objects that were not found."""
        return self.truth_count - self.tp

    @property
    def s(self) -> NDArray[np.float64]:
        """``(T,)`` S = TP / (TP + FP + FN)."""
        return self._quotient(self.tp, self.truth_count + self.found_count - self.tp)

    @property
    def precision(self) -> NDArray[np.float64]:
        """``(T,)`` P = TP / (TP + FP)."""
        return self._quotient(self.tp, self.found_count)

    @property
    def recall(self) -> NDArray[np.float64]:
        """``(T,)`` R = TP / (TP + FN)."""
        return self._quotient(self.tp, self.truth_count)

    @property
    def f1(self) -> NDArray[np.float64]:
        """``(T,)`` F1 = 2 TP / (2 TP + FP + FN)."""
        return self._quotient(2 * self.tp, self.truth_count + self.found_count)

    @property
    def product(self) -> NDArray[np.float64]:
        """``(T,)`` P * R."""
        return self.precision * self.recall

    def measures(self) -> dict[str, float]:
        """Every measure by its name, in the order of a table.

        ``avS`` and ``avS_nuclei`` are means of S over :data:`THRESHOLDS` and :data:`NUCLEI_THRESHOLDS`, left out where
        not all of these thresholds were measured; then S, P, R, F1 and PxR at every threshold, as ``S@0.5``.
        """
        averages = {"avS": THRESHOLDS, "avS_nuclei": NUCLEI_THRESHOLDS}
        curves = {"S": self.s, "P": self.precision, "R": self.recall, "F1": self.f1, "PxR": self.product}
        named = {
            name: float(self.s[[self.thresholds.index(threshold) for threshold in wanted]].mean())
            for name, wanted in averages.items()
            if set(wanted) <= set(self.thresholds)
        }
        for name, curve in curves.items():
            named |= {f"{name}@{at:.3g}": float(value) for at, value in zip(self.thresholds, curve, strict=True)}
        return named

    def _quotient(self, part: NDArray[np.int64], whole: NDArray[np.int64] | int) -> NDArray[np.float64]:
        if not self.truth_count and not self.found_count:
            return np.full(len(self.thresholds), self.empty)
        result: NDArray[np.float64] = part / np.maximum(1, whole)
        return result


@dataclass(frozen=True)
class Summary:
    """A data set's scores.

    Attributes:
        images: number of images.
        measures: name (as in :meth:`Scores.measures`) -> mean over images with its bootstrap interval. ``F1_0.8`` is
            the exception: a pooled recall (Waehlby et al. 2012), the share of all true objects of the data set whose
            match has a pixel F1 of at least 0.8. It is left out where the data set has no true object.
        truth_count: number of true objects in all images.
        found_count: number of found objects in all images.
    """

    images: int
    measures: Mapping[str, Interval]
    truth_count: int
    found_count: int


def score(
    truth: Instances, found: Instances, *, thresholds: Sequence[float] = THRESHOLDS, empty: float = 1.0
) -> Scores:
    """Count hits and misses of one image. Objects may overlap; the match at every threshold is the optimal one.

    Raises:
        ValueError: the images differ in shape, a threshold is not in (0, 1], or none is given.
    """
    if not thresholds:
        raise ValueError("no IoU threshold given; leave them out for 0.5, 0.55, ..., 0.95.")
    *matchings, loose = match_many(truth, found, [*thresholds, _MATCHED])
    return Scores(
        tuple(thresholds),
        np.array([matching.tp for matching in matchings], np.int64),
        len(truth),
        len(found),
        close=int(np.count_nonzero(loose.ious >= _CLOSE)),
        empty=empty,
    )


def summarise(scores: Sequence[Scores], *, level: float = 0.95, resamples: int = 10_000, seed: int = 0) -> Summary:
    """Means over images with bootstrap intervals over images.

    Raises:
        ValueError: there is no image, or the images were measured at different thresholds.
    """
    if not scores:
        raise ValueError("nothing to summarise: give the scores of at least one image.")
    if len({image.thresholds for image in scores}) > 1:
        raise ValueError("the images were measured at different thresholds; measure all of them at the same ones.")
    rows = [image.measures() for image in scores]
    measures = {
        name: interval([row[name] for row in rows], level=level, resamples=resamples, seed=seed) for name in rows[0]
    }
    counts = np.array([(image.close, image.truth_count) for image in scores], np.float64)
    if counts[:, 1].any():
        measures["F1_0.8"] = interval(counts, level=level, resamples=resamples, seed=seed, statistic=pooled_share)
    truth_count = sum(image.truth_count for image in scores)
    found_count = sum(image.found_count for image in scores)
    return Summary(len(scores), measures, truth_count, found_count)
