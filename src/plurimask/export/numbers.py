"""``metrics.json``: every number of an evaluation, in a form that stays.

A *number* is ``{"value": v, "low": l, "high": h}``: the value and its 95 % bootstrap interval over images. What cannot
be known is ``null``: all three where there is nothing to measure, the ends also where there is a single image.
Thresholds are keys with at least two decimals (``"0.50"``). The layout of format 1::

    format          1; raised whenever a reader of the number before could misread the file
    plurimask       the version that wrote it
    settings        what evaluate was called with
    images, truth_count, found_count, left_out
    mean            means over images
        avS, avS_nuclei              numbers, where all of their thresholds were measured
        S, P, R, F1, PxR             threshold -> number
        PQ, SQ, RQ, split_rate, merge_rate
        F1_challenge                 null where an image is a volume
        rRAND, rINF                  null where the true objects of an image do not tile it
    median          medians over images: F1_challenge
    pooled          over the objects of all images
        F1_0.8, PQ, SQ, RQ, split_rate, merge_rate
        COCO_AP, COCO_AP_at          existence is the confidence; mean over .50:.05:.95, and threshold -> number
        COCO_AP_constant, COCO_AP_constant_at        without confidence: mean over random orders
    doubt           null without probabilities
        existence, mask              each with brier, ece, bins {predicted, observed, count}
        expected_iou                 error, bins {predicted, observed, count};
                                     above {threshold -> {expected, observed}}: shares of the objects
        border                       null where the method predicts no standard deviations of borders;
                                     count (of sides), error, bias, spread, surprise, bins {predicted, observed, count};
                                     correlation: a number each for small, middle and large objects
        patches                      threshold, the three measures there; curve {threshold, each measure}
        ranking                      objects, errors, aurc, errors_found_area;
                                     risk_coverage {coverage, risk, ideal}; errors_found {inspected, share, ideal}
        proofreading                 null where it was left out
            truth_count, missed, unreachable {peak, object}
            curves                   share; of every order avS (a list), area, gain (a number, against random orders)
            rows                     inspection, order, corrections, avS, S {threshold -> list}
    per_image       name, found, truth_count, found_count, and the measures of ``mean`` without intervals

What the measures are: docs/reading_the_numbers.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

import plurimask
from plurimask.metrics.bootstrap import Interval
from plurimask.metrics.patch_uncertainty import MEASURES
from plurimask.proofreading.simulate import SHARES

if TYPE_CHECKING:
    from plurimask.assessment import Quality
    from plurimask.comparison import Report, Row
    from plurimask.honesty import Calibration, ExpectedIou, Honesty, Ranking
    from plurimask.metrics.border import BorderHonesty
    from plurimask.metrics.patch_uncertainty import PatchCurve
    from plurimask.proofreading.simulate import Simulation

FORMAT = 1

_CHALLENGE = "F1_challenge"
_POINTS = 101  # of the curves over all objects, however many there are


def numbers(report: Report) -> dict[str, Any]:
    """The content of ``metrics.json``: numbers, texts, None, lists and dictionaries only."""
    quality = report.quality
    whole = quality.segmentation
    content = {
        "format": FORMAT,
        "plurimask": plurimask.__version__,
        "settings": report.settings,
        "images": whole.images,
        "truth_count": whole.truth_count,
        "found_count": whole.found_count,
        "left_out": report.left_out,
        "mean": _mean(quality),
        "median": {_CHALLENGE: None if quality.challenge is None else quality.challenge.median},
        "pooled": _pooled(quality),
        "doubt": None if quality.honesty is None else _doubt(quality.honesty, report.proofreading),
        "per_image": [_image(row) for row in report.rows],
    }
    plain: dict[str, Any] = _plain(content, with_ends=whole.images > 1)
    return plain


def threshold_key(threshold: float) -> str:
    """At least two decimals.

    >>> [threshold_key(threshold) for threshold in (0.5, 0.55, 0.333)]
    ['0.50', '0.55', '0.333']
    """
    return max(f"{threshold:.2f}", f"{threshold:.3g}", key=len)


def _mean(quality: Quality) -> dict[str, Any]:
    measures = {name: value for name, value in quality.segmentation.measures.items() if name != "F1_0.8"}
    challenge = None if quality.challenge is None else quality.challenge.mean
    flat = {_CHALLENGE: challenge, "rRAND": None, "rINF": None, **quality.partition}
    return _by_threshold(measures) | quality.panoptic.per_image | quality.splits.per_image | flat


def _pooled(quality: Quality) -> dict[str, Any]:
    coco = {name.replace("@", "_at@"): value for name, value in quality.coco.items()}
    absent = {
        "F1_0.8": None,
        "COCO_AP": None,
        "COCO_AP_at": None,
        "COCO_AP_constant": None,
        "COCO_AP_constant_at": None,
    }
    recall = {name: value for name, value in quality.segmentation.measures.items() if name == "F1_0.8"}
    return absent | recall | quality.panoptic.pooled | quality.splits.pooled | _by_threshold(coco)


def _by_threshold(measures: Mapping[str, Any]) -> dict[str, Any]:
    """``{"avS": a, "S@0.5": b}`` -> ``{"avS": a, "S": {"0.50": b}}``."""
    nested: dict[str, Any] = {}
    for name, value in measures.items():
        plain, at, threshold = name.partition("@")
        if at:
            nested.setdefault(plain, {})[threshold_key(float(threshold))] = value
        else:
            nested[plain] = value
    return nested


def _doubt(honesty: Honesty, proofreading: Simulation | None) -> dict[str, Any]:
    return {
        "existence": _calibration(honesty.existence),
        "mask": _calibration(honesty.mask),
        "expected_iou": _expected_iou(honesty.expected_iou),
        "border": None if honesty.border is None else _border(honesty.border),
        "patches": {"threshold": honesty.threshold, **honesty.at_threshold, "curve": _patch_curve(honesty.patches)},
        "ranking": _ranking(honesty.ranking),
        "proofreading": None if proofreading is None else _proofreading(proofreading),
    }


def _calibration(calibration: Calibration) -> dict[str, Any]:
    bins = {name: getattr(calibration.reliability, name) for name in ("predicted", "observed", "count")}
    return {"brier": calibration.brier, "ece": calibration.ece, "bins": bins}


def _expected_iou(expected: ExpectedIou) -> dict[str, Any]:
    reliability = expected.reliability
    shares = zip(reliability.thresholds, reliability.predicted_above, reliability.observed_above, strict=True)
    return {
        "error": expected.error,
        "bins": {name: getattr(reliability, name) for name in ("predicted", "observed", "count")},
        "above": {threshold_key(at): {"expected": said, "observed": seen} for at, said, seen in shares},
    }


def _border(border: BorderHonesty) -> dict[str, Any]:
    named = {name: getattr(border, name) for name in ("count", "error", "bias", "spread", "surprise")}
    bins = {name: getattr(border.reliability, name) for name in ("predicted", "observed", "count")}
    return {**named, "correlation": list(border.correlations), "bins": bins}


def _patch_curve(curve: PatchCurve) -> dict[str, Any]:
    values = (curve.p_accurate_if_certain, curve.p_uncertain_if_inaccurate, curve.pavpu)
    return {"threshold": curve.thresholds, **dict(zip(MEASURES, values, strict=True))}


def _ranking(ranking: Ranking) -> dict[str, Any]:
    risk, errors = ranking.risk, ranking.errors
    covered = np.unique(np.linspace(0, len(risk.risk) - 1, min(_POINTS, len(risk.risk))).astype(np.int64))
    inspected = np.linspace(0, 1, _POINTS) * errors.objects
    every = np.arange(errors.objects + 1)
    return {
        "objects": errors.objects,
        "errors": errors.errors,
        "aurc": ranking.aurc,
        "errors_found_area": ranking.area,
        "risk_coverage": {name: getattr(risk, name)[covered] for name in ("coverage", "risk", "ideal")},
        "errors_found": {
            "inspected": np.linspace(0, 1, _POINTS),
            **{name: np.interp(inspected, every, getattr(errors, name)) for name in ("share", "ideal")},
        },
    }


def _proofreading(simulation: Simulation) -> dict[str, Any]:
    curves = {
        order: {"avS": curve.average, "area": curve.areas.mean(), "gain": curve.gain}
        for order, curve in simulation.curves.items()
    }
    rows = [
        {
            "inspection": row.inspection,
            "order": row.order,
            "corrections": row.corrections,
            "avS": row.average,
            "S": {threshold_key(at): row.s[:, place] for place, at in enumerate(simulation.thresholds)},
        }
        for row in simulation.rows
    ]
    counted = {name: getattr(simulation, name) for name in ("truth_count", "missed", "unreachable")}
    return {**counted, "curves": {"share": SHARES, **curves}, "rows": rows}


def _image(row: Row) -> dict[str, Any]:
    assessment = row.assessment
    counts = {"truth_count": assessment.scores.truth_count, "found_count": assessment.scores.found_count}
    rates = {name: getattr(assessment.splits, name) for name in ("split_rate", "merge_rate")}
    measures = _by_threshold(assessment.scores.measures()) | assessment.panoptic.measures() | rates
    measures[_CHALLENGE] = None if assessment.challenge is None else assessment.challenge.f1
    parts = assessment.partition
    scores = (None, None) if parts is None else (parts.rand.score, parts.info.score)
    measures |= dict(zip(("rRAND", "rINF"), scores, strict=True))
    return {"name": row.name, "found": row.found, **counts, **measures}


def _plain(value: Any, *, with_ends: bool) -> Any:
    """As JSON can hold it: intervals as numbers with their ends, what is not finite as None."""
    match value:
        case Interval(mean=mean, low=low, high=high):
            ends = (low, high) if with_ends else (None, None)
            return _plain(dict(zip(("value", "low", "high"), (mean, *ends), strict=True)), with_ends=with_ends)
        case Mapping():
            return {name: _plain(each, with_ends=with_ends) for name, each in value.items()}
        case np.ndarray():
            return _plain(value.tolist(), with_ends=with_ends)
        case list() | tuple():
            return [_plain(each, with_ends=with_ends) for each in value]
        case np.generic():
            return _plain(value.item(), with_ends=with_ends)
        case float() if not math.isfinite(value):
            return None
    return value
