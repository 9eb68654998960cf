"""Looks against closed forms of filters, distances against plain loops, and drawn images that are spoilt on purpose."""

import json

import numpy as np
import pytest
from scipy import ndimage

from plurimask.data.normalise import MixedNormalisation, Normalisation
from plurimask.data.sources import open_source
from plurimask.data.synthetic import blobs
from plurimask.data.transforms import Augmentation
from plurimask.familiarity import (
    BACKGROUNDS,
    FEWEST,
    LENGTH,
    MOST,
    OCTAVES,
    VARIATIONS,
    Familiarity,
    looks,
    training_looks,
)
from plurimask.model import build, describe

NORMALISE = Normalisation()
QUARTILES, ENERGIES, BACKGROUND = slice(0, 3), slice(3, 3 + OCTAVES), slice(3 + OCTAVES, LENGTH)
NO_CHANGE = Augmentation(scale=0, contrast=0, brightness=0, gamma=1, blur=0, noise=0)

# A Gaussian of sigma 1, cut off at 3 pixels.
OFFSETS = np.arange(-3, 4)
KERNEL = np.exp(-(OFFSETS**2) / 2) / np.exp(-(OFFSETS**2) / 2).sum()


def noise(shape=(1, 256, 256), *, sigma=0.1, seed=0):
    return (0.5 + sigma * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def wave(wavelength, *, size=512):
    """``(1, 64, size)``, amplitude 0.4, mirrored at its borders without a break: a vector of the cosine transform."""
    half_periods = round(2 * size / wavelength)
    row = 0.5 + 0.4 * np.cos(np.pi * (np.arange(size) + 0.5) * half_periods / size)
    return np.tile(row, (1, 64, 1)).astype(np.float32)


def test_quartiles():
    image = np.linspace(0, 1, 101, dtype=np.float32).reshape(1, 101, 1)
    np.testing.assert_allclose(looks(image)[QUARTILES], [0.25, 0.5, 0.75], atol=1e-6)


@pytest.mark.parametrize("wavelength", [4, 8, 16])
def test_the_finest_octave_of_a_wave(wavelength):
    passes = 1 - KERNEL @ np.cos(2 * np.pi * OFFSETS / wavelength)
    assert looks(wave(wavelength))[ENERGIES][0] == pytest.approx(np.log2(0.4 / np.sqrt(2) * passes), abs=0.01)


def test_an_octave_is_a_factor_of_two():
    loudest = [int(np.argmax(looks(wave(4 * 2**octave))[ENERGIES])) for octave in range(OCTAVES)]
    assert loudest == list(range(OCTAVES))


def test_white_noise():
    kernel = -np.outer(KERNEL, KERNEL)
    kernel[3, 3] += 1
    sigma = 0.1 * np.sqrt(np.sum(kernel**2))
    seen = looks(noise())
    assert seen[ENERGIES][0] == pytest.approx(np.log2(sigma), abs=0.03)
    assert seen[BACKGROUND][0] == pytest.approx(np.log2(0.67449 * sigma), abs=0.03)


def test_the_background_does_not_see_a_few_objects():
    image = noise(sigma=0.01)
    without = looks(image)
    image[:, 100:140, 100:140] += noise((1, 40, 40), sigma=0.2, seed=1)
    seen = looks(image)
    assert seen[ENERGIES][0] - without[ENERGIES][0] > 1
    np.testing.assert_allclose(seen[BACKGROUND], without[BACKGROUND], atol=0.15)


def test_twice_the_contrast_is_one_more():
    image = noise(sigma=0.05)
    difference = looks(0.5 + 2 * (image - 0.5)) - looks(image)
    np.testing.assert_allclose(difference[ENERGIES][:3], 1, atol=0.01)
    np.testing.assert_allclose(difference[BACKGROUND][:2], 1, atol=0.01)


def test_dark_and_bright_exchanged():
    image = noise() ** 2
    seen, inverted = looks(image), looks(1 - image)
    np.testing.assert_allclose(inverted[QUARTILES], 1 - seen[QUARTILES][::-1], atol=1e-6)
    np.testing.assert_allclose(inverted[3:], seen[3:], atol=1e-4)


def test_hot_pixels_are_cut_off():
    image = noise()
    image[0, 10, 10] = 2
    hot = image.copy()
    hot[0, 10, 10] = 5000
    np.testing.assert_array_equal(looks(hot), looks(image))


def test_channels_follow_each_other():
    first, second = noise(), noise(sigma=0.02, seed=1)
    both = looks(np.concatenate([first, second]))
    np.testing.assert_array_equal(both, np.concatenate([looks(first), looks(second)]))


def test_a_volume_of_equal_planes_looks_like_a_plane():
    plane = noise((1, 44, 44))
    np.testing.assert_allclose(looks(np.repeat(plane[:, None], 32, axis=1)), looks(plane), atol=1e-4)


@pytest.mark.parametrize("shape", [(1, 1024, 1024), (1, 520, 696), (1, 8, 256, 256)])
def test_quartiles_and_medians_of_a_large_image(shape):
    """They are those of some pixels, among which are all columns: here every eighth is brighter."""
    image = noise(shape) + 0.2 * (np.arange(shape[-1]) % 8 == 0).astype(np.float32)
    seen = looks(image)
    np.testing.assert_allclose(seen[QUARTILES], np.quantile(image, [0.25, 0.5, 0.75]), atol=0.002)
    detail = image - ndimage.gaussian_filter(image, (0, *(1,) * (len(shape) - 1)), truncate=3)
    assert seen[BACKGROUND][0] == pytest.approx(np.log2(np.median(np.abs(detail))), abs=0.02)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 3, 200), (2, 2, 5, 7)])
