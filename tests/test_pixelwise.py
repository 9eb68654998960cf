"""Pixel-wise doubt: closed forms, windows and draws that add up, means over objects."""

from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pytest
import torch
from scipy import stats

from plurimask.instances import Instances
from plurimask.methods import Embedding, Semantic
from plurimask.model import Model, Scale
from plurimask.networks import UNet
from plurimask.pixelwise import PixelDoubt, doubt_of_draws, entropy, pixel_doubt
from plurimask.posteriors import Augmented, ConcreteDropout, Deterministic
from plurimask.predict import seeds_of, visit_outputs
from plurimask.protocols import Network

LN2 = np.log(2)
DOUBTING = partial(ConcreteDropout, initial_rate=0.4)


def model(posterior=DOUBTING, method=Semantic(), *, ndim=2, **settings):
    def network():
        torch.manual_seed(0)
        backbone = UNet(ndim=ndim, width=4, depth=2)
        return Network(backbone, method.head(backbone))

    return Model(posterior=posterior(network).eval(), method=method, **settings)


def picture(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_two_classes_by_hand():
    # Pixels: both draws sure; sure of opposites; both unsure; draws of 0.9 and 0.1.
    one, other = np.array([1.0, 1.0, 0.5, 0.9]), np.array([1.0, 0.0, 0.5, 0.1])
    doubt = doubt_of_draws(np.stack([p, 1 - p]) for p in (one, other))
    leaning = -(0.9 * np.log(0.9) + 0.1 * np.log(0.1))
    assert doubt.probabilities[0] == pytest.approx([1, 0.5, 0.5, 0.5])
    assert doubt.total == pytest.approx([0, LN2, LN2, LN2])
    assert doubt.expected == pytest.approx([0, 0, LN2, leaning])
    assert doubt.mutual_information == pytest.approx([0, LN2, 0, LN2 - leaning], abs=1e-6)


def test_many_classes_and_draws_against_scipy():
    draws = np.random.default_rng(0).dirichlet([0.5] * 4, (7, 5, 6)).transpose(0, 3, 1, 2)
    doubt = doubt_of_draws(draws)
    np.testing.assert_allclose(doubt.total, stats.entropy(draws.mean(0), axis=0), atol=1e-6)
    np.testing.assert_allclose(doubt.expected, stats.entropy(draws, axis=1).mean(0), atol=1e-6)
    # Mutual information is the mean divergence of the draws from their mean.
    divergence = stats.entropy(draws, draws.mean(0, keepdims=True), axis=1).mean(0)
    np.testing.assert_allclose(doubt.mutual_information, divergence, atol=1e-6)


def test_equal_draws_have_no_mutual_information():
    draw = np.random.default_rng(0).dirichlet([1, 1, 1], (50, 40)).transpose(2, 0, 1)
    shared = doubt_of_draws([draw] * 9).mutual_information
    assert (shared >= 0).all() and shared.max() < 1e-6
    assert not doubt_of_draws([draw]).mutual_information.any()


def test_the_largest_entropy_is_that_of_equal_probabilities():
    assert entropy(np.full((5, 1), 0.2)) == pytest.approx([np.log(5)])


def test_no_draw_and_broken_draws_are_told():
    with pytest.raises(ValueError, match="no draw"):
        doubt_of_draws([])
    with pytest.raises(FloatingPointError, match="not finite"):
        doubt_of_draws([np.array([[0.5], [np.nan]])])


def test_means_of_objects():
    expected = np.array([[0.0, 0.2, 0.4], [0.6, 0.1, 0.3]], np.float32)
    doubt = PixelDoubt(np.full((2, 2, 3), 0.5, np.float32), expected)
    found = Instances.from_masks([expected > 0.35, expected < 0.05], (2, 3))
    means = doubt.means(found)
    assert means["expected"] == pytest.approx([0.5, 0.0])
    assert means["total"] == pytest.approx([LN2, LN2])
    assert means["mutual_information"] == pytest.approx([LN2 - 0.5, LN2])
    assert all(values.shape == (0,) for values in doubt.means(Instances.empty((2, 3))).values())
    nowhere = Instances.from_crops([[[0, 0], [1, 1]]], [np.zeros((1, 1), bool)], (2, 3))
    assert np.isnan(doubt.means(nowhere)["total"]).all()
    with pytest.raises(ValueError, match=r"\(4, 3\).*\(2, 3\)"):
        doubt.means(Instances.empty((4, 3)))


@pytest.mark.parametrize("method", [Semantic(), Semantic((1.0, 1.0, 1.0)), Embedding(dimensions=4)])
@pytest.mark.parametrize(("shape", "window", "halo"), [((75, 90), 48, 16), ((9, 37, 30), 28, 10)])
def test_windows_and_draws_add_up(method, shape, window, halo):
    whole = model(method=method, ndim=len(shape), window=256, halo=8)
    image = picture(shape)
    ask = partial(pixel_doubt, image, draws=3, seed=5, precision="float32")
    one, tiled = ask(whole), ask(replace(whole, window=window, halo=halo))
    seen = []

    def keep(window, draw, outputs):
        seen.append(method.probabilities(outputs).numpy())

    scaled = torch.from_numpy(whole.normalisation(image[None]))
    visit_outputs(scaled, whole, keep, seeds=seeds_of(whole, 3, 5), precision="float32")
    assert len(seen) == 3, "test invalid: more than one window"
    wanted = doubt_of_draws(seen)
    for name in ("probabilities", "total", "expected", "mutual_information"):
        np.testing.assert_allclose(getattr(one, name), getattr(wanted, name), atol=1e-6)
        np.testing.assert_allclose(getattr(tiled, name), getattr(one, name), atol=2e-4)
    assert one.mutual_information.max() > 1e-3, "test invalid: the draws agree"


def test_a_deterministic_model_doubts_in_one_draw():
    doubt = pixel_doubt(picture((20, 30)), model(Deterministic), draws=8)
    assert not doubt.mutual_information.any() and doubt.total.max() > 0


@pytest.mark.parametrize("halo", [8, 32])
def test_draws_that_turn_the_image_are_turned_back(halo):
    # The sides are odd: the image is padded before it is turned. Where the halo is large there are two windows.
    made = model(partial(Augmented, posterior=Deterministic), window=128 if halo == 8 else 72, halo=halo)
    image = picture((41, 75))
    doubt = pixel_doubt(image, made, draws=8, precision="float32")
    scaled = torch.from_numpy(made.normalisation(image[None]))
    padded = torch.nn.functional.pad(scaled[None], (0, 1, 0, 1), mode="reflect")
    network, draws = made.posterior.posterior.network, []
    for quarters in range(4):
        for mirrored in (False, True):
            turned = torch.rot90(padded.flip(-1) if mirrored else padded, quarters, (-2, -1))
            with torch.no_grad():
                seen = made.method.probabilities(network(turned))
            back = torch.rot90(seen, -quarters, (-2, -1))
            draws.append((back.flip(-1) if mirrored else back)[:, :41, :75].numpy())
    wanted = doubt_of_draws(draws)
    for name in ("total", "expected", "mutual_information"):
        np.testing.assert_allclose(getattr(doubt, name), getattr(wanted, name), atol=1e-5)
    assert doubt.mutual_information.max() > 1e-3, "test invalid: the draws agree"


@dataclass(frozen=True)
class Halves(Semantic):
    """Class 1 at the right half of what is seen, in every draw."""

    def probabilities(self, outputs):
        right = torch.zeros(outputs["classes"].shape[2:])
        right[:, right.shape[1] // 2 :] = 1
        return torch.stack([1 - right, right])


@pytest.mark.parametrize("diameter", [5.0, 20.0])
def test_maps_come_back_in_the_frame_of_the_image(diameter):
    doubt = pixel_doubt(picture((32, 48)), model(method=Halves(), scale=Scale(diameter=10.0)), diameter=diameter)
    assert doubt.probabilities.shape == (2, 32, 48) and doubt.expected.shape == (32, 48)
    np.testing.assert_allclose(doubt.probabilities.sum(0), 1, atol=1e-5)
    assert doubt.probabilities[1, :, :20].max() < 1e-3 and doubt.probabilities[1, :, 28:].min() > 1 - 1e-3
