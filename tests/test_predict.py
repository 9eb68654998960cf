"""The whole story: windows, draws, checks at the border."""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage

import plurimask
from plurimask import predict
from plurimask.data.io import read_image
from plurimask.data.normalise import MixedNormalisation, Normalisation
from plurimask.data.sources import open_source
from plurimask.data.transforms import Augmentation
from plurimask.familiarity import Familiarity, looks, training_looks
from plurimask.instances import Instances
from plurimask.model import Model, Scale, load_model
from plurimask.networks import UNet
from plurimask.platt import Platt
from plurimask.posteriors import Augmented, ConcreteDropout, Deterministic
from plurimask.predict import answer, pick_device, seeds_of, segment, segment_draws, use_bfloat16, visit_outputs
from plurimask.protocols import Head, Method, Network
from plurimask.testing import matched_ious

EXAMPLES = Path(__file__).parents[1] / "examples"
STRIDE = 2  # of the coarsest level of the network below


class Seen(Head):
    """Shows the image and what the network makes of it."""

    def forward(self, features):
        return {"image": features.image[:, :1].float(), "map": features.decoder[0].float()}

    def loss(self, outputs, targets):
        return {"nothing": outputs["map"].sum() * 0}


@dataclass(frozen=True)
class Bright(Method):
    """Objects are bright parts of the image (exactly known); their feature is what the network says there."""

    threshold: float = 0.5

    def targets(self, truth, generator):
        return {}

    def head(self, backbone):
        return Seen()

    def decode(self, outputs):
        bright = outputs["image"][0, 0].numpy() > self.threshold
        found = Instances.from_labels(ndimage.label(bright, np.ones((3,) * bright.ndim))[0])
        said = outputs["map"][0].numpy()
        inside = [
            [said[channel][tuple(map(slice, *box))][mask].mean() for channel in range(len(said))]
            for box, mask in zip(found.boxes, found.masks, strict=True)
        ]
        said_of = np.array(inside).reshape(len(found), len(said))
        return Instances.from_crops(found.boxes, found.masks, found.shape, features={"said": said_of})

    def probabilities(self, outputs):
        bright = (outputs["image"][0, 0] > self.threshold).float()
        return torch.stack([1 - bright, bright])

    def condition(self, targets):
        raise NotImplementedError

    def ideal(self, truth):
        raise NotImplementedError


def model(posterior=Deterministic, *, ndim=2, channels=("light",), **settings):
    def network():
        torch.manual_seed(0)
        backbone = UNet(len(channels), ndim=ndim, width=4, depth=2)
        return Network(backbone, Seen())

    return Model(posterior=posterior(network).eval(), method=Bright(), channels=channels, **settings)


def scene(shape, *, radius, count, seed=0):
    """Disks or balls that do not touch: image in 0..1000, label map."""
    generator = np.random.default_rng(seed)
    labels = np.zeros(shape, int)
    where = np.indices(shape)
    for number in range(1, count + 1):
        centre = generator.integers(0, shape)
        ball = ((where - centre.reshape(-1, *(1,) * len(shape))) ** 2).sum(0) <= generator.uniform(2, radius) ** 2
        if not labels[ndimage.binary_dilation(ball, iterations=2)].any():
            labels[ball] = number
    image = 100 + 900 * (labels > 0) + generator.normal(0, 20, shape)
    return image.astype(np.float32), labels


