"""How much would be learned from an image, or a part of it, and which of many to annotate: pure functions.

Scores of a region (:func:`scores`), from the draws of a model and without any truth:

* ``entropy_sum``, ``entropy_mean``: sum and mean over the pixels of the entropy of the mean probabilities, in nats. The
  sum is the score of Czolbe et al. 2021 (docs/algorithms.md, "Four probabilistic segmenters"), there in bits.
* ``bald_sum``, ``bald_mean``: of the mutual information of a pixel's class and the draw, which is BALD (Houlsby et al.
  2011, Eq. 2): doubt that the draws share is not counted, as more annotations would not remove it.
* ``expected_errors``: number of false and missed objects that :meth:`ProbabilisticInstances.best` is expected to have,
  the sum of 1 - p over chosen and of p over rejected hypotheses, p their existence. Sums of expectations need no
  independence: if a whole with p = 0.7 is chosen and its two halves (0.3 each) are not, 0.9 errors are expected, three
  in three of ten cases. At most twice sum p (1 - p), the variance of independent counts, where more likely hypotheses
  are the chosen ones.
* ``splits_and_merges``: number of chosen objects that are expected to be several, or a part of one
  (:func:`plurimask.uncertainty.split_and_merge`).
* ``random``: none of these.

Sums favour large and crowded images, means do not. The unit of a person's work decides which is fair.

Diversity is greedy k-centre (Sener & Savarese 2018, *Active Learning for Convolutional Neural Networks: A Core-Set
Approach*, Algorithm 1) on descriptors. A mixture takes it within a shortlist of the highest scored.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from plurimask.instances import slices
from plurimask.pixelwise import PixelDoubt
from plurimask.probabilistic import ProbabilisticInstances

Score = Literal[
    "random", "entropy_sum", "entropy_mean", "bald_sum", "bald_mean", "expected_errors", "splits_and_merges"
]
SCORES: tuple[Score, ...] = get_args(Score)

_LEAST_SPREAD = 0.02  # of a descriptor's number; below it differences are rounding


@dataclass(frozen=True)
class Strategy:
    """How images are chosen.

    Attributes:
        score: the higher, the better.
        diversity: the shortlist, the highest scored, is so many times as long as what is chosen; of it are taken those
            furthest from each other and from what is annotated. 1 takes the highest scored, "inf" makes the whole
            pool the shortlist.
    """

    score: Score = "random"
    diversity: float = 1.0

    def __post_init__(self) -> None:
        if self.score not in SCORES:
            raise ValueError(f"there is no score {self.score!r}; there are {', '.join(SCORES)}.")
        if not self.diversity >= 1:
            raise ValueError(f"diversity is {self.diversity}; it must be at least 1, which leaves diversity aside.")

    @property
    def name(self) -> str:
        """As in tables and folders.

        >>> Strategy("bald_sum").name, Strategy("random", 4).name, Strategy("random", math.inf).name
        ('bald_sum', 'random_diverse4', 'random_diverseinf')
        """
        return self.score if self.diversity == 1 else f"{self.score}_diverse{self.diversity:g}"


# Czolbe et al. 2021 found no strategy that beats random images, and no study here has shown otherwise yet. Diversity
# does no harm there: it only avoids images that look alike, such as neighbouring slices.
DEFAULT = Strategy("random", 4.0)


@dataclass(frozen=True, eq=False)
class Choices:
    """What was chosen, best first.

    Attributes:
        indices: ``(k,)`` places in the pool, each at most once.
        places: ``(k,)`` by score among all of the pool, from 1.
        distances: ``(k,)`` from the nearest annotated or earlier chosen one when it was chosen, in units of the
            descriptors' spread; NaN where there was none yet, or diversity was left aside.
    """

    indices: NDArray[np.int64]
    places: NDArray[np.int64]
    distances: NDArray[np.float64]


def scores(
    doubt: PixelDoubt, found: ProbabilisticInstances, boxes: NDArray[np.int64]
) -> dict[Score, NDArray[np.float64]]:
    """Every score but ``random`` of B regions of one image, ``(B,)`` each.

    A hypothesis counts where the centre of its box lies, so that regions which tile an image share its objects.

    Args:
        doubt: of the pixels.
        found: the objects of the same image.
        boxes: ``(B, 2, D)`` start and stop of the regions.
    """
    table = found.doubts()
    chosen, existence = table["label"] > 0, np.asarray(table["p_exists"], np.float64)
    errors = np.where(chosen, 1 - existence, existence)
    cuts = np.where(chosen, table["p_split"] + table["p_merge"], 0.0)
    centres = found.boxes.mean(axis=1)
    inside = [((centres >= start) & (centres < stop)).all(axis=1) for start, stop in boxes]
    regions = [slices(box) for box in boxes]
    total, disagreement = doubt.total, doubt.mutual_information
    return {
        "entropy_sum": np.array([total[region].sum(dtype=np.float64) for region in regions]),
        "entropy_mean": np.array([total[region].mean(dtype=np.float64) for region in regions]),
        "bald_sum": np.array([disagreement[region].sum(dtype=np.float64) for region in regions]),
        "bald_mean": np.array([disagreement[region].mean(dtype=np.float64) for region in regions]),
        "expected_errors": np.array([errors[here].sum() for here in inside]),
        "splits_and_merges": np.array([cuts[here].sum() for here in inside]),
    }


def choose(
    values: NDArray[np.float64] | None,
    descriptors: NDArray[np.float64],
    count: int,
    *,
    strategy: Strategy,
    generator: np.random.Generator,
    annotated: NDArray[np.float64] | None = None,
) -> Choices:
    """Which of a pool to annotate, without replacement; all of it if it is not larger than ``count``.

    Args:
        values: ``(N,)`` the strategy's score; None draws at random.
        descriptors: ``(N, F)`` what the images look like.
        count: how many.
        strategy: how.
        generator: breaks ties, and draws at random.
        annotated: ``(M, F)`` descriptors of what is annotated already.

    Raises:
        ValueError: a value or a descriptor is not finite, numbers do not fit together, or ``count`` is below 1.
    """
    pool = len(descriptors)
    if count < 1:
        raise ValueError(f"{count} images are to be chosen; give 1 at least.")
    values = generator.random(pool) if values is None else np.asarray(values, np.float64)
    for name, numbers in (("scores", values), ("descriptors", descriptors)):
        if len(numbers) != pool or not np.isfinite(numbers).all():
            raise ValueError(f"{name} of shape {numbers.shape} for {pool} images; wanted is a finite one for each.")
    ranked = ranking(values, generator)
    places = np.empty(pool, np.int64)
    places[ranked] = np.arange(1, pool + 1)
    if strategy.diversity == 1:
        chosen, distances = ranked[:count], np.full(min(count, pool), np.nan)
    else:
        shortlist = ranked[: math.ceil(min(strategy.diversity * count, pool))]
        known = np.zeros((0, descriptors.shape[1])) if annotated is None else annotated
        spread = np.maximum(np.concatenate([descriptors, known]).std(axis=0), _LEAST_SPREAD) if pool else 1.0
        order, distances = k_centre(descriptors[shortlist] / spread, count, centres=known / spread)
        chosen = shortlist[order]
    return Choices(chosen, places[chosen], distances)


def ranking(values: NDArray[np.float64], generator: np.random.Generator) -> NDArray[np.int64]:
    """``(N,)`` indices by falling value; the generator puts equal ones in order."""
    shuffled = generator.permutation(len(values))
    order: NDArray[np.int64] = shuffled[np.argsort(-values[shuffled], kind="stable")]
    return order


def k_centre(
    points: NDArray[np.float64], count: int, *, centres: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Again and again the point furthest from all centres, which then is one: greedy k-centre, a 2-approximation.

    Without any centre the first point is the first; of points equally far the first is taken.

    Args:
        points: ``(N, F)``.
        count: at most so many.
        centres: ``(M, F)`` those that are there already.

    Returns:
        ``(k,)`` indices of points, each at most once, and ``(k,)`` their distances when they were taken; NaN for the
        first where there was no centre.

    >>> k_centre(np.array([[0.0], [1.0], [5.0]]), 2, centres=np.zeros((0, 1)))
    (array([0, 2]), array([nan,  5.]))
    """
    nearest = np.full(len(points), np.inf)
    for centre in centres:
        np.minimum(nearest, np.linalg.norm(points - centre, axis=1), out=nearest)
    taken, distances = list[int](), list[float]()
    for _ in range(min(count, len(points))):
        index = int(nearest.argmax())
        taken.append(index)
        distances.append(float(nearest[index]) if np.isfinite(nearest[index]) else math.nan)
        np.minimum(nearest, np.linalg.norm(points - points[index], axis=1), out=nearest)
        nearest[taken] = -1.0
    return np.array(taken, np.int64), np.array(distances, np.float64)


