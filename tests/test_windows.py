"""The grid of windows: cores tile the image, and every object has one responsible window."""

from itertools import product

import numpy as np
import pytest

from plurimask.instances import Instances
from plurimask.windows import grid

CASES = [
    ((100,), 32, 8, 4),
    ((32,), 32, 8, 4),
    ((33,), 32, 8, 4),
    ((5, 70), 20, 4, 1),
    ((200, 131), 64, 16, 16),
    ((1, 1), 64, 16, 16),
    ((129, 64), 64, 24, 8),
    ((20, 33, 40), 16, 4, 2),
    ((100, 90), 50, 7, 8),  # a core of 36 that is cut to 32, a halo that is no multiple of the stride
]


@pytest.mark.parametrize(("shape", "size", "halo", "stride"), CASES)
def test_cores_tile_the_image(shape, size, halo, stride):
    covered = np.zeros(shape, int)
    for window in grid(shape, size=size, halo=halo, stride=stride):
        covered[tuple(map(slice, *window.core))] += 1
    assert (covered == 1).all()


@pytest.mark.parametrize(("shape", "size", "halo", "stride"), CASES)
def test_windows_see_their_core_and_a_halo(shape, size, halo, stride):
    windows = grid(shape, size=size, halo=halo, stride=stride)
    for window in windows:
        (start, stop), (first, last) = window.outer, window.core
        assert (start >= 0).all() and (stop <= shape).all()
        assert (stop - start <= size).all() and (stop > start).all()
        assert (start % stride == 0).all()
        # The halo on both sides, but at the border of the image, where there is nothing to see.
        assert ((first - start >= halo) | (start == 0)).all()
        assert ((stop - last >= halo) | (stop == shape)).all()
        assert (first < last).all()
    starts = [tuple(window.core[0]) for window in windows]
    assert starts == sorted(starts), "row-major order"


@pytest.mark.parametrize("shape", [(64, 64), (1, 5), (64, 3)])
def test_a_small_image_is_one_window(shape):
    (window,) = grid(shape, size=64, halo=16, stride=16)
    assert window.outer.tolist() == window.core.tolist() == [[0, 0], list(shape)]


def test_no_core_no_grid():
    with pytest.raises(ValueError, match="a window of 64 pixels with a halo of 32 on both sides has no core"):
        grid((100, 100), size=64, halo=32, stride=1)
    with pytest.raises(ValueError, match="enlarge it"):
        grid((100, 100), size=64, halo=26, stride=16)  # 12 pixels are left, less than the stride


@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_every_object_belongs_to_one_window(ndim):
    shape = (57, 40, 31)[:ndim]
    windows = grid(shape, size=20, halo=5, stride=2)
    generator = np.random.default_rng(0)
    answers = []
    for _ in range(300):
        start = generator.integers(0, shape)
        stop = np.minimum(start + generator.integers(1, 11, ndim), shape)
        # The object in the frame of every window, as if every one had seen it whole.
        owners = 0
        for window in windows:
            box = np.stack([start, stop]) - window.outer[0]
            found = Instances(box[None], (np.ones(stop - start, bool),), np.ones(1), shape)
            owners += int(window.answers_for(found)[0])
            if window.answers_for(found)[0]:
                # Half of 10 pixels fits into the halo of 5: its window sees it whole.
                assert (start >= window.outer[0]).all() and (stop <= window.outer[1]).all()
        answers.append(owners)
    assert set(answers) == {1}


def test_the_last_pixel_has_a_window():
    for window in grid((100,), size=32, halo=8, stride=4)[-1:]:
        found = Instances(np.array([[[99], [100]]]) - window.outer[0], (np.ones(1, bool),), np.ones(1), (100,))
        assert window.answers_for(found).tolist() == [True]


def test_nothing_found_nothing_answered():
    window = grid((10, 10), size=20, halo=0, stride=1)[0]
    assert window.answers_for(Instances.empty((10, 10))).shape == (0,)


@pytest.mark.parametrize(
    ("length", "size", "halo", "stride"), list(product([63, 64, 65, 96, 97], [64], [16], [1, 8, 32]))
)
def test_no_window_is_superfluous(length, size, halo, stride):
    # Every window but the first begins its core where the one before ends, and the last reaches the end only once.
    windows = grid((length,), size=size, halo=halo, stride=stride)
    assert sum(int(window.outer[1, 0]) == length for window in windows) == 1
