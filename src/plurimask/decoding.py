"""Outputs that are computed once and decoded under one setting after the other, and the search for the best one."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from plurimask.data.samples import Sample
from plurimask.instances import Instances, concatenate
from plurimask.metrics.segmentation import Scores, score
from plurimask.model import Model, describe
from plurimask.predict import Device, Precision, checked, decoded, joined, ready, visit_outputs
from plurimask.probabilistic import ProbabilisticInstances
from plurimask.protocols import Outputs
from plurimask.windows import Window

Kept = tuple[Window, Callable[[], Outputs]]
"""A window, and what gives its outputs back."""

Grid = Mapping[str, Sequence[Any]]
"""``method.FIELD`` or ``agglomeration.FIELD`` -> values to try."""

TUNED = ("method", "agglomeration")  # the parts of a model that have parameters to choose

GAIN = 1e-4
"""What a mean must gain: less is a tie, and the present value stays."""


class Shelf:
    """Keeps outputs: in memory up to a number of bytes, beyond it as files in a folder.

    float32 becomes float16 where its range suffices; bfloat16, what a network gives on most processors, stays as it is.
    """

    def __init__(self, folder: Path, *, memory: int) -> None:
        self.folder, self.left = folder, memory
        self.files = 0

    def put(self, outputs: Outputs) -> Callable[[], Outputs]:
        """Copies them; what comes back gives them again."""
        kept = {name: _small(value) for name, value in outputs.items()}
        size = sum(value.nbytes for value in kept.values())
        if size <= self.left:
            self.left -= size
            return lambda: kept
        self.files += 1
        path = self.folder / f"{self.files}.safetensors"
        save_file(kept, path)
        return partial(load_file, path)


def _small(value: Tensor) -> Tensor:
    """A copy on the CPU, in 16 bits if these hold it."""
    if value.dtype == torch.float32:
        half = value.to("cpu", torch.float16, memory_format=torch.contiguous_format)
        if bool(torch.isfinite(half).all()):
            return half
    return value.to("cpu", copy=True, memory_format=torch.contiguous_format)


@dataclass(frozen=True)
class Seen:
    """One image as a network sees it.

    Attributes:
        name: of the image.
        truth: its objects.
        draws: of every draw, the outputs of every window.
    """

    name: str
    truth: Instances
    draws: tuple[tuple[Kept, ...], ...]

    @classmethod
    def of(
        cls, sample: Sample, model: Model, shelf: Shelf, *, seeds: Sequence[int], device: Device, precision: Precision
    ) -> Seen:
        """Asks the network, once for every window and seed.

        Raises:
            ValueError: if the image does not fit the model; the message names it.
        """
        image, truth = sample.read()
        draws: list[list[Kept]] = [[] for _ in seeds]

        def keep(window: Window, draw: int, outputs: Outputs) -> None:
            draws[draw].append((window, shelf.put(outputs)))

        try:
            normalised = torch.from_numpy(model.normalisation(checked(image.data, model)))
        except ValueError as error:
            raise ValueError(f"{sample.name}: {error}") from error
        visit_outputs(normalised, model, keep, seeds=seeds, device=device, precision=precision)
        return cls(sample.name, truth, tuple(map(tuple, draws)))

    def decode(self, model: Model, device: torch.device) -> list[Instances]:
        """The objects of every draw."""
        shape = self.truth.shape

        def objects(window: Window, read: Callable[[], Outputs]) -> Instances:
            outputs = {name: value.to(device) for name, value in read().items()}
            return decoded(outputs, model.method, window=window, shape=shape)

        return [concatenate([objects(*kept) for kept in draw]) for draw in self.draws]


class Bench:
    """Images that are scored under one setting after the other.

    Scores are remembered, and so are the objects of the last method: another agglomeration decodes nothing anew.
    """

    def __init__(self, images: Sequence[Seen], measure: str, *, device: Device, precision: Precision) -> None:
        self.images, self.measure = images, measure
        self.device, self.precision = device, precision
        self._scores: dict[str, list[Scores]] = {}
        self._method, self._decoded = "", list[list[Instances]]()

    @property
    def names(self) -> tuple[str, ...]:
        """Of the images."""
        return tuple(image.name for image in self.images)

    def values(self, model: Model) -> NDArray[np.float64]:
        """``(n,)``: the measure of ``best()`` in every image."""
        return np.array([each.measures()[self.measure] for each in self.scores(model)], np.float64)

    def scores(self, model: Model) -> list[Scores]:
        """Hits and misses of ``best()`` in every image."""
        setting = _text(model, "method", "agglomeration", "calibration")
        if setting not in self._scores:
            pairs = zip(self.images, self.found(model), strict=True)
            self._scores[setting] = [score(image.truth, found.best()) for image, found in pairs]
        return self._scores[setting]

    def found(self, model: Model) -> list[ProbabilisticInstances]:
        """The objects of every image."""
        method = _text(model, "method")
        if method != self._method:
            with ready(model, device=self.device, precision=self.precision) as device:
                self._decoded = [image.decode(model, device) for image in self.images]
            self._method = method
        return [joined(draws, model) for draws in self._decoded]


def _text(model: Model, *parts: str) -> str:
    """Settings as text, by which equal ones are known."""
    return json.dumps([describe(getattr(model, part)) for part in parts], default=list)


@dataclass(frozen=True)
class Trial:
    """One value that was tried, all others being the best so far.

    Attributes:
        name: ``method.FIELD`` or ``agglomeration.FIELD``.
        value: of this field.
        mean: the measure's mean over the images.
        kept: whether it was better than the best so far.
    """

    name: str
    value: Any
    mean: float
    kept: bool


def search(
    model: Model,
    bench: Bench,
    *,
    parameters: Grid | None = None,
    rounds: int = 2,
    on_trial: Callable[[Trial, int], None] | None = None,
) -> tuple[Model, tuple[Trial, ...]]:
    """Coordinate descent: one parameter after the other takes the value with the highest mean, all of them ``rounds``
    times or until a round changes nothing. The rest is as in :func:`plurimask.tuning.tune`.
    """
    best, trials = bench.values(model).mean(), list[Trial]()
    total = rounds * sum(map(len, candidates(model, parameters).values()))
    for _ in range(rounds):
        start = model
        for name in candidates(model, parameters):
            for value in candidates(model, parameters)[name]:
                candidate = _with(model, name, value)
                mean = bench.values(candidate).mean()
                trials.append(Trial(name, value, float(mean), kept=bool(mean > best + GAIN)))
                if on_trial:
                    on_trial(trials[-1], total)
                if trials[-1].kept:
                    best, model = mean, candidate
        if model is start:
            break
    return model, tuple(trials)


def candidates(model: Model, parameters: Grid | None = None) -> Grid:
    """The given values, or those that the parts of the model propose around their present ones."""
    if parameters is not None:
        return parameters
    return {f"{part}.{name}": values for part in TUNED for name, values in getattr(model, part).tunable().items()}


def settings(model: Model) -> dict[str, Any]:
    """``method.FIELD`` or ``agglomeration.FIELD`` -> its present value."""
    parts = {part: describe(getattr(model, part))["init_args"] for part in TUNED}
    return {f"{part}.{name}": value for part, values in parts.items() for name, value in values.items()}


def _with(model: Model, name: str, value: Any) -> Model:
    part, _, field = name.partition(".")
    return replace(model, **{part: replace(getattr(model, part), **{field: value})})
