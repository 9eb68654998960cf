"""One list of objects per draw -> one list of objects with doubt."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from heapq import heapify, heappop, heappush
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import connected_components

from plurimask.instances import Instances, concatenate, sides, slices
from plurimask.ops.assignment import maximum_assignment
from plurimask.ops.overlap import iou, overlap_fraction
from plurimask.probabilistic import ProbabilisticInstances

CONFLICT_SHARE = 0.2
"""Two hypotheses that share more than this part of the smaller one cannot both be true, unless a draw shows both."""

Groups = list[list[int]]
"""Indices into the objects of all draws, one list a hypothesis."""


class Agglomeration(ABC):
    """Says which objects of different draws are the same object."""

    def __call__(self, draws: Sequence[Instances]) -> ProbabilisticInstances:
        """Objects of S draws of one image -> hypotheses; every object of every draw is a member of exactly one.

        Existence is the sum of the members' scores / S. A hypothesis has the features of its best scored member, but
        for the doubt about the sides of its box, to which every member adds what it knows (:func:`_borders`).
        Hypotheses are in conflict when their majority masks share more than ``CONFLICT_SHARE`` of the smaller one
        and no draw has members of both.

        Raises:
            ValueError: no draw, more than 255, or draws of images of different shapes.
            FloatingPointError: a score is not finite, so that no existence could be trusted.
        """
        pool = _Pool.of(draws)
        groups = sorted(self.groups(pool), key=lambda group: sorted(pool.ranks[group].tolist()))
        return _summarise(pool, groups)

    @abstractmethod
    def groups(self, pool: _Pool) -> Groups:
        """The hypotheses, each with at most one object of a draw."""

    def tunable(self) -> Mapping[str, Sequence[Any]]:
        """Field -> values worth trying around its present one; none at first."""
        return {}


@dataclass(frozen=True)
class _Pool:
    """The objects of all draws in one list.

    Attributes:
        objects: all N of them.
        members: ``(N, 2)``, from which draw, and which object of that draw.
        draws: S.
        ranks: ``(N,)`` place of the object in an order by geometry, then score; equal where these are equal.
    """

    objects: Instances
    members: NDArray[np.int64]
    draws: int
    ranks: NDArray[np.int64]

    @classmethod
    def of(cls, draws: Sequence[Instances]) -> _Pool:
        if not 1 <= len(draws) <= 255:
            raise ValueError(f"{len(draws)} draws: counts are kept in 8 bits, so give 1 to 255.")
        objects = concatenate(draws)
        if not np.isfinite(objects.scores).all():
            raise FloatingPointError("an object has a score that is not finite; look for NaN in the outputs.")
        members = [(draw, index) for draw, found in enumerate(draws) for index in range(len(found))]
        keys = [
            (box, mask.tobytes(), score)
            for box, mask, score in zip(objects.boxes.tolist(), objects.masks, objects.scores.tolist(), strict=True)
        ]
        order = sorted(range(len(keys)), key=keys.__getitem__)
        ranks = np.zeros(len(keys), np.int64)
        for place, (before, index) in enumerate(pairwise(order), start=1):
            ranks[index] = ranks[before] if keys[index] == keys[before] else place
        return cls(objects, np.array(members, np.int64).reshape(-1, 2), len(draws), ranks)


@dataclass(frozen=True)
class SequentialUnion(Agglomeration):
    """Rumberger et al. 2020, section 3 (agglomeration of instances): one draw after the other against a running union.

    The draw with the most objects is the base (the first of equals). Every further draw is assigned to it by the
    Hungarian method on IoU, and "a union of the two maps is calculated and taken as the base for subsequent steps".
    Written out where the paper is silent: pairs of IoU 0 are no pairs; an object without partner joins the base as a
    new hypothesis, so that a later draw can find it.

    The result depends on the order of the draws. An object seen whole in half of the draws and as two halves in the
    others comes out as one object of existence 1: the first half grows to the whole by the union and matches something
    in every draw. :class:`CompleteLinkage` keeps the two readings apart.
    """

    def groups(self, pool: _Pool) -> Groups:
        draw_of = pool.members[:, 0]
        found = np.bincount(draw_of, minlength=pool.draws)
        first = int(found.argmax())
        groups: Groups = [[int(index)] for index in np.flatnonzero(draw_of == first)]
        base = pool.objects.select(np.flatnonzero(draw_of == first))
        for draw in range(pool.draws):
            if draw == first or found[draw] == 0:
                continue
            indices = np.flatnonzero(draw_of == draw)
            rows, columns = maximum_assignment(iou(base, pool.objects.select(indices)))
            for row, column in zip(rows, columns, strict=True):
                groups[row].append(int(indices[column]))
            alone = np.setdiff1d(np.arange(len(indices)), columns)
            groups += [[int(index)] for index in indices[alone]]
            base = _unions(pool.objects, groups)
        return groups


@dataclass(frozen=True)
class CompleteLinkage(Agglomeration):
    """Objects of different draws are one where every two of them agree: no order, no base.

    Hierarchical clustering with complete linkage on IoU: the two groups whose *least* similar members agree most are
    joined first, until no two groups agree by ``min_iou`` everywhere; two objects of one draw are never joined. Equally
    good joins: the larger group first, then by position and shape of the objects, never by the order of the draws.

    Attributes:
        min_iou: the IoU that any two members of an object have at least, in (0, 1]. A part that is smaller than this
            share of the whole is another hypothesis, a larger one is taken for the whole: at 0.7 a split into 60 % and
            40 % stays a question ("one object or two?"), one into 75 % and 25 % does not.
    """

    min_iou: float = 0.7

    def __post_init__(self) -> None:
        if not 0 < self.min_iou <= 1:
            raise ValueError(f"min_iou is {self.min_iou}; it must be in (0, 1], and above 0.5 to tell halves apart.")

    def tunable(self) -> Mapping[str, Sequence[Any]]:
        """``min_iou``, above 0.5: a better score is not worth the doubt whether something is one object or two."""
        near = (round(self.min_iou + step, 3) for step in (-0.2, -0.1, -0.05, 0.05, 0.1))
        return {"min_iou": tuple(value for value in near if 0.5 < value < 1)}

    def groups(self, pool: _Pool) -> Groups:
        similar = coo_array(iou(pool.objects, pool.objects))
        (rows, columns), values = similar.coords, similar.data
        draw_of = pool.members[:, 0]
        linked = (values >= self.min_iou) & (rows < columns) & (draw_of[rows] != draw_of[columns])
        rows, columns, values = rows[linked], columns[linked], values[linked]
        count = len(pool.objects)
        graph = coo_array((values, (rows, columns)), shape=(count, count))
        number, component = connected_components(graph, directed=False)
        sizes = np.bincount(component, minlength=number)
        edges = np.bincount(component[rows], minlength=number)
        agreed = edges == sizes * (sizes - 1) // 2  # everybody agrees with everybody: nothing to decide
        order = np.argsort(component, kind="stable")
        whole = np.split(order, np.cumsum(sizes)[:-1]) if count else []
        groups = [group.tolist() for group, simple in zip(whole, agreed, strict=True) if simple]
        open_edges = ~agreed[component[rows]]
        return groups + _link(rows[open_edges], columns[open_edges], values[open_edges], pool.ranks)


@dataclass(frozen=True)
class Suppression(Agglomeration):
    """The objects of all draws compete in one suppression, and the winners are *one* list: no agreement is counted.

    As Upschulte et al. 2022 merge the proposals of several networks before one non-maximum suppression, but on masks,
    so that it serves every method and objects that cross stay. In the order of falling scores (equal ones by position
    and shape, never by the order of the draws) an object is kept unless it overlaps one that was kept.

    The result is that of one draw, however many there were: existence is the object's own score, its mask the one with
    that score, and nothing is in conflict. Its ``members`` count within what was kept. An object that a single network
    invents weighs as much as one that all of them see; :class:`CompleteLinkage` tells these apart.

    Attributes:
        max_iou: the IoU above which the object of the lower score goes, in [0, 1] (U22: pi / 10, of boxes).
    """

    max_iou: float = math.pi / 10

    def __post_init__(self) -> None:
        if not 0 <= self.max_iou <= 1:
            raise ValueError(f"max_iou is {self.max_iou}; an intersection over union lies in [0, 1].")

    def __call__(self, draws: Sequence[Instances]) -> ProbabilisticInstances:
        """Objects of S draws of one image -> those that no better one overlaps.

        Raises:
            ValueError: no draw, more than 255, or draws of images of different shapes.
            FloatingPointError: a score is not finite.
        """
        pool = _Pool.of(draws)
        order = np.lexsort((pool.ranks, -pool.objects.scores))
        kept = _unsuppressed(iou(pool.objects, pool.objects), order, max_iou=self.max_iou)
        return super().__call__([pool.objects.select(kept)])

    def groups(self, pool: _Pool) -> Groups:
        return [[index] for index in range(len(pool.objects))]

    def tunable(self) -> Mapping[str, Sequence[Any]]:
        """``max_iou``."""
        near = (round(self.max_iou + step, 3) for step in (-0.2, -0.1, 0.1, 0.2, 0.3))
        return {"max_iou": tuple(value for value in near if 0 < value < 1)}


def _unsuppressed(ious: csr_array, order: NDArray[np.int64], *, max_iou: float) -> NDArray[np.int64]:
    """Indices of what is kept, in this order. ious: ``(N, N)``, of all objects with each other."""
    gone, kept = np.zeros(len(order), np.bool_), []
    for index in order.tolist():
        if not gone[index]:
            kept.append(index)
            row = slice(ious.indptr[index], ious.indptr[index + 1])
            gone[ious.indices[row][ious.data[row] > max_iou]] = True
    return np.array(kept, np.int64)


def _link(
    rows: NDArray[np.int64], columns: NDArray[np.int64], values: NDArray[np.float64], ranks: NDArray[np.int64]
) -> Groups:
    """Complete linkage on a sparse graph; pairs that are not listed may not be in one group."""
    members = {int(index): [int(index)] for index in np.union1d(rows, columns)}
    keys: dict[int, tuple[int, ...]] = {index: (int(ranks[index]),) for index in members}
    near: dict[int, dict[int, float]] = {index: {} for index in members}
    for a, b, value in zip(rows.tolist(), columns.tolist(), values.tolist(), strict=True):
        near[a][b] = near[b][a] = value

    def candidate(a: int, b: int) -> tuple[float, int, tuple[int, ...], tuple[int, ...], int, int]:
        if keys[b] < keys[a]:
            a, b = b, a
        return -near[a][b], -len(keys[a]) - len(keys[b]), keys[a], keys[b], a, b

    heap = [candidate(a, b) for a in near for b in near[a] if a < b]
    heapify(heap)
    new = len(ranks)
    while heap:
        *_, a, b = heappop(heap)
        if a not in members or b not in members:
            continue
        members[new] = members.pop(a) + members.pop(b)
        keys[new] = tuple(sorted(keys[a] + keys[b]))
        near_a, near_b = near.pop(a), near.pop(b)
        for other in near_a.keys() | near_b.keys():
            for gone in (a, b):
                near.get(other, {}).pop(gone, None)
        near[new] = {other: min(near_a[other], near_b[other]) for other in near_a.keys() & near_b.keys()}
        for other, value in near[new].items():
            near[other][new] = value
            heappush(heap, candidate(new, other))
        new += 1
    return list(members.values())


def _counts(objects: Instances, group: Sequence[int]) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Box of the union of a group's masks, and in how many of them every pixel of the box is."""
    corners = objects.boxes[list(group)]
    box = np.stack([corners[:, 0].min(axis=0), corners[:, 1].max(axis=0)])
    counts = np.zeros(box[1] - box[0], np.uint8)
    for index in group:
        counts[slices(objects.boxes[index] - box[0])] += objects.masks[index]
    return box, counts


