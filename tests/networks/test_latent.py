"""Gaussians of a whole image, their divergence, and what mixes a latent vector into feature maps."""

import pytest
import torch
from torch.distributions import Independent, Normal, kl_divergence
from torch.nn import functional

from plurimask.networks.latent import LOG_SIGMA, Gaussian, GaussianEncoder, Mixer, halved, levels_with_gradient


def gaussian(seed, *, batch=3, dimensions=4, spread=0.5):
    generator = torch.Generator().manual_seed(seed)
    draw = torch.randn(2, batch, dimensions, generator=generator, dtype=torch.float64)
    return Gaussian(draw[0], spread * draw[1])


def as_distribution(one):
    return Independent(Normal(one.mean, one.log_sigma.exp()), 1)


def test_the_divergence_is_what_sampling_says():
    one, other = gaussian(0), gaussian(1)
    torch.manual_seed(0)
    count = 200_000
    points = one.point(torch.randn(count, *one.mean.shape, dtype=torch.float64))
    logs = as_distribution(one).log_prob(points) - as_distribution(other).log_prob(points)
    error = logs.std(0) / count**0.5
    assert ((one.divergence(other) - logs.mean(0)).abs() < 5 * error).all()


def test_the_divergence_is_the_closed_form_of_torch_and_has_a_direction():
    one, other = gaussian(0), gaussian(1)
    torch.testing.assert_close(one.divergence(other), kl_divergence(as_distribution(one), as_distribution(other)))
    torch.testing.assert_close(other.divergence(one), kl_divergence(as_distribution(other), as_distribution(one)))
    assert not torch.allclose(one.divergence(other), other.divergence(one))


def test_nothing_diverges_from_itself():
    one = gaussian(0)
    torch.testing.assert_close(one.divergence(one), torch.zeros(3, dtype=torch.float64))


def test_points_by_hand():
    one = Gaussian(torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 2.0]]).log1p())  # sigma 1 and 3
    assert one.point(torch.tensor([[2.0, -1.0]])).tolist() == [[3.0, pytest.approx(-1.0)]]


def test_means_of_two_points_where_the_last_is_odd():
    assert halved(torch.tensor([[[[1.0, 3.0, 5.0]]]])).tolist() == [[[[2.0, 5.0]]]]
    assert halved(torch.arange(27.0).reshape(1, 1, 3, 3, 3)).shape == (1, 1, 2, 2, 2)


@pytest.mark.parametrize("shape", [(16, 16), (7, 23), (1, 1), (5, 6, 7)])
def test_an_image_of_any_size_has_a_gaussian(shape):
    torch.manual_seed(0)
    encoder = GaussianEncoder(2, ndim=len(shape), dimensions=6, width=4, depth=3)
    found = encoder(torch.randn(3, 2, *shape))
    assert found.mean.shape == found.log_sigma.shape == (3, 6)
    assert torch.isfinite(found.mean).all()


def test_images_of_a_batch_know_nothing_of_each_other():
    torch.manual_seed(0)
    encoder, images = GaussianEncoder(1, ndim=2, dimensions=6, width=4, depth=3), torch.randn(3, 1, 20, 20)
    together, alone = encoder(images), [encoder(image[None]) for image in images]
    torch.testing.assert_close(together.mean, torch.cat([each.mean for each in alone]))
    assert not torch.allclose(together.mean[0], together.mean[1])


def test_sigma_stays_within_bounds():
    encoder = GaussianEncoder(1, ndim=2, dimensions=3, width=2, depth=2)
    with torch.no_grad():
        encoder.last.bias[3:] = torch.tensor([1e6, -1e6, 0.0])
    found = encoder(torch.zeros(1, 1, 8, 8))
    assert found.log_sigma.tolist() == [[LOG_SIGMA, -LOG_SIGMA, 0.0]]
    # The largest divergence that there can be is a finite number in float32.
    far = Gaussian(torch.zeros(1, 1), torch.full((1, 1), LOG_SIGMA))
    assert torch.isfinite(far.divergence(Gaussian(torch.zeros(1, 1), torch.full((1, 1), -LOG_SIGMA)))).all()


def test_under_autocast_a_gaussian_is_float32():
    encoder = GaussianEncoder(1, ndim=2, dimensions=3, width=4, depth=2)
    with torch.autocast("cpu", torch.bfloat16):
        found = encoder(torch.randn(1, 1, 8, 8))
    assert found.mean.dtype == found.log_sigma.dtype == torch.float32


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("batch", [1, 3])
def test_the_first_convolution_reads_map_and_repeated_vector(ndim, batch):
    torch.manual_seed(0)
    mixer = Mixer(5, ndim=ndim, dimensions=2, layers=2)
    features, latent = torch.randn(batch, 5, *(6,) * ndim), torch.randn(batch, 2)
    convolve = functional.conv2d if ndim == 2 else functional.conv3d
    ones = (1,) * ndim
    tiled = latent.reshape(batch, 2, *ones).expand(-1, -1, *features.shape[2:])
    kernel = torch.cat([mixer.first.weight, mixer.vector.weight.reshape(5, 2, *ones)], dim=1)
    first = convolve(torch.cat([features, tiled], dim=1), kernel, mixer.first.bias).clamp(min=0)
    (rest,) = mixer.rest
    wanted = convolve(first, rest.weight, rest.bias).clamp(min=0)
    torch.testing.assert_close(mixer(features, latent), wanted)


def test_mixing_keeps_the_scale():
    # Twice as many inputs, each half as heavy: the mean square of what ReLU lets pass is that of the input.
    torch.manual_seed(0)
    mixer = Mixer(64, ndim=2, dimensions=64, layers=1)
    features, latent = torch.randn(8, 64, 16, 16), torch.randn(8, 64)
    assert float(mixer(features, latent).detach().square().mean()) == pytest.approx(1, rel=0.15)


def test_levels_that_outputs_depend_on():
    levels = [torch.ones(2, requires_grad=True) for _ in range(4)]
    outputs = [levels[0] + levels[3], 2 * levels[3], torch.ones(2), levels[1].detach()]
    assert levels_with_gradient(outputs, levels) == (0, 3)
