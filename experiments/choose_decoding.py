"""Chooses a model's decoding parameters on the tune images, one at a time, and writes them into its folder.

    PLURIMASK_DATA=... python experiments/choose_decoding.py MODEL DATA_SET [--draws 8] [--measure avS] [--write]

Outputs are computed once and decoded many times; what is maximised is the mean S of ``best()``.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from plurimask.data.sources import open_source
from plurimask.instances import Instances, concatenate
from plurimask.metrics.segmentation import score, summarise
from plurimask.model import Model, load_model
from plurimask.predict import part_of, ready, seeds_of, to_device
from plurimask.windows import Window, grid

Stored = Sequence[Sequence[tuple[Window, Mapping[str, torch.Tensor]]]]  # by draw, then by window

CHOICES: dict[str, dict[str, Sequence[Any]]] = {
    "method": {
        "foreground": (0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9),
        "bandwidth": (1.5, 2.0, 2.5, 3.0, 4.0),
        "threshold": (1.5, 2.0, 3.0, 4.0, 6.0),
        "max_gap": (0.0, 8.0, 20.0),
        "min_contact": (0.0, 0.2),
        "min_size": (10, 15, 20, 30, 100, 200, 300, 400),
    },
    "agglomeration": {"min_iou": (0.4, 0.5, 0.6, 0.7, 0.8)},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("data")
    parser.add_argument("--draws", type=int, default=8)
    parser.add_argument("--images", type=int, default=None, help="only the first so many")
    parser.add_argument("--measure", default="avS")
    parser.add_argument("--write", action="store_true", help="save the choice into the model")
    options = parser.parse_args()
    model = load_model(options.model)
    samples = open_source(Path(os.environ["PLURIMASK_DATA"]) / options.data, split="tune")[: options.images]
    pairs = [sample.read() for sample in samples]
    stored = [look(model, image.data, draws=options.draws) for image, _ in pairs]
    truths = [truth for _, truth in pairs]
    best = value(model, stored, truths, options.measure)
    print(f"start: {options.measure} {best:.4f}")
    for part, fields in CHOICES.items():
        for name, values in fields.items():
            for candidate in values:
                changed = with_setting(model, part, name, candidate)
                found = value(changed, stored, truths, options.measure)
                print(f"  {part}.{name} = {candidate}: {found:.4f}", flush=True)
                if found > best + 1e-4:
                    best, model = found, changed
    print(json.dumps({part: model.describe()[part]["init_args"] for part in CHOICES}, indent=1, default=list))
    print(summarise([score(t, segment(model, s)) for t, s in zip(truths, stored, strict=True)]))
    if options.write:
        model.save(options.model)


def with_setting(model: Model, part: str, name: str, candidate: Any) -> Model:
    if part == "method":
        return replace(model, method=replace(model.method, **{name: candidate}))
    return replace(model, agglomeration=replace(model.agglomeration, **{name: candidate}))


def look(model: Model, image: np.ndarray, *, draws: int) -> Stored:
    """The outputs of every draw in every window, in half precision."""
    normalised = torch.from_numpy(model.normalisation(image))
    seeds = seeds_of(model, draws, 0)
    stored: list[list[tuple[Window, Mapping[str, torch.Tensor]]]] = [[] for _ in seeds]
    with ready(model, device="auto", precision="auto") as device:
        batch = to_device(normalised[None], device)
        context = model.posterior.context(batch)
        for window in grid(image.shape[1:], size=model.window, halo=model.halo, stride=model.backbone.strides[-1]):
            seen = part_of(batch, window.outer)
            for part, outputs in zip(stored, model.posterior.draws(seen, seeds, context=context), strict=True):
                part.append((window, {name: output.half().cpu() for name, output in outputs.items()}))
    return stored


def segment(model: Model, stored: Stored) -> Instances:
    draws = []
    for part in stored:
        shape = tuple(int(size) for size in np.max([window.outer[1] for window, _ in part], axis=0))
        decoded = [(window, model.method.decode(outputs)) for window, outputs in part]
        kept = [found.select(window.answers_for(found)).shift(window.outer[0], shape) for window, found in decoded]
        draws.append(concatenate(kept))
    return model.agglomeration(draws).best()


def value(model: Model, stored: Sequence[Stored], truths: Sequence[Instances], measure: str) -> float:
    scores = [score(truth, segment(model, one)) for truth, one in zip(truths, stored, strict=True)]
    return float(np.mean([image.measures()[measure] for image in scores]))


if __name__ == "__main__":
    main()
