"""Closed planar contours as Fourier coefficients: elliptic descriptors (Kuhl & Giardina 1982), 2-D only.

Points are ``(y, x)`` in pixels, as everywhere in the package. Coefficients keep the order of the papers: the last axis
of ``(..., N, 4)`` is x-cos, x-sin, y-cos, y-sin, and entry n - 1 of the axis before it belongs to order n.
"""

from __future__ import annotations

import math
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

Floats = NDArray[np.float64]


def descriptors(contour: ArrayLike, order: int) -> tuple[Floats, Floats]:
    """Location ``(2,)`` and coefficients ``(order, 4)`` of a closed contour, parametrised by its arc length.

    Kuhl & Giardina, Computer Graphics and Image Processing 18 (1982), equations 11 to 14. With segments of length
    dt_i that end at the arc lengths t_i, T = sum dt, phi_i = 2 pi n t_i / T::

        cos_n = T / (2 n^2 pi^2) sum_i dx_i / dt_i (cos phi_i - cos phi_{i-1}),   sin_n with sin for cos

    The location is the mean of the polygon over its arc length, which is their constant term and not the centroid of
    the area. Segments without length are left out (released code adds 1e-6 to every one instead). A contour of no
    length, a single pixel, has its place as location and coefficients of 0.

    Args:
        contour: ``(L, 2)`` points (y, x); the first one is repeated at the end.
        order: N, at least 1.

    Raises:
        ValueError: another shape, an open contour, a point that is not finite, or an order below 1.

    >>> location, coefficients = descriptors([[0, 0], [2, 0], [2, 2], [0, 2], [0, 0]], 1)
    >>> location
    array([1., 1.])
    """
    points = _checked(contour, order)
    steps = np.diff(points, axis=0)
    lengths = np.hypot(*steps.T)
    moving = lengths > 0
    if not moving.any():
        return points[0].copy(), np.zeros((order, 4))
    middles = (points[1:] + points[:-1])[moving] / 2
    steps, lengths = steps[moving], lengths[moving]
    ends = np.concatenate([[0.0], np.cumsum(lengths)])
    orders = np.arange(1, order + 1)
    phases = 2 * math.pi / ends[-1] * orders[:, None] * ends
    waves = np.diff(np.stack([np.cos(phases), np.sin(phases)], axis=1), axis=2)
    scale = ends[-1] / (2 * math.pi**2 * orders**2)
    terms = scale[:, None, None] * (waves @ (steps / lengths[:, None]))  # (N, cos and sin, y and x)
    location: Floats = lengths @ middles / ends[-1]
    return location, terms[:, :, ::-1].swapaxes(1, 2).reshape(order, 4)


def basis(positions: Tensor, order: int) -> Tensor:
    """``(2 N, S)``: cos(2 pi s), sin(2 pi s), cos(4 pi s), ... at positions s ``(S,)`` in [0, 1] along the contour.

    A contour is linear in its coefficients: with these in rows ``(2, 2 N)``, contour = coefficients @ basis.
    """
    orders = torch.arange(1, order + 1, dtype=positions.dtype, device=positions.device)
    phases = 2 * math.pi * orders[:, None] * positions
    return torch.stack([phases.cos(), phases.sin()], dim=1).flatten(0, 1)


@overload
def reconstruct(location: Tensor, coefficients: Tensor, positions: Tensor) -> Tensor: ...
@overload
def reconstruct(location: NDArray[Any], coefficients: NDArray[Any], positions: NDArray[Any]) -> NDArray[Any]: ...
def reconstruct(
    location: Tensor | NDArray[Any], coefficients: Tensor | NDArray[Any], positions: Tensor | NDArray[Any]
) -> Tensor | NDArray[Any]:
    """``(..., S, 2)`` points (y, x) of contours; tensors (differentiable) give a tensor, arrays an array.

    x(s) = x + sum_n f_n0 cos(2 pi n s) + f_n1 sin(2 pi n s), y(s) with f_n2 and f_n3 (Upschulte et al. 2022;
    docs/algorithms.md 4.2), as one matrix product. The type of the numbers is that of the coefficients.

    Args:
        location: ``(..., 2)`` (y, x).
        coefficients: ``(..., N, 4)``, as :func:`descriptors` gives them.
        positions: ``(S,)`` in [0, 1]; :func:`closed_positions` for prediction, random ones for training.
    """
    if isinstance(location, Tensor) and isinstance(coefficients, Tensor) and isinstance(positions, Tensor):
        return _sum(location, coefficients, positions)
    arrays = (torch.from_numpy(np.ascontiguousarray(array)) for array in (location, coefficients, positions))
    return _sum(*arrays).numpy()


def _sum(location: Tensor, coefficients: Tensor, positions: Tensor) -> Tensor:
    order = coefficients.shape[-2]
    waves = basis(positions, order).to(coefficients)
    pairs = coefficients.reshape(*coefficients.shape[:-1], 2, 2)  # x and y, cos and sin
    rows = pairs.transpose(-2, -3).flip(-3).flatten(-2)  # (..., y and x, 2 N)
    return (rows @ waves + location[..., None]).transpose(-1, -2)


def closed_positions(samples: int) -> NDArray[np.float64]:
    """``(S,)`` equal steps from 0 to 1, both included, so that the contour ends where it began."""
    return np.linspace(0.0, 1.0, samples)


def _checked(contour: ArrayLike, order: int) -> Floats:
    points = np.asarray(contour, np.float64)
    if points.ndim != 2 or points.shape[1] != 2 or not len(points):
        raise ValueError(f"the contour has shape {points.shape}; give (L, 2) points, at least one.")
    if not np.isfinite(points).all():
        raise ValueError("the contour has points that are not finite; leave such contours out.")
    if (points[0] != points[-1]).any():
        raise ValueError(
            f"the contour begins at {points[0].tolist()} and ends at {points[-1].tolist()}: repeat its first point "
            f"at the end to close it."
        )
    if order < 1:
        raise ValueError(f"order is {order}; at least 1 is wanted, an ellipse.")
    return points
