"""Made-up volumes of thin branching trees, each in a colour of its own, with exact truth.

Pure functions of a seed, in the look of neurons in multi-colour light microscopy. Branches have radii of
``THINNEST`` to ``THICKEST`` voxels, so that patches of 7 x 7 x 7 hold a piece of one. Some trees cross others and share
voxels with them, as blurred neurites do; some only touch. No voxel of a real image is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from plurimask.data.synthetic_camera import photographed
from plurimask.instances import Instances, Mask

Floats = NDArray[np.float64]
Manner = Literal["apart", "touching", "crossing"]

# A ball of 1.12 voxels around a point holds all voxels that share an edge near it: so trees hang together by faces.
THINNEST, THICKEST = 1.2, 1.9
STEP = 0.5  # between the points of a branch, in voxels
DEPTH = 2  # a branch of a branch has none
TRIES = 40
MOST_SHARED = 0.2  # of a tree's voxels
BLUR = 0.8  # sigma in voxels


@dataclass(frozen=True)
class Branch:
    """A piece of a tree that is still to grow.

    Attributes:
        start: ``(3,)``.
        direction: ``(3,)``, of length 1.
        length: in voxels.
        radius: in voxels.
        depth: 0 for the trunk.
    """

    start: Floats
    direction: Floats
    length: float
    radius: float
    depth: int = 0


def trees(
    shape: tuple[int, int, int] = (40, 80, 80), *, count: int = 6, channels: int = 3, seed: int | Sequence[int]
) -> tuple[NDArray[np.uint16], Instances]:
    """A volume with ``count`` trees: image ``(channels, Z, Y, X)``, 0..4095, and truth with its overlaps.

    The second tree crosses the first, the third touches one (where there is room, else it crosses or lies apart), each
    further one crosses, touches or lies apart.
    """
    generator = np.random.default_rng(seed)
    manners: list[Manner] = ["apart", "crossing", "touching"]
    manners += [manners[kind] for kind in generator.integers(3, size=max(count - 3, 0))]
    masks, owned = list[Mask](), np.zeros(shape, np.bool_)
    for manner in manners[:count]:
        masks.append(_placed(owned, manner, generator))
        owned |= masks[-1]
    light = np.full((channels, *shape), 0.03)
    for mask in masks:
        colour = generator.dirichlet(np.full(channels, 0.5))
        brightness = generator.lognormal(-0.3, 0.3) * colour / colour.max()
        granules = 1 + 0.2 * generator.standard_normal(np.count_nonzero(mask))
        light[:, mask] += brightness[:, None] * granules
    blurred = ndimage.gaussian_filter(light, (0, BLUR, BLUR, BLUR))
    return photographed(2500 * blurred, generator), Instances.from_masks(masks, shape)


def _placed(owned: Mask, manner: Manner, generator: np.random.Generator) -> Mask:
    """A tree that meets others as it should; the last try is taken as it is."""
    near = ndimage.binary_dilation(owned)
    where = {"apart": ~owned, "touching": ndimage.binary_dilation(near, iterations=2) & ~near, "crossing": owned}
    roots = np.argwhere(where[manner] if where[manner].any() else np.ones_like(owned))
    for _ in range(TRIES):
        mask = _tree(generator.choice(roots).astype(np.float64), owned.shape, generator)
        shared = np.count_nonzero(mask & owned)
        if manner == "crossing" and shared <= MOST_SHARED * np.count_nonzero(mask):
            break
        if manner != "crossing" and not shared and (mask & near).any() == (manner == "touching"):
            break
    return mask


def _tree(root: Floats, shape: tuple[int, ...], generator: np.random.Generator) -> Mask:
    """Two halves of a trunk grow from the root in opposite directions, and branches from them."""
    mask = np.zeros(shape, np.bool_)
    direction = _unit(generator.standard_normal(3))
    radius, length = generator.uniform(1.5, THICKEST), 0.5 * max(shape)
    growing = [Branch(root, sign * direction, length * generator.uniform(0.6, 1), radius) for sign in (-1.0, 1.0)]
    while growing:
        branch = growing.pop()
        points = _walk(branch, shape, generator)
        _draw(mask, points, branch.radius)
        # Where the volume has cut a branch short, there is no room for others.
        if branch.depth < DEPTH and len(points) >= 8:
            growing += [_offshoot(branch, points, generator) for _ in range(generator.integers(1, 4 - branch.depth))]
    return mask


def _walk(branch: Branch, shape: tuple[int, ...], generator: np.random.Generator) -> Floats:
    """``(P, 3)`` points along a branch that wanders, up to its end or the volume's; the start is the first."""
    turns = np.cumsum(0.08 * generator.standard_normal((int(branch.length / STEP), 3)), axis=0)
    steps = branch.direction + turns
    steps *= STEP / np.linalg.norm(steps, axis=1, keepdims=True)
    points = np.concatenate([branch.start[None], branch.start + np.cumsum(steps, axis=0)])
    inside = ((points >= 0) & (points <= np.array(shape) - 1)).all(axis=1)
    return points if inside.all() else points[: np.argmin(inside)]


def _offshoot(branch: Branch, points: Floats, generator: np.random.Generator) -> Branch:
    """Leaves somewhere between a quarter and the end of a branch, at 35 to 80 degrees; shorter and thinner."""
    place = int(generator.integers(len(points) // 4, len(points) - 1))
    along = _unit(points[place + 1] - points[place])
    aside = _unit(np.cross(along, generator.standard_normal(3)))
    angle = np.deg2rad(generator.uniform(35, 80))
    direction = np.cos(angle) * along + np.sin(angle) * aside
    length = branch.length * generator.uniform(0.4, 0.7)
    return Branch(points[place], direction, length, max(THINNEST, 0.85 * branch.radius), branch.depth + 1)


def _draw(mask: Mask, points: Floats, radius: float) -> None:
    """Fills balls around the points ``(P, 3)``."""
    reach = int(np.ceil(radius + 0.5))
    cube = np.indices((2 * reach + 1,) * 3).reshape(3, -1).T - reach
    voxels = np.rint(points).astype(np.int64)[:, None] + cube
    near = np.square(voxels - points[:, None]).sum(axis=2) <= radius**2
    found = voxels[near]
    found = found[((found >= 0) & (found < mask.shape)).all(axis=1)]
    mask[tuple(found.T)] = True


def _unit(vector: Floats) -> Floats:
    unit: Floats = vector / np.linalg.norm(vector)
    return unit
