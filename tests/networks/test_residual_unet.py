"""The residual U-Net: the published encoder, any image size in 2-D and 3-D, shifts, what several draws may share."""

import math
import re
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from plurimask.data.dataset import collate
from plurimask.methods import METHODS, Contours, Semantic
from plurimask.model import describe, network_factory
from plurimask.networks import ResidualUNet
from plurimask.networks.residual_unet import moving_mean, normalisation
from plurimask.posteriors import ConcreteDropout, Deterministic, MCDropout
from plurimask.testing import check_posterior, toy_image, toy_truths


def small(ndim=2, **settings):
    torch.manual_seed(0)
    fields = {"ndim": ndim, "depth": 14, "width": 4, "cardinality": 2, "group_width": 2, "pools": (3, 1), **settings}
    return ResidualUNet(**fields).eval()


def lived_in(backbone, channels=1):
    """Running statistics as after training, so that maps are of about unit variance in eval mode."""
    with torch.no_grad():
        for _ in range(30):
            backbone.train()(torch.randn(2, channels, *(64 if backbone.ndim == 2 else 32,) * backbone.ndim))
    return backbone.eval()


def size(module):
    return sum(weight.numel() for weight in module.parameters())


class Doubling(nn.Module):
    def forward(self, features):
        return 2 * features


