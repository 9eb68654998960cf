"""Test-time augmentation: windows are turned, objects are turned back, and tiled is whole."""

from functools import partial

import numpy as np
import pytest
import torch

from plurimask.instances import Instances
from plurimask.methods import METHODS, Contours, Embedding, Semantic
from plurimask.methods.contour_head import LARGEST_SIGMA
from plurimask.model import Model, network_factory
from plurimask.networks import UNet
from plurimask.ops.contours import rasterise
from plurimask.posteriors import Augmented, ConcreteDropout, Deterministic, Ensemble
from plurimask.predict import seeds_of, segment_draws, visit_outputs
from plurimask.protocols import Network
from plurimask.symmetry import IDENTITY, symmetries
from plurimask.testing import matched_ious, toy_image, toy_truths


def model(method=Semantic(), posterior=Deterministic, *, ndim=2, **settings):
    def network():
        backbone = UNet(ndim=ndim, width=4, depth=2)
        return Network(backbone, method.head(backbone))

    torch.manual_seed(0)
    return Model(posterior=Augmented(network, posterior=posterior).eval(), method=method, **settings)


def pasted(model, image, seed):
    """The map of one draw over the whole image, every window's core in its place; (K, *spatial)."""
    canvas = torch.full((2, *image.shape[1:]), torch.nan)

    def visit(window, draw, outputs):
        upright = window.symmetry.undo(outputs["classes"])[0]
        core = [slice(start, stop) for start, stop in window.core.T]
        inside = [slice(*(span - start)) for span, start in zip(window.core.T, window.outer[0], strict=True)]
        canvas[:, *core] = upright[:, *inside]

    visit_outputs(image, model, visit, seeds=[seed], precision="float32")
    return canvas


@pytest.mark.parametrize(
    ("shape", "window", "halo"),
    [((75, 91), 40, 12), ((76, 91), 41, 12), ((29, 45, 38), 36, 12)],
    ids=["odd", "odd window", "volume"],
)
def test_tiled_equals_whole_under_every_symmetry(shape, window, halo):
    image = torch.from_numpy(np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32))
    whole = model(ndim=len(shape), window=512, halo=12)
    tiled = model(ndim=len(shape), window=window, halo=halo)
    for seed in range(0, len(symmetries(len(shape))), 1 if len(shape) == 2 else 5):
        one, other = pasted(whole, image, seed), pasted(tiled, image, seed)
        assert torch.isfinite(one).all()
        torch.testing.assert_close(other, one, atol=1e-4, rtol=1e-4)


def equivariant(made):
    """Makes every kernel its own mirror image in all symmetries: then so is the network."""
    with torch.no_grad():
        for weight in made.posterior.parameters():
            if weight.ndim > 2:
                ndim = weight.ndim - 2
                weight.copy_(torch.stack([symmetry.apply(weight) for symmetry in symmetries(ndim)]).mean(0))
    return made


def balanced(made, image):
    """With a bias under which half of the pixels of a draw are background."""
    with torch.no_grad():
        (outputs,) = made.posterior.draws(image[None], [0], context={})
        background, *others = outputs["classes"][0]
        surplus = background - torch.logsumexp(torch.stack(others), 0)
        made.posterior.posterior.network.head.classes.bias[0] -= surplus.median()
    return made


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("method", [Semantic(min_size=4), Embedding(dimensions=4, semi_convolutional=None)])
def test_a_network_that_does_not_mind_finds_the_same_objects_in_every_draw(method, ndim):
    made = model(method, ndim=ndim)
    image = torch.from_numpy(toy_image(toy_truths(ndim)["touching blobs"]))
    seeds = range(made.posterior.distinct)
    usual = segment_draws(image, balanced(made, image), seeds=seeds, precision="float32")
    assert any(not np.array_equal(found.owners(), usual[0].owners()) for found in usual), "test invalid"
    draws = segment_draws(image, balanced(equivariant(made), image), seeds=seeds, precision="float32")
    assert len(draws) == 8 * (ndim - 1) and len(draws[0]) > 0
    for found in draws[1:]:
        np.testing.assert_array_equal(found.owners(), draws[0].owners())
        np.testing.assert_allclose(np.sort(found.scores), np.sort(draws[0].scores), atol=1e-4)


def test_objects_of_an_image_that_has_to_be_padded():
    # The union of the objects is where the map, turned back and cut to the image, says foreground.
    made = model(Semantic(min_size=1))
    image = torch.from_numpy(toy_image(toy_truths()["touching blobs"]))[:, :23, :39]
    balanced(made, image)
    seeds = range(8)
    for seed, found in enumerate(segment_draws(image, made, seeds=seeds, precision="float32")):
        assert found.shape == (23, 39) and len(found) > 0
        probabilities = torch.softmax(pasted(made, image, seed), 0)
        np.testing.assert_array_equal(found.owners() > 0, probabilities[0].numpy() <= 0.5)


