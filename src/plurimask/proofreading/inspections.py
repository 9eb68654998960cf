"""What a person who looks at a doubtful place sees and corrects, where the truth is known: the rules of the simulation.

Rumberger et al. 2020 (R20), Table 2: the objects in or next to the patches of highest entropy are replaced by their
true counterparts. Where the paper is silent (docs/algorithms.md, 2.7), this holds:

* **Patches** have 4 pixels a side, on a fixed grid that begins in the corner of the image. A patch's entropy is that of
  *one* hypothesis, the mean of H(count / draws) in nats; pixels that a patch lacks at the border count as certain. A
  hypothesis' *peak* is its patch of highest entropy; of equal ones that with the largest counts, then the first.
* **Next to** a patch are the 3 x 3 patches around it (in 2-D); next to a hypothesis those around every patch in which
  any draw has a pixel of it.
* A found object's **counterpart** is the true object with the largest IoU above 0, of equal ones the first. To correct
  the object is to put in its counterpart, or to remove it where it has none.
* **Nothing is in twice.** Where a true object comes in, all found objects go whose counterpart it is.
* A **missed** object is the counterpart of nothing found. It comes in where it has a pixel in what is looked at.

So a set of inspections has the same outcome in every order. Each of them is *one* correction, however many objects it
puts right. There are two kinds:

* :func:`at_peaks`, R20's. The place is a peak and what is next to it. The doubt of what was corrected is 0 from then on
  (the paper does not say so, but else its 20 highest patches lie on two objects), and so is that of rejected hypotheses
  that have a pixel in the place or are in conflict with what was corrected. As entropies do not change otherwise, "take
  the highest peak, correct, set to 0, repeat" means to go through the hypotheses by falling peaks and to leave out the
  settled ones. Hypotheses of which all draws agree have a peak of 0 and are looked at last.
* :func:`at_objects`. The place is a hypothesis with the rivals that it is in conflict with (and theirs), and what is
  next to them. Objects with the same counterpart are one inspection (known from the truth, for every order alike): who
  mends one half of a split worm sees the other. Every hypothesis belongs to exactly one inspection.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import connected_components

from plurimask import uncertainty
from plurimask.instances import Instances, Mask, slices
from plurimask.ops.overlap import intersections, iou
from plurimask.probabilistic import ProbabilisticInstances

PATCH = 4
"""Pixels along a side of a patch, as in R20."""

_DIGITS = 12  # equal patches are equal, whatever the order in which their pixels were added up


@dataclass(frozen=True)
class Inspection:
    """A look at one place.

    Attributes:
        goes: indices of the found objects that it removes.
        comes: indices of the true objects that it puts in.
        settles: indices of the inspections of the same queue that need not be made after it, itself among them.
    """

    goes: frozenset[int]
    comes: frozenset[int]
    settles: frozenset[int]


@dataclass(frozen=True, eq=False)
class Queue:
    """All places of one image that may be looked at.

    Attributes:
        inspections: Q of them.
        doubts: ``(Q,)`` :func:`plurimask.uncertainty.doubt` of the hypothesis asked about, the largest of several.
        peaks: ``(Q,)`` mean entropy of its peak in nats, the largest of several.
    """

    inspections: tuple[Inspection, ...]
    doubts: NDArray[np.float64]
    peaks: NDArray[np.float64]

    def within_reach(self) -> frozenset[int]:
        """Indices of the true objects that some inspection puts in."""
        return frozenset[int]().union(*(one.comes for one in self.inspections))


@dataclass(frozen=True, eq=False)
class Scene:
    """One image: N hypotheses, the M of them that are its segmentation, and T true objects.

    Attributes:
        doubtful: the hypotheses.
        found: the segmentation; its feature ``hypothesis`` says which hypothesis an object is.
        truth: the true objects.

    Raises:
        ValueError: the truth is that of an image of another shape, or the feature is not there.
    """

    doubtful: ProbabilisticInstances
    found: Instances
    truth: Instances

    def __post_init__(self) -> None:
        if self.truth.shape != self.doubtful.shape:
            raise ValueError(
                f"the truth's image has shape {self.truth.shape}, the hypotheses' {self.doubtful.shape}; they must be "
                "equal: are these of the same image, and neither cropped nor rescaled?"
            )
        if "hypothesis" not in self.found.features:
            raise ValueError(
                f"the segmentation has the features {sorted(self.found.features)}, but none says which hypothesis an "
                'object is; take it with best() or threshold(), or add the feature "hypothesis".'
            )

    @cached_property
    def hypothesis(self) -> NDArray[np.int64]:
        """``(M,)`` which hypothesis a found object is."""
        return np.asarray(self.found.features["hypothesis"], np.int64)

    @cached_property
    def shown(self) -> NDArray[np.bool_]:
        """``(N,)`` whether a hypothesis is in the segmentation; the others are rejected."""
        return np.isin(np.arange(len(self.doubtful)), self.hypothesis)

    @cached_property
    def ious(self) -> csr_array:
        """``(T, M)`` intersections over union of true and found objects."""
        return iou(self.truth, self.found)

    @cached_property
    def counterpart(self) -> NDArray[np.int64]:
        """``(M,)`` which true object a found one is meant to be, -1 where it is none."""
        entries = coo_array(self.ious)
        truth, found = entries.coords
        counterpart = np.full(len(self.found), -1, np.int64)
        # The last one written stays: the largest IoU, of equal ones that of the first true object.
        order = np.lexsort((-truth, entries.data))
        counterpart[found[order]] = truth[order]
        return counterpart

    @cached_property
    def missed(self) -> frozenset[int]:
        """The true objects that are the counterpart of nothing found."""
        return frozenset(range(len(self.truth))) - frozenset(self.counterpart.tolist())

    @cached_property
    def doubts(self) -> NDArray[np.float64]:
        """``(N,)`` how wrong each hypothesis' being shown or not is expected to be."""
        return uncertainty.doubt(self.doubtful.expected_ious, self.shown)

    @cached_property
    def patches(self) -> tuple[_Patches, ...]:
        """The patches of every hypothesis."""
        levels = uncertainty.binary_entropy(np.arange(self.doubtful.draws + 1) / self.doubtful.draws)
        return tuple(
            _Patches.of(box, counts, levels)
            for box, counts in zip(self.doubtful.boxes, self.doubtful.counts, strict=True)
        )

    @cached_property
    def claimants(self) -> tuple[frozenset[int], ...]:
        """The found objects whose counterpart each true object is."""
        claimants: list[list[int]] = [[] for _ in range(len(self.truth))]
        for found, truth in enumerate(self.counterpart.tolist()):
            if truth >= 0:
                claimants[truth].append(found)
        return tuple(map(frozenset, claimants))

    def corrected(self, looked_at: Iterable[int], near: Iterable[int]) -> tuple[frozenset[int], frozenset[int]]:
        """The found objects that go and the true ones that come in.

        looked_at: found objects; near: true ones, of which only the missed matter.
        """
        looked_at = frozenset(looked_at)
        wanted = frozenset(self.counterpart[list(looked_at)].tolist()) - {-1}
        claimants = (self.claimants[truth] for truth in wanted)
        return looked_at.union(*claimants), wanted | self.missed.intersection(near)


