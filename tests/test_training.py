"""From folders to a model folder: what is read, what is refused, what goes on."""

import hashlib
import json
from dataclasses import replace
from functools import partial

import imageio.v3 as imageio
import numpy as np
import pytest
import safetensors.torch
import tifffile
import torch

from plurimask import training
from plurimask.data.normalise import Normalisation
from plurimask.data.sources import open_source
from plurimask.familiarity import Familiarity, looks, training_looks
from plurimask.fitting import LATEST, Schedule
from plurimask.methods import Embedding, Semantic
from plurimask.model import load_model
from plurimask.networks import UNet
from plurimask.posteriors import ConcreteDropout, Deterministic, Ensemble
from plurimask.testing import toy_image, toy_truths
from plurimask.training import equivalent_diameter, train

METHOD = Embedding(dimensions=4, min_size=5)
SHORT = Schedule(steps=2, batch=1, crop=32, check_every=2, warmup=1, workers=0)
SMALL = {"method": METHOD, "backbone": partial(UNet, width=4, depth=2), "schedule": SHORT, "progress": False}


def write(folder, names=("one", "two"), *, channels=1, ndim=2):
    """``fit/`` and ``tune/`` with images of touching blobs in Cellpose's layout."""
    truth = toy_truths(ndim)["touching blobs"]
    for part, called in (("fit", names), ("tune", ("chosen",))):
        (folder / part).mkdir(parents=True)
        for seed, name in enumerate(called):
            image = (1000 * (1 + toy_image(truth, channels=channels, seed=seed))).astype(np.uint16)
            axes = {"axes": "CZYX"[-image.ndim :] if ndim == 3 else "CYX"} if channels > 1 or ndim == 3 else {}
            data = image[0] if channels == 1 else image
            axes = {"axes": "ZYX"} if ndim == 3 and channels == 1 else axes
            tifffile.imwrite(folder / part / f"{name}.tif", data, metadata=axes, imagej=False)
            tifffile.imwrite(folder / part / f"{name}_masks.tif", truth.to_labels().astype(np.uint16))
    return folder


@pytest.fixture
def data(tmp_path):
    return write(tmp_path / "data")


def test_a_model_folder_that_prediction_can_use(data, tmp_path):
    made = train([data], tmp_path / "out", **SMALL, channels=["light"], window=128, halo=16)
    kept = load_model(tmp_path / "out")
    assert kept.describe() == made.describe()
    assert kept.channels == ("light",) and (kept.window, kept.halo) == (128, 16)
    assert {name.split("/")[-1] for name in kept.trained_on} == {"one", "two"}  # and not the tune image
    areas = toy_truths()["touching blobs"].areas
    assert kept.scale.diameter == pytest.approx(np.median(2 * np.sqrt(areas / np.pi)))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["model.json", "weights.safetensors"]
    assert (tmp_path / "out.run" / LATEST).is_file()  # resume files stay outside the model's folder
    weights = kept.posterior.state_dict()
    assert all(torch.equal(weights[name], value) for name, value in made.posterior.state_dict().items())


def test_a_model_is_not_overwritten_unasked(data, tmp_path):
    train([data], tmp_path / "out", **SMALL)
    before = (tmp_path / "out" / "model.json").stat().st_mtime_ns
    with pytest.raises(FileExistsError, match="holds a model already"):
        train([data], tmp_path / "out", **SMALL)
    assert (tmp_path / "out" / "model.json").stat().st_mtime_ns == before
    changed = {**SMALL, "schedule": Schedule(steps=1, batch=1, crop=32, workers=0)}
    train([data], tmp_path / "out", **changed, overwrite=True)
    assert torch.load(tmp_path / "out.run" / LATEST, weights_only=True)["global_step"] == 1