def why(choices: Choices, number: int, *, strategy: Strategy, pool: int, unit: str) -> str:
    """The reason of one choice, in words. number: its place among the choices; unit: "image" or "crop".

    >>> one = Choices(np.array([7]), np.array([3]), np.array([2.5]))
    >>> why(one, 0, strategy=Strategy("bald_sum", 4), pool=90, unit="image")
    'number 3 of 90 by bald_sum; unlike all that is annotated or chosen before (distance 2.5)'
    """
    random = strategy.score == "random"
    reason = "drawn at random" if random else f"number {choices.places[number]} of {pool} by {strategy.score}"
    if strategy.diversity == 1:
        return reason
    distance = choices.distances[number]
    if math.isnan(distance):
        return f"{reason}; the first {unit}"
    return f"{reason}; unlike all that is annotated or chosen before (distance {distance:.2g})"


def crop_boxes(shape: tuple[int, ...], size: int | None) -> NDArray[np.int64]:
    """``(B, 2, D)`` windows of ``size`` pixels that do not overlap, at equal distances; None: the image itself.

    As many as fit along every axis; what is left over is shared out among the gaps and both ends. An axis that is
    shorter than a window is taken whole.

    >>> crop_boxes((10,), 4).tolist()
    [[[0], [4]], [[5], [9]]]

    Raises:
        ValueError: the size is not positive.
    """
    if size is None:
        return np.array([[[0] * len(shape), shape]], np.int64)
    if size < 1:
        raise ValueError(f"crops of {size} pixels are asked for; give 1 at least.")
    starts = [_starts(length, size) for length in shape]
    corners = np.stack([grid.ravel() for grid in np.meshgrid(*starts, indexing="ij")], axis=1)
    return np.stack([corners, np.minimum(corners + size, shape)], axis=1).astype(np.int64)


def _starts(length: int, size: int) -> NDArray[np.int64]:
    count = max(1, length // size)
    room = max(0, length - count * size)
    return np.arange(count) * size + (room * (2 * np.arange(count) + 1)) // (2 * count)
