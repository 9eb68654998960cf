"""Decoding parameters and calibrations, chosen on images that were not fitted: computed once, decoded many times."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from plurimask.data.samples import Sample, Source, briefly
from plurimask.data.sources import open_source
from plurimask.decoding import Bench, Grid, Seen, Shelf, Trial, candidates, search, settings
from plurimask.instances import Instances
from plurimask.metrics.bootstrap import Interval, interval, paired_difference
from plurimask.metrics.border import SigmaScale, pool
from plurimask.metrics.hypotheses import Honesty, Outcomes
from plurimask.metrics.segmentation import Scores, Summary, score, summarise
from plurimask.model import Model, load_model
from plurimask.platt import Platt
from plurimask.posteriors import Augmented
from plurimask.predict import Device, Precision, seeds_of

REPORT = "tuning.json"  # beside the tuned model

Search = Callable[[Model, Bench], tuple[Model, tuple[Trial, ...]]]


@dataclass(frozen=True)
class Choice:
    """What was chosen on some images.

    Attributes:
        model: with the chosen parameters and calibration.
        chosen_on: names of the images that it was chosen on.
        scored_on: names of the images that it is scored on: the same ones, or those of the other fold.
        changes: ``method.FIELD`` or ``agglomeration.FIELD`` -> (value before, value now), of those that changed.
        trials: in the order in which they were made.
    """

    model: Model
    chosen_on: tuple[str, ...]
    scored_on: tuple[str, ...]
    changes: Mapping[str, tuple[Any, Any]]
    trials: tuple[Trial, ...]

    def to_json(self) -> dict[str, Any]:
        """All but the model's weights; of the model only its calibrations, which ``changes`` does not hold."""
        plain = {name: getattr(self, name) for name in ("chosen_on", "scored_on", "changes")}
        return {
            **plain,
            "calibration": asdict(self.model.calibration),
            "quality": asdict(self.model.quality),
            "border": asdict(self.model.border),
            "trials": [asdict(each) for each in self.trials],
        }


@dataclass(frozen=True)
class Row:
    """One image: its measure with the model as it came, with the chosen parameters, and with the calibration, too."""

    name: str
    before: float
    uncalibrated: float
    after: float


@dataclass(frozen=True)
class TuneReport:
    """What was chosen, and what it brings on the images that it is scored on.

    Attributes:
        choices: one; two in the two-fold protocol.
        rows: one per image.
        measure: what was maximised.
        before: its mean over the images with the model as it came.
        uncalibrated: with the chosen parameters alone.
        after: with the chosen parameters and calibration: what the saved model gives.
        difference: after - before, image by image.
        summary: all measures with the chosen parameters and calibration.
        raw: of the hypotheses with the chosen parameters alone.
        calibrated: of the same hypotheses after calibration.
        settings: what :func:`tune` was called with.
    """

    choices: tuple[Choice, ...]
    rows: tuple[Row, ...]
    measure: str
    before: Interval
    uncalibrated: Interval
    after: Interval
    difference: Interval
    summary: Summary
    raw: Honesty
    calibrated: Honesty
    settings: Mapping[str, Any]

    @property
    def model(self) -> Model:
        """The tuned model; in the two-fold protocol that of the first choice."""
        return self.choices[0].model

    @property
    def protocol(self) -> str:
        """What the numbers mean."""
        if len(self.choices) == 2:
            return (
                "two-fold protocol of the papers: chosen on one half, scored on the other. Where these are the images "
                "of a test set, it was chosen on the test set"
            )
        return "chosen and scored on the same images: expect a little less on others"

    def to_json(self) -> dict[str, Any]:
        """Numbers, strings, lists and dictionaries only."""
        means = {name: asdict(getattr(self, name)) for name in ("before", "uncalibrated", "after", "difference")}
        honesty = {"raw": self.raw, "calibrated": self.calibrated}
        return {
            "settings": dict(self.settings),
            "protocol": self.protocol,
            "measure": self.measure,
            **means,
            "measures": {name: asdict(value) for name, value in self.summary.measures.items()},
            "existence": {name: each.existence for name, each in honesty.items()},
            "expected_iou": {name: each.expected_iou for name, each in honesty.items()},
            "border": {name: each.border for name, each in honesty.items()},
            "choices": [choice.to_json() for choice in self.choices],
            "per_image": [asdict(row) for row in self.rows],
        }


