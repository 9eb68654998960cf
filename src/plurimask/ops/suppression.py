"""Greedy suppression of proposals that overlap a better one, of boxes and of contours (2-D only).

In the order of decreasing weight (of equal weights the first one first) a proposal is kept unless its intersection
over union with one that was kept is above a threshold. Only those that were kept are compared with, and of these only
the ones in the same cells of a grid: the result is that of comparing all pairs.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray

from plurimask.ops.contours import bounds, fill, in_image
from plurimask.ops.fourier import closed_positions, reconstruct

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Runs = tuple[Integers, Integers, Integers]
"""Masks as runs of pixels: first column and the one behind the last ``(R, 2)``, the first run of every row, and the
first row of every mask (both with one entry more for the end)."""

_BOXES_ONLY: Runs = (np.zeros((0, 2), np.int64), np.zeros(0, np.int64), np.zeros(0, np.int64))


def suppress_boxes(boxes: ArrayLike, weights: ArrayLike, *, threshold: float) -> Integers:
    """Indices of the boxes that are kept, in the order of decreasing weight.

    A box without area overlaps nothing (0 / 0 counts as 0): it is kept and suppresses none.

    Args:
        boxes: ``(K, 2, 2)`` start and stop in continuous coordinates, so areas are (stop - start) without a pixel more.
        weights: ``(K,)``; score times certainty for contour proposals.
        threshold: of the intersection over union, in [0, 1].

    Raises:
        ValueError: shapes do not fit, a value is not finite, a box stops before it starts, or threshold is no share.

    >>> suppress_boxes([[[0, 0], [4, 4]], [[0, 0], [4, 5]], [[9, 9], [10, 10]]], [0.5, 0.9, 0.1], threshold=0.5)
    array([1, 2])
    """
    corners = np.ascontiguousarray(boxes, np.float64)
    order = _order(weights, len(corners), threshold)
    if corners.shape != (len(order), 2, 2):
        raise ValueError(f"boxes have shape {corners.shape}; give start and stop of each, {(len(order), 2, 2)}.")
    if not np.isfinite(corners).all() or (corners[:, 1] < corners[:, 0]).any():
        raise ValueError("a box is not finite or stops before it starts; sort its corners or leave it out.")
    return _kept(corners, np.prod(corners[:, 1] - corners[:, 0], axis=1), order, threshold, _BOXES_ONLY)


def suppress_contours(
    contours: NDArray[np.floating], weights: ArrayLike, *, threshold: float, shape: tuple[int, ...]
) -> Integers:
    """Indices of the contours that are kept, in the order of decreasing weight, by the overlap of their *masks*.

    Two worms that cross can share a box and few pixels: here both stay. Masks are those of
    :func:`plurimask.ops.contours.rasterise`; a contour wholly outside the image has no pixel and is kept.

    Args:
        contours: ``(K, S, 2)`` points (y, x).
        weights: ``(K,)``.
        threshold: of the intersection over union of the masks, in [0, 1].
        shape: (height, width) of the image.

    Raises:
        ValueError: shapes do not fit, a value is not finite, or the threshold is out of range.
    """
    order = _order(weights, len(contours), threshold)
    if not len(order):
        return order
    points, boxes = in_image(contours, shape)
    areas, runs = _runs(points, boxes)
    return _kept(boxes.astype(np.float64), areas, order, threshold, runs)


def suppress_coarse(
    location: NDArray[np.floating],
    coefficients: NDArray[np.floating],
    weights: ArrayLike,
    *,
    threshold: float,
    samples: int = 32,
) -> Integers:
    """:func:`suppress_boxes` on contours of a few samples, before any is decoded and refined in full.

    A pixel in the middle of an object proposes nearly what its neighbour does. With a threshold well above that of the
    final suppression (0.8, say) this leaves a few of each; it is no exact step, because the one that it keeps may be
    suppressed later by a third that the dropped one would have survived. And it goes by boxes: where objects cross, use
    :func:`suppress_contours` alone.

    Args:
        location: ``(K, 2)`` (y, x).
        coefficients: ``(K, N, 4)``.
        weights: ``(K,)``.
        threshold: of the intersection over union of the boxes, in [0, 1].
        samples: points of a contour; 32 place the box of an ellipse to 0.5 % of its axes.
    """
    contours = reconstruct(location, coefficients, closed_positions(samples).astype(location.dtype))
    return suppress_boxes(bounds(contours), weights, threshold=threshold)


def _order(weights: ArrayLike, count: int, threshold: float) -> Integers:
    values = np.asarray(weights, np.float64)
    if values.shape != (count,) or not np.isfinite(values).all():
        raise ValueError(f"weights of shape {values.shape} for {count} proposals; give each one finite number.")
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold is {threshold}; an intersection over union lies in [0, 1].")
    return np.argsort(-values, kind="stable")


def _kept(boxes: Floats, areas: Floats, order: Integers, threshold: float, runs: Runs) -> Integers:
    """The grid: cells as large as a usual box, and not many more than boxes."""
    if not len(order):
        return order
    low = boxes[:, 0].min(axis=0)
    extent = float((boxes[:, 1].max(axis=0) - low).max())
    usual = float((boxes[:, 1] - boxes[:, 0]).mean())
    side = max(usual, extent / (2 * np.sqrt(len(boxes)))) or 1.0
    cells = np.floor((boxes - low) / side).astype(np.int64)
    kept: Integers = _greedy(boxes, areas, cells, order, threshold, runs)
    return kept


@njit(cache=True)
def _greedy(boxes: Floats, areas: Floats, cells: Integers, order: Integers, threshold: float, runs: Runs) -> Integers:
    """What is kept. Every cell of the grid has a chain of the kept boxes that reach into it."""
    heads = np.full((cells[:, 1, 0].max() + 1, cells[:, 1, 1].max() + 1), -1, np.int64)
    chain = np.empty((4 * len(order), 2), np.int64)  # box, and the link before it
    links = 0
    seen = np.full(len(order), -1, np.int64)
    kept = np.empty(len(order), np.int64)
    count = 0
    for this in order:
        start, stop = cells[this, 0], cells[this, 1]
        alone = True
        for row in range(start[0], stop[0] + 1):
            for column in range(start[1], stop[1] + 1):
                link = heads[row, column]
                while alone and link >= 0:
                    other = chain[link, 0]
                    if seen[other] != this:
                        seen[other] = this
                        alone = _overlap(this, other, boxes, areas, threshold, runs) <= threshold
                    link = chain[link, 1]
        if not alone:
            continue
        kept[count] = this
        count += 1
        for row in range(start[0], stop[0] + 1):
            for column in range(start[1], stop[1] + 1):
                if links == len(chain):
                    chain = np.concatenate((chain, np.empty_like(chain)))
                chain[links, 0], chain[links, 1] = this, heads[row, column]
                heads[row, column] = links
                links += 1
    return kept[:count].copy()


@njit(cache=True)
def _overlap(a: int, b: int, boxes: Floats, areas: Floats, threshold: float, runs: Runs) -> float:
    """Intersection over union of boxes or masks, or for masks a bound from above that does not pass the threshold."""
    shared = 1.0
    for axis in range(2):
        shared *= max(0.0, min(boxes[a, 1, axis], boxes[b, 1, axis]) - max(boxes[a, 0, axis], boxes[b, 0, axis]))
    if shared == 0.0:
        return 0.0
    if len(runs[2]):
        # Masks share no more than their boxes do, nor than the smaller of them has.
        most = min(shared, areas[a], areas[b])
        if most / (areas[a] + areas[b] - most) <= threshold:
            return 0.0
        shared = _shared_pixels(a, b, boxes, runs)
    quotient: float = shared / (areas[a] + areas[b] - shared)
    return quotient


@njit(cache=True)
def _shared_pixels(a: int, b: int, boxes: Floats, runs: Runs) -> int:
    """By walking along the runs of both masks, row by row. Runs are in columns of the image."""
    columns, rows, masks = runs
    top_a, top_b = int(boxes[a, 0, 0]), int(boxes[b, 0, 0])
    shared = 0
    for row in range(max(top_a, top_b), min(int(boxes[a, 1, 0]), int(boxes[b, 1, 0]))):
        row_a, row_b = masks[a] + row - top_a, masks[b] + row - top_b
        at_a, at_b = rows[row_a], rows[row_b]
        while at_a < rows[row_a + 1] and at_b < rows[row_b + 1]:
            stop_a, stop_b = columns[at_a, 1], columns[at_b, 1]
            shared += max(0, min(stop_a, stop_b) - max(columns[at_a, 0], columns[at_b, 0]))
            if stop_a <= stop_b:
                at_a += 1
            else:
                at_b += 1
    return shared


@njit(cache=True)
def _runs(points: Floats, boxes: Integers) -> tuple[Floats, Runs]:
    """Areas ``(K,)`` and runs of the masks of contours ``(K, S, 2)`` within their boxes."""
    areas = np.zeros(len(boxes), np.float64)
    masks = np.zeros(len(boxes) + 1, np.int64)
    masks[1:] = np.cumsum(boxes[:, 1, 0] - boxes[:, 0, 0])
    rows = np.zeros(masks[-1] + 1, np.int64)
    columns = np.empty((masks[-1] + 16, 2), np.int64)
    count, line = 0, 0
    for k in range(len(boxes)):
        crop = fill(points[k], boxes[k])
        for row in range(crop.shape[0]):
            column = 0
            while column < crop.shape[1]:
                start = column
                while column < crop.shape[1] and crop[row, column]:
                    column += 1
                if column > start:
                    if count == len(columns):
                        columns = np.concatenate((columns, np.empty_like(columns)))
                    columns[count, 0], columns[count, 1] = boxes[k, 0, 1] + start, boxes[k, 0, 1] + column
                    areas[k] += column - start
                    count += 1
                column += 1
            line += 1
            rows[line] = count
    return areas, (columns[:count].copy(), rows, masks)
