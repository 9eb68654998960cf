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
def report_of():
    """The function that evaluates images."""
    return report_on


@pytest.fixture
def planted(bars, seen):
    """Truth and found objects of two images, with one invented and one missed object."""
    truth = bars(0, 8)
    return [(truth, seen(bars(0, 8, 16), 10, 8, 6)), (truth, seen(bars(0), 10))]
