"""PatchPerPix: which patches are kept. A walk down the ranking, then a greedy set cover among what it took.

Mais, Hirsch, Kainmueller 2020, "Instance assembly"; docs/algorithms.md, "Assembly". Patches come as runs and values on
the pixels that have to be covered (:func:`plurimask.ops.patch_consensus.restrict`), so that nothing else is read.
"""

from __future__ import annotations

import heapq

import numpy as np
from numba import njit
from numpy.typing import NDArray

from plurimask.ops.patch_consensus import Floats, Integers, Mask
from plurimask.ops.window_runs import Runs


def ranked_cover(runs: Runs, values: Floats, ranking: Integers, *, threshold: float, pixels: int) -> Integers:
    """Walks down the ranking and takes every patch that covers a pixel that no earlier one has covered.

    A patch covers the pixels of which it says more than the threshold. What no patch covers stays uncovered.

    Args:
        runs: of n patches on the pixels to be covered.
        values: one per entry of the runs.
        ranking: ``(n,)`` patches, best first.
        threshold: fc.
        pixels: number of pixels to be covered.

    Returns:
        ``(K,)`` patches in the order in which they were taken.
    """
    uncovered = np.ones(pixels, np.bool_)
    taken = _walk(ranking, runs.first, runs.offsets, values, np.float32(threshold), uncovered)
    return ranking[taken]


def thin_out(runs: Runs, values: Floats, chosen: Integers, *, threshold: float, pixels: int) -> Integers:
    """Greedy set cover among the chosen: the largest gain first, ties by the order given, until nothing gains.

    Gains only fall, so only the patch on top of a heap of old gains is counted anew (lazy greedy, Minoux 1978).

    Args:
        runs: of n patches on the pixels to be covered.
        values: one per entry of the runs.
        chosen: ``(K,)`` patches, best first.
        threshold: fc.
        pixels: number of pixels to be covered.

    Returns:
        Those that are kept, in the order given; they cover what the chosen cover.
    """
    uncovered, limit = np.ones(pixels, np.bool_), np.float32(threshold)

    def gain(place: int) -> int:
        return _gain(int(chosen[place]), runs.first, runs.offsets, values, limit, uncovered)

    heap = [(-gain(place), place) for place in range(len(chosen))]
    heapq.heapify(heap)
    kept = []
    while heap and heap[0][0] < 0:
        place = heapq.heappop(heap)[1]
        now = (-gain(place), place)
        if heap and heap[0] < now:
            heapq.heappush(heap, now)
        elif now[0] < 0:
            _cover(int(chosen[place]), runs.first, runs.offsets, values, limit, uncovered)
            kept.append(place)
    return chosen[sorted(kept)]


@njit(cache=True)
def _walk(
    ranking: Integers,
    first: NDArray[np.int32],
    offsets: Integers,
    values: Floats,
    threshold: np.float32,
    uncovered: Mask,
) -> Mask:
    """``(n,)`` bool: which places of the ranking are taken."""
    taken, left = np.zeros(len(ranking), np.bool_), len(uncovered)
    for place in range(len(ranking)):
        if left == 0:
            break
        gain = _cover(ranking[place], first, offsets, values, threshold, uncovered)
        taken[place] = gain > 0
        left -= gain
    return taken


@njit(cache=True)
def _gain(
    patch: int, first: NDArray[np.int32], offsets: Integers, values: Floats, threshold: np.float32, uncovered: Mask
) -> int:
    """Number of uncovered pixels that a patch covers."""
    lines, gain = first.shape[1], 0
    for line in range(lines):
        begin = offsets[patch * lines + line]
        for entry in range(begin, offsets[patch * lines + line + 1]):
            gain += values[entry] > threshold and uncovered[first[patch, line] + entry - begin]
    return gain


@njit(cache=True)
def _cover(
    patch: int, first: NDArray[np.int32], offsets: Integers, values: Floats, threshold: np.float32, uncovered: Mask
) -> int:
    """Marks what a patch covers; returns how many pixels are new."""
    lines, gain = first.shape[1], 0
    for line in range(lines):
        begin = offsets[patch * lines + line]
        for entry in range(begin, offsets[patch * lines + line + 1]):
            pixel = first[patch, line] + entry - begin
            if values[entry] > threshold and uncovered[pixel]:
                uncovered[pixel] = False
                gain += 1
    return gain
