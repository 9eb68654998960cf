"""What a model says about images that several annotators marked, and how it compares with them, image by image.

The half of ambiguity.py that asks and measures; that one makes means and intervals of it, prints and draws.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from plurimask.data.samples import Sample
from plurimask.methods import Semantic
from plurimask.metrics.energy_distance import energy_distance, soft_dice_distance
from plurimask.metrics.repeated_measures import centred_sums
from plurimask.metrics.selective import errors_found
from plurimask.model import Model
from plurimask.pixelwise import DrawSums, entropy
from plurimask.predict import checked, ready, to_device, visit_outputs
from plurimask.protocols import Outputs
from plurimask.windows import Window

COUNTS = (1, 4, 8, 16)
DRAWS = COUNTS[-1]
CASES = ("TP", "FP", "FN", "TN")


@dataclass(frozen=True, eq=False)
class Seen:
    """What a model says about one image.

    Attributes:
        masks: ``(16, *spatial)`` bool, drawn.
        probability: ``(*spatial)`` float64, mean probability of foreground.
        entropy: ``(*spatial)`` float64, of the mean probability, in bits.
    """

    masks: NDArray[np.bool_]
    probability: NDArray[np.float64]
    entropy: NDArray[np.float64]


@dataclass(eq=False)
class Study:
    """A model over n images.

    Attributes:
        name: of the model's folder.
        posterior: its class.
        groups: patients.
        annotators: how many there are.
        rows: of every image the numbers of :func:`measure`.
        forecasts: of every image the probability of every pixel, and how many annotators mark it.
        shown: index of an image -> what was seen.
        seconds: of the network for 16 draws of an image, and for one, median over some images.
    """

    name: str
    posterior: str
    groups: list[str | None]
    annotators: int
    rows: list[dict[str, Any]] = field(default_factory=list)
    forecasts: list[tuple[NDArray[np.float32], NDArray[np.uint8]]] = field(default_factory=list)
    shown: dict[int, Seen] = field(default_factory=dict)
    seconds: tuple[float, float] = (math.nan, math.nan)

    def numbers(self, key: str) -> NDArray[np.float64]:
        """``(n, ...)``; NaN where an image has no value."""
        return np.array([row[key] for row in self.rows], np.float64)


def read(sample: Sample) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """The image, and ``(A, *spatial)`` what the annotators mark."""
    image, truths = sample.read_all()
    return image.data, np.stack([truth.owners() > 0 for truth in truths])


def study(name: str, model: Model, samples: Sequence[Sample], *, seed: int, shown: Sequence[int]) -> Study:
    if not isinstance(model.method, Semantic) or len(model.method.class_weights) != 2:
        raise SystemExit(f"{name}: a model of the method Semantic with background and one class is wanted.")
    groups = [sample.group for sample in samples]
    one = Study(name, type(model.posterior).__name__, groups, 1 + len(samples[0].others))
    for index, sample in enumerate(samples):
        image, annotations = read(sample)
        seen = ask(image, model, model.method.threshold, np.random.default_rng([seed, index]))
        one.rows.append(measure(seen, annotations))
        marked = annotations.sum(axis=0).ravel().astype(np.uint8)
        one.forecasts.append((seen.probability.ravel().astype(np.float32), marked))
        if index in shown:
            one.shown[index] = seen
    return one


def ask(image: NDArray[Any], model: Model, threshold: float, generator: np.random.Generator) -> Seen:
    drawn = generator.integers(2**31, size=DRAWS).tolist()
    distinct = model.posterior.distinct
    functions = list(range(distinct)) if distinct and distinct <= DRAWS else []
    scaled = torch.from_numpy(model.normalisation(checked(image, model)))
    maps = [DrawSums(tuple(scaled.shape[1:])) for _ in (*drawn, *functions)]

    def keep(window: Window, place: int, outputs: Outputs) -> None:
        maps[place].add_window(window, model.method.probabilities(outputs))

    visit_outputs(scaled, model, keep, seeds=[*drawn, *functions])
    draws = np.stack([one.probabilities for one in maps]).astype(np.float64)
    mean = draws[DRAWS if functions else 0 :].mean(axis=0)
    # Softmax in 32 bits adds up to 1 but for rounding.
    foreground, bits = np.clip(mean[1], 0, 1), entropy(mean).astype(np.float64) / math.log(2)
    return Seen(draws[:DRAWS, 0] <= 1 - threshold, foreground, bits)


def measure(seen: Seen, annotations: NDArray[np.bool_]) -> dict[str, ArrayLike]:
    """Of one image, beside :func:`distances`, with the first mask as the prediction where all annotators agree:

    ``cases`` ``(4, 2)``: sum of the entropy and number of pixels of TP, FP, FN and TN. ``auroc`` of the entropy for
    error. ``correctness`` ``(3,)``: :func:`centred_sums` of being right and the entropy. And over all pixels, by the
    number of annotators in the minority: ``splits`` ``(K, 2)`` like ``cases``, ``agreement`` ``(3,)`` like
    ``correctness`` (classes 0, 1, 2 of Czolbe et al.).
    """
    marked, everyone = annotations.sum(axis=0), len(annotations)
    minority = np.minimum(marked, everyone - marked)
    agreed = minority == 0
    mask, true, doubt = seen.masks[0][agreed], marked[agreed] > 0, seen.entropy[agreed]
    cases = (mask & true, mask & ~true, ~mask & true, ~mask & ~true)
    return {
        **distances(seen.masks, annotations),
        "cases": [sum_and_size(doubt[case]) for case in cases],
        "auroc": (1 + errors_found(doubt, mask != true).gain) / 2,
        "correctness": sums_within(mask == true, doubt),
        "splits": [sum_and_size(seen.entropy[minority == size]) for size in range(everyone // 2 + 1)],
        "agreement": sums_within(minority.ravel(), seen.entropy.ravel()),
        "soft_dice": soft_dice_distance(seen.probability, annotations.mean(axis=0)),
    }


def distances(masks: NDArray[np.bool_], annotations: NDArray[np.bool_]) -> dict[str, ArrayLike]:
    """Energy distances after 1, 4, 8, 16 draws to the annotators at hand, V- and U-statistic, and their terms.

    ``protocol``: what Czolbe et al. measure, in expectation. Of n annotations drawn with replacement every pair of
    different draws is at E d(b, b'), and the n of a draw with itself at 0: that term shrinks by E d(b, b') / n.
    """
    exact = [energy_distance(masks[:n], annotations) for n in COUNTS]
    unbiased = [energy_distance(masks[:n], annotations, unbiased=True) for n in COUNTS[1:]]
    return {
        "exact": [one.value for one in exact],
        "unbiased": [one.value for one in unbiased],
        "protocol": [one.value + one.disagreement / n for n, one in zip(COUNTS, exact, strict=True)],
        "diversity": [exact[-1].diversity, unbiased[-1].diversity],
        "disagreement": exact[-1].disagreement,
    }


def sum_and_size(values: NDArray[np.float64]) -> tuple[float, int]:
    return float(values.sum()), values.size


def sums_within(x: NDArray[Any], y: NDArray[np.float64]) -> NDArray[np.float64]:
    return centred_sums(x, y) if len(np.unique(x)) > 1 else np.full(3, math.nan)


def timed(model: Model, samples: Sequence[Sample]) -> tuple[float, float]:
    """Median seconds of the network for 16 draws of an image and for one, taken in turns."""
    seconds = []
    with ready(model, device="auto", precision="auto") as target:
        for sample in samples:
            seen = torch.from_numpy(model.normalisation(checked(read(sample)[0], model)))
            batch = to_device(seen[None], target)
            seconds.append([seconds_of(model, batch, count) for count in (DRAWS, 1)])
    many, one = np.median(seconds, axis=0).tolist()
    return many, one


def seconds_of(model: Model, batch: torch.Tensor, count: int) -> float:
    start = time.perf_counter()
    for outputs in model.posterior.draws(batch, range(count), context=model.posterior.context(batch)):
        last = outputs
    float(last["classes"].sum())  # an accelerator that has said this has finished
    return time.perf_counter() - start
