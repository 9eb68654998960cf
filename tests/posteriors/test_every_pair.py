"""Every method under every posterior: the contract, and a model folder that gives the same outputs."""

from functools import partial

import pytest
import torch

from plurimask.methods import METHODS, PatchPerPix, Semantic
from plurimask.model import Model, describe, load_model, network_factory
from plurimask.networks import UNet
from plurimask.posteriors import POSTERIORS, Augmented, ConcreteDropout, Ensemble, MCDropout, ProbabilisticUNet
from plurimask.testing import check_posterior, toy_image, toy_truths

# Of two levels, as the networks have.
CHOSEN = {**{name: kind() for name, kind in METHODS.items()}, "patchperpix": PatchPerPix(levels=2)}


def networks(method, ndim=2):
    torch.manual_seed(0)
    return network_factory(describe(UNet(ndim=ndim, width=4, depth=2)), method)


@pytest.mark.parametrize("posterior", POSTERIORS.values(), ids=POSTERIORS)
@pytest.mark.parametrize("method", CHOSEN.values(), ids=CHOSEN)
def test_every_pair_keeps_the_contract(method, posterior):
    check_posterior(posterior(networks(method)), method, halo=12)


@pytest.mark.parametrize("posterior", POSTERIORS.values(), ids=POSTERIORS)
def test_volumes(posterior):
    check_posterior(posterior(networks(Semantic(), ndim=3)), Semantic(), halo=12)


NESTED = {
    "mixture": partial(Ensemble, members=2, member=partial(ConcreteDropout, start=1, initial_rate=0.3)),
    "latent ensemble": partial(Ensemble, members=2, member=partial(ProbabilisticUNet, latent=3)),
    "turned ensemble": partial(Augmented, posterior=partial(Ensemble, members=3, member=partial(MCDropout, rate=0.4))),
    "ensemble of turned": partial(Ensemble, members=2, member=partial(Augmented, posterior=ConcreteDropout)),
}


@pytest.mark.parametrize("posterior", NESTED.values(), ids=NESTED)
def test_posteriors_of_posteriors_keep_the_contract(posterior):
    check_posterior(posterior(networks(Semantic())), Semantic(), halo=12)


@pytest.mark.parametrize("posterior", [*POSTERIORS.values(), *NESTED.values()], ids=[*POSTERIORS, *NESTED])
def test_there_and_back(tmp_path, posterior):
    before = Model(posterior=posterior(networks(Semantic())).eval(), method=Semantic())
    before.save(tmp_path)
    after = load_model(tmp_path)
    assert after.describe() == before.describe()
    assert type(after.posterior) is type(before.posterior)
    assert after.posterior.distinct == before.posterior.distinct
    image = torch.from_numpy(toy_image(toy_truths()["touching blobs"]))[None]
    with torch.inference_mode():
        one, other = (
            list(model.posterior.draws(image, range(4), context=model.posterior.context(image)))
            for model in (before, after)
        )
    assert len(one) == 4
    for first, second in zip(one, other, strict=True):
        assert torch.equal(first["classes"], second["classes"])
