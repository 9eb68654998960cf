"""Affinities and the mutex watershed: does a pixel share its object with the pixel at an offset?

Wolf et al. 2018, *The Mutex Watershed*: the baseline of PatchPerPix for neurons in electron microscopy
(docs/algorithms.md, "ISBI set-up" and "Mutex watershed").
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from plurimask.instances import Instances, slices
from plurimask.networks.unet import CONVOLUTIONS
from plurimask.ops import components
from plurimask.ops.mutex_watershed import EM_ATTRACTIVE, EM_OFFSETS, mutex_watershed, signed
from plurimask.protocols import Backbone, Features, Head, Method, Outputs

Offsets = tuple[tuple[int, ...], ...]
Region = tuple[slice, ...]

EPSILON = 1e-6


def in_plane(offsets: Sequence[Sequence[int]]) -> Offsets:
    """The offsets (z, y, x) within a slice, as (y, x).

    >>> in_plane([(-1, 0, 0), (0, -9, 4)])
    ((-9, 4),)
    """
    return tuple(tuple(rest) for z, *rest in offsets if z == 0)


ATTRACTIVE: Mapping[int, Offsets] = {
    2: in_plane(EM_OFFSETS[:EM_ATTRACTIVE]),
    3: EM_OFFSETS[:EM_ATTRACTIVE],
}
"""Number of axes -> default offsets: to the neighbours."""

REPULSIVE: Mapping[int, Offsets] = {
    2: in_plane(EM_OFFSETS[EM_ATTRACTIVE:]),
    3: EM_OFFSETS[EM_ATTRACTIVE:],
}
"""Number of axes -> default offsets: 14 in volumes, the 10 of them that stay in the plane in slices."""


@dataclass(frozen=True)
class Affinities(Method):
    """For every offset the probability that a pixel and the pixel there belong to one object, both of it.

    Objects are what the mutex watershed joins: they do not overlap, and pixels of several objects go to one of them or
    make an object of their own. There is no channel for the foreground: a pixel is background if none of its attractive
    affinities, to either side, reaches ``threshold``; an object of one pixel is background, too.

    Offsets are those of the window as the network sees it. In a draw that sees the window turned they are offsets of
    the turned window, in which it is decoded; only its objects are turned back.

    Attributes:
        attractive: offsets (z, y, x) or (y, x), to neighbours; None: :data:`ATTRACTIVE`.
        repulsive: farther offsets; None: those of the paper, :data:`REPULSIVE`. Long ones say nothing in small crops.
        threshold: weaker attractive affinities do not attract. 0 is the paper, where all do, so that every pixel ends
            in an object and a repulsive edge alone keeps two objects apart.
        stride: repulsive edges are used at every n-th row and column, in every slice (paper: 10). Objects smaller than
            that want less. They are counted from a window's corner, which lies at a multiple of the network's stride:
            only a divisor of that gives every window the edges that the whole image would have.
        cross_entropy: weight of a cross-entropy beside the Sorensen-Dice loss; the paper has none.
        min_size: smaller objects are dropped, in pixels.

    Raises:
        ValueError: offsets without, or of unequal length, an offset of 0, a threshold or stride out of range.
    """

    exact_for: ClassVar[frozenset[str]] = frozenset({"empty", "touching blobs"})

    attractive: tuple[tuple[int, ...], ...] | None = None
    repulsive: tuple[tuple[int, ...], ...] | None = None
    threshold: float = 0.5
    stride: int = 8
    cross_entropy: float = 0.0
    min_size: int = 20

    def __post_init__(self) -> None:
        given = (*(self.attractive or ()), *(self.repulsive or ()))
        if self.attractive == () or len({len(offset) for offset in given}) > 1 or not all(map(any, given)):
            raise ValueError(
                f"attractive = {self.attractive}, repulsive = {self.repulsive}: offsets of equal length that are not "
                "0 are wanted, and at least one that attracts."
            )
        if not 0 <= self.threshold < 1 or self.stride < 1:
            raise ValueError(
                f"threshold is {self.threshold}, stride {self.stride}; give a threshold from 0 up to, and without, 1 "
                "and a stride of at least 1."
            )

    def attracting(self, ndim: int) -> int:
        """How many offsets attract; they come first."""
        return len(ATTRACTIVE[ndim] if self.attractive is None else self.attractive)

    def offsets(self, ndim: int) -> Offsets:
        """All offsets ``(E, ndim)``, the attractive ones first.

        Raises:
            ValueError: they have another number of axes.
        """
        attractive = ATTRACTIVE[ndim] if self.attractive is None else self.attractive
        repulsive = REPULSIVE[ndim] if self.repulsive is None else self.repulsive
        wrong = [offset for offset in (*attractive, *repulsive) if len(offset) != ndim]
        if wrong:
            raise ValueError(f"the offset {wrong[0]} has {len(wrong[0])} axes, the image {ndim}.")
        return (*attractive, *repulsive)

    def targets(self, truth: Instances, generator: np.random.Generator) -> dict[str, NDArray[Any]]:
        """``affinities`` (E, *spatial) bool: an object has both ends of the edge; False where it leaves the crop."""
        offsets = self.offsets(truth.ndim)
        affinities = np.zeros((len(offsets), *truth.shape), np.bool_)
        for box, mask in zip(truth.boxes, truth.masks, strict=True):
            region = affinities[(slice(None), *slices(box))]
            for edge, offset in enumerate(offsets):
                here, there = edge_ends(offset, mask.shape)
                region[edge][here] |= mask[here] & mask[there]
        return {"affinities": affinities}

    def head(self, backbone: Backbone) -> AffinitiesHead:
        return AffinitiesHead(self, backbone)

    def decode(self, outputs: Outputs) -> Instances:
        """Scores are the mean of the attractive affinities between an object's pixels."""
        affinities = torch.sigmoid(outputs["affinities"][0].float()).cpu().numpy()
        if not np.isfinite(affinities).all():
            raise FloatingPointError("the network gave affinities that are not finite; its weights are broken.")
        ndim = affinities.ndim - 1
        offsets, count = self.offsets(ndim), self.attracting(ndim)
        weights = signed(affinities, count)
        weights[:count][affinities[:count] < self.threshold] = 0
        thinned = (*(1,) * (ndim - 2), self.stride, self.stride)
        strides = [(1,) * ndim] * count + [thinned] * (len(offsets) - count)
        labels = mutex_watershed(weights, offsets, strides=strides)
        scores = _inner_means(affinities[:count], offsets[:count], labels)
        return components.objects(labels, scores=scores, min_area=self.min_size)

    def probabilities(self, outputs: Outputs) -> Tensor:
        """Of foreground: the strongest attractive affinity of a pixel, in both directions."""
        affinities = torch.sigmoid(outputs["affinities"][0].float())
        ndim = affinities.ndim - 1
        foreground = torch.zeros_like(affinities[0])
        attractive = self.offsets(ndim)[: self.attracting(ndim)]
        for offset, affinity in zip(attractive, affinities[: len(attractive)], strict=True):
            here, there = edge_ends(offset, foreground.shape)
            for end in (here, there):
                foreground[end] = torch.maximum(foreground[end], affinity[here])
        return torch.stack([1 - foreground, foreground])

    def condition(self, targets: Outputs) -> Tensor:
        return targets["affinities"].float()

    def ideal(self, truth: Instances) -> Outputs:
        """The true affinities, beyond doubt."""
        affinities = torch.from_numpy(self.targets(truth, np.random.default_rng(0))["affinities"])
        return {"affinities": 40 * affinities[None].float() - 20}

    def tunable(self) -> Mapping[str, Sequence[Any]]:
        return {
            "threshold": tuple(t for t in (0.0, 0.1, 0.3, 0.5, 0.7, 0.9) if t != self.threshold),
            "stride": tuple(n for n in (2, 4, 8) if n != self.stride),
            "min_size": components.other_sizes(self.min_size),
        }


