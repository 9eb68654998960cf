"""F1 as the NeurIPS 2022 cell segmentation challenge counts it (Ma et al. 2024; docs/algorithms.md, section 4.11).

    F1 = 2 P R / (P + R) = 2 TP / (truth + found),    pairs matched at an IoU of at least 1/2

per image, then the mean or the median over images. What sets it apart from ``F1@0.5`` elsewhere in this package:

* objects that touch the frame, the outermost two pixels of the image, do not count, neither true nor found ones;
* an image of at least 25 million pixels is cut into regions of 2000 x 2000 pixels. Every region is treated like an
  image, so that all objects that cross its frame are left out, and TP, truth and found are summed over the regions.
  The last regions reach beyond the image into zeros: an object at the lower or right edge of the *image* counts there;
* F1 is 0 where TP is 0, also for an image in which there is nothing to find and nothing is found.

It is defined on label maps, so that objects that overlap are refused.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from plurimask.instances import Instances, bounding_box
from plurimask.metrics.bootstrap import Interval, interval
from plurimask.metrics.matching import check_shapes, match
from plurimask.ops.overlap import intersections

_FRAME = 2
_LARGE = 25_000_000
_REGION = 2000


@dataclass(frozen=True)
class ChallengeCounts:
    """What counts in one image.

    Attributes:
        tp: matched pairs.
        truth_count: number of true objects that do not touch the frame.
        found_count: number of found objects that do not touch the frame.
    """

    tp: int
    truth_count: int
    found_count: int

    @property
    def f1(self) -> float:
        """2 TP / (truth + found); 0 where TP is 0."""
        return 2 * self.tp / max(1, self.truth_count + self.found_count)


@dataclass(frozen=True)
class ChallengeSummary:
    """A data set's F1.

    Attributes:
        images: number of images.
        mean: mean of F1 over images with its bootstrap interval.
        median: median of F1 over images with its bootstrap interval.
    """

    images: int
    mean: Interval
    median: Interval


def challenge_counts(truth: Instances, found: Instances, *, min_iou: float = 0.5) -> ChallengeCounts:
    """Count hits and misses of one image by the challenge's rules.

    Raises:
        ValueError: the images differ in shape or are not 2-D, objects of one side overlap, or min_iou is not in (0, 1].

    >>> labels = np.zeros((9, 9), int)
    >>> labels[0:3, 0:3], labels[4:6, 4:6] = 1, 2
    >>> challenge_counts(Instances.from_labels(labels), Instances.from_labels(labels))  # the first touches the frame
    ChallengeCounts(tp=1, truth_count=1, found_count=1)
    """
    check_shapes(truth, found)
    _check(truth, "true")
    _check(found, "found")
    regions = [(_counting(truth, box), _counting(found, box)) for box in _regions(truth.shape)]
    return ChallengeCounts(
        sum(match(*region, min_iou=min_iou).tp for region in regions),
        sum(len(part) for part, _ in regions),
        sum(len(part) for _, part in regions),
    )


def summarise(
    images: Sequence[ChallengeCounts], *, level: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> ChallengeSummary:
    """Mean and median of F1 over images, with bootstrap intervals over images.

    Raises:
        ValueError: there is no image, or as :func:`plurimask.metrics.bootstrap.interval`.
    """
    f1 = [image.f1 for image in images]
    mean = interval(f1, level=level, resamples=resamples, seed=seed)
    median = interval(f1, level=level, resamples=resamples, seed=seed, statistic=_median)
    return ChallengeSummary(len(images), mean, median)


def _median(values: NDArray[np.float64]) -> NDArray[np.float64]:
    result: NDArray[np.float64] = np.median(values, axis=1)
    return result


def _check(objects: Instances, side: str) -> None:
    if objects.ndim != 2:
        raise ValueError(f"the challenge's rules are for 2-D images; this one has shape {objects.shape}.")
    # Every object with a pixel meets itself; whatever else is stored is an overlap.
    if intersections(objects, objects).nnz > np.count_nonzero(objects.areas):
        raise ValueError(
            f"{side} objects overlap, and the challenge's rules are for label maps; flatten the objects first with "
            "Instances.from_labels(objects.to_labels())."
        )


def _regions(shape: tuple[int, ...]) -> Iterator[NDArray[np.int64]]:
    """Boxes ``(2, 2)`` of what is treated like an image: the whole, or its regions, some of them reaching beyond it."""
    if shape[0] * shape[1] < _LARGE:
        yield np.array([(0, 0), shape], np.int64)
        return
    for corner in itertools.product(*(range(0, size, _REGION) for size in shape)):
        start = np.array(corner, np.int64)
        yield np.stack([start, start + _REGION])


def _counting(objects: Instances, box: NDArray[np.int64]) -> Instances:
    """The objects as seen in the region ``box``, without those that touch its frame."""
    start, stop = box
    meets = ((objects.boxes[:, 0] < stop) & (objects.boxes[:, 1] > start)).all(axis=1)
    part = objects.select(meets).crop(box)
    low, high = _FRAME, np.array(part.shape) - _FRAME
    inside = ((part.boxes[:, 0] >= low) & (part.boxes[:, 1] <= high)).all(axis=1) & (part.areas > 0)
    # Boxes may be wider than the masks in them: those that reach into the frame are looked at.
    for index in np.flatnonzero(~inside & (part.areas > 0)).tolist():
        tight = bounding_box(part.masks[index])
        if tight is not None:
            start, stop = part.boxes[index, 0] + tight
            inside[index] = (start >= low).all() and (stop <= high).all()
    return part.select(inside)
