"""The camera of made-up images: from light to grey values with noise."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

MAXIMUM = 4095  # 12-bit camera


def photographed(light: NDArray[np.floating[Any]], generator: np.random.Generator) -> NDArray[np.uint16]:
    """Light in grey values, of any shape -> 0..4095: shot noise (variance 0.2 per grey value) and read-out noise."""
    sigma = np.sqrt(0.2 * np.maximum(light, 0) + 1.5**2)
    noisy = light + sigma * generator.standard_normal(light.shape)
    values: NDArray[np.uint16] = np.clip(np.rint(noisy), 0, MAXIMUM).astype(np.uint16)
    return values
