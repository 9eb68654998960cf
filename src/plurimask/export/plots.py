"""The plots of a report: as PNG, and as SVG whose colours and fonts are those of the page that it stands in."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from numpy.typing import NDArray

if TYPE_CHECKING:
    from plurimask.comparison import Report
    from plurimask.honesty import Honesty
    from plurimask.metrics.segmentation import Summary
    from plurimask.proofreading.simulate import Simulation

COLOURS = {
    "ink": "#1c2128",
    "muted": "#5f6b7a",
    "grid": "#dfe3e8",
    "blue": "#1667b7",
    "orange": "#c9510c",
    "green": "#0b7d6e",
}
"""Name -> colour on white. In SVG every one of them is the page's ``var(--name)``, so that a dark page can have others.

Told apart by every kind of colour blindness in the combinations that the plots use, with the help of dashes.
"""

NAMES = ("s_over_iou", "reliability", "patch_uncertainty", "risk_coverage", "errors_found", "proofreading")

_SIZE = (5.4, 3.7)  # inches
_DOTS = 160  # of a PNG, per inch
_SETTINGS: Any = {  # any: matplotlib types its keys one by one
    "font.size": 10,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "plurimask",  # equal plots have equal files
    "axes.edgecolor": COLOURS["muted"],
    "axes.labelcolor": COLOURS["ink"],
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": COLOURS["grid"],
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "legend.labelcolor": COLOURS["ink"],
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
    "text.color": COLOURS["ink"],
    "xtick.color": COLOURS["muted"],
    "ytick.color": COLOURS["muted"],
}

_REFERENCE: Any = {"color": COLOURS["muted"], "linewidth": 1, "linestyle": (0, (4, 3))}
_POINTS = 500  # of a curve over objects, however many there are


@dataclass(frozen=True)
class Plot:
    """One plot.

    Attributes:
        name: of its file, out of :data:`NAMES`.
        title: what is shown.
        caption: how to read it.
        figure: the drawing.
    """

    name: str
    title: str
    caption: str
    figure: Figure

    def svg(self) -> str:
        """An ``<svg>`` element to stand in a page: no fixed size, no colours of its own, ids with the plot's name."""
        file = io.StringIO()
        with matplotlib.rc_context(_SETTINGS):
            nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
            FigureCanvasSVG(self.figure).print_svg(file, metadata=nothing)
        _, tag, rest = file.getvalue().partition("<svg")
        element = re.sub(r'\s(width|height)="[\d.]+pt"', "", tag + rest, count=2)
        element = re.sub(r'(id="|href="#|url\(#)', rf"\1{self.name}-", element)
        for name, colour in COLOURS.items():
            element = element.replace(colour, f"var(--{name})")
        return element.replace("<svg", f'<svg role="img" aria-label="{self.title}"', 1)

    def save(self, path: Path) -> None:
        """As PNG on white."""
        with matplotlib.rc_context(_SETTINGS):
            FigureCanvasAgg(self.figure)
            self.figure.savefig(path, dpi=_DOTS, facecolor="white", format="png", metadata={"Software": None})


def plots(report: Report) -> list[Plot]:
    """All plots that the report has numbers for."""
    honesty, proofreading = report.quality.honesty, report.proofreading
    with matplotlib.rc_context(_SETTINGS):
        drawn = [_s_over_iou(report.summary)]
        if honesty is not None:
            drawn += [draw(honesty) for draw in (_reliability, _patch_uncertainty, _risk_coverage, _errors_found)]
        if proofreading is not None:
            drawn.append(_proofreading(proofreading))
    return drawn


def _axes(*, x: str, y: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=_SIZE, layout="constrained")
    figure.patch.set_alpha(0)
    axes = figure.add_subplot()
    axes.patch.set_alpha(0)
    axes.set(xlabel=x, ylabel=y)
    axes.tick_params(length=0, pad=6)
    return figure, axes


def _legend(figure: Figure) -> None:
    """Above the axes, where no curve can be."""
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=2 if len(labels) == 4 else 3, handlelength=2.2)


def _thinned(count: int) -> NDArray[np.int64]:
    """Indices of at most so many points, the first and the last among them."""
    return np.unique(np.linspace(0, max(0, count - 1), min(count, _POINTS)).astype(np.int64))


def _s_over_iou(summary: Summary) -> Plot:
    figure, axes = _axes(x="IoU from which a pair counts", y="mean over images")
    curves = {
        letter: [value for name, value in summary.measures.items() if name.startswith(f"{letter}@")]
        for letter in ("S", "P", "R")
    }
    at = [float(name.removeprefix("S@")) for name in summary.measures if name.startswith("S@")]
    if summary.images > 1:
        low, high = ([getattr(value, end) for value in curves["S"]] for end in ("low", "high"))
        axes.fill_between(at, low, high, color=COLOURS["blue"], alpha=0.16, linewidth=0)
    looks = {"S": ("S", "blue", "-"), "P": ("precision", "orange", "--"), "R": ("recall", "green", ":")}
    for letter, (label, colour, dashes) in looks.items():
        values = [value.mean for value in curves[letter]]
        axes.plot(at, values, dashes, color=COLOURS[colour], label=label, marker="o", markersize=3.5)
    axes.set(ylim=(0, 1.02))
    _legend(figure)
    band = " The band is the 95 % interval of S." if summary.images > 1 else ""
    return Plot("s_over_iou", "S over IoU", f"How the scores fall as outlines are asked to fit better.{band}", figure)


