"""The whole of ``plurimask evaluate`` against COCO's evaluation by pycocotools, on the same objects, one thread each.

    python benchmarks/evaluate.py [--images 50] [--objects 500] [--size 1024] [--draws 8]

The objects are those of benchmarks/matching.py: ellipses that overlap; the found ones are moved, a tenth is missed, a
tenth invented. Each of the draws moves every found object by up to a pixel, and three in ten objects are seen in some
draws only. The truth is flattened to label maps.

``evaluate`` starts from files and measures everything that it has: S and its kin, PQ, COCO's average precision with and
without confidence, the worth of the doubt, proofreading in 800 orders, all with bootstrap intervals. pycocotools starts
from run-length code in memory (of the truth, and of ``best()`` of the results) and computes ten average precisions; its
encoding is not counted. Times are those of the processor, so that other work on the machine distorts them less.
"""

from __future__ import annotations

import os

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[variable] = "1"

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import tifffile
from matching import coco_evaluation, draw, encode, silently

from plurimask.agglomerate import CompleteLinkage
from plurimask.data.storage import load, save
from plurimask.data.truth import read_labels
from plurimask.evaluation import evaluate
from plurimask.instances import Instances


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=50)
    parser.add_argument("--objects", type=int, default=500)
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--draws", type=int, default=8)
    options = parser.parse_args()
    with TemporaryDirectory() as name:
        folder = Path(name)
        write(folder, options)
        evaluate(folder / "found" / "00.plurimask.zarr", folder / "truth" / "00.tif")  # compiles
        report, whole = timed(lambda: evaluate(folder / "found", folder / "truth"))
        _, quick = timed(lambda: evaluate(folder / "found", folder / "truth", simulation=False))
        _, theirs = timed(coco(folder))
    print(
        f"{options.images} images of {options.size} x {options.size}: {report.summary.truth_count} true and "
        f"{report.summary.found_count} found objects, {options.draws} draws"
    )
    for work, ours in (("evaluate", whole), ("evaluate without simulation", quick)):
        print(f"{work}: plurimask {ours:.1f} s, pycocotools {theirs:.1f} s, ratio {theirs / ours:.2f}")


def write(folder: Path, options: argparse.Namespace) -> None:
    """``truth/NN.tif`` and ``found/NN.plurimask.zarr``."""
    generator = np.random.default_rng(0)
    (folder / "truth").mkdir()
    for number in range(options.images):
        truth, found = draw(options.objects, options.size, generator)
        odds = np.where(generator.random(len(found)) < 0.7, 1.0, generator.random(len(found)))
        draws = [seen(found, odds, generator) for _ in range(options.draws)]
        save(CompleteLinkage()(draws), folder / "found" / f"{number:02d}.plurimask.zarr")
        tifffile.imwrite(folder / "truth" / f"{number:02d}.tif", truth.to_labels().astype(np.uint16))


def seen(found: Instances, odds: np.ndarray, generator: np.random.Generator) -> Instances:
    """What one draw sees; what it moves out of the image is not seen."""
    there = found.select(np.flatnonzero(generator.random(len(found)) < odds))
    moved = there.boxes + generator.integers(-1, 2, (len(there), 1, 2))
    inside = np.flatnonzero((moved[:, 0] >= 0).all(axis=1) & (moved[:, 1] <= found.shape).all(axis=1))
    return Instances.from_crops(moved[inside], [there.masks[index] for index in inside], found.shape)


def coco(folder: Path) -> Callable[[], None]:
    """COCO's evaluation of the same objects, ready to run."""
    names = sorted(path.stem for path in (folder / "truth").glob("*.tif"))
    truths = [read_labels(folder / "truth" / f"{name}.tif") for name in names]
    found = [load(folder / "found" / f"{name}.plurimask.zarr").best() for name in names]
    evaluation = coco_evaluation([(encode(a), encode(b)) for a, b in zip(truths, found, strict=True)])

    def run() -> None:
        silently(evaluation.evaluate)
        silently(evaluation.accumulate)

    return run


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """Processor seconds."""
    start = time.process_time()
    return work(), time.process_time() - start


if __name__ == "__main__":
    main()
