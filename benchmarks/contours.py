"""Contour proposals of a 2048 x 2048 image to objects, against the plain way, one thread each.

    python benchmarks/contours.py [--proposals 5000] [--samples 224] [--order 25] [--skip-plain]

Proposals are made: nuclei of 6 to 20 pixels radius on a jittered lattice, each with twelve nearly equal proposals.
Times are of the processor, not of the clock, so that other work beside it weighs little.

The plain way is what one writes first. Decoding: the sum over the orders as a broadcast product. Suppression: the
intersection over union of all pairs (of boxes as one K x K matrix; of masks, drawn by scikit-image, for the pairs whose
boxes meet, by counting pixels in crops), then the greedy rule on the matrix. A stronger peer for boxes compares each
kept box with all others at once. Boxes are equal to ours; masks follow another rule of the border (rounded points), so
the share of equal decisions is told.

At last the whole decoding of 5,000 proposals, from a network's maps to objects, beside one draw of the network of the
smallest shipped model on an image of that size.
"""

from __future__ import annotations

import os

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[variable] = "1"

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from skimage.draw import polygon, polygon_perimeter

from plurimask.instances import Instances
from plurimask.methods import Contours
from plurimask.model import load_model
from plurimask.ops.contours import bounds, rasterise_all
from plurimask.ops.fourier import closed_positions, reconstruct
from plurimask.ops.suppression import suppress_boxes, suppress_coarse, suppress_contours
from plurimask.predict import checked, visit_outputs
from plurimask.protocols import Outputs

SIDE, PER_OBJECT, THRESHOLD = 2048, 12, np.pi / 10
Floats = NDArray[np.float64]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--proposals", type=int, default=5000)
    parser.add_argument("--samples", type=int, default=224)
    parser.add_argument("--order", type=int, default=25)
    parser.add_argument("--skip-plain", action="store_true", help="time plurimask alone")
    options = parser.parse_args()
    torch.set_num_threads(1)
    location, coefficients, weights = made(options.proposals, options.order, np.random.default_rng(0))
    positions = closed_positions(options.samples).astype(np.float32)
    ours = run_ours(location, coefficients, weights, positions)
    if not options.skip_plain:
        run_plain(location, coefficients, weights, positions, ours)
    run_whole(ours["decoding"][0], options)


