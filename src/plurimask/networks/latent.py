"""Latent variables of a whole image: Gaussians that small networks predict, and what mixes them into feature maps.

After Kohl et al. 2018, *A Probabilistic U-Net for Segmentation of Ambiguous Images*; docs/algorithms.md,
"Probabilistic U-Net", says what each released implementation does.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from plurimask.networks.unet import CONVOLUTIONS, initialise

LOG_SIGMA = 10.0  # largest absolute value: a network that is still far off shall not overflow


@dataclass(frozen=True)
class Gaussian:
    """Independent normal distributions.

    Attributes:
        mean: ``(B, dimensions)``.
        log_sigma: ``(B, dimensions)``, natural logarithm of the standard deviation.
    """

    mean: Tensor
    log_sigma: Tensor

    def point(self, noise: Tensor) -> Tensor:
        """``mean + sigma noise``, ``(B, dimensions)``: a sample, if the noise is standard normal."""
        return self.mean + self.log_sigma.exp() * noise

    def divergence(self, other: Gaussian) -> Tensor:
        """``(B,)`` KL(self || other) in nats, the expectation under *self* of ``log self - log other``.

        ``sum_d [ log(s'/s) + (s^2 + (m - m')^2) / (2 s'^2) - 1/2 ]``, m' and s' being the other's.
        """
        ratio = (2 * (self.log_sigma - other.log_sigma)).exp()
        distance = (self.mean - other.mean).square() * (-2 * other.log_sigma).exp()
        return (other.log_sigma - self.log_sigma + (ratio + distance - 1) / 2).sum(1)


class GaussianEncoder(nn.Module):
    """An image (and what is known of its truth) -> a Gaussian; of any size, by a mean over all positions at the end.

    Levels of two 3 x 3 convolutions with ReLU, each after the first on a mean over 2 x 2 points and with twice as many
    filters. Computed in float32 from the mean on.

    Args:
        in_channels: channels that it sees.
        ndim: number of spatial axes.
        dimensions: of the Gaussian.
        width: filters at the finest level.
        depth: number of levels.
    """

    def __init__(self, in_channels: int, *, ndim: int, dimensions: int, width: int, depth: int) -> None:
        super().__init__()
        self.ndim = ndim
        filters = [width * 2**level for level in range(depth)]
        inputs = [in_channels, *filters]
        self.levels = nn.ModuleList(
            nn.Sequential(
                CONVOLUTIONS[ndim](coming, going, 3, padding=1),
                nn.ReLU(),
                CONVOLUTIONS[ndim](going, going, 3, padding=1),
                nn.ReLU(),
            )
            for coming, going in zip(inputs, filters, strict=False)
        )
        self.last = nn.Linear(filters[-1], 2 * dimensions)
        initialise(self)

    def forward(self, seen: Tensor) -> Gaussian:
        """seen: ``(B, in_channels, *spatial)``."""
        for number, level in enumerate(self.levels):
            seen = level(halved(seen) if number else seen)
        with torch.autocast(seen.device.type, enabled=False):
            mean, log_sigma = self.last(seen.float().mean(tuple(range(2, seen.ndim)))).chunk(2, dim=1)
        return Gaussian(mean, log_sigma.clamp(-LOG_SIGMA, LOG_SIGMA))


def halved(features: Tensor) -> Tensor:
    """Means over 2 points along each spatial axis; an odd last one stays as it is."""
    pool = functional.avg_pool2d if features.ndim == 4 else functional.avg_pool3d
    return pool(features, 2, ceil_mode=True, count_include_pad=False)


class Mixer(nn.Module):
    """Mixes one latent vector into a feature map, at every position alike: 1 x 1 convolutions with ReLU.

    The first of them reads the map *and* the vector, as if this had been repeated all over the map; what it makes of
    the vector is a bias then.

    Args:
        channels: of the map, before and after.
        ndim: number of spatial axes.
        dimensions: of the latent vector.
        layers: number of convolutions.
    """

    def __init__(self, channels: int, *, ndim: int, dimensions: int, layers: int) -> None:
        super().__init__()
        self.convolve = functional.conv2d if ndim == 2 else functional.conv3d
        convolution = CONVOLUTIONS[ndim]
        self.first = convolution(channels, channels, 1)
        self.vector = nn.Linear(dimensions, channels, bias=False)
        self.rest = nn.ModuleList(convolution(channels, channels, 1) for _ in range(layers - 1))
        initialise(self)
        nn.init.kaiming_normal_(self.vector.weight, nonlinearity="relu")
        with torch.no_grad():  # map and vector are the inputs of one layer
            self.first.weight.mul_(0.5**0.5)
            self.vector.weight.mul_(0.5**0.5)

    def forward(self, features: Tensor, latent: Tensor) -> Tensor:
        """``(B, channels, *spatial)``, mixed. features: of this shape; latent: ``(B, dimensions)``."""
        biases = self.first.bias + self.vector(latent)
        # Image by image: a bias costs nothing, while a sum of vector and map may take longer than a convolution.
        pairs = zip(torch.split(features, 1), biases, strict=True)
        images = [self.convolve(image, self.first.weight, bias) for image, bias in pairs]
        mixed = torch.relu(torch.cat(images) if len(images) > 1 else images[0])
        for layer in self.rest:
            mixed = torch.relu(layer(mixed))
        return mixed


def levels_with_gradient(outputs: Iterable[Tensor], levels: Sequence[Tensor]) -> tuple[int, ...]:
    """Indices of the maps that some output depends on."""
    total = torch.stack([output.float().sum() for output in outputs if output.requires_grad]).sum()
    gradients = torch.autograd.grad(total, levels, allow_unused=True)
    return tuple(index for index, gradient in enumerate(gradients) if gradient is not None)