@pytest.mark.parametrize(("shape", "window", "halo", "radius"), [((150, 170), 64, 24, 7), ((23, 52, 46), 40, 14, 4)])
@pytest.mark.parametrize("posterior", [Deterministic, partial(ConcreteDropout, initial_rate=0.3)])
def test_tiled_equals_whole(shape, window, halo, radius, posterior):
    image, labels = scene(shape, radius=radius, count=60)
    whole = model(posterior, ndim=len(shape), window=512, halo=16)
    tiled = replace(whole, window=window, halo=halo)
    ask = partial(segment, image, draws=2, precision="float32")
    one, other = ask(whole), ask(tiled)
    assert len(one) == len(np.unique(labels)) - 1 > 5
    assert len(one) == len(other)
    # The order of objects is that of the windows; their boxes tell which is which.
    order = [sorted(range(len(found)), key=lambda n, found=found: found.boxes[n].tolist()) for found in (one, other)]
    for first, second in zip(*order, strict=True):
        np.testing.assert_array_equal(one.boxes[first], other.boxes[second])
        np.testing.assert_array_equal(one.counts[first], other.counts[second])
        np.testing.assert_allclose(one.features["said"][first], other.features["said"][second], atol=1e-4, rtol=1e-4)
    np.testing.assert_array_equal(one.best().to_labels() > 0, labels > 0)


def test_a_draw_is_a_seed():
    image, _ = scene((40, 50), radius=5, count=8)
    doubting = model(partial(ConcreteDropout, initial_rate=0.3))
    scaled = torch.from_numpy(doubting.normalisation(image[None]))
    ask = partial(segment_draws, scaled, doubting, precision="float32")
    five, six = ask(seeds=[5, 6])
    (again,) = ask(seeds=[6])
    assert not np.array_equal(five.features["said"], six.features["said"])
    np.testing.assert_array_equal(six.features["said"], again.features["said"])


