"""Pixel segmentation: every pixel gets a class, an object is what hangs together, or all pixels of a class.

The method of Czolbe et al. 2021, *Is Segmentation Uncertainty Useful?*, under any posterior (docs/algorithms.md, "Four
probabilistic segmenters"), and the smallest method there is: docs/extending.md walks through it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

from plurimask.instances import Instances, concatenate, slices
from plurimask.networks.unet import CONVOLUTIONS
from plurimask.ops import components
from plurimask.protocols import Backbone, Features, Head, Method, Outputs

BACKGROUND = 0


@dataclass(frozen=True)
class Semantic(Method):
    """Background and one or more classes of objects, told apart pixel by pixel.

    Objects that touch become one, and of objects that overlap only the union is left: for things that lie apart, for
    cells between membranes, and for regions like a lesion. The truth may have a feature ``class`` (1, 2, ...); without
    it every object is of class 1. What is found has it, too.

    Attributes:
        class_weights: of background and of every class in the cross-entropy; they say how many classes there are.
        objects: "components" of a class are connected by their sides (faces in 3-D), so that a border that is thin
            and slanting still separates; "regions" makes one object of all pixels of a class. Prediction works in
            windows, and an image larger than one has a region in each: choose the model's window accordingly.
        threshold: a pixel is background if its background probability is above ``1 - threshold``, else of its most
            probable class. With two classes, 0.5 is the argmax. Below it scores may be, too, and the most probable
            set then rejects what no calibration has lifted above 1/2.
        min_size: smaller objects are dropped, in pixels.
    """

    exact_for: ClassVar[frozenset[str]] = frozenset({"empty"})

    class_weights: tuple[float, ...] = (1.0, 1.0)
    objects: Literal["components", "regions"] = "components"
    threshold: float = 0.5
    min_size: int = 20

    def __post_init__(self) -> None:
        if len(self.class_weights) < 2:
            raise ValueError(f"class_weights are {self.class_weights}; background and at least one class are wanted.")
        if self.objects not in ("components", "regions"):
            raise ValueError(f'objects is {self.objects!r}; "components" or "regions" is wanted.')
        if not 0 < self.threshold < 1:
            raise ValueError(f"threshold is {self.threshold}; it is compared with probabilities and lies in (0, 1).")

    def targets(self, truth: Instances, generator: np.random.Generator) -> dict[str, NDArray[Any]]:
        """``classes`` (*spatial) int64; where objects overlap, the largest class."""
        classes = np.zeros(truth.shape, np.int64)
        numbers = np.asarray(truth.features.get("class", np.ones(len(truth))), np.int64)
        if len(numbers) and not 1 <= numbers.min() <= numbers.max() < len(self.class_weights):
            found, last = sorted(set(numbers.tolist())), len(self.class_weights) - 1
            raise ValueError(f"the truth has the classes {found}; this method knows 1 to {last} (see class_weights).")
        for number, box, mask in zip(numbers, truth.boxes, truth.masks, strict=True):
            region = classes[slices(box)]
            np.maximum(region, number * mask, out=region)
        return {"classes": classes}

    def joined(self, targets: Sequence[Mapping[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
        """``shares`` (K, *spatial) float32: which share of the annotators sees a class there, background first."""
        said = np.stack([one["classes"] for one in targets])
        shares = [(said == number).mean(0, dtype=np.float32) for number in range(len(self.class_weights))]
        return {"shares": np.stack(shares)}

    def head(self, backbone: Backbone) -> SemanticHead:
        return SemanticHead(self, backbone)

    def decode(self, outputs: Outputs) -> Instances:
        """Scores are the mean probability of its class over an object's pixels."""
        probabilities = self.probabilities(outputs).cpu().numpy()
        if not np.isfinite(probabilities).all():
            raise FloatingPointError("the network gave probabilities that are not finite; its weights are broken.")
        foreground = probabilities[BACKGROUND] <= 1 - self.threshold
        classes = np.where(foreground, 1 + probabilities[1:].argmax(0), BACKGROUND)
        numbers = range(1, len(self.class_weights))
        return concatenate([self._of_class(n, classes == n, probabilities[n]) for n in numbers])

    def _of_class(self, number: int, mask: NDArray[np.bool_], probability: NDArray[np.float32]) -> Instances:
        labels = ndimage.label(mask)[0] if self.objects == "components" else mask.astype(np.int32)
        found = components.objects(labels, scores=probability, min_area=self.min_size)
        return replace(found, features={"class": np.full(len(found), number)})

    def probabilities(self, outputs: Outputs) -> Tensor:
        return torch.softmax(outputs["classes"][0].float(), 0)

    def condition(self, targets: Outputs) -> Tensor:
        """The true class of every pixel, one-hot; of all annotators the mean of that, their shares.

        A latent vector is then one that all annotators of an image have in common. Their mean cross-entropy given it
        knows them by their shares alone, and so does its posterior; one of them at random would say less about what is
        fitted. Draws differ in what the annotators may say together: for draws that differ as one annotator does from
        another, fit one in every crop.
        """
        if "shares" in targets:
            return targets["shares"]
        one_hot = functional.one_hot(targets["classes"], len(self.class_weights))
        return torch.movedim(one_hot, -1, 1).float()

    def ideal(self, truth: Instances) -> Outputs:
        """The true class of every pixel, beyond doubt."""
        classes = torch.from_numpy(self.targets(truth, np.random.default_rng(0))["classes"])
        return {"classes": 20 * self.condition({"classes": classes[None]})}

    def tunable(self) -> Mapping[str, Sequence[Any]]:
        thresholds = (round(self.threshold + step, 3) for step in (-0.3, -0.2, -0.1, 0.1, 0.2, 0.3))
        return {
            "threshold": tuple(share for share in thresholds if 0 < share < 1),
            "min_size": components.other_sizes(self.min_size),
        }


class SemanticHead(Head):
    """A 1 x 1 convolution on the finest level."""

    method: Semantic

    def __init__(self, method: Semantic, backbone: Backbone) -> None:
        super().__init__()
        self.method = method
        self.classes = CONVOLUTIONS[backbone.ndim](backbone.channels[0], len(method.class_weights), 1)

    def forward(self, features: Features) -> Outputs:
        return {"classes": self.classes(features.decoder[0])}

    def loss(self, outputs: Outputs, targets: Outputs) -> dict[str, Tensor]:
        """Cross-entropy, the weighted mean over the pixels of the batch, and over annotators where all are fitted.

        A pixel that more annotators have seen counts no more than another. With equal class weights this is the mean
        of the annotators' losses; with others, who marks more of a heavy class weighs more.

        A posterior with a KL term has to know that it is a mean: Czolbe et al.'s beta of 5e-4 is meant beside it, and
        is beta times the number of pixels beside a sum.
        """
        if "shares" in targets:
            return {"classes": self._of_shares(outputs["classes"].float(), targets["shares"])}
        logits = outputs["classes"].float()
        weights = logits.new_tensor(self.method.class_weights)
        return {"classes": functional.cross_entropy(logits, targets["classes"], weight=weights)}

    def _of_shares(self, logits: Tensor, shares: Tensor) -> Tensor:
        # Of shares torch's own mean divides by the number of pixels; of classes it does by their weights, as here.
        weights = logits.new_tensor(self.method.class_weights)
        total = functional.cross_entropy(logits, shares, weight=weights, reduction="sum")
        return total / (torch.movedim(shares, 1, -1) * weights).sum()
