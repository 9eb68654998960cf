"""The overview is looked at by eye; here is what can be said of its pixels."""

import numpy as np
import pytest

from plurimask.export.pictures import DOUBT_COLOURS, composite, overview
from plurimask.instances import Instances, concatenate
from plurimask.probabilistic import ProbabilisticInstances


def certain(found: Instances, existence: float = 1.0, *, draws: int = 8) -> ProbabilisticInstances:
    seen = round(existence * draws)
    return ProbabilisticInstances(
        found.boxes,
        tuple(mask.astype(np.uint8) * seen for mask in found.masks),
        draws,
        np.full(len(found), existence),
        tuple(tuple((draw, index) for draw in range(seen)) for index in range(len(found))),
        np.zeros((0, 2), np.int64),
        found.shape,
    )


def square(shape, start, stop):
    mask = np.zeros(shape, bool)
    mask[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))] = True
    return Instances.from_masks([mask], shape)


def coloured(picture):
    """Where the picture is not grey, the legend left out."""
    inner = picture[:-46].astype(int)
    return np.ptp(inner, axis=-1) > 60


def test_outlines_lie_on_the_border_of_the_object():
    shape = (150, 150)  # drawn eight times as large
    picture = overview(np.zeros(shape, np.uint8), certain(square(shape, (40, 60), (80, 120))))
    assert picture.shape == (1200 + 46, 1200, 3)
    assert picture.dtype == np.uint8
    rows, columns = np.nonzero(coloured(picture))
    assert (rows.min(), rows.max()) == pytest.approx((40 * 8, 80 * 8), abs=3)
    assert (columns.min(), columns.max()) == pytest.approx((60 * 8, 120 * 8), abs=3)
    assert not coloured(picture)[50 * 8 : 70 * 8, 70 * 8 : 110 * 8].any()


def test_doubt_has_its_colour():
    shape = (150, 150)
    near = [np.array(DOUBT_COLOURS(doubt)[:3]) * 255 for doubt in (0.0, 0.5 / 0.6)]
    for existence, own, other in ((1.0, 0, 1), (0.5, 1, 0)):
        picture = overview(np.zeros(shape, np.uint8), certain(square(shape, (40, 60), (80, 120)), existence))
        drawn = picture[:-46][coloured(picture)].astype(float)
        strongest = drawn[np.ptp(drawn, axis=1).argmax()]
        assert np.abs(strongest - near[own]).sum() < np.abs(strongest - near[other]).sum()


def test_lightness_rises_to_yellow():
    """Blue is darker than green, green than yellow: they can be told apart without any colour."""
    lightness = [np.dot(DOUBT_COLOURS(value)[:3], (0.2126, 0.7152, 0.0722)) for value in (0, 0.25, 0.5, 0.75)]
    assert np.diff(lightness).min() > 0.03


def test_rejected_hypotheses_are_dashed():
    shape = (150, 150)
    whole = coloured(overview(np.zeros(shape, np.uint8), certain(square(shape, (40, 60), (80, 120)), 1.0)))
    dashed = coloured(overview(np.zeros(shape, np.uint8), certain(square(shape, (40, 60), (80, 120)), 0.25)))
    assert 0.1 * whole.sum() < dashed.sum() < 0.7 * whole.sum()


def test_overlaps_are_brightened_and_keep_both_outlines():
    shape = (150, 150)
    left, right = square(shape, (40, 20), (100, 80)), square(shape, (40, 60), (100, 130))
    picture = overview(np.zeros(shape, np.uint8), certain(concatenate([left, right])))
    inside = [picture[70 * 8 + 40, column * 8].astype(int).mean() for column in (30, 70, 110)]
    assert inside[1] > inside[0] + 50
    assert inside[0] == inside[2]
    line = coloured(picture)[90 * 8]
    assert all(line[column * 8 - 4 : column * 8 + 4].any() for column in (20, 60, 80, 130))


@pytest.mark.parametrize("size", [(1, 1), (7, 2900), (29, 57), (300, 40), (2401, 30)])
def test_every_size(size):
    picture = overview(np.arange(np.prod(size), dtype=np.float32).reshape(size), certain(square(size, (0, 0), size)))
    assert max(picture.shape[0] - 46, picture.shape[1]) <= 2400
    assert picture.shape[1] >= 700


def test_a_volume_is_projected():
    volume = np.zeros((4, 40, 50), np.uint8)
    volume[2, 10:20, 10:30] = 200
    picture = overview(volume, certain(square(volume.shape, (1, 10, 10), (3, 20, 30))))
    assert coloured(picture).any()
    assert picture[15 * 8, (760 - 400) // 2 + 20 * 8].mean() > 100


def test_no_object():
    picture = overview(np.zeros((1, 20, 20), np.uint8), ProbabilisticInstances.empty((20, 20), 4))
    assert not coloured(picture).any()


def test_composite_does_not_depend_on_units():
    image = np.random.default_rng(0).normal(size=(2, 30, 30))
    assert np.abs(composite(image, ndim=2).astype(int) - composite(image * 1000 + 7, ndim=2)).max() <= 1


def test_composite_channels():
    image = np.zeros((4, 8, 8), np.float32)
    for channel in range(4):
        image[channel, channel] = 1
    grey = composite(image[0], ndim=2)
    assert np.ptp(grey, axis=-1).max() == 0
    two = composite(image[:2], ndim=2)
    assert two[0, 0].tolist() == [225, 0, 225]
    assert two[1, 0].tolist() == [0, 225, 0]
    assert [composite(image[:3], ndim=2)[row, 0].argmax() for row in range(3)] == [0, 1, 2]
    assert composite(image, ndim=2).shape == composite(np.concatenate([image, image]), ndim=2).shape


def test_composite_of_nothing_known_is_black():
    image = np.full((6, 6), np.nan, np.float32)
    assert composite(image, ndim=2).max() == 0
    image[:3] = np.arange(18).reshape(3, 6)
    assert composite(image, ndim=2)[4, 0].max() == 0
