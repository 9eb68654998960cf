"""Which objects of two sets share pixels, and how many: sparse, through boxes.

Only pairs whose boxes meet are looked at, and of those only the part where the boxes meet, so the cost follows the
number of touching objects and not the size of the image or the product of the numbers of objects.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.sparse import csr_array

from plurimask.instances import Instances


def intersections(a: Instances, b: Instances) -> csr_array:
    """Shared pixels of every pair: ``(len(a), len(b))`` int64; pairs that share none are not stored.

    Raises:
        ValueError: the two sets belong to images of different shapes.

    >>> a = Instances.from_labels(np.array([[1, 1, 1, 2]]))
    >>> b = Instances.from_labels(np.array([[1, 1, 2, 2]]))
    >>> intersections(a, b).toarray()
    array([[2, 1],
           [0, 1]])
    """
    if a.shape != b.shape:
        raise ValueError(f"objects of images of shape {a.shape} and {b.shape} cannot overlap; crop or shift one set.")
    order = np.argsort(b.boxes[:, 0, 0], kind="stable")
    pointers, columns = _meeting_boxes(a.boxes, b.boxes, order)
    counts = _shared_pixels(pointers, columns, a.boxes, b.boxes, *_flatten(a), *_flatten(b))
    found = csr_array((counts, columns, pointers), shape=(len(a), len(b)))
    found.eliminate_zeros()
    found.sort_indices()
    return found


def iou(a: Instances, b: Instances) -> csr_array:
    """Intersection over union of every pair: ``(len(a), len(b))`` float64 in (0, 1]; zeros are not stored."""
    shared = intersections(a, b)
    rows = np.repeat(np.arange(len(a)), np.diff(shared.indptr))
    unions = a.areas[rows] + b.areas[shared.indices] - shared.data
    return csr_array((shared.data / unions, shared.indices, shared.indptr), shape=shared.shape)


def overlap_fraction(a: Instances, b: Instances) -> csr_array:
    """Shared pixels over the smaller object's: ``(len(a), len(b))`` float64 in (0, 1]; zeros are not stored."""
    shared = intersections(a, b)
    rows = np.repeat(np.arange(len(a)), np.diff(shared.indptr))
    smaller = np.minimum(a.areas[rows], b.areas[shared.indices])
    return csr_array((shared.data / smaller, shared.indices, shared.indptr), shape=shared.shape)


def _flatten(objects: Instances) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """All masks one after the other as 0/1 bytes, and where each one starts: ``(N + 1,)``."""
    sizes = np.prod(objects.boxes[:, 1] - objects.boxes[:, 0], axis=1)
    offsets = np.zeros(len(objects) + 1, np.int64)
    np.cumsum(sizes, out=offsets[1:])
    if len(objects) == 0:
        return np.zeros(0, np.uint8), offsets
    flat: NDArray[np.bool_] = np.concatenate([mask.ravel() for mask in objects.masks])
    return flat.view(np.uint8), offsets


@njit(cache=True)
def _meeting_boxes(
    boxes_a: NDArray[np.int64], boxes_b: NDArray[np.int64], order: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs whose boxes meet, as the pointers and columns of a CSR matrix. order: of b by its start on axis 0."""
    ndim = boxes_a.shape[2]
    starts, stops = boxes_b[order, 0, :], boxes_b[order, 1, :]
    reach = (stops[:, 0] - starts[:, 0]).max() if len(order) else 0
    # What starts more than the longest object before a, or after the end of a, cannot touch it.
    first = np.searchsorted(starts[:, 0], boxes_a[:, 0, 0] - reach, side="right")
    last = np.searchsorted(starts[:, 0], boxes_a[:, 1, 0], side="left")
    pointers = np.zeros(len(boxes_a) + 1, np.int64)
    columns = np.empty(max(16, 8 * len(boxes_a)), np.int64)
    found = 0
    for i in range(len(boxes_a)):
        # The last axis first: the sweep along axis 0 has not looked at it yet.
        for position in range(first[i], last[i]):
            meets = True
            for axis in range(ndim - 1, -1, -1):
                if boxes_a[i, 0, axis] >= stops[position, axis] or starts[position, axis] >= boxes_a[i, 1, axis]:
                    meets = False
                    break
            if meets:
                if found == len(columns):
                    columns = np.concatenate((columns, np.empty(len(columns), np.int64)))
                columns[found] = order[position]
                found += 1
        pointers[i + 1] = found
    return pointers, columns[:found].copy()


@njit(cache=True)
def _shared_pixels(
    pointers: NDArray[np.int64],
    columns: NDArray[np.int64],
    boxes_a: NDArray[np.int64],
    boxes_b: NDArray[np.int64],
    flat_a: NDArray[np.uint8],
    offsets_a: NDArray[np.int64],
    flat_b: NDArray[np.uint8],
    offsets_b: NDArray[np.int64],
) -> NDArray[np.int64]:
    """How many pixels every listed pair shares. flat, offsets: of :func:`_flatten`."""
    ndim = boxes_a.shape[2]
    low, size = np.empty(ndim, np.int64), np.empty(ndim, np.int64)
    step_a, step_b = np.empty(ndim, np.int64), np.empty(ndim, np.int64)
    counts = np.zeros(len(columns), np.int64)
    for i in range(len(boxes_a)):
        for pair in range(pointers[i], pointers[i + 1]):
            j = columns[pair]
            rows, start_a, start_b, stride_a, stride_b = 1, offsets_a[i], offsets_b[j], 1, 1
            for axis in range(ndim - 1, -1, -1):
                low[axis] = max(boxes_a[i, 0, axis], boxes_b[j, 0, axis])
                size[axis] = min(boxes_a[i, 1, axis], boxes_b[j, 1, axis]) - low[axis]
                rows *= size[axis] if axis < ndim - 1 else 1
                step_a[axis], step_b[axis] = stride_a, stride_b
                start_a += stride_a * (low[axis] - boxes_a[i, 0, axis])
                start_b += stride_b * (low[axis] - boxes_b[j, 0, axis])
                stride_a *= boxes_a[i, 1, axis] - boxes_a[i, 0, axis]
                stride_b *= boxes_b[j, 1, axis] - boxes_b[j, 0, axis]
            shared = 0
            for row in range(rows):
                # The first axis takes what the middle ones leave of the row's number: in 2-D nothing is divided.
                at_a, at_b, rest = start_a, start_b, row
                for axis in range(ndim - 2, 0, -1):
                    at_a += rest % size[axis] * step_a[axis]
                    at_b += rest % size[axis] * step_b[axis]
                    rest //= size[axis]
                first_a, first_b = np.uint64(at_a + rest * step_a[0]), np.uint64(at_b + rest * step_b[0])
                for pixel in range(np.uint64(size[ndim - 1])):
                    shared += flat_a[first_a + pixel] & flat_b[first_b + pixel]  # unsigned: no check for negatives
            counts[pair] = shared
    return counts
