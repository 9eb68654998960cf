"""Found objects of many images against their truth: find both, measure every image, then all of them together.

Which files belong together is in :mod:`plurimask.pairing`, what is measured in :mod:`plurimask.assessment`, and what is
written in :mod:`plurimask.export.report`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from plurimask.assessment import Assessment, Found, assess, parse_mode, summarise
from plurimask.comparison import Pair, Report, Row
from plurimask.data.io import images_in
from plurimask.data.samples import Sample, Split, briefly
from plurimask.data.sources import KINDS, open_source
from plurimask.data.truth import RESULT, truths
from plurimask.export.report import check_free, write_report
from plurimask.instances import Instances
from plurimask.metrics.segmentation import THRESHOLDS
from plurimask.pairing import Unpaired, check_complete, pair
from plurimask.probabilistic import ProbabilisticInstances
from plurimask.proofreading.simulate import Review, review
from plurimask.proofreading.simulate import summarise as summarise_reviews

log = logging.getLogger(__name__)

# Whatever readers and comparisons of shapes say, it has to be told of which of many images.
_PROBLEMS = (OSError, ValueError, ArithmeticError, LookupError, TypeError, RuntimeError)

Measure = Callable[[Instances, Found], Assessment]


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
    simulation: bool = True,
    seed: int = 0,
    output: str | Path | None = None,
    overwrite: bool = False,
    on_row: Callable[[Row, int], None] | None = None,
) -> Report:
    """How good the found objects are and, where they have probabilities, how honest; with intervals over images.

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
        simulation: simulate proofreading, too; this takes almost as long as all the rest.
        seed: of the bootstrap, and of the random orders.
        output: a folder for the report (``report.html``, its plots, ``per_object.csv``, ``metrics.json``), or a name in
            ``.json`` for the last alone.
        overwrite: replace files of a report that are there.
        on_row: is called after every image with its row and the number of images.

    Raises:
        FileNotFoundError: there is no such file or folder.
        FileExistsError: ``output`` is there and may not be replaced.
        Unpaired: names that do not fit together; the message lists them.
        ValueError: a file that cannot be read, shapes that differ; the message names the file. ``empty`` is no share.
    """
    if not 0 <= empty <= 1:
        raise ValueError(f"empty is {empty}; an image with nothing to find counts from 0 to 1, 1 by default.")
    if output is not None:
        check_free(Path(output), overwrite=overwrite)  # complains before the work, not after it
    choose = lru_cache(maxsize=1)(parse_mode(mode))  # several measures of an image ask for its objects
    measured = tuple(thresholds) if thresholds is not None else THRESHOLDS
    candidates, single = _found(Path(found), mode), not _is_folder_of_many(Path(found))
    pairs, left_out = _pairs(candidates, Path(truth), single=single, split=split, names=names, subset=subset)
    measure = partial(assess, choose=choose, thresholds=measured, empty=empty)
    rows, reviews = list[Row](), list[Review]()
    for one in pairs:
        row, true, objects = _measured(one, measure, places=(found, truth))
        rows.append(row)
        if simulation and isinstance(objects, ProbabilisticInstances):
            reviews.append(review(objects, true, choose(objects), empty=empty))
        if on_row is not None:
            on_row(rows[-1], len(pairs))
    quality = summarise([row.assessment for row in rows], seed=seed)
    proofreading = summarise_reviews(reviews, seed=seed) if reviews else None
    settings: dict[str, Any] = {"found": str(found), "truth": str(truth), "mode": mode, "thresholds": list(measured)}
    settings |= {"split": split, "names": names and str(names), "subset": subset, "empty": empty}
    settings |= {"simulation": simulation, "seed": seed}
    report = Report(tuple(rows), quality, proofreading, left_out, settings)
    if output is not None:
        write_report(report, Path(output), overwrite=overwrite)
    return report


def _pairs(
    candidates: Mapping[str, Callable[[], Found]],
    truth: Path,
    *,
    single: bool,
    split: Split | None,
    names: str | Path | None,
    subset: bool,
) -> tuple[list[Pair], tuple[str, ...]]:
    """What is to be evaluated, in the order of the truth, and the found names that are not.

    single: the found objects were given as one file.
    """
    samples = _samples(truth)
    every = {sample.name: sample.truth for sample in samples} if samples or split is not None else truths(truth)
    wanted = _wanted(list(every) if split is None else _part(truth, split), names, truth)
    # One file against one truth needs no names: whoever gives them says that they belong together.
    alone = single and len(candidates) == len(every) == 1
    belongs = dict(zip(candidates, every, strict=True)) if alone else pair(candidates, every)
    found_names = {true: name for name, true in belongs.items()}
    kept = [name for name in wanted if name in found_names]
    check_complete(kept, wanted, subset=subset)
    images = {sample.name: sample.image for sample in samples}
    pairs = [
        Pair(name, found_names[name], every[name], candidates[found_names[name]], images.get(name)) for name in kept
    ]
    asked = set(kept)
    return pairs, tuple(name for name, true in belongs.items() if true not in asked)


def _samples(path: Path) -> Sequence[Sample]:
    """Images with their truths; nothing where the truth comes without images, or not all of it has one."""
    try:
        return open_source(path)
    except (ValueError, OSError) as error:
        known = path.is_dir() and any(kind.recognises(path) for kind in KINDS)
        if known and images_in(path, recursive=True):  # and not a folder of label maps alone
            log.warning("the truth is read without its images: %s", error)
        return ()


def _part(path: Path, split: Split) -> list[str]:
    try:
        return [sample.name for sample in open_source(path, split=split)]
    except ValueError as error:
        why = "only a whole data set, the folder of images and truth, knows its split"
        raise ValueError(f"{why}: {error}") from error


def _wanted(names: Sequence[str], listing: str | Path | None, truth: Path) -> list[str]:
    """Those of the names that are listed in a file."""
    if listing is None:
        return list(names)
    lines = Path(listing).read_text(encoding="utf-8").split("\n")
    asked = {line.strip() for line in lines if line.strip()}
    if not asked:
        raise Unpaired(f"{listing} lists no name; one per line is wanted, such as {briefly(names[:1])}.")
    if strangers := sorted(asked - set(names)):
        raise Unpaired(f"{listing} lists {briefly(strangers)}, but {truth} has no such truth.")
    return [name for name in names if name in asked]


def _found(path: Path, mode: str) -> dict[str, Callable[[], Found]]:
    """Name -> a function that reads the found objects; probabilistic results before everything else."""
    results = [path] if path.name.endswith(RESULT) else sorted(path.rglob(f"*{RESULT}")) if path.is_dir() else []
    if results and path.exists():
        root = path.parent if results == [path] else path
        named = {result.relative_to(root).as_posix().removesuffix(RESULT): result for result in results}
        return {name: partial(_read_result, result) for name, result in named.items()}
    if mode != "best":
        raise ValueError(f"mode {mode!r} needs probabilities; {path} holds none: there are no {RESULT} results in it.")
    return dict(truths(path))


def _read_result(path: Path) -> ProbabilisticInstances:
    from plurimask.data.storage import load  # here, because zarr takes a while to import

    return load(path)


def _is_folder_of_many(path: Path) -> bool:
    return path.is_dir() and not path.name.endswith(RESULT)


def _measured(one: Pair, measure: Measure, *, places: tuple[str | Path, str | Path]) -> tuple[Row, Instances, Found]:
    """places: where the found objects and the truth lie, for a message."""
    try:
        truth, found = one.truth(), one.found()
        return Row(one, measure(truth, found)), truth, found
    except _PROBLEMS as error:
        raise ValueError(f"{one.found_name} in {places[0]}, with {one.name} in {places[1]}: {error}") from error
