"""Image files in: TIFF, PNG and JPEG -> ``(C, *spatial)``, by one documented rule for the axes.

The rule, in this order:

1. an ``axes`` string given by the caller wins ("ZYX", "CYX", "YXC", ...);
2. axes that the file states count (OME-TIFF, ImageJ, tifffile's own);
3. a plain file: two axes are YX; a last axis of samples (RGB) is the channels, an alpha channel is dropped;
   anything else (a plain TIFF of many pages) is ambiguous and refused, with the ways to say what it is.

Axes of length 1 go, channels come first, then Z, Y, X. More than one time point is refused.

A grey picture saved as RGB (a screenshot, an export) is one channel: where the file itself says that its samples are
colours and these are equal in every pixel, the first is kept. Equal means exactly equal, for JPEG as well: grey has the
chroma 0, which any quality keeps, so colours that differ are colours. An ``axes`` string, YXC for instance, keeps all.
"""

from __future__ import annotations

import glob
import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import imageio.v3 as imageio
import numpy as np
import tifffile
from numpy.typing import NDArray

TIFF = frozenset({".tif", ".tiff"})
PICTURES = frozenset({".png", ".jpg", ".jpeg"})
SUFFIXES = TIFF | PICTURES

# What plurimask (and Cellpose, and truths) put beside an image: never segmented when a folder is.
LABELS = re.compile(r"_(labels|masks|cp_masks)\.(tiff?|png)$", re.IGNORECASE)
OUTPUT = re.compile(r"_(labels|masks|cp_masks|overview|entropy|ground_truth)\.(tiff?|png)$", re.IGNORECASE)
TRUTHS = ("masks", "labels")  # folders that hold the truth where they lie beside images/

# Micrometres per unit; OME writes the letter mu, ImageJ an escape or "micron".
MICROMETRES = {"um": 1.0, "µm": 1.0, "μm": 1.0, "\\u00b5m": 1.0, "micron": 1.0, "microns": 1.0, "micrometer": 1.0}
MICROMETRES |= {"nm": 1e-3, "mm": 1e3, "cm": 1e4, "m": 1e6, "pm": 1e-6, "å": 1e-4}

# Bytes of one value by TIFF's number of its type; the others have one byte.
TAG_BYTES = {3: 2, 8: 2, 4: 4, 9: 4, 11: 4, 13: 4, 5: 8, 10: 8, 12: 8, 16: 8, 17: 8, 18: 8}

# What a TIFF calls samples that tifffile returns as red, green and blue (YCbCr: with JPEG inside).
COLOURS = (tifffile.PHOTOMETRIC.RGB, tifffile.PHOTOMETRIC.YCBCR)


class UnreadableImage(ValueError):
    """A file that is damaged, holds NaN, or whose axes cannot be known; the message names the file."""

    def __init__(self, path: str | Path, why: str) -> None:
        super().__init__(f"{path}: {why}")
        self.path, self.why = Path(path), why

    def __reduce__(self) -> tuple[type[UnreadableImage], tuple[Path, str]]:
        return type(self), (self.path, self.why)  # so that it survives the way back from a worker process


@dataclass(frozen=True)
class Image:
    """One image.

    Attributes:
        data: ``(C, *spatial)`` in the file's own dtype, always with a channel axis.
        name: the file's name without its suffix.
        pixel_size: edge lengths of a pixel along the spatial axes in micrometres, or None where the file is silent.
        path: where it came from.
    """

    data: NDArray[Any]
    name: str
    pixel_size: tuple[float, ...] | None = None
    path: Path | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """``(*spatial,)``, without the channels."""
        return self.data.shape[1:]


