"""The U-Net: any image size in 2-D and 3-D, the sum of two convolutions, and what several draws may share."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from plurimask.model import Model
from plurimask.networks import UNet
from plurimask.networks.unet import finest_channels, pad_to_multiple


def small(ndim=2, **settings):
    torch.manual_seed(0)
    return UNet(**{"ndim": ndim, "width": 3, "depth": 3, **settings}).eval()


class Doubling(nn.Module):
    def forward(self, features):
        return 2 * features


@pytest.mark.parametrize("spatial", [(1, 1), (3, 50), (16, 16), (17, 23), (64, 33), (1, 1, 1), (5, 9, 12), (8, 8, 8)])
@torch.inference_mode()
def test_any_size_comes_back(spatial):
    backbone = small(len(spatial), in_channels=2)
    image = torch.randn(2, 2, *spatial)
    features = backbone(image)
    assert features.image is image
    for levels in (features.encoder, features.decoder):
        assert len(levels) == 3
        for level, values in enumerate(levels):
            wanted = [-(-size // 2**level) for size in spatial]  # a pixel of level l is a block of 2**l pixels
            assert values.shape == (2, 3 * 2**level, *wanted)
            assert torch.isfinite(values).all()


def test_sizes_of_the_paper():
    backbone = UNet()
    assert backbone.channels == (19, 38, 76, 152, 304)
    assert backbone.strides == (1, 2, 4, 8, 16)
    # Two slots a level, down and up, but none at the image.
    assert [slot.name for slot, _ in backbone.slots()] == (
        ["encoder.0.1"]
        + [f"encoder.{level}.{number}" for level in range(1, 5) for number in (0, 1)]
        + [f"decoder.{level}.{number}" for level in (3, 2, 1, 0) for number in (0, 1)]
    )


@pytest.mark.parametrize("ndim", [2, 3])
def test_a_slot_names_the_weight_behind_it(ndim):
    for slot, weight in small(ndim, in_channels=4).slots():
        assert weight.shape[1] == slot.channels
        assert weight.ndim == ndim + 2


def test_one_and_four_axes_are_refused():
    with pytest.raises(ValueError, match="2 or 3 spatial axes, not 4"):
        UNet(ndim=4)


@pytest.mark.parametrize(("ndim", "convolve"), [(2, functional.conv2d), (3, functional.conv3d)])
@torch.inference_mode()
def test_two_convolutions_are_one_over_the_concatenation(ndim, convolve):
    level = small(ndim).decoder[0]
    skip, below = torch.randn(1, 3, *(8,) * ndim), torch.randn(1, 6, *(4,) * ndim)
    up = functional.interpolate(level.narrow(below), scale_factor=2.0, mode="nearest")
    stitched = torch.cat([level.skip.weight, level.up.weight], 1)
    whole = convolve(torch.cat([skip, up], 1), stitched, level.up.convolution.bias, padding=1)
    wanted = torch.relu(level.second(torch.relu(whole)))
    torch.testing.assert_close(level(level.skip(skip), below), wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", [None, "encoder.0.1", "encoder.1.0", "encoder.2.1", "decoder.1.0"])
@torch.inference_mode()
def test_sharing_stops_at_the_first_filled_slot(name):
    backbone, image = small(), torch.randn(1, 1, 24, 20)
    for slot, _ in backbone.slots():
        slot.dropout = Doubling() if slot.name == name else None
    shared = backbone.shared(image)
    level = int(name.split(".")[1]) if name and name.startswith("encoder") else 3
    assert len(shared.encoder) == level
    assert len(shared.skips) == min(level, 2)  # what the decoder reads of a shared level is shared, too
    plain = backbone(image)
    for found, wanted in zip(backbone.finish(shared).decoder, plain.decoder, strict=True):
        torch.testing.assert_close(found, wanted)


@torch.inference_mode()
def test_a_filled_slot_changes_what_follows_and_nothing_before():
    backbone, image = small(), torch.randn(1, 1, 16, 16)
    before = backbone(image)
    slots = {slot.name: slot for slot, _ in backbone.slots()}
    slots["encoder.1.1"].dropout = Doubling()
    after = backbone(image)
    assert torch.equal(before.encoder[0], after.encoder[0])
    assert not torch.allclose(before.encoder[1], after.encoder[1])
    assert not torch.allclose(before.decoder[0], after.decoder[0])


@torch.inference_mode()
def test_what_is_shared_is_not_computed_again():
    backbone, image = small(), torch.randn(1, 1, 16, 16)
    slots = {slot.name: slot for slot, _ in backbone.slots()}
    slots["encoder.2.0"].dropout = Doubling()
    shared = backbone.shared(image)
    calls = []
    for level in (backbone.encoder[0], backbone.encoder[1], backbone.decoder[0].skip, backbone.decoder[1].skip):
        level.register_forward_hook(lambda module, *_: calls.append(module))
    backbone.finish(shared)
    assert calls == []


@torch.inference_mode()
def test_a_shift_by_the_coarsest_stride_shifts_the_maps():
    backbone = small(depth=3)
    image = torch.randn(1, 1, 80, 80)
    moved = torch.roll(image, 4, dims=2)
    one, other = backbone(image).decoder[0], backbone(moved).decoder[0]
    inside = slice(28, -28)  # as far as a 3-level network sees (23 pixels), and the shift
    torch.testing.assert_close(torch.roll(one, 4, dims=2)[..., inside, inside], other[..., inside, inside])


def test_the_default_halo_is_as_wide_as_the_view_of_the_default_network():
    backbone = UNet(width=1)
    with torch.no_grad():
        for weight in backbone.parameters():
            weight.fill_(0.1)  # nothing cancels
    image = torch.rand(1, 1, 288, 288, requires_grad=True)
    backbone(image).decoder[0][0, 0, 144, 144].backward()
    seen = torch.nonzero(image.grad[0, 0])
    assert int((seen - 144).abs().max()) <= Model.__dataclass_fields__["halo"].default


@pytest.mark.parametrize(("size", "wanted"), [(8, 8), (9, 16), (15, 16), (1, 8), (4, 8)])
def test_padding_reflects_where_it_can(size, wanted):
    ramp = torch.arange(size).float().expand(1, 1, size, size)
    padded = pad_to_multiple(ramp, 8)
    assert padded.shape == (1, 1, wanted, wanted)
    assert torch.equal(padded[..., :size, :size], ramp)
    row = padded[0, 0, 0].tolist()
    if wanted - size < size:
        assert row[size:] == [float(size - 2 - step) for step in range(wanted - size)]
    else:
        assert row[size:] == [float(size - 1)] * (wanted - size)


def test_gradients_reach_every_weight():
    backbone = small()
    sum(values.square().sum() for values in backbone(torch.randn(1, 1, 16, 16)).decoder).backward()
    assert all(weight.grad is not None and weight.grad.any() for weight in backbone.parameters())


def test_the_halves_of_a_decoder_convolution_start_as_one_layer():
    # He et al. 2015: variance 2 / fan-in, and the fan-in is that of both halves; 1 / fan-in where no ReLU follows.
    level = UNet(width=64, depth=2).decoder[0]
    for weight, fan_in in ((level.skip.weight, 64 * 9), (level.up.weight, 64 * 9), (level.narrow.weight, 128)):
        assert weight.var().item() == pytest.approx(1 / fan_in, rel=0.1)


def test_finest_levels():
    backbone = small(width=3, depth=3)
    assert [finest_channels(backbone, levels) for levels in (1, 2, 3)] == [(3,), (3, 6), (3, 6, 12)]
    for levels in (-1, 0, 4):
        with pytest.raises(ValueError, match=rf"levels is {levels}, .* give 1 to 3"):
            finest_channels(backbone, levels)
