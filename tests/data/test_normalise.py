"""Intensities to a common range."""

import math

import numpy as np
import pytest

from plurimask.data.normalise import MixedNormalisation, Normalisation, stretched
from plurimask.methods import Semantic
from plurimask.model import Model, describe, load_model, network_factory
from plurimask.networks import UNet
from plurimask.posteriors import Deterministic


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float16, np.float32, np.float64])
def test_percentiles_become_0_and_1(dtype):
    # 0..100: the n-th percentile is n.
    image = np.arange(101).astype(dtype).reshape(1, 101, 1)
    found = Normalisation(low=10, high=90)(image)
    assert found.dtype == np.float32
    assert found.shape == image.shape
    np.testing.assert_allclose(found.ravel(), (np.arange(101) - 10) / 80, atol=1e-6)  # no clipping


def test_channels_do_not_mix():
    ramp = np.linspace(0, 1, 1000).reshape(1, 10, 100)
    both = Normalisation()(np.concatenate([ramp, 1000 - 500 * ramp]))
    np.testing.assert_allclose(both[0], Normalisation()(ramp)[0])
    assert both[1].min() == pytest.approx(-(both[0].max() - 1), abs=0.02)
    assert np.corrcoef(both[0].ravel(), both[1].ravel())[0, 1] == pytest.approx(-1)


@pytest.mark.parametrize("gain", [0.001, 1, 300])
def test_gain_and_offset_of_the_camera_do_not_matter(gain):
    image = np.random.default_rng(0).normal(size=(2, 5, 9, 11))
    np.testing.assert_allclose(Normalisation()(gain * image + 7), Normalisation()(image), atol=1e-4)


@pytest.mark.parametrize("value", [0, 5, 65535])
def test_a_constant_channel_becomes_0(value):
    assert not Normalisation()(np.full((1, 20, 20), value, np.uint16)).any()


def test_few_objects_on_a_flat_ground_do_not_vanish():
    # 12 of 10,000 pixels: the percentiles 1 and 99.8 are both 0.
    image = np.zeros((1, 100, 100), np.uint8)
    image[0, 50:53, 50:54] = 200
    found = Normalisation()(image)
    assert found.max() == 1 and found.min() == 0
    assert np.count_nonzero(found) == 12


def test_a_mask_is_an_image():
    image = np.zeros((1, 4, 4), bool)
    image[0, :2] = True
    np.testing.assert_array_equal(Normalisation()(image), image)


GREY = MixedNormalisation(colours=False)


def checkers(low, high, *, shape=(1, 20, 20), dtype=np.uint8):
    """Half of the pixels of each channel have one value, half the other."""
    return np.where(np.indices(shape).sum(0) % 2, high, low).astype(dtype)


def test_stretching_leaves_zeros_and_other_channels_out():
    # The values 1..101 have the percentiles n -> n + 1; zeros beside them change nothing.
    ramp = np.concatenate([np.zeros(99), np.arange(1, 102)]).reshape(1, 10, 20)
    found = stretched(np.concatenate([ramp, 7 * ramp]).astype(np.uint16), low=10, high=90)
    wanted = np.clip((ramp[0] - 11) / 80, 0, 1)
    np.testing.assert_allclose(found, [wanted, wanted], atol=1e-6)
    assert found.dtype == np.float32


def test_stretching_what_has_no_range():
    flat = np.concatenate([np.zeros((1, 4, 4)), np.full((1, 4, 4), 9), np.eye(4)[None] * 5])
    found = stretched(flat, low=1, high=99)
    assert not found[:2].any()  # constant
    np.testing.assert_array_equal(found[2], np.eye(4))  # the only value but 0: between the extremes


@pytest.mark.parametrize(
    ("mean", "exponent"),
    [(0.1, 0.6), (17 * math.pi / 3, 0.7), (17 * math.pi / 2, 0.8), (17 * math.pi, 1.0), (100, 1.0)],
)
def test_dark_images_are_brightened_by_a_power_of_their_mean(mean, exponent):
    # 0.6 + 0.4 (1 - (cos(m / 17) + 1) / 2): cos(pi / 3) = 1/2 gives 0.7, cos(pi / 2) = 0 gives 0.8.
    image = checkers(0, 2 * mean, dtype=np.float64)
    image[0, 0, :2] = 2.5, image[0, 0, 0] + image[0, 0, 1] - 2.5  # so that it is no image of 0 to 1; the mean stays
    found = GREY._brightened(image)
    np.testing.assert_allclose(found, np.clip(image / 255, 0, 1) ** exponent, atol=2e-5)


@pytest.mark.parametrize(("dtype", "top"), [(np.uint16, 90.0), (np.int32, 90.0), (np.float32, 80.0)])
def test_more_than_8_bits_are_clipped_at_two_percentiles_of_all_channels(dtype, top):
    # Of 0, 10, ..., 1000 the n-th percentile is 10 n. Two channels, lower and upper half, are one image here.
    values = np.append(np.arange(0, 1001, 10), 500).reshape(2, 51, 1).astype(dtype)
    found = MixedNormalisation(top=90, top_real=80)(values)
    wanted = np.clip((values - 10 * (100 - top)) / (10 * (2 * top - 100)), 0, 1)
    np.testing.assert_allclose(found, wanted, atol=0.01)  # the value too many moves percentiles by a tenth of a step


