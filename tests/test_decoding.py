"""Kept outputs are what they were; coordinate descent on functions with a known maximum."""

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from plurimask.decoding import GAIN, Shelf, Trial, candidates, search, settings


@dataclass(frozen=True)
class Part:
    """Something with two parameters."""

    x: float = 0.0
    y: float = 0.0

    def tunable(self):
        return {"x": (self.x - 1, self.x + 1), "y": (self.y - 1, self.y + 1)}


@dataclass(frozen=True)
class Fixed:
    z: float = 5.0

    def tunable(self):
        return {}


@dataclass(frozen=True)
class Two:
    """What search sees of a model."""

    method: Part = field(default_factory=Part)
    agglomeration: Fixed = field(default_factory=Fixed)


class Function:
    """A bench that scores a model by a function of its settings; remembers what it was asked."""

    def __init__(self, function):
        self.function, self.asked = function, []

    def values(self, model):
        self.asked.append(model)
        mean = self.function(model.method.x, model.method.y, model.agglomeration.z)
        return np.array([mean - 1, mean + 1])


def test_every_parameter_climbs_to_the_maximum():
    bench = Function(lambda x, y, z: -((x - 2) ** 2) - (y + 1) ** 2)
    model, trials = search(Two(), bench, rounds=10)
    assert model == Two(Part(2.0, -1.0))
    assert [(trial.name, trial.value) for trial in trials if trial.kept] == [
        ("method.x", 1.0),
        ("method.y", -1.0),
        ("method.x", 2.0),
    ]
    assert len(trials) == 4 * 3  # the third round changes nothing and is the last
    assert trials[0] == Trial("method.x", -1.0, mean=-10.0, kept=False)


@pytest.mark.parametrize(("rounds", "x"), [(0, 0.0), (1, 1.0), (2, 2.0)])
def test_no_more_rounds_than_wanted(rounds, x):
    model, trials = search(Two(), Function(lambda x, y, z: x), rounds=rounds)
    assert model.method.x == x and len(trials) == 4 * rounds


@pytest.mark.parametrize(("gain", "kept"), [(0.0, False), (GAIN / 2, False), (2 * GAIN, True)])
def test_a_tie_keeps_the_present_value(gain, kept):
    model, _ = search(Two(), Function(lambda x, y, z: gain * (x > 0)), rounds=1)
    assert (model != Two()) is kept


def test_given_values_take_the_place_of_the_proposed_ones():
    grid = {"agglomeration.z": [4.0, 7.0, 9.0], "method.y": [3.0]}
    model, trials = search(Two(), Function(lambda x, y, z: -abs(z - 7) - y), parameters=grid, rounds=1)
    assert model == Two(Part(), Fixed(7.0))
    assert [(trial.name, trial.value, trial.kept) for trial in trials] == [
        ("agglomeration.z", 4.0, False),
        ("agglomeration.z", 7.0, True),
        ("agglomeration.z", 9.0, False),
        ("method.y", 3.0, False),
    ]


def test_what_there_is_to_try():
    model = Two(Part(x=3.0))
    assert settings(model) == {"method.x": 3.0, "method.y": 0.0, "agglomeration.z": 5.0}
    assert candidates(model) == {"method.x": (2.0, 4.0), "method.y": (-1.0, 1.0)}
    assert candidates(model, {"method.y": [1]}) == {"method.y": [1]}


@pytest.mark.parametrize("memory", [0, 10**6])
def test_a_shelf_gives_back_what_was_put_there(tmp_path, memory):
    outputs = {
        "bfloat16": torch.randn(1, 4, 5, 6).to(torch.bfloat16),
        "float32": torch.randn(1, 2, 5, 6).contiguous(memory_format=torch.channels_last),
        "large": torch.tensor([[1e6, 1.5]]),
        "double": torch.tensor([1 / 3], dtype=torch.float64),
        "numbers": torch.arange(7),
        "truths": torch.tensor([True, False]),
        "single": torch.tensor(3),
        "nothing": torch.zeros(0, 2),
    }
    before = {name: value.clone() for name, value in outputs.items()}
    read = Shelf(tmp_path, memory=memory).put(outputs)
    for value in outputs.values():
        value.zero_()  # a network may use its memory again
    for kept in (read(), read()):
        assert kept.keys() == before.keys()
        exact = {name for name in before if name not in ("float32", "nothing")}
        assert all(torch.equal(kept[name], before[name]) and kept[name].dtype == before[name].dtype for name in exact)
        assert kept["float32"].dtype == torch.float16 and kept["nothing"].shape == (0, 2)
        torch.testing.assert_close(kept["float32"].float(), before["float32"], rtol=2**-11, atol=1e-7)
    assert len(list(tmp_path.iterdir())) == (0 if memory else 1)


def test_a_broken_output_stays_broken(tmp_path):
    kept = Shelf(tmp_path, memory=100).put({"broken": torch.tensor([1.0, np.nan])})()["broken"]
    assert kept[0] == 1 and torch.isnan(kept[1])


def test_a_shelf_is_filled_up_to_its_memory(tmp_path):
    shelf = Shelf(tmp_path, memory=100)
    reads = [shelf.put({"a": torch.full((20,), number, dtype=torch.float32)}) for number in range(5)]  # 40 bytes each
    assert len(list(tmp_path.iterdir())) == 3
    assert [int(read()["a"][0]) for read in reads] == [0, 1, 2, 3, 4]
    shelf.put({"a": torch.zeros(10)})  # the 20 that are left
    assert len(list(tmp_path.iterdir())) == 3
