"""Does a bandwidth per instance help, as R20 expect? Here it comes from the local spread of the embedding.

    PLURIMASK_DATA=... python experiments/instance_bandwidth.py worms-deterministic bbbc010

One draw of every tune image of a single window is clustered by the model's mean shift and then, sigma being the root of
the median squared distance of an object's pixels from its mode, in three other ways:

* ``radius k``: a pixel belongs to its mode if it lies within k sigma of it,
* ``mixture e``: pixels go to the mode with the least d^2 / (2 sigma^2) + e log sigma (a Gaussian mixture),
* ``merge h f``: modes of a bandwidth of h times the model's are joined if closer than f times the sum of their sigmas.

Prints mean S over IoU .5:.05:.95 and its paired difference to the model's own clustering.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse.csgraph import connected_components
from scipy.spatial.distance import cdist, pdist, squareform

from plurimask.data.sources import open_source
from plurimask.instances import Instances
from plurimask.methods.embedding import BACKGROUND, Embedding
from plurimask.metrics.bootstrap import interval
from plurimask.metrics.segmentation import score
from plurimask.model import load_model
from plurimask.ops.components import reconnect, scored, without_small
from plurimask.ops.mean_shift import assign, modes
from plurimask.predict import checked, visit_outputs

Points = NDArray[np.float32]
Cluster = Callable[[Points], NDArray[np.int64]]
"""Points -> for each the number of its object, -1 for none."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("data")
    options = parser.parse_args()
    model = load_model(options.model)
    assert isinstance(model.method, Embedding)
    seen: list[tuple[Instances, Callable[[Cluster], Instances]]] = []
    for sample in open_source(Path(os.environ["PLURIMASK_DATA"]) / options.data, split="tune"):
        image, truth = sample.read()
        if max(truth.shape) > model.window:
            continue
        normalised = torch.from_numpy(model.normalisation(checked(image.data, model)))

        def keep(_window: object, _draw: int, outputs: dict[str, torch.Tensor], truth: Instances = truth) -> None:
            seen.append((truth, decoder(model.method, outputs)))

        visit_outputs(normalised, model, keep, seeds=[0])

    def values(cluster: Cluster) -> NDArray[np.float64]:
        return np.array([score(truth, decode(cluster)).s.mean() for truth, decode in seen])

    own = values(plain(model.method))
    print(f"{'plain':<16}{own.mean():.4f}")
    for name, cluster in alternatives(model.method).items():
        gain = values(cluster) - own
        found = interval(gain)
        ends = f"[{found.low:+.4f}, {found.high:+.4f}]"
        print(f"{name:<16}{own.mean() + found.mean:.4f}  {found.mean:+.4f} {ends}", flush=True)


def decoder(method: Embedding, outputs: dict[str, torch.Tensor]) -> Callable[[Cluster], Instances]:
    """As ``Embedding.decode``, with the clustering left open."""
    probabilities = method.probabilities(outputs).numpy()
    single, overlap = method.regions(probabilities)
    points = method.points(outputs, single)

    def decode(cluster: Cluster) -> Instances:
        labels = np.zeros(single.shape, np.int32)
        labels[single] = cluster(points) + 1
        whole = reconnect(
            labels, overlap, min_contact=method.min_contact, max_gap=method.max_gap, min_piece=method.min_piece
        )
        return without_small(scored(whole, 1 - probabilities[BACKGROUND]), method.min_size)

    return decode


def alternatives(method: Embedding) -> dict[str, Cluster]:
    return {
        **{f"radius {k}": radius(method, k) for k in (3, 4, 6)},
        **{f"mixture {e}": mixture(method, e) for e in (1, 2, 4)},
        **{f"merge {h} {f}": merge(method, h, f) for h in (0.6, 0.8) for f in (0.8, 1.2, 1.6)},
    }


def plain(method: Embedding) -> Cluster:
    return lambda points: assign(points, modes(points, method.bandwidth).centres, method.threshold)


def radius(method: Embedding, factor: float) -> Cluster:
    def cluster(points: Points) -> NDArray[np.int64]:
        centres, labels, distance, sigma = _spread(method, points)
        return np.where(distance <= factor * sigma[labels], labels, -1) if len(centres) else labels

    return cluster


def mixture(method: Embedding, dimensions: float) -> Cluster:
    def cluster(points: Points) -> NDArray[np.int64]:
        centres, labels, _, sigma = _spread(method, points)
        if not len(centres):
            return labels
        distances = cdist(points, centres)
        best = (distances**2 / (2 * sigma**2) + dimensions * np.log(sigma)).argmin(1)
        return np.where(distances[np.arange(len(points)), best] <= method.threshold, best, -1)

    return cluster


def merge(method: Embedding, share: float, factor: float) -> Cluster:
    def cluster(points: Points) -> NDArray[np.int64]:
        centres, labels, distance, sigma = _spread(method, points, share=share)
        if not len(centres):
            return labels
        near = squareform(pdist(centres)) < factor * (sigma[:, None] + sigma)
        joined = connected_components(near, directed=False)[1]
        return np.where(distance <= method.threshold, joined[labels], -1)

    return cluster


def _spread(method: Embedding, points: Points, *, share: float = 1.0) -> tuple[NDArray, ...]:  # type: ignore[type-arg]
    """Modes ``(m, E)``, and of every point the nearest ``(n,)`` and its distance ``(n,)``; sigma ``(m,)``."""
    centres = modes(points, share * method.bandwidth).centres
    labels = assign(points, centres)
    distance = np.linalg.norm(points - centres[labels], axis=1) if len(centres) else np.zeros(len(points))
    inside = [distance[labels == mode] for mode in range(len(centres))]
    sigma = np.array([np.sqrt(np.median(of**2)) if len(of) else 1.0 for of in inside])
    return centres, labels, distance, np.maximum(sigma, 1e-3)


if __name__ == "__main__":
    main()
