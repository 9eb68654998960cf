"""Test-time augmentation of a model that is trained already: its posterior asked under every turn and flip.

    python experiments/augmented.py worms-deterministic RUNS/worms-augmented
    plurimask tune RUNS/worms-augmented $PLURIMASK_DATA/bbbc010 --rounds 0 -o RUNS/worms-augmented-tuned

Weights and decoding stay; the calibrations are those of other draws and go.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from plurimask.metrics.border import SigmaScale
from plurimask.model import load_model
from plurimask.platt import Platt
from plurimask.posteriors import Augmented


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("output", type=Path)
    options = parser.parse_args()
    model = load_model(options.model)
    turned = Augmented.of(model.posterior)
    replace(model, posterior=turned, calibration=Platt(), quality=Platt(), border=SigmaScale()).save(options.output)


if __name__ == "__main__":
    main()
