"""How often one object was cut into several, and several were joined into one.

S and F1 count a cut object as one miss and several inventions and do not say why; a person who corrects masks wants to
know. Areas are of whole objects, which may overlap:

* a *piece* of an object is an object of the other side of which more than ``inside`` (1/2) lies inside it, and which
  covers at least ``covered`` (1/10) of it. The first share tells a piece from a neighbour that reaches over the border,
  the second a piece from a crumb;
* a true object is **split** if at least two found objects are pieces of it;
* a found object is **merged** if at least two true objects are pieces of it.

The split rate is the share of all true objects, the merge rate of all found ones; 0 where there are none, as nothing is
cut or joined there. Neither says anything about objects that were missed or invented. A duplicate (two found objects on
one true one) is a split, too. There is no standard definition: numbers from elsewhere are not comparable.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from plurimask.instances import Instances
from plurimask.metrics.bootstrap import Interval, interval, pooled_share
from plurimask.metrics.matching import check_shapes
from plurimask.ops.overlap import intersections

INSIDE, COVERED = 0.5, 0.1
"""The two shares of a piece."""


@dataclass(frozen=True)
class Splits:
    """What was split and merged in one image.

    Attributes:
        split: number of true objects with several pieces.
        merged: number of found objects with several pieces.
        truth_count: number of true objects.
        found_count: number of found objects.
        inside: the share of its own area, from above which on an object lies inside another.
        covered: the least share of another object that a piece of it covers.
    """

    split: int
    merged: int
    truth_count: int
    found_count: int
    inside: float
    covered: float

    @property
    def split_rate(self) -> float:
        """Share of the true objects that are split."""
        return self.split / max(1, self.truth_count)

    @property
    def merge_rate(self) -> float:
        """Share of the found objects that are merged."""
        return self.merged / max(1, self.found_count)


@dataclass(frozen=True)
class SplitSummary:
    """A data set's rates, each with its bootstrap interval over images.

    Attributes:
        images: number of images.
        pooled: ``split_rate`` and ``merge_rate`` of the objects of all images together.
        per_image: their means over images.
    """

    images: int
    pooled: dict[str, Interval]
    per_image: dict[str, Interval]


def splits(truth: Instances, found: Instances, *, inside: float = INSIDE, covered: float = COVERED) -> Splits:
    """Count the split and the merged objects of one image.

    Raises:
        ValueError: the images differ in shape, inside is not in [0, 1) or covered not in (0, 1].

    >>> truth = Instances.from_labels(np.array([[1, 1, 1, 1, 0, 2, 2, 3, 3]]))
    >>> found = Instances.from_labels(np.array([[1, 1, 2, 2, 0, 3, 3, 3, 3]]))
    >>> counts = splits(truth, found)
    >>> counts.split, counts.merged
    (1, 1)
    """
    check_shapes(truth, found)
    if not 0 <= inside < 1 or not 0 < covered <= 1:
        raise ValueError(f"inside must be in [0, 1) and covered in (0, 1], not {inside} and {covered}.")
    shared = intersections(truth, found)
    split = _with_several_pieces(shared, truth.areas, found.areas, inside=inside, covered=covered)
    merged = _with_several_pieces(shared.T.tocsr(), found.areas, truth.areas, inside=inside, covered=covered)
    return Splits(split, merged, len(truth), len(found), inside, covered)


def summarise(images: Sequence[Splits], *, level: float = 0.95, resamples: int = 10_000, seed: int = 0) -> SplitSummary:
    """Both rates pooled and as means over images, with bootstrap intervals over images.

    Raises:
        ValueError: there is no image, images differ in ``inside`` or ``covered``, or as
            :func:`plurimask.metrics.bootstrap.interval`.
    """
    if not images:
        raise ValueError("nothing to summarise: give the splits of at least one image.")
    if len({(image.inside, image.covered) for image in images}) > 1:
        raise ValueError("the images were measured with different shares; measure all with the same.")
    counts = {
        "split_rate": [(image.split, image.truth_count) for image in images],
        "merge_rate": [(image.merged, image.found_count) for image in images],
    }
    rates = {
        "split_rate": [image.split_rate for image in images],
        "merge_rate": [image.merge_rate for image in images],
    }
    draw = partial(interval, level=level, resamples=resamples, seed=seed)
    pooled = {name: draw(values, statistic=pooled_share) for name, values in counts.items()}
    return SplitSummary(len(images), pooled, {name: draw(values) for name, values in rates.items()})


def _with_several_pieces(
    shared: csr_array,
    areas: NDArray[np.int64],
    piece_areas: NDArray[np.int64],
    *,
    inside: float,
    covered: float,
) -> int:
    """How many rows of ``(n, m)`` shared pixels have at least two columns as pieces. areas: ``(n,)`` and ``(m,)``."""
    rows, _ = pieces(shared, areas, piece_areas, inside=inside, covered=covered)
    return int(np.count_nonzero(np.bincount(rows) > 1))


def pieces(
    shared: csr_array,
    areas: NDArray[np.int64],
    piece_areas: NDArray[np.int64],
    *,
    inside: float = INSIDE,
    covered: float = COVERED,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows and columns of the pairs of ``(n, m)`` shared pixels of which the column's object is a piece of the row's.

    areas, piece_areas: ``(n,)`` and ``(m,)``, of whole objects.
    """
    rows = np.repeat(np.arange(shared.shape[0]), np.diff(shared.indptr))
    columns = shared.indices.astype(np.int64)
    piece = (shared.data / piece_areas[columns] > inside) & (shared.data / areas[rows] >= covered)
    return rows[piece], columns[piece]
