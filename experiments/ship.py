"""Puts a trained and tuned model into the package: weights in half precision, with its card.

plurimask tune RUNS/worms $PLURIMASK_DATA/bbbc010 -o RUNS/worms-tuned
python experiments/ship.py RUNS/worms-tuned worms
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from plurimask.model import SHIPPED, load_model

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
    options = parser.parse_args()
    model = load_model(options.trained)
    replace(model, card={**CARDS[options.name], **model.card}).save(SHIPPED / options.name, half=True)


if __name__ == "__main__":
    main()