def turned_truth(truth, symmetry):
    masks = symmetry.apply(torch.from_numpy(truth.to_masks())).numpy()
    return Instances.from_masks(masks, masks.shape[1:])


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_every_methods_objects_come_upright(method):
    method, truth = method(), toy_truths()["touching blobs"]
    usual = method.decode(method.ideal(truth))
    for symmetry in symmetries(2):
        found = symmetry.undo_objects(method.decode(method.ideal(turned_truth(truth, symmetry))))
        assert found.shape == truth.shape
        assert (matched_ious(usual, found) > 0.95).all()


def test_contours_and_their_borders_come_upright():
    method, truth = Contours(), toy_truths()["touching blobs"]
    for symmetry in symmetries(2):
        outputs = method.ideal(turned_truth(truth, symmetry))
        # Standard deviations by the place of a border in the turned frame: top 1, left 2, bottom 3, right 4.
        sigmas = torch.tensor([1.0, 2.0, 3.0, 4.0])[:, None, None]
        outputs["uncertainty"][0] = torch.log(sigmas / (LARGEST_SIGMA - sigmas))
        found = symmetry.undo_objects(method.decode(outputs))
        for contour, box, mask in zip(found.features["contour"], found.boxes, found.masks, strict=True):
            # What the contour encloses is the object; a rounding at .5 may go the other way in a mirror.
            place, inside = rasterise(contour, truth.shape)
            drawn, wanted = (Instances.from_crops([b], [m], truth.shape) for b, m in ((place, inside), (box, mask)))
            assert matched_ious(drawn, wanted)[0] > 0.9
        turned = symmetry.undo(torch.tensor([[0.0, 1.0, 0.0], [2.0, 0.0, 4.0], [0.0, 3.0, 0.0]]))
        border = [[turned[0, 1], turned[1, 0]], [turned[2, 1], turned[1, 2]]]  # top, left; bottom, right
        np.testing.assert_allclose(found.features["border"], [border] * 2, rtol=1e-3)


@torch.inference_mode()
def test_a_draw_is_that_of_the_posterior_within_seen_turned():
    made, image = model(posterior=partial(ConcreteDropout, initial_rate=0.3)).posterior, torch.randn(1, 1, 16, 24)
    for seed, outputs in enumerate(made.draws(image, range(10), context={})):
        symmetry = symmetries(2)[seed % 8]
        assert made.symmetry(seed) == symmetry
        (wanted,) = made.posterior.draws(symmetry.apply(image), [seed], context={})
        assert torch.equal(outputs["classes"], wanted["classes"])


def test_the_first_draw_is_upright_and_no_draw_is_made_twice():
    assert model().posterior.symmetry(0) == IDENTITY
    assert seeds_of(model(), 100, 3) == range(3, 11)
    assert seeds_of(model(ndim=3), 100, 0) == range(16)
    assert seeds_of(model(posterior=ConcreteDropout), 100, 0) == range(100)
    # Of 3 members under 8 symmetries all pairs occur; of 4 every second one.
    assert model(posterior=partial(Ensemble, members=3)).posterior.distinct == 24
    assert model(posterior=partial(Ensemble, members=4)).posterior.distinct == 8


def test_members_of_an_ensemble_turn_as_they_do_alone():
    backbone = {"class_path": "plurimask.networks.unet.UNet", "init_args": {"width": 4, "depth": 2}}
    made = Ensemble(network_factory(backbone, Semantic()), members=2, member=Augmented)
    assert made.distinct == 16
    assert [made.symmetry(seed) for seed in range(6)] == [symmetries(2)[seed // 2] for seed in range(6)]


def test_around_a_posterior_that_is_trained_already():
    trained = model().posterior.posterior
    around = Augmented.of(trained)
    assert around.posterior is trained and around.distinct == 8
    assert list(around.parts()) == [trained]


def test_turning_twice_is_refused():
    with pytest.raises(ValueError, match="turns its windows already"):
        model(posterior=partial(Ensemble, members=1, member=Augmented))


def test_training_is_that_of_the_posterior_within(touching_blobs):
    made = model(posterior=partial(ConcreteDropout, rate_speed=7.0)).posterior
    inner, made.samples = made.posterior, 40
    targets = {"classes": torch.zeros(1, 24, 40, dtype=torch.int64)}
    torch.manual_seed(0)
    terms = made.losses(torch.zeros(1, 1, 24, 40), targets)
    torch.manual_seed(0)
    assert terms == inner.losses(torch.zeros(1, 1, 24, 40), targets)
    assert inner.samples == 40
    assert made.report() == inner.report()
    assert [group["lr"] for group in made.parameter_groups(1.0)] == [1.0, 7.0]
