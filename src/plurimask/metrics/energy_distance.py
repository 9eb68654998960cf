"""Generalised energy distance between segmentations that a model draws and those that annotators made.

Where annotators disagree, one right answer does not exist; what can be asked is whether the model's samples are
distributed as the annotators' masks are. With a, a' independent samples, b, b' independent annotations and d = 1 - IoU
(Kohl et al. 2018, A Probabilistic U-Net, performance measures; Czolbe et al. 2021, supplementary material;
docs/algorithms.md, 5.8)::

    GED = 2 E d(a, b) - E d(a, a') - E d(b, b')

It is 0 if the two distributions are equal, and smaller is better. From n samples, E d(a, a') can be taken in two ways:

* **V-statistic**, the default and what the papers report: the mean over all n x n pairs, a sample with itself included.
  It is never negative and too large by E d(a, a') / n on average. Report n.
* **U-statistic**, ``unbiased=True``: the mean over the pairs of different samples. Right on average for every n, and
  negative at times.

Departure from the papers' code: IoU has no 1e-6 in numerator and denominator. Two empty masks still have distance 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class EnergyDistance:
    """The generalised energy distance of one image and its three terms.

    Attributes:
        between: E d(a, b), between a sample and an annotation.
        diversity: E d(a, a'), between two samples.
        disagreement: E d(b, b'), between two annotations.
    """

    between: float
    diversity: float
    disagreement: float

    @property
    def value(self) -> float:
        """GED = 2 between - diversity - disagreement."""
        return 2 * self.between - self.diversity - self.disagreement


def energy_distance(
    samples: NDArray[np.bool_],
    annotations: NDArray[np.bool_],
    *,
    probabilities: ArrayLike | None = None,
    unbiased: bool = False,
) -> EnergyDistance:
    """The energy distance to exactly the annotators at hand: all n x m pairs, no noise from drawing annotators.

    The annotators are the whole distribution, so an annotation with itself counts in E d(b, b') in both statistics;
    ``unbiased`` is about the samples only. The V-statistic is too large by E d(a, a') / n on average.

    Args:
        samples: ``(n, *spatial)`` bool, what the model drew.
        annotations: ``(m, *spatial)`` bool.
        probabilities: ``(m,)`` how likely each annotation is, with sum 1; by default all equally.
        unbiased: U-statistic instead of V-statistic.

    Raises:
        ValueError: the masks are not boolean, differ in shape, or there are too few; or the probabilities are none.

    >>> left, right = np.array([[True, False], [False, True]])
    >>> energy_distance(np.stack([left, left]), np.stack([left, right]))
    EnergyDistance(between=0.5, diversity=0.0, disagreement=0.5)
    """
    distances = _all_distances(samples, annotations)
    n, m = len(samples), len(annotations)
    weights = _checked_probabilities(np.full(m, 1 / m) if probabilities is None else probabilities, m)
    return EnergyDistance(
        between=float(distances[:n, n:].mean(axis=0) @ weights),
        diversity=_mean_distance(distances[:n, :n], unbiased=unbiased),
        disagreement=float(weights @ distances[n:, n:] @ weights),
    )


def sampled_energy_distance(
    samples: NDArray[np.bool_], annotations: NDArray[np.bool_], *, seed: int, unbiased: bool = False
) -> EnergyDistance:
    """The papers' protocol: against as many annotations as there are samples, drawn with replacement.

    The V-statistic is too large by (E d(a, a') + E d(b, b')) / n on average, which for equal distributions leaves
    2 E d / n. Prefer :func:`energy_distance`, unless a number is to be compared with a published one.

    Args:
        samples: ``(n, *spatial)`` bool, what the model drew.
        annotations: ``(m, *spatial)`` bool.
        seed: of the draw of the n annotations.
        unbiased: U-statistic instead of V-statistic, for the samples and for the drawn annotations.

    Raises:
        ValueError: the masks are not boolean, differ in shape, or there are too few.
    """
    distances = _all_distances(samples, annotations)
    n = len(samples)
    drawn = n + np.random.default_rng(seed).integers(len(annotations), size=n)
    return EnergyDistance(
        between=float(distances[:n, drawn].mean()),
        diversity=_mean_distance(distances[:n, :n], unbiased=unbiased),
        disagreement=_mean_distance(distances[np.ix_(drawn, drawn)], unbiased=unbiased),
    )


def soft_dice_distance(prediction: ArrayLike, annotation: ArrayLike) -> float:
    """1 - 2 sum(x y) / (sum(x^2) + sum(y^2)): how far a mean prediction is from the mean annotation, 0 if equal.

    Czolbe et al. 2021 (docs/algorithms.md, 5.8), there with a small number added to numerator and denominator; here two
    maps of zeros have distance 0 without it.

    Args:
        prediction: ``(*spatial)`` in [0, 1], mean over the samples.
        annotation: ``(*spatial)`` in [0, 1], mean over the annotators.

    Raises:
        ValueError: the shapes differ, or a value is not in [0, 1].

    >>> soft_dice_distance([0.5, 1.0], [0.5, 0.0])
    0.6666666666666667
    """
    x, y = np.asarray(prediction, np.float64), np.asarray(annotation, np.float64)
    if x.shape != y.shape:
        raise ValueError(f"the prediction has shape {x.shape}, the annotation {y.shape}; they must be equal.")
    for name, values in (("prediction", x), ("annotation", y)):
        if not ((values >= 0) & (values <= 1)).all():
            raise ValueError(f"the {name} must lie in [0, 1], but reaches from {values.min()} to {values.max()}.")
    total = float((x * x).sum() + (y * y).sum())
    return 1 - 2 * float((x * y).sum()) / total if total > 0 else 0.0


def _all_distances(samples: NDArray[np.bool_], annotations: NDArray[np.bool_]) -> NDArray[np.float64]:
    """``(n + m, n + m)``: distances of samples and annotations, one Gram matrix for all three terms."""
    for name, masks in (("samples", samples), ("annotations", annotations)):
        if masks.dtype != np.bool_:
            raise ValueError(f"{name} are of type {masks.dtype}; give boolean masks, for instance probability > 0.5.")
    if samples.shape[1:] != annotations.shape[1:] or not len(samples) or not len(annotations):
        raise ValueError(
            f"samples have shape {samples.shape}, annotations {annotations.shape}; wanted are (n, *spatial) and "
            "(m, *spatial) of the same image, with n and m at least 1."
        )
    return _iou_distances(np.concatenate([samples, annotations]))


def _iou_distances(masks: NDArray[np.bool_]) -> NDArray[np.float64]:
    """``(N, N)`` float64: 1 - IoU of every pair of ``(N, *spatial)`` masks; 0 for two empty ones, 1 if one is empty."""
    flat = masks.reshape(len(masks), -1)
    # Float products run on BLAS; float32 counts pixels exactly up to 2^24.
    rows: NDArray[np.floating[Any]] = flat.astype(np.float32 if flat.shape[1] <= 1 << 24 else np.float64)
    shared: NDArray[np.float64] = (rows @ rows.T).astype(np.float64)
    areas = shared.diagonal()
    union = areas[:, None] + areas - shared
    distances: NDArray[np.float64] = 1 - np.where(union > 0, shared, 1.0) / np.where(union > 0, union, 1.0)
    return distances


def _mean_distance(distances: NDArray[np.float64], *, unbiased: bool) -> float:
    """The mean of ``(n, n)`` distances, in the unbiased case without the n pairs of a mask with itself."""
    n = len(distances)
    if unbiased and n < 2:
        raise ValueError("one sample has no other to be compared with; give at least two, or take the V-statistic.")
    return float(distances.sum() / (n * (n - 1) if unbiased else n * n))


def _checked_probabilities(probabilities: ArrayLike, m: int) -> NDArray[np.float64]:
    weights = np.asarray(probabilities, np.float64)
    if weights.shape != (m,) or not (weights >= 0).all() or not abs(weights.sum() - 1) < 1e-6:
        raise ValueError(f"probabilities are {weights.tolist()}; wanted is one per annotation, {m}, with sum 1.")
    return weights
