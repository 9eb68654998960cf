"""Flat-kernel mean shift in matrix products: the modes of a cloud of points, and who belongs to which.

Comaniciu and Meer 2002, with the conventions of scikit-learn's ``MeanShift``: a seed moves to the mean of all points
within the bandwidth until it stands still; of modes closer than a bandwidth the one with more points stays. The
seeds climb together, over a sample of the points, and only the few modes they find climb on over all of them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Points = NDArray[np.float32]

STILL = 1e-3
"""A seed that moves less than this share of the bandwidth has arrived (as in scikit-learn)."""

SAME = 0.1
"""Climbing seeds that meet in a cell of this share of the bandwidth go on as one."""

_BLOCK = 1 << 20
"""Entries of one block of the seed-times-point matrix: 4 megabytes in float32."""


class Modes(NamedTuple):
    """Where points are densest.

    Attributes:
        centres: ``(m, d)`` float32, by decreasing support.
        support: ``(m,)`` int64, the number of points within a bandwidth of the centre.
    """

    centres: Points
    support: NDArray[np.int64]


class Clusters(NamedTuple):
    """Points in groups.

    Attributes:
        labels: ``(n,)`` int64, index of the point's centre, -1 where none is near enough.
        centres: ``(m, d)`` float32, by decreasing support.
    """

    labels: NDArray[np.int64]
    centres: Points


def mean_shift(
    points: ArrayLike,
    *,
    bandwidth: float,
    threshold: float = np.inf,
    seeds: ArrayLike | None = None,
    seed: int = 0,
) -> Clusters:
    """The modes of ``points`` ``(n, d)``, and for every point the nearest mode within ``threshold``.

    See :func:`modes` and :func:`assign`. scikit-learn's ``MeanShift`` is the case of an infinite threshold.

    >>> mean_shift([[0.0], [0.1], [0.2], [5.0], [5.2], [9.0]], bandwidth=1, threshold=0.5).labels
    array([0, 0, 0, 1, 1, 2])
    """
    centres, _ = modes(points, bandwidth, seeds=seeds, seed=seed)
    return Clusters(assign(points, centres, threshold), centres)


def modes(
    points: ArrayLike,
    bandwidth: float,
    *,
    seeds: ArrayLike | None = None,
    sample: int = 6000,
    max_seeds: int = 3000,
    iterations: int = 300,
    seed: int = 0,
) -> Modes:
    """The modes of a flat kernel density. The order of the points does not matter while ``n <= sample``.

    Args:
        points: ``(n, d)``.
        bandwidth: radius of the kernel, in units of the points.
        seeds: ``(k, d)`` places to climb from besides the bins of the sample: the modes of another draw, say.
        sample: how many points the seeds climb on; all points count in the end.
        max_seeds: at most so many bins of the sample become seeds, the fullest first.
        iterations: at most so many steps, over the sample and again over all points.
        seed: chooses the sample.

    Raises:
        ValueError: wrong shape, or a bandwidth that is not positive.
        FloatingPointError: a point is not finite.
    """
    cloud = _checked(points, "points")
    if not bandwidth > 0:
        raise ValueError(f"the bandwidth is {bandwidth}; it is a radius and must be above 0.")
    if not len(cloud):
        return Modes(cloud, np.zeros(0, np.int64))
    # Float32 squares lose digits far from the origin, and distances do not depend on it.
    origin = cloud.mean(axis=0, dtype=np.float64).astype(np.float32)
    cloud = cloud - origin
    some = cloud
    if len(cloud) > sample:
        chosen = np.random.default_rng(seed).choice(len(cloud), sample, replace=False)
        some = cloud[np.sort(chosen)]
    start = _starts(some, bandwidth, max_seeds)
    if seeds is not None:
        start = np.concatenate([_checked(seeds, "seeds", cloud.shape[1]) - origin, start])
    found, _ = _climb(some, start, bandwidth, iterations=iterations)
    summits = _distinct(*_climb(cloud, found, bandwidth, iterations=iterations), bandwidth)
    return Modes(summits.centres + origin, summits.support)


def assign(points: ArrayLike, centres: ArrayLike, threshold: float = np.inf) -> NDArray[np.int64]:
    """``(n,)`` int64: for each of ``points`` ``(n, d)`` the index of the nearest of ``centres`` ``(m, d)``.

    -1 where none is within ``threshold``; of equally near ones the first.
    """
    cloud = _checked(points, "points")
    middle = _checked(centres, "centres", cloud.shape[1])
    if not len(cloud) or not len(middle):
        return np.full(len(cloud), -1, np.int64)
    origin = middle.mean(axis=0)
    cloud, middle = cloud - origin, middle - origin
    labels = np.empty(len(cloud), np.int64)
    rows = max(1, _BLOCK // len(middle))
    for begin in range(0, len(cloud), rows):
        block = cloud[begin : begin + rows]
        closeness = block @ middle.T - 0.5 * _squares(middle)
        nearest = closeness.argmax(axis=1)
        distance = np.sqrt(_squares(block - middle[nearest]))
        labels[begin : begin + rows] = np.where(distance <= threshold, nearest, -1)
    return labels


def _checked(points: ArrayLike, name: str, width: int | None = None) -> Points:
    cloud = np.ascontiguousarray(points, np.float32)
    if cloud.ndim != 2 or width not in (None, cloud.shape[1]):
        raise ValueError(f"{name} have shape {cloud.shape}; wanted is (number, {width or 'dimensions'}).")
    if not np.isfinite(cloud).all():
        raise FloatingPointError(f"{name}: {np.count_nonzero(~np.isfinite(cloud).all(axis=1))} are not finite.")
    return cloud


def _squares(points: Points) -> Points:
    lengths: Points = np.einsum("nd,nd->n", points, points)
    return lengths


def _cells(points: Points, size: float) -> NDArray[np.int32]:
    """``(n, d)``: in which cell of a grid a point lies."""
    cells: NDArray[np.int32] = np.round(points / np.float32(size)).astype(np.int32)
    return cells


def _starts(points: Points, bandwidth: float, max_seeds: int) -> Points:
    """From every grid cell that holds points the one nearest to their mean (it has itself in reach), fullest first."""
    _, cell, count = np.unique(_cells(points, bandwidth), axis=0, return_inverse=True, return_counts=True)
    cell = cell.ravel()
    means = np.zeros((len(count), points.shape[1]))
    np.add.at(means, cell, points)
    means /= count[:, None]
    distance = np.linalg.norm(points - means[cell], axis=1)
    nearest = np.lexsort((distance, cell))[np.cumsum(count) - count]
    fullest = np.argsort(-count, kind="stable")[:max_seeds]
    starts: Points = points[nearest[fullest]]
    return starts


def _apart(seeds: Points, bandwidth: float) -> Points:
    """One seed, the first, of those that have met."""
    _, first = np.unique(_cells(seeds, SAME * bandwidth), axis=0, return_index=True)
    return seeds[np.sort(first)]


def _climb(points: Points, seeds: Points, bandwidth: float, *, iterations: int) -> Modes:
    """Move every seed uphill until it stands still. Seeds that meet go on as one, seeds without a point in reach go."""
    arrived, support = [], []
    offsets = np.column_stack([points, -0.5 * _squares(points)])
    summands = np.column_stack([points, np.ones(len(points), np.float32)])
    moving = _apart(seeds, bandwidth)
    for step in range(iterations):
        sums = _neighbour_sums(offsets, summands, moving, bandwidth)
        counts = sums[:, -1]
        moving, sums, counts = moving[counts > 0], sums[counts > 0], counts[counts > 0]
        means = sums[:, :-1] / counts[:, None]
        still = _squares(means - moving) <= (STILL * bandwidth) ** 2
        if step == iterations - 1:
            still[:] = True
        arrived.append(means[still])
        support.append(counts[still])
        moving = _apart(means[~still], bandwidth)
        if not len(moving):
            break
    return Modes(np.concatenate(arrived), np.concatenate(support).astype(np.int64))


def _neighbour_sums(offsets: Points, summands: Points, seeds: Points, bandwidth: float) -> Points:
    """``(k, d + 1)``: sum and number of the points within the bandwidth of every seed.

    |x - s|^2 <= h^2 is x.s - |x|^2 / 2 >= (|s|^2 - h^2) / 2: one matrix product against one number per seed.
    """
    lifted = np.column_stack([seeds, np.ones(len(seeds), np.float32)])
    limits = 0.5 * (_squares(seeds) - np.float32(bandwidth) ** 2)
    sums = np.empty((len(seeds), summands.shape[1]), np.float32)
    rows = max(1, _BLOCK // len(offsets))
    for begin in range(0, len(seeds), rows):
        block = slice(begin, begin + rows)
        near = lifted[block] @ offsets.T >= limits[block, None]
        sums[block] = near.astype(np.float32) @ summands
    return sums


def _distinct(centres: Points, support: NDArray[np.int64], bandwidth: float) -> Modes:
    """Of centres within a bandwidth of each other only the one with the most support; ties by coordinates."""
    order = np.lexsort((*centres.T[::-1], support))[::-1]
    centres, support = centres[order], support[order]
    kept = np.ones(len(centres), np.bool_)
    for index in range(len(centres)):
        if kept[index]:
            kept[index + 1 :] &= _squares(centres[index + 1 :] - centres[index]) > bandwidth**2
    return Modes(centres[kept], support[kept])
