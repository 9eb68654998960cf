"""Overlaps and gaps of drawn objects: digits own a pixel, ``#`` is an overlap, ``.`` is background."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from plurimask.instances import Instances
from plurimask.ops.components import bridges, objects, reconnect, scored, within, without_small

Maps = tuple[NDArray[np.int32], NDArray[np.bool_]]


def drawn(picture: str) -> Maps:
    """Labels and overlap map of a drawing."""
    signs = np.array([list(line.strip()) for line in picture.strip().splitlines()])
    return np.where(np.char.isdigit(signs), signs, "0").astype(np.int32), signs == "#"


def mask(picture: str) -> NDArray[np.bool_]:
    return np.array([[sign == "x" for sign in line.strip()] for line in picture.strip().splitlines()])


def naive(labels: NDArray[np.int32], overlap: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The paper's heuristic as it is written, on whole images."""
    kept = []
    for number in np.unique(labels[labels > 0]):
        own = labels == number
        parts, count = ndimage.label(own | overlap, np.ones((3,) * labels.ndim))
        masks = [parts == part for part in range(1, count + 1)]
        kept.append(max(masks, key=lambda part: (part & own).sum() / (part | own).sum()))
    return np.array(kept)


def maps_of(truth: NDArray[np.bool_]) -> Maps:
    """What a perfect network sees: the owner where there is one, and where there are several."""
    owners = truth.sum(axis=0)
    return np.where(owners == 1, truth.argmax(axis=0) + 1, 0).astype(np.int32), owners > 1


CROSSING = """
    ...22.....
    ...22.....
    111##11111
    111##11111
    ...22.....
    ...22.....
"""


def test_crossing_objects_come_back_whole() -> None:
    labels, overlap = drawn(CROSSING)
    found = reconnect(labels, overlap).to_masks()
    np.testing.assert_array_equal(found[0], (labels == 1) | overlap)
    np.testing.assert_array_equal(found[1], (labels == 2) | overlap)


def test_crossing_objects_of_the_toy_image_come_back_whole(crossing_worms_masks: NDArray[np.bool_]) -> None:
    found = reconnect(*maps_of(crossing_worms_masks)).to_masks()
    np.testing.assert_array_equal(found, crossing_worms_masks)


def test_crossing_objects_in_a_volume_come_back_whole() -> None:
    truth = np.zeros((2, 9, 9, 9), np.bool_)
    truth[0, :, 3:6, 3:6] = True
    truth[1, 3:6, :, 3:6] = True
    labels, overlap = maps_of(truth)
    np.testing.assert_array_equal(reconnect(labels, overlap).to_masks(), truth)
    # The overlap is missed, and its pixels are given to the second object.
    labels[overlap] = 2
    cut = reconnect(labels, np.zeros_like(overlap)).to_masks()
    assert cut[0].sum() == 27
    # The gap has the width of the missed overlap, and its 27 pixels are the bridge.
    whole = reconnect(labels, np.zeros_like(overlap), max_gap=4).to_masks()
    assert (truth <= whole).all()
    assert (whole[0] | whole[1]).sum() == (truth[0] | truth[1]).sum()


def test_without_overlaps_the_labels_are_the_objects() -> None:
    labels, overlap = drawn("""
        11.3
        1122
        ..22
    """)
    found = reconnect(labels, overlap)
    np.testing.assert_array_equal(found.to_masks(), [labels == 1, labels == 2, labels == 3])
    assert found.scores.tolist() == [1, 1, 1]


def test_of_an_object_in_pieces_that_nothing_joins_the_largest_stays() -> None:
    labels, overlap = drawn("1.11.111.#")
    np.testing.assert_array_equal(reconnect(labels, overlap).to_masks(), [mask(".....xxx..")])


def test_an_overlap_far_from_everything_belongs_to_nobody() -> None:
    labels, overlap = drawn("""
        11...##
        11...##
        .......
        22.....
    """)
    np.testing.assert_array_equal(reconnect(labels, overlap).to_masks(), [labels == 1, labels == 2])


def test_corners_count_as_contact() -> None:
    labels, overlap = drawn("""
        11.
        ..#
    """)
    assert reconnect(labels, overlap).areas.tolist() == [3]


BYSTANDER = """
    ...22......
    ...22......
    111##111...
    111##111...
    ...2233333.
    ...2233333.
"""


def test_the_paper_gives_an_overlap_to_whoever_touches_it() -> None:
    labels, overlap = drawn(BYSTANDER)
    assert reconnect(labels, overlap).areas.tolist() == [12 + 4, 8 + 4, 10 + 4]


