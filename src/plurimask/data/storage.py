"""``NAME.plurimask.zarr``: a result on disk, with everything that is known about its objects.

Layout (Zarr version 3):

* ``plurimask`` in the attributes of the root: format version, number of draws, shape, the caller's attributes.
* ``objects/``: ``boxes``, ``existence``, ``conflicts`` as they are; what is ragged lies end to end: ``counts`` with
  ``count_offsets``, ``members`` with ``member_offsets``; ``features/NAME``.
* ``labels/``: the best set for viewers, as OME-Zarr 0.5 label images. Objects that overlap cannot share a label map, so
  every object is whole in one of the layers ``objects_0``, ``objects_1``, ...; without overlaps there is one layer.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import zarr
from numpy.typing import NDArray

from plurimask.instances import Instances, slices
from plurimask.probabilistic import ProbabilisticInstances

SUFFIX = ".plurimask.zarr"
FORMAT = 1
"""Raised whenever a reader of the number before could not read the file."""

_CHUNK = 2**20  # elements; of label maps the edge is chosen so that a chunk has about as many


def save(result: ProbabilisticInstances, path: str | Path, *, attributes: Mapping[str, Any] | None = None) -> Path:
    """Write a result to a folder ``NAME.plurimask.zarr``; whatever happens, the name holds a whole result or none.

    A result that is there already is replaced: it is moved aside first and deleted when the new one is in place.

    Args:
        result: what to save.
        path: where to; its name ends in ``.plurimask.zarr``.
        attributes: what else to keep, as JSON: the resolved configuration, say. ``pixel_size`` (micrometres, one per
            axis), if given, becomes the scale of the label images.

    Raises:
        ValueError: another suffix, or attributes that are not JSON.
        FileExistsError: something that is not one of our results has that name; it is left alone.
        TypeError: a feature that is neither numbers nor truth values.
    """
    place = Path(path)
    if not place.name.endswith(SUFFIX):
        raise ValueError(f"{place} does not end in {SUFFIX}; a result is saved under NAME{SUFFIX}.")
    if place.exists() and not _is_ours(place):
        raise FileExistsError(f"{place} exists and is not a result of plurimask; choose another name or move it.")
    kept = _as_json(attributes or {})
    place.parent.mkdir(parents=True, exist_ok=True)
    unfinished = place.with_name(f".{place.name}.{uuid4().hex[:8]}.unfinished")
    try:
        _write(result, unfinished, kept)
        _put_in_place(unfinished, place)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return place


def load(path: str | Path) -> ProbabilisticInstances:
    """Read what :func:`save` wrote.

    Raises:
        FileNotFoundError: nothing has this name.
        ValueError: it is no result of plurimask, or one of a newer format than this version can read.
    """
    root, header = _open(Path(path))
    objects = {name: _get(root, name) for name in _FIXED}
    boxes = objects["boxes"]
    crops = (objects["counts"][start:stop] for start, stop in pairwise(objects["count_offsets"]))
    counts = tuple(crop.reshape(size) for crop, size in zip(crops, boxes[:, 1] - boxes[:, 0], strict=True))
    lists = (objects["members"][start:stop].tolist() for start, stop in pairwise(objects["member_offsets"]))
    return ProbabilisticInstances(
        boxes=boxes,
        counts=counts,
        draws=int(header["draws"]),
        existence=objects["existence"],
        members=tuple(tuple((draw, index) for draw, index in pairs) for pairs in lists),
        conflicts=objects["conflicts"],
        shape=tuple(header["shape"]),
        features={name: _get(root, f"features/{name}") for name in header["features"]},
    )


def load_attributes(path: str | Path) -> dict[str, Any]:
    """The attributes that :func:`save` was given, without reading any object. Raises as :func:`load`."""
    _, header = _open(Path(path))
    attributes: dict[str, Any] = header["attributes"]
    return attributes


_FIXED = ("boxes", "existence", "conflicts", "counts", "count_offsets", "members", "member_offsets")


def _get(root: zarr.Group, name: str) -> NDArray[Any]:
    return np.asarray(root[f"objects/{name}"])


def _open(path: Path) -> tuple[zarr.Group, dict[str, Any]]:
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; a result is a folder NAME{SUFFIX}.")
    if not _is_ours(path):
        raise ValueError(f"{path} is not a result of plurimask; a result is a folder NAME{SUFFIX}.")
    root = zarr.open_group(path, mode="r")
    header: dict[str, Any] = dict(root.attrs["plurimask"])  # type: ignore[arg-type]
    version = header.get("format")
    if not isinstance(version, int) or not 1 <= version <= FORMAT:
        raise ValueError(
            f"{path} has format {version!r}; this version of plurimask reads 1 to {FORMAT}. "
            f"It was probably written by a newer version: update plurimask."
        )
    return root, header


def _is_ours(path: Path) -> bool:
    try:
        metadata = json.loads((path / "zarr.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(metadata, dict) and "plurimask" in metadata.get("attributes", {})


def _as_json(attributes: Mapping[str, Any]) -> dict[str, Any]:
    try:
        copied: dict[str, Any] = json.loads(json.dumps(dict(attributes), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ValueError(f"attributes must be JSON (numbers, texts, lists, mappings): {error}.") from error
    return copied


def _put_in_place(unfinished: Path, place: Path) -> None:
    """Rename; an old result is moved aside and comes back if the new one cannot take its place."""
    if not place.exists():
        unfinished.rename(place)
        return
    aside = place.with_name(f".{place.name}.{uuid4().hex[:8]}.old")
    place.rename(aside)
    try:
        unfinished.rename(place)
    except OSError:
        aside.rename(place)
        raise
    shutil.rmtree(aside)


def _write(result: ProbabilisticInstances, path: Path, attributes: dict[str, Any]) -> None:
    for name, values in result.features.items():
        if np.asarray(values).dtype.kind not in "biuf":
            raise TypeError(f"feature {name!r} has dtype {np.asarray(values).dtype}; give numbers or truth values.")
    root = zarr.create_group(path, zarr_format=3)
    objects = root.create_group("objects")
    for name, values in _columns(result).items():
        _put(objects, name, values)
    features = objects.create_group("features")
    for name, values in result.features.items():
        _put(features, name, np.asarray(values))
    _write_labels(root.create_group("labels"), result, attributes.get("pixel_size"))
    # Last, so that a folder without its header is never taken for a result.
    root.attrs["plurimask"] = {
        "format": FORMAT,
        "draws": result.draws,
        "shape": [int(size) for size in result.shape],
        "features": sorted(result.features),
        "attributes": attributes,
    }


def _columns(result: ProbabilisticInstances) -> dict[str, NDArray[Any]]:
    """The arrays of ``objects/``."""
    flat = [counts.ravel() for counts in result.counts]
    members = [pair for pairs in result.members for pair in pairs]
    return {
        "boxes": result.boxes,
        "existence": result.existence,
        "conflicts": result.conflicts,
        "counts": np.concatenate([np.zeros(0, np.uint8), *flat]),
        "count_offsets": np.cumsum([0, *map(len, flat)], dtype=np.int64),
        "members": np.array(members, np.int64).reshape(-1, 2),
        "member_offsets": np.cumsum([0, *map(len, result.members)], dtype=np.int64),
    }


def _put(group: zarr.Group, name: str, values: NDArray[Any]) -> None:
    """One compressed array, in chunks along the first axis."""
    width = int(np.prod(values.shape[1:]))
    length = max(1, min(len(values), _CHUNK // max(1, width)))
    group.create_array(name, data=values, chunks=(length, *(max(1, size) for size in values.shape[1:])))


def _write_labels(group: zarr.Group, result: ProbabilisticInstances, pixel_size: Any) -> None:
    """OME-Zarr 0.5 label images of the best set; label n is row ``label == n`` of the table."""
    best = result.best()
    names = []
    for number, (layer, labels) in enumerate(_layers(best)):
        names.append(f"objects_{number}")
        image = group.create_group(names[-1])
        edge = max(1, round(_CHUNK ** (1 / result.ndim)))
        chunks = tuple(min(edge, max(1, size)) for size in result.shape)
        axes = ("c", "t", "z", "y", "x")[-result.ndim :]
        image.create_array("0", data=layer, chunks=chunks, dimension_names=axes)
        image.attrs["ome"] = _image_metadata(names[-1], axes, pixel_size) | {
            "image-label": {
                "colors": [{"label-value": label, "rgba": _colour(label)} for label in labels],
                "properties": [{"label-value": n, "p_exists": float(best.scores[n - 1])} for n in labels],
            },
        }
    group.attrs["ome"] = {"version": "0.5", "labels": names}


def _layers(best: Instances) -> Iterator[tuple[NDArray[np.int32], list[int]]]:
    """Label maps, at least one, and the labels in each: an object is whole in the first layer with room for it."""
    waiting = list(range(len(best)))
    while True:
        layer, labels, later = np.zeros(best.shape, np.int32), [], []
        for n in waiting:
            part, mask = layer[slices(best.boxes[n])], best.masks[n]
            if (part[mask] != 0).any():
                later.append(n)
            else:
                part[mask] = n + 1
                labels.append(n + 1)
        yield layer, labels
        waiting = later
        if not waiting:
            return


def _image_metadata(name: str, axes: tuple[str, ...], pixel_size: Any) -> dict[str, Any]:
    """One resolution level; in micrometres where the pixel size is known."""
    known = pixel_size is not None and len(pixel_size) == len(axes)
    scale = [float(size) for size in pixel_size] if known else [1.0] * len(axes)
    described: list[dict[str, str]] = []
    for axis in axes:
        kind = {"c": "channel", "t": "time"}.get(axis, "space")
        unit = {"unit": "micrometer"} if known and kind == "space" else {}
        described.append({"name": axis, "type": kind} | unit)
    dataset = {"path": "0", "coordinateTransformations": [{"type": "scale", "scale": scale}]}
    return {"version": "0.5", "multiscales": [{"name": name, "axes": described, "datasets": [dataset]}]}


def _colour(label: int) -> list[int]:
    """A colour that differs from those of neighbouring labels: bits of the label times the golden ratio."""
    mixed = label * 2654435769 % 2**32
    return [64 + (mixed >> shift) % 192 for shift in (24, 16, 8)] + [255]
