"""Contours drawn towards edges by a field of offsets (Upschulte et al. 2022, docs/algorithms.md 4.3).

A point of a contour looks at the field at its own pixel and moves by what it finds, several times. The field has one
layer per bucket, a part of the contour: where two objects touch, one pixel can send them different ways.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor


def bucket_weights(positions: Tensor, buckets: int) -> tuple[Tensor, Tensor]:
    """The two buckets that a point listens to, and how much: ``(2, S)`` int64 and ``(2, S)``; weights sum to 1.

    Bucket k lies at ``(k + 1/2) / buckets`` of the contour's length, around which its weight falls linearly to 0 at the
    neighbours' places: ``max(0, 1 - |k + 1/2 - buckets s|)``. positions: ``(S,)`` in [0, 1].

    >>> bucket_weights(torch.tensor([0.25, 0.5]), 2)[1]
    tensor([[1.0000, 0.5000],
            [0.0000, 0.5000]])
    """
    place = positions * buckets - 0.5
    first = place.floor()
    share = place - first
    numbers = torch.stack([first, first + 1]).long() % buckets
    return numbers, torch.stack([1 - share, share])


def refined(contours: Tensor, field: Tensor, positions: Tensor, *, iterations: int) -> Iterator[Tensor]:
    """The contours ``(K, S, 2)`` after every iteration, within the image.

    Points are rounded to pixels before they look, so gradients reach the field at the last look only, never the
    proposal.

    Args:
        contours: ``(K, S, 2)`` (y, x) in pixels.
        field: ``(2 buckets, H, W)``: offsets (y, x) in pixels of the first bucket, then of the others.
        positions: ``(S,)`` of the points along their contours.
        iterations: how often.
    """
    height, width = field.shape[1:]
    count = len(field) // 2
    buckets, weights = bucket_weights(positions, count)
    # One row per pixel and bucket: a view where channels lie last in memory.
    table = field.movedim(0, -1).reshape(-1, 2)
    last = contours.new_tensor([height - 1, width - 1])
    for _ in range(iterations):
        contours = (contours.detach() + 0.5).floor().clamp(min=torch.zeros_like(last), max=last)
        pixels = (contours[..., 0] * width + contours[..., 1]).long() * count
        looks = [table.index_select(0, (pixels + bucket).flatten()).view_as(contours) for bucket in buckets]
        offsets = looks[0] * weights[0][:, None] + looks[1] * weights[1][:, None]
        contours = (contours + offsets).clamp(min=torch.zeros_like(last), max=last)
        yield contours
