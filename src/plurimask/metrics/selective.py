"""Does doubt come first where the errors are? Risk against coverage, and errors found per object inspected.

Both put objects in the order of a number and say how fast errors pile up. Objects of equal doubt have no order: what
is given is the expected value over all orders of them, so that the order of files or of labels never plays a part.

Doubt is any number that is larger for objects to be looked at first; infinite ones are allowed (first, or last), NaN
is not. Negate a place in a queue (``review_order``) to use it as one.

Only what was found can be inspected: a true object that nobody found is no error here. It is recall that counts those.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from plurimask.metrics.bootstrap import Interval, interval
from plurimask.metrics.matching import Matching


def observed_ious(matching: Matching) -> NDArray[np.float64]:
    """``(found_count,)`` IoU of every found object with its partner, 0 where it has none.

    Risk is 1 minus it; an object is wrong where it is below the IoU asked for, false positives included.
    """
    ious = np.zeros(matching.found_count)
    ious[matching.pairs[:, 1]] = matching.ious
    return ious


@dataclass(frozen=True, eq=False)
class RiskCoverage:
    """Mean risk of the k least doubted of n objects, k = 1 ... n (El-Yaniv and Wiener 2010).

    Attributes:
        risk: ``(n,)``, at coverage k / n.
        ideal: ``(n,)``, had the doubt put the objects in the order of their risks. A random order has the same expected
            risk at every coverage, ``risk[-1]``.
    """

    risk: NDArray[np.float64]
    ideal: NDArray[np.float64]

    @property
    def coverage(self) -> NDArray[np.float64]:
        """``(n,)`` k / n."""
        return np.arange(1, len(self.risk) + 1) / max(1, len(self.risk))

    @property
    def aurc(self) -> float:
        """Area under the curve, its mean over k (Geifman et al. 2019); NaN without objects."""
        return _mean(self.risk)

    @property
    def excess(self) -> float:
        """E-AURC, the area above that of the ideal order (Geifman et al. 2019); NaN without objects."""
        return _mean(self.risk - self.ideal)


def risk_coverage(doubt: ArrayLike, risk: ArrayLike) -> RiskCoverage:
    """doubt: ``(n,)``; risk: ``(n,)``, 1 - IoU, or 0 and 1. Objects of several images: concatenate them.

    >>> risk_coverage([0.1, 0.2, 0.9], [0, 0, 1]).risk.round(2)
    array([0.  , 0.  , 0.33])

    Raises:
        ValueError: the two differ in shape, a doubt is NaN, or a risk is not finite.
    """
    doubts, risks = _checked(doubt, risk)
    covered = np.arange(1, len(doubts) + 1)
    return RiskCoverage(np.cumsum(_expected(doubts, risks)) / covered, np.cumsum(np.sort(risks)) / covered)


@dataclass(frozen=True, eq=False)
class ErrorsFound:
    """Errors found when objects are inspected in an order. Shares and areas are NaN where there is no error to find.

    Attributes:
        found: ``(n + 1,)`` expected number of errors among the first k of n objects, k = 0 ... n.
    """

    found: NDArray[np.float64]

    @property
    def objects(self) -> int:
        """Number of objects n."""
        return len(self.found) - 1

    @property
    def errors(self) -> int:
        """Number of wrong objects E."""
        return round(float(self.found[-1]))

    @property
    def share(self) -> NDArray[np.float64]:
        """``(n + 1,)`` share of all errors that are among the first k."""
        return self._of_all(self.found)

    @property
    def random(self) -> NDArray[np.float64]:
        """``(n + 1,)`` the share to be expected in a random order, k / n."""
        return self._of_all(np.linspace(0, self.errors, self.objects + 1))

    @property
    def ideal(self) -> NDArray[np.float64]:
        """``(n + 1,)`` the share with all errors first, min(k / E, 1)."""
        return self._of_all(np.minimum(np.arange(self.objects + 1), self.errors))

    @property
    def area(self) -> float:
        """Area under ``share`` over k / n (trapezoids): 1/2 in a random order, 1 - E / (2 n) in the ideal one."""
        return _mean((self.share[1:] + self.share[:-1]) / 2)

    @property
    def gain(self) -> float:
        """(area - 1/2) / (ideal area - 1/2): 1 for the ideal order, 0 for a random one, -1 for the worst.

        It is 2 AUROC - 1 of doubt as a detector of errors, so that it does not depend on how many there are. NaN
        where no order is better than another: all objects are wrong, or none.
        """
        if self.errors in (0, self.objects):
            return math.nan
        return 2 * (self.area - 0.5) / (1 - self.errors / self.objects)

    def _of_all(self, numbers: NDArray[np.float64] | NDArray[np.int64]) -> NDArray[np.float64]:
        shares: NDArray[np.float64] = numbers / self.errors if self.errors else np.full(len(self.found), math.nan)
        return shares


def errors_found(doubt: ArrayLike, wrong: ArrayLike) -> ErrorsFound:
    """Inspect objects by falling doubt. doubt: ``(n,)``; wrong: ``(n,)`` bool. Several images: concatenate them.

    >>> errors_found([0.9, 0.2, 0.2], [True, True, False]).share
    array([0.  , 0.5 , 0.75, 1.  ])

    Raises:
        ValueError: the two differ in shape, or a doubt is NaN.
    """
    doubts, errors = _checked(doubt, np.asarray(wrong, np.bool_))
    return ErrorsFound(np.concatenate([[0.0], np.cumsum(_expected(-doubts, errors))]))


def area_difference(
    a: Sequence[ArrayLike],
    b: Sequence[ArrayLike],
    wrong: Sequence[ArrayLike],
    *,
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Interval:
    """Area between two curves of :func:`errors_found`, a minus b, with a paired bootstrap interval over images.

    a, b: the two doubts of the same objects, one ``(n_i,)`` array an image; wrong: bool, likewise. The objects of all
    images are inspected in one queue. Equal doubts for b (``np.zeros(n_i)``) are the random order. Where there is no
    error to find, in a resample or in all images, neither order is better: 0.

    Raises:
        ValueError: a, b and wrong differ in shape, a doubt is NaN, or as :func:`bootstrap.interval`.
    """
    if not len(a) == len(b) == len(wrong) > 0:
        raise ValueError(f"a has {len(a)} images, b {len(b)} and wrong {len(wrong)}; give the same ones, at least one.")
    flags = [np.asarray(errors, np.bool_) for errors in wrong]
    doubts = [[_checked(doubt, errors)[0] for doubt, errors in zip(order, flags, strict=True)] for order in (a, b)]
    ahead = _ahead(doubts[1], flags) - _ahead(doubts[0], flags)
    sizes = np.array([(np.count_nonzero(errors), len(errors)) for errors in flags])

    def difference(images: NDArray[np.float64]) -> NDArray[np.float64]:
        """``(R, n)`` drawn images -> ``(R,)`` area between the curves of their pooled objects."""
        times = np.stack([np.bincount(drawn, minlength=len(flags)) for drawn in images.astype(np.intp)])
        products = np.prod(times @ sizes, axis=1)
        areas: NDArray[np.float64] = ((times @ ahead) * times).sum(axis=1) / np.maximum(1, products)
        return areas

    return interval(np.arange(len(flags)), level=level, resamples=resamples, seed=seed, statistic=difference)


def _ahead(doubts: Sequence[NDArray[np.float64]], wrong: Sequence[NDArray[np.bool_]]) -> NDArray[np.float64]:
    """``(I, I)`` over the wrong objects of image i: how many objects of image j stand before them, ties by half.

    The area under the curve is a rank statistic: an error that is inspected as the k-th adds (1 - (k - 1/2) / n) / E,
    and k - 1/2 is the number of objects before it with half of those that tie with it, itself included. Sums over pairs
    of images are all that a resample needs, an image drawn twice included: its copies tie.
    """
    errors = np.concatenate([image[flags] for image, flags in zip(doubts, wrong, strict=True)])
    owner = np.repeat(np.arange(len(doubts)), [np.count_nonzero(flags) for flags in wrong])
    table = np.zeros((len(doubts), len(doubts)))
    for column, image in enumerate(doubts):
        ranked = np.sort(image)
        before = [len(ranked) - np.searchsorted(ranked, errors, side=side) for side in ("left", "right")]
        table[:, column] = np.bincount(owner, (before[0] + before[1]) / 2, len(doubts))
    return table


def _expected(key: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Values by rising key, those of equal key replaced by their mean: their expected values in a random order."""
    _, group, count = np.unique(key, return_inverse=True, return_counts=True)
    return np.repeat(np.bincount(group, values, len(count)) / count, count)


def _checked(doubt: ArrayLike, values: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    doubts, numbers = np.asarray(doubt, np.float64), np.asarray(values, np.float64)
    if doubts.ndim != 1 or doubts.shape != numbers.shape:
        raise ValueError(f"doubts have shape {doubts.shape}, what they doubt {numbers.shape}; both must be (n,).")
    if np.isnan(doubts).any():
        raise ValueError(
            f"the doubts of objects {np.flatnonzero(np.isnan(doubts)).tolist()} are NaN; use inf for first."
        )
    if not np.isfinite(numbers).all():
        raise ValueError(f"the risks of objects {np.flatnonzero(~np.isfinite(numbers)).tolist()} are not finite.")
    return doubts, numbers


def _mean(values: NDArray[np.float64]) -> float:
    return float(values.mean()) if values.size else math.nan
