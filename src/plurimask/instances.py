"""Objects of one image: crops that may overlap, never an (N, H, W) stack.

One thousand objects in a 4k image would be sixteen gigabytes as a stack; as boxes and cropped masks they are a
few megabytes, and everything that asks "which objects meet?" looks at the boxes first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

Mask = NDArray[np.bool_]
Change = Callable[[NDArray[Any]], NDArray[Any]]

PLACES = frozenset({"contour"})
"""Features that hold places ``(N, ..., D)`` in the frame of the image, in pixels; 0 is the centre of the first one."""

ENDS = frozenset({"border", "border_spread"})
"""Features that hold lengths ``(N, 2, D)`` at the low and the high end of every axis, in pixels: laid out as boxes."""


@dataclass(frozen=True, eq=False)  # equality of arrays has no single truth value: instances compare by identity
class Instances:
    """Objects of one draw, or of the truth; they may overlap.

    Attributes:
        boxes: ``(N, 2, D)`` int64, start and stop of every object along the D axes.
        masks: N boolean crops, the n-th of shape ``stop - start``.
        scores: ``(N,)`` float64 in [0, 1]; 1 for the truth.
        shape: shape of the image, ``(*spatial,)``.
        features: name -> array with first axis N (class, patch score, ...). Those of :data:`PLACES` and :data:`ENDS`
            (the points of a ``contour``, the standard deviations of the sides of a box in ``border``) go with their
            objects into every other frame; an object that is cut there keeps its whole contour.
    """

    boxes: NDArray[np.int64]
    masks: tuple[Mask, ...]
    scores: NDArray[np.float64]
    shape: tuple[int, ...]
    features: Mapping[str, NDArray[Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        count, ndim = len(self.masks), len(self.shape)
        if self.boxes.shape != (count, 2, ndim) or self.scores.shape != (count,):
            raise ValueError(
                f"{count} masks in {ndim}-D need boxes of shape {(count, 2, ndim)} and scores of shape {(count,)}, "
                f"but came with {self.boxes.shape} and {self.scores.shape}."
            )
        for name, values in self.features.items():
            if len(values) != count:
                raise ValueError(f"feature {name!r} has {len(values)} rows for {count} objects; give each object one.")
            if name in PLACES and values.shape[1:][-1:] != (ndim,):
                raise ValueError(f"feature {name!r} has shape {values.shape}; it holds places (N, ..., {ndim}).")
            if name in ENDS and values.shape[1:] != (2, ndim):
                raise ValueError(f"feature {name!r} has shape {values.shape}; it holds lengths (N, 2, {ndim}).")

    def __len__(self) -> int:
        return len(self.masks)

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @cached_property
    def areas(self) -> NDArray[np.int64]:
        """``(N,)`` number of pixels of every object."""
        return np.array([np.count_nonzero(mask) for mask in self.masks], dtype=np.int64)

    @cached_property
    def centroids(self) -> NDArray[np.float64]:
        """``(N, D)`` mean place of every object's pixels; NaN where it has none."""
        places = np.full((len(self), self.ndim), np.nan)
        for place, box, mask in zip(places, self.boxes, self.masks, strict=True):
            if mask.any():
                place[:] = np.argwhere(mask).mean(axis=0) + box[0]
        return places

    @classmethod
    def empty(cls, shape: Sequence[int]) -> Instances:
        """No object in an image of this shape."""
        return cls(np.zeros((0, 2, len(shape)), np.int64), (), np.zeros(0), tuple(shape))

    @classmethod
    def from_crops(
        cls,
        boxes: ArrayLike,
        masks: Sequence[Mask],
        shape: Sequence[int],
        *,
        scores: ArrayLike | None = None,
        features: Mapping[str, NDArray[Any]] | None = None,
    ) -> Instances:
        """From boxes ``(N, 2, D)`` and cropped masks; scores default to 1.

        Raises:
            ValueError: a box leaves the image, or a mask has not the shape of its box.
        """
        corners = np.asarray(boxes, np.int64).reshape(len(masks), 2, len(shape))
        crops = tuple(np.asarray(mask, np.bool_) for mask in masks)
        _check_crops(corners, crops, shape)
        values = np.ones(len(masks)) if scores is None else np.asarray(scores, np.float64)
        return cls(corners, crops, values, tuple(shape), dict(features or {}))

    @classmethod
    def from_labels(cls, labels: NDArray[Any]) -> Instances:
        """From a label map ``(*spatial)``, 0 is background; one object per id, in the order of the ids.

        Raises:
            ValueError: an id is negative.

        >>> Instances.from_labels(np.array([[0, 7, 7], [3, 0, 0]])).areas
        array([1, 2])
        """
        if labels.size == 0:
            return cls.empty(labels.shape)
        dense = _dense_ids(labels)
        # An id that does not occur has no region: labels need not be consecutive.
        found = [(number, region) for number, region in enumerate(ndimage.find_objects(dense), start=1) if region]
        boxes = [[[part.start for part in region], [part.stop for part in region]] for _, region in found]
        masks = [dense[region] == number for number, region in found]
        return cls.from_crops(boxes, masks, labels.shape)

    @classmethod
    def from_masks(cls, masks: Iterable[NDArray[Any]], shape: Sequence[int]) -> Instances:
        """From N masks of the image's shape (any iterable, so that a folder need not be a stack); empty ones go."""
        boxes, crops = [], []
        for mask in masks:
            if mask.shape != tuple(shape):
                raise ValueError(f"a mask has shape {mask.shape}, its image {tuple(shape)}; they must be equal.")
            box = bounding_box(mask != 0)
            if box is not None:
                boxes.append(box)
                crops.append(mask[slices(box)] != 0)
        return cls.from_crops(boxes, crops, shape)

    def to_masks(self) -> NDArray[np.bool_]:
        """``(N, *spatial)`` bool: every object whole, overlaps kept. Large: for small images and tests."""
        stack = np.zeros((len(self), *self.shape), np.bool_)
        for plane, box, mask in zip(stack, self.boxes, self.masks, strict=True):
            plane[slices(box)] = mask
        return stack

    def to_labels(self) -> NDArray[np.int32]:
        """``(*spatial)`` int32: object n becomes n + 1; where objects overlap, the highest score owns the pixel.

        Equal scores: the first object owns it. :func:`plurimask.ops.flatten.flatten` gives a shared pixel to the
        nearest owner instead, whatever the scores, so that objects that overlap a little part in the middle.
        """
        labels = np.zeros(self.shape, np.int32)
        for index in np.argsort(-self.scores, kind="stable")[::-1]:
            labels[slices(self.boxes[index])][self.masks[index]] = index + 1
        return labels

    def owners(self) -> NDArray[np.int32]:
        """``(*spatial)`` int32: the number of objects at every pixel."""
        count = np.zeros(self.shape, np.int32)
        for box, mask in zip(self.boxes, self.masks, strict=True):
            count[slices(box)] += mask
        return count

    def select(self, indices: ArrayLike) -> Instances:
        """The objects with these indices (or where a boolean ``(N,)`` is true), in this order."""
        chosen = np.arange(len(self))[np.asarray(indices, dtype=None if np.size(indices) else np.int64)]
        return Instances(
            self.boxes[chosen],
            tuple(self.masks[index] for index in chosen),
            self.scores[chosen],
            self.shape,
            {name: values[chosen] for name, values in self.features.items()},
        )

    def shift(self, offset: ArrayLike, shape: Sequence[int]) -> Instances:
        """The same objects in another frame: ``offset`` (D,) is added, ``shape`` is the new image's.

        Parts outside the new frame are cut off; objects wholly outside go.
        """
        step = np.asarray(offset, np.int64)
        features = reframed(self.features, places=lambda points: points + step)
        moved = replace(self, boxes=self.boxes + step, shape=tuple(shape), features=features)
        start, stop = np.zeros(moved.ndim, np.int64), np.asarray(shape, np.int64)
        if (moved.boxes[:, 0] >= start).all() and (moved.boxes[:, 1] <= stop).all():
            return moved
        return moved._cut(start, stop)

    def crop(self, box: ArrayLike) -> Instances:
        """The objects as seen in a part of the image. box: ``(2, D)`` start and stop."""
        start, stop = np.asarray(box, np.int64)
        return self.shift(-start, tuple(int(size) for size in stop - start))

    def _cut(self, start: NDArray[np.int64], stop: NDArray[np.int64]) -> Instances:
        boxes, masks, kept = [], [], []
        for index, (box, mask) in enumerate(zip(self.boxes, self.masks, strict=True)):
            inner = np.stack([np.maximum(box[0], start), np.minimum(box[1], stop)])
            if (inner[0] >= inner[1]).any():
                continue
            part = mask[slices(inner - box[0])]
            tight = bounding_box(part)
            if tight is not None:
                boxes.append(tight + inner[0])
                masks.append(part[slices(tight)])
                kept.append(index)
        features = {name: values[kept] for name, values in self.features.items()}
        return Instances.from_crops(boxes, masks, self.shape, scores=self.scores[kept], features=features)


