"""A small model with random weights, and a pool of pictures."""

from functools import partial

import numpy as np
import pytest
import tifffile
import torch

from plurimask.data.normalise import Normalisation
from plurimask.familiarity import Familiarity, looks
from plurimask.methods import Semantic
from plurimask.model import Model, network_factory
from plurimask.posteriors import ConcreteDropout

METHOD = Semantic(threshold=0.34, min_size=1)


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """The folder of a model that doubts much."""
    torch.manual_seed(0)
    backbone = {"class_path": "plurimask.networks.unet.UNet", "init_args": {"width": 4, "depth": 2}}
    posterior = partial(ConcreteDropout, initial_rate=0.4)(network_factory(backbone, METHOD))
    known = Familiarity.fit([[looks(Normalisation()(noise(seed)[None]))] * 3 for seed in range(100, 106)])
    made = Model(posterior=posterior, method=METHOD, channels=("light",), familiarity=known, trained_on=("fit/two",))
    folder = tmp_path_factory.mktemp("models") / "doubting"
    made.save(folder)
    return folder


def noise(seed, shape=(32, 40)):
    return np.random.default_rng(seed).normal(1000, 100 * (1 + seed % 5), shape).astype(np.float32)


@pytest.fixture
def picture():
    """The function that makes a picture from a seed."""
    return noise


@pytest.fixture
def pool(tmp_path):
    """Six pictures: three different ones, a copy, one that is NaN, one that is constant."""
    folder = tmp_path / "pool"
    (folder / "a").mkdir(parents=True)
    for name, image in {
        "1": noise(1),
        "2": noise(2),
        "a/1": noise(3),
        "a/copy": noise(2),
        "broken": np.full((8, 8), np.nan, np.float32),
        "flat": np.full((8, 8), 7, np.float32),
    }.items():
        tifffile.imwrite(folder / f"{name}.tif", image)
    return folder
