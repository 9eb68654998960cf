"""Intensities to a common range, from percentiles of the whole image."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

EIGHT_BIT = 255
"""Largest value of an 8-bit image."""

UNIT = 2.0
"""A real-valued image that stays below is one of about 0 to 1, its range stretched or not."""

GAMMA, SPREAD = 0.6, 17.0
"""U22: exponent for a black image, and grey values per radian of the cosine by which it rises to 1."""


class Intensities(ABC):
    """What is done to the intensities of an image, once and before it is cut into windows.

    (No dataclass: so the command line takes a class derived from :class:`Normalisation` where it wants one.)
    """

    @abstractmethod
    def __call__(self, image: NDArray[Any]) -> NDArray[np.float32]:
        """image: ``(C, *spatial)``, any numeric dtype -> float32, of the same shape but for :meth:`channels`."""

    def channels(self, count: int) -> int:
        """How many channels an image of ``count`` channels has afterwards; usually as many."""
        return count

    def renewed(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """An image that was normalised and has been changed since, as if the change had come first; of the same shape.

        By default as it is: to normalise it once more, as a raw image, need not be right.
        """
        return image


@dataclass(frozen=True)
class Normalisation(Intensities):
    """Linear, channel by channel: percentile ``low`` becomes 0, percentile ``high`` becomes 1; no clipping.

    The defaults are StarDist's. Where the two percentiles coincide (a few bright objects on a ground without noise),
    the channel's extremes take their place. A constant channel becomes 0 everywhere.

    Attributes:
        low: percentile that becomes 0.
        high: percentile that becomes 1.
    """

    low: float = 1.0
    high: float = 99.8

    def __call__(self, image: NDArray[Any]) -> NDArray[np.float32]:
        """image: ``(C, *spatial)`` -> float32 of the same shape."""
        axes = tuple(range(1, image.ndim))
        image = _real(image)
        low, high = np.percentile(image, [self.low, self.high], axis=axes, keepdims=True)
        flat = high <= low
        low = np.where(flat, image.min(axes, keepdims=True), low)
        high = np.where(flat, image.max(axes, keepdims=True), high)
        span = np.where(high > low, high - low, np.inf)
        normalised: NDArray[np.float32] = ((image - low) / span).astype(np.float32)
        return normalised

    def renewed(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """Normalised again: all that was done before was a gain and an offset, which make no difference."""
        return self(image)


@dataclass(frozen=True)
class MixedNormalisation(Normalisation):
    """That of U22 for images from all kinds of microscopes (docs/algorithms.md 4.7), to [0, 1].

    (a) :func:`stretched` between the percentiles ``low`` and ``high`` of every channel, zeros left out.
    (b) All channels alike: 8-bit values over 255; others linear between the percentiles ``100 - top`` and ``top``,
    clipped; then, where the mean m is below 17 pi of 255, to the power of ``0.6 + 0.4 (1 - (cos(m / 17) + 1) / 2)``.

    The image is (b), but (a) where three channels are red, green and blue, and the blue is bright (mean above 200 of
    255) and flat (standard deviation below 20); of other images that stay dark in (b) (mean below 45) and flat (below
    33) it is the mean of (a) and (b).

    Departures from U22's code: values are not rounded to 8 bits; "blue" is that of (b), which is the image itself where
    this has 8 bits; real values are taken for 8-bit ones if their largest lies between 2 and 255, not if it lies below
    (images between 0 and 1 would become black); where percentiles coincide the extremes take their place; the mean and
    standard deviation of ImageNet are not applied.

    Attributes:
        low: percentile that becomes 0 in (a).
        high: percentile that becomes 1 in (a).
        top: percentile that becomes 1 in (b), for integers of more than 8 bits.
        top_real: the same for real values.
        colours: repeat the one channel of a grey image, so that it has three as others have.
    """

    low: float = 1.0
    high: float = 99.0
    top: float = 99.88
    top_real: float = 99.95
    colours: bool = True

    def __call__(self, image: NDArray[Any]) -> NDArray[np.float32]:
        """image: ``(C, *spatial)`` -> float32 of the same shape; of one channel ``(3, *spatial)`` if ``colours``."""
        image = np.asarray(image)
        mixed = self._brightened(image)
        share = self._share(mixed)
        if share:
            mixed = share * stretched(image, low=self.low, high=self.high) + (1 - share) * mixed
        return np.repeat(mixed, self.channels(len(mixed)) // len(mixed), axis=0).astype(np.float32)

    def channels(self, count: int) -> int:
        return 3 if self.colours and count == 1 else count

    def renewed(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """Clipped to [0, 1], where all its images lie. Their brightness differs, so that a change of it stays."""
        return np.clip(image, 0, 1)

    def _brightened(self, image: NDArray[Any]) -> NDArray[np.floating[Any]]:
        """(b) of the docstring."""
        real = np.issubdtype(image.dtype, np.floating)
        values = _real(image)
        if image.dtype == np.uint8 or (real and UNIT < image.max() <= EIGHT_BIT):
            values = np.clip(values / EIGHT_BIT, 0, 1)
        else:
            top = self.top_real if real else self.top
            values = _between(values, *np.percentile(values, [100 - top, top]))
        mean = EIGHT_BIT * float(values.mean(dtype=np.float64))
        if mean < np.pi * SPREAD:
            values = values ** (GAMMA + (1 - GAMMA) * (1 - (math.cos(mean / SPREAD) + 1) / 2))
        return values

    @staticmethod
    def _share(brightened: NDArray[np.floating[Any]]) -> float:
        """Of (a); U22's "cstm-mix"."""
        if len(brightened) == 3:
            blue = EIGHT_BIT * brightened[2]
            return 1.0 if blue.mean() > 200 and blue.std() < 20 else 0.0
        values = EIGHT_BIT * brightened
        return 0.5 if values.mean() < 45 and values.std() < 33 else 0.0


def stretched(image: NDArray[Any], *, low: float, high: float) -> NDArray[np.float32]:
    """Linear, channel by channel, and clipped to [0, 1]: two percentiles of the values that are not 0 become 0 and 1.

    Where they coincide, the channel's extremes take their place. A constant channel becomes 0. image:
    ``(C, *spatial)``.
    """
    channels = list(_real(image))
    ends = [np.percentile(channel[channel != 0], [low, high]) if channel.any() else (0, 0) for channel in channels]
    return np.stack([_between(channel, *end) for channel, end in zip(channels, ends, strict=True)]).astype(np.float32)


def _real(image: NDArray[Any]) -> NDArray[np.floating[Any]]:
    """As float32 or more: bool and float16 have no percentiles to trust."""
    return np.asarray(image, np.result_type(image, np.float32))


def _between(values: NDArray[np.floating[Any]], low: float, high: float) -> NDArray[np.floating[Any]]:
    """Clipped to [low, high], which become 0 and 1; between the extremes if that is a single value."""
    if high <= low:
        low, high = values.min(), values.max()
    clipped: NDArray[np.floating[Any]] = np.clip((values - low) / (high - low if high > low else np.inf), 0, 1)
    return clipped
