"""A study with a stand-in that learns nothing but which images it was given."""

import json

import numpy as np
import pytest

from plurimask.active.acquisition import Strategy
from plurimask.active.loop import PoolImage, Study, run_study

NAMES = [f"image {number}" for number in range(12)]
RANDOM, DOUBT, DIVERSE = Strategy("random"), Strategy("entropy_sum"), Strategy("random", 2.0)
PLAN = {"seeds": (0, 1), "initial": 3, "per_round": 2, "rounds": 3}


class Killed(BaseException):
    pass


class Learner:
    """Scores an image by its number; its model is a file with the names and seeds of all its trainings."""

    def __init__(self, dies_at=None):
        self.trained, self.asked, self.dies_at, self.kind = [], [], dies_at, "stand-in"

    def settings(self):
        return {"kind": self.kind}

    def pool(self):
        return [PoolImage(name, np.array([n % 5, n], float), {"number": n}) for n, name in enumerate(NAMES)]

    def train(self, names, output, *, init, seed):
        self.trained.append(tuple(names))
        if len(self.trained) == self.dies_at:
            raise Killed
        before = json.loads((init / "model.json").read_text()) if init else []
        output.mkdir(parents=True, exist_ok=True)
        (output / "model.json").write_text(json.dumps([*before, [seed, sorted(names)]]))

    def score(self, model, names, score, *, seed):
        assert (model / "model.json").is_file() and score == "entropy_sum"
        self.asked.append(list(names))
        return np.array([float(NAMES.index(name)) for name in names])

    def measure(self, model):
        history = json.loads((model / "model.json").read_text())
        return {"avS": len(history[-1][1]) / 12, "hash": float(sum(map(ord, json.dumps(history))))}


def study(**changes):
    return Study(**{"strategies": (RANDOM, DIVERSE, DOUBT), **PLAN, **changes})


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("dies_at", [1, 2, 4, 5, 11])
def test_an_interrupted_study_has_the_results_of_an_uninterrupted_one(tmp_path, dies_at, warm):
    plan = study(warm=warm)
    whole = run_study(plan, Learner(), tmp_path / "whole")
    with pytest.raises(Killed):
        run_study(plan, Learner(dies_at), tmp_path / "killed")
    after = Learner()
    assert run_study(plan, after, tmp_path / "killed") == whole
    assert len(after.trained) == 2 * (1 + 3 * 3) - (dies_at - 1)  # what was done is not done again
    assert run_study(plan, Learner(1), tmp_path / "killed") == whole  # nothing is left to train


def test_a_record_that_is_cut_off_does_not_count(tmp_path):
    plan = study(strategies=(RANDOM,), seeds=(0,))
    whole = run_study(plan, Learner(), tmp_path)
    (tmp_path / "seed_0" / "random" / "round_03.json").rename(tmp_path / "seed_0" / "random" / ".round_03.json.part")
    (tmp_path / "seed_0" / "random" / "model_02").mkdir()
    (tmp_path / "seed_0" / "random" / "model_02" / "model.json").write_text("[]")
    assert run_study(plan, Learner(), tmp_path) == whole


def test_without_replacement(tmp_path):
    learner = Learner()
    for strategy in (RANDOM, DIVERSE, DOUBT):
        for seed in (0, 1):
            own = [
                one
                for one in run_study(study(), learner, tmp_path)
                if (one.strategy, one.seed) == (strategy.name, seed)
            ]
            chosen = [name for one in own for name in one.chosen]
            assert len(chosen) == len(set(chosen)) == 9
            assert [one.annotated for one in own] == [one.distinct for one in own] == [3, 5, 7, 9]
    assert all(len(names) == len(set(names)) for names in learner.trained)


