"""Contour proposals: every pixel in the middle of an object draws the object's outline and says how sure it is.

Upschulte, Harmeling, Amunts, Dickscheid 2022, *Uncertainty-Aware Contour Proposal Networks for Cell Segmentation in
Multi-Modality High-Resolution Microscopy Images* (U22), after their *Contour Proposal Networks for Biomedical Instance
Segmentation* (2022). Facts, and what the released code does otherwise: docs/algorithms.md 4.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from plurimask.instances import Instances
from plurimask.listening import Listen2Student
from plurimask.methods.contour_head import LARGEST_SIGMA, ContourHead, Proposals, Where, on_grid, without_autocast
from plurimask.methods.contour_refinement import refined
from plurimask.methods.contour_targets import BACKGROUND, UNKNOWN, centres, contour_rows, in_one_piece
from plurimask.ops.components import other_sizes, without_small
from plurimask.ops.contours import rasterise_all
from plurimask.ops.fourier import closed_positions, reconstruct
from plurimask.ops.suppression import suppress_boxes, suppress_coarse, suppress_contours
from plurimask.protocols import Backbone, Method, Outputs


@dataclass(frozen=True)
class Contours(Method):
    """Contour proposals with refinement, and a standard deviation for each border of an object's box. 2-D only.

    An object is one closed outline: holes are filled, and nothing is learned from an object in several pieces. Found
    objects have the features ``class`` (N,), ``contour`` (N, S, 2), points (y, x) in pixels of the image, and
    ``border`` (N, 2, 2), standard deviations of the sides of its box in pixels, as boxes are laid out: ((top, left),
    (bottom, right)).

    Attributes:
        classes: of objects. With several, truth may have a feature ``class`` (1, 2, ...); without it every object is of
            class 1. With a single one that is what every object is.
        order: N, of the Fourier series; 25 in U22, 5 in the library. Compact objects need few.
        samples: S, points of a contour (U22: 224).
        radius: of a usual object, in pixels: the unit of the outputs, and where training begins.
        refine: draw contours to edges.
        iterations, reach, buckets: how often points move, how far at once in pixels (U22: the margin), and in how many
            parts of the contour their ways differ.
        uncertainty: learn the standard deviations of borders.
        giou: train boxes by their generalised IoU.
        min_foreground, max_background: a pixel is centre, or is not, by its depth in the object as a share of the
            largest depth (U22 begins with 0.75 for both and ends with 0.5; library 0.75 and 0.5).
        stride: of the grid of proposals; one of the backbone's.
        kernel: side of the heads' first convolution (U22: 7; 3 is several times faster).
        score_target: "binary", as U22 write, or "iou", the box's IoU with the truth, as their code has it.
        background_weight: beside centres in the score's term (U22's code: 2).
        refinement_loss: on the "last" contour (U22's code), or the mean over "all" iterations.
        random_iterations: draw the number of iterations for every crop in training (U22's code).
        score_weight, location_weight, fourier_weight, contour_weight, refinement_weight, giou_weight, border_weight:
            of the terms of the loss.
        box_weight: of the absolute differences of boxes (U22's code: 0.88; in their paper there is no such term).
        score_threshold: a pixel proposes from this score on (U22: 0.891415, chosen on their data).
        nms: whether proposals compete by their "boxes" (U22) or by their "masks": two worms that cross share a box.
        nms_threshold: IoU above which the weaker one goes (U22: pi / 10).
        coarse_threshold: IoU of the boxes of unrefined contours above which the weaker one goes before any is refined,
            well above ``nms_threshold`` (0.8); a little less exact, and many times faster. None for never (U22).
        uncertainty_nms: weigh by score (1 - mean sigmoid(u)) instead of the score alone.
        min_size: smaller objects are dropped, in pixels.
    """

    ragged: ClassVar[frozenset[str]] = frozenset({"location", "fourier", "contour", "category", "floor"})

    classes: int = 1
    order: int = 25
    samples: int = 224
    radius: float = 10.0
    refine: bool = True
    iterations: int = 4
    reach: float = 3.0
    buckets: int = 6
    uncertainty: bool = True
    giou: bool = True
    min_foreground: float = 0.5
    max_background: float = 0.5
    stride: int = 2
    kernel: int = 7
    score_target: Literal["binary", "iou"] = "binary"
    background_weight: float = 1.0
    refinement_loss: Literal["last", "all"] = "last"
    random_iterations: bool = True
    score_weight: float = 1.0
    location_weight: float = 1.0
    fourier_weight: float = 1.0
    contour_weight: float = 1.5
    refinement_weight: float = 1.0
    giou_weight: float = 1.0
    border_weight: float = 1.0
    box_weight: float = 0.0
    score_threshold: float = 0.89
    nms: Literal["boxes", "masks"] = "masks"
    nms_threshold: float = float(np.pi / 10)
    coarse_threshold: float | None = None
    uncertainty_nms: bool = True
    min_size: int = 10

    def __post_init__(self) -> None:
        counts = ("classes", "order", "samples", "iterations", "buckets")
        choices = {"score_target": ("binary", "iou"), "refinement_loss": ("last", "all"), "nms": ("boxes", "masks")}
        wrong = [name for name in counts if getattr(self, name) < 1]
        wrong += [name for name, known in choices.items() if getattr(self, name) not in known]
        wrong += ["kernel"] * (self.kernel % 2 == 0)
        wrong += [name for name in ("radius", "reach") if not getattr(self, name) > 0]
        wrong += [name for name in ("score_threshold", "nms_threshold") if not 0 <= getattr(self, name) <= 1]
        wrong += ["min_foreground", "max_background"] * (not 0 <= self.max_background <= self.min_foreground <= 1)
        if wrong:
            given = ", ".join(f"{name} = {getattr(self, name)!r}" for name in wrong)
            raise ValueError(
                f"{given}: counts are at least 1, lengths above 0, thresholds between 0 and 1, the kernel is "
                f"odd, and 0 <= max_background <= min_foreground <= 1; choices are {choices}."
            )

    def targets(self, truth: Instances, generator: np.random.Generator) -> dict[str, NDArray[Any]]:
        """Dense: ``labels`` (H, W) int64, see :func:`plurimask.methods.contour_targets.centres`; ``positions`` (S,)
        float32, sorted, where contours are compared; ``iterations`` () int64, of the refinement.

        A row per object in one piece: ``location`` (K, 2), ``fourier`` (K, N, 4), ``contour`` (K, S, 2), float32 in
        pixels, ``category`` (K,) int64, and ``floor`` (K, 4) float32, the least sigma of the student's, in shares of
        the largest, from which top, left, bottom and right are learned: of a truth 0, always.

        Raises:
            ValueError: not two axes, or a class outside 1 .. classes.
        """
        if truth.ndim != 2:
            raise ValueError(f"contours are outlines in a plane, but the truth has {truth.ndim} axes; give 2-D images.")
        positions = np.sort(generator.random(self.samples))
        count = generator.integers(1, self.iterations + 1) if self.random_iterations else self.iterations
        whole = in_one_piece(truth)
        return {
            "labels": centres(truth, whole, least=self.min_foreground, most=self.max_background),
            "positions": positions.astype(np.float32),
            "iterations": np.array(count, np.int64),
            "category": self._categories(truth)[whole],
            "floor": np.zeros((int(whole.sum()), 4), np.float32),
            **contour_rows(truth.select(whole), order=self.order, positions=positions),
        }

    def taught(self, outputs: Outputs, rule: Listen2Student, generator: np.random.Generator) -> dict[str, NDArray[Any]]:
        """Targets of the teacher's objects in one piece; unknown where it is sure of neither an object nor of none.

        (U22's code learns contours from objects below ``rule.foreground``, too, but such hardly pass its threshold.)

        Raises:
            ValueError: there are no standard deviations of borders to compare.
        """
        if not self.uncertainty:
            raise ValueError("Listen2Student compares the doubt about borders; train with uncertainty=True.")
        found = self.decode(outputs)
        found = found.select((found.scores >= rule.foreground) & in_one_piece(found))
        targets = self.targets(found, generator)
        unsure = torch.sigmoid(outputs["score"][0].float()).amax(0).cpu().numpy() > rule.background
        fine = unsure.repeat(self.stride, 0).repeat(self.stride, 1)[: found.shape[0], : found.shape[1]]
        targets["labels"][(targets["labels"] == BACKGROUND) & fine] = UNKNOWN
        return {**targets, "floor": rule.floor(found.features["border"].reshape(-1, 4) / LARGEST_SIGMA)}

    def _categories(self, truth: Instances) -> NDArray[np.int64]:
        """``(N,)`` channel of every object's score."""
        numbers = np.asarray(truth.features.get("class", np.ones(len(truth))), np.int64)
        if self.classes == 1:
            return np.zeros(len(truth), np.int64)
        if len(numbers) and not 1 <= numbers.min() <= numbers.max() <= self.classes:
            found = sorted(set(numbers.tolist()))
            raise ValueError(f"the truth has the classes {found}; this method knows 1 to {self.classes} (see classes).")
        return numbers - 1

    def head(self, backbone: Backbone) -> ContourHead:
        return ContourHead(self, backbone)

    def decode(self, outputs: Outputs) -> Instances:
        with without_autocast(outputs["score"]):
            found = self._proposed(outputs)
        return without_small(found, max(1, self.min_size))  # a tiny contour can lie between all pixels

    def _proposed(self, outputs: Outputs) -> Instances:
        """Proposals above the threshold, refined, and of those that overlap the best."""
        # A sum tells, in a fraction of the time; that of 16 bits would overflow in its own type.
        broken = [name for name, values in outputs.items() if not torch.isfinite(values.sum(dtype=torch.float32))]
        if broken:
            raise FloatingPointError(f"the network's outputs {broken} are not finite; its weights are broken.")
        scores, categories = torch.sigmoid(outputs["score"].float()).max(1)
        where = torch.nonzero(scores >= self.score_threshold, as_tuple=True)
        if self.coarse_threshold is not None:
            where = self._without_twins(where, outputs, scores, threshold=self.coarse_threshold)
        chosen = Proposals.of(outputs, where, self)
        points = self._drawn(chosen, outputs["refinement"][0].float()).cpu().numpy()
        shape = tuple(outputs["refinement"].shape[2:])
        kept = self._suppressed(points, self._weights(chosen, scores[where]), shape)
        features: dict[str, NDArray[Any]] = {"class": 1 + categories[where].cpu().numpy()[kept]}
        if chosen.sigmas is not None:
            features["border"] = chosen.sigmas.cpu().numpy()[kept].reshape(-1, 2, 2)
        return outlined(points[kept], shape, scores=scores[where].cpu().double().numpy()[kept], features=features)

    def _without_twins(self, where: Where, outputs: Outputs, scores: Tensor, *, threshold: float) -> Where:
        """Without those whose coarse contours are much like a better one's."""
        chosen = Proposals.of(outputs, where, self)
        series = chosen.location.cpu().numpy(), chosen.fourier.cpu().numpy()
        weights = self._weights(chosen, scores[where])
        kept = torch.from_numpy(suppress_coarse(*series, weights, threshold=threshold))
        return tuple(index[kept.to(index.device)] for index in where)

    def _weights(self, chosen: Proposals, scores: Tensor) -> NDArray[np.float64]:
        """``(K,)`` score times certainty: 1 less the mean of sigmoids (U22's tiled code has the sigmoid of a mean)."""
        weights = scores.cpu().double()
        if chosen.sigmas is not None and self.uncertainty_nms:
            weights = weights * (1 - chosen.sigmas.cpu().double().mean(1) / LARGEST_SIGMA)
        array: NDArray[np.float64] = weights.numpy()
        return array

    def _drawn(self, chosen: Proposals, field: Tensor) -> Tensor:
        """``(K, S, 2)`` contours at equal steps, within the image. field: ``(2 buckets, H, W)``."""
        positions = torch.from_numpy(closed_positions(self.samples)).float().to(field.device)
        contours = reconstruct(chosen.location, chosen.fourier, positions)
        if self.refine:
            *_, contours = refined(contours, field, positions, iterations=self.iterations)
        last = contours.new_tensor(field.shape[1:]) - 1
        return contours.clamp(min=torch.zeros_like(last), max=last)

    def _suppressed(
        self, contours: NDArray[np.float32], weights: NDArray[np.float64], shape: tuple[int, ...]
    ) -> NDArray[np.int64]:
        if self.nms == "masks":
            return suppress_contours(contours, weights, threshold=self.nms_threshold, shape=shape)
        # Of pixels, not of their centres: an outline one pixel wide has an area, too.
        boxes = np.stack([contours.min(1) - 0.5, contours.max(1) + 0.5], 1)
        return suppress_boxes(boxes, weights, threshold=self.nms_threshold)

    def probabilities(self, outputs: Outputs) -> Tensor:
        """Background and foreground, where foreground is "in the centre of an object": the score, interpolated."""
        shape = outputs["refinement"].shape[2:]
        scores = torch.sigmoid(outputs["score"].float()).amax(1, keepdim=True)
        fine = functional.interpolate(scores, scale_factor=float(self.stride), mode="bilinear", align_corners=False)
        foreground = fine[0, :, : shape[0], : shape[1]]
        return torch.cat([1 - foreground, foreground])

    def condition(self, targets: Outputs) -> Tensor:
        """Unknown, outside all centres, in a centre."""
        return functional.one_hot(targets["labels"].clamp(-1, 1) + 1, 3).movedim(-1, 1).float()

    def ideal(self, truth: Instances) -> Outputs:
        """Every centre proposes its object's series, sure to half a pixel; nothing is left to refine."""
        targets = {name: torch.from_numpy(a) for name, a in self.targets(truth, np.random.default_rng(0)).items()}
        labels = on_grid(targets["labels"][None], self.stride)[0]
        outputs = {
            "score": torch.full((1, self.classes, *labels.shape), -20.0),
            "location": torch.zeros(1, 2, *labels.shape),
            "fourier": torch.zeros(1, 4 * self.order, *labels.shape),
            "uncertainty": torch.full((1, 4, *labels.shape), float(np.log(0.5 / (LARGEST_SIGMA - 0.5)))),
            "refinement": torch.zeros(1, 2 * self.buckets, *truth.shape),
        }
        rows, columns = torch.nonzero(labels > 0, as_tuple=True)
        owner = labels[rows, columns] - 1
        outputs["score"][0, targets["category"][owner], rows, columns] = 20.0
        home = self.stride * torch.stack([rows, columns], 1)
        outputs["location"][0, :, rows, columns] = (targets["location"][owner] - home).T
        outputs["fourier"][0, :, rows, columns] = targets["fourier"][owner].flatten(1).T
        return outputs

    def tunable(self) -> Mapping[str, Sequence[Any]]:
        """What chooses among proposals, and what is too small."""
        scores = (round(self.score_threshold + step, 3) for step in (-0.4, -0.2, -0.1, -0.05, 0.05))
        overlaps = (round(self.nms_threshold + step, 3) for step in (-0.2, -0.1, 0.1, 0.2, 0.3))
        return {
            "score_threshold": tuple(score for score in scores if 0 < score < 1),
            "nms": ("masks",) if self.nms == "boxes" else ("boxes",),
            "nms_threshold": tuple(overlap for overlap in overlaps if 0 < overlap < 1),
            "min_size": other_sizes(self.min_size),
        }


def outlined(
    contours: NDArray[np.float32],
    shape: tuple[int, ...],
    *,
    scores: NDArray[np.float64],
    features: Mapping[str, NDArray[Any]],
) -> Instances:
    """Objects from contours ``(K, S, 2)`` in the frame of an image, which become the feature ``contour``."""
    boxes, masks = rasterise_all(contours, shape)
    return Instances.from_crops(boxes, masks, shape, scores=scores, features={**features, "contour": contours})
