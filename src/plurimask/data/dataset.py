"""Endless random crops for training: crop number n is a function of (seed, n), so a resumed run sees the same ones."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from plurimask.data.transforms import Augmentation, Combinations, crop_centre, cut, to_combinations, to_instances
from plurimask.instances import Instances
from plurimask.protocols import Method


@dataclass(frozen=True)
class Example:
    """One normalised image in memory with its truth.

    Attributes:
        name: of the image, as in its source.
        image: ``(C, *spatial)`` float32.
        truth: its objects; those of the first annotator, where there are several.
        others: what the other annotators say.
    """

    name: str
    image: NDArray[np.float32]
    truth: Instances
    others: tuple[Instances, ...] = ()

    @cached_property
    def combinations(self) -> tuple[Combinations, ...]:
        """One for every annotator."""
        return tuple(map(to_combinations, (self.truth, *self.others)))


@dataclass(frozen=True)
class Crops(Dataset[dict[str, NDArray[Any]]]):
    """Crops of ``size`` pixels with the targets of a method.

    Attributes:
        examples: the training images.
        method: makes the targets.
        size: side of a crop, in pixels.
        count: number of crops, steps times batch size.
        seed: of the whole stream.
        first: number of the first crop; a resumed run starts where the killed one stopped.
        near_object: share of crops centred near an object.
        near_overlap: share of crops centred near an overlap, where there is one.
        weights: relative frequency of every example; equal if None.
        annotator: whose truth is taken, where an example has several: number ``annotator`` (from 0, and again from 0
            where there are fewer), or one at random for every crop if None. With "all" the crop is that of None (but
            for a ``rescale`` of the augmentation, which looks at the objects of all), and the method joins what each of
            them says of it (:meth:`plurimask.protocols.Method.joined`).
    """

    examples: Sequence[Example]
    method: Method
    size: int
    count: int
    seed: int
    first: int = 0
    augmentation: Augmentation = field(default_factory=Augmentation)
    near_object: float = 0.5
    near_overlap: float = 0.3
    weights: NDArray[np.float64] | None = None
    annotator: int | Literal["all"] | None = None

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> dict[str, NDArray[Any]]:
        generator = np.random.default_rng([self.seed, self.first + number])
        example = self.examples[generator.choice(len(self.examples), p=self.weights)]
        chosen = example.combinations[self._annotator_of(example, generator)]
        centre = crop_centre(
            chosen,
            size=self.size,
            near_object=self.near_object,
            near_overlap=self.near_overlap,
            generator=generator,
        )
        whole = self.size + 2 * self.augmentation.margin(self.size)
        image = cut(example.image, centre=centre, size=whole)
        seen = example.combinations if self.annotator == "all" else (chosen,)
        ids = np.stack([cut(one.ids, centre=centre, size=whole) for one in seen])
        image, ids = self.augmentation.spatial(image, ids, size=self.size, generator=generator)
        image = self.augmentation.intensity(image, generator)
        truths = [to_instances(replace(one, ids=bent)) for one, bent in zip(seen, ids, strict=True)]
        targets = [self.method.targets(truth, copy.deepcopy(generator)) for truth in truths]
        return {"image": image, **(self.method.joined(targets) if self.annotator == "all" else targets[0])}

    def _annotator_of(self, example: Example, generator: np.random.Generator) -> int:
        count = len(example.combinations)
        if self.annotator is None or isinstance(self.annotator, str):
            # A single annotator takes no random number: crops are those of a data set without the notion.
            return int(generator.integers(count)) if count > 1 else 0
        return self.annotator % count


def collate(crops: Sequence[dict[str, NDArray[Any]]], ragged: frozenset[str] = frozenset()) -> dict[str, Tensor]:
    """Dense entries are stacked, ``ragged`` ones (see :class:`plurimask.protocols.Method`) laid end to end.

    >>> rows = [{"size": np.array([3, 5])}, {"size": np.array([4])}]
    >>> collate(rows, ragged=frozenset({"size"}))
    {'size': tensor([3, 5, 4]), 'image_index': tensor([0, 0, 1])}
    """
    joined = {name: np.stack([crop[name] for crop in crops]) for name in crops[0] if name not in ragged}
    if ragged:
        joined |= {name: np.concatenate([crop[name] for crop in crops]) for name in ragged}
        rows = [len(crop[min(ragged)]) for crop in crops]
        joined["image_index"] = np.repeat(np.arange(len(crops)), rows)
    return {name: torch.from_numpy(values) for name, values in joined.items()}
