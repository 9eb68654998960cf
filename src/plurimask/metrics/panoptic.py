"""Panoptic quality of one class: how many objects were found, times how well (Kirillov et al. 2019, Eq. 1 and 2).

    PQ = sum of the IoUs of all matched pairs / (TP + FP / 2 + FN / 2) = SQ * RQ
    SQ = sum of the IoUs of all matched pairs / TP                 how well the found objects are outlined
    RQ = TP / (TP + FP / 2 + FN / 2)                               how many are found: F1 at IoU > 1/2

A pair matches with an IoU *above* 1/2, where S, P, R and F1 elsewhere in this package say *at least*. In a label map no
object can have two such partners. Where objects overlap it can, so that the match need not be unique; the one taken is
the Hungarian one of :func:`plurimask.metrics.matching.match`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from plurimask.instances import Instances
from plurimask.metrics.bootstrap import Interval, interval
from plurimask.metrics.matching import match

_ABOVE_HALF = float(np.nextafter(0.5, 1))


@dataclass(frozen=True)
class Panoptic:
    """What was found in one image, and how well.

    Nothing in the truth and nothing found counts ``empty`` in all three. If there is an object but no pair, all three
    are 0, SQ by convention (0 / 0), so that PQ = SQ * RQ always holds.

    Attributes:
        iou_sum: the sum of the IoUs of all matched pairs.
        tp: number of matched pairs.
        truth_count: number of true objects.
        found_count: number of found objects.
        empty: the value where there is nothing in the truth and nothing is found.
    """

    iou_sum: float
    tp: int
    truth_count: int
    found_count: int
    empty: float = 1.0

    @property
    def pq(self) -> float:
        """Panoptic quality."""
        return self.measures()["PQ"]

    @property
    def sq(self) -> float:
        """Segmentation quality: the mean IoU of the matched pairs."""
        return self.measures()["SQ"]

    @property
    def rq(self) -> float:
        """Recognition quality."""
        return self.measures()["RQ"]

    def measures(self) -> dict[str, float]:
        """PQ, SQ and RQ by name."""
        qualities = _qualities(np.array([self.counts]), self.empty)
        return {name: float(values[0]) for name, values in qualities.items()}

    @property
    def counts(self) -> tuple[float, int, int]:
        """What is summed to pool images: sum of IoUs, TP, and number of objects, true and found."""
        return self.iou_sum, self.tp, self.truth_count + self.found_count


@dataclass(frozen=True)
class PanopticSummary:
    """PQ, SQ and RQ of a data set, each with its bootstrap interval over images.

    Attributes:
        images: number of images.
        pooled: of the objects of all images together, as Kirillov et al. define it; a large image weighs more.
        per_image: means over images. An image without a pair has SQ = 0, so this SQ falls with every image that is
            missed altogether; the pooled one does not.
    """

    images: int
    pooled: dict[str, Interval]
    per_image: dict[str, Interval]


def panoptic(truth: Instances, found: Instances, *, empty: float = 1.0) -> Panoptic:
    """Count and measure the matched pairs of one image.

    Raises:
        ValueError: the images differ in shape.

    >>> truth = Instances.from_labels(np.array([[1, 1, 1, 1, 2, 2]]))
    >>> found = Instances.from_labels(np.array([[1, 1, 1, 0, 0, 0]]))
    >>> panoptic(truth, found).measures()
    {'PQ': 0.5, 'SQ': 0.75, 'RQ': 0.666...}
    """
    matching = match(truth, found, min_iou=_ABOVE_HALF)
    return Panoptic(float(matching.ious.sum()), matching.tp, len(truth), len(found), empty=empty)


def summarise(
    images: Sequence[Panoptic], *, level: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> PanopticSummary:
    """PQ, SQ and RQ pooled and as means over images, with bootstrap intervals over images.

    Raises:
        ValueError: there is no image, images differ in ``empty``, or as :func:`plurimask.metrics.bootstrap.interval`.
    """
    if not images:
        raise ValueError("nothing to summarise: give the panoptic quality of at least one image.")
    if len({image.empty for image in images}) > 1:
        raise ValueError("the images count different values where there is nothing; measure all with the same `empty`.")
    draw = partial(interval, level=level, resamples=resamples, seed=seed)
    counts = [image.counts for image in images]
    pooled, per_image = {}, {}
    for name in ("PQ", "SQ", "RQ"):
        per_image[name] = draw([image.measures()[name] for image in images])
        pooled[name] = draw(counts, statistic=partial(_pooled, name=name, empty=images[0].empty))
    return PanopticSummary(len(images), pooled, per_image)


def _pooled(counts: NDArray[np.float64], *, name: str, empty: float) -> NDArray[np.float64]:
    """``(R, n, 3)`` counts of n images -> ``(R,)`` one quality of all of them together."""
    return _qualities(counts.sum(axis=1), empty)[name]


def _qualities(counts: NDArray[np.float64], empty: float) -> dict[str, NDArray[np.float64]]:
    """``(R, 3)`` sum of IoUs, TP and number of objects (true and found) -> ``(R,)`` PQ, SQ and RQ by name."""
    iou_sum, tp, objects = counts.T
    half = np.maximum(1, objects) / 2  # TP + FP / 2 + FN / 2
    named = {"PQ": iou_sum / half, "SQ": iou_sum / np.maximum(1, tp), "RQ": tp / half}
    return {name: np.where(objects > 0, values, empty) for name, values in named.items()}
