"""What a probabilistic segmentation costs, against one deterministic pass and against the plain way to do it.

    python benchmarks/pipeline.py [--image examples/worms.tif] [--model worms] [--repeats 5]

Two ratios on one image, medians over alternating repeats:

* ``draws / deterministic``: 8 draws, all files written, over the same network without dropout, all files written;
* ``plain / ours``: float32, channels first, one whole pass per draw and scikit-learn's MeanShift with bin seeding,
  over ours; objects are put together, agglomerated and counted by the same code.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from sklearn.cluster import MeanShift

from plurimask.batch import segment_files
from plurimask.data.io import read_image
from plurimask.methods.embedding import BACKGROUND, Embedding
from plurimask.model import Model, describe, load_model, network_factory
from plurimask.ops.components import reconnect, scored, without_small
from plurimask.posteriors import ConcreteDropout, Deterministic
from plurimask.predict import segment

DRAWS = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", default="examples/worms.tif")
    parser.add_argument("--model", default="worms")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    model = load_model(options.model)
    image = read_image(options.image).data
    with tempfile.TemporaryDirectory() as folder:
        model.save(Path(folder) / "model")
        without_dropout(model).save(Path(folder) / "deterministic")
        times = measured(
            {
                "8 draws, files": lambda: files(options.image, Path(folder), "model"),
                "deterministic, files": lambda: files(options.image, Path(folder), "deterministic"),
                "8 draws": lambda: segment(image, model, draws=DRAWS),
                "8 draws, plain": lambda: plain(image, model),
            },
            repeats=options.repeats,
        )
    for name, seconds in times.items():
        print(f"{name:24} {seconds:7.2f} s")
    print(f"draws / deterministic    {times['8 draws, files'] / times['deterministic, files']:7.2f}")
    print(f"plain / ours             {times['8 draws, plain'] / times['8 draws']:7.2f}")


def measured(jobs: dict[str, Callable[[], object]], *, repeats: int) -> dict[str, float]:
    """Median seconds of every job; the jobs take turns, after one warm-up each."""
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for number in range(repeats + 1):
        for name, job in jobs.items():
            start = time.perf_counter()
            job()
            if number:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def files(image: str, folder: Path, model: str) -> None:
    segment_files([image], folder / f"{model}-files", model=folder / model, draws=DRAWS, overwrite=True)


def without_dropout(model: Model) -> Model:
    """The same network and weights, asked once."""
    posterior = Deterministic(network_factory(describe(model.backbone), model.method))
    known = posterior.state_dict().keys()
    posterior.load_state_dict({name: value for name, value in model.posterior.state_dict().items() if name in known})
    return replace(model, posterior=posterior.eval())


def plain(image: np.ndarray, model: Model) -> object:
    """Every draw by a whole pass in float32, channels first; objects by scikit-learn's mean shift."""
    posterior, method = model.posterior, model.method
    assert isinstance(posterior, ConcreteDropout) and isinstance(method, Embedding)
    posterior.to(memory_format=torch.contiguous_format)
    batch = torch.from_numpy(model.normalisation(image))[None].contiguous()
    found = []
    with torch.inference_mode():
        for seed in range(DRAWS):
            outputs = next(iter(posterior.draws(batch, [seed], context={})))
            found.append(plain_decode(method, outputs))
    return model.agglomeration(found).best()


def plain_decode(method: Embedding, outputs):
    """:meth:`Embedding.decode` with scikit-learn's mean shift."""
    probabilities = method.probabilities(outputs).numpy()
    single, overlap = method.regions(probabilities)
    points = method.points(outputs, single)
    labels = np.zeros(single.shape, np.int32)
    if len(points):
        labels[single] = MeanShift(bandwidth=method.bandwidth, bin_seeding=True, n_jobs=2).fit_predict(points) + 1
    whole = reconnect(
        labels, overlap, min_contact=method.min_contact, max_gap=method.max_gap, min_piece=method.min_piece
    )
    return without_small(scored(whole, 1 - probabilities[BACKGROUND]), method.min_size)


if __name__ == "__main__":
    main()
