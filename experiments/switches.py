"""What do the settings of a trained model bring that need no training? One draw of every image under each of them.

    PLURIMASK_DATA=... python experiments/switches.py RUNS/worms-patchperpix-tuned bbbc010 \\
        thin_out=false partition=components partition=dense select=false
    PLURIMASK_DATA=... python experiments/switches.py RUNS/nuclei-contours-tuned dsb2018 --measure avS_nuclei \\
        uncertainty_nms=false iterations=1 nms=masks,nms_threshold=0.114 precision=float32

Every word is a variant: fields of the method and their values, several separated by commas, or the precision. Prints
the mean over images of a measure, as `tune` knows them, and its paired difference to the model as it is, both with
bootstrap intervals, S at IoU .5, .55, ..., .95, and seconds an image, the first one left out.
"""

from __future__ import annotations

import argparse
import copy
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray

from plurimask.data.sources import open_source
from plurimask.instances import Instances
from plurimask.metrics.bootstrap import interval
from plurimask.metrics.segmentation import Scores, score
from plurimask.model import Model, load_model
from plurimask.predict import checked, segment_draws
from plurimask.protocols import Head


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("data")
    parser.add_argument("variants", nargs="*")
    parser.add_argument("--split", default="tune")
    parser.add_argument("--images", type=int, help="only the first ones")
    parser.add_argument("--measure", default="avS", help="avS, avS_nuclei, ...: of Scores.measures")
    options = parser.parse_intermixed_args()
    model = load_model(options.model)
    source = open_source(Path(os.environ["PLURIMASK_DATA"]) / options.data, split=options.split)
    pairs = [(image.data, truth) for image, truth in (sample.read() for sample in list(source)[: options.images])]
    own: NDArray[np.float64] | None = None
    for words in ("", *options.variants):
        scores, seconds = outcomes(model, pairs, words)
        values = np.array([one.measures()[options.measure] for one in scores])
        own = values if own is None else own
        gain, thresholds = interval(values - own), np.mean([one.s for one in scores], axis=0)
        ends = f"{gain.mean:+.4f} [{gain.low:+.4f}, {gain.high:+.4f}]"
        each = " ".join(f"{value:.3f}" for value in thresholds)
        print(f"{words or 'as it is':<32} {interval(values)}  {ends}  {seconds:.2f} s  S: {each}", flush=True)


def outcomes(model: Model, pairs: list[tuple[NDArray[Any], Instances]], words: str) -> tuple[list[Scores], float]:
    """Of every image, and the seconds of one."""
    settings = dict(word.split("=") for word in words.split(",") if word)
    precision: Any = settings.pop("precision", "auto")
    changed = with_fields(model, {name: yaml.safe_load(value) for name, value in settings.items()})
    scores, seconds = [], []
    for image, truth in pairs:
        start = time.perf_counter()
        seen = torch.from_numpy(changed.normalisation(checked(image, changed)))
        found = segment_draws(seen, changed, seeds=[0], precision=precision)[0]
        seconds.append(time.perf_counter() - start)
        scores.append(score(truth, found))
    return scores, float(np.mean(seconds[1:] or seconds))


def with_fields(model: Model, fields: dict[str, Any]) -> Model:
    """With another method, in a copy whose heads know of it: they read the method, too."""
    changed = copy.deepcopy(model)
    method = replace(model.method, **fields)
    for head in (part for part in changed.posterior.modules() if isinstance(part, Head)):
        head.method = method
    return replace(changed, method=method)


if __name__ == "__main__":
    main()
