"""What does a setting bring that needs a training? The same configuration with and without it, several seeds of each.

    PLURIMASK_DATA=... python experiments/ablations.py RUNS worms-patchperpix --steps 500 --from worms \\
        --decoding threshold=0.7,min_size=400 patch=25 code=64
    PLURIMASK_DATA=... python experiments/ablations.py RUNS nuclei-contours --steps 300 --seeds 3 --from nuclei \\
        --measure avS_nuclei giou=false uncertainty=false
    PLURIMASK_DATA=... python experiments/ablations.py RUNS nuclei-contours --steps 800 --seeds 3 --share 0.1 \\
        --measure avS_nuclei config=nuclei-contours-semi

Every word is a variant: options of `plurimask train` and their values, several separated by commas. A name without a
dot is a field of the method; `config` is another configuration. Where trainings start from, only --from says: a lender
that has seen more truth than --share would make nothing of it. The models land in RUNS/ablations, what is not
finished is resumed. Prints the mean over images and seeds of a measure of one draw on the tune part, as `tune` knows
them; its paired difference to the configuration as it is, with a bootstrap interval over images; and the difference
that each seed found by itself, which tells how much of it is the luck of a training.
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

import numpy as np
from numpy.typing import NDArray
from run import DATA, HERE, folder, python
from switches import outcomes

from plurimask.data.sources import open_source
from plurimask.metrics.bootstrap import interval
from plurimask.model import load_model


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument("config", help=f"of {', '.join(DATA)}")
    parser.add_argument("variants", nargs="*")
    parser.add_argument("--steps", type=int, required=True, help="of every training")
    parser.add_argument("--seeds", type=int, default=1, help="how many")
    parser.add_argument("--from", dest="lender", help="the lender of every training's backbone; without, from nothing")
    parser.add_argument("--share", type=float, default=1.0, help="of the fit images, with their truth")
    parser.add_argument("--common", default="", help="options that all trainings have, as a variant")
    parser.add_argument("--decoding", default="", help="fields of the method that all are scored with, as a variant")
    parser.add_argument("--measure", default="avS", help="avS, avS_nuclei, ...: of Scores.measures")
    parser.add_argument("--minutes", type=float, default=120, help="budget for all trainings together")
    options = parser.parse_intermixed_args()
    end = time.monotonic() + 60 * options.minutes
    own: NDArray[np.float64] | None = None
    for words in ("", *options.variants):
        try:
            models = [trained(words, seed, options, end=end) for seed in range(options.seeds)]
        except subprocess.TimeoutExpired:
            print("out of time; the same command resumes it")
            return 1
        values = np.array([scored(model, options) for model in models])
        own = values if own is None else own
        gain, each = interval((values - own).mean(axis=0)), (values - own).mean(axis=1)
        print(
            f"{words or 'as it is':<40} {interval(values.mean(axis=0))}  {gain.mean:+.4f} [{gain.low:+.4f}, "
            f"{gain.high:+.4f}]  seeds: {' '.join(f'{value:+.4f}' for value in each)}",
            flush=True,
        )
    return 0


def trained(words: str, seed: int, options: argparse.Namespace, *, end: float) -> Path:
    """The folder of a model, trained here if it was not before."""
    settings = dict(word.split("=", 1) for word in f"{options.common},{words}".split(",") if word)
    config = settings.pop("config", options.config)
    all_have = (options.config, f"{options.steps}", f"{options.share:g}", options.lender, options.common)
    study = "-".join(word for word in all_have if word)
    output = Path(options.runs) / "ablations" / study / f"{words or 'as-it-is'}-{seed}"
    if (output / "model.json").exists():
        return output
    data = [str(folder(name, options.runs)) for name in DATA[options.config]]
    given = [*data, "-o", str(output), "--config", str(HERE / f"{config}.yaml"), f"--schedule.seed={seed}"]
    given += [f"--schedule.{name}={options.steps}" for name in ("steps", "check_every")]
    given.append(f"--backbone_from={options.lender or 'null'}")
    given += [f"--{name if '.' in name else f'method.{name}'}={value}" for name, value in settings.items()]
    if options.share < 1:
        names = labelled([sample.name for sample in open_source(Path(data[0]), split="fit")], options.share)
        given.append(f"--only={json.dumps(names)}")
    if config.endswith("-semi"):
        given.append(f"--unlabelled={json.dumps(data)}")
    python("-m", "plurimask", "train", *given, seconds=end - time.monotonic())
    return output


def labelled(names: list[str], share: float) -> list[str]:
    """A share of the names, the same ones everywhere; a larger share has those of a smaller one, too."""
    order = sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())
    return sorted(order[: math.ceil(share * len(names))])


def scored(folder_of_model: Path, options: argparse.Namespace) -> NDArray[np.float64]:
    """The measure of every image of the tune part, kept beside the model."""
    kept = folder_of_model.parent / f"{folder_of_model.name}-{options.measure}-{options.decoding}.npy"
    if not kept.exists():
        source = open_source(Path(os.environ["PLURIMASK_DATA"]) / DATA[options.config][0], split="tune")
        pairs = [(image.data, truth) for image, truth in (sample.read() for sample in source)]
        scores, _ = outcomes(load_model(folder_of_model), pairs, options.decoding)
        np.save(kept, [one.measures()[options.measure] for one in scores])
    return np.asarray(np.load(kept))


if __name__ == "__main__":
    sys.exit(main())
