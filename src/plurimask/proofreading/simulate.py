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
from plurimask.proofreading.corrections import Corrections
from plurimask.proofreading.inspections import Scene, at_objects, at_peaks

CORRECTIONS = (0, 5, 10, 15, 20)
"""Corrections per 50 images in R20's Table 2."""

SHARES = np.linspace(0, 1, 101)
"""Shares of the inspections of an image at which a curve is given."""

_QUEUES = {"peak": at_peaks, "object": at_objects}
_ORDERS = ("peaks", "doubt", "random", "ideal")
_PER_IMAGES = 50

Visits = list[tuple[int, int]]
"""(image, inspection), one after the other."""


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
    _check(images, thresholds=thresholds, corrections=corrections, repeats=repeats)
    scenes = [_scene(number, *image, choose=choose) for number, image in enumerate(images)]
    numbers = tuple((2 * number * len(images) + _PER_IMAGES) // (2 * _PER_IMAGES) for number in corrections)
    rows, curves, unreachable = list[Row](), dict[str, Curve](), dict[str, int]()
    for kind, queue in _QUEUES.items():
        reviews = [Corrections.of(scene, queue(scene), thresholds=thresholds, empty=empty) for scene in scenes]
        for order in _ORDERS:
            s = _after(reviews, order, numbers, repeats=repeats, seed=seed)
            rows.append(Row(kind, order, numbers, s, s.mean(axis=1)))
        both = zip(scenes, reviews, strict=True)
        unreachable[kind] = sum(len(scene.missed - review.queue.within_reach()) for scene, review in both)
        if kind == "object":
            curves = _curves(reviews, repeats=repeats, seed=seed)
    truth_count, missed = sum(len(scene.truth) for scene in scenes), sum(len(scene.missed) for scene in scenes)
    return Simulation(tuple(thresholds), tuple(rows), curves, truth_count, missed, unreachable)


def _check(images: Sequence[object], *, thresholds: Sequence[float], corrections: Sequence[int], repeats: int) -> None:
    if not images:
        raise ValueError("nothing to proofread: give the hypotheses and the truth of at least one image.")
    if not thresholds or not all(0 < threshold <= 1 for threshold in thresholds):
        raise ValueError(f"the IoU thresholds are {list(thresholds)}; wanted is at least one, all of them in (0, 1].")
    if repeats < 1 or any(number < 0 for number in corrections):
        raise ValueError(
            f"{repeats} random orders and {list(corrections)} corrections; wanted are at least one order, and numbers "
            "of corrections of at least 0."
        )


def _scene(
    number: int,
    doubtful: ProbabilisticInstances,
    truth: Instances,
    *,
    choose: Callable[[ProbabilisticInstances], Instances],
) -> Scene:
    try:
        return Scene(doubtful, choose(doubtful), truth)
    except ValueError as error:
        raise ValueError(f"image {number} (counted from 0): {error}") from error


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
    orders: list[list[int]] = [[] for _ in reviews]
    for image, index in visits:
        orders[image].append(index)
    s = [review.s(review.counts(order)) for review, order in zip(reviews, orders, strict=True)]
    current = np.array([scores[0] for scores in s])
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
        ways["peaks"].append(_average(review, np.argsort(-queue.peaks, kind="stable")))
        ways["doubt"].append(_average(review, np.argsort(-queue.doubts, kind="stable")))
        shuffled = [_average(review, generator.permutation(len(review.steps))) for _ in range(repeats)]
        ways["random"].append(np.mean(shuffled, axis=0))
        ways["ideal"].append(_average(review, np.array([index for index, _ in review.greedy()], np.int64)))
    areas = {order: np.array([_area(way) for way in several]) for order, several in ways.items()}
    return {
        order: Curve(
            np.mean([_sampled(way) for way in ways[order]], axis=0),
            areas[order],
            paired_difference(areas[order], areas["random"], seed=seed),
        )
        for order in _ORDERS
    }


def _average(review: Corrections, order: NDArray[np.int64]) -> NDArray[np.float64]:
    """``(Q + 1,)`` avS of an image before and after every inspection."""
    averages: NDArray[np.float64] = review.s(review.counts(order.tolist())).mean(axis=1)
    return averages


def _area(way: NDArray[np.float64]) -> float:
    """Mean over the shares; where nothing can be inspected, nothing changes."""
    return float((way[:-1] + way[1:]).mean() / 2) if len(way) > 1 else float(way[0])


def _sampled(way: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.interp(SHARES, np.linspace(0, 1, len(way)), way)
