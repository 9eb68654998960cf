"""Public benchmarks: which files they are made of, and which image belongs to which part.

LIDC, whose images have four truths each, is in :mod:`plurimask.data.lidc`.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np
from scipy import ndimage

from plurimask.data.io import Image, UnreadableImage, natural, read_image
from plurimask.data.samples import Sample, Source, Split
from plurimask.data.truth import Reader, read_instances, read_labels, read_masks, truths
from plurimask.instances import Instances


@dataclass(frozen=True)
class BBBC010(Source):
    """C. elegans in wells, live/dead assay: 100 wells, 520 x 696, overlapping worms.

    Layout: the folders of the Broad's zip files. ``BBBC010_v1_images/*_<well>_w1_*.tif`` is GFP, ``*_w2_*.tif``
    bright-field (16 bit; the masks align with w2); ``BBBC010_v1_foreground_eachworm/<well>_<nn>_ground_truth.png``
    one mask per worm. The union masks ``BBBC010_v1_foreground`` are displaced by about a pixel and not used.

    Split: ``split_<part>.txt`` (one well per line) in the folder; without these files the wells of algorithms.md
    1.1: the papers' training wells A01-C02 (12 of them for tune); report is the first of the papers' two test folds.

    Licence: not stated; do not redistribute.
    Citation: Ljosa, Sokolnicki, Carpenter, Nature Methods 9, 637 (2012), image set BBBC010v1, provided by Fred Ausubel.

    Attributes:
        channels: ("w2",) bright-field, or ("w2", "w1") bright-field and GFP. A well that lacks one is left out.
    """

    channels: tuple[str, ...] = ("w2",)

    layout: ClassVar[str] = "BBBC010_v1_images/ and BBBC010_v1_foreground_eachworm/ (the Broad's BBBC010)"
    licence: ClassVar[str] = "not stated"
    citation: ClassVar[str] = "BBBC010v1, Ljosa et al., Nature Methods 9, 637 (2012)"
    channel_hint: ClassVar[str] = (
        "BBBC010 has a file for each channel: --channel-files w2 is bright-field alone (the default), "
        "--channel-files w2 w1 has GFP, too."
    )

    @classmethod
    def recognises(cls, folder: Path) -> bool:
        return any(folder.glob("BBBC010_v?_images")) and (folder / "BBBC010_v1_foreground_eachworm").is_dir()

    def with_channel_files(self, names: Sequence[str]) -> BBBC010:
        """The same wells with these channels, each at most once."""
        if not names or not set(names) <= {"w1", "w2"} or len(set(names)) < len(names):
            given = ", ".join(names) or "none"
            raise ValueError(f"channel files: w2 or w1 or both are wanted, not {given}. {self.channel_hint}")
        return replace(self, channels=tuple(names))

    def find(self) -> list[Sample]:
        images = [self._wells(channel) for channel in self.channels]
        masks = truths(self.folder / "BBBC010_v1_foreground_eachworm")
        wells = [well for well in masks.keys() & set.intersection(*map(set, images)) if self._wanted(well)]
        files = {well: tuple(paths[well] for paths in images) for well in sorted(wells)}
        return [Sample(well, partial(read_channels, paths, well), masks[well], paths) for well, paths in files.items()]

    def _wells(self, channel: str) -> dict[str, Path]:
        pattern = f"BBBC010_v?_images/*_{channel}_*.tif"
        paths = list(self.folder.glob(pattern))
        if not paths:
            raise FileNotFoundError(f"{self.folder / pattern}: no image of the channel {channel}.")
        return {path.name.split(f"_{channel}_")[0].rsplit("_", 1)[1]: path for path in sorted(paths)}

    def _wanted(self, well: str) -> bool:
        if self.split is None:
            return True
        listed = self.folder / f"split_{self.split}.txt"
        if listed.exists():
            return well in listed.read_text(encoding="utf-8").split()
        return _default_part(well) == self.split


def _names(rows: Mapping[str, Sequence[int]]) -> frozenset[str]:
    return frozenset(f"{row}{column:02d}" for row, columns in rows.items() for column in columns)


BBBC010_TUNE = _names({"A": (4, 5, 7, 10, 21, 24), "B": (2, 9, 11, 14, 18, 22)})
BBBC010_REPORT = _names(
    {
        "C": (3, 6, 7, 12, 13, 14, 15, 19, 21, 22, 24),
        "D": (2, 3, 4, 5, 8, 10, 12, 14, 17, 18, 20, 22, 24),
        "E": (3,),
    }
)


def _default_part(well: str) -> Split | None:
    """The papers' second test fold belongs to no part."""
    if well <= "C02":
        return "tune" if well in BBBC010_TUNE else "fit"
    return "report" if well in BBBC010_REPORT else None


