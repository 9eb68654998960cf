"""Objects with doubt: what several draws agree and disagree on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plurimask import uncertainty
from plurimask.instances import Instances, Mask, bounding_box, slices
from plurimask.selection import most_probable

Calibration = Callable[[NDArray[np.float64]], NDArray[np.float64]]

SIDES = {"top": (0, -2), "right": (1, -1), "bottom": (1, -2), "left": (0, -1), "front": (0, -3), "back": (1, -3)}
"""Sides of a box: name -> (end, axis), as :data:`plurimask.instances.ENDS` has them."""


@dataclass(frozen=True, eq=False)
class ProbabilisticInstances:
    """Hypotheses about the objects of one image, from S draws of a posterior.

    Attributes:
        boxes: ``(N, 2, D)`` int64, start and stop of the union of an object's members.
        counts: N uint8 crops: in how many draws the pixel belongs to the object.
        draws: S, the number of draws (at most 255).
        existence: ``(N,)`` float64: the probability that the object exists: the mean over the draws of the matched
            member's score (0 where there is none), or what a calibrated model makes of that mean.
        members: for every object the ``(draw, index)`` pairs that it was made of, at most one a draw.
        conflicts: ``(M, 2)`` int64: pairs of objects that cannot both be true ("one object or two?").
        shape: shape of the image.
        features: name -> array with first axis N. Where existence was calibrated, ``raw_existence`` is what it was;
            where the expected IoU was, ``expected_iou`` is what it became.
    """

    boxes: NDArray[np.int64]
    counts: tuple[NDArray[np.uint8], ...]
    draws: int
    existence: NDArray[np.float64]
    members: tuple[tuple[tuple[int, int], ...], ...]
    conflicts: NDArray[np.int64]
    shape: tuple[int, ...]
    features: Mapping[str, NDArray[Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        count, ndim = len(self.counts), len(self.shape)
        lengths = {len(self.boxes), len(self.existence), len(self.members), *map(len, self.features.values()), count}
        if len(lengths) > 1 or self.boxes.shape[1:] != (2, ndim):
            raise ValueError(
                f"{count} objects in {ndim}-D need boxes of shape {(count, 2, ndim)} and one existence, one tuple of "
                f"members and one row of every feature each, but came with boxes of shape {self.boxes.shape}, "
                f"{len(self.existence)} existences and {len(self.members)} tuples of members."
            )
        if not 1 <= self.draws <= 255:
            raise ValueError(f"{self.draws} draws: counts are kept in 8 bits, so there must be 1 to 255.")
        if not np.isfinite(self.existence).all():
            broken = np.flatnonzero(~np.isfinite(self.existence)).tolist()
            raise FloatingPointError(f"the existence of objects {broken} is not finite; look for NaN in their scores.")

    def __len__(self) -> int:
        return len(self.counts)

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @classmethod
    def empty(cls, shape: Sequence[int], draws: int) -> ProbabilisticInstances:
        """No object in any draw of an image of this shape."""
        nothing = np.zeros((0, 2), np.int64)
        return cls(np.zeros((0, 2, len(shape)), np.int64), (), draws, np.zeros(0), (), nothing, tuple(shape))

    # ------------------------------------------------------------------------------------------- what the draws say

    @property
    def raw_existence(self) -> NDArray[np.float64]:
        """``(N,)`` existence before any calibration: the mean over the draws of the matched member's score."""
        raw: NDArray[np.float64] = self.features.get("raw_existence", self.existence)
        return raw

    def calibrated(self, calibration: Calibration, quality: Calibration | None = None) -> ProbabilisticInstances:
        """With ``calibration(raw_existence)`` as existence; what was calibrated before is calibrated anew.

        With ``quality(existence * agreements)`` as expected IoU, if it is given.
        :meth:`best` weighs the calibrated values against 1/2: "more likely there than not" is a statement about
        probabilities. Counts do not change, so :meth:`threshold` finds the same objects, with other scores.
        """
        raw = self.raw_existence
        existence = calibration(raw)
        features = {name: values for name, values in self.features.items() if name != "expected_iou"}
        if quality is not None:
            known = np.isfinite(self.agreements)
            features["expected_iou"] = np.full(len(self), np.nan)
            features["expected_iou"][known] = quality((existence * self.agreements)[known])
        return replace(self, existence=existence, features={**features, "raw_existence": raw})

    @cached_property
    def occurs(self) -> NDArray[np.bool_]:
        """``(N, S)`` bool: in which draws an object has a member."""
        table = np.zeros((len(self), self.draws), np.bool_)
        for row, pairs in zip(table, self.members, strict=True):
            row[[draw for draw, _ in pairs]] = True
        return table

    @cached_property
    def agreements(self) -> NDArray[np.float64]:
        """``(N,)`` how alike the members of an object are (:func:`uncertainty.agreement`)."""
        both = zip(self.counts, self.members, strict=True)
        return np.array([uncertainty.agreement(counts, members=len(pairs)) for counts, pairs in both], np.float64)

    @property
    def expected_ious(self) -> NDArray[np.float64]:
        """``(N,)`` expected intersection over union with the true object, 0 where there is none.

        The product existence * agreement, or what a calibrated model makes of it; NaN without a pixel.
        """
        expected: NDArray[np.float64] = self.features.get("expected_iou", self.existence * self.agreements)
        return expected

    def probabilities(self, n: int) -> NDArray[np.float32]:
        """Crop in ``boxes[n]``: the probability that a pixel belongs to object n, count / draws."""
        return self.counts[n].astype(np.float32) / np.float32(self.draws)

    def probabilities_if_exists(self, n: int) -> NDArray[np.float32]:
        """Crop in ``boxes[n]``: the probability that a pixel belongs to object n where n exists, count / members."""
        return self.counts[n].astype(np.float32) / np.float32(max(1, len(self.members[n])))

    def mask(self, n: int) -> Mask:
        """Crop in ``boxes[n]``: the pixels in at least half of the object's members."""
        majority: Mask = self.counts[n] >= uncertainty.majority(len(self.members[n]))
        return majority

    def draw_counts(self) -> NDArray[np.int64]:
        """``(S,)`` number of objects in every draw."""
        found: NDArray[np.int64] = self.occurs.sum(axis=0, dtype=np.int64)
        return found

    @property
    def mean_count(self) -> float:
        """Mean over the draws of the number of objects."""
        return float(self.draw_counts().mean())

    def count_interval(self, level: float = 0.95) -> tuple[int, int]:
        """Smallest and largest number of objects within the central ``level`` of the draws.

        Both are numbers that a draw has; the quantiles are rounded outwards, so that few draws give a wide interval
        rather than a falsely narrow one: with 8 draws and 0.95 it reaches from the least to the most.
        """
        if not 0 < level <= 1:
            raise ValueError(f"level is {level}; it must be in (0, 1], 0.95 for a 95 % interval.")
        tail, found = (1 - level) / 2, self.draw_counts()
        return int(np.quantile(found, tail, method="lower")), int(np.quantile(found, 1 - tail, method="higher"))

    def entropy_map(self) -> NDArray[np.float32]:
        """``(*spatial)`` float32, in nats (0 to ln 2): how unsure the draws are of the objects at every pixel.

        The largest over the objects of H(count / draws): a pixel that surely is foreground, but of one object in half
        of the draws and of another in the other half, is as doubtful as can be. (The entropy of the foreground alone
        would call it certain.) Rejected hypotheses take part: they are where the doubt comes from.
        """
        levels = uncertainty.binary_entropy(np.arange(self.draws + 1) / self.draws).astype(np.float32)
        entropy = np.zeros(self.shape, np.float32)
        for box, counts in zip(self.boxes, self.counts, strict=True):
            part = entropy[slices(box)]
            np.maximum(part, levels[counts], out=part)
        return entropy

    # ---------------------------------------------------------------------------------------------- sets of objects

    def hypotheses(self) -> Instances:
        """All N hypotheses, conflicts included, in this order and in ``boxes``: their majority masks."""
        masks = tuple(self.mask(n) for n in range(len(self)))
        return Instances(self.boxes, masks, self.existence, self.shape, self.features)

    def threshold(self, p: float = 0.75) -> Instances:
        """The papers' objects: the pixels with count / draws >= p; objects without such pixels are gone.

        At least p, because 0.75 of 8 draws is 6 exactly (Rumberger et al. 2020 leave open whether > or >=).
        Scores are the existence; the feature ``hypothesis`` is the object's index in this set.
        """
        if not 0 < p <= 1:
            raise ValueError(f"p is {p}; a mask probability to cut at must be in (0, 1], 0.75 in the papers.")
        least = p * self.draws - 1e-9
        return self._cut_out(range(len(self)), [counts >= least for counts in self.counts])

    def best(self) -> Instances:
        """The most probable set of objects without a conflict (the rule: :func:`plurimask.selection.most_probable`).

        Masks are the pixels in at least half of an object's members, scores the existence; objects may overlap. The
        feature ``hypothesis`` is the object's index in this set.
        """
        every = self.hypotheses()
        chosen = np.flatnonzero(self._chosen(every, self._shared_pixels(every)))
        return self._cut_out(chosen.tolist(), [every.masks[n] for n in chosen])

    def to_labels(self) -> NDArray[np.int32]:
        """``(*spatial)`` int32: :meth:`best` as a label map; where objects overlap, the more probable one owns."""
        return self.best().to_labels()

    def to_masks(self) -> NDArray[np.bool_]:
        """``(K, *spatial)`` bool: the K objects of :meth:`best`, overlaps kept."""
        return self.best().to_masks()

    def _chosen(self, every: Instances, shared: NDArray[np.int64]) -> NDArray[np.bool_]:
        """``(N,)`` bool: which hypotheses are in :meth:`best`."""
        return most_probable(self.existence, every.areas, conflicts=self.conflicts, shared=shared)

    def _cut_out(self, indices: Sequence[int], masks: Sequence[Mask]) -> Instances:
        """Masks in the boxes of ``indices``, in boxes that fit them; empty ones go."""
        boxes, crops, kept = [], [], []
        for n, mask in zip(indices, masks, strict=True):
            tight = bounding_box(mask)
            if tight is not None:
                boxes.append(tight + self.boxes[n, 0])
                crops.append(mask[slices(tight)])
                kept.append(n)
        order = np.array(kept, np.int64)
        features = {name: values[order] for name, values in self.features.items()} | {"hypothesis": order}
        return Instances.from_crops(boxes, crops, self.shape, scores=self.existence[order], features=features)

    # ------------------------------------------------------------------------------------------- numbers per object

    def table(self) -> dict[str, NDArray[Any]]:
        """One row a hypothesis, in this order; name of the column -> ``(N,)``. Lengths are in pixels.

        * ``label``: the object's id in ``to_labels()``, 0 for a rejected hypothesis.
        * ``area``, ``centroid-0`` ..., ``bbox-0`` ... (starts, then stops), as scikit-image names them; of the majority
          mask. Without a pixel: area 0, centroid NaN, the box of the union.
        * ``p_exists``: existence, calibrated where the model is. ``agreement``: how alike the members are
          (:func:`uncertainty.agreement`). ``expected_iou``: with the true object (:attr:`expected_ious`).
        * ``entropy``: mean over the pixels, in nats. ``p_split``, ``p_merge``: share of the draws that see several
          objects here, or only a part of one (:func:`uncertainty.split_and_merge`).
        * ``alternative_of``: for a rejected hypothesis the label of the chosen one that it shares most pixels with of
          those it is in conflict with; 0 where there is none.
        * ``review_order``: 1 = look first (:func:`uncertainty.doubt`).
        * ``border_top``, ``border_right``, ``border_bottom``, ``border_left``, where the method says so: the standard
          deviation of this side of the box, calibrated where the model is. It has in it what the network says of the
          image and how far the draws disagree; ``border_spread_top``, ... are the second part alone.
        """
        every = self.hypotheses()
        label, *others = self.doubts().items()
        return dict([label, ("area", every.areas), *_geometry(every).items(), *others])

    def doubts(self) -> dict[str, NDArray[Any]]:
        """:meth:`table` without areas and places."""
        every = self.hypotheses()
        shared = self._shared_pixels(every)
        chosen = self._chosen(every, shared)
        label = np.where(chosen, np.cumsum(chosen), 0)
        parts = uncertainty.parts_of_wholes(self.conflicts, shared, every.areas)
        split, merge = uncertainty.split_and_merge(self.occurs, parts)
        entropies = [uncertainty.mean_entropy(counts, draws=self.draws) for counts in self.counts]
        doubts = uncertainty.doubt(self.expected_ious, chosen)
        return {
            "label": label,
            "p_exists": self.existence,
            "agreement": self.agreements,
            "expected_iou": self.expected_ious,
            "entropy": np.array(entropies, np.float64),
            "p_split": split,
            "p_merge": merge,
            "alternative_of": self._alternative_of(label, shared),
            "review_order": uncertainty.review_order(doubts, chosen),
            **self._borders(),
        }

    def _borders(self) -> dict[str, NDArray[Any]]:
        """Columns ``border_SIDE`` and ``border_spread_SIDE``."""
        doubts = {name: self.features[name] for name in ("border", "border_spread") if name in self.features}
        axes = range(-self.ndim, 0)
        return {
            f"{kind}_{name}": border[:, end, axis]
            for kind, border in doubts.items()
            for name, (end, axis) in SIDES.items()
            if axis in axes
        }

    def _shared_pixels(self, every: Instances) -> NDArray[np.int64]:
        """``(M,)`` number of pixels that the two majority masks of every conflict share."""
        shared = np.zeros(len(self.conflicts), np.int64)
        for row, (a, b) in enumerate(self.conflicts):
            common = np.stack([np.maximum(*self.boxes[[a, b], 0]), np.minimum(*self.boxes[[a, b], 1])])
            if (common[0] < common[1]).all():
                first, second = (every.masks[n][slices(common - self.boxes[n, 0])] for n in (a, b))
                shared[row] = np.count_nonzero(first & second)
        return shared

    def _alternative_of(self, label: NDArray[np.int64], shared: NDArray[np.int64]) -> NDArray[np.int64]:
        alternative, most = np.zeros(len(self), np.int64), np.full(len(self), -1, np.int64)
        for (a, b), pixels in zip(self.conflicts, shared, strict=True):
            for rejected, rival in ((a, b), (b, a)):
                if label[rejected] == 0 and label[rival] > 0 and pixels > most[rejected]:
                    alternative[rejected], most[rejected] = label[rival], pixels
        return alternative


def _geometry(objects: Instances) -> dict[str, NDArray[Any]]:
    """Columns ``centroid-i`` and ``bbox-i``."""
    corners = objects.boxes.copy()
    for n, mask in enumerate(objects.masks):
        tight = bounding_box(mask)
        if tight is not None:
            corners[n] = tight + objects.boxes[n, 0]
    columns: dict[str, NDArray[Any]] = {f"centroid-{axis}": objects.centroids[:, axis] for axis in range(objects.ndim)}
    flat = corners.reshape(len(objects), 2 * objects.ndim)
    return columns | {f"bbox-{place}": flat[:, place] for place in range(2 * objects.ndim)}
