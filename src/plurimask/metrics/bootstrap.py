"""How far a mean over images would move with other images: percentile bootstrap intervals (Efron 1979).

The image is what is drawn again, not the object: objects of one image share its focus, its staining and its mistakes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Statistic = Callable[[NDArray[np.float64]], NDArray[np.float64]]
"""``(R, n, ...)`` resampled values -> ``(R,)``; reduces axis 1."""

_CHUNK = 1 << 22  # values gathered at a time: 32 MB, however many images and resamples there are


@dataclass(frozen=True)
class Interval:
    """A mean over images and the interval around it.

    Attributes:
        mean: the statistic of the values themselves, their mean by default.
        low: lower end of the interval.
        high: upper end of the interval.
    """

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"

    def excludes_zero(self) -> bool:
        """Whether zero lies outside: for a paired difference, the claim that one is better than the other."""
        return self.low > 0 or self.high < 0


def mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean over axis 1."""
    result: NDArray[np.float64] = values.mean(axis=1)
    return result


def pooled_share(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """``(R, n, 2)`` parts and wholes of n images -> ``(R,)`` sum of parts / sum of wholes, 0 for 0 / 0."""
    parts, wholes = np.moveaxis(counts.sum(axis=1), -1, 0)
    quotients: NDArray[np.float64] = parts / np.maximum(1, wholes)
    return quotients


def interval(
    values: ArrayLike, *, level: float = 0.95, resamples: int = 10_000, seed: int = 0, statistic: Statistic = mean
) -> Interval:
    """The percentile bootstrap interval of a statistic over images.

    values: ``(n, ...)``, one row per image. The same n and the same seed draw the same images, so that intervals of
    several measures belong together. With few images (below about 20) percentile intervals are too narrow.

    >>> print(interval([0.0, 1.0, 1.0, 1.0]))
    0.750 [0.250, 1.000]

    Raises:
        ValueError: there is no image, a value is not finite, or level or resamples are out of range.
    """
    rows = _checked(values)
    low, high = np.quantile(_drawn(rows, statistic, level, resamples, seed), [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(statistic(rows[None])[0]), float(low), float(high))


def interval_of_share(
    values: ArrayLike,
    statistic: Statistic,
    *,
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Interval:
    """:func:`interval` of a quotient in [0, 1] that some resamples of images, or all, leave without a denominator.

    Such a resample says nothing. It counts 0 for the lower end and 1 for the upper one, so that the interval is rather
    too wide. Where the images themselves have no denominator, value and both ends are NaN.

    statistic: as that of :func:`interval`, NaN for 0 / 0.

    Raises:
        ValueError: as :func:`interval`.
    """
    value = float(statistic(np.asarray(values, np.float64)[None])[0])
    if math.isnan(value):
        return Interval(value, math.nan, math.nan)
    drawn = _drawn(_checked(values), statistic, level, resamples, seed)
    low = np.quantile(np.nan_to_num(drawn, nan=0.0), (1 - level) / 2)
    high = np.quantile(np.nan_to_num(drawn, nan=1.0), (1 + level) / 2)
    return Interval(value, float(low), float(high))


def paired_difference(
    a: ArrayLike, b: ArrayLike, *, level: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> Interval:
    """The interval of mean(a - b), where a and b are ``(n,)`` values of the same images in the same order.

    "A is better than B" is supported where the interval excludes 0. Pairing removes what makes some images hard for
    everybody, which two intervals side by side would still hold.

    Raises:
        ValueError: a and b differ in length, or as :func:`interval`.
    """
    first, second = _checked(a), _checked(b)
    if first.shape != second.shape or first.ndim != 1:
        raise ValueError(f"a has shape {first.shape}, b {second.shape}; wanted is one value per image in both, (n,).")
    return interval(first - second, level=level, resamples=resamples, seed=seed)


def _drawn(
    rows: NDArray[np.float64], statistic: Statistic, level: float, resamples: int, seed: int
) -> NDArray[np.float64]:
    """``(resamples,)`` the statistic of images that were drawn again."""
    if not 0 < level < 1 or resamples < 1:
        raise ValueError(f"level must be in (0, 1) and resamples at least 1, not {level} and {resamples}.")
    generator = np.random.default_rng(seed)
    step = max(1, _CHUNK // rows.size)
    sizes = [min(step, resamples - start) for start in range(0, resamples, step)]
    return np.concatenate([statistic(rows[generator.integers(len(rows), size=(size, len(rows)))]) for size in sizes])


def _checked(values: ArrayLike) -> NDArray[np.float64]:
    rows: NDArray[Any] = np.asarray(values, np.float64)
    if rows.ndim == 0 or not rows.size:
        raise ValueError(f"values of shape {rows.shape} hold no image; give at least one value per image.")
    if not np.isfinite(rows).all():
        bad = np.unique(np.argwhere(~np.isfinite(rows))[:, 0]).tolist()
        raise ValueError(f"the values of the images {bad} are not finite; leave these out of all that is compared.")
    return rows