@dataclass(frozen=True)
class DSB2018(Source):
    """Fluorescence nuclei of the 2018 Data Science Bowl: grey images of several sizes, no overlaps.

    Layout: ``images/<id>.png`` (8 bit), ``labels/<id>.png`` (label maps), ``index.csv`` with the columns ``id`` and
    ``split`` (fit, tune, report).

    Licence: CC0 (BBBC038v1).
    Citation: Caicedo et al., Nature Methods 16, 1247 (2019).
    """

    layout: ClassVar[str] = "images/, labels/ and index.csv with columns id, split (dsb2018)"
    licence: ClassVar[str] = "CC0"
    citation: ClassVar[str] = "BBBC038v1, Caicedo et al., Nature Methods 16, 1247 (2019)"

    @classmethod
    def recognises(cls, folder: Path) -> bool:
        return (folder / "index.csv").is_file() and (folder / "images").is_dir() and (folder / "labels").is_dir()

    def find(self) -> list[Sample]:
        names = listed(self.folder / "index.csv", key="id", split=self.split)
        return [self._sample(name) for name in sorted(names, key=natural)]

    def _sample(self, name: str) -> Sample:
        image, labels = (self.folder / folder / f"{name}.png" for folder in ("images", "labels"))
        return Sample(name, partial(read_image, image), partial(read_instances, labels), (image,))


@dataclass(frozen=True)
class ISIC2018(Source):
    """Skin lesions: RGB photographs of 256 x 256 with one region each, by one annotator.

    Layout: ``images/<id>.jpg``, ``masks/<id>_segmentation.png`` and ``split.csv`` with the columns ``id`` and
    ``split`` (fit, tune, report).

    Licence: CC BY-NC.
    Citation: Codella et al., arXiv:1902.03368 (2019); Tschandl et al., Scientific Data 5, 180161 (2018).
    """

    layout: ClassVar[str] = "images/, masks/<id>_segmentation.png and split.csv with columns id, split (ISIC 2018)"
    licence: ClassVar[str] = "CC BY-NC"
    citation: ClassVar[str] = "ISIC 2018, Codella et al., arXiv:1902.03368 (2019)"

    @classmethod
    def recognises(cls, folder: Path) -> bool:
        return (folder / "split.csv").is_file() and any(folder.glob("masks/*_segmentation.png"))

    def find(self) -> list[Sample]:
        names = listed(self.folder / "split.csv", key="id", split=self.split)
        return [self._sample(name) for name in sorted(names, key=natural)]

    def _sample(self, name: str) -> Sample:
        image, mask = self.folder / "images" / f"{name}.jpg", self.folder / "masks" / f"{name}_segmentation.png"
        # Three channels, also where a photograph happens to have no colour.
        return Sample(name, partial(read_image, image, axes=self.axes or "YXC"), partial(read_masks, [mask]), (image,))


