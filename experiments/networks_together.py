"""Several networks: do their proposals compete in one suppression, or are they draws that agree? (U22, Table 3)

    PLURIMASK_DATA=... python experiments/networks_together.py dsb2018 RUNS/one RUNS/two --measure avS_nuclei \\
        --decoding score_threshold=0.95,nms_threshold=0.214

One draw of every network for every image, then every network alone, `Suppression` (U22: the proposals of all before one
non-maximum suppression) and `CompleteLinkage` with `best()` (design: networks are draws). Prints the mean over images,
and the paired difference to the mean of the networks alone, with bootstrap intervals; max_iou and min_iou are those of
the list below, all of them are shown.
"""

from __future__ import annotations

import argparse
import os
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
import yaml
from switches import with_fields

from plurimask.agglomerate import Agglomeration, CompleteLinkage, Suppression
from plurimask.data.sources import open_source
from plurimask.metrics.bootstrap import interval
from plurimask.metrics.segmentation import score
from plurimask.model import load_model
from plurimask.predict import checked, segment_draws

WAYS: tuple[Agglomeration, ...] = (
    *(Suppression(max_iou) for max_iou in (0.1, np.pi / 10, 0.5)),
    *(CompleteLinkage(min_iou) for min_iou in (0.5, 0.7)),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("models", nargs="+")
    parser.add_argument("--split", default="tune")
    parser.add_argument("--measure", default="avS", help="avS, avS_nuclei, ...: of Scores.measures")
    parser.add_argument(
        "--decoding", default="", help="fields of the method that all have, as a variant of switches.py"
    )
    options = parser.parse_args()
    fields = dict(word.split("=", 1) for word in options.decoding.split(",") if word)
    decoding = {name: yaml.safe_load(value) for name, value in fields.items()}
    models = {name: with_fields(load_model(name), decoding) for name in options.models}
    values: dict[str, list[float]] = defaultdict(list)
    for sample in open_source(Path(os.environ["PLURIMASK_DATA"]) / options.data, split=options.split):
        image, truth = sample.read()
        draws = {}
        for name, model in models.items():
            seen = torch.from_numpy(model.normalisation(checked(image.data, model)))
            draws[name] = segment_draws(seen, model, seeds=[0])[0]
        found = draws | {str(way): way(list(draws.values())).best() for way in WAYS}
        for name, objects in found.items():
            values[name].append(score(truth, objects).measures()[options.measure])
    alone = np.mean([values[name] for name in models], axis=0)
    for name, each in values.items():
        gain = interval(np.array(each) - alone)
        print(f"{name:<48} {interval(each)}  {gain.mean:+.4f} [{gain.low:+.4f}, {gain.high:+.4f}]")


if __name__ == "__main__":
    main()
