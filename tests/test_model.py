"""A model as a folder: what is written is read, and what is wrong is said."""

import json
import re
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from plurimask import model as module
from plurimask.agglomerate import SequentialUnion
from plurimask.data.normalise import Normalisation
from plurimask.familiarity import LENGTH, Familiarity
from plurimask.methods import Embedding
from plurimask.metrics.border import SigmaScale
from plurimask.model import Model, Scale, build, describe, find_model, load_model, network_factory, shipped_models
from plurimask.networks import UNet
from plurimask.platt import Platt
from plurimask.posteriors import ConcreteDropout, Deterministic
from plurimask.predict import segment
from plurimask.protocols import Backbone, Method, Posterior

METHOD = Embedding(dimensions=4, levels=2, class_weights=(1.0, 2.0, 3.0), min_size=5)


def made(posterior=ConcreteDropout, ndim=2, **settings):
    torch.manual_seed(0)
    network = network_factory(describe(UNet(1, ndim=ndim, width=4, depth=3)), METHOD)
    return Model(posterior=posterior(network).eval(), method=METHOD, **settings)


KNOWN = Familiarity.fit(np.random.default_rng(0).normal(size=(7, 3, LENGTH)))

FULL = {
    "normalisation": Normalisation(low=3.0, high=99.0),
    "agglomeration": SequentialUnion(),
    "calibration": Platt(slope=0.75, offset=-0.125),
    "quality": Platt(slope=1.5, offset=0.25),
    "border": SigmaScale(1.25, 2.0),
    "scale": Scale(pixel_size=0.5, diameter=12.5),
    "familiarity": KNOWN,
    "channels": ("DAPI",),
    "window": 256,
    "halo": 48,
    "trained_on": ("a", "b"),
    "card": {"licence": "CC0", "numbers": {"S": [0.5, 0.9]}},
}


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("posterior", [partial(ConcreteDropout, start=1, temperature=0.5), Deterministic])
def test_there_and_back(tmp_path, posterior, ndim):
    before = made(posterior, ndim, **FULL)
    before.save(tmp_path / "deep" / "folder")
    after = load_model(tmp_path / "deep" / "folder")
    assert after.describe() == before.describe()
    for name in (
        "method",
        "normalisation",
        "agglomeration",
        "calibration",
        "quality",
        "border",
        "scale",
        "familiarity",
        "channels",
        "window",
        "halo",
        "trained_on",
        "card",
    ):
        assert getattr(after, name) == getattr(before, name)
    assert not after.posterior.training
    for name, value in before.posterior.state_dict().items():
        assert torch.equal(after.posterior.state_dict()[name], value)
    image = np.random.default_rng(0).random((20,) * ndim)
    with pytest.warns(UserWarning, match="unlike the training images"):
        one, other = (segment(image, model, draws=2).entropy_map() for model in (before, after))
    np.testing.assert_array_equal(one, other)
    assert sorted(path.name for path in (tmp_path / "deep" / "folder").iterdir()) == [
        "model.json",
        "weights.safetensors",
    ]


def test_half_as_large(tmp_path):
    before = made()
    before.save(tmp_path / "whole")
    before.save(tmp_path / "half", half=True)
    whole, half = ((tmp_path / name / "weights.safetensors").stat().st_size for name in ("whole", "half"))
    assert half < 0.6 * whole
    after = load_model(tmp_path / "half")
    for name, value in before.posterior.state_dict().items():
        found = after.posterior.state_dict()[name]
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, value, atol=1e-4, rtol=2**-10)  # float16 has 11 bits


def test_weights_with_channels_last_are_saved(tmp_path):
    before = made()
    before.posterior.to(memory_format=torch.channels_last)
    before.save(tmp_path)
    loaded = load_model(tmp_path).posterior.state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in before.posterior.state_dict().items())


def test_a_model_may_be_replaced(tmp_path):
    made().save(tmp_path)
    replace(made(), channels=("other",)).save(tmp_path)
    assert load_model(tmp_path).channels == ("other",)


def broken(folder, **changes):
    made().save(folder)
    text = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps({**text, **changes}))
    return folder


def test_a_newer_format_is_refused(tmp_path):
    with pytest.raises(ValueError, match="has format 2, this plurimask reads up to 1: please update"):
        load_model(broken(tmp_path, format=2))


