"""Concrete dropout (Gal, Hron, Kendall 2017) as R20 use it: one learned rate per layer, whole channels dropped.

Formulas and the known traps: docs/algorithms.md, "Concrete dropout".
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from plurimask.posteriors.dropout import Dropout, draws, fill
from plurimask.posteriors.weights import squared_norm
from plurimask.protocols import Context, NetworkFactory, Outputs, Posterior

EPSILON = 1e-7  # keeps the logarithms of the relaxation finite


class ConcreteDropout(Posterior):
    """A network whose layers drop channels at rates that are learned.

    The loss gains ``(1/N) sum_layers [ length_scale ||W||^2 / (1 - p) - entropy_scale F H(p) ]`` (R20, Eqs. 3-4 after
    Gal et al.), N the number of training images, F the number of channels that a mask is sampled for. Because
    activations are rescaled by 1 / (1 - p), the first term divides by (1 - p): with a factor (1 - p) instead it
    would *fall* with p. Layers without dropout keep plain weight decay.

    Args:
        network: makes the network.
        initial_rate: rate of every layer before training.
        temperature: of the relaxed Bernoulli distribution (paper 0.1; the authors' code for convolutions 2/3).
        length_scale: iota^2 of R20, weight of the kernels' squared norm.
        entropy_scale: zeta of R20, weight of the entropy of the rates.
        start: first encoder level with dropout; several draws share everything before it. Decoder layers all
            have dropout, on what comes from below; what they read from skips is shared, too.
        rate_speed: the rates' learning rate, as a multiple of the weights'.
    """

    def __init__(
        self,
        network: NetworkFactory,
        *,
        initial_rate: float = 0.1,
        temperature: float = 0.1,
        length_scale: float = 1e-6,
        entropy_scale: float = 1e-3,
        start: int = 0,
        rate_speed: float = 10.0,
    ) -> None:
        super().__init__()
        self.initial_rate, self.temperature = initial_rate, temperature
        self.length_scale, self.entropy_scale = length_scale, entropy_scale
        self.start, self.rate_speed = start, rate_speed
        self.network = network()
        make = partial(ChannelDropout, rate=initial_rate, temperature=temperature)
        fill(self.network.backbone, make, start=start)

    def layers(self) -> list[tuple[str, ChannelDropout, Tensor]]:
        """Name, dropout and weight of every layer with dropout, in the order of the forward pass."""
        return [
            (slot.name, slot.dropout, weight)
            for slot, weight in self.network.backbone.slots()
            if isinstance(slot.dropout, ChannelDropout)
        ]

    def losses(self, image: Tensor, targets: Outputs) -> dict[str, Tensor]:
        terms = self.network.head.loss(self.network(image), targets)
        return {**terms, "weights": self.regulariser() / self.samples}

    def regulariser(self) -> Tensor:
        """N times the term of the bound that does not depend on the data; shape ``()``."""
        dropped = [weight for _, _, weight in self.layers()]
        plain = squared_norm(self.network) - sum(weight.float().square().sum() for weight in dropped)
        total = self.length_scale * plain
        for _, dropout, weight in self.layers():
            keep = 1 - dropout.rate
            total = total + self.length_scale * weight.float().square().sum() / keep
            total = total - self.entropy_scale * dropout.channels * dropout.entropy()
        return total

    def draws(self, window: Tensor, seeds: Sequence[int], *, context: Context) -> Iterator[Outputs]:
        return draws(self.network, window, seeds)

    def parameter_groups(self, learning_rate: float) -> list[dict[str, Any]]:
        rates = [dropout.logit for _, dropout, _ in self.layers()]
        known = {id(rate) for rate in rates}
        weights = [parameter for parameter in self.parameters() if id(parameter) not in known]
        return [
            {"params": weights, "lr": learning_rate},
            {"params": rates, "lr": learning_rate * self.rate_speed},
        ]

    def report(self) -> dict[str, float]:
        return {f"rate.{name}": float(dropout.rate.detach()) for name, dropout, _ in self.layers()}


class ChannelDropout(Dropout):
    """Drops whole channels with a learned probability, relaxed so that it has a gradient.

    ``z = 1 - sigmoid((logit(p) + logit(u)) / T)`` with u uniform (Gal et al. 2017, Eq. 5); the layer behind sees
    ``x z / (1 - p)``. The same relaxed mask is used in training and in prediction.
    """

    def __init__(self, channels: int, *, rate: float, temperature: float) -> None:
        super().__init__(channels, rate=rate)
        self.temperature = temperature
        self.logit = nn.Parameter(torch.tensor(math.log(rate / (1 - rate))))

    @property
    def rate(self) -> Tensor:
        """The probability of dropping a channel, shape ``()``."""
        return torch.sigmoid(self.logit)

    def entropy(self) -> Tensor:
        """Entropy of the rate in nats, shape ``()``."""
        rate = self.rate
        return -(rate * torch.log(rate + EPSILON) + (1 - rate) * torch.log(1 - rate + EPSILON))

    def factor(self, noise: Tensor) -> Tensor:
        logit = torch.log(noise + EPSILON) - torch.log(1 - noise + EPSILON)
        keep = 1 - torch.sigmoid((self.logit + logit) / self.temperature)
        return keep / (1 - self.rate)
