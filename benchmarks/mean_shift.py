"""Mean shift against scikit-learn's, on the embeddings of three images, one thread each.

    python benchmarks/mean_shift.py [--embeddings FILE.npz ...] [--bandwidth 3] [--skip-default]

An NPZ file holds one array ``(n, d)`` per image: the embeddings of its foreground pixels. Without one, embeddings are
made in the likeness of a semi-convolutional network's: pixels of a worm lie around its centre (coordinates divided by
12) with a spread of one unit in 2 dimensions, and the other 14 hold a little noise. Worms come from the folder named
by PLURIMASK_DATA (BBBC010, three fit wells), or else are drawn.

Where two made centres are nearer than a bandwidth (crossing worms: two pairs in A02) the modes depend on the seeds and
no two ways agree wholly: who climbs from every single point finds the saddle between the two as well, and bin seeding
does not. A trained network pushes centres 8 units apart.
"""

from __future__ import annotations

import os

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"

import argparse
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from imageio.v3 import imread
from numpy.typing import NDArray
from sklearn.cluster import MeanShift
from sklearn.metrics import adjusted_rand_score

from plurimask.ops.mean_shift import mean_shift

SPREAD, NOISE, SCALE = 1.0, 0.1, 12.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--embeddings", type=Path, nargs="*", default=[])
    parser.add_argument("--bandwidth", type=float, default=3.0)
    parser.add_argument("--skip-default", action="store_true", help="leave out the slow MeanShift without bin seeding")
    options = parser.parse_args()
    print("| image | points | method | centres | seconds | times slower | adjusted Rand index |")
    print("|---|---|---|---|---|---|---|")
    for name, points in stored(options.embeddings) if options.embeddings else made():
        compare(name, points, options.bandwidth, skip_default=options.skip_default)


def compare(name: str, points: NDArray[Any], bandwidth: float, *, skip_default: bool) -> None:
    ours, seconds = timed(lambda: mean_shift(points, bandwidth=bandwidth), repeat=5)
    row(name, points, "plurimask", len(ours.centres), seconds, 1.0, 1.0)
    for binned in (True,) if skip_default else (True, False):
        peer = MeanShift(bandwidth=bandwidth, bin_seeding=binned)
        theirs, slower = timed(lambda peer=peer: peer.fit(points), repeat=1)
        agreement = adjusted_rand_score(theirs.labels_, ours.labels)
        label = "scikit-learn, bin seeding" if binned else "scikit-learn"
        row(name, points, label, len(theirs.cluster_centers_), slower, slower / seconds, agreement)


def row(name: str, points: NDArray[Any], method: str, centres: int, *numbers: float) -> None:
    seconds, ratio, agreement = numbers
    cells = (name, len(points), method, centres, f"{seconds:.3f}", f"{ratio:.1f}", f"{agreement:.4f}")
    print("|", " | ".join(map(str, cells)), "|", flush=True)


def timed(act: Callable[[], Any], *, repeat: int) -> tuple[Any, float]:
    """The result, and the median time of ``repeat`` runs."""
    times = []
    for _ in range(repeat):
        begin = time.perf_counter()
        result = act()
        times.append(time.perf_counter() - begin)
    return result, float(np.median(times))


def stored(paths: list[Path]) -> Iterator[tuple[str, NDArray[Any]]]:
    for path in paths:
        with np.load(path) as archive:
            for name in archive.files:
                yield f"{path.stem}/{name}", archive[name]


def made() -> Iterator[tuple[str, NDArray[Any]]]:
    folder = os.environ.get("PLURIMASK_DATA")
    for name, masks in real_worms(Path(folder) / "bbbc010") if folder else drawn_worms():
        yield name, likeness(masks, np.random.default_rng(0))


def likeness(masks: list[NDArray[Any]], generator: np.random.Generator) -> NDArray[np.float32]:
    """``(n, 16)`` made embeddings of all pixels of these worms."""
    parts = []
    for mask in masks:
        places = np.argwhere(mask)
        part = generator.normal(0, NOISE, (len(places), 16))
        part[:, :2] = places.mean(axis=0) / SCALE + generator.normal(0, SPREAD, (len(places), 2))
        parts.append(part)
    return np.concatenate(parts).astype(np.float32)


def real_worms(folder: Path) -> Iterator[tuple[str, list[NDArray[Any]]]]:
    for well in (folder / "split_fit.txt").read_text().split()[:3]:
        files = sorted((folder / "BBBC010_v1_foreground_eachworm").glob(f"{well}_*_ground_truth.png"))
        yield well, [imread(file).reshape(520, 696, -1)[..., 0] for file in files]


def drawn_worms() -> Iterator[tuple[str, list[NDArray[Any]]]]:
    """Fifteen bars of 100 x 10 pixels in an image of 520 x 696, at random."""
    rows, columns = np.ogrid[:520, :696]
    for number in range(3):
        generator = np.random.default_rng(number)
        masks = []
        for row, column, angle in generator.uniform((50, 50, 0), (470, 646, np.pi), (15, 3)):
            along = (rows - row) * np.sin(angle) + (columns - column) * np.cos(angle)
            across = (rows - row) * np.cos(angle) - (columns - column) * np.sin(angle)
            masks.append((abs(along) <= 50) & (abs(across) <= 5))
        yield f"drawn {number}", masks


if __name__ == "__main__":
    main()