@pytest.mark.parametrize(
    "part",
    [
        "method",
        "posterior",
        "backbone",
        "normalisation",
        "agglomeration",
        "calibration",
        "quality",
        "border",
        "scale",
        "familiarity",
    ],
)
def test_a_description_can_call_nothing_else(tmp_path, part, capfd):
    stranger = {"class_path": "subprocess.Popen", "init_args": {"args": ["echo", "got you"]}}
    with pytest.raises(ValueError, match=r"subprocess.Popen is no \w+; the model's description is broken"):
        load_model(broken(tmp_path, **{part: stranger}))
    assert "got you" not in capfd.readouterr().out


@pytest.mark.parametrize(
    ("part", "nothing"),
    [("calibration", Platt()), ("quality", Platt()), ("border", SigmaScale()), ("familiarity", Familiarity())],
)
def test_a_model_of_before_there_was_such_a_part(tmp_path, part, nothing):
    made(**FULL).save(tmp_path)
    text = json.loads((tmp_path / "model.json").read_text())
    del text[part]
    (tmp_path / "model.json").write_text(json.dumps(text))
    assert getattr(load_model(tmp_path), part) == nothing != FULL[part]


def test_a_training_image_is_a_line_of_the_file(tmp_path):
    card = {"text": "[\n  1,\n  2 ]", "numbers": [[1, 2], [], ["a", 3]]}
    before = made(**{**FULL, "card": card})
    before.save(tmp_path)
    text = (tmp_path / "model.json").read_text()
    assert json.loads(text) == json.loads(json.dumps(before.describe(), default=list))
    lines = text.splitlines()
    assert len(lines) < 120
    assert [len(json.loads(line.strip(" ,"))) for line in lines if line.strip().startswith("[[")][:7] == [3] * 7
    assert '"class_weights": [1.0, 2.0, 3.0],' in text


def test_a_class_that_is_not_installed_is_named(tmp_path):
    with pytest.raises(ModuleNotFoundError, match="somebodys_methods"):
        load_model(broken(tmp_path, method={"class_path": "somebodys_methods.Other", "init_args": {}}))


def test_an_unknown_name_lists_the_shipped_ones(tmp_path, monkeypatch):
    for name in ("worms", "nuclei"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.json").touch()
    monkeypatch.setattr(module, "SHIPPED", tmp_path)
    assert shipped_models() == ["nuclei", "worms"]
    assert find_model("worms") == tmp_path / "worms"
    with pytest.raises(FileNotFoundError, match=re.escape("no model 'cells': neither") + ".*nuclei, worms"):
        load_model("cells")


def test_a_folder_goes_before_a_shipped_name(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SHIPPED", tmp_path / "shipped")
    monkeypatch.chdir(tmp_path)
    made().save(tmp_path / "shipped" / "nuclei")
    assert find_model("nuclei") == tmp_path / "shipped" / "nuclei"
    made().save(tmp_path / "nuclei")
    assert find_model("nuclei").resolve() == tmp_path / "nuclei"


@pytest.mark.parametrize(
    ("thing", "kind"),
    [(METHOD, Method), (UNet(2, ndim=3, width=2, depth=2), Backbone), (Scale(diameter=3.0), Scale)],
    ids=lambda value: type(value).__name__,
)
def test_describe_and_build_are_each_others_inverse(thing, kind):
    text = json.loads(json.dumps(describe(thing)))
    again = build(text, kind)
    assert type(again) is type(thing)
    assert describe(again) == describe(thing)


def test_a_posterior_is_described_without_its_network():
    description = describe(made(partial(ConcreteDropout, initial_rate=0.2)).posterior)
    assert description["init_args"]["initial_rate"] == 0.2
    assert "network" not in description["init_args"]
    assert isinstance(build(description, Posterior, network_factory(describe(UNet(width=2)), METHOD)), ConcreteDropout)


def test_every_network_of_a_factory_is_a_new_one():
    factory = network_factory(describe(UNet(width=2, depth=2)), METHOD)
    one, other = factory(), factory()
    assert one.backbone is not other.backbone
    weights = zip(one.parameters(), other.parameters(), strict=True)
    assert any(not torch.equal(first, second) for first, second in weights)


@pytest.mark.parametrize("name", shipped_models())
def test_shipped_models_can_be_loaded(name):
    model = load_model(name)
    assert model.card
    assert len(model.familiarity.references) > 50
    assert (find_model(name) / "model.json").stat().st_size < 300_000
