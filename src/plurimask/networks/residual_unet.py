"""The U-Net of U22: a ResNeXt encoder, pyramid pooling, residual decoder levels (docs/algorithms.md 4.1).

The encoder's trunk is that of Xie et al. 2017 (*Aggregated Residual Transformations for Deep Neural Networks*) as it is
usually built: 7 x 7 convolution with stride 2, maximum of 3 x 3 points with stride 2, four stages of bottleneck blocks,
batch normalisation, ReLU. Weights begin at random (He et al. 2015).

Departures from U22's released code, which has no map at the resolution of the image (its finest level, 64 channels with
stride 2, is interpolated):

* one thin level of stride 1 is put before the trunk; it reads the image, as the trunk does,
* pyramid pooling (Zhao et al. 2017) means over a whole crop there, by a grid of 1, 2, 3 and 6 bins a side. What a point
  says would depend on where a window ends. Here they are moving means over squares of a fixed size, so that the network
  stays equivariant to shifts by its coarsest stride,
* the decoder's normalisation is the encoder's, unless it is asked for: see ``norm``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from plurimask.networks.unet import CONVOLUTIONS, crop_levels, initialise, pad_to_multiple
from plurimask.protocols import Backbone, Features, Slot

BLOCKS = {14: (1, 1, 1, 1), 26: (2, 2, 2, 2), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
"""Depth -> blocks of each stage; a block has three layers, and there are two besides (the stem, and a classifier)."""

EXPANSION = 4
"""Channels behind a stage's blocks, as a multiple of its width."""

FIRST_STAGE = 2
"""Level of the encoder that it makes, behind both stems."""

GROUPS = 32
"""Of group normalisation; fewer where there are few channels."""

Norm = Literal["batch", "group"]


@dataclass(frozen=True)
class Shared:
    """What no filled slot has touched: the image, the first maps of the encoder, what the decoder reads of them."""

    image: Tensor
    encoder: tuple[Tensor, ...]
    skips: tuple[tuple[Tensor, Tensor], ...]


