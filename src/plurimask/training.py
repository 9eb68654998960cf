"""From folders of images with truth to a model folder."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from plurimask.data.dataset import Example
from plurimask.data.normalise import Normalisation
from plurimask.data.samples import Sample, Source
from plurimask.data.sources import open_source
from plurimask.data.unlabelled import Unlabelled, find_unlabelled
from plurimask.familiarity import Familiarity, training_looks
from plurimask.fitting import FINISHED, Schedule, check_annotator, fit
from plurimask.instances import Instances
from plurimask.listening import Listen2Student
from plurimask.methods import Embedding
from plurimask.metrics.border import SigmaScale
from plurimask.model import FILES, Model, Scale, describe, find_model, load_model, network_factory
from plurimask.networks import UNet
from plurimask.platt import Platt
from plurimask.posteriors import ConcreteDropout
from plurimask.protocols import Backbone, Method, Network, NetworkFactory, Posterior

INITIAL = "initial_weights"  # in the settings of a run: a digest of what it started from; older runs have none


def train(
    data: Sequence[Path | str],
    output: Path | str,
    *,
    method: Method = Embedding(),
    backbone: Callable[[int], Backbone] = UNet,
    posterior: Callable[[NetworkFactory], Posterior] = ConcreteDropout,
    schedule: Schedule = Schedule(),
    normalisation: Normalisation = Normalisation(),
    weights: Sequence[float] | None = None,
    only: Sequence[str] | None = None,
    unlabelled: Sequence[str] | None = None,
    teaching: Listen2Student = Listen2Student(),
    channels: Sequence[str] | None = None,
    axes: str | None = None,
    channel_files: Sequence[str] | None = None,
    init: Path | str | None = None,
    backbone_from: Path | str | None = None,
    window: int = 768,
    halo: int = 128,
    overwrite: bool = False,
    progress: bool = True,
) -> Model:
    """Trains a model on the *fit* parts of data sets and keeps the state that is best on the first one's *tune* part.

    A killed run continues when the same command is given again: checkpoints and logs lie in ``OUTPUT.run``. The members
    of an ensemble are trained one after the other, each with its own seed and in a folder of its own there.

    Args:
        data: folders with images and truth in any layout that :func:`plurimask.data.sources.open_source` knows.
        output: folder of the model to be made.
        method: how pixels become objects.
        backbone: makes the backbone from the number of channels.
        posterior: makes the posterior from a factory of networks.
        schedule: how long and how fast.
        normalisation: of intensities.
        weights: how often crops come from each folder, relative to the others; by number of images if None.
        only: names of the images to fit of the first folder, all if None; one that is named twice comes twice as often.
        unlabelled: folders with images whose truth, if there is any, is not looked at: of a benchmark the fit part,
            else all images but those of the folder's tune and report parts. Images that are fitted with their truth or
            choose the state are left out, so that the folder of ``only`` may be given again. They are kept in memory.
        teaching: how the method learns from unlabelled images, if there are some.
        channels: names of the channels, as the model will call them; those of the channel files if none are given.
        axes: of the image files, where they do not say it themselves.
        channel_files: which files are the channels, in order, where the data has a file for each: BBBC010 has w2
            (bright-field, the default) and w1 (GFP), as in "w2 w1".
        init: a trained model to start from; it brings its own method, backbone, posterior and normalisation, and what
            its training images look like.
        backbone_from: a trained model of any method; the new one's backbone (that of every member, if it is an
            ensemble) starts from the weights of its, or of its first member. Its normalisation is not taken over.
        window: largest side of a prediction window.
        halo: how far a window sees beyond what it answers for.
        overwrite: replace a model that is already there, and start its run afresh.
        progress: whether to show a bar.

    Raises:
        FileExistsError: if ``output`` holds a model already, or its run was started with other settings or from other
            weights.
        ValueError: if a part is empty, a name is not there, images differ in channels or do not fit the network,
            weights do not fit the folders, a folder has no such channel files or no unlabelled images, the method
            cannot learn from such or from all annotators at once, or the backbone to start from is another one.
    """
    output = Path(output)
    start, lender = _earlier_models(init, backbone_from)
    check_annotator(start.method if start else method, schedule)
    run = _run_folder(output, overwrite=overwrite)
    normalise = start.normalisation if start else normalisation
    sources = [open_source(folder, split="fit", axes=axes, channel_files=channel_files) for folder in data]
    parts = [_read(source, normalise, only=None if place else only) for place, source in enumerate(sources)]
    chosen = open_source(data[0], split="tune", axes=axes, channel_files=channel_files)
    looked_at = _read(chosen, normalise)
    tune, examples = looked_at.examples, [example for part in parts for example in part.examples]
    files = frozenset[Path]().union(*(part.files for part in (*parts, looked_at)))
    find = partial(find_unlabelled, without=files, axes=axes, channel_files=channel_files)
    others = [_without_truth(image, normalise) for folder in unlabelled or () for image in find(folder)]
    count = _channel_count([*examples, *tune, *others])
    torch.manual_seed(schedule.seed)
    model = start or _fresh(method, backbone(count), posterior, lender=lender)
    _fits(model, examples[0].image, hint=chosen.channel_hint)
    names = _channel_names(channels or (start.channels if start else channel_files), count)
    model = replace(
        model,
        normalisation=normalise,
        calibration=Platt(),  # that of an initial model no longer holds
        quality=Platt(),
        border=SigmaScale(),
        familiarity=Familiarity(),  # known at the end
        channels=names,
        scale=_scale(parts[0]),
        window=window,
        halo=halo,
        trained_on=_names([*examples, *others], before=start or lender),
    )
    given: dict[str, Any] = {"channel_files": channel_files, "weights": weights, "only": only}
    given |= {"init": init, "backbone_from": backbone_from}
    _remember(run, model, schedule, given, others=others, teaching=teaching)
    fitted = _fit_parts(
        model,
        examples,
        tune,
        run=run,
        schedule=schedule,
        weights=_frequencies(parts, weights),
        others=others,
        teaching=teaching,
        progress=progress,
    )
    looked = training_looks([e.image for e in examples], normalise, schedule.augmentation, seed=schedule.seed)
    fitted = replace(fitted, familiarity=(start.familiarity if start else Familiarity()).joined(looked))
    fitted.save(output)
    return fitted


def _names(examples: Sequence[Example], *, before: Model | None) -> tuple[str, ...]:
    """What a model has seen: what the one before has, and these; each once."""
    return tuple(dict.fromkeys([*(before.trained_on if before else ()), *(example.name for example in examples)]))


def _earlier_models(init: Path | str | None, backbone_from: Path | str | None) -> tuple[Model | None, Model | None]:
    """The model to go on with, and the one that lends its backbone to a new model."""
    if init is not None and backbone_from is not None:
        raise ValueError("init brings a backbone, and backbone_from another one; give one of them.")
    start, lender = (None if model is None else load_model(model) for model in (init, backbone_from))
    return start, lender


def _fresh(
    method: Method, backbone: Backbone, posterior: Callable[[NetworkFactory], Posterior], *, lender: Model | None
) -> Model:
    model = Model(posterior=posterior(network_factory(describe(backbone), method)), method=method)
    if lender is not None:
        for network in (part for part in model.posterior.modules() if isinstance(part, Network)):
            _inherit(network.backbone, lender.backbone)
    return model


def _inherit(backbone: Backbone, lender: Backbone) -> None:
    """Takes over all weights, and the rates of dropout where both have such."""
    own, weights = backbone.state_dict(), lender.state_dict()
    mine, theirs = ({k: v.shape for k, v in state.items() if ".dropout." not in k} for state in (own, weights))
    if mine != theirs:
        raise ValueError(
            f"the backbone to start from is another one: {describe(lender)} instead of {describe(backbone)}. Give the "
            "same backbone and channels, or do without backbone_from."
        )
    backbone.load_state_dict({key: weights[key] for key in own if key in weights}, strict=False)


def _fit_parts(
    model: Model,
    examples: Sequence[Example],
    tune: Sequence[Example],
    *,
    run: Path,
    schedule: Schedule,
    weights: NDArray[np.float64] | None,
    others: Sequence[Example],
    teaching: Listen2Student,
    progress: bool,
) -> Model:
    """Every part of the posterior in a run of its own, with the next seed (and annotator, where one is chosen) each.

    Of a finished run the end is read.
    """
    parts = model.posterior.parts()
    for number, part in enumerate(parts):
        annotator = schedule.annotator + number if isinstance(schedule.annotator, int) else schedule.annotator
        fit(
            replace(model, posterior=part),
            examples,
            tune,
            run=run / f"member_{number}" if len(parts) > 1 else run,
            schedule=replace(schedule, seed=schedule.seed + number, annotator=annotator),
            weights=weights,
            unlabelled=[example.image for example in others],
            teaching=teaching,
            progress=progress,
        )
    model.posterior.eval()
    return model


def _fits(model: Model, image: NDArray[np.float32], *, hint: str) -> None:
    """Whether the network can read such images."""
    backbone = model.backbone
    if (backbone.in_channels, backbone.ndim) != (len(image), image.ndim - 1):
        advice = f"Give other images, or another backbone or initial model. {hint}".rstrip()
        raise ValueError(
            f"the images have {len(image)} channels and {image.ndim - 1} spatial axes; the network reads "
            f"{backbone.in_channels} and {backbone.ndim}. {advice}"
        )


def _run_folder(output: Path, *, overwrite: bool) -> Path:
    run = output.with_name(output.name + ".run")
    if (output / "model.json").exists() and not overwrite:
        raise FileExistsError(f"{output} holds a model already; choose another folder, or replace it (--overwrite).")
    if overwrite:
        (run / "settings.json").unlink(missing_ok=True)
        for folder in (run, *run.glob("member_*")):
            for file in (*folder.glob("*.ckpt"), folder / FINISHED):
                file.unlink(missing_ok=True)
            shutil.rmtree(folder / "logs", ignore_errors=True)
    return run


def _remember(
    run: Path,
    model: Model,
    schedule: Schedule,
    given: Mapping[str, Any],
    *,
    others: Sequence[Example],
    teaching: Listen2Student,
) -> None:
    """Keeps the settings beside the checkpoints, and refuses to continue a run under others."""
    settings = {**model.describe(), "schedule": describe(schedule)}
    del settings["familiarity"]  # it follows from the images
    settings |= {name: _plain(value) for name, value in given.items() if value is not None}
    settings |= {"unlabelled": [e.name for e in others], "teaching": describe(teaching)} if others else {}
    settings["schedule"]["init_args"]["augmentation"] = describe(schedule.augmentation)
    digest = _weights_digest(given["init"] or given["backbone_from"])
    file = run / "settings.json"
    if file.exists():
        _compare(file, settings, digest)
        return
    settings |= {} if digest is None else {INITIAL: digest}
    run.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(".part")
    part.write_text(json.dumps(settings, indent=2, default=list), encoding="utf-8")
    part.replace(file)


def _compare(file: Path, settings: Mapping[str, Any], digest: str | None) -> None:
    """Refuses other settings than those of a run, and other weights to start from, if the run knows its own."""
    kept = json.loads(file.read_text(encoding="utf-8"))
    before = kept.pop(INITIAL, None)
    advice = "give those, another output, or start afresh (--overwrite)."
    if json.dumps(kept) != json.dumps(settings, default=list):
        raise FileExistsError(f"{file.parent} holds a run with other settings (compare {file}); {advice}")
    if before not in (None, digest):
        raise FileExistsError(
            f"{file.parent} holds a run that started from other weights: those of its initial model have changed "
            f"since; {advice}"
        )


def _weights_digest(model: Path | str | None) -> str | None:
    if model is None:
        return None
    return hashlib.sha256((find_model(model) / FILES[0]).read_bytes()).hexdigest()[:16]


def _plain(given: Path | str | Sequence[str] | Sequence[float]) -> str | list[str | float]:
    """As JSON has it; 9 and 9.0 are one number."""
    if isinstance(given, Path | str):
        return str(given)
    return [value if isinstance(value, str) else float(value) for value in given]


@dataclass(frozen=True)
class _Part:
    """The images of one folder, in memory, with their files and the pixel sizes that these know."""

    examples: tuple[Example, ...]
    files: frozenset[Path]
    pixel_sizes: frozenset[tuple[float, ...] | None]


def _read(source: Source, normalise: Normalisation, *, only: Sequence[str] | None = None) -> _Part:
    """Reads a part of a data set, or what is named of it.

    Raises:
        ValueError: if it is empty, or a name is not there.
    """
    if len(source) == 0:
        raise ValueError(f"{source.folder} has no images in its {source.split!r} part; training needs some.")
    samples = list(source) if only is None else _named(source, only)
    pairs = [(sample.name, *sample.read_all()) for sample in samples]
    examples = tuple(Example(name, normalise(image.data), truths[0], truths[1:]) for name, image, truths in pairs)
    files = frozenset(file for sample in samples for file in sample.files)
    return _Part(examples, files, frozenset(image.pixel_size for _, image, _ in pairs))


def _without_truth(unlabelled: Unlabelled, normalise: Normalisation) -> Example:
    image = unlabelled.image()
    return Example(unlabelled.name, normalise(image.data), Instances.empty(image.shape))


def _named(source: Source, names: Sequence[str]) -> list[Sample]:
    samples = {sample.name: sample for sample in source}
    if strangers := [name for name in names if name not in samples]:
        some = f"{', '.join(strangers[:5])}{', ...' if len(strangers) > 5 else ''}"
        raise ValueError(f"{source.folder} has no images {some} in its {source.split!r} part.")
    if not names:
        raise ValueError("no image is named; training needs some.")
    return [samples[name] for name in names]


def _channel_count(examples: Sequence[Example]) -> int:
    counts = {len(example.image): example.name for example in examples}
    if len(counts) > 1:
        found = ", ".join(f"{count} ({name})" for count, name in sorted(counts.items()))
        grey = " A picture without any colour counts as one channel; --axes YXC keeps three." * (set(counts) == {1, 3})
        raise ValueError(f"the images differ in their number of channels: {found}; give images that agree.{grey}")
    return next(iter(counts))


def _channel_names(given: Sequence[str] | None, count: int) -> tuple[str, ...]:
    """Those given, or names for want of better ones."""
    if not given:
        return ("intensity",) if count == 1 else tuple(f"channel {number}" for number in range(count))
    if len(given) != count:
        raise ValueError(f"the images have {count} channels, but {len(given)} names were given: {', '.join(given)}.")
    return tuple(given)


def _frequencies(parts: Sequence[_Part], weights: Sequence[float] | None) -> NDArray[np.float64] | None:
    """``(images,)`` probabilities: a folder's weight is shared by its images."""
    if weights is None:
        return None
    if len(weights) != len(parts) or min(weights) < 0 or sum(weights) <= 0:
        raise ValueError(f"{len(parts)} folders want as many weights, not negative and not all zero; got {weights}.")
    counts = [len(part.examples) for part in parts]
    shares: NDArray[np.float64] = np.repeat(np.array(weights, np.float64) / counts, counts) / np.sum(weights)
    return shares


def _scale(part: _Part) -> Scale:
    """Pixel size, if the files know it and agree, and the median diameter of the objects."""
    size = next(iter(part.pixel_sizes)) if len(part.pixel_sizes) == 1 else None
    truths = [example.truth for example in part.examples]
    areas = np.concatenate([truth.areas for truth in truths])
    diameter = float(np.median(equivalent_diameter(areas, truths[0].ndim))) if len(areas) else None
    return Scale(pixel_size=size[-1] if size else None, diameter=diameter)


def equivalent_diameter(areas: NDArray[np.int64], ndim: int) -> NDArray[np.float64]:
    """Diameter of a disk or ball of the same size.

    >>> equivalent_diameter(np.array([314]), 2).round(1)
    array([20.])
    """
    ball = np.pi if ndim == 2 else 4 / 3 * np.pi
    diameters: NDArray[np.float64] = 2 * (areas / ball) ** (1 / ndim)
    return diameters
