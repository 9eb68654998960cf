"""Does one quantity follow another *within* an image? The repeated-measures correlation.

Pixels of one image share its contrast and its difficulty, so a correlation over the pixels of all images would mix
what differs between images with what happens inside them. Bakdash and Marusich 2017 (Frontiers in Psychology 8, 456;
Bland and Altman 1995) fit parallel lines, one per subject, which is an analysis of covariance::

    r = sign(slope) sqrt( SS_measure / (SS_measure + SS_error) )

which is the correlation of the values after each subject's mean has been taken away. So three sums per subject are
enough: S_xx, S_yy and S_xy of centred values, and r = sum S_xy / sqrt(sum S_xx sum S_yy). With the image as subject
this is what Czolbe et al. 2021 give for correctness and entropy (docs/algorithms.md, 5.6-5.7).

Their interval counts every observation as independent given its subject; pixels are not. Draw images, or patients,
again instead: :func:`correlation` is a statistic for :func:`plurimask.metrics.bootstrap.interval`.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray


def centred_sums(x: ArrayLike, y: ArrayLike) -> NDArray[np.float64]:
    """``(3,)`` S_xx, S_yy and S_xy of one subject: sums of squares and products of what deviates from its means.

    x, y: ``(n,)`` finite. A subject in which x never changes says nothing about x, but makes S_yy larger and with it
    the correlation smaller: leave it out, as Czolbe et al. do.

    Raises:
        ValueError: the two differ in shape, there is no observation, or one is not finite.
    """
    pair = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if pair[0].ndim != 1 or pair[0].shape != pair[1].shape or not pair[0].size:
        raise ValueError(f"x has shape {pair[0].shape}, y {pair[1].shape}; both must be (n,), with n at least 1.")
    if not all(np.isfinite(values).all() for values in pair):
        raise ValueError("an observation is not finite; leave it out of both x and y.")
    first, second = map(_centred, pair)
    return np.array([first @ first, second @ second, first @ second])


def correlation(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """``(R, n, 3)`` sums of n subjects, or of groups of them -> ``(R,)`` r in [-1, 1].

    NaN where x or y never changes within a subject.

    >>> up, down = centred_sums([0, 1, 2], [5, 6, 7]), centred_sums([0, 1], [9, 8])
    >>> correlation(np.array([[up, down]])).round(2)  # (2 - 1/2) / (2 + 1/2)
    array([0.6])
    """
    s_xx, s_yy, s_xy = np.moveaxis(sums.sum(axis=1), -1, 0)
    scale = np.sqrt(s_xx * s_yy)
    return np.where(scale > 0, s_xy / np.where(scale > 0, scale, 1), math.nan)


def _centred(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Minus their mean; equal values give zeros, and not what rounding their mean leaves."""
    return values - values.mean() if np.ptp(values) else np.zeros_like(values)
