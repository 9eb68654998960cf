"""The U-Net of R20, over any number of spatial axes (docs/algorithms.md, "Network and training").

Five levels, 3 x 3 convolutions with ReLU and same padding, 19 filters at the finest level and twice as many at each
deeper one. Two liberties that the paper leaves open: maps go up by a 1 x 1 convolution and nearest-neighbour
resizing, and the convolution over ``concat(skip, up)`` is written as the sum of two convolutions, which is the same
function but lets several draws share the half that reads the skip.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from plurimask.protocols import Backbone, Features, Slot

CONVOLUTIONS: dict[int, type[nn.Conv2d] | type[nn.Conv3d]] = {2: nn.Conv2d, 3: nn.Conv3d}


@dataclass(frozen=True)
class Shared:
    """What no filled slot has touched: the image, the first encoder levels, what the decoder reads of them."""

    image: Tensor
    encoder: tuple[Tensor, ...]
    skips: tuple[Tensor, ...]


class UNet(Backbone):
    """U-Net with slots for dropout.

    Args:
        in_channels: channels of the image.
        ndim: number of spatial axes, 2 or 3.
        width: filters at the finest level; doubled at each deeper one.
        depth: number of levels.

    Any image size will do: images are padded by reflection to a multiple of the coarsest stride, maps cut back.
    """

    def __init__(self, in_channels: int = 1, *, ndim: int = 2, width: int = 19, depth: int = 5) -> None:
        super().__init__()
        if ndim not in CONVOLUTIONS:
            raise ValueError(f"a U-Net has 2 or 3 spatial axes, not {ndim}.")
        self.in_channels, self.ndim, self.width, self.depth = in_channels, ndim, width, depth
        self.channels = tuple(width * 2**level for level in range(depth))
        self.strides = tuple(2**level for level in range(depth))
        self.encoder = nn.ModuleList(
            EncoderLevel(self.channels[level - 1] if level else in_channels, filters, level=level, ndim=ndim)
            for level, filters in enumerate(self.channels)
        )
        self.decoder = nn.ModuleList(
            DecoderLevel(coarse, fine, level=level, ndim=ndim)
            for level, (fine, coarse) in enumerate(zip(self.channels, self.channels[1:], strict=False))
        )
        initialise(self)

    def slots(self) -> Sequence[tuple[Slot, Tensor]]:
        in_order = [*self.encoder, *reversed(self.decoder)]
        layers = [layer for level in in_order for layer in level.modules() if isinstance(layer, SlottedConvolution)]
        return [(layer.slot, layer.weight) for layer in layers]

    def shared(self, image: Tensor) -> Shared:
        features, encoder, skips = pad_to_multiple(image, self.strides[-1]), [], []
        levels, readers = self._levels()
        for level, block in enumerate(levels):
            if block.has_dropout():
                break
            features = block(features)
            encoder.append(features)
            if level < len(readers):
                skips.append(readers[level].skip(features))
        return Shared(image, tuple(encoder), tuple(skips))

    def finish(self, shared: Shared) -> Features:
        encoder, skips = list(shared.encoder), list(shared.skips)
        levels, readers = self._levels()
        for level in range(len(encoder), self.depth):
            below = encoder[-1] if encoder else pad_to_multiple(shared.image, self.strides[-1])
            encoder.append(levels[level](below))
            if level < len(readers):
                skips.append(readers[level].skip(encoder[-1]))
        decoder = [encoder[-1]]
        for level in reversed(range(len(readers))):
            decoder.insert(0, readers[level](skips[level], decoder[0]))
        spatial = shared.image.shape[2:]
        return Features(shared.image, crop_levels(encoder, spatial), crop_levels(decoder, spatial))

    def _levels(self) -> tuple[Sequence[EncoderLevel], Sequence[DecoderLevel]]:
        """Both halves, finest first, under their own types."""
        return cast("Sequence[EncoderLevel]", self.encoder), cast("Sequence[DecoderLevel]", self.decoder)


class SlottedConvolution(nn.Module):
    """A slot, then a convolution with same padding."""

    def __init__(self, channels: int, filters: int, *, level: int, name: str, ndim: int) -> None:
        super().__init__()
        self.slot = Slot(channels, level, name)
        self.convolution = CONVOLUTIONS[ndim](channels, filters, 3, padding=1)

    @property
    def weight(self) -> Tensor:
        return self.convolution.weight

    def forward(self, features: Tensor) -> Tensor:
        convolved: Tensor = self.convolution(self.slot(features))
        return convolved


class EncoderLevel(nn.Module):
    """Halve (but at the finest level), then two convolutions. The image itself is never dropped."""

    def __init__(self, channels: int, filters: int, *, level: int, ndim: int) -> None:
        super().__init__()
        self.level, self.ndim = level, ndim
        convolution = CONVOLUTIONS[ndim]
        name = f"encoder.{level}"
        self.first: nn.Module = (
            SlottedConvolution(channels, filters, level=level, name=f"{name}.0", ndim=ndim)
            if level
            else convolution(channels, filters, 3, padding=1)
        )
        self.second = SlottedConvolution(filters, filters, level=level, name=f"{name}.1", ndim=ndim)

    def has_dropout(self) -> bool:
        return any(slot.dropout is not None for slot in self.modules() if isinstance(slot, Slot))

    def forward(self, features: Tensor) -> Tensor:
        if self.level:
            features = pool(features, self.ndim)
        return torch.relu(self.second(torch.relu(self.first(features))))


class DecoderLevel(nn.Module):
    """Double, join with the skip, then two convolutions."""

    def __init__(self, coarse: int, fine: int, *, level: int, ndim: int) -> None:
        super().__init__()
        convolution = CONVOLUTIONS[ndim]
        name = f"decoder.{level}"
        self.narrow = convolution(coarse, fine, 1)
        self.skip = convolution(fine, fine, 3, padding=1, bias=False)
        self.up = SlottedConvolution(fine, fine, level=level, name=f"{name}.0", ndim=ndim)
        self.second = SlottedConvolution(fine, fine, level=level, name=f"{name}.1", ndim=ndim)

    def forward(self, skip: Tensor, below: Tensor) -> Tensor:
        up = functional.interpolate(self.narrow(below), scale_factor=2.0, mode="nearest")
        return torch.relu(self.second(torch.relu(skip + self.up(up))))


def finest_channels(backbone: Backbone, levels: int) -> tuple[int, ...]:
    """Channels of the finest decoder levels, as many as a head reads.

    Raises:
        ValueError: none, or more than the backbone has.
    """
    there = len(backbone.channels)
    if not 1 <= levels <= there:
        raise ValueError(
            f"levels is {levels}, but the backbone has {there} decoder level{'s' * (there > 1)} to read; give 1 to "
            f"{there}, or a deeper backbone."
        )
    return tuple(backbone.channels[:levels])


def pool(features: Tensor, ndim: int) -> Tensor:
    """The largest of every 2 points along each spatial axis."""
    return functional.max_pool2d(features, 2) if ndim == 2 else functional.max_pool3d(features, 2)


def pad_to_multiple(image: Tensor, multiple: int) -> Tensor:
    """Pads the end of every spatial axis, by reflection where the image is large enough, else by its edge."""
    missing = [-size % multiple for size in image.shape[2:]]
    if not any(missing):
        return image
    widths = [width for size in reversed(missing) for width in (0, size)]
    fits = all(size > width for size, width in zip(image.shape[2:], missing, strict=True))
    return functional.pad(image, widths, mode="reflect" if fits else "replicate")


def crop_levels(levels: Sequence[Tensor], spatial: Sequence[int]) -> tuple[Tensor, ...]:
    """Cuts the padding off: level l keeps ``ceil(size / 2**l)``."""
    return tuple(leading(features, [-(-size // 2**level) for size in spatial]) for level, features in enumerate(levels))


def leading(features: Tensor, sizes: Sequence[int]) -> Tensor:
    """``(B, C, *spatial)`` -> ``(B, C, *sizes)``: the first points of every spatial axis."""
    for axis, size in enumerate(sizes, start=2):
        features = features.narrow(axis, 0, size)
    return features


def initialise(module: nn.Module) -> None:
    """He et al. 2015 for layers followed by ReLU; biases 0.

    The two halves of a decoder level's first convolution are one layer of twice the inputs; ``narrow`` has no ReLU.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Conv3d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    with torch.no_grad():
        for level in module.modules():
            if isinstance(level, DecoderLevel):
                for weight in (level.skip.weight, level.up.weight, level.narrow.weight):
                    weight.mul_(0.5**0.5)
