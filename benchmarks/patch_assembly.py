"""The assembly of PatchPerPix against its dense formulation: seconds, memory, and cost over the area of the image.

    NUMBA_NUM_THREADS=2 python benchmarks/patch_assembly.py [--side 41] [--crop 160] [--every 50] [--skip-dense]

Patches of drawn worms (520 x 696, about 13,000 pixels of foreground), 1 where two pixels share a worm, brought to
0.05 and 0.95 and blurred with Gaussian noise of 0.1; larger images are several such wells. Peak memory is what a fresh
process needs beyond the patches, libraries and compiled code (Linux: VmHWM).

The dense formulation holds, for every pixel of the image, its affinity to every pixel within reach, and adds up the
votes of one pair of channels after the other, whole images at a time (torch, as many threads as numba). That would
take hours for a well: consensus and scores are timed on a crop, for every n-th pair of channels, and multiplied by n
and by the ratio of the numbers of pixels. It is plain, not tuned: a fused kernel would save a factor of ten, but of
1.4 million pairs of channels at 362,000 pixels few hold two pixels of worms. On a small crop all pairs are run, and
must give what ours gives.
"""

from __future__ import annotations

import argparse
import multiprocessing
import re
import time
from itertools import combinations
from pathlib import Path

import numba
import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from torch import Tensor

from plurimask.data.synthetic import worms
from plurimask.instances import Instances, concatenate
from plurimask.ops.overlap import iou
from plurimask.ops.patch_assembly import Assembly
from plurimask.ops.patch_consensus import Consensus, Patches, Votes, consensus, scores, votes

WELL = (520, 696)
LAYOUTS = {1: (1, 1), 2: (1, 2), 4: (2, 2)}
THRESHOLD = 0.5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=41)
    parser.add_argument("--crop", type=int, default=160)
    parser.add_argument("--every", type=int, default=50, help="pairs of channels that the dense form leaves out")
    parser.add_argument("--skip-dense", action="store_true")
    options = parser.parse_args()
    print(f"{numba.get_num_threads()} threads, patches of {options.side} x {options.side}")
    seconds = {}
    for wells in LAYOUTS:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            seconds[wells], stages = pool.apply(whole_assembly, (wells, options.side))
        if wells == 1:
            ours = stages
    print("cost per number of wells:", ", ".join(f"{n}: {spent / seconds[1]:.2f}" for n, spent in seconds.items()))
    if not options.skip_dense:
        torch.set_num_threads(numba.get_num_threads())
        check(side=9, crop=60)
        dense = dense_seconds(options.side, options.crop, options.every)
        print(f"consensus and scores of a well: dense {dense:.0f} s, ours {ours:.1f} s, ratio {dense / ours:.0f}")


def whole_assembly(wells: int, side: int) -> tuple[float, float]:
    """Prints one row; returns seconds of the whole and of consensus and scores."""
    truth = drawn(wells)
    patches, owners = blurred(truth, side), truth.owners()
    part = blurred(truth.crop([[0, 0], [60, 200]]), 9)
    Assembly()(part, cover=np.ones(part.shape, bool), overlap=np.zeros(part.shape, bool))  # compiles
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
    before, start = megabytes("VmRSS"), time.perf_counter()
    found = Assembly()(patches, cover=owners == 1, overlap=owners > 1)
    seconds, peak = time.perf_counter() - start, megabytes("VmHWM") - before
    best = iou(truth, found.instances).toarray().max(axis=1)
    print(
        f"{wells} wells: {len(patches)} patches ({patches.values.nbytes / 1e6:.0f} MB), {seconds:.1f} s, "
        f"peak {peak:.0f} MB beyond them; {len(found.patches)} selected, {len(found.instances)} objects of "
        f"{len(truth)}, mean IoU {best.mean():.4f}",
        flush=True,
    )
    start = time.perf_counter()
    sparse(patches, owners > 1)
    return seconds, time.perf_counter() - start


def sparse(patches: Patches, overlap: np.ndarray) -> tuple[Votes, Consensus, np.ndarray]:
    cast = votes(patches, overlap, threshold=THRESHOLD)
    agreed = consensus(cast)
    return cast, agreed, scores(cast, agreed)


def megabytes(field: str) -> float:
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 1e3


def drawn(wells: int) -> Instances:
    """The truth of one, two or four wells."""
    rows, columns = LAYOUTS[wells]
    shape = (rows * WELL[0], columns * WELL[1])
    corners = [(row * WELL[0], column * WELL[1]) for row in range(rows) for column in range(columns)]
    return concatenate([worms(WELL, seed=0)[1].shift(corner, shape) for corner in corners])


