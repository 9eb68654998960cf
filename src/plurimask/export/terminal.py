"""What the commands print: tables on the console, complaints on stderr. Each function gives the exit code."""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

if TYPE_CHECKING:
    from jsonargparse import Namespace

    from plurimask.active.select import Selection
    from plurimask.batch import BatchReport
    from plurimask.comparison import Report
    from plurimask.honesty import Honesty
    from plurimask.metrics.bootstrap import Interval
    from plurimask.proofreading.simulate import Simulation
    from plurimask.tuning import TuneReport

DONE, FAILED = 0, 1
MANY = 20  # images beyond which a table is cut

# What the names of measures mean.
MEASURES = {
    "avS": "mean S over IoU .5:.05:.95",
    "avS_nuclei": "mean S over IoU .5:.1:.9",
    "F1_0.8": "share of true objects found with pixel F1 >= .8",
    "COCO_AP": "COCO's average precision, p_exists as confidence",
    "COCO_AP_constant": "the same without confidence",
    "PQ": "panoptic quality",
    "split_rate": "share of true objects found in parts",
    "merge_rate": "share of found objects that join several",
    "F1_challenge": "F1 of the NeurIPS 2022 challenge",
    "F1_challenge (median)": "its median over images",
    "rRAND": "partition of the pixels, ISBI 2012",
    "rINF": "the same by information",
}


def complain(text: str, code: int) -> int:
    """One line on stderr; gives the code back."""
    _on_stderr(" ".join(text.split()))
    return code


