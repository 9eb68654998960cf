"""Ensembles: the seed picks the member; members are trained in runs of their own, and a killed run goes on."""

import math
import weakref
from functools import partial

import numpy as np
import pytest
import tifffile
import torch

from plurimask import training
from plurimask.cli import main
from plurimask.data.dataset import Crops
from plurimask.fitting import LATEST, Schedule
from plurimask.methods import Semantic
from plurimask.model import Model, load_model, network_factory
from plurimask.networks import UNet
from plurimask.posteriors import ConcreteDropout, Deterministic, Ensemble, ProbabilisticUNet
from plurimask.predict import seeds_of
from plurimask.testing import toy_image, toy_truths
from plurimask.training import train

BACKBONE = {"class_path": "plurimask.networks.unet.UNet", "init_args": {"width": 4, "depth": 2}}
METHOD = Semantic(min_size=5)


def posterior(**settings):
    torch.manual_seed(0)
    return Ensemble(network_factory(BACKBONE, METHOD), **settings).eval()


@torch.inference_mode()
def drawn(model, image, seeds):
    return [outputs["classes"] for outputs in model.draws(image, seeds, context=model.context(image))]


def test_two_networks_give_exactly_their_outputs():
    model, image = posterior(members=2), torch.randn(1, 1, 20, 28)
    with torch.inference_mode():
        first, second = (member.network(image)["classes"] for member in model.posteriors)
    assert not torch.equal(first, second)
    for found, wanted in zip(drawn(model, image, [0, 3, 1, 2, 7]), (first, second, second, first, second), strict=True):
        assert torch.equal(found, wanted)


def test_every_network_is_asked_once_and_only_if_its_turn_comes():
    model, calls = posterior(members=3), []
    for number, member in enumerate(model.posteriors):
        member.network.register_forward_hook(lambda *_, number=number: calls.append(number))
    drawn(model, torch.randn(1, 1, 16, 16), [0, 1, 3, 4, 6])
    assert sorted(calls) == [0, 1]


def test_outputs_of_one_member_at_a_time_are_in_memory():
    model, made, alive = posterior(members=3), [], []

    def watch(module, arguments, outputs):
        alive.append(sum(output() is not None for output in made))
        made.append(weakref.ref(outputs["classes"]))

    for member in model.posteriors:
        member.network.register_forward_hook(watch)
    with torch.inference_mode():
        stream = model.draws(torch.randn(1, 1, 16, 16), range(3), context={})
        for _ in range(3):
            next(stream)  # and nobody keeps it
    assert alive == [0, 0, 0]


