"""What a model says of one image when it is asked once: its objects, and the doubt about every pixel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from plurimask.familiarity import looks
from plurimask.instances import slices
from plurimask.model import Model
from plurimask.pixelwise import DrawSums, PixelDoubt, resized_doubt
from plurimask.predict import Device, Precision, checked, joined, seeds_of, segment_draws
from plurimask.probabilistic import ProbabilisticInstances
from plurimask.protocols import Outputs
from plurimask.rescale import rescale_image, rescale_result
from plurimask.windows import Window


@dataclass(frozen=True, eq=False)
class Examination:
    """Of one image, in its frame.

    Attributes:
        found: its objects.
        doubt: of its pixels.
    """

    found: ProbabilisticInstances
    doubt: PixelDoubt


def examine(
    image: NDArray[Any],
    model: Model,
    *,
    zoom: float = 1.0,
    draws: int = 8,
    seed: int = 0,
    device: Device = "auto",
    precision: Precision = "auto",
) -> Examination:
    """Objects and doubt of the same draws; arguments and errors are those of :func:`plurimask.predict.answer`."""
    image = checked(image, model)
    seeds = seeds_of(model, draws, seed)
    seen = torch.from_numpy(model.normalisation(rescale_image(image, zoom)))
    sums = DrawSums(tuple(seen.shape[1:]))

    def add(window: Window, draw: int, outputs: Outputs) -> None:
        sums.add_window(window, model.method.probabilities(outputs))

    found = joined(segment_draws(seen, model, seeds=seeds, visit=add, device=device, precision=precision), model)
    shape = image.shape[1:]
    return Examination(rescale_result(found, shape), resized_doubt(sums.doubt(len(seeds)), shape))


def looks_of_parts(
    image: NDArray[Any], model: Model, boxes: NDArray[np.int64], *, zoom: float = 1.0
) -> NDArray[np.float64]:
    """``(B, C * LENGTH)`` :func:`plurimask.familiarity.looks` of regions ``(B, 2, D)``: the descriptors for diversity.

    Looks and not features of the network: they need no forward pass, do not change from round to round, and are what
    a model remembers of its training images, so that these take part without being read again. Intensities are those
    of the whole image, normalised.

    Raises:
        ValueError: as :func:`plurimask.predict.answer`.
    """
    image = checked(image, model)
    seen = model.normalisation(rescale_image(image, zoom))
    factors = np.array(seen.shape[1:]) / np.array(image.shape[1:])
    starts = np.minimum(np.floor(boxes[:, 0] * factors), np.array(seen.shape[1:]) - 1)
    stops = np.maximum(np.ceil(boxes[:, 1] * factors), starts + 1)
    scaled = np.stack([starts, stops], axis=1).astype(np.int64)
    return np.stack([looks(seen[(slice(None), *slices(box))]) for box in scaled])


def cut_out(found: ProbabilisticInstances, box: NDArray[np.int64]) -> ProbabilisticInstances:
    """The hypotheses as seen in a part ``(2, D)`` of the image, to be shown: agreements are those of what is left."""
    inner = np.stack([np.maximum(found.boxes[:, 0], box[0]), np.minimum(found.boxes[:, 1], box[1])], axis=1)
    kept = np.flatnonzero((inner[:, 0] < inner[:, 1]).all(axis=1))
    counts = [found.counts[n][slices(inner[n] - found.boxes[n, 0])] for n in kept]
    kept = np.array([n for n, count in zip(kept, counts, strict=True) if count.any()], np.int64)
    place = np.full(len(found), -1)
    place[kept] = np.arange(len(kept))
    conflicts = place[found.conflicts]
    return ProbabilisticInstances(
        inner[kept] - box[0],
        tuple(count for count in counts if count.any()),
        found.draws,
        found.existence[kept],
        tuple(found.members[n] for n in kept),
        conflicts[(conflicts >= 0).all(axis=1)],
        tuple((box[1] - box[0]).tolist()),
    )
