"""Split and merge rates: drawn cases, and the definition written out over whole masks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plurimask.instances import Instances
from plurimask.metrics.splits import splits, summarise

SHAPE = (10, 10)


def drawing(text):
    """Objects of a drawing: every letter is one, a dot is background."""
    rows = [[0 if letter == "." else ord(letter) for letter in line] for line in text.split()]
    return Instances.from_labels(np.array(rows))


WORMS = """
    aaaaaaaaaa.bbbbbbbbbb
    .....................
    cccccccccc.dddddddddd
"""


def counted(truth, found, **shares):
    counts = splits(drawing(truth), drawing(found), **shares)
    return counts.split, counts.merged


def test_what_is_found_as_it_is_is_neither():
    assert counted(WORMS, WORMS) == (0, 0)


def test_a_cut_worm_is_split_and_worms_joined_are_merged():
    found = """
        aaaaafffff.bbbbbbbbbb
        .....................
        eeeeeeeeeeeeeeeeeeeee
    """
    counts = splits(drawing(WORMS), drawing(found))
    assert (counts.split, counts.merged) == (1, 1)
    assert (counts.split_rate, counts.merge_rate) == (1 / 4, 1 / 4)


def test_the_two_sides_are_mirrored():
    cut = WORMS.replace("aaaaaaaaaa", "aaxxxxxxzz")
    assert counted(WORMS, cut) == (1, 0)
    assert counted(cut, WORMS) == (0, 1)


def test_a_crumb_is_no_piece():
    # The second piece covers 1 of 10 pixels; with 1 of 20 it is a crumb.
    assert counted("aaaaaaaaaa", "aaaaaaaaax") == (1, 0)
    assert counted("aaaaaaaaaaaaaaaaaaaa", "aaaaaaaaaaaaaaaaaaax") == (0, 0)
    assert counted("aaaaaaaaaaaaaaaaaaaa", "aaaaaaaaaaaaaaaaaaax", covered=0.05) == (1, 0)


def test_a_neighbour_over_the_border_is_no_piece():
    # The second found object covers 4 / 10 of the first truth, but not more than half of it lies there: 4 / 8.
    truth, found = "aaaaaaaaaabbbb", "aaaaaaxxxxxxxx"
    assert counted(truth, found) == (0, 0)
    assert counted(truth, found, inside=0.4) == (1, 0), "of the first truth, 4 / 10 lie in the second found: no merge"
    assert counted(truth, found, inside=0.3) == (1, 1)
    assert counted("aaaaaaaaaabbb", "aaaaaaxxxxxxx") == (1, 0), "4 of 7 pixels are more than half"


def test_a_duplicate_is_a_split():
    bar = np.ones((1, 4), bool)
    assert splits(Instances.from_masks([bar], (1, 4)), Instances.from_masks([bar, bar], (1, 4))).split == 1


def test_crossing_worms_found_whole_are_neither():
    masks = np.zeros((2, 7, 7), bool)
    masks[0, 2:4, :], masks[1, :, 2:4] = True, True
    worms = Instances.from_masks(masks, (7, 7))
    counts = splits(worms, worms)
    assert (counts.split, counts.merged) == (0, 0)
    joined = Instances.from_masks([masks.any(axis=0)], (7, 7))
    assert splits(worms, joined).merged == 1


def rectangles(seed, count):
    generator = np.random.default_rng(seed)
    masks = np.zeros((count, *SHAPE), bool)
    for mask in masks:
        start = generator.integers(0, 7, 2)
        stop = start + generator.integers(1, 8, 2)
        mask[start[0] : stop[0], start[1] : stop[1]] = True
    return Instances.from_masks(masks, SHAPE)


def by_definition(wholes, parts, inside, covered):
    """Objects of which at least two others are pieces."""
    count = 0
    for whole in wholes.to_masks():
        shared = [(np.sum(whole & part), np.sum(part)) for part in parts.to_masks()]
        count += sum(n / area > inside and n / np.sum(whole) >= covered for n, area in shared) >= 2
    return count


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    counts=st.tuples(st.integers(0, 7), st.integers(0, 7)),
    shares=st.sampled_from([(0.5, 0.1), (0.0, 0.1), (0.8, 0.25)]),
    data=st.data(),
)
def test_it_is_the_definition_however_objects_are_numbered(seed, counts, shares, data):
    truth, found = rectangles(seed, counts[0]), rectangles(seed + 1, counts[1])
    truth, found = (side.select(data.draw(st.permutations(range(len(side))))) for side in (truth, found))
    result = splits(truth, found, inside=shares[0], covered=shares[1])
    assert result.split == by_definition(truth, found, *shares)
    assert result.merged == by_definition(found, truth, *shares)
    assert (result.truth_count, result.found_count) == counts


@pytest.mark.parametrize("counts", [(0, 0), (0, 3), (3, 0)])
def test_without_objects_nothing_is_split_or_merged(counts):
    result = splits(rectangles(0, counts[0]), rectangles(1, counts[1]))
    assert (result.split_rate, result.merge_rate) == (0, 0)


def test_pooled_and_per_image_are_kept_apart():
    images = [
        splits(drawing(WORMS), drawing(WORMS.replace("aaaaaaaaaa", "aaxxxxxxzz"))),  # 1 of 4 split
        splits(drawing("aaaa"), drawing("aabb")),  # 1 of 1 split
        splits(drawing("aabb.c"), drawing("aaaa.c")),  # 1 of 2 merged
    ]
    summary = summarise(images, resamples=200)
    assert summary.images == 3
    assert summary.per_image["split_rate"].mean == pytest.approx((1 / 4 + 1 + 0) / 3)
    assert summary.per_image["merge_rate"].mean == pytest.approx((0 + 0 + 1 / 2) / 3)
    assert summary.pooled["split_rate"].mean == pytest.approx(2 / 8)
    assert summary.pooled["merge_rate"].mean == pytest.approx(1 / 10)
    for value in (*summary.pooled.values(), *summary.per_image.values()):
        assert value.low <= value.mean <= value.high


def test_what_cannot_be_measured_is_refused():
    bar = drawing("aa")
    for shares in ({"inside": 1.0}, {"inside": -0.1}, {"covered": 0.0}, {"covered": float("nan")}):
        with pytest.raises(ValueError, match="inside must be in"):
            splits(bar, bar, **shares)
    with pytest.raises(ValueError, match=r"\(1, 2\).*\(1, 3\)"):
        splits(bar, drawing("aaa"))
    with pytest.raises(ValueError, match="nothing to summarise"):
        summarise([])
    with pytest.raises(ValueError, match="different shares"):
        summarise([splits(bar, bar), splits(bar, bar, covered=0.2)])
