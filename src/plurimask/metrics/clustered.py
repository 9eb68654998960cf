"""Intervals for images that come in groups: slices of a patient and frames of a film are not independent of each other.

What is drawn again is the group, with all its images (the cluster bootstrap: Davison and Hinkley 1997, *Bootstrap
Methods and their Application*, section 3.8, the first of its two strategies). A mean over images is a quotient of sums,
and so is every measure that pools: the sums of a group are all that a resample needs. They are rows for
:func:`plurimask.metrics.bootstrap.interval` with a statistic that adds them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from plurimask.metrics.bootstrap import Interval, interval, pooled_share


def sums_by_group(values: ArrayLike, groups: Sequence[str | None]) -> NDArray[np.float64]:
    """``(n, ...)`` values of n images -> ``(G, ...)`` their sums over each group, in the order of its first image.

    groups: names, one per image (:attr:`plurimask.data.samples.Sample.group`); an image without one (None) is a group
    of its own.

    >>> sums_by_group([1, 2, 3, 4], ["a", "b", "a", None])
    array([4., 2., 4.])

    Raises:
        ValueError: there is not one group per image, or a value is not finite.
    """
    rows = np.asarray(values, np.float64)
    if rows.ndim == 0 or len(rows) != len(groups):
        raise ValueError(f"values have shape {rows.shape}, and there are {len(groups)} groups; give one for each row.")
    finite = np.isfinite(rows).all(axis=tuple(range(1, rows.ndim)))
    if not finite.all():
        broken = np.flatnonzero(~finite).tolist()
        raise ValueError(f"the values of the images {broken} are not finite; leave them out of all that is compared.")
    numbers: dict[str | int, int] = {}
    places = [numbers.setdefault(n if group is None else group, len(numbers)) for n, group in enumerate(groups)]
    sums = np.zeros((len(numbers), *rows.shape[1:]))
    np.add.at(sums, places, rows)
    return sums


def interval_by_group(
    values: ArrayLike, groups: Sequence[str | None], *, level: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> Interval:
    """The mean over images, and its percentile bootstrap interval over groups.

    values: ``(n,)``, one per image, for a paired comparison the differences. Where every image is a group of its own
    this is :func:`plurimask.metrics.bootstrap.interval`. With few groups (below about 20) it is too narrow.

    >>> print(interval_by_group([0.0, 1.0, 1.0, 1.0], ["a", "a", "b", "b"]))
    0.750 [0.500, 1.000]

    Raises:
        ValueError: as :func:`sums_by_group`; values are not ``(n,)``, or there is none; level or resamples are out of
            range.
    """
    rows = np.asarray(values, np.float64)
    if rows.ndim != 1:
        raise ValueError(f"values have shape {rows.shape}; wanted is one per image, (n,).")
    sums = sums_by_group(np.stack([rows, np.ones_like(rows)], axis=1), groups)
    return interval(sums, level=level, resamples=resamples, seed=seed, statistic=pooled_share)
