"""Files that hold objects -> :class:`Instances`: label maps, one mask per file, COCO JSON, and our own results."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plurimask.data.coco import is_coco, read_coco
from plurimask.data.io import PICTURES, SUFFIXES, TIFF, TRUTHS, UnreadableImage, natural, read_image
from plurimask.instances import Instances

Reader = Callable[[], Instances]

RESULT = ".plurimask.zarr"
# NAME_<number>[_ground_truth].png: one mask per file, many files in one folder (BBBC010).
ONE_MASK = re.compile(r"^(?P<name>.+)_(?P<number>\d+)(?P<sure>_ground_truth)?$")
LABEL_MAP = re.compile(r"(_labels|_masks|_cp_masks|_mask|\.stardist)$")
LAYOUTS = (
    "label maps (NAME.tif, NAME_labels.tif, NAME_masks.tif, .png), one mask per file (NAME_<number>.png, "
    "NAME_<number>_ground_truth.png or NAME/*.png), a COCO JSON, or results of plurimask (NAME.plurimask.zarr)"
)


def read_instances(path: str | Path) -> Instances:
    """The objects of one image: a label map, a folder of one mask per file, COCO JSON or ``NAME.plurimask.zarr``.

    Raises:
        FileNotFoundError: there is no such path.
        UnreadableImage: damaged, no layout that is known, or the objects of more than one image.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder.")
    if path.name.endswith(".zarr"):
        return _read_result(path)
    if path.is_file() and path.suffix.lower() in SUFFIXES:
        return read_labels(path)
    if path.is_dir() and (one := _single_folder(path)):
        return read_masks(one)
    several = truths(path)
    if len(several) == 1:
        return next(iter(several.values()))()
    names = ", ".join(list(several)[:3])
    raise UnreadableImage(path, f"holds the objects of {len(several)} images ({names}, ...), but one is wanted.")


