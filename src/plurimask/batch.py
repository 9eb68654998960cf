"""Many images to files: what is there already is kept, what is broken is told, what is interrupted goes on.

Of an image ``NAME`` these are written, in the same relative folder below the output:

* ``NAME_labels.tif``: flattened, the most probable owner of every pixel; the value is the row's ``label`` in the table,
* ``NAME_objects.csv``: one row per hypothesis,
* ``NAME_overview.png``: outlines coloured by doubt,
* ``NAME.plurimask.zarr``: everything, overlaps and probabilities kept,

and for the batch ``summary.csv`` (one row per image) and ``config.json`` (the settings).
"""

from __future__ import annotations

import csv
import hashlib
import json
import logging
import os
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from glob import has_magic
from pathlib import Path
from typing import Any

import plurimask
from plurimask.data.io import Image, list_images, natural, read_image
from plurimask.data.samples import Split
from plurimask.data.sources import open_source
from plurimask.data.storage import load_attributes
from plurimask.export.files import EVERYTHING, is_complete, path_of, strangers, write_result
from plurimask.export.tables import write_rows
from plurimask.model import Model, find_model, load_model
from plurimask.predict import Device, Precision, pick_device, seeds_of, segment
from plurimask.probabilistic import ProbabilisticInstances
from plurimask.rescale import training_zoom
from plurimask.uncertainty import doubt

log = logging.getLogger(__name__)

SUMMARY, CONFIG = "summary.csv", "config.json"
COLUMNS = ("image", "objects", "objects_low", "objects_high", "mean_doubt", "seconds", "problem")

# What can be wrong with one image, memory included; anything else is a bug and ends the batch.
PROBLEMS = (ValueError, ArithmeticError, OSError, MemoryError, RuntimeError)

Row = Mapping[str, Any]


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
class Settings:
    """What the results of one folder have in common; ``weights`` is a fingerprint of the model's files."""

    model: str
    weights: str
    draws: int
    seed: int
    pixel_size: float | None
    diameter: float | None
    axes: str | None
    channel_files: Sequence[str] | None
    precision: Precision


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
    weights = fingerprint(find_model(model).glob("*.*"))
    settings = Settings(str(model), weights, draws, seed, pixel_size, diameter, axes, channel_files, precision)
    check_output(output, settings, jobs=jobs, overwrite=overwrite)
    waiting = [job for job in jobs if overwrite or not is_complete(job.target)]
    rows = {job.name: _kept(job, settings) for job in jobs if job not in waiting}
    kept = tuple(name for name, row in rows.items() if "problem" not in row)
    attempts = _attempts(waiting, settings, device=device, progress=progress)
    try:
        for row in attempts:
            rows[row["image"]] = row
    finally:  # also where somebody pressed Ctrl-C
        _write_summary(output, rows)
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


def fingerprint(paths: Iterable[Path]) -> str:
    """A short hash of what files hold, so that a new image or model is not taken for the old one of the same name."""
    digest = hashlib.sha256()
    for path in sorted(paths):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


def check_output(output: Path, settings: Settings, *, jobs: Sequence[Job], overwrite: bool) -> None:
    """Refuses a folder in which results of several settings would meet, or in which something else would be lost.

    Raises:
        FileExistsError: the message says what differs, or what is in the way.
    """
    if output.exists() and not output.is_dir():
        raise FileExistsError(f"{output} is a file; results need a folder: give another name.")
    there = _settings_there(output, jobs)
    differences = [] if there is None else _differences(there, settings)
    others = set(_summary_there(output)) - {job.name for job in jobs}
    if differences and not overwrite:
        raise FileExistsError(
            f"{output} holds results of other settings ({'; '.join(differences)}); use the same ones to go on, another "
            "folder, or --overwrite."
        )
    if differences and others:
        raise FileExistsError(
            f"{output} also holds results of {len(others)} other images ({min(others)}, ...) with other settings "
            f"({'; '.join(differences)}); use another folder."
        )
    in_the_way = [path for job in jobs for path in strangers(job.target)]
    if in_the_way and not overwrite:
        raise FileExistsError(
            f"{in_the_way[0]} exists, but is not part of a result of plurimask ({len(in_the_way)} such files in all); "
            "use another folder, or --overwrite."
        )


def _settings_there(output: Path, jobs: Sequence[Job]) -> Mapping[str, Any] | None:
    """The settings of the results in a folder, from its config or, where that is lost, from a result."""
    config = output / CONFIG
    if config.exists():
        stored: dict[str, Any] = json.loads(config.read_text(encoding="utf-8"))
        if "settings" not in stored:
            raise FileExistsError(f"{config} exists, but plurimask did not write it; use another folder.")
        return dict(stored["settings"])
    for job in jobs:
        if path_of(job.target, EVERYTHING).exists():
            return dict(load_attributes(path_of(job.target, EVERYTHING)).get("settings", {}))
    return None


