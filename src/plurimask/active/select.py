"""Which images of a pool to annotate next, with the reason of every choice.

Into a new folder are written:

* ``selection.csv``: one row per choice: rank, image, place of a crop, scores, reason,
* ``NNN_NAME.png``: its outlines coloured by doubt,
* ``NNN_NAME.tif``: of a crop its pixels, to be annotated,
* ``pool.csv``: every image (or crop), what it scores, and why it was no candidate.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import imageio.v3 as imageio
import numpy as np
import tifffile
from numpy.typing import NDArray

from plurimask.active.acquisition import DEFAULT, Choices, Score, Strategy, choose, scores, why
from plurimask.active.candidates import Candidate, Examiner, Pool, content_hash, gather
from plurimask.active.examination import Examination, cut_out
from plurimask.batch import Job, Progress, plan, plan_part, silently
from plurimask.data.io import Image, list_images, read_image
from plurimask.data.samples import Split
from plurimask.export.pictures import overview
from plurimask.export.tables import write_rows
from plurimask.instances import slices
from plurimask.ledger import Row
from plurimask.model import Model, load_model
from plurimask.predict import Device, Precision, seeds_of
from plurimask.rescale import training_zoom

SELECTION, POOL = "selection.csv", "pool.csv"


@dataclass(frozen=True, eq=False)
class Selection:
    """What was chosen.

    Attributes:
        output: the folder.
        rows: one per choice, best first; the columns of ``selection.csv``.
        pool: what it was chosen from, and what was left out.
        asked: how many choices were asked for; there are fewer only if the pool has no more.
    """

    output: Path
    rows: tuple[Row, ...]
    pool: Pool
    asked: int


def select(
    pool: Sequence[Path | str],
    output: Path | str,
    count: int,
    *,
    model: Path | str = "nuclei",
    strategy: Score = DEFAULT.score,
    diversity: float | Literal["inf"] = DEFAULT.diversity,
    crops: int | None = None,
    annotated: Sequence[str] | None = None,
    split: Split | None = None,
    draws: int = 8,
    seed: int = 0,
    pixel_size: float | None = None,
    diameter: float | None = None,
    axes: str | None = None,
    channel_files: Sequence[str] | None = None,
    device: Device = "auto",
    precision: Precision = "auto",
    progress: Progress = silently,
) -> Selection:
    """Chooses the images, or crops of images, to annotate next, and says why.

    Args:
        pool: files, folders (searched through) and patterns; with a split one data set.
        output: a new folder for the choices.
        count: how many to choose; a smaller pool is chosen whole.
        model: name of a shipped model, or a model folder.
        strategy: what to rank by: random, entropy_sum, entropy_mean, bald_sum, bald_mean (doubt about pixels),
            expected_errors, splits_and_merges (doubt about objects).
        diversity: how many times as many images are put on the shortlist as are chosen; taken are those that look
            least like each other and like the annotated ones. 1 takes the highest ranked, inf asks for looks alone.
        crops: choose parts with sides of so many pixels instead of whole images.
        annotated: files, folders and patterns of images that are annotated; they are not chosen again. What the model
            remembers of its training images is known without this.
        split: only this part of a data set of images with truth; images that the model was trained on are left out.
        draws: how often the model is asked; at most 255. A deterministic model is asked once.
        seed: of the first draw, of what is drawn at random, and of ties.
        pixel_size: of the images in micrometres; they are rescaled to the model's.
        diameter: of the objects in pixels; the images are rescaled to the model's training scale.
        axes: meaning of the files' axes where they do not say it themselves, such as ZYX or CYX.
        channel_files: with a split, which files are the channels, in order, where the data set has a file for each.
        device: "auto" takes a GPU where there is one.
        precision: "auto" is bfloat16 where the processor supports it.
        progress: goes through the images that are to be done, and may show how far it is.

    Raises:
        FileNotFoundError: no such image or model.
        FileExistsError: the output is there already; nothing is overwritten.
        ValueError: an option is out of range, or there is no image that can be chosen.
    """
    output, way = Path(output), Strategy(strategy, float(diversity))
    if output.exists():
        raise FileExistsError(f"{output} exists already, and nothing is overwritten; give another folder.")
    if count < 1:
        raise ValueError(f"{count} images are to be chosen; give 1 at least.")
    loaded = load_model(model)
    seeds_of(loaded, draws, seed)
    zoom = training_zoom(loaded.scale, pixel_size=pixel_size, diameter=diameter)
    examiner = Examiner(loaded, zoom, draws, seed, device, precision)
    jobs, trained = _jobs(pool, output, loaded, split=split, axes=axes, channel_files=channel_files)
    known, centres = _known(annotated, examiner, axes=axes)
    found = gather(progress(jobs), examiner, score=strategy, crops=crops, annotated=known)
    found = Pool(found.candidates, found.problems, {**trained, **found.left_out})
    if not found.candidates:
        raise ValueError(f"no image of the pool can be chosen: {_reasons(found)}.")
    ranked = None if strategy == "random" else np.array([one.score for one in found.candidates], np.float64)
    looks = np.stack([one.looks for one in found.candidates])
    generator = np.random.default_rng(seed)
    choices = choose(ranked, looks, count, strategy=way, generator=generator, annotated=centres)
    writer = _Writer(output, found, choices, way, examiner, crops is not None)
    return Selection(output, writer.write(progress), found, count)


def _jobs(
    pool: Sequence[Path | str],
    output: Path,
    model: Model,
    *,
    split: Split | None,
    axes: str | None,
    channel_files: Sequence[str] | None,
) -> tuple[list[Job], dict[str, str]]:
    """The images that may be annotated, and of those of a data set that the model was trained on, that it was."""
    if split is None and channel_files is not None:
        raise ValueError("channel files belong to a data set; say which part of it is meant, as in --split fit.")
    if split is None:
        return plan(pool, output, axes=axes), {}
    jobs = plan_part(pool, output, split=split, axes=axes, channel_files=channel_files)
    trained = {job.name: "the model was trained on it" for job in jobs if job.name in set(model.trained_on)}
    return [job for job in jobs if job.name not in trained], trained


def _known(
    annotated: Sequence[str] | None, examiner: Examiner, *, axes: str | None
) -> tuple[dict[str, str], NDArray[np.float64] | None]:
    """Hash -> name of the annotated images, and ``(M, F)`` looks of them and of the training images, if any."""
    paths = list_images(annotated) if annotated else []
    images = [read_image(path, axes=axes).data for path in paths]
    hashes = {content_hash(image): str(path) for image, path in zip(images, paths, strict=True)}
    whole = [np.array([[[0] * (image.ndim - 1), image.shape[1:]]]) for image in images]
    looks = [_looks(path, image, box, examiner) for path, image, box in zip(paths, images, whole, strict=True)]
    remembered = [image[0] for image in examiner.model.familiarity.references]
    return hashes, np.array([*remembered, *looks]) if remembered or looks else None


def _looks(path: Path, image: NDArray[Any], box: NDArray[np.int64], examiner: Examiner) -> NDArray[np.float64]:
    try:
        (looks,) = examiner.looks(image, box)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return np.asarray(looks, np.float64)


def _reasons(pool: Pool) -> str:
    reasons = [f"{name}: {reason}" for name, reason in {**pool.problems, **pool.left_out}.items()]
    return "; ".join(reasons[:5]) + ("; ..." if len(reasons) > 5 else "")


@dataclass(frozen=True, eq=False)
class _Writer:
    """Makes the files in a hidden folder beside their place, which is renamed when all of them are there."""

    output: Path
    pool: Pool
    choices: Choices
    strategy: Strategy
    examiner: Examiner
    crops: bool

    def write(self, progress: Progress) -> tuple[Row, ...]:
        staging = self.output.with_name(f".{self.output.name}.part")
        shutil.rmtree(staging, ignore_errors=True)  # left behind by a run that was killed
        staging.mkdir(parents=True)
        try:
            rows = self._rows(staging, progress)
            columns = list(dict.fromkeys(name for row in rows for name in row if name != "why"))
            write_rows(staging / SELECTION, rows, [*columns, "why"])
            every = self._every()
            write_rows(staging / POOL, every, list(dict.fromkeys(name for row in every for name in row)))
            staging.rename(self.output)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        return tuple(rows)

    def _rows(self, staging: Path, progress: Progress) -> list[Row]:
        """Every chosen image is read and examined once, however many crops of it were chosen."""
        chosen = [self.pool.candidates[index] for index in self.choices.indices]
        jobs = {one.job.name: one.job for one in chosen}
        rows: dict[int, Row] = {}
        for job in progress(list(jobs.values())):
            image = job.read()
            examined = self.examiner(image.data)
            for number, one in enumerate(chosen):
                if one.job.name == job.name:
                    rows[number] = self._row(number, one, image, examined, staging)
        return [rows[number] for number in range(len(chosen))]

    def _row(self, number: int, one: Candidate, image: Image, examined: Examination, staging: Path) -> Row:
        name = f"{number + 1:03d}_{one.job.target.name}"
        name += "_" + "_".join(map(str, one.box[0].tolist())) if self.crops else ""
        part = image.data[(slice(None), *slices(one.box))]
        found = cut_out(examined.found, one.box) if self.crops else examined.found
        picture = overview(part, found)
        imageio.imwrite(staging / f"{name}.png", picture, plugin="pillow", extension=".png", compress_level=2)
        values = scores(examined.doubt, examined.found, one.box[None])
        unit, pool = "crop" if self.crops else "image", len(self.pool.candidates)
        reason = why(self.choices, number, strategy=self.strategy, pool=pool, unit=unit)
        apart = self.examiner.model.familiarity.explain(one.looks) if self.strategy.diversity > 1 else ""
        row = {"rank": number + 1, "image": one.job.name, **_position(one.box, crops=self.crops)}
        row |= {"picture": f"{name}.png"}
        if self.crops:
            _write_crop(staging / f"{name}.tif", part, image.pixel_size)
            row |= {"crop": f"{name}.tif"}
        row |= {score: float(value[0]) for score, value in values.items()}
        row |= {"distance": float(self.choices.distances[number])}
        return row | {"why": f"{reason}; {apart}" if apart else reason}

    def _every(self) -> list[Row]:
        ranks = {int(index): rank for rank, index in enumerate(self.choices.indices, start=1)}
        rows: list[Row] = [
            {
                "image": one.job.name,
                **_position(one.box, crops=self.crops),
                "rank": ranks.get(index),
                self.strategy.score: one.score,
            }
            for index, one in enumerate(self.pool.candidates)
        ]
        rows += [{"image": name, "note": f"left out: {reason}"} for name, reason in self.pool.left_out.items()]
        return rows + [{"image": name, "note": f"problem: {reason}"} for name, reason in self.pool.problems.items()]


def _position(box: NDArray[np.int64], *, crops: bool) -> dict[str, Any]:
    """Columns ``start-i`` and ``stop-i``, in pixels."""
    ends = zip(("start", "stop"), box.tolist(), strict=True)
    return {f"{end}-{axis}": value for end, values in ends for axis, value in enumerate(values)} if crops else {}


def _write_crop(path: Path, part: NDArray[Any], pixel_size: tuple[float, ...] | None) -> None:
    """As OME-TIFF, which says what its axes are and how large a pixel is."""
    axes = "C" + "ZYX"[-(part.ndim - 1) :]
    facts: dict[str, Any] = {"axes": axes}
    for axis, size in zip(axes[1:], pixel_size or (), strict=pixel_size is not None):
        facts |= {f"PhysicalSize{axis}": size, f"PhysicalSize{axis}Unit": "µm"}
    tifffile.imwrite(path, part, ome=True, metadata=facts, photometric="minisblack", compression="zlib")
