"""How much of a nucleus a contour of N Fourier orders can hold: mask -> contour -> N orders -> contour -> mask.

    PLURIMASK_DATA=... python experiments/contour_round_trip.py PICTURE.png

The intersection over union with the mask itself, on nuclei of the dsb2018 fit part that are chosen by a seed. What is
drawn again for the intervals is the image, as for every other number.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from plurimask.data.sources import open_source
from plurimask.instances import Mask, slices
from plurimask.metrics.bootstrap import interval
from plurimask.ops.contours import fragmented, rasterise, trace
from plurimask.ops.fourier import closed_positions, descriptors, reconstruct

ORDERS = (1, 2, 3, 5, 8, 12, 16, 25, 40)
SAMPLES, MARGIN = 224, 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--nuclei", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    masks, images = nuclei(Path(os.environ["PLURIMASK_DATA"]) / "dsb2018", options.nuclei, options.seed)
    pieces = sum(map(fragmented, masks))
    print(f"{len(masks)} nuclei of {len(set(images))} images; {pieces} in several pieces, of which one is traced\n")
    ious = np.array([[round_trip(mask, order) for order in ORDERS] for mask in masks])
    _, image = np.unique(images, return_inverse=True)
    print("| N | mean IoU | 95 % interval | 5th percentile | least |")
    print("|---|---|---|---|---|")
    intervals = [interval(of_images(column, image), statistic=share) for column in ious.T]
    for order, column, found in zip(ORDERS, ious.T, intervals, strict=True):
        low = np.quantile(column, 0.05)
        print(f"| {order} | {found.mean:.4f} | {found.low:.4f} to {found.high:.4f} | {low:.3f} | {column.min():.3f} |")
    draw(ious, np.array([(found.low, found.high) for found in intervals]), options.picture)


def nuclei(folder: Path, count: int, seed: int) -> tuple[list[Mask], list[str]]:
    """Crops of nuclei drawn from all of the fit part, and the images that they are from."""
    samples = list(open_source(folder, split="fit"))
    every = [(mask, sample.name) for sample in samples for mask in sample.truth().masks]
    chosen = np.random.default_rng(seed).choice(len(every), count, replace=False)
    return [every[index][0] for index in chosen], [every[index][1] for index in chosen]


def round_trip(mask: Mask, order: int) -> float:
    """IoU with the mask after ``order`` orders."""
    padded = np.pad(mask, MARGIN)  # the contour may leave the box of its object
    location, coefficients = descriptors(trace(padded), order)
    contour = reconstruct(location[None], coefficients[None], closed_positions(SAMPLES))[0]
    box, crop = rasterise(contour, padded.shape)
    shared = np.count_nonzero(padded[slices(box)] & crop)
    return shared / (np.count_nonzero(mask) + np.count_nonzero(crop) - shared)


def of_images(values: NDArray[np.float64], image: NDArray[np.int64]) -> NDArray[np.float64]:
    """``(images, 2)``: sum over the nuclei of an image, and their number."""
    return np.column_stack([np.bincount(image, values), np.bincount(image)])


def share(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over all nuclei of the images that were drawn."""
    totals = sums.sum(axis=1)
    mean: NDArray[np.float64] = totals[:, 0] / totals[:, 1]
    return mean


def draw(ious: NDArray[np.float64], ends: NDArray[np.float64], picture: Path) -> None:
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    axes.fill_between(ORDERS, *np.quantile(ious, (0.05, 0.95), axis=0), alpha=0.2, label="5 % to 95 % of the nuclei")
    axes.fill_between(ORDERS, *ends.T, alpha=0.5, label="mean, 95 % interval")
    axes.plot(ORDERS, ious.mean(axis=0), "o-", label="mean")
    axes.set(xlabel="Fourier orders N", ylabel="IoU with the mask", xscale="log", ylim=(0.6, 1.005))
    axes.set_xticks(ORDERS, [str(order) for order in ORDERS])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.savefig(picture, dpi=110)


if __name__ == "__main__":
    main()
