"""Many images to files: what is there already is kept, what is broken is told, what is interrupted goes on.

Of an image ``NAME`` these are written, in the same relative folder below the output:

* ``NAME_labels.tif``: flattened, the most probable owner of every pixel; the value is the row's ``label`` in the table,
* ``NAME_objects.csv``: one row per hypothesis,
* ``NAME_overview.png``: outlines coloured by doubt,
* ``NAME.plurimask.zarr``: everything, overlaps and probabilities kept,

and for the batch ``summary.csv`` (one row per image) and ``config.json`` (the settings).
"""

from __future__ import annotations

import logging
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from glob import has_magic
from pathlib import Path
from typing import Any

from plurimask.data.io import Image, list_images, read_image
from plurimask.data.samples import Split
from plurimask.data.sources import open_source
from plurimask.data.storage import load_attributes
from plurimask.export.files import EVERYTHING, is_complete, path_of, write_result
from plurimask.ledger import Row, Settings, check_output, differences, fingerprint, write_config, write_summary
from plurimask.model import FILES, Model, find_model, load_model
from plurimask.predict import Answer, Device, Precision, answer, pick_device, seeds_of
from plurimask.rescale import training_zoom
from plurimask.uncertainty import doubt

log = logging.getLogger(__name__)

# What can be wrong with one image, memory included; anything else is a bug and ends the batch.
PROBLEMS = (ValueError, ArithmeticError, OSError, MemoryError, RuntimeError)


@dataclass(frozen=True)
class Job:
    """One image of a batch.

    Attributes:
        name: within the batch.
        target: path of its results without their endings.
        files: what it is read from.
        read: reads it.
        hint: how to choose other channels, where each of the files is one.
    """

    name: str
    target: Path
    files: tuple[Path, ...]
    read: Callable[[], Image]
    hint: str = ""


@dataclass(frozen=True)
class BatchReport:
    """What became of the images of a batch.

    Attributes:
        output: the folder with the results.
        segmented: names of the images that were segmented now.
        kept: names of those whose results were there already.
        failed: name -> what is wrong with the image.
        rows: one per image, in the order of the images; the columns of ``summary.csv``.
    """

    output: Path
    segmented: tuple[str, ...]
    kept: tuple[str, ...]
    failed: Mapping[str, str]
    rows: tuple[Row, ...]


Progress = Callable[[Sequence[Job]], Iterable[Job]]


def silently(jobs: Sequence[Job]) -> Iterable[Job]:
    """Goes through the images and shows nothing."""
    return jobs


def segment_files(
    images: Sequence[Path | str],
    output: Path | str,
    *,
    split: Split | None = None,
    model: Path | str = "nuclei",
    draws: int = 8,
    seed: int = 0,
    pixel_size: float | None = None,
    diameter: float | None = None,
    axes: str | None = None,
    channel_files: Sequence[str] | None = None,
    device: Device = "auto",
    precision: Precision = "auto",
    overwrite: bool = False,
    progress: Progress = silently,
) -> BatchReport:
    """Segments image files into a folder; an interrupted batch goes on where it stopped.

    Args:
        images: files, folders (searched through) and patterns such as ``plate/*_w2.tif``; with a split one data set.
        output: folder for the results; the folders of the images are repeated in it.
        split: only this part of a data set of images with truth, in a layout that ``train`` reads; the results bear
            the names of its images.
        model: name of a shipped model, or a model folder.
        draws: how often the model is asked; at most 255. A deterministic model is asked once.
        seed: of the first draw; draw s has seed ``seed + s``.
        pixel_size: of the images in micrometres; they are rescaled to the model's.
        diameter: of the objects in pixels; the images are rescaled to the model's training scale.
        axes: meaning of the files' axes where they do not say it themselves, such as ZYX or CYX.
        channel_files: with a split, which files are the channels, in order, where the data set has a file for each:
            BBBC010 has w2 (bright-field, the default) and w1 (GFP), as in "w2 w1".
        device: "auto" takes a GPU where there is one.
        precision: "auto" is bfloat16 where the processor supports it.
        overwrite: replace results that are there already.
        progress: goes through the images that are to be done, and may show how far it is.

    Raises:
        FileNotFoundError: no such image or model.
        FileExistsError: the folder holds results of other settings, or files that are not results.
        ValueError: two images would be written to the same names; an option does not suit the model or the data.
    """
    output = Path(output)
    if split is not None:
        jobs = plan_part(images, output, split=split, axes=axes, channel_files=channel_files)
    elif channel_files is None:
        jobs = plan(images, output, axes=axes)
    else:
        raise ValueError("channel files belong to a data set; say which part of it is meant, as in --split report.")
    weights = fingerprint(find_model(model) / name for name in FILES)
    settings = Settings(str(model), weights, draws, seed, pixel_size, diameter, axes, channel_files, precision)
    check_output(output, settings, targets={job.name: job.target for job in jobs}, overwrite=overwrite)
    waiting = [job for job in jobs if overwrite or not is_complete(job.target)]
    rows = {job.name: _kept(job, settings) for job in jobs if job not in waiting}
    kept = tuple(name for name, row in rows.items() if "problem" not in row)
    attempts = _attempts(waiting, settings, output=output, device=device, progress=progress)
    try:
        for row in attempts:
            rows[row["image"]] = row
    finally:  # also where somebody pressed Ctrl-C
        write_summary(output, rows)
    failed = {name: row["problem"] for name, row in rows.items() if "problem" in row}
    segmented = tuple(job.name for job in waiting if job.name not in failed)
    return BatchReport(output, segmented, kept, failed, tuple(rows[job.name] for job in jobs))


