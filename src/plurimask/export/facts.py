"""What is installed, and what a model or a result holds, as plain facts that can be printed."""

from __future__ import annotations

import csv
import json
import os
import platform
from pathlib import Path
from typing import Any

import torch

import plurimask
from plurimask.data.storage import SUFFIX, load, load_attributes
from plurimask.model import SHIPPED, find_model, shipped_models

Facts = dict[str, Any]


def facts(path: Path | str | None = None) -> Facts:
    """Name -> fact, in the order in which they are worth reading.

    Args:
        path: a model (by name or folder), a result NAME.plurimask.zarr, or the output folder of a batch. Without one:
            the version, the devices and the shipped models.

    Raises:
        FileNotFoundError: none of these has this name.
    """
    if path is None:
        return _installation()
    place = Path(path)
    if place.name.endswith(SUFFIX):
        return _result(place)
    if (place / "config.json").is_file() and (place / "summary.csv").is_file():
        return _batch(place)
    return _model(find_model(path))


def _installation() -> Facts:
    models = {name: _described(SHIPPED / name) for name in shipped_models()}
    return {
        "plurimask": plurimask.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "devices": ", ".join(_devices()),
        **{f"model {name}": text for name, text in models.items()},
    }


def _devices() -> list[str]:
    cuda = [f"cuda:{n} ({torch.cuda.get_device_name(n)})" for n in range(torch.cuda.device_count())]
    mps = ["mps"] if torch.backends.mps.is_available() else []
    return [*cuda, *mps, f"cpu ({torch.get_num_threads()} threads of {os.cpu_count()})"]


def _described(folder: Path) -> str:
    card = json.loads((folder / "model.json").read_text(encoding="utf-8")).get("card", {})
    return str(card.get("description", ""))


def _model(folder: Path) -> Facts:
    text = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    known = text.pop("familiarity", {"init_args": {"references": ()}})["init_args"]["references"]
    parts = {name: _brief(part) for name, part in text.items() if isinstance(part, dict) and "class_path" in part}
    rest = {name: value for name, value in text.items() if name not in (*parts, "card", "trained_on")}
    weights = folder / "weights.safetensors"
    return {
        "model": str(folder),
        **parts,
        **rest,
        "trained on": f"{len(text.get('trained_on', ()))} images",
        "familiarity": f"{sum(map(len, known))} reference looks of {len(known)} images" if known else "nothing known",
        "weights": f"{weights.stat().st_size / 1e6:.1f} MB" if weights.exists() else "missing",
        **text.get("card", {}),
    }


def _brief(part: dict[str, Any]) -> str:
    settings = ", ".join(f"{name}={value}" for name, value in part["init_args"].items() if not isinstance(value, dict))
    return f"{part['class_path'].rpartition('.')[2]}({settings})"


def _result(path: Path) -> Facts:
    result, attributes = load(path), load_attributes(path)
    low, high = result.count_interval()
    chosen = len(result.best())
    return {
        "result": str(path),
        "image": " x ".join(map(str, result.shape)),
        "draws": result.draws,
        "objects": f"{chosen} ({low} to {high} in 95 % of the draws)",
        "rejected hypotheses": len(result) - chosen,
        "conflicts": len(result.conflicts),
        **attributes.get("settings", {}),
    }


def _batch(folder: Path) -> Facts:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    with (folder / "summary.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    failed = [row["image"] for row in rows if row["problem"]]
    return {
        "batch": str(folder),
        "images": len(rows),
        "objects": sum(int(row["objects"] or 0) for row in rows),
        "failed": ", ".join(failed) or "none",
        **config.get("settings", {}),
    }
