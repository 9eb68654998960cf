"""What a study of active learning found: learning curves, areas under them, and paired differences over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from plurimask.metrics.bootstrap import Interval, paired_difference


@dataclass(frozen=True)
class Record:
    """One round of one strategy with one seed.

    Attributes:
        strategy: its name.
        seed: of the initial set, of ties, of what is drawn at random, and of the training.
        number: of the round; 0 is the initial set, which all strategies share.
        chosen: names of the images that were added, in the order of choice.
        annotated: number of images that the model of this round was trained on.
        distinct: number of different ones; smaller only in a replica, which draws with replacement.
        measures: how good the model is on the images of the measured part.
        selected: means over the chosen images of what is known of them.
        pool: the same over all images that could have been chosen.
    """

    strategy: str
    seed: int
    number: int
    chosen: tuple[str, ...]
    annotated: int
    distinct: int
    measures: Mapping[str, float]
    selected: Mapping[str, float]
    pool: Mapping[str, float]


@dataclass(frozen=True)
class Comparison:
    """A strategy over all seeds.

    Attributes:
        strategy: its name.
        area: mean over the seeds of the area under the learning curve, as a mean height.
        last: mean over the seeds of the measure after the last round.
        difference: mean over the seeds of area - area of the baseline with the same seed, and so with the same initial
            images, with the bootstrap interval over seeds. None for the baseline, and with a single seed. With few
            seeds the interval is too narrow.
    """

    strategy: str
    area: float
    last: float
    difference: Interval | None


def curve(
    records: Sequence[Record], strategy: str, seed: int, *, measure: str
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """``(R,)`` numbers of annotated images and ``(R,)`` values, by round.

    Raises:
        ValueError: there is no such way, or a round is missing.
    """
    own = [one for one in records if (one.strategy, one.seed) == (strategy, seed)]
    rounds = sorted(own, key=lambda one: one.number)
    numbers = [one.number for one in rounds]
    if not rounds or numbers != list(range(len(rounds))):
        raise ValueError(f"{strategy} with seed {seed} has the rounds {numbers}; wanted are 0, 1, ...")
    return np.array([one.annotated for one in rounds]), np.array([one.measures[measure] for one in rounds], np.float64)


def area(annotated: NDArray[np.int64], values: NDArray[np.float64]) -> float:
    """The mean height of a curve: trapezoids over the number of annotated images; of a single point its value.

    >>> area(np.array([10, 20, 25]), np.array([0.0, 1.0, 1.0]))
    0.6666666666666666
    """
    if len(values) == 1:
        return float(values[0])
    return float(np.trapezoid(values, annotated) / (annotated[-1] - annotated[0]))


def compare(records: Sequence[Record], *, measure: str, baseline: str, seed: int = 0) -> list[Comparison]:
    """Every strategy against the baseline, which comes first.

    Only seeds that all strategies have, and only as many rounds as all of them have, are compared.

    Args:
        records: of :func:`plurimask.active.loop.run_study`.
        measure: what is compared.
        baseline: name of the strategy to compare with.
        seed: of the bootstrap.

    Raises:
        ValueError: the baseline is not among the strategies, or there is no seed that all of them have.
    """
    ways = {(one.strategy, one.seed) for one in records}
    names = sorted({name for name, _ in ways}, key=lambda name: (name != baseline, name))
    if names[:1] != [baseline]:
        raise ValueError(f"there is no strategy {baseline!r} to compare with; there are {', '.join(names) or 'none'}.")
    seeds = sorted(set.intersection(*({at for other, at in ways if other == name} for name in names)))
    if not seeds:
        raise ValueError("there is no seed that all strategies have; let the study go on.")
    curves = {name: [curve(records, name, at, measure=measure) for at in seeds] for name in names}
    rounds = min(len(values) for several in curves.values() for _, values in several)
    areas = {name: [area(x[:rounds], y[:rounds]) for x, y in several] for name, several in curves.items()}
    return [
        Comparison(
            name,
            float(np.mean(areas[name])),
            float(np.mean([values[rounds - 1] for _, values in curves[name]])),
            None if name == baseline or len(seeds) == 1 else paired_difference(areas[name], areas[baseline], seed=seed),
        )
        for name in names
    ]
