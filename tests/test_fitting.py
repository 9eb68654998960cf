"""The optimisation: it learns, it resumes where it was killed, it keeps the best state, it does not hide a NaN."""

import csv
import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from plurimask.data.dataset import Crops, Example
from plurimask.fitting import BEST, LATEST, Schedule, Training, check_annotator, fit
from plurimask.methods import METHODS, Embedding, Semantic
from plurimask.methods.embedding import EmbeddingHead
from plurimask.model import Model, describe, network_factory
from plurimask.networks import UNet
from plurimask.posteriors import ConcreteDropout, Deterministic
from plurimask.testing import toy_image, toy_truths

METHOD = Embedding(dimensions=4, min_size=5)
SHORT = Schedule(steps=6, batch=2, crop=32, check_every=2, warmup=2, workers=0, averaging=0.5, seed=1)


def examples():
    return [Example(name, toy_image(truth), truth) for name, truth in toy_truths().items()]


def made(posterior=Deterministic, method=METHOD):
    torch.manual_seed(0)
    return Model(posterior=posterior(network_factory(describe(UNet(width=4, depth=2)), method)), method=method)


def run(folder, *, schedule=SHORT, model=None, given=None, **settings):
    whole = given or examples()
    return fit(model or made(), whole[:2], whole[:2], run=folder, schedule=schedule, progress=False, **settings)


class Killed(BaseException):
    """What nobody catches, like a signal."""


@pytest.fixture
def taken(monkeypatch):
    """Numbers of the crops that were made, in order; ``taken.limit`` kills the run at that number."""

    class Taken(list):
        limit = math.inf

    numbers = Taken()
    original = Crops.__getitem__

    def watched(self, number):
        if self.first + number >= numbers.limit:
            raise Killed
        numbers.append(self.first + number)
        return original(self, number)

    monkeypatch.setattr(Crops, "__getitem__", watched)
    return numbers


def checkpoint(folder, name=LATEST):
    return torch.load(folder / name, weights_only=True)


def logged(folder, column):
    files = [file.read_text().splitlines() for file in sorted(folder.glob("logs/*/metrics.csv"))]
    rows = [row for lines in files for row in csv.DictReader(lines)]
    return [(int(row["step"]), float(row[column])) for row in rows if row.get(column)]


