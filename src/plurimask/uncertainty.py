"""Numbers that say how much an object is to be doubted, each with its formula.

They work on plain arrays, so that they can be checked by hand; :meth:`ProbabilisticInstances.table` puts them together.
S is the number of draws, k the number of draws that an object has a member in, c(x) in how many of them the pixel x
belongs to it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def binary_entropy(probability: NDArray[np.float64]) -> NDArray[np.float64]:
    """H(p) = -p ln p - (1 - p) ln(1 - p), in nats, of every element; 0 at 0 and 1, NaN stays NaN.

    The pixel-wise term of Rumberger et al. 2020, Eq. 5.

    >>> binary_entropy(np.array([0.0, 0.25, 0.5, 1.0])).round(4)
    array([0.    , 0.5623, 0.6931, 0.    ])
    """
    p = np.asarray(probability, np.float64)
    inner = np.where((p > 0) & (p < 1), p, 0.5)
    entropy = -inner * np.log(inner) - (1 - inner) * np.log1p(-inner)
    return np.where((p == 0) | (p == 1), 0.0, np.where(np.isnan(p), np.nan, entropy))


def mean_entropy(counts: NDArray[np.uint8], *, draws: int) -> float:
    """Mean of H(c(x) / S) over the pixels with c(x) > 0, in nats; NaN where there is none."""
    touched = counts[counts > 0]
    if touched.size == 0:
        return float("nan")
    return float(binary_entropy(touched / draws).mean())


def agreement(counts: NDArray[np.uint8], *, members: int) -> float:
    """Intersection over union of the members m with the object's mask M (c(x) >= k/2), pooled over the members.

    sum_m |m & M| / sum_m |m | M| = sum_M c / (sum c + k |M| - sum_M c). Sums and not a mean of ratios, because they
    follow from the counts alone. 1: all members are alike (also where there is only one: how rarely the object was
    seen is its existence's to say). NaN where there is no member or no pixel.
    """
    total = int(counts.sum(dtype=np.int64))
    if members == 0 or total == 0:
        return float("nan")
    mask = counts >= majority(members)
    inside = int(counts[mask].sum(dtype=np.int64))
    return inside / (total + members * int(np.count_nonzero(mask)) - inside)


def majority(members: int) -> int:
    """The smallest count that is at least half of the members, and never 0."""
    return max(1, (members + 1) // 2)


def parts_of_wholes(pairs: NDArray[np.int64], shared: NDArray[np.int64], areas: NDArray[np.int64]) -> NDArray[np.int64]:
    """Conflicts in which one is a part of the other: ``(P, 2)`` indices (part, whole).

    A part is the smaller of the two and has more than half of its pixels in the whole. pairs: ``(M, 2)`` conflicts;
    shared: ``(M,)`` pixels in both; areas: ``(N,)``.
    """
    swap = areas[pairs[:, 0]] > areas[pairs[:, 1]]
    ordered = np.where(swap[:, None], pairs[:, ::-1], pairs)
    small, large = areas[ordered[:, 0]], areas[ordered[:, 1]]
    return ordered[(small < large) & (2 * shared > small)]


def split_and_merge(
    occurs: NDArray[np.bool_], parts: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """``(N,)`` p_split and ``(N,)`` p_merge: how often the draws see an object as several, or as a part of one.

    p_split(w) = share of the draws in which at least two parts of w occur ("w is several objects").
    p_merge(u) = share of the draws in which a whole w occurs of which u is a part and which was seen in several parts,
    u among them ("u is only a part of one object"). A larger outline of the same single object is neither.

    occurs: ``(N, S)``, in which draws an object has a member; parts: ``(P, 2)`` of :func:`parts_of_wholes`.
    """
    count = len(occurs)
    split, absorbed = np.zeros(count), np.zeros_like(occurs)
    for whole in np.unique(parts[:, 1]):
        its_parts = parts[parts[:, 1] == whole, 0]
        several = occurs[its_parts].sum(axis=0) >= 2
        split[whole] = several.mean()
        for part in its_parts[occurs[its_parts][:, several].any(axis=1)]:
            absorbed[part] |= occurs[whole]
    return split, absorbed.mean(axis=1) if count else np.zeros(0)


def doubt(expected_ious: NDArray[np.float64], chosen: NDArray[np.bool_]) -> NDArray[np.float64]:
    """``(N,)`` how wrong the decision about an object is expected to be, 0 to 1; infinite where it cannot be known.

    Of a chosen object 1 minus its expected intersection over union with what is there (0 where nothing is); of a
    rejected one the expected intersection over union, what is lost should it exist after all.
    """
    doubts = np.where(chosen, 1 - expected_ious, expected_ious)
    return np.where(np.isfinite(doubts), doubts, np.inf)


def review_order(doubts: NDArray[np.float64], chosen: NDArray[np.bool_]) -> NDArray[np.int64]:
    """``(N,)`` places in the queue, 1 = look first: by falling doubt, at equal doubt chosen objects before rejected.

    A NaN is a doubt without bound: it comes first.

    >>> review_order(np.array([0.1, np.nan, 0.5, 0.5]), np.array([True, True, False, True]))
    array([4, 1, 3, 2])
    """
    ranked = np.lexsort((~chosen, -np.where(np.isnan(doubts), np.inf, doubts)))
    places = np.empty(len(doubts), np.int64)
    places[ranked] = np.arange(1, len(doubts) + 1)
    return places
