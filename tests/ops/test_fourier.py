"""Fourier descriptors against closed forms of ellipses and against sums written out."""

import math

import numpy as np
import pytest
import torch
from scipy.special import ellipeinc

from plurimask.ops.fourier import basis, closed_positions, descriptors, reconstruct

WAVES = (np.cos, np.sin)


def ellipse(axes, angle=0.0, start=0.0, centre=(0.0, 0.0), count=20_000):
    """Points (y, x) of an ellipse, dense enough to stand for the curve itself."""
    t = start + np.linspace(0, 2 * math.pi, count + 1)
    t[-1] = t[0]
    x, y = axes[0] * np.cos(t), axes[1] * np.sin(t)
    turned = np.column_stack([y * math.cos(angle) + x * math.sin(angle), x * math.cos(angle) - y * math.sin(angle)])
    return turned + centre


def kuhl_giardina(points, order):
    """Equations 11 to 14 and the constant term of the paper, term by term, with its own recursion for the latter."""
    dy, dx = np.diff(points, axis=0).T
    dt = np.hypot(dx, dy)
    t, period = np.concatenate([[0], np.cumsum(dt)]), dt.sum()
    table = np.zeros((order, 4))
    for n in range(1, order + 1):
        for i in range(len(dt)):
            before, after = (2 * math.pi * n * t[j] / period for j in (i, i + 1))
            scale = period / (2 * n**2 * math.pi**2)
            cosine, sine = math.cos(after) - math.cos(before), math.sin(after) - math.sin(before)
            table[n - 1] += scale * np.array([dx[i] * cosine, dx[i] * sine, dy[i] * cosine, dy[i] * sine]) / dt[i]
    constants = []
    for axis, step in ((0, dy), (1, dx)):
        total = 0.0
        for i in range(len(dt)):
            xi = step[:i].sum() - step[i] / dt[i] * dt[:i].sum()
            total += step[i] / (2 * dt[i]) * (t[i + 1] ** 2 - t[i] ** 2) + xi * (t[i + 1] - t[i])
        constants.append(points[0, axis] + total / period)
    return np.array(constants), table


def test_a_circle_has_order_one_only():
    # x = 3 cos t, y = 3 sin t, and the arc length is proportional to t.
    location, coefficients = descriptors(ellipse((3, 3), centre=(7, -2)), 6)
    np.testing.assert_allclose(location, [7, -2], atol=1e-6)
    np.testing.assert_allclose(coefficients[0], [3, 0, 0, 3], atol=1e-6)
    np.testing.assert_allclose(coefficients[1:], 0, atol=1e-6)


@pytest.mark.parametrize("start", [0.3, 2.0])
def test_the_first_point_is_the_phase(start):
    # cos(t + start) = cos(start) cos t - sin(start) sin t
    _, coefficients = descriptors(ellipse((3, 3), start=start), 1)
    cosine, sine = 3 * math.cos(start), 3 * math.sin(start)
    np.testing.assert_allclose(coefficients[0], [cosine, -sine, sine, cosine], atol=1e-6)


@pytest.mark.parametrize("angle", [0.0, 0.5, 2.2])
def test_an_ellipse_in_equal_phases_is_order_one(angle):
    """x = a cos t, y = b sin t, turned; as a function of phase instead of arc length its series has one term."""
    a, b = 5.0, 2.0
    first = [[a * math.cos(angle), -b * math.sin(angle), a * math.sin(angle), b * math.cos(angle)]]
    positions = closed_positions(101)
    points = reconstruct(np.zeros((1, 2)), np.array([first]), positions)[0]
    np.testing.assert_allclose(points, ellipse((a, b), angle, count=100), atol=1e-12)


@pytest.mark.parametrize("angle", [0.0, 0.5])
def test_an_ellipse_against_its_integrals_over_the_arc_length(angle):
    """f = 2 / T int x cos(2 pi n s / T) ds, with the arc length s as an elliptic integral of the second kind."""
    a, b = 5.0, 3.0
    t = np.arange(2000) * 2 * math.pi / 2000
    # From the end of the long axis: int sqrt(a^2 sin^2 + b^2 cos^2) = b int sqrt(1 - (1 - a^2 / b^2) sin^2).
    arc, period = b * ellipeinc(t, 1 - (a / b) ** 2), b * ellipeinc(2 * math.pi, 1 - (a / b) ** 2)
    speed = np.sqrt((a * np.sin(t)) ** 2 + (b * np.cos(t)) ** 2) * 2 * math.pi / 2000
    x, y = a * np.cos(t), b * np.sin(t)
    x, y = x * math.cos(angle) - y * math.sin(angle), y * math.cos(angle) + x * math.sin(angle)
    expected = [
        [
            2 / period * (values * wave(2 * math.pi * n * arc / period) * speed).sum()
            for values in (x, y)
            for wave in WAVES
        ]
        for n in range(1, 8)
    ]
    location, coefficients = descriptors(ellipse((a, b), angle), 7)
    np.testing.assert_allclose(location, 0, atol=1e-6)
    np.testing.assert_allclose(coefficients, expected, atol=1e-6)
    np.testing.assert_allclose(coefficients[1::2], 0, atol=1e-6)  # f(s + 1/2) = -f(s)