def test_the_highest_of_the_rest_are_chosen(tmp_path):
    learner = Learner()
    records = run_study(study(strategies=(DOUBT,), seeds=(0,)), learner, tmp_path)
    left = [name for name in NAMES if name not in records[0].chosen]
    for one, asked in zip(records[1:], learner.asked, strict=True):
        assert asked == left
        assert one.chosen == tuple(left[:-3:-1])
        assert one.selected["number"] == pytest.approx(np.mean([NAMES.index(name) for name in left[-2:]]))
        assert one.pool["number"] == pytest.approx(np.mean([NAMES.index(name) for name in left]))
        left = left[:-2]


def test_strategies_of_a_seed_share_their_beginning(tmp_path):
    learner = Learner()
    records = run_study(study(), learner, tmp_path)
    starts = {(one.seed, one.chosen) for one in records if one.number == 0}
    assert len(starts) == 2 and {seed for seed, _ in starts} == {0, 1}
    assert len(learner.trained) == 2 * (1 + 3 * 3)
    assert len(set(learner.trained)) == len(learner.trained)


def test_a_pool_that_is_used_up_ends_the_study(tmp_path):
    records = run_study(study(strategies=(DOUBT,), seeds=(0,), per_round=5, rounds=9), Learner(), tmp_path)
    assert [len(one.chosen) for one in records] == [3, 5, 4]
    assert records[-1].annotated == 12


def test_the_replica_draws_with_replacement_and_chooses_again(tmp_path):
    plan = study(strategies=(RANDOM, DOUBT), replica=True, initial=30, per_round=4)
    learner = Learner()
    records = run_study(plan, learner, tmp_path)
    for one in records:
        assert one.annotated == 30 + 4 * one.number
        assert one.distinct <= 12
        if one.strategy == DOUBT.name and one.number:
            assert one.chosen == tuple(NAMES[:-5:-1])  # always the same, though annotated
    assert max(map(len, learner.trained)) == 42
    drawn = [one.chosen for one in records if one.strategy == "random" and one.number]
    assert len(set(drawn)) == len(drawn)


def test_a_study_can_grow_but_not_change(tmp_path):
    small = study(strategies=(RANDOM,), seeds=(0,), rounds=1, warm=True)
    run_study(small, Learner(), tmp_path / "grown")
    whole = run_study(study(warm=True), Learner(), tmp_path / "whole")
    assert run_study(study(warm=True), Learner(), tmp_path / "grown") == whole
    for changes in ({"initial": 4}, {"per_round": 1}, {"warm": False}, {"warm": True, "replica": True}):
        with pytest.raises(FileExistsError, match="other settings"):
            run_study(study(**{"warm": True, "strategies": (RANDOM,), **changes}), Learner(), tmp_path / "grown")
    other = Learner()
    other.kind = "another"
    with pytest.raises(FileExistsError, match=r"other settings \(learner"):
        run_study(study(warm=True), other, tmp_path / "grown")


def test_only_models_that_are_needed_are_kept(tmp_path):
    run_study(study(strategies=(RANDOM,), seeds=(0,)), Learner(), tmp_path)
    assert sorted(path.parent.name for path in tmp_path.rglob("model.json")) == ["model_00", "model_03"]


def test_every_round_is_told(tmp_path):
    told = []
    records = run_study(study(), Learner(), tmp_path, on_round=told.append)
    assert told == records
    with pytest.raises(Killed):
        run_study(study(seeds=(5,)), Learner(3), tmp_path, on_round=told.append)
    assert len(told) == len(records) + 2  # as soon as it is done


@pytest.mark.parametrize("wrong", [{"initial": 0}, {"per_round": 0}, {"rounds": -1}, {"seeds": ()}])
def test_plans_that_cannot_be(wrong):
    with pytest.raises(ValueError, match="wanted are"):
        study(**wrong)


def test_the_replica_knows_no_diversity():
    with pytest.raises(ValueError, match="replica knows no diversity"):
        study(replica=True)


def test_a_pool_that_is_too_small(tmp_path):
    with pytest.raises(ValueError, match="the pool has 12"):
        run_study(study(initial=13), Learner(), tmp_path)