@dataclass(frozen=True)
class ISBI2012(Source):
    """Neurons and their membranes: slices of 512 x 512 of one electron-microscopic stack, 4 x 4 x 50 nm.

    Layout: ``image/<nn>.png``, ``label/<nn>.png`` (255 is cell, 0 membrane) and ``split.txt`` with lines like
    ``fit 00-13``: neighbouring slices are alike, so that parts are ranges with a gap between them. The objects of a
    slice are the connected parts of its cells.

    Licence: research use.
    Citation: Arganda-Carreras et al., Frontiers in Neuroanatomy 9, 142 (2015); Cardona et al., PLoS Biology 8 (2010).
    """

    layout: ClassVar[str] = "image/<nn>.png, label/<nn>.png and split.txt with lines like 'fit 00-13' (ISBI 2012)"
    licence: ClassVar[str] = "research use"
    citation: ClassVar[str] = "ISBI 2012, Arganda-Carreras et al., Frontiers in Neuroanatomy 9, 142 (2015)"

    @classmethod
    def recognises(cls, folder: Path) -> bool:
        return (folder / "split.txt").is_file() and (folder / "image").is_dir() and (folder / "label").is_dir()

    def find(self) -> list[Sample]:
        text = (self.folder / "split.txt").read_text(encoding="utf-8")
        ranges = re.findall(r"^(\w+)[ \t]+(\d+)-(\d+)[ \t]*$", text, re.MULTILINE)
        parts = {number: part for part, first, last in ranges for number in range(int(first), int(last) + 1)}
        images = sorted((self.folder / "image").glob("*.png"), key=natural)
        return [self._sample(image) for image in images if self.split in (None, parts.get(int(image.stem)))]

    def _sample(self, image: Path) -> Sample:
        cells = partial(read_components, self.folder / "label" / image.name)
        return Sample(image.stem, partial(read_image, image), cells, (image,))


@dataclass(frozen=True)
class Nuclei3D(Source):
    """Three small volumes of nuclei: to see that things run along three axes, not to measure a method.

    Layout: ``qcanet_mouse_embryo/images_raw/<n>_cell_stage.tif`` with masks of all nuclei in ``images_nsn``, and
    ``stardist_demo/img3d.tif`` with the label map ``mask3d.tif``. Volumes that are not there are left out; HDF5 files
    that lie beside them are not read.

    Split: fit is the embryo of 16 cells, tune that of 8, report the volume of other nuclei.

    Licence: MIT (QCANet) and BSD-3-Clause (StarDist).
    Citation: Tokuoka et al., npj Systems Biology and Applications 6, 32 (2020); Weigert et al., WACV (2020).
    """

    layout: ClassVar[str] = "qcanet_mouse_embryo/ and stardist_demo/ (small volumes of nuclei)"
    licence: ClassVar[str] = "MIT and BSD-3-Clause"
    citation: ClassVar[str] = "Tokuoka et al., npj Syst. Biol. Appl. 6, 32 (2020); Weigert et al., WACV (2020)"

    @classmethod
    def recognises(cls, folder: Path) -> bool:
        return (folder / "qcanet_mouse_embryo" / "images_nsn").is_dir() or (folder / "stardist_demo").is_dir()

    def find(self) -> list[Sample]:
        raw, nuclei = (self.folder / "qcanet_mouse_embryo" / kind for kind in ("images_raw", "images_nsn"))
        demo = self.folder / "stardist_demo"
        volumes: list[tuple[Split, Path, Reader]] = [
            ("tune", raw / "8_cell_stage.tif", partial(read_components, nuclei / "8_cell_stage.tif")),
            ("fit", raw / "16_cell_stage.tif", partial(read_components, nuclei / "16_cell_stage.tif")),
            ("report", demo / "img3d.tif", partial(read_labels, demo / "mask3d.tif")),
        ]
        return [
            Sample(image.stem, partial(read_image, image, axes="ZYX"), truth, (image,))
            for part, image, truth in volumes
            if self.split in (None, part) and image.is_file()
        ]


def listed(table: Path, *, key: str, split: Split | None) -> list[str]:
    """What a CSV file has in the column ``key`` for one part (column ``split``), or for all of them."""
    with table.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if rows and not {key, "split"} <= set(rows[0]):
        raise UnreadableImage(table, f"columns {list(rows[0])}; {key!r} and 'split' are wanted.")
    return [row[key] for row in rows if split in (None, row["split"])]


def read_components(path: Path) -> Instances:
    """The parts of a mask that are connected by their sides (a membrane may be as thin as a pixel).

    A file of many pages is a volume.
    """
    mask = read_labels(path).owners() > 0
    return Instances.from_labels(ndimage.label(mask)[0])


def read_channels(paths: Sequence[Path], name: str) -> Image:
    """One image from several files of one channel each."""
    images = [read_image(path) for path in paths]
    if len({image.shape for image in images}) > 1:
        raise UnreadableImage(paths[0], f"the channels of {name} have the shapes {[image.shape for image in images]}.")
    return Image(np.concatenate([image.data for image in images]), name, images[0].pixel_size, paths[0])
