"""Does the score of a patch (PPP, Eq. 4) tell how good it is?

    PLURIMASK_DATA=... python experiments/patch_scores.py RUNS/worms-patchperpix-tuned bbbc010 --split report

Prints, for one draw of every image of a single window, Spearman's rank correlation of the patch score with the IoU of
the patch, thresholded at t, and the true one: over all patches that vote, and over those that are selected; means over
images with bootstrap intervals.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr

from plurimask.data.sources import open_source
from plurimask.instances import Instances
from plurimask.methods.patchperpix import PatchPerPix, patches_at
from plurimask.metrics.bootstrap import interval
from plurimask.model import load_model
from plurimask.ops.patch_consensus import consensus, scores, votes
from plurimask.predict import checked, visit_outputs
from plurimask.protocols import Outputs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("data")
    parser.add_argument("--split", default="tune")
    options = parser.parse_args()
    model = load_model(options.model)
    found: list[NDArray[np.float64]] = []
    for sample in open_source(Path(os.environ["PLURIMASK_DATA"]) / options.data, split=options.split):
        image, truth = sample.read()
        if max(truth.shape) > model.window or not len(truth):
            continue

        def keep(_window: object, _draw: int, outputs: Outputs, truth: Instances = truth) -> None:
            assert isinstance(model.method, PatchPerPix)
            found.append(correlations(outputs, model.method, truth))

        visit_outputs(torch.from_numpy(model.normalisation(checked(image.data, model))), model, keep, seeds=[0])
    for name, column in zip(("all patches", "selected patches"), np.array(found).T, strict=True):
        told = column[np.isfinite(column)]  # of equal scores there is no correlation
        print(f"{name}: {interval(told)} over {len(told)} of {len(column)} images")


def correlations(outputs: Outputs, method: PatchPerPix, truth: Instances) -> NDArray[np.float64]:
    """Of score and quality: over all patches that vote, over the selected ones."""
    patches, cover, overlap = method.evidence(outputs)
    assembly = method.assembly()
    cast = votes(patches, overlap, threshold=assembly.threshold)
    rated = scores(cast, consensus(cast))
    everywhere = Instances.from_masks([np.ones(truth.shape, np.bool_)], truth.shape)
    inside = patches_at(everywhere, cast.centres, cast.size)  # beyond the image a patch says nothing
    true = patches_at(truth, cast.centres, cast.size)
    said = inside & (patches.values[cast.patches] > assembly.threshold)
    quality = (true & said).sum(1) / np.maximum(1, (true | said).sum(1))
    chosen = assembly.selected(patches, cast, rated, cover=cover)
    return np.array([spearmanr(rated[some], quality[some]).statistic for some in (slice(None), chosen)])


if __name__ == "__main__":
    main()
