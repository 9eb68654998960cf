"""The optimisation, on Lightning: mixed precision, averaged weights, resume, the best state by the tune images."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, EMAWeightAveraging, ModelCheckpoint, RichProgressBar
from lightning.pytorch.loggers import CSVLogger
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from plurimask.data.dataset import Crops, Example, collate
from plurimask.data.transforms import Augmentation
from plurimask.data.unlabelled import UnlabelledCrops
from plurimask.listening import Listen2Student
from plurimask.methods import METHODS
from plurimask.metrics.segmentation import score
from plurimask.model import Model
from plurimask.predict import Device, pick_device, segment_draws, use_bfloat16
from plurimask.protocols import Head, Method
from plurimask.semi_supervised import LESSON, Lessons, Teacher

log = logging.getLogger(__name__)

LATEST = "latest.ckpt"
BEST = "best.ckpt"
FINISHED = "finished"  # an empty file; the latest checkpoint is older than the look after which patience ended


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train.

    Attributes:
        steps: number of updates.
        batch: crops per update.
        crop: side of a crop in pixels.
        learning_rate: of Adam, after the warm-up; falls as ``decay`` says.
        warmup: updates until the learning rate is reached.
        decay: "cosine" falls to zero, "steps" by the factor ``gamma`` at every milestone (U22).
        milestones: shares of ``steps``, of all updates (U22's code counts items instead, and never gets there).
        gamma: factor at a milestone.
        clip: largest norm of the gradient.
        averaging: decay of the exponential moving average of the weights that is evaluated and kept; it begins
            after the warm-up, or at the first look at the tune images if that is earlier.
        check_every: updates between two looks at the tune images.
        patience: looks without a better S after which training stops; None never stops.
        workers: processes that make crops.
        near_object: share of crops centred near an object.
        near_overlap: share of crops centred near an overlap.
        annotator: whose truth is fitted, where images have several annotators: this one's (members of an ensemble may
            have one each), that of one drawn for every crop if None, or with "all" the loss over all of them in
            equal shares, in one pass of the network, for methods that can
            (:meth:`plurimask.protocols.Method.joined`).
        augmentation: what may happen to a crop.
        seed: of weights, crops and dropout.
    """

    steps: int = 12_000
    batch: int = 2
    crop: int = 320
    learning_rate: float = 1e-3
    warmup: int = 300
    decay: Literal["cosine", "steps"] = "cosine"
    milestones: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.6, 0.8)
    gamma: float = 0.666
    clip: float = 5.0
    averaging: float = 0.998
    check_every: int = 500
    patience: int | None = None
    workers: int = 1
    near_object: float = 0.5
    near_overlap: float = 0.3
    annotator: int | Literal["all"] | None = None
    augmentation: Augmentation = field(default_factory=Augmentation)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.decay not in ("cosine", "steps") or not all(0 <= share <= 1 for share in self.milestones):
            raise ValueError(
                f'decay is "cosine" or "steps", not {self.decay!r}, and milestones are shares of the updates between 0 '
                f"and 1, not {self.milestones}."
            )
        if isinstance(self.annotator, str) and self.annotator != "all":
            raise ValueError(f'annotator is {self.annotator!r}; a number from 0, "all" or None is wanted.')


def fit(
    model: Model,
    examples: Sequence[Example],
    tune: Sequence[Example],
    *,
    run: Path,
    schedule: Schedule,
    weights: NDArray[np.float64] | None = None,
    unlabelled: Sequence[NDArray[np.float32]] = (),
    teaching: Listen2Student = Listen2Student(),
    progress: bool = True,
) -> Model:
    """Trains a model; continues where a killed run with the same folder stopped, and reads the end of a finished one.

    Args:
        model: where to start from; its posterior is trained in place.
        examples: images to fit.
        tune: images that choose the best state (by mean S over IoU .5:.05:.95), never fitted.
        run: folder of checkpoints and logs; not the model's own folder.
        schedule: how long and how fast.
        weights: relative frequency of every example.
        unlabelled: ``(C, *spatial)``, normalised; with some, every update sees as many crops of them as of examples.
        teaching: what is learned from them.
        progress: whether to show a bar.

    Returns:
        The model with the weights that were best on the tune images.

    Raises:
        ValueError: the method cannot learn from unlabelled images, or not from all annotators at once.
    """
    check_annotator(model.method, schedule)
    latest = run / LATEST
    if latest.is_file() and (run / FINISHED).is_file():
        return _best(model, run)
    model.posterior.samples = len(examples)
    model.posterior.train()  # a loaded model is in eval mode
    done = _steps_done(latest)
    crops = Crops(
        examples,
        model.method,
        size=schedule.crop,
        count=schedule.steps * schedule.batch,
        first=done * schedule.batch,
        seed=schedule.seed,
        augmentation=schedule.augmentation,
        near_object=schedule.near_object,
        near_overlap=schedule.near_overlap,
        weights=weights,
        annotator=schedule.annotator,
    )
    loader = DataLoader(
        crops,
        batch_size=schedule.batch,
        collate_fn=partial(collate, ragged=model.method.ragged),
        num_workers=schedule.workers,
        persistent_workers=schedule.workers > 0,
    )
    looks: DataLoader[Example] = DataLoader(list(tune), batch_size=None, collate_fn=_itself)  # type: ignore[arg-type]
    lessons = _lessons(model, unlabelled, schedule, teaching) if len(unlabelled) else None
    trainer = _trainer(run, schedule, done=done, progress=progress, lessons=lessons)
    training = Training(model, schedule, teaching)
    with _no_false_alarms():
        if done:
            trainer.fit(training, loader, looks, ckpt_path=str(latest), weights_only=True)
        else:
            _prepare(model, examples, schedule)
            trainer.fit(training, loader, looks)
    (run / FINISHED).touch()
    return _best(model, run)


