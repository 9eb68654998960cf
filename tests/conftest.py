"""Toy images that every test may use; they are drawn in ``plurimask.testing``, so that other projects have them, too.

Two blobs that touch::

    ..aaaaaabb....
    ..aaaaaabbbb..

two worms that cross (x belongs to both), an image without objects, and a pair of balls in a volume that touch.
"""

import os
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from plurimask.instances import Instances
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


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with the public data sets; tests that ask for it are skipped where there is none."""
    folder = os.environ.get("PLURIMASK_DATA")
    if not folder:
        pytest.skip("PLURIMASK_DATA is not set: no real images to test with")
    return Path(folder)