def plan(images: Sequence[Path | str], output: Path, *, axes: str | None = None) -> list[Job]:
    """Every image with its place below the output.

    One folder is repeated from its inside (``plates/A/1.tif`` of ``plates`` -> ``A/1``), several paths from the folder
    that they have in common, so that equal names never meet.

    Raises:
        FileNotFoundError: there is no such image, or none at all.
        ValueError: two images would be written to the same names.
    """
    found = [_absolute(path) for path in list_images(images)]
    root = Path(os.path.commonpath([_root(Path(entry)) for entry in images]))
    jobs = [_job(path, path.relative_to(root), output=output, axes=axes) for path in found]
    places: defaultdict[str, list[Job]] = defaultdict(list)
    for job in jobs:
        places[str(job.target).casefold()].append(job)  # some file systems do not tell A from a
    for first, second, *_ in (group for group in places.values() if len(group) > 1):
        raise ValueError(
            f"{first.name} and {second.name} would both be written to {first.target}_labels.tif; rename one of them, "
            f"choose with a pattern such as '*{first.files[0].suffix}', or segment them into different folders."
        )
    return jobs


def plan_part(
    images: Sequence[Path | str], output: Path, *, split: Split, axes: str | None, channel_files: Sequence[str] | None
) -> list[Job]:
    """The images of one part of a data set, under the names that they have there; ``evaluate`` finds them by these.

    Raises:
        FileNotFoundError: there is no such folder, or no image for this part.
        ValueError: no data set in a layout that is known, or several paths, or no such channel files.
    """
    if len(images) > 1:
        raise ValueError(f"with a split, one data set is wanted, not {len(images)} paths; segment one after the other.")
    source = open_source(images[0], split=split, axes=axes, channel_files=channel_files)
    return [Job(one.name, output / one.name, one.files, one.image, source.channel_hint) for one in source]


def _attempts(
    waiting: Sequence[Job], settings: Settings, *, output: Path, device: Device, progress: Progress
) -> Iterator[Row]:
    """A row for every image as it is segmented. What suits no image is told here, once, before anything is written."""
    if not waiting:
        return iter(())
    model = load_model(settings.model)
    seeds_of(model, settings.draws, settings.seed)
    pick_device(device)
    files, hint = waiting[0].files, waiting[0].hint
    if hint and model.normalisation.channels(len(files)) != len(model.channels):
        counts = f"{len(files)} in the images, {len(model.channels)} ({', '.join(model.channels)}) in the model"
        raise ValueError(f"the numbers of channels differ: {counts}. {hint}")
    zoom = training_zoom(model.scale, pixel_size=settings.pixel_size, diameter=settings.diameter)
    attempt = partial(_attempt, model=model, settings=settings, zoom=zoom, output=output, device=device)
    return (attempt(job) for job in progress(waiting))


def _kept(job: Job, settings: Settings) -> Row:
    """The row of an image whose result is there already."""
    attributes = load_attributes(path_of(job.target, EVERYTHING))
    if attributes.get("fingerprint") != fingerprint(job.files):
        return _problem(job, "not the image that this result was made from; use another folder or --overwrite")
    # A run with --overwrite may have been stopped before it came to this image.
    if different := differences(attributes["settings"], settings):
        return _problem(job, f"its result is one of other settings ({'; '.join(different)}); use --overwrite")
    return dict(attributes["row"])


def _attempt(job: Job, *, model: Model, settings: Settings, zoom: float, output: Path, device: Device) -> Row:
    """Segments one image and writes its files; what is wrong with the image becomes a row, too."""
    start = time.perf_counter()
    try:
        image = job.read()
        answered = answer(
            image.data,
            model,
            zoom=zoom,
            draws=settings.draws,
            seed=settings.seed,
            device=device,
            precision=settings.precision,
        )
        result = answered.found
        row = {"image": job.name, **summarise(answered), "seconds": round(time.perf_counter() - start, 3)}
        spacing = image.pixel_size if settings.pixel_size is None else (settings.pixel_size,) * result.ndim
        attributes = {"row": row, "fingerprint": fingerprint(job.files), "settings": asdict(settings)}
        write_config(output, settings)  # and not before: settings that suit no image shall not bind the folder
        write_result(job.target, result, image, spacing=spacing, attributes=attributes)
    except PROBLEMS as error:
        log.debug("%s", job.name, exc_info=True)
        return _problem(job, str(error).removeprefix(f"{job.files[0]}: ") or type(error).__name__)
    if answered.warning:
        log.warning("%s %s", job.name, answered.warning)
    return row


def summarise(answered: Answer) -> dict[str, Any]:
    """``objects``, the 95 % interval of their number, the mean doubt of the chosen ones; how unlike the image looks."""
    result = answered.found
    table = result.table()
    chosen = table["label"] > 0
    doubts = doubt(table["expected_iou"], chosen)[chosen]
    low, high = result.count_interval()
    mean = round(float(doubts.mean()), 6) if len(doubts) else None
    unlike = None if answered.unlike is None else round(answered.unlike, 3)
    counts = {"objects": int(chosen.sum()), "objects_low": low, "objects_high": high}
    return {**counts, "mean_doubt": mean, "unlike": unlike}


def _problem(job: Job, text: str) -> Row:
    return {"image": job.name, "problem": " ".join(text.split())}


def _job(path: Path, name: Path, *, output: Path, axes: str | None) -> Job:
    return Job(name.as_posix(), output / name.with_suffix(""), (path,), partial(read_image, path, axes=axes))


def _root(entry: Path) -> Path:
    """The folder from which the names below a path, or below a pattern, are counted."""
    absolute = _absolute(entry)
    if absolute.exists():
        return absolute if absolute.is_dir() else absolute.parent
    while has_magic(str(absolute)):
        absolute = absolute.parent
    return absolute


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path))  # noqa: PTH100 - resolve() follows links, whose targets may have other names
