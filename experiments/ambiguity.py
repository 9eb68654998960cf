"""Does a model doubt what annotators doubt, and where it errs? The study of Czolbe et al. 2021 on LIDC and ISIC 2018.

    PLURIMASK_DATA=... python experiments/ambiguity.py lidc RUNS/lidc-unet RUNS/lidc-ensemble --split report

Models of the method Semantic with one class, any posterior. Of every image 16 masks are drawn, each with a seed of its
own; the seeds are random and the same for all models, so that an ensemble draws its members as Czolbe et al. do, with
replacement, and n draws mean the same for every posterior. A mean probability is that over the 16 draws or, where a
posterior is made of no more functions than that, over all of these (a network: its own softmax; an ensemble: its
members). Printed are rows for RESULTS.md: means with intervals that draw patients again, and the differences of the
energy distance between each model and the next, paired by image. --pictures draws samples of some images, for a folder
outside the repository.
"""

from __future__ import annotations

import argparse
import math
import os
import re
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from ambiguity_study import CASES, COUNTS, DRAWS, Seen, Study, read, study, timed
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from plurimask.data.samples import Sample
from plurimask.data.sources import open_source
from plurimask.export.pictures import composite
from plurimask.metrics.bootstrap import Interval, interval, interval_of_share
from plurimask.metrics.calibration import equal_mass
from plurimask.metrics.clustered import interval_by_group, sums_by_group
from plurimask.metrics.repeated_measures import correlation
from plurimask.model import load_model

BINS = 10

# Czolbe et al. 2021, metrics.csv and tests (docs/algorithms.md, section 9).
PAPER = {
    ("lidc", "Deterministic"): ("1.211 / .872 / .815 / .814", "0", ".358", "-.405", ".592"),
    ("lidc", "Ensemble"): ("1.267 / .709 / .595 / .569", ".265", ".348", "-.451", ".612"),
    ("lidc", "MCDropout"): ("1.244 / .724 / .601 / .467", ".396", ".486", "-.595", ".461"),
    ("lidc", "ProbabilisticUNet"): ("1.294 / .601 / .489 / .456", ".432", ".376", "-.525", ".552"),
    ("isic2018", "Deterministic"): (".530 / .530 / .530 / .530", "0", ".158", "-.380"),
    ("isic2018", "Ensemble"): (".542 / .468 / .440 / .442", ".105", ".158", "-.411"),
    ("isic2018", "MCDropout"): (".557 / .406 / .315 / .310", ".268", ".118", "-.354"),
    ("isic2018", "ProbabilisticUNet"): (".463 / .412 / .401 / .398", ".069", ".124", "-.420"),
}
COLUMNS = ("protocol", "diversity", "soft_dice", "correctness", "agreement")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="lidc or isic2018")
    parser.add_argument("models", nargs="+", help="folders; each is compared with the next")
    parser.add_argument("--split", default="tune", choices=("tune", "report"))
    parser.add_argument("--images", type=int, help="only so many, at equal distances")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--timed", type=int, default=20, help="images whose network time is taken")
    parser.add_argument("--pictures", type=Path, help="folder for samples of some images")
    parser.add_argument("--shown", type=int, default=6, help="number of these images, chosen by the seed")
    options = parser.parse_intermixed_args()
    source = open_source(Path(os.environ["PLURIMASK_DATA"]) / options.data, split=options.split)
    samples = spaced(source, options.images)
    shown = np.random.default_rng(options.seed).permutation(len(samples))[: options.shown].tolist()
    models = [load_model(folder) for folder in options.models]
    studies = []
    for folder, model in zip(options.models, models, strict=True):
        start = time.monotonic()
        studies.append(study(Path(folder).name, model, samples, seed=options.seed, shown=shown))
        studies[-1].seconds = timed(model, spaced(samples, options.timed))
        print(f"{folder}: {(time.monotonic() - start) / 60:.1f} min", file=sys.stderr, flush=True)
    where = f"`python experiments/ambiguity.py {shlex.join(outside(word, options) for word in sys.argv[1:])}`"
    for one, cells in lines(studies, options.data):
        print(line(where, one, cells, options))
        where = "as above"
    for index in shown if options.pictures else []:
        draw(samples[index], [(one.name, one.shown[index]) for one in studies], options.pictures)