def test_a_small_contact_is_not_enough() -> None:
    labels, overlap = drawn(BYSTANDER)
    # All 4 pixels of the overlap touch objects 1 and 2, one (its lower right corner) touches object 3.
    assert reconnect(labels, overlap, min_contact=0.25).areas.tolist() == [16, 12, 14]
    assert reconnect(labels, overlap, min_contact=0.26).areas.tolist() == [16, 12, 10]


def test_an_overlap_that_joins_two_pieces_is_taken_however_small_the_contact() -> None:
    labels, overlap = drawn("""
        1........1
        1........1
        1########1
        .22222222.
    """)
    # Object 2 touches 8 pixels of the overlap, object 1 two.
    assert reconnect(labels, overlap, min_contact=0.5).areas.tolist() == [6 + 8, 8 + 8]
    # Pieces too small to count join nothing: one piece of half the object stays.
    assert reconnect(labels, overlap, min_contact=0.5, min_piece=0.6).areas.tolist() == [3, 16]


CUT = """
    ....22....
    ....22....
    111122111.
    111122111.
    ....22....
    ....22....
"""


def test_a_missed_crossing_is_bridged() -> None:
    labels, overlap = drawn(CUT)
    assert reconnect(labels, overlap).areas.tolist() == [8, 12]
    # The pieces end in columns 3 and 6.
    assert reconnect(labels, overlap, max_gap=2.9).areas.tolist() == [8, 12]
    found = reconnect(labels, overlap, max_gap=3).to_masks()
    np.testing.assert_array_equal(found[1], labels == 2)
    whole = (labels == 1) | ((labels == 2) & (np.arange(6)[:, None] // 2 == 1))
    assert (whole <= found[0]).all()
    # Beyond its ends a bridge is at most SLACK wider.
    assert found[0].sum() - whole.sum() <= 4


def test_bridges_lead_only_between_pieces_that_no_overlap_joins() -> None:
    assert not bridges(*drawn(CROSSING), max_gap=9).any()
    missing = bridges(*drawn("11..1..33"), max_gap=3, min_piece=0.1)
    np.testing.assert_array_equal(missing, mask("..xx....."))
    assert not bridges(*drawn("11..1"), max_gap=3, min_piece=0.4).any()
    assert not bridges(*drawn("....."), max_gap=3).any()


def test_labels_under_overlaps_count_for_the_iou() -> None:
    labels = np.array([[1, 1, 0, 1, 1, 1, 0, 1]], np.int32)
    overlap = np.array([[0, 0, 0, 1, 1, 1, 0, 0]], bool)
    # IoU 3/6 of the blob, whose pixels are all the object's; 2/6 and 1/6 of the pieces.
    np.testing.assert_array_equal(reconnect(labels, overlap).to_masks(), [overlap])


def test_an_object_wholly_under_an_overlap_is_that_overlap() -> None:
    labels = np.array([[2, 2, 2, 5, 2, 2]], np.int32)
    overlap = np.array([[0, 0, 0, 1, 1, 0]], bool)
    found = reconnect(labels, overlap, min_contact=0.9)
    np.testing.assert_array_equal(found.to_masks(), [labels > 0, overlap])


@pytest.mark.parametrize("shape", [(24, 30), (9, 10, 11)])
def test_equals_the_heuristic_as_written(shape: tuple[int, ...]) -> None:
    generator = np.random.default_rng(0)
    for _ in range(20):
        coarse = generator.integers(0, 5, [size // 3 + 1 for size in shape])
        labels = np.kron(coarse, np.ones((3,) * len(shape), int))[tuple(map(slice, shape))].astype(np.int32)
        labels[generator.random(shape) < 0.4] = 0
        overlap = generator.random(shape) < 0.05
        if generator.random() < 0.5:
            labels[overlap] = 0
        want, found = naive(labels, overlap), reconnect(labels, overlap).to_masks()
        # Several parts may have the same IoU; any of them is right.
        own = [labels == number for number in np.unique(labels[labels > 0])]
        for wanted, came, mine in zip(want, found, own, strict=True):
            assert (came & mine).sum() / (came | mine).sum() == (wanted & mine).sum() / (wanted | mine).sum()
            assert ndimage.label(came, np.ones((3,) * len(shape)))[1] == 1


def test_renumbering_and_turning_change_nothing() -> None:
    labels, overlap = drawn(BYSTANDER)
    plain = reconnect(labels, overlap, min_contact=0.3, max_gap=2).to_masks()
    numbers = np.array([0, 70, 8, 300])
    renumbered = reconnect(numbers[labels], overlap, min_contact=0.3, max_gap=2).to_masks()
    np.testing.assert_array_equal(renumbered, plain[[1, 0, 2]])
    turned = reconnect(labels.T, overlap.T, min_contact=0.3, max_gap=2).to_masks()
    np.testing.assert_array_equal(turned, plain.transpose(0, 2, 1))


def test_an_empty_image_has_no_objects() -> None:
    nothing = np.zeros((4, 5), np.int32)
    for overlap in (np.zeros((4, 5), bool), np.ones((4, 5), bool)):
        found = reconnect(nothing, overlap, min_contact=0.3, max_gap=5)
        assert len(found) == 0 and found.shape == (4, 5)


def test_what_cannot_be_meant_is_refused() -> None:
    labels = np.zeros((4, 5), np.int32)
    with pytest.raises(ValueError, match="must be equal"):
        reconnect(labels, np.zeros((5, 4), bool))
    with pytest.raises(ValueError, match="boolean"):
        reconnect(labels, labels.astype(np.uint8))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="add 1"):
        reconnect(labels - 1, labels > 0)


def test_scores_are_given_or_averaged() -> None:
    found = Instances.from_labels(np.array([[1, 1, 0, 2]]))
    assert scored(found, [0.25, 0.5]).scores.tolist() == [0.25, 0.5]
    assert scored(found, np.array([[0.25, 0.75, 1.0, 0.125]])).scores.tolist() == [0.5, 0.125]
    assert len(scored(Instances.empty((3, 4)), np.ones((3, 4)))) == 0
    with pytest.raises(ValueError, match="one per object"):
        scored(found, [0.5])
    for wrong in (1.5, -0.5, np.nan):
        with pytest.raises(ValueError, match=r"\[0, 1\]"):
            scored(found, [0.5, wrong])


def test_small_objects_go_with_their_scores() -> None:
    labels = np.array([[1, 1, 1, 2, 0, 3, 3]])
    found = objects(labels, scores=[0.1, 0.2, 0.3], min_area=2)
    assert found.areas.tolist() == [3, 2] and found.scores.tolist() == [0.1, 0.3]
    assert objects(labels).scores.tolist() == [1, 1, 1]
    assert len(without_small(found, 4)) == 0


@pytest.mark.data
def test_real_worms_come_back(real_data: Path) -> None:
    imageio = pytest.importorskip("imageio.v3")
    files = sorted((real_data / "bbbc010" / "BBBC010_v1_foreground_eachworm").glob("A0[1-4]_*_ground_truth.png"))
    for well in ("A01", "A02", "A03", "A04"):
        truth = np.stack([imageio.imread(file) > 0 for file in files if file.name.startswith(well)])
        labels, overlap = maps_of(truth)
        found = reconnect(labels, overlap, min_contact=0.2, max_gap=20).to_masks()
        iou = (found & truth).sum(axis=(1, 2)) / (found | truth).sum(axis=(1, 2))
        assert iou.mean() > 0.99


def test_objects_end_where_a_region_does():
    maps = np.array([mask("xxx..\nxxx..\n....."), mask(".....\n..xxx\n..xxx"), mask(".....\n.....\nx....")])
    found = replace(Instances.from_masks(maps, (3, 5)), scores=np.array([0.3, 0.5, 0.7]))
    region = mask(".xx..\n.xx..\n.....")
    cut = within(found, region)
    assert cut.to_masks().tolist() == (maps[:2] & region).tolist()
    assert cut.boxes.tolist() == [[[0, 1], [2, 3]], [[1, 2], [2, 3]]]
    assert cut.scores.tolist() == [0.3, 0.5]
    assert len(within(found, np.zeros((3, 5), bool))) == len(within(Instances.empty((3, 5)), region)) == 0


def test_features_stay_with_what_is_left_of_their_objects():
    maps = np.array([mask("xxx..\nxxx.."), mask("..x..\n....."), mask(".....\n..xxx")])
    contours, borders = np.arange(3 * 4 * 2.0).reshape(3, 4, 2), np.arange(3 * 2 * 2.0).reshape(3, 2, 2)
    features = {"kind": np.array(["a", "b", "c"]), "contour": contours, "border": borders}
    found = replace(Instances.from_masks(maps, (2, 5)), scores=np.array([0.3, 0.5, 0.7]), features=features)
    region = mask("xx...\n....x")  # nothing of the second is left
    cut = within(found, region)
    assert cut.to_masks().tolist() == (maps[[0, 2]] & region).tolist()
    assert cut.scores.tolist() == [0.3, 0.7]
    assert cut.features["kind"].tolist() == ["a", "c"]
    assert cut.features["contour"].tolist() == contours[[0, 2]].tolist()  # whole, as in every other frame
    assert cut.features["border"].tolist() == borders[[0, 2]].tolist()
    nothing = within(found, np.zeros((2, 5), bool))
    assert {name: values.shape for name, values in nothing.features.items()} == {
        "kind": (0,),
        "contour": (0, 4, 2),
        "border": (0, 2, 2),
    }
    assert found.features is features and len(found) == 3  # what was given is left alone