class LogLines(logging.Handler):
    """The log on stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        _on_stderr(self.format(record))


def _on_stderr(text: str) -> None:
    """In lines of their own also while there is a progress bar, which puts itself in the place of ``sys.stderr``."""
    sys.stderr.write(f"plurimask: {text}\n")


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
    """Image by image, then all images together with intervals, then how honest the doubt is."""
    console.print(_images_table(report))
    if len(report.rows) > MANY:
        console.print(f"... and {len(report.rows) - MANY} more; -o FOLDER writes every image", highlight=False)
    whole, quality = report.summary, report.quality
    measures = whole.measures
    table = Table("IoU", "S", "95 % interval", "precision", "recall", "F1")
    for name in (name for name in measures if name.startswith("S@")):
        limit = name.partition("@")[2]
        others = (f"{measures[f'{letter}@{limit}'].mean:.3f}" for letter in ("P", "R", "F1"))
        table.add_row(limit, *_in_cells(measures[name], whole.images), *others)
    console.print(table)
    others_too = {**measures, **quality.coco, **quality.panoptic.per_image, **quality.splits.per_image}
    if quality.challenge is not None:
        others_too |= {"F1_challenge": quality.challenge.mean, "F1_challenge (median)": quality.challenge.median}
    others_too |= quality.partition
    for name in (name for name in MEASURES if name in others_too):
        value, ends = _in_cells(others_too[name], whole.images)
        console.print(f"{name} {value} ({ends}), {MEASURES[name]}".replace(" (-)", ""), markup=False, highlight=False)
    if quality.honesty is not None:
        console.print(_honesty_table(quality.honesty, report.proofreading, whole.images))
    counted = f"{whole.images} images, {whole.truth_count} true and {whole.found_count} found objects"
    console.print(counted, highlight=False)
    if options.output is not None:
        console.print(f"the report is in {options.output}", markup=False, highlight=False, soft_wrap=True)
    return DONE


def show_selection(selection: Selection, options: Namespace, console: Console) -> int:
    """One line per choice with its reason; what was left out, and on stderr what is broken."""
    table = Table("rank", _names_column(), *(["place"] if options.crops else []), "why")
    for row in selection.rows[:MANY]:
        starts = [str(value) for name, value in row.items() if name.startswith("start-")]
        table.add_row(str(row["rank"]), escape(row["image"]), *([", ".join(starts)] if starts else []), row["why"])
    console.print(table)
    if len(selection.rows) > MANY:
        console.print(f"... and {len(selection.rows) - MANY} more in selection.csv", highlight=False)
    pool = selection.pool
    unit = "crops" if options.crops else "images"
    lines = [f"{len(selection.rows)} of {len(pool.candidates)} {unit} are chosen; pictures are in {selection.output}"]
    if len(selection.rows) < selection.asked:
        lines += [f"{selection.asked} were asked for; the pool has no more {unit}, so all of them are taken"]
    lines += [f"left out: {name} ({reason})" for name, reason in list(pool.left_out.items())[:MANY]]
    if len(pool.left_out) > MANY:
        lines += [f"... and {len(pool.left_out) - MANY} more in pool.csv"]
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    for image, problem in pool.problems.items():
        complain(f"{image}: {problem}", FAILED)
    return FAILED if pool.problems else DONE


def show_tuning(report: TuneReport, options: Namespace, console: Console) -> int:
    """What was changed, and what it brings."""
    table = Table("parameter", "before", "now")
    for choice in report.choices:
        for name, (before, now) in choice.changes.items():
            table.add_row(name, str(before), str(now))
        calibrated = {"existence": choice.model.calibration, "expected IoU": choice.model.quality}
        for name, platt in calibrated.items():
            table.add_row(f"calibration of {name} (slope, offset)", "", f"{platt.slope:.3f}, {platt.offset:.3f}")
    console.print(table)
    borders = report.raw.border, report.calibrated.border
    meaning = MEASURES.get(report.measure, report.measure)
    lines = [
        f"{report.measure} ({meaning}) of {len(report.rows)} images: {report.before} before, {report.after} now",
        f"difference {report.difference} (parameters alone: {report.uncalibrated})",
        f"existence: Brier score {report.raw.brier:.3f} -> {report.calibrated.brier:.3f}, "
        f"expected calibration error {report.raw.ece:.3f} -> {report.calibrated.ece:.3f}",
        f"expected IoU: mean error {report.raw.iou_error:.3f} -> {report.calibrated.iou_error:.3f}, "
        f"calibration error {report.raw.iou_ece:.3f} -> {report.calibrated.iou_ece:.3f}",
        *(
            f"IoU above {limit:.2g}: expected of {predicted:.3f} -> {report.calibrated.above[limit][0]:.3f} of the "
            f"hypotheses, observed of {observed:.3f}"
            for limit, (predicted, observed) in report.raw.above.items()
        ),
        *(f"borders: error / sigma spreads by {a['spread']:.3f} -> {b['spread']:.3f}" for a, b in [borders] if a and b),
        "S by IoU: "
        + ", ".join(
            f"{name.removeprefix('S@')} {value.mean:.3f}"
            for name, value in report.summary.measures.items()
            if name.startswith("S@")
        ),
        report.protocol,
        "nothing is written; give -o FOLDER for the tuned model" if options.output is None else f"in {options.output}",
    ]
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    return DONE


def _honesty_table(honesty: Honesty, proofreading: Simulation | None, images: int) -> Table:
    """What the probabilities are worth."""
    table = Table("honesty", "value", "95 % interval", "at best")
    for name, calibration in (("p_exists", honesty.existence), ("masks", honesty.mask)):
        table.add_row(f"{name}: Brier score", *_in_cells(calibration.brier, images), "0")
        table.add_row(f"{name}: calibration error", *_in_cells(calibration.ece, images), "0")
    table.add_row("expected IoU: mean error", *_in_cells(honesty.expected_iou.error, images), "0")
    if honesty.border is not None:
        table.add_row("borders: bias of error / sigma", *_in_cells(honesty.border.bias, images), "0")
        table.add_row("borders: spread of error / sigma", *_in_cells(honesty.border.spread, images), "1")
    for name, value in honesty.at_threshold.items():
        table.add_row(f"{name} at {honesty.threshold:.3g} nats", *_in_cells(value, images), "1")
    risk, errors = honesty.ranking.risk, honesty.ranking.errors
    best = f"{risk.aurc - risk.excess:.3f}", f"{1 - errors.errors / (2 * max(1, errors.objects)):.3f}"
    table.add_row("risk over coverage (AURC)", *_in_cells(honesty.ranking.aurc, images), best[0])
    table.add_row("errors found by doubt (random 0.5)", *_in_cells(honesty.ranking.area, images), best[1])
    if proofreading is not None:
        gain, largest = (proofreading.curves[order].gain for order in ("doubt", "ideal"))
        table.add_row("proofreading by doubt (random 0)", *_in_cells(gain, images), f"{largest.mean:.3f}")
    return table


def _in_cells(value: Interval, images: int) -> tuple[str, str]:
    """The value and its interval; a single image has none.

    >>> from plurimask.metrics.bootstrap import Interval
    >>> _in_cells(Interval(0.5, 0.25, 0.75), 3), _in_cells(Interval(0.5, 0.5, 0.5), 1)
    (('0.500', '0.250 to 0.750'), ('0.500', '-'))
    """
    if math.isnan(value.mean):
        return "-", "-"
    return f"{value.mean:.3f}", f"{value.low:.3f} to {value.high:.3f}" if images > 1 else "-"


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
