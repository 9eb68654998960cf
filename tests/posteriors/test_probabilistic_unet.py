"""The Probabilistic U-Net: one latent vector an image, the right divergence, one pass for all draws."""

from functools import partial

import numpy as np
import pytest
import torch
from torch.distributions import Independent, Normal, kl_divergence

from plurimask.data.dataset import collate
from plurimask.methods import Embedding, Semantic
from plurimask.networks import UNet
from plurimask.posteriors import ProbabilisticUNet
from plurimask.posteriors.probabilistic_unet import condition_channels, levels_read
from plurimask.posteriors.seeds import normal
from plurimask.protocols import Network
from plurimask.testing import check_posterior, toy_image, toy_truths

DEEP = Embedding(dimensions=4, levels=3)


def network(method, channels=1):
    torch.manual_seed(0)
    backbone = UNet(channels, width=4, depth=3)
    return Network(backbone, method.head(backbone))


def posterior(method=Semantic(), channels=1, **settings):
    return ProbabilisticUNet(partial(network, method, channels), width=4, depth=2, **settings).eval()


def batch(method, *names, channels=1):
    truths = [toy_truths()[name] for name in names]
    images = np.stack([toy_image(truth, channels=channels) for truth in truths])
    targets = collate([method.targets(truth, np.random.default_rng(0)) for truth in truths], method.ragged)
    return torch.from_numpy(images), targets


@torch.inference_mode()
def drawn(model, image, seeds, context=None):
    context = model.context(image) if context is None else context
    return [outputs["classes"] for outputs in model.draws(image, seeds, context=context)]


def test_it_keeps_the_contract():
    check_posterior(posterior(DEEP, channels=3, layers=2), DEEP, halo=24, channels=3)


def test_equal_seeds_equal_samples_other_seeds_other_samples():
    model, image = posterior(), torch.randn(1, 1, 24, 40)
    one, other, again = drawn(model, image, [3, 4, 3])
    assert torch.equal(one, again)
    # One vector for the whole image: it is no noise of single pixels, and changes much of the image at once.
    assert float(((one - other).abs() > 1e-6).float().mean()) > 0.5


def test_all_draws_share_one_pass_of_the_backbone():
    model, passes = posterior(), []
    model.network.backbone.register_forward_hook(lambda *_: passes.append(1))
    assert len(drawn(model, torch.randn(1, 1, 24, 40), range(16))) == 16
    assert passes == [1]


def test_a_sample_is_mean_plus_sigma_times_the_seeds_noise():
    model, image, seen = posterior(), torch.randn(1, 1, 24, 40), []
    model.mixers[0].register_forward_hook(lambda _, arguments, output: seen.append(arguments[1]))
    context = {"mean": torch.full((1, 6), 2.0), "log_sigma": torch.full((1, 6), -1.0)}
    drawn(model, image, [0, 9], context)
    for seed, vector in zip((0, 9), seen, strict=True):
        torch.testing.assert_close(vector, 2 + np.exp(-1) * normal(seed, 0, 6))


def test_the_vector_is_that_of_the_whole_image_in_every_window():
    model, image = posterior(), torch.randn(1, 1, 64, 96)
    context = model.context(image)
    assert context["mean"].shape == context["log_sigma"].shape == (1, 6)
    assert not torch.allclose(model.context(image[..., :32])["mean"], context["mean"])
    (whole,), (part,) = drawn(model, image, [5], context), drawn(model, image[..., :64], [5], context)
    torch.testing.assert_close(whole[..., :40], part[..., :40], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("method", "levels"), [(Semantic(), (0,)), (Embedding(dimensions=4), (0,)), (DEEP, (0, 1, 2))])
def test_the_vector_reaches_every_decoder_level_that_the_head_reads(method, levels):
    model = posterior(method)
    assert levels_read(model.network) == model.levels == levels
    seen = []
    model.network.head.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    drawn(model, torch.randn(1, 1, 24, 40), [1, 2])
    one, other = seen
    for level, (first, second) in enumerate(zip(one.decoder, other.decoder, strict=True)):
        assert torch.equal(first, second) == (level not in levels)
    assert all(torch.equal(first, second) for first, second in zip(one.encoder, other.encoder, strict=True))
    assert torch.equal(one.image, other.image)


