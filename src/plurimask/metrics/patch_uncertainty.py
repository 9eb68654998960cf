"""Is the doubt where the errors are? PAvPU per instance (Rumberger et al. 2020, Eqs. 6-8; Mukhoti and Gal 2018).

A patch of a found object is *accurate* or *inaccurate*, and at a threshold of entropy it is *certain* or *uncertain*.
From the numbers of patches n_ac, n_au, n_ic, n_iu::

    p(accurate | certain)     = n_ac / (n_ac + n_ic)                                   Eq. 6
    p(uncertain | inaccurate) = n_iu / (n_ic + n_iu)                                   Eq. 7
    PAvPU                     = (n_ac + n_iu) / (n_ac + n_au + n_ic + n_iu)            Eq. 8

The paper leaves much open. What is done here (docs/algorithms.md 2.6):

* **Which objects.** The found objects that the caller gives, with the masks that they come with:
  ``found.threshold(0.75)`` for the paper's, or ``found.best()``. True objects that nobody found are not counted.
* **Against what.** Every found object against its partner in the optimal one-to-one matching at IoU >= 0.5
  (:func:`plurimask.metrics.matching.match`). One without partner is compared with nothing: all its patches are
  inaccurate.
* **Patches.** 4 pixels along every axis, on one grid that starts at the image's corner and is the same for all objects.
  What is left over at the far borders is dropped. A patch counts once for every object in whose found mask or true
  partner it has a pixel; others are discarded, also where some draws, but not the found mask, reach into them.
* **Entropy.** The mean over *all* pixels of the patch of H(count / draws), in nats, 0 to ln 2. *Uncertain* is above the
  threshold, not at it: a patch on which all draws agree is certain at 0, and every patch is certain at ln 2.
* **Accurate.** Precision TP / (TP + FP) >= 0.5 over the patch's pixels; a patch with truth but without a found pixel is
  inaccurate. (Mukhoti and Gal take pixel accuracy, (TP + TN) / all: a patch of which one pixel is missed is accurate.)
* **Pooling.** Patches of all objects of all images count alike. **An empty denominator gives NaN**, which JSON cannot
  hold: who writes these numbers must write null.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from plurimask import uncertainty
from plurimask.instances import Instances, slices
from plurimask.metrics.bootstrap import Interval, interval_of_share
from plurimask.metrics.matching import match
from plurimask.probabilistic import ProbabilisticInstances

THRESHOLDS: tuple[float, ...] = (*(step / 200 for step in range(139)), math.log(2))
"""0, 0.005, ..., 0.69, ln 2. Quotients, so that the paper's 0.05 is among them exactly."""

MEASURES = ("p(accurate|certain)", "p(uncertain|inaccurate)", "PAvPU")

# Columns: accurate and certain, accurate and uncertain, inaccurate and certain, inaccurate and uncertain.
_PARTS = np.array([[1, 0, 0, 0], [0, 0, 0, 1], [1, 0, 0, 1]])
_WHOLES = np.array([[1, 0, 1, 0], [0, 0, 1, 1], [1, 1, 1, 1]])


@dataclass(frozen=True, eq=False)
class Patches:
    """The P patches of the objects of one image.

    Attributes:
        entropy: ``(P,)`` float64, mean entropy in nats, 0 to ln 2.
        accurate: ``(P,)`` bool.
    """

    entropy: NDArray[np.float64]
    accurate: NDArray[np.bool_]

    def counts(self, thresholds: ArrayLike) -> NDArray[np.int64]:
        """``(T, 4)`` n_ac, n_au, n_ic, n_iu at T thresholds, in O((P + T) log P)."""
        columns = []
        for entropies in (self.entropy[self.accurate], self.entropy[~self.accurate]):
            certain = np.searchsorted(np.sort(entropies), np.asarray(thresholds, np.float64), side="right")
            columns += [certain, len(entropies) - certain]
        return np.stack(columns, axis=-1).astype(np.int64)


