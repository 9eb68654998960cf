"""Which hypotheses to believe when some exclude each other: the most probable conflict-free set."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

EXACT_SIZE = 30
"""Groups of at most this many mutually entangled hypotheses are solved exactly, larger ones greedily."""

_ROUNDING = 1e-9

Neighbours = Mapping[int, set[int]]


def most_probable(
    existence: NDArray[np.float64], areas: NDArray[np.int64], *, conflicts: NDArray[np.int64], shared: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """``(N,)`` bool: the most probable set of objects of which no two are in conflict.

    1. The set that maximises the sum of (existence - 1/2). Objects below 1/2 only lower the sum and are left out.
    2. Nothing that probably is there vanishes only because the draws disagree on what it is. The hypotheses that are
       neither chosen nor excluded by a chosen one stand for election if their pixels are covered with probability at
       least 1/2, by themselves or by a rival reading: existence(u) + sum over rivals v of existence(v) |u & v| / |u|.
       (Rivals never share a draw, so these add up.) Of them the conflict-free set that explains the most pixels,
       the sum of existence * area, is taken. So an object seen whole in half of the draws and as two halves in the
       other half keeps exactly one side, and an undisputed object of existence 1/2 is kept.

    existence, areas: ``(N,)``; an object without pixels is never chosen. conflicts: ``(M, 2)``; shared: ``(M,)`` pixels
    that both have.
    """
    chosen = independent_set(np.where(areas > 0, existence - 0.5, 0.0), conflicts)
    excluded = chosen | (areas == 0)
    for a, b in conflicts:
        excluded[a] |= chosen[b]
        excluded[b] |= chosen[a]
    covered = existence.astype(np.float64)
    for (a, b), pixels in zip(conflicts, shared, strict=True):
        if not excluded[a] and not excluded[b]:
            covered[a] += existence[b] * pixels / areas[a]
            covered[b] += existence[a] * pixels / areas[b]
    candidates = (covered >= 0.5 - _ROUNDING) & ~excluded
    return chosen | independent_set(np.where(candidates, existence * areas, 0.0), conflicts)


def independent_set(weights: NDArray[np.float64], pairs: NDArray[np.int64]) -> NDArray[np.bool_]:
    """``(N,)`` bool: a set of largest total weight without both ends of a pair; weights <= 0 are never in it.

    Exact by branch and bound in every connected group of at most ``EXACT_SIZE``; in larger ones greedy, by
    weight / (1 + number of rivals), a bound of which is in Sakai, Togasaki and Yamazaki 2003 (GWMIN).

    >>> independent_set(np.array([0.4, 0.5, 0.4]), np.array([[0, 1], [1, 2]]))
    array([ True, False,  True])
    """
    chosen = weights > 0
    pairs = pairs[chosen[pairs].all(axis=1)] if len(pairs) else pairs
    if len(pairs) == 0:
        return chosen
    neighbours: dict[int, set[int]] = {int(index): set() for index in np.unique(pairs)}
    for a, b in pairs.tolist():
        neighbours[a].add(b)
        neighbours[b].add(a)
    for group in _groups(len(weights), pairs):
        values = {index: float(weights[index]) for index in group}
        solve = _branch_and_bound if len(group) <= EXACT_SIZE else _greedy
        chosen[group] = False
        chosen[sorted(solve(values, neighbours))] = True
    return chosen


def _groups(count: int, pairs: NDArray[np.int64]) -> list[list[int]]:
    """Connected groups of at least two."""
    graph = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    _, component = connected_components(graph, directed=False)
    involved = np.unique(pairs)
    order = involved[np.argsort(component[involved], kind="stable")]
    borders = np.flatnonzero(np.diff(component[order])) + 1
    return [part.tolist() for part in np.split(order, borders)]


def _greedy(weights: dict[int, float], neighbours: Neighbours) -> set[int]:
    free, taken = set(weights), set()
    while free:
        best = min(free, key=lambda index: (-weights[index] / (1 + len(neighbours[index] & free)), index))
        taken.add(best)
        free -= neighbours[best] | {best}
    return taken


def _branch_and_bound(weights: dict[int, float], neighbours: Neighbours) -> set[int]:
    best_total, best = -1.0, frozenset[int]()

    def search(free: set[int], taken: frozenset[int], total: float) -> None:
        nonlocal best_total, best
        if total + sum(weights[index] for index in sorted(free)) <= best_total + _ROUNDING:
            return
        # The most entangled hypothesis decides most; once nobody is entangled, all that is left is taken.
        pivot = max(sorted(free), key=lambda index: len(neighbours[index] & free), default=None)
        if pivot is None or not neighbours[pivot] & free:
            total += sum(weights[index] for index in sorted(free))
            if total > best_total + _ROUNDING:
                best_total, best = total, taken | free
            return
        search(free - neighbours[pivot] - {pivot}, taken | {pivot}, total + weights[pivot])
        search(free - {pivot}, taken, total)

    search(set(weights), frozenset(), 0.0)
    return set(best)