def test_small_and_constant_images_have_looks(shape):
    seen = looks(np.zeros(shape, np.float32)).reshape(shape[0], LENGTH)
    np.testing.assert_array_equal(seen[:, QUARTILES], 0)
    np.testing.assert_allclose(seen[:, 3:], np.log2(0.0005))


@pytest.mark.parametrize("image", [np.full((1, 4, 4), np.nan), np.full((1, 4, 4), np.inf), np.zeros((1, 0, 4))])
def test_what_has_no_looks_is_refused(image):
    with pytest.raises(ValueError, match="has no looks"):
        looks(image)


def test_looks_of_training_images_and_their_variations():
    images = [noise((2, 40, 50), seed=seed) for seed in range(3)]
    examples = training_looks(images, NORMALISE, Augmentation(), seed=0)
    assert examples.shape == (3, 1 + VARIATIONS, 2 * LENGTH)
    np.testing.assert_array_equal(examples[:, 0], [looks(image) for image in images])
    np.testing.assert_array_equal(examples, training_looks(images, NORMALISE, Augmentation(), seed=0))
    assert (examples != training_looks(images, NORMALISE, Augmentation(), seed=1)).any()


def test_a_part_of_noise_looks_like_noise():
    image = NORMALISE(noise((1, 300, 300)))
    same = training_looks([image], NORMALISE, NO_CHANGE, seed=0)[0]
    np.testing.assert_allclose(same[1:, :7], np.tile(same[0, :7], (VARIATIONS, 1)), atol=0.1)
    changed = training_looks([image], NORMALISE, Augmentation(), seed=0)[0]
    assert np.abs(changed[1:, :7] - changed[0, :7]).max() > 0.2


def test_a_part_of_a_dark_image_is_as_dark_where_normalising_twice_would_brighten_it():
    mixed, raw = MixedNormalisation(), noise((1, 300, 300)) * 60 + 10  # 8-bit values about 40
    fine = [channel * LENGTH + number for channel in range(3) for number in range(7)]  # coarse octaves differ by part
    whole = looks(mixed(raw))[fine]
    np.testing.assert_allclose(looks(mixed(raw[:, 40:230, 70:300]))[fine], whole, atol=0.1)
    assert np.abs(looks(mixed(mixed(raw)))[fine] - whole).max() > 0.2, "test invalid"
    parts = training_looks([mixed(raw)], mixed, NO_CHANGE, seed=0)[0, 1:, fine].T
    np.testing.assert_allclose(parts, np.tile(whole, (VARIATIONS, 1)), atol=0.1)


def test_variations_are_such_as_the_normalisation_gives():
    mixed = MixedNormalisation()
    loud = Augmentation(scale=0, contrast=0.5, brightness=0.5, noise=0.5)
    quartiles = training_looks([mixed(255 * noise())], mixed, loud, seed=0)[..., :3]
    assert quartiles.min() >= 0 and quartiles.max() <= 1


