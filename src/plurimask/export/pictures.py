"""Pictures to look at: what was found, and how doubtful each object is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import PIL.Image
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray
from skimage.measure import find_contours

from plurimask.uncertainty import doubt

if TYPE_CHECKING:
    from plurimask.probabilistic import ProbabilisticInstances

Picture = NDArray[np.uint8]
Outline = NDArray[np.float64]  # (P, 2): x, y in pixels of the image, whose first pixel spans 0 to 1

# From certain to doubtful the lightness rises and the hue goes from blue to yellow and orange, which every kind
# of colour blindness can tell apart.
DOUBT_COLOURS = LinearSegmentedColormap.from_list("doubt", ["#2f8be6", "#2fb5c9", "#7ccb6b", "#ffd33d", "#ff9a1f"])

_CHANNEL_COLOURS = {  # magenta and green, then cyan and yellow: told apart by every kind of colour blindness
    1: ((1, 1, 1),),
    2: ((1, 0, 1), (0, 1, 0)),
    3: ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    4: ((1, 0, 1), (0, 1, 0), (0, 0.6, 1), (1, 0.8, 0)),
}
_LONGEST_SIDE = 1200  # smaller images are enlarged to about this, by a whole number
_LARGEST_SIDE = 2400  # larger images are reduced to this
_LEGEND_HEIGHT, _NARROWEST = 46, 760
_NUMBERED = 10  # so many of the most doubtful objects bear their label
_BRIGHTEST = 225  # of the image, so that the outlines stay the brightest
_MOST_DOUBTFUL = 0.6  # where the colours end: at an existence of 1/2 and usual agreement
_DARK, _LIGHT = (16, 20, 24), "#e8ecf0"
_RIM = "#101418"
_DOTS = 100  # matplotlib's dots per inch; line widths are given in points, 72 per inch


@dataclass(frozen=True)
class _Hypothesis:
    outlines: tuple[Outline, ...]
    anchor: tuple[float, float]  # x, y of the pixel of the object that is nearest to its centroid
    label: int  # 0: rejected
    doubt: float


def overview(image: NDArray[Any], result: ProbabilisticInstances) -> Picture:
    """The image with the outline of every object, coloured by doubt.

    Solid outlines are the objects of ``result.best()``, thin dashed ones the hypotheses that it rejects. Where
    objects overlap, both outlines are drawn and the region is brightened. The most doubtful objects bear their
    label. A volume is shown as its maximum projection. Small images are enlarged, very large ones reduced.

    Args:
        image: ``(C, *spatial)`` or ``(*spatial)``.
        result: the objects found in it.

    Returns:
        ``(H, W, 3)`` uint8, with the legend below the image.
    """
    colours = composite(image, ndim=result.ndim)
    overlaps = _project(result.best().owners() > 1)
    _brighten(colours, overlaps)
    hypotheses = _hypotheses(result)
    sheet = _Sheet(colours)
    sheet.draw_outlines(hypotheses)
    sheet.draw_labels(hypotheses)
    sheet.draw_legend(_caption(hypotheses, overlapping=bool(overlaps.any())))
    return sheet.pixels()


def composite(image: NDArray[Any], *, ndim: int) -> Picture:
    """``(C, *spatial)`` or ``(*spatial)`` -> ``(H, W, 3)`` uint8, every channel stretched by its percentiles.

    One channel is grey, two are magenta and green, three red, green and blue; of more than four, the first four
    are shown. A volume is projected (maximum). Values that are not finite are black.
    """
    channels = (image[None] if image.ndim == ndim else image)[:4]
    flat = channels.reshape(len(channels), -1, *channels.shape[-2:]).max(axis=1)
    stretched = [_stretch(channel) for channel in flat]
    if len(stretched) == 1:
        return np.repeat(stretched[0].astype(np.uint8)[..., None], 3, axis=2)
    colours = _CHANNEL_COLOURS[len(stretched)]
    mixed = [sum(part * colour[k] for part, colour in zip(stretched, colours, strict=True)) for k in range(3)]
    return np.stack([np.minimum(channel, 255) for channel in mixed], axis=-1).astype(np.uint8)


def _stretch(channel: NDArray[Any]) -> NDArray[np.float32]:
    """0 to 225; dim objects on a dark ground are lifted, so that they can be seen beside bright ones."""
    values = channel.astype(np.float32)
    known = values[np.isfinite(values)]
    if not known.size:
        return np.zeros_like(values)
    low, middle, high = np.percentile(known[:: max(1, known.size // 2**20)], (0.5, 50, 99.8))
    dark_ground = middle - low < 0.25 * (high - low)
    black, gamma = (middle, 0.6) if dark_ground else (low, 1.0)
    share = np.clip((np.nan_to_num(values, nan=black) - black) / max(high - black, 1e-12), 0, 1)
    return np.asarray(_BRIGHTEST * share**gamma, np.float32)


def _brighten(colours: Picture, region: NDArray[np.bool_]) -> None:
    colours[region] = 255 - ((255 - colours[region]) * 0.45).astype(np.uint8)


def _hypotheses(result: ProbabilisticInstances) -> list[_Hypothesis]:
    table = result.table()
    chosen = table["label"] > 0
    # Also a rejected hypothesis is the more doubtful the less probable it is: its colour is not its place in the queue.
    doubts = doubt(table["expected_iou"], np.ones_like(chosen)).clip(0, 1)
    shown = []
    for n in range(len(result)):
        mask, corner = _project(result.mask(n)), result.boxes[n, 0, -2:]
        if mask.any():
            shown.append(_Hypothesis(_outlines(mask, corner), _anchor(mask, corner), int(table["label"][n]), doubts[n]))
    return shown


def _outlines(mask: NDArray[np.bool_], corner: NDArray[np.int64]) -> tuple[Outline, ...]:
    curves = find_contours(np.pad(mask, 1).astype(np.float32), 0.5)
    # find_contours counts from pixel centres, and the mask is padded by one pixel.
    return tuple((curve + corner - 0.5)[:, ::-1] for curve in curves)


def _anchor(mask: NDArray[np.bool_], corner: NDArray[np.int64]) -> tuple[float, float]:
    inside = np.argwhere(mask)
    y, x = inside[((inside - inside.mean(axis=0)) ** 2).sum(axis=1).argmin()] + corner + 0.5
    return float(x), float(y)


def _project(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return np.asarray(mask.reshape(-1, *mask.shape[-2:]).any(axis=0), np.bool_)


def _caption(hypotheses: Sequence[_Hypothesis], *, overlapping: bool) -> str:
    objects = sum(one.label > 0 for one in hypotheses)
    rejected = len(hypotheses) - objects
    parts = [f"{objects} object{'s' * (objects != 1)}"]
    parts += [f"{rejected} rejected (dashed)"] if rejected else []
    parts += ["overlaps brightened"] if overlapping else []
    parts += ["numbers: most doubtful"] if objects else []
    return "   ·   ".join(parts)


class _Sheet:
    """A figure whose axes count in pixels of the image, with a strip for the legend below."""

    def __init__(self, colours: Picture) -> None:
        rows, columns = colours.shape[:2]
        scale = _scale(max(rows, columns))
        inner = (max(1, round(columns * scale)), max(1, round(rows * scale)))
        self.width, self.height = max(inner[0], _NARROWEST), inner[1] + _LEGEND_HEIGHT
        left = (self.width - inner[0]) // 2
        self.ground = np.full((self.height, self.width, 3), _DARK, np.uint8)
        enlarged = PIL.Image.fromarray(colours).resize(inner, PIL.Image.Resampling.BICUBIC)
        self.ground[: inner[1], left : left + inner[0]] = np.asarray(enlarged)
        self.figure = Figure(
            figsize=((self.width + 0.01) / _DOTS, (self.height + 0.01) / _DOTS), dpi=_DOTS, frameon=False
        )
        self.canvas = FigureCanvasAgg(self.figure)
        self.axes = self.figure.add_axes(
            (left / self.width, _LEGEND_HEIGHT / self.height, inner[0] / self.width, inner[1] / self.height)
        )
        self.axes.set_axis_off()
        self.axes.set(xlim=(0, columns), ylim=(rows, 0))

    def draw_outlines(self, hypotheses: Sequence[_Hypothesis]) -> None:
        for chosen, width, style in ((False, 1.2, (0, (3, 2))), (True, 1.9, "solid")):
            lines = [(o, one.doubt) for one in hypotheses if (one.label > 0) == chosen for o in one.outlines]
            curves, colours = [line for line, _ in lines], DOUBT_COLOURS([value / _MOST_DOUBTFUL for _, value in lines])
            if chosen:  # a dark rim keeps the outline legible on bright images
                self.axes.add_collection(LineCollection(curves, colors=_RIM, alpha=0.55, linewidths=width + 1.4))
            self.axes.add_collection(LineCollection(curves, colors=colours, linewidths=width, linestyles=[style]))

    def draw_labels(self, hypotheses: Sequence[_Hypothesis]) -> None:
        objects = sorted((one for one in hypotheses if one.label), key=lambda one: -one.doubt)
        for one in objects[:_NUMBERED]:
            self.axes.text(
                *one.anchor, str(one.label), color="white", fontsize=8.5, ha="center", va="center",
                path_effects=[withStroke(linewidth=2, foreground=_RIM)],
            )  # fmt: skip

    def draw_legend(self, caption: str) -> None:
        legend = self.figure.add_axes((0, 0, 1, _LEGEND_HEIGHT / self.height))
        legend.set_axis_off()
        legend.set(xlim=(0, self.width), ylim=(0, _LEGEND_HEIGHT))
        legend.text(14, 22, "certain", color=_LIGHT, fontsize=9, va="center")
        legend.imshow(np.linspace(0, 1, 256)[None], cmap=DOUBT_COLOURS, extent=(74, 214, 16, 30), aspect="auto")
        legend.set(xlim=(0, self.width), ylim=(0, _LEGEND_HEIGHT))
        legend.text(222, 22, "doubtful", color=_LIGHT, fontsize=9, va="center")
        legend.text(self.width - 14, 22, caption, color=_LIGHT, fontsize=9, va="center", ha="right")

    def pixels(self) -> Picture:
        """Lines and text over the image, which is put under them unchanged: matplotlib would resample it, slowly."""
        renderer = self.canvas.get_renderer()
        buffer = np.asarray(renderer.buffer_rgba())
        buffer[..., :3], buffer[..., 3] = self.ground, 255
        self.figure.draw(renderer)
        return buffer[..., :3].copy()


def _scale(longest: int) -> float:
    if longest > _LARGEST_SIDE:
        return _LARGEST_SIDE / longest
    return max(1, min(8, round(_LONGEST_SIDE / longest)))
