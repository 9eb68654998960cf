"""Which layouts of images with truth there are, and :func:`open_source`, which finds out which one a folder has."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from plurimask.data.benchmarks import BBBC010, DSB2018, ISBI2012, ISIC2018, Nuclei3D
from plurimask.data.folders import CocoFolder, FolderPerImage, ImagesAndMasks, MasksBeside
from plurimask.data.lidc import LIDCArchive, LIDCFolders
from plurimask.data.samples import Sample, Source, Split


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


# The first that recognises a folder has it: benchmarks bring their split along, and so come before users' layouts.
KINDS: tuple[type[Source], ...] = (
    BBBC010,
    DSB2018,
    LIDCArchive,
    LIDCFolders,
    ISIC2018,
    ISBI2012,
    Nuclei3D,
    CocoFolder,
    ImagesAndMasks,
    FolderPerImage,
    MasksBeside,
)

__all__ = ["KINDS", "Sample", "Source", "Split", "open_source"]
