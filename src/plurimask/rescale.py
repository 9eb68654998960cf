"""To the scale a model was trained at, and back."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from skimage.transform import resize

from plurimask.instances import bounding_box, reframed, slices
from plurimask.probabilistic import ProbabilisticInstances

if TYPE_CHECKING:
    from plurimask.model import Scale

USUAL = (0.25, 4.0)  # zooms outside deserve a warning


def training_zoom(scale: Scale, *, pixel_size: float | None, diameter: float | None) -> float:
    """How much larger the image must become; 1 if nothing is known of the image.

    Raises:
        ValueError: if both are given, one is not positive, or the model does not know its own scale.
    """
    if pixel_size is not None and diameter is not None:
        raise ValueError("give the pixel size or the diameter of the objects, not both.")
    given, own, name = (
        (pixel_size, scale.pixel_size, "pixel size") if diameter is None else (diameter, scale.diameter, "diameter")
    )
    if given is None:
        return 1.0
    if own is None:
        raise ValueError(f"this model does not know the {name} of its training images; leave that option out.")
    if not given > 0:
        raise ValueError(f"the {name} must be positive, not {given}.")
    zoom = given / own if diameter is None else own / given
    if not USUAL[0] <= zoom <= USUAL[1]:
        why = f"the image is rescaled {zoom:.2g}-fold, far from the training images; check the {name}."
        warnings.warn(why, stacklevel=3)
    return zoom


def rescale_image(image: NDArray[Any], zoom: float) -> NDArray[Any]:
    """``(C, *spatial)`` resized along the spatial axes, linearly, smoothed before it shrinks."""
    if zoom == 1:
        return image
    shape = [max(1, round(size * zoom)) for size in image.shape[1:]]
    resized: NDArray[np.float32] = resize(
        image.astype(np.float32), (len(image), *shape), order=1, anti_aliasing=zoom < 1, preserve_range=True
    )
    return resized


def rescale_result(found: ProbabilisticInstances, shape: Sequence[int]) -> ProbabilisticInstances:
    """The objects in a frame of another size; count masks by nearest neighbour, of each object at least one pixel.

    Features that are places or lengths come along: the centre of pixel i lies at (i + 1/2) zoom - 1/2 then.
    """
    if found.shape == tuple(shape):
        return found
    factors = np.array(shape) / np.array(found.shape)
    boxes = np.stack([np.floor(found.boxes[:, 0] * factors), np.ceil(found.boxes[:, 1] * factors)], 1).astype(np.int64)
    boxes = np.minimum(boxes, np.array(shape))
    counts = [_sample(*parts, factors=factors) for parts in zip(found.counts, found.boxes, boxes, strict=True)]
    tight = [bounding_box(count > 0) for count in counts]
    inner = np.array(tight, np.int64).reshape(boxes.shape)
    trimmed = tuple(count[slices(box)] for count, box in zip(counts, inner, strict=True))
    features = reframed(
        found.features, places=lambda points: (points + 0.5) * factors - 0.5, ends=lambda lengths: lengths * factors
    )
    return replace(found, boxes=inner + boxes[:, :1], counts=trimmed, shape=tuple(shape), features=features)


def _sample(
    count: NDArray[np.uint8], old: NDArray[np.int64], new: NDArray[np.int64], *, factors: NDArray[np.float64]
) -> NDArray[np.uint8]:
    """Every pixel of the new box takes the count of the old pixel that its centre lies in.

    An object that falls between all these centres keeps the pixel where it is surest.
    """
    indices = []
    for axis, factor in enumerate(factors):
        centres = (np.arange(new[0, axis], new[1, axis]) + 0.5) / factor
        indices.append(np.clip(np.floor(centres).astype(int) - old[0, axis], 0, count.shape[axis] - 1))
    sampled = count[np.ix_(*indices)]
    if not sampled.any():
        peak = np.array(np.unravel_index(count.argmax(), count.shape)) + old[0] + 0.5
        sampled[tuple(np.floor(peak * factors).astype(int) - new[0])] = count.max()
    return sampled
