"""Proofreading by a person who knows the truth, simulated: which order of inspections mends most with least work?

What an inspection corrects is in :mod:`plurimask.proofreading.inspections`. Here inspections are put into an order:

* ``peaks``: by the highest mean entropy of a patch (Rumberger et al. 2020, R20);
* ``doubt``: by :func:`plurimask.uncertainty.doubt`, the error that is expected of an object;
* ``random``: the mean over many random orders of the same inspections;
* ``ideal``: the largest true gain first (greedy).

There are two answers. A :class:`Row` is one of R20's Table 2: S over a data set after 0, 5, 10, 15 and 20 corrections
per 50 images, which go to whatever images the order sends them to. For other numbers of images the numbers are in
proportion, rounded, halves up. Where no inspection is left, the last scores stay.

A :class:`Curve` goes through every image by itself, object by object, and averages over images at equal shares of the
inspections made. What happens in one image does not depend on the others there, so that images may be drawn again for a
bootstrap: the area between two curves has a paired interval over images. The rows have none, as another set of images
would distribute its corrections otherwise. Inspections at peaks have no curve, as their number depends on the order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from plurimask.instances import Instances
from plurimask.metrics.bootstrap import Interval, paired_difference
from plurimask.metrics.segmentation import THRESHOLDS
from plurimask.probabilistic import ProbabilisticInstances
from plurimask.proofreading.corrections import Components, Corrections
from plurimask.proofreading.inspections import Scene, at_objects, at_peaks

CORRECTIONS = (0, 5, 10, 15, 20)
"""Corrections per 50 images in R20's Table 2."""

SHARES = np.linspace(0, 1, 101)
"""Shares of the inspections of an image at which a curve is given."""

_QUEUES = {"peak": at_peaks, "object": at_objects}
_ORDERS = ("peaks", "doubt", "random", "ideal")
_PER_IMAGES = 50
_CHUNK = 1 << 20  # counts of random orders at a time, however many objects an image has

Visits = list[tuple[int, int]]
"""(image, inspection), one after the other."""


@dataclass(frozen=True, eq=False)
class Review:
    """What has to be kept of one image; the masks may go.

    Attributes:
        corrections: kind of inspection -> its queue, and what every inspection changes.
        truth_count: number of true objects.
        missed: indices of those that are the counterpart of nothing found.
        thresholds: the R intersections over union from which a pair counts.
    """

    corrections: Mapping[str, Corrections]
    truth_count: int
    missed: frozenset[int]
    thresholds: tuple[float, ...]

    def unreachable(self, kind: str) -> int:
        """How many of the missed objects no inspection of this kind puts in."""
        return len(self.missed - self.corrections[kind].queue.within_reach())


@dataclass(frozen=True)
class Row:
    """Means over images after some numbers of corrections.

    Attributes:
        inspection: "peak" (R20) or "object".
        order: "peaks", "doubt", "random" or "ideal".
        corrections: how many were made in all images together, K numbers.
        s: ``(K, R)`` S at every threshold.
        average: ``(K,)`` its mean over the thresholds: avS.
    """

    inspection: str
    order: str
    corrections: tuple[int, ...]
    s: NDArray[np.float64]
    average: NDArray[np.float64]


@dataclass(frozen=True)
class Curve:
    """The way from nothing to everything inspected, inspections of objects.

    Attributes:
        average: ``(101,)`` mean over images of avS at :data:`SHARES`, linear between inspections.
        areas: ``(I,)`` area under the curve of every image, its mean over the shares.
        gain: mean over images of areas - areas of random orders, with its 95 % interval. An order beats random ones
            where this interval excludes 0.
    """

    average: NDArray[np.float64]
    areas: NDArray[np.float64]
    gain: Interval


@dataclass(frozen=True)
class Simulation:
    """What :func:`simulate` found out.

    Attributes:
        thresholds: the R intersections over union from which a pair counts.
        rows: every order with every kind of inspection.
        curves: order -> its curve.
        truth_count: number of true objects.
        missed: number of those that are the counterpart of nothing found.
        unreachable: kind of inspection -> number of the missed ones that no inspection puts in.
    """

    thresholds: tuple[float, ...]
    rows: tuple[Row, ...]
    curves: Mapping[str, Curve]
    truth_count: int
    missed: int
    unreachable: Mapping[str, int]