def tune(
    model: Model | Path | str,
    data: Path | str,
    *,
    output: Path | str | None = None,
    draws: int = 8,
    seed: int = 0,
    measure: str = "avS",
    parameters: Grid | None = None,
    rounds: int = 2,
    images: int | None = None,
    folds: tuple[Sequence[str], Sequence[str]] | None = None,
    augment: bool = False,
    axes: str | None = None,
    channel_files: Sequence[str] | None = None,
    device: Device = "auto",
    precision: Precision = "auto",
    memory: int = 2_000_000_000,
    overwrite: bool = False,
    on_image: Callable[[str, int], None] | None = None,
    on_trial: Callable[[Trial, int], None] | None = None,
) -> TuneReport:
    """Chooses a model's decoding parameters, and calibrates its existence, expected IoU and borders, on *tune* images.

    One parameter after the other takes the value with the highest mean of the measure over the images (of ``best()``,
    uncalibrated; ties keep what is there). Then existence is calibrated on what the chosen parameters find, and after
    it the expected IoU, and the standard deviations of borders where there are some. Outputs are computed once.

    Args:
        model: a model, its folder, or the name of a shipped one.
        data: folder with images and truth in any layout that :func:`plurimask.data.sources.open_source` knows.
        output: folder for the tuned model and ``tuning.json`` with every number; nothing is written without it.
        draws: how often the model is asked for every image.
        seed: of the first draw, and of the bootstrap.
        measure: what is maximised, a name of :meth:`plurimask.metrics.segmentation.Scores.measures`.
        parameters: "method.FIELD" or "agglomeration.FIELD" -> values to try, in this order; what method and
            agglomeration propose around their present values if None.
        rounds: how often all parameters are gone through; it ends sooner where a round changes nothing. With 0 only
            existence, expected IoU and borders are calibrated.
        images: only so many, spread evenly over the part.
        folds: names of two halves of images of the whole data set; what is chosen on one is scored on the other, as
            R20 did on its test images (docs/algorithms.md, 2.4). There are two models then, and none is saved.
        augment: the tuned model sees every draw's image turned or flipped in another way (test-time augmentation,
            :class:`plurimask.posteriors.Augmented`), and so does the one that is tuned. It needs no training, and gives
            a model without doubt some.
        axes: of the image files, where they do not say it themselves.
        channel_files: which files are the channels, in order, where the data has a file for each, as for training.
        device: "auto" takes a GPU where there is one.
        precision: "auto" is bfloat16 where the processor supports it.
        memory: bytes of outputs to keep in memory; what is beyond goes to a temporary folder.
        overwrite: replace a model in ``output``, which may be the tuned one itself.
        on_image: is called after the network has seen an image, with its name and the number of images.
        on_trial: is called after every trial with it and the largest number of trials that the search may take.

    Raises:
        FileNotFoundError: there is no such model, or no image in this part.
        FileExistsError: ``output`` holds a model, or a file of its name, and may not be replaced.
        ValueError: the model was fitted to one of the images, or an option makes no sense.
    """
    model = model if isinstance(model, Model) else load_model(model)
    model = _turned(model) if augment else model
    _check(model, measure=measure, grid=candidates(model, parameters), images=images)
    _check_output(output, overwrite=overwrite, several=folds is not None)
    source = open_source(data, split="tune" if folds is None else None, axes=axes, channel_files=channel_files)
    samples = _samples(source, model, images=images, folds=folds)
    seeds = seeds_of(model, draws, seed)
    with TemporaryDirectory(prefix="plurimask-") as folder:
        shelf, seen = Shelf(Path(folder), memory=memory), dict[str, Seen]()
        for sample in samples:
            seen[sample.name] = Seen.of(sample, model, shelf, seeds=seeds, device=device, precision=precision)
            if on_image:
                on_image(sample.name, len(samples))
        groups = [[seen[name] for name in names] for names in (folds or [seen])]
        benches = [Bench(group, measure, device=device, precision=precision) for group in groups]
        pairs = zip(benches, reversed(benches), strict=True)  # one alone is chosen and scored on
        choose = partial(search, parameters=parameters, rounds=rounds, on_trial=on_trial)
        scored = [_scored(model, choose, chosen_on=one, scored_on=other) for one, other in pairs]
    given = {"data": str(data), "draws": len(seeds), "seed": seed, "rounds": rounds, "parameters": parameters}
    given |= {"images": images, "augment": augment, "axes": axes, "channel_files": channel_files}
    report = _report(scored, measure=measure, settings=given)
    if output is not None:
        _save(report, Path(output))
    return report


def _turned(model: Model) -> Model:
    """Asked under turns and flips, if it is not already."""
    if any(isinstance(part, Augmented) for part in model.posterior.modules()):
        return model
    return replace(model, posterior=Augmented.of(model.posterior))


def _check(model: Model, *, measure: str, grid: Grid, images: int | None) -> None:
    nothing = Instances.empty((1, 1))
    measures = list(score(nothing, nothing).measures())
    if measure not in measures:
        raise ValueError(f"there is no measure {measure!r}; there are {', '.join(measures)}.")
    known = settings(model)
    if strangers := [name for name in grid if name not in known]:
        raise ValueError(f"this model has no parameters {', '.join(strangers)}; it has {', '.join(known)}.")
    try:
        json.dumps(grid)
    except TypeError as error:
        raise ValueError(f"the values to try must be plain numbers, texts or lists: {error}.") from error
    if images is not None and images < 1:
        raise ValueError(f"{images} images choose nothing; give at least 1, or leave it out for all of them.")


