"""The baseline: one network, weight decay as a term of the loss."""

import numpy as np
import pytest
import torch

from plurimask.methods import Embedding
from plurimask.model import network_factory
from plurimask.posteriors import Deterministic
from plurimask.testing import check_posterior

METHOD = Embedding(dimensions=4)
NETWORK = {"class_path": "plurimask.networks.unet.UNet", "init_args": {"width": 4, "depth": 3}}


def posterior(**settings):
    torch.manual_seed(0)
    return Deterministic(network_factory(NETWORK, METHOD), **settings).eval()


def test_it_keeps_the_contract():
    check_posterior(posterior(), METHOD, halo=24)


def test_weight_decay_counts_kernels_and_no_biases(touching_blobs):
    model = posterior(weight_decay=0.5)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("bias"):
                weight.fill_(1000.0)
    kernels = [w.detach().numpy().astype(float) for name, w in model.named_parameters() if name.endswith("weight")]
    targets = {name: torch.from_numpy(value)[None] for name, value in METHOD.targets(touching_blobs, None).items()}
    with torch.no_grad():
        terms = model.losses(torch.zeros(1, 1, *touching_blobs.shape), targets)
    assert float(terms["weights"]) == pytest.approx(0.5 * sum((k**2).sum() for k in kernels), rel=1e-5)
    assert set(terms) == {"pull", "push", "norm", "classes", "weights"}


@torch.inference_mode()
def test_every_seed_gives_what_the_network_gives():
    model, image = posterior(), torch.randn(1, 1, 20, 28)
    wanted = model.network(image)
    draws = list(model.draws(image, [0, 5, 9], context=model.context(image)))
    assert len(draws) == 3
    for outputs in draws:
        for name, value in wanted.items():
            np.testing.assert_array_equal(outputs[name], value)


def test_one_group_of_parameters_at_one_speed():
    model = posterior()
    (group,) = model.parameter_groups(0.25)
    assert group["lr"] == 0.25
    assert len(group["params"]) == len(list(model.parameters()))
    assert model.report() == {}
