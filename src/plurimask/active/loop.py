"""A study of active learning, simulated: train, choose, annotate by the truth, train again; killed, it goes on.

Every strategy and seed goes its own way through the rounds; what it has in common with others of its seed is the
initial set and the model trained on it, so that differences between strategies are differences of their choices. In the
folder of a study are::

    study.json                          what decides the results; other settings are refused
    seed_0/round_00.json, model_00/     the initial set, for all strategies
    seed_0/STRATEGY/round_01.json ...   one :class:`plurimask.active.curves.Record` a round
    seed_0/STRATEGY/model_01/           of the last round only

A record is written when its round is done, whole or not at all; a round that was interrupted begins anew. As everything
that is random follows from the seed and the number of the round, the results are those of an uninterrupted study.
Further strategies, seeds and rounds can be added to a study.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from plurimask.active.acquisition import DEFAULT, Score, Strategy, choose
from plurimask.active.curves import Record

SETTINGS = "study.json"


@dataclass(frozen=True, eq=False)
class PoolImage:
    """What is known of an image that can be annotated.

    Attributes:
        name: in the data set.
        looks: ``(F,)`` descriptor for diversity.
        facts: by its truth, which no strategy sees: share of foreground, disagreement of the annotators, ...
    """

    name: str
    looks: NDArray[np.float64]
    facts: Mapping[str, float]


class Learner(Protocol):
    """What a study trains and asks; :class:`plurimask.active.learner.Segmenter` is one."""

    def settings(self) -> dict[str, Any]:
        """All that decides its results, ready for JSON."""

    def pool(self) -> Sequence[PoolImage]:
        """The images that can be annotated, always in the same order."""

    def train(self, names: Sequence[str], output: Path, *, init: Path | None, seed: int) -> None:
        """Makes the model ``output`` from images of these names, one that is named twice counting twice.

        init: the model to start from; None starts from scratch. Whatever is at ``output`` is replaced.
        """

    def score(self, model: Path, names: Sequence[str], score: Score, *, seed: int) -> NDArray[np.float64]:
        """``(N,)`` of the images, by a model; never asked for ``random``."""

    def measure(self, model: Path) -> dict[str, float]:
        """How good a model is on images that it was not trained on."""


@dataclass(frozen=True)
class Study:
    """The plan.

    Attributes:
        strategies: how images are chosen.
        seeds: repetitions, each with its own initial set.
        initial: images that are annotated at the beginning, drawn at random.
        per_round: images that are annotated in a round.
        rounds: how often; a pool that is used up ends a way earlier.
        warm: whether training starts from the model of the round before; else from scratch, always with the weights
            that belong to the seed.
        replica: the released protocol of Czolbe et al. 2021 (docs/algorithms.md, "Active learning protocol"), which
            draws the initial and the random images with replacement from all images, and takes the highest scored of
            all images, those that are annotated already included. An image that is chosen again counts twice in
            training. For comparison only: it favours random images, of which more are different.
    """

    strategies: tuple[Strategy, ...] = (Strategy("random"), DEFAULT, Strategy("entropy_sum"))
    seeds: tuple[int, ...] = (0, 1, 2)
    initial: int = 50
    per_round: int = 25
    rounds: int = 10
    warm: bool = False
    replica: bool = False

    def __post_init__(self) -> None:
        if min(self.initial, self.per_round) < 1 or self.rounds < 0 or not self.strategies or not self.seeds:
            raise ValueError(
                f"{self.initial} images, {self.per_round} a round for {self.rounds} rounds, strategies "
                f"{self.strategies}, seeds {self.seeds}: wanted are at least 1 image, 1 a round, a strategy and a seed."
            )
        if self.replica and any(strategy.diversity != 1 for strategy in self.strategies):
            raise ValueError("the replica knows no diversity; give strategies with diversity 1, or leave replica out.")


def run_study(
    study: Study, learner: Learner, folder: Path | str, *, on_round: Callable[[Record], None] | None = None
) -> list[Record]:
    """All rounds of all strategies and seeds; what is done already is read.

    Args:
        study: the plan.
        learner: what learns.
        folder: of the study, see the head of this module.
        on_round: is called with every record, also with those that are read.

    Raises:
        FileExistsError: the folder holds a study with other settings.
        ValueError: the initial set is larger than the pool, or two images have equal names.
    """
    folder = Path(folder)
    _check_settings(folder, study, learner)
    pool = learner.pool()
    images = {image.name: image for image in pool}
    if len(images) < len(pool):
        raise ValueError(f"{len(pool)} images have {len(images)} different names; give each its own.")
    if study.initial > len(images) and not study.replica:
        raise ValueError(f"{study.initial} initial images are wanted, but the pool has {len(images)}.")
    records = list[Record]()
    for seed in study.seeds:
        for strategy in study.strategies:
            way = _Way(study, learner, images, strategy, seed, folder / f"seed_{seed}")
            for record in way.go():
                records.append(record)
                if on_round is not None:
                    on_round(record)
    return records


@dataclass(frozen=True, eq=False)
class _Way:
    """One strategy with one seed."""

    study: Study
    learner: Learner
    images: Mapping[str, PoolImage]
    strategy: Strategy
    seed: int
    folder: Path

    def go(self) -> Iterator[Record]:
        annotated = list[str]()
        for number in range(self.study.rounds + 1):
            if not self._pool(annotated):
                return
            record = self._round(number, annotated)
            annotated += record.chosen
            yield record

    def _round(self, number: int, annotated: list[str]) -> Record:
        place = self._place(number)
        file = place / f"round_{number:02d}.json"
        if file.exists():
            return _record(file, self.strategy.name)
        pool = self._pool(annotated)
        chosen = self._chosen(number, annotated, pool)
        together, model = [*annotated, *chosen], self._model(number)
        warm = self._model(number - 1) if self.study.warm and number else None
        # From scratch, equal seeds are equal first weights; a warm start shall not see the crops of the round before.
        seed = 1000 * self.seed + (number if self.study.warm else 0)
        self.learner.train(together, model, init=warm, seed=seed)
        record = Record(
            self.strategy.name,
            self.seed,
            number,
            tuple(chosen),
            annotated=len(together),
            distinct=len(set(together)),
            measures=self.learner.measure(model),
            selected=_means([self.images[name].facts for name in chosen]),
            pool=_means([self.images[name].facts for name in pool]),
        )
        _write(file, asdict(record))
        if number > 1:
            shutil.rmtree(self._model(number - 1), ignore_errors=True)
        return record

    def _pool(self, annotated: Sequence[str]) -> list[str]:
        """The images that can be chosen."""
        taken = set() if self.study.replica else set(annotated)
        return [name for name in self.images if name not in taken]

    def _chosen(self, number: int, annotated: Sequence[str], pool: Sequence[str]) -> list[str]:
        generator = np.random.default_rng([self.seed, number])
        count = self.study.per_round if number else self.study.initial
        score = self.strategy.score if number else "random"
        if self.study.replica and score == "random":
            return [pool[place] for place in generator.integers(len(pool), size=count)]
        if number == 0:
            return [pool[place] for place in generator.permutation(len(pool))[:count]]
        values = None
        if score != "random":
            values = self.learner.score(self._model(number - 1), pool, score, seed=self.seed)
        choices = choose(
            values,
            np.stack([self.images[name].looks for name in pool]),
            count,
            strategy=self.strategy,
            generator=generator,
            annotated=np.stack([self.images[name].looks for name in annotated]),
        )
        return [pool[place] for place in choices.indices]

    def _place(self, number: int) -> Path:
        return self.folder / self.strategy.name if number else self.folder

    def _model(self, number: int) -> Path:
        return self._place(number) / f"model_{number:02d}"


def _check_settings(folder: Path, study: Study, learner: Learner) -> None:
    """Writes what decides the results of a way, or compares it with what is there."""
    plan = {name: getattr(study, name) for name in ("initial", "per_round", "warm", "replica")}
    now = json.loads(json.dumps({**plan, "learner": learner.settings()}))
    file = folder / SETTINGS
    if not file.exists():
        return _write(file, now)
    there = json.loads(file.read_text(encoding="utf-8"))
    if different := [name for name in {**there, **now} if there.get(name) != now.get(name)]:
        raise FileExistsError(
            f"{folder} holds a study with other settings ({', '.join(different)}; compare {file}); give those, or "
            "another folder."
        )
    return None


def _record(file: Path, strategy: str) -> Record:
    """From its file; that of the initial set belongs to every strategy."""
    stored = json.loads(file.read_text(encoding="utf-8"))
    return Record(**{**stored, "strategy": strategy, "chosen": tuple(stored["chosen"])})


def _write(file: Path, content: Mapping[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_name(f".{file.name}.part")
    unfinished.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    unfinished.replace(file)


def _means(facts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([one[name] for one in facts])) for name in facts[0]} if facts else {}
