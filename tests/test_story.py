"""The whole story in a minute: made-up images, a small training, segmentation, evaluation."""

from functools import partial

import numpy as np
import pytest
import tifffile

import plurimask
from plurimask.data.storage import save
from plurimask.data.synthetic import blobs, write_image
from plurimask.data.transforms import Augmentation
from plurimask.fitting import Schedule
from plurimask.methods import Embedding
from plurimask.networks import UNet
from plurimask.posteriors import ConcreteDropout

SIDE = 96
PARTS = {"fit": range(6), "tune": range(6, 8), "report": range(8, 11)}


def write(folder):
    """Crowded blobs in Cellpose's layout."""
    for part, numbers in PARTS.items():
        (folder / part).mkdir(parents=True)
        for number in numbers:
            image, truth = blobs((SIDE, SIDE), count=8, seed=number)
            write_image(folder / part / f"b{number}.tif", image)
            tifffile.imwrite(folder / part / f"b{number}_masks.tif", truth.to_labels().astype(np.uint16))
    return folder


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    """A folder with data, a model that was trained on it, and its results on the report part."""
    folder = tmp_path_factory.mktemp("story")
    data = write(folder / "data")
    plurimask.train(
        [data],
        folder / "model",
        method=Embedding(dimensions=4, semi_convolutional=4.0, class_weights=(1.0, 1.0, 2.0), min_size=30),
        backbone=partial(UNet, width=8, depth=3),
        posterior=partial(ConcreteDropout, initial_rate=0.1, start=1),
        schedule=Schedule(
            steps=200,
            batch=2,
            crop=64,
            learning_rate=5e-3,
            warmup=10,
            averaging=0.9,
            check_every=50,
            workers=0,
            augmentation=Augmentation(elastic=0, blur=0),
        ),
        window=64,
        halo=24,
        progress=False,
    )
    (folder / "results").mkdir()
    for file in (data / "report" / f"b{number}.tif" for number in PARTS["report"]):
        found = plurimask.segment(tifffile.imread(file), folder / "model", draws=4)
        save(found, folder / "results" / f"{file.stem}.plurimask.zarr")
    return folder


def test_most_objects_are_found(story):
    report = plurimask.evaluate(story / "results", story / "data" / "report", thresholds=[0.5])
    assert len(report.rows) == len(PARTS["report"])
    # Guessing finds nothing at IoU 0.5; a good network finds almost all.
    assert report.summary.measures["S@0.5"].mean > 0.4


def test_every_object_comes_with_its_doubt(story):
    for path in sorted((story / "results").iterdir()):
        found = plurimask.load(path)
        assert found.draws == 4
        assert (found.existence > 0).all() and (found.existence <= 1).all()
        low, high = found.count_interval()
        assert low <= found.mean_count <= high
        entropy = found.entropy_map()
        assert 0 < entropy.max() <= np.log(2) + 1e-6
        masks = found.best().to_masks()
        assert masks.dtype == bool and masks.shape[1:] == (SIDE, SIDE)


def test_the_doubt_is_at_the_borders(story):
    # Where an object ends is less sure than its middle and the empty ground.
    for path in sorted((story / "results").iterdir()):
        found = plurimask.load(path)
        number = found.best().to_labels()
        border = np.zeros(number.shape, bool)
        for axis in (0, 1):
            for step in (-1, 1):
                border |= np.roll(number, step, axis) != number
        entropy = found.entropy_map()
        assert entropy[border].mean() > entropy[~border].mean()


def test_the_same_seed_twice(story):
    image = tifffile.imread(story / "data" / "report" / "b8.tif")
    one, other = (plurimask.segment(image, story / "model", draws=3, seed=5) for _ in range(2))
    assert np.array_equal(one.entropy_map(), other.entropy_map())
    assert np.array_equal(one.existence, other.existence)