def truths(path: str | Path, *, names: Collection[str] | None = None) -> dict[str, Reader]:
    """The objects of many images: name -> a function that reads them, in natural order.

    path: a folder in one of the layouts that :data:`LAYOUTS` lists (or a folder that holds it as ``masks/`` or
    ``labels/``), a COCO file, or one file with the objects of one image.
    names: the images' names if they are known; they tell label maps ``img_01.png`` from masks ``img_01.png``.

    Raises:
        UnreadableImage: none of the layouts.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder.")
    if path.is_file() or path.name.endswith(".zarr"):
        found = _of_coco(path) if path.suffix == ".json" else {_name(Path(path.name)): partial(read_instances, path)}
    else:
        found = _of_folder(path, names)
    if not found:
        raise UnreadableImage(path, f"holds no objects in a layout that is known: {LAYOUTS}.")
    return dict(sorted(found.items(), key=lambda item: natural(item[0])))


def read_labels(path: str | Path) -> Instances:
    """A label map: one integer per object, 0 is background; a TIFF of many pages is a volume."""
    values = _read_plane(Path(path))
    if not np.issubdtype(values.dtype, np.integer):
        if not np.array_equal(values, np.round(values)):
            raise UnreadableImage(path, f"a label map holds whole numbers, this file {values.dtype} fractions.")
        values = values.astype(np.int64)
    if values.size and values.min() < 0:
        raise UnreadableImage(path, f"a label map holds 0 and positive numbers, this file {values.min()}.")
    return Instances.from_labels(values)


def read_masks(paths: Sequence[str | Path]) -> Instances:
    """One mask per file, all of one shape; what is not 0 is the object. An empty mask is no object.

    Raises:
        UnreadableImage: shapes that differ, or a label map: several objects would become one.
    """
    planes = [_read_plane(Path(path)) for path in paths]
    for path, plane in zip(paths, planes, strict=True):
        if plane.shape != planes[0].shape:
            raise UnreadableImage(path, f"a mask of shape {plane.shape}; {paths[0]} has {planes[0].shape}.")
        if _holds_several(plane):
            raise UnreadableImage(
                path,
                f"a label map of {plane.max()} objects, but a folder of its own holds one mask per file. Give "
                "folders of label maps one by one, or put all label maps into one folder.",
            )
    return Instances.from_masks(planes, planes[0].shape)


def _holds_several(plane: NDArray[Any]) -> bool:
    """Whether the values are 1, 2, ... n; those of a mask with soft edges are not, or reach white."""
    highest = int(plane.max(initial=0))
    if highest in (0, 1, np.iinfo(np.uint8).max, np.iinfo(np.uint16).max):
        return False
    return np.array_equal(np.setdiff1d(plane, [0]), np.arange(1, highest + 1))


def _read_plane(path: Path) -> NDArray[Any]:
    """A mask or a label map ``(*spatial)``: every axis is one of space, whatever a plain TIFF does not say."""
    try:
        image = read_image(path)
    except UnreadableImage as error:
        if "does not say" not in error.why or path.suffix.lower() not in TIFF:
            raise
        image = read_image(path, axes="ZYX")
    if len(image.data) > 1 and (image.data[1:] == image.data[:1]).all():
        return np.asarray(image.data[0])  # a grey picture saved as RGB
    if len(image.data) > 1:
        raise UnreadableImage(path, f"{len(image.data)} channels; a mask or a label map has one.")
    return np.asarray(image.data[0])


def _read_result(path: Path) -> Instances:
    from plurimask.data import storage  # here, because zarr takes a while to import and is rarely wanted

    found: Instances = storage.load(path).best()
    return found


def _of_coco(path: Path) -> dict[str, Reader]:
    return {name: image.instances for name, image in read_coco(path).items()}


def _of_folder(folder: Path, names: Collection[str] | None) -> dict[str, Reader]:
    results = [path for path in folder.rglob(f"*{RESULT}") if path.is_dir()]
    if results:
        return {_name(path.relative_to(folder)): partial(read_instances, path) for path in results}
    tables = [path for path in sorted(folder.glob("*.json")) if is_coco(path)]
    if len(tables) == 1:
        return _of_coco(tables[0])
    files = _files(folder)
    if not files:
        return _of_folders(folder, names)
    groups = _groups(files)
    if groups and _one_mask_each(files, names):
        return {name: partial(read_masks, group) for name, group in groups.items()}
    # Beside images, as Cellpose writes them, only the files with a suffix of their own are label maps.
    marked = [path for path in files if LABEL_MAP.search(path.stem)]
    return {_name(path.relative_to(folder)): partial(read_labels, path) for path in marked or files}


def _of_folders(folder: Path, names: Collection[str] | None) -> dict[str, Reader]:
    inside = sorted(path for path in folder.glob("*") if path.is_dir() and not path.name.startswith("."))
    for path in inside:
        if path.name in TRUTHS or path.name.endswith("_foreground_eachworm"):
            return _of_folder(path, names)
    filled = {path.name: _files(path) for path in inside}
    return {name: partial(read_masks, files) for name, files in filled.items() if files}


def _files(folder: Path) -> list[Path]:
    entries = (path for path in folder.glob("*") if path.suffix.lower() in TIFF | PICTURES)
    return sorted((path for path in entries if not path.stem.endswith("_overview")), key=natural)


def _single_folder(folder: Path) -> list[Path]:
    """The files of a folder that holds the masks of one image only, or none."""
    files = _files(folder)
    if not files or any(LABEL_MAP.search(path.stem) for path in files):
        return []
    groups = _groups(files)
    return files if len(groups) <= 1 and _one_mask_each(files, None) else []


def _groups(files: Sequence[Path]) -> dict[str, list[Path]]:
    """NAME -> its files, if all of them are called NAME_<number>[_ground_truth], else nothing."""
    matches = [ONE_MASK.match(path.stem) for path in files]
    groups: dict[str, list[Path]] = {}
    for path, match in zip(files, matches, strict=True):
        if match is None:
            return {}
        groups.setdefault(match["name"], []).append(path)
    return groups


def _one_mask_each(files: Sequence[Path], names: Collection[str] | None) -> bool:
    """Masks or label maps? The name says it, else the images' names do, else the content of the first files."""
    if all(path.stem.endswith("_ground_truth") for path in files):
        return True
    if names is not None:
        return not any(path.stem in names for path in files)
    return all(len(np.setdiff1d(_read_plane(path), [0])) <= 1 for path in files[:8])


def _name(path: Path) -> str:
    """a/NAME.plurimask.zarr, a/NAME_labels.tif -> a/NAME."""
    stem = path.name.removesuffix(RESULT) if path.name.endswith(RESULT) else LABEL_MAP.sub("", path.stem)
    return path.with_name(stem).as_posix()
