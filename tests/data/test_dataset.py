"""Crop number n is a function of the seed and n; what a crop shows is what its targets say."""

import pickle
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch.utils.data import DataLoader

from plurimask.data.dataset import Crops, Example, collate
from plurimask.data.transforms import Augmentation
from plurimask.instances import Instances
from plurimask.methods import Embedding, Semantic
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


STILL = Augmentation(rotation=0, scale=0, shear=0, elastic=0, spacing=8)


def doubtful():
    """An image that three annotators see differently: no object, one of 8 pixels, and one of 24 that holds those."""
    none, thin, thick = (Instances.from_labels(np.tile(row, (8, 1))) for row in np.arange(8) < [[0], [1], [3]])
    return Example("doubtful", toy_image(thick), none, (thin, thick))


def pixels_in_crops(annotator=None, count=60):
    """How many pixels the object has in each crop of the doubtful image: 0, 8 or 24."""
    stream = crops(examples=[doubtful()], size=16, count=count, annotator=annotator, augmentation=STILL)
    return [np.count_nonzero(stream[number]["classes"]) for number in range(count)]


def test_every_crop_has_one_of_the_annotators():
    seen = pixels_in_crops()
    assert set(seen) == {0, 8, 24}
    assert all(10 <= seen.count(size) <= 30 for size in (0, 8, 24))  # 20 are expected, sigma is 3.7
    assert seen == pixels_in_crops()


def test_an_annotator_can_be_fixed():
    for annotator, size in ((0, 0), (1, 8), (2, 24), (4, 8)):  # of three annotators the fifth is the second again
        assert set(pixels_in_crops(annotator, count=10)) == {size}


def test_a_single_annotator_takes_no_random_number():
    fixed, free = crops(annotator=0), crops()
    assert all(equal(fixed[number], free[number]) for number in range(6))


def test_the_second_random_number_is_the_annotator():
    # What trainings of before have seen stays: the image first, then the annotator.
    stream = crops(examples=[doubtful()], size=16, augmentation=STILL)
    for number in range(10):
        generator = np.random.default_rng([3, number])
        generator.choice(1)
        assert np.count_nonzero(stream[number]["classes"]) == (0, 8, 24)[generator.integers(3)]


ALL = {"method": Semantic(), "annotator": "all"}


def test_all_annotators_of_a_crop_are_shares():
    stream = crops(examples=[doubtful()], size=16, augmentation=STILL, **ALL)
    for number in range(10):
        shares = stream[number]["shares"]
        assert shares.shape == (2, 16, 16) and shares.dtype == np.float32
        thirds, counts = np.unique(np.rint(3 * shares[1]), return_counts=True)
        assert thirds.tolist() == [0, 1, 2] and counts.tolist() == [256 - 24, 24 - 8, 8]
        np.testing.assert_allclose(shares.sum(0), 1, rtol=1e-6)


def test_a_crop_of_all_annotators_shows_what_that_of_a_random_one_does():
    given = [doubtful(), *examples()]
    one, every = crops(examples=given, method=Semantic()), crops(examples=given, **ALL)
    assert all(np.array_equal(one[number]["image"], every[number]["image"]) for number in range(12))


@pytest.mark.parametrize("ndim", [2, 3])
def test_annotators_that_agree_are_one(ndim):
    agreed = [replace(example, others=(example.truth,) * 2) for example in examples(ndim)]
    bent = Augmentation(rescale=0.5)
    for number in range(4):
        every = crops(ndim, examples=agreed, augmentation=bent, **ALL)[number]
        one = crops(ndim, examples=agreed, augmentation=bent, method=Semantic())[number]
        assert np.array_equal(every["image"], one["image"])
        assert np.array_equal(every["shares"], np.stack([one["classes"] == 0, one["classes"] == 1]))


def test_images_with_few_and_many_annotators_are_one_batch():
    given = [doubtful(), replace(doubtful(), others=())]
    stream = crops(examples=given, size=16, **ALL)
    (batch,) = DataLoader(stream, batch_size=20, collate_fn=collate, num_workers=1)
    assert batch["image"].shape == (20, 1, 16, 16) and batch["shares"].shape == (20, 2, 16, 16)
    doubted = ((batch["shares"] > 0) & (batch["shares"] < 1)).flatten(1).any(1)
    assert 0 < doubted.sum() < 20  # those of the first image


@dataclass(frozen=True)
class Luck(Semantic):
    """Its targets are a random number each."""

    def targets(self, truth, generator):
        return {"luck": generator.random()}

    def joined(self, targets):
        return {"luck": np.array([each["luck"] for each in targets])}


def test_the_targets_of_all_annotators_are_made_with_equal_generators():
    settings = {"examples": [doubtful()], "size": 16, "method": Luck()}
    luck = crops(**settings, annotator="all")[0]["luck"]
    assert luck.shape == (3,) and len(set(luck)) == 1
    assert crops(**settings)[0]["luck"] == luck[0]


def test_classes_stay_with_their_objects(touching_blobs):
    truth = replace(touching_blobs, features={"class": np.array([2, 1])})
    assert truth.areas[0] > truth.areas[1], "test invalid: the objects are told apart by their sizes"
    stream = crops(
        examples=[Example("two classes", toy_image(truth), truth)],
        method=Semantic((1.0, 1.0, 1.0)),
        augmentation=STILL,
        size=80,
    )
    for number in range(5):
        assert np.bincount(stream[number]["classes"].ravel())[1:].tolist() == truth.areas[::-1].tolist()


def test_ragged_entries_lie_end_to_end_and_know_their_crop():
    counts = (2, 0, 3)
    parts = [{"image": np.full((1, 4, 4), n), "rows": np.full((count, 5), n)} for n, count in enumerate(counts)]
    batch = collate(parts, ragged=frozenset({"rows"}))
    assert batch["image"].shape == (3, 1, 4, 4)
    assert batch["rows"].shape == (5, 5)
    assert batch["rows"][:, 0].tolist() == batch["image_index"].tolist() == [0, 0, 2, 2, 2]
    assert "image_index" not in collate([{"image": part["image"]} for part in parts])
