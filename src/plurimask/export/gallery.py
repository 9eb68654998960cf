"""Objects to look at: the worst ones and the most doubtful ones, cut out of their images.

**Worst** are those with the smallest IoU with any object of the other side, missed objects included; at equal IoU those
that were doubted least. A missed object and the found one in its place are one error, and shown once. **Most doubtful**
are found objects by :func:`plurimask.uncertainty.doubt`, right or wrong.

A crop is an ``<svg>`` element in the coordinates of the image: the image as PNG within, where it is at hand, and the
outlines as paths. Volumes are shown as maximum projections.
"""

from __future__ import annotations

import base64
import io
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import PIL.Image
from numpy.typing import NDArray
from skimage.measure import find_contours

from plurimask.assessment import parse_mode
from plurimask.export.pictures import composite
from plurimask.instances import Instances, slices
from plurimask.probabilistic import ProbabilisticInstances

if TYPE_CHECKING:
    from plurimask.comparison import Report, Row

log = logging.getLogger(__name__)

SHOWN = 10
"""Objects of either kind."""

_MARGIN, _SMALLEST = 0.3, 64  # around the object, of its longer side; pixels along the side of a crop
_SHARPEST = 480  # pixels along the side of the PNG of a crop; larger ones are reduced


@dataclass(frozen=True)
class Exhibit:
    """One object.

    Attributes:
        image: name of the image.
        facts: the object's row in ``per_object.csv``.
        svg: the crop.
    """

    image: str
    facts: dict[str, Any]
    svg: str


@dataclass(frozen=True)
class Gallery:
    """The worst objects, and the most doubtful ones (none where there are no probabilities)."""

    worst: tuple[Exhibit, ...]
    doubtful: tuple[Exhibit, ...]


Place = tuple[int, int]
"""(row of the report, row of its objects)."""


def gallery(report: Report) -> Gallery:
    """Choose the objects and read their images again, one at a time."""
    worst, doubtful = _worst(report.rows), _doubtful(report.rows)
    wanted: dict[int, list[int]] = {}
    for image, place in (*worst, *doubtful):
        wanted.setdefault(image, []).append(place)
    shown: dict[Place, Exhibit] = {}
    for image, places in wanted.items():
        row = report.rows[image]
        scene = _Scene.read(row, mode=str(report.settings["mode"]))
        for place in places:
            facts = {name: values[place] for name, values in row.assessment.objects.items()}
            shown[image, place] = Exhibit(row.name, facts, scene.crop(place))
    return Gallery(tuple(shown[place] for place in worst), tuple(shown[place] for place in doubtful))


def _worst(rows: Sequence[Row]) -> list[Place]:
    ranked = []
    for image, row in enumerate(rows):
        objects = row.assessment.objects
        seen = set(objects["iou"][objects["kind"] != "missed"].tolist())
        for place, (kind, iou) in enumerate(zip(objects["kind"], objects["iou"].tolist(), strict=True)):
            # The best that a missed object has is a found one whose best it is: the same number.
            if kind != "missed" or iou == 0 or iou not in seen:
                ranked.append((iou, _doubt_of(row)[place], image, place))
    return [(image, place) for _, _, image, place in sorted(ranked)[:SHOWN]]


def _doubtful(rows: Sequence[Row]) -> list[Place]:
    ranked = [
        (-value, image, place)
        for image, row in enumerate(rows)
        if row.assessment.examination is not None
        for place, value in enumerate(row.assessment.examination.doubt.tolist())
    ]
    return [(image, place) for _, image, place in sorted(ranked)[:SHOWN]]


def _doubt_of(row: Row) -> NDArray[np.float64]:
    """``(K,)`` of every row of the objects: what was missed was not doubted, nor is anything in a label map."""
    doubts = np.zeros(len(row.assessment.objects["kind"]))
    if row.assessment.examination is not None:
        doubts[: len(row.assessment.examination.doubt)] = row.assessment.examination.doubt
    return doubts


