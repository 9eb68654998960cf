"""Concrete dropout: the relaxed mask, the sign of its regulariser, and a draw that is a function of its seed."""

import math
from functools import partial

import numpy as np
import pytest
import torch

from plurimask.methods import Embedding
from plurimask.model import network_factory
from plurimask.posteriors import ConcreteDropout
from plurimask.posteriors.concrete_dropout import ChannelDropout
from plurimask.protocols import Network
from plurimask.testing import check_posterior

METHOD = Embedding(dimensions=4)


def network(ndim=2, channels=1):
    torch.manual_seed(0)
    settings = {"in_channels": channels, "ndim": ndim, "width": 4, "depth": 3}
    made = network_factory({"class_path": "plurimask.networks.unet.UNet", "init_args": settings}, METHOD)()
    assert isinstance(made, Network)
    return made


def posterior(ndim=2, channels=1, **settings):
    return ConcreteDropout(partial(network, ndim, channels), **settings).eval()


def set_rates(model, rate):
    with torch.no_grad():
        for _, dropout, _ in model.layers():
            dropout.logit.fill_(math.log(rate / (1 - rate)))


def drawn(model, image, seeds):
    with torch.inference_mode():
        return list(model.draws(image, seeds, context={}))


@pytest.mark.parametrize("ndim", [2, 3])
def test_it_keeps_the_contract(ndim):
    # Two convolutions a level and way, and the poolings: a 3-level network sees 2 + 4 + 8 + 4 + 2 + 3 pixels far.
    check_posterior(posterior(ndim, initial_rate=0.3), METHOD, halo=24, steps=4)


