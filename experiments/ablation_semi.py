"""What do images without truth bring? Nuclei with the truth of a tenth of the images, and with the others besides.

    PLURIMASK_DATA=... python experiments/ablation_semi.py RUNS --minutes 120

Trains two models, RUNS/tenth and RUNS/tenth-semi, on the same images with truth; what is not finished is resumed. The
second one sees the rest of the fit part without its truth. Both choose their state on the same tune part.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path

from run import HERE, plurimask

from plurimask.data.sources import open_source

CONFIGS = {"tenth": "nuclei-contours.yaml", "tenth-semi": "nuclei-contours-semi.yaml"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--share", type=float, default=0.1, help="of the fit images, with their truth")
    parser.add_argument("--minutes", type=float, default=120, help="budget for both together")
    options = parser.parse_args()
    data = Path(os.environ["PLURIMASK_DATA"]) / "dsb2018"
    names = labelled([sample.name for sample in open_source(data, split="fit")], options.share)
    end = time.monotonic() + 60 * options.minutes
    for model, config in CONFIGS.items():
        output = options.runs / model
        if (output / "model.json").exists():
            print(f"{model}: done before")
            continue
        given = [str(data), "-o", str(output), "--config", str(HERE / config), f"--only={json.dumps(names)}"]
        given += [f"--unlabelled={json.dumps([str(data)])}"] if config.endswith("-semi.yaml") else []
        try:
            plurimask("train", *given, seconds=end - time.monotonic())
        except subprocess.TimeoutExpired:
            print(f"{model}: out of time; the same command resumes it")
            return 1
    return 0


def labelled(names: list[str], share: float) -> list[str]:
    """A share of the names, the same ones everywhere; a larger share has those of a smaller one, too."""
    order = sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())
    return sorted(order[: math.ceil(share * len(names))])


if __name__ == "__main__":
    sys.exit(main())
