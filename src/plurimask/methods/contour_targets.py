"""What contour proposals are compared with: objects' centres, Fourier coefficients and points of contours.

docs/algorithms.md 4.4; Upschulte et al. 2022, *Uncertainty-Aware Contour Proposal Networks*.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from plurimask.instances import Instances, Mask, slices
from plurimask.ops.contours import fragmented, trace
from plurimask.ops.fourier import descriptors

BACKGROUND, UNKNOWN = 0, -1

SMALL = 36
"""Objects of up to so many pixels are centre all over."""


def contour_rows(truth: Instances, *, order: int, positions: NDArray[np.float64]) -> dict[str, NDArray[Any]]:
    """A row for each of K objects in one piece: ``location`` (K, 2), ``fourier`` (K, N, 4), ``contour`` (K, S, 2).

    positions: ``(S,)`` in [0, 1], shares of the contour's length. float32, (y, x), in pixels; overlapping objects have
    their own whole contours.
    """
    rows: dict[str, NDArray[Any]] = {
        "location": np.zeros((len(truth), 2), np.float32),
        "fourier": np.zeros((len(truth), order, 4), np.float32),
        "contour": np.zeros((len(truth), len(positions), 2), np.float32),
    }
    for index, (box, mask) in enumerate(zip(truth.boxes, truth.masks, strict=True)):
        contour = trace(mask) + box[0]
        rows["location"][index], rows["fourier"][index] = descriptors(contour, order)
        rows["contour"][index] = points_along(contour, positions)
    return rows


def in_one_piece(truth: Instances) -> NDArray[np.bool_]:
    """``(N,)``: objects that one contour can describe."""
    return np.array([not fragmented(mask) for mask in truth.masks], np.bool_)


def points_along(contour: NDArray[Any], positions: NDArray[np.float64]) -> NDArray[np.float64]:
    """``(S, 2)`` points of a closed contour ``(L, 2)`` at these shares of its length, in [0, 1]; linear in between.

    >>> points_along(np.array([[0, 0], [0, 3], [1, 3], [1, 0], [0, 0]]), np.array([0.25, 0.5])).tolist()
    [[0.0, 2.0], [1.0, 3.0]]
    """
    ends = np.concatenate([[0.0], np.hypot(*np.diff(contour, axis=0).T).cumsum()])
    return np.stack([np.interp(positions * ends[-1], ends, values) for values in contour.T], axis=1)


def centres(truth: Instances, whole: NDArray[np.bool_], *, least: float, most: float) -> NDArray[np.int64]:
    """``(*spatial)``: n + 1 in the centre of the n-th whole object, 0 outside all centres, -1 where it is not known.

    A pixel of an object is centre if its :func:`depth` is at least ``least``, not centre up to ``most``, and unknown in
    between. Unknown are, besides, objects in several pieces and pixels of several objects.

    Args:
        truth: all objects.
        whole: ``(N,)`` which of them have a row, see :func:`in_one_piece`.
        least: the released schedule has 0.75 and ends with 0.5.
        most: not above ``least``.
    """
    labels = np.full(truth.shape, BACKGROUND, np.int64)
    numbers = np.cumsum(whole)
    for box, mask, number, complete in zip(truth.boxes, truth.masks, numbers, whole, strict=True):
        region = labels[slices(box)]
        if not complete:
            region[mask] = UNKNOWN
            continue
        inside = depth(mask)
        region[mask & (inside > most)] = UNKNOWN
        region[mask & (inside >= least)] = number
    labels[truth.owners() > 1] = UNKNOWN
    return labels


def depth(mask: Mask) -> NDArray[np.float64]:
    """``(h, w)`` in [0, 1]: distance to the outside as a share of the largest one, 1 all over a small object.

    The exact Euclidean distance (the released code has a 3 x 3 chamfer approximation). What lies beyond the mask's box,
    and so beyond the image, is outside.
    """
    inner = (slice(1, -1),) * mask.ndim
    distance: NDArray[np.float64] = ndimage.distance_transform_edt(np.pad(mask, 1))[inner]
    return distance / distance.max() if np.count_nonzero(mask) > SMALL else np.minimum(distance, 1)