def made(count: int, order: int, generator: np.random.Generator) -> tuple[Any, Any, Floats]:
    """Locations ``(K, 2)``, coefficients ``(K, N, 4)`` (float32, as from a network) and weights ``(K,)``."""
    objects = -(-count // PER_OBJECT)
    side = int(np.ceil(np.sqrt(objects)))
    pitch = SIDE / side
    lattice = np.stack(np.unravel_index(np.arange(objects), (side, side)), axis=1) * pitch + pitch / 2
    centres = lattice + generator.uniform(-pitch / 4, pitch / 4, lattice.shape)
    shapes = generator.normal(0, 0.15, (objects, order, 4)) / np.arange(1, order + 1)[:, None] ** 2
    shapes[:, 0] += (1, 0, 0, 1)
    shapes *= generator.uniform(6, 20, (objects, 1, 1))
    owner = np.arange(count) % objects
    location = centres[owner] + generator.normal(0, 0.7, (count, 2))
    coefficients = shapes[owner] * generator.normal(1, 0.03, (count, 1, 1))
    weights = np.clip(generator.normal(0.9, 0.05, count), 0, 1)
    return location.astype(np.float32), coefficients.astype(np.float32), weights


def run_ours(location: Any, coefficients: Any, weights: Floats, positions: Any) -> dict[str, tuple[Any, float]]:
    contours = reconstruct(location, coefficients, positions)
    shape = (SIDE, SIDE)
    acts: dict[str, Callable[[], Any]] = {
        "decoding": lambda: reconstruct(location, coefficients, positions),
        "boxes": lambda: suppress_boxes(bounds(contours), weights, threshold=THRESHOLD),
        "masks": lambda: suppress_contours(contours, weights, threshold=THRESHOLD, shape=shape),
        "coarse boxes": lambda: suppress_coarse(location, coefficients, weights, threshold=0.8),
    }
    print(f"{len(weights)} proposals, N = {coefficients.shape[1]}, S = {len(positions)}\n")
    print("| step | plurimask, ms | left |")
    print("|---|---|---|")
    found = {}
    for name, act in acts.items():
        act()  # compiled, and its memory touched
        found[name] = timed(act, repeat=5)
        left = "" if name == "decoding" else len(found[name][0])
        print(f"| {name} | {1e3 * found[name][1]:.1f} | {left} |", flush=True)
    return found


def run_plain(location: Any, coefficients: Any, weights: Floats, positions: Any, ours: dict[str, Any]) -> None:
    contours, decoding = timed(lambda: summed(location, coefficients, positions), repeat=1)
    assert abs(contours - ours["decoding"][0]).max() < 1e-2
    boxes = bounds(contours)
    masks = ours["masks"][0]
    steps = {
        "boxes, all pairs": ("boxes", lambda: greedy(box_ious(boxes), weights)),
        "boxes, each kept one with all": ("boxes", lambda: kept_with_all(boxes, weights)),
        "masks, all pairs that meet": ("masks", lambda: greedy(mask_ious(contours, boxes), weights)),
    }
    print("\n| plain way | decoding, ms | suppression, ms | times slower: decoding, suppression, both | equal |")
    print("|---|---|---|---|---|")
    for name, (kind, act) in steps.items():
        kept, seconds = timed(act, repeat=1)
        fast = ours["decoding"][1], ours[kind][1]
        ratios = decoding / fast[0], seconds / fast[1], (decoding + seconds) / sum(fast)
        expected = masks if kind == "masks" else ours["boxes"][0]
        equal = 1 - len(set(kept) ^ set(expected.tolist())) / len(weights)
        shown = ", ".join(f"{ratio:.1f}" for ratio in ratios)
        print(f"| {name} | {1e3 * decoding:.0f} | {1e3 * seconds:.0f} | {shown} | {equal:.4f} |", flush=True)


def run_whole(contours: Floats, options: argparse.Namespace) -> None:
    model = load_model("nuclei")
    seen = torch.from_numpy(model.normalisation(checked(noise(), model)))
    visit_outputs(seen[:, :512, :512], model, lambda *_: None, seeds=[0])  # kernels chosen
    _, network = timed(lambda: visit_outputs(seen, model, lambda *_: None, seeds=[0]), repeat=3)
    print(f"\nnetwork of `nuclei`, one draw: {1e3 * network:.0f} ms")
    objects = -(-options.proposals // PER_OBJECT)
    truth = Instances.from_crops(*rasterise_all(contours[:objects], (SIDE, SIDE)), (SIDE, SIDE))
    for coarse in (None, 0.8):
        method = Contours(order=options.order, samples=options.samples, coarse_threshold=coarse)
        outputs = proposals_of(truth, method, options.proposals)
        method.decode(outputs)  # compiled
        found, seconds = timed(lambda method=method, outputs=outputs: method.decode(outputs), repeat=3)
        words = f"coarse_threshold = {coarse}: {1e3 * seconds:.0f} ms, {len(found)} of {len(truth)} objects"
        print(f"whole decoding, {words}, {seconds / network:.1%} of the network's time", flush=True)


def proposals_of(truth: Instances, method: Contours, count: int) -> Outputs:
    """Maps in which so many pixels propose, each a little apart from the truth, drawn among those that may."""
    outputs, generator = dict(method.ideal(truth)), torch.Generator().manual_seed(0)
    willing = torch.nonzero(outputs["score"].flatten() > 0).flatten()
    if len(willing) < count:
        raise SystemExit(f"{len(willing)} pixels may propose, fewer than {count}; give fewer --proposals.")
    outputs["score"].view(-1)[willing[torch.randperm(len(willing), generator=generator)[count:]]] = -20
    for name, spread in (("location", 0.7), ("fourier", 0.1), ("refinement", 0.5)):
        outputs[name] = outputs[name] + spread * torch.randn(outputs[name].shape, generator=generator)
    return outputs


def noise() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (1, SIDE, SIDE), np.uint8)


def timed(act: Callable[[], Any], *, repeat: int) -> tuple[Any, float]:
    """The result, and the median processor time of ``repeat`` runs."""
    times = []
    for _ in range(repeat):
        begin = time.process_time()
        result = act()
        times.append(time.process_time() - begin)
    return result, float(np.median(times))


def summed(location: Any, coefficients: Any, positions: Any) -> Floats:
    """The sum over the orders as a broadcast product, ``(K, N, S)`` for each of the four kinds of coefficients."""
    phases = 2 * np.pi * np.arange(1, coefficients.shape[1] + 1, dtype=np.float32)[:, None] * positions
    waves, terms = (np.cos(phases), np.sin(phases)), coefficients[..., None]
    y = (terms[:, :, 2] * waves[0] + terms[:, :, 3] * waves[1]).sum(axis=1)
    x = (terms[:, :, 0] * waves[0] + terms[:, :, 1] * waves[1]).sum(axis=1)
    return np.stack([y, x], axis=2) + location[:, None]


def box_ious(boxes: Floats) -> Floats:
    sides = np.minimum(boxes[:, None, 1], boxes[None, :, 1]) - np.maximum(boxes[:, None, 0], boxes[None, :, 0])
    shared = np.prod(np.maximum(sides, 0), axis=2)
    areas = np.prod(boxes[:, 1] - boxes[:, 0], axis=1)
    result: Floats = shared / (areas[:, None] + areas[None] - shared)
    return result


def greedy(ious: Floats, weights: Floats) -> list[int]:
    kept: list[int] = []
    for index in np.argsort(-weights, kind="stable").tolist():
        if not (ious[index, kept] > THRESHOLD).any():
            kept.append(index)
    return kept


def kept_with_all(boxes: Floats, weights: Floats) -> list[int]:
    order, kept = np.argsort(-weights, kind="stable"), []
    areas = np.prod(boxes[:, 1] - boxes[:, 0], axis=1)
    while len(order):
        first, rest = order[0], order[1:]
        kept.append(int(first))
        sides = np.minimum(boxes[first, 1], boxes[rest, 1]) - np.maximum(boxes[first, 0], boxes[rest, 0])
        shared = np.prod(np.maximum(sides, 0), axis=1)
        order = rest[shared / (areas[first] + areas[rest] - shared) <= THRESHOLD]
    return kept


def mask_ious(contours: Floats, boxes: Floats) -> Floats:
    """``(K, K)``, by counting pixels in the common part of two crops."""
    corners = np.rint(boxes).astype(int) + np.array([[0], [1]])
    masks = []
    for contour, (low, high) in zip(np.rint(contours).astype(int), corners, strict=True):
        mask = np.zeros(high - low, bool)
        for drawn in (polygon, polygon_perimeter):
            mask[drawn(*(contour - low).T)] = True
        masks.append(mask)
    areas = [np.count_nonzero(mask) for mask in masks]
    ious = np.zeros((len(masks), len(masks)))
    for a in range(len(masks)):
        low, high = np.maximum(corners[a, 0], corners[:, 0]), np.minimum(corners[a, 1], corners[:, 1])
        for b in np.flatnonzero((low < high).all(axis=1)):
            (top, left), (bottom, right) = low[b] - corners[a, 0], high[b] - corners[a, 0]
            part = masks[a][top:bottom, left:right]
            (top, left), (bottom, right) = low[b] - corners[b, 0], high[b] - corners[b, 0]
            shared = np.count_nonzero(part & masks[b][top:bottom, left:right])
            ious[a, b] = shared / (areas[a] + areas[b] - shared)
    return ious


if __name__ == "__main__":
    main()
