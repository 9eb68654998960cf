"""The discriminative loss against three nested loops, and by hand where the hinges close."""

import math

import numpy as np
import pytest
import torch

from plurimask.methods import discriminative
from plurimask.methods.discriminative import centres, mean_by_image, push


def loops(points, owner, image, *, margin, squared):
    """pull (K,), push (images,) and the means, term by term as R20's Eqs. 1 and 2 are printed."""
    objects = range(len(image))
    mean = [np.mean([points[i] for i in range(len(points)) if owner[i] == k], axis=0) for k in objects]
    pull = []
    for k in objects:
        own = [i for i in range(len(points)) if owner[i] == k]
        pull.append(sum(sum((mean[k][e] - points[i][e]) ** 2 for e in range(points.shape[1])) for i in own) / len(own))
    pushes = []
    for picture in range(max(image) + 1):
        here = [k for k in objects if image[k] == picture]
        total = 0.0
        for a in here:
            for b in here:
                if a != b:
                    norm = math.sqrt(sum((mean[a][e] - mean[b][e]) ** 2 for e in range(points.shape[1])))
                    total += max(0.0, 2 * margin - (norm**2 if squared else norm)) ** 2
        pushes.append(total / (len(here) * (len(here) - 1)) if len(here) > 1 else 0.0)
    return np.array(pull), np.array(pushes), np.array(mean)


def scene(seed=0):
    """30 points of 7 objects in 3 images; the last image has one object."""
    generator = np.random.default_rng(seed)
    image = np.array([0, 0, 0, 1, 1, 1, 2])
    owner = np.concatenate([np.arange(7), generator.integers(0, 7, 23)])
    return generator.normal(0, 2, (30, 4)), owner, image


def tensors(*arrays):
    return [torch.from_numpy(np.asarray(array)) for array in arrays]


@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_pull_and_push_are_the_printed_sums(squared, seed):
    points, owner, image = scene(seed)
    pull, apart, mean = loops(points, owner, image, margin=6.0, squared=squared)
    assert apart[:2].min() > 0, "test invalid: no hinge is open"
    assert apart[2] == 0
    centre = centres(*tensors(points, owner, image))
    np.testing.assert_allclose(centre.means, mean)
    np.testing.assert_array_equal(centre.sizes, np.bincount(owner))
    np.testing.assert_allclose(discriminative.pull(*tensors(points, owner), centre), pull)
    np.testing.assert_allclose(push(centre, margin=6.0, squared=squared, images=3), apart, atol=1e-6)


def two(distance):
    points = torch.tensor([[0.0, 0.0], [distance, 0.0]], dtype=torch.float64)
    return centres(points, torch.tensor([0, 1]), torch.tensor([0, 0]))


@pytest.mark.parametrize(("squared", "closes"), [(False, 8.0), (True, math.sqrt(8))])
def test_with_the_papers_margin_the_hinge_closes_at_8_or_at_the_root_of_8(squared, closes):
    def value(distance):
        return float(push(two(distance), margin=4.0, squared=squared, images=1))

    assert value(closes + 0.01) == 0
    assert value(closes - 0.01) > 0
    # By hand at distance 1, squared or not: (8 - 1)^2.
    assert value(1.0) == pytest.approx(49)
    assert value(2.0) == pytest.approx((8 - 4) ** 2 if squared else (8 - 2) ** 2)


def test_centres_that_coincide_still_have_a_gradient():
    points = torch.zeros(2, 3, requires_grad=True)
    centre = centres(points, torch.tensor([0, 1]), torch.tensor([0, 0]))
    value = push(centre, margin=4.0, squared=False, images=1)
    assert float(value.detach()) == pytest.approx(64, abs=1e-3)  # they are a pair, although their difference is 0
    value.sum().backward()
    assert torch.isfinite(points.grad).all()


def test_small_objects_weigh_as_much_as_large_ones():
    # One object of 2 pixels at distance 1 from their mean, one of 100 at distance 2: 1 and 4, not (2 + 400) / 102.
    ends = [-1.0, 1.0] + [-2.0, 2.0] * 50
    owner = [0] * 2 + [1] * 100
    points = torch.tensor(ends, dtype=torch.float64)[:, None]
    centre = centres(points, torch.tensor(owner), torch.tensor([0, 0]))
    values = discriminative.pull(points, torch.tensor(owner), centre)
    assert values.tolist() == [1, 4]
    assert mean_by_image(values, torch.tensor([0, 0]), 1).tolist() == [2.5]


def test_the_mean_over_images_counts_images_not_objects():
    values, image = torch.tensor([1.0, 3.0, 10.0]), torch.tensor([0, 0, 2])
    assert mean_by_image(values, image, 4).tolist() == [2, 0, 10, 0]


def test_objects_of_two_images_do_not_meet():
    points, owner, image = scene()
    whole = push(centres(*tensors(points, owner, image)), margin=4.0, squared=False, images=3)
    for picture in range(3):
        kept = np.flatnonzero(image[owner] == picture)
        _, renumbered = np.unique(owner[kept], return_inverse=True)
        alone = centres(*tensors(points[kept], renumbered, np.zeros(renumbered.max() + 1, np.int64)))
        assert float(push(alone, margin=4.0, squared=False, images=1)) == pytest.approx(float(whole[picture]))


def test_the_gradient_flows_through_the_means():
    points, owner, image = (tensor.clone() for tensor in tensors(*scene()))
    points.requires_grad_()

    def value(cloud):
        centre = centres(cloud, owner, image)
        return discriminative.pull(cloud, owner, centre).sum() + push(centre, margin=4, squared=False, images=3).sum()

    assert torch.autograd.gradcheck(value, points)


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_an_attenuated_pull_is_the_weighted_normal_likelihood(beta):
    points, owner, image = scene()
    points, owner = torch.from_numpy(points), torch.from_numpy(owner)
    centre = centres(points, owner, torch.from_numpy(image))
    log_variance = torch.linspace(-1, 2, len(points), dtype=torch.float64)
    found = discriminative.attenuated_pull(points, owner, centre, log_variance=log_variance, beta=beta)
    normal = torch.distributions.Normal(centre.means[owner], (log_variance / 2).exp()[:, None])
    constant = points.shape[1] * math.log(2 * math.pi)
    likelihood = -2 * normal.log_prob(points).sum(1) - constant
    for number in range(len(image)):
        own = owner == number
        wanted = (likelihood * (beta * log_variance).exp())[own].mean()
        assert found[number].item() == pytest.approx(wanted.item())


def test_with_beta_1_pixels_pull_as_hard_as_without_variances_which_learn_the_distance():
    points, owner, image = scene()
    moved = torch.from_numpy(points).requires_grad_()
    owner, image = torch.from_numpy(owner), torch.from_numpy(image)
    plain = torch.autograd.grad(discriminative.pull(moved, owner, centres(moved, owner, image)).sum(), moved)[0]
    centre = centres(moved, owner, image)
    distances = (moved - centre.means[owner]).square().sum(1).detach()
    some = distances > 1e-6  # an object of one pixel is its own mean
    learned = (distances[some] / points.shape[1]).log().requires_grad_()
    log_variance = torch.zeros(len(points), dtype=torch.float64).index_put((some.nonzero()[:, 0],), learned)
    pulled = discriminative.attenuated_pull(moved, owner, centre, log_variance=log_variance, beta=1.0).sum()
    gradient, at_the_optimum = torch.autograd.grad(pulled, (moved, learned))
    torch.testing.assert_close(gradient, plain)
    torch.testing.assert_close(at_the_optimum, torch.zeros_like(learned), atol=1e-9, rtol=0)