def at_peaks(scene: Scene) -> Queue:
    """R20's inspections, one for every hypothesis: at its peak."""
    places = _around_peaks(scene)
    found_there, truth_there = intersections(places, scene.found), intersections(places, scene.truth)
    touching = intersections(places, _supports(scene.doubtful))
    own = dict(zip(scene.hypothesis.tolist(), range(len(scene.found)), strict=True))
    shown = scene.shown.tolist()
    rivals = _neighbours(scene.doubtful.conflicts, len(scene.doubtful))
    inspections = []
    for index in range(len(scene.doubtful)):
        # The mask of an object may have no pixel next to its peak; the object is what is asked about nevertheless.
        looked_at = {*_row(found_there, index), own.get(index, -1)} - {-1}
        goes, comes = scene.corrected(looked_at, _row(truth_there, index))
        corrected = set(scene.hypothesis[sorted(goes)].tolist())
        others = {*_row(touching, index), *(rival for one in corrected for rival in rivals[one])}
        settled = corrected | {index} | {other for other in others if not shown[other]}
        inspections.append(Inspection(goes, comes, frozenset(settled)))
    return Queue(tuple(inspections), scene.doubts, np.array([patches.peak for patches in scene.patches]))


def at_objects(scene: Scene) -> Queue:
    """Inspections of whole objects, one for every group of hypotheses that are rivals or have one counterpart."""
    near = _near(scene)
    peaks = np.array([patches.peak for patches in scene.patches])
    group_of = _groups(scene)
    looked_at: list[list[int]] = [[] for _ in range(group_of.max(initial=-1) + 1)]
    missed, doubts, highest = [list[int]() for _ in looked_at], np.zeros(len(looked_at)), np.zeros(len(looked_at))
    for found, group in enumerate(group_of[scene.hypothesis].tolist()):
        looked_at[group].append(found)
    for member, group in enumerate(group_of.tolist()):
        missed[group] += near[member]
    np.maximum.at(doubts, group_of, scene.doubts)
    np.maximum.at(highest, group_of, peaks)
    inspections = [
        Inspection(*scene.corrected(*both), frozenset({number}))
        for number, both in enumerate(zip(looked_at, missed, strict=True))
    ]
    return Queue(tuple(inspections), doubts, highest)


