"""How good is what was found? All measures of one image, its objects one by one, and all measures of a set of images.

Definitions stand where the measures are computed, in :mod:`plurimask.metrics`. Of an image only what is needed for the
set is kept, and no mask, so that many images can be gone through one after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plurimask import honesty
from plurimask.honesty import MIN_IOU, Examination, Honesty
from plurimask.instances import Instances
from plurimask.metrics import challenge, panoptic, partition, segmentation, splits
from plurimask.metrics.average_precision import Candidates, candidates, coco_ap, coco_ap_constant
from plurimask.metrics.bootstrap import Interval, interval
from plurimask.metrics.challenge import ChallengeCounts, ChallengeSummary
from plurimask.metrics.outcomes import outcomes
from plurimask.metrics.panoptic import Panoptic, PanopticSummary
from plurimask.metrics.partition import PartitionScores
from plurimask.metrics.segmentation import THRESHOLDS, Scores, Summary
from plurimask.metrics.splits import Splits, SplitSummary
from plurimask.probabilistic import ProbabilisticInstances

Choice = Callable[[ProbabilisticInstances], Instances]
Found = Instances | ProbabilisticInstances

DOUBTS = ("p_exists", "agreement", "expected_iou", "entropy", "p_split", "p_merge")
"""Columns of :meth:`ProbabilisticInstances.doubts` that the table of objects repeats."""

# COCO's average precision sorts all objects anew in every resample, and ten times that without a confidence.
_RESAMPLES, _ORDERS, _RESAMPLES_OF_ORDERS = 1000, 20, 200


@dataclass(frozen=True, eq=False)
class Assessment:
    """One image.

    Attributes:
        scores: hits and misses at every threshold.
        panoptic: panoptic quality.
        splits: what was split and merged.
        candidates: for COCO's average precision.
        challenge: what counts for the F1 of the NeurIPS 2022 challenge; None of a volume.
        partition: rRAND and rINF, None where the true objects do not tile the image (:func:`tiles`).
        objects: column -> ``(K,)``, one row per found object and then one per missed true one: ``label`` (the value in
            ``NAME_labels.tif`` of a probabilistic result, else the place among the found objects; of a missed object
            the place among the true ones; from 1), ``area``, ``centroid-0`` ..., :data:`DOUBTS` (NaN where unknown),
            ``matched``, ``iou`` and ``kind`` (see :mod:`plurimask.metrics.outcomes`).
        examination: of the doubt, None where there are no probabilities.
    """

    scores: Scores
    panoptic: Panoptic
    splits: Splits
    candidates: Candidates
    challenge: ChallengeCounts | None
    partition: PartitionScores | None
    objects: Mapping[str, NDArray[Any]]
    examination: Examination | None


@dataclass(frozen=True, eq=False)
class Quality:
    """A set of images.

    Attributes:
        segmentation: S and its kin, means over images.
        panoptic: PQ, SQ and RQ, pooled and as means over images.
        splits: split and merge rate, pooled and as means over images.
        coco: ``COCO_AP``, ``COCO_AP@0.5``, ... with the existence as confidence, left out where there are no
            probabilities; ``COCO_AP_constant``, ... without confidence. Always at 0.5, 0.55, ..., 0.95; nothing where
            no image has a true object.
        challenge: mean and median of the challenge's F1, None where an image is a volume.
        partition: ``rRAND`` and ``rINF``, means over images; nothing where the objects of an image do not tile it.
        honesty: of the doubt, None where there are no probabilities.
    """

    segmentation: Summary
    panoptic: PanopticSummary
    splits: SplitSummary
    coco: Mapping[str, Interval]
    challenge: ChallengeSummary | None
    partition: Mapping[str, Interval]
    honesty: Honesty | None


def assess(
    truth: Instances,
    found: Found,
    *,
    choose: Choice = ProbabilisticInstances.best,
    thresholds: Sequence[float] = THRESHOLDS,
    empty: float = 1.0,
) -> Assessment:
    """Measure one image.

    Args:
        truth: the true objects.
        found: objects, or objects with doubt.
        choose: which objects are taken of the latter.
        thresholds: IoUs for S, precision, recall and F1; all other measures have theirs.
        empty: what an image counts in which there is nothing and nothing is found.

    Raises:
        ValueError: the images differ in shape, or a threshold is not in (0, 1].
    """
    chosen = choose(found) if isinstance(found, ProbabilisticInstances) else found
    flat = _flattened(truth), _flattened(chosen)
    return Assessment(
        segmentation.score(truth, chosen, thresholds=thresholds, empty=empty),
        panoptic.panoptic(truth, chosen, empty=empty),
        splits.splits(truth, chosen),
        candidates(truth, chosen),
        challenge.challenge_counts(*flat) if truth.ndim == 2 else None,
        partition.score_labels(*(side.to_labels() for side in flat)) if tiles(truth) else None,
        _objects(truth, chosen, _doubts(found, chosen)),
        honesty.examine(truth, found, chosen) if isinstance(found, ProbabilisticInstances) else None,
    )


def summarise(images: Sequence[Assessment], *, seed: int = 0) -> Quality:
    """Measure a set, with 95 % bootstrap intervals over images.

    Raises:
        ValueError: there is no image.
    """
    examinations = [image.examination for image in images if image.examination is not None]
    return Quality(
        segmentation.summarise([image.scores for image in images], seed=seed),
        panoptic.summarise([image.panoptic for image in images], seed=seed),
        splits.summarise([image.splits for image in images], seed=seed),
        _coco([image.candidates for image in images], confident=bool(examinations), seed=seed),
        _challenge([image.challenge for image in images], seed=seed),
        _partition([image.partition for image in images], seed=seed),
        honesty.summarise(examinations, seed=seed) if examinations else None,
    )


def tiles(objects: Instances) -> bool:
    """Whether objects part an image like the cells of a tissue: no overlaps, and at least half of every slice covered.

    A slice is what a label map ``(Y, X)``, or each one of a volume ``(Z, Y, X)``, holds.
    """
    owners = objects.owners()
    covered = np.mean(owners == 1, axis=(-2, -1)) if owners.ndim in (2, 3) and owners.size else np.zeros(1)
    return bool(owners.max(initial=0) == 1 and np.min(covered) >= 0.5)


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


def _is_probability(text: str) -> bool:
    try:
        return 0 < float(text) <= 1
    except ValueError:
        return False


def _coco(images: Sequence[Candidates], *, confident: bool, seed: int) -> dict[str, Interval]:
    if not any(image.ious.shape[0] for image in images):
        return {}
    constant = coco_ap_constant(images, orders=_ORDERS, seed=seed)
    intervals = constant.intervals(resamples=_RESAMPLES_OF_ORDERS, seed=seed)
    return (coco_ap(images).intervals(resamples=_RESAMPLES, seed=seed) if confident else {}) | intervals


def _challenge(images: Sequence[ChallengeCounts | None], *, seed: int) -> ChallengeSummary | None:
    known = [image for image in images if image is not None]
    return challenge.summarise(known, seed=seed) if len(known) == len(images) else None


def _partition(images: Sequence[PartitionScores | None], *, seed: int) -> dict[str, Interval]:
    known = [image for image in images if image is not None]
    if len(known) < len(images):
        return {}
    named = {"rRAND": [image.rand.score for image in known], "rINF": [image.info.score for image in known]}
    return {name: interval(values, seed=seed) for name, values in named.items()}


def _flattened(objects: Instances) -> Instances:
    """As a label map holds them: where objects overlap, the most probable one owns the pixel."""
    return Instances.from_labels(objects.to_labels()) if objects.owners().max(initial=0) > 1 else objects


def _doubts(found: Found, chosen: Instances) -> dict[str, NDArray[Any]]:
    """``label`` and :data:`DOUBTS` of the chosen objects."""
    if isinstance(found, ProbabilisticInstances):
        table, hypothesis = found.doubts(), chosen.features["hypothesis"]
        return {name: table[name][hypothesis] for name in ("label", *DOUBTS)}
    return {"label": np.arange(1, len(chosen) + 1)} | {name: np.full(len(chosen), np.nan) for name in DOUBTS}


def _objects(truth: Instances, chosen: Instances, doubts: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    judged = outcomes(truth, chosen, min_iou=MIN_IOU)
    missed = truth.select(judged.missed)
    unknown = np.full(len(missed), np.nan)
    centroids = np.concatenate([chosen.centroids, missed.centroids])
    return {
        "label": np.concatenate([doubts["label"], judged.missed + 1]),
        "area": np.concatenate([chosen.areas, missed.areas]),
        **{f"centroid-{axis}": centroids[:, axis] for axis in range(truth.ndim)},
        **{name: np.concatenate([doubts[name], unknown]) for name in DOUBTS},
        "matched": judged.kind == "ok",
        "iou": judged.iou,
        "kind": judged.kind,
    }
