"""Runs against a look at every pixel of every window."""

import numpy as np
import pytest

from plurimask.ops.window_runs import runs_around, window_lines


def naive(centres, members, size, *, later):
    """Pairs (centre, member) in the order of the runs."""
    numbers = members.cumsum().reshape(members.shape) - 1
    for index, centre in enumerate(centres):
        for offset in np.ndindex(*size):
            pixel = tuple(centre + offset - np.array(size) // 2)
            inside = all(0 <= place < side for place, side in zip(pixel, members.shape, strict=True))
            if inside and members[pixel] and (not later or pixel > tuple(centre)):
                yield index, int(numbers[pixel])


@pytest.mark.parametrize("later", [False, True])
@pytest.mark.parametrize(
    ("shape", "size"), [((60,), (5,)), ((6, 7), (5, 3)), ((3, 4), (9, 11)), ((4, 3, 5), (3, 5, 3))]
)
def test_equals_a_look_at_every_pixel(shape, size, later):
    rng = np.random.default_rng(0)
    members, centres = rng.random(shape) < 0.6, rng.permutation(np.argwhere(rng.random(shape) < 0.5))
    runs = runs_around(centres, members, size, later=later)
    expected = list(naive(centres, members, size, later=later))
    assert len(expected) > 5, "test invalid"
    assert list(zip(runs.centres.tolist(), runs.members.tolist(), strict=True)) == expected
    np.testing.assert_array_equal(np.diff(runs.by_centre), np.bincount(runs.centres, minlength=len(centres)))


def test_no_centres_and_no_members():
    runs = runs_around(np.zeros((0, 2), np.int64), np.ones((3, 3), bool), (3, 3))
    assert runs.members.size == runs.centres.size == 0
    runs = runs_around(np.array([[1, 1]]), np.zeros((3, 3), bool), (3, 3))
    assert runs.members.size == 0 and runs.by_centre.tolist() == [0, 0]


def test_lines_of_a_window():
    assert window_lines((3, 7)).tolist() == [[-1], [0], [1]]
    assert window_lines((1, 3, 5)).tolist() == [[0, -1], [0, 0], [0, 1]]
