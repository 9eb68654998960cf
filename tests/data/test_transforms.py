"""Owner combinations, and crops in which image and objects are bent alike."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from plurimask.data.transforms import Augmentation, Combinations, crop_centre, cut, to_combinations, to_instances
from plurimask.instances import Instances
from plurimask.testing import drawn, toy_truths

NOTHING = Augmentation(
    rotation=0, scale=0, shear=0, elastic=0, contrast=0, brightness=0, gamma=1, blur=0, noise=0, spacing=8
)


def flipped(array, axes):
    """Every way to flip the given axes."""
    for choice in range(2 ** len(axes)):
        yield np.flip(array, [axis for number, axis in enumerate(axes) if choice >> number & 1])


def random_masks(ndim, seed, count=6):
    """Boxes that overlap in pairs, in threes, and that contain each other."""
    generator = np.random.default_rng(seed)
    shape = (23, 31) if ndim == 2 else (9, 14, 11)
    masks = np.zeros((count, *shape), bool)
    for mask in masks:
        start = generator.integers(0, np.array(shape) // 2)
        stop = start + generator.integers(2, np.array(shape) // 2)
        mask[tuple(map(slice, start, stop))] = generator.random(stop - start) < 0.8
    return masks[masks.reshape(count, -1).any(1)]


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("seed", range(5))
def test_there_and_back(ndim, seed):
    masks = random_masks(ndim, seed)
    assert masks.sum(0).max() >= 2, "test invalid: nothing overlaps"
    combinations = to_combinations(Instances.from_masks(masks, masks.shape[1:]))
    np.testing.assert_array_equal(to_instances(combinations).to_masks(), masks)
    # The definition, pixel by pixel: the id says exactly who owns the pixel.
    for pixel in np.ndindex(masks.shape[1:]):
        owners = tuple(np.flatnonzero(masks[(slice(None), *pixel)]))
        assert combinations.owners[combinations.ids[pixel]] == owners


def test_a_drawn_crossing():
    combinations = to_combinations(drawn(["aax.\n..b."]))
    assert combinations.ids.tolist() == [[1, 1, 3, 0], [0, 0, 2, 0]] or combinations.ids[0, 2] not in (0, 1, 2)
    assert combinations.owners[0] == ()
    assert combinations.owners[combinations.ids[0, 2]] == (0, 1)


def test_objects_that_are_cut_away_are_gone_and_pieces_stay_one():
    truth = Instances.from_labels(np.array([[1, 1, 0, 2, 0, 1]]))
    combinations = to_combinations(truth)
    left = to_instances(replace(combinations, ids=combinations.ids[:, [0, 1, 2, 5]]))
    assert left.to_masks().astype(int).tolist() == [[[1, 1, 0, 1]]]
    assert len(to_instances(to_combinations(Instances.empty((4, 5))))) == 0


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("seed", range(4))
def test_no_augmentation_is_the_identity_but_for_flips(ndim, seed):
    size = 48 if ndim == 2 else 20
    ids = cut(to_combinations(toy_truths(ndim)["touching blobs"]).ids, centre=np.array([10] * ndim), size=size)
    image = np.indices(ids.shape).astype(np.float32)  # every pixel says where it comes from
    found, found_ids = NOTHING.spatial(image, ids[None], size=size, generator=np.random.default_rng(seed))
    found_ids = found_ids[0]
    assert found.dtype == np.float32 and found_ids.dtype == np.int32
    # In 2-D MONAI enlarges its grid with torch's cubic kernel, which bends a line by 1/20 of a node's distance.
    bend = 0.05 * NOTHING.spacing if ndim == 2 else 1e-3
    inside = (..., *(slice(2, -2),) * ndim)
    spatial = range(1, ndim + 1)
    matches = [np.abs(found - one)[inside].max() <= bend for one in flipped(image, spatial)]
    assert sum(matches) == 1
    wanted = list(flipped(ids, range(ndim)))[matches.index(True)]
    uniform = ndimage.minimum_filter(wanted, 3) == ndimage.maximum_filter(wanted, 3)
    assert uniform[wanted > 0].any(), "test invalid: no pixel is far from an edge"
    np.testing.assert_array_equal(found_ids[uniform], wanted[uniform])


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("seed", range(4))
def test_image_and_objects_are_bent_alike(ndim, seed):
    # The image IS the ids. Far from an edge between ids, linear and nearest resampling agree.
    size, whole = (64, 120) if ndim == 2 else (20, 44)
    grid = np.indices((whole,) * ndim) // 9
    ids = (1 + grid.sum(0) % 3 + 3 * (grid[0] % 2)).astype(np.int32)
    augmentation = Augmentation(elastic=2.0, spacing=24.0)
    image, (bent,) = augmentation.spatial(
        ids[None].astype(np.float32), ids[None], size=size, generator=np.random.default_rng(seed)
    )
    assert image.shape == (1, *(size,) * ndim) and bent.shape == (size,) * ndim
    straight = cut(ids, centre=np.full(ndim, whole // 2), size=size)
    assert not any(np.array_equal(bent, one) for one in flipped(straight, range(ndim))), "test invalid: not bent"
    reach = 5 if ndim == 2 else 3
    inside = ndimage.minimum_filter(bent, reach, mode="constant") == ndimage.maximum_filter(bent, reach)
    assert inside.mean() > 0.05, "test invalid: no pixel is far from an edge"
    np.testing.assert_allclose(image[0][inside], bent[inside], atol=1e-3)


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("rescale", [0.0, 1.0])
def test_several_maps_are_bent_alike(ndim, rescale):
    # The second map is what the first leaves free: bent in another way they would overlap, or leave gaps.
    size, whole = (48, 120) if ndim == 2 else (16, 44)
    first = (np.indices((whole,) * ndim) // 9).sum(0).astype(np.int32) % 2
    maps = np.stack([first, 1 - first])
    augmentation = Augmentation(elastic=2.0, spacing=24.0, rescale=rescale, object_sides=(1, 1000), zoom=1.3)
    _, bent = augmentation.spatial(maps[:1].astype(np.float32), maps, size=size, generator=np.random.default_rng(0))
    assert bent.shape == (2, *(size,) * ndim)
    np.testing.assert_array_equal(bent.sum(0), 1)
    assert 0.2 < bent[0].mean() < 0.8, "test invalid: a map is almost empty"


def squares(*sides, whole=200):
    """Squares of these sides along the diagonal."""
    ids, start = np.zeros((whole, whole), np.int32), 10
    for number, side in enumerate(sides, start=1):
        ids[start : start + side, start : start + side] = number
        start += side + 5
    return ids


@pytest.mark.parametrize(
    ("sides", "object_sides", "lowest", "highest"),
    [
        ((10, 30), (5, 45), 0.5, 1.5),  # the small one may be halved, the large one grow by half
        ((10, 30), (12, 20), 1.0, 1.0),  # beyond both already
        ((10,), (1, 90), 1 / 3, 3.0),  # only the zoom sets limits
    ],
)
def test_rescaling_keeps_objects_within_sizes(sides, object_sides, lowest, highest):
    augmentation = Augmentation(rescale=1.0, zoom=3.0, object_sides=object_sides)
    factors = [augmentation._factor(squares(*sides)[None], np.random.default_rng(seed)) for seed in range(400)]
    assert lowest <= min(factors) and max(factors) <= highest
    # Uniform: the extremes of 400 draws lie within 3 % of the limits, but with a probability of 1e-5.
    assert min(factors) - lowest <= 0.03 * (highest - lowest) and highest - max(factors) <= 0.03 * (highest - lowest)


def test_rescaling_keeps_the_objects_of_all_maps_within_sizes():
    augmentation = Augmentation(rescale=1.0, zoom=3.0, object_sides=(5, 45))
    maps = np.stack([squares(), squares(10), squares(30)])
    factors = [augmentation._factor(maps, np.random.default_rng(seed)) for seed in range(100)]
    assert 0.5 <= min(factors) < 0.6 and 1.4 < max(factors) <= 1.5


def test_rescaling_happens_to_a_share_and_not_without_objects():
    augmentation = Augmentation(rescale=0.2)
    factors = np.array([augmentation._factor(squares(20)[None], np.random.default_rng(seed)) for seed in range(2000)])
    assert np.mean(factors != 1) == pytest.approx(0.2, abs=5 * np.sqrt(0.2 * 0.8 / 2000))
    assert replace(augmentation, rescale=1)._factor(squares()[None], np.random.default_rng(0)) == 1
    generator = np.random.default_rng(0)
    assert Augmentation()._factor(squares(20)[None], generator) == 1
    assert generator.random() == np.random.default_rng(0).random()  # the crops of other settings stay what they are


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("factor", [0.5, 1.0, 2.0])
def test_a_factor_enlarges_image_and_objects(ndim, factor, monkeypatch):
    monkeypatch.setattr(Augmentation, "_factor", lambda *_: factor)
    whole, size, side = 64, 48, 16
    ids = np.zeros((whole,) * ndim, np.int32)
    ids[(slice((whole - side) // 2, (whole + side) // 2),) * ndim] = 1
    ids = ids[None]
    image, bent = NOTHING.spatial(ids.astype(np.float32), ids, size=size, generator=np.random.default_rng(0))
    for volume in (bent.sum(), image.sum()):
        assert volume ** (1 / ndim) == pytest.approx(factor * side, abs=1.5)


def test_the_margin_of_rescaling_fills_every_crop():
    augmentation = Augmentation(rescale=1.0, zoom=2.0, object_sides=(1, 1000))
    whole = 64 + 2 * augmentation.margin(64)
    ones = np.ones((1, whole, whole), np.int32)
    for seed in range(10):
        generator = np.random.default_rng(seed)
        assert augmentation.spatial(ones.astype(np.float32), ones, size=64, generator=generator)[1].all()


@pytest.mark.parametrize(
    "wrong", [{"rescale": 1.2}, {"mix": -0.1}, {"zoom": 0.5}, {"object_sides": (9, 3)}, {"object_sides": (0, 3)}]
)
def test_augmentation_that_cannot_be_meant_is_refused(wrong):
    with pytest.raises(ValueError, match="correct what is not"):
        Augmentation(**wrong)


def test_mixing_in_the_stretched_crop():
    # Values 0.2 to 0.4 stretched are 0 to 1; the mixture is a line through both, by the share.
    image = np.linspace(0.2, 0.4, 5001, dtype=np.float32).reshape(1, 1, -1)
    shares = []
    for seed in range(50):
        found = replace(NOTHING, mix=0.5).intensity(image, np.random.default_rng(seed))[0, 0]
        share = (found[-1] - 0.4) / 0.6  # share * 1 + (1 - share) * 0.4
        assert found[0] == pytest.approx((1 - share) * 0.2, abs=1e-5)
        assert found[2500] == pytest.approx(share * 0.5 + (1 - share) * 0.3, abs=1e-3)
        shares.append(share)
    assert -1e-6 <= min(shares) < 0.05 and 0.45 < max(shares) <= 0.5 + 1e-6


def test_the_margin_fills_every_crop():
    augmentation = Augmentation()
    for size, count in ((64, 10), (200, 4)):
        whole = size + 2 * augmentation.margin(size)
        ones = np.ones((1, whole, whole), np.int32)
        for seed in range(count):
            generator = np.random.default_rng(seed)
            _, ids = augmentation.spatial(ones.astype(np.float32), ones, size=size, generator=generator)
            assert ids.all()


def test_intensity_without_changes_and_with():
    image = np.random.default_rng(0).normal(0.5, 0.4, (2, 16, 16)).astype(np.float32)
    np.testing.assert_allclose(NOTHING.intensity(image, np.random.default_rng(0)), image, atol=1e-6)
    # One change at a time, read off the result.
    brighter = replace(NOTHING, brightness=0.2).intensity(image, np.random.default_rng(1)) - image
    assert np.ptp(brighter) < 1e-5 and 0 < abs(brighter.mean()) <= 0.2
    factor = replace(NOTHING, contrast=0.3).intensity(image, np.random.default_rng(1)) / image
    assert np.ptp(factor) < 1e-4 and 0 < abs(factor.mean() - 1) <= 0.3
    power = replace(NOTHING, gamma=1.5).intensity(image, np.random.default_rng(1))
    exponents = np.log(np.abs(power)) / np.log(np.abs(image))
    assert np.ptp(exponents[np.abs(np.log(np.abs(image))) > 0.1]) < 1e-2
    assert 1 / 1.5 <= np.median(exponents) <= 1.5
    assert (np.sign(power) == np.sign(image)).all()  # below the low percentile values are negative
    assert np.isfinite(Augmentation().intensity(image, np.random.default_rng(2))).all()


@pytest.mark.parametrize("size", [40, 320])
@pytest.mark.parametrize(("near_object", "near_overlap", "classes"), [(1, 0, {1, 2}), (0, 1, {2}), (1, 1, {2})])
def test_centres_lie_near_what_they_are_meant_for(near_object, near_overlap, classes, size):
    owners = np.zeros((400, 500), np.int32)
    owners[100, 100], owners[300, 400] = 1, 2
    combinations = Combinations(owners, ((), (0,), (0, 1)))
    near = set()
    for seed in range(40):
        generator = np.random.default_rng(seed)
        centre = crop_centre(
            combinations, size=size, near_object=near_object, near_overlap=near_overlap, generator=generator
        )
        distances = np.abs(centre - [[100, 100], [300, 400]]).max(1)
        assert distances.min() <= min(40, size / 4)  # so that it lies within the crop, even after a rotation
        near.add(int(distances.argmin()) + 1)
    assert near == classes


def test_where_nothing_overlaps_an_object_will_do():
    combinations = to_combinations(Instances.from_labels(np.pad([[1]], 300)))
    for seed in range(20):
        generator = np.random.default_rng(seed)
        centre = crop_centre(combinations, size=160, near_object=0, near_overlap=1, generator=generator)
        assert np.abs(centre - 300).max() <= 40


def test_crops_hang_over_the_border_by_an_eighth_at_most():
    corner = np.zeros((300, 120), np.int32)
    corner[:3, :3] = 1
    combinations = Combinations(corner, ((), (0,)))
    for seed in range(40):
        generator = np.random.default_rng(seed)
        centre = crop_centre(combinations, size=160, near_object=0.5, near_overlap=0, generator=generator)
        assert 60 <= centre[0] <= 240  # 160 / 2 - 160 / 8
        assert centre[1] == 60  # the image is narrower than the crop: in the middle


@pytest.mark.parametrize("truth", [Instances.empty((30, 40)), Instances.from_labels(np.eye(30, 40, dtype=int))])
def test_centres_without_anything_to_be_near(truth):
    combinations = to_combinations(truth)
    share = 0.0 if len(truth) else 0.5
    centres = [
        crop_centre(combinations, size=32, near_object=share, near_overlap=share, generator=np.random.default_rng(seed))
        for seed in range(300)
    ]
    assert (np.array(centres) >= 0).all() and (np.array(centres) < (30, 40)).all()
    # Uniform: the mean of 300 draws from 0..n-1 has a standard error of n / sqrt(12 * 300).
    error = np.array([30, 40]) / np.sqrt(12 * 300)
    assert (np.abs(np.mean(centres, axis=0) - (14.5, 19.5)) < 5 * error).all()


@pytest.mark.parametrize("size", [1, 4, 7, 30])
@pytest.mark.parametrize("centre", [(0, 0), (5, 3), (9, 11), (-50, 70)])
def test_cut_pixel_by_pixel(size, centre):
    image = np.arange(2 * 10 * 12).reshape(2, 10, 12) + 1
    found = cut(image, centre=np.array(centre), size=size)
    assert found.shape == (2, size, size)
    start = np.clip(centre, 0, (9, 11)) - size // 2  # a centre outside is moved to the border
    for y, x in np.ndindex(size, size):
        there = start + np.array([y, x])
        inside = (there >= 0).all() and (there < (10, 12)).all()
        wanted = image[:, *there] if inside else np.zeros(2)
        np.testing.assert_array_equal(found[:, y, x], wanted)


def test_features_stay_with_the_objects_that_are_left():
    truth = replace(Instances.from_labels(np.array([[1, 2, 0, 3]])), features={"class": np.array([5, 6, 7])})
    combinations = to_combinations(truth)
    assert to_instances(combinations).features["class"].tolist() == [5, 6, 7]
    assert to_instances(replace(combinations, ids=combinations.ids[:, [0, 3]])).features["class"].tolist() == [5, 7]
    assert to_instances(replace(combinations, ids=combinations.ids[:, 2:3])).features["class"].tolist() == []
