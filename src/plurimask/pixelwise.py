"""How unsure a model is of the class of every pixel, and how much of that is the network's doubt about itself.

With p_s(k | x) the probability of class k at pixel x in draw s, p the mean over the S draws and
H(p) = -sum_k p_k ln p_k, in nats:

* total = H(p): all doubt. This is what Czolbe et al. 2021 call uncertainty, in bits: divide by ln 2.
* expected = mean over s of H(p_s): what every single draw doubts, too.
* mutual information = total - expected: what the draws disagree on (Houlsby et al. 2011, arXiv:1112.5745, Eq. 2). It
  is 0 for a single draw.

Every method says probabilities of pixels and every posterior makes draws, so this can be compared among all of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import entr
from skimage.transform import resize
from torch import Tensor

from plurimask.instances import Instances, slices
from plurimask.model import Model, load_model
from plurimask.predict import Device, Precision, checked, seeds_of, visit_outputs
from plurimask.protocols import Outputs
from plurimask.rescale import rescale_image, training_zoom
from plurimask.windows import Window


@dataclass(frozen=True, eq=False)
class PixelDoubt:
    """Maps of one image.

    Attributes:
        probabilities: ``(K, *spatial)`` float32, mean over the draws; class 0 is background.
        expected: ``(*spatial)`` float32, mean over the draws of the entropy, in nats.
    """

    probabilities: NDArray[np.float32]
    expected: NDArray[np.float32]

    @cached_property
    def total(self) -> NDArray[np.float32]:
        """``(*spatial)`` entropy of the mean probabilities, 0 to ln K."""
        return entropy(self.probabilities)

    @property
    def mutual_information(self) -> NDArray[np.float32]:
        """``(*spatial)`` total - expected, 0 to ln K; never negative (Jensen), but for rounding, which is cut off."""
        disagreement: NDArray[np.float32] = np.maximum(self.total - self.expected, 0)
        return disagreement

    def means(self, found: Instances) -> dict[str, NDArray[np.float64]]:
        """Of every object the mean over its pixels, ``(N,)`` each: "total", "expected", "mutual_information".

        NaN for an object without pixels.

        Raises:
            ValueError: objects of an image of another shape.
        """
        if found.shape != self.expected.shape:
            raise ValueError(f"the objects' image has shape {found.shape}, the doubt's {self.expected.shape}.")
        maps = {name: getattr(self, name) for name in ("total", "expected", "mutual_information")}
        return {name: _object_means(values, found) for name, values in maps.items()}


def pixel_doubt(
    image: NDArray[Any],
    model: Model | Path | str,
    *,
    draws: int = 8,
    seed: int = 0,
    pixel_size: float | None = None,
    diameter: float | None = None,
    device: Device = "auto",
    precision: Precision = "auto",
) -> PixelDoubt:
    """The doubt about every pixel; arguments and errors are those of :func:`plurimask.predict.segment`."""
    model = model if isinstance(model, Model) else load_model(model)
    image = checked(image, model)
    zoom = training_zoom(model.scale, pixel_size=pixel_size, diameter=diameter)
    scaled = torch.from_numpy(model.normalisation(rescale_image(image, zoom)))
    sums = DrawSums(tuple(scaled.shape[1:]))

    def add(window: Window, draw: int, outputs: Outputs) -> None:
        sums.add_window(window, model.method.probabilities(outputs))

    seeds = seeds_of(model, draws, seed)
    visit_outputs(scaled, model, add, seeds=seeds, device=device, precision=precision)
    return resized_doubt(sums.doubt(len(seeds)), image.shape[1:])


def doubt_of_draws(draws: Iterable[NDArray[np.floating[Any]]]) -> PixelDoubt:
    """From the class probabilities ``(K, *spatial)`` of one draw after the other, at least one.

    >>> sure, opposite = np.array([[1.0], [0.0]]), np.array([[0.0], [1.0]])  # two classes, one pixel
    >>> doubt = doubt_of_draws([sure, opposite])
    >>> doubt.total.round(4), doubt.expected.round(4)
    (array([0.6931], dtype=float32), array([0.], dtype=float32))

    Raises:
        ValueError: no draw.
        FloatingPointError: probabilities that are not finite.
    """
    sums, count = DrawSums(()), 0
    for count, probabilities in enumerate(draws, start=1):
        shape = probabilities.shape[1:]
        sums = DrawSums(shape) if count == 1 else sums
        sums.add(probabilities, np.array([[0] * len(shape), shape]))
    if count == 0:
        raise ValueError("there is no draw; give the probabilities of one at least.")
    return sums.doubt(count)


class DrawSums:
    """Sums over the draws of an image ``(*spatial,)``: what has been added need not be kept."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.probabilities = np.zeros((0, *shape), np.float32)  # how many classes there are, the first draw says
        self.entropies = np.zeros(shape, np.float32)

    def add(self, probabilities: NDArray[np.floating[Any]], box: NDArray[np.int64]) -> None:
        """One draw's probabilities ``(K, *size)`` in a part ``(2, D)`` of the image.

        Raises:
            FloatingPointError: they are not finite.
        """
        probabilities = np.asarray(probabilities, np.float32)
        if not np.isfinite(probabilities).all():
            raise FloatingPointError("the network gave probabilities that are not finite; its weights are broken.")
        if not len(self.probabilities):
            self.probabilities = np.zeros((len(probabilities), *self.entropies.shape), np.float32)
        self.probabilities[(slice(None), *slices(box))] += probabilities
        self.entropies[slices(box)] += entropy(probabilities)

    def add_window(self, window: Window, probabilities: Tensor) -> None:
        """What a draw says in a window ``(K, *size)``, as it has turned it: of the part that the window answers for.

        Raises:
            FloatingPointError: as :meth:`add`.
        """
        upright = window.symmetry.undo(probabilities).float().cpu().numpy()
        self.add(upright[(slice(None), *slices(window.core - window.outer[0]))], window.core)

    def doubt(self, draws: int) -> PixelDoubt:
        """After every part of so many draws was added."""
        return PixelDoubt(self.probabilities / np.float32(draws), self.entropies / np.float32(draws))


def entropy(probabilities: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    """``(K, *spatial)`` -> ``(*spatial)``: -sum_k p_k ln p_k in nats, with 0 ln 0 = 0."""
    return np.asarray(entr(probabilities).sum(axis=0), np.float32)


def _object_means(values: NDArray[np.float32], found: Instances) -> NDArray[np.float64]:
    crops = zip((values[slices(box)] for box in found.boxes), found.masks, strict=True)
    return np.array([crop[mask].mean(dtype=np.float64) if mask.any() else np.nan for crop, mask in crops], np.float64)


def resized_doubt(doubt: PixelDoubt, shape: tuple[int, ...]) -> PixelDoubt:
    """In a frame of another size, linearly: means of probabilities are probabilities, and entropy is concave."""
    if doubt.expected.shape == shape:
        return doubt
    shrinks = shape[-1] < doubt.expected.shape[-1]
    maps = np.concatenate([doubt.probabilities, doubt.expected[None]])
    resized = resize(maps, (len(maps), *shape), order=1, anti_aliasing=shrinks, preserve_range=True)
    return PixelDoubt(resized[:-1], resized[-1])
