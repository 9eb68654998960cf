"""Draws the dropout rates of a training run, by depth, from its logs.

python experiments/draw_rates.py RUNS/worms.run docs/images/dropout_rates.png
"""

from __future__ import annotations

import csv
import sys
from collections import defaultdict
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure


def main(run: Path, picture: Path) -> None:
    history = rates(run)
    figure = Figure(figsize=(10, 4), layout="constrained")
    over_time, by_layer = figure.subplots(1, 2)
    colours = mpl.colormaps["viridis"]
    for name, points in history.items():
        side, level, _ = name.split(".")
        steps, values = zip(*points, strict=True)
        style = "-" if side == "encoder" else "--"
        over_time.plot(steps, values, style, color=colours(int(level) / 4.5), label=name)
    over_time.set(xlabel="updates", ylabel="dropout rate", yscale="log", title="over training (dashed: decoder)")
    last = {name: points[-1][1] for name, points in history.items()}
    by_layer.bar(range(len(last)), list(last.values()), color=[colours(int(name.split(".")[1]) / 4.5) for name in last])
    by_layer.set_xticks(range(len(last)), list(last), rotation=60, ha="right", fontsize=8)
    by_layer.set(ylabel="dropout rate", title="at the end, in the order of the forward pass")
    figure.savefig(picture, dpi=110)
    for name, rate in last.items():
        print(f"{name:12} {rate:.4f}")


def rates(run: Path) -> dict[str, list[tuple[int, float]]]:
    """Layer -> (step, rate), in the order of the forward pass."""
    history: defaultdict[str, dict[int, float]] = defaultdict(dict)
    for log in sorted(run.glob("logs/*/metrics.csv")):
        with log.open(encoding="utf-8") as file:
            for row in csv.DictReader(file):
                for name, value in row.items():
                    if name and name.startswith("rate.") and value:
                        history[name.removeprefix("rate.")][int(row["step"])] = float(value)
    ordered = sorted(history, key=lambda name: forward_order(name))
    return {name: sorted(history[name].items()) for name in ordered}


def forward_order(name: str) -> tuple[bool, int, int]:
    side, level, number = name.split(".")
    deep = int(level)
    return (side == "decoder", -deep if side == "decoder" else deep, int(number))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
