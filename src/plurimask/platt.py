"""Calibration by two numbers: what a probability is worth, learned on held-out objects (Platt 1999)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize
from scipy.special import expit, logit

SMALLEST_SLOPE = 0.01
"""A fitted slope is at least this: calibration changes numbers, never the order of objects."""

_CLIP = 0.5 / 255  # half a draw of the most draws that there can be


@dataclass(frozen=True)
class Platt:
    """p -> sigmoid(slope * logit(p) + offset), a rising function; the default leaves every p as it is, bit for bit.

    Slope below 1: the probabilities were too extreme. Offset below 0: they were too high. The logit of 0 and 1 is not
    finite, so that p is clipped at half a draw of 255, the largest number of draws, before (not at half a draw of the
    draws at hand: existence is a mean of scores, and with eight draws all objects above 15/16 would come out equal).

    Attributes:
        slope: factor of the logit, above 0.
        offset: added to it.
    """

    slope: float = 1.0
    offset: float = 0.0

    def __post_init__(self) -> None:
        if not (0 < self.slope < math.inf and math.isfinite(self.offset)):
            raise ValueError(
                f"slope {self.slope} and offset {self.offset} calibrate nothing: the slope must be above 0, or the "
                "least probable objects would become the most probable ones, and both must be finite."
            )

    def __call__(self, probability: ArrayLike) -> NDArray[np.float64]:
        """Calibrated probabilities, in the shape of what came.

        Raises:
            ValueError: a probability is not in [0, 1].

        >>> Platt(slope=0.5)([0.1, 0.5, 0.9]).round(2)
        array([0.25, 0.5 , 0.75])
        """
        values = _probabilities(probability)
        if self == Platt():
            return values.copy()
        calibrated: NDArray[np.float64] = expit(self.slope * _logits(values) + self.offset)
        return calibrated

    @classmethod
    def fit(cls, probability: ArrayLike, exists: ArrayLike) -> Platt:
        """The most probable slope and offset for an event. probability: ``(n,)`` in [0, 1]; exists: ``(n,)`` bool.

        Minimises the cross-entropy with the targets of Platt 1999, section 2.2, (n1 + 1) / (n1 + 2) for the n1 objects
        that exist and 1 / (n0 + 2) for the n0 others, plus ((slope - 1)^2 + offset^2) / 2: a Gaussian prior about
        leaving the probabilities alone, which weighs as much as a few objects. So the result is finite and unique also
        for few objects, for equal probabilities, and where a threshold parts the two classes or one class is empty. The
        problem is convex; a slope that would be below ``SMALLEST_SLOPE`` (objects of high probability exist more
        rarely) stays there.

        Raises:
            ValueError: there is no object, the two differ in shape, or a probability is not in [0, 1].
        """
        found = np.asarray(exists, np.bool_)
        positives = np.count_nonzero(found)
        negatives = found.size - positives
        return cls._fitted(probability, np.where(found, (positives + 1) / (positives + 2), 1 / (negatives + 2)))

    @classmethod
    def fit_mean(cls, predicted: ArrayLike, observed: ArrayLike) -> Platt:
        """The slope and offset for a number in [0, 1] instead of an event. predicted, observed: ``(n,)`` in [0, 1].

        As :meth:`fit`, with what was observed as the targets (fractional logit, Papke and Wooldridge 1996): as with
        squared errors, the best that can be said of a prediction is the mean of what is observed where it is made.

        Raises:
            ValueError: there is no object, the two differ in shape, or a number is not in [0, 1].
        """
        return cls._fitted(predicted, _probabilities(observed))

    @classmethod
    def _fitted(cls, probability: ArrayLike, targets: NDArray[np.float64]) -> Platt:
        logits = _logits(_probabilities(probability))
        if logits.ndim != 1 or logits.shape != targets.shape or not logits.size:
            raise ValueError(
                f"probabilities of shape {logits.shape} and outcomes of shape {targets.shape} cannot be fitted; give "
                "one of each for at least one object, (n,)."
            )

        def loss(parameters: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
            """Cross-entropy with the prior, and its gradient."""
            slope, offset = parameters
            z = slope * logits + offset
            value = (np.logaddexp(0, z) - targets * z).sum() + ((slope - 1) ** 2 + offset**2) / 2
            residuals = expit(z) - targets
            return float(value), np.array([residuals @ logits + slope - 1, residuals.sum() + offset])

        bounds = [(SMALLEST_SLOPE, None), (None, None)]
        solved = minimize(
            loss, [1.0, 0.0], jac=True, method="L-BFGS-B", bounds=bounds, options={"ftol": 1e-15, "gtol": 1e-8}
        )
        return cls(float(solved.x[0]), float(solved.x[1]))


def _probabilities(values: ArrayLike) -> NDArray[np.float64]:
    probabilities = np.asarray(values, np.float64)
    wrong = ~((probabilities >= 0) & (probabilities <= 1))
    if wrong.any():
        raise ValueError(f"{probabilities[wrong][0]} is not a probability; all values must be in [0, 1].")
    return probabilities


def _logits(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    logits: NDArray[np.float64] = logit(np.clip(probabilities, _CLIP, 1 - _CLIP))
    return logits
