"""The Probabilistic U-Net (Kohl et al. 2018): one latent vector per image says which of several answers is meant.

Formulas, and what the released implementations do: docs/algorithms.md, "Probabilistic U-Net".
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from plurimask.data.dataset import collate
from plurimask.instances import Instances
from plurimask.networks.latent import Gaussian, GaussianEncoder, Mixer, levels_with_gradient
from plurimask.posteriors.seeds import normal
from plurimask.posteriors.weights import squared_norm
from plurimask.protocols import Context, Features, Method, Network, NetworkFactory, Outputs, Posterior


class ProbabilisticUNet(Posterior):
    """A network whose decoder maps are mixed with a latent vector of the whole image.

    A *prior* net guesses the Gaussian of the vector from the image; a *posterior* net sees the truth as well
    (:meth:`plurimask.protocols.Method.condition`) and is used in training only. The loss is the head's, with a vector
    drawn from the posterior net's Gaussian q, plus ``beta KL(q || p)``, where p is the prior net's (Kohl et al., Eq. 4;
    the code of Czolbe et al. 2021 has the arguments exchanged).

    Several draws share the backbone, which is asked once. Every decoder level that the head reads is mixed.

    Args:
        network: makes the network.
        latent: dimensions of the vector.
        beta: weight of the divergence, beside losses that are means over pixels (Czolbe et al.: 5e-4; beside a sum, as
            in Kohl et al., the same is beta times the number of pixels).
        layers: 1 x 1 convolutions that mix the vector in, at every level (Kohl et al.: 3). Beside a head that is light
            they are what a draw costs, hence one: on a CPU, 16 draws then take about two passes of the usual network.
        width: filters of the prior and the posterior net at their finest level.
        depth: levels of these two.
        weight_decay: weight of the squared norm of all kernels in the loss.
    """

    def __init__(
        self,
        network: NetworkFactory,
        *,
        latent: int = 6,
        beta: float = 5e-4,
        layers: int = 1,
        width: int = 16,
        depth: int = 4,
        weight_decay: float = 1e-6,
    ) -> None:
        super().__init__()
        self.latent, self.beta, self.weight_decay = latent, beta, weight_decay
        self.layers, self.width, self.depth = layers, width, depth
        self.network = network()
        backbone, ndim = self.network.backbone, self.network.backbone.ndim
        known = condition_channels(self.network.head.method, ndim)
        self.prior, self.posterior = (
            GaussianEncoder(channels, ndim=ndim, dimensions=latent, width=width, depth=depth)
            for channels in (backbone.in_channels, backbone.in_channels + known)
        )
        self.levels = levels_read(self.network)
        self.mixers = nn.ModuleList(
            Mixer(backbone.channels[level], ndim=ndim, dimensions=latent, layers=layers) for level in self.levels
        )

    def losses(self, image: Tensor, targets: Outputs) -> dict[str, Tensor]:
        truth = self.network.head.method.condition(targets).to(image)
        prior, posterior = self.prior(image), self.posterior(torch.cat([image, truth], dim=1))
        vector = posterior.point(torch.randn_like(posterior.mean))
        features = self.network.backbone(image)
        outputs = self.network.head(self._mixed(features, vector))
        own = {
            "kl": self.beta * posterior.divergence(prior).mean(),
            "weights": self.weight_decay * squared_norm(self),
        }
        return {**self.network.head.loss(outputs, targets), **own}

    def context(self, image: Tensor) -> Context:
        """``mean`` and ``log_sigma`` ``(1, latent)`` of the prior."""
        prior = self.prior(image)
        return {"mean": prior.mean, "log_sigma": prior.log_sigma}

    def draws(self, window: Tensor, seeds: Sequence[int], *, context: Context) -> Iterator[Outputs]:
        prior = Gaussian(context["mean"], context["log_sigma"])
        features = self.network.backbone(window)
        for seed in seeds:
            vector = prior.point(normal(seed, 0, self.latent).to(prior.mean))
            yield self.network.head(self._mixed(features, vector))

    def _mixed(self, features: Features, vector: Tensor) -> Features:
        decoder = list(features.decoder)
        for level, mixer in zip(self.levels, self.mixers, strict=True):
            decoder[level] = mixer(decoder[level], vector)
        return replace(features, decoder=tuple(decoder))


def condition_channels(method: Method, ndim: int) -> int:
    """How many channels of the truth a method shows."""
    nothing = Instances.empty((16,) * ndim)
    targets = collate([method.targets(nothing, np.random.default_rng(0))], method.ragged)
    return method.condition(targets).shape[1]


def levels_read(network: Network) -> tuple[int, ...]:
    """The decoder levels that a head makes its outputs of, found by asking a copy of it for gradients."""
    copied = copy.deepcopy(network)
    sides = (network.backbone.strides[-1],) * network.backbone.ndim
    with torch.enable_grad():
        features = copied.backbone(torch.zeros(2, network.backbone.in_channels, *sides))
        outputs = copied.head(features)
        return levels_with_gradient(outputs.values(), features.decoder)