def test_a_member_that_doubts_makes_its_own_draws():
    model = posterior(members=3, member=partial(ConcreteDropout, initial_rate=0.4))
    image = torch.randn(1, 1, 20, 28)
    for seed, found in enumerate(drawn(model, image, range(7))):
        (wanted,) = drawn(model.posteriors[seed % 3], image, [seed // 3])
        assert torch.equal(found, wanted)


def test_every_member_has_its_own_context():
    model = posterior(members=2, member=ProbabilisticUNet)
    image = torch.randn(1, 1, 20, 28)
    for seed, found in enumerate(drawn(model, image, range(4))):
        (wanted,) = drawn(model.posteriors[seed % 2], image, [seed // 2])
        assert torch.equal(found, wanted)


@pytest.mark.parametrize("member", [Deterministic, partial(ConcreteDropout, initial_rate=0.4), ProbabilisticUNet])
def test_the_same_seed_is_the_same_draw(member):
    model, image = posterior(members=2, member=member), torch.randn(1, 1, 20, 28)
    seeds = [5, 0, 5, 1, 2, 5, 0, 5]  # with replacement: draws 2 and 0 of the second member, 0 and 1 of the first
    found = drawn(model, image, seeds)
    for seed, outputs in zip(seeds, found, strict=True):
        (wanted,) = drawn(model.posteriors[seed % 2], image, [seed // 2])
        assert torch.equal(outputs, wanted)
        for other, others in zip(seeds, found, strict=True):
            same_function = seed == other or (member is Deterministic and seed % 2 == other % 2)
            assert torch.equal(outputs, others) == same_function


def test_no_draw_is_made_twice():
    model = Model(posterior=posterior(members=3), method=METHOD)
    assert seeds_of(model, 8, 5) == range(5, 8) and seeds_of(model, 2, 5) == range(5, 7)
    mixture = Model(posterior=posterior(members=3, member=ConcreteDropout), method=METHOD)
    assert seeds_of(mixture, 8, 5) == range(5, 13)
    assert posterior(members=2, member=partial(Ensemble, members=3)).distinct == 6


def test_the_loss_is_the_mean_of_the_members():
    model = posterior(members=3, member=partial(ConcreteDropout, initial_rate=0.2))
    model.samples = 40
    image, targets = torch.randn(1, 1, 16, 16), {"classes": torch.zeros(1, 16, 16, dtype=torch.int64)}
    torch.manual_seed(0)
    terms = model.losses(image, targets)
    assert {member.samples for member in model.posteriors} == {40}
    torch.manual_seed(0)
    each = [member.losses(image, targets) for member in model.posteriors]
    assert set(terms) == {"classes", "weights"}
    for name, term in terms.items():
        wanted = np.mean([float(one[name].detach()) for one in each])
        assert float(term.detach()) == pytest.approx(wanted, rel=1e-5)


def test_parameters_and_reports_of_all_members():
    model = posterior(members=2, member=partial(ConcreteDropout, initial_rate=0.25, rate_speed=7.0))
    assert [group["lr"] for group in model.parameter_groups(1.0)] == [1.0, 7.0] * 2
    held = [id(weight) for group in model.parameter_groups(1.0) for weight in group["params"]]
    assert sorted(held) == sorted(id(weight) for weight in model.parameters())
    assert {name.partition(".")[0] for name in model.report()} == {"0", "1"}
    assert len(model.report()) == 2 * len(model.member.report())


def test_parts_are_the_members_and_those_of_members():
    model = posterior(members=2, member=partial(Ensemble, members=2))
    assert list(model.parts()) == [part for member in model.posteriors for part in member.posteriors]
    assert list(model.member.member.parts()) == [model.member.member]


def test_no_ensemble_without_members():
    with pytest.raises(ValueError, match="at least 1 member, not 0"):
        posterior(members=0)


SHORT = Schedule(steps=2, batch=1, crop=32, check_every=1, warmup=1, workers=0, seed=5)
SMALL = {"method": METHOD, "backbone": partial(UNet, width=4, depth=2), "schedule": SHORT, "progress": False}
PAIR = {**SMALL, "posterior": partial(Ensemble, members=2)}


@pytest.fixture
def data(tmp_path):
    """Two images to fit and one to tune, in Cellpose's layout."""
    truth = toy_truths()["touching blobs"]
    for seed, name in enumerate(("fit/one", "fit/two", "tune/chosen")):
        path = tmp_path / "data" / f"{name}.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(path, (1000 * (1 + toy_image(truth, seed=seed)[0])).astype(np.uint16))
        tifffile.imwrite(path.with_name(f"{path.stem}_masks.tif"), truth.to_labels().astype(np.uint16))
    return tmp_path / "data"


class Killed(BaseException):
    """What nobody catches, like a signal."""


@pytest.fixture
def taken(monkeypatch):
    """(seed, number) of the crops that were made, in order; ``taken.left`` counts down to a kill."""

    class Taken(list):
        left = math.inf

    crops = Taken()
    original = Crops.__getitem__

    def watched(self, number):
        if crops.left <= 0:
            raise Killed
        crops.left -= 1
        crops.append((self.seed, self.first + number))
        return original(self, number)

    monkeypatch.setattr(Crops, "__getitem__", watched)
    return crops


def test_members_are_trained_one_after_the_other_with_their_own_seeds(data, tmp_path, taken):
    made = train([data], tmp_path / "out", **PAIR)
    assert taken == [(5, 0), (5, 1), (6, 0), (6, 1)]
    assert not made.posterior.training and made.posterior.distinct == 2
    kept = load_model(tmp_path / "out").posterior
    one, other = kept.posteriors
    assert type(one) is type(other) is Deterministic
    first, second = (dict(member.named_parameters()) for member in (one, other))
    assert all(not torch.equal(first[name], second[name]) for name in first if first[name].ndim > 1)
    run = tmp_path / "out.run"
    assert sorted(path.name for path in run.iterdir()) == ["member_0", "member_1", "settings.json"]
    for number, member in enumerate((one, other)):
        best = torch.load(run / f"member_{number}" / "best.ckpt", weights_only=True)["state_dict"]
        assert all(torch.equal(best[f"posterior.{name}"], weight) for name, weight in member.named_parameters())


@pytest.mark.parametrize("crops_before", [1, 3])
def test_a_killed_run_goes_on_with_the_right_member(data, tmp_path, taken, crops_before):
    whole = train([data], tmp_path / "whole", **PAIR)
    taken.left = crops_before
    with pytest.raises(Killed):
        train([data], tmp_path / "killed", **PAIR)
    assert not (tmp_path / "killed").exists()
    taken.clear()
    taken.left = math.inf
    resumed = train([data], tmp_path / "killed", **PAIR)
    assert taken == [(5, 0), (5, 1), (6, 0), (6, 1)][crops_before:]
    for one, other in zip(whole.posterior.parameters(), resumed.posterior.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_starting_afresh_starts_all_members_afresh(data, tmp_path, taken):
    train([data], tmp_path / "out", **PAIR)
    taken.clear()
    train([data], tmp_path / "out", **PAIR, overwrite=True)
    assert taken == [(5, 0), (5, 1), (6, 0), (6, 1)]


def test_fine_tuning_trains_every_member_from_where_it_is(data, tmp_path, monkeypatch):
    first = train([data], tmp_path / "first", **PAIR)
    started = []

    def watched(model, *arguments, **settings):
        started.append({name: value.clone() for name, value in model.posterior.state_dict().items()})
        return original(model, *arguments, **settings)

    original = training.fit
    monkeypatch.setattr(training, "fit", watched)
    train([data], tmp_path / "second", init=tmp_path / "first", schedule=SHORT, progress=False)
    assert len(started) == 2
    for member, state in zip(first.posterior.posteriors, started, strict=True):
        assert all(torch.equal(state[name], value) for name, value in member.state_dict().items())


def test_from_the_command_line(data, tmp_path, taken):
    options = ["train", data, "-o", tmp_path / "out", "--posterior", "ensemble", "--posterior.members", 2, "-q"]
    options += ["--posterior.member", "plurimask.posteriors.MCDropout", "--posterior.member.rate", 0.3]
    options += ["--backbone", "unet", "--backbone.width", 4, "--backbone.depth", 2]
    for name, value in (("steps", 1), ("batch", 1), ("crop", 32), ("workers", 0)):
        options += [f"--schedule.{name}", value]
    assert main([str(option) for option in options]) == 0
    assert len(taken) == 2 and (tmp_path / "out.run" / "member_1" / LATEST).is_file()
    description = load_model(tmp_path / "out").describe()["posterior"]
    member = description["init_args"]["member"]
    assert member["class_path"] == "plurimask.posteriors.mc_dropout.MCDropout" and member["init_args"]["rate"] == 0.3
