"""Stores the embeddings that a model's mean shift sees, for benchmarks/mean_shift.py.

    PLURIMASK_DATA=... python experiments/store_embeddings.py worms bbbc010 FOLDER [--images 3]

Writes ``FOLDER/NAME.npz`` for the first tune images: one array ``(n, E)``, the pixels of the first draw.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np
import torch

from plurimask.data.sources import open_source
from plurimask.methods.embedding import Embedding
from plurimask.model import load_model
from plurimask.predict import ready, to_device


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("data")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=3)
    options = parser.parse_args()
    model = load_model(options.model)
    method = model.method
    assert isinstance(method, Embedding)
    options.folder.mkdir(parents=True, exist_ok=True)
    for sample in open_source(Path(os.environ["PLURIMASK_DATA"]) / options.data, split="tune")[: options.images]:
        image = torch.from_numpy(model.normalisation(sample.image().data))
        with ready(model, device="cpu", precision="auto") as device:
            outputs = next(iter(model.posterior.draws(to_device(image[None], device), [0], context={})))
        single, _ = method.regions(method.probabilities(outputs).numpy())
        np.savez(options.folder / f"{sample.name}.npz", method.points(outputs, single))


if __name__ == "__main__":
    main()