@dataclass(frozen=True, eq=False)
class _Scene:
    """One image with its objects.

    Attributes:
        truth: the true objects.
        found: the found ones that were evaluated.
        missed: indices of the true objects that follow the found ones in the table.
        picture: ``(H, W, 3)`` uint8, or None where the image is not at hand.
    """

    truth: Instances
    found: Instances
    missed: Sequence[int]
    picture: NDArray[np.uint8] | None

    @classmethod
    def read(cls, row: Row, *, mode: str) -> _Scene:
        truth, objects = row.pair.truth(), row.pair.found()
        found = parse_mode(mode)(objects) if isinstance(objects, ProbabilisticInstances) else objects
        table = row.assessment.objects
        missed = (table["label"][table["kind"] == "missed"] - 1).tolist()
        return cls(truth, found, missed, _picture(row, truth.shape))

    def crop(self, place: int) -> str:
        """An ``<svg>`` element. place: row of the table of objects."""
        count = len(self.found)
        side, index = (self.found, place) if place < count else (self.truth, self.missed[place - count])
        box = _around(side.boxes[index], self.truth.shape)
        height, width = (box[1] - box[0]).tolist()
        paths = [
            *_paths(self.truth, box, kind="truth", target=index if side is self.truth else None),
            *_paths(self.found, box, kind="found", target=index if side is self.found else None),
        ]
        ground = "" if self.picture is None else _as_image(self.picture[slices(box)], box)
        left, top = box[0, ::-1].tolist()
        return (
            f'<svg role="img" aria-label="crop" viewBox="{left} {top} {width} {height}" '
            f'preserveAspectRatio="xMidYMid meet">{ground}{"".join(paths)}</svg>'
        )


def _picture(row: Row, shape: tuple[int, ...]) -> NDArray[np.uint8] | None:
    if row.pair.image is None:
        return None
    try:
        image = row.pair.image()
    except (ValueError, OSError) as error:
        log.warning("%s is shown without its image: %s", row.name, error)
        return None
    if image.shape != shape:
        log.warning("%s is shown without its image, whose shape is %s, not %s", row.name, image.shape, shape)
        return None
    return composite(image.data, ndim=len(shape))


def _around(box: NDArray[np.int64], shape: tuple[int, ...]) -> NDArray[np.int64]:
    """``(2, 2)`` a square around an object as far as the image goes. box: ``(2, D)``, of which the last two axes."""
    flat, frame = box[:, -2:], np.array(shape[-2:])
    side = np.minimum(max(_SMALLEST, round(int((flat[1] - flat[0]).max()) * (1 + 2 * _MARGIN))), frame)
    start = np.clip((flat.sum(axis=0) - side) // 2, 0, frame - side)
    return np.stack([start, start + side]).astype(np.int64)


def _paths(objects: Instances, box: NDArray[np.int64], *, kind: str, target: int | None) -> Iterable[str]:
    """The outlines of the objects that can be seen in a box, that of the target last."""
    order = sorted(range(len(objects)), key=lambda index: index == target)
    for index in order:
        flat = objects.boxes[index][:, -2:]
        if ((flat[0] < box[1]) & (flat[1] > box[0])).all():
            outline = _outline(objects.masks[index], flat[0])
            if outline:
                chosen = " target" if index == target else ""
                yield f'<path class="rim{chosen}" d="{outline}"/><path class="{kind}{chosen}" d="{outline}"/>'


def _outline(mask: NDArray[np.bool_], corner: NDArray[np.int64]) -> str:
    """Path data in pixels of the image, whose first pixel spans 0 to 1."""
    flat = mask.reshape(-1, *mask.shape[-2:]).any(axis=0)
    # find_contours counts from the centres of pixels, and the mask is padded by one.
    curves = (curve + corner - 0.5 for curve in find_contours(np.pad(flat, 1).astype(np.float32), 0.5))
    return "".join(f"M{'L'.join(f'{x:.1f} {y:.1f}' for y, x in curve[:-1])}Z" for curve in curves)


def _as_image(pixels: NDArray[np.uint8], box: NDArray[np.int64]) -> str:
    grey = (pixels == pixels[..., :1]).all()
    picture, file = PIL.Image.fromarray(pixels[..., 0] if grey else pixels), io.BytesIO()
    picture.thumbnail((_SHARPEST, _SHARPEST))
    picture.save(file, format="PNG", optimize=True)
    (top, left), (height, width) = box[0].tolist(), (box[1] - box[0]).tolist()
    data = base64.b64encode(file.getvalue()).decode("ascii")
    return (
        f'<image x="{left}" y="{top}" width="{width}" height="{height}" preserveAspectRatio="none" '
        f'href="data:image/png;base64,{data}"/>'
    )
