"""Seconds and memory of one draw over the size of the image, with and without mixed precision (as Fig. 6 of U22).

    python benchmarks/image_size.py PICTURE.png [--model nuclei] [--sides 256 512 1024 2048]

The images are examples/nuclei.png, mirrored until it fills the side. Every size is measured in a fresh process, after
a warm-up on 256 x 256, once: seconds of the network, seconds of decoding (objects from outputs) and peak memory beyond
what the process had before (Linux: VmHWM).
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from patch_assembly import megabytes

from plurimask.data.io import read_image
from plurimask.model import Model, load_model
from plurimask.predict import Precision, checked, visit_outputs
from plurimask.protocols import Outputs

IMAGE = Path(__file__).parent.parent / "examples" / "nuclei.png"
PRECISIONS: tuple[Precision, ...] = ("bfloat16", "float32")
Row = tuple[float, float, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--model", default="nuclei")
    parser.add_argument("--sides", type=int, nargs="+", default=[256, 512, 1024, 2048])
    options = parser.parse_args()
    print(f"{torch.get_num_threads()} threads, one draw of {options.model}")
    rows: dict[Precision, list[Row]] = {precision: [] for precision in PRECISIONS}
    for side in options.sides:
        for precision in PRECISIONS:
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                network, decoding, peak = pool.apply(measured, (options.model, side, precision))
            rows[precision].append((network, decoding, peak))
            share = f"{decoding / network:.1%} of the network's time"
            print(f"{side:5} {precision:9} network {network:.2f} s, decoding {decoding:.2f} s ({share}), {peak:.0f} MB")
    draw(options.picture, options.sides, rows)


def measured(name: str, side: int, precision: Precision) -> Row:
    """Seconds of network and decoding, and megabytes."""
    model = load_model(name)
    stages(image(256, model), model, precision)
    seen = image(side, model)
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
    before = megabytes("VmRSS")
    network, decoding = stages(seen, model, precision)
    return network, decoding, megabytes("VmHWM") - before


def image(side: int, model: Model) -> torch.Tensor:
    small = read_image(IMAGE).data
    widths = [(0, 0), *((0, max(0, side - length)) for length in small.shape[1:])]
    large: NDArray[np.generic] = np.pad(small, widths, mode="symmetric")[:, :side, :side]
    return torch.from_numpy(model.normalisation(checked(large, model)))


def stages(seen: torch.Tensor, model: Model, precision: Precision) -> tuple[float, float]:
    decoding = 0.0

    def decode(_window: object, _draw: int, outputs: Outputs) -> None:
        nonlocal decoding
        start = time.perf_counter()
        model.method.decode(outputs)
        decoding += time.perf_counter() - start

    start = time.perf_counter()
    visit_outputs(seen, model, decode, seeds=[0], precision=precision)
    return time.perf_counter() - start - decoding, decoding


def draw(picture: Path, sides: list[int], rows: dict[Precision, list[Row]]) -> None:
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    time_axes, memory_axes = figure.subplots(1, 2)
    for precision, line in zip(PRECISIONS, ("-", "--"), strict=True):
        network, decoding, peak = np.array(rows[precision]).T
        time_axes.loglog(sides, network + decoding, f"o{line}", color="#0072b2", label=f"{precision}: all")
        time_axes.loglog(sides, decoding, f"s{line}", color="#d55e00", label=f"{precision}: decoding")
        memory_axes.semilogx(sides, peak, f"o{line}", color="#0072b2", label=precision)
    time_axes.set(xlabel="side of the image in pixels", ylabel="seconds")
    memory_axes.set(xlabel="side of the image in pixels", ylabel="peak memory in MB")
    for axes in (time_axes, memory_axes):
        axes.set_xticks(sides, [str(side) for side in sides])
        axes.minorticks_off()
        axes.legend(frameon=False, loc="lower right")
    time_axes.set_ylim(bottom=1e-4)
    figure.savefig(picture, dpi=150)


if __name__ == "__main__":
    main()
