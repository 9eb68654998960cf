"""What an evaluation is made of and what comes out: pairs of found and true objects, their measures, the report."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from plurimask.assessment import Assessment, Found, Quality
from plurimask.data.io import Image
from plurimask.data.truth import Reader
from plurimask.metrics.segmentation import Scores, Summary
from plurimask.proofreading.simulate import Simulation


@dataclass(frozen=True)
class Pair:
    """An image with what was found in it; nothing is read before it is asked for.

    Attributes:
        name: in the truth.
        found_name: in the results.
        truth: reads the true objects.
        found: reads the found ones, with their doubt where the result has it.
        image: reads the image itself, where the truth is a data set that holds it.
    """

    name: str
    found_name: str
    truth: Reader
    found: Callable[[], Found]
    image: Callable[[], Image] | None = None


@dataclass(frozen=True)
class Row:
    """One image and its measures."""

    pair: Pair
    assessment: Assessment

    @property
    def name(self) -> str:
        """In the truth."""
        return self.pair.name

    @property
    def found(self) -> str:
        """The name of the found objects."""
        return self.pair.found_name

    @property
    def scores(self) -> Scores:
        """Hits and misses."""
        return self.assessment.scores


@dataclass(frozen=True)
class Report:
    """An evaluation.

    Attributes:
        rows: one per image, in the order of the truth.
        quality: measures of all images together, with bootstrap intervals over images.
        proofreading: what inspections in several orders mend; None without probabilities, or where it was left out.
        left_out: found names that are not in the part of the data set that was asked for.
        settings: what :func:`evaluate` was called with.
    """

    rows: tuple[Row, ...]
    quality: Quality
    proofreading: Simulation | None
    left_out: tuple[str, ...]
    settings: Mapping[str, Any]

    @property
    def summary(self) -> Summary:
        """S, precision, recall and F1, means over images."""
        return self.quality.segmentation
