"""The whole story: image -> windows -> draws -> instances -> agglomerate."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits
from torch import Tensor

from plurimask.familiarity import looks
from plurimask.instances import Instances, concatenate
from plurimask.model import Model, load_model
from plurimask.platt import Platt
from plurimask.probabilistic import ProbabilisticInstances
from plurimask.protocols import Method, Outputs
from plurimask.rescale import rescale_image, rescale_result, training_zoom
from plurimask.windows import Window, grid

Device = Literal["auto", "cpu", "cuda", "mps"]
Precision = Literal["auto", "float32", "bfloat16"]

Visit = Callable[[Window, int, Outputs], None]
"""What is done with the outputs of one draw (the place of its seed) in one window, turned as the draw has seen it."""


@dataclass(frozen=True)
class Answer:
    """What a model says about an image.

    Attributes:
        found: its objects.
        unlike: how unlike the training images the image looks, :meth:`plurimask.familiarity.Familiarity.score`; None
            where the model remembers none of them.
        why: what sets it apart, in words; empty up to a score of 1.
    """

    found: ProbabilisticInstances
    unlike: float | None = None
    why: str = ""

    @property
    def warning(self) -> str:
        """What to tell of the image, to be put behind its name; empty where there is nothing to warn of."""
        if self.unlike is None or self.unlike <= 1:
            return ""
        return (
            f"looks unlike the training images (score {self.unlike:.2f}; of images like them 95 % stay below 1): "
            f"{self.why}. What is found there can be confidently wrong."
        )


def segment(
    image: NDArray[Any],
    model: Model | Path | str = "nuclei",
    *,
    draws: int = 8,
    seed: int = 0,
    pixel_size: float | None = None,
    diameter: float | None = None,
    device: Device = "auto",
    precision: Precision = "auto",
) -> ProbabilisticInstances:
    """Finds the objects of an image, each with its probability; warns if the image looks unlike the training images.

    Args:
        image: ``(C, *spatial)`` or, for one channel, ``(*spatial)``; any numeric dtype.
        model: a model, its folder, or the name of a shipped one.
        draws: how often the model is asked; at most 255. A deterministic model is asked once.
        seed: of the first draw; draw s has seed ``seed + s``.
        pixel_size: of the image in micrometres; the image is rescaled to the model's.
        diameter: of the objects in pixels; the image is rescaled to the model's training scale.
        device: "auto" takes a GPU where there is one.
        precision: "auto" is bfloat16 where the processor supports it.

    Raises:
        ValueError: if the image does not fit the model (channels, axes, NaN) or draws is out of range.
    """
    model = model if isinstance(model, Model) else load_model(model)
    zoom = training_zoom(model.scale, pixel_size=pixel_size, diameter=diameter)
    answered = answer(image, model, zoom=zoom, draws=draws, seed=seed, device=device, precision=precision)
    if answered.warning:
        warnings.warn(f"the image {answered.warning}", stacklevel=2)
    return answered.found


def answer(
    image: NDArray[Any],
    model: Model,
    *,
    zoom: float = 1.0,
    draws: int = 8,
    seed: int = 0,
    device: Device = "auto",
    precision: Precision = "auto",
) -> Answer:
    """As :func:`segment`, but says in its answer whether the image looks unlike the training images.

    zoom: how much larger the image must become to be at the model's scale, :func:`plurimask.rescale.training_zoom`.

    Raises:
        ValueError: as :func:`segment`.
    """
    image = checked(image, model)
    seeds = seeds_of(model, draws, seed)
    seen = model.normalisation(rescale_image(image, zoom))
    instances = segment_draws(torch.from_numpy(seen), model, seeds=seeds, device=device, precision=precision)
    return Answer(rescale_result(joined(instances, model), image.shape[1:]), *_unlike(seen, model))


def _unlike(image: NDArray[np.float32], model: Model) -> tuple[float | None, str]:
    """Score, and what to say of it. image: ``(C, *spatial)``, as the network sees it."""
    if not model.familiarity.references:
        return None, ""
    seen = looks(image)
    score = model.familiarity.score(seen)
    return score, model.familiarity.explain(seen) if score is not None and score > 1 else ""


def segment_draws(
    image: Tensor,
    model: Model,
    *,
    seeds: Sequence[int],
    visit: Visit | None = None,
    device: Device = "auto",
    precision: Precision = "auto",
) -> list[Instances]:
    """The objects of every draw, before they are agglomerated. image: ``(C, *spatial)``, normalised.

    visit: is shown the outputs, too, each before it is decoded.
    """
    parts: list[list[Instances]] = [[] for _ in seeds]

    def decode(window: Window, draw: int, outputs: Outputs) -> None:
        if visit is not None:
            visit(window, draw, outputs)
        parts[draw].append(decoded(outputs, model.method, window=window, shape=image.shape[1:]))

    visit_outputs(image, model, decode, seeds=seeds, device=device, precision=precision)
    return [concatenate(part) for part in parts]


def visit_outputs(
    image: Tensor,
    model: Model,
    visit: Visit,
    *,
    seeds: Sequence[int],
    device: Device = "auto",
    precision: Precision = "auto",
) -> None:
    """Shows the outputs of every window and draw to ``visit``, one after the other: one draw's are in memory at a time.

    A visitor and not an iterator, because the network's settings (no gradients, the precision) are those of the thread:
    between two outputs an iterator would hand them to its caller. image: ``(C, *spatial)``, normalised.
    """
    windows = grid(image.shape[1:], size=model.window, halo=model.halo, stride=model.backbone.strides[-1])
    with ready(model, device=device, precision=precision) as target:
        batch = to_device(image[None], target)
        context = model.posterior.context(batch)
        for window in windows:
            seen = part_of(batch, window.outer)
            draws = zip(seeds, model.posterior.draws(seen, seeds, context=context), strict=True)
            for draw, (seed, outputs) in enumerate(draws):
                visit(window.turned(model.posterior.symmetry(seed)), draw, outputs)


def decoded(outputs: Outputs, method: Method, *, window: Window, shape: Sequence[int]) -> Instances:
    """The objects that a window answers for, in the frame of an image ``(*spatial,)``, from one draw's outputs."""
    found = window.cut(window.symmetry.undo_objects(method.decode(outputs)))
    return found.select(window.answers_for(found)).shift(window.outer[0], shape)


