"""Affinities: targets by their definition, the loss by hand, objects by the mutex watershed, also of turned windows."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from plurimask.instances import Instances
from plurimask.methods import Affinities
from plurimask.networks import UNet
from plurimask.posteriors import Augmented, ProbabilisticUNet
from plurimask.protocols import Network
from plurimask.symmetry import symmetries
from plurimask.testing import check_method, check_posterior, drawn, matched_ious, toy_truths

TOY = Affinities(min_size=1)
ROW = Affinities(attractive=((0, -1),), repulsive=((0, -3),), stride=1, min_size=1)
# Four pixels before a weak edge, and four behind it.
STRONG, WEAK = 0.9, 0.6


def small(ndim=2):
    torch.manual_seed(0)
    return UNet(ndim=ndim, width=4, depth=2)


def logits(affinities):
    return {"affinities": torch.logit(torch.tensor(affinities, dtype=torch.float64))[None]}


def row_outputs(repulsive):
    """(E, 1, 8); the edge of a pixel goes to the left."""
    attractive = [0.5, STRONG, STRONG, STRONG, WEAK, STRONG, STRONG, STRONG]
    return logits([[attractive], [[repulsive] * 8]])


@pytest.mark.parametrize("settings", [{}, {"cross_entropy": 1.0}, {"threshold": 0.1}], ids=str)
def test_it_keeps_the_contract(settings):
    check_method(replace(TOY, **settings), small(), cases=["touching blobs", "empty"])
    check_method(replace(TOY, **settings), small(3))


@pytest.mark.parametrize("posterior", [Augmented, ProbabilisticUNet])
def test_posteriors_of_volumes_keep_theirs(posterior):
    def network():
        backbone = small(3)
        return Network(backbone, TOY.head(backbone))

    check_posterior(posterior(network), TOY, halo=8)


def test_the_offsets_are_the_paper_s():
    assert (len(TOY.offsets(3)), TOY.attracting(3)) == (17, 3)
    assert TOY.offsets(2)[:2] == ((-1, 0), (0, -1))
    assert (len(TOY.offsets(2)), TOY.attracting(2)) == (12, 2)
    assert all((0, *offset) in TOY.offsets(3) for offset in TOY.offsets(2))


@pytest.mark.parametrize("case", ["touching blobs", "crossing worms", "empty"])
def test_targets_are_those_of_the_definition(case):
    truth = toy_truths()[case]
    masks, found = truth.to_masks(), TOY.targets(truth, np.random.default_rng(0))["affinities"]
    for edge, (down, right) in enumerate(TOY.offsets(2)):
        for y, x in np.ndindex(truth.shape):
            other = (y + down, x + right)
            inside = 0 <= other[0] < truth.shape[0] and 0 <= other[1] < truth.shape[1]
            assert found[edge, y, x] == (inside and bool((masks[:, y, x] & masks[(slice(None), *other)]).any()))


def test_objects_and_images_smaller_than_an_offset_have_no_such_edge():
    targets = TOY.targets(drawn(["aab\n.bb"]), np.random.default_rng(0))["affinities"]
    assert targets.shape == (12, 2, 3) and targets[2:].sum() == 0
    terms = (
        replace(TOY, cross_entropy=1.0)
        .head(small())
        .loss({"affinities": torch.zeros(1, 12, 2, 3)}, {"affinities": torch.from_numpy(targets)[None]})
    )
    assert all(torch.isfinite(term) for term in terms.values())


def test_the_loss_is_dice_of_what_is_apart():
    """Labels 1 1 2: the edge of the second pixel is within, that of the third across, that of the first nowhere."""
    method = Affinities(attractive=((0, -1),), repulsive=(), cross_entropy=0.5)
    truth = Instances.from_labels(np.array([[1, 1, 2]]))
    targets = {"affinities": torch.from_numpy(method.targets(truth, np.random.default_rng(0))["affinities"])[None]}
    for nowhere in (0.1, 0.8):
        terms = method.head(small()).loss(logits([[[nowhere, 0.7, 0.4]]]), targets)
        dice = 2 * 0.6 / (0.3**2 + 0.6**2 + 1)
        assert terms["affinities"].item() == pytest.approx(1 - dice, abs=1e-6)
        assert terms["cross_entropy"].item() == pytest.approx(-0.5 * (np.log(0.7) + np.log(0.6)) / 2, abs=1e-6)


def test_a_repulsive_edge_parts_where_attraction_is_weakest():
    (one,) = [ROW.decode(row_outputs(repulsive=0.95))]
    assert one.to_labels().tolist() == [[1] * 8]
    assert one.scores == pytest.approx([(6 * STRONG + WEAK) / 7])
    two = ROW.decode(logits([[[0.5, *3 * [STRONG], WEAK, *3 * [STRONG]]], [[1, 1, 1, 1, 1, 0.05, 1, 1]]]))
    assert two.to_labels().tolist() == [[1] * 4 + [2] * 4]
    assert two.scores == pytest.approx([STRONG, STRONG])


def test_strides_leave_repulsive_edges_out():
    outputs = logits([[[0.5, *3 * [STRONG], WEAK, *3 * [STRONG]]], [[1, 1, 1, 1, 1, 0.05, 1, 1]]])
    # Counted from pixel 3, the first whose edge stays in the image: every third one is 3 and 6, every second 3, 5, 7.
    assert len(replace(ROW, stride=3).decode(outputs)) == 1
    assert len(replace(ROW, stride=2).decode(outputs)) == 2


def test_weak_attraction_is_background_unless_all_attract():
    outputs = logits([[[0.5, 0.9, 0.2, 0.2, 0.9, 0.9]], [[0.9] * 6]])
    assert ROW.decode(outputs).to_labels().tolist() == [[1, 1, 0, 2, 2, 2]]
    assert ROW.probabilities(outputs)[1].tolist() == [pytest.approx([0.9, 0.9, 0.2, 0.9, 0.9, 0.9])]
    assert replace(ROW, threshold=0.0).decode(outputs).to_labels().tolist() == [[1] * 6]
    assert replace(ROW, min_size=3).decode(outputs).to_labels().tolist() == [[0, 0, 0, 1, 1, 1]]


def test_a_single_pixel_has_no_edge_and_no_score():
    """Its only strong edge is forbidden by a stronger repulsive one."""
    method = Affinities(attractive=((0, -1),), repulsive=((0, -1),), stride=1, min_size=1)
    found = method.decode(logits([[[0.5, 0.6]], [[0.5, 0.01]]]))
    assert found.areas.tolist() == [1, 1] and found.scores.tolist() == [0, 0]


@pytest.mark.parametrize("ndim", [2, 3])
def test_turned_windows_give_the_same_objects(ndim):
    truth = toy_truths(ndim)["touching blobs"]
    for symmetry in symmetries(ndim):
        labels = symmetry.apply(torch.from_numpy(truth.to_labels())).numpy()
        found = symmetry.undo_objects(TOY.decode(TOY.ideal(Instances.from_labels(labels))))
        assert (matched_ious(truth, found) == 1).all()


def test_crossing_objects_do_not_overlap(crossing_worms):
    found = TOY.decode(TOY.ideal(crossing_worms))
    assert found.owners().max() == 1
    assert ((found.owners() > 0) == (crossing_worms.owners() > 0)).all()


def test_training_lowers_the_loss(touching_blobs):
    backbone = small()
    network = Network(backbone, TOY.head(backbone)).train()
    image = torch.from_numpy(touching_blobs.owners().astype(np.float32))[None, None]
    targets = {
        "affinities": torch.from_numpy(TOY.targets(touching_blobs, np.random.default_rng(0))["affinities"])[None]
    }
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-2)
    losses = []
    for _ in range(30):
        loss = network.head.loss(network(image), targets)["affinities"]
        losses.append(loss.item())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert losses[-1] < 0.7 * losses[0]


def test_broken_outputs_are_told():
    with pytest.raises(FloatingPointError, match="not finite"):
        ROW.decode({"affinities": torch.full((1, 2, 1, 8), torch.nan)})


@pytest.mark.parametrize(
    "settings",
    [
        {"attractive": ()},
        {"attractive": ((1, 0), (1, 0, 0))},
        {"repulsive": ((0, 0),)},
        {"threshold": 1.0},
        {"stride": 0},
    ],
    ids=str,
)
def test_settings_out_of_range_are_told(settings):
    with pytest.raises(ValueError, match=r"wanted|give"):
        Affinities(**settings)


def test_offsets_fit_the_image():
    with pytest.raises(ValueError, match="has 2 axes, the image 3"):
        ROW.offsets(3)
