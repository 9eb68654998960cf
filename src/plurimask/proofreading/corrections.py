"""What corrections do to the scores of one image, without matching all of its objects anew.

True positives add up over the connected components of "this true and that present object have at least the lowest
threshold as their IoU". A component rarely has more than two objects and has few states: each state is matched once and
remembered, and an inspection that shares no component with others changes the counts by the same in every order. So a
hundred orders through hundreds of objects cost little more than their sums.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array, hstack
from scipy.sparse.csgraph import connected_components

from plurimask.metrics.matching import match_ious
from plurimask.ops.overlap import iou
from plurimask.proofreading.inspections import Queue, Scene

Step = tuple[tuple[int, int, int], ...]
"""(component, bits of the objects that go, bits of those that come) for every component that an inspection touches."""


@dataclass(frozen=True, eq=False)
class Components:
    """Which objects can be matched, where the M found objects and copies of the T true ones may be present.

    Attributes:
        ious: C matrices, true objects times objects that may be present; 0 below the lowest threshold.
        component: ``(M + T,)`` which of them an object belongs to, the found ones first.
        bit: ``(M + T,)`` its column there; the n-th of them is present where a state has the bit ``1 << n``.
        thresholds: the R intersections over union from which a pair counts.
    """

    ious: tuple[NDArray[np.float64], ...]
    component: NDArray[np.int64]
    bit: NDArray[np.int64]
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
        for row, column, value in zip(rows, columns, values, strict=True):
            ious[component[row]][row_of[row], bit[column]] = value
        return cls(ious, component[truths:].astype(np.int64), bit, tuple(thresholds))

    def count(self, component: int, state: int) -> NDArray[np.int64]:
        """``(R + 1,)`` true positives at every threshold, and number of objects present, of one component."""
        key = (component, state)
        if key not in self._counted:
            every = self.ious[component]
            present = every[:, [bool(state >> place & 1) for place in range(every.shape[1])]]
            self._counted[key] = np.array([*_true_positives(present, self.thresholds), present.shape[1]], np.int64)
        return self._counted[key]

    def states(self, present: Iterable[int]) -> list[int]:
        """The state of every component where only these objects are present."""
        states = [0] * len(self.ious)
        for index in present:
            states[self.component[index]] |= 1 << int(self.bit[index])
        return states

    def step(self, goes: Iterable[int], comes: Iterable[int]) -> Step:
        """The components that change where these objects go and those come."""
        clear, set_ = dict[int, int](), dict[int, int]()
        for bits, indices in ((clear, goes), (set_, comes)):
            for index in indices:
                component = int(self.component[index])
                bits[component] = bits.get(component, 0) | 1 << int(self.bit[index])
        return tuple((component, clear.get(component, 0), set_.get(component, 0)) for component in {**clear, **set_})

    def change(self, states: list[int], step: Step) -> NDArray[np.int64]:
        """``(R + 1,)`` how the counts change; ``states`` are brought up to date."""
        total = np.zeros(len(self.thresholds) + 1, np.int64)
        for component, clear, set_ in step:
            before = states[component]
            states[component] = before & ~clear | set_
            total += self.count(component, states[component]) - self.count(component, before)
        return total


@dataclass(frozen=True, eq=False)
class Corrections:
    """One image, its queue, and what every inspection changes. Counts are R true positives and the number of objects.

    Attributes:
        queue: Q places to look at.
        components: in which its objects are counted.
        truth_count: number of true objects.
        states: of the components before any correction.
        steps: what every inspection does to them.
        first: ``(Q, R + 1)`` how an inspection changes the counts if it is the first.
        entangled: for every inspection those that touch one of its components, itself left out.
        empty: S where there is nothing in the truth and nothing is present.
    """

    queue: Queue
    components: Components
    truth_count: int
    states: tuple[int, ...]
    steps: tuple[Step, ...]
    first: NDArray[np.int64]
    entangled: tuple[frozenset[int], ...]
    empty: float

    @classmethod
    def of(cls, scene: Scene, queue: Queue, *, thresholds: Sequence[float], empty: float) -> Corrections:
        """The corrections of one image. empty: as in :func:`plurimask.metrics.segmentation.score`."""
        components = Components.of(scene, thresholds)
        states = tuple(components.states(range(len(scene.found))))
        copies = len(scene.found)
        steps = tuple(components.step(one.goes, [copies + truth for truth in one.comes]) for one in queue.inspections)
        first = [components.change(list(states), step) for step in steps]
        changes = np.array(first, np.int64).reshape(len(steps), len(thresholds) + 1)
        return cls(queue, components, len(scene.truth), states, steps, changes, _entangled(steps), empty)

    def counts(self, order: Sequence[int]) -> NDArray[np.int64]:
        """``(J + 1, R + 1)`` counts before and after each of the J inspections of ``order``."""
        changes = np.concatenate([self.start[None], self.first[list(order)]])
        states = list(self.states)
        for place, index in enumerate(order, start=1):
            if self.entangled[index]:
                changes[place] = self.components.change(states, self.steps[index])
        return changes.cumsum(axis=0)

    @cached_property
    def start(self) -> NDArray[np.int64]:
        """``(R + 1,)`` counts before any correction."""
        nothing = np.zeros(len(self.components.thresholds) + 1, np.int64)
        counts = [nothing, *(self.components.count(*pair) for pair in enumerate(self.states))]
        total: NDArray[np.int64] = np.sum(counts, axis=0)
        return total

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
        states, counts, changes = list(self.states), self.start, self.first.copy()
        left = set(range(len(self.steps)))
        while left:
            options = np.array(sorted(left))
            after = self.s(counts + changes[options]).mean(axis=-1)
            best = int(options[after.argmax()])
            yield best, float(after.max() - self.s(counts).mean())
            counts = counts + self.components.change(states, self.steps[best])
            left -= self.queue.inspections[best].settles
            for other in self.entangled[best] & left:
                changes[other] = self.components.change(list(states), self.steps[other])


def _places(part: NDArray[np.int32], count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """How many elements of ``part`` each of ``count`` components has, and the place of every element in its own."""
    sizes = np.bincount(part, minlength=count)
    places = np.empty(len(part), np.int64)
    places[np.argsort(part, kind="stable")] = np.arange(len(part)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return sizes, places


def _true_positives(ious: NDArray[np.float64], thresholds: Sequence[float]) -> NDArray[np.int64]:
    """``(R,)`` pairs of the optimal matching at every threshold."""
    if min(ious.shape) <= 1:
        return np.array([ious.max(initial=0.0) >= threshold for threshold in thresholds], np.int64)
    return np.array([matching.tp for matching in match_ious(csr_array(ious), thresholds)], np.int64)


def _entangled(steps: Sequence[Step]) -> tuple[frozenset[int], ...]:
    touching: dict[int, set[int]] = {}
    for index, step in enumerate(steps):
        for component, _, _ in step:
            touching.setdefault(component, set()).add(index)
    return tuple(
        frozenset(other for component, _, _ in step for other in touching[component]) - {index}
        for index, step in enumerate(steps)
    )