@dataclass(frozen=True, eq=False)
class PatchCurve:
    """The three measures over T thresholds, pooled over images; NaN where a denominator is empty.

    Attributes:
        thresholds: ``(T,)`` float64, in nats, rising.
        counts: ``(images, T, 4)`` int64: n_ac, n_au, n_ic, n_iu of every image.
    """

    thresholds: NDArray[np.float64]
    counts: NDArray[np.int64]

    @property
    def p_accurate_if_certain(self) -> NDArray[np.float64]:
        """``(T,)`` Eq. 6."""
        return self._values()[:, 0]

    @property
    def p_uncertain_if_inaccurate(self) -> NDArray[np.float64]:
        """``(T,)`` Eq. 7."""
        return self._values()[:, 1]

    @property
    def pavpu(self) -> NDArray[np.float64]:
        """``(T,)`` Eq. 8."""
        return self._values()[:, 2]

    def at(self, threshold: float) -> dict[str, float]:
        """Name in :data:`MEASURES` -> value at one of the curve's thresholds; NaN where the denominator is empty.

        Raises:
            ValueError: the curve was not computed at this threshold.
        """
        return dict(zip(MEASURES, self._values()[self._place(threshold)].tolist(), strict=True))

    def intervals(
        self, threshold: float, *, level: float = 0.95, resamples: int = 10_000, seed: int = 0
    ) -> dict[str, Interval]:
        """Name in :data:`MEASURES` -> value at one of the curve's thresholds, with its bootstrap interval over images.

        Where images lack what a measure divides by: :func:`plurimask.metrics.bootstrap.interval_of_share`.

        Raises:
            ValueError: the curve was not computed at this threshold, or as :func:`bootstrap.interval`.
        """
        counts = self.counts[:, self._place(threshold)]
        draw = partial(interval_of_share, counts, level=level, resamples=resamples, seed=seed)
        return {name: draw(partial(_pooled, column)) for column, name in enumerate(MEASURES)}

    def _values(self) -> NDArray[np.float64]:
        return _quotients(self.counts.sum(axis=0))

    def _place(self, threshold: float) -> int:
        places = np.flatnonzero(np.isclose(self.thresholds, threshold, rtol=0, atol=1e-12))
        if len(places) == 0:
            raise ValueError(f"the curve has no value at {threshold}; compute it with this among its thresholds.")
        return int(places[0])


def patches(
    truth: Instances, found: ProbabilisticInstances, counted: Instances, *, size: int = 4, min_iou: float = 0.5
) -> Patches:
    """The patches of the counted objects of one image; none where nothing is counted.

    truth: the true objects. found: whose counts say the doubt. counted: the found objects as masks, each with the
    index of its hypothesis in the feature ``hypothesis``, as ``found.threshold()`` and ``found.best()`` give them.
    size: pixels along every axis of a patch.

    Raises:
        ValueError: the images differ in shape, ``counted`` does not come from ``found``, or size or min_iou are out of
            range.
    """
    if size < 1:
        raise ValueError(f"a patch of {size} pixels along an axis is none; size must be at least 1.")
    hypotheses = _hypotheses(found, counted)
    true, matched = match(truth, counted, min_iou=min_iou).pairs.T
    reach, partners = counted.boxes.copy(), np.repeat(counted.boxes[:, :1], 2, axis=1)
    masks = [np.zeros((0,) * found.ndim, np.bool_)] * len(counted)  # of the partners, nothing where there is none
    reach[matched, 0] = np.minimum(reach[matched, 0], truth.boxes[true, 0])
    reach[matched, 1] = np.maximum(reach[matched, 1], truth.boxes[true, 1])
    partners[matched] = truth.boxes[true]
    for index, partner in zip(matched.tolist(), true.tolist(), strict=True):
        masks[index] = truth.masks[partner]
    windows = _windows(reach, counted.shape, size)
    known = _tiles(counted.boxes, counted.masks, windows, size=size)
    right = _tiles(partners, masks, windows, size=size)
    counts = _tiles(found.boxes[hypotheses], [found.counts[index] for index in hypotheses.tolist()], windows, size=size)
    kept = known.any(axis=1) | right.any(axis=1)
    positive, hit = known[kept].sum(axis=1), (known & right)[kept].sum(axis=1)
    levels = uncertainty.binary_entropy(np.arange(found.draws + 1) / found.draws)
    # A sum of many roundings of ln 2 may exceed ln 2, which no entropy does.
    entropies = np.minimum(levels[counts[kept]].sum(axis=1) / size**found.ndim, math.log(2))
    return Patches(entropies, (positive > 0) & (2 * hit >= positive))


