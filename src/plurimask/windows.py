"""The one grid of windows that every prediction runs on; a small image is one window.

Every window sees a halo around the part it answers for; the parts (cores) tile the image, so that every point has
exactly one responsible window. An object belongs to the window whose core holds the centre of its box: if halo and
object agree (half of an object's extent fits into the halo), that window sees it whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
from numpy.typing import NDArray

from plurimask.instances import Instances
from plurimask.symmetry import IDENTITY, Symmetry


@dataclass(frozen=True)
class Window:
    """A part of an image.

    Attributes:
        outer: ``(2, D)`` start and stop of what the network sees.
        core: ``(2, D)`` start and stop of what the window answers for.
        symmetry: how the network sees it; the identity but for a draw that turns windows.
    """

    outer: NDArray[np.int64]
    core: NDArray[np.int64]
    symmetry: Symmetry = IDENTITY

    def turned(self, symmetry: Symmetry) -> Window:
        """The same window as a network sees it under a symmetry."""
        return replace(self, symmetry=symmetry)

    def cut(self, found: Instances) -> Instances:
        """Objects without what lies beyond the window's end: it may have been padded before it was turned."""
        sides = (self.outer[1] - self.outer[0]).tolist()
        return found.shift([0] * len(sides), sides)

    def answers_for(self, found: Instances) -> NDArray[np.bool_]:
        """``(N,)``: objects (in the window's frame) whose box has its centre in the core."""
        centres = found.boxes.mean(axis=1) + self.outer[0]
        return np.asarray(((centres >= self.core[0]) & (centres < self.core[1])).all(axis=1))


def grid(shape: Sequence[int], *, size: int, halo: int, stride: int) -> list[Window]:
    """All windows of an image, in row-major order.

    Args:
        shape: ``(*spatial,)`` of the image.
        size: the largest side of a window, halo included.
        halo: how far a window sees beyond its core.
        stride: starts are multiples of it, so that all windows see pooling on the same grid.

    Raises:
        ValueError: if the halo leaves no core.
    """
    step = (size - 2 * halo) // stride * stride
    if step <= 0:
        raise ValueError(f"a window of {size} pixels with a halo of {halo} on both sides has no core; enlarge it.")
    axes = [_axis(length, size=size, halo=halo, step=step) for length in shape]
    return [
        Window(outer=np.array([spans[:2] for spans in choice]).T, core=np.array([spans[2:] for spans in choice]).T)
        for choice in product(*axes)
    ]


def _axis(length: int, *, size: int, halo: int, step: int) -> list[tuple[int, int, int, int]]:
    """(outer start, outer stop, core start, core stop) of every window along one axis."""
    count = 1 if length <= size else -(-(length - size) // step) + 1
    starts = [number * step for number in range(count)]
    edges = [0, *(start + halo for start in starts[1:]), length]
    stops = [min(start + size, length) for start in starts]
    return list(zip(starts, stops, edges[:-1], edges[1:], strict=True))
