"""Trains the models of a list, one after the other, within a budget of time; what is not finished is resumed next time.

    PLURIMASK_DATA=... python experiments/run.py RUNS --minutes 90 worms nuclei

RUNS is a folder outside the repository for synthetic images, checkpoints, logs and the finished model folders.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
DATA = {
    "worms": ("bbbc010", "synthetic"),
    "worms-deterministic": ("bbbc010", "synthetic"),
    "nuclei": ("dsb2018",),
    "worms-patchperpix": ("bbbc010", "synthetic"),
    "worms-patchperpix-25": ("bbbc010", "synthetic"),
    "worms-patchperpix-direct": ("bbbc010", "synthetic"),
    "worms-contours": ("bbbc010", "synthetic"),
    "nuclei-patchperpix": ("dsb2018",),
    "nuclei-contours": ("dsb2018",),
    "worms-two-channels": ("bbbc010",),
    "worms-plain": ("bbbc010",),
    "worms-semi-convolutional": ("bbbc010",),
    "worms-variance": ("bbbc010", "synthetic"),
    "worms-without-variance": ("bbbc010", "synthetic"),
    "isbi-patchperpix": ("isbi2012",),
    "isbi-affinities": ("isbi2012",),
    "ovules-patchperpix": ("ovules",),
    "trees-patchperpix": ("trees",),
    **{f"lidc-{doubt}": ("lidc",) for doubt in ("unet", "ensemble", "mc-dropout", "probabilistic")},
    **{f"isic-{doubt}": ("isic2018",) for doubt in ("unet", "ensemble", "mc-dropout", "probabilistic")},
}
SHIPPED = ("worms", "worms-deterministic", "nuclei")
SYNTHETIC = ("-m", "plurimask", "data", "synthetic")
MADE = {  # folder in RUNS -> what python runs, with the folder behind it, to make it
    "synthetic": (*SYNTHETIC, "--count", "30", "--seed", "100", "worms"),
    "trees": (*SYNTHETIC, "--count", "30", "--seed", "100", "trees"),
    "ovules": (str(HERE / "ovules.py"),),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument("models", nargs="*", default=SHIPPED, metavar="MODEL", help=f"of {', '.join(DATA)}")
    parser.add_argument("--minutes", type=float, default=90, help="budget for all of them together")
    options = parser.parse_intermixed_args()
    end = time.monotonic() + 60 * options.minutes
    for model in options.models:
        if (options.runs / model / "model.json").exists():
            print(f"{model}: done before")
            continue
        if not trained(model, options.runs, seconds=end - time.monotonic()):
            print(f"{model}: out of time; the same command resumes it")
            return 1
    return 0


def trained(model: str, runs: Path, *, seconds: float) -> bool:
    """Whether the training came to its end within the time that is left."""
    folders = [folder(name, runs) for name in DATA[model]]
    options = ["-o", str(runs / model), "--config", str(HERE / f"{model}.yaml")]
    try:
        python("-m", "plurimask", "train", *map(str, folders), *options, seconds=seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


def folder(name: str, runs: Path) -> Path:
    if name not in MADE:
        return Path(os.environ["PLURIMASK_DATA"]) / name
    made = runs / name
    if not made.exists():
        python(*MADE[name], str(made), seconds=600)
    return made


def python(*words: str, seconds: float) -> None:
    subprocess.run([sys.executable, *words], check=True, timeout=max(1, seconds))


if __name__ == "__main__":
    sys.exit(main())
