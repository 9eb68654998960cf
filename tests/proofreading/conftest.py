"""Images to proofread: one drawn by hand, and random ones with every kind of mistake."""

import numpy as np
import pytest

from plurimask.agglomerate import CompleteLinkage
from plurimask.instances import Instances

LETTERS = "0123456789"


def from_drawing(lines, *, patch=4):
    """Instances from rows of digits, one character a patch; 0 or a point is background."""
    rows = [[LETTERS.index(letter.replace(".", "0")) for letter in line] for line in lines]
    return Instances.from_labels(np.kron(np.array(rows), np.ones((patch, patch), np.int64)))


def agglomerated(draws):
    return CompleteLinkage(min_iou=0.55)(draws)


@pytest.fixture
def draw():
    """The function that turns drawings into objects."""
    return from_drawing


@pytest.fixture
def agglomerate():
    """The function that turns the objects of several draws into hypotheses."""
    return agglomerated


@pytest.fixture
def worms():
    """Hypotheses and truth of a split worm, an invention, a missed object next to a doubtful one and one far away.

    A point is a patch of 4 x 4 pixels. The truth, what three draws see, and what a fourth sees::

        ......................        ......................        ......................
        111111.......222.....4        111222...33..444......        11122........44.......
        ...............3......        ......................        ......................
    """
    truth = from_drawing(["......................", "111111.......222.....4", "...............3......"])
    usual = from_drawing(["......................", "111222...33..444......", "......................"])
    other = from_drawing(["......................", "11122........33.......", "......................"])
    return agglomerated([usual, usual, usual, other]), truth


def rectangle(generator, shape, size=(3, 12)):
    mask = np.zeros(shape, bool)
    start = generator.integers(0, np.array(shape) - 3)
    stop = start + generator.integers(*size, 2)
    mask[start[0] : stop[0], start[1] : stop[1]] = True
    return mask


def seen(generator, masks, shape):
    """What a draw makes of some masks: it moves, loses, splits, joins and invents."""
    found = []
    for mask in masks:
        fate = generator.random()
        moved = np.roll(mask, generator.integers(-1, 2), axis=int(generator.integers(2)))
        if fate < 0.2:
            middle = int(np.argwhere(moved)[:, 1].mean()) + 1
            left = np.arange(shape[1]) < middle
            found += [moved & left, moved & ~left]
        elif fate < 0.3 and found:
            found[-1] = found[-1] | moved
        elif fate < 0.85:
            found.append(moved)
    if generator.random() < 0.5:
        found.append(rectangle(generator, shape))
    return [mask for mask in found if mask.any()]


@pytest.fixture
def random_image():
    """A function of a seed: hypotheses of four draws, and the truth, of which draws may never see some objects."""

    def make(seed, count=6, shape=(42, 50)):
        generator = np.random.default_rng(seed)
        truth = [rectangle(generator, shape) for _ in range(count)]
        habit = seen(generator, truth, shape)
        draws = [Instances.from_masks(seen(generator, habit, shape), shape) for _ in range(4)]
        return agglomerated(draws), Instances.from_masks(truth, shape)

    return make