class ResidualUNet(Backbone):
    """U-Net with a ResNeXt encoder and slots for dropout; levels of strides 1, 2, 4, 8, 16 and 32.

    A slot sits at the input of every layer but those that read the image, those by which the decoder reads the encoder,
    and those that narrow a map before it goes up: as in :class:`plurimask.networks.unet.UNet`.

    Any image size will do: images are padded by reflection to a multiple of 32, maps cut back. (In training a batch has
    to have more than one point at the coarsest level: two crops, or one of more than 32 pixels a side.)

    The network is equivariant to shifts by 32 pixels, but it sees far, at U22's depth over 800 pixels to every side.
    With the usual halos a window therefore shows nearly what the whole image shows, not exactly: what is far weighs
    little.

    Args:
        in_channels: channels of the image.
        ndim: number of spatial axes, 2 or 3.
        depth: layers of the encoder: 14, 26, 50 or 101 (U22).
        width: channels behind the stem; U22: 64. The levels have half of it, once, 4, 8, 16 and 32 times as many.
        cardinality: groups of a block's 3 x 3 convolution; U22: 32.
        group_width: channels of a group in the first stage, doubled at each further one; U22: 8.
        pools: sides of the squares whose means the pyramid sees, in points of the coarsest level, odd. The default is
            what 1, 2, 3 and 6 bins are in U22's crops of 512 pixels, 16 points: 16, 8, 5.3 and 2.7.
        norm: of the decoder. "batch" uses the statistics of the training in prediction. "group" (U22) those of the
            image or window at hand, so that what a point says depends on all of it: in windows other objects may be
            found than in the whole.

    Raises:
        ValueError: no such depth or number of axes, a width that is odd, or pools that are not odd.
    """

    def __init__(
        self,
        in_channels: int = 1,
        *,
        ndim: int = 2,
        depth: int = 101,
        width: int = 64,
        cardinality: int = 32,
        group_width: int = 8,
        pools: tuple[int, ...] = (15, 7, 5, 3),
        norm: Norm = "batch",
    ) -> None:
        super().__init__()
        if ndim not in CONVOLUTIONS or depth not in BLOCKS or norm not in ("batch", "group"):
            raise ValueError(
                f"ndim = {ndim}, depth = {depth}, norm = {norm!r}: a residual U-Net has 2 or 3 spatial axes, "
                f'{", ".join(map(str, BLOCKS))} layers, and the norm "batch" or "group".'
            )
        if width % 2 or width < 2 or not pools or any(side < 1 or side % 2 == 0 for side in pools):
            raise ValueError(
                f"width = {width} must be even, and pools = {pools} odd, each at least 1; give at least one."
            )
        self.in_channels, self.ndim, self.depth, self.width = in_channels, ndim, depth, width
        self.cardinality, self.group_width, self.pools, self.norm = cardinality, group_width, pools, norm
        stages = tuple(EXPANSION * width * 2**stage for stage in range(len(BLOCKS[depth])))
        self.channels = (width // 2, width, *stages)
        self.strides = tuple(2**level for level in range(len(self.channels)))
        self.encoder = self._encoder(stages)
        self.decoder = nn.ModuleList(
            DecoderLevel(coarse, fine, level=level, ndim=ndim, norm=norm, doubled=level < len(stages) + 1)
            for level, (fine, coarse) in enumerate(
                zip(self.channels, [*self.channels[1:], len(pools) * width], strict=True)
            )
        )
        initialise(self)

    def _encoder(self, stages: Sequence[int]) -> nn.ModuleList:
        """The maps of strides 1, 2, 4, ..., and the pyramid."""
        ndim, width = self.ndim, self.width
        encoder: list[nn.Module] = [
            Stem(self.in_channels, width // 2, kernel=3, stride=1, ndim=ndim),
            Stem(self.in_channels, width, kernel=7, stride=2, ndim=ndim),
        ]
        for stage, (coming, going) in enumerate(zip([width, *stages], stages, strict=False)):
            inner = self.cardinality * self.group_width * 2**stage
            encoder.append(
                Stage(
                    coming,
                    going,
                    blocks=BLOCKS[self.depth][stage],
                    inner=inner,
                    groups=self.cardinality,
                    level=stage + FIRST_STAGE,
                    ndim=ndim,
                )
            )
        encoder.append(Pyramid(stages[-1], width, pools=self.pools, level=len(stages) + 1, ndim=ndim))
        return nn.ModuleList(encoder)

    def slots(self) -> Sequence[tuple[Slot, Tensor]]:
        in_order = [*self.encoder, *reversed(self.decoder)]
        layers = [layer for part in in_order for layer in part.modules() if isinstance(layer, SlottedConvolution)]
        return [(layer.slot, layer.convolution.weight) for layer in layers]

    def shared(self, image: Tensor) -> Shared:
        padded = pad_to_multiple(image, self.strides[-1])
        encoder: list[Tensor] = []
        for part in self.encoder:
            if has_dropout(part):
                break
            encoder.append(part(padded if isinstance(part, Stem) else encoder[-1]))
        return Shared(image, tuple(encoder), tuple(self._skips(encoder, first=0)))

    def finish(self, shared: Shared) -> Features:
        encoder = list(shared.encoder)  # with both stems at least, which have no slot
        for part in list(self.encoder)[len(encoder) :]:
            encoder.append(part(encoder[-1]))
        skips = [*shared.skips, *self._skips(encoder, first=len(shared.skips))]
        *levels, pyramid = encoder
        decoder = [pyramid]
        for reader, skip in zip(reversed(self._readers()), reversed(skips), strict=True):
            decoder.insert(0, reader(skip, decoder[0]))
        spatial = shared.image.shape[2:]
        return Features(shared.image, crop_levels(levels, spatial), crop_levels(decoder[:-1], spatial))

    def _skips(self, encoder: Sequence[Tensor], *, first: int) -> list[tuple[Tensor, Tensor]]:
        """What the decoder reads of the encoder's maps, from level ``first`` on."""
        pairs = list(zip(self._readers(), encoder, strict=False))
        return [reader.read(features) for reader, features in pairs[first:]]

    def _readers(self) -> Sequence[DecoderLevel]:
        """The decoder, finest first, under its own type."""
        return cast("Sequence[DecoderLevel]", list(self.decoder))


class SlottedConvolution(nn.Module):
    """A slot, then a convolution without bias."""

    def __init__(self, convolution: nn.Conv2d | nn.Conv3d, *, level: int, name: str) -> None:
        super().__init__()
        self.slot = Slot(convolution.in_channels, level, name)
        self.convolution = convolution

    def forward(self, features: Tensor) -> Tensor:
        convolved: Tensor = self.convolution(self.slot(features))
        return convolved


class Stem(nn.Module):
    """A convolution that reads the image, normalisation, ReLU. The image itself is never dropped."""

    def __init__(self, channels: int, filters: int, *, kernel: int, stride: int, ndim: int) -> None:
        super().__init__()
        self.convolution = convolution(channels, filters, kernel, stride=stride, ndim=ndim)
        self.norm = normalisation(filters, norm="batch", ndim=ndim)

    def forward(self, image: Tensor) -> Tensor:
        return torch.relu(self.norm(self.convolution(image)))


class Stage(nn.Module):
    """Halves the map, at the first stage by the largest of 3 points a side, later by its first block; then blocks."""

    def __init__(
        self, channels: int, filters: int, *, blocks: int, inner: int, groups: int, level: int, ndim: int
    ) -> None:
        super().__init__()
        self.ndim, self.pool = ndim, level == FIRST_STAGE
        self.blocks = nn.Sequential(
            *(
                Bottleneck(
                    filters if number else channels,
                    filters,
                    inner=inner,
                    groups=groups,
                    stride=1 if number or self.pool else 2,
                    level=level,
                    name=f"encoder.{level}.{number}",
                    ndim=ndim,
                )
                for number in range(blocks)
            )
        )

    def forward(self, features: Tensor) -> Tensor:
        if self.pool:
            largest = functional.max_pool2d if self.ndim == 2 else functional.max_pool3d
            features = largest(features, 3, stride=2, padding=1)
        mapped: Tensor = self.blocks(features)
        return mapped


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3 in groups, 1 x 1, added to the input; this is projected where its shape is another (He et al. 2015).

    ``inner`` channels lie between the convolutions; the one in groups has the stride.
    """

    def __init__(
        self, channels: int, filters: int, *, inner: int, groups: int, stride: int, level: int, name: str, ndim: int
    ) -> None:
        super().__init__()
        layers = (
            convolution(channels, inner, 1, ndim=ndim),
            convolution(inner, inner, 3, stride=stride, groups=groups, ndim=ndim),
            convolution(inner, filters, 1, ndim=ndim),
        )
        self.branch = nn.ModuleList(
            SlottedConvolution(layer, level=level, name=f"{name}.{number}") for number, layer in enumerate(layers)
        )
        self.norms = nn.ModuleList(normalisation(layer.out_channels, norm="batch", ndim=ndim) for layer in layers)
        self.shortcut: nn.Module = nn.Identity()
        if channels != filters or stride != 1:
            projection = convolution(channels, filters, 1, stride=stride, ndim=ndim)
            self.shortcut = nn.Sequential(
                SlottedConvolution(projection, level=level, name=f"{name}.shortcut"),
                normalisation(filters, norm="batch", ndim=ndim),
            )

    def forward(self, features: Tensor) -> Tensor:
        branch = features
        for number, (layer, norm) in enumerate(zip(self.branch, self.norms, strict=True)):
            branch = norm(layer(torch.relu(branch) if number else branch))
        return torch.relu(self.shortcut(features) + branch)


class Pyramid(nn.Module):
    """Beside each other: what 1 x 1 convolutions see of the means over squares of several sizes about every point.

    The mean is taken behind the convolution: it is the same, and cheaper. Outside the map there is nothing to take.
    """

    def __init__(self, channels: int, filters: int, *, pools: Sequence[int], level: int, ndim: int) -> None:
        super().__init__()
        self.pools = pools
        self.layers = nn.ModuleList(
            SlottedConvolution(
                convolution(channels, filters, 1, ndim=ndim), level=level, name=f"encoder.{level}.pool.{side}"
            )
            for side in pools
        )
        self.norms = nn.ModuleList(normalisation(filters, norm="batch", ndim=ndim) for _ in pools)

    def forward(self, features: Tensor) -> Tensor:
        pooled = [moving_mean(layer(features), side) for layer, side in zip(self.layers, self.pools, strict=True)]
        return torch.relu(torch.cat([norm(one) for norm, one in zip(self.norms, pooled, strict=True)], 1))


class DecoderLevel(nn.Module):
    """A residual block over the skip and what comes from below, this doubled: two 3 x 3 convolutions, and a projection.

    Convolutions over both are written as the sum of two, so that several draws can share the half that reads the skip.
    """

    def __init__(self, coarse: int, fine: int, *, level: int, ndim: int, norm: Norm, doubled: bool) -> None:
        super().__init__()
        self.doubled, name, coming = doubled, f"decoder.{level}", min(coarse, fine)
        self.narrow = convolution(coarse, fine, 1, ndim=ndim) if coarse > fine else nn.Identity()
        self.skip = convolution(fine, fine, 3, ndim=ndim)
        self.skip_shortcut = convolution(fine, fine, 1, ndim=ndim)
        self.up = SlottedConvolution(convolution(coming, fine, 3, ndim=ndim), level=level, name=f"{name}.0")
        self.second = SlottedConvolution(convolution(fine, fine, 3, ndim=ndim), level=level, name=f"{name}.1")
        projection = convolution(coming, fine, 1, ndim=ndim)
        self.up_shortcut = SlottedConvolution(projection, level=level, name=f"{name}.shortcut")
        self.norms = nn.ModuleList(normalisation(fine, norm=norm, ndim=ndim) for _ in range(3))

    def read(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """The skip's half of both convolutions over the concatenation."""
        return self.skip(features), self.skip_shortcut(features)

    def forward(self, skip: tuple[Tensor, Tensor], below: Tensor) -> Tensor:
        up = self.narrow(below)
        if self.doubled:
            up = functional.interpolate(up, scale_factor=2.0, mode="nearest")
        first, second, shortcut = self.norms
        branch = functional.leaky_relu(first(skip[0] + self.up(up)))
        return functional.leaky_relu(second(self.second(branch)) + shortcut(skip[1] + self.up_shortcut(up)))


def moving_mean(features: Tensor, side: int) -> Tensor:
    """Means over squares or cubes of an odd ``side`` about every point; over what of them lies within the map.

    Axis by axis, which is the same (the part within is a box), costs less, and works on maps smaller than the side.
    """
    for axis in range(2, features.ndim):
        moved = features.movedim(axis, -1)
        rows = moved.flatten(0, -2)
        means = functional.avg_pool1d(rows, side, stride=1, padding=side // 2, count_include_pad=False)
        features = means.reshape(moved.shape).movedim(-1, axis)
    return features


def has_dropout(part: nn.Module) -> bool:
    """Whether any of its slots is filled."""
    return any(slot.dropout is not None for slot in part.modules() if isinstance(slot, Slot))


def convolution(
    channels: int, filters: int, kernel: int, *, ndim: int, stride: int = 1, groups: int = 1
) -> nn.Conv2d | nn.Conv3d:
    """Same padding (of a map of even size, where the stride is 2), no bias: normalisation follows."""
    return CONVOLUTIONS[ndim](channels, filters, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=False)


def normalisation(channels: int, *, norm: Norm, ndim: int) -> nn.Module:
    """Batch normalisation, or that of ``GROUPS`` groups; of fewer where a group would have less than two channels."""
    if norm == "batch":
        return nn.BatchNorm2d(channels) if ndim == 2 else nn.BatchNorm3d(channels)
    return nn.GroupNorm(min(math.gcd(GROUPS, channels), max(1, channels // 2)), channels)
