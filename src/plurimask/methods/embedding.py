"""R20: every pixel gets an embedding, pixels of one object lie together, mean shift finds the objects.

Rumberger, Mais, Kainmueller 2020, *Probabilistic Deep Learning for Instance Segmentation*. Facts and open choices:
docs/algorithms.md, "Metric learning".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from scipy.special import softmax
from torch import Tensor, nn
from torch.nn import functional

from plurimask.instances import Instances, slices
from plurimask.methods import discriminative
from plurimask.networks.unet import CONVOLUTIONS, finest_channels, leading
from plurimask.ops.components import other_sizes, reconnect, scored, without_small
from plurimask.ops.mean_shift import Clusters, mean_shift
from plurimask.protocols import Backbone, Features, Head, Method, Outputs

BACKGROUND, FOREGROUND, OVERLAP = range(3)
CHUNK = 1 << 14  # points whose distances to all modes are in memory at a time
LEAST, MOST = -4.0, 6.0  # logarithm of a learned variance


@dataclass(frozen=True)
class Embedding(Method):
    """Metric learning with a class per pixel: background, one object, several objects.

    Attributes:
        dimensions: E, of the embedding.
        margin: delta_d; means of two objects are pushed ``2 margin`` apart.
        squared_hinge: take R20's Eq. 2 literally (see :func:`plurimask.methods.discriminative.push`).
        norm_weight: weight of the term that keeps means near the origin.
        class_weight: weight of the cross-entropy beside the embedding terms.
        class_weights: of background, foreground and overlap within the cross-entropy.
        semi_convolutional: pixels per unit of the coordinates that are added to the first D dimensions
            (Novotny et al. 2018), or None for the plain convolutional embedding of R20. A network with a limited
            view cannot tell two equal objects apart by their looks; with coordinates it need only point at a centre.
        levels: decoder levels that the embedding is read from (R20: 1), at most those of the backbone. Coarse levels
            see a whole object.
        variance: None for R20's pull. A number is the beta of a pull with a learned variance per pixel
            (:func:`plurimask.methods.discriminative.attenuated_pull`), which models doubt that lies in the image and
            that draws of the network do not show: an object's score is then the mean, over its pixels, of the
            foreground probability times, outside overlaps, the probability of its mode among all (:func:`memberships`).
        bandwidth: of the mean shift.
        threshold: pixels farther than this from every mode belong to no object.
        foreground: a pixel is background if its background probability is above ``1 - foreground``.
        min_size: smaller objects are dropped, in pixels.
        min_contact, max_gap, min_piece: how an object is put together from pieces and overlaps; the defaults are the
            paper's heuristic (see :func:`plurimask.ops.components.reconnect`).
    """

    exact_for: ClassVar[frozenset[str]] = frozenset({"empty", "touching blobs", "crossing worms"})

    dimensions: int = 16
    margin: float = 4.0
    squared_hinge: bool = False
    norm_weight: float = 0.001
    class_weight: float = 10.0
    class_weights: tuple[float, float, float] = (1.0, 3.0, 6.0)
    semi_convolutional: float | None = 12.0
    levels: int = 1
    variance: float | None = None
    bandwidth: float = 3.0
    threshold: float = 3.0
    foreground: float = 0.5
    min_size: int = 20
    min_contact: float = 0.0
    max_gap: float = 0.0
    min_piece: float = 0.1

    def __post_init__(self) -> None:
        if self.variance is not None and not 0 <= self.variance <= 1:
            raise ValueError(f"variance is {self.variance}; it is None or a beta between 0 and 1.")

    def targets(self, truth: Instances, generator: np.random.Generator) -> dict[str, NDArray[Any]]:
        """``labels`` (*spatial) int64, object n is n + 1, 0 where none or several; ``classes`` (*spatial) int64."""
        owners = truth.owners()
        labels = np.zeros(truth.shape, np.int64)
        for number, (box, mask) in enumerate(zip(truth.boxes, truth.masks, strict=True), start=1):
            labels[slices(box)][mask] = number
        labels[owners > 1] = 0
        return {"labels": labels, "classes": np.minimum(owners, OVERLAP).astype(np.int64)}

    def head(self, backbone: Backbone) -> EmbeddingHead:
        return EmbeddingHead(self, backbone)

    def decode(self, outputs: Outputs) -> Instances:
        probabilities = self.probabilities(outputs).float().cpu().numpy()
        learned = None if self.variance is None else outputs["log_variance"][0, 0].cpu().numpy()
        if not (np.isfinite(probabilities).all() and (learned is None or np.isfinite(learned).all())):
            raise FloatingPointError(
                "the network gave class probabilities or variances that are not finite; its weights are broken."
            )
        single, overlap = self.regions(probabilities)
        points = self.points(outputs, single)
        found = mean_shift(points, bandwidth=self.bandwidth, threshold=self.threshold)
        labels = np.zeros(single.shape, np.int32)
        labels[single] = found.labels + 1
        whole = reconnect(labels, overlap, min_contact=self.min_contact, max_gap=self.max_gap, min_piece=self.min_piece)
        certainty = 1 - probabilities[BACKGROUND]
        if learned is not None:
            certainty[single] *= memberships(points, found, learned[single])
        return without_small(scored(whole, certainty), self.min_size)

    def regions(self, probabilities: NDArray[np.float32]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """``(3, *spatial)`` -> where one object is, and where several are; two masks ``(*spatial)``."""
        foreground = probabilities[BACKGROUND] <= 1 - self.foreground
        overlap = foreground & (probabilities.argmax(0) == OVERLAP)
        return foreground & ~overlap, overlap

    def points(self, outputs: Outputs, where: NDArray[np.bool_]) -> NDArray[np.float32]:
        """``(P, E)``: what mean shift sees of the P pixels of a mask ``(*spatial)``.

        The loss leaves the embedding of overlaps free: only pixels of one object have a meaning.
        """
        embedding = torch.movedim(outputs["embedding"][0], 0, -1)
        pixels = torch.nonzero(torch.from_numpy(where).to(embedding.device), as_tuple=True)
        points: NDArray[np.float32] = self.embed(embedding[pixels].float(), pixels).cpu().numpy()
        return points

    def probabilities(self, outputs: Outputs) -> Tensor:
        return torch.softmax(outputs["classes"][0].float(), 0)

    def condition(self, targets: Outputs) -> Tensor:
        classes = functional.one_hot(targets["classes"], 3)
        return torch.movedim(classes, -1, 1).float()

    def ideal(self, truth: Instances) -> Outputs:
        """Every object's pixels at one point, far from all others; classes beyond doubt."""
        targets = self.targets(truth, np.random.default_rng(0))
        labels = torch.from_numpy(targets["labels"])[None]
        codes = torch.zeros(len(truth) + 1, self.dimensions)
        for number in range(1, len(truth) + 1):
            codes[number, number % self.dimensions] = 4 * self.margin * (1 + number // self.dimensions)
        everywhere = torch.nonzero(torch.ones(truth.shape), as_tuple=True)
        raw = codes[labels.flatten()] - self.embed(torch.zeros(labels.numel(), self.dimensions), everywhere)
        classes = functional.one_hot(torch.from_numpy(targets["classes"])[None], 3)
        learned = {} if self.variance is None else {"log_variance": torch.full((1, 1, *truth.shape), LEAST)}
        return {
            "embedding": raw.T.reshape(1, self.dimensions, *truth.shape),
            "classes": torch.movedim(classes, -1, 1).float() * 20,
            **learned,
        }

    def tunable(self) -> Mapping[str, Sequence[Any]]:
        """What decides on objects and their borders; how pieces are joined stays the paper's heuristic."""
        shares = (round(self.foreground + step, 3) for step in (-0.2, -0.1, -0.05, 0.05, 0.1, 0.2))
        lengths = (0.6, 0.8, 1.25, 1.6)
        return {
            "foreground": tuple(share for share in shares if 0 < share < 1),
            "bandwidth": tuple(round(self.bandwidth * factor, 3) for factor in lengths),
            "threshold": tuple(round(self.threshold * factor, 3) for factor in lengths),
            "min_size": other_sizes(self.min_size),
        }

    def embed(self, raw: Tensor, pixels: Sequence[Tensor]) -> Tensor:
        """Adds the coordinates of the semi-convolutional embedding.

        raw: ``(P, E)``, what the network says at P pixels; pixels: D index arrays ``(P,)``, where they are.
        """
        if self.semi_convolutional is None:
            return raw
        coordinates = torch.stack(list(pixels), 1).to(raw.dtype) / self.semi_convolutional
        return raw + functional.pad(coordinates, (0, raw.shape[1] - len(pixels)))


class EmbeddingHead(Head):
    """1 x 1 convolutions: classes from the finest level, the embedding from several, doubled and summed upwards."""

    method: Embedding

    def __init__(self, method: Embedding, backbone: Backbone) -> None:
        super().__init__()
        convolution = CONVOLUTIONS[backbone.ndim]
        self.method = method
        self.classes = convolution(backbone.channels[0], 3, 1)
        self.log_variance = None if method.variance is None else convolution(backbone.channels[0], 1, 1)
        self.embedding = nn.ModuleList(
            convolution(channels, method.dimensions, 1) for channels in finest_channels(backbone, method.levels)
        )

    def forward(self, features: Features) -> Outputs:
        maps = [read(features.decoder[level]) for level, read in enumerate(self.embedding)]
        embedding = maps.pop()
        while maps:
            finer = maps.pop()
            embedding = finer + leading(doubled(embedding), finer.shape[2:])
        outputs = {"embedding": embedding, "classes": self.classes(features.decoder[0])}
        if self.log_variance is not None:
            outputs["log_variance"] = bounded(self.log_variance(features.decoder[0]).float())
        return outputs

    def loss(self, outputs: Outputs, targets: Outputs) -> dict[str, Tensor]:
        """Pull, push, norm (R20, Eqs. 1-3) and cross-entropy; means over the images of the batch."""
        weights = outputs["classes"].new_tensor(self.method.class_weights, dtype=torch.float32)
        entropy = functional.cross_entropy(outputs["classes"].float(), targets["classes"], weight=weights)
        return {**self._embedding_terms(outputs, targets["labels"]), "classes": self.method.class_weight * entropy}

    def _embedding_terms(self, outputs: Outputs, labels: Tensor) -> dict[str, Tensor]:
        method, images = self.method, len(labels)
        where = torch.nonzero(labels, as_tuple=True)
        image, pixels = where[0], where[1:]
        if len(image) == 0:
            nothing = 0.0 * outputs["embedding"].float().sum()
            return {"pull": nothing, "push": nothing, "norm": nothing}
        raw = torch.movedim(outputs["embedding"], 1, -1)[where].float()
        points = method.embed(raw, pixels)
        numbers = image * (labels.max() + 1) + labels[where]
        objects, owner = torch.unique(numbers, return_inverse=True)
        home = objects // (labels.max() + 1)
        centre = discriminative.centres(points, owner, home)
        by_image = discriminative.mean_by_image
        pulled = self._pull(points, owner, centre, outputs, where)
        apart = discriminative.push(centre, margin=method.margin, squared=method.squared_hinge, images=images)
        norm = discriminative.centres(raw, owner, home).means.square().sum(1)
        return {
            "pull": by_image(pulled, home, images).mean(),
            "push": apart.mean(),
            "norm": method.norm_weight * by_image(norm, home, images).mean(),
        }

    def _pull(
        self, points: Tensor, owner: Tensor, centre: discriminative.Centres, outputs: Outputs, where: Sequence[Tensor]
    ) -> Tensor:
        if self.method.variance is None:
            return discriminative.pull(points, owner, centre)
        learned = outputs["log_variance"][:, 0][tuple(where)]
        return discriminative.attenuated_pull(points, owner, centre, log_variance=learned, beta=self.method.variance)


def memberships(points: NDArray[np.float32], found: Clusters, log_variance: NDArray[np.float32]) -> NDArray[np.float32]:
    """``(P,)`` probability of every point's own mode among all modes, each as probable as the others; 1 without one.

    A point is normal around its mode with its own variance. points: ``(P, E)``; log_variance: ``(P,)``.
    """
    if len(found.centres) < 2:
        return np.ones(len(points), np.float32)
    probabilities = np.ones(len(points), np.float32)
    for start in range(0, len(points), CHUNK):
        some = slice(start, start + CHUNK)
        distances = cdist(points[some], found.centres, "sqeuclidean")
        each = softmax(-distances / (2 * np.exp(log_variance[some, None])), axis=1)
        labels = found.labels[some]
        probabilities[some][labels >= 0] = each[labels >= 0, labels[labels >= 0]]
    return probabilities


def bounded(raw: Tensor) -> Tensor:
    """Any number -> the logarithm of a variance, between ``LEAST`` and ``MOST``, of the same shape.

    Fresh weights say about 0, and that stays: with a variance of 1 the pull is the usual one.
    """
    bound = torch.where(raw > 0, MOST, -LEAST)
    # Behind a hard bound there is no gradient, and a pixel never comes back; here it falls with the third power of raw.
    return raw / torch.hypot(torch.ones_like(raw), raw / bound)


def doubled(features: Tensor) -> Tensor:
    """``(B, C, *spatial)`` -> twice the size along every spatial axis, linear between the points."""
    mode = "bilinear" if features.ndim == 4 else "trilinear"
    return functional.interpolate(features, scale_factor=2.0, mode=mode, align_corners=False)
