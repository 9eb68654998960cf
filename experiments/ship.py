"""Puts a trained and tuned model into the package: weights in half precision, with its card.

plurimask tune RUNS/worms $PLURIMASK_DATA/bbbc010 -o RUNS/worms-tuned
python experiments/ship.py RUNS/worms-tuned worms

A model that was trained before models remembered what their training images look like learns it here, from its fit
images in PLURIMASK_DATA and RUNS/synthetic; RUNS is the folder in which the model lies, or --runs.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from run import DATA, folder

from plurimask.data.sources import open_source
from plurimask.data.transforms import Augmentation
from plurimask.familiarity import Familiarity, training_looks
from plurimask.model import SHIPPED, Model, load_model

WELLS = "BBBC010 (38 fit wells of the live/dead assay, 2.5x bright-field) and 26 synthetic wells, nine crops to one"
UNSTATED = "the licence of BBBC010 is not stated; the weights hold no image"

CARDS: dict[str, dict[str, Any]] = {
    "worms": {
        "description": "crossing C. elegans in bright-field wells; Concrete dropout",
        "data": WELLS,
        "licence": UNSTATED,
    },
    "worms-deterministic": {
        "description": "crossing C. elegans in bright-field wells; one network without doubt, the baseline",
        "data": WELLS,
        "licence": UNSTATED,
    },
    "nuclei": {
        "description": "nuclei in fluorescence, many sizes and microscopes; Concrete dropout; the default",
        "data": "the fluorescence images of the 2018 Data Science Bowl (BBBC038), 360 fit images",
        "licence": "CC0",
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trained", type=Path)
    parser.add_argument("name", choices=sorted(CARDS))
    parser.add_argument("--runs", type=Path, help="folder with the synthetic images")
    options = parser.parse_args()
    model = load_model(options.trained)
    if model.familiarity == Familiarity():
        folders = [folder(data, options.runs or options.trained.parent) for data in DATA[options.name]]
        model = replace(model, familiarity=familiarity(model, folders))
    replace(model, card={**CARDS[options.name], **model.card}).save(SHIPPED / options.name, half=True)


def familiarity(model: Model, folders: list[Path]) -> Familiarity:
    """As ``plurimask train`` with its usual augmentation and seed would have left it."""
    samples = [sample for place in folders for sample in open_source(place, split="fit")]
    names = tuple(sample.name for sample in samples)
    if names != model.trained_on:
        raise SystemExit(f"{len(names)} fit images, but the model was trained on {len(model.trained_on)}, or on others")
    images = [model.normalisation(sample.image().data) for sample in samples]
    return Familiarity().joined(training_looks(images, model.normalisation, Augmentation(), seed=0))


if __name__ == "__main__":
    main()