def concatenate(parts: Sequence[Instances]) -> Instances:
    """All objects of several sets of one image; features that not all parts (with objects) have are left out.

    Raises:
        ValueError: no part, or parts of images of different shapes.
    """
    if not parts:
        raise ValueError("nothing to concatenate: give at least one set of instances.")
    if len({part.shape for part in parts}) > 1:
        raise ValueError(f"the parts belong to images of shapes {[part.shape for part in parts]}; shift them first.")
    # A part without objects says nothing about features: a draw that found nothing must not erase the others'.
    parts = [part for part in parts if len(part)] or parts[:1]
    names = set.intersection(*(set(part.features) for part in parts))
    return Instances(
        np.concatenate([part.boxes for part in parts]),
        tuple(mask for part in parts for mask in part.masks),
        np.concatenate([part.scores for part in parts]),
        parts[0].shape,
        {name: np.concatenate([part.features[name] for part in parts]) for name in sorted(names)},
    )


def reframed(
    features: Mapping[str, NDArray[Any]], *, places: Change, ends: Change | None = None
) -> dict[str, NDArray[Any]]:
    """Features as another frame has them: :data:`PLACES` and :data:`ENDS` changed, all others as they are.

    Of floating-point numbers the type stays. ends: None where lengths do not change.
    """
    changes = dict.fromkeys(PLACES, places) | (dict.fromkeys(ENDS, ends) if ends else {})
    changed = {name: np.asarray(changes[name](features[name])) for name in features.keys() & changes}
    types = {name: np.result_type(features[name].dtype, np.float32) for name in changed}
    return {**features, **{name: values.astype(types[name]) for name, values in changed.items()}}


