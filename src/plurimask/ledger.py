"""What a folder of results keeps about them: the settings that they have in common, and one row per image.

``config.json`` holds the settings, ``summary.csv`` the rows, so that results of other settings, of another model or of
another image are not taken for those that are asked for.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import plurimask
from plurimask.data.io import natural
from plurimask.data.storage import load_attributes
from plurimask.export.files import EVERYTHING, path_of, strangers
from plurimask.export.tables import write_rows
from plurimask.predict import Precision

SUMMARY, CONFIG = "summary.csv", "config.json"
COLUMNS = ("image", "objects", "objects_low", "objects_high", "mean_doubt", "unlike", "seconds", "problem")

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Settings:
    """What the results of one folder have in common; ``weights`` is a fingerprint of the model's two files."""

    model: str
    weights: str
    draws: int
    seed: int
    pixel_size: float | None
    diameter: float | None
    axes: str | None
    channel_files: Sequence[str] | None
    precision: Precision


def fingerprint(paths: Iterable[Path]) -> str:
    """A short hash of what files hold, so that a new image or model is not taken for the old one of the same name."""
    digest = hashlib.sha256()
    for path in sorted(paths):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


def check_output(output: Path, settings: Settings, *, targets: Mapping[str, Path], overwrite: bool) -> None:
    """Refuses a folder in which results of several settings would meet, or in which something else would be lost.

    targets: name of an image -> path of its results without their endings.

    Raises:
        FileExistsError: the message says what differs, or what is in the way.
    """
    if output.exists() and not output.is_dir():
        raise FileExistsError(f"{output} is a file; results need a folder: give another name.")
    there = _settings_there(output, targets.values())
    different = [] if there is None else differences(there, settings)
    others = set(_summary_there(output)) - set(targets)
    if different and not overwrite:
        raise FileExistsError(
            f"{output} holds results of other settings ({'; '.join(different)}); use the same ones to go on, another "
            "folder, or --overwrite."
        )
    if different and others:
        raise FileExistsError(
            f"{output} also holds results of {len(others)} other images ({min(others)}, ...) with other settings "
            f"({'; '.join(different)}); use another folder."
        )
    in_the_way = [path for target in targets.values() for path in strangers(target)]
    if in_the_way and not overwrite:
        raise FileExistsError(
            f"{in_the_way[0]} exists, but is not part of a result of plurimask ({len(in_the_way)} such files in all); "
            "use another folder, or --overwrite."
        )


def _settings_there(output: Path, targets: Iterable[Path]) -> Mapping[str, Any] | None:
    """The settings of the results in a folder, from its config or, where that is lost, from a result."""
    config = output / CONFIG
    if config.exists():
        stored = _json_there(config)
        if not (isinstance(stored, dict) and isinstance(stored.get("settings"), dict)):
            raise FileExistsError(f"{config} exists, but plurimask did not write it; use another folder.")
        return dict(stored["settings"])
    for target in targets:
        if path_of(target, EVERYTHING).exists():
            return dict(load_attributes(path_of(target, EVERYTHING)).get("settings", {}))
    return None


def _json_there(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return None


def differences(there: Mapping[str, Any], now: Settings) -> list[str]:
    """What changed, in words; a model is its weights, wherever they lie.

    >>> now = Settings("b", "x", 4, 0, None, None, None, ("w2",), "auto")
    >>> differences({"draws": 8, "model": "a", "weights": "x", "seed": 0, "channel_files": ["w2"]}, now)
    ['draws: 8 there, 4 now', 'precision: None there, auto now']
    """
    values = json.loads(json.dumps(asdict(now)))  # as they come back from a file
    different = {name: (there.get(name), value) for name, value in values.items() if there.get(name) != value}
    if "weights" not in different:
        different.pop("model", None)  # the same model by another path
    elif "model" in different:
        different.pop("weights")
    return [f"{name}: {old} there, {new} now" for name, (old, new) in different.items()]


def write_config(output: Path, settings: Settings) -> None:
    """Writes ``config.json`` where it is missing or says something else."""
    text = json.dumps({"plurimask": plurimask.__version__, "settings": asdict(settings)}, indent=2) + "\n"
    config = output / CONFIG
    if not config.exists() or config.read_text(encoding="utf-8") != text:
        output.mkdir(parents=True, exist_ok=True)
        unfinished = output / f".{CONFIG}.part"
        unfinished.write_text(text, encoding="utf-8")
        unfinished.replace(config)


def write_summary(output: Path, rows: Mapping[str, Row]) -> None:
    """Writes the rows (name -> row) of a batch, and those of other images whose results are in the same folder."""
    output.mkdir(parents=True, exist_ok=True)
    every = {**_summary_there(output), **rows}
    unfinished = output / f".{SUMMARY}.part"
    write_rows(unfinished, [every[name] for name in sorted(every, key=natural)], COLUMNS)
    unfinished.replace(output / SUMMARY)


def _summary_there(output: Path) -> dict[str, Row]:
    path = output / SUMMARY
    if not path.exists():
        return {}
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        reader = csv.DictReader(file)
        names = set(reader.fieldnames or ())
        if COLUMNS[0] not in names or not names <= set(COLUMNS):
            raise FileExistsError(f"{path} exists, but plurimask did not write it; use another folder.")
        return {row[COLUMNS[0]]: row for row in reader}