@pytest.mark.parametrize("spatial", [(1, 1), (3, 50), (32, 32), (33, 71), (1, 1, 1), (5, 9, 40), (32, 32, 32)])
@pytest.mark.parametrize("norm", ["batch", "group"])
@torch.inference_mode()
def test_any_size_comes_back(spatial, norm):
    backbone = small(len(spatial), in_channels=2, norm=norm)
    image = torch.randn(2, 2, *spatial)
    features = backbone(image)
    assert features.image is image
    assert backbone.channels == (2, 4, 16, 32, 64, 128)
    for levels in (features.encoder, features.decoder):
        assert len(levels) == 6
        for level, values in enumerate(levels):
            wanted = [-(-side // 2**level) for side in spatial]  # a pixel of level l is a block of 2**l pixels
            assert values.shape == (2, backbone.channels[level], *wanted)
            assert torch.isfinite(values).all()


@pytest.mark.parametrize(
    ("settings", "published"),
    [
        # torchvision's documented counts, less those of the classifier with 2048 * 1000 + 1000 weights.
        ({}, 88_791_336 - 2_049_000),  # resnext101_32x8d
        ({"depth": 50, "group_width": 4}, 25_028_904 - 2_049_000),  # resnext50_32x4d
        ({"depth": 50, "cardinality": 1, "group_width": 64}, 25_557_032 - 2_049_000),  # resnet50
    ],
)
def test_the_trunk_has_the_published_number_of_weights(settings, published):
    with torch.device("meta"):
        backbone = ResidualUNet(3, **settings)
    assert sum(size(level) for level in backbone.encoder[1:6]) == published


def test_the_paper_s_network_has_the_paper_s_number_of_weights_and_operations():
    # U22: 228 M parameters and 443.6 GFLOP (multiplications) at 512 x 512, heads included; these have a stride of 4.
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"):
        backbone = ResidualUNet(3, norm="group").eval()
        head = Contours(stride=4).head(backbone).eval()
        with FlopCounterMode(display=False) as counter:
            head(backbone(torch.zeros(1, 3, 512, 512)))
    assert size(backbone) + size(head) == pytest.approx(228e6, rel=2e-3)
    assert counter.get_total_flops() / 2 == pytest.approx(443.6e9, rel=1e-2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ndim": 4}, "ndim = 4"),
        ({"depth": 18}, "14, 26, 50, 101 layers"),
        ({"norm": "layer"}, 'norm "batch" or "group"'),
        ({"width": 5}, "width = 5 must be even"),
        ({"pools": (3, 4)}, "odd"),
        ({"pools": ()}, "at least one"),
    ],
)
def test_what_cannot_be_built_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        small(**settings)


@pytest.mark.parametrize("ndim", [2, 3])
def test_every_layer_that_draws_may_change_has_a_slot(ndim):
    backbone = small(ndim, depth=26)
    slots = backbone.slots()
    assert len({slot.name for slot, _ in slots}) == len(slots)
    weights = {id(weight) for _, weight in slots}
    without = {
        name
        for name, layer in backbone.named_modules()
        if isinstance(layer, nn.Conv2d | nn.Conv3d) and id(layer.weight) not in weights
    }
    readers = {f"decoder.{level}.{name}" for level in range(6) for name in ("skip", "skip_shortcut")}
    # At the coarsest level the pyramid, of 8 channels, is narrow already.
    narrow = {f"decoder.{level}.narrow" for level in range(5)}
    assert without == {"encoder.0.convolution", "encoder.1.convolution"} | readers | narrow
    for slot, weight in slots:
        groups = 2 if re.fullmatch(r"encoder\.\d\.\d+\.1", slot.name) else 1
        assert weight.shape[1] * groups == slot.channels
        assert slot.level == int(slot.name.split(".")[1])


@torch.inference_mode()
def test_slots_are_in_the_order_of_the_forward_pass():
    backbone, calls = small(depth=26), []
    for slot, _ in backbone.slots():
        slot.register_forward_hook(lambda slot, *_: calls.append(slot.name))
    backbone(torch.randn(1, 1, 32, 32))
    layers = [name for name in calls if not name.endswith("shortcut")]  # beside the others, not before or after
    assert layers == [slot.name for slot, _ in backbone.slots() if not slot.name.endswith("shortcut")]
    assert sorted(calls) == sorted(slot.name for slot, _ in backbone.slots())


@pytest.mark.parametrize(("ndim", "convolve"), [(2, functional.conv2d), (3, functional.conv3d)])
@torch.inference_mode()
def test_two_convolutions_are_one_over_the_concatenation(ndim, convolve):
    level = small(ndim).decoder[2]
    skip, below = torch.randn(2, 16, *(4,) * ndim), torch.randn(2, 32, *(2,) * ndim)
    up = functional.interpolate(level.narrow(below), scale_factor=2.0, mode="nearest")
    both = torch.cat([skip, up], 1)
    wide = torch.cat([level.skip.weight, level.up.convolution.weight], 1)
    projection = torch.cat([level.skip_shortcut.weight, level.up_shortcut.convolution.weight], 1)
    branch = functional.leaky_relu(level.norms[0](convolve(both, wide, padding=1)))
    branch = level.norms[1](convolve(branch, level.second.convolution.weight, padding=1))
    wanted = functional.leaky_relu(branch + level.norms[2](convolve(both, projection)))
    torch.testing.assert_close(level(level.read(skip), below), wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("side", [1, 3, 7])
def test_the_mean_of_a_square_cut_at_the_border(ndim, side):
    image = torch.rand(1, 1, *(4, 6, 5)[:ndim])
    found, reach = moving_mean(image, side), side // 2
    for place in np.ndindex(*image.shape[2:]):
        box = tuple(slice(max(0, centre - reach), centre + reach + 1) for centre in place)
        assert float(found[0, 0][place]) == pytest.approx(float(image[0, 0][box].mean()), rel=1e-5)


@pytest.mark.parametrize(
    ("name", "reached"),
    [(None, 7), ("encoder.2.0.0", 2), ("encoder.3.0.shortcut", 3), ("encoder.5.pool.3", 6), ("decoder.5.0", 7)],
)
@torch.inference_mode()
def test_sharing_stops_at_the_first_filled_slot(name, reached):
    backbone, image = lived_in(small()), torch.randn(1, 1, 40, 50)
    before = backbone(image)
    for slot, _ in backbone.slots():
        slot.dropout = Doubling() if slot.name == name else None
    shared = backbone.shared(image)
    assert len(shared.encoder) == reached  # six levels and the pyramid
    assert len(shared.skips) == min(reached, 6)
    calls = []
    for part in [*backbone.encoder[:reached], *(level.skip for level in backbone.decoder[:reached])]:
        part.register_forward_hook(lambda module, *_: calls.append(module))
    finished = backbone.finish(shared)
    assert calls == []  # what is shared is not computed again
    for found, wanted in zip(finished.decoder, backbone(image).decoder, strict=True):
        torch.testing.assert_close(found, wanted)
    same = torch.allclose(finished.decoder[0], before.decoder[0])
    assert same == (name is None)


@torch.inference_mode()
def test_a_shift_by_the_coarsest_stride_shifts_the_maps():
    backbone = lived_in(small())
    # Stem, maximum, four stages of one block, pyramid, decoder, and the pixels of one coarsest point.
    seen = 3 + 2 + (4 + 4 + 8 + 16) + 32 + 2 * (32 + 16 + 8 + 4 + 2 + 1) + 31
    image = torch.randn(1, 1, 32 * 18, 32 * 18)
    moved = torch.roll(image, 32, dims=2)
    one, other = backbone(image).decoder[0], backbone(moved).decoder[0]
    inside = slice(32 + seen, -seen)
    assert one[..., inside, inside].numel() > 0
    found = torch.roll(one, 32, dims=2)[..., inside, inside]
    torch.testing.assert_close(found, other[..., inside, inside], atol=1e-4, rtol=1e-4)
    assert not torch.allclose(torch.roll(one, 1, dims=2)[..., inside, inside], other[..., inside, inside], atol=1e-2)


@torch.inference_mode()
def test_group_normalisation_sees_all_of_a_window_and_batch_normalisation_does_not():
    image = torch.randn(1, 1, 64, 608)
    changed = image.clone()
    changed[..., -64:] *= 5
    near = (..., slice(0, 64))  # of the change more than 450 pixels away
    batch, group = (lived_in(small(norm=norm)) for norm in ("batch", "group"))
    torch.testing.assert_close(batch(image).decoder[0][near], batch(changed).decoder[0][near])
    assert not torch.allclose(group(image).decoder[0][near], group(changed).decoder[0][near], atol=1e-3)


@pytest.mark.parametrize(("channels", "groups"), [(64, 32), (256, 32), (32, 16), (16, 8), (6, 2), (2, 1), (1, 1)])
def test_groups_of_the_decoder(channels, groups):
    assert normalisation(channels, norm="group", ndim=2).num_groups == groups


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_gradients_reach_every_weight(norm):
    backbone = small(norm=norm).train()
    sum(values.square().sum() for values in backbone(torch.randn(2, 1, 64, 64)).decoder).backward()
    assert all(weight.grad is not None and weight.grad.any() for weight in backbone.parameters())


def test_kernels_begin_as_he_et_al_have_it():
    backbone = small(width=32, cardinality=2, group_width=16)
    for kernel in (backbone.encoder[1].convolution.weight, backbone.encoder[4].blocks[0].branch[1].convolution.weight):
        fan_in = math.prod(kernel.shape[1:])
        assert kernel.var().item() == pytest.approx(2 / fan_in, rel=0.1)


def networks(method, **settings):
    return network_factory(describe(small(**settings)), method)


@pytest.mark.parametrize("kind", METHODS.values(), ids=METHODS)
def test_every_method_learns_on_it(kind):
    method = kind()
    truths = [truth for truth in toy_truths().values() if len(truth)]
    image = torch.from_numpy(np.stack([toy_image(truth) for truth in truths]))
    targets = collate([method.targets(truth, np.random.default_rng(0)) for truth in truths], method.ragged)
    posterior = Deterministic(networks(method)).train()
    terms = posterior.losses(image, targets)
    total = torch.stack([*terms.values()]).sum()
    assert torch.isfinite(total)
    total.backward()
    read = [weight.grad is not None for weight in posterior.network.backbone.encoder.parameters()]
    assert all(read) or not any(read)  # a variant may read the image instead
    with torch.inference_mode():
        (outputs,) = posterior.eval().draws(image[:1], [0], context={})
        assert method.decode(outputs).shape == truths[0].shape


@pytest.mark.parametrize("posterior", [partial(ConcreteDropout, start=3), partial(MCDropout, start=6)])
def test_posteriors_keep_their_contract(posterior):
    check_posterior(posterior(networks(Semantic())), Semantic(), halo=256)


@torch.inference_mode()
def test_bfloat16_gives_about_the_same():
    for ndim in (2, 3):
        backbone, image = lived_in(small(ndim)), torch.randn(1, 1, *(32,) * ndim)
        with torch.autocast("cpu", torch.bfloat16):
            half = backbone(image).decoder[0].float()
        wanted = backbone(image).decoder[0]
        # Three digits of each of some thirty layers: a tenth of the spread remains.
        assert float((half - wanted).std()) < 0.2 * float(wanted.std())


def test_there_and_back_by_its_description():
    backbone = small(in_channels=2, norm="group")
    made = network_factory(describe(backbone), Semantic())().backbone
    made.load_state_dict(backbone.state_dict())
    image = torch.randn(1, 2, 32, 32)
    assert torch.equal(made.eval()(image).decoder[0], backbone(image).decoder[0])