def curve(images: Sequence[Patches], thresholds: Sequence[float] = THRESHOLDS) -> PatchCurve:
    """Pool the patches of all images; images without a patch stay in the bootstrap.

    Raises:
        ValueError: there is no image, or the thresholds are not rising.
    """
    if not images:
        raise ValueError("nothing to pool: give the patches of at least one image.")
    levels = np.asarray(thresholds, np.float64)
    if levels.size == 0 or not (np.isfinite(levels).all() and (np.diff(levels) > 0).all()):
        raise ValueError(f"thresholds of entropy must be finite and rising, not {list(thresholds)}.")
    return PatchCurve(levels, np.stack([image.counts(levels) for image in images]))


def _hypotheses(found: ProbabilisticInstances, counted: Instances) -> NDArray[np.int64]:
    if found.shape != counted.shape:
        raise ValueError(f"the counted objects' image has shape {counted.shape}, that of their counts {found.shape}.")
    if "hypothesis" not in counted.features:
        raise ValueError("counted objects need the feature 'hypothesis'; take those of found.threshold() or best().")
    indices = np.asarray(counted.features["hypothesis"], np.int64)
    if ((indices < 0) | (indices >= len(found))).any():
        raise ValueError(
            f"counted are the hypotheses {indices.tolist()}, but only {len(found)} were found: are both one image's?"
        )
    return indices


def _quotients(counts: NDArray[np.int64] | NDArray[np.float64]) -> NDArray[np.float64]:
    """``(..., 4)`` counts -> ``(..., 3)`` Eqs. 6-8; NaN for 0 / 0."""
    wholes = counts @ _WHOLES.T
    quotients: NDArray[np.float64] = np.full(wholes.shape, math.nan)
    np.divide(counts @ _PARTS.T, wholes, out=quotients, where=wholes > 0)
    return quotients


def _pooled(column: int, counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """``(R, n, 4)`` counts of n images -> ``(R,)`` one of Eqs. 6-8 over all of them; NaN for 0 / 0."""
    return _quotients(counts.sum(axis=1))[:, column]


def _windows(boxes: NDArray[np.int64], shape: tuple[int, ...], size: int) -> NDArray[np.int64]:
    """``(M, 2, D)`` the whole patches of the image's grid that each of the boxes ``(M, 2, D)`` reaches into."""
    start, stop = boxes[:, 0] // size, -(-boxes[:, 1] // size)
    grid = np.asarray(shape, np.int64) // size
    return np.stack([np.minimum(start, grid), np.minimum(stop, grid)], axis=1) * size


def _tiles(
    boxes: NDArray[np.int64], crops: Sequence[NDArray[Any]], windows: NDArray[np.int64], *, size: int
) -> NDArray[np.uint8]:
    """``(P, size**D)`` the patches of all windows, pixels of M crops in their boxes, 0 elsewhere.

    What sticks out of a crop's window is cut off.
    """
    start = np.maximum(boxes[:, 0], windows[:, 0])
    common = np.stack([start, np.maximum(start, np.minimum(boxes[:, 1], windows[:, 1]))], axis=1)
    places, parts = common - windows[:, :1], common - boxes[:, :1]
    ndim = boxes.shape[2]
    order = (*range(0, 2 * ndim, 2), *range(1, 2 * ndim, 2))
    tiles = [np.zeros((0, size**ndim), np.uint8)]
    for crop, extent, place, part in zip(crops, windows[:, 1] - windows[:, 0], places, parts, strict=True):
        placed = np.zeros(extent, crop.dtype)
        placed[slices(place)] = crop[slices(part)]
        split = [number for length in placed.shape for number in (length // size, size)]
        tiles.append(placed.reshape(split).transpose(order).reshape(-1, size**ndim))
    return np.concatenate(tiles)
