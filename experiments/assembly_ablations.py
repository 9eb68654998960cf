"""What does each step of PatchPerPix's assembly bring (PPP, Table 2), and does a patch's score tell its quality?

    PLURIMASK_DATA=... python experiments/assembly_ablations.py RUNS/worms-patchperpix-tuned bbbc010 --split report

One draw of every image of a single window is assembled as the model's own settings say, and with one changed; the
decoder's switches need no training. Prints mean S over IoU .5:.05:.95 (--nuclei: .5:.1:.9) and its paired difference
to the model's own, and then Spearman's rank correlation, within an image, of the patch score (Eq. 4) and the IoU of a
patch, thresholded at t, with the true one: over all patches, and over those that are selected.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr

from plurimask.data.sources import open_source
from plurimask.instances import Instances
from plurimask.methods.patchperpix import PatchPerPix, patches_at
from plurimask.metrics.bootstrap import interval
from plurimask.metrics.segmentation import score
from plurimask.model import Model, load_model
from plurimask.ops.patch_consensus import consensus, scores, votes
from plurimask.predict import checked, visit_outputs
from plurimask.protocols import Outputs

NUCLEI = {"thresholds": (0.5, 0.6, 0.7, 0.8, 0.9)}
CHANGED = {
    "without thin-out": {"thin_out": False},
    "components (CC)": {"partition": "components"},
    "MWS-Dense": {"partition": "dense"},
    "without selection": {"select": False},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("data")
    parser.add_argument("--split", default="tune")
    parser.add_argument("--images", type=int, help="only the first ones")
    parser.add_argument("--without", nargs="*", default=[], choices=list(CHANGED), help="leave these out")
    parser.add_argument("--nuclei", action="store_true", help="mean S over IoU .5:.1:.9")
    options = parser.parse_args()
    model = load_model(options.model)
    own = model.method
    assert isinstance(own, PatchPerPix)
    changed = {name: change for name, change in CHANGED.items() if name not in options.without}
    methods = {"own": own, **{name: replace(own, **change) for name, change in changed.items()}}
    quality: list[NDArray[np.float64]] = []
    values: dict[str, list[NDArray[np.float64]]] = {name: [] for name in methods}
    seconds = dict.fromkeys(methods, 0.0)
    for sample in list(open_source(Path(os.environ["PLURIMASK_DATA"]) / options.data, split=options.split)):
        image, truth = sample.read()
        if max(truth.shape) > model.window or len(quality) == options.images:
            continue
        outputs = only_outputs(model.normalisation(checked(image.data, model)), model)
        quality.append(correlations(outputs, own, truth))
        for name, method in methods.items():
            start = time.perf_counter()
            found = method.decode(outputs)
            seconds[name] += time.perf_counter() - start
            values[name].append(score(truth, found, **(NUCLEI if options.nuclei else {})).s)
    show(values, seconds, np.array(quality))


def only_outputs(image: NDArray[np.float32], model: Model) -> Outputs:
    seen: list[Outputs] = []
    visit_outputs(torch.from_numpy(image), model, lambda _window, _draw, outputs: seen.append(outputs), seeds=[0])
    return seen[0]


def correlations(outputs: Outputs, method: PatchPerPix, truth: Instances) -> NDArray[np.float64]:
    """Of score and quality: over all valid patches with a true one, over the selected ones."""
    patches, cover, overlap = method.evidence(outputs)
    assembly = method.assembly()
    cast = votes(patches, overlap, threshold=assembly.threshold)
    rated = scores(cast, consensus(cast))
    true = patches_at(truth, cast.centres, cast.size)
    found = patches.values[cast.patches] > assembly.threshold
    quality = (true & found).sum(1) / np.maximum(1, (true | found).sum(1))
    chosen = assembly.selected(patches, cast, rated, cover)
    return np.array([spearmanr(rated[some], quality[some]).statistic for some in (slice(None), chosen)])


def show(
    values: Mapping[str, list[NDArray[np.float64]]], seconds: Mapping[str, float], quality: NDArray[np.float64]
) -> None:
    means = {name: np.array([s.mean() for s in found]) for name, found in values.items()}
    for name, mean in means.items():
        gain = interval(mean - means["own"])
        per_threshold = " ".join(f"{s:.3f}" for s in np.array(values[name]).mean(0))
        ends = f"{gain.mean:+.4f} [{gain.low:+.4f}, {gain.high:+.4f}]"
        print(f"{name:<18}{interval(mean)}  {ends}  {seconds[name] / len(mean):.2f} s an image  S: {per_threshold}")
    for name, column in zip(("all patches", "selected patches"), quality.T, strict=True):
        print(f"rank correlation of score and quality, {name}: {interval(column)} over {len(column)} images")


if __name__ == "__main__":
    main()
