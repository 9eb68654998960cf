"""The files of an evaluation: a page to look at, its plots, a table of every object, and every number.

They are made in a hidden folder and moved to their places when all of them are complete, ``metrics.json`` last. What it
holds is in :mod:`plurimask.export.numbers`.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any

import numpy as np

from plurimask.export.numbers import numbers
from plurimask.export.tables import write_table

if TYPE_CHECKING:
    from plurimask.comparison import Report

NUMBERS, OBJECTS, PAGE, PLOTS = "metrics.json", "per_object.csv", "report.html", "plots"


def check_free(output: Path, *, overwrite: bool) -> None:
    """Complains if a report cannot be written there. output: a folder, or a name in ``.json`` for the numbers alone.

    Raises:
        FileExistsError: files of a report are there and may not be replaced, or a file has the name of a folder or a
            folder that of a file.
        PermissionError: nothing can be written there.
    """
    alone = output.suffix == ".json"
    if not alone and output.exists() and not output.is_dir():
        raise FileExistsError(f"{output} is a file; a report needs a folder, or a name that ends in .json.")
    places = [output] if alone else [output / name for name in (NUMBERS, OBJECTS, PAGE, PLOTS)]
    for place in (place for place in places if place.exists()):
        if place.is_dir() != (place.name == PLOTS):
            kinds = ("file", "folder") if place.name == PLOTS else ("folder", "file")
            raise FileExistsError(f"{place} is a {kinds[0]}; a report needs a {kinds[1]} there: give another name.")
        if not overwrite:
            raise FileExistsError(f"{place} exists; give another name, or replace it (--overwrite).")
    _check_writable(output.parent if alone else output)


def _check_writable(folder: Path) -> None:
    """Complains if no file can be made in a folder, or in the last one on the way to it that is there."""
    there = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    if not there.is_dir():
        raise FileExistsError(f"{there} is a file, so that there is no folder {folder}; give another name.")
    try:
        with TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise PermissionError(f"nothing can be written to {there} ({error}); give another name.") from error


def write_report(report: Report, output: Path, *, overwrite: bool = False) -> None:
    """Write the files of a report.

    Args:
        report: the evaluation.
        output: a folder, made where it is not there, or a name in ``.json`` for the numbers alone.
        overwrite: replace files of a report that are there; other files are left alone in any case.

    Raises:
        FileExistsError: as :func:`check_free`.
        PermissionError: likewise.
    """
    check_free(output, overwrite=overwrite)
    alone = output.suffix == ".json"
    folder = output.parent if alone else output
    folder.mkdir(parents=True, exist_ok=True)
    staging = folder / f".report.{os.getpid()}.part"
    staging.mkdir()
    try:
        text = json.dumps(numbers(report), indent=1, allow_nan=False) + "\n"
        if not alone:
            _write_pictures(report, staging)
            write_table(staging / OBJECTS, object_columns(report))
            _move_all(staging, folder)
        (staging / NUMBERS).write_text(text, encoding="utf-8")
        (staging / NUMBERS).replace(output if alone else folder / NUMBERS)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def object_columns(report: Report) -> dict[str, Any]:
    """``per_object.csv``: ``image`` and the columns of :class:`plurimask.assessment.Assessment` of all images.

    A column that an image does not have (``centroid-2``) is NaN there.
    """
    tables = {row.name: row.assessment.objects for row in report.rows}
    lengths = [len(table["kind"]) for table in tables.values()]
    widest = max(tables.values(), key=len)
    columns: dict[str, Any] = {"image": np.repeat(list(tables), lengths)}
    for name in widest:
        parts = [table.get(name, np.full(len(table["kind"]), np.nan)) for table in tables.values()]
        columns[name] = np.concatenate(parts)
    return columns


def _write_pictures(report: Report, folder: Path) -> None:
    from plurimask.export.gallery import gallery  # here, because matplotlib takes a while to import
    from plurimask.export.page import page
    from plurimask.export.plots import plots

    (folder / PLOTS).mkdir()
    drawn = plots(report)
    for plot in drawn:
        plot.save(folder / PLOTS / f"{plot.name}.png")
    (folder / PAGE).write_text(page(report, drawn, gallery(report)), encoding="utf-8")


def _move_all(staging: Path, folder: Path) -> None:
    """Into their places; plots of an older report that this one does not have go."""
    from plurimask.export.plots import NAMES

    (folder / PLOTS).mkdir(exist_ok=True)
    for name in NAMES:
        (folder / PLOTS / f"{name}.png").unlink(missing_ok=True)
    for path in [path for path in staging.rglob("*") if path.is_file()]:
        path.replace(folder / path.relative_to(staging))