@pytest.mark.parametrize("rate", [0.05, 0.1, 0.5, 0.8])
@pytest.mark.parametrize("temperature", [0.1, 2 / 3])
def test_the_mean_of_the_mask_is_that_of_its_distribution(rate, temperature):
    # z = 1 - sigmoid((logit p + logit u) / T), u uniform: the mean by quadrature over u, in float64.
    u = (np.arange(200_000) + 0.5) / 200_000
    power = (np.log(rate / (1 - rate)) + np.log(u / (1 - u))) / temperature
    z = 1 / (1 + np.exp(np.clip(power, -500, 500)))
    count = 40_000
    layer = ChannelDropout(10, rate=rate, temperature=temperature)
    torch.manual_seed(1)
    with torch.no_grad():
        found = layer(torch.ones(count // 10, 10, 1, 1)).double()
    error = z.std() / (1 - rate) / math.sqrt(count)
    assert float(found.mean()) == pytest.approx(z.mean() / (1 - rate), abs=5 * error)
    # The relaxation is symmetric about p = 1/2 and all but exact at T = 0.1: there the mean is 1.
    if temperature == 0.1:
        assert z.mean() / (1 - rate) == pytest.approx(1, abs=0.1 if rate > 0.5 else 0.02)


def test_at_low_temperature_the_mask_is_bernoulli():
    rate, count = 0.3, 20_000
    torch.manual_seed(0)
    with torch.no_grad():
        mask = ChannelDropout(10, rate=rate, temperature=1e-3)(torch.ones(count // 10, 10, 1, 1)) * (1 - rate)
    assert float(((mask < 0.01) | (mask > 0.99)).float().mean()) > 0.99
    share = float((mask < 0.5).float().mean())
    assert share == pytest.approx(rate, abs=5 * math.sqrt(rate * (1 - rate) / count))


@pytest.mark.parametrize("ndim", [2, 3])
def test_a_mask_drops_whole_channels_and_each_image_has_its_own(ndim):
    torch.manual_seed(0)
    with torch.no_grad():
        factors = ChannelDropout(50, rate=0.5, temperature=0.1)(torch.ones(2, 50, *(5,) * ndim)).flatten(2)
    assert torch.equal(factors, factors[..., :1].expand_as(factors))
    assert not torch.equal(factors[0], factors[1])


@pytest.mark.parametrize("rate", [1e-3, 0.1, 0.5, 0.9])
def test_entropy_by_its_closed_form(rate):
    layer = ChannelDropout(1, rate=rate, temperature=0.1)
    wanted = -rate * math.log(rate) - (1 - rate) * math.log(1 - rate)
    assert float(layer.entropy().detach()) == pytest.approx(wanted, abs=1e-5)
    assert float(layer.rate.detach()) == pytest.approx(rate, rel=1e-5)
    assert float(ChannelDropout(1, rate=0.5, temperature=0.1).entropy().detach()) == pytest.approx(
        math.log(2), abs=1e-6
    )


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.1])
def test_a_rate_is_a_probability(rate):
    with pytest.raises(ValueError, match="between 0 and 1"):
        ChannelDropout(1, rate=rate, temperature=0.1)


@pytest.mark.parametrize("start", [0, 2])
def test_the_regulariser_in_the_papers_form(start):
    model = posterior(length_scale=0.5, entropy_scale=0.25, start=start)
    generator = np.random.default_rng(0)
    with torch.no_grad():
        for _, dropout, _ in model.layers():
            dropout.logit.fill_(float(generator.normal()))
    # R20, Eq. 4 has the variational mean M = W / (1 - p): (1 - p) ||M||^2. Written out in numpy, kernel by kernel.
    wanted, dropped = 0.0, []
    for _, dropout, weight in model.layers():
        p, kernel = 1 / (1 + np.exp(-float(dropout.logit.detach()))), weight.detach().numpy().astype(float)
        mean = kernel / (1 - p)
        entropy = -p * np.log(p) - (1 - p) * np.log(1 - p)
        wanted += 0.5 * (1 - p) * (mean**2).sum() - 0.25 * kernel.shape[1] * entropy
        dropped.append(weight)
    for weight in model.parameters():
        if weight.ndim > 1 and not any(weight is other for other in dropped):
            wanted += 0.5 * (weight.detach().numpy().astype(float) ** 2).sum()
    assert float(model.regulariser().detach()) == pytest.approx(wanted, rel=1e-5)


def test_the_penalty_on_weights_rises_with_the_rate():
    model = posterior(length_scale=1.0, entropy_scale=0.0)
    penalties = []
    for rate in (0.1, 0.3, 0.5, 0.7):
        set_rates(model, rate)
        penalties.append(float(model.regulariser().detach()))
    assert penalties == sorted(penalties)
    model.regulariser().backward()
    assert all(float(dropout.logit.grad) > 0 for _, dropout, _ in model.layers())


def test_the_entropy_pulls_rates_to_one_half():
    model = posterior(length_scale=0.0, entropy_scale=1.0)
    for rate, sign in ((0.2, -1), (0.8, 1)):
        set_rates(model, rate)
        model.zero_grad()
        model.regulariser().backward()
        assert all(math.copysign(1, float(dropout.logit.grad)) == sign for _, dropout, _ in model.layers())


def test_the_loss_divides_by_the_number_of_images(crossing_worms):
    model = posterior()
    targets = {name: torch.from_numpy(value)[None] for name, value in METHOD.targets(crossing_worms, None).items()}
    image = torch.zeros(1, 1, *crossing_worms.shape)
    with torch.no_grad():
        assert float(model.losses(image, targets)["weights"]) == pytest.approx(float(model.regulariser()))
        model.samples = 40
        assert float(model.losses(image, targets)["weights"]) == pytest.approx(float(model.regulariser()) / 40)


def test_a_seed_is_a_function():
    model, image = posterior(initial_rate=0.4), torch.randn(1, 1, 32, 24)
    seven, eight, again = drawn(model, image, [7, 8, 7])
    torch.manual_seed(99)  # the global state plays no part
    (alone,) = drawn(model, image, [7])
    for name in seven:
        assert torch.equal(seven[name], again[name])
        assert torch.equal(seven[name], alone[name])
        assert not torch.equal(seven[name], eight[name])


def masks_seen(model, image, seed):
    """What every layer's mask was in one draw, ``(channels,)`` each: the ratio of what leaves and what comes."""
    factors, handles = [], []
    for _, dropout, _ in model.layers():

        def keep(module, arguments, output):
            ratio = (output / arguments[0]).flatten(2)[0]
            known = torch.isfinite(ratio)
            factors.append((torch.where(known, ratio, 0).sum(1) / known.sum(1), torch.where(known, ratio, 0), known))

        handles.append(dropout.register_forward_hook(keep))
    drawn(model, image, [seed])
    for handle in handles:
        handle.remove()
    return factors


def test_the_mask_is_one_in_every_window_and_constant_in_space():
    model = posterior(initial_rate=0.4)
    torch.manual_seed(3)
    small, large = masks_seen(model, torch.rand(1, 1, 16, 16), 5), masks_seen(model, torch.rand(1, 1, 40, 57), 5)
    other = masks_seen(model, torch.rand(1, 1, 16, 16), 6)
    compared = 0
    for (one, values, known), (two, *_), (three, *_) in zip(small, large, other, strict=True):
        spread = torch.where(known, values - one[:, None], 0).abs().max()
        assert float(spread) < 1e-5
        alive = torch.isfinite(one) & torch.isfinite(two) & torch.isfinite(three)
        torch.testing.assert_close(one[alive], two[alive], atol=1e-5, rtol=1e-4)
        assert not torch.allclose(one[alive], three[alive])
        compared += int(alive.sum())
    assert compared > 50


def test_the_image_is_never_dropped():
    model = posterior(channels=3, initial_rate=0.9)
    network = model.network
    seen = []
    network.backbone.encoder[0].first.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    image = torch.randn(1, 3, 16, 16)
    drawn(model, image, [0, 1])
    assert all(torch.equal(arrived, image) for arrived in seen)
    behind = {id(weight) for _, _, weight in model.layers()}
    assert id(network.backbone.encoder[0].first.weight) not in behind


@pytest.mark.parametrize(
    ("start", "first"), [(0, "encoder.0.1"), (1, "encoder.1.0"), (2, "encoder.2.0"), (9, "decoder.1.0")]
)
def test_dropout_starts_at_a_chosen_level(start, first):
    names = [name for name, *_ in posterior(start=start).layers()]
    assert names[0] == first
    assert names[-4:] == ["decoder.1.0", "decoder.1.1", "decoder.0.0", "decoder.0.1"]


def test_rates_have_a_learning_rate_of_their_own():
    model = posterior(rate_speed=7.0)
    weights, rates = model.parameter_groups(1e-3)
    assert (weights["lr"], rates["lr"]) == (1e-3, pytest.approx(7e-3))
    assert [id(rate) for rate in rates["params"]] == [id(dropout.logit) for _, dropout, _ in model.layers()]
    together = [id(weight) for weight in (*weights["params"], *rates["params"])]
    assert sorted(together) == sorted(id(weight) for weight in model.parameters())


def test_the_data_teach_the_rates(crossing_worms):
    # Without the regulariser a gradient can only come through the masks.
    model = posterior(length_scale=0.0, entropy_scale=0.0, initial_rate=0.3).train()
    targets = {name: torch.from_numpy(value)[None] for name, value in METHOD.targets(crossing_worms, None).items()}
    image = torch.from_numpy(crossing_worms.owners()).float()[None, None]
    torch.manual_seed(0)
    seen = [0.0] * len(model.layers())
    for _ in range(5):
        model.zero_grad()
        torch.stack(list(model.losses(image, targets).values())).sum().backward()
        seen = [old + abs(float(dropout.logit.grad)) for old, (_, dropout, _) in zip(seen, model.layers(), strict=True)]
    assert all(total > 0 for total in seen)


def test_the_report_names_every_rate():
    report = posterior(initial_rate=0.25).report()
    assert set(report) == {f"rate.{name}" for name, *_ in posterior().layers()}
    assert all(rate == pytest.approx(0.25) for rate in report.values())


def test_nothing_stays_fixed_after_a_draw():
    model = posterior()
    stream = model.draws(torch.randn(1, 1, 16, 16), [1, 2], context={})
    with torch.inference_mode():
        next(stream)
    assert all(dropout.fixed is None for _, dropout, _ in model.layers())
