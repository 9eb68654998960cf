"""Matching found objects with true ones, against pycocotools (masks in run-length code) and StarDist (label maps), one
thread each.

    python benchmarks/matching.py [--images 50] [--objects 500] [--size 1024] [--stardist FOLDER]

Ellipses that overlap; the found ones are moved by up to two pixels, a tenth is missed, a tenth invented. Both start
from objects in memory in the form that each likes best: cropped masks here, run-length code there (its encoding is not
counted). Both compute all IoUs, which must be equal, and match at 0.5, 0.55, ..., 0.95: optimally here, greedily there
(COCOeval without the accumulation), so their hits may differ a little where objects overlap. Then both pool the greedy
matches to COCO's average precision, which must be equal.

StarDist's ``matching`` wants label maps. So for it the same objects are flattened, and both start from the maps; both
match optimally and must find the same pairs. StarDist would bring TensorFlow along, which its matching does not need.
So it goes into a folder of its own, which is read after all others:

    pip install --no-deps --target FOLDER stardist csbdeep six
"""

from __future__ import annotations

import os

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"

import argparse
import contextlib
import io
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as run_length
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from plurimask.instances import Instances
from plurimask.metrics.average_precision import candidates, coco_ap
from plurimask.metrics.segmentation import THRESHOLDS, score
from plurimask.ops.overlap import iou

Pair = tuple[Instances, Instances]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=50)
    parser.add_argument("--objects", type=int, default=500)
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--stardist", type=Path, help="compare with the StarDist in this folder, too")
    options = parser.parse_args()
    generator = np.random.default_rng(0)
    pairs = [draw(options.objects, options.size, generator) for _ in range(options.images)]
    score(*pairs[0]), coco_ap([candidates(*pairs[0])])  # compiles

    codes = [(encode(truth), encode(found)) for truth, found in pairs]
    worst = max(difference(pair, code) for pair, code in zip(pairs, codes, strict=True))
    assert worst == 0, f"IoUs differ by {worst}"
    rows = {
        "IoU only": (
            timed(lambda: [iou(truth, found) for truth, found in pairs])[1],
            timed(lambda: [run_length.iou(found, truth, [0] * len(truth)) for truth, found in codes])[1],
        )
    }
    evaluation = coco_evaluation(codes)
    scores, ours = timed(lambda: [score(truth, found) for truth, found in pairs])
    _, theirs = timed(lambda: silently(evaluation.evaluate))
    rows["IoU and matches at 10 thresholds"] = (ours, theirs)
    precision, ours_pooled = timed(lambda: coco_ap([candidates(truth, found) for truth, found in pairs]).values)
    _, theirs_pooled = timed(lambda: silently(evaluation.accumulate))
    rows["COCO AP from the masks"] = (ours_pooled, theirs + theirs_pooled)
    np.testing.assert_allclose(precision, evaluation.eval["precision"][:, :, 0, 0, 0].mean(axis=1), atol=1e-12)
    if options.stardist:
        sys.path.append(str(options.stardist))
        rows["matches at 10 thresholds from label maps"] = stardist_times(pairs)
    print(
        f"{options.images} images of {options.size} x {options.size} with {options.objects} objects; IoUs and AP equal"
    )
    for name, (mine, other) in rows.items():
        peer = "StarDist" if "label maps" in name else "pycocotools"
        print(f"{name}: plurimask {mine:.3f} s, {peer} {other:.3f} s, ratio {other / mine:.1f}")
    print(f"hits at 0.5: optimal {hits(scores)}, greedy {coco_hits(evaluation)}")


def stardist_times(pairs: list[Pair]) -> tuple[float, float]:
    """Seconds here and there, from the same label maps to the same numbers of hits."""
    from stardist.matching import matching

    maps = [(truth.to_labels(), found.to_labels()) for truth, found in pairs]
    matching(*maps[0], thresh=THRESHOLDS)  # compiles
    scores, ours = timed(lambda: [score(*map(Instances.from_labels, sides)) for sides in maps])
    theirs_scores, theirs = timed(lambda: [matching(*sides, thresh=THRESHOLDS) for sides in maps])
    for image, other in zip(scores, theirs_scores, strict=True):
        assert image.tp.tolist() == [at.tp for at in other], "the numbers of hits differ"
    return ours, theirs


