"""Intensities to a common range, from percentiles of the whole image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Normalisation:
    """Linear, channel by channel: percentile ``low`` becomes 0, percentile ``high`` becomes 1; no clipping.

    The defaults are StarDist's. Where the two percentiles coincide (a few bright objects on a ground without noise),
    the channel's extremes take their place. A constant channel becomes 0 everywhere.

    Attributes:
        low: percentile that becomes 0.
        high: percentile that becomes 1.
    """

    low: float = 1.0
    high: float = 99.8

    def __call__(self, image: NDArray[Any]) -> NDArray[np.float32]:
        """image: ``(C, *spatial)`` -> float32 of the same shape."""
        axes = tuple(range(1, image.ndim))
        image = np.asarray(image, np.result_type(image, np.float32))  # bool and float16 have no percentiles to trust
        low, high = np.percentile(image, [self.low, self.high], axis=axes, keepdims=True)
        flat = high <= low
        low = np.where(flat, image.min(axes, keepdims=True), low)
        high = np.where(flat, image.max(axes, keepdims=True), high)
        span = np.where(high > low, high - low, np.inf)
        normalised: NDArray[np.float32] = ((image - low) / span).astype(np.float32)
        return normalised
