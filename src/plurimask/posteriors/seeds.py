"""Random numbers that are functions of a seed: the same in every window, on every worker and on every device."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def uniform(seed: int, layer: int, count: int) -> Tensor:
    """``(1, count)`` numbers, uniform in [0, 1); more of them begin with the same ones."""
    return torch.from_numpy(_generator(seed, layer).random((1, count), dtype=np.float32))


def normal(seed: int, layer: int, count: int) -> Tensor:
    """``(1, count)`` numbers of the standard normal distribution; more of them begin with the same ones."""
    return torch.from_numpy(_generator(seed, layer).standard_normal((1, count), dtype=np.float32))


def _generator(seed: int, layer: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence([seed, layer]))
