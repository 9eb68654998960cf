"""How unlike its training images an image looks to a model, without asking the network.

A network answers for every image, also for one that it cannot know. So the *looks* of the image, a dozen numbers per
channel, are compared with those of the training images. That works for every method and posterior, takes milliseconds,
and can be said in words. It cannot see what leaves the looks alone: other cells of the same size, for instance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from scipy.spatial.distance import cdist
from skimage.transform import rescale

if TYPE_CHECKING:
    from plurimask.data.normalise import Normalisation
    from plurimask.data.transforms import Augmentation

QUARTILES = (0.25, 0.5, 0.75)
OCTAVES = 6  # the coarsest has wavelengths of about 120 pixels
BACKGROUNDS = 3  # the finest octaves, whose background is looked at as well
LENGTH = len(QUARTILES) + OCTAVES + BACKGROUNDS

FEWEST = 5  # training images; fewer do not tell how much such images differ
MOST = 256  # training images that are remembered
VARIATIONS = 2  # of every training image

_RANGE = (-0.5, 2.0)  # of normalised intensities; without it a few hot pixels would be all the energy there is
_FAINTEST = 0.0005  # weaker details are as good as none
_SAMPLED = 2**16  # of more pixels, about so many tell the quartiles and medians, which take the longest
_SMALLEST_PART = 0.5  # shortest sides of a variation, as a share of the image's
_NEAREST = 3
_USUAL = 0.95
_LEAST_SPREAD = 0.02
_LEAST_LIMIT = 0.1  # where all training images are alike: what the rounding of the references may come to

# What less and what more of some of a channel's looks mean.
_WORDS = (
    (slice(0, 3), "darker background", "brighter background"),
    (
        slice(3, 5),
        "less fine detail (out of focus, or magnified more?)",
        "more fine detail (noisy, or magnified less?)",
    ),
    (slice(5, 7), "less structure of 10 to 40 pixels", "more structure of 10 to 40 pixels"),
    (slice(7, 9), "less coarse structure", "more coarse structure"),
    (slice(9, 12), "smoother background", "noisier background"),
)
_INVERTED = "contrast inverted"
_MOST_WORDS = 3
_WORTH_SAYING = 0.2  # squared distance, as a share of the largest


def looks(image: NDArray[np.float32]) -> NDArray[np.float64]:
    """``(C * LENGTH,)`` what an image ``(C, *spatial)``, normalised and rescaled, looks like to the network.

    Octave o is what a Gaussian of sigma 2^o pixels takes away from the image that the finer ones have smoothed: the
    wavelengths about 4 * 2^o pixels. Of every channel:

    * the three quartiles of the intensities: the background, as objects cover less than half of most images,
    * log2 of the root mean square of every octave, finest first: blur, noise and magnification,
    * log2 of the median absolute value of the finest ones: noise and blur where there are no objects.

    A few per cent of the time that one draw of the network takes.

    Raises:
        ValueError: the image is empty or has values that are not finite.
    """
    if not (image.size and np.isfinite(image).all()):
        raise ValueError(f"an image {image.shape} that is empty, or has values that are NaN or infinite, has no looks.")
    return np.concatenate([_looks_of_channel(channel) for channel in np.clip(image, *_RANGE)])


def _looks_of_channel(channel: NDArray[np.float32]) -> NDArray[np.float64]:
    quartiles = np.quantile(_sample(channel), QUARTILES)
    energies, backgrounds = [], []
    for octave in range(OCTAVES):
        smooth = ndimage.gaussian_filter(channel, 1.0, truncate=3.0)
        detail = channel - smooth
        energies.append(np.sqrt(np.mean(detail**2, dtype=np.float64)))
        if octave < BACKGROUNDS:
            backgrounds.append(np.median(np.abs(_sample(detail))))
        channel = smooth[(slice(None, None, 2),) * channel.ndim]
    return np.concatenate([quartiles, np.log2(np.hypot([*energies, *backgrounds], _FAINTEST))])


def _sample(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Pixels at equal distances; odd ones, so that they do not stand in a few columns of the usual widths."""
    return values.ravel()[:: max(1, values.size // _SAMPLED) | 1]


def training_looks(
    images: Sequence[NDArray[np.float32]], normalisation: Normalisation, augmentation: Augmentation, *, seed: int
) -> NDArray[np.float64]:
    """``(N, 1 + VARIATIONS, C * LENGTH)`` looks of training images, each followed by random variations of it.

    A variation is a part of the image, resized and changed in its intensities as training crops are, as prediction
    would see it (:meth:`plurimask.data.normalise.Intensities.renewed`): what the network has learned to bear shall not
    count as unlike. Of more than ``MOST`` images, that many at equal distances are taken.

    images: each ``(C, *spatial)``, normalised.
    """
    generator = np.random.default_rng(seed)
    examples = []
    for number in np.linspace(0, len(images) - 1, min(len(images), MOST)).astype(int):
        image = images[number]
        varied = [normalisation.renewed(_varied(image, augmentation, generator)) for _ in range(VARIATIONS)]
        examples.append([looks(one) for one in (image, *varied)])
    return np.array(examples)


def _varied(
    image: NDArray[np.float32], augmentation: Augmentation, generator: np.random.Generator
) -> NDArray[np.float32]:
    shape = np.array(image.shape[1:])
    sides = np.ceil(shape * generator.uniform(_SMALLEST_PART, 1, len(shape))).astype(int)
    starts = generator.integers(shape - sides + 1)
    part = image[:, *(slice(start, start + side) for start, side in zip(starts, sides, strict=True))]
    zoom = 1 + augmentation.scale * generator.uniform(-1, 1)
    resized = rescale(part, zoom, order=1, anti_aliasing=zoom < 1, preserve_range=True, channel_axis=0)
    return augmentation.intensity(resized, generator)


@dataclass(frozen=True)
class Familiarity:
    """What a model remembers of the looks of its training images.

    The distance of an image is the mean of those to its three nearest references: Euclidean, every number in units of
    its standard deviation over the references. Nearest ones and not one Gaussian, as training images may have several
    looks; no covariances, as the experiment of experiments/familiarity_shifts.py did not need them.

    Attributes:
        references: ``(N, copies, C * LENGTH)`` looks of N training images and of their variations; empty where nothing
            is known of them.
    """

    references: tuple[tuple[tuple[float, ...], ...], ...] = ()

    @classmethod
    def fit(cls, examples: ArrayLike) -> Familiarity:
        """From :func:`training_looks`, ``(N, copies, C * LENGTH)``; of fewer than ``FEWEST`` images nothing is known.

        Raises:
            ValueError: another shape, or values that are not finite.
        """
        values = _checked(examples)
        if len(values) < FEWEST:
            return cls()
        return cls(tuple(tuple(tuple(copy) for copy in image) for image in values.tolist()))

    def joined(self, examples: ArrayLike) -> Familiarity:
        """What is known together with further :func:`training_looks`: of a model that is trained on.

        An image that is remembered already counts once: twins would lie at distance 0 from each other, and any other
        image seem unlike them.

        Raises:
            ValueError: as ``fit``, or the looks have another number of channels or of copies than those known.
        """
        known = {image[0] for image in self.references}
        fresh = [image for image in _checked(examples) if tuple(image[0].tolist()) not in known]
        return self.fit(np.stack([*map(np.array, self.references), *fresh])) if fresh else self

    def score(self, seen: NDArray[np.float64]) -> float | None:
        """How unlike the training images an image with these looks is; above 1 a warning is due. None: nothing known.

        Its distance in units of a usual one, which 95 of 100 references keep to those of the other training images. So
        of images like these about one in twenty is above 1.

        Raises:
            ValueError: looks of another number of channels.
        """
        return self._distance(seen) / self._limit if self.references else None

    def explain(self, seen: NDArray[np.float64]) -> str:
        """What sets an image with these looks apart from the training images most like it; empty if nothing is known.

        Raises:
            ValueError: looks of another number of channels.
        """
        if not self.references:
            return ""
        if self._distance(_inverted(seen)) < self._distance(seen) / 2:
            return _INVERTED
        channels = self._difference(seen).reshape(-1, LENGTH)
        names = [f"channel {number}: " for number in range(1, len(channels) + 1)] if len(channels) > 1 else [""]
        said = [
            (float(np.sum(channel[part] ** 2)), name + (more if channel[part].sum() > 0 else less))
            for name, channel in zip(names, channels, strict=True)
            for part, less, more in _WORDS
        ]
        said.sort(reverse=True)
        return ", ".join(words for weight, words in said[:_MOST_WORDS] if 0 < weight >= _WORTH_SAYING * said[0][0])

    def _distance(self, seen: NDArray[np.float64]) -> float:
        return float(np.sort(cdist([self._point(seen)], self._points)[0])[:_NEAREST].mean())

    def _difference(self, seen: NDArray[np.float64]) -> NDArray[np.float64]:
        """``(C * LENGTH,)`` from the mean of the nearest training images, variations aside, in units of the spread."""
        point, images = self._point(seen), self._points[:: len(self.references[0])]
        nearest = np.argsort(cdist([point], images)[0])[:_NEAREST]
        difference: NDArray[np.float64] = point - images[nearest].mean(axis=0)
        return difference

    def _point(self, seen: NDArray[np.float64]) -> NDArray[np.float64]:
        centre, spread = self._centre_and_spread
        if np.shape(seen) != centre.shape:
            raise ValueError(
                f"looks of shape {np.shape(seen)} came, the training images have {centre.shape}; give an image "
                "with the model's channels."
            )
        point: NDArray[np.float64] = (seen - centre) / spread
        return point

    @cached_property
    def _points(self) -> NDArray[np.float64]:
        """``(N * copies, C * LENGTH)`` references in units of the spread."""
        centre, spread = self._centre_and_spread
        points: NDArray[np.float64] = (np.concatenate(self.references) - centre) / spread
        return points

    @cached_property
    def _centre_and_spread(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        values = np.concatenate(self.references)
        return values.mean(axis=0), np.maximum(values.std(axis=0), _LEAST_SPREAD)

    @cached_property
    def _limit(self) -> float:
        points = self._points
        own = np.arange(len(points)) // len(self.references[0])
        apart = np.where(own[:, None] == own, np.inf, cdist(points, points))
        distances = np.sort(apart, axis=1)[:, :_NEAREST].mean(axis=1)
        return max(float(np.quantile(distances, _USUAL)), _LEAST_LIMIT)


def _checked(examples: ArrayLike) -> NDArray[np.float64]:
    """``(N, copies, C * LENGTH)`` looks of training images, with the decimals that are remembered."""
    values = np.asarray(examples, np.float64)
    if values.ndim != 3 or not values.size or values.shape[2] % LENGTH or not np.isfinite(values).all():
        raise ValueError(
            f"looks of shape {values.shape} cannot be remembered; give finite numbers (images, copies, channels * "
            f"{LENGTH}), as training_looks does."
        )
    return values.round(3)


def _inverted(seen: NDArray[np.float64]) -> NDArray[np.float64]:
    """The looks of 1 - image: its quartiles are 1 - quartiles in reverse order, the octaves stay."""
    channels = seen.reshape(-1, LENGTH).copy()
    channels[:, : len(QUARTILES)] = 1 - channels[:, len(QUARTILES) - 1 :: -1]
    return channels.ravel()