def draw(count: int, size: int, generator: np.random.Generator) -> Pair:
    truth = ellipses(count, size, generator)
    kept = truth.select(np.flatnonzero(generator.random(count) < 0.9))
    moved = kept.boxes + generator.integers(-2, 3, (len(kept), 1, 2))
    inside = np.flatnonzero((moved[:, 0] >= 0).all(axis=1) & (moved[:, 1] <= size).all(axis=1))
    invented = ellipses(count - len(inside), size, generator)
    boxes = np.concatenate([moved[inside], invented.boxes])
    masks = [*(kept.masks[index] for index in inside), *invented.masks]
    return truth, Instances.from_crops(boxes, masks, truth.shape)


def ellipses(count: int, size: int, generator: np.random.Generator) -> Instances:
    radii = generator.integers(6, 25, (count, 2))
    starts = generator.integers(0, size - 2 * radii)
    axes = [[np.linspace(-1, 1, 2 * radius + 1)[:-1] for radius in pair] for pair in radii]
    masks = [rows[:, None] ** 2 + columns**2 <= 1 for rows, columns in axes]
    return Instances.from_crops(np.stack([starts, starts + 2 * radii], axis=1), masks, (size, size))


def encode(objects: Instances) -> list[dict[str, Any]]:
    return [run_lengths(mask, box, objects.shape) for mask, box in zip(objects.masks, objects.boxes, strict=True)]


def run_lengths(mask: NDArray[np.bool_], box: NDArray[np.int64], shape: tuple[int, ...]) -> dict[str, Any]:
    """From the crop: whole masks of all objects would take minutes. Runs go down the columns of the image."""
    height, width = shape
    columns = np.zeros((mask.shape[1], height + 1), np.int8)
    columns[:, box[0, 0] : box[1, 0]] = mask.T
    steps = np.diff(columns.ravel(), prepend=0)
    places = [np.flatnonzero(steps == step) for step in (1, -1)]
    starts, stops = (flat // (height + 1) * height + flat % (height + 1) + box[0, 1] * height for flat in places)
    ends = np.stack([starts, stops], axis=1).ravel()
    counts = np.diff(np.concatenate([[0], ends, [height * width]]))
    code: dict[str, Any] = run_length.frPyObjects({"counts": counts.tolist(), "size": [height, width]}, height, width)
    return code


def difference(pair: Pair, code: tuple[list[dict[str, Any]], list[dict[str, Any]]]) -> float:
    dense: NDArray[np.float64] = run_length.iou(code[1], code[0], [0] * len(code[0])).T
    return float(np.abs(iou(*pair).toarray() - dense).max())


def coco_evaluation(codes: list[tuple[list[dict[str, Any]], list[dict[str, Any]]]]) -> COCOeval:
    """COCO's own evaluation of one class, all objects counted, constant scores."""
    height, width = codes[0][0][0]["size"]
    images = [{"id": number, "height": height, "width": width} for number in range(1, len(codes) + 1)]
    tables = [COCO(), COCO()]
    for side, table in enumerate(tables):
        listed = [(image["id"], code) for image, pair in zip(images, codes, strict=True) for code in pair[side]]
        table.dataset = {"images": images, "categories": [{"id": 1}]}
        table.dataset["annotations"] = [
            {"id": number, "image_id": image, "category_id": 1, "segmentation": code, "iscrowd": 0, "score": 1.0}
            | {"area": float(run_length.area(code)), "bbox": run_length.toBbox(code).tolist()}
            for number, (image, code) in enumerate(listed, start=1)
        ]
        silently(table.createIndex)
    evaluation = COCOeval(*tables, "segm")
    evaluation.params.iouThrs = np.array(THRESHOLDS)
    evaluation.params.maxDets = [max(len(found) for _, found in codes)]
    evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
    return evaluation


def hits(scores: list[Any]) -> int:
    return sum(int(image.tp[0]) for image in scores)


def coco_hits(evaluation: COCOeval) -> int:
    return sum(int(np.count_nonzero(image["dtMatches"][0])) for image in evaluation.evalImgs)


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    start = time.perf_counter()
    return work(), time.perf_counter() - start


def silently(work: Callable[[], Any]) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        work()


if __name__ == "__main__":
    main()
