"""The files of one segmented image, written whole or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import imageio.v3 as imageio
import numpy as np
import tifffile
from numpy.typing import NDArray

from plurimask.data.io import Image
from plurimask.data.storage import save
from plurimask.export.pictures import overview
from plurimask.export.tables import object_table, write_table
from plurimask.probabilistic import ProbabilisticInstances

EVERYTHING, LABELS, OBJECTS, OVERVIEW = ".plurimask.zarr", "_labels.tif", "_objects.csv", "_overview.png"
# In the order in which they appear: the zarr first, so that whoever finds only a part knows that it is ours.
ENDINGS = (EVERYTHING, LABELS, OBJECTS, OVERVIEW)


def path_of(target: Path, ending: str) -> Path:
    """``target`` is the path of the results without their endings; dots in it are part of the name."""
    return target.with_name(target.name + ending)


def is_complete(target: Path) -> bool:
    """Whether all files of an image are there."""
    return all(path_of(target, ending).exists() for ending in ENDINGS)


def strangers(target: Path) -> list[Path]:
    """Files with the names of results where there is no result that they could belong to."""
    if path_of(target, EVERYTHING).exists():
        return []
    return [path_of(target, ending) for ending in ENDINGS if path_of(target, ending).exists()]


def write_result(
    target: Path,
    result: ProbabilisticInstances,
    image: Image,
    *,
    spacing: Sequence[float] | None,
    attributes: Mapping[str, Any],
) -> None:
    """Write the four files of an image; files of these names are replaced.

    They are made in a hidden folder beside their place and moved when all of them are complete.

    Args:
        target: path of the results without their endings.
        result: the objects.
        image: what they were found in.
        spacing: edge lengths of a pixel along the spatial axes in micrometres, or None.
        attributes: facts to keep in the zarr folder, ready for JSON.
    """
    staging = target.with_name(f".{target.name}.part")
    shutil.rmtree(staging, ignore_errors=True)  # left behind by a run that was killed
    staging.mkdir(parents=True)
    try:
        save(result, staging / EVERYTHING, attributes=attributes)
        write_labels(staging / LABELS, result.to_labels(), spacing=spacing)
        write_table(staging / OBJECTS, object_table(result, image.data, spacing=spacing))
        picture = overview(image.data, result)
        imageio.imwrite(staging / OVERVIEW, picture, plugin="pillow", extension=".png", compress_level=2)
        for ending in ENDINGS:
            place = path_of(target, ending)
            if place.is_dir():  # a folder cannot be replaced by renaming
                place.rename(staging / "replaced")
            (staging / ending).replace(place)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def write_labels(path: Path, labels: NDArray[Any], *, spacing: Sequence[float] | None) -> None:
    """A label map as TIFF with its pixel size: 16 bit in ImageJ's format, 32 bit as OME-TIFF beyond 65535 objects."""
    axes = "ZYX"[-labels.ndim :]
    if labels.max(initial=0) <= np.iinfo(np.uint16).max:
        facts: dict[str, Any] = {"axes": axes}
        resolution = None
        if spacing is not None:
            facts["unit"], resolution = "um", (1 / spacing[-1], 1 / spacing[-2])
            facts |= {"spacing": spacing[0]} if len(spacing) > 2 else {}
        tifffile.imwrite(
            path, labels.astype(np.uint16), imagej=True, metadata=facts, resolution=resolution, compression="zlib"
        )
        return
    facts = {"axes": axes}
    for axis, size in zip(axes, spacing or (), strict=spacing is not None):
        facts |= {f"PhysicalSize{axis}": size, f"PhysicalSize{axis}Unit": "µm"}
    tifffile.imwrite(path, labels.astype(np.uint32), ome=True, metadata=facts, compression="zlib")
