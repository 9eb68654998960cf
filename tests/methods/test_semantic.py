"""Pixel segmentation: targets, the loss by hand, and what becomes one object."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from plurimask.instances import Instances
from plurimask.methods import Semantic
from plurimask.networks import UNet
from plurimask.testing import check_method, drawn, matched_ious, toy_truths

# Two objects apart; a diagonal border that is one pixel wide separates the sides, not the corners, of its banks.
APART = "......\n.aa.bb\n.aa.bb\n......"
SLANT = np.array([[1, 1, 0], [1, 0, 1], [0, 1, 1]])
WEIGHTS = {1: (1.0, 1.0), 2: (1.0, 1.0, 1.0)}


def small(ndim=2):
    torch.manual_seed(0)
    return UNet(ndim=ndim, width=4, depth=2)


def volume(picture, ndim):
    """A drawing, or three slices of it."""
    return drawn([picture] * (3 if ndim == 3 else 1))


def of_classes(truth, classes):
    return replace(truth, features={"class": np.array(classes)})


def outputs_of(probabilities):
    return {"classes": torch.log(torch.tensor(probabilities, dtype=torch.float32))[None]}


def loss(method, logits, truth):
    targets = {name: torch.from_numpy(value)[None] for name, value in method.targets(truth, None).items()}
    return float(method.head(small()).loss({"classes": logits}, targets)["classes"])


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("objects", ["components", "regions"])
@pytest.mark.parametrize("classes", [1, 2])
def test_it_keeps_the_contract(ndim, objects, classes):
    check_method(Semantic(WEIGHTS[classes], objects), small(ndim), cases=["empty"])


def test_the_contract_says_what_it_cannot():
    for case in ("touching blobs", "crossing worms"):
        with pytest.raises(AssertionError, match=f"{case}: .* found 1 objects for 2"):
            check_method(Semantic(), small(), cases=[case])


@pytest.mark.parametrize("ndim", [2, 3])
def test_objects_that_lie_apart_come_back(ndim):
    truth, method = volume(APART, ndim), Semantic(min_size=1)
    found = method.decode(method.ideal(truth))
    assert matched_ious(truth, found).tolist() == [1, 1]
    assert (found.scores > 0.99).all() and found.features["class"].tolist() == [1, 1]
    elsewhere = truth.shift([1] * ndim, truth.shape)
    assert loss(method, method.ideal(truth)["classes"], truth) < loss(method, method.ideal(elsewhere)["classes"], truth)
    turned = truth.select([1, 0])
    assert torch.equal(method.ideal(truth)["classes"], method.ideal(turned)["classes"])


@pytest.mark.parametrize("ndim", [2, 3])
def test_a_class_is_one_region(ndim):
    truth, method = volume(APART, ndim), Semantic(WEIGHTS[2], "regions", min_size=1)
    (one,) = method.decode(method.ideal(truth)).to_masks()
    np.testing.assert_array_equal(one, truth.owners() > 0)
    both = method.decode(method.ideal(of_classes(truth, [2, 1])))
    assert both.features["class"].tolist() == [1, 2]
    np.testing.assert_array_equal(both.to_masks(), truth.to_masks()[::-1])


def test_touching_objects_of_different_classes_stay_two(touching_blobs):
    truth, method = of_classes(touching_blobs, [1, 2]), Semantic(WEIGHTS[2])
    found = method.decode(method.ideal(truth))
    assert matched_ious(truth, found).tolist() == [1, 1] and found.features["class"].tolist() == [1, 2]


def test_corners_do_not_connect():
    method = Semantic(min_size=1)
    assert method.decode(method.ideal(Instances.from_labels(SLANT))).areas.tolist() == [3, 3]


def test_targets_and_overlaps():
    crossing = drawn(["aax.\n..b."])
    assert Semantic().targets(crossing, None)["classes"].tolist() == [[1, 1, 1, 0], [0, 0, 1, 0]]
    for classes, shared in (([1, 2], 2), ([2, 1], 2), ([1, 1], 1)):
        targets = Semantic(WEIGHTS[2]).targets(of_classes(crossing, classes), None)["classes"]
        assert targets.tolist() == [[classes[0]] * 2 + [shared, 0], [0, 0, classes[1], 0]]
        assert targets.dtype == np.int64


@pytest.mark.parametrize("classes", [[1, 3], [0, 1], [-1, 1]])
def test_a_class_that_is_not_known(classes):
    with pytest.raises(ValueError, match=r"classes \[.*knows 1 to 2 .see class_weights"):
        Semantic(WEIGHTS[2]).targets(of_classes(drawn(["a.b"]), classes), None)


@pytest.mark.parametrize("settings", [{"class_weights": (1.0,)}, {"objects": "nuclei"}, {"threshold": 3.0}])
def test_settings_that_make_no_sense(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        Semantic(**settings)


def test_the_loss_is_a_weighted_mean():
    truth = of_classes(drawn(["a.b."]), [1, 2])
    x = np.random.default_rng(0).normal(size=(3, 4))
    surprise = -(x - np.log(np.exp(x).sum(0)))
    weights = np.array([2.0, 1.0, 5.0])
    wanted = sum(weights[c] * surprise[c, n] for n, c in enumerate([1, 0, 2, 0])) / weights[[1, 0, 2, 0]].sum()
    logits = torch.tensor(x, dtype=torch.float32)[None, :, None]
    assert loss(Semantic(tuple(weights.tolist())), logits, truth) == pytest.approx(wanted, rel=1e-5)


def of_annotators(generator, *counts, classes=3):
    """Targets of images ``(len(counts), 2, 5)``: for every image one of each annotator, as many as its count."""
    return [[{"classes": generator.integers(classes, size=(2, 5))} for _ in range(count)] for count in counts]


def joined(method, said):
    return {"shares": torch.from_numpy(np.stack([method.joined(targets)["shares"] for targets in said]))}


def test_shares_of_annotators_by_hand():
    said = [{"classes": np.array([row])} for row in ([0, 0, 2], [0, 1, 2], [0, 1, 1], [0, 1, 0])]
    shares = Semantic(WEIGHTS[2]).joined(said)["shares"]
    assert shares.tolist() == [[[1, 0.25, 0.25]], [[0, 0.75, 0.25]], [[0, 0, 0.5]]]
    assert shares.dtype == np.float32


def test_the_loss_of_all_annotators_is_the_mean_of_theirs():
    generator, method = np.random.default_rng(0), Semantic(WEIGHTS[2])
    said, logits = of_annotators(generator, 3, 3), torch.randn(2, 3, 2, 5, requires_grad=True)
    head = method.head(small())
    each = [torch.from_numpy(np.stack([image[number]["classes"] for image in said])) for number in range(3)]
    wanted = torch.stack([head.loss({"classes": logits}, {"classes": classes})["classes"] for classes in each]).mean()
    found = head.loss({"classes": logits}, joined(method, said))["classes"]
    torch.testing.assert_close(found, wanted)
    gradients = (torch.autograd.grad(term, logits, retain_graph=True)[0] for term in (found, wanted))
    torch.testing.assert_close(*gradients)


def test_the_loss_of_all_annotators_is_weighted_over_pixels_and_annotators():
    generator, weights = np.random.default_rng(0), (2.0, 1.0, 5.0)
    said, x = of_annotators(generator, 1, 4), generator.normal(size=(2, 3, 2, 5))
    surprise = np.log(np.exp(x).sum(1, keepdims=True)) - x
    total = weight = 0.0
    for image, targets in enumerate(said):
        for target in targets:  # of an image with four of them each counts a quarter
            for (row, column), number in np.ndenumerate(target["classes"]):
                total += weights[number] / len(targets) * surprise[image, number, row, column]
                weight += weights[number] / len(targets)
    method = Semantic(weights)
    found = method.head(small()).loss({"classes": torch.tensor(x)}, joined(method, said))["classes"]
    assert float(found) == pytest.approx(total / weight, rel=1e-5)


def test_one_annotator_is_all_there_are():
    generator, method = np.random.default_rng(0), Semantic((2.0, 1.0, 5.0))
    ((target,),), logits = of_annotators(generator, 1), torch.randn(1, 3, 2, 5)
    head, classes = method.head(small()), {"classes": torch.from_numpy(target["classes"])[None]}
    one, every = (head.loss({"classes": logits}, seen)["classes"] for seen in (classes, joined(method, [[target]])))
    torch.testing.assert_close(one, every)


def test_scores_classes_and_threshold_by_hand():
    # background, class 1, class 2 of four pixels in a row
    outputs = outputs_of([[[0.1, 0.4, 0.45, 0.9]], [[0.8, 0.35, 0.15, 0.05]], [[0.1, 0.25, 0.4, 0.05]]])
    method = Semantic(WEIGHTS[2], min_size=1)
    found = method.decode(outputs)
    assert found.to_masks().astype(int).tolist() == [[[1, 1, 0, 0]], [[0, 0, 1, 0]]]
    assert found.scores == pytest.approx([(0.8 + 0.35) / 2, 0.4])
    assert found.features["class"].tolist() == [1, 2]
    assert replace(method, threshold=0.58).decode(outputs).areas.tolist() == [2]  # background at most 0.42
    assert replace(method, threshold=0.95).decode(outputs).areas.tolist() == []
    assert replace(method, min_size=2).decode(outputs).areas.tolist() == [2]


def test_probabilities_are_those_of_the_softmax():
    outputs = {"classes": torch.tensor([0.0, 1.0]).reshape(1, 2, 1, 1).bfloat16()}
    assert Semantic().probabilities(outputs).flatten().tolist() == pytest.approx([1 / (1 + np.e), np.e / (1 + np.e)])


def test_condition_is_one_hot():
    targets = {"classes": torch.tensor([[[0, 2, 1]]])}
    assert Semantic(WEIGHTS[2]).condition(targets).tolist() == [[[[1, 0, 0]], [[0, 0, 1]], [[0, 1, 0]]]]


def test_condition_of_all_annotators_is_the_mean_of_theirs():
    method, (targets,) = Semantic(WEIGHTS[2]), of_annotators(np.random.default_rng(0), 3)
    each = [method.condition({"classes": torch.from_numpy(target["classes"])[None]}) for target in targets]
    torch.testing.assert_close(method.condition(joined(method, [targets])), torch.stack(each).mean(0))


def test_broken_outputs_are_told():
    with pytest.raises(FloatingPointError, match="not finite"):
        Semantic().decode({"classes": torch.full((1, 2, 4, 4), torch.nan)})


@pytest.mark.parametrize("method", [Semantic(), Semantic(threshold=0.9, min_size=0)])
def test_every_value_to_try_can_be_decoded_with(method):
    outputs = method.ideal(toy_truths()["touching blobs"])
    for name, values in method.tunable().items():
        present = getattr(method, name)
        assert min(values) < max(values) and present not in values
        for value in values:
            assert type(value) is type(present)
            replace(method, **{name: value}).decode(outputs)
