"""The members of a set of pixels in windows around many centres, as runs: what is local and sparse, in flat arrays.

Members count in row-major order. Those on one line of a window (along the last axis) then have consecutive numbers, so
that a window is as many runs as it has lines, and what is known of every (centre, member) is one flat array.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

Integers = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Runs:
    """The members of a set of pixels in the windows around N centres, line by line; members count in row-major order.

    Attributes:
        first: ``(N, L)`` int32, the first member on each of the L lines of a window.
        offsets: ``(N * L + 1,)`` int64, where the members of a line begin in arrays of one entry per (centre, member).
    """

    first: NDArray[np.int32]
    offsets: Integers

    @property
    def by_centre(self) -> Integers:
        """``(N + 1,)`` int64, where the entries of a centre begin."""
        return self.offsets[:: max(self.first.shape[1], 1)]

    @property
    def centres(self) -> Integers:
        """``(E,)`` the centre of every entry."""
        return np.repeat(np.arange(len(self.first)), np.diff(self.by_centre))

    @property
    def members(self) -> Integers:
        """``(E,)`` the member of every entry."""
        jumps = self.first.ravel() - self.offsets[:-1]
        return np.repeat(jumps, np.diff(self.offsets)) + np.arange(self.offsets[-1])


def runs_around(centres: Integers, members: Mask, size: tuple[int, ...], *, later: bool = False) -> Runs:
    """The members in the window around every centre; with ``later`` only those behind it in row-major order."""
    leads = window_lines(size)
    begins = np.full(len(leads), -(size[-1] // 2))
    if later:
        leads, begins = leads[len(leads) // 2 :], begins[len(leads) // 2 :]
        begins[0] = 1
    before = np.zeros(members.size + 1, np.int64)
    np.cumsum(members, out=before[1:])
    first = np.zeros((len(centres), len(leads)), np.int32)
    lengths = np.zeros((len(centres), len(leads)), np.int64)
    _count(centres, leads, begins, size[-1] // 2, np.asarray(members.shape), before, first, lengths)
    offsets = np.zeros(lengths.size + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return Runs(first, offsets)


def mask_at(centres: Integers, shape: tuple[int, ...]) -> Mask:
    """``(*spatial)`` bool: true at the centres ``(N, D)``."""
    members = np.zeros(shape, np.bool_)
    members[tuple(centres.T)] = True
    return members


def window_lines(size: tuple[int, ...]) -> Integers:
    """``(L, D - 1)`` offsets of the lines of a window on the axes before the last."""
    return np.array(list(np.ndindex(*size[:-1])), np.int64) - np.asarray(size[:-1], np.int64) // 2


@njit(cache=True)
def _count(
    centres: Integers,
    leads: Integers,
    begins: Integers,
    end: int,
    shape: Integers,
    before: Integers,
    first: NDArray[np.int32],
    lengths: Integers,
) -> None:
    """Fills ``first`` and ``lengths`` of the runs; lines outside the image stay empty."""
    ndim = len(shape)
    for index in range(len(centres)):
        last = centres[index, ndim - 1]
        for line in range(len(leads)):
            row, inside = 0, True
            for axis in range(ndim - 1):
                place = centres[index, axis] + leads[line, axis]
                inside &= 0 <= place < shape[axis]
                row = row * shape[axis] + place
            start = max(last + begins[line], 0)
            stop = min(last + end + 1, shape[ndim - 1])
            if inside and start < stop:
                row *= shape[ndim - 1]
                first[index, line] = before[row + start]
                lengths[index, line] = before[row + stop] - before[row + start]