class AffinitiesHead(Head):
    """A 1 x 1 convolution on the finest level: ``affinities`` (B, E, *spatial), logits."""

    method: Affinities

    def __init__(self, method: Affinities, backbone: Backbone) -> None:
        super().__init__()
        self.method = method
        self.affinities = CONVOLUTIONS[backbone.ndim](backbone.channels[0], len(method.offsets(backbone.ndim)), 1)

    def forward(self, features: Features) -> Outputs:
        return {"affinities": self.affinities(features.decoder[0])}

    def loss(self, outputs: Outputs, targets: Outputs) -> dict[str, Tensor]:
        """Sorensen-Dice on inverted affinities, which are the rare ones in a tissue, and the cross-entropy if wanted.

        With q = 1 - a, the mean over the offsets of 1 - 2 sum q q* / (sum q^2 + sum q*^2), sums over the batch (Wolf et
        al. 2018; docs/algorithms.md, "ISBI set-up"). Edges that leave the crop are left out.
        """
        logits, wanted = outputs["affinities"].float(), targets["affinities"].float()
        known = self._known(wanted)
        apart, truly_apart = torch.sigmoid(-logits) * known, (1 - wanted) * known
        both, squares = _sums(apart * truly_apart), _sums(apart.square() + truly_apart.square())
        terms = {"affinities": (1 - 2 * both / squares.clamp(min=EPSILON)).mean()}
        if self.method.cross_entropy:
            wrong = functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none") * known
            terms["cross_entropy"] = self.method.cross_entropy * wrong.sum() / (len(wanted) * known.sum()).clamp(min=1)
        return terms

    def _known(self, wanted: Tensor) -> Tensor:
        """``(E, *spatial)``: 1 where an edge stays in the crop."""
        known = torch.zeros_like(wanted[0])
        for edge, offset in enumerate(self.method.offsets(wanted.ndim - 2)):
            here, _ = edge_ends(offset, wanted.shape[2:])
            known[edge][here] = 1
        return known


