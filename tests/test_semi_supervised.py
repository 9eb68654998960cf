"""A teacher in the training: whose weights it has, what it costs, that a killed run resumes, and what is refused."""

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import tifffile
import torch

from plurimask import training
from plurimask.cli import VERBS, build_parser, parsed
from plurimask.data.dataset import Crops, Example, collate
from plurimask.data.unlabelled import UnlabelledCrops
from plurimask.fitting import LATEST, Schedule, Training, fit
from plurimask.instances import Instances
from plurimask.listening import Listen2Student
from plurimask.methods import METHODS, Contours, Embedding
from plurimask.model import Model, describe, network_factory
from plurimask.networks import UNet
from plurimask.posteriors import POSTERIORS, Deterministic
from plurimask.semi_supervised import LESSON, Lessons, Teacher
from plurimask.testing import toy_image, toy_truths
from plurimask.training import train

METHOD = Contours(order=4, samples=16, kernel=3, score_threshold=0.3)
SHORT = Schedule(steps=3, batch=1, crop=32, check_every=1, warmup=0, workers=0, averaging=0.5, seed=1)
ALWAYS = Listen2Student(start=0, student_margin=0, teacher_margin=0, foreground=0.3, background=0.3)
TRUTH = toy_truths()["touching blobs"]


def made(posterior=Deterministic, method=METHOD):
    torch.manual_seed(0)
    return Model(posterior=posterior(network_factory(describe(UNet(width=4, depth=2)), method)), method=method)


def images():
    return [toy_image(TRUTH, seed=seed) for seed in (5, 6)]


def run(folder, *, schedule=SHORT, model=None, **settings):
    examples = [Example("one", toy_image(TRUTH), TRUTH)]
    settings = {"unlabelled": images(), "teaching": ALWAYS, **settings}
    return fit(model or made(), examples, examples, run=folder, schedule=schedule, progress=False, **settings)


def lessons(method=METHOD, rule=ALWAYS, found=None):
    crops = UnlabelledCrops(images() if found is None else found, size=32, count=8, seed=(1, 0))
    return Lessons(method, crops, rule, batch=2, start=0, workers=0)


def checkpoint(folder):
    return torch.load(folder / LATEST, weights_only=True)


def columns(folder):
    (file,) = folder.glob("logs/*/metrics.csv")
    return file.read_text().splitlines()[0].split(",")


@pytest.fixture
def batches(monkeypatch):
    """The lessons that the student got."""
    taken, original = [], Training.training_step

    def watched(self, batch, number):
        taken.append(dict(batch.get(LESSON, {})))
        return original(self, batch, number)

    monkeypatch.setattr(Training, "training_step", watched)
    return taken


class Killed(BaseException):
    """What nobody catches, like a signal."""


