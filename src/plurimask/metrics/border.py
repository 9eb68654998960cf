"""Is the standard deviation of a border true? Observed errors of the sides of boxes against the predicted sigma.

A method that says how far off the sides of an object's box may be (Upschulte et al. 2022, docs/algorithms.md 4.5)
claims errors / sigma of mean 0 and standard deviation 1. How well objects are *found* is another question: only those
with a true partner take part.

Larger objects have larger errors and larger sigmas, so that a correlation over all objects can be that of the size
alone. It is therefore taken among objects of about the same size.

**A measure of nothing is NaN.**
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize

from plurimask.instances import Instances, mask_sides, sides
from plurimask.metrics.bootstrap import Interval, interval, interval_of_share
from plurimask.metrics.calibration import Reliability, equal_mass
from plurimask.metrics.matching import check_shapes, match_greedily
from plurimask.probabilistic import ProbabilisticInstances

Floats = NDArray[np.float64]

SIZES = 3
"""Groups of true objects by area, of about equally many sides: small, middle and large ones."""

_FEW = 500  # resamples where each of them ranks all sides anew
_LEAST_VARIANCE = 1e-12  # in square pixels, where a side has no doubt at all
_BOUNDS = (-14.0, 14.0)  # of the logarithm of a squared number: up to a thousand times


@dataclass(frozen=True, eq=False)
class BorderErrors:
    """n sides of the boxes of found objects, and how far off they are.

    Attributes:
        errors: ``(n,)`` found less true in pixels, positive where the found box is too large.
        sigmas: ``(n,)`` the standard deviation that was predicted, in pixels.
        areas: ``(n,)`` int64 pixels of the true object.
        spreads: ``(n,)`` the part of sigma that the draws disagree on, in pixels; None: they do not.
    """

    errors: Floats
    sigmas: Floats
    areas: NDArray[np.int64]
    spreads: Floats | None = None

    def __post_init__(self) -> None:
        shapes = [self.errors.shape, self.sigmas.shape, self.areas.shape, self.apart.shape]
        if set(shapes) != {(self.errors.size,)}:
            raise ValueError(f"errors, sigmas, areas and spreads have shapes {shapes}; give equal ones, (n,).")
        if not (np.isfinite(self.errors).all() and np.isfinite(self.sigmas).all() and (self.sigmas > 0).all()):
            raise ValueError("an error is not finite, or a sigma not a positive number; look for NaN in the outputs.")
        if not ((self.apart >= 0) & (self.apart <= self.sigmas * (1 + 1e-5))).all():
            raise ValueError("a spread is no part of its sigma: it must lie between 0 and that.")

    def __len__(self) -> int:
        return len(self.errors)

    @property
    def apart(self) -> Floats:
        """``(n,)`` the spreads, 0 where there are none."""
        return np.zeros(self.sigmas.shape) if self.spreads is None else self.spreads

    @property
    def ratios(self) -> Floats:
        """``(n,)`` error / sigma: mean 0 and standard deviation 1 where sigmas are true."""
        ratios: Floats = self.errors / self.sigmas
        return ratios

    @property
    def surprises(self) -> Floats:
        """``(n,)`` -ln of the Gaussian density of what was observed, in nats; its mean is a proper score."""
        surprises: Floats = np.log(self.sigmas) + self.ratios**2 / 2 + math.log(2 * math.pi) / 2
        return surprises

    def summary(self) -> dict[str, float] | None:
        """``count`` of sides, and by name what :class:`BorderHonesty` has with intervals; None without sides."""
        if not len(self):
            return None
        error, surprise = float(np.abs(self.errors).mean()), float(self.surprises.mean())
        bias, spread = float(self.ratios.mean()), float(self.ratios.std())
        return {"count": len(self), "error": error, "bias": bias, "spread": spread, "surprise": surprise}


def border_errors(truth: Instances, found: Instances, *, min_iou: float = 0.5) -> BorderErrors:
    """The sides of all found objects with a partner; none where they have no feature ``border``.

    Partners are those of :func:`plurimask.metrics.calibration.existence_forecasts`. The box of a found object is that
    of its ``contour``, where there is one, to a fraction of a pixel: half a pixel outside of the contour, which runs
    through the centres of pixels. Sides where the true object touches the edge of the image are left out: nothing can
    be too large there, and where the object really ends is not known.

    Raises:
        ValueError: the images differ in shape, ``min_iou`` is out of range, or a sigma is not a positive number.
    """
    check_shapes(truth, found)
    if "border" not in found.features:
        return BorderErrors(np.zeros(0), np.zeros(0), np.zeros(0, np.int64))
    pairs = match_greedily(truth, found, min_iou=min_iou).pairs
    theirs, ours = truth.select(pairs[:, 0]), found.select(pairs[:, 1])
    true = mask_sides(theirs)
    outwards = np.array([[-1.0], [1.0]])
    errors = (sides(ours) - true) * outwards
    inside = np.stack([true[:, 0] > 0, true[:, 1] < theirs.shape], axis=1)
    areas = np.broadcast_to(theirs.areas[:, None, None], inside.shape)
    sigmas = ours.features["border"].astype(np.float64)
    spreads = np.nan_to_num(ours.features.get("border_spread", np.zeros(sigmas.shape)).astype(np.float64))
    return BorderErrors(errors[inside], sigmas[inside], areas[inside], spreads[inside])


def pool(images: Sequence[BorderErrors]) -> BorderErrors:
    """The sides of all images, one after the other.

    Raises:
        ValueError: there is no image.
    """
    if not images:
        raise ValueError("nothing to pool: give the border errors of at least one image.")
    names = ("errors", "sigmas", "areas", "apart")
    return BorderErrors(*(np.concatenate([getattr(image, name) for image in images]) for name in names))


@dataclass(frozen=True)
class SigmaScale:
    """Calibration by two numbers: sigma^2 = (factor noise)^2 + (spread apart)^2.

    Noise is what draws say of the image, apart how far they disagree: two kinds of doubt, and a network that knows the
    one well may be far off with the other. (Draws of a dropout network disagree less than they are wrong.)

    Attributes:
        factor: of the noise, above 0; above 1 where it was said too small.
        spread: of the disagreement, above 0.
    """

    factor: float = 1.0
    spread: float = 1.0

    def __post_init__(self) -> None:
        if not all(0 < number < math.inf for number in (self.factor, self.spread)):
            raise ValueError(
                f"a factor of {self.factor} and a spread of {self.spread} calibrate no sigma: both must be positive "
                "and finite."
            )

    def __call__(self, found: ProbabilisticInstances) -> ProbabilisticInstances:
        """Objects with their features ``border`` and ``border_spread``, those they have, calibrated."""
        if self == SigmaScale() or "border" not in found.features:
            return found
        border = found.features["border"]
        apart = found.features.get("border_spread", np.zeros(border.shape))
        scaled = {"border": self.of(border, np.nan_to_num(apart)), "border_spread": self.spread * apart}
        features = {name: values.astype(border.dtype) for name, values in scaled.items() if name in found.features}
        return replace(found, features={**found.features, **features})

    def of(self, sigmas: ArrayLike, spreads: ArrayLike) -> Floats:
        """Calibrated sigmas, of sigmas and the part of them that the draws disagree on; all of one shape."""
        whole, apart = np.asarray(sigmas, np.float64), np.asarray(spreads, np.float64)
        noise = np.sqrt(np.maximum(whole**2 - apart**2, 0))
        calibrated: Floats = np.hypot(self.factor * noise, self.spread * apart)
        return calibrated

    @classmethod
    def fit(cls, sides: BorderErrors) -> SigmaScale:
        """The numbers of maximum likelihood for Gaussian errors of mean 0.

        Where no draws disagree, the factor is the root mean square of error / sigma. Two more sides, one of noise alone
        and one of disagreement alone, whose errors are as expected, keep the numbers above 0 where no side is wrong.

        >>> SigmaScale.fit(BorderErrors(np.array([2.0, -2.0, 4.0]), np.ones(3), np.ones(3, int)))
        SigmaScale(factor=2.5, spread=1.0)
        """
        factor = float(np.sqrt((1 + (sides.ratios**2).sum()) / (1 + len(sides))))
        if not sides.apart.any():
            return cls(factor)
        apart = np.concatenate([sides.apart**2, [0, 1]])
        noise = np.concatenate([np.maximum(sides.sigmas**2 - sides.apart**2, 0), [1, 0]])
        squares = np.concatenate([sides.errors**2, [1, 1]])

        def surprise(logarithms: Floats) -> tuple[float, Floats]:
            """Twice the mean of -ln density, less a constant, and its gradient."""
            parts = np.exp(logarithms)[:, None] * (noise, apart)
            variance = np.maximum(parts.sum(axis=0), _LEAST_VARIANCE)
            value = (np.log(variance) + squares / variance).mean()
            return float(value), ((1 - squares / variance) / variance * parts).mean(axis=1)

        found = minimize(surprise, np.full(2, 2 * math.log(factor)), jac=True, method="L-BFGS-B", bounds=2 * [_BOUNDS])
        return cls(*np.exp(found.x / 2).tolist())


@dataclass(frozen=True, eq=False)
class BorderHonesty:
    """What the predicted standard deviations of borders are worth, over a set of images.

    Attributes:
        count: number of sides.
        error: mean of |error|, in pixels.
        bias: mean of error / sigma; above 0 where boxes are too large.
        spread: standard deviation of error / sigma: 1 where sigmas are true, above it where they are too small.
        surprise: mean of -ln density, in nats (:attr:`BorderErrors.surprises`).
        correlations: Spearman's between |error| and sigma among small, middle and large objects (:data:`SIZES`).
        reliability: in ten bins of sigma with equally many sides each, the root mean squares of sigma and of the error.
    """

    count: int
    error: Interval
    bias: Interval
    spread: Interval
    surprise: Interval
    correlations: tuple[Interval, ...]
    reliability: Reliability


def summarise(images: Sequence[BorderErrors], *, seed: int = 0) -> BorderHonesty | None:
    """All sides of all images alike, with 95 % bootstrap intervals over the images that have any; None if none has."""
    known = [image for image in images if len(image)]
    if not known:
        return None
    every = pool(known)
    columns = [[image.ratios, image.ratios**2, np.abs(image.errors), image.surprises] for image in known]
    sums = np.array([[len(parts[0]), *(part.sum() for part in parts)] for parts in columns])
    statistics = (partial(_mean_of, place=place) for place in (3, 1, 4))
    error, bias, surprise = (interval(sums, seed=seed, statistic=statistic) for statistic in statistics)
    return BorderHonesty(
        count=len(every),
        error=error,
        bias=bias,
        spread=interval(sums, seed=seed, statistic=_spread),
        surprise=surprise,
        correlations=_correlations(known, seed=seed),
        reliability=_reliability(every),
    )


def rank_correlation(a: ArrayLike, b: ArrayLike, *, weights: ArrayLike | None = None) -> float:
    """Spearman's rank correlation of ``(n,)`` values; NaN where one side is constant, or nothing is there.

    weights: ``(n,)`` how often a pair occurs, whole numbers; once if not given. Equal values share their mean rank.

    >>> rank_correlation([1, 2, 3, 4], [1, 4, 2, 3])
    0.4
    """
    pairs = [np.asarray(values) for values in (a, b)]
    times = np.ones(pairs[0].shape) if weights is None else np.asarray(weights, np.float64)
    if not times.any():
        return math.nan
    ranks = []
    for values in pairs:
        _, group = np.unique(values, return_inverse=True)
        mass = np.bincount(group, times)
        middles = (np.cumsum(mass) - mass / 2)[group]
        ranks.append(middles - np.average(middles, weights=times))
    first, second = (float(times @ rank**2) for rank in ranks)
    return float(times @ (ranks[0] * ranks[1])) / math.sqrt(first * second) if first and second else math.nan


def _correlations(images: Sequence[BorderErrors], *, seed: int) -> tuple[Interval, ...]:
    every = pool(images)
    image = np.repeat(np.arange(len(images)), [len(each) for each in images])
    size = equal_mass(every.areas.astype(np.float64), np.ones(len(every), np.int64), bins=SIZES)

    def within(number: int) -> Interval:
        chosen = size == number
        errors, sigmas, home = np.abs(every.errors[chosen]), every.sigmas[chosen], image[chosen]

        def shares(drawn: Floats) -> Floats:
            """``(R, n)`` indices of images -> ``(R,)``, from [-1, 1] to [0, 1]."""
            times = (np.bincount(row.astype(np.intp), minlength=len(images)) for row in drawn)
            return np.array([(1 + rank_correlation(errors, sigmas, weights=each[home])) / 2 for each in times])

        found = interval_of_share(np.arange(len(images)), shares, resamples=_FEW, seed=seed)
        return Interval(*(2 * value - 1 for value in (found.mean, found.low, found.high)))

    return tuple(within(number) for number in range(SIZES))


def _reliability(sides: BorderErrors) -> Reliability:
    bins = equal_mass(sides.sigmas, np.ones(len(sides), np.int64), bins=10)
    _, rows, count = np.unique(bins, return_inverse=True, return_counts=True)
    predicted, observed = (np.sqrt(np.bincount(rows, of**2) / count) for of in (sides.sigmas, sides.errors))
    return Reliability(predicted, observed, count.astype(np.int64))


def _mean_of(sums: Floats, *, place: int) -> Floats:
    """``(R, n, 5)`` numbers of sides of n images, then sums over them -> ``(R,)`` the mean of one of these."""
    totals = sums.sum(axis=1)
    means: Floats = totals[:, place] / totals[:, 0]
    return means


def _spread(sums: Floats) -> Floats:
    variance = _mean_of(sums, place=2) - _mean_of(sums, place=1) ** 2
    spread: Floats = np.sqrt(np.maximum(0, variance))
    return spread