def read_image(path: str | Path, *, axes: str | None = None) -> Image:
    """Read a TIFF, PNG or JPEG file; for the rules about axes and grey pictures see the head of this module.

    axes: one letter per axis of the file out of T, Z, C, Y, X (S, samples, is another word for C).

    Raises:
        FileNotFoundError: there is no such file.
        UnreadableImage: damaged, NaN inside, ambiguous axes, several time points, not one of the formats.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file.")
    values, stated, sizes = _read(path)
    if axes is not None:
        stated = _checked(path, axes, values)
    elif "S" in stated:
        values = _without_equal_colours(values, stated.index("S"))
    if not (np.issubdtype(values.dtype, np.integer) or np.issubdtype(values.dtype, np.floating)):
        raise UnreadableImage(path, f"holds {values.dtype} values; images of integers or real numbers are wanted.")
    data, spatial = _arrange(path, values, stated)
    if np.issubdtype(data.dtype, np.floating) and not np.isfinite(data).all():
        broken = np.count_nonzero(~np.isfinite(data))
        pixels = "1 pixel is" if broken == 1 else f"{broken} pixels are"
        raise UnreadableImage(path, f"{pixels} NaN or infinite; replace them before segmenting.")
    known = all(letter in sizes for letter in spatial)
    return Image(data, path.stem, tuple(sizes[letter] for letter in spatial) if known else None, path)


def list_images(paths: str | Path | Iterable[str | Path]) -> list[Path]:
    """Image files among files, folders (searched through, in natural order) and glob patterns; each once.

    In folders and patterns, files that plurimask or Cellpose wrote beside an image (``*_labels.tif``,
    ``*_overview.png``, ``*_masks.tif``, ...), hidden files and the insides of ``.zarr`` folders are left out, and in
    folders the truth that lies in ``masks/`` or ``labels/`` beside ``images/``. A file given by name is taken, unless
    it is such an output of another file in the list (a shell expands ``*.tif``).

    Raises:
        FileNotFoundError: a path that does not exist, or nothing found at all.
    """
    given = [paths] if isinstance(paths, str | Path) else list(paths)
    found = list(dict.fromkeys(path for entry in given for path in _expand(Path(entry))))
    if not found:
        raise FileNotFoundError(f"no {', '.join(sorted(SUFFIXES))} files in {', '.join(map(str, given))}.")
    images = {path.with_suffix("") for path in found}
    return [path for path in found if not OUTPUT.search(path.name) or _origin(path) not in images]


def natural(path: str | Path) -> list[tuple[int, int | str]]:
    """A key that sorts image2 before image10.

    >>> sorted(["b10", "b9", "a"], key=natural)
    ['a', 'b9', 'b10']
    """
    parts = re.split(r"(\d+)", str(path))
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in parts if part]


def images_in(folder: Path, *, recursive: bool = False) -> list[Path]:
    """Image files of a folder in natural order, without outputs and hidden files."""
    entries = folder.rglob("*") if recursive else folder.glob("*")
    kept = [path for path in entries if _is_image(path.relative_to(folder)) and path.is_file()]
    kept = [path for path in kept if not _is_truth(path, folder)]
    return sorted(kept, key=lambda path: natural(path.relative_to(folder)))


def _is_image(path: Path) -> bool:
    inside = any(part.startswith(".") or part.endswith(".zarr") for part in path.parts)
    return not inside and path.suffix.lower() in SUFFIXES and not OUTPUT.search(path.name)


def _is_truth(path: Path, folder: Path) -> bool:
    between = path.parents[: len(path.relative_to(folder).parents) - 1]
    return any(inner.name in TRUTHS and (inner.parent / "images").is_dir() for inner in between)


def _origin(path: Path) -> Path:
    return path.with_name(OUTPUT.sub("", path.name))


def _expand(path: Path) -> list[Path]:
    if path.is_dir():
        return images_in(path, recursive=True)
    if path.exists():
        return [path]
    if not glob.has_magic(str(path)):
        raise FileNotFoundError(f"{path}: no such file or folder.")
    # Path.glob wants the pattern apart from its anchor, which glob finds by itself.
    matches = sorted(map(Path, glob.glob(str(path), recursive=True)), key=natural)  # noqa: PTH207
    nested = [images_in(match, recursive=True) if match.is_dir() else [match] for match in matches]
    return [match for group in nested for match in group if _is_image(Path(match.name))]


def _read(path: Path) -> tuple[NDArray[Any], str, dict[str, float]]:
    """Values as stored, their axes ("?" where unknown, S for colours only), and the pixel size by axis."""
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise UnreadableImage(
            path, f"cannot read {suffix or 'files without suffix'}; use {', '.join(sorted(SUFFIXES))}."
        )
    try:
        return _read_tiff(path) if suffix in TIFF else (*_read_picture(path), {})
    except UnreadableImage:
        raise
    # The decoders raise whatever they like (struct.error, IndexError, zlib errors, ...): for the user all of
    # them mean that this file is damaged, and the original stays attached as the cause.
    except Exception as error:
        raise UnreadableImage(path, f"damaged or not an image ({type(error).__name__}: {error})") from error


def _read_picture(path: Path) -> tuple[NDArray[Any], str]:
    with imageio.imopen(path, "r", plugin="pillow") as file:
        mode = file.metadata()["mode"]
        values = np.asarray(file.read(index=0, **({"mode": "RGB"} if mode in ("CMYK", "YCbCr", "LAB") else {})))
    values = values.astype(np.uint8) if values.dtype == bool else values
    if values.ndim == 2:
        return values, "YX"
    colours = {2: 1, 4: 3}.get(values.shape[-1], values.shape[-1])  # grey + alpha, RGB + alpha
    return values[..., :colours], "YXS"


def _read_tiff(path: Path) -> tuple[NDArray[Any], str, dict[str, float]]:
    with tifffile.TiffFile(path) as file:
        _check_directories(path, file)
        series = file.series[0]
        _check_pixels(path, series)
        values, axes = np.asarray(series.asarray()), series.axes
        page = series.keyframe
        if "S" in axes and page.photometric == tifffile.PHOTOMETRIC.RGB and page.samplesperpixel == 4:
            values = np.take(values, range(3), axis=axes.index("S"))
        axes = axes if page.photometric in COLOURS else axes.replace("S", "C")
        sizes = _ome_size(file.ome_metadata) if file.ome_metadata else _imagej_size(file)
    values = values.astype(np.uint8) if values.dtype == bool else values
    return values, axes if values.ndim == len(axes) else "?" * values.ndim, sizes


def _without_equal_colours(values: NDArray[Any], axis: int) -> NDArray[Any]:
    """The first of the colours, as an axis of length 1, if the others are equal to it; else all of them."""
    first = np.take(values, [0], axis=axis)
    return first if (values == first).all() else values


def _check_directories(path: Path, file: tifffile.TiffFile) -> None:
    """Where a file was cut off, tifffile leaves out in silence the pages and tags that are lost.

    TIFF 6.0, section 2: a directory is a count, tags, and the offset of the next one (0 after the last); a tag is a
    code, a type, a length and a value, or the offset of a value that has no room in the tag. Where one of them is not
    there, struct.error is raised.
    """
    size, kind = path.stat().st_size, file.tiff
    tag_format = kind.byteorder + ("HHQQ" if kind.tagsize == 20 else "HHII")
    with path.open("rb") as raw:
        raw.seek(8 if kind.tagsize == 20 else 4)
        (offset,) = struct.unpack(kind.offsetformat, raw.read(kind.offsetsize))
        seen: set[int] = set()
        while offset and offset not in seen:
            seen.add(offset)
            raw.seek(offset)
            (count,) = struct.unpack(kind.tagnoformat, raw.read(kind.tagnosize))
            for _, datatype, length, value in struct.iter_unpack(tag_format, raw.read(count * kind.tagsize)):
                used = TAG_BYTES.get(datatype, 1) * length
                if used > kind.offsetsize and value + used > size:
                    raise UnreadableImage(path, f"cut off: {size} bytes long, but a tag reaches byte {value + used}.")
            (offset,) = struct.unpack(kind.offsetformat, raw.read(kind.offsetsize))


def _check_pixels(path: Path, series: tifffile.TiffPageSeries) -> None:
    """Tifffile fills up in silence what is lost of a page's pixels."""
    size = path.stat().st_size
    for page in series.pages:
        if page is None:
            raise UnreadableImage(path, "damaged: a page is missing.")
        for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True):
            if offset + count > size:
                raise UnreadableImage(path, f"cut off: {size} bytes long, but its pixels reach byte {offset + count}.")