def simulate(
    images: Sequence[tuple[ProbabilisticInstances, Instances]],
    *,
    choose: Callable[[ProbabilisticInstances], Instances] = ProbabilisticInstances.best,
    thresholds: Sequence[float] = THRESHOLDS,
    corrections: Sequence[int] = CORRECTIONS,
    repeats: int = 100,
    empty: float = 1.0,
    seed: int = 0,
) -> Simulation:
    """Inspect and correct a data set in every order.

    Args:
        images: for every image its hypotheses and its truth.
        choose: the segmentation to correct: ``ProbabilisticInstances.best``, or a function that returns
            ``threshold(0.75)``, with which R20 began. Its feature ``hypothesis`` says which hypothesis an object is.
        thresholds: avS is the mean of S over them; with one threshold it is S there.
        corrections: per 50 images, in any order.
        repeats: random orders to average over.
        empty: what an image counts in which there is nothing and nothing is present.
        seed: of the random orders and of the bootstrap.

    Raises:
        ValueError: no image, an image and its truth of different shapes, an option out of range.
    """
    reviews = []
    for number, (doubtful, truth) in enumerate(images):
        try:
            reviews.append(review(doubtful, truth, choose(doubtful), thresholds=thresholds, empty=empty))
        except ValueError as error:
            raise ValueError(f"image {number} (counted from 0): {error}") from error
    return summarise(reviews, corrections=corrections, repeats=repeats, seed=seed)


def review(
    doubtful: ProbabilisticInstances,
    truth: Instances,
    found: Instances,
    *,
    thresholds: Sequence[float] = THRESHOLDS,
    empty: float = 1.0,
) -> Review:
    """Prepare one image, so that many images can be gone through one after the other.

    found: the segmentation to correct; its feature ``hypothesis`` says which hypothesis an object is. The rest is as in
    :func:`simulate`.

    Raises:
        ValueError: the shapes differ, the feature is not there, or a threshold is out of range.
    """
    if not thresholds or not all(0 < threshold <= 1 for threshold in thresholds):
        raise ValueError(f"the IoU thresholds are {list(thresholds)}; wanted is at least one, all of them in (0, 1].")
    scene = Scene(doubtful, found, truth)
    components = Components.of(scene, thresholds)
    corrections = {kind: Corrections.of(components, queue(scene), empty=empty) for kind, queue in _QUEUES.items()}
    return Review(corrections, len(truth), scene.missed, tuple(thresholds))


