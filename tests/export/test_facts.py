from dataclasses import replace

import imageio.v3 as imageio
import numpy as np
import pytest

from plurimask.batch import segment_files
from plurimask.export.facts import facts
from plurimask.familiarity import LENGTH, Familiarity
from plurimask.methods import Embedding
from plurimask.model import Model, Scale, load_model
from plurimask.networks.unet import UNet
from plurimask.posteriors import ConcreteDropout
from plurimask.protocols import Network


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A small model that was never trained."""
    method = Embedding(dimensions=4)

    def network():
        backbone = UNet(width=4, depth=2)
        return Network(backbone, method.head(backbone))

    folder = tmp_path_factory.mktemp("model")
    described = Model(
        ConcreteDropout(network), method, scale=Scale(diameter=9.0), trained_on=("a", "b"), card={"licence": "CC0"}
    )
    described.save(folder)
    return folder


def test_the_installation():
    found = facts()
    assert {"plurimask", "torch", "devices"} <= set(found)
    assert "cpu" in found["devices"]


def test_a_model(model):
    found = facts(model)
    assert found["method"].startswith("Embedding(dimensions=4")
    assert found["posterior"].startswith("ConcreteDropout(")
    assert found["backbone"] == "UNet(in_channels=1, ndim=2, width=4, depth=2)"
    assert found["scale"] == "Scale(pixel_size=None, diameter=9.0)"
    assert found["trained on"] == "2 images"
    assert found["licence"] == "CC0"
    assert found["familiarity"] == "nothing known"


def test_a_model_that_remembers_its_training_images(model, tmp_path):
    replace(load_model(model), familiarity=Familiarity.fit(np.zeros((5, 3, LENGTH)))).save(tmp_path)
    assert facts(tmp_path)["familiarity"] == "15 reference looks of 5 images"


def test_a_batch_and_a_result(model, tmp_path):
    """The real way, with a real (if ignorant) model: an image without light has a result."""
    imageio.imwrite(tmp_path / "dark.png", np.zeros((32, 40), np.uint8))
    report = segment_files([tmp_path / "dark.png"], tmp_path / "out", model=model, draws=2, device="cpu")
    assert report.failed == {}
    batch = facts(tmp_path / "out")
    assert (batch["images"], batch["failed"], batch["draws"]) == (1, "none", 2)
    result = facts(tmp_path / "out" / "dark.plurimask.zarr")
    assert (result["image"], result["draws"], result["model"]) == ("32 x 40", 2, str(model))


def test_nothing(tmp_path):
    with pytest.raises(FileNotFoundError):
        facts(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError):
        facts(tmp_path / "nothing.plurimask.zarr")