def _ome_size(description: str) -> dict[str, float]:
    pixels = next((node for node in ElementTree.fromstring(description).iter() if node.tag.endswith("}Pixels")), None)
    sizes = {}
    for axis in "ZYX" if pixels is not None else "":
        value, unit = pixels.get(f"PhysicalSize{axis}"), pixels.get(f"PhysicalSize{axis}Unit", "µm")  # type: ignore[union-attr]
        if value is not None and float(value) > 0 and unit.lower() in MICROMETRES:
            sizes[axis] = float(value) * MICROMETRES[unit.lower()]
    return sizes


def _imagej_size(file: tifffile.TiffFile) -> dict[str, float]:
    """ImageJ: pixels per unit in the resolution tags, the unit and the spacing of slices in the description.

    The resolution of other TIFF files is left alone: it is mostly a printer's (72 dpi).
    """
    facts = file.imagej_metadata or {}
    factor = MICROMETRES.get(str(facts.get("unit", "")).lower())
    if factor is None:
        return {}
    sizes = {"Z": float(facts["spacing"]) * factor} if facts.get("spacing") else {}
    for axis in "YX":
        tag = file.pages.first.tags.get(f"{axis}Resolution")
        if tag is not None and tag.value[0] > 0:
            sizes[axis] = tag.value[1] / tag.value[0] * factor
    return sizes


