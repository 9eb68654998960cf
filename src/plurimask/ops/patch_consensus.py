"""PatchPerPix: what the patches of all pixels say about every pair of pixels, and how far each patch agrees with it.

Mais, Hirsch, Kainmueller 2020, *PatchPerPix for Instance Segmentation*, Eqs. 1-4; docs/algorithms.md, "Assembly".

The *valid* pixels I are the centres whose own patch calls them foreground and that lie on no overlap. Only their
patches vote, and only about each other. In row-major order the members of a set of pixels that lie on one line of a
window have consecutive numbers: a patch restricted to I is a few such runs, and so is a pixel's row of the table of
pairs. Both grow with the number of valid pixels; nothing has the size of the image times that of a patch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numba import njit, prange
from numpy.typing import ArrayLike, NDArray

from plurimask.ops.window_runs import Runs, mask_at, runs_around, window_lines

Background = Literal["below 1-t", "below t/2", "below t"]
Integers = NDArray[np.int64]
Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]

CHUNK = 1 << 23
"""Values that are converted to float32 at a time."""


@dataclass(frozen=True, eq=False)
class Patches:
    """Predicted patches of N pixels of one image.

    Attributes:
        centres: ``(N, D)`` int, inside the image, each once.
        values: ``(N, P)`` float16 or float32 in [0, 1]: does the pixel at this offset belong to an object of the
            centre? ``P = prod(size)`` offsets in row-major order, the centre included. What lies outside the image is
            ignored.
        size: odd sides of the window, ``(D,)``.
        shape: of the image, ``(*spatial,)``.

    Raises:
        ValueError: shapes do not fit, a centre lies outside or occurs twice, a value is NaN or not in [0, 1].
    """

    centres: NDArray[Any]
    values: NDArray[Any]
    size: tuple[int, ...]
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        count, ndim = len(self.centres), len(self.shape)
        if len(self.size) != ndim or any(side < 1 or side % 2 == 0 for side in self.size):
            raise ValueError(f"patches of size {self.size} came for an image in {ndim}-D; {ndim} odd sides are wanted.")
        wanted = (count, int(np.prod(self.size)))
        if self.centres.shape != (count, ndim) or self.values.shape != wanted:
            raise ValueError(
                f"centres of shape {self.centres.shape} and values of shape {self.values.shape} came for patches of "
                f"size {self.size}; {(count, ndim)} and {wanted} are wanted."
            )
        if count and (self.centres.min() < 0 or (self.centres.max(axis=0) >= np.asarray(self.shape)).any()):
            raise ValueError(f"a centre lies outside the image of shape {self.shape}; leave its patch out.")
        if len(np.unique(self.pixels)) < count:
            raise ValueError("two patches have the same centre; give one patch per pixel.")
        if count and not (self.values.min() >= 0 and self.values.max() <= 1):
            low, high = self.values.min(), self.values.max()
            raise ValueError(f"patches have values from {low} to {high}; probabilities are wanted.")

    def __len__(self) -> int:
        return len(self.centres)

    @property
    def pixels(self) -> Integers:
        """``(N,)`` row-major numbers of the centres."""
        numbers: Integers = np.ravel_multi_index(tuple(np.asarray(self.centres, np.int64).T), self.shape)
        return numbers

    def select(self, indices: ArrayLike) -> Patches:
        """The patches with these indices, in this order."""
        chosen = np.asarray(indices, np.int64)
        return replace(self, centres=self.centres[chosen], values=self.values[chosen])


@dataclass(frozen=True, eq=False)
class Votes:
    """The patches that vote, restricted to the valid pixels; the n-th belongs to the n-th valid pixel.

    Attributes:
        patches: ``(n,)`` their indices among all patches, in the order of their pixels.
        centres: ``(n, D)``.
        size: of the window.
        shape: of the image.
        runs: which valid pixels lie in each window.
        signed: one value per entry of the runs: p where the patch says foreground, ``p - 1`` where it says background,
            0 where it says neither (Eqs. 1 and 2).
        threshold: t.
    """

    patches: Integers
    centres: Integers
    size: tuple[int, ...]
    shape: tuple[int, ...]
    runs: Runs
    signed: Floats
    threshold: float

    def __len__(self) -> int:
        return len(self.patches)


@dataclass(frozen=True, eq=False)
class Consensus:
    """Affinities of unordered pairs of valid pixels that share a window (Eq. 3), each at its earlier pixel.

    Attributes:
        runs: the later valid pixels within reach of every valid pixel.
        affinity: one per entry, in [-1, 1] (beyond with released quirks), 0 where no patch has a say.
        defined: one per entry: does a patch hold both pixels and call at least one of them foreground?
    """

    runs: Runs
    affinity: Floats
    defined: Mask


def votes(patches: Patches, overlap: Mask, *, threshold: float = 0.5, background: Background = "below 1-t") -> Votes:
    """The valid pixels and their patches restricted to them. overlap: ``(*spatial)`` bool.

    Patches centred on overlap neither vote nor can be selected, as the paper has it; the released kernel lets them
    vote. With "below 1-t" (Eq. 2) and t < 1/2 a pixel is background below t, as in the released code.
    """
    pixels = patches.pixels
    own = patches.values[:, patches.values.shape[1] // 2].astype(np.float32)
    valid = np.flatnonzero((own > np.float32(threshold)) & ~overlap.ravel()[pixels])
    valid = valid[np.argsort(pixels[valid])]
    centres = patches.centres[valid].astype(np.int64)
    runs, signed = restrict(patches, mask_at(centres, patches.shape), valid)
    limit = {"below 1-t": min(1 - threshold, threshold), "below t/2": threshold / 2, "below t": threshold}[background]
    _sign(signed, np.float32(threshold), np.float32(limit))
    return Votes(valid, centres, patches.size, patches.shape, runs, signed, threshold)


def consensus(cast: Votes, *, normalised_product: bool = False) -> Consensus:
    """Eq. 3 for every pair of valid pixels: the mean vote of the patches that hold both and call one foreground.

    A patch votes p_y p_z if it calls both foreground, -p_y (1 - p_z) if only y is and z is background, and 0 if z is
    neither. ``normalised_product`` maps products from [t^2, 1] to [0, 1], the released default; with the background
    "below t" such a vote can change its sign (docs/algorithms.md, "Assembly").
    """
    reach = tuple(2 * side - 1 for side in cast.size)
    runs = runs_around(cast.centres, mask_at(cast.centres, cast.shape), reach, later=True)
    affinity, defined = np.zeros(runs.offsets[-1], np.float32), np.zeros(runs.offsets[-1], np.bool_)
    square = cast.threshold**2 if normalised_product else 0.0
    first, offsets, steps = cast.runs.first, cast.runs.offsets, _steps(cast.size)
    _vote(first, offsets, cast.signed, steps, runs.first, runs.offsets, affinity, defined, np.float32(square))
    return Consensus(runs, affinity, defined)


def scores(cast: Votes, agreed: Consensus) -> NDArray[np.float64]:
    """``(n,)`` in [-1, 1]: how far every voting patch agrees with the consensus (Eq. 4); 0 for a patch of one pixel."""
    first, offsets, steps = cast.runs.first, cast.runs.offsets, _steps(cast.size)
    return _scores(first, offsets, cast.signed, steps, agreed.runs.first, agreed.runs.offsets, agreed.affinity)


def restrict(patches: Patches, members: Mask, indices: Integers) -> tuple[Runs, Floats]:
    """The patches with these indices at the members of a mask ``(*spatial)``: runs, and a float32 per entry."""
    centres = patches.centres[indices].astype(np.int64)
    runs = runs_around(centres, members, patches.size)
    places = np.flatnonzero(members)
    # Where a line of a window begins, from its centre; the window's cells follow the image's pixels from there on.
    strides = np.cumprod((1, *patches.shape[:0:-1]))[::-1]
    starts = window_lines(patches.size) @ strides[:-1] - patches.size[-1] // 2
    pixels = patches.pixels[indices]
    values = np.empty(runs.offsets[-1], np.float32)
    step = max(CHUNK // patches.values.shape[1], 1)
    for start in range(0, len(indices), step):
        part = slice(start, start + step)
        block = patches.values[indices[part]].astype(np.float32)
        _gather(block, pixels[part], runs.first[part], runs.offsets[start * len(starts) :], places, starts, values)
    return runs, values


def _steps(size: tuple[int, ...]) -> Integers:
    """``(L,)``: the difference of two lines' steps is the number of the line that leads from one to the other.

    Of the lines of a window of twice the reach, counted from the one through its centre.
    """
    reach = np.asarray([2 * side - 1 for side in size[:-1]], np.int64)
    strides = np.cumprod((1, *reach[:0:-1]))[::-1]
    return window_lines(size) @ strides[: len(reach)]


@njit(cache=True)
def _gather(
    block: Floats,
    pixels: Integers,
    first: NDArray[np.int32],
    offsets: Integers,
    places: Integers,
    starts: Integers,
    values: Floats,
) -> None:
    lines = len(starts)
    width = block.shape[1] // lines
    for index in range(len(pixels)):
        for line in range(lines):
            begin, end = offsets[index * lines + line], offsets[index * lines + line + 1]
            cell = line * width - pixels[index] - starts[line]
            for entry in range(begin, end):
                values[entry] = block[index, cell + places[first[index, line] + entry - begin]]


@njit(cache=True)
def _sign(values: Floats, threshold: np.float32, limit: np.float32) -> None:
    """In place: p -> p, p - 1 or 0."""
    for entry in range(len(values)):
        value = values[entry]
        if not value > threshold:
            values[entry] = value - 1 if value < limit else 0


@njit(cache=True, parallel=True)
def _vote(
    first: NDArray[np.int32],
    offsets: Integers,
    signed: Floats,
    steps: Integers,
    pair_first: NDArray[np.int32],
    pair_offsets: Integers,
    affinity: Floats,
    defined: Mask,
    square: np.float32,
) -> None:
    """Eq. 3, gathered by the first pixel of a pair: each thread owns whole rows of the table."""
    lines, pair_lines = first.shape[1], pair_first.shape[1]
    for y in prange(len(first)):
        origin = pair_offsets[y * pair_lines]
        count = np.zeros(pair_offsets[(y + 1) * pair_lines] - origin, np.float32)
        for seen in range(lines):
            # The patches on this line of y's window see y on the mirrored line of theirs.
            mirrored = lines - 1 - seen
            patches = offsets[y * lines + seen + 1] - offsets[y * lines + seen]
            for x in range(first[y, seen], first[y, seen] + patches):
                entry = offsets[x * lines + mirrored] + y - first[x, mirrored]
                own, start, z = signed[entry], entry + 1, y + 1
                for line in range(mirrored, lines):
                    stop = offsets[x * lines + line + 1]
                    if line > mirrored:
                        start, z = offsets[x * lines + line], first[x, line]
                    pair_line = steps[line] - steps[mirrored]
                    at = pair_offsets[y * pair_lines + pair_line] + z - pair_first[y, pair_line]
                    _add(own, signed, start, stop, affinity, at, count, at - origin, square)
        for pair in range(len(count)):
            if count[pair] > 0:
                defined[origin + pair] = True
                affinity[origin + pair] /= count[pair] * (1 - square)


@njit(cache=True)
def _add(
    own: np.float32,
    signed: Floats,
    start: int,
    stop: int,
    affinity: Floats,
    at: int,
    count: Floats,
    counted: int,
    square: np.float32,
) -> None:
    """What one patch says about the pairs of one pixel, with value ``own``, and the pixels of one run."""
    one, none = np.float32(1), np.float32(0)
    other, pair, tally = np.uint64(start), np.uint64(at), np.uint64(counted)  # unsigned: no check for negatives
    if own > 0:
        for step in range(np.uint64(max(stop - start, 0))):
            value = signed[other + step]
            vote = own * value
            if square > 0:
                vote -= square * np.sign(value)
            affinity[pair + step] += vote
            count[tally + step] += one
    else:
        weight = square if own < 0 else none
        for step in range(np.uint64(max(stop - start, 0))):
            value = signed[other + step]
            foreground = one if value > 0 else none
            affinity[pair + step] += foreground * (own * value + weight)
            count[tally + step] += foreground


@njit(cache=True, parallel=True, fastmath={"reassoc", "nsz", "contract"})
def _scores(
    first: NDArray[np.int32],
    offsets: Integers,
    signed: Floats,
    steps: Integers,
    pair_first: NDArray[np.int32],
    pair_offsets: Integers,
    affinity: Floats,
) -> NDArray[np.float64]:
    """Eq. 4. Sums of float32 in float64 are all but exact, so that equal patches tie whatever the order."""
    lines, pair_lines = first.shape[1], pair_first.shape[1]
    found = np.zeros(len(first), np.float64)
    for x in prange(len(first)):
        origin = offsets[x * lines]
        sign = np.sign(signed[origin : offsets[(x + 1) * lines]])
        foreground = np.maximum(sign, np.float32(0))
        total = 0.0
        for near in range(lines):
            for entry in range(offsets[x * lines + near], offsets[x * lines + near + 1]):
                own = sign[entry - origin]
                if own == 0:
                    continue
                partners = sign if own > 0 else foreground
                v = first[x, near] + entry - offsets[x * lines + near]
                start, w, part = entry + 1, v + 1, 0.0
                for line in range(near, lines):
                    if line > near:
                        start, w = offsets[x * lines + line], first[x, line]
                    pair_line = steps[line] - steps[near]
                    pair = np.uint64(pair_offsets[v * pair_lines + pair_line] + w - pair_first[v, pair_line])
                    other = np.uint64(start - origin)
                    for step in range(np.uint64(max(offsets[x * lines + line + 1] - start, 0))):
                        part += np.float64(affinity[pair + step] * partners[other + step])
                total += own * part
        inside, ours = len(sign), foreground.sum()
        pairs = ours * (ours - 1) / 2 + ours * (inside - ours)
        if pairs > 0:
            found[x] = total / pairs
    return found
