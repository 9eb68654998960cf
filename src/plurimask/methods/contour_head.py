"""The layers of contour proposals and their loss (docs/algorithms.md 4.1 and 4.5)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from plurimask.methods import contour_losses as losses
from plurimask.methods.contour_refinement import refined
from plurimask.methods.contour_targets import UNKNOWN
from plurimask.ops.fourier import reconstruct
from plurimask.protocols import Backbone, Features, Head, Outputs

if TYPE_CHECKING:
    from plurimask.methods.contours import Contours

LARGEST_SIGMA = 7.0
"""Of a border, in pixels: sigma = 7 sigmoid(u) in U22's code."""

SMALL_BOX_SCORE = 0.1
"""What U22's code wants of the score where a box is too small for an IoU."""

Where = tuple[Tensor, ...]
"""Image, row and column on the grid of proposals, ``(P,)`` int64 each."""


class ContourHead(Head):
    """A readout for each output; score and refinement see the encoder's features of their level, too.

    The encoder's levels must have as many channels as the decoder's. U22's heads have a dropout of 0.1 besides: here
    doubt is the posterior's business.
    """

    method: Contours

    def __init__(self, method: Contours, backbone: Backbone) -> None:
        super().__init__()
        if backbone.ndim != 2 or method.stride not in backbone.strides:
            raise ValueError(
                f"contours want a backbone of 2 axes that has the stride {method.stride}, but this one has "
                f"{backbone.ndim} axes and the strides {tuple(backbone.strides)}."
            )
        self.method = method
        self.level = backbone.strides.index(method.stride)
        coarse, fine, kernel = backbone.channels[self.level], backbone.channels[0], method.kernel
        circle = torch.zeros(4 * method.order)
        circle[1:3] = -1  # walked as traced contours are: from the top down the left side
        self.score = Readout(coarse, torch.zeros(method.classes), kernel=kernel, lateral=True)
        self.location = Readout(coarse, torch.zeros(2), kernel=kernel)
        self.fourier = Readout(coarse, circle, kernel=kernel)
        if method.uncertainty:
            self.uncertainty = Readout(coarse, torch.zeros(4), kernel=kernel)
        if method.refine:
            self.refinement = Readout(fine, torch.zeros(2 * method.buckets), kernel=kernel, lateral=True)
        orders = torch.arange(1, method.order + 1).repeat_interleave(4)
        self.units: Tensor
        self.register_buffer("units", (method.radius / orders)[:, None, None], persistent=False)

    def forward(self, features: Features) -> Outputs:
        """``score`` (B, classes, h, w) and ``uncertainty`` (B, 4, h, w) are logits, of sigma / 7 px the latter; in
        pixels are ``location`` (B, 2, h, w) from the grid's point, ``fourier`` (B, 4 N, h, w) and ``refinement``
        (B, 2 buckets, H, W). Without refinement the last one has no channel, and still the size of the image.
        """
        method, coarse = self.method, features.decoder[self.level]
        outputs = {
            "score": self.score(torch.cat([coarse, features.encoder[self.level]], 1)),
            "location": self.location(coarse) * method.radius,
            "fourier": self.fourier(coarse) * self.units.to(coarse.dtype),
            "refinement": features.image[:, :0],
        }
        if method.uncertainty:
            outputs["uncertainty"] = self.uncertainty(coarse)
        if method.refine:
            both = torch.cat([features.decoder[0], features.encoder[0]], 1)
            outputs["refinement"] = self.refinement(both).tanh() * method.reach
        return outputs

    def loss(self, outputs: Outputs, targets: Outputs) -> dict[str, Tensor]:
        """``score``, ``location``, ``fourier``, ``contour``; as the method has it ``refinement``, ``box``, ``giou`` and
        ``border``. float32 under any autocast. All but the score learn only where the student doubts enough: from the
        ``floor`` of the targets on, at all four borders (``box`` at each by itself).
        """
        with without_autocast(outputs["score"]):
            labels = on_grid(targets["labels"], self.method.stride)
            where = torch.nonzero(labels > 0, as_tuple=True)
            firsts = torch.searchsorted(targets["image_index"], torch.arange(len(labels), device=labels.device))
            owner = firsts[where[0]] + labels[where] - 1
            chosen = Proposals.of(outputs, where, self.method)
            truth = losses.boxes_of(targets["contour"][owner])
            learned = chosen.doubt_more_than(targets["floor"][owner])
            terms, boxes = self._contour_terms(chosen, owner, outputs["refinement"], targets, kept=learned.all(1))
            terms |= self._box_terms(boxes, truth, chosen.sigmas, learned=learned)
            aims = torch.zeros_like(outputs["score"], dtype=torch.float32)
            image, rows, columns = where
            aims[image, targets["category"][owner], rows, columns] = self._aim(boxes, truth)
            entropy = losses.balanced_entropy(
                outputs["score"].float(), aims, labels, background=self.method.background_weight
            )
            return {"score": self.method.score_weight * entropy, **terms}

    def _contour_terms(
        self, chosen: Proposals, owner: Tensor, field: Tensor, targets: Outputs, *, kept: Tensor
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Terms of location, series and points, and the boxes ``(P, 2, 2)`` of the final contours.

        kept: ``(P,)`` which proposals the terms learn from.
        """
        method, truth = self.method, targets["contour"][owner]
        location, series = (targets[name][owner[kept]] for name in ("location", "fourier"))
        counts = torch.bincount(chosen.image, minlength=len(field)).tolist()
        drawn = zip(torch.split(chosen.location, counts), torch.split(chosen.fourier, counts), strict=True)
        contours = [reconstruct(*one, positions) for one, positions in zip(drawn, targets["positions"], strict=True)]
        terms = {
            "location": method.location_weight * losses.distance(chosen.location[kept], location),
            "fourier": method.fourier_weight * losses.fourier_distance(chosen.fourier[kept], series),
            "contour": method.contour_weight * losses.distance(torch.cat(contours)[kept], truth[kept]),
        }
        if not method.refine:
            return terms, losses.boxes_of(torch.cat(contours))
        found, aims, final = [], [], []
        for number, (aim, keep) in enumerate(zip(torch.split(truth, counts), torch.split(kept, counts), strict=True)):
            steps, positions = int(targets["iterations"][number]), targets["positions"][number]
            looks = list(refined(contours[number], field[number].float(), positions, iterations=steps))
            final.append(looks[-1])
            looks = looks if method.refinement_loss == "all" else looks[-1:]
            found += [look[keep] for look in looks]
            aims += [aim[keep]] * len(looks)
        terms["refinement"] = method.refinement_weight * losses.distance(torch.cat(found), torch.cat(aims))
        return terms, losses.boxes_of(torch.cat(final))

    def _box_terms(self, found: Tensor, truth: Tensor, sigmas: Tensor | None, *, learned: Tensor) -> dict[str, Tensor]:
        """found, truth: ``(P, 2, 2)``; sigmas, and which borders the terms learn from: ``(P, 4)``."""
        method, terms = self.method, {}
        large = losses.measurable(found, truth) & learned.all(1)
        if method.box_weight:
            borders = found.flatten(1)[learned], truth.flatten(1)[learned]
            terms["box"] = method.box_weight * losses.distance(*borders)
        if method.giou:
            overlap = losses.generalised_iou(found[large], truth[large])
            terms["giou"] = method.giou_weight * losses.mean(1 - overlap)
        if sigmas is not None:
            surprise = losses.border_surprise(sigmas[large], found[large], truth[large])
            terms["border"] = method.border_weight * losses.mean(surprise)
        return terms

    def _aim(self, found: Tensor, truth: Tensor) -> Tensor:
        """``(P,)`` what the scores of centres should be."""
        if self.method.score_target == "binary":
            return torch.ones_like(found[:, 0, 0])
        found = found.detach()
        large = losses.measurable(found, truth)
        return torch.where(large, losses.box_iou(found, truth).nan_to_num(), SMALL_BOX_SCORE)


class Readout(nn.Module):
    """A convolution with normalisation and ReLU, then 1 x 1; where two maps come, they are joined by 1 x 1 before.

    It begins by saying nearly ``start`` (C,) everywhere, whatever the image.

    Batch normalisation, because its statistics are fixed in prediction: what a pixel says depends on no window.
    """

    def __init__(self, channels: int, start: Tensor, *, kernel: int, lateral: bool = False) -> None:
        super().__init__()
        self.join = nn.Conv2d(2 * channels, channels, 1, bias=False) if lateral else nn.Identity()
        self.first = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.last = nn.Conv2d(channels, len(start), 1)
        nn.init.normal_(self.last.weight, std=0.01)
        self.last.bias = nn.Parameter(start)

    def forward(self, features: Tensor) -> Tensor:
        hidden = self.norm(self.first(self.join(features)))
        read: Tensor = self.last(torch.relu(hidden))
        return read


@dataclass(frozen=True)
class Proposals:
    """P pixels of the grid and what they propose; float32.

    Attributes:
        image: ``(P,)`` number of the image.
        location: ``(P, 2)`` (y, x) in pixels of the image.
        fourier: ``(P, N, 4)`` in pixels.
        sigmas: ``(P, 4)`` of top, left, bottom and right in pixels, or None.
    """

    image: Tensor
    location: Tensor
    fourier: Tensor
    sigmas: Tensor | None

    @classmethod
    def of(cls, outputs: Outputs, where: Where, method: Contours) -> Proposals:
        """Those of some pixels."""
        home = method.stride * torch.stack(where[1:], 1)
        doubt = gathered(outputs["uncertainty"], where) if method.uncertainty else None
        return cls(
            image=where[0],
            location=gathered(outputs["location"], where) + home,
            fourier=gathered(outputs["fourier"], where).reshape(-1, method.order, 4),
            sigmas=None if doubt is None else LARGEST_SIGMA * torch.sigmoid(doubt),
        )

    def doubt_more_than(self, floor: Tensor) -> Tensor:
        """``(P, 4)`` bool: sigmas in shares of the largest are not below; without sigmas, all. floor: ``(P, 4)``."""
        return torch.ones_like(floor, dtype=torch.bool) if self.sigmas is None else self.sigmas / LARGEST_SIGMA >= floor


def gathered(values: Tensor, where: Where) -> Tensor:
    """``(B, C, h, w)`` -> float32 ``(P, C)``."""
    image, rows, columns = where
    height, width = values.shape[2:]
    # One row per pixel: a view where channels lie last in memory, and cheaper to differentiate than indexing is.
    table = values.movedim(1, -1).flatten(0, 2)
    return table.index_select(0, (image * height + rows) * width + columns).float()


def on_grid(labels: Tensor, stride: int) -> Tensor:
    """``(B, H, W)`` -> ``(B, h, w)`` int64: the object with its centre in a cell, unknown where several have.

    Outside comes before unknown. (Of several objects U22's code takes the one with the largest number.)
    """
    values = labels.float()
    largest = functional.max_pool2d(values, stride, ceil_mode=True).long()
    others = torch.where(labels > 0, -values, -torch.inf)
    smallest = -functional.max_pool2d(others, stride, ceil_mode=True)
    return torch.where((largest > 0) & (smallest < largest), UNKNOWN, largest)


def without_autocast(values: Tensor) -> torch.autocast:
    """A context in which products stay in float32 on the device of ``values``."""
    return torch.autocast(values.device.type, enabled=False)
