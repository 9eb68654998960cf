"""Networks between patches and codes, and what is read of maps and images at single pixels."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from plurimask.networks import UNet
from plurimask.networks.patch_decoder import LevelReader, PatchShape, WindowReader, sampled, windows_at

PAPER = PatchShape((41, 41), 252, (64, 32), convolutional=True)
LINEAR = PatchShape((5, 7), 6, (9, 8), convolutional=False)
VOLUME = PatchShape((3, 5, 5), 4, (3,), convolutional=True)


def test_the_paper_s_decoder_in_numbers():
    # 7 x 6 x 6 -> 64 x 12 x 12 -> 32 x 24 x 24 -> 1 x 48 x 48, cut to 41 x 41; two convolutions of 3 x 3 each.
    assert PAPER.grid == (6, 6)
    layers = [(7, 64), (64, 64), (64, 32), (32, 32), (32, 1), (1, 1)]
    wanted = sum(9 * before * after + after for before, after in layers)
    assert sum(weight.numel() for weight in PAPER.decoder().parameters()) == wanted
    assert PatchShape((25, 25), 256, (64, 32), convolutional=True).grid == (4, 4)  # dsb2018: 16 x 4 x 4


def test_the_paper_s_encoder_in_numbers():
    # 41 -> 21 -> 11 -> 6 with 32, 64, 128 maps, then a 1 x 1 convolution to 7.
    layers = [(1, 32), (32, 32), (32, 64), (64, 64), (64, 128), (128, 128)]
    wanted = sum(9 * before * after + after for before, after in layers) + 128 * 7 + 7
    assert sum(weight.numel() for weight in PAPER.encoder(1).parameters()) == wanted


@pytest.mark.parametrize("shape", [LINEAR, VOLUME, PatchShape((9, 5), 15, (), convolutional=True)], ids=str)
def test_codes_become_patches_and_patches_codes(shape):
    codes = torch.rand(2, 3, shape.code)
    patches = shape.decoder()(codes)
    assert patches.shape == (2, 3, shape.pixels)
    encoded = shape.encoder(2)(torch.rand(4, 2, *shape.sides))
    assert encoded.shape == (4, shape.code)


@pytest.mark.parametrize("shape", [LINEAR, VOLUME], ids=str)
def test_a_pixel_knows_nothing_of_the_others(shape):
    torch.manual_seed(0)
    decoder, codes = shape.decoder(), torch.rand(1, 5, shape.code)
    torch.testing.assert_close(decoder(codes)[:, 2], decoder(codes[:, 2:3])[:, 0])


def test_the_middle_of_the_last_image_is_the_patch():
    shape = PatchShape((5, 5), 4, (1,), convolutional=True)
    decoder = shape.decoder()
    for layer in [*decoder.first, *decoder.second]:
        torch.nn.init.dirac_(layer.weight)
    # 2 x 2 points -> 8 x 8 pixels in blocks of 4 x 4, of which 5 x 5 from the second row and column on.
    patch = decoder(torch.tensor([[1.0, 2.0, 3.0, 4.0]])).reshape(5, 5)
    assert patch.tolist() == [[1, 1, 1, 2, 2]] * 3 + [[3, 3, 3, 4, 4]] * 2


def test_a_code_is_whole_images():
    with pytest.raises(ValueError, match="multiple of 36"):
        PatchShape((41, 41), 250, (64, 32), convolutional=True)


def test_windows_by_hand():
    image = torch.arange(1.0, 7).reshape(1, 1, 2, 3)
    found = windows_at(image, torch.tensor([[[0, 0], [1, 1]]]), (3, 3))
    assert found.shape == (1, 2, 1, 3, 3)
    assert found[0, 0, 0].tolist() == [[0, 0, 0], [0, 1, 2], [0, 4, 5]]
    assert found[0, 1, 0].tolist() == [[1, 2, 3], [4, 5, 6], [0, 0, 0]]


@pytest.mark.parametrize("sides", [(5, 3), (3, 1, 5)])
def test_windows_are_slices_of_a_padded_image(sides):
    generator = np.random.default_rng(0)
    size = (6, 7, 5)[: len(sides)]
    image = generator.normal(size=(2, 3, *size))
    points = generator.integers(0, size, (2, 4, len(size)))
    found = windows_at(torch.from_numpy(image), torch.from_numpy(points), sides).numpy()
    padded = np.pad(image, [(0, 0), (0, 0), *((side // 2, side // 2) for side in sides)])
    for b in range(2):
        for k, point in enumerate(points[b]):
            window = padded[b][(slice(None), *(slice(p, p + side) for p, side in zip(point, sides, strict=True)))]
            np.testing.assert_array_equal(found[b, k], window)


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("stride", [1, 2, 4])
def test_coarse_maps_are_interpolated_as_whole_images_are(ndim, stride):
    torch.manual_seed(0)
    coarse = torch.randn(2, 3, *(5, 4, 3)[:ndim])
    mode = {2: "bilinear", 3: "trilinear"}[ndim]
    fine = functional.interpolate(coarse, scale_factor=float(stride), mode=mode, align_corners=False)
    points = torch.stack([torch.randint(size, (2, 20)) for size in fine.shape[2:]], -1)
    found = sampled(coarse, points, stride)
    for b in range(2):
        for k, point in enumerate(points[b]):
            torch.testing.assert_close(found[b, k], fine[(b, slice(None), *point)], atol=1e-5, rtol=1e-5)


def test_no_point_gives_no_row():
    assert sampled(torch.zeros(1, 3, 4, 4), torch.zeros(1, 0, 2, dtype=torch.int64), 1).shape == (1, 0, 3)
    assert windows_at(torch.zeros(1, 3, 4, 4), torch.zeros(1, 0, 2, dtype=torch.int64), (3, 3)).shape[:2] == (1, 0)


def test_the_finest_level_is_read_as_a_convolution_reads_it():
    torch.manual_seed(0)
    backbone = UNet(width=4, depth=2)
    reader = LevelReader(backbone, 1, 5)
    features = backbone(torch.randn(1, 1, 6, 9))
    points = torch.cartesian_prod(torch.arange(6), torch.arange(9))[None]
    found = reader(reader.seen(features), points)
    wanted = functional.conv2d(features.decoder[0], reader.linear.weight[..., None, None], reader.linear.bias)
    torch.testing.assert_close(found[0].T.reshape(1, 5, 6, 9), wanted, atol=1e-4, rtol=1e-4)


def test_windows_of_the_image_are_encoded_one_by_one():
    torch.manual_seed(0)
    backbone = UNet(2, width=4, depth=2)
    reader = WindowReader(PatchShape((5, 5), 6, (8,), convolutional=False), 2)
    image = torch.randn(1, 2, 9, 9)
    found = reader(reader.seen(backbone(image)), torch.tensor([[[4, 4], [0, 8]]]))
    torch.testing.assert_close(found[0, :1], reader.encoder(image[:, :, 2:7, 2:7]))