def _unions(objects: Instances, groups: Groups) -> Instances:
    boxes, masks = [], []
    for group in groups:
        box, counts = _counts(objects, group)
        boxes.append(box)
        masks.append(counts > 0)
    return Instances.from_crops(boxes, masks, objects.shape)


def _summarise(pool: _Pool, groups: Groups) -> ProbabilisticInstances:
    """Counts, existence, members, features and conflicts of every group."""
    if not groups:
        return ProbabilisticInstances.empty(pool.objects.shape, pool.draws)
    scores = pool.objects.scores
    boxes, counts = zip(*(_counts(pool.objects, group) for group in groups), strict=True)
    # fsum: the exact sum, so that the order of the draws cannot change the last bit.
    existence = np.array([math.fsum(scores[group]) / pool.draws for group in groups])
    leaders = [min(group, key=lambda index: (-scores[index], pool.ranks[index])) for group in groups]
    found = ProbabilisticInstances(
        boxes=np.stack(boxes),
        counts=counts,
        draws=pool.draws,
        existence=existence,
        members=tuple(tuple(sorted(map(tuple, pool.members[group].tolist()))) for group in groups),
        conflicts=np.zeros((0, 2), np.int64),
        shape=pool.objects.shape,
        features={name: values[leaders] for name, values in pool.objects.features.items()}
        | _borders(pool, groups, leaders),
    )
    return replace(found, conflicts=conflicts(found))


