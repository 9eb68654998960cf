"""What can be chosen of a pool of images, and what cannot: broken, constant, repeated or annotated ones are told."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plurimask.active.acquisition import Score, crop_boxes, scores
from plurimask.active.examination import Examination, examine, looks_of_parts
from plurimask.batch import PROBLEMS, Job
from plurimask.instances import slices
from plurimask.model import Model
from plurimask.predict import Device, Precision

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Examiner:
    """A model and how it is asked; the fields are arguments of :func:`plurimask.predict.answer`."""

    model: Model
    zoom: float = 1.0
    draws: int = 8
    seed: int = 0
    device: Device = "auto"
    precision: Precision = "auto"

    def __call__(self, image: NDArray[Any]) -> Examination:
        ask = partial(examine, draws=self.draws, seed=self.seed, device=self.device, precision=self.precision)
        return ask(image, self.model, zoom=self.zoom)

    def looks(self, image: NDArray[Any], boxes: NDArray[np.int64]) -> NDArray[np.float64]:
        """``(B, F)`` of regions ``(B, 2, D)``, see :func:`plurimask.active.examination.looks_of_parts`."""
        return looks_of_parts(image, self.model, boxes, zoom=self.zoom)


@dataclass(frozen=True, eq=False)
class Candidate:
    """An image, or a part of it, that can be chosen.

    Attributes:
        job: the image.
        box: ``(2, D)`` start and stop of the part.
        looks: ``(F,)`` of the part.
        score: of the part; None where the strategy asks for none.
    """

    job: Job
    box: NDArray[np.int64]
    looks: NDArray[np.float64]
    score: float | None


@dataclass(frozen=True, eq=False)
class Pool:
    """What there is to choose from.

    Attributes:
        candidates: in the order of the images.
        problems: name of an image -> what is wrong with it.
        left_out: name of an image (and part) -> why it is no candidate, though nothing is wrong.
    """

    candidates: tuple[Candidate, ...]
    problems: Mapping[str, str]
    left_out: Mapping[str, str]


def gather(
    jobs: Iterable[Job],
    examiner: Examiner,
    *,
    score: Score,
    crops: int | None = None,
    annotated: Mapping[str, str] | None = None,
) -> Pool:
    """Look at every image once; the network is asked only for a score that needs it.

    Args:
        jobs: the images.
        examiner: the model.
        score: what the candidates are to be ranked by.
        crops: side of the parts in pixels; None takes whole images.
        annotated: :func:`content_hash` of images that are annotated -> their names.
    """
    candidates, problems, left_out = list[Candidate](), dict[str, str](), dict[str, str]()
    seen = {key: f"annotated already, as {name}" for key, name in (annotated or {}).items()}
    for job in jobs:
        try:
            image = job.read().data
            key = content_hash(image)
            if key in seen:
                left_out[job.name] = seen[key]
                continue
            seen[key] = f"the same image as {job.name}"
            if is_constant(image):
                raise ValueError("all pixels are equal; there is nothing to annotate")
            boxes = crop_boxes(image.shape[1:], crops)
            empty = np.array([is_constant(image[(slice(None), *slices(box))]) for box in boxes])
            left_out |= {f"{job.name} {place(box)}": "all pixels are equal" for box in boxes[empty]}
            candidates += _of_image(job, image, examiner, boxes=boxes[~empty], score=score)
        except PROBLEMS as error:
            log.debug("%s", job.name, exc_info=True)
            problems[job.name] = " ".join(str(error).removeprefix(f"{job.files[0]}: ").split()) or type(error).__name__
    return Pool(tuple(candidates), problems, left_out)


def _of_image(
    job: Job, image: NDArray[Any], examiner: Examiner, *, boxes: NDArray[np.int64], score: Score
) -> list[Candidate]:
    looks = examiner.looks(image, boxes)
    values: list[float | None] = [None] * len(boxes)
    if score != "random":
        examined = examiner(image)
        values = list(scores(examined.doubt, examined.found, boxes)[score].tolist())
        if not np.isfinite(np.array(values, np.float64)).all():
            raise FloatingPointError(f"its {score} is not finite")
    return [Candidate(job, *parts) for parts in zip(boxes, looks, values, strict=True)]


def content_hash(image: NDArray[Any]) -> str:
    """Of shape, type and pixels: a copy under another name, or in another kind of file, is the same image."""
    digest = hashlib.sha256(f"{image.shape} {image.dtype.newbyteorder('=')}".encode())
    digest.update(np.ascontiguousarray(image, image.dtype.newbyteorder("=")).tobytes())
    return digest.hexdigest()


def is_constant(image: NDArray[Any]) -> bool:
    """Whether no channel of an image ``(C, *spatial)`` varies."""
    return bool((image.reshape(len(image), -1) == image.reshape(len(image), -1)[:, :1]).all())


def place(box: NDArray[np.int64]) -> str:
    """A box ``(2, D)`` in words.

    >>> place(np.array([[0, 64], [32, 96]]))
    '[0:32, 64:96]'
    """
    return "[" + ", ".join(f"{start}:{stop}" for start, stop in box.T.tolist()) + "]"
