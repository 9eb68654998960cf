"""Contours follow a field of offsets: buckets, looks, borders of the image, gradients."""

import pytest
import torch

from plurimask.methods.contour_refinement import bucket_weights, refined

POSITIONS = torch.linspace(0, 1, 97, dtype=torch.float64)


def triangles(positions, buckets):
    """``(buckets, S)``: the formula of U22's code, three buckets about a point, summed where two are the same."""
    weights = torch.zeros(buckets, len(positions), dtype=positions.dtype)
    for column, place in enumerate((positions * buckets).tolist()):
        for near in range(int(place) - 1, int(place) + 2):
            weights[near % buckets, column] += max(0.0, 1 - abs(near + 0.5 - place))
    return weights


@pytest.mark.parametrize("buckets", [1, 2, 3, 6])
def test_bucket_weights_are_triangles_that_sum_to_one(buckets):
    numbers, weights = bucket_weights(POSITIONS, buckets)
    assert weights.sum(0).tolist() == pytest.approx([1] * 97)
    assert (weights >= 0).all()
    assert ((numbers >= 0) & (numbers < buckets)).all()
    found = torch.zeros(buckets, 97, dtype=torch.float64).scatter_add_(0, numbers, weights)
    assert found.flatten().tolist() == pytest.approx(triangles(POSITIONS, buckets).flatten().tolist())


def test_a_field_that_points_to_a_line_brings_points_there_and_stops():
    # Every pixel points at row 7, at most 3 pixels away: from row 0 it takes 3 looks.
    field = torch.zeros(2, 12, 5)
    field[0] = (7 - torch.arange(12.0))[:, None].clamp(-3, 3)
    looks = list(refined(torch.tensor([[[0.2, 1.0], [11.0, 2.0]]]), field, torch.tensor([0.0, 0.5]), iterations=4))
    rows = [look[0, :, 0].tolist() for look in looks]
    assert rows == [[3, 8], [6, 7], [7, 7], [7, 7]]
    assert all(look[0, :, 1].tolist() == [1, 2] for look in looks)


def test_points_listen_to_the_buckets_of_their_part():
    # Two buckets at 1/4 and 3/4 of the contour that pull in opposite directions.
    field = torch.zeros(4, 9, 9)
    field[1], field[3] = 2.0, -2.0
    positions = torch.tensor([0.25, 0.5, 0.75, 0.0, 0.375])
    (found,) = refined(torch.full((1, 5, 2), 4.0), field, positions, iterations=1)
    assert found[0, :, 1].tolist() == pytest.approx([6, 4, 2, 4, 5])
    assert found[0, :, 0].tolist() == [4] * 5


def test_contours_stay_in_the_image():
    field = torch.full((2, 6, 8), 3.0)
    far = torch.tensor([[[-50.0, 100.0], [4.0, 6.0], [2.0, -3.0]]])
    *_, found = refined(far, field, torch.tensor([0.0, 0.3, 0.6]), iterations=4)
    assert found[0].tolist() == [[5, 7], [5, 7], [5, 7]]


def test_halves_are_rounded_up_everywhere():
    # Not to the even number, or shifting an image by one pixel would change its contours.
    field = torch.zeros(2, 9, 9)
    (found,) = refined(torch.tensor([[[2.5, 3.5], [4.5, 0.5]]]), field, torch.tensor([0.0, 0.5]), iterations=1)
    assert found[0].tolist() == [[3, 4], [5, 1]]


def test_gradients_reach_the_field_and_not_the_proposal():
    generator = torch.Generator().manual_seed(0)
    field = 0.3 * torch.randn(6, 7, 8, dtype=torch.float64, generator=generator)
    contours = 6 * torch.rand(3, 5, 2, dtype=torch.float64, generator=generator)
    positions = torch.linspace(0, 0.9, 5, dtype=torch.float64)

    def last(field):
        *_, found = refined(contours, field, positions, iterations=2)
        return found

    assert torch.autograd.gradcheck(last, field.requires_grad_())
    (found,) = refined(contours.requires_grad_(), field, positions, iterations=1)
    found.sum().backward()
    assert contours.grad is None


def test_the_layout_in_memory_does_not_matter():
    field = torch.randn(1, 6, 9, 11, generator=torch.Generator().manual_seed(0))
    contours, positions = 8 * torch.rand(4, 10, 2), torch.linspace(0, 1, 10)
    other = field.contiguous(memory_format=torch.channels_last)
    for one, two in zip(
        refined(contours, field[0], positions, iterations=3),
        refined(contours, other[0], positions, iterations=3),
        strict=True,
    ):
        assert torch.equal(one, two)


def test_no_contour_is_no_problem():
    looks = list(refined(torch.zeros(0, 5, 2), torch.zeros(4, 3, 3), torch.linspace(0, 1, 5), iterations=2))
    assert [tuple(look.shape) for look in looks] == [(0, 5, 2)] * 2
