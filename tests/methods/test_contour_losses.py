"""The terms of the contour loss, each against numbers by hand and finite differences."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from plurimask.methods import contour_losses as losses


def random(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def boxes(*corners):
    """Each given as top, left, bottom, right."""
    return torch.tensor(corners, dtype=torch.float64).reshape(-1, 2, 2)


def random_boxes(count, seed):
    start = random(count, 2, seed=seed)
    return torch.stack([start, start + 2 + random(count, 2, seed=seed + 1).abs()], 1)


def test_order_weights_fall_from_five_to_one():
    weights = losses.order_weights(25)
    assert len(weights) == 25
    expected = [5, 1 + 4 * (23 / 24) ** 2, 3.25, 2, 1]
    assert weights[[0, 1, 6, 12, 24]].tolist() == pytest.approx(expected)
    assert expected[1] == pytest.approx(4.67, abs=0.01)
    assert losses.order_weights(1).tolist() == [5]


def test_a_series_is_compared_order_by_order():
    truth = torch.zeros(1, 2, 4)
    for order, weight in enumerate([5, 1]):
        found = truth.clone()
        found[0, order, 2] = -3
        assert float(losses.fourier_distance(found, truth)) == pytest.approx(3 * weight / 8)


def test_the_entropy_weighs_centres_and_the_rest_alike_whatever_their_number():
    logits = torch.tensor([[[[0.0, 2.0, -1.0, 5.0]]]])
    labels = torch.tensor([[[1, 0, 0, -1]]])  # the last one is not known
    aims = (labels > 0).float()[:, None]
    centre, rest = math.log(2), (math.log1p(math.exp(2)) + math.log1p(math.exp(-1))) / 2
    for background in (1.0, 2.0):
        found = losses.balanced_entropy(logits, aims, labels, background=background)
        assert float(found) == pytest.approx(centre + background * rest)


def test_generalised_iou_by_hand():
    unit = boxes((0, 0, 2, 2))
    cases = {
        (0, 0, 2, 2): (1, 1),
        (0, 0, 2, 4): (4 / 8, 4 / 8),  # one contains the other: the hull is the union
        (1, 1, 3, 3): (1 / 7, 1 / 7 - (9 - 7) / 9),
        (0, 2, 2, 4): (0, 0),  # they touch
        (0, 6, 2, 8): (0, -(16 - 8) / 16),  # far apart
    }
    for corners, (iou, generalised) in cases.items():
        for pair in ((boxes(corners), unit), (unit, boxes(corners))):
            assert float(losses.box_iou(*pair)) == pytest.approx(iou)
            assert float(losses.generalised_iou(*pair)) == pytest.approx(generalised)


def test_boxes_reach_from_the_least_to_the_largest_point():
    contours = torch.tensor([[[1.0, 5], [3, 2], [2, 9]]])
    assert losses.boxes_of(contours).tolist() == [[[1, 2], [3, 9]]]


def test_thin_boxes_are_left_out():
    truth = boxes((0, 0, 5, 5), (0, 0, 5, 5), (0, 0, 5, 0.9))
    found = boxes((0, 0, 5, 1), (0, 0, 0.9, 5), (0, 0, 5, 5))
    assert losses.measurable(found, truth).tolist() == [True, False, False]


def test_the_border_term_is_the_gaussian_surprise_times_the_overlap():
    found, truth = boxes((0, 0, 4, 4)), boxes((1, 0, 4, 2))
    sigmas = torch.tensor([[0.5, 1.0, 2.0, 3.0]], dtype=torch.float64)
    density = torch.distributions.Normal(found.flatten(1), sigmas)
    expected = 6 / 16 * -density.log_prob(truth.flatten(1)).sum()
    assert float(losses.border_surprise(sigmas, found, truth)) == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize("error", [0.3, 1.0, 4.0])
def test_the_border_term_is_least_where_sigma_is_the_error(error):
    truth = boxes((0, 0, 30, 30))
    found = truth + error
    sigmas = torch.linspace(0.1, 7, 691, dtype=torch.float64)[:, None].expand(-1, 4)
    surprise = losses.border_surprise(sigmas, found.expand(691, 2, 2), truth.expand(691, 2, 2))
    assert float(sigmas[surprise.argmin(), 0]) == pytest.approx(error, abs=0.006)


def test_the_border_term_teaches_sigmas_only():
    found = boxes((0, 0, 4, 4)).requires_grad_()
    sigmas = torch.ones(1, 4, dtype=torch.float64, requires_grad=True)
    losses.border_surprise(sigmas, found, boxes((1, 1, 4, 4))).sum().backward()
    assert found.grad is None
    assert (sigmas.grad != 0).all()


def test_of_nothing_every_term_is_zero_with_a_gradient():
    nothing = torch.zeros(0, 5, 4, requires_grad=True)
    flat = nothing[:, 0].unflatten(1, (2, 2))
    terms = [
        losses.distance(nothing, nothing.detach()),
        losses.fourier_distance(nothing, nothing.detach()),
        losses.mean(1 - losses.generalised_iou(flat, flat)),
        losses.mean(losses.border_surprise(nothing[:, 0], flat, flat)),
    ]
    assert torch.stack(terms).tolist() == [0] * 4
    torch.stack(terms).sum().backward()
    assert nothing.grad.shape == (0, 5, 4)


def test_gradients_are_those_of_finite_differences():
    labels = torch.tensor([[[1, 0], [0, -1]]])
    truth, other = random_boxes(3, 5), random_boxes(3, 9)
    functions = [
        (lambda x: losses.distance(x, random(3, 4, 2, seed=1)), random(3, 4, 2)),
        (lambda x: losses.fourier_distance(x, random(3, 5, 4, seed=1)), random(3, 5, 4)),
        (lambda x: losses.balanced_entropy(x, torch.full_like(x, 0.3), labels, background=2.0), random(1, 2, 2, 2)),
        (lambda x: losses.generalised_iou(x, truth), other),
        (lambda x: losses.border_surprise(functional.softplus(x), other, truth), random(3, 4)),
        (lambda x: losses.generalised_iou(losses.boxes_of(x), truth), 3 * random(3, 6, 2)),
    ]
    for function, at in functions:
        assert torch.autograd.gradcheck(function, at.clone().requires_grad_())


def test_boxes_against_numpy():
    one, other = random_boxes(200, 1), random_boxes(200, 3)
    a, b = one.numpy(), other.numpy()
    inner = np.clip(np.minimum(a[:, 1], b[:, 1]) - np.maximum(a[:, 0], b[:, 0]), 0, None).prod(1)
    union = (a[:, 1] - a[:, 0]).prod(1) + (b[:, 1] - b[:, 0]).prod(1) - inner
    assert losses.box_iou(one, other).numpy() == pytest.approx(inner / union)