def test_a_visitor_sees_every_draw_of_every_window():
    image, _ = scene((150, 70), radius=5, count=8)
    doubting = model(partial(ConcreteDropout, initial_rate=0.3), window=64, halo=16)
    scaled = torch.from_numpy(doubting.normalisation(image[None]))
    seen = []

    def visit(window, draw, outputs):
        assert not torch.is_grad_enabled()
        seen.append((window.outer.tolist(), draw, outputs["map"].clone()))

    visit_outputs(scaled, doubting, visit, seeds=[5, 6, 7], precision="float32")
    corners = [(place, draw) for place, draw, _ in seen]
    assert len(corners) == 3 * len({str(place) for place, _ in corners}) > 3
    assert [draw for _, draw, _ in seen] == [0, 1, 2] * (len(seen) // 3)
    assert {tuple(map(tuple, place)) for place, _ in corners} >= {((0, 0), (64, 64))}
    alone = []
    visit_outputs(scaled, doubting, lambda *told: alone.append(told[2]["map"]), seeds=[6], precision="float32")
    for one, other in zip([said for _, draw, said in seen if draw == 1], alone, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_visitor_of_the_objects_sees_the_outputs_before_they_are_decoded(monkeypatch):
    image, _ = scene((150, 70), radius=5, count=8)
    doubting = model(partial(ConcreteDropout, initial_rate=0.3), window=64, halo=16)
    scaled, seeds = torch.from_numpy(doubting.normalisation(image[None])), [9, 4, 9]
    unseen = segment_draws(scaled, doubting, seeds=seeds, precision="float32")
    told, opened, decode = [], [], Bright.decode

    def decoding(method, outputs):
        opened.append(outputs)
        return decode(method, outputs)

    def visit(window, draw, outputs):
        assert len(told) == len(opened)
        told.append((window, draw, outputs))

    monkeypatch.setattr(Bright, "decode", decoding)
    found = segment_draws(scaled, doubting, seeds=seeds, visit=visit, precision="float32")
    assert [draw for _, draw, _ in told] == [0, 1, 2] * (len(told) // 3)
    assert len(told) == len(opened) > 3 and all(shown[2] is other for shown, other in zip(told, opened, strict=True))
    answered = np.zeros((3, 150, 70), int)
    for window, draw, outputs in told:
        part = scaled[(None, slice(None), *map(slice, *window.outer))]
        assert torch.equal(outputs["image"], part)
        with torch.no_grad():
            (alone,) = doubting.posterior.draws(part, [seeds[draw]], context={})
        torch.testing.assert_close(outputs["map"], alone["map"], atol=1e-4, rtol=1e-4)
        answered[(draw, *map(slice, *window.core))] += 1
    assert (answered == 1).all()
    for one, other in zip(found, unseen, strict=True):
        assert len(one) > 0 and one.boxes.tolist() == other.boxes.tolist()
        np.testing.assert_array_equal(one.features["said"], other.features["said"])


def test_a_visitor_sees_windows_as_the_draw_has_turned_them():
    image, labels = scene((20, 30), radius=4, count=4)
    turning = model(Augmented)
    scaled, shown = torch.from_numpy(turning.normalisation(image[None])), []

    def visit(window, draw, outputs):
        shown.append(outputs["image"][0, 0].numpy())
        np.testing.assert_array_equal(window.symmetry.undo(outputs["image"])[0], scaled)

    found = segment_draws(scaled, turning, seeds=range(8), visit=visit, precision="float32")
    turns = [np.rot90(start, times) for start in (scaled[0].numpy(), scaled[0].numpy().T) for times in range(4)]
    assert {turn.tobytes() for turn in turns} == {seen.tobytes() for seen in shown} and len(shown) == 8
    assert np.array_equal(shown[0], scaled[0])
    for one in found:
        np.testing.assert_array_equal(one.owners() > 0, labels > 0)


def test_existence_is_calibrated_where_the_model_is():
    image, _ = scene((40, 50), radius=5, count=8)
    raw = segment(image, model())
    assert set(raw.existence) == {1.0} and "raw_existence" not in raw.features
    calibration = Platt(slope=0.5, offset=-0.25)
    found = segment(image, model(calibration=calibration, scale=Scale(diameter=5.0)), diameter=10.0)
    assert len(found) > 1 and found.shape == image.shape  # kept through the change of scale, too
    np.testing.assert_array_equal(found.existence, calibration(np.ones(len(found))))
    np.testing.assert_array_equal(found.raw_existence, np.ones(len(found)))


def test_as_many_draws_as_asked_for_but_one_without_doubt():
    image, _ = scene((40, 50), radius=5, count=8)
    assert segment(image, model(ConcreteDropout), draws=3).draws == 3
    sure = model()
    calls = []
    sure.posterior.network.register_forward_hook(lambda *_: calls.append(1))
    found = segment(image, sure, draws=8)
    assert found.draws == 1 and len(calls) == 1
    assert set(found.existence) == {1.0}


@pytest.mark.parametrize("draws", [0, -1, 256])
def test_draws_out_of_range(draws):
    with pytest.raises(ValueError, match=f"between 1 and 255, not at {draws}"):
        segment(np.zeros((4, 4)), model(), draws=draws)


def test_seeds_count_on():
    assert list(seeds_of(model(ConcreteDropout), 3, 10)) == [10, 11, 12]
    assert list(seeds_of(model(), 3, 10)) == [10]
    with pytest.raises(ValueError, match="seed must not be negative, but is -1"):
        seeds_of(model(), 3, -1)


@pytest.mark.parametrize("value", [0, 7.5])
@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (40, 30), (130, 3)])
def test_an_image_without_anything(shape, value):
    found = segment(np.full(shape, value), model(ConcreteDropout, window=64, halo=16), draws=2)
    assert len(found) == 0
    assert found.shape == shape and found.draws == 2


def test_an_image_smaller_than_the_stride():
    image = np.array([[0.0, 9.0, 0.0]])
    found = segment(image, model())
    assert found.best().to_labels().tolist() == [[0, 1, 0]]


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.uint16, np.int64, np.float16, np.float32, np.float64])
def test_every_numeric_type(dtype):
    labels = np.zeros((30, 30), dtype)
    labels[5:15, 5:15] = 1
    before = labels.copy()
    found = segment(labels, model())
    np.testing.assert_array_equal(found.best().to_labels(), labels)
    np.testing.assert_array_equal(labels, before)  # the user's array is left alone


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_broken_image_is_told(bad):
    image = np.zeros((8, 8))
    image[3, 4] = bad
    with pytest.raises(ValueError, match="NaN or infinite"):
        segment(image, model())