def _reliability(honesty: Honesty) -> Plot:
    figure, axes = _axes(x="predicted probability", y="share that came true")
    axes.plot([0, 1], [0, 1], **_REFERENCE)
    looks = {
        "an object exists": (honesty.existence, "blue", "o"),
        "a pixel belongs to it": (honesty.mask, "orange", "s"),
    }
    for label, (calibration, colour, marker) in looks.items():
        bins = calibration.reliability
        axes.plot(
            bins.predicted,
            bins.observed,
            color=COLOURS[colour],
            label=label,
            marker=marker,
            markersize=5,
            linewidth=1.2,
        )
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    _legend(figure)
    return Plot(
        "reliability",
        "Do probabilities come true?",
        "Below the dashed line the result is surer than it should be, above it less sure. Objects stand in ten bins of "
        "equal size, pixels in one for every share of draws.",
        figure,
    )


def _patch_uncertainty(honesty: Honesty) -> Plot:
    figure, axes = _axes(x="entropy above which a patch is uncertain, in nats", y="share of patches")
    curve = honesty.patches
    looks = {
        "accurate if certain": (curve.p_accurate_if_certain, "blue", "-"),
        "uncertain if inaccurate": (curve.p_uncertain_if_inaccurate, "orange", "--"),
        "PAvPU": (curve.pavpu, "green", "-."),
    }
    axes.axvline(honesty.threshold, **_REFERENCE)
    for label, (values, colour, dashes) in looks.items():
        axes.plot(curve.thresholds, values, dashes, color=COLOURS[colour], label=label)
    axes.set(xlim=(0, curve.thresholds[-1]), ylim=(0, 1.02))
    _legend(figure)
    return Plot(
        "patch_uncertainty",
        "Is the doubt where the outlines are wrong?",
        "In patches of 4 x 4 pixels. All three should be high; the dashed line is the threshold of Rumberger et al. "
        "2020.",
        figure,
    )


def _risk_coverage(honesty: Honesty) -> Plot:
    figure, axes = _axes(x="share of objects kept, the least doubted first", y="mean of 1 - IoU")
    risk = honesty.ranking.risk
    shown = _thinned(len(risk.risk))
    axes.plot(risk.coverage[shown], risk.risk[shown], color=COLOURS["blue"], label="by doubt")
    axes.plot(risk.coverage[shown], risk.ideal[shown], ":", color=COLOURS["green"], label="ideal order")
    for level in risk.risk[-1:]:  # none without objects
        axes.axhline(level, **_REFERENCE, label="random order")
    _legend(figure)
    axes.set(xlim=(0, 1))
    axes.set_ylim(bottom=0)
    return Plot(
        "risk_coverage",
        "Are the trusted objects right?",
        "If only the least doubted objects are kept, how wrong are they? The ideal order knows the truth.",
        figure,
    )


def _errors_found(honesty: Honesty) -> Plot:
    figure, axes = _axes(x="share of objects inspected, the most doubtful first", y="share of errors found")
    errors = honesty.ranking.errors
    shown = _thinned(errors.objects + 1)
    inspected = shown / max(1, errors.objects)
    axes.plot(inspected, errors.share[shown], color=COLOURS["blue"], label="by doubt")
    axes.plot(inspected, errors.ideal[shown], ":", color=COLOURS["green"], label="ideal order")
    axes.plot([0, 1], [0, 1], **_REFERENCE, label="random order")
    axes.set(xlim=(0, 1), ylim=(0, 1.02))
    _legend(figure)
    return Plot(
        "errors_found",
        "Does looking at doubtful objects find the errors?",
        f"{errors.errors} of {errors.objects} found objects have no true partner. What was missed cannot be inspected "
        "here.",
        figure,
    )


def _proofreading(simulation: Simulation) -> Plot:
    figure, axes = _axes(x="share of inspections made", y="avS")
    looks = {
        "ideal": ("ideal order", "green", ":"),
        "doubt": ("by doubt", "blue", "-"),
        "peaks": ("by peaks of entropy (R20)", "orange", "--"),
        "random": ("random order", "muted", "-"),
    }
    share = np.linspace(0, 1, len(simulation.curves["random"].average))
    for order, (label, colour, dashes) in looks.items():
        axes.plot(share, simulation.curves[order].average, dashes, color=COLOURS[colour], label=label)
    axes.set(xlim=(0, 1))
    _legend(figure)
    return Plot(
        "proofreading",
        "What does proofreading bring?",
        "A person who knows the truth inspects every image object by object and corrects what is wrong.",
        figure,
    )
