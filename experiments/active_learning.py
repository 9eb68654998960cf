"""Does it matter which images are annotated? Learning curves of strategies on a data set whose truth is known.

    PLURIMASK_DATA=... python experiments/active_learning.py RUNS lidc --posterior mc_dropout --seeds 0 1 2

Starts from a few random images of the fit part, adds some in every round, trains on from the model of the round before,
and measures on the tune part (--part report for the numbers to be reported). RUNS keeps every round, outside the
repository: the same command goes on where it was killed, and more --seeds, --strategies and --rounds are added to what
is there. Printed are rows for RESULTS.md, each strategy against the first one, paired by seed. --replica is the
released protocol of Czolbe et al. 2021, which chooses images again; --scratch trains anew in every round, as they do.
"""

from __future__ import annotations

import argparse
import logging
import os
import shlex
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from plurimask.active.acquisition import SCORES, Strategy
from plurimask.active.curves import Record, compare
from plurimask.active.learner import Segmenter
from plurimask.active.loop import Study, run_study
from plurimask.cli import CHATTY
from plurimask.data.transforms import Augmentation
from plurimask.fitting import Schedule
from plurimask.methods import Semantic
from plurimask.networks import UNet
from plurimask.posteriors import POSTERIORS

# LIDC as in lidc-unet.yaml; nuclei by connected components, which a few hundred updates are enough for.
PIXELS = Augmentation(scale=0.1, shear=0.0, elastic=0.0, contrast=0.0, brightness=0.0, gamma=1.0, blur=0.0, noise=0.0)
SETTINGS = {
    "lidc": {
        "method": Semantic(objects="regions", min_size=1),
        "backbone": partial(UNet, width=16, depth=4),
        "schedule": Schedule(batch=16, crop=128, warmup=50, augmentation=PIXELS),
        "window": 256,
        "halo": 64,
    },
    "dsb2018": {
        "method": Semantic(min_size=15),
        "backbone": partial(UNet, width=16, depth=4),
        "schedule": Schedule(batch=4, crop=192, warmup=50),
        "window": 512,
        "halo": 64,
    },
}
MEASURES = {"lidc": ("dice", "loss"), "dsb2018": ("avS", "loss")}
STRATEGIES = ("random", "random:4", "entropy_sum", "bald_sum", "expected_errors:4")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument("data", choices=SETTINGS)
    parser.add_argument("--posterior", choices=POSTERIORS, default="concrete_dropout")
    parser.add_argument(
        "--strategies", nargs="+", default=STRATEGIES, help=f"one of {', '.join(SCORES)}; with :K diverse among K n"
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=(0, 1, 2))
    parser.add_argument("--initial", type=int, default=20)
    parser.add_argument("--per-round", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--updates", type=int, default=300, help="in a round")
    parser.add_argument("--pool", type=int, default=400, help="images at equal distances that can be chosen")
    parser.add_argument("--measured", type=int, default=100, help="images at equal distances that are measured")
    parser.add_argument("--draws", type=int, default=8)
    parser.add_argument("--part", choices=("tune", "report"), default="tune")
    parser.add_argument("--scratch", action="store_true")
    parser.add_argument("--replica", action="store_true")
    options = parser.parse_args()
    study = Study(
        tuple(map(strategy, options.strategies)),
        tuple(options.seeds),
        initial=options.initial,
        per_round=options.per_round,
        rounds=options.rounds,
        warm=not options.scratch,
        replica=options.replica,
    )
    for name in CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)
    start = time.monotonic()
    records = run_study(study, segmenter(options), folder(options), on_round=partial(tell, start))
    for line in rows(records, study, options):
        print(line)


def strategy(text: str) -> Strategy:
    """ "bald_sum" or "bald_sum:4"."""
    score, _, diversity = text.partition(":")
    return Strategy(score, float(diversity or 1))


def segmenter(options: argparse.Namespace) -> Segmenter:
    settings = SETTINGS[options.data]
    # One look at the tune images, at the end: it takes longer than the updates.
    updates = {"steps": options.updates, "check_every": options.updates}
    changes = {"schedule": Schedule(**{**vars(settings["schedule"]), **updates})}
    return Segmenter(
        Path(os.environ["PLURIMASK_DATA"]) / options.data,
        **{**settings, **changes},
        posterior=POSTERIORS[options.posterior],
        part=options.part,
        draws=options.draws,
        pool_size=options.pool,
        measured=options.measured,
    )


def folder(options: argparse.Namespace) -> Path:
    kind = "replica" if options.replica else "scratch" if options.scratch else "warm"
    return options.runs / f"active_{options.data}_{options.posterior}_{options.part}_{kind}"


def tell(start: float, record: Record) -> None:
    measures = ", ".join(f"{name} {value:.3f}" for name, value in record.measures.items())
    facts = ", ".join(f"{name} {value:.3f} of {record.pool[name]:.3f}" for name, value in record.selected.items())
    minutes = (time.monotonic() - start) / 60
    where = f"{record.strategy} seed {record.seed} round {record.number}: {record.annotated} images"
    print(f"{minutes:6.1f} min  {where} ({record.distinct} different); {measures}; chosen {facts}", flush=True)


def rows(records: Sequence[Record], study: Study, options: argparse.Namespace) -> list[str]:
    """Ready for RESULTS.md but for id and time."""
    words = shlex.join("RUNS" if word == str(options.runs) else word for word in sys.argv[1:])
    seeds = f"{min(study.seeds)} to {max(study.seeds)}"
    size = f"{options.data}, {study.initial} + {study.rounds} x {study.per_round} images of {options.pool}"
    lines = []
    for measure in MEASURES[options.data]:
        for one in compare(records, measure=measure, baseline=study.strategies[0].name):
            what = f"{measure} of `{one.strategy}`: mean over the rounds; after the last"
            interval, difference = "-", ""
            if one.difference is not None:
                difference = f"; difference to `{study.strategies[0].name}` {one.difference.mean:+.4f}"
                interval = f"of the difference, over seeds: {one.difference.low:+.4f} to {one.difference.high:+.4f}"
            cells = [f"`python experiments/active_learning.py {words}`", size, options.part, seeds, "TIME", what]
            cells += [f"{one.area:.4f}; {one.last:.4f}{difference}", interval, "-"]
            lines.append("| ID | " + " | ".join(cells) + " |")
    return lines


if __name__ == "__main__":
    main()
