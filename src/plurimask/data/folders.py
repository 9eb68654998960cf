"""Users' folders of images with truth, in the layouts of the field's other tools."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

from plurimask.data.coco import is_coco, read_coco
from plurimask.data.io import LABELS, TRUTHS, UnreadableImage, images_in, natural, read_image
from plurimask.data.samples import Sample, Source, Split
from plurimask.data.truth import Reader, read_instances, read_masks, truths

# Names of sub-folders that say which part they are; StarDist, EmbedSeg and most others use the English ones.
PARTS: Mapping[str, Split] = {
    "fit": "fit",
    "train": "fit",
    "training": "fit",
    "tune": "tune",
    "val": "tune",
    "valid": "tune",
    "validation": "tune",
    "report": "report",
    "test": "report",
}
TUNE_SHARE = 0.2


@dataclass(frozen=True)
class UserFolder(Source):
    """A user's own images: how image and truth belong together is the sub-class's matter, the split is here."""

    @classmethod
    def recognises(cls, folder: Path) -> bool:
        return any(cls.pairs_up(part) for part, _ in _parts(folder))

    @classmethod
    @abstractmethod
    def pairs_up(cls, folder: Path) -> bool:
        """Whether images and truth lie in this folder in this way."""

    @abstractmethod
    def pairs(self, folder: Path) -> Mapping[str, tuple[Path, Reader]]:
        """Name -> image file and truth."""

    def find(self) -> list[Sample]:
        samples: list[tuple[Sample, Split | None]] = []
        for folder, part in _parts(self.folder):
            prefix = "" if part is None else f"{folder.name}/"
            for name, (image, truth) in self.pairs(folder).items():
                read = partial(read_image, image, axes=self.axes)
                samples.append((Sample(prefix + name, read, truth, (image,)), part))
        parts = _hold_out([sample.name for sample, _ in samples], [part for _, part in samples])
        chosen = [
            sample for sample, part in zip((s for s, _ in samples), parts, strict=True) if self.split in (None, part)
        ]
        return sorted(chosen, key=lambda sample: natural(sample.name))


def _parts(folder: Path) -> list[tuple[Path, Split | None]]:
    """The sub-folders that are parts, or the folder itself."""
    inside = sorted(path for path in folder.glob("*") if path.is_dir() and path.name.lower() in PARTS)
    return [(path, PARTS[path.name.lower()]) for path in inside] or [(folder, None)]


def _hold_out(names: Sequence[str], parts: Sequence[Split | None]) -> list[Split]:
    """Every sample's part: a share of the fit images becomes tune where no folder is tune.

    The hash of a name never changes, so images that are added later move no other image from tune to fit.
    """
    known: list[Split] = [part or "fit" for part in parts]
    fit = [index for index, part in enumerate(known) if part == "fit"]
    if "tune" in known or len(fit) < 2:
        return known
    shares = {index: _share(names[index]) for index in fit}
    held_out = [index for index in fit if shares[index] < TUNE_SHARE] or [min(fit, key=shares.__getitem__)]
    for index in held_out[: len(fit) - 1]:
        known[index] = "tune"
    return known


def _share(name: str) -> float:
    """A number in [0, 1) that depends on the name only (Python's own hash differs from run to run)."""
    return int.from_bytes(hashlib.sha256(name.encode("utf-8")).digest()[:8], "big") / 2**64


@dataclass(frozen=True)
class ImagesAndMasks(UserFolder):
    """``images/`` and ``masks/`` (or ``labels/``): StarDist's, EmbedSeg's layout.

    ``masks/`` holds a label map of the image's name (``NAME.tif``), or one mask per file (``NAME_<number>.png`` or
    ``NAME/*.png``), or a COCO JSON.
    """

    layout: ClassVar[str] = (
        "images/ and masks/ (or labels/), label maps of equal names or NAME_<number>.png or NAME/*.png"
    )

    @classmethod
    def pairs_up(cls, folder: Path) -> bool:
        return (folder / "images").is_dir() and _masks_folder(folder) is not None

    def pairs(self, folder: Path) -> Mapping[str, tuple[Path, Reader]]:
        images = {path.stem: path for path in images_in(folder / "images")}
        masks = _masks_folder(folder)
        return _together(images, truths(masks, names=images) if masks else {}, folder)


@dataclass(frozen=True)
class MasksBeside(UserFolder):
    """``IMG.tif`` and ``IMG_masks.tif`` (or ``_cp_masks``, ``_labels``; or .png): Cellpose's layout."""

    layout: ClassVar[str] = "IMG.tif and IMG_masks.tif (or IMG_cp_masks, IMG_labels) in one folder (Cellpose)"

    @classmethod
    def pairs_up(cls, folder: Path) -> bool:
        return any(LABELS.search(path.name) for path in folder.glob("*"))

    def pairs(self, folder: Path) -> Mapping[str, tuple[Path, Reader]]:
        labels = [path for path in folder.glob("*") if LABELS.search(path.name)]
        found = {LABELS.sub("", path.name): partial(read_instances, path) for path in sorted(labels)}
        return _together({path.stem: path for path in images_in(folder)}, found, folder)


@dataclass(frozen=True)
class CocoFolder(UserFolder):
    """One COCO JSON, and the images it lists beside it or in ``images/``. Overlaps are kept."""

    layout: ClassVar[str] = "a COCO .json and its images beside it or in images/"

    @classmethod
    def pairs_up(cls, folder: Path) -> bool:
        return any(is_coco(path) for path in folder.glob("*.json"))

    def pairs(self, folder: Path) -> Mapping[str, tuple[Path, Reader]]:
        tables = [path for path in sorted(folder.glob("*.json")) if is_coco(path)]
        if len(tables) > 1:
            raise UnreadableImage(
                folder, f"{len(tables)} COCO files; put each with its images into a folder of its own."
            )
        return {name: (_existing(folder, image.file), image.instances) for name, image in read_coco(tables[0]).items()}


@dataclass(frozen=True)
class FolderPerImage(UserFolder):
    """``NAME/images/*.png`` (one image) and ``NAME/masks/*.png`` (one mask per file), as in the Data Science Bowl."""

    layout: ClassVar[str] = "NAME/images/ with one image and NAME/masks/ with one mask per file, for every image"

    @classmethod
    def pairs_up(cls, folder: Path) -> bool:
        return any(path.parent.name == "images" for path in folder.glob("*/images/*"))

    def pairs(self, folder: Path) -> Mapping[str, tuple[Path, Reader]]:
        found = {}
        for inside in sorted(path.parent for path in folder.glob("*/images") if (path.parent / "masks").is_dir()):
            images = images_in(inside / "images")
            if len(images) != 1:
                raise UnreadableImage(inside / "images", f"{len(images)} images; one is wanted in a folder per image.")
            found[inside.name] = (images[0], partial(read_masks, images_in(inside / "masks")))
        return found


def _masks_folder(folder: Path) -> Path | None:
    return next((folder / name for name in TRUTHS if (folder / name).is_dir()), None)


def _existing(folder: Path, file: str) -> Path:
    candidates = (folder / file, folder / "images" / file, folder / "images" / Path(file).name)
    return next((path for path in candidates if path.is_file()), candidates[0])


def _together(images: Mapping[str, Path], found: Mapping[str, Reader], folder: Path) -> dict[str, tuple[Path, Reader]]:
    """Pairs by name. An image without truth is left out (users annotate some); truth without image is an error."""
    lost = sorted(set(found) - set(images), key=natural)
    if lost:
        raise UnreadableImage(
            folder, f"truth without an image: {', '.join(lost[:5])}{', ...' if len(lost) > 5 else ''}."
        )
    return {name: (path, found[name]) for name, path in images.items() if name in found}