def _borders(pool: _Pool, groups: Groups, leaders: Sequence[int]) -> dict[str, NDArray[Any]]:
    """``border``: how far off the sides of a leader's box may be, of all that is known, where members say so at all.

    The mean of the members' variances, what they say of the image, plus the mean square of what lies between the
    leader's side and that of every other member, ``border_spread`` squared: if the truth is where another draw might
    see it, this is the expected square of the leader's error. Both ``(G, 2, D)`` in pixels. A member that stands alone
    among several draws has nothing to be compared with: its spread is NaN, and counts as none.
    """
    if "border" not in pool.objects.features or pool.draws == 1:
        return {}
    noise = [_root_mean_square(pool.objects.features["border"][group]) for group in groups]
    ends = sides(pool.objects)
    others = [[index for index in group if index != leader] for group, leader in zip(groups, leaders, strict=True)]
    spread = [_root_mean_square(ends[rest] - ends[leader]) for rest, leader in zip(others, leaders, strict=True)]
    total = np.hypot(noise, np.nan_to_num(spread))
    return {"border": total.astype(np.float32), "border_spread": np.asarray(spread, np.float32)}


def _root_mean_square(values: NDArray[Any]) -> NDArray[np.float64]:
    """``(n, ...)`` -> ``(...)``; NaN of none."""
    if not len(values):
        return np.full(values.shape[1:], math.nan)
    # Sorted, so that the order of the draws cannot change the last bit.
    mean: NDArray[np.float64] = np.sqrt(np.sort(np.square(values.astype(np.float64)), axis=0).mean(axis=0))
    return mean


def conflicts(found: ProbabilisticInstances) -> NDArray[np.int64]:
    """``(M, 2)`` pairs that share more than ``CONFLICT_SHARE`` of the smaller mask and never occur in one draw."""
    every = found.hypotheses()
    shares = coo_array(overlap_fraction(every, every))
    rows, columns = shares.coords
    close = (shares.data > CONFLICT_SHARE) & (rows < columns)
    rows, columns = rows[close], columns[close]
    apart = ~(found.occurs[rows] & found.occurs[columns]).any(axis=1)
    return np.stack([rows[apart], columns[apart]], axis=1).astype(np.int64)