def slices(box: NDArray[np.int64]) -> tuple[slice, ...]:
    """``(2, D)`` start and stop -> an index into the last D axes."""
    return tuple(slice(int(start), int(stop)) for start, stop in box.T)


def _dense_ids(labels: NDArray[Any]) -> NDArray[Any]:
    """Integer ids no larger than the number of pixels, in the same order, 0 for background."""
    low, high = labels.min(), labels.max()
    if low < 0:
        raise ValueError(f"a label map has the id {low}; ids are 0 for background and positive for objects.")
    if np.issubdtype(labels.dtype, np.integer) and high <= labels.size:
        # Already small enough for a table of regions: sorting every pixel would cost many times more.
        return labels.astype(np.int32, copy=False) if high <= np.iinfo(np.int32).max else labels.astype(np.int64)
    ids, flat = np.unique(labels, return_inverse=True)
    return flat.reshape(labels.shape) + (0 if ids[0] == 0 else 1)


def _check_crops(boxes: NDArray[np.int64], masks: Sequence[Mask], shape: Sequence[int]) -> None:
    wrong = ((boxes[:, 0] < 0) | (boxes[:, 1] > np.asarray(shape, np.int64))).any(axis=1)
    if wrong.any():
        index = int(wrong.argmax())
        raise ValueError(f"box {boxes[index].tolist()} of object {index} leaves its image of shape {tuple(shape)}.")
    for index, (size, mask) in enumerate(zip((boxes[:, 1] - boxes[:, 0]).tolist(), masks, strict=True)):
        if tuple(size) != mask.shape:
            raise ValueError(f"object {index}: its box wants a mask of shape {tuple(size)}, it came with {mask.shape}.")


def bounding_box(mask: Mask) -> NDArray[np.int64] | None:
    """``(2, D)`` start and stop of the true pixels, or None where there are none."""
    axes = range(mask.ndim)
    profiles = [np.asarray(mask.any(axis=tuple(other for other in axes if other != axis))) for axis in axes]
    if not all(profile.any() for profile in profiles):
        return None
    starts = [int(profile.argmax()) for profile in profiles]
    stops = [len(profile) - int(profile[::-1].argmax()) for profile in profiles]
    return np.array([starts, stops], np.int64)


def sides(objects: Instances) -> NDArray[np.float64]:
    """``(N, 2, D)`` where the boxes of objects begin and end, within the image.

    Of the feature ``contour``, where there is one, to a fraction of a pixel: half a pixel outside of the contour, which
    runs through the centres of pixels. Else of the masks.
    """
    if "contour" not in objects.features:
        return mask_sides(objects)
    points = objects.features["contour"].astype(np.float64)
    ends = np.stack([points.min(axis=1), points.max(axis=1) + 1], axis=1)
    inside: NDArray[np.float64] = np.clip(ends, 0, objects.shape)
    return inside


def mask_sides(objects: Instances) -> NDArray[np.float64]:
    """``(N, 2, D)`` start and stop of the pixels; a box may be wider."""
    tight = [bounding_box(mask) for mask in objects.masks]
    corners = [box if inner is None else inner + box[0] for inner, box in zip(tight, objects.boxes, strict=True)]
    return np.array(corners, np.float64).reshape(len(objects), 2, objects.ndim)
