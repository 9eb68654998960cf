"""COCO JSON: polygons and run lengths -> Instances. Our own small decoder, so that pycocotools stays an oracle.

Format: https://cocodataset.org/#format-data; run lengths as in the COCO API's ``maskApi.c``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from skimage.draw import polygon2mask

from plurimask.data.io import UnreadableImage
from plurimask.instances import Instances, Mask


@dataclass(frozen=True)
class CocoImage:
    """One image of a COCO file.

    Attributes:
        file: its name as the file gives it, maybe with folders.
        annotations: of its objects, as in the file; decoded when they are asked for.
        shape: (height, width).
    """

    file: str
    annotations: tuple[Mapping[str, Any], ...]
    shape: tuple[int, int]

    def instances(self) -> Instances:
        """The objects; those without a pixel are left out. Features: ``category`` (N,) int64, the category's id."""
        masks = [decode(annotation["segmentation"], self.shape) for annotation in self.annotations]
        kept = [index for index, mask in enumerate(masks) if mask.any()]
        found = Instances.from_masks((masks[index] for index in kept), self.shape)
        categories = np.array([self.annotations[index].get("category_id", 0) for index in kept], np.int64)
        return Instances.from_crops(found.boxes, found.masks, self.shape, features={"category": categories})


def read_coco(path: str | Path) -> dict[str, CocoImage]:
    """Every image of a COCO file by its name without folder and suffix.

    Annotations with ``iscrowd`` (a heap of objects as one mask) are no objects and left out.

    Raises:
        UnreadableImage: not JSON, or not COCO.
    """
    content = _content(Path(path))
    annotations: dict[Any, list[Mapping[str, Any]]] = {image["id"]: [] for image in content["images"]}
    for annotation in content["annotations"]:
        if annotation["image_id"] not in annotations:
            raise UnreadableImage(path, f"an annotation is of image {annotation['image_id']}, which is not listed.")
        if not annotation.get("iscrowd", 0):
            annotations[annotation["image_id"]].append(annotation)
    return {
        Path(image["file_name"]).stem: CocoImage(
            image["file_name"], tuple(annotations[image["id"]]), (image["height"], image["width"])
        )
        for image in content["images"]
    }


def is_coco(path: Path) -> bool:
    """Whether a JSON file looks like COCO, without parsing it: such files can be large."""
    text = path.read_text(encoding="utf-8", errors="replace")
    return '"images"' in text and '"annotations"' in text


def _content(path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UnreadableImage(path, f"not a JSON file ({error})") from error
    if not isinstance(content, dict) or not {"images", "annotations"} <= set(content):
        raise UnreadableImage(path, "not a COCO file: the entries 'images' and 'annotations' are missing.")
    return content


def decode(segmentation: Any, shape: tuple[int, int]) -> Mask:
    """``(H, W)`` bool from a list of polygons (their union), or from compressed or plain run lengths.

    >>> decode([[1, 0, 3, 0, 3, 1, 1, 1]], (2, 4)).astype(int)
    array([[0, 1, 1, 0],
           [0, 0, 0, 0]])
    """
    if isinstance(segmentation, Mapping):
        counts = segmentation["counts"]
        return from_runs(uncompress(counts) if isinstance(counts, str | bytes) else counts, segmentation["size"])
    mask = np.zeros(shape, np.bool_)
    for corners in segmentation:
        # Flat x, y pairs where a pixel's centre is at + 0.5; scikit-image has centres at whole numbers.
        rows_and_columns = np.asarray(corners, np.float64).reshape(-1, 2)[:, ::-1] - 0.5
        mask |= np.asarray(polygon2mask(shape, rows_and_columns))
    return mask


def from_runs(counts: Sequence[int], size: Sequence[int]) -> Mask:
    """Run lengths, of 0 and 1 in turn, down the columns -> ``(H, W)`` bool.

    >>> from_runs([1, 2, 1], (2, 2)).astype(int)
    array([[0, 1],
           [1, 0]])
    """
    height, width = size
    if sum(counts) != height * width:
        raise ValueError(f"run lengths add up to {sum(counts)}, but the mask has {height} x {width} pixels.")
    flat: NDArray[np.bool_] = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
    return np.ascontiguousarray(flat.reshape(width, height).T)


def uncompress(text: str | bytes) -> list[int]:
    """The COCO API's string -> run lengths: 5 bits a character from 48 on, bit 6 continues, signed, little end first;
    from the third number on each is a difference to the one two before.

    >>> uncompress("121")
    [1, 2, 1]
    """
    counts: list[int] = []
    value = shift = 0
    for character in text if isinstance(text, bytes) else text.encode("ascii"):
        code = character - 48
        value |= (code & 0x1F) << shift
        shift += 5
        if code & 0x20:
            continue
        if code & 0x10:
            value -= 1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value = shift = 0
    return counts