def _check_output(output: Path | str | None, *, overwrite: bool, several: bool) -> None:
    if output is None:
        return
    if several:
        raise ValueError("two folds give two models, and none can be saved; leave out the output or the folds.")
    there = [name for name in ("model.json", REPORT) if (Path(output) / name).exists()]
    if there and not overwrite:
        raise FileExistsError(f"{output} holds {there[0]} already; choose another folder, or replace it (--overwrite).")


def _samples(
    source: Source, model: Model, *, images: int | None, folds: Sequence[Sequence[str]] | None
) -> list[Sample]:
    """The images to choose on; none of them was fitted."""
    if folds is None:
        count = min(images or len(source), len(source))
        samples = [source[number * len(source) // count] for number in range(count)]
    else:
        samples = _folded(source, folds)
    fitted = [sample.name for sample in samples if sample.name in set(model.trained_on)]
    if fitted:
        raise ValueError(
            f"the model was fitted to {len(fitted)} of the {len(samples)} images, {briefly(fitted)}: on them it is "
            "surer than it should be. Choose on others (images of equal name are taken for the same)."
        )
    return samples


def _folded(source: Source, folds: Sequence[Sequence[str]]) -> list[Sample]:
    """The samples of all folds."""
    names = [name for fold in folds for name in fold]
    samples = {sample.name: sample for sample in source}
    if strangers := [name for name in names if name not in samples]:
        raise ValueError(f"{source.folder} has no images {briefly(strangers)}; it has {briefly(samples)}.")
    if len(folds) != 2 or not all(folds) or len(set(names)) < len(names):
        raise ValueError("two folds are wanted, neither empty, and no image twice.")
    return [samples[name] for name in names]


@dataclass(frozen=True)
class _Scored:
    choice: Choice
    rows: tuple[Row, ...]
    scores: list[Scores]
    raw: list[Outcomes]
    calibrated: list[Outcomes]


def _scored(model: Model, choose: Search, *, chosen_on: Bench, scored_on: Bench) -> _Scored:
    before = scored_on.values(model)
    decoding, trials = choose(replace(model, calibration=Platt(), quality=Platt(), border=SigmaScale()), chosen_on)
    tuned = _calibrated(decoding, chosen_on)
    values = np.stack([before, scored_on.values(decoding), scored_on.values(tuned)], axis=1).tolist()
    now = settings(tuned)
    changes = {name: (value, now[name]) for name, value in settings(model).items() if value != now[name]}
    return _Scored(
        Choice(tuned, chosen_on.names, scored_on.names, changes, trials),
        tuple(Row(name, *row) for name, row in zip(scored_on.names, values, strict=True)),
        scores=scored_on.scores(tuned),
        raw=_outcomes(decoding, scored_on),
        calibrated=_outcomes(tuned, scored_on),
    )


def _outcomes(model: Model, bench: Bench) -> list[Outcomes]:
    """Image by image."""
    return [Outcomes.of(image.truth, found) for image, found in zip(bench.images, bench.found(model), strict=True)]


def _calibrated(model: Model, bench: Bench) -> Model:
    """Existence first, as the expected IoU is made of it; as it is where there is no hypothesis."""
    outcomes = _outcomes(model, bench)
    probability, hits = (
        np.concatenate([getattr(each.existence, name) for each in outcomes]) for name in ("probability", "hits")
    )
    if not len(hits):
        return model
    border = SigmaScale.fit(pool([each.borders for each in outcomes]))
    model = replace(model, calibration=Platt.fit(probability, hits), border=border)
    outcomes = _outcomes(model, bench)
    expected, observed = (
        np.concatenate([getattr(each, name) for each in outcomes]) for name in ("expected", "observed")
    )
    return replace(model, quality=Platt.fit_mean(expected, observed)) if len(expected) else model


def _report(scored: Sequence[_Scored], *, measure: str, settings: Mapping[str, Any]) -> TuneReport:
    rows = tuple(row for each in scored for row in each.rows)
    before, uncalibrated, after = ([getattr(row, name) for row in rows] for name in ("before", "uncalibrated", "after"))
    seed = settings["seed"]
    return TuneReport(
        choices=tuple(each.choice for each in scored),
        rows=rows,
        measure=measure,
        before=interval(before, seed=seed),
        uncalibrated=interval(uncalibrated, seed=seed),
        after=interval(after, seed=seed),
        difference=paired_difference(after, before, seed=seed),
        summary=summarise([scores for each in scored for scores in each.scores], seed=seed),
        raw=Honesty.of([outcomes for each in scored for outcomes in each.raw]),
        calibrated=Honesty.of([outcomes for each in scored for outcomes in each.calibrated]),
        settings=settings,
    )


def _save(report: TuneReport, output: Path) -> None:
    """The model with a line in its card, and every number beside it."""
    where = f"{len(report.rows)} images of {Path(report.settings['data']).resolve().name}"
    line = f"{report.measure} {report.before} -> {report.after}, chosen and scored on {where}"
    replace(report.model, card={**report.model.card, "tuned": line}).save(output)
    unfinished = output / f"{REPORT}.part"
    unfinished.write_text(json.dumps(report.to_json(), indent=1, allow_nan=False) + "\n", encoding="utf-8")
    unfinished.replace(output / REPORT)
