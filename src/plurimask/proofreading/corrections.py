"""What corrections do to the scores of one image, without matching all of its objects anew.

True positives add up over the connected components of "this true and that present object have at least the lowest
threshold as their IoU". A component rarely has more than two objects and has few states: each state is matched once and
remembered. What an inspection does to a component that no other one touches is the same in every order, so that only
the few *tangles*, components that several inspections touch, have to be followed, and a hundred orders through hundreds
of objects cost little more than their sums.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import coo_array, csr_array, hstack
from scipy.sparse.csgraph import connected_components

from plurimask.metrics.matching import match_ious
from plurimask.ops.overlap import iou
from plurimask.proofreading.inspections import Inspection, Queue, Scene


@dataclass(frozen=True, eq=False)
class Components:
    """Which objects can be matched, where the M found objects and copies of the T true ones may be present.

    Attributes:
        ious: C matrices, true objects times objects that may be present; 0 below the lowest threshold.
        component: M + T times which of them an object belongs to, the found ones first.
        bit: M + T times its column there; the n-th of them is present where a state has the bit ``1 << n``.
        before: C states before any correction: the found objects are present.
        thresholds: the R intersections over union from which a pair counts.
    """

    ious: tuple[NDArray[np.float64], ...]
    component: tuple[int, ...]
    bit: tuple[int, ...]
    before: tuple[int, ...]
    thresholds: tuple[float, ...]
    _counted: dict[tuple[int, int], NDArray[np.int64]] = field(default_factory=dict)

    @classmethod
    def of(cls, scene: Scene, thresholds: Sequence[float]) -> Components:
        entries = coo_array(hstack([scene.ious, iou(scene.truth, scene.truth)]))
        kept = entries.data >= min(thresholds)
        rows, columns, values = entries.coords[0][kept], entries.coords[1][kept], entries.data[kept]
        truths, nodes = entries.shape[0], sum(entries.shape)
        graph = coo_array((values, (rows, columns + truths)), shape=(nodes, nodes))
        count, component = connected_components(graph, directed=False)
        (heights, row_of), (widths, bit) = (_places(part, count) for part in (component[:truths], component[truths:]))
        ious = tuple(np.zeros(size) for size in zip(heights.tolist(), widths.tolist(), strict=True))
        for row, column, value in zip(rows.tolist(), columns.tolist(), values.tolist(), strict=True):
            ious[component[row]][row_of[row], bit[column]] = value
        owners, bits = tuple(component[truths:].tolist()), tuple(bit.tolist())
        before = [0] * count
        for owner, place in zip(owners[: len(scene.found)], bits, strict=False):
            before[owner] |= 1 << place
        return cls(ious, owners, bits, tuple(before), tuple(thresholds))

    @cached_property
    def truth_count(self) -> int:
        """T."""
        return sum(map(len, self.ious))

    @cached_property
    def start(self) -> NDArray[np.int64]:
        """``(R + 1,)`` counts of all components before any correction."""
        nothing = np.zeros(len(self.thresholds) + 1, np.int64)
        total: NDArray[np.int64] = np.sum([nothing, *itertools.starmap(self.count, enumerate(self.before))], axis=0)
        return total

    def count(self, component: int, state: int) -> NDArray[np.int64]:
        """``(R + 1,)`` true positives at every threshold, and number of objects present, of one component."""
        key = (component, state)
        if key not in self._counted:
            every = self.ious[component]
            present = [place for place in range(every.shape[1]) if state >> place & 1]
            counts = np.full(len(self.thresholds) + 1, len(present))
            counts[:-1] = _true_positives(every[:, present], self.thresholds)
            self._counted[key] = counts
        return self._counted[key]

    def effects(self, inspection: Inspection) -> dict[int, tuple[int, int]]:
        """Component -> bits of the objects that an inspection removes there, and of those that it puts in."""
        copies = len(self.component) - self.truth_count
        effects = dict[int, tuple[int, int]]()
        for index in inspection.goes:
            clear, set_ = effects.get(self.component[index], (0, 0))
            effects[self.component[index]] = clear | 1 << self.bit[index], set_
        for index in inspection.comes:
            clear, set_ = effects.get(self.component[copies + index], (0, 0))
            effects[self.component[copies + index]] = clear, set_ | 1 << self.bit[copies + index]
        return effects


@dataclass(frozen=True, eq=False)
class Tangle:
    """A component that k inspections touch: what one of them changes depends on which were made before it.

    Attributes:
        components: all of the image.
        component: which of them.
        inspections: ``(k,)`` indices of those that touch it.
        effects: k times the bits of the objects that go, and of those that come.
    """

    components: Components
    component: int
    inspections: NDArray[np.int64]
    effects: tuple[tuple[int, int], ...]

    def counts(self, made: int) -> NDArray[np.int64]:
        """``(R + 1,)`` after some of the inspections, in any order: the n-th of them has the bit ``1 << n``."""
        state = self.components.before[self.component]
        for place, (clear, set_) in enumerate(self.effects):
            if made >> place & 1:
                state = state & ~clear | set_
        return self.components.count(self.component, state)

    def changes(self, order: NDArray[np.int64], made: NDArray[np.bool_]) -> NDArray[np.int64]:
        """``(K, k, R + 1)`` what each inspection changes, those made in the order of a row of ``(K, k)``.

        made: ``(K, k)`` which of the row are made at all; the others come last.
        """
        # Python's own integers where 63 bits do not suffice.
        bits = np.array([1 << place for place in range(len(self.effects))], None if len(self.effects) < 63 else object)
        sets, rows = np.unique(np.cumsum(bits[order] * made, axis=1), return_inverse=True)
        after = np.array([self.counts(int(each)) for each in sets])[rows.reshape(order.shape)]
        start = np.broadcast_to(self.counts(0), (len(order), 1, after.shape[-1]))
        return np.diff(after, axis=1, prepend=start)


@dataclass(frozen=True, eq=False)
class Corrections:
    """One image, its queue, and what every inspection changes. Counts are R true positives and the number of objects.

    Attributes:
        queue: Q places to look at.
        truth_count: number of true objects.
        start: ``(R + 1,)`` counts before any correction.
        alone: ``(Q, R + 1)`` how an inspection changes the counts of the components that no other one touches.
        tangles: the other components.
        empty: S where there is nothing in the truth and nothing is present.
    """

    queue: Queue
    truth_count: int
    start: NDArray[np.int64]
    alone: NDArray[np.int64]
    tangles: tuple[Tangle, ...]
    empty: float

    @classmethod
    def of(cls, components: Components, queue: Queue, *, empty: float) -> Corrections:
        """The corrections of one image. empty: as in :func:`plurimask.metrics.segmentation.score`."""
        touching: dict[int, dict[int, tuple[int, int]]] = {}
        for index, inspection in enumerate(queue.inspections):
            for component, effect in components.effects(inspection).items():
                touching.setdefault(component, {})[index] = effect
        alone = np.zeros((len(queue.inspections), len(components.start)), np.int64)
        tangles = []
        for component, effects in touching.items():
            if len(effects) > 1:
                tangles.append(Tangle(components, component, np.array(list(effects)), tuple(effects.values())))
                continue
            ((index, (clear, set_)),) = effects.items()
            before = components.before[component]
            alone[index] += components.count(component, before & ~clear | set_) - components.count(component, before)
        return cls(queue, components.truth_count, components.start, alone, tuple(tangles), empty)

    @cached_property
    def tangled(self) -> dict[int, list[tuple[int, int]]]:
        """Inspection -> its tangles, each with the inspection's bit there; only of inspections that have any."""
        tangled: dict[int, list[tuple[int, int]]] = {}
        for number, tangle in enumerate(self.tangles):
            for place, index in enumerate(tangle.inspections.tolist()):
                tangled.setdefault(index, []).append((number, 1 << place))
        return tangled

    def counts(self, orders: ArrayLike) -> NDArray[np.int64]:
        """``(K, J + 1, R + 1)`` counts before and after each of the J inspections of K orders ``(K, J)``."""
        ways = np.asarray(orders, np.int64)
        number, length = ways.shape
        turn = np.full((number, len(self.alone)), length)  # what is not inspected comes behind the last one
        np.put_along_axis(turn, ways, np.arange(length)[None], axis=1)
        changes = np.empty((number, length + 2, len(self.start)), np.int64)
        changes[:, 0], changes[:, 1:-1] = self.start, self.alone[ways]
        touched = {tangle for index in np.unique(ways).tolist() for tangle, _ in self.tangled.get(index, ())}
        for tangle in sorted(touched):
            own = turn[:, self.tangles[tangle].inspections]
            order = own.argsort(axis=1)
            places = np.take_along_axis(own, order, axis=1)
            changes[np.arange(number)[:, None], places + 1] += self.tangles[tangle].changes(order, places < length)
        return changes[:, :-1].cumsum(axis=1)

    def s(self, counts: NDArray[np.int64]) -> NDArray[np.float64]:
        """``(..., R)`` S = TP / (TP + FP + FN), see :class:`plurimask.metrics.segmentation.Scores`."""
        tp, present = counts[..., :-1], counts[..., -1:]
        whole = self.truth_count + present - tp
        return np.where(whole > 0, tp / np.maximum(1, whole), self.empty)

    def greedy(self) -> Iterator[tuple[int, float]]:
        """Inspections in the order of their true gain in mean S, each the best that is left; with the gain.

        The best next step is not always on the best way, so this bounds the orders that do not know the truth in
        practice, not by proof. Of equal gains the first inspection.
        """
        made, counts = [0] * len(self.tangles), self.start
        changes = self.alone.copy()
        for index in self.tangled:
            changes[index] = self._change(index, made)
        left = np.ones(len(changes), np.bool_)
        while left.any():
            options = np.flatnonzero(left)
            after = self.s(counts + changes[options]).mean(axis=-1)
            best = int(options[after.argmax()])
            yield best, float(after.max() - self.s(counts).mean())
            counts = counts + changes[best]
            left[list(self.queue.inspections[best].settles)] = False
            for tangle, bit in self.tangled.get(best, ()):
                made[tangle] |= bit
            for tangle, _ in self.tangled.get(best, ()):
                for other in self.tangles[tangle].inspections[left[self.tangles[tangle].inspections]].tolist():
                    changes[other] = self._change(other, made)

    def _change(self, index: int, made: Sequence[int]) -> NDArray[np.int64]:
        """``(R + 1,)`` what an inspection changes where some inspections were made before it, in every tangle."""
        total: NDArray[np.int64] = self.alone[index].copy()
        for number, bit in self.tangled.get(index, ()):
            tangle = self.tangles[number]
            total += tangle.counts(made[number] | bit) - tangle.counts(made[number])
        return total


def _places(part: NDArray[np.int32], count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """How many elements of ``part`` each of ``count`` components has, and the place of every element in its own."""
    sizes = np.bincount(part, minlength=count)
    places = np.empty(len(part), np.int64)
    places[np.argsort(part, kind="stable")] = np.arange(len(part)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return sizes, places


def _true_positives(ious: NDArray[np.float64], thresholds: Sequence[float]) -> NDArray[np.int64]:
    """``(R,)`` pairs of the optimal matching at every threshold."""
    if min(ious.shape) <= 1:
        largest = float(ious.max(initial=0.0))
        return np.array([largest >= threshold for threshold in thresholds], np.int64)
    return np.array([matching.tp for matching in match_ious(csr_array(ious), thresholds)], np.int64)