def test_looking_for_the_levels_leaves_the_network_alone():
    plain = network(DEEP)
    before = {name: value.clone() for name, value in plain.state_dict().items()}
    levels_read(plain)
    assert all(torch.equal(value, before[name]) for name, value in plain.state_dict().items())
    assert all(weight.grad is None for weight in plain.parameters())


def test_the_divergence_goes_from_the_posterior_to_the_prior():
    method = Semantic()
    model, (image, targets) = posterior(method, beta=0.5), batch(method, "touching blobs", "crossing worms")
    prior = model.prior(image)
    seen = model.posterior(torch.cat([image, method.condition(targets)], 1))
    p, q = (Independent(Normal(each.mean, each.log_sigma.exp()), 1) for each in (prior, seen))
    found = model.losses(image, targets)["kl"].detach()
    torch.testing.assert_close(found, 0.5 * kl_divergence(q, p).mean().detach())
    assert not torch.allclose(found, 0.5 * kl_divergence(p, q).mean().detach())


def test_training_draws_from_the_posterior_and_the_posterior_sees_the_truth():
    method = Semantic()
    model, (image, targets) = posterior(method), batch(method, "touching blobs", "crossing worms")
    vectors = []
    model.mixers[0].register_forward_hook(lambda _, arguments, output: vectors.append(arguments[1]))
    with torch.no_grad():
        model.posterior.last.weight.zero_()
        model.posterior.last.bias[:6], model.posterior.last.bias[6:] = 7.0, -9.0
    model.losses(image, targets)
    torch.testing.assert_close(vectors[0], torch.full((2, 6), 7.0), atol=1e-2, rtol=0)
    fresh, empty = posterior(method), {"classes": torch.zeros_like(targets["classes"])}
    one, other = (fresh.posterior(torch.cat([image, method.condition(t)], 1)).mean for t in (targets, empty))
    assert not torch.allclose(one, other)


def test_the_posterior_sees_the_mean_of_all_annotators():
    method, seen = Semantic(), []
    model, (image, targets) = posterior(method), batch(method, "touching blobs")
    annotators = [{"classes": targets["classes"][0].numpy()}, {"classes": np.zeros(image.shape[2:], np.int64)}]
    model.posterior.register_forward_hook(lambda _, arguments, output: seen.append(arguments[0][:, 1:]))
    terms = model.losses(image, collate([method.joined(annotators)]))
    torch.testing.assert_close(seen[0][0, 1], targets["classes"][0] / 2)
    assert all(torch.isfinite(term) for term in terms.values())


def test_terms_of_the_loss():
    model, (image, targets) = posterior(weight_decay=0.5), batch(Semantic(), "touching blobs")
    terms = model.losses(image, targets)
    kernels = sum(float((w.detach().double() ** 2).sum()) for w in model.parameters() if w.ndim > 1)
    assert set(terms) == {"classes", "kl", "weights"}
    assert float(terms["weights"].detach()) == pytest.approx(0.5 * kernels, rel=1e-5)


@pytest.mark.parametrize("ndim", [2, 3])
def test_channels_of_the_truth(ndim):
    assert condition_channels(Semantic(class_weights=(1.0, 1.0, 2.0, 1.0)), ndim) == 4
    assert condition_channels(Embedding(), ndim) == 3


def test_it_learns_that_an_image_has_two_readings():
    # The same image with and without its objects as truth: the samples are to be of both kinds.
    method = Semantic()
    torch.manual_seed(0)
    model = ProbabilisticUNet(partial(network, method), latent=2, width=4, depth=2, beta=1e-3).train()
    image, full = batch(method, "touching blobs")
    both = {"classes": torch.cat([full["classes"], torch.zeros_like(full["classes"])])}
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    objects = full["classes"][0] > 0
    for step in range(400):
        optimiser.zero_grad()
        torch.stack([*model.losses(image.expand(2, -1, -1, -1), both).values()]).sum().backward()
        optimiser.step()
        if step % 40 == 39:
            found = torch.stack([maps[0].argmax(0)[objects].float().mean() for maps in drawn(model, image, range(30))])
            if min((found > 0.9).sum(), (found < 0.1).sum()) >= 5:
                return
    raise AssertionError(f"after 400 steps the shares of the objects' pixels that 30 samples find are {found}")
