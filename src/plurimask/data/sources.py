"""Public benchmarks, and :func:`open_source`, which finds out what a folder of images with truth is."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np

from plurimask.data.folders import CocoFolder, FolderPerImage, ImagesAndMasks, MasksBeside
from plurimask.data.io import Image, UnreadableImage, natural, read_image
from plurimask.data.samples import Sample, Source, Split
from plurimask.data.truth import read_instances, truths


def open_source(
    path: str | Path,
    *,
    split: Split | None = None,
    axes: str | None = None,
    channel_files: Sequence[str] | None = None,
) -> Source:
    """The source in a folder, whose layout is found out.

    split: one part only. The benchmarks bring their split along. A user's folder may have sub-folders ``fit``,
    ``tune`` and ``report`` (or ``train``, ``val``, ``test``); without a ``tune`` folder a fifth of the fit images,
    chosen by a hash of the name, is held out as tune.
    axes: of the image files, where they do not say it themselves.
    channel_files: which files are the channels, in order, where the layout has one for each (see :class:`BBBC010`).

    Raises:
        FileNotFoundError: there is no such folder, or it has no images for this part.
        ValueError: none of the layouts; the message lists them. Or no such files of channels.
    """
    folder = Path(path)
    if not folder.exists():
        raise FileNotFoundError(f"{folder}: no such folder.")
    kinds = [kind for kind in KINDS if kind.recognises(folder)]
    if not kinds:
        known = "; ".join(f"({number}) {kind.layout}" for number, kind in enumerate(KINDS, start=1))
        raise ValueError(f"{folder} is no data set, images with their truth, in a layout that is known: {known}.")
    source = kinds[0](folder, split, axes)
    source = source if channel_files is None else source.with_channel_files(channel_files)
    if not len(source):
        raise FileNotFoundError(
            f"{folder}: no images for the part {split!r}; name another or add a sub-folder {split}/."
        )
    return source


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
        with (self.folder / "index.csv").open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        if rows and not {"id", "split"} <= set(rows[0]):
            raise UnreadableImage(self.folder / "index.csv", f"columns {list(rows[0])}; 'id' and 'split' are wanted.")
        names = [row["id"] for row in rows if self.split in (None, row["split"])]
        return [self._sample(name) for name in sorted(names, key=natural)]

    def _sample(self, name: str) -> Sample:
        image, labels = (self.folder / folder / f"{name}.png" for folder in ("images", "labels"))
        return Sample(name, partial(read_image, image), partial(read_instances, labels), (image,))


def read_channels(paths: Sequence[Path], name: str) -> Image:
    """One image from several files of one channel each."""
    images = [read_image(path) for path in paths]
    if len({image.shape for image in images}) > 1:
        raise UnreadableImage(paths[0], f"the channels of {name} have the shapes {[image.shape for image in images]}.")
    return Image(np.concatenate([image.data for image in images]), name, images[0].pixel_size, paths[0])


KINDS: tuple[type[Source], ...] = (BBBC010, DSB2018, CocoFolder, ImagesAndMasks, FolderPerImage, MasksBeside)

__all__ = ["BBBC010", "DSB2018", "KINDS", "Sample", "Source", "Split", "open_source", "read_channels"]