def _differences(there: Mapping[str, Any], now: Settings) -> list[str]:
    """What changed, in words; a model is its weights, wherever they lie.

    >>> now = Settings("b", "x", 4, 0, None, None, None, ("w2",), "auto")
    >>> _differences({"draws": 8, "model": "a", "weights": "x", "seed": 0, "channel_files": ["w2"]}, now)
    ['draws: 8 there, 4 now', 'precision: None there, auto now']
    """
    values = json.loads(json.dumps(asdict(now)))  # as they come back from a file
    different = {name: (there.get(name), value) for name, value in values.items() if there.get(name) != value}
    if "weights" not in different:
        different.pop("model", None)  # the same model by another path
    elif "model" in different:
        different.pop("weights")
    return [f"{name}: {old} there, {new} now" for name, (old, new) in different.items()]


def _attempts(waiting: Sequence[Job], settings: Settings, *, device: Device, progress: Progress) -> Iterator[Row]:
    """A row for every image as it is segmented. What suits no image is told here, once, before anything is written."""
    if not waiting:
        return iter(())
    model = load_model(settings.model)
    seeds_of(model, settings.draws, settings.seed)
    pick_device(device)
    files, hint = waiting[0].files, waiting[0].hint
    if hint and len(files) != len(model.channels):
        counts = f"{len(files)} in the images, {len(model.channels)} ({', '.join(model.channels)}) in the model"
        raise ValueError(f"the numbers of channels differ: {counts}. {hint}")
    with warnings.catch_warnings(action="ignore"):  # of an unusual scale; the first image will tell
        training_zoom(model.scale, pixel_size=settings.pixel_size, diameter=settings.diameter)
    return (_attempt(job, model, settings, device=device) for job in progress(waiting))


def _kept(job: Job, settings: Settings) -> Row:
    """The row of an image whose result is there already."""
    attributes = load_attributes(path_of(job.target, EVERYTHING))
    if attributes.get("fingerprint") != fingerprint(job.files):
        return _problem(job, "not the image that this result was made from; use another folder or --overwrite")
    # A run with --overwrite may have been stopped before it came to this image.
    if differences := _differences(attributes["settings"], settings):
        return _problem(job, f"its result is one of other settings ({'; '.join(differences)}); use --overwrite")
    return dict(attributes["row"])


def _attempt(job: Job, model: Model, settings: Settings, *, device: Device) -> Row:
    """Segments one image and writes its files; what is wrong with the image becomes a row, too."""
    start = time.perf_counter()
    try:
        image = job.read()
        result = segment(
            image.data,
            model,
            draws=settings.draws,
            seed=settings.seed,
            pixel_size=settings.pixel_size,
            diameter=settings.diameter,
            device=device,
            precision=settings.precision,
        )
        row = {"image": job.name, **summarise(result), "seconds": round(time.perf_counter() - start, 3)}
        spacing = image.pixel_size if settings.pixel_size is None else (settings.pixel_size,) * result.ndim
        attributes = {"row": row, "fingerprint": fingerprint(job.files), "settings": asdict(settings)}
        _write_config(job, settings)
        write_result(job.target, result, image, spacing=spacing, attributes=attributes)
    except PROBLEMS as error:
        log.debug("%s", job.name, exc_info=True)
        return _problem(job, str(error).removeprefix(f"{job.files[0]}: ") or type(error).__name__)
    return row


def summarise(result: ProbabilisticInstances) -> dict[str, Any]:
    """``objects``, the 95 % interval of their number over the draws, and the mean doubt of the chosen ones."""
    table = result.table()
    chosen = table["label"] > 0
    doubts = doubt(table["p_exists"], table["agreement"], chosen)[chosen]
    low, high = result.count_interval()
    mean = round(float(doubts.mean()), 6) if len(doubts) else None
    return {"objects": int(chosen.sum()), "objects_low": low, "objects_high": high, "mean_doubt": mean}


def _problem(job: Job, text: str) -> Row:
    return {"image": job.name, "problem": " ".join(text.split())}


def _write_config(job: Job, settings: Settings) -> None:
    """Not before the first image is segmented: settings that suit no image shall not bind the folder."""
    output = job.target.parents[len(Path(job.name).parts) - 1]
    text = json.dumps({"plurimask": plurimask.__version__, "settings": asdict(settings)}, indent=2) + "\n"
    config = output / CONFIG
    if not config.exists() or config.read_text(encoding="utf-8") != text:
        output.mkdir(parents=True, exist_ok=True)
        unfinished = output / f".{CONFIG}.part"
        unfinished.write_text(text, encoding="utf-8")
        unfinished.replace(config)


def _summary_there(output: Path) -> dict[str, Row]:
    path = output / SUMMARY
    if not path.exists():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        return {row["image"]: row for row in csv.DictReader(file)}


def _write_summary(output: Path, rows: Mapping[str, Row]) -> None:
    """The rows of this batch, and those of other images whose results are in the same folder."""
    output.mkdir(parents=True, exist_ok=True)
    every = {**_summary_there(output), **rows}
    unfinished = output / f".{SUMMARY}.part"
    write_rows(unfinished, [every[name] for name in sorted(every, key=natural)], COLUMNS)
    unfinished.replace(output / SUMMARY)


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