@dataclass(frozen=True, eq=False)
class _Patches:
    """The patches in the box of one hypothesis.

    Attributes:
        origin: ``(D,)`` place of the first patch on the grid.
        counts: its summed counts, patch by patch.
        entropies: mean entropy of every patch, in nats.
    """

    origin: NDArray[np.int64]
    counts: NDArray[np.int64]
    entropies: NDArray[np.float64]

    @classmethod
    def of(cls, box: NDArray[np.int64], counts: NDArray[np.uint8], levels: NDArray[np.float64]) -> _Patches:
        origin, tiles = _tiles(box, counts)
        entropies = (levels[tiles].sum(axis=_within(tiles)) / PATCH**counts.ndim).round(_DIGITS)
        return cls(origin, tiles.sum(axis=_within(tiles), dtype=np.int64), entropies)

    @cached_property
    def peak(self) -> float:
        """The highest entropy."""
        return float(self.entropies.max(initial=0.0))

    @property
    def place(self) -> list[int]:
        """Of the peak on the grid, D numbers."""
        best = np.where(self.entropies == self.peak, self.counts, -1)
        place: list[int] = (self.origin + np.unravel_index(best.argmax(), best.shape)).tolist()
        return place


def _around_peaks(scene: Scene) -> Instances:
    """For every hypothesis the pixels of its peak and of the patches next to it."""
    ndim = scene.truth.ndim
    start = (np.array([patches.place for patches in scene.patches], np.int64).reshape(-1, ndim) - 1) * PATCH
    boxes = np.stack([np.maximum(start, 0), np.minimum(start + 3 * PATCH, scene.truth.shape)], axis=1)
    masks = [np.ones(size, np.bool_) for size in (boxes[:, 1] - boxes[:, 0]).tolist()]
    return Instances.from_crops(boxes, masks, scene.truth.shape)


def _near(scene: Scene) -> list[list[int]]:
    """For every hypothesis the missed objects with a pixel in or next to a patch that any draw has a pixel of it in.

    Counted in patches instead of pixels, on a grid with one more patch on every side of the image. What is next to what
    is mutual: it is the missed objects, a few, that grow by a patch.
    """
    shape = [-(-size // PATCH) + 2 for size in scene.truth.shape]
    missed = sorted(scene.missed)
    objects = [_grown(scene.truth.boxes[index], scene.truth.masks[index]) for index in missed]
    seen = [(patches.origin + 1, patches.counts > 0) for patches in scene.patches]
    there = intersections(_places(seen, shape), _places(objects, shape))
    return [[missed[place] for place in _row(there, index)] for index in range(len(seen))]


def _grown(box: NDArray[np.int64], mask: Mask) -> tuple[NDArray[np.int64], Mask]:
    """The patches that a mask has a pixel in, with what is next to them; the grid begins one patch before the image."""
    origin, tiles = _tiles(box, mask)
    patches = np.pad(tiles.any(axis=_within(tiles)), 1)
    return origin, ndimage.binary_dilation(patches, np.ones((3,) * patches.ndim))


def _places(parts: Sequence[tuple[NDArray[np.int64], Mask]], shape: Sequence[int]) -> Instances:
    """From where a mask begins, and the mask."""
    boxes = [[origin, origin + mask.shape] for origin, mask in parts]
    return Instances.from_crops(np.array(boxes, np.int64), [mask for _, mask in parts], shape)


def _tiles(box: NDArray[np.int64], crop: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """A crop in its box, cut into patches: where the first one lies on the grid, and ``(rows, 4, columns, 4)``."""
    origin = box[0] // PATCH
    grid = -(-box[1] // PATCH) - origin
    padded = np.zeros(grid * PATCH, crop.dtype)
    padded[slices(box - origin * PATCH)] = crop
    return origin, padded.reshape([size for length in grid.tolist() for size in (length, PATCH)])


def _within(tiles: NDArray[Any]) -> tuple[int, ...]:
    """The axes of :func:`_tiles` that run within a patch."""
    return tuple(range(1, tiles.ndim, 2))


def _supports(doubtful: ProbabilisticInstances) -> Instances:
    """The pixels of every hypothesis in any draw."""
    return Instances.from_crops(doubtful.boxes, [counts > 0 for counts in doubtful.counts], doubtful.shape)


def _row(matrix: csr_array, index: int) -> list[int]:
    """The columns stored in a row."""
    columns: list[int] = matrix.indices[matrix.indptr[index] : matrix.indptr[index + 1]].tolist()
    return columns


def _neighbours(pairs: NDArray[np.int64], count: int) -> list[set[int]]:
    neighbours: list[set[int]] = [set() for _ in range(count)]
    for a, b in pairs.tolist():
        neighbours[a].add(b)
        neighbours[b].add(a)
    return neighbours


def _groups(scene: Scene) -> NDArray[np.int64]:
    """``(N,)`` which inspection of :func:`at_objects` a hypothesis belongs to, numbered by their first hypotheses."""
    count = len(scene.doubtful)
    # A chain through the claimants of a true object joins all of them.
    order = np.argsort(scene.counterpart, kind="stable")
    same = np.diff(scene.counterpart[order]) == 0
    same &= scene.counterpart[order][1:] >= 0
    chain = scene.hypothesis[np.stack([order[:-1][same], order[1:][same]], axis=1)]
    pairs = np.concatenate([scene.doubtful.conflicts, chain])
    graph = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    group_of: NDArray[np.int64] = connected_components(graph, directed=False)[1].astype(np.int64)
    return group_of