def summarise(
    images: Sequence[Review], *, corrections: Sequence[int] = CORRECTIONS, repeats: int = 100, seed: int = 0
) -> Simulation:
    """Inspect and correct a data set in every order; the rest is as in :func:`simulate`.

    Raises:
        ValueError: no image, or an option out of range.
    """
    if not images:
        raise ValueError("nothing to proofread: give the hypotheses and the truth of at least one image.")
    if repeats < 1 or any(number < 0 for number in corrections):
        raise ValueError(
            f"{repeats} random orders and {list(corrections)} corrections; wanted are at least one order, and numbers "
            "of corrections of at least 0."
        )
    numbers = tuple((2 * number * len(images) + _PER_IMAGES) // (2 * _PER_IMAGES) for number in corrections)
    rows = []
    for kind in _QUEUES:
        queues = [image.corrections[kind] for image in images]
        for order in _ORDERS:
            s = _after(queues, order, numbers, repeats=repeats, seed=seed)
            rows.append(Row(kind, order, numbers, s, s.mean(axis=1)))
    return Simulation(
        images[0].thresholds,
        tuple(rows),
        _curves([image.corrections["object"] for image in images], repeats=repeats, seed=seed),
        sum(image.truth_count for image in images),
        sum(len(image.missed) for image in images),
        {kind: sum(image.unreachable(kind) for image in images) for kind in _QUEUES},
    )


def _after(
    reviews: Sequence[Corrections], order: str, numbers: Sequence[int], *, repeats: int, seed: int
) -> NDArray[np.float64]:
    """``(K, R)`` mean S over images after so many corrections."""
    most = max(numbers, default=0)
    queues = [review.queue for review in reviews]
    match order:
        case "peaks":
            ways = [_by_priority(reviews, [queue.peaks for queue in queues], most)]
        case "doubt":
            ways = [_by_priority(reviews, [queue.doubts for queue in queues], most)]
        case "ideal":
            ways = [_by_gain(reviews, most)]
        case _:
            generator = np.random.default_rng(seed)
            draws = ([generator.random(len(queue.inspections)) for queue in queues] for _ in range(repeats))
            ways = [_by_priority(reviews, draw, most) for draw in draws]
    total: NDArray[np.float64] = np.mean([_means(reviews, way, numbers) for way in ways], axis=0)
    return total


def _by_priority(reviews: Sequence[Corrections], priorities: Sequence[NDArray[np.float64]], most: int) -> Visits:
    """The first inspections by falling priority; of equal ones the first image's, then the first of the image."""
    image = np.repeat(np.arange(len(priorities)), [len(values) for values in priorities])
    index = np.concatenate([np.arange(len(values)) for values in priorities])
    settled: list[set[int]] = [set() for _ in reviews]
    visits: Visits = []
    for place in np.argsort(-np.concatenate(priorities), kind="stable"):
        if len(visits) == most:
            break
        at, one = int(image[place]), int(index[place])
        if one not in settled[at]:
            visits.append((at, one))
            settled[at] |= reviews[at].queue.inspections[one].settles
    return visits


def _by_gain(reviews: Sequence[Corrections], most: int) -> Visits:
    """The first inspections where the best next one of all images is always taken."""
    ways = [review.greedy() for review in reviews]
    best = {image: step for image, way in enumerate(ways) if (step := next(way, None)) is not None}
    visits: Visits = []
    while best and len(visits) < most:
        image = max(best, key=lambda image: (best[image][1], -image))
        visits.append((image, best.pop(image)[0]))
        if (step := next(ways[image], None)) is not None:
            best[image] = step
    return visits


def _means(reviews: Sequence[Corrections], visits: Visits, numbers: Sequence[int]) -> NDArray[np.float64]:
    """``(K, R)`` mean S over images after the first so many visits."""
    orders: dict[int, list[int]] = {}
    for image, index in visits:
        orders.setdefault(image, []).append(index)
    s = {image: reviews[image].s(reviews[image].counts([order])[0]) for image, order in orders.items()}
    current = np.array([review.s(review.start) for review in reviews])
    made, means = [0] * len(reviews), [current.mean(axis=0)]
    for image, _ in visits:
        made[image] += 1
        current[image] = s[image][made[image]]
        means.append(current.mean(axis=0))
    return np.array(means)[np.minimum(numbers, len(visits))]


def _curves(reviews: Sequence[Corrections], *, repeats: int, seed: int) -> dict[str, Curve]:
    ways: dict[str, list[NDArray[np.float64]]] = {order: [] for order in _ORDERS}
    generator = np.random.default_rng(seed)
    for review in reviews:
        queue = review.queue
        ways["peaks"].append(_averages(review, np.argsort(-queue.peaks, kind="stable")[None])[0])
        ways["doubt"].append(_averages(review, np.argsort(-queue.doubts, kind="stable")[None])[0])
        shuffled = np.stack([generator.permutation(len(queue.inspections)) for _ in range(repeats)])
        ways["random"].append(_averages(review, shuffled).mean(axis=0))
        ways["ideal"].append(_averages(review, np.array([[index for index, _ in review.greedy()]]))[0])
    areas = {order: np.array([_area(way) for way in several]) for order, several in ways.items()}
    return {
        order: Curve(
            np.mean([_sampled(way) for way in ways[order]], axis=0),
            areas[order],
            paired_difference(areas[order], areas["random"], seed=seed),
        )
        for order in _ORDERS
    }


def _averages(review: Corrections, orders: NDArray[np.int64]) -> NDArray[np.float64]:
    """``(K, Q + 1)`` avS of an image before and after every inspection of K orders."""
    parts = np.array_split(orders, max(1, min(len(orders), orders.size * len(review.start) // _CHUNK)))
    return np.concatenate([review.s(review.counts(part)).mean(axis=2) for part in parts])


def _area(way: NDArray[np.float64]) -> float:
    """Mean over the shares; where nothing can be inspected, nothing changes."""
    return float((way[:-1] + way[1:]).mean() / 2) if len(way) > 1 else float(way[0])


def _sampled(way: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.interp(SHARES, np.linspace(0, 1, len(way)), way)