def check_annotator(method: Method, schedule: Schedule) -> None:
    """Whether a method can fit the annotators that the schedule names.

    Raises:
        ValueError: all of them at once, where the method cannot join their targets.
    """
    if schedule.annotator == "all" and type(method).joined is Method.joined:
        able = [name for name, known in METHODS.items() if known.joined is not Method.joined]
        raise ValueError(
            f"{type(method).__name__} cannot fit all annotators of a crop at once; methods that can: "
            f"{', '.join(able)}. Choose one, or another annotator: a number, or null for one at random in every crop."
        )


class Training(lightning.LightningModule):
    """One model under training."""

    def __init__(self, model: Model, schedule: Schedule, teaching: Listen2Student = Listen2Student()) -> None:
        super().__init__()
        self.posterior = model.posterior
        if model.backbone.ndim == 2:
            self.posterior.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in its types
        self.model, self.schedule, self.teaching = model, schedule, teaching

    def training_step(self, batch: dict[str, Any], number: int) -> Tensor:
        lesson = batch.pop(LESSON, None)
        terms = self._terms(batch)
        if lesson is not None:
            taught = self._terms(lesson)
            taught.pop("weights", None)  # no matter of images: it is among the others
            terms |= {f"unlabelled.{name}": self.teaching.weight * term for name, term in taught.items()}
        loss = torch.stack(list(terms.values())).sum()
        if not torch.isfinite(loss):
            values = {name: float(term.detach()) for name, term in terms.items()}
            raise FloatingPointError(f"the loss is not finite at step {self.global_step}: {values}.")
        self.log_dict({f"loss/{name}": term.detach() for name, term in terms.items()})
        self.log("loss", loss.detach(), prog_bar=True)
        return loss

    def _terms(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        image = batch.pop("image")
        if image.ndim == 4:
            image = image.contiguous(memory_format=torch.channels_last)
        return self.posterior.losses(image, batch)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """A tune image stays where it is; prediction moves it."""
        return batch if isinstance(batch, Example) else super().transfer_batch_to_device(batch, device, dataloader_idx)

    def validation_step(self, example: Example, number: int) -> None:
        """S of one draw on one tune image."""
        seen = replace(self.model, posterior=self.posterior)
        device = cast("Device", self.device.type)
        found = segment_draws(torch.from_numpy(example.image), seen, seeds=[0], device=device)[0]
        s = score(example.truth, found).s
        self.log("tune/S50", float(s[0]), batch_size=1)
        self.log("tune/avS", float(np.mean(s)), batch_size=1, prog_bar=True)

    def on_validation_epoch_end(self) -> None:
        self.log_dict(self.posterior.report())

    def configure_optimizers(self) -> Any:
        optimiser = torch.optim.Adam(self.posterior.parameter_groups(self.schedule.learning_rate))
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, self._factor)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _factor(self, step: int) -> float:
        """Linear warm-up; then half a cosine to zero, or steps, which fall in the warm-up, too."""
        schedule = self.schedule
        warm = min(1.0, (step + 1) / max(1, schedule.warmup))
        if schedule.decay == "steps":
            passed = sum(step >= share * schedule.steps for share in schedule.milestones)
            return float(warm * schedule.gamma**passed)
        if step < schedule.warmup:
            return warm
        share = (step - schedule.warmup) / max(1, schedule.steps - schedule.warmup)
        return float(0.5 * (1 + np.cos(np.pi * min(share, 1.0))))


