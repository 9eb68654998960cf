"""Objects that overlap -> one label per pixel: what several own goes to the nearest of them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from plurimask.instances import Instances, slices


def flatten(objects: Instances) -> NDArray[np.int32]:
    """``(*spatial)`` int32: object n becomes n + 1, 0 is background; every object grows into its overlaps.

    Pixels with one owner keep it. A pixel with several goes to that of its owners whose nearest pixel *of its own*
    (owned by no other) is least far, by Euclidean distance between pixel centres; at equal distances to the owner with
    the higher score, at equal scores to the first one. Where no owner has a pixel of its own, score and order decide
    alone. An object that lies wholly within others has no pixel of its own: it vanishes where one of them has.

    Upschulte et al. 2022 dilate the labels step by step into the whole doubtful area (docs/algorithms.md 4.9): there a
    pixel can go to a neighbour that does not own it, ties go to the larger label, and what is not reached is lost.

    >>> row = np.ones((1, 6), bool)
    >>> flatten(Instances.from_crops([[[0, 0], [1, 6]], [[0, 2], [1, 8]]], [row, row], (1, 8)))
    array([[1, 1, 1, 1, 2, 2, 2, 2]], dtype=int32)
    """
    single = objects.owners() == 1
    labels = np.zeros(objects.shape, np.int32)
    nearest = np.full(objects.shape, np.inf)
    # The best first: whoever comes later must be strictly nearer.
    for index in np.argsort(-objects.scores, kind="stable"):
        region, mask = slices(objects.boxes[index]), objects.masks[index]
        own = mask & single[region]
        labels[region][own] = index + 1
        doubtful = mask & ~own
        if not doubtful.any():
            continue
        # An object's own pixels lie in its box, so distances within the box are those in the image.
        far = ndimage.distance_transform_edt(~own)[doubtful] if own.any() else np.inf
        closer = doubtful.copy()
        closer[doubtful] = (far < nearest[region][doubtful]) | (labels[region][doubtful] == 0)
        nearest[region][closer] = np.broadcast_to(far, doubtful.sum())[closer[doubtful]]
        labels[region][closer] = index + 1
    return labels
