"""Semi-supervised training: the average of the student's weights teaches it what unlabelled crops show.

A mean teacher (Tarvainen, Valpola 2017) under the rule of :mod:`plurimask.listening`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, cast

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from plurimask.data.dataset import collate
from plurimask.data.unlabelled import UnlabelledCrops
from plurimask.instances import Instances
from plurimask.listening import Listen2Student
from plurimask.methods import METHODS
from plurimask.protocols import Method, Outputs, Posterior

LESSON = "lesson"
"""Where a batch has the images and targets of its unlabelled crops."""


@dataclass(frozen=True)
class Lessons:
    """What unlabelled crops teach, update after update: the same ones in a resumed run.

    Attributes:
        method: makes the targets.
        crops: all of them, ``batch`` for every update.
        rule: what is learned.
        batch: crops per update.
        start: the first update with a lesson.
        workers: processes that make crops.

    Raises:
        ValueError: no unlabelled image, or a method that cannot be taught, as it is configured or at all.
    """

    method: Method
    crops: UnlabelledCrops
    rule: Listen2Student
    batch: int
    start: int
    workers: int

    def __post_init__(self) -> None:
        if not len(self.crops.images):
            raise ValueError("there are no unlabelled images to learn from; give some, or train without a teacher.")
        if type(self.method).taught is Method.taught:
            able = [name for name, method in METHODS.items() if method.taught is not Method.taught]
            raise ValueError(
                f"{type(self.method).__name__} cannot learn from unlabelled images; methods that can: "
                f"{', '.join(able)}. Choose one, or leave the unlabelled images out."
            )
        nothing = Instances.empty((32,) * (self.crops.images[0].ndim - 1))
        self.method.taught(self.method.ideal(nothing), self.rule, np.random.default_rng(0))  # its own refusals, early

    def batches(self, update: int, *, process: int) -> Iterator[dict[str, Tensor]]:
        """``image`` and ``plain`` (B, C, *spatial) from an update on, for one of several processes."""
        seed, _ = self.crops.seed
        crops = replace(self.crops, seed=(seed, process), first=update * self.batch)
        return iter(DataLoader(crops, batch_size=self.batch, collate_fn=collate, num_workers=self.workers))

    def targets(self, teacher: Posterior, plain: Tensor, update: int) -> dict[str, Tensor]:
        """Of a batch of crops, of each by a draw of its own. plain: ``(B, C, *spatial)``."""
        generator = np.random.default_rng([*self.crops.seed, update])
        return collate([self._taught(teacher, window[None], generator) for window in plain], self.method.ragged)

    def _taught(self, teacher: Posterior, window: Tensor, generator: np.random.Generator) -> dict[str, NDArray[Any]]:
        seed = int(generator.integers(2**31))
        draws = teacher.draws(window, [seed], context=teacher.context(window))
        outputs: Outputs = next(iter(draws))
        return self.method.taught(outputs, self.rule, generator)


class Teacher(EMAWeightAveraging):
    """The exponential moving average of the weights, which gives every batch a lesson (``batch[LESSON]``).

    It is the average that is evaluated and kept, too, and so it is in the checkpoints already.
    """

    def __init__(self, lessons: Lessons, *, decay: float, update_starting_at_step: int) -> None:
        super().__init__(decay=decay, update_starting_at_step=update_starting_at_step)
        self.lessons = lessons
        self._batches: Iterator[dict[str, Tensor]] | None = None

    @property
    def posterior(self) -> Posterior:
        """With the averaged weights."""
        if self._average_model is None:
            raise RuntimeError("the teacher has no weights before the training has begun.")
        return cast("Posterior", self._average_model.module.posterior)

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self.posterior.to(pl_module.device).eval()  # the average is made before the student moves to its device

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Any, *_: int
    ) -> None:
        update = trainer.global_step
        if update < self.lessons.start:
            return
        if self._batches is None:
            self._batches = self.lessons.batches(update, process=trainer.global_rank)
        crops = {name: crop.to(pl_module.device) for name, crop in next(self._batches).items()}
        with torch.no_grad(), trainer.precision_plugin.forward_context():
            targets = self.lessons.targets(self.posterior, crops["plain"], update)
        batch[LESSON] = {"image": crops["image"], **{name: part.to(pl_module.device) for name, part in targets.items()}}

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        super().on_train_end(trainer, pl_module)
        self._batches = None  # and with it its workers
