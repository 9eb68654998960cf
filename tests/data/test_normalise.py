"""Intensities to a common range."""

import numpy as np
import pytest

from plurimask.data.normalise import Normalisation


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