@pytest.mark.parametrize(
    ("shape", "channels", "complaint"),
    [
        ((2, 8, 8), ("light",), r"shape \(2, 8, 8\); this model wants \(1, Y, X\): 1 channel \(light\)"),
        ((8, 8), ("light", "GFP"), r"shape \(8, 8\); this model wants \(2, Y, X\): 2 channels \(light, GFP\)"),
        ((8,), ("light",), "2 spatial axes"),
        ((1, 1, 8, 8), ("light",), "2 spatial axes"),
        ((1, 0, 8), ("light",), "the image is empty"),
        ((0, 8), ("light",), "the image is empty"),
    ],
)
def test_an_image_that_does_not_fit(shape, channels, complaint):
    with pytest.raises(ValueError, match=complaint):
        segment(np.zeros(shape), model(channels=channels))


def test_one_channel_with_and_without_its_axis():
    image, _ = scene((40, 50), radius=5, count=8)
    one, other = segment(image, model()), segment(image[None], model())
    np.testing.assert_array_equal(one.best().to_labels(), other.best().to_labels())
    twice = segment(np.stack([image, 0 * image]), model(channels=("a", "b")))
    np.testing.assert_array_equal(one.best().to_labels() > 0, twice.best().to_labels() > 0)


def test_a_grey_image_is_one_of_three_channels_where_the_normalisation_makes_them():
    image, _ = scene((40, 50), radius=5, count=8)
    colours = model(channels=("red", "green", "blue"), normalisation=MixedNormalisation())
    found = [segment(grey, colours).best().to_labels() for grey in (image, image[None], np.stack([image] * 3))]
    assert found[0].any()
    for other in found[1:]:
        np.testing.assert_array_equal(found[0], other)
    with pytest.raises(ValueError, match="this model wants"):
        segment(image, model(channels=("a", "b", "c"), normalisation=MixedNormalisation(colours=False)))


