"""What weight decay and variational regularisers measure."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def squared_norm(module: nn.Module) -> Tensor:
    """Sum of squares of all kernels, biases left out; shape ``()``."""
    kernels = [weight for weight in module.parameters() if weight.ndim > 1]
    return torch.stack([kernel.float().square().sum() for kernel in kernels]).sum()
