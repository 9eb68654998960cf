"""The terms that contours, their boxes and the doubt about borders are trained with.

Upschulte et al. 2022; docs/algorithms.md 4.5. All of them are means over proposals, one per pixel of an object's
centre, so large objects weigh more. Without any proposal a term is 0.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

EPSILON = 1e-8  # beside a variance, as in the released code

MIN_SIDE = 1.0
"""Boxes with a shorter side, in pixels, take no part: their overlap says nothing."""


def mean(values: Tensor) -> Tensor:
    """The mean, and of nothing 0 that is still connected to the graph; shape ``()``."""
    return values.sum() / max(1, values.numel())


def order_weights(order: int) -> Tensor:
    """``(N,)``: ``1 + 4 (1 - (n - 1) / (N - 1))^2``, 5 for the first order down to 1 for the last.

    >>> order_weights(25)[[0, 1, 6, 12, 24]]
    tensor([5.0000, 4.6736, 3.2500, 2.0000, 1.0000])
    """
    return 1 + 4 * torch.linspace(1, 0, order).square()


def fourier_distance(found: Tensor, truth: Tensor) -> Tensor:
    """``()`` mean of weighted absolute differences in pixels; both ``(P, N, 4)``."""
    weights = order_weights(found.shape[1]).to(found)
    return mean((found - truth).abs() * weights[:, None])


def distance(found: Tensor, truth: Tensor) -> Tensor:
    """``()`` mean of absolute differences in pixels."""
    return mean((found - truth).abs())


def balanced_entropy(logits: Tensor, aims: Tensor, labels: Tensor, *, background: float) -> Tensor:
    """``()`` binary cross-entropy: the mean over centres plus ``background`` times the mean over the rest.

    Args:
        logits: ``(B, C, h, w)``, one channel per class of objects.
        aims: of the same shape, in [0, 1].
        labels: ``(B, h, w)``, above 0 in centres, below 0 where nothing is known.
        background: weight.
    """
    entropy = functional.binary_cross_entropy_with_logits(logits, aims, reduction="none").movedim(1, -1)
    return mean(entropy[labels > 0]) + background * mean(entropy[labels == 0])


def boxes_of(contours: Tensor) -> Tensor:
    """``(P, 2, 2)`` least and largest (y, x) of contours ``(P, S, 2)``."""
    return torch.stack([contours.amin(1), contours.amax(1)], 1)


def measurable(found: Tensor, truth: Tensor) -> Tensor:
    """``(P,)``: neither of two boxes ``(P, 2, 2)`` has a side below ``MIN_SIDE``."""
    return torch.stack([found[:, 1] - found[:, 0], truth[:, 1] - truth[:, 0]]).amin((0, 2)) >= MIN_SIDE


def box_iou(found: Tensor, truth: Tensor) -> Tensor:
    """``(P,)`` intersection over union of boxes with an area ``(P, 2, 2)``, in continuous coordinates."""
    shared, union, _ = _areas(found, truth)
    return shared / union


def generalised_iou(found: Tensor, truth: Tensor) -> Tensor:
    """``(P,)`` in (-1, 1]: IoU less the share of the common hull that is in neither (Rezatofighi et al. 2019)."""
    shared, union, hull = _areas(found, truth)
    return shared / union - (hull - union) / hull


def _areas(found: Tensor, truth: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """``(P,)`` each: intersection, union, and the smallest box around both."""
    inner = torch.minimum(found[:, 1], truth[:, 1]) - torch.maximum(found[:, 0], truth[:, 0])
    outer = torch.maximum(found[:, 1], truth[:, 1]) - torch.minimum(found[:, 0], truth[:, 0])
    shared = inner.clamp(min=0).prod(1)
    union = (found[:, 1] - found[:, 0]).prod(1) + (truth[:, 1] - truth[:, 0]).prod(1) - shared
    return shared, union, outer.prod(1)


def border_surprise(sigmas: Tensor, found: Tensor, truth: Tensor) -> Tensor:
    """``(P,)`` negative logarithm of the density of the true borders, times the boxes' IoU.

    ``IoU (sum over 4 borders of (v - w)^2 / (2 sigma^2) + ln(sigma^2) / 2, + 2 ln(2 pi))``; least where sigma is the
    error. It teaches the sigmas only: boxes have no gradient through it.

    Args:
        sigmas: ``(P, 4)`` standard deviations in pixels of top, left, bottom and right.
        found: ``(P, 2, 2)`` boxes with an area.
        truth: ``(P, 2, 2)``.
    """
    found, truth = found.detach(), truth.detach()
    errors = (found - truth).flatten(1).square()
    variances = sigmas.square()
    surprise = errors / (2 * variances + EPSILON) + (variances + EPSILON).log() / 2
    return box_iou(found, truth) * (surprise.sum(1) + 2 * math.log(2 * math.pi))
