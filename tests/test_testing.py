"""The contract checks themselves: what keeps the contract passes, and every breach is found."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import nn
from torch.nn import functional

from plurimask.instances import Instances
from plurimask.networks import UNet
from plurimask.protocols import Head, Method, Network, Posterior
from plurimask.testing import check_method, check_posterior, drawn, matched_ious, toy_image, toy_truths


def dense(truth):
    """(*spatial) int64: 0 background, 1 one object, 2 several."""
    return np.minimum(truth.owners(), 2).astype(np.int64)


@dataclass(frozen=True)
class Spots(Method):
    """A method that is right: three classes; objects are told apart by their numbers, which the ideal outputs carry."""

    exact_for: ClassVar[frozenset[str]] = frozenset({"touching blobs", "crossing worms", "empty"})

    def targets(self, truth, generator):
        return {"classes": dense(truth)}

    def head(self, backbone):
        return SpotsHead(backbone)

    def ideal(self, truth):
        classes = functional.one_hot(torch.from_numpy(dense(truth))[None], 3)
        masks = torch.from_numpy(truth.to_masks())[None].float()
        return {"classes": torch.movedim(classes, -1, 1) * 20.0, "masks": masks}

    def decode(self, outputs):
        masks = outputs["masks"][0].numpy() > 0.5
        return Instances.from_masks(masks, masks.shape[1:])

    def probabilities(self, outputs):
        return torch.softmax(outputs["classes"][0], 0)

    def condition(self, targets):
        return torch.movedim(functional.one_hot(targets["classes"], 3), -1, 1).float()


class SpotsHead(Head):
    def __init__(self, backbone):
        super().__init__()
        layer = nn.Conv2d if backbone.ndim == 2 else nn.Conv3d
        self.classes = layer(backbone.channels[0], 3, 1)

    def forward(self, features):
        return {"classes": self.classes(features.decoder[0])}

    def loss(self, outputs, targets):
        return {"classes": functional.cross_entropy(outputs["classes"], targets["classes"])}


@dataclass(frozen=True)
class Merging(Spots):
    """Touching objects become one."""

    def decode(self, outputs):
        foreground = self.probabilities(outputs)[0].numpy() < 0.5
        return Instances.from_labels(ndimage.label(foreground)[0])


@dataclass(frozen=True)
class Backwards(Spots):
    """The loss grows as the outputs get better."""

    def head(self, backbone):
        return BackwardsHead(backbone)


class BackwardsHead(SpotsHead):
    def loss(self, outputs, targets):
        return {"classes": -super().loss(outputs, targets)["classes"]}


@dataclass(frozen=True)
class Numbered(Spots):
    """The loss knows the first object from the second."""

    def targets(self, truth, generator):
        first = truth.select([0]).owners() if len(truth) else truth.owners()
        return {"classes": dense(truth) * (first > 0)}

    def head(self, backbone):
        return SpotsHead(backbone)


@dataclass(frozen=True)
class Undefined(Spots):
    """The mean over no pixel."""

    def head(self, backbone):
        return UndefinedHead(backbone)


class UndefinedHead(SpotsHead):
    def loss(self, outputs, targets):
        wrong = functional.cross_entropy(outputs["classes"], targets["classes"], reduction="none")
        return {"classes": wrong.mean() + 0 * wrong[targets["classes"] > 0].mean()}


@dataclass(frozen=True)
class Overconfident(Spots):
    """A score that is no probability."""

    def decode(self, outputs):
        found = super().decode(outputs)
        return Instances.from_crops(found.boxes, found.masks, found.shape, scores=found.scores * 7)


class Noisy(Posterior):
    """A posterior that is right: noise on the features, a function of the seed, constant over space."""

    def __init__(self, network):
        super().__init__()
        self.network = network()

    def losses(self, image, targets):
        return self.network.head.loss(self.network(image), targets)

    def noise(self, seed):
        return float(np.random.default_rng(seed).normal())

    def draws(self, window, seeds, *, context):
        for seed in seeds:
            yield {name: value + self.noise(seed) for name, value in self.network(window).items()}


class Streaming(Noisy):
    """A seed that is a stream: the second call gives something else."""

    def noise(self, seed):
        return float(torch.rand(()))


class Silent(Noisy):
    """Promises doubt and has none."""

    def noise(self, seed):
        return 0.0


class WindowNorm(Noisy):
    """Looks at the whole window: a window and the image disagree."""

    def draws(self, window, seeds, *, context):
        yield from super().draws(window + window.mean(), seeds, context=context)


class Idle(Noisy):
    """Owns a parameter that nothing uses."""

    def __init__(self, network):
        super().__init__(network)
        self.spare = nn.Parameter(torch.zeros(3))


def small(ndim=2):
    torch.manual_seed(0)
    return UNet(ndim=ndim, width=4, depth=2)


def network():
    backbone = small()
    return Network(backbone, Spots().head(backbone))


@pytest.mark.parametrize("ndim", [2, 3])
def test_a_right_method_passes(ndim):
    check_method(Spots(), small(ndim))


@pytest.mark.parametrize(
    ("method", "complaint"),
    [
        (Merging(), "found 1 objects for 2"),
        (Backwards(), "must have the smaller loss"),
        (Numbered(), "in another order"),
        (Undefined(), "an image without objects: the term classes is nan"),
        (Overconfident(), r"scores must lie in \[0, 1\]"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Method) else "",
)
def test_a_wrong_method_is_found(method, complaint):
    with pytest.raises(AssertionError, match=complaint):
        check_method(method, small())


def test_a_right_posterior_passes_and_is_left_as_it_was():
    posterior = Noisy(network)
    before = {name: value.clone() for name, value in posterior.state_dict().items()}
    check_posterior(posterior, Spots(), halo=16)
    assert all(torch.equal(value, before[name]) for name, value in posterior.state_dict().items())


@pytest.mark.parametrize(
    ("posterior", "complaint"),
    [
        (Streaming, "seed 3 gave two different outputs"),
        (Silent, "seeds 3 and 4 gave equal outputs"),
        (WindowNorm, "a window differs from the whole image"),
        (Idle, "no gradient reached .'spare'"),
    ],
)
def test_a_wrong_posterior_is_found(posterior, complaint):
    with pytest.raises(AssertionError, match=complaint):
        check_posterior(posterior(network), Spots(), halo=16)


def test_a_short_sighted_halo_is_found():
    with pytest.raises(AssertionError, match="a window differs"):
        check_posterior(Noisy(network), Spots(), halo=0)


def test_toy_truths_are_what_their_names_say(touching_blobs, crossing_worms, empty_image, touching_balls):
    assert len(touching_blobs) == len(crossing_worms) == len(touching_balls) == 2
    assert len(empty_image) == 0
    assert touching_blobs.shape == crossing_worms.shape == empty_image.shape == (24, 40)
    for touching in (touching_blobs, touching_balls):
        one, other = touching.to_masks()
        assert not (one & other).any()
        assert (ndimage.binary_dilation(one) & other).any()
    one, other = crossing_worms.to_masks()
    assert [ndimage.label(mask)[1] for mask in (one, other)] == [1, 1]
    assert [ndimage.label(mask & ~(one & other))[1] for mask in (one, other)] == [2, 2]


def test_toy_images_show_their_objects(crossing_worms):
    image = toy_image(crossing_worms, channels=2)
    assert image.shape == (2, 24, 40)
    np.testing.assert_allclose(image, np.broadcast_to(crossing_worms.owners(), image.shape), atol=0.6)


def test_matched_ious_by_hand():
    truth, found = drawn(["aab.\naab."]), drawn(["ab..\nabb."])
    # a: 2 of 4 pixels. b: 1 shared, 2 + 3 - 1 in the union; the match a-a, b-b is better than a-b alone.
    np.testing.assert_allclose(matched_ious(truth, found), [2 / 4, 1 / 4])
    assert matched_ious(truth, Instances.empty(truth.shape)).tolist() == [0, 0]
    assert matched_ious(*2 * [toy_truths()["empty"]]).tolist() == []
