"""Numbers that are functions of a seed and a layer."""

import math

import pytest
import torch

from plurimask.posteriors.seeds import normal, uniform


@pytest.mark.parametrize("numbers", [uniform, normal])
def test_numbers_are_functions_of_seed_and_layer(numbers):
    torch.manual_seed(99)  # the global state plays no part
    assert numbers(3, 1, 8).shape == (1, 8)
    assert torch.equal(numbers(3, 1, 8), numbers(3, 1, 8))
    assert not torch.equal(numbers(3, 1, 8), numbers(3, 2, 8))
    assert not torch.equal(numbers(3, 1, 8), numbers(4, 1, 8))
    # Longer is not other: the first channels do not depend on how many follow.
    assert torch.equal(numbers(3, 1, 8), numbers(3, 1, 20)[:, :8])


@pytest.mark.parametrize(("numbers", "mean", "variance"), [(uniform, 0.5, 1 / 12), (normal, 0.0, 1.0)])
def test_distributions(numbers, mean, variance):
    many = torch.cat([numbers(seed, layer, 100) for seed in range(20) for layer in range(20)])
    assert float(many.mean()) == pytest.approx(mean, abs=5 * math.sqrt(variance / many.numel()))
    assert float(many.var()) == pytest.approx(variance, rel=0.05)
    if numbers is uniform:
        assert float(many.min()) >= 0 and float(many.max()) < 1
