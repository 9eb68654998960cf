"""Toy images that every test may use; they are drawn in ``plurimask.testing``, so that other projects have them, too.

Two blobs that touch::

    ..aaaaaabb....
    ..aaaaaabbbb..

two worms that cross (x belongs to both), an image without objects, and a pair of balls in a volume that touch.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from plurimask.instances import Instances
from plurimask.probabilistic import ProbabilisticInstances
from plurimask.testing import toy_truths


@pytest.fixture
def touching_blobs() -> Instances:
    """Two objects that share a border and no pixel."""
    return toy_truths(2)["touching blobs"]


@pytest.fixture
def crossing_worms() -> Instances:
    """Two objects that share pixels; without these, each of them falls into two pieces."""
    return toy_truths(2)["crossing worms"]


@pytest.fixture
def empty_image() -> Instances:
    """No object, in the shape of the two images above."""
    return toy_truths(2)["empty"]


@pytest.fixture
def touching_balls() -> Instances:
    """Two objects of a volume that share a face and no voxel."""
    return toy_truths(3)["touching blobs"]


@pytest.fixture
def touching_blobs_masks(touching_blobs: Instances) -> NDArray[np.bool_]:
    """``(2, 24, 40)``."""
    return touching_blobs.to_masks()


@pytest.fixture
def crossing_worms_masks(crossing_worms: Instances) -> NDArray[np.bool_]:
    """``(2, 24, 40)``."""
    return crossing_worms.to_masks()


@pytest.fixture
def touching_balls_masks(touching_balls: Instances) -> NDArray[np.bool_]:
    """``(2, 10, 12, 22)``."""
    return touching_balls.to_masks()


def bars_at(*columns: int, width: int = 4) -> NDArray[np.uint8]:
    """``(8, 32)`` label map with one bar of eight rows at each of the columns."""
    labels = np.zeros((8, 32), np.uint8)
    for number, column in enumerate(columns, start=1):
        labels[:, column : column + width] = number
    return labels


def seen_in(labels: NDArray[Any], *times: int) -> ProbabilisticInstances:
    """Every object seen in so many of ten draws, always with the same outline."""
    objects = Instances.from_labels(labels)
    counts = tuple(mask * np.uint8(count) for mask, count in zip(objects.masks, times, strict=True))
    members = tuple(tuple((draw, index) for draw in range(count)) for index, count in enumerate(times))
    nothing = np.zeros((0, 2), np.int64)
    existence = np.array(times, float) / 10
    return ProbabilisticInstances(objects.boxes, counts, 10, existence, members, nothing, objects.shape)


@pytest.fixture
def bars() -> Callable[..., NDArray[np.uint8]]:
    """The function that draws bars."""
    return bars_at


@pytest.fixture
def seen() -> Callable[..., ProbabilisticInstances]:
    """The function that makes hypotheses of objects."""
    return seen_in


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with the public data sets; tests that ask for it are skipped where there is none."""
    folder = os.environ.get("PLURIMASK_DATA")
    if not folder:
        pytest.skip("PLURIMASK_DATA is not set: no real images to test with")
    return Path(folder)
