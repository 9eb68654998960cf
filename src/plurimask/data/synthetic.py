"""Made-up images with exact truth: crossing worms in the look of bright-field wells, and crowded blobs.

Branching trees in volumes are in :mod:`plurimask.data.synthetic_trees`; :func:`write_dataset` writes all of them.

Pure functions of a seed. The worms' sizes, brightness and noise are those of BBBC010's bright-field channel (w2),
measured on its fit wells: median area 970 pixels, widest 8-12 pixels, 1 to 3 crossings, background 2500-2950 grey
values in the middle of the well, 1500 at its rim, 100 outside; what a worm lets through falls from 0.8 at its outline
to 0.4 in its middle. No pixel of a real image is used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import imageio.v3 as imageio
import numpy as np
import tifffile
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import KDTree

from plurimask.data.synthetic_camera import photographed
from plurimask.data.synthetic_trees import trees
from plurimask.instances import Instances, Mask, bounding_box, slices

Kind = Literal["worms", "blobs", "trees"]
Seed = int | Sequence[int]
Floats = NDArray[np.float64]

TRIES = 60
# Specks in focus, dust out of focus, a few shadows: sigmas in pixels, share of the light taken, number in a well.
DEBRIS = (((0.5, 1.1), (0.05, 0.5), 30), ((1.5, 4.0), (0.01, 0.1), 60), ((2.5, 5.0), (0.1, 0.3), 3))


@dataclass(frozen=True)
class Body:
    """One drawn object.

    Attributes:
        box: ``(2, D)`` start and stop.
        mask: what belongs to it.
        light: of the mask's shape; what it lets through (worms, 1 is clear) or gives off (blobs).
    """

    box: NDArray[np.int64]
    mask: Mask
    light: Floats


def worms(shape: tuple[int, int] = (520, 696), *, count: int = 14, seed: Seed) -> tuple[NDArray[np.uint16], Instances]:
    """A well with ``count`` worms, dead ones straight and living ones bent: image ``(1, H, W)``, 0..4095, and truth.

    Some worms cross; their masks then overlap, as they do in the truth of BBBC010. An image with a side below 400
    pixels shows a part of a well without its rim, and worms may be cut by the border.
    """
    generator = np.random.default_rng(seed)
    inside, illumination = _well(shape, generator)
    bodies: list[Body] = []
    crossing = set(generator.choice(count, min(count, int(generator.integers(1, 4))), replace=False).tolist())
    for number in range(count):
        bodies.append(_place(inside, bodies, cross=number in crossing and number > 0, generator=generator))
    light = _debris(shape, generator)
    for body in bodies:
        light[slices(body.box)] *= body.light
    light = ndimage.gaussian_filter(light, 0.5)
    return photographed(illumination * light, generator)[None], _truth(bodies, shape)


def blobs(shape: tuple[int, int] = (256, 256), *, count: int = 40, seed: Seed) -> tuple[NDArray[np.uint16], Instances]:
    """Bright nuclei-like blobs on a dark ground, many of them touching, some overlapping a little.

    Returns an image ``(1, H, W)``, 0..4095, and the truth.
    """
    generator = np.random.default_rng(seed)
    radius = 0.42 * np.sqrt(shape[0] * shape[1] / max(count, 16))
    bodies: list[Body] = []
    owners = np.zeros(shape, np.int32)
    for _ in range(count):
        body = _settle(owners, radius=min(radius, 14.0), generator=generator)
        owners[slices(body.box)] += body.mask
        bodies.append(body)
    light = np.full(shape, 0.05) + 0.03 * _smooth(shape, 40, generator)
    for body in bodies:
        region = slices(body.box)
        light[region] += body.light
    return photographed(3000 * ndimage.gaussian_filter(light, 1.0), generator)[None], _truth(bodies, shape)


def write_dataset(folder: str | Path, kind: Kind, *, count: int = 20, seed: int = 0) -> list[str]:
    """Images ``images/NAME.tif`` and their truth, one mask per file: ``masks/NAME/NAME_<number>.png`` (volumes: .tif).

    Args:
        folder: a new or empty one.
        kind: "worms", crossing worms in bright-field wells, "blobs", touching nuclei, or "trees", volumes of thin
            branching trees in three colours.
        count: number of images.
        seed: of the first image; another seed makes other images.

    Returns:
        The names of the images.

    Raises:
        FileExistsError: the folder is not empty.
        ValueError: no such kind.
    """
    if kind not in MAKERS:
        raise ValueError(f"kind {kind!r}: one of {', '.join(MAKERS)} is wanted.")
    folder = Path(folder)
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty; name a new folder.")
    names = [f"{kind}_{number:03d}" for number in range(1, count + 1)]
    (folder / "images").mkdir(parents=True)
    for number, name in enumerate(names):
        make, fewest, most = MAKERS[kind]
        objects = int(np.random.default_rng([seed, number]).integers(fewest, most + 1))
        image, truth = make(count=objects, seed=[seed, number])
        write_image(folder / "images" / f"{name}.tif", image)
        (folder / "masks" / name).mkdir(parents=True)
        for index, mask in enumerate(truth.to_masks(), start=1):
            _write_mask(folder / "masks" / name / f"{name}_{index:02d}", mask)
    return names


def write_image(path: str | Path, image: NDArray[Any]) -> None:
    """``(C, *spatial)`` as a compressed TIFF; with several channels or of a volume as an OME-TIFF, which names axes."""
    plain = image.ndim == 3 and len(image) == 1
    axes: dict[str, Any] = {} if plain else {"ome": True, "metadata": {"axes": "C" + "ZYX"[1 - image.ndim :]}}
    data = image[0] if plain else image
    tifffile.imwrite(path, data, compression="zlib", predictor=True, photometric="minisblack", **axes)


def _write_mask(path: Path, mask: Mask) -> None:
    """A PNG, of a volume a TIFF. path: without suffix."""
    values = mask.astype(np.uint8) * 255
    if mask.ndim == 2:
        imageio.imwrite(path.with_suffix(".png"), values)
    else:
        write_image(path.with_suffix(".tif"), values[None])


MAKERS: dict[Kind, tuple[Callable[..., tuple[NDArray[np.uint16], Instances]], int, int]] = {
    "worms": (worms, 11, 18),
    "blobs": (blobs, 25, 50),
    "trees": (trees, 4, 8),
}
"""What makes an image, and the fewest and the most objects in one."""


def _truth(bodies: Sequence[Body], shape: tuple[int, int]) -> Instances:
    boxes = np.array([body.box for body in bodies], np.int64).reshape(len(bodies), 2, 2)
    return Instances.from_crops(boxes, [body.mask for body in bodies], shape)


def _smooth(shape: tuple[int, ...], sigma: float, generator: np.random.Generator) -> Floats:
    """A smooth random field, mean 0, standard deviation 1; coarse noise enlarged, which is quick for any sigma."""
    step = max(1, int(sigma))
    coarse = generator.standard_normal([size // step + 4 for size in shape])
    where = np.indices(shape, np.float64) / step + 1
    field = ndimage.map_coordinates(ndimage.gaussian_filter(coarse, sigma / step), where, order=1)
    return np.asarray((field - field.mean()) / (field.std() + 1e-12))


def _well(shape: tuple[int, int], generator: np.random.Generator) -> tuple[Mask, Floats]:
    """Where a worm may lie, and the light of the empty well: a square with round corners, lit from its middle."""
    half = 0.408 * min(shape) * generator.uniform(0.97, 1.02)
    middle = np.array(shape) * (0.55, 0.5) + generator.uniform(-10, 10, 2)
    y, x = np.indices(shape) - middle[:, None, None]
    whole = min(shape) >= 400
    lamp = np.hypot(y - generator.uniform(-25, 25), x - generator.uniform(-25, 25)) / 230
    lit = generator.uniform(2500, 2950) / (1 + generator.uniform(0.8, 1.0) * lamp**2.6)
    lit *= 1 + 0.006 * _smooth(shape, 6, generator) + 0.004 * _smooth(shape, 2, generator)
    if not whole:
        return np.ones(shape, np.bool_), lit
    # A square whose corners are cut off, each its own way; the soft maximum rounds what is left of them.
    cuts = generator.uniform(1.55, 1.8, (2, 2))[(y > 0).astype(int), (x > 0).astype(int)] * half
    sides = np.stack([np.abs(y) - half, np.abs(x) - half, (np.abs(y) + np.abs(x) - cuts) / np.sqrt(2)])
    distance = np.logaddexp.reduce(sides / 10, axis=0) * 10 + 0.4 * _smooth(shape, 30, generator)
    share = 1 / (1 + np.exp(np.clip(distance / 0.9, -50, 50)))
    dark = 98 + 45 * np.exp(-np.maximum(distance, 0) / 45)
    return distance < -1, dark + share * (lit * (1 - 0.25 * np.exp(np.minimum(distance, 0) / 2.5)) - dark)


def _place(inside: Mask, bodies: Sequence[Body], *, cross: bool, generator: np.random.Generator) -> Body:
    """A worm within the well that crosses another one, or keeps clear of all; the last try is taken as it is."""
    owners = np.zeros(inside.shape, np.int32)
    for body in bodies:
        owners[slices(body.box)] += body.mask
    worm = _worm(generator)
    candidates = np.argwhere(owners > 0) if cross else np.argwhere(inside)
    for attempt in range(TRIES):
        worm = _worm(generator) if attempt % 8 == 7 else worm
        # A crossing worm has a pixel of its own, not just its middle, on a pixel of another.
        anchor = generator.choice(np.argwhere(worm.mask)) if cross else np.array(worm.mask.shape) // 2
        moved = _moved(worm, generator.choice(candidates) - anchor, inside.shape)
        if moved is None or np.count_nonzero(moved.mask) < 0.6 * np.count_nonzero(worm.mask):
            continue
        region = slices(moved.box)
        if np.count_nonzero(moved.mask & ~inside[region]) > 0.03 * np.count_nonzero(moved.mask):
            continue
        shared = np.count_nonzero(moved.mask & (owners[region] > 0))
        if (20 <= shared <= 250) if cross else shared == 0:
            return moved
    return _anywhere(worm, inside, generator)


def _anywhere(body: Body, inside: Mask, generator: np.random.Generator) -> Body:
    """In a crowd there may be no free place: then somewhere in the well, on top of others."""
    candidates = np.argwhere(inside)
    while True:
        moved = _moved(body, generator.choice(candidates) - np.array(body.mask.shape) // 2, inside.shape)
        if moved is not None:
            return moved


def _moved(body: Body, offset: NDArray[np.int64], shape: tuple[int, ...]) -> Body | None:
    """The body with its corner at ``offset``, cut to the image; None where nothing is left."""
    start = np.maximum(offset, 0)
    stop = np.minimum(offset + body.mask.shape, shape)
    if (start >= stop).any():
        return None
    part = slices(np.stack([start, stop]) - offset)
    tight = bounding_box(body.mask[part])
    if tight is None:
        return None
    return Body(tight + start, body.mask[part][slices(tight)], body.light[part][slices(tight)])


def _worm(generator: np.random.Generator) -> Body:
    """A worm about its own middle, in a box of its own."""
    dead = bool(generator.random() < 0.45)
    length = float(np.clip(generator.normal(120, 12), 90, 150))
    widest = float(np.clip(generator.normal(9.7, 0.9), 8, 12))
    points, tangent = _centreline(length, dead=dead, generator=generator)
    corner = np.floor(points.min(0)) - 9
    size = np.ceil(points.max(0) - corner).astype(np.int64) + 10
    pixels = np.indices(size).reshape(2, -1).T + corner
    distance, nearest = KDTree(points).query(pixels, distance_upper_bound=widest)
    near = np.flatnonzero(np.isfinite(distance))
    nearest = nearest[near]
    offset = pixels[near] - points[nearest]
    side = np.sign(tangent[nearest, 0] * offset[:, 1] - tangent[nearest, 1] * offset[:, 0])
    radius = _radius(np.linspace(0, 1, len(points)), widest)[nearest]
    mask, light = np.zeros(len(pixels), np.bool_), np.ones(len(pixels))
    mask[near] = distance[near] <= radius
    across = side * distance[near] / radius
    light[near] = _tissue(nearest / (len(points) - 1), across, length=length, dead=dead, generator=generator)
    # A worm is round: less of it is in the way of the light near its outline.
    thickness = 1 - np.exp(-np.maximum(radius - distance[near] + 0.3, 0) / 1.8)
    light[near] = 1 - thickness * (1 - light[near])
    return _trimmed(mask.reshape(size), light.reshape(size))


def _trimmed(mask: Mask, light: Floats) -> Body:
    """A body in the smallest box that holds its mask."""
    where = np.argwhere(mask)
    box = np.stack([where.min(0), where.max(0) + 1])
    return Body(box, mask[slices(box)], light[slices(box)])


def _centreline(length: float, *, dead: bool, generator: np.random.Generator) -> tuple[Floats, Floats]:
    """``(P, 2)`` points every half pixel from head to tail, and unit tangents: the integral of a curvature."""
    along = np.linspace(0, 1, int(2 * length))
    if dead:  # a rod, bent a little
        bend = generator.normal(0, 0.35) * along + generator.normal(0, 0.12) * np.sin(2 * np.pi * along)
    else:  # a travelling sine with a drift, sometimes nearly a ring
        waves, phase = generator.uniform(0.6, 1.4), generator.uniform(0, 2 * np.pi)
        swing = generator.uniform(0.5, 1.3)
        bend = swing * np.sin(2 * np.pi * waves * along + phase) + generator.normal(0, 1.3) * along
        bend += generator.choice([0, 0, 0, 3.0]) * generator.choice([-1, 1]) * along
    angle = bend + generator.uniform(0, 2 * np.pi)
    tangent = np.stack([np.sin(angle), np.cos(angle)], axis=1)
    return np.cumsum(tangent, axis=0) * (length / len(along)), tangent


def _radius(along: Floats, widest: float) -> Floats:
    """Half of the width from head (0) to tail (1): a blunt head, a long pointed tail."""
    head = np.sqrt(1 - (1 - np.minimum(along / 0.12, 1)) ** 2) ** 0.8
    tail = np.minimum((1 - along) / 0.28, 1) ** 0.7
    bulge = 0.86 + 0.14 * np.sin(np.pi * along)
    return np.asarray(np.maximum(widest / 2 * bulge * head * tail, 1.0))


def _tissue(along: Floats, across: Floats, *, length: float, dead: bool, generator: np.random.Generator) -> Floats:
    """What a worm lets through at ``along`` (0 head .. 1 tail) and ``across`` (-1 .. 1): a dark gut with granules."""
    rows = int(length)
    gut = np.clip(0.5 + 0.55 * _smooth((rows,), 7, generator), 0, 1)[(along * (rows - 1)).astype(np.int64)]
    # Granules, twice as long as wide.
    where = np.stack([along * (rows // 2 - 1), (across + 1) * 5])
    fine = generator.uniform(0.07, 0.16) * ndimage.map_coordinates(
        _smooth((rows // 2, 12), 1.0, generator), where, order=1
    )
    shifted = across - generator.uniform(-0.35, 0.35) - 0.2 * np.sin(7 * along)
    band = np.exp(-((shifted / generator.uniform(0.4, 0.65)) ** 2))
    # Both ends hold no gut and are clearer.
    trunk = np.clip(along / 0.15, 0, 1) * np.clip((1 - along) / 0.18, 0, 1)
    body = generator.normal(0.40, 0.06) + 0.14 * (1 - trunk)
    depth = generator.uniform(0.15, 0.35) if dead else generator.uniform(0.08, 0.3)
    wall = generator.uniform(0.05, 0.2) * np.exp(-(((np.abs(across) - 0.75) / 0.15) ** 2))
    light = body - depth * band * gut * trunk - wall + fine
    return np.asarray(np.clip(light, 0.08, 0.95))


def _debris(shape: tuple[int, int], generator: np.random.Generator) -> Floats:
    """Specks in focus, dust and shadows out of focus: what the empty well lets through, 1 is clear."""
    light = np.ones(shape)
    share = shape[0] * shape[1] / (520 * 696)
    for (thinnest, thickest), (faintest, darkest), number in DEBRIS:
        for _ in range(generator.poisson(number * share)):
            sigma = generator.uniform(thinnest, thickest, 2)
            y, x = int(generator.integers(shape[0])), int(generator.integers(shape[1]))
            reach = int(4 * sigma.max()) + 1
            part = (slice(max(y - reach, 0), y + reach), slice(max(x - reach, 0), x + reach))
            rows, columns = np.ogrid[part[0].start : y + reach, part[1].start : x + reach]
            spot = np.exp(-0.5 * (((rows - y) / sigma[0]) ** 2 + ((columns - x) / sigma[1]) ** 2))
            seen = light[part]
            seen *= 1 - generator.uniform(faintest, darkest) * spot[: seen.shape[0], : seen.shape[1]]
    return light


def _settle(owners: NDArray[np.int32], *, radius: float, generator: np.random.Generator) -> Body:
    """A blob that touches others as often as not, and shares at most a fifth of its area with them."""
    crowded = bool(owners.any()) and generator.random() < 0.6
    blob = _blob(radius, generator)
    rim = ndimage.binary_dilation(owners > 0, iterations=int(radius)) if crowded else np.ones(owners.shape, np.bool_)
    candidates = np.argwhere(rim)
    moved: Body | None = None
    while moved is None:
        for _ in range(TRIES):
            corner = generator.choice(candidates) - np.array(blob.mask.shape) // 2
            moved = _moved(blob, corner, owners.shape)
            if moved is None or np.count_nonzero(moved.mask) < 0.5 * np.count_nonzero(blob.mask):
                continue
            shared = np.count_nonzero(moved.mask & (owners[slices(moved.box)] > 0))
            if shared <= 0.2 * np.count_nonzero(moved.mask):
                return moved
    return moved


def _blob(radius: float, generator: np.random.Generator) -> Body:
    """An ellipse with a wavy outline, brighter in the middle, mottled."""
    major = radius * generator.uniform(0.75, 1.15)
    minor = major * generator.uniform(0.65, 1.0)
    reach = int(1.35 * major) + 2
    y, x = np.indices((2 * reach + 1, 2 * reach + 1)) - reach
    turn = generator.uniform(0, np.pi)
    along, across = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    angle = np.arctan2(across / minor, along / major)
    lobes, phases = generator.normal(0, 0.05, 3), generator.uniform(0, 2 * np.pi, 3)
    wave = np.tensordot(lobes, np.cos(np.multiply.outer([2, 3, 4], angle) + phases[:, None, None]), 1)
    depth = 1 + wave - np.hypot(along / major, across / minor)
    mask = depth > 0
    mottle = 1 + 0.12 * _smooth(mask.shape, 2, generator)
    light = generator.lognormal(-1.0, 0.35) * np.sqrt(np.clip(depth * 2.2, 0, 1)) * mottle * mask
    return _trimmed(mask, light)
