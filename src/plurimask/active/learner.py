"""What a study of active learning trains: any method under any posterior, on a data set whose truth is known."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plurimask.active.acquisition import Score, scores
from plurimask.active.candidates import Examiner
from plurimask.active.examination import Examination
from plurimask.active.loop import PoolImage
from plurimask.data.normalise import Normalisation
from plurimask.data.samples import Sample, Split
from plurimask.data.sources import open_source
from plurimask.familiarity import looks
from plurimask.fitting import Schedule
from plurimask.instances import Instances
from plurimask.methods import Embedding
from plurimask.metrics.energy_distance import soft_dice_distance
from plurimask.metrics.segmentation import score as score_objects
from plurimask.model import load_model
from plurimask.networks import UNet
from plurimask.posteriors import ConcreteDropout
from plurimask.protocols import Backbone, Method, NetworkFactory, Posterior
from plurimask.training import train
from plurimask.uncertainty import binary_entropy

_LEAST = 1e-6  # of a probability under a logarithm: a network of 32 bits can be sure


@dataclass(frozen=True)
class Segmenter:
    """Trained on named images of a data set's fit part, and measured on another part.

    Attributes:
        data: a data set in a layout that :func:`plurimask.data.sources.open_source` knows.
        method: how pixels become objects.
        backbone: makes the backbone from the number of channels.
        posterior: makes the posterior from a factory of networks.
        schedule: of one round; the study sets its seed.
        normalisation: of intensities.
        window: largest side of a prediction window.
        halo: how far a window sees beyond what it answers for.
        part: what is measured on; the tune part chooses the state of the training, too, in all strategies alike.
        draws: how often the model is asked.
        pool_size: only so many of the fit images, at equal distances; all if None.
        measured: only so many of the images of the part, at equal distances; all if None.
    """

    data: Path
    method: Method = field(default_factory=Embedding)
    backbone: Callable[[int], Backbone] = UNet
    posterior: Callable[[NetworkFactory], Posterior] = ConcreteDropout
    schedule: Schedule = field(default_factory=Schedule)
    normalisation: Normalisation = field(default_factory=Normalisation)
    window: int = 768
    halo: int = 128
    part: Split = "tune"
    draws: int = 8
    pool_size: int | None = None
    measured: int | None = None

    def settings(self) -> dict[str, Any]:
        """All fields as text, the place of the data on this machine left out."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        shown = {name: re.sub(r" at 0x[0-9a-f]+", "", repr(value)) for name, value in values.items()}
        return {**shown, "data": self.data.resolve().name}

    def pool(self) -> list[PoolImage]:
        """With the facts ``foreground`` and ``disagreement`` (:func:`facts`), and ``objects``."""
        return [self._pool_image(sample) for sample in self._fit.values()]

    def _pool_image(self, sample: Sample) -> PoolImage:
        image, truths = sample.read_all()
        return PoolImage(sample.name, looks(self.normalisation(image.data)), facts(truths))

    def train(self, names: Sequence[str], output: Path, *, init: Path | None, seed: int) -> None:
        """From the beginning, whatever an interrupted training left; checkpoints go when it is done."""
        train(
            [self.data],
            output,
            method=self.method,
            backbone=self.backbone,
            posterior=self.posterior,
            schedule=replace(self.schedule, seed=seed),
            normalisation=self.normalisation,
            only=names,
            init=init,
            window=self.window,
            halo=self.halo,
            overwrite=True,
            progress=False,
        )
        shutil.rmtree(output.with_name(f"{output.name}.run"))

    def score(self, model: Path, names: Sequence[str], score: Score, *, seed: int) -> NDArray[np.float64]:
        """``(N,)`` by :func:`plurimask.active.acquisition.scores`."""
        examiner = Examiner(load_model(model), draws=self.draws, seed=seed)
        return np.array([self._score(examiner, self._fit[name], score) for name in names], np.float64)

    def _score(self, examiner: Examiner, sample: Sample, score: Score) -> float:
        image = sample.image()
        examined = examiner(image.data)
        whole = np.array([[[0] * len(image.shape), image.shape]], np.int64)
        return float(scores(examined.doubt, examined.found, whole)[score][0])

    def measure(self, model: Path) -> dict[str, float]:
        """Means over the images of :func:`measures`."""
        examiner = Examiner(load_model(model), draws=self.draws)
        samples = _some(list(open_source(self.data, split=self.part)), self.measured)
        rows = []
        for sample in samples:
            image, truths = sample.read_all()
            rows.append(measures(examiner(image.data), truths))
        return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}

    @cached_property
    def _fit(self) -> dict[str, Sample]:
        return {sample.name: sample for sample in _some(list(open_source(self.data, split="fit")), self.pool_size)}


def facts(truths: Sequence[Instances]) -> dict[str, float]:
    """Of one image by its A annotators, with a the share of them that see an object at a pixel.

    ``foreground``: mean of a. ``disagreement``: mean over the pixels of the entropy H(a), in nats; 0 for one annotator.
    ``objects``: mean number of objects.
    """
    share = annotation(truths)
    return {
        "foreground": float(share.mean()),
        "disagreement": float(binary_entropy(share).mean()),
        "objects": float(np.mean([len(truth) for truth in truths])),
    }


def measures(examined: Examination, truths: Sequence[Instances]) -> dict[str, float]:
    """How good an answer is, with a as in :func:`facts` and p the mean probability of foreground.

    ``avS`` and ``S@0.5``: of the most probable set of objects, mean over the annotators. ``dice``: soft Dice overlap of
    p and a. ``loss``: mean over pixels of the cross-entropy -a ln p - (1 - a) ln(1 - p), the mean over the annotators
    of what training minimises.
    """
    best = examined.found.best()
    objects = [score_objects(truth, best).measures() for truth in truths]
    share = annotation(truths)
    p = np.clip(1 - np.asarray(examined.doubt.probabilities[0], np.float64), 0, 1)
    sure = np.clip(p, _LEAST, 1 - _LEAST)
    return {
        "avS": float(np.mean([one["avS"] for one in objects])),
        "S@0.5": float(np.mean([one["S@0.5"] for one in objects])),
        "dice": 1 - soft_dice_distance(p, share),
        "loss": float(-(share * np.log(sure) + (1 - share) * np.log1p(-sure)).mean()),
    }


def annotation(truths: Sequence[Instances]) -> NDArray[np.float64]:
    """``(*spatial)``: the share of the annotators that see an object here."""
    share: NDArray[np.float64] = np.mean([truth.owners() > 0 for truth in truths], axis=0)
    return share


def _some(samples: Sequence[Sample], count: int | None) -> list[Sample]:
    count = min(count or len(samples), len(samples))
    return [samples[number * len(samples) // count] for number in range(count)]
