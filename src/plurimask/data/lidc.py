"""Lung nodules in CT, each seen by four annotators: the data set on which doubt itself can be compared.

Two layouts, one folder of slices per nodule and one file for all.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from plurimask.data.benchmarks import listed
from plurimask.data.io import Image, UnreadableImage, natural, read_image
from plurimask.data.samples import Sample, Source
from plurimask.data.truth import read_masks
from plurimask.instances import Instances

ANNOTATORS = 4
FIELDS = ("images", "mask_bits", "patient", "nodule", "slice", "split")


@dataclass(frozen=True)
class LIDC(Source):
    """What both layouts have in common: grey crops of 128 x 128 pixels of 0.5 mm, about a nodule.

    An annotator's truth is one object, or none: in many slices some see a nodule and others do not. Annotator k is
    number k of a slice, not the same person in all of them. Samples are grouped by patient.

    Licence: CC BY 3.0.
    Citation: Armato et al., Medical Physics 38, 915 (2011).
    """

    licence: ClassVar[str] = "CC BY 3.0"
    citation: ClassVar[str] = "LIDC-IDRI, Armato et al., Medical Physics 38, 915 (2011)"


@dataclass(frozen=True)
class LIDCFolders(LIDC):
    """``PATIENT/NODULE/images/SLICE.png`` with ``PATIENT/NODULE/mask-<k>/SLICE.png``, k = 0 to 3.

    Split: by patient, in a file ``split.csv`` with the columns ``patient`` and ``split``.
    """

    layout: ClassVar[str] = "PATIENT/NODULE/images/ and mask-0/ to mask-3/ with equal names (LIDC)"

    @classmethod
    def recognises(cls, folder: Path) -> bool:
        return any(folder.glob("*/*/mask-0"))

    def find(self) -> list[Sample]:
        patients = self._patients()
        images = sorted(self.folder.glob("*/*/images/*.png"), key=natural)
        return [self._sample(image) for image in images if patients is None or image.parts[-4] in patients]

    def _patients(self) -> set[str] | None:
        """The patients of the part; None for all."""
        table = self.folder / "split.csv"
        if self.split is not None and not table.is_file():
            raise ValueError(
                f"{self.folder} does not say which patients are in its {self.split!r} part; write split.csv with the "
                "columns patient and split (fit, tune or report), or ask for all."
            )
        return None if self.split is None else set(listed(table, key="patient", split=self.split))

    def _sample(self, image: Path) -> Sample:
        nodule = image.parent.parent
        first, *others = (
            partial(read_masks, [nodule / f"mask-{annotator}" / image.name]) for annotator in range(ANNOTATORS)
        )
        name = f"{nodule.parent.name}/{nodule.name}/{image.stem}"
        return Sample(name, partial(read_image, image), first, (image,), tuple(others), nodule.parent.name)


@dataclass(frozen=True)
class LIDCArchive(LIDC):
    """One ``.npz`` for all slices.

    ``images`` ``(N, Y, X)`` uint8; ``mask_bits`` ``(N, Y, X)`` uint8, bit k is annotator k; ``patient``, ``nodule``,
    ``slice`` and ``split`` ``(N,)`` strings. The split is by patient.
    """

    layout: ClassVar[str] = f"one .npz with {', '.join(FIELDS)} (LIDC)"

    @classmethod
    def recognises(cls, folder: Path) -> bool:
        return any(_is_archive(path) for path in folder.glob("*.npz"))

    def find(self) -> list[Sample]:
        archives = [path for path in sorted(self.folder.glob("*.npz")) if _is_archive(path)]
        samples = [self._sample(path, index) for path in archives for index in self._indices(path)]
        return sorted(samples, key=lambda sample: natural(sample.name))

    def _indices(self, path: Path) -> NDArray[np.int64]:
        split = _arrays(path)["split"]
        return np.flatnonzero((split == self.split) | (self.split is None))

    def _sample(self, path: Path, index: int) -> Sample:
        patient, nodule, plane = (str(_arrays(path)[field][index]) for field in ("patient", "nodule", "slice"))
        name = f"{patient}/{nodule}/{Path(plane).stem}"
        first, *others = (partial(_read_mask, path, index, annotator) for annotator in range(ANNOTATORS))
        return Sample(name, partial(_read_slice, path, index, name), first, (path,), tuple(others), patient)


def _is_archive(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as file:
            return {f"{field}.npy" for field in FIELDS} <= set(file.namelist())
    except (OSError, zipfile.BadZipFile):
        return False


@lru_cache(maxsize=1)
def _arrays(path: Path) -> Mapping[str, NDArray[Any]]:
    """The archive, in memory while its samples are read: every look into the file would unpack all of it."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return {field: file[field] for field in FIELDS}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UnreadableImage(path, f"damaged ({type(error).__name__}: {error})") from error


def _read_slice(path: Path, index: int, name: str) -> Image:
    return Image(_arrays(path)["images"][index][None], name.rsplit("/", 1)[-1], None, path)


def _read_mask(path: Path, index: int, annotator: int) -> Instances:
    bits = _arrays(path)["mask_bits"][index]
    return Instances.from_masks([bits & (1 << annotator)], bits.shape)