def test_a_square_against_its_integrals():
    """The square 0..2 from its corner, T = 8: x moves in the first and third quarter, y in the others."""
    location, coefficients = descriptors([[0, 0], [0, 2], [2, 2], [2, 0], [0, 0]], 3)
    np.testing.assert_allclose(location, [1, 1])
    for n in (1, 2, 3):
        # d/ds of the series: x' = 8 on (0, 1/4) and -8 on (1/2, 3/4), so 2 pi n f = 2 x' times minus sine or cosine
        # integrated over s, f_cos = -(1 / (pi n)) int x' sin, f_sin = (1 / (pi n)) int x' cos.
        s = (np.arange(80_000) + 0.5) / 80_000
        speed = 8.0 * ((s < 0.25).astype(float) - ((s > 0.5) & (s < 0.75)))
        expected = [-np.mean(speed * np.sin(2 * math.pi * n * s)), np.mean(speed * np.cos(2 * math.pi * n * s))]
        np.testing.assert_allclose(coefficients[n - 1, :2], np.array(expected) / (math.pi * n), atol=1e-8)


def test_descriptors_are_the_sums_of_the_paper():
    generator = np.random.default_rng(0)
    points = generator.normal(size=(23, 2)) * (4, 9) + (30, -5)
    points = np.concatenate([points, points[:1]])
    location, coefficients = descriptors(points, 5)
    expected_location, expected = kuhl_giardina(points, 5)
    np.testing.assert_allclose(location, expected_location)
    np.testing.assert_allclose(coefficients, expected, atol=1e-12)


def test_points_that_occur_twice_change_nothing():
    points = np.array([[0, 0], [4, 0], [4, 6], [0, 0]])
    np.testing.assert_allclose(descriptors(np.repeat(points, 2, axis=0), 4)[1], descriptors(points, 4)[1])


def test_a_single_pixel_has_a_place_and_no_extent():
    location, coefficients = descriptors([[3, 5], [3, 5]], 2)
    np.testing.assert_array_equal(location, [3, 5])
    np.testing.assert_array_equal(coefficients, np.zeros((2, 4)))


def test_high_orders_come_back_to_the_polygon():
    points = np.array([[0, 0], [10, 0], [10, 20], [0, 0]], float)
    location, coefficients = descriptors(points, 400)
    found = reconstruct(location[None], coefficients[None], np.array([0.0, 1.0]))[0]
    np.testing.assert_allclose(found, [[0, 0], [0, 0]], atol=0.05)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_reconstruct_is_the_double_sum(dtype):
    generator = np.random.default_rng(1)
    location = generator.normal(size=(3, 2)).astype(dtype)
    coefficients = generator.normal(size=(3, 4, 4)).astype(dtype)
    positions = generator.uniform(size=6)
    found = reconstruct(location, coefficients, positions)
    assert found.shape == (3, 6, 2) and found.dtype == dtype
    for k in range(3):
        for place, s in enumerate(positions):
            y, x = (float(value) for value in location[k])
            for n in range(1, 5):
                cosine, sine = math.cos(2 * math.pi * n * s), math.sin(2 * math.pi * n * s)
                f = coefficients[k, n - 1]
                x += f[0] * cosine + f[1] * sine
                y += f[2] * cosine + f[3] * sine
            np.testing.assert_allclose(found[k, place], [y, x], atol=1e-5 if dtype == np.float32 else 1e-12)


def test_tensors_give_a_tensor_with_gradients():
    coefficients = torch.zeros(2, 3, 4, dtype=torch.float64, requires_grad=True)
    location = torch.zeros(2, 2, dtype=torch.float64)
    positions = torch.tensor([0.0, 0.25], dtype=torch.float64)
    points = reconstruct(location, coefficients, positions)
    points[1, 1, 1].backward()  # x of the second contour at s = 1/4
    expected = torch.zeros(2, 3, 4, dtype=torch.float64)
    expected[1, :, 0] = torch.tensor([0.0, -1.0, 0.0])
    expected[1, :, 1] = torch.tensor([1.0, 0.0, -1.0])
    torch.testing.assert_close(coefficients.grad, expected)


def test_no_contours_and_no_order():
    assert reconstruct(np.zeros((0, 2)), np.zeros((0, 5, 4)), closed_positions(7)).shape == (0, 7, 2)
    assert basis(torch.linspace(0, 1, 9), 3).shape == (6, 9)


@pytest.mark.parametrize(
    ("contour", "order", "message"),
    [
        ([[0, 0], [1, 1]], 1, "repeat its first point"),
        ([0, 1, 2], 1, "shape"),
        (np.zeros((0, 2)), 1, "at least one"),
        ([[0, 0], [np.nan, 1], [0, 0]], 1, "not finite"),
        ([[0, 0], [1, 1], [0, 0]], 0, "order is 0"),
    ],
)
def test_bad_contours_are_told(contour, order, message):
    with pytest.raises(ValueError, match=message):
        descriptors(contour, order)