def test_a_killed_run_resumes_and_ends_like_one_that_was_not(tmp_path, taken):
    whole = run(tmp_path / "whole")
    assert taken == list(range(12))
    taken.clear()
    taken.limit = 9  # in the fifth step; the last checkpoint is that of step 4
    with pytest.raises(Killed):
        run(tmp_path / "killed")
    assert checkpoint(tmp_path / "killed")["global_step"] == 4
    taken.clear()
    taken.limit = math.inf
    resumed = run(tmp_path / "killed")
    assert taken == list(range(8, 12))  # neither the crops of the first steps again, nor others
    ends = [checkpoint(tmp_path / name) for name in ("whole", "killed")]
    assert [end["global_step"] for end in ends] == [6, 6]
    assert [end["lr_schedulers"][0]["last_epoch"] for end in ends] == [6, 6]
    # A deterministic network, the same crops, the same optimiser's state: the same weights.
    for kind in ("current_model_state", "state_dict"):
        for name, value in ends[0][kind].items():
            torch.testing.assert_close(ends[1][kind][name], value, atol=1e-5, rtol=1e-4)
    for one, other in zip(whole.posterior.parameters(), resumed.posterior.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_the_bar_counts_the_steps_of_the_whole_schedule(tmp_path, taken, capsys):
    taken.limit = 9
    with pytest.raises(Killed):
        run(tmp_path)
    taken.limit = math.inf
    capsys.readouterr()
    fit(made(), examples()[:2], examples()[:2], run=tmp_path, schedule=SHORT, progress=True)
    shown = capsys.readouterr()
    assert "6/6" in shown.err and "v_num" not in shown.err
    assert shown.out == ""


def test_a_loaded_model_is_trained_in_train_mode(tmp_path, monkeypatch):
    modes = []
    original = Training.training_step

    def watched(self, batch, number):
        modes.append(all(part.training for part in self.posterior.modules()))
        return original(self, batch, number)

    monkeypatch.setattr(Training, "training_step", watched)
    model = made()
    model.posterior.eval()
    assert not run(tmp_path, model=model).posterior.training
    assert modes == [True] * SHORT.steps


def test_a_finished_run_is_not_trained_again(tmp_path, taken):
    one = run(tmp_path)
    taken.clear()
    other = run(tmp_path)
    assert taken == []
    for first, second in zip(one.posterior.parameters(), other.posterior.parameters(), strict=True):
        assert torch.equal(first, second)


def test_heads_are_prepared_once_before_a_run(tmp_path, monkeypatch, taken):
    asked = []

    def prepare(self, truths, *, steps, seed):
        asked.append(([len(truth) for truth in truths], steps, seed, len(taken)))

    monkeypatch.setattr(EmbeddingHead, "prepare", prepare)
    taken.limit = 9
    with pytest.raises(Killed):
        run(tmp_path)
    taken.limit = math.inf
    run(tmp_path)  # resumed: what was prepared is in the checkpoint
    counts = [len(example.truth) for example in examples()[:2]]
    assert asked == [(counts, SHORT.steps, SHORT.seed, 0)]


def test_the_best_look_is_kept_and_its_weights_are_averaged(tmp_path, monkeypatch):
    # S of the looks: 0.2, 0.6, 0.4. The second one is kept.
    marks = iter([0.2, 0.2, 0.6, 0.6, 0.4, 0.4])
    looks = []

    def look(self, example, number):
        looks.append([weight.detach().clone() for weight in self.posterior.parameters()])
        self.log("tune/avS", next(marks), batch_size=1)

    monkeypatch.setattr(Training, "validation_step", look)
    model = run(tmp_path)
    assert checkpoint(tmp_path, BEST)["global_step"] == 4
    assert len(looks) == 6
    for kept, seen, last in zip(model.posterior.parameters(), looks[2], looks[4], strict=True):
        assert torch.equal(kept, seen)
        assert not torch.equal(kept, last) or not kept.any()
    current = checkpoint(tmp_path, BEST)["current_model_state"]
    assert any(not torch.equal(current[f"posterior.{n}"], w) for n, w in model.posterior.named_parameters())
    assert not model.posterior.training


def test_a_run_shorter_than_its_warm_up_keeps_trained_weights(tmp_path):
    before = [weight.detach().clone() for weight in made().posterior.parameters()]
    model = run(tmp_path, schedule=replace(SHORT, warmup=300, check_every=500))
    moved = [not torch.equal(one, other) for one, other in zip(before, model.posterior.parameters(), strict=True)]
    assert all(moved)


def test_patience_stops(tmp_path, monkeypatch):
    monkeypatch.setattr(Training, "validation_step", lambda self, *_: self.log("tune/avS", 0.5, batch_size=1))
    run(tmp_path, schedule=replace(SHORT, steps=20, check_every=2, patience=2))
    assert checkpoint(tmp_path)["global_step"] == 6  # the first look, and two that are not better


def test_a_run_that_patience_ended_is_not_trained_again(tmp_path, monkeypatch, taken):
    monkeypatch.setattr(Training, "validation_step", lambda self, *_: self.log("tune/avS", 0.5, batch_size=1))
    impatient = replace(SHORT, steps=20, check_every=2, patience=2)
    one = run(tmp_path, schedule=impatient)
    taken.clear()
    other = run(tmp_path, schedule=impatient, model=made())
    assert taken == []
    for first, second in zip(one.posterior.parameters(), other.posterior.parameters(), strict=True):
        assert torch.equal(first, second)


def test_killed_before_the_only_look(tmp_path, caplog):
    run(tmp_path)
    (tmp_path / BEST).unlink()
    with caplog.at_level("WARNING", logger="plurimask"):
        model = run(tmp_path)
    assert "no look at the tune images was finished" in caplog.text
    kept = checkpoint(tmp_path)["state_dict"]
    assert all(torch.equal(kept[f"posterior.{n}"], w) for n, w in model.posterior.named_parameters())


def test_a_loss_that_is_not_finite_is_told(tmp_path, monkeypatch):
    original = Deterministic.losses
    calls = []

    def broken(self, image, targets):
        calls.append(1)
        terms = original(self, image, targets)
        return {**terms, "pull": terms["pull"] * torch.nan} if len(calls) == 4 else terms

    monkeypatch.setattr(Deterministic, "losses", broken)
    with pytest.raises(FloatingPointError, match=r"not finite at step 3: .*'pull': nan"):
        run(tmp_path)


def test_the_learning_rate_warms_up_and_falls_to_zero():
    training = Training(made(), Schedule(steps=100, warmup=10))
    factors = [training._factor(step) for step in range(101)]
    np.testing.assert_allclose(factors[:10], np.arange(1, 11) / 10)
    assert factors[10] == 1 and factors[55] == pytest.approx(0.5) and factors[100] == pytest.approx(0)
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert training._factor(500) == pytest.approx(0)


def test_the_learning_rate_falls_by_steps_of_all_updates():
    schedule = Schedule(steps=200, warmup=10, decay="steps", milestones=(0.25, 0.5), gamma=0.5)
    factors = [Training(made(), schedule)._factor(step) for step in (0, 4, 9, 49, 50, 99, 100, 199, 500)]
    np.testing.assert_allclose(factors, [0.1, 0.5, 1, 1, 0.5, 0.5, 0.25, 0.25, 0.25])
    early = Training(made(), replace(schedule, warmup=100))
    assert early._factor(50) == pytest.approx(0.51 * 0.5)  # as in U22, a milestone does not wait for the warm-up
    assert Training(made(), replace(schedule, warmup=0))._factor(0) == 1


@pytest.mark.parametrize("wrong", [{"decay": "step"}, {"milestones": (0.5, 20)}])
def test_a_schedule_that_cannot_be_meant_is_refused(wrong):
    with pytest.raises(ValueError, match="shares of the updates"):
        Schedule(**wrong)


def test_rates_learn_at_their_own_speed():
    training = Training(made(partial(ConcreteDropout, rate_speed=20)), SHORT)
    optimiser = training.configure_optimizers()["optimizer"]
    weights, rates = (group["initial_lr"] for group in optimiser.param_groups)
    assert rates == pytest.approx(20 * weights)


def test_log_and_rates(tmp_path):
    model = run(tmp_path, model=made(ConcreteDropout), schedule=replace(SHORT, steps=4))
    assert model.posterior.samples == 2  # the N of the variational bound: the number of training images
    losses = logged(tmp_path, "loss")
    assert [step for step, _ in losses] == [1, 3]
    names = ("loss/pull", "loss/push", "loss/norm", "loss/classes", "loss/weights")
    total = sum(logged(tmp_path, name)[0][1] for name in names)
    assert losses[0][1] == pytest.approx(total, rel=1e-3)
    assert len(logged(tmp_path, "tune/avS")) == len(logged(tmp_path, "rate.decoder.0.1")) == 2


def test_weights_of_the_examples_are_used(tmp_path, monkeypatch):
    seen = []
    original = Crops.__getitem__
    monkeypatch.setattr(Crops, "__getitem__", lambda self, n: seen.append(self.weights.tolist()) or original(self, n))
    run(tmp_path, schedule=replace(SHORT, steps=1), weights=np.array([1.0, 0.0]))
    assert seen == [[1.0, 0.0]] * 2


def test_it_learns(tmp_path):
    run(tmp_path, schedule=replace(SHORT, steps=24, check_every=24, learning_rate=1e-2))
    ((_, classes),) = logged(tmp_path, "loss/classes")
    assert classes < 10 * math.log(3)  # better than three equal logits, weight 10


def test_workers_see_the_same_crops(tmp_path):
    one = run(tmp_path / "one", schedule=replace(SHORT, steps=2))
    other = run(tmp_path / "other", schedule=replace(SHORT, steps=2, workers=1))
    for first, second in zip(one.posterior.parameters(), other.posterior.parameters(), strict=True):
        torch.testing.assert_close(first, second, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("annotator", [2, "all"])
def test_the_annotator_of_the_schedule_is_that_of_the_crops(tmp_path, monkeypatch, annotator):
    asked = {}

    def stop(*_, **settings):
        asked.update(settings)
        raise Killed

    monkeypatch.setattr("plurimask.fitting.Crops", stop)
    with pytest.raises(Killed):
        run(tmp_path, schedule=replace(SHORT, annotator=annotator), model=made(method=Semantic()))
    assert asked["annotator"] == annotator


def test_all_annotators_are_fitted_in_one_pass(tmp_path):
    model, given, passes = made(method=Semantic()), [replace(one, others=(one.truth,) * 2) for one in examples()], []
    model.backbone.register_forward_hook(lambda backbone, *_: passes.append(backbone.training))
    run(tmp_path, schedule=replace(SHORT, annotator="all"), model=model, given=given)
    assert passes.count(True) == SHORT.steps
    assert all(math.isfinite(loss) for _, loss in logged(tmp_path, "loss/classes"))


@pytest.mark.parametrize("name", sorted(METHODS))
def test_who_cannot_fit_all_annotators_is_told(name):
    everyone = replace(SHORT, annotator="all")
    if name == "semantic":
        check_annotator(METHODS[name](), everyone)
        return
    with pytest.raises(ValueError, match=f"{METHODS[name].__name__} cannot fit all .* that can: semantic. Choose"):
        check_annotator(METHODS[name](), everyone)
    check_annotator(METHODS[name](), replace(SHORT, annotator=2))


def test_who_cannot_fit_all_annotators_is_told_before_the_training(tmp_path):
    with pytest.raises(ValueError, match="Embedding cannot fit all"):
        run(tmp_path / "run", schedule=replace(SHORT, annotator="all"))
    assert not (tmp_path / "run").exists()


def test_a_word_that_names_no_annotator():
    with pytest.raises(ValueError, match="annotator is 'each'"):
        Schedule(annotator="each")
