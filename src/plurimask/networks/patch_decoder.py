"""Small networks between patches and codes, and what they read of a backbone at single pixels.

Mais, Hirsch, Kainmueller 2020 (*PatchPerPix for Instance Segmentation*) predict a code at every pixel and decode it to
the shape of the object around the pixel; docs/algorithms.md, "ppp+dec network". Everything here works on N pixels, not
on maps: in training a thousand pixels of a crop are looked at, in prediction those of the foreground.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from plurimask.networks.unet import CONVOLUTIONS, finest_channels, initialise, pool
from plurimask.protocols import Backbone, Features, Outputs


@dataclass(frozen=True)
class PatchShape:
    """The sizes of patches and codes, and how one becomes the other.

    Attributes:
        sides: of a patch in pixels, one per axis.
        code: numbers per code.
        widths: of the layers between code and patch, the one behind the code first. Convolutional: filters after each
            doubling but the last one, so ``len(widths) + 1`` doublings.
        convolutional: the paper's form, a code as a small image that is doubled and convolved; otherwise linear layers
            with ReLU, which processors are much faster in.

    Raises:
        ValueError: the convolutional form, and a code that is no whole number of small images.
    """

    sides: tuple[int, ...]
    code: int
    widths: tuple[int, ...]
    convolutional: bool

    def __post_init__(self) -> None:
        if self.convolutional and self.code % math.prod(self.grid):
            raise ValueError(
                f"a code of {self.code} numbers is no whole number of images of {self.grid} points, what a patch of "
                f"{self.sides} pixels is after {len(self.widths) + 1} halvings; give a multiple of "
                f"{math.prod(self.grid)}."
            )

    @property
    def pixels(self) -> int:
        """P, the number of pixels of a patch."""
        return math.prod(self.sides)

    @property
    def grid(self) -> tuple[int, ...]:
        """Sides of the small image that a code is, for the convolutional form."""
        return tuple(-(-side // 2 ** (len(self.widths) + 1)) for side in self.sides)

    def decoder(self) -> nn.Module:
        """``(..., code)`` -> ``(..., P)`` logits, row-major. Codes are best centred at 0."""
        return PatchDecoder(self) if self.convolutional else _perceptron([self.code, *self.widths, self.pixels])

    def encoder(self, channels: int) -> nn.Module:
        """``(N, channels, *sides)`` -> ``(N, code)``, by the mirror image of the decoder."""
        if self.convolutional:
            return PatchEncoder(self, channels)
        sizes = [channels * self.pixels, *reversed(self.widths), self.code]
        return nn.Sequential(nn.Flatten(1), *_perceptron(sizes))


class PatchDecoder(nn.Module):
    """Doubles a small image (nearest neighbour) and convolves it twice, until it is at least a patch.

    The paper's: after the last doubling one channel and no ReLU. Departure: the middle of the last image is the patch,
    not its first rows and columns.
    """

    def __init__(self, shape: PatchShape) -> None:
        super().__init__()
        self.shape = shape
        ndim = len(shape.sides)
        filters = [shape.code // math.prod(shape.grid), *shape.widths, 1]
        self.first = nn.ModuleList(CONVOLUTIONS[ndim](coarse, fine, 3, padding=1) for coarse, fine in pairwise(filters))
        self.second = nn.ModuleList(CONVOLUTIONS[ndim](fine, fine, 3, padding=1) for fine in filters[1:])
        initialise(self)

    def forward(self, codes: Tensor) -> Tensor:
        features = codes.reshape(-1, codes.shape[-1] // math.prod(self.shape.grid), *self.shape.grid)
        for number, (first, second) in enumerate(zip(self.first, self.second, strict=True), start=1):
            features = first(functional.interpolate(features, scale_factor=2.0, mode="nearest"))
            last = number == len(self.first)
            features = second(features if last else torch.relu(features))
            features = features if last else torch.relu(features)
        for axis, side in enumerate(self.shape.sides, start=2):
            features = features.narrow(axis, (features.shape[axis] - side) // 2, side)
        return features.reshape(*codes.shape[:-1], self.shape.pixels)


class PatchEncoder(nn.Module):
    """Two convolutions with ReLU, then the largest of every 2 points along each axis, until a patch is a code.

    The paper's: as many halvings as the decoder has doublings, the filters doubled at the last one.
    """

    def __init__(self, shape: PatchShape, channels: int) -> None:
        super().__init__()
        self.shape = shape
        convolution = CONVOLUTIONS[len(shape.sides)]
        filters = [channels, *reversed(shape.widths)]
        filters.append(2 * filters[-1] if shape.widths else 32)
        self.first = nn.ModuleList(convolution(fine, coarse, 3, padding=1) for fine, coarse in pairwise(filters))
        self.second = nn.ModuleList(convolution(coarse, coarse, 3, padding=1) for coarse in filters[1:])
        self.last = convolution(filters[-1], shape.code // math.prod(shape.grid), 1)
        initialise(self)

    def forward(self, patches: Tensor) -> Tensor:
        features, ndim = patches, len(self.shape.sides)
        for first, second in zip(self.first, self.second, strict=True):
            features = torch.relu(second(torch.relu(first(features))))
            odd = [width for size in reversed(features.shape[2:]) for width in (0, size % 2)]
            features = pool(functional.pad(features, odd), ndim)  # the features are not negative: 0 changes no maximum
        encoded: Tensor = self.last(features).flatten(1)
        return encoded


class LevelReader(nn.Module):
    """A linear map of the decoder's finest levels, at single pixels: a 1 x 1 convolution, computed only there.

    Coarse levels are interpolated. The paper reads the finest level alone, and gives it as many maps as the coarsest.
    """

    def __init__(self, backbone: Backbone, levels: int, outputs: int) -> None:
        super().__init__()
        self.strides = backbone.strides[:levels]
        self.linear = nn.Linear(sum(finest_channels(backbone, levels)), outputs)

    def seen(self, features: Features) -> dict[str, Tensor]:
        """What :meth:`forward` reads: ``level0``, ``level1``, ... ``(B, C_l, *spatial / 2**l)``."""
        return {f"level{level}": features.decoder[level] for level in range(len(self.strides))}

    def forward(self, seen: Outputs, points: Tensor) -> Tensor:
        """points: ``(B, K, D)`` pixels -> ``(B, K, outputs)``."""
        levels = [sampled(seen[f"level{level}"], points, stride) for level, stride in enumerate(self.strides)]
        read: Tensor = self.linear(torch.cat(levels, -1))
        return read


class WindowReader(nn.Module):
    """An encoder of the windows of the image around single pixels; of the backbone nothing is read (ed-ppp)."""

    def __init__(self, shape: PatchShape, channels: int) -> None:
        super().__init__()
        self.shape = shape
        self.encoder = shape.encoder(channels)

    def seen(self, features: Features) -> dict[str, Tensor]:
        """What :meth:`forward` reads: ``image`` ``(B, C, *spatial)``."""
        return {"image": features.image}

    def forward(self, seen: Mapping[str, Tensor], points: Tensor) -> Tensor:
        """points: ``(B, K, D)`` pixels -> ``(B, K, code)``."""
        windows = windows_at(seen["image"], points, self.shape.sides)
        codes: Tensor = self.encoder(windows.flatten(0, 1)).reshape(*points.shape[:2], self.shape.code)
        return codes


def sampled(features: Tensor, points: Tensor, stride: int) -> Tensor:
    """``(B, K, C)``: a map of one level, linear between its points, at pixels of the image.

    features: ``(B, C, *spatial)``, whose point i covers the pixels ``stride i`` to ``stride (i + 1) - 1``;
    points: ``(B, K, D)`` pixels.
    """
    sizes = torch.tensor(features.shape[2:], device=points.device)
    # From -1 to 1 between the outer borders of the first and the last point; the last axis comes first.
    places = ((2 * points + 1) / (stride * sizes) - 1).flip(-1)
    grid = places.reshape(len(points), *(1,) * (points.shape[-1] - 1), *points.shape[1:])
    found = functional.grid_sample(features.float(), grid, padding_mode="border", align_corners=False)
    return found.flatten(2).movedim(1, 2)


def windows_at(image: Tensor, points: Tensor, sides: Sequence[int]) -> Tensor:
    """``(B, K, C, *sides)``: the image around pixels, 0 outside it.

    image: ``(B, C, *spatial)``; points: ``(B, K, D)``.
    """
    padded = functional.pad(image, [side // 2 for side in reversed(sides) for _ in range(2)])
    steps = torch.tensor([math.prod(padded.shape[axis + 1 :]) for axis in range(2, padded.ndim)], device=points.device)
    window = torch.stack(torch.meshgrid(*(torch.arange(s, device=points.device) for s in sides), indexing="ij"), -1)
    index = (points * steps).sum(-1, keepdim=True) + (window * steps).sum(-1).flatten()
    flat = index.flatten(1)[:, None].expand(-1, image.shape[1], -1)
    gathered = padded.flatten(2).gather(2, flat)
    return gathered.reshape(*image.shape[:2], points.shape[1], *sides).movedim(1, 2)


def _perceptron(sizes: Sequence[int]) -> nn.Sequential:
    """Linear layers with ReLU between them, and weights after He et al. 2015."""
    layers: list[nn.Module] = []
    for before, after in pairwise(sizes):
        linear = nn.Linear(before, after)
        nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")
        nn.init.zeros_(linear.bias)
        layers += [nn.ReLU(), linear]
    return nn.Sequential(*layers[1:])
