"""The discriminative loss of R20 (after De Brabandere et al. 2017 and Luther & Seung 2019).

Pull pixels to the mean embedding of their object, push the means of two objects apart. docs/algorithms.md,
"Discriminative loss", says what each source does, and which traps lie in released code.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

EPSILON = 1e-12  # inside the root: the gradient of a norm at 0 is NaN


@dataclass(frozen=True)
class Centres:
    """Mean embeddings of all objects of a batch.

    Attributes:
        means: ``(K, E)`` mean embedding of every object.
        sizes: ``(K,)`` number of its pixels.
        image: ``(K,)`` index of its image; an object never meets objects of other images.
    """

    means: Tensor
    sizes: Tensor
    image: Tensor


def centres(points: Tensor, owner: Tensor, image: Tensor) -> Centres:
    """points: ``(P, E)``; owner: ``(P,)`` in 0..K-1; image: ``(K,)``."""
    sizes = torch.bincount(owner, minlength=len(image)).to(points.dtype)
    sums = points.new_zeros(len(image), points.shape[1]).index_add(0, owner, points)
    return Centres(sums / sizes[:, None], sizes, image)


def pull(points: Tensor, owner: Tensor, centre: Centres) -> Tensor:
    """``(K,)`` mean squared distance of an object's pixels to its mean (R20, Eq. 1: no hinge)."""
    distances = (points - centre.means[owner]).square().sum(1)
    return torch.zeros_like(centre.sizes).index_add(0, owner, distances) / centre.sizes


def attenuated_pull(points: Tensor, owner: Tensor, centre: Centres, *, log_variance: Tensor, beta: float) -> Tensor:
    """``(K,)`` as :func:`pull`, with a learned variance per pixel that weighs it: doubtful pixels pull less.

    ``sg(v^beta) (||x - mean||^2 / v + E log v)``, v the variance and sg a constant in the gradient: twice the negative
    Gaussian log likelihood of Kendall & Gal 2017 (Eq. 8) for ``beta = 0``, weighted after Seitzer et al. 2022 (Eq. 5).
    With ``beta = 1`` pixels pull as hard as without variances. log_variance: ``(P,)``.
    """
    distances = (points - centre.means[owner]).square().sum(1)
    likelihood = distances * torch.exp(-log_variance) + points.shape[1] * log_variance
    weighted = torch.exp(beta * log_variance).detach() * likelihood
    return torch.zeros_like(centre.sizes).index_add(0, owner, weighted) / centre.sizes


def push(centre: Centres, *, margin: float, squared: bool, images: int) -> Tensor:
    """``(images,)`` mean over ordered pairs of ``[2 margin - ||a - b||]_+^2`` (R20, Eq. 2); 0 for a lone object.

    ``squared`` takes the equation literally, with ``||a - b||^2`` inside the hinge, which then closes at
    ``sqrt(2 margin)`` instead of ``2 margin``.
    """
    differences = centre.means[:, None] - centre.means[None]
    distances = differences.square().sum(2)
    if not squared:
        distances = (distances + EPSILON).sqrt()
    same_image = centre.image[:, None] == centre.image[None]
    pairs = same_image & ~torch.eye(len(centre.image), dtype=torch.bool, device=distances.device)
    penalties = functional.relu(2 * margin - distances).square() * pairs
    totals = penalties.new_zeros(images).index_add(0, centre.image, penalties.sum(1))
    counts = penalties.new_zeros(images).index_add(0, centre.image, pairs.sum(1).to(penalties.dtype))
    return totals / counts.clamp(min=1)


def mean_by_image(values: Tensor, image: Tensor, images: int) -> Tensor:
    """``(K,)`` values of objects -> ``(images,)`` means; 0 for an image without objects."""
    totals = values.new_zeros(images).index_add(0, image, values)
    counts = torch.bincount(image, minlength=images).to(values.dtype)
    return totals / counts.clamp(min=1)
