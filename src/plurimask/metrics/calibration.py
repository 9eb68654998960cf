"""Are the probabilities true? Of all objects and pixels that were given 0.8, four fifths should be there.

Two claims are tested: that an object exists (:func:`existence_forecasts`), and that a pixel belongs to an object
(:func:`mask_forecasts`). Both give :class:`Forecasts`, one set per image; :func:`pool` joins those of several images.
:func:`iou_reliability` tests a third one, how well an object fits (:func:`iou_forecasts`).

**Where there is no forecast, every measure is NaN**, which JSON cannot hold: who writes these numbers must write null.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from plurimask.instances import Instances, slices
from plurimask.metrics.matching import match_greedily
from plurimask.metrics.selective import observed_ious
from plurimask.probabilistic import ProbabilisticInstances


@dataclass(frozen=True, eq=False)
class Reliability:
    """Predicted against observed frequency in B bins, none of them empty, in the order of the predictions.

    Attributes:
        predicted: ``(B,)`` mean probability of a bin.
        observed: ``(B,)`` share of its forecasts that came true.
        count: ``(B,)`` int64 number of its forecasts.
    """

    predicted: NDArray[np.float64]
    observed: NDArray[np.float64]
    count: NDArray[np.int64]

    @property
    def ece(self) -> float:
        """Expected calibration error, the mean of |predicted - observed| over forecasts (Naeini et al. 2015)."""
        return _mean(self.count * np.abs(self.predicted - self.observed), self.count)


@dataclass(frozen=True, eq=False)
class Forecasts:
    """Probabilities and what came true; equal forecasts may share a row.

    Attributes:
        probability: ``(n,)`` float64 in [0, 1].
        hits: ``(n,)`` int64, how many forecasts of a row came true.
        count: ``(n,)`` int64, how many forecasts a row stands for.
    """

    probability: NDArray[np.float64]
    hits: NDArray[np.int64]
    count: NDArray[np.int64]

    def __post_init__(self) -> None:
        if not (self.probability.shape == self.hits.shape == self.count.shape == (self.probability.size,)):
            shapes = self.probability.shape, self.hits.shape, self.count.shape
            raise ValueError(f"probability, hits and count have shapes {shapes}; give three of shape (n,).")
        if not ((self.probability >= 0) & (self.probability <= 1)).all():
            raise ValueError("a forecast is not a probability; all of them must be in [0, 1].")
        if ((self.hits < 0) | (self.hits > self.count)).any():
            raise ValueError("a row has more hits than forecasts, or a negative number of them.")

    @property
    def brier(self) -> float:
        """Mean of (probability - outcome)^2 (Brier 1950): 0 is perfect, 1/4 is what saying 1/2 always gets."""
        p = self.probability
        return _mean(self.hits * (1 - p) ** 2 + (self.count - self.hits) * p**2, self.count)

    def log_loss(self, *, clip: float = 1e-6) -> float:
        """Mean of -ln(probability of what happened), in nats, probabilities clipped to [clip, 1 - clip].

        Without clipping one pixel in which all draws are wrong makes it infinite; with it such pixels cost -ln(clip)
        each, 13.8 by default. Say with the number what it was clipped at; for shares of S draws half a draw, 1 / (2 S),
        is a natural choice.

        Raises:
            ValueError: clip is not in (0, 1/2).
        """
        if not 0 < clip < 0.5:
            raise ValueError(f"clip is {clip}; it must be above 0 and below 1/2.")
        p = np.clip(self.probability, clip, 1 - clip)
        return _mean(-self.hits * np.log(p) - (self.count - self.hits) * np.log1p(-p), self.count)

    def by_value(self) -> Reliability:
        """One bin for every probability that occurs: for shares k / S of draws."""
        values, bins = np.unique(self.probability, return_inverse=True)
        return self._binned(bins, len(values))

    def by_mass(self, bins: int = 10) -> Reliability:
        """At most ``bins`` bins of about equally many forecasts: for continuous probabilities.

        Equal probabilities are never parted (no order of the objects would say how): all of them go where the middle
        one belongs, and bins that stay empty are left out.

        Raises:
            ValueError: bins is less than 1.
        """
        return self._binned(equal_mass(self.probability, self.count, bins=bins), bins)

    def _binned(self, bins: NDArray[np.intp], length: int) -> Reliability:
        count = np.bincount(bins, self.count, length)
        kept = count > 0
        expected = np.bincount(bins, self.count * self.probability, length)[kept]
        hits, count = np.bincount(bins, self.hits, length)[kept], count[kept]
        return Reliability(expected / count, hits / count, count.astype(np.int64))


def existence_forecasts(truth: Instances, found: Instances, *, min_iou: float = 0.5) -> Forecasts:
    """One forecast per found object: its score against whether it has a partner.

    Partners are one-to-one and chosen greedily by score (:func:`plurimask.metrics.matching.match_greedily`), not by the
    optimal matching: of two found objects that claim the same true one the surer one must get it, or confidence would
    be punished.

    found: ``ProbabilisticInstances.hypotheses()`` to test what the draws say, or ``best()`` to test what is reported
    (a choice of the probable ones). Rows are in the order of ``found``.

    Raises:
        ValueError: the images differ in shape, or min_iou or a score are out of range.
    """
    exists = np.zeros(len(found), np.int64)
    exists[match_greedily(truth, found, min_iou=min_iou).pairs[:, 1]] = 1
    return Forecasts(found.scores, exists, np.ones(len(found), np.int64))


def mask_forecasts(truth: Instances, found: ProbabilisticInstances, *, min_iou: float = 0.5) -> Forecasts:
    """One forecast per pixel of every hypothesis' box: count / draws against the mask of its true partner.

    All hypotheses take part, rejected ones too; partners are those of :func:`existence_forecasts` for their majority
    masks. A hypothesis without partner is compared with nothing: count / draws says how probable it is that the pixel
    belongs to an object *and* that this object exists. Pixels outside the boxes are not asked; those inside that no
    draw has (probability 0) are, so that wide boxes make the measures smaller. Rows are k / draws, k = 0 ... draws.

    Raises:
        ValueError: the images differ in shape, or min_iou is out of range.
    """
    partner = dict(match_greedily(truth, found.hypotheses(), min_iou=min_iou).pairs[:, ::-1].tolist())
    totals = np.zeros((2, found.draws + 1), np.int64)
    for hypothesis, (box, counts) in enumerate(zip(found.boxes, found.counts, strict=True)):
        totals[1] += np.bincount(counts.ravel(), minlength=found.draws + 1)
        if hypothesis in partner:
            inside = _seen_in(box, truth, partner[hypothesis], counts)
            totals[0] += np.bincount(inside, minlength=found.draws + 1)
    return Forecasts(np.arange(found.draws + 1) / found.draws, *totals)


def iou_forecasts(
    truth: Instances, found: ProbabilisticInstances, *, min_iou: float = 0.5
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """``(n,)`` expected and observed IoU of every hypothesis with a pixel, rejected ones too.

    Observed is that with the partner of :func:`existence_forecasts`, 0 where there is none.

    Raises:
        ValueError: the images differ in shape, or min_iou is out of range.
    """
    observed = observed_ious(match_greedily(truth, found.hypotheses(), min_iou=min_iou))
    known = np.isfinite(found.expected_ious)
    return found.expected_ious[known], observed[known]


def pool(images: Sequence[Forecasts]) -> Forecasts:
    """The forecasts of all images, those of equal probability in one row.

    Raises:
        ValueError: there is no image.
    """
    if not images:
        raise ValueError("nothing to pool: give the forecasts of at least one image.")
    values, rows = np.unique(np.concatenate([image.probability for image in images]), return_inverse=True)
    hits, count = np.zeros((2, len(values)), np.int64)
    np.add.at(hits, rows, np.concatenate([image.hits for image in images]))
    np.add.at(count, rows, np.concatenate([image.count for image in images]))
    return Forecasts(values, hits, count)


@dataclass(frozen=True, eq=False)
class IouReliability:
    """Predicted against observed IoU of objects, in B bins of the prediction and at T thresholds.

    Attributes:
        thresholds: ``(T,)``.
        predicted: ``(B,)`` mean predicted IoU of a bin.
        observed: ``(B,)`` mean observed IoU.
        count: ``(B,)`` int64 number of objects.
        above: ``(B, T)`` P(observed IoU > t) for objects of such a prediction.
        predicted_above: ``(T,)`` share of all objects that are predicted above t.
        observed_above: ``(T,)`` share of all objects that are above t; equal to the one before where predictions and
            observations have the same distribution (marginal calibration, Gneiting et al. 2007).
    """

    thresholds: NDArray[np.float64]
    predicted: NDArray[np.float64]
    observed: NDArray[np.float64]
    count: NDArray[np.int64]
    above: NDArray[np.float64]
    predicted_above: NDArray[np.float64]
    observed_above: NDArray[np.float64]

    @property
    def ece(self) -> float:
        """Mean over objects of |predicted - observed|, both being means of a bin; NaN without objects."""
        return _mean(self.count * np.abs(self.predicted - self.observed), self.count)


def iou_reliability(
    predicted: ArrayLike, observed: ArrayLike, *, thresholds: Sequence[float] = (0.5, 0.75, 0.9), bins: int = 10
) -> IouReliability:
    """How far a predicted IoU tells the observed one, in bins of equal mass as in :meth:`Forecasts.by_mass`.

    predicted: ``(n,)`` expected IoU with the truth, such as agreement for matched objects, or existence * agreement for
    all; observed: ``(n,)`` IoU with the partner, 0 where there is none. "Above" is > t. Without objects there is no
    bin, and the shares are NaN.

    Raises:
        ValueError: the two differ in shape, a value is not in [0, 1] (agreement is NaN where an object has no pixel:
            leave such objects out), or bins is less than 1.
    """
    pairs = [np.asarray(values, np.float64) for values in (predicted, observed)]
    if pairs[0].shape != pairs[1].shape or pairs[0].ndim != 1:
        raise ValueError(
            f"predicted and observed IoU have shapes {pairs[0].shape}, {pairs[1].shape}; both must be (n,)."
        )
    values = np.stack(pairs, axis=1)
    if not ((values >= 0) & (values <= 1)).all():
        raise ValueError("an IoU is not in [0, 1]; leave out objects without a pixel, whose agreement is NaN.")
    members = equal_mass(values[:, 0], np.ones(len(values), np.int64), bins=bins)
    kept, rows, count = np.unique(members, return_inverse=True, return_counts=True)
    levels = np.asarray(thresholds, np.float64)
    exceeds = values[:, :, None] > levels
    means, above = np.zeros((len(kept), 2)), np.zeros((len(kept), len(levels)))
    np.add.at(means, rows, values)
    np.add.at(above, rows, exceeds[:, 1])
    means, above = means / count[:, None], above / count[:, None]
    overall = exceeds.mean(axis=0) if len(values) else np.full(exceeds.shape[1:], math.nan)
    return IouReliability(levels, means[:, 0], means[:, 1], count.astype(np.int64), above, overall[0], overall[1])


def equal_mass(values: NDArray[np.float64], weights: NDArray[np.int64], *, bins: int) -> NDArray[np.intp]:
    """``(n,)`` bin of every value, 0 ... bins - 1, of about equal sums of weights; equal values share a bin.

    >>> equal_mass(np.array([0.1, 0.2, 0.3, 0.3, 0.3, 0.9]), np.ones(6, int), bins=3)
    array([0, 0, 1, 1, 1, 2])
    """
    if bins < 1:
        raise ValueError(f"{bins} bins hold nothing; give at least 1.")
    _, group = np.unique(values, return_inverse=True)
    mass = np.bincount(group, weights)
    middles = np.cumsum(mass) - mass / 2
    places: NDArray[np.intp] = np.minimum(bins * middles // max(1, mass.sum()), bins - 1).astype(np.intp)
    return places[group]


def _seen_in(box: NDArray[np.int64], truth: Instances, index: int, counts: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """``(K,)`` the counts at the K pixels of a box that belong to a true object."""
    other = truth.boxes[index]
    common = np.stack([np.maximum(box[0], other[0]), np.minimum(box[1], other[1])])
    return counts[slices(common - box[0])][truth.masks[index][slices(common - other[0])]]


def _mean(totals: NDArray[Any], count: NDArray[np.int64]) -> float:
    """Mean over forecasts of rows that hold the totals of ``count`` of them."""
    return float(totals.sum() / count.sum()) if count.any() else math.nan
