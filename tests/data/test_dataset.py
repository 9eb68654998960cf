"""Crop number n is a function of the seed and n; what a crop shows is what its targets say."""

import pickle

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch.utils.data import DataLoader

from plurimask.data.dataset import Crops, Example, collate
from plurimask.data.transforms import Augmentation
from plurimask.methods import Embedding
from plurimask.testing import toy_image, toy_truths

BARELY = Augmentation(contrast=0, brightness=0, gamma=1, blur=0, noise=0, elastic=1, spacing=16)


def examples(ndim=2):
    return [Example(name, toy_image(truth), truth) for name, truth in toy_truths(ndim).items()]


def crops(ndim=2, **settings):
    size = 32 if ndim == 2 else 16
    return Crops(
        **{"examples": examples(ndim), "method": Embedding(), "size": size, "count": 20, "seed": 3, **settings}
    )


def equal(one, other):
    assert one.keys() == other.keys()
    return all(np.array_equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("ndim", [2, 3])
def test_shapes_and_types(ndim):
    crop = crops(ndim)[0]
    size = 32 if ndim == 2 else 16
    assert crop["image"].shape == (1, *(size,) * ndim) and crop["image"].dtype == np.float32
    assert crop["labels"].shape == crop["classes"].shape == (size,) * ndim
    assert len(crops(ndim)) == 20


def test_a_crop_is_a_function_of_seed_and_number():
    stream = crops()
    assert equal(stream[4], stream[4])
    assert equal(stream[4], crops()[4])
    assert not equal(stream[4], stream[5])
    assert not equal(stream[4], crops(seed=4)[4])


def test_a_stream_goes_on_where_another_one_stopped():
    whole, rest = crops(), crops(first=7)
    assert all(equal(rest[number], whole[7 + number]) for number in range(5))


def test_workers_make_the_same_crops():
    stream = crops(count=6)
    loader = DataLoader(stream, batch_size=2, collate_fn=collate, num_workers=1)
    for number, batch in enumerate(loader):
        wanted = collate([stream[2 * number], stream[2 * number + 1]])
        assert all(torch.equal(batch[name], wanted[name]) for name in wanted)
    assert equal(pickle.loads(pickle.dumps(stream))[3], stream[3])


@pytest.mark.parametrize("ndim", [2, 3])
def test_targets_fit_the_image(ndim):
    # The toy images show the number of owners, with noise of 0.1.
    seen = 0
    for number in range(8):
        crop = crops(ndim, augmentation=BARELY, near_object=1.0, near_overlap=0.0)[number]
        classes = crop["classes"]
        inside = ndimage.minimum_filter(classes, 3) == ndimage.maximum_filter(classes, 3)
        shown = ndimage.uniform_filter(crop["image"][0], 3)
        for value in range(3):
            there = inside & (classes == value)
            if there.any():
                assert shown[there].mean() == pytest.approx(value, abs=0.25)
                seen |= 1 << value
    assert seen & 0b11 == 0b11, "test invalid: no crop shows an object"


def test_weights_choose_the_images():
    labelled = [crops(weights=np.array(weights), near_object=1.0) for weights in ([0, 0, 1.0], [0.5, 0.5, 0])]
    assert not any(labelled[0][number]["classes"].any() for number in range(10))  # the third image is empty
    assert all(labelled[1][number]["classes"].any() for number in range(10))


def test_an_image_smaller_than_the_crop():
    crop = crops(size=96)[0]
    assert crop["image"].shape == (1, 96, 96)
    assert np.isfinite(crop["image"]).all()


def test_collate_stacks():
    batch = collate([crops()[0], crops()[1]])
    assert batch["image"].shape == (2, 1, 32, 32) and batch["labels"].dtype == torch.int64