def test_a_run_goes_on_only_with_its_own_settings(data, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(training, "fit", lambda *_, **__: 1 / 0)  # killed after its settings were written
        with pytest.raises(ZeroDivisionError):
            train([data], tmp_path / "out", **SMALL)
    settings = json.loads((tmp_path / "out.run" / "settings.json").read_text())
    assert settings["schedule"]["init_args"]["steps"] == 2
    for other in (
        {"method": Embedding(dimensions=5)},
        {"schedule": Schedule(steps=3, batch=1, crop=32, workers=0)},
        {"posterior": Deterministic},
        {"normalisation": Normalisation(low=2.0)},
        {"channels": ["another"]},
        {"weights": [2.0]},
        {"only": ["fit/one", "fit/two"]},
    ):
        with pytest.raises(FileExistsError, match="a run with other settings"):
            train([data], tmp_path / "out", **{**SMALL, **other})
    train([data], tmp_path / "out", **SMALL)
    assert (tmp_path / "out" / "model.json").is_file()


def test_fine_tuning_starts_from_the_model_and_brings_its_settings(data, tmp_path, monkeypatch):
    first = train([data], tmp_path / "first", **SMALL, normalisation=Normalisation(low=2.0), channels=["light"])
    (tmp_path / "more").mkdir()
    more = write(tmp_path / "more" / "data", ("three", "four"))
    started = {}

    def watched(model, *arguments, **settings):
        started.update({name: value.clone() for name, value in model.posterior.state_dict().items()})
        return original(model, *arguments, **settings)

    original = training.fit
    monkeypatch.setattr(training, "fit", watched)
    second = train([more], tmp_path / "second", init=tmp_path / "first", schedule=SHORT, progress=False)
    for name, value in first.posterior.state_dict().items():
        assert torch.equal(started[name], value)
    assert second.method == METHOD and second.normalisation == Normalisation(low=2.0)
    assert second.channels == ("light",)
    assert {name.split("/")[-1] for name in second.trained_on} == {"one", "two", "three", "four"}


def test_a_backbone_is_taken_over_by_another_method(data, tmp_path, monkeypatch):
    settings = {**SMALL, "posterior": partial(ConcreteDropout, initial_rate=0.3)}
    first = train([data], tmp_path / "first", **settings)
    (tmp_path / "more").mkdir()
    more = write(tmp_path / "more" / "data", ("three", "four"))
    started = []

    def watched(model, *arguments, **settings):
        started.append({name: value.clone() for name, value in model.posterior.backbone.state_dict().items()})
        return original(model, *arguments, **settings)

    original = training.fit
    monkeypatch.setattr(training, "fit", watched)
    other = {**SMALL, "method": Semantic(), "backbone_from": tmp_path / "first"}
    second = train([more], tmp_path / "second", **other)
    train([more], tmp_path / "third", **{**other, "posterior": Deterministic})
    weights = first.posterior.backbone.state_dict()
    assert started[0].keys() == weights.keys()
    assert started[1].keys() == {name for name in weights if ".dropout." not in name}
    for state in started:
        assert all(torch.equal(value, weights[name]) for name, value in state.items())
    assert isinstance(second.method, Semantic)
    assert {name.split("/")[-1] for name in second.trained_on} == {"one", "two", "three", "four"}


@pytest.mark.parametrize("by", ["init", "backbone_from"])
def test_a_run_goes_on_only_from_the_weights_that_it_started_from(data, tmp_path, monkeypatch, by):
    monkeypatch.setattr(training, "fit", lambda *_, **__: None)
    train([data], tmp_path / "first", **SMALL)
    weights, settings = tmp_path / "first" / "weights.safetensors", tmp_path / "out.run" / "settings.json"
    begin = partial(train, [data], tmp_path / "out", **SMALL, **{by: tmp_path / "first"})
    monkeypatch.setattr(training, "fit", lambda *_, **__: 1 / 0)  # killed after its settings were written
    with pytest.raises(ZeroDivisionError):
        begin()
    before, known = weights.read_bytes(), json.loads(settings.read_text())
    assert known["initial_weights"] == hashlib.sha256(before).hexdigest()[:16]
    with pytest.raises(ZeroDivisionError):  # it goes on
        begin()
    changed = safetensors.torch.load(before)
    next(iter(changed.values())).add_(1)
    weights.write_bytes(safetensors.torch.save(changed))  # as another training under the same name does
    with pytest.raises(FileExistsError, match=r"from other weights.* have changed since"):
        begin()
    assert json.loads(settings.read_text()) == known
    unknown = {name: value for name, value in known.items() if name != "initial_weights"}
    settings.write_text(json.dumps(unknown, indent=2))  # as older versions have written it
    with pytest.raises(ZeroDivisionError):
        begin()
    assert json.loads(settings.read_text()) == unknown  # nothing is made up


def test_a_backbone_that_does_not_fit(data, tmp_path):
    train([data], tmp_path / "first", **SMALL)
    wider = {**SMALL, "backbone": partial(UNet, width=8, depth=2), "backbone_from": tmp_path / "first"}
    with pytest.raises(ValueError, match=r"is another one: .* instead of .*Give the same backbone"):
        train([data], tmp_path / "second", **wider)
    deeper = {**SMALL, "backbone": partial(UNet, width=4, depth=1), "backbone_from": tmp_path / "first"}
    with pytest.raises(ValueError, match="is another one"):
        train([data], tmp_path / "second", **deeper)
    both = {"init": tmp_path / "first", "backbone_from": tmp_path / "first"}
    with pytest.raises(ValueError, match="give one of them"):
        train([data], tmp_path / "second", **SMALL, **both)


def seen_images(folder, normalise=Normalisation()):
    return [normalise(sample.image().data) for sample in open_source(folder, split="fit")]


def test_what_the_training_images_look_like_is_remembered(tmp_path):
    data = write(tmp_path / "data", ("a", "b", "c", "d", "e"))
    made = train([data], tmp_path / "out", **SMALL)
    images = seen_images(data)
    assert len(images) == 5
    examples = training_looks(images, Normalisation(), SHORT.augmentation, seed=SHORT.seed)
    assert made.familiarity == Familiarity.fit(examples) == load_model(tmp_path / "out").familiarity
    assert "familiarity" not in json.loads((tmp_path / "out.run" / "settings.json").read_text())


def test_of_few_training_images_nothing_is_known(data, tmp_path):
    assert train([data], tmp_path / "out", **SMALL).familiarity == Familiarity()


def test_a_fine_tuned_model_knows_the_images_of_both_trainings(tmp_path):
    data = write(tmp_path / "data", ("a", "b", "c", "d", "e"))
    again = {"init": tmp_path / "first", "schedule": SHORT, "progress": False}
    normalise = Normalisation(low=2.0)
    first = train([data], tmp_path / "first", **SMALL, normalisation=normalise).familiarity
    assert train([data], tmp_path / "again", **again).familiarity == first
    more = write(tmp_path / "more", tuple("abcdefg"))  # two are new
    both = train([more], tmp_path / "second", **again).familiarity
    assert both.references[:5] == first.references
    assert [image[0] for image in both.references] == [
        tuple(looks(image).round(3)) for image in seen_images(more, normalise)
    ]


def test_weights_share_the_crops_among_folders(data, tmp_path, monkeypatch):
    other = write(tmp_path / "other", ("a", "b", "c"))
    seen = {}

    def watched(model, examples, tune, **settings):
        seen.update(settings, names=[example.name for example in examples], tune=[example.name for example in tune])
        return model

    monkeypatch.setattr(training, "fit", watched)
    train([data, other], tmp_path / "out", **SMALL, weights=[3, 1])
    np.testing.assert_allclose(seen["weights"], [3 / 8] * 2 + [1 / 12] * 3)
    assert [name.split("/")[-1] for name in seen["names"]] == ["one", "two", "a", "b", "c"]
    assert [name.split("/")[-1] for name in seen["tune"]] == ["chosen"]  # of the first folder only


@pytest.mark.parametrize(("annotator", "wanted"), [(None, [None] * 3), (1, [1, 2, 3]), ("all", ["all"] * 3)])
def test_members_have_the_next_annotator_each_where_one_is_chosen(data, tmp_path, monkeypatch, annotator, wanted):
    seen = []
    monkeypatch.setattr(training, "fit", lambda *_, schedule, **settings: seen.append(schedule.annotator))
    settings = {**SMALL, "method": Semantic(), "schedule": replace(SHORT, annotator=annotator)}
    train([data], tmp_path / "out", **settings, posterior=partial(Ensemble, members=3))
    assert seen == wanted


def test_a_method_that_cannot_fit_all_annotators_leaves_no_settings_behind(data, tmp_path):
    everyone = {**SMALL, "schedule": replace(SHORT, annotator="all")}
    with pytest.raises(ValueError, match="Embedding cannot fit all annotators"):
        train([data], tmp_path / "out", **everyone)
    assert not (tmp_path / "out.run").exists()  # the next attempt, with other settings, is no other run
    (tmp_path / "out.run").mkdir()
    (tmp_path / "out.run" / LATEST).touch()
    with pytest.raises(ValueError, match="Embedding cannot fit all annotators"):
        train([data], tmp_path / "out", **everyone, overwrite=True)
    assert (tmp_path / "out.run" / LATEST).exists()  # what was there is not lost to a refusal


def test_only_the_named_images(data, tmp_path, monkeypatch):
    other, seen = write(tmp_path / "other", ("a", "b")), {}

    def watched(model, examples, tune, **settings):
        seen.update(names=[example.name for example in examples], model=model)
        return model

    monkeypatch.setattr(training, "fit", watched)
    train([data, other], tmp_path / "out", **SMALL, only=["fit/two", "fit/two"])
    assert seen["names"] == [
        "fit/two",
        "fit/two",
        "fit/a",
        "fit/b",
    ]  # of the first folder; named twice, it comes twice as often
    assert seen["model"].trained_on == ("fit/two", "fit/a", "fit/b")
    with pytest.raises(ValueError, match="no images fit/three in its 'fit' part"):
        train([data], tmp_path / "none", **SMALL, only=["fit/two", "fit/three"])
    with pytest.raises(ValueError, match="no image is named"):
        train([data], tmp_path / "none", **SMALL, only=[])


@pytest.mark.parametrize("weights", [[1], [1, -1], [0, 0], [1, 2, 3]])
def test_weights_that_do_not_fit(data, tmp_path, weights):
    with pytest.raises(ValueError, match="2 folders want as many weights"):
        train([data, data], tmp_path / "out", **SMALL, weights=weights)


def test_images_that_differ_in_channels(data, tmp_path):
    other = write(tmp_path / "other", channels=2)
    with pytest.raises(ValueError, match=r"differ in their number of channels: 1 \(.*\), 2 \(.*\)"):
        train([data, other], tmp_path / "out", **SMALL)


def test_names_of_channels_are_as_many_as_channels(data, tmp_path):
    with pytest.raises(ValueError, match="1 channels, but 2 names were given: a, b"):
        train([data], tmp_path / "out", **SMALL, channels=["a", "b"])


def test_several_channels(tmp_path):
    made = train([write(tmp_path / "data", channels=2)], tmp_path / "out", **SMALL)
    assert made.channels == ("channel 0", "channel 1")
    assert made.backbone.in_channels == 2


def broad(folder):
    """Two wells of BBBC010 for fitting and one for tuning."""
    truth = toy_truths()["touching blobs"]
    for seed, well in enumerate(("A01", "A02", "A04")):
        for channel in ("w1", "w2"):
            values = (1000 * (1 + toy_image(truth, seed=seed)[0])).astype(np.uint16) + 5000 * (channel == "w1")
            (folder / "BBBC010_v1_images").mkdir(parents=True, exist_ok=True)
            tifffile.imwrite(folder / "BBBC010_v1_images" / f"1649_1109_Amp_{well}_{channel}_X.tif", values)
        for number, mask in enumerate(truth.to_masks()):
            (folder / "BBBC010_v1_foreground_eachworm").mkdir(exist_ok=True)
            path = folder / "BBBC010_v1_foreground_eachworm" / f"{well}_{number:02d}_ground_truth.png"
            imageio.imwrite(path, mask * np.uint8(255))
    return folder


def test_channels_that_are_files_of_their_own(tmp_path, data, monkeypatch):
    wells = broad(tmp_path / "wells")
    made = train([wells], tmp_path / "out", **SMALL, channel_files=["w2", "w1"])
    assert made.channels == ("w2", "w1") and made.backbone.in_channels == 2
    settings = json.loads((tmp_path / "out.run" / "settings.json").read_text())
    assert settings["channel_files"] == ["w2", "w1"]
    names = {"channels": ["light", "GFP"], "channel_files": ["w2", "w1"]}
    with monkeypatch.context() as patch:
        patch.setattr(training, "fit", lambda *_, **__: 1 / 0)  # killed after its settings were written
        with pytest.raises(ZeroDivisionError):
            train([wells], tmp_path / "named", **SMALL, **names)
    with pytest.raises(FileExistsError, match="a run with other settings"):
        train([wells], tmp_path / "named", **SMALL, **{**names, "channel_files": ["w1", "w2"]})
    assert train([wells], tmp_path / "named", **SMALL, **names).channels == ("light", "GFP")
    with pytest.raises(ValueError, match=r"the network reads 2 and 2\..*--channel-files w2 w1"):
        train([wells], tmp_path / "more", init=tmp_path / "out", progress=False)
    with pytest.raises(ValueError, match="leave --channel-files out"):
        train([data], tmp_path / "more", **SMALL, channel_files=["w2", "w1"])


def test_grey_and_coloured_pictures_do_not_mix(data, tmp_path):
    for path in sorted((data / "fit").glob("*o*.tif")):
        if "masks" not in path.name:
            grey = np.clip(tifffile.imread(path) // 8, 0, 255).astype(np.uint8)
            path.unlink()
            imageio.imwrite(path.with_suffix(".png"), np.stack([grey] * 3, axis=-1))
    assert train([data], tmp_path / "out", **SMALL).backbone.in_channels == 1
    picture = imageio.imread(data / "fit" / "two.png")
    picture[3, 4] = 255, 0, 0
    imageio.imwrite(data / "fit" / "two.png", picture)
    with pytest.raises(ValueError, match=r"number of channels: 1 \(.*\), 3 \(.*two\).*--axes YXC keeps three"):
        train([data], tmp_path / "other", **SMALL)


def test_images_that_the_network_cannot_read(data, tmp_path):
    train([data], tmp_path / "flat", **SMALL)
    volumes = write(tmp_path / "volumes", ndim=3)
    with pytest.raises(ValueError, match="1 channels and 3 spatial axes; the network reads 1 and 2"):
        train([volumes], tmp_path / "out", **SMALL)
    coloured = write(tmp_path / "coloured", channels=2)
    with pytest.raises(ValueError, match="2 channels and 2 spatial axes; the network reads 1 and 2"):
        train([coloured], tmp_path / "out", init=tmp_path / "flat", channels=["a", "b"], progress=False)
    with pytest.raises(ValueError, match="the network reads 1 and 2"):  # and not a word about names that nobody gave
        train([coloured], tmp_path / "out", init=tmp_path / "flat", progress=False)


def test_volumes(tmp_path):
    volumes = write(tmp_path / "data", ndim=3)
    settings = {**SMALL, "backbone": partial(UNet, ndim=3, width=2, depth=2)}
    schedule = Schedule(steps=1, batch=1, crop=12, workers=0)
    made = train([volumes], tmp_path / "out", **{**settings, "schedule": schedule})
    assert load_model(tmp_path / "out").backbone.ndim == 3
    sizes = toy_truths(3)["touching blobs"].areas
    assert made.scale.diameter == pytest.approx(np.median((6 * sizes / np.pi) ** (1 / 3)))


def test_without_images_there_is_no_training(tmp_path):
    folder = write(tmp_path / "data", names=())
    with pytest.raises(FileNotFoundError, match="no images for the part 'fit'"):
        train([folder], tmp_path / "out", **SMALL)
    assert not (tmp_path / "out").exists() and not (tmp_path / "out.run").exists()


@pytest.mark.parametrize("diameter", [3.0, 20.0])
def test_equivalent_diameters(diameter):
    disk, ball = np.pi / 4 * diameter**2, np.pi / 6 * diameter**3
    assert equivalent_diameter(np.array([disk]), 2)[0] == pytest.approx(diameter)
    assert equivalent_diameter(np.array([ball]), 3)[0] == pytest.approx(diameter)