@pytest.mark.parametrize("given", [{"diameter": 20.0}, {"pixel_size": 0.25}])
def test_objects_come_back_in_the_frame_of_the_image(given):
    # Twice as large as in training; the model sees the image at half the size.
    image, labels = scene((120, 161), radius=16, count=30, seed=3)
    seen = []
    scaled = model(scale=Scale(pixel_size=0.5, diameter=10.0))
    scaled.posterior.network.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0].shape))
    found = segment(image, scaled, **given)
    assert tuple(seen[0][2:]) == (60, 80)
    assert found.shape == (120, 161)
    ious = matched_ious(Instances.from_labels(labels), found.best())
    assert len(ious) == len(found) and ious.mean() > 0.85


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_as_it_was(training, monkeypatch):
    doubting = model(ConcreteDropout)
    doubting.posterior.train(training)
    segment(np.zeros((8, 8)), doubting)
    assert doubting.posterior.training is training
    assert torch.is_grad_enabled()
    assert all(weight.requires_grad for weight in doubting.posterior.parameters())
    doubting.posterior.network(torch.zeros(1, 1, 8, 8))["map"].sum().backward()
    monkeypatch.setattr(Bright, "decode", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        segment(np.zeros((8, 8)), doubting)
    assert doubting.posterior.training is training
    assert torch.is_grad_enabled()


def test_bfloat16_finds_the_same_objects():
    image, _ = scene((60, 60), radius=6, count=12)
    one = segment(image, model(), precision="float32")
    other = segment(image, model(), precision="bfloat16")
    np.testing.assert_array_equal(one.best().to_labels(), other.best().to_labels())
    np.testing.assert_allclose(one.features["said"], other.features["said"], atol=0.05, rtol=0.05)


def test_devices_and_precisions():
    assert pick_device("cpu") == "cpu"
    assert pick_device("auto") in ("cpu", "cuda", "mps")
    assert use_bfloat16(torch.device("cpu"), "bfloat16")
    assert not use_bfloat16(torch.device("cpu"), "float32")
    assert use_bfloat16(torch.device("cpu"), "auto") in (True, False)


def disks(seed):
    return scene((80, 90), radius=8, count=12, seed=seed)[0]


@pytest.fixture(scope="module")
def knows_disks():
    normalise = Normalisation()
    images = [normalise(disks(seed)[None]) for seed in range(12)]
    return Familiarity.fit(training_looks(images, normalise, Augmentation(), seed=0))


def test_an_image_unlike_the_training_images_is_told(knows_disks):
    knowing = model(familiarity=knows_disks)
    familiar, inverted = disks(20), 1100 - disks(20)
    with pytest.warns(UserWarning, match=r"the image looks unlike .*\(score \d+\.\d\d;.*: contrast inverted\.") as told:
        found = segment(inverted, knowing)
    assert told[0].filename == __file__
    assert len(found) == len(segment(inverted, model()))  # it is told, and nothing else changes
    segment(familiar, knowing)  # a warning would be an error
    for image in (familiar, inverted):
        answered = answer(image, knowing)
        seen = looks(knowing.normalisation(image[None]))
        assert answered.unlike == knows_disks.score(seen)
        assert answered.why == (knows_disks.explain(seen) if answered.unlike > 1 else "")
        assert bool(answered.warning) == (image is inverted)


def test_an_image_is_compared_as_the_network_sees_it(knows_disks):
    knowing = model(familiarity=knows_disks, scale=Scale(diameter=10.0))
    large = ndimage.zoom(disks(20), 4, order=1)
    with pytest.warns(UserWarning, match="magnified more"):
        segment(large, knowing)
    segment(large, knowing, diameter=40.0)


def test_a_model_that_remembers_no_images_warns_of_none(monkeypatch):
    monkeypatch.setattr(predict, "looks", lambda image: 1 / 0)
    answered = answer(np.zeros((8, 8)), model())
    assert (answered.unlike, answered.why, answered.warning) == (None, "", "")


@pytest.mark.parametrize(
    ("name", "shipped"), [("nuclei.png", "nuclei"), ("worms.tif", "worms"), ("worms.tif", "worms-deterministic")]
)
def test_the_bundled_images_are_familiar(name, shipped):
    known = load_model(shipped)
    seen = known.normalisation(read_image(EXAMPLES / name).data)
    assert known.familiarity.score(looks(seen)) < 0.8


def blurred(image):
    return ndimage.gaussian_filter(image.astype(np.float32), (0, 4, 4))


def inverted(image):
    return image.max() - image


def magnified(image):
    """The upper left quarter, twice as large."""
    _, height, width = image.shape
    return ndimage.zoom(image[:, : height // 2, : width // 2].astype(np.float32), (1, 2, 2), order=1)


SPOILT = [(blurred, "less fine detail"), (inverted, "contrast inverted"), (magnified, "")]


@pytest.mark.parametrize(
    ("shipped", "data", "other"), [("worms-deterministic", "bbbc010", "dsb2018"), ("nuclei", "dsb2018", "bbbc010")]
)
def test_real_images_that_a_shipped_model_knows_or_not(real_data, shipped, data, other):
    known = load_model(shipped)
    image, stranger = (open_source(real_data / name, split="tune")[0].image().data for name in (data, other))
    segment(image, known, draws=1)  # a warning would be an error
    for change, words in SPOILT:
        with pytest.warns(UserWarning, match=f"unlike the training images.*{words}"):
            segment(change(image), known, draws=1)
    with pytest.warns(UserWarning, match="unlike the training images"):
        segment(stranger, known, draws=1)


@pytest.mark.parametrize(("shipped", "data"), [("worms", "bbbc010"), ("nuclei", "dsb2018")])
def test_real_images_of_the_kind_that_a_shipped_model_knows(real_data, shipped, data):
    known = load_model(shipped)
    images = [sample.image().data for sample in open_source(real_data / data, split="tune")[:20]]
    scores = [known.familiarity.score(looks(known.normalisation(image))) for image in images]
    assert np.mean(np.array(scores) > 1) <= 0.1


def test_the_public_name_is_this_function():
    assert plurimask.segment is segment
