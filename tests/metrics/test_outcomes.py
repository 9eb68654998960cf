"""Kinds of errors: drawn cases, and counts that must agree with those of the other metrics."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plurimask.instances import Instances
from plurimask.metrics.matching import match
from plurimask.metrics.outcomes import KINDS, outcomes
from plurimask.metrics.segmentation import score
from plurimask.metrics.splits import splits

SHAPE = (10, 10)


def drawing(text):
    """Objects of a drawing: every letter is one, a dot is background."""
    rows = [[0 if letter == "." else ord(letter) for letter in line] for line in text.split()]
    return Instances.from_labels(np.array(rows))


def kinds(truth, found, **options):
    return outcomes(drawing(truth), drawing(found), **options).kind.tolist()


def test_what_is_found_as_it_is():
    judged = outcomes(drawing("aaa.bb"), drawing("aaa.bb"))
    assert judged.kind.tolist() == ["ok", "ok"]
    assert judged.iou.tolist() == [1, 1]
    assert judged.missed.tolist() == []


def test_one_object_in_three_parts():
    # The largest part has an IoU of 1/2: it is the object, the others are parts of it.
    assert kinds("aaaaaaaa", "bbbbccdd") == ["ok", "split", "split"]
    # No part is large enough, and the object is missed, too.
    assert kinds("aaaaaaaaa", "bbbcccddd") == ["split"] * 3 + ["missed"]


def test_a_duplicate_is_a_split():
    truth = drawing("aaaa")
    twice = Instances.from_masks([np.ones((1, 4)), np.array([[1, 1, 1, 0]])], (1, 4))
    assert outcomes(truth, twice).kind.tolist() == ["ok", "split"]


def test_two_objects_in_one():
    judged = outcomes(drawing("aaaabbbb."), drawing("ccccccccc"))
    assert judged.kind.tolist() == ["merge", "missed", "missed"]
    assert judged.iou == pytest.approx([4 / 9] * 3)
    # One that swallows a small neighbour is the larger object, and the neighbour is missed.
    assert kinds("aaaaaabb", "cccccccc") == ["ok", "missed"]


def test_too_little_of_an_object_and_nothing_of_any():
    assert kinds("aaaaaa....", "bb......cc") == ["low IoU", "false positive", "missed"]
    # An IoU below 1/10 is a touch, not an attempt.
    assert kinds("a" * 10 + "." * 10, "." * 9 + "b" * 11) == ["false positive", "missed"]
    assert kinds("a" * 6 + "." * 6, "." * 5 + "b" * 5 + "..") == ["low IoU", "missed"]


def test_the_threshold_decides_who_has_a_partner():
    assert kinds("aaaa", "bbb.", min_iou=0.75) == ["ok"]
    assert kinds("aaaa", "bbb.", min_iou=0.8) == ["low IoU", "missed"]


def test_empty_sides():
    nothing, one = Instances.empty((1, 4)), drawing("aaaa")
    assert outcomes(nothing, nothing).kind.tolist() == []
    assert outcomes(nothing, one).kind.tolist() == ["false positive"]
    missed = outcomes(one, nothing)
    assert (missed.kind.tolist(), missed.iou.tolist(), missed.missed.tolist()) == (["missed"], [0], [0])


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match="same image"):
        outcomes(drawing("aa"), drawing("aaa"))


@st.composite
def objects(draw):
    corners = draw(st.lists(st.tuples(*[st.integers(0, 8)] * 2, *[st.integers(1, 5)] * 2), max_size=6))
    masks = []
    for top, left, height, width in corners:
        mask = np.zeros(SHAPE, bool)
        mask[top : top + height, left : left + width] = True
        masks.append(mask)
    return Instances.from_masks(masks, SHAPE)


@settings(deadline=None, max_examples=25)
@given(objects(), objects())
def test_every_object_is_in_one_row(truth, found):
    judged = outcomes(truth, found)
    scores = score(truth, found, thresholds=[0.5])
    assert set(judged.kind) <= set(KINDS)
    assert np.count_nonzero(judged.kind == "ok") == scores.tp[0]
    assert np.count_nonzero(judged.kind == "missed") == scores.fn[0] == len(judged.missed)
    assert len(judged.kind) == scores.tp[0] + scores.fp[0] + scores.fn[0]
    # Masks as a whole: the IoU of every row is that with the partner, or the largest there is.
    masks = [side.to_masks().reshape(len(side), np.prod(SHAPE)) for side in (found, truth)]
    every = [(a & b).sum() / (a | b).sum() for a in masks[0] for b in masks[1]]
    ious = np.array(every, float).reshape(len(found), len(truth))
    best = ious.max(axis=1, initial=0)
    for row, column in match(truth, found, min_iou=0.5).pairs:
        best[column] = ious[column, row]
    expected = [*best, *ious.max(axis=0, initial=0)[judged.missed]]
    np.testing.assert_allclose(judged.iou, expected)


@settings(deadline=None, max_examples=25)
@given(objects(), objects())
def test_pieces_are_those_of_the_split_and_merge_rates(truth, found):
    kind = outcomes(truth, found).kind
    counts = splits(truth, found)
    assert np.count_nonzero(kind == "merge") <= counts.merged
    assert ("split" not in kind) or counts.split > 0
    if counts.split == 0 and counts.merged == 0:
        assert not {"split", "merge"} & set(kind)
    # Alone, a found object merges what it merges in company.
    alone = [splits(truth, found.select([index])).merged for index in range(len(found))]
    assert all(alone[index] for index in np.flatnonzero(kind == "merge"))
    assert all(kind[index] in ("merge", "ok") for index in np.flatnonzero(alone))
