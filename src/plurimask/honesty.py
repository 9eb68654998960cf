"""Is the doubt of a result worth anything? All measures of it, of one image and of a set of images.

Does it lie where the outlines are wrong (:mod:`plurimask.metrics.patch_uncertainty`)? Do probabilities come true
(:mod:`plurimask.metrics.calibration`), and standard deviations (:mod:`plurimask.metrics.border`)? Are the most doubtful
objects the wrong ones (:mod:`plurimask.metrics.selective`)? What is kept of an image is small, so that many images can
be gone through one after the other.

Intervals are percentile bootstraps over images (95 %). **A measure of nothing is NaN**, and so are its ends
(:func:`plurimask.metrics.bootstrap.interval_of_share`: all measures here lie in [0, 1]).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from plurimask import uncertainty
from plurimask.instances import Instances
from plurimask.metrics import border
from plurimask.metrics.bootstrap import Interval, interval_of_share
from plurimask.metrics.border import BorderErrors, BorderHonesty, border_errors
from plurimask.metrics.calibration import (
    Forecasts,
    IouReliability,
    Reliability,
    equal_mass,
    existence_forecasts,
    iou_reliability,
    mask_forecasts,
    pool,
)
from plurimask.metrics.matching import match
from plurimask.metrics.patch_uncertainty import PatchCurve, Patches, curve, patches
from plurimask.metrics.selective import (
    ErrorsFound,
    RiskCoverage,
    area_difference,
    errors_found,
    observed_ious,
    risk_coverage,
)
from plurimask.probabilistic import ProbabilisticInstances

PATCH_THRESHOLD = 0.05
"""Entropy in nats at which Rumberger et al. 2020 give their numbers."""

MIN_IOU = 0.5
"""From here on an object exists, and is found."""

_FEW = 500  # resamples where each of them sorts all objects anew


@dataclass(frozen=True, eq=False)
class Examination:
    """What has to be kept of one image.

    Attributes:
        patches: of the M objects that are evaluated.
        existence: one forecast per hypothesis, rejected ones included.
        mask: forecasts of their pixels.
        doubt: ``(M,)`` :func:`plurimask.uncertainty.doubt` of the objects that are evaluated.
        ious: ``(M,)`` IoU with the partner, 0 without one.
        borders: of the hypotheses with a partner.
    """

    patches: Patches
    existence: Forecasts
    mask: Forecasts
    doubt: NDArray[np.float64]
    ious: NDArray[np.float64]
    borders: BorderErrors

    @property
    def wrong(self) -> NDArray[np.bool_]:
        """``(M,)`` whether an object has no partner."""
        return self.ious < MIN_IOU


@dataclass(frozen=True, eq=False)
class Calibration:
    """Predicted against observed frequency.

    Attributes:
        reliability: in bins.
        brier: mean squared error of the probabilities.
        ece: expected calibration error in these bins; the resamples keep the bins.
    """

    reliability: Reliability
    brier: Interval
    ece: Interval


@dataclass(frozen=True, eq=False)
class Ranking:
    """Evaluated objects of all images in one queue, by falling doubt.

    Attributes:
        risk: mean of 1 - IoU over the least doubted objects, IoU being 0 without partner.
        aurc: the area under that curve.
        errors: how many objects without partner are found when so many are inspected.
        area: the area under the curve of their share; 1/2 in a random order. NaN without errors.
    """

    risk: RiskCoverage
    aurc: Interval
    errors: ErrorsFound
    area: Interval


@dataclass(frozen=True, eq=False)
class ExpectedIou:
    """Expected against observed IoU of the evaluated objects.

    Attributes:
        reliability: in ten bins of equal mass, and above some thresholds.
        error: mean of |expected - observed|.
    """

    reliability: IouReliability
    error: Interval


@dataclass(frozen=True, eq=False)
class Honesty:
    """How honest a result is about its doubt, over a set of images.

    Attributes:
        patches: the three measures of R20 over all thresholds.
        threshold: entropy in nats at which the next one is given.
        at_threshold: the three measures there, by name.
        existence: are the objects there as often as their probability says? Ten bins of equal mass.
        mask: does a pixel belong to the object as often as draws say so? One bin for every share of draws.
        ranking: do the doubtful objects turn out to be wrong?
        expected_iou: do objects fit as well as they are expected to?
        border: are the sides of boxes as far off as they are expected to be? None where nothing was expected.
    """

    patches: PatchCurve
    threshold: float
    at_threshold: Mapping[str, Interval]
    existence: Calibration
    mask: Calibration
    ranking: Ranking
    expected_iou: ExpectedIou
    border: BorderHonesty | None


def examine(truth: Instances, found: ProbabilisticInstances, counted: Instances) -> Examination:
    """One image. counted: the objects that are evaluated, with their feature ``hypothesis`` (see :func:`patches`).

    Raises:
        ValueError: the images differ in shape, or ``counted`` does not come from ``found``.
    """
    parts = patches(truth, found, counted, min_iou=MIN_IOU)
    chosen = np.asarray(counted.features["hypothesis"], np.int64)
    doubts = uncertainty.doubt(found.expected_ious[chosen], np.ones(len(chosen), np.bool_))
    return Examination(
        parts,
        existence_forecasts(truth, found.hypotheses(), min_iou=MIN_IOU),
        mask_forecasts(truth, found, min_iou=MIN_IOU),
        doubts,
        observed_ious(match(truth, counted, min_iou=MIN_IOU)),
        border_errors(truth, found.hypotheses(), min_iou=MIN_IOU),
    )


def summarise(images: Sequence[Examination], *, seed: int = 0) -> Honesty:
    """All images together; objects, pixels and patches count alike, whatever image they are from.

    Raises:
        ValueError: there is no image.
    """
    if not images:
        raise ValueError("nothing to summarise: give the examination of at least one image.")
    whole = curve([image.patches for image in images])
    existence, mask = ([getattr(image, name) for image in images] for name in ("existence", "mask"))
    return Honesty(
        whole,
        PATCH_THRESHOLD,
        whole.intervals(PATCH_THRESHOLD, seed=seed),
        _calibration(existence, pool(existence).by_mass(), _by_mass, seed=seed),
        _calibration(mask, pool(mask).by_value(), _by_value, seed=seed),
        _ranking(images, seed=seed),
        _expected_iou(images, seed=seed),
        border.summarise([image.borders for image in images], seed=seed),
    )


def _expected_iou(images: Sequence[Examination], *, seed: int) -> ExpectedIou:
    # The doubt of an object that is evaluated is 1 - its expected IoU; infinite where that is not known.
    known = [np.isfinite(image.doubt) for image in images]
    expected = [1 - image.doubt[kept] for image, kept in zip(images, known, strict=True)]
    observed = [image.ious[kept] for image, kept in zip(images, known, strict=True)]
    sums = [(np.abs(a - b).sum(), len(a)) for a, b in zip(expected, observed, strict=True)]
    error = interval_of_share(sums, _mean_error, seed=seed)
    return ExpectedIou(iou_reliability(np.concatenate(expected), np.concatenate(observed)), error)


def _mean_error(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """``(R, n, 2)`` sums of errors and numbers of objects of n images -> ``(R,)``."""
    return _quotient(*np.moveaxis(sums.sum(axis=1), -1, 0))


def _calibration(
    images: Sequence[Forecasts],
    reliability: Reliability,
    bins_of: Callable[[Forecasts], NDArray[np.intp]],
    *,
    seed: int,
) -> Calibration:
    """bins_of: the bins of ``reliability``, of every row of all forecasts one after the other."""
    parts = [[getattr(image, name) for image in images] for name in ("probability", "hits", "count")]
    every = Forecasts(*(np.concatenate(part) for part in parts))
    image = np.repeat(np.arange(len(images)), [len(part) for part in parts[0]])
    bins = bins_of(every)
    rest = every.count - every.hits
    squares = every.hits * (1 - every.probability) ** 2 + rest * every.probability**2
    # Sums over every bin of every image: number, probabilities, hits and squared errors.
    sums = np.zeros((len(images), bins.max(initial=-1) + 1, 4))
    columns = [every.count, every.count * every.probability, every.hits, squares]
    np.add.at(sums, (image, bins), np.stack(columns, axis=-1))
    brier, ece = (interval_of_share(sums, statistic, seed=seed) for statistic in (_brier, _ece))
    return Calibration(reliability, brier, ece)


def _by_mass(every: Forecasts) -> NDArray[np.intp]:
    return equal_mass(every.probability, every.count, bins=10)


def _by_value(every: Forecasts) -> NDArray[np.intp]:
    return np.asarray(np.unique(every.probability, return_inverse=True)[1], np.intp)


def _brier(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """``(R, n, B, 4)`` sums of n images -> ``(R,)``; NaN where there is no forecast."""
    return _quotient(sums[..., 3].sum(axis=(1, 2)), sums[..., 0].sum(axis=(1, 2)))


def _ece(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    bins = sums.sum(axis=1)
    return _quotient(np.abs(bins[..., 1] - bins[..., 2]).sum(axis=1), bins[..., 0].sum(axis=1))


def _quotient(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(whole > 0, part / np.maximum(1, whole), math.nan)


def _ranking(images: Sequence[Examination], *, seed: int) -> Ranking:
    doubts, ious, wrong = ([getattr(image, name) for image in images] for name in ("doubt", "ious", "wrong"))

    def aurc(drawn: NDArray[np.float64]) -> NDArray[np.float64]:
        """``(R, n)`` indices of images -> ``(R,)``; NaN where there is no object."""
        return np.array([_risk(doubts, ious, indices).aurc for indices in drawn.astype(np.intp)])

    every = np.arange(len(images))
    errors = errors_found(np.concatenate(doubts), np.concatenate(wrong))
    return Ranking(
        _risk(doubts, ious, every),
        interval_of_share(every, aurc, seed=seed, resamples=_FEW),
        errors,
        _area(doubts, wrong, errors, seed=seed),
    )


def _risk(
    doubts: Sequence[NDArray[np.float64]], ious: Sequence[NDArray[np.float64]], drawn: NDArray[np.intp]
) -> RiskCoverage:
    return risk_coverage(
        np.concatenate([doubts[index] for index in drawn]), 1 - np.concatenate([ious[index] for index in drawn])
    )


def _area(
    doubts: Sequence[NDArray[np.float64]], wrong: Sequence[NDArray[np.bool_]], errors: ErrorsFound, *, seed: int
) -> Interval:
    if not errors.errors:
        return Interval(math.nan, math.nan, math.nan)
    # Of a random order the area is 1/2, so that the difference to it has the same ends.
    ahead = area_difference(doubts, [np.zeros(len(image)) for image in doubts], wrong, seed=seed)
    return Interval(errors.area, 0.5 + ahead.low, 0.5 + ahead.high)
