"""Monte Carlo dropout: whole channels, one mask a seed, and normalisation that stays in eval mode."""

import math
from functools import partial

import pytest
import torch
from torch import nn

from plurimask.methods import Semantic
from plurimask.networks import UNet
from plurimask.posteriors import MCDropout
from plurimask.posteriors.mc_dropout import BernoulliDropout
from plurimask.protocols import Network


class Normalised(UNet):
    """A U-Net with batch normalisation behind every level of the encoder."""

    def __init__(self):
        super().__init__(width=4, depth=2)
        for level in self.encoder:
            level.second = nn.Sequential(level.second, nn.BatchNorm2d(level.second.convolution.out_channels))


def posterior(backbone=partial(UNet, width=4, depth=3), **settings):
    torch.manual_seed(0)

    def network():
        seen = backbone()
        return Network(seen, Semantic().head(seen))

    return MCDropout(network, **settings).eval()


def drawn(model, image, seeds):
    with torch.inference_mode():
        return [outputs["classes"] for outputs in model.draws(image, seeds, context={})]


def names(model):
    return [slot.name for slot, _ in model.backbone.slots() if slot.dropout is not None]


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.8])
def test_a_mask_is_bernoulli_and_keeps_the_mean(rate):
    count = 40_000
    torch.manual_seed(1)
    factors = BernoulliDropout(10, rate=rate)(torch.ones(count // 10, 10, 1, 1))
    assert factors.unique().tolist() == pytest.approx([0, 1 / (1 - rate)])
    # The variance of a factor is rate / (1 - rate).
    assert float(factors.mean()) == pytest.approx(1, abs=5 * math.sqrt(rate / (1 - rate) / count))


@pytest.mark.parametrize("ndim", [2, 3])
def test_whole_channels_are_dropped_and_each_image_of_a_batch_has_its_own_mask(ndim):
    torch.manual_seed(0)
    factors = BernoulliDropout(50, rate=0.5)(torch.ones(2, 50, *(5,) * ndim)).flatten(2)
    assert torch.equal(factors, factors[..., :1].expand_as(factors))
    assert not torch.equal(factors[0], factors[1])


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.1])
def test_a_rate_is_a_probability(rate):
    with pytest.raises(ValueError, match="between 0 and 1"):
        posterior(rate=rate)


def masks_seen(model, image, seed):
    """Of every dropout of one draw, the factors of its channels, ``(channels,)``."""
    factors, handles = [], []
    for slot, _ in model.backbone.slots():
        if slot.dropout is not None:

            def keep(module, arguments, output):
                factors.append(module.factor(module.fixed)[0])
                torch.testing.assert_close(output, arguments[0] * factors[-1][:, None, None])

            handles.append(slot.dropout.register_forward_hook(keep))
    drawn(model, image, [seed])
    for handle in handles:
        handle.remove()
    return factors


def test_a_seeds_masks_are_the_same_in_every_window():
    model = posterior(rate=0.4)
    small, large = masks_seen(model, torch.rand(1, 1, 16, 16), 5), masks_seen(model, torch.rand(1, 1, 40, 57), 5)
    other = masks_seen(model, torch.rand(1, 1, 16, 16), 6)
    assert len(small) == len(names(model)) == 9
    assert all(torch.equal(one, two) for one, two in zip(small, large, strict=True))
    assert not torch.equal(torch.cat(small), torch.cat(other))


@pytest.mark.parametrize(
    ("start", "first"), [(0, "encoder.0.1"), (1, "encoder.1.0"), (2, "encoder.2.0"), (3, "decoder.1.0")]
)
def test_dropout_starts_at_a_chosen_level_and_never_at_the_image(start, first):
    found = names(posterior(start=start))
    assert found[0] == first
    assert found[-4:] == ["decoder.1.0", "decoder.1.1", "decoder.0.0", "decoder.0.1"]


def test_what_comes_before_the_first_dropout_is_computed_once():
    model, calls = posterior(start=3), []
    for level in model.backbone.encoder:
        level.register_forward_hook(lambda *_: calls.append("encoder"))
    model.backbone.decoder[0].register_forward_hook(lambda *_: calls.append("decoder"))
    drawn(model, torch.rand(1, 1, 16, 16), [1, 2, 3])
    assert (calls.count("encoder"), calls.count("decoder")) == (3, 3)


def test_normalisation_stays_in_eval_mode_while_channels_are_dropped():
    model = posterior(Normalised, rate=0.5)
    before = {name: value.clone() for name, value in model.named_buffers()}
    image = 5 + 3 * torch.randn(1, 1, 16, 16)
    one, other = drawn(model, image, [1, 2])
    assert not torch.equal(one, other)
    assert len(before) == 6 and all(torch.equal(value, before[name]) for name, value in model.named_buffers())
    # Nor do the statistics of a window matter: the middle is the same beside other things.
    beside = torch.cat([image, 100 + torch.randn(1, 1, 16, 16)], dim=3)
    (wide,) = drawn(model, beside, [1])
    torch.testing.assert_close(wide[..., :4], one[..., :4])


def test_weight_decay_and_the_heads_terms():
    model = posterior(weight_decay=0.5)
    kernels = sum(float((w.detach().double() ** 2).sum()) for w in model.parameters() if w.ndim > 1)
    targets = {"classes": torch.zeros(1, 16, 16, dtype=torch.int64)}
    terms = model.losses(torch.zeros(1, 1, 16, 16), targets)
    assert set(terms) == {"classes", "weights"}
    assert float(terms["weights"].detach()) == pytest.approx(0.5 * kernels, rel=1e-5)