def test_a_run_with_unlabelled_images_and_one_that_was_killed(tmp_path, batches, monkeypatch):
    whole = run(tmp_path / "whole")
    every = list(batches)
    assert len(every) == 3 and all(lesson["image"].shape == (1, 1, 32, 32) for lesson in every)
    assert any(len(lesson["floor"]) for lesson in every)  # the teacher did teach objects
    assert any("unlabelled.score" in name for name in columns(tmp_path / "whole"))
    assert not any("unlabelled.weights" in name for name in columns(tmp_path / "whole"))
    batches.clear()
    original = Crops.__getitem__

    def watched(self, number):
        if self.first + number == 2:
            raise Killed
        return original(self, number)

    with monkeypatch.context() as patch:
        patch.setattr(Crops, "__getitem__", watched)
        with pytest.raises(Killed):
            run(tmp_path / "killed")
    done = checkpoint(tmp_path / "killed")["global_step"]
    assert 0 < done < 3
    batches.clear()
    resumed = run(tmp_path / "killed")
    assert len(batches) == 3 - done
    for one, other in zip(every[done:], batches, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)
    for one, other in zip(whole.posterior.parameters(), resumed.posterior.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_lessons_begin_with_their_share_of_the_updates(tmp_path, batches):
    run(tmp_path, teaching=replace(ALWAYS, start=0.6))
    assert [bool(lesson) for lesson in batches] == [False, False, True]


def test_the_teacher_is_the_moving_average(tmp_path, monkeypatch):
    seen = []

    def losses(self, image, targets):
        return {"sum": torch.stack([weight.sum() for weight in self.parameters()]).sum()}  # a gradient of 1

    def targets(self, teacher, plain, update):
        seen.append(torch.cat([weight.flatten() for weight in teacher.parameters()]).clone())
        assert not any(part.training for part in teacher.modules())
        return {}

    monkeypatch.setattr(Deterministic, "losses", losses)
    monkeypatch.setattr(Lessons, "targets", targets)
    rate, decay = 0.01, 0.5
    schedule = replace(SHORT, steps=5, check_every=5, learning_rate=rate, decay="steps", milestones=(), averaging=decay)
    model = made()
    before = torch.cat([weight.detach().flatten() for weight in model.posterior.parameters()]).clone()
    run(tmp_path, schedule=schedule, model=model)
    assert torch.equal(seen[0], before)
    # Adam under a constant gradient: w_k = w_0 - k rate. The average begins as w_1, so that after k updates it is
    # w_k + rate (d + d^2 + ... + d^(k - 1)).
    for k in range(1, 5):
        wanted = before - k * rate + rate * sum(decay**power for power in range(1, k))
        torch.testing.assert_close(seen[k], wanted, atol=1e-5, rtol=1e-4)


def step(batch, teaching, monkeypatch):
    training = Training(made(), SHORT, teaching)
    logged = {}
    monkeypatch.setattr(training, "log_dict", logged.update)
    monkeypatch.setattr(training, "log", lambda *_, **__: None)
    return float(training.training_step(batch, 0).detach()), {name: float(value) for name, value in logged.items()}


def test_the_loss_is_a_weighted_sum(monkeypatch):
    def batch():
        return collate([{"image": images()[0], **METHOD.targets(TRUTH, np.random.default_rng(0))}], METHOD.ragged)

    alone, _ = step(batch(), ALWAYS, monkeypatch)
    ignored, _ = step({**batch(), LESSON: batch()}, replace(ALWAYS, weight=0.0), monkeypatch)
    assert ignored == pytest.approx(alone)
    # The lesson is the truth itself (floor 0: always learned): all terms but the weights' once more, halved.
    both, terms = step({**batch(), LESSON: batch()}, replace(ALWAYS, weight=0.5), monkeypatch)
    assert both == pytest.approx(1.5 * alone - 0.5 * terms["loss/weights"], rel=1e-4)


@pytest.mark.parametrize("name", POSTERIORS)
def test_any_posterior_teaches(name):
    posterior = made(POSTERIORS[name]).posterior.eval()
    plain = torch.from_numpy(np.stack([crop["plain"] for crop in (lessons().crops[0], lessons().crops[1])]))
    with torch.no_grad():
        one, other = (lessons().targets(posterior, plain, 3) for _ in range(2))
    assert one["labels"].shape == (2, 32, 32)
    assert all(torch.equal(one[entry], other[entry]) for entry in one)
    losses = posterior.train().losses(plain, one)
    assert torch.isfinite(torch.stack(list(losses.values()))).all()


@pytest.mark.parametrize("name", sorted(set(METHODS) - {"contours"}))
def test_methods_that_cannot_be_taught_are_named_at_the_start(name, tmp_path):
    method = METHODS[name]()
    with pytest.raises(ValueError, match=rf"{type(method).__name__} cannot learn .* methods that can: contours\."):
        lessons(method)
    with pytest.raises(ValueError, match="cannot learn from unlabelled images"):
        run(tmp_path, model=made(method=Embedding()))
    assert not any(tmp_path.iterdir())


def test_what_else_is_refused():
    with pytest.raises(ValueError, match="there are no unlabelled images"):
        lessons(found=[])
    with pytest.raises(ValueError, match="uncertainty=True"):
        lessons(replace(METHOD, uncertainty=False))
    with pytest.raises(RuntimeError, match="no weights before"):
        _ = Teacher(lessons(), decay=0.5, update_starting_at_step=0).posterior


def test_an_image_without_objects_teaches_that_there_are_none():
    posterior = made().posterior.eval()
    empty = Instances.empty((32, 32))
    outputs = METHOD.ideal(empty)
    posterior.draws = lambda window, seeds, context: iter([outputs])
    targets = lessons(rule=Listen2Student()).targets(posterior, torch.zeros(1, 1, 32, 32), 0)
    assert not targets["labels"].any() and len(targets["floor"]) == 0


@pytest.fixture
def data(tmp_path):
    """Three images to fit, one to tune with, all with truth."""
    for name in ("fit/a", "fit/b", "fit/c", "tune/d"):
        place = tmp_path / "data" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(place.with_suffix(".tif"), (1000 * (1 + toy_image(TRUTH)[0])).astype(np.uint16))
        tifffile.imwrite(place.with_name(f"{place.name}_masks.tif"), TRUTH.to_labels().astype(np.uint16))
    return tmp_path / "data"


TOY = {
    "method": METHOD,
    "backbone": partial(UNet, width=4, depth=2),
    "posterior": Deterministic,
    "schedule": replace(SHORT, steps=1),
    "teaching": ALWAYS,
    "only": ["fit/a"],
    "progress": False,
}


def test_some_images_with_their_truth_and_the_others_without(data, tmp_path, monkeypatch):
    seen = {}

    def watched(model, examples, tune, **settings):
        seen.update(settings, names=[example.name for example in examples])
        return fit(model, examples, tune, **settings)

    monkeypatch.setattr(training, "fit", watched)
    made = train([data], tmp_path / "out", **TOY, unlabelled=[data])
    assert seen["names"] == ["fit/a"]
    assert [image.shape for image in seen["unlabelled"]] == [(1, *TRUTH.shape)] * 2
    assert made.trained_on == ("fit/a", "fit/b", "fit/c")  # the weights have seen them all, and never the tune image
    settings = json.loads((tmp_path / "out.run" / "settings.json").read_text())
    assert settings["unlabelled"] == ["fit/b", "fit/c"]
    assert settings["teaching"]["init_args"]["student_margin"] == 0
    (tmp_path / "out" / "model.json").unlink()
    with pytest.raises(FileExistsError, match="a run with other settings"):
        train([data], tmp_path / "out", **{**TOY, "teaching": replace(ALWAYS, weight=2)}, unlabelled=[data])


def test_without_unlabelled_images_there_is_no_teacher(data, tmp_path):
    train([data], tmp_path / "out", **TOY)
    assert not {"unlabelled", "teaching"} & set(json.loads((tmp_path / "out.run" / "settings.json").read_text()))


def test_folders_that_do_not_do(data, tmp_path):
    with pytest.raises(ValueError, match="no unlabelled images to learn from"):
        train([data], tmp_path / "out", **{**TOY, "only": None}, unlabelled=[data])
    coloured = np.random.default_rng(0).integers(0, 255, (9, 9, 3), dtype=np.uint8)
    (tmp_path / "more").mkdir()
    tifffile.imwrite(tmp_path / "more" / "colours.tif", coloured, photometric="rgb")
    with pytest.raises(ValueError, match=r"number of channels: 1 \(.*\), 3 \(colours\)"):
        train([data], tmp_path / "out", **TOY, unlabelled=[tmp_path / "more"])
    assert not (tmp_path / "out.run").exists()


def test_the_command_line_has_it(tmp_path):
    parser = build_parser("train", VERBS["train"])
    words = ["data", "-o", "out", "--unlabelled=[pool, more]", "--teaching.weight", "0.5", "--teaching.start=0.1"]
    options = parser.instantiate(parsed(parser, words))
    assert options.unlabelled == ["pool", "more"]
    assert options.teaching == Listen2Student(weight=0.5, start=0.1)
