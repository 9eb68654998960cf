"""What the commands print: tables on the console, complaints on stderr. Each function gives the exit code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

if TYPE_CHECKING:
    from jsonargparse import Namespace

    from plurimask.batch import BatchReport
    from plurimask.evaluation import Report
    from plurimask.tuning import TuneReport

DONE, FAILED = 0, 1
MANY = 20  # images beyond which a table is cut

# What the names of measures mean.
MEASURES = {
    "avS": "mean S over IoU .5:.05:.95",
    "avS_nuclei": "mean S over IoU .5:.1:.9",
    "F1_0.8": "share of true objects found with pixel F1 >= .8",
}


def complain(text: str, code: int) -> int:
    """One line on stderr; gives the code back."""
    Console(stderr=True, soft_wrap=True, highlight=False).print(f"plurimask: {' '.join(text.split())}", markup=False)
    return code


def show_batch(report: BatchReport, options: Namespace, console: Console) -> int:
    """One line per image; on stderr what failed."""
    table = Table(_names_column(), "objects", "in 95 % of draws", "mean doubt", "seconds")
    done = [row for row in report.rows if "problem" not in row]
    for row in done[:MANY]:
        doubt = "" if row["mean_doubt"] is None else f"{row['mean_doubt']:.3f}"
        span = f"{row['objects_low']} to {row['objects_high']}"
        table.add_row(escape(row["image"]), str(row["objects"]), span, doubt, f"{row['seconds']:.1f}")
    if table.row_count:
        console.print(table)
    if len(done) > MANY:
        console.print(f"... and {len(done) - MANY} more in summary.csv", highlight=False)
    counts = f"{len(report.segmented)} segmented, {len(report.kept)} there already, {len(report.failed)} failed"
    console.print(f"{counts}; results in {report.output}", markup=False, highlight=False, soft_wrap=True)
    for image, problem in report.failed.items():
        complain(f"{image}: {problem}", FAILED)
    return FAILED if report.failed else DONE


def show_evaluation(report: Report, options: Namespace, console: Console) -> int:
    """Image by image, then means over images with their intervals."""
    console.print(_images_table(report))
    if len(report.rows) > MANY:
        console.print(f"... and {len(report.rows) - MANY} more; -o FILE writes every image", highlight=False)
    measures = report.summary.measures
    table = Table("IoU", "S", "95 % interval", "precision", "recall", "F1")
    for name in (name for name in measures if name.startswith("S@")):
        limit, s = name.partition("@")[2], measures[name]
        others = (f"{measures[f'{letter}@{limit}'].mean:.3f}" for letter in ("P", "R", "F1"))
        table.add_row(limit, f"{s.mean:.3f}", f"{s.low:.3f} to {s.high:.3f}", *others)
    console.print(table)
    for name, value in ((name, value) for name, value in measures.items() if "@" not in name):
        text = f"{name} {value.mean:.3f} ({value.low:.3f} to {value.high:.3f}), {MEASURES.get(name, name)}"
        console.print(text, markup=False, highlight=False)
    whole = report.summary
    counted = f"{whole.images} images, {whole.truth_count} true and {whole.found_count} found objects"
    console.print(counted, highlight=False)
    if options.output is not None:
        console.print(f"every number is in {options.output}", markup=False, highlight=False, soft_wrap=True)
    return DONE


def show_tuning(report: TuneReport, options: Namespace, console: Console) -> int:
    """What was changed, and what it brings."""
    table = Table("parameter", "before", "now")
    for choice in report.choices:
        for name, (before, now) in choice.changes.items():
            table.add_row(name, str(before), str(now))
        calibration = choice.model.calibration
        table.add_row("calibration (slope, offset)", "", f"{calibration.slope:.3f}, {calibration.offset:.3f}")
    console.print(table)
    meaning = MEASURES.get(report.measure, report.measure)
    lines = [
        f"{report.measure} ({meaning}) of {len(report.rows)} images: {report.before} before, {report.after} now",
        f"difference {report.difference} (parameters alone: {report.uncalibrated})",
        f"existence: Brier score {report.raw.brier:.3f} -> {report.calibrated.brier:.3f}, "
        f"expected calibration error {report.raw.ece:.3f} -> {report.calibrated.ece:.3f}",
        report.protocol,
        "nothing is written; give -o FOLDER for the tuned model" if options.output is None else f"in {options.output}",
    ]
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    return DONE


def _images_table(report: Report) -> Table:
    """One line per image, at the first and at the middle one of the thresholds."""
    thresholds = report.rows[0].scores.thresholds
    shown = sorted({0, len(thresholds) // 2})
    table = Table(_names_column(), "true", "found", *(f"S at {thresholds[index]:.3g}" for index in shown))
    for row in report.rows[:MANY]:
        counts = (str(row.scores.truth_count), str(row.scores.found_count))
        table.add_row(escape(row.name), *counts, *(f"{row.scores.s[index]:.3f}" for index in shown))
    return table


def _names_column() -> Column:
    """Long names go over several lines: their ends tell them apart."""
    return Column("image", overflow="fold")


def show_facts(facts: Mapping[str, Any], options: Namespace, console: Console) -> int:
    """Two columns."""
    table = Table(show_header=False, box=None)
    for name, value in facts.items():
        table.add_row(escape(str(name)), escape(_plain(value)))
    console.print(table)
    return DONE


def _plain(value: Any) -> str:
    """A fact in words.

    >>> [_plain(value) for value in (None, ["GFP", "bright-field"], 8, [])]
    ['-', 'GFP, bright-field', '8', '-']
    """
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "-"
    return "-" if value is None else str(value)


def show_model(model: Any, options: Namespace, console: Console) -> int:
    """Where the model is."""
    console.print(f"model in {options.output}", markup=False, highlight=False)
    return DONE


def show_names(names: Sequence[str], options: Namespace, console: Console) -> int:
    """How much was written, and where."""
    console.print(f"{len(names)} images in {options.folder}", markup=False, highlight=False)
    return DONE