def test_of_many_images_some_are_taken_at_equal_distances():
    images = [np.full((1, 2, 2), number, np.float32) / 1000 for number in range(2 * MOST - 1)]
    middles = training_looks(images, NORMALISE, NO_CHANGE, seed=0)[:, 0, 1]
    np.testing.assert_allclose(middles, np.arange(0, 2 * MOST - 1, 2) / 1000, atol=1e-6)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 2, 9), (2, 3, 3, 3)])
def test_tiny_training_images(shape):
    examples = training_looks([np.zeros(shape, np.float32)] * FEWEST, NORMALISE, Augmentation(), seed=0)
    assert np.isfinite(Familiarity.fit(examples).score(looks(np.ones(shape, np.float32))))


def random_examples(count, *, copies=3, channels=1, seed=0):
    """Looks of images that differ by 1, with copies that differ from their image by 0.3; three decimals, as kept."""
    generator = np.random.default_rng(seed)
    images = generator.standard_normal((count, 1, channels * LENGTH))
    return (images + 0.3 * generator.standard_normal((count, copies, channels * LENGTH))).round(3)


def plain_score(examples, seen):
    """By definition, one by one."""
    spread = examples.reshape(-1, examples.shape[-1]).std(axis=0)

    def distance(point, others):
        apart = sorted(np.sqrt(np.sum(((point - copy) / spread) ** 2)) for image in others for copy in image)
        return np.mean(apart[:3])

    usual = []
    for number, image in enumerate(examples):
        others = [other for place, other in enumerate(examples) if place != number]
        usual += [distance(copy, others) for copy in image]
    return distance(seen, examples) / np.quantile(usual, 0.95)


@pytest.mark.parametrize(("count", "copies", "channels"), [(5, 1, 1), (8, 3, 1), (6, 2, 2)])
def test_the_score_is_what_it_is_defined_to_be(count, copies, channels):
    examples = random_examples(count, copies=copies, channels=channels)
    known = Familiarity.fit(examples)
    for seen in (examples[0, 0], examples[1, 0] + 0.5, np.full(channels * LENGTH, 7.0)):
        assert known.score(seen) == pytest.approx(plain_score(examples, seen), rel=1e-6)


def test_one_in_twenty_images_of_the_same_kind_is_unlike():
    known = Familiarity.fit(random_examples(200))
    fresh = random_examples(400, copies=1, seed=1)[:, 0]
    assert 0.02 < np.mean([known.score(seen) > 1 for seen in fresh]) < 0.09


def test_between_two_kinds_is_unlike_both():
    examples = 0.1 * random_examples(40)
    examples[::2] += 3
    known = Familiarity.fit(examples)
    assert known.score(np.zeros(LENGTH)) < 1 and known.score(np.full(LENGTH, 3.0)) < 1
    assert known.score(examples.mean(axis=(0, 1))) > 2


@pytest.mark.parametrize("copies", [1, 3])
def test_equal_training_images_leave_a_finite_score(copies):
    same = np.tile(random_examples(1, copies=1), (FEWEST, copies, 1))
    known = Familiarity.fit(same)
    assert known.score(same[0, 0]) == 0
    assert known.explain(same[0, 0]) == ""
    assert 1 < known.score(same[0, 0] + 1) < np.inf


def test_few_images_tell_nothing():
    for known in (Familiarity(), Familiarity.fit(random_examples(FEWEST - 1))):
        assert known.score(np.zeros(LENGTH)) is None
        assert known.explain(np.zeros(LENGTH)) == ""
    assert Familiarity.fit(random_examples(FEWEST)).score(np.zeros(LENGTH)) is not None


def test_it_comes_back_from_json():
    examples = random_examples(6)
    known = Familiarity.fit(examples)
    again = build(json.loads(json.dumps(describe(known))), Familiarity)
    assert again == known
    assert again.score(np.ones(LENGTH)) == known.score(np.ones(LENGTH))
    assert build(json.loads(json.dumps(describe(Familiarity()))), Familiarity) == Familiarity()


def test_further_images_are_known_as_well():
    examples = random_examples(9)
    first = Familiarity.fit(examples[:6])
    both = first.joined(examples[6:])
    assert both == Familiarity.fit(examples)
    assert first == Familiarity.fit(examples[:6])  # and itself is left alone
    assert Familiarity().joined(examples) == Familiarity.fit(examples)
    assert Familiarity().joined(examples[: FEWEST - 1]) == Familiarity()
    assert len(Familiarity.fit(examples[:FEWEST]).joined(examples[FEWEST : FEWEST + 1]).references) == FEWEST + 1


