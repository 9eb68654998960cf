"""``report.html``: one file to look at, without scripts, and without anything that it would have to fetch."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import plurimask
from plurimask.export.gallery import SHOWN, Exhibit, Gallery
from plurimask.export.plots import Plot
from plurimask.metrics.outcomes import KINDS

if TYPE_CHECKING:
    from plurimask.comparison import Report
    from plurimask.metrics.bootstrap import Interval

_FOLDED = 30  # images beyond which their table is folded up

# Nothing may be loaded from anywhere, whatever a name in the data contains.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def page(report: Report, plots: Sequence[Plot], gallery: Gallery) -> str:
    """The whole page. plots and gallery: what was drawn of this report."""
    parts = [
        _head(report),
        _tiles(_quality(report), images=report.summary.images),
        _honesty_section(report),
        _plots_section(plots),
        _outcomes_section(report),
        _gallery_section(gallery),
        _images_section(report),
        _settings_section(report),
    ]
    title = f"Evaluation of {escape(_name(report))}"
    style = files("plurimask.export").joinpath("report.css").read_text(encoding="utf-8")
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<title>{title}</title>\n<link rel="icon" href="data:,">\n<style>\n{style}</style>\n</head>\n'
        f"<body>\n<main>\n{''.join(parts)}</main>\n</body>\n</html>\n"
    )


def _name(report: Report) -> str:
    return Path(str(report.settings["found"])).name


def _head(report: Report) -> str:
    whole, settings = report.summary, report.settings
    truth = escape(Path(str(settings["truth"])).name)
    part = f", part <b>{escape(settings['split'])}</b>" if settings["split"] else ""
    one = "image" if whole.images == 1 else "images"
    intervals = (
        "Below every number is its 95 % interval: how far it would move with other images (bootstrap over images)."
        if whole.images > 1
        else "A single image has no interval: how far these numbers would move with other images is not known."
    )
    return (
        f"<h1>{escape(_name(report))}</h1>\n"
        f'<p class="lead muted">against {truth}{part} · {whole.images} {one} · {whole.truth_count} true and '
        f"{whole.found_count} found objects · mode {escape(settings['mode'])} · plurimask {plurimask.__version__}</p>\n"
        f'<p class="lead muted">{intervals}</p>\n'
    )


Tile = tuple[str, "Interval | None", str]
"""Name, number, what it says."""


def _quality(report: Report) -> list[Tile]:
    quality = report.quality
    measures = quality.segmentation.measures
    first = next(name.removeprefix("S@") for name in measures if name.startswith("S@"))
    middle = "0.75" if "S@0.75" in measures and first != "0.75" else None
    return [
        ("avS", measures.get("avS"), "mean of S over IoU .5:.05:.95"),
        (f"S at {first}", measures[f"S@{first}"], "TP / (TP + FP + FN)"),
        ("S at 0.75", measures[f"S@{middle}"] if middle else None, "the same for closer outlines"),
        (f"Precision at {first}", measures[f"P@{first}"], "share of found objects that are true"),
        (f"Recall at {first}", measures[f"R@{first}"], "share of true objects that are found"),
        ("PQ", quality.panoptic.per_image["PQ"], "panoptic quality: how many, times how well"),
        ("COCO AP", quality.coco.get("COCO_AP"), "p_exists is the confidence"),
        ("COCO AP, constant", quality.coco.get("COCO_AP_constant"), "without confidence, random order"),
    ]


def _honesty_section(report: Report) -> str:
    honesty = report.quality.honesty
    if honesty is None:
        return '<p class="muted">These results have no probabilities, so nothing is said about doubt.</p>\n'
    at, patches = f"{honesty.threshold:.3g}", honesty.at_threshold
    risk, errors = honesty.ranking.risk, honesty.ranking.errors
    tiles: list[Tile] = [
        ("Existence: Brier", honesty.existence.brier, "of p_exists; 0 is perfect, 0.25 is saying 1/2"),
        ("Existence: ECE", honesty.existence.ece, "how far frequencies are from p_exists; 0 is perfect"),
        ("Masks: Brier", honesty.mask.brier, "of the pixels of all hypotheses; 0 is perfect"),
        ("Masks: ECE", honesty.mask.ece, "how far frequencies are from shares of draws; 0 is perfect"),
        ("Expected IoU: error", honesty.expected_iou.error, "mean distance to the IoU with the truth; 0 is perfect"),
        ("Accurate if certain", patches["p(accurate|certain)"], f"patches at {at} nats; 1 is perfect"),
        ("Uncertain if inaccurate", patches["p(uncertain|inaccurate)"], f"patches at {at} nats; 1 is perfect"),
        ("PAvPU", patches["PAvPU"], "patches accurate and certain, or neither; 1 is perfect"),
        ("AURC", honesty.ranking.aurc, f"risk over coverage; at best {_text(risk.aurc - risk.excess)}"),
        ("Errors found by doubt", honesty.ranking.area, f"area; random 0.5, {errors.errors} errors"),
    ]
    if honesty.border is not None:
        tiles.append(("Borders: spread", honesty.border.spread, "of error / sigma; 1 where sigmas are true"))
    if report.proofreading is not None:
        gain, ideal = (report.proofreading.curves[order].gain for order in ("doubt", "ideal"))
        tiles.append(("Proofreading by doubt", gain, f"gain in avS over random orders; at best {_text(ideal.mean)}"))
    return (
        "<h2>What is the doubt worth?</h2>\n<p>Whether probabilities come true, and whether the doubtful objects are "
        f"the wrong ones.</p>\n{_tiles(tiles, images=report.summary.images)}"
    )


def _tiles(tiles: Iterable[Tile], *, images: int) -> str:
    shown = "".join(_tile(name, number, about, images) for name, number, about in tiles if number is not None)
    return f'<div class="grid tiles">\n{shown}</div>\n'


def _tile(name: str, number: Interval, about: str, images: int) -> str:
    known = images > 1 and not math.isnan(number.low)
    ends = f"{_text(number.low)} to {_text(number.high)}" if known else "no interval"
    return (
        f'<div class="card tile"><b>{_text(number.mean)}</b><span class="name">{escape(name)}</span>'
        f'<span class="ends muted">{ends}</span><span class="about">{escape(about)}</span></div>\n'
    )


def _text(value: float) -> str:
    """Three digits, or a dash for what is not known.

    >>> _text(0.5), _text(float("nan"))
    ('0.500', '–')
    """
    return "–" if math.isnan(value) else f"{value:.3f}"


def _plots_section(plots: Sequence[Plot]) -> str:
    shown = "".join(
        f'<figure class="card"><h3>{escape(plot.title)}</h3>{plot.svg()}<figcaption>{escape(plot.caption)}</figcaption>'
        "</figure>\n"
        for plot in plots
    )
    return f'<h2>Curves</h2>\n<div class="grid plots">\n{shown}</div>\n'


def _outcomes_section(report: Report) -> str:
    """What became of the objects, as a bar."""
    counts = Counter(str(kind) for row in report.rows for kind in row.assessment.objects["kind"])
    kinds = [kind for kind in KINDS if counts[kind]]
    bar = "".join(f'<span class="{_css(kind)}" style="flex:{counts[kind]}"></span>' for kind in kinds)
    key = "".join(f'<li><i class="{_css(kind)}"></i>{kind} <b>{counts[kind]}</b></li>' for kind in kinds)
    return (
        "<h2>What became of the objects?</h2>\n<p>At an IoU of 1/2. Every found object is in one of these, and every "
        "true one that was missed; per_object.csv lists them.</p>\n"
        f'<div class="card"><div class="bar">{bar}</div><ul class="key">{key}</ul></div>\n'
    )


def _css(kind: str) -> str:
    return kind.lower().replace(" ", "-")


def _gallery_section(gallery: Gallery) -> str:
    if not gallery.worst:
        return ""
    key = (
        '<p class="muted"><span class="line"></span> found &nbsp; <span class="line dashed"></span> true &nbsp; '
        "thick: the object that is meant</p>\n"
    )
    worst = (
        f"<h2>The {_number(gallery.worst)} worst objects</h2>\n<p>Those with the smallest IoU, missed ones included; "
        f"at equal IoU the ones that were doubted least.</p>\n{key}{_crops(gallery.worst)}"
    )
    if not gallery.doubtful:
        return worst
    return worst + (
        f"<h2>The {_number(gallery.doubtful)} most doubtful objects</h2>\n<p>Right or wrong: these are the ones that a "
        f"person would be shown first.</p>\n{key}{_crops(gallery.doubtful)}"
    )


def _number(exhibits: Sequence[Exhibit]) -> str:
    return "ten" if len(exhibits) == SHOWN else str(len(exhibits))


def _crops(exhibits: Iterable[Exhibit]) -> str:
    shown = "".join(
        f'<figure class="card crop">{exhibit.svg}<figcaption>{_caption(exhibit)}</figcaption></figure>\n'
        for exhibit in exhibits
    )
    return f'<div class="grid crops">\n{shown}</div>\n'


def _caption(exhibit: Exhibit) -> str:
    facts = exhibit.facts
    side = "true object" if facts["kind"] == "missed" else "object"
    words = [f"<b>{escape(exhibit.image)}</b>, {side} {facts['label']}", f"{facts['kind']}, IoU {facts['iou']:.2f}"]
    if not math.isnan(facts["p_exists"]):
        words += [f"p_exists {facts['p_exists']:.2f}", f"agreement {facts['agreement']:.2f}"]
    return "<br>".join(words)


def _images_section(report: Report) -> str:
    thresholds = report.rows[0].scores.thresholds
    places = sorted({0, len(thresholds) // 2})
    heads = ["image", "true", "found", *(f"S at {thresholds[place]:.3g}" for place in places), "PQ"]
    lines = []
    for row in report.rows:
        scores = row.scores
        values = [f"{value:.3f}" for value in (*scores.s[places], row.assessment.panoptic.pq)]
        lines.append(_line("td", [escape(row.name), str(scores.truth_count), str(scores.found_count), *values]))
    table = f"<table><thead>{_line('th', heads)}</thead><tbody>{''.join(lines)}</tbody></table>"
    is_open = " open" if len(report.rows) <= _FOLDED else ""
    return (
        f'<h2>Images</h2>\n<details class="card"{is_open}><summary>{len(report.rows)} in all</summary>'
        f'<div class="scroll">{table}</div></details>\n'
    )


def _settings_section(report: Report) -> str:
    lines = [_line("td", [escape(name), escape(_plain(value))]) for name, value in report.settings.items()]
    if report.left_out:
        lines.append(_line("td", ["left out", escape(", ".join(report.left_out))]))
    return (
        '<h2>Settings</h2>\n<details class="card"><summary>What was evaluated, and how</summary><div class="scroll">'
        f"<table><tbody>{''.join(lines)}</tbody></table></div></details>\n"
    )


def _line(tag: str, cells: Iterable[str]) -> str:
    return f"<tr>{''.join(f'<{tag}>{cell}</{tag}>' for cell in cells)}</tr>"


def _plain(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return "–" if value is None else str(value)
