"""Masks to outer contours and back, through the centres of the border pixels (2-D only).

A contour is ``(L, 2)`` points (y, x) in pixels, its first point repeated at the end. Both ways count the border pixels
in, so a mask without holes comes back exactly.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from plurimask.instances import Mask, bounding_box, slices

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


def trace(mask: Mask) -> Integers:
    """``(L, 2)`` closed outer contour of a mask ``(h, w)``: the centres (y, x) of its border pixels, 8-connected.

    Border following of Suzuki & Abe 1985 (algorithm 1, outer borders): it begins at the first pixel in raster order
    and leaves the object to its left as seen in an array's usual picture (y down, counter-clockwise: a square is first
    walked down its left side). Start and orientation are the phase of the Fourier coefficients, so they must be the
    same for all objects. Every border pixel is there, those of one-pixel bridges once for each way. A single pixel
    gives ``(2, 2)``, twice the same point. Holes are not traced.

    Of a mask in several parts (:func:`fragmented`) this is the contour of the part with the first pixel.

    Raises:
        ValueError: the mask is empty or not two-dimensional.

    >>> trace(np.ones((2, 2), bool)).tolist()
    [[0, 0], [1, 0], [1, 1], [0, 1], [0, 0]]
    """
    if mask.ndim != 2 or not mask.any():
        raise ValueError(f"a mask of shape {mask.shape} with {np.count_nonzero(mask)} pixels has no contour in 2-D.")
    padded = np.pad(mask.astype(np.bool_, copy=False), 1)
    start = int(padded.argmax())
    points: Integers = _follow(padded, start // padded.shape[1], start % padded.shape[1])
    return points - 1


def fragmented(mask: Mask) -> bool:
    """Whether a mask has several parts (8-connected): one contour cannot describe it."""
    _, parts = ndimage.label(mask, np.ones((3,) * mask.ndim, np.bool_))
    return bool(parts > 1)


def rasterise(contour: ArrayLike, shape: tuple[int, ...]) -> tuple[Integers, Mask]:
    """Box ``(2, 2)`` and crop of the pixels within a contour, those on it included, cut to an image of this shape.

    A pixel belongs to the mask if the polygon winds around its centre (however often: a contour that crosses itself
    leaves no holes) or comes as near to it as abs(dy) + abs(dx) <= 1/2. The polygon runs through the centres of the
    border pixels, and by this measure the next pixels outside are one pixel away from it, whether the border runs
    along an axis or a diagonal: errors to both sides weigh the same.

    Departure from Upschulte et al. 2022 (docs/algorithms.md 4.9), who round the points: there a smooth contour takes
    in pixels outside of the steps that it cuts, and the more of them, the more samples it has.

    Args:
        contour: ``(S, 2)`` points (y, x); whether the first one is repeated makes no difference.
        shape: (height, width) of the image.

    Returns:
        Start and stop, and a bool crop that fits. Both are of size 0 where there is no pixel: the contour lies outside
        the image, or between the centres of four pixels.

    Raises:
        ValueError: another shape of the points, or one that is not finite.

    >>> box, mask = rasterise([[1, 1], [1, 3], [3, 3], [3, 1]], (5, 5))
    >>> box.tolist(), mask.shape, bool(mask.all())
    ([[1, 1], [4, 4]], (3, 3), True)
    """
    boxes, masks = rasterise_all(np.asarray(contour)[None], shape)
    return boxes[0], masks[0]


def rasterise_all(contours: ArrayLike, shape: tuple[int, ...]) -> tuple[Integers, list[Mask]]:
    """Of every contour of ``(K, S, 2)`` what :func:`rasterise` says: boxes ``(K, 2, 2)``, and crops that fit."""
    boxes, masks = np.zeros((len(np.asarray(contours)), 2, 2), np.int64), []
    for index, (points, box) in enumerate(zip(*in_image(contours, shape), strict=True)):
        crop: Mask = fill(points, box).view(np.bool_)
        tight = bounding_box(crop)
        masks.append(np.zeros((0, 0), np.bool_) if tight is None else crop[slices(tight)])
        if tight is not None:
            boxes[index] = tight + box[0]
    return boxes, masks


def in_image(contours: ArrayLike, shape: tuple[int, ...]) -> tuple[Floats, Integers]:
    """Points ``(K, S, 2)``, and boxes ``(K, 2, 2)`` that hold the pixels of each within an image of this shape.

    Raises:
        ValueError: another shape of the points or the image, or a point that is not finite.
    """
    points = np.asarray(contours)
    if points.ndim != 3 or points.shape[1] == 0 or points.shape[2] != 2 or len(shape) != 2:
        raise ValueError(
            f"contours of shape {points.shape} in an image of shape {tuple(shape)}: (K, S, 2) points and a "
            f"two-dimensional image are wanted."
        )
    ends = bounds(points).astype(np.float64)
    finite = np.isfinite(ends).all(axis=(1, 2))
    if not finite.all():
        broken = np.flatnonzero(~finite).tolist()
        raise ValueError(f"the contours {broken} have points that are not finite; leave them out.")
    boxes = np.clip(np.floor(ends + 0.5) + np.array([[0], [1]]), 0, np.asarray(shape)).astype(np.int64)
    return np.ascontiguousarray(points, np.float64), boxes  # in one type and layout, kernels are compiled once


def bounds(contours: NDArray[Any]) -> NDArray[Any]:
    """``(K, 2, 2)`` least and largest (y, x) of contours ``(K, S, 2)``: their boxes in continuous coordinates."""
    return np.stack([contours.min(axis=1), contours.max(axis=1)], axis=1)


# Neighbours as seen in a picture, counter-clockwise from the east.
_ROWS = np.array([0, -1, -1, -1, 0, 1, 1, 1])
_COLUMNS = np.array([1, 1, 0, -1, -1, -1, 0, 1])
_WEST = 4


@njit(cache=True)
def _follow(mask: Mask, row: int, column: int) -> Integers:
    """The border from its first pixel in raster order on; the mask has a frame of background."""
    points = np.empty((64, 2), np.int64)
    last = -1
    for turn in range(1, 8):  # clockwise from the west, which is background
        way = (_WEST - turn) % 8
        if mask[row + _ROWS[way], column + _COLUMNS[way]]:
            last = way
            break
    if last < 0:
        return np.array([[row, column], [row, column]])
    # The border is closed when it leaves its last pixel, the neighbour found above, for the first one.
    end_row, end_column = row + _ROWS[last], column + _COLUMNS[last]
    here_row, here_column, came_from, count = row, column, last, 0
    while True:
        if count + 1 == len(points):
            points = np.concatenate((points, np.empty_like(points)))
        points[count, 0], points[count, 1] = here_row, here_column
        count += 1
        way = (came_from + 1) % 8
        while not mask[here_row + _ROWS[way], here_column + _COLUMNS[way]]:
            way = (way + 1) % 8
        closes = here_row == end_row and here_column == end_column
        here_row, here_column = here_row + _ROWS[way], here_column + _COLUMNS[way]
        came_from = (way + 4) % 8
        if closes and here_row == row and here_column == column:
            points[count, 0], points[count, 1] = row, column
            return points[: count + 1].copy()


@njit(cache=True)
def fill(points: Floats, box: Integers) -> NDArray[np.uint8]:
    """``(h, w)`` 0 or 1: the pixels of a contour ``(S, 2)`` in a box ``(2, 2)``, by the rule of :func:`rasterise`."""
    height, width = box[1, 0] - box[0, 0], box[1, 1] - box[0, 1]
    mask = np.zeros((height, width), np.uint8)
    turns = np.zeros((height, width), np.int16)  # where the winding number changes, row by row
    if mask.size == 0:
        return mask
    y0, x0 = points[-1, 0] - box[0, 0], points[-1, 1] - box[0, 1]
    for index in range(len(points)):
        y1, x1 = points[index, 0] - box[0, 0], points[index, 1] - box[0, 1]
        _draw(mask, y0, x0, y1, x1)
        if y1 > y0:
            _turn(turns, y0, x0, y1, x1, 1)
        elif y0 > y1:
            _turn(turns, y1, x1, y0, x0, -1)
        y0, x0 = y1, x1
    for row in range(height):
        winding = 0
        for column in range(width):
            winding += turns[row, column]
            if winding != 0:
                mask[row, column] = 1
    return mask


@njit(cache=True)
def _draw(mask: NDArray[np.uint8], y0: float, x0: float, y1: float, x1: float) -> None:
    """Marks the pixels that a line comes as near to as half a pixel, measured as |dy| + |dx|.

    Along the diagonals u = x + y and v = x - y such a neighbourhood is a square, and pixels are those squares of a
    chess board where u + v is even. The line is cut into the strips between u - 1/2 and u + 1/2.
    """
    height, width = mask.shape
    u0, v0, u1, v1 = x0 + y0, x0 - y0, x1 + y1, x1 - y1
    if u1 < u0:
        u0, v0, u1, v1 = u1, v1, u0, v0
    slope = (v1 - v0) / (u1 - u0) if u1 > u0 else 0.0
    for u in range(math.floor(max(u0, 0.0) + 0.5), math.floor(min(u1, height + width - 2.0) + 0.5) + 1):
        enter = v0 + (max(u0, u - 0.5) - u0) * slope
        leave = v0 + (min(u1, u + 0.5) - u0) * slope if u1 > u0 else v1
        low, high = max(min(enter, leave), 1.0 - height), min(max(enter, leave), width - 1.0)
        for v in range(math.floor(low + 0.5), math.floor(high + 0.5) + 1):
            y, x = (u - v) // 2, (u + v) // 2
            if (u + v) % 2 == 0 and 0 <= y < height and 0 <= x < width:
                mask[y, x] = 1


@njit(cache=True)
def _turn(turns: NDArray[np.int16], top: float, x0: float, bottom: float, x1: float, sign: int) -> None:
    """Adds what a line that goes down (1) or up (-1) does to the winding numbers of the pixel centres to its right."""
    height, width = turns.shape
    slope = (x1 - x0) / (bottom - top)
    for y in range(math.ceil(max(top, 0.0)), math.ceil(min(bottom, height))):  # the lower end is the next line's
        x = x0 + (y - top) * slope
        if x <= width - 1:
            turns[y, max(0, math.ceil(x))] += sign