class StepsBar(RichProgressBar):
    """Lightning's bar, counting the steps of the whole schedule; there are no epochs."""

    @property
    def total_train_batches(self) -> int:
        return self.trainer.max_steps

    def get_metrics(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> dict[str, Any]:
        shown = super().get_metrics(trainer, pl_module)
        return {name: value for name, value in shown.items() if name != "v_num"}

    def _get_train_description(self, current_epoch: int) -> str:
        return "steps"


def _prepare(model: Model, examples: Sequence[Example], schedule: Schedule) -> None:
    """What heads learn from the truth alone, before there is a loss; a resumed run has it in its checkpoint."""
    model.posterior.to(pick_device("auto"))
    truths = [truth for example in examples for truth in (example.truth, *example.others)]
    for part in model.posterior.modules():
        if isinstance(part, Head):
            part.prepare(truths, steps=schedule.steps, seed=schedule.seed)


def _lessons(
    model: Model, images: Sequence[NDArray[np.float32]], schedule: Schedule, teaching: Listen2Student
) -> Lessons:
    crops = UnlabelledCrops(
        images,
        size=schedule.crop,
        count=schedule.steps * schedule.batch,
        seed=(schedule.seed, 0),
        augmentation=schedule.augmentation,
    )
    start = max(round(teaching.start * schedule.steps), schedule.warmup)  # before, the average is that of no training
    return Lessons(model.method, crops, teaching, batch=schedule.batch, start=start, workers=schedule.workers)


def _trainer(run: Path, schedule: Schedule, *, done: int, progress: bool, lessons: Lessons | None) -> lightning.Trainer:
    every = min(schedule.check_every, schedule.steps)
    # The average is what a look sees: it has to hold trained weights by the first one.
    first = min(schedule.warmup, every - 1)
    kind = EMAWeightAveraging if lessons is None else partial(Teacher, lessons)
    average = kind(decay=schedule.averaging, update_starting_at_step=first)
    best = ModelCheckpoint(run, "best", monitor="tune/avS", mode="max", enable_version_counter=False)
    latest = ModelCheckpoint(
        run, "latest", every_n_train_steps=every, save_on_train_epoch_end=False, enable_version_counter=False
    )
    callbacks: list[Callback] = [average, best, latest]
    callbacks += [StepsBar(console_kwargs={"stderr": True})] if progress else []
    if schedule.patience is not None:
        callbacks.append(EarlyStopping("tune/avS", mode="max", patience=schedule.patience))
    device = pick_device("auto")
    return lightning.Trainer(
        accelerator=device,
        devices=1 if device == "cpu" else "auto",
        precision="bf16-mixed" if use_bfloat16(torch.device(device), "auto") else "32-true",
        max_steps=schedule.steps,
        val_check_interval=every,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        gradient_clip_val=schedule.clip,
        log_every_n_steps=min(50, every),
        callbacks=callbacks,
        logger=CSVLogger(run, name="logs", version=f"from_{done:06d}", flush_logs_every_n_steps=50),
        enable_model_summary=False,
        enable_progress_bar=progress,
        default_root_dir=run,
    )


def _steps_done(checkpoint: Path) -> int:
    if not checkpoint.is_file():
        return 0
    return int(torch.load(checkpoint, map_location="cpu", weights_only=True)["global_step"])


def _best(model: Model, run: Path) -> Model:
    """The averaged weights of the best look."""
    file = run / BEST
    if not file.is_file():  # killed after the last step, before the only look
        log.warning("%s: no look at the tune images was finished; the latest weights are taken.", run)
        file = run / LATEST
    kept = torch.load(file, map_location="cpu", weights_only=True)["state_dict"]
    prefix = "posterior."
    model.posterior.load_state_dict({name.removeprefix(prefix): value for name, value in kept.items()})
    model.posterior.eval()
    return model


@contextmanager
def _no_false_alarms() -> Iterator[None]:
    """Without Lightning's warnings about things that are meant, and about its own use of torch."""
    meant = (
        "You're resuming from a checkpoint that ended before the epoch ended",  # crops begin where the run was killed
        "(Checkpoint|Experiment logs) directory .* exists and is not empty",  # a resumed run
        "The '.*_dataloader' does not have many workers",  # a look reads images that are in memory
        r"`isinstance\(treespec, LeafSpec\)` is deprecated",  # torch to Lightning, nothing to us
    )
    with warnings.catch_warnings():
        for message in meant:
            warnings.filterwarnings("ignore", message=message)
        yield


def _itself(example: Example) -> Example:
    return example