def test_an_image_that_is_known_already_counts_once():
    examples = random_examples(9)
    known = Familiarity.fit(examples[:6])
    assert known.joined(examples) == Familiarity.fit(examples)
    assert known.joined(examples[:6]) == known
    varied_again = examples[:6].copy()
    varied_again[:, 1:] += 0.25
    assert known.joined(varied_again) == known


@pytest.mark.parametrize("other", [random_examples(3, copies=1), random_examples(3, channels=2)])
def test_looks_of_another_kind_cannot_be_joined(other):
    with pytest.raises(ValueError, match="same shape"):
        Familiarity.fit(random_examples(6)).joined(other)


BROKEN = [
    np.zeros((6, LENGTH)),
    np.zeros((6, 3, LENGTH + 1)),
    np.zeros((0, 3, LENGTH)),
    np.full((6, 3, LENGTH), np.nan),
]


@pytest.mark.parametrize("examples", BROKEN)
def test_what_cannot_be_remembered_is_refused(examples):
    with pytest.raises(ValueError, match="cannot be remembered"):
        Familiarity.fit(examples)
    with pytest.raises(ValueError, match="cannot be remembered"):
        Familiarity.fit(random_examples(6)).joined(examples)


def test_looks_of_other_channels_are_refused():
    known = Familiarity.fit(random_examples(6))
    with pytest.raises(ValueError, match="the model's channels"):
        known.score(np.zeros(2 * LENGTH))
    with pytest.raises(ValueError, match="the model's channels"):
        known.explain(np.zeros(2 * LENGTH))


def nuclei(seed):
    return NORMALISE(blobs((192, 192), count=30, seed=seed)[0])


@pytest.fixture(scope="module")
def knows_nuclei():
    return Familiarity.fit(training_looks([nuclei(seed) for seed in range(20)], NORMALISE, Augmentation(), seed=0))


def test_more_images_of_the_same_kind_are_familiar(knows_nuclei):
    scores = [knows_nuclei.score(looks(nuclei(seed))) for seed in range(20, 30)]
    assert np.mean(np.array(scores) > 1) <= 0.1


def blurred(image):
    return ndimage.gaussian_filter(image, (0, 3, 3))


def noisy(image):
    return image + noise(image.shape, sigma=0.3)


def inverted(image):
    return -image


def crowded(image):
    """The nuclei again and again, each time moved: hardly any background is left."""
    return sum(np.roll(image, (shift, 2 * shift), axis=(1, 2)) for shift in range(0, 190, 12))


SHIFTS = [(blurred, "less fine detail"), (noisy, "noisy"), (inverted, "contrast inverted"), (crowded, "brighter")]


@pytest.mark.parametrize(("change", "words"), SHIFTS, ids=lambda value: getattr(value, "__name__", None))
def test_what_the_model_does_not_know_is_told_in_words(knows_nuclei, change, words):
    for seed in range(20, 24):
        seen = looks(NORMALISE(change(nuclei(seed))))
        assert knows_nuclei.score(seen) > 1
        assert words in knows_nuclei.explain(seen)


def test_the_channel_is_named():
    examples = np.zeros((8, 1, 2 * LENGTH)) + np.arange(8)[:, None, None] / 1000
    seen = np.zeros(2 * LENGTH)
    seen[LENGTH:][BACKGROUND] = 5
    assert Familiarity.fit(examples).explain(seen) == "channel 2: noisier background"
    assert BACKGROUNDS == 3


def test_real_wells(real_data):
    """Held-out wells are familiar; inverted and blurred ones are not."""
    parts = {split: open_source(real_data / "bbbc010", split=split)[:12] for split in ("fit", "tune")}
    fitted, held_out = ([NORMALISE(sample.image().data) for sample in part] for part in parts.values())
    known = Familiarity.fit(training_looks(fitted, NORMALISE, Augmentation(), seed=0))
    assert sum(known.score(looks(image)) > 1 for image in held_out) <= 1
    for image in held_out[:4]:
        assert known.score(looks(NORMALISE(-image))) > 1
        assert known.score(looks(NORMALISE(ndimage.gaussian_filter(image, (0, 4, 4))))) > 1
