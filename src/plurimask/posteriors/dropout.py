"""Dropout of whole channels whose masks are functions of a seed: what Concrete and Monte Carlo dropout share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from plurimask.posteriors.seeds import uniform
from plurimask.protocols import Backbone, Network, Outputs


class Dropout(ABC, nn.Module):
    """Multiplies every channel by a random factor, constant over space; in training and in prediction alike.

    It does not look at the module's mode: in prediction the network is in eval mode, so that normalisation layers
    use their running statistics and leave them as they are, while channels are dropped all the same.
    """

    def __init__(self, channels: int, *, rate: float) -> None:
        super().__init__()
        if not 0 < rate < 1:
            raise ValueError(f"a dropout rate lies between 0 and 1, not at {rate}.")
        self.channels = channels
        self.fixed: Tensor | None = None  # (1, channels) uniform numbers of one draw

    @abstractmethod
    def factor(self, noise: Tensor) -> Tensor:
        """Uniform numbers ``(B, channels)`` -> the factors of the channels, of the same shape."""

    def forward(self, features: Tensor) -> Tensor:
        noise = torch.rand(len(features), self.channels) if self.fixed is None else self.fixed
        factor = self.factor(noise.to(features.device)).to(features.dtype)
        return features * factor.reshape(*factor.shape, *(1,) * (features.ndim - 2))


def fill(backbone: Backbone, make: Callable[[int], Dropout], *, start: int) -> None:
    """Puts a dropout, made from a number of channels, into the decoder's slots and the encoder's from level ``start``.

    Everything before the first of them is computed once for several draws, and so is what the decoder reads of it.
    """
    for slot, _ in backbone.slots():
        if slot.level >= start or slot.name.startswith("decoder"):
            slot.dropout = make(slot.channels)


def draws(network: Network, window: Tensor, seeds: Sequence[int]) -> Iterator[Outputs]:
    """The outputs under the masks of one seed after the other; afterwards no mask stays fixed."""
    shared = network.backbone.shared(window)
    for seed in seeds:
        _fix(network.backbone, seed)
        try:
            outputs: Outputs = network.head(network.backbone.finish(shared))
        finally:
            _fix(network.backbone, None)
        yield outputs


def _fix(backbone: Backbone, seed: int | None) -> None:
    dropouts = [slot.dropout for slot, _ in backbone.slots() if isinstance(slot.dropout, Dropout)]
    for number, dropout in enumerate(dropouts):
        dropout.fixed = None if seed is None else uniform(seed, number, dropout.channels)
