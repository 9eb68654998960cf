"""Found objects of many images against their truth: pair the files by name, score every image, average.

The pairing rule. A found name and a true name belong together if they are

1. equal (folders included, so that ``plate1/A01`` is not ``plate2/A01``), or else
2. the last part of the true name stands in the last part of the found name, between underscores:
   ``screen_B_A01_w2`` belongs to ``A01``, if that is the only true name in it.

Everything else is an error that names the files: two true names in one found name, two found names for one true name,
objects without a truth, and truths without objects (unless a subset is asked for).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from plurimask.data.samples import Source, Split
from plurimask.data.sources import open_source
from plurimask.data.truth import RESULT, Reader, truths
from plurimask.instances import Instances
from plurimask.metrics.segmentation import THRESHOLDS, Scores, Summary, score, summarise
from plurimask.probabilistic import ProbabilisticInstances

Choice = Callable[[ProbabilisticInstances], Instances]


class Unpaired(ValueError):
    """Found and true names that do not fit together."""


@dataclass(frozen=True)
class Row:
    """One image: its name in the truth, the name of the found objects, and the scores."""

    name: str
    found: str
    scores: Scores


@dataclass(frozen=True)
class Report:
    """An evaluation.

    Attributes:
        rows: one per image, in the order of the truth.
        summary: means over images with bootstrap intervals.
        left_out: found names that are not in the part of the data set that was asked for.
        settings: what :func:`evaluate` was called with.
    """

    rows: tuple[Row, ...]
    summary: Summary
    left_out: tuple[str, ...]
    settings: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Numbers, strings, lists and dictionaries only."""
        per_image = [
            {"name": row.name, "found": row.found, **_counts(row.scores), **row.scores.measures()} for row in self.rows
        ]
        means = {
            name: {"mean": value.mean, "low": value.low, "high": value.high}
            for name, value in self.summary.measures.items()
        }
        whole = {"images": self.summary.images, **_counts(self.summary), "measures": means}
        return {"settings": dict(self.settings), **whole, "left_out": list(self.left_out), "per_image": per_image}

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write ``metrics.json``: under a temporary name first, so that no reader ever sees half of it.

        path: the file, or a folder to put ``metrics.json`` in.

        Raises:
            FileExistsError: the file is there and may not be overwritten.
        """
        target = _free(Path(path), overwrite=overwrite)
        unfinished = target.with_name(f".{target.name}.{os.getpid()}")
        try:
            unfinished.write_text(json.dumps(self.to_json(), indent=1, allow_nan=False) + "\n", encoding="utf-8")
            unfinished.replace(target)
        finally:
            unfinished.unlink(missing_ok=True)
        return target


def evaluate(
    found: str | Path,
    truth: str | Path,
    *,
    mode: str = "best",
    thresholds: Sequence[float] | None = None,
    split: Split | None = None,
    names: str | Path | None = None,
    subset: bool = False,
    empty: float = 1.0,
    seed: int = 0,
    output: str | Path | None = None,
    overwrite: bool = False,
    on_row: Callable[[Row, int], None] | None = None,
) -> Report:
    """S, precision, recall and F1 of every image, their means and bootstrap intervals over images.

    Args:
        found: a folder of results (``NAME.plurimask.zarr``; where there are none ``NAME_labels.tif`` or other label
            maps, one mask per file, COCO JSON), or one such file.
        truth: a data set with images and truth, a folder of label maps or of masks (``NAME_<number>.png``,
            ``NAME_<number>_ground_truth.png``, ``NAME/*.png``), COCO JSON, or one file. A found name belongs to an
            equal true name, or to the one that stands in it between underscores.
        mode: what is taken from a probabilistic result: "best", the most probable set without conflicts, or
            "threshold 0.75", the pixels that belong to an object with at least this probability (the papers' mode).
        thresholds: IoUs from which a pair counts, as in "[0.5, 0.75]"; 0.5, 0.55, ..., 0.95 if none are given.
        split: only this part of the data set ``truth``; found images of the other parts are left out.
        names: only these true names, a text file with one name per line; other found images are left out.
        subset: truths for which there is no result are left out instead of being an error.
        empty: what an image counts in which there is nothing and nothing is found.
        seed: of the bootstrap.
        output: write every number, image by image, to this JSON file.
        overwrite: replace that file.
        on_row: is called after every image with its row and the number of images.

    Raises:
        FileNotFoundError: there is no such file or folder.
        FileExistsError: ``output`` is there and may not be replaced.
        Unpaired: names that do not fit together; the message lists them.
        ValueError: a file that cannot be read, shapes that differ; the message names the file.
    """
    if output is not None:
        _free(Path(output), overwrite=overwrite)  # complains before the work, not after it
    wanted, every = _truths(Path(truth), split, names)
    candidates = _found(Path(found), mode)
    # One file against one truth needs no names: whoever gives them says that they belong together.
    alone = len(candidates) == len(every) == 1 and not _is_folder_of_many(Path(found))
    pairs = dict(zip(candidates, every, strict=True)) if alone else pair(candidates, every)
    order = {name: position for position, name in enumerate(wanted)}
    kept = {name: pairs[name] for name in pairs if pairs[name] in order}
    _complete(kept.values(), wanted, subset=subset)
    measured = tuple(thresholds) if thresholds is not None else THRESHOLDS
    rows = []
    for name in sorted(kept, key=lambda name: order[kept[name]]):
        measure = partial(score, thresholds=measured, empty=empty)
        rows.append(_row(measure, (kept[name], every[kept[name]]), (name, candidates[name])))
        if on_row is not None:
            on_row(rows[-1], len(kept))
    settings: dict[str, Any] = {"found": str(found), "truth": str(truth), "mode": mode, "thresholds": list(measured)}
    settings |= {"split": split, "names": names and str(names), "subset": subset, "empty": empty, "seed": seed}
    left_out = tuple(name for name in pairs if name not in kept)
    report = Report(tuple(rows), summarise([row.scores for row in rows], seed=seed), left_out, settings)
    if output is not None:
        report.save(output, overwrite=overwrite)
    return report


def pair(found: Collection[str], truth: Collection[str]) -> dict[str, str]:
    """Found name -> true name, by the rule at the head of this module.

    >>> pair(["screen_B_A01_w2", "B07"], ["A01", "B07", "C03"])
    {'screen_B_A01_w2': 'A01', 'B07': 'B07'}

    Raises:
        Unpaired: a found name with no true name or several, or a true name with several found ones.
    """
    exact = set(truth)
    options = {name: [name] if name in exact else _inside(name, truth) for name in found}
    alone = [name for name, matches in options.items() if not matches]
    if alone:
        raise Unpaired(
            f"no truth for {_listed(alone)}. The truths are called {_listed(truth)}; a name must be equal, or the "
            "truth's name must stand between underscores in the found one."
        )
    torn = [f"{name} ({' or '.join(matches)})" for name, matches in options.items() if len(matches) > 1]
    if torn:
        raise Unpaired(f"more than one truth fits {_listed(torn)}; give the found files the names of their truths.")
    pairs = {name: matches[0] for name, matches in options.items()}
    owners: dict[str, list[str]] = {}
    for name, match in pairs.items():
        owners.setdefault(match, []).append(name)
    twice = [f"{name} ({' and '.join(rivals)})" for name, rivals in owners.items() if len(rivals) > 1]
    if twice:
        raise Unpaired(f"more than one found image for the truths {_listed(twice)}; leave only one of each.")
    return pairs


def parse_mode(mode: str) -> Choice:
    """Mode "best" or "threshold 0.75" -> which objects of a probabilistic result are taken.

    Raises:
        ValueError: anything else.
    """
    match mode.split():
        case ["best"]:
            return lambda result: result.best()
        case ["threshold", number] if _is_probability(number):
            return lambda result: result.threshold(float(number))
    raise ValueError(f'mode {mode!r}; wanted is "best" or "threshold" with a number in (0, 1], as in "threshold 0.75".')


def _free(path: Path, *, overwrite: bool) -> Path:
    """The file to write."""
    target = path / "metrics.json" if path.is_dir() else path
    if target.exists() and not overwrite:
        raise FileExistsError(f"{target} exists; give another name, or replace it (--overwrite).")
    return target


def _is_probability(text: str) -> bool:
    try:
        return 0 < float(text) <= 1
    except ValueError:
        return False


def _truths(path: Path, split: Split | None, names: str | Path | None) -> tuple[list[str], dict[str, Reader]]:
    """The names to evaluate, and all truths: found images are told from strangers by the latter."""
    if split is None:
        readers = truths(path)
        wanted = list(readers)
    else:
        wanted = [sample.name for sample in _part(path, split)]
        readers = {sample.name: sample.truth for sample in open_source(path)}
    if names is None:
        return wanted, readers
    listed = Path(names).read_text(encoding="utf-8").split("\n")
    asked = {line.strip() for line in listed if line.strip()}
    if strangers := sorted(asked - set(wanted)):
        raise Unpaired(f"{names} lists {_listed(strangers)}, but {path} has no such truth.")
    return [name for name in wanted if name in asked], readers


def _part(path: Path, split: Split) -> Source:
    try:
        return open_source(path, split=split)
    except ValueError as error:
        why = "only a whole data set, the folder of images and truth, knows its split"
        raise ValueError(f"{why}: {error}") from error


def _found(path: Path, mode: str) -> dict[str, Reader]:
    """Name -> a function that reads the found objects; probabilistic results before everything else."""
    choice = parse_mode(mode)
    results = [path] if path.name.endswith(RESULT) else sorted(path.rglob(f"*{RESULT}")) if path.is_dir() else []
    if results and path.exists():
        root = path.parent if results == [path] else path
        named = {result.relative_to(root).as_posix().removesuffix(RESULT): result for result in results}
        return {name: partial(_read_result, result, choice) for name, result in named.items()}
    if mode != "best":
        raise ValueError(f"mode {mode!r} needs probabilities; {path} holds none: there are no {RESULT} results in it.")
    return truths(path)


def _read_result(path: Path, choice: Choice) -> Instances:
    from plurimask.data.storage import load  # here, because zarr takes a while to import

    return choice(load(path))


def _is_folder_of_many(path: Path) -> bool:
    return path.is_dir() and not path.name.endswith(RESULT)


def _inside(name: str, truth: Iterable[str]) -> list[str]:
    """The true names whose last part stands between underscores in the last part of this name."""
    last = f"_{name.rsplit('/', 1)[-1]}_"
    return [candidate for candidate in truth if f"_{candidate.rsplit('/', 1)[-1]}_" in last]


def _complete(kept: Collection[str], wanted: Sequence[str], *, subset: bool) -> None:
    missing = [name for name in wanted if name not in kept]
    if missing and not subset:
        raise Unpaired(
            f"nothing found for the truths {_listed(missing)}; segment these images, too, or leave them out (--subset)."
        )
    if not kept:
        raise Unpaired(f"none of the {len(wanted)} images to evaluate was found; they are called {_listed(wanted)}.")


def _row(measure: Callable[..., Scores], truth: tuple[str, Reader], found: tuple[str, Reader]) -> Row:
    try:
        return Row(truth[0], found[0], measure(truth[1](), found[1]()))
    # Whatever the readers and the comparison of shapes say, it has to be told of which of many images.
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise ValueError(f"{found[0]} (truth {truth[0]}): {error}") from error


def _counts(counted: Scores | Summary) -> dict[str, int]:
    return {"truth_count": counted.truth_count, "found_count": counted.found_count}


def _listed(names: Iterable[str]) -> str:
    """At most six of the names, and how many more there are."""
    every = list(names)
    more = f", ... ({len(every)} in all)" if len(every) > 6 else ""
    return ", ".join(every[:6]) + more
