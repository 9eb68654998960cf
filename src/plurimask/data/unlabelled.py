"""Images without truth: where they are found, and crops of them for a teacher and for its student."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from plurimask.data.folders import PARTS, UserFolder
from plurimask.data.io import Image, images_in, read_image
from plurimask.data.sources import KINDS, open_source
from plurimask.data.transforms import Augmentation, crop_centre, cut, to_combinations
from plurimask.instances import Instances

STREAM = 1  # keeps these crops' random numbers apart from those of crops with truth


@dataclass(frozen=True)
class Unlabelled:
    """One image without truth, not read yet.

    Attributes:
        name: within its folder.
        image: reads it.
        files: what it is read from.
    """

    name: str
    image: Callable[[], Image]
    files: tuple[Path, ...]


def find_unlabelled(
    folder: str | Path,
    *,
    without: Collection[Path] = (),
    axes: str | None = None,
    channel_files: Sequence[str] | None = None,
) -> list[Unlabelled]:
    """Images of a folder that nothing else is done with, in natural order; truth beside them is not looked at.

    Of a benchmark the fit part; else all images in the folder and below, but for its tune and report parts.

    Args:
        folder: with images in any layout, or none.
        without: files of images that are fitted with their truth, or choose the state.
        axes: as :func:`plurimask.data.sources.open_source` takes them.
        channel_files: as they are taken there.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: no image is left.
    """
    folder = Path(folder)
    if not folder.exists():
        raise FileNotFoundError(f"{folder}: no such folder.")
    kind = next((kind for kind in KINDS if kind.recognises(folder)), None)
    if kind is not None and not issubclass(kind, UserFolder):
        samples = open_source(folder, split="fit", axes=axes, channel_files=channel_files)
        found = [Unlabelled(sample.name, sample.image, sample.files) for sample in samples]
    else:
        held_out = [sample for part in ("tune", "report") for sample in kind(folder, part, axes)] if kind else []
        found = _files(folder, without={file for sample in held_out for file in sample.files}, axes=axes)
    taken = {file.resolve() for file in without}
    left = [one for one in found if taken.isdisjoint(file.resolve() for file in one.files)]
    if not left:
        raise ValueError(
            f"{folder} has no unlabelled images to learn from: {len(found)} were found (tune and report parts left "
            "out), and all of them have their truth fitted or choose the state; give another folder."
        )
    return left


def _files(folder: Path, *, without: Collection[Path], axes: str | None) -> list[Unlabelled]:
    """All images below a folder, one file each."""
    inside = [(path.relative_to(folder), path) for path in images_in(folder, recursive=True) if path not in without]
    return [
        Unlabelled(place.with_suffix("").as_posix(), partial(read_image, path, axes=axes), (path,))
        for place, path in inside
        if PARTS.get(place.parts[0].lower(), "fit") == "fit"
    ]


@dataclass(frozen=True)
class UnlabelledCrops(Dataset[dict[str, NDArray[np.float32]]]):
    """Crops anywhere in the images: ``image``, as the student sees it, and ``plain``, with its intensities unchanged.

    Both ``(C, *spatial)``, deformed alike: what the teacher says about the one is true of the other.

    Attributes:
        images: ``(C, *spatial)`` float32, normalised.
        size: side of a crop, in pixels.
        count: number of crops, those before ``first`` included.
        seed: of the whole stream; a further number for the process, where several train together.
        first: number of the first crop; a resumed run starts where the killed one stopped.
        augmentation: what may happen to a crop.
    """

    images: Sequence[NDArray[np.float32]]
    size: int
    count: int
    seed: tuple[int, int]
    first: int = 0
    augmentation: Augmentation = field(default_factory=Augmentation)

    def __len__(self) -> int:
        return self.count - self.first

    def __getitem__(self, number: int) -> dict[str, NDArray[np.float32]]:
        generator = np.random.default_rng([*self.seed, STREAM, self.first + number])
        image = self.images[int(generator.integers(len(self.images)))]
        nothing = to_combinations(Instances.empty(image.shape[1:]))
        centre = crop_centre(nothing, size=self.size, near_object=0, near_overlap=0, generator=generator)
        whole = self.size + 2 * self.augmentation.margin(self.size)
        seen, ids = (cut(array, centre=centre, size=whole) for array in (image, nothing.ids[None]))
        plain, _ = self.augmentation.spatial(seen, ids, size=self.size, generator=generator)
        return {"image": self.augmentation.intensity(plain, generator), "plain": plain}