def joined(draws: Sequence[Instances], model: Model) -> ProbabilisticInstances:
    """The objects of several draws agglomerated; existence, expected IoU and borders calibrated where the model is."""
    found = model.border(model.agglomeration(draws))
    if model.calibration == model.quality == Platt():
        return found
    return found.calibrated(model.calibration, model.quality)


def part_of(batch: Tensor, box: NDArray[np.int64]) -> Tensor:
    """A view of ``(B, C, *spatial)`` within a box ``(2, D)``."""
    for axis, (start, stop) in enumerate(box.T.tolist(), start=2):
        batch = batch.narrow(axis, start, stop - start)
    return batch


def seeds_of(model: Model, draws: int, seed: int) -> range:
    """The seeds of the draws.

    Raises:
        ValueError: if there are none or more than 255, or the seed is negative.
    """
    if seed < 0:
        raise ValueError(f"the seed must not be negative, but is {seed}.")
    if not 1 <= draws <= 255:
        raise ValueError(f"draws must lie between 1 and 255, not at {draws}.")
    return range(seed, seed + min(draws, model.posterior.distinct or draws))


def checked(image: NDArray[Any], model: Model) -> NDArray[Any]:
    """The image as ``(C, *spatial)``, or a clear error."""
    image = np.asarray(image)
    ndim, channels = model.backbone.ndim, len(model.channels)
    seen = model.normalisation.channels
    if image.ndim == ndim and seen(1) == channels:
        image = image[None]
    if image.ndim != ndim + 1 or seen(len(image)) != channels:
        raise ValueError(
            f"the image has shape {image.shape}; this model wants ({channels}, {', '.join('ZYX'[-ndim:])}): "
            f"{channels} channel{'s' * (channels > 1)} ({', '.join(model.channels)}) and {ndim} spatial axes. "
            "Choose the channels or the plane that are meant, or another model."
        )
    if 0 in image.shape:
        raise ValueError(f"the image is empty: its shape is {image.shape}.")
    if not np.isfinite(image).all():
        raise ValueError("the image has values that are NaN or infinite; mend or mask them before segmenting.")
    return image


@contextmanager
def ready(model: Model, *, device: Device, precision: Precision) -> Iterator[torch.device]:
    """The model on its device, in eval mode, under the wanted precision, without gradients; restored afterwards.

    NumPy's matrix products keep to one thread: with more, these go on waiting busily after every product and take torch
    its cores.
    """
    target = torch.device(pick_device(device))
    training = model.posterior.training
    model.posterior.to(target).to(memory_format=layout(model.backbone.ndim)).eval()  # type: ignore[call-overload]
    half = torch.autocast(target.type, torch.bfloat16, enabled=use_bfloat16(target, precision))
    try:
        # Not inference mode: autocast would round every weight again for every draw.
        with torch.no_grad(), half, threadpool_limits(1, user_api="blas"):
            yield target
    finally:
        model.posterior.train(training)


def pick_device(device: Device) -> str:
    """The name that torch knows; "auto" is a GPU where there is one.

    Raises:
        ValueError: if there is no such device.
    """
    if device in ("cuda", "mps") and not getattr(torch, device).is_available():
        raise ValueError(f'torch finds no device "{device}" here; use "cpu" or "auto", or install torch for it.')
    if device != "auto":
        return device
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def use_bfloat16(device: torch.device, precision: Precision) -> bool:
    """Whether to multiply in bfloat16: asked for, or fast on this processor."""
    if precision != "auto":
        return precision == "bfloat16"
    if device.type == "cpu":
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return device.type == "cuda" and torch.cuda.is_bf16_supported()


def to_device(batch: Tensor, device: torch.device) -> Tensor:
    """Moved, with channels last in memory, which convolutions on CPU and GPU prefer."""
    return batch.to(device).contiguous(memory_format=layout(batch.ndim - 2))


def layout(ndim: int) -> torch.memory_format:
    """Channels last. Of images and of kernels: an image of one channel has either layout, so that kernels decide."""
    return torch.channels_last if ndim == 2 else torch.channels_last_3d
