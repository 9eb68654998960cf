"""The symmetries of the pixel grid: an image turned before a network sees it, and its objects turned back, exactly."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from plurimask.instances import Instances, reframed


@dataclass(frozen=True)
class Symmetry:
    """Exchange of the last two axes, or not; then some axes are reversed. The default is the identity.

    Attributes:
        exchanged: whether the last two axes change places.
        flipped: axes that are reversed afterwards, counted from the end (-1 is X).
    """

    exchanged: bool = False
    flipped: tuple[int, ...] = ()

    def apply(self, values: Tensor) -> Tensor:
        """``(..., *spatial)``, turned."""
        exchanged = values.transpose(-2, -1) if self.exchanged else values
        return exchanged.flip(self.flipped) if self.flipped else exchanged

    def undo(self, values: Tensor) -> Tensor:
        """``(..., *spatial)``, turned back."""
        straight = values.flip(self.flipped) if self.flipped else values
        return straight.transpose(-2, -1) if self.exchanged else straight

    def undo_objects(self, found: Instances) -> Instances:
        """Objects turned back with their image, and with them what their features say of places and ends."""
        order = self._order(found.ndim)
        # Borders of pixels and not their places: hence one more than the shape.
        boxes = np.sort(self.undo_points(found.boxes, np.array(found.shape) + 1), axis=1)
        masks = tuple(np.ascontiguousarray(np.flip(mask, self.flipped).transpose(order)) for mask in found.masks)
        shape = tuple(found.shape[axis] for axis in order)
        features = reframed(
            found.features, places=lambda points: self.undo_points(points, found.shape), ends=self.undo_ends
        )
        return replace(found, boxes=boxes, masks=masks, shape=shape, features=features)

    def undo_points(self, points: NDArray[Any], sides: ArrayLike) -> NDArray[Any]:
        """Places of pixels ``(..., D)`` in a box, turned back with it. sides: ``(..., D)`` of the turned box."""
        points = points.copy()
        for axis in self.flipped:
            points[..., axis] = np.asarray(sides)[..., axis] - 1 - points[..., axis]
        return points[..., self._order(points.shape[-1])]

    def undo_ends(self, values: NDArray[Any]) -> NDArray[Any]:
        """Values ``(..., 2, D)`` of the two ends of every axis, turned back."""
        values = values.copy()
        for axis in self.flipped:
            values[..., axis] = values[..., ::-1, axis]
        return values[..., self._order(values.shape[-1])]

    def _order(self, ndim: int) -> list[int]:
        """Which of the turned axes each axis is."""
        return [*range(ndim - 2), *((ndim - 1, ndim - 2) if self.exchanged else (ndim - 2, ndim - 1))]


IDENTITY = Symmetry()


def symmetries(ndim: int) -> list[Symmetry]:
    """All that keep an image's plane a plane: 8 in 2-D; in 3-D these, and as many with Z flipped. Identity first.

    >>> [len(symmetries(ndim)) for ndim in (2, 3)]
    [8, 16]
    """
    axes = range(-ndim, 0)
    choices = product(*[(False, True)] * (ndim - 2), (False, True), *[(False, True)] * 2)
    found = []
    for *beyond, exchanged, first, second in choices:
        chosen = zip(axes, (*beyond, first, second), strict=True)
        found.append(Symmetry(exchanged, tuple(axis for axis, flip in chosen if flip)))
    return found
