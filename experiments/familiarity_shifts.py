"""How often images that a model does not know are found out, and how often images of the training kind are accused.

    PLURIMASK_DATA=... python experiments/familiarity_shifts.py bbbc010 dsb2018 [--models worms nuclei] [--split tune]

Remembers the looks of a data set's fit images, or takes what a model remembers, and scores the images of another part:
as they are, changed, and those of the other data sets. Printed is the share above 1, which is called unlike. No network
takes part.
"""

from __future__ import annotations

import argparse
import os
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.transform import rescale

from plurimask.data.normalise import Normalisation
from plurimask.data.sources import open_source
from plurimask.data.transforms import Augmentation
from plurimask.familiarity import Familiarity, looks, training_looks
from plurimask.model import load_model

Image = NDArray[np.float32]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+", help="names of data sets")
    parser.add_argument("--models", nargs="+", help="one for each data set, in their order")
    parser.add_argument("--split", default="tune", choices=("tune", "report"))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    asked = {data: read(data, options.split) for data in options.data}
    for data, model in zip(options.data, options.models or [None] * len(options.data), strict=True):
        known = load_model(model).familiarity if model else remembered(read(data, "fit"), seed=options.seed)
        images = f"{len(known.references)} images of {model or 'fit'}"
        print(f"{data}: remembered {images}, asked {len(asked[data])} of {options.split}")
        generator = np.random.default_rng(options.seed)
        for name, change in SHIFTS.items():
            tell(known, name, [change(image, generator) for image in asked[data]])
        for other in options.data:
            if other != data:
                tell(known, other, asked[other])


def remembered(images: list[Image], *, seed: int) -> Familiarity:
    return Familiarity.fit(training_looks(images, Normalisation(), Augmentation(), seed=seed))


def read(data: str, split: str) -> list[Image]:
    source = open_source(Path(os.environ["PLURIMASK_DATA"]) / data, split=split)
    return [Normalisation()(sample.image().data) for sample in source]


def tell(known: Familiarity, name: str, images: list[Image]) -> None:
    """Prints one row: the share that is unlike, the median score, and the commonest explanation."""
    seen = [looks(Normalisation()(image)) for image in images]
    scores = np.array([known.score(one) for one in seen])
    words = Counter(known.explain(one) for one, score in zip(seen, scores, strict=True) if score > 1)
    common = "; ".join(f"{count} x {text}" for text, count in words.most_common(1))
    print(f"  {name:20s} {np.mean(scores > 1):6.1%}   median score {np.median(scores):5.2f}   {common}", flush=True)


def resized(zoom: float) -> Callable[[Image, np.random.Generator], Image]:
    return lambda image, _: rescale(image, zoom, order=1, anti_aliasing=zoom < 1, preserve_range=True, channel_axis=0)


def blurred(sigma: float) -> Callable[[Image, np.random.Generator], Image]:
    return lambda image, _: ndimage.gaussian_filter(image, sigma, axes=range(1, image.ndim))


def noisy(sigma: float) -> Callable[[Image, np.random.Generator], Image]:
    return lambda image, generator: image + sigma * generator.standard_normal(image.shape, np.float32)


def halved(image: Image, generator: np.random.Generator) -> Image:
    """A part of half the height and half the width."""
    sides = [side // 2 for side in image.shape[1:]]
    starts = [int(generator.integers(side + 1)) for side in sides]
    return image[:, *(slice(start, start + side) for start, side in zip(starts, sides, strict=True))]


SHIFTS: Mapping[str, Callable[[Image, np.random.Generator], Image]] = {
    "as it is": lambda image, _: image,
    "a quarter of it": halved,
    "turned by 90 degrees": lambda image, _: np.rot90(image, axes=(-2, -1)),
    "size x 1.15": resized(1.15),
    "gamma 1.2": lambda image, _: np.sign(image) * np.abs(image) ** 1.2,
    "blur sigma 1": blurred(1),
    "blur sigma 2": blurred(2),
    "blur sigma 4": blurred(4),
    "inverted": lambda image, _: -image,
    "size x 0.5": resized(0.5),
    "size x 2": resized(2),
    "noise sigma 0.1": noisy(0.1),
    "noise sigma 0.2": noisy(0.2),
}

if __name__ == "__main__":
    main()
