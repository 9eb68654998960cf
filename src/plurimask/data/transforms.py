"""Random crops and augmentation, the same for images and overlapping objects.

Overlapping objects travel as ONE map of owner-combination ids, resampled by nearest neighbour, not as N masks: a
pixel's id says which set of objects owns it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from monai.transforms import Rand2DElastic, Rand3DElastic
from numpy.typing import NDArray
from scipy import ndimage

from plurimask.data.normalise import stretched
from plurimask.instances import Instances, slices


@dataclass(frozen=True)
class Combinations:
    """Objects as a map of ids of sets of owners.

    Attributes:
        ids: ``(*spatial)`` int32, 0 where there is no object.
        owners: for every id the tuple of objects that own its pixels; ``owners[0]`` is ``()``.
        features: of the objects (their class); not bent with them.
    """

    ids: NDArray[np.int32]
    owners: tuple[tuple[int, ...], ...]
    features: Mapping[str, NDArray[Any]] = field(default_factory=dict)


def to_combinations(truth: Instances) -> Combinations:
    """Every distinct set of owners gets an id."""
    ids = np.zeros(truth.shape, np.int32)
    owners: list[tuple[int, ...]] = [()]
    known: dict[tuple[int, ...], int] = {(): 0}
    for number, (box, mask) in enumerate(zip(truth.boxes, truth.masks, strict=True)):
        region = ids[slices(box)]
        for before in np.unique(region[mask]):
            together = (*owners[before], number)
            if together not in known:
                known[together] = len(owners)
                owners.append(together)
            region[mask & (region == before)] = known[together]
    return Combinations(ids, tuple(owners), truth.features)


def to_instances(combinations: Combinations) -> Instances:
    """The objects that are left in a map, in the order of their numbers; those with no pixel are gone."""
    regions: dict[int, list[tuple[int, NDArray[np.int64]]]] = {}
    for number, region in enumerate(ndimage.find_objects(combinations.ids), start=1):
        if region is not None:
            box = np.array([[s.start for s in region], [s.stop for s in region]], np.int64)
            for owner in combinations.owners[number]:
                regions.setdefault(owner, []).append((number, box))
    boxes, masks, left = [], [], sorted(regions)
    for owner in left:
        corners = np.stack([box for _, box in regions[owner]])
        box = np.stack([corners[:, 0].min(0), corners[:, 1].max(0)])
        boxes.append(box)
        masks.append(np.isin(combinations.ids[slices(box)], [number for number, _ in regions[owner]]))
    features = {name: values[left] for name, values in combinations.features.items()}
    return Instances.from_crops(boxes, masks, combinations.ids.shape, features=features)


@dataclass(frozen=True)
class Augmentation:
    """What may happen to a crop: flips, one elastic + affine resampling, changes of intensity.

    Attributes:
        rotation: largest angle in radians.
        scale: largest relative change of size.
        shear: largest shear.
        elastic: largest displacement of the elastic grid's nodes, in pixels.
        spacing: distance of the grid's nodes, in pixels.
        contrast: largest relative change of contrast.
        brightness: largest shift, in units of the normalised image.
        gamma: the exponent lies in ``[1 / gamma, gamma]``.
        blur: largest sigma of a Gaussian blur in pixels, drawn for every third crop.
        noise: largest sigma of Gaussian noise, in units of the normalised image.
        rescale: share of crops that are enlarged or shrunk as U22 do it (theirs: 0.2): by a uniformly random factor
            that brings no object below the first or above the second of ``object_sides``, beside ``scale``.
        zoom: largest such factor; the smallest is its reciprocal.
        object_sides: of the boxes of objects, in pixels (U22: 4 and 192). An object beyond them forbids to go on in
            that direction. Where objects overlap, the parts with the same owners count as objects.
        mix: largest share of the crop stretched between the percentiles 1 and 99 of what is not 0, channel by channel
            (U22 mix their two normalisations, :class:`plurimask.data.normalise.MixedNormalisation`, with any share: 1;
            of the image, where here it is of the crop as it was normalised).

    Raises:
        ValueError: a share outside [0, 1], a zoom below 1, or sides that are not positive and in order.
    """

    rotation: float = np.pi
    scale: float = 0.15
    shear: float = 0.1
    elastic: float = 3.0
    spacing: float = 32.0
    contrast: float = 0.2
    brightness: float = 0.1
    gamma: float = 1.3
    blur: float = 1.0
    noise: float = 0.05
    rescale: float = 0.0
    zoom: float = 2.0
    object_sides: tuple[float, float] = (4.0, 192.0)
    mix: float = 0.0

    def __post_init__(self) -> None:
        least, most = self.object_sides
        if not (0 <= self.rescale <= 1 and 0 <= self.mix <= 1 and self.zoom >= 1 and 0 < least <= most):
            raise ValueError(
                f"rescale = {self.rescale} and mix = {self.mix} are shares between 0 and 1, zoom = {self.zoom} is at "
                f"least 1, and object_sides = {self.object_sides} are positive and in order; correct what is not."
            )

    def margin(self, size: int) -> int:
        """Pixels that a crop of ``size`` needs on every side, so that a rotation finds something there."""
        half_diagonal = size / 2 * (np.sqrt(2) if self.rotation else 1) * (1 + self.scale + self.shear)
        half_diagonal *= self.zoom if self.rescale else 1
        return int(np.ceil(half_diagonal - size / 2 + self.elastic))

    def spatial(
        self, image: NDArray[np.float32], ids: NDArray[np.int32], *, size: int, generator: np.random.Generator
    ) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """Deforms all alike and keeps the central crop. image: ``(C, *spatial)``; ids: ``(A, *spatial)``, A maps."""
        ndim = image.ndim - 1
        for axis in range(1, ndim + 1):
            if generator.random() < 0.5:
                image, ids = np.flip(image, axis), np.flip(ids, axis)
        deform = self._elastic(ndim, size, factor=self._factor(ids, generator))
        seed = int(generator.integers(2**31))
        bent = deform.set_random_state(seed)(torch.from_numpy(image.copy()), mode="bilinear")
        bent_ids = deform.set_random_state(seed)(torch.from_numpy(ids.astype(np.float32)), mode="nearest")
        return np.asarray(bent, np.float32), np.rint(np.asarray(bent_ids)).astype(np.int32)

    def _factor(self, ids: NDArray[np.int32], generator: np.random.Generator) -> float:
        """How many times larger everything becomes (docs/algorithms.md 4.6); without objects it stays as it is."""
        if not self.rescale or generator.random() >= self.rescale:
            return 1.0
        boxes = (box for one in ids for box in ndimage.find_objects(one) if box is not None)
        sides = [side.stop - side.start for box in boxes for side in box]
        if not sides:
            return 1.0
        least, most = self.object_sides
        shrunk, enlarged = min(1.0, least / min(sides)), max(1.0, most / max(sides))
        return float(generator.uniform(max(shrunk, 1 / self.zoom), min(enlarged, self.zoom)))

    def _elastic(self, ndim: int, size: int, *, factor: float) -> Rand2DElastic | Rand3DElastic:
        # MONAI adds 1 to what it draws, and multiplies the places to read from with it: more than 1 shrinks.
        span = tuple((1 + sign * self.scale) / factor - 1 for sign in (-1, 1))
        ranges = {
            "prob": 1.0,
            "scale_range": (span,) * ndim,
            "spatial_size": (size,) * ndim,
            "padding_mode": "zeros",
        }
        if ndim == 2:
            return Rand2DElastic(
                spacing=(self.spacing,) * 2,
                magnitude_range=(0.0, self.elastic),
                rotate_range=self.rotation,
                shear_range=(self.shear,) * 2,
                **ranges,
            )
        return Rand3DElastic(
            sigma_range=(self.spacing / 4, self.spacing / 2),
            magnitude_range=(0.0, 10 * self.elastic),
            rotate_range=(self.rotation, 0.0, 0.0),
            **ranges,
        )

    def intensity(self, image: NDArray[np.float32], generator: np.random.Generator) -> NDArray[np.float32]:
        """image: ``(C, *spatial)``, about 0..1; may leave that range."""
        if self.mix:
            share = generator.uniform(0, self.mix)
            image = (1 - share) * image + share * stretched(image, low=1, high=99)
        exponent = self.gamma ** generator.uniform(-1, 1)
        image = np.sign(image) * np.abs(image) ** exponent
        image = image * generator.uniform(1 - self.contrast, 1 + self.contrast)
        image = image + generator.uniform(-self.brightness, self.brightness)
        if generator.random() < 1 / 3:
            sigma = generator.uniform(0, self.blur)
            image = ndimage.gaussian_filter(image, (0, *(sigma,) * (image.ndim - 1)))
        noise = generator.standard_normal(image.shape, np.float32) * generator.uniform(0, self.noise)
        return (image + noise).astype(np.float32)


def crop_centre(
    combinations: Combinations, *, size: int, near_object: float, near_overlap: float, generator: np.random.Generator
) -> NDArray[np.int64]:
    """``(D,)`` centre of a crop of ``size``: near an overlap, near an object, or anywhere, with these probabilities.

    In an image where nothing overlaps, near an object instead of near an overlap. A crop hangs over the border of the
    image by an eighth of its size at most, where the image is large enough.
    """
    shape = np.array(combinations.ids.shape)
    choice = generator.random()
    several = np.array([len(owners) > 1 for owners in combinations.owners])
    if choice < near_overlap and several.any():
        candidates = np.flatnonzero(several[combinations.ids])
    elif choice < near_overlap + near_object:
        candidates = np.flatnonzero(combinations.ids)
    else:
        candidates = np.zeros(0, np.int64)
    if len(candidates):
        pixel = np.array(np.unravel_index(generator.choice(candidates), combinations.ids.shape))
        jitter = min(40, size // 4)  # what the crop is meant for stays within it
        centre = pixel + generator.integers(-jitter, jitter + 1, len(shape))
    else:
        centre = generator.integers(shape)
    reach = np.minimum(3 * size // 8, shape // 2)
    return np.clip(centre, reach, shape - reach)


def cut(array: NDArray[Any], *, centre: NDArray[np.int64], size: int) -> NDArray[Any]:
    """The last D axes cut to ``size`` about ``centre`` ``(D,)``; 0 outside the array, as convolutions see it.

    (A mirror image would show objects twice: the reflection of one that touches the border makes a pair with it, and
    neither one number nor two would be the truth.)
    """
    ndim = len(centre)
    shape = np.array(array.shape[-ndim:])
    start = np.clip(centre, 0, shape - 1) - size // 2
    inside = np.stack([np.maximum(start, 0), np.minimum(start + size, shape)])
    outside = np.stack([inside[0] - start, start + size - inside[1]], 1)
    leading: tuple[Any, ...] = (slice(None),) * (array.ndim - ndim)
    padded: NDArray[Any] = np.pad(array[leading + slices(inside)], [(0, 0)] * len(leading) + outside.tolist())
    return padded