def blurred(truth: Instances, side: int) -> Patches:
    """Patches at every pixel of a worm, float16; the windows of one worm at a time."""
    centres = np.argwhere(truth.owners() > 0)
    rows = np.full(truth.shape, -1)
    rows[tuple(centres.T)] = np.arange(len(centres))
    values = np.zeros((len(centres), side * side), np.float16)
    generator = np.random.default_rng(0)
    for index in range(len(truth)):
        mask = truth.select([index]).to_masks()[0]
        windows = sliding_window_view(np.pad(mask, side // 2), (side, side))[mask].reshape(-1, side * side)
        values[rows[mask]] = np.maximum(values[rows[mask]], windows)
    for start in range(0, len(values), 1000):
        part = values[start : start + 1000].astype(np.float32)
        part = 0.05 + 0.9 * part + generator.normal(0, 0.1, part.shape)
        values[start : start + 1000] = np.clip(part, 0, 1)
    return Patches(centres, values, (side, side), truth.shape)


class Dense:
    """Affinities ``(2 side - 1)^2 x H x W`` (one of each two equal halves is used) of one image, and its scores."""

    def __init__(self, patches: Patches, overlap: np.ndarray) -> None:
        (height, width), side = patches.shape, patches.size[0]
        radius = side // 2
        window = torch.zeros(side * side, height, width)
        pixels = tuple(torch.from_numpy(axis) for axis in patches.centres.T)
        window[:, *pixels] = torch.from_numpy(patches.values.astype(np.float32)).T
        valid = (window[side * side // 2] > THRESHOLD) & ~torch.from_numpy(overlap)
        around = torch.nn.functional.pad(valid, (radius,) * 4)
        self.offsets = [(row, column) for row in range(side) for column in range(side)]
        self.seen = torch.stack([valid & around[y : y + height, x : x + width] for y, x in self.offsets])
        signs = torch.where(window > THRESHOLD, window, torch.where(window < 1 - THRESHOLD, window - 1, 0))
        self.signed = torch.where(self.seen, signs, 0)
        self.affinity = torch.zeros(2 * side - 1, 2 * side - 1, height + 2 * radius, width + 2 * radius)
        self.count = torch.zeros_like(self.affinity)
        self.side, self.shape = side, (height, width)

    def pair(self, array: Tensor, first: int, second: int) -> Tensor:
        """The part of an array that is about the pixels at two offsets, for every centre."""
        (y, x), (other_y, other_x) = self.offsets[first], self.offsets[second]
        shifted = array[other_y - y + self.side - 1, other_x - x + self.side - 1]
        return shifted[y : y + self.shape[0], x : x + self.shape[1]]

    def vote(self, pairs: list[tuple[int, int]]) -> None:
        for first, second in pairs:
            one, other = self.signed[first], self.signed[second]
            informed = (torch.maximum(one, other) > 0) & self.seen[first] & self.seen[second]
            self.pair(self.affinity, first, second).add_(one * other * informed)
            self.pair(self.count, first, second).add_(informed)

    def score(self, pairs: list[tuple[int, int]]) -> Tensor:
        total, number = torch.zeros(self.shape), torch.zeros(self.shape)
        for first, second in pairs:
            one, other = self.signed[first], self.signed[second]
            informed = (torch.maximum(one, other) > 0) & self.seen[first] & self.seen[second]
            total += self.pair(self.affinity, first, second) * torch.sign(one * other) * informed
            number += informed
        return total / number.clamp(min=1)


def check(side: int, crop: int) -> None:
    """Both forms on a crop with a crossing: equal affinities and scores."""
    patches, overlap = crossing(side, crop)
    dense = Dense(patches, overlap)
    pairs = list(combinations(range(side * side), 2))
    dense.vote(pairs)
    dense.affinity /= dense.count.clamp(min=1)
    cast, agreed, rated = sparse(patches, overlap)
    first, second = (cast.centres[ends][agreed.defined] for ends in (agreed.runs.centres, agreed.runs.members))
    rows, columns = (second - first).T + side - 1
    held = dense.affinity[rows, columns, first[:, 0] + side // 2, first[:, 1] + side // 2].numpy()
    apart = np.abs(held - agreed.affinity[agreed.defined]).max()
    scored = np.abs(dense.score(pairs).numpy()[tuple(cast.centres.T)] - rated).max()
    assert len(first) == int(dense.count.count_nonzero()) and max(apart, scored) < 1e-5, "the two forms differ"
    print(f"both forms on {crop} x {crop}, {side} x {side}: {len(first)} pairs, largest difference {apart:.1e}")


def dense_seconds(side: int, crop: int, every: int) -> float:
    """Seconds for consensus and scores of a well, from every n-th pair of channels on a crop."""
    patches, overlap = crossing(side, crop)
    dense = Dense(patches, overlap)
    pairs = list(combinations(range(side * side), 2))[::every]
    start = time.perf_counter()
    dense.vote(pairs)
    dense.score(pairs)
    seconds = time.perf_counter() - start
    factor = every * WELL[0] * WELL[1] / crop**2
    gigabytes = 2 * (2 * side - 1) ** 2 * WELL[0] * WELL[1] * 4 / 1e9
    print(f"dense: {len(pairs)} pairs of channels on {crop} x {crop} in {seconds:.1f} s, times {factor:.0f} for a well")
    print(f"dense: its affinities and counts of a well would take {gigabytes:.1f} GB")
    return seconds * factor


def crossing(side: int, crop: int) -> tuple[Patches, np.ndarray]:
    """A part of the well around its largest overlap."""
    truth = drawn(1)
    middle = np.argwhere(truth.owners() > 1).mean(axis=0).astype(int)
    start = np.clip(middle - crop // 2, 0, np.subtract(WELL, crop))
    part = truth.crop(np.stack([start, start + crop]))
    return blurred(part, side), part.owners() > 1


if __name__ == "__main__":
    main()