def edge_ends(offset: Sequence[int], shape: Sequence[int]) -> tuple[Region, Region]:
    """The two regions of an image ``(*spatial,)`` that the edges at an offset join, pixel by pixel: here, and there.

    >>> edge_ends((0, -2), (4, 5))
    ((slice(0, 4, None), slice(2, 5, None)), (slice(0, 4, None), slice(0, 3, None)))
    """
    spans = list(zip(offset, shape, strict=True))
    here = tuple(slice(max(-step, 0), max(min(size - step, size), 0)) for step, size in spans)
    there = tuple(slice(max(step, 0), max(min(size + step, size), 0)) for step, size in spans)
    return here, there


def _sums(values: Tensor) -> Tensor:
    """``(B, E, *spatial)`` -> ``(E,)``."""
    return values.sum(dim=(0, *range(2, values.ndim)))


def _inner_means(
    affinities: NDArray[np.float32], offsets: Sequence[Sequence[int]], labels: NDArray[np.int32]
) -> NDArray[np.float64]:
    """``(N,)``, for every label the mean affinity of the edges within it; 0 where there is none, in a single pixel."""
    count = int(labels.max(initial=0)) + 1
    sums, edges = np.zeros(count), np.zeros(count)
    for offset, affinity in zip(offsets, affinities, strict=True):
        here, there = edge_ends(offset, labels.shape)
        inner = labels[here][labels[here] == labels[there]]
        sums += np.bincount(inner, affinity[here][labels[here] == labels[there]], count)
        edges += np.bincount(inner, minlength=count)
    means: NDArray[np.float64] = np.minimum(sums / np.maximum(edges, 1), 1)[1:]
    return means