def _checked(path: Path, axes: str, values: NDArray[Any]) -> str:
    """A caller's axes, padded so that they fit a file with axes of length 1."""
    letters = axes.upper()
    if not set(letters) <= set("TZCSYX") or len(set(letters)) < len(letters) or not {"Y", "X"} <= set(letters):
        raise ValueError(f"axes {axes!r}: each of the letters T, Z, C, Y, X at most once, with Y and X, is wanted.")
    if len(letters) == values.ndim:
        return letters
    if len(letters) == sum(size > 1 for size in values.shape):
        given = iter(letters)
        return "".join(next(given) if size > 1 else "?" for size in values.shape)
    raise UnreadableImage(path, f"axes {axes!r} name {len(letters)} axes, but the file has shape {values.shape}.")


def _arrange(path: Path, values: NDArray[Any], axes: str) -> tuple[NDArray[Any], str]:
    """``(C, *spatial)`` and the spatial letters, from values whose axes are known (or are refused here)."""
    keep = [index for index, letter in enumerate(axes) if values.shape[index] > 1 or letter in "YX"]
    letters = "".join(axes[index] for index in keep).replace("S", "C")
    values = values.reshape([values.shape[index] for index in keep])
    if "T" in letters:
        raise UnreadableImage(
            path,
            f"{values.shape[letters.index('T')]} time points (axes {letters}, shape {values.shape}); one is wanted. "
            "Save each as a file of its own, or say what the axis is, as in --axes ZYX.",
        )
    known = sorted(letters) == sorted(set(letters)) and set(letters) <= set("CZYX")
    if not known or not {"Y", "X"} <= set(letters):
        options = {3: "--axes ZYX (a volume) or --axes CYX (channels)", 4: "--axes ZCYX or --axes CZYX"}
        wanted = options.get(len(letters), "--axes with one of T, Z, C, Y, X per axis")
        raise UnreadableImage(path, f"the file does not say what its axes of shape {values.shape} are; use {wanted}.")
    order = [letters.index(letter) for letter in "CZYX" if letter in letters]
    data = values.transpose(order)
    spatial = "".join(letter for letter in "ZYX" if letter in letters)
    return np.ascontiguousarray(data if "C" in letters else data[None]), spatial