def test_8_bits_keep_their_range_also_as_real_numbers():
    image = checkers(100, 200)
    for seen in (image, image.astype(np.float32)):  # as rescaling leaves it
        np.testing.assert_allclose(GREY(seen), image / 255, atol=1e-6)
    np.testing.assert_allclose(GREY(checkers(0.2, 0.8, dtype=np.float32)), checkers(0, 1), atol=1e-6)
    np.testing.assert_allclose(GREY(checkers(1000, 2000, dtype=np.uint16)), checkers(0, 1), atol=1e-6)


def test_dark_flat_grey_images_are_mixed_half_and_half():
    # Mean 12, sigma 2. (b): gamma, 33 of 255 on average. (a): percentiles 10 and 14 become 0 and 1.
    image = checkers(10, 14)
    gamma = 0.6 + 0.4 * (1 - (math.cos(12 / 17) + 1) / 2)
    bright = (image / 255) ** gamma
    assert 255 * bright.mean() < 45 and 255 * bright.std() < 33
    np.testing.assert_allclose(GREY(image), 0.5 * checkers(0, 1) + 0.5 * bright, atol=1e-6)
    # Brighter: (b) alone. Three channels: (b) alone as well.
    image = checkers(44, 48)
    gamma = 0.6 + 0.4 * (1 - (math.cos(46 / 17) + 1) / 2)
    assert 255 * ((image / 255) ** gamma).mean() > 45
    np.testing.assert_allclose(GREY(image), (image / 255) ** gamma, atol=1e-6)
    image = np.repeat(checkers(10, 14), 3, axis=0)
    np.testing.assert_allclose(MixedNormalisation()(image), np.repeat(bright, 3, axis=0), atol=1e-6)


@pytest.mark.parametrize(("blue", "stretch"), [((205, 215), True), ((190, 200), False), ((180, 240), False)])
def test_colours_with_a_bright_flat_blue_are_stretched(blue, stretch):
    # Means 210, 195, 210 and sigmas 5, 5, 30 of the blue.
    image = np.concatenate([checkers(50, 150), checkers(0, 90), checkers(*blue)])
    ends = [(50, 150), (0, 90), blue]
    if stretch:  # but the zeros of the green: what is left is constant, so that the extremes count
        wanted = [(channel - low) / (high - low) for channel, (low, high) in zip(image, ends, strict=True)]
    else:
        wanted = image / 255
    np.testing.assert_allclose(MixedNormalisation()(image), wanted, atol=1e-6)


@pytest.mark.parametrize("shape", [(1, 6, 8), (1, 3, 6, 8)])
def test_a_grey_image_becomes_three_equal_channels(shape):
    image = checkers(60, 200, shape=shape)
    found = MixedNormalisation()(image)
    assert found.shape == (3, *shape[1:]) and found.dtype == np.float32
    np.testing.assert_array_equal(found, np.repeat(GREY(image), 3, axis=0))
    assert MixedNormalisation()(np.repeat(image, 3, axis=0)).shape == (3, *shape[1:])
    assert MixedNormalisation()(np.repeat(image, 2, axis=0)).shape == (2, *shape[1:])


@pytest.mark.parametrize("gain", [0.3, 1, 2])
def test_what_was_changed_after_normalising_is_as_if_changed_before(gain):
    raw = np.random.default_rng(0).uniform(0, 65536, (2, 9, 11))
    seen = Normalisation()(raw)
    np.testing.assert_allclose(Normalisation().renewed(gain * seen + 0.1), Normalisation()(gain * raw + 7), atol=1e-5)


@pytest.mark.parametrize("kind", [MixedNormalisation(), GREY])
def test_the_mixed_one_knows_its_own_images(kind):
    # 8-bit values of a dark picture, brightened once; half as bright they would be brightened more.
    seen = kind(checkers(10, 60))
    np.testing.assert_array_equal(kind.renewed(seen), seen)
    np.testing.assert_array_equal(kind.renewed(seen / 2), seen / 2)
    assert np.abs(kind(seen) - seen).max() > 0.3, "test invalid"
    np.testing.assert_array_equal(kind.renewed(np.float32([[[-0.5, 0.25, 1.5]]])), [[[0, 0.25, 1]]])


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.uint16, np.float16, np.float64])
def test_a_constant_image_has_no_nan(dtype):
    found = MixedNormalisation()(np.full((1, 5, 5), 1, dtype))
    assert np.isfinite(found).all() and (found >= 0).all() and (found <= 1).all()
    assert not MixedNormalisation()(np.zeros((3, 5, 5), dtype)).any()


def test_a_model_folder_keeps_it(tmp_path):
    network = network_factory(describe(UNet(3, width=2, depth=2)), Semantic())
    made = MixedNormalisation(top=99.0)
    Model(posterior=Deterministic(network), method=Semantic(), normalisation=made).save(tmp_path)
    assert load_model(tmp_path).normalisation == made