def spaced(samples: Sequence[Sample], count: int | None) -> list[Sample]:
    count = min(count or len(samples), len(samples))
    return [samples[number * len(samples) // count] for number in range(count)]


@dataclass(frozen=True)
class Cells:
    """Of a row: what was measured, its values with their intervals (or a text), and what Czolbe et al. have."""

    what: str
    values: list[Interval]
    text: str = ""
    paper: str = "-"


def lines(studies: Sequence[Study], data: str) -> list[tuple[Study, Cells]]:
    first = studies[0]
    found = [(first, Cells("E d(b, b') between annotators", means(first, "disagreement")))]
    found += [(one, cells) for one in studies for cells in (*cells_of(one, data), time_of(one))]
    return found + [(a, cells) for a, b in pairwise(studies) for cells in differences(a, b)]


def cells_of(one: Study, data: str) -> list[Cells]:
    paper = dict(zip(COLUMNS, PAPER.get((data, one.posterior), ()), strict=False))

    def cells(what: str, values: list[Interval], key: str = "") -> Cells:
        return Cells(f"`{one.name}`: {what}", values, paper=paper.get(key, "-"))

    ged, exact = f"GED after {' / '.join(map(str, COUNTS))} draws", "exact annotators"
    found = [
        cells(f"{ged}, protocol of C21 in expectation", means(one, "protocol"), "protocol"),
        cells(f"{ged}, {exact}, V-statistic", means(one, "exact")),
        cells(f"GED after {' / '.join(map(str, COUNTS[1:]))} draws, {exact}, U-statistic", means(one, "unbiased")),
        cells(f"diversity of {DRAWS} draws, V / U", means(one, "diversity"), "diversity"),
        cells(f"entropy in bits of pixels that are {' / '.join(CASES)}", pooled(one, "cases")),
        cells(f"AUROC of entropy for error{images_with(one, 'auroc')}", means(one, "auroc")),
        cells(
            f"rm r, correctness and entropy{images_with(one, 'correctness')}",
            follows(one, "correctness"),
            "correctness",
        ),
        cells("soft Dice distance of mean prediction and annotation", means(one, "soft_dice"), "soft_dice"),
        cells(f"ECE of pixels, {BINS} bins of equal mass", [calibration_error(one)]),
    ]
    if one.annotators == 1:
        return found
    parts = " / ".join(f"{one.annotators - size}-{size}" for size in range(one.annotators // 2 + 1))
    return [
        *found,
        cells(f"entropy in bits of pixels where annotators part {parts}", pooled(one, "splits")),
        cells(f"rm r, disagreement and entropy{images_with(one, 'agreement')}", follows(one, "agreement"), "agreement"),
    ]


def time_of(one: Study) -> Cells:
    many, single = one.seconds
    text = f"{1e3 * single:.0f}; {1e3 * many:.0f}; {many / single:.2f}"
    return Cells(f"`{one.name}`: network, ms an image: 1 draw; {DRAWS} draws; their ratio", [], text)


def differences(a: Study, b: Study) -> list[Cells]:
    found = []
    for key, words in (("exact", "V-statistic"), ("unbiased", "U-statistic")):
        value = interval_by_group(a.numbers(key)[:, -1] - b.numbers(key)[:, -1], a.groups)
        what = f"GED after {DRAWS} draws, exact annotators, {words}: `{a.name}` - `{b.name}`, paired"
        found.append(Cells(what, [value]))
    return found


def means(one: Study, key: str) -> list[Interval]:
    """Of every column, over the images that have a value."""
    values, groups = known(one, key)
    columns = values.reshape(len(groups), -1).T if groups else []
    return [interval_by_group(column, groups) for column in columns]


def follows(one: Study, key: str) -> list[Interval]:
    """The repeated-measures correlation of pixels within images."""
    values, groups = known(one, key)
    return [interval(sums_by_group(values, groups), statistic=correlation)] if groups else []


def known(one: Study, key: str) -> tuple[NDArray[np.float64], list[str | None]]:
    """The values and groups of the images that have one."""
    values = one.numbers(key)
    places = np.flatnonzero(np.isfinite(values.reshape(len(values), -1)).all(axis=1))
    return values[places], [one.groups[place] for place in places]


def images_with(one: Study, key: str) -> str:
    return f", {len(known(one, key)[1])} images"


def pooled(one: Study, key: str) -> list[Interval]:
    """Means over the pixels of all images."""
    sums = sums_by_group(one.numbers(key), one.groups)
    return [interval_of_share(sums[:, column], quotient) for column in range(sums.shape[1])]


def quotient(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """``(R, n, 2)`` -> ``(R,)``; NaN for 0 / 0."""
    part, whole = np.moveaxis(sums.sum(axis=1), -1, 0)
    return np.where(whole > 0, part / np.maximum(1, whole), math.nan)


def calibration_error(one: Study) -> Interval:
    """ECE of the probability of every pixel against the share of the annotators that mark it."""
    probability, marked = (np.concatenate(column).astype(np.float64) for column in zip(*one.forecasts, strict=True))
    bins = equal_mass(probability, np.ones(len(probability), np.int64), bins=BINS)
    image = np.repeat(np.arange(len(one.rows)), [len(marks) for _, marks in one.forecasts])
    sums = [
        np.bincount(image * BINS + bins, weights, len(one.rows) * BINS).reshape(-1, BINS)
        for weights in (probability, marked / one.annotators, None)
    ]
    return interval_of_share(sums_by_group(np.stack(sums, axis=-1), one.groups), error_of_bins)


def error_of_bins(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """``(R, n, B, 3)`` sums of probabilities and of what came true, and numbers of pixels -> ``(R,)``."""
    predicted, observed, size = np.moveaxis(sums.sum(axis=1), -1, 0)
    return np.abs(predicted - observed).sum(axis=1) / size.sum(axis=1)


def line(command: str, one: Study, cells: Cells, options: argparse.Namespace) -> str:
    """Ready for RESULTS.md but for id and time."""
    patients = len(set(one.groups) - {None})
    size = f"{options.data}, {len(one.rows)} images" + (f" of {patients} patients" if patients else "")
    values = cells.text or " / ".join(number(value.mean) for value in cells.values) or "-"
    ends = " / ".join(f"{number(value.low)} to {number(value.high)}" for value in cells.values) or "-"
    row = (command, size, options.split, str(options.seed), "TIME", cells.what, values, ends, cells.paper)
    return f"| ID | {' | '.join(row)} |"


def outside(word: str, options: argparse.Namespace) -> str:
    """A word of the command line without the place of a folder."""
    return f"RUNS/{Path(word).name}" if word in (*options.models, str(options.pictures)) else word


def number(value: float) -> str:
    return "-" if math.isnan(value) else re.sub(r"^(-?)0\.", r"\1.", f"{value:.3f}")


def draw(sample: Sample, seen: Sequence[tuple[str, Seen]], folder: Path) -> None:
    """As PNG, one row for the image and its annotators, and one for every model: samples, mean, entropy."""
    image, annotations = read(sample)
    masks = [(f"annotator {place}", mask) for place, mask in enumerate(annotations, start=1)]
    rows = [(sample.name, [("image", composite(image, ndim=2)), *masks])]
    for name, one in seen:
        drawn = [(f"sample {place}", mask) for place, mask in enumerate(one.masks[:8], start=1)]
        rows.append((name, [*drawn, ("mean", one.probability), ("entropy, bits", one.entropy)]))
    width = max(len(panels) for _, panels in rows)
    figure = Figure(figsize=(1.2 * width, 1.5 * len(rows)), facecolor="lightsteelblue", layout="constrained")
    parts = figure.subfigures(len(rows), squeeze=False)[:, 0]
    for part, (name, panels) in zip(parts, rows, strict=True):
        part.suptitle(name, fontsize=8, x=0.005, ha="left")
        every = part.subplots(1, width)
        for axes in every:
            axes.set_axis_off()
        for axes, (title, values) in zip(every, panels, strict=False):
            axes.imshow(values, vmin=0, vmax=1, cmap="magma" if "bits" in title else "gray")
            axes.set_title(title, fontsize=7, pad=2)
    folder.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure).print_png(folder / f"{sample.name.replace('/', '_')}.png")


if __name__ == "__main__":
    main()
