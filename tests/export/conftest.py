"""Evaluations of drawn cases: bars that stand side by side, seen in some of ten draws."""

from functools import partial

import numpy as np
import pytest

from plurimask.assessment import assess, summarise
from plurimask.comparison import Pair, Report, Row
from plurimask.instances import Instances
from plurimask.probabilistic import ProbabilisticInstances
from plurimask.proofreading.simulate import simulate

SETTINGS = {"found": "runs/<run>", "truth": "data", "mode": "best", "split": None, "thresholds": [0.5]}


def bars_at(*columns, width=4):
    """``(8, 32)`` label map with one bar of eight rows at each of the columns."""
    labels = np.zeros((8, 32), np.uint8)
    for number, column in enumerate(columns, start=1):
        labels[:, column : column + width] = number
    return labels


def seen_in(labels, *times):
    """Every object seen in so many of ten draws, always with the same outline."""
    objects = Instances.from_labels(labels)
    counts = tuple(mask * np.uint8(count) for mask, count in zip(objects.masks, times, strict=True))
    members = tuple(tuple((draw, index) for draw in range(count)) for index, count in enumerate(times))
    nothing = np.zeros((0, 2), np.int64)
    existence = np.array(times, float) / 10
    return ProbabilisticInstances(objects.boxes, counts, 10, existence, members, nothing, objects.shape)


def report_on(pairs, *, image=None, **options):
    """pairs: truth and found objects of every image, as label maps or objects."""
    rows, doubtful = [], []
    for number, pair in enumerate(pairs):
        truth, found = (Instances.from_labels(side) if isinstance(side, np.ndarray) else side for side in pair)
        readers = (partial(lambda objects: objects, side) for side in (truth, found))
        rows.append(Row(Pair(f"image {number}", f"run {number}", *readers, image), assess(truth, found, **options)))
        doubtful += [(found, truth)] if isinstance(found, ProbabilisticInstances) else []
    proofreading = simulate(doubtful, repeats=3) if doubtful else None
    return Report(tuple(rows), summarise([row.assessment for row in rows]), proofreading, ("other",), SETTINGS)


@pytest.fixture
def bars():
    """The function that draws bars."""
    return bars_at


@pytest.fixture
def seen():
    """The function that makes hypotheses of objects."""
    return seen_in


@pytest.fixture
def report_of():
    """The function that evaluates images."""
    return report_on


@pytest.fixture
def planted():
    """Truth and found objects of two images, with one invented and one missed object."""
    truth = bars_at(0, 8)
    return [(truth, seen_in(bars_at(0, 8, 16), 10, 8, 6)), (truth, seen_in(bars_at(0), 10))]
