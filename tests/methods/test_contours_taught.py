"""What contour proposals learn from a teacher: its targets, and the terms that listen."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from plurimask.data.dataset import collate
from plurimask.instances import Instances
from plurimask.listening import Listen2Student
from plurimask.methods import Contours
from plurimask.methods.contour_head import on_grid
from plurimask.networks import UNet

RULE = Listen2Student()
METHOD = Contours(order=12, samples=64, kernel=3, random_iterations=False)
RADII = (9, 8, 10)
GEOMETRY = {"location", "fourier", "contour", "refinement", "giou", "border", "box"}


def logit(share):
    return float(np.log(share / (1 - share)))


def disks():
    """Three disks, not in the order in which proposals are found."""
    rows, columns = np.indices((48, 64))
    labels = np.zeros((48, 64), int)
    for number, (y, x) in enumerate([(30, 14), (12, 34), (34, 48)], start=1):
        labels[(rows - y) ** 2 + (columns - x) ** 2 <= RADII[number - 1] ** 2] = number
    return Instances.from_labels(labels)


def taught(outputs, method=METHOD, rule=RULE):
    return method.taught(outputs, rule, np.random.default_rng(5))


def loss(outputs, targets, method=METHOD):
    torch.manual_seed(0)
    head = method.head(UNet(width=4, depth=3))
    terms = head.loss(outputs, collate([targets], method.ragged))
    return {name: float(term.detach()) for name, term in terms.items()}


def test_an_ideal_teacher_says_what_the_truth_says():
    truth = disks()
    found, wanted = taught(METHOD.ideal(truth)), METHOD.targets(truth, np.random.default_rng(5))
    assert found.keys() == wanted.keys()
    assert np.array_equal(found["positions"], wanted["positions"])
    order = [np.linalg.norm(found["location"] - place, axis=1).argmin() for place in wanted["location"]]
    assert sorted(order) == [0, 1, 2]
    np.testing.assert_allclose(found["location"][order], wanted["location"], atol=0.3)
    for contour, place, radius in zip(found["contour"][order], wanted["location"], RADII, strict=True):
        # Where a contour begins hangs on its first pixel, and with it the phase of the series; its way does not.
        assert np.abs(np.linalg.norm(contour - place, axis=1) - radius).max() < 1.5
    # Objects may differ by pixels at their borders, and with them the borders of their centres.
    renumbered = np.array([-1, 0, *(order.index(place) + 1 for place in range(3))])[found["labels"] + 1]
    coarse = [on_grid(torch.from_numpy(labels)[None], 2) for labels in (renumbered, wanted["labels"])]
    known = coarse[0] >= 0
    assert known.float().mean() > 0.98
    assert (coarse[0] == coarse[1])[known].float().mean() > 0.98
    centre = coarse[1] > 0
    assert centre.sum() > 50 and (coarse[0] == coarse[1])[centre].float().mean() > 0.85
    # Half a pixel is a doubt of 1/14, and so the floor is sigma^s; the truth has none.
    assert found["floor"] == pytest.approx(0.5)
    assert not wanted["floor"].any() and wanted["floor"].shape == (3, 4)


def test_between_sure_of_an_object_and_sure_of_none_nothing_is_known():
    outputs = dict(METHOD.ideal(disks()))
    score = outputs["score"].clone()
    score[0, 0, :4, :4] = logit(0.2)
    score[0, 0, :4, 4:8] = logit(0.05)
    score[0, 0, score[0, 0] > 10] = logit(0.95)
    weak = score[0, 0, :, 21:].clone()  # the object on the right
    weak[weak > 0] = logit(0.895)  # decoded, and below 0.9
    score[0, 0, :, 21:] = weak
    targets = taught({**outputs, "score": score})
    assert len(targets["floor"]) == 2
    labels = on_grid(torch.from_numpy(targets["labels"])[None], 2)[0]
    assert (labels[:4, :4] == -1).all() and (labels[:4, 4:8] == 0).all()
    assert (labels[:, 21:][weak > logit(0.5)] == -1).all()
    assert (labels > 0).any()


def test_no_object_at_all():
    targets = taught(METHOD.ideal(Instances.empty((48, 64))))
    assert not targets["labels"].any() and targets["floor"].shape == (0, 4)
    terms = loss(METHOD.ideal(disks()), targets)
    assert terms["score"] > 1 and not any(terms[name] for name in GEOMETRY & terms.keys())


def test_objects_in_a_size_that_is_no_multiple_of_the_grid():
    truth = disks().crop([[1, 1], [48, 62]])
    assert taught(METHOD.ideal(truth))["labels"].shape == (47, 61)


def test_without_sigmas_there_is_nothing_to_compare():
    method = replace(METHOD, uncertainty=False)
    with pytest.raises(ValueError, match="uncertainty=True"):
        taught(method.ideal(disks()), method)


def shifted(doubts):
    """Outputs that are two pixels off, with these doubts about top, left, bottom and right."""
    outputs = dict(METHOD.ideal(disks()))
    outputs["location"] = outputs["location"] + 2
    outputs["uncertainty"] = torch.tensor([logit(doubt) for doubt in doubts])[:, None, None].expand(1, 4, 24, 32)
    return outputs


def test_of_the_truth_everything_is_learned():
    targets = METHOD.targets(disks(), np.random.default_rng(5))
    assert loss(shifted([0.001] * 4), targets)["location"] == pytest.approx(2, abs=0.01)
    # And so it is from a teacher without any doubt.
    ideal = METHOD.ideal(disks())
    sure = taught({**ideal, "uncertainty": torch.full((1, 4, 24, 32), -200.0)})
    assert not sure["floor"].any()
    assert loss(shifted([0.001] * 4), sure)["location"] == pytest.approx(2, abs=0.2)


@pytest.mark.parametrize(("doubts", "heard"), [([0.6] * 4, True), ([0.6, 0.6, 0.4, 0.6], False), ([0.4] * 4, False)])
def test_contours_are_learned_where_all_four_borders_are(doubts, heard):
    method = replace(METHOD, box_weight=1.0)
    terms = loss(shifted(doubts), taught(METHOD.ideal(disks())), method)
    for name in GEOMETRY - {"box"}:
        assert (terms[name] != 0) == heard, name
    # A box is learned border by border, and the score in any case.
    assert (terms["box"] > 1.5) == (max(doubts) > 0.5)
    assert (terms["box"] == 0) == (max(doubts) < 0.5)
    assert terms["score"] == loss(shifted([0.99] * 4), taught(METHOD.ideal(disks())), method)["score"]


def test_a_doubtful_teacher_is_heard_by_one_who_doubts_more():
    doubtful = {**METHOD.ideal(disks()), "uncertainty": torch.full((1, 4, 24, 32), logit(0.7))}
    targets = taught(doubtful)
    assert targets["floor"] == pytest.approx(0.8)
    assert loss(shifted([0.75] * 4), targets)["contour"] == 0
    assert loss(shifted([0.85] * 4), targets)["contour"] > 1
