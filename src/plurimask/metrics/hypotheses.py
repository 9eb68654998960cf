"""Is what is said of hypotheses true? Existence, expected IoU and borders in a few numbers.

All hypotheses take part, rejected ones too; their partners are those of
:func:`plurimask.metrics.calibration.existence_forecasts`, with an IoU of at least 1/2.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plurimask.instances import Instances
from plurimask.metrics import border
from plurimask.metrics.border import BorderErrors, border_errors
from plurimask.metrics.calibration import Forecasts, existence_forecasts, iou_forecasts, iou_reliability, pool
from plurimask.probabilistic import ProbabilisticInstances

_IOUS = ("expected", "observed")


@dataclass(frozen=True)
class Outcomes:
    """What was said of the hypotheses of one image, and what is there.

    Attributes:
        existence: :func:`plurimask.metrics.calibration.existence_forecasts`.
        expected: ``(n,)`` expected IoU.
        observed: ``(n,)`` IoU with the partner, 0 without one.
        borders: :func:`plurimask.metrics.border.border_errors`.
    """

    existence: Forecasts
    expected: NDArray[np.float64]
    observed: NDArray[np.float64]
    borders: BorderErrors

    @classmethod
    def of(cls, truth: Instances, found: ProbabilisticInstances) -> Outcomes:
        """Of one image."""
        every = found.hypotheses()
        return cls(existence_forecasts(truth, every), *iou_forecasts(truth, found), border_errors(truth, every))


@dataclass(frozen=True)
class Honesty:
    """How far what is said of hypotheses is from what is there. NaN where there is none.

    Attributes:
        brier: mean squared difference of existence and outcome.
        ece: expected calibration error of existence, in ten bins of equal mass.
        iou_error: mean absolute difference of expected and observed IoU.
        iou_ece: the same of the means of ten bins of equal mass: what calibration can mend.
        above: IoU t -> shares of the hypotheses that are expected and observed above t.
        border: :meth:`plurimask.metrics.border.BorderErrors.summary`.
    """

    brier: float
    ece: float
    iou_error: float
    iou_ece: float
    above: Mapping[float, tuple[float, float]]
    border: Mapping[str, float] | None = None

    @classmethod
    def of(cls, images: Sequence[Outcomes]) -> Honesty:
        """Of the hypotheses of all images together."""
        every = pool([image.existence for image in images])
        expected, observed = (np.concatenate([getattr(image, name) for image in images]) for name in _IOUS)
        reliability = iou_reliability(expected, observed)
        shares = zip(reliability.predicted_above.tolist(), reliability.observed_above.tolist(), strict=True)
        return cls(
            every.brier,
            every.by_mass().ece,
            float(np.abs(expected - observed).mean()) if len(expected) else math.nan,
            reliability.ece,
            dict(zip(reliability.thresholds.tolist(), shares, strict=True)),
            border.pool([image.borders for image in images]).summary(),
        )

    @property
    def existence(self) -> dict[str, Any]:
        """For JSON: None where it is not known."""
        return {"brier": _known(self.brier), "ece": _known(self.ece)}

    @property
    def expected_iou(self) -> dict[str, Any]:
        """For JSON: None where it is not known."""
        shares = {f"{t:.2f}": dict(zip(_IOUS, map(_known, pair), strict=True)) for t, pair in self.above.items()}
        return {"error": _known(self.iou_error), "ece": _known(self.iou_ece), "above": shares}


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value
