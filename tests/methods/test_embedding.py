"""R20's method: targets, the terms of the loss, coordinates, and the way back to objects."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from plurimask.instances import Instances
from plurimask.methods import Embedding
from plurimask.methods.embedding import LEAST, MOST, bounded, memberships
from plurimask.networks import UNet
from plurimask.ops.mean_shift import Clusters
from plurimask.testing import check_method, drawn, matched_ious, toy_truths

PLAIN = Embedding(dimensions=4, semi_convolutional=None)
MOVED = Embedding(dimensions=4, semi_convolutional=5.0)
CROSS = drawn(["aaxa\n..b."])


def small(ndim=2, **settings):
    torch.manual_seed(0)
    return UNet(ndim=ndim, width=4, depth=3, **settings)


def batch(method, truths):
    targets = [method.targets(truth, np.random.default_rng(0)) for truth in truths]
    return {name: torch.from_numpy(np.stack([one[name] for one in targets])) for name in targets[0]}


def terms(method, embedding, truths, classes=None):
    outputs = {"embedding": embedding, "classes": torch.zeros(len(embedding), 3, *embedding.shape[2:])}
    outputs |= {} if classes is None else {"classes": classes}
    return {n: float(v.detach()) for n, v in method.head(small()).loss(outputs, batch(method, truths)).items()}


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("levels", [1, 3])
@pytest.mark.parametrize("semi_convolutional", [None, 3.0])
def test_it_keeps_the_contract(ndim, levels, semi_convolutional):
    method = Embedding(dimensions=8, levels=levels, semi_convolutional=semi_convolutional)
    check_method(method, small(ndim))


def test_the_contract_holds_with_the_equation_taken_literally():
    check_method(Embedding(squared_hinge=True), small())


@pytest.mark.parametrize("ndim", [2, 3])
def test_the_contract_holds_with_a_learned_variance(ndim):
    check_method(Embedding(dimensions=8, levels=2, variance=0.5), small(ndim))


def test_a_point_between_two_modes_may_belong_to_either():
    points = np.array([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0], [4.0, 0.0], [9.0, 9.0]], np.float32)
    found = Clusters(np.array([0, 0, 0, 1, -1]), np.array([[0.0, 0.0], [4.0, 0.0]], np.float32))
    log_variance = np.log(np.array([1.0, 2.0, 3.0, 0.5, 1.0], np.float32))
    # The odds of two normal densities of variance v at distances a and b: exp((b^2 - a^2) / 2v).
    odds = np.exp([(16 - 0) / 2, (9 - 1) / 4, 0, (16 - 0) / 1])
    assert memberships(points, found, log_variance) == pytest.approx([*(odds / (1 + odds)), 1], rel=1e-5)
    lone = Clusters(np.zeros(5, np.int64), found.centres[:1])
    assert (memberships(points, lone, log_variance) == 1).all()
    assert len(memberships(points[:0], Clusters(found.labels[:0], found.centres[:0]), log_variance[:0])) == 0


def test_a_doubtful_pixel_lowers_the_score_of_its_object(touching_blobs):
    method = Embedding(dimensions=8, variance=0.5)
    outputs = method.ideal(touching_blobs)
    sure = method.decode(outputs).scores
    assert sure == pytest.approx(1)
    doubtful = method.decode({**outputs, "log_variance": torch.full_like(outputs["log_variance"], 6.0)}).scores
    assert (doubtful < sure - 0.01).all() and (doubtful >= 0.5).all()


def test_variances_are_bounded_but_for_rounding_and_left_alone_at_the_start():
    raw = torch.linspace(-1e4, 1e4, 2001, dtype=torch.float64)
    found = bounded(raw)
    assert (found.diff() > 0).all() and found[0] > LEAST and found[-1] < MOST
    assert bounded(torch.tensor([-1e4, 1e4])) == pytest.approx(torch.tensor([LEAST, MOST]), rel=1e-6)
    start = torch.tensor([-0.2, 0.0, 0.2])
    assert bounded(start) == pytest.approx(start, abs=1e-3)
    # In the unit of a bound: 3/4 and 4/3 are the sides of right triangles with hypotenuses 5/4 and 5/3.
    assert bounded(torch.tensor([MOST * 3 / 4, LEAST * 4 / 3])) == pytest.approx(
        torch.tensor([MOST * 3 / 5, LEAST * 4 / 5])
    )


@pytest.mark.parametrize("said", [-100.0, 100.0])
def test_a_variance_far_outside_its_bounds_comes_back(said, touching_blobs):
    # Of a pixel at distance d from the mean, d^2 / v + E log v wants the variance d^2 / E, whatever it is now.
    method = replace(PLAIN, variance=0.5)
    backbone = small()
    head = method.head(backbone)
    torch.nn.init.constant_(head.log_variance.bias, said)
    outputs = head(backbone(torch.randn(1, 1, 24, 40)))
    assert ((outputs["log_variance"] >= LEAST) & (outputs["log_variance"] <= MOST)).all()
    outputs["embedding"] = torch.randn(1, 4, 24, 40)  # d^2 / E is about 1
    head.loss(outputs, batch(method, [touching_blobs]))["pull"].backward()
    slope = float(head.log_variance.bias.grad)
    assert slope * said > 0 and abs(slope) > 1e-5


@pytest.mark.parametrize("beta", [-0.1, 1.5])
def test_a_beta_out_of_range_is_told(beta):
    with pytest.raises(ValueError, match="between 0 and 1"):
        Embedding(variance=beta)


def test_a_broken_variance_is_told(touching_blobs):
    method = Embedding(dimensions=8, variance=0.5)
    outputs = method.ideal(touching_blobs)
    with pytest.raises(FloatingPointError, match="variances"):
        method.decode({**outputs, "log_variance": torch.full_like(outputs["log_variance"], float("nan"))})


def test_targets_of_a_drawn_crossing():
    targets = Embedding().targets(CROSS, np.random.default_rng(0))
    assert targets["labels"].tolist() == [[1, 1, 0, 1], [0, 0, 2, 0]]  # the pixel of both belongs to none
    assert targets["classes"].tolist() == [[1, 1, 2, 1], [0, 0, 1, 0]]


def test_three_owners_are_still_one_class():
    masks = np.zeros((3, 2, 2), bool)
    masks[:, 0, 0] = True
    masks[0, 1, 1] = True
    targets = Embedding().targets(Instances.from_masks(masks, (2, 2)), np.random.default_rng(0))
    assert targets["classes"].tolist() == [[2, 0], [0, 1]]
    assert targets["labels"].tolist() == [[0, 0], [0, 1]]


def test_every_term_by_hand():
    # One row: a a . b, embeddings in the first dimension 0 2 9 4. Means 1 and 4.
    truth = drawn(["aa.b"])
    embedding = torch.zeros(1, 4, 1, 4)
    embedding[0, 0, 0] = torch.tensor([0.0, 2.0, 9.0, 4.0])
    found = terms(replace(PLAIN, class_weights=(1.0, 1.0, 1.0), class_weight=2.0), embedding, [truth])
    assert found["pull"] == pytest.approx((1 + 0) / 2)  # a: (1 + 1) / 2, b: 0
    assert found["push"] == pytest.approx((8 - 3) ** 2)
    assert found["norm"] == pytest.approx(0.001 * (1**2 + 4**2) / 2)
    assert found["classes"] == pytest.approx(2 * np.log(3))  # three equal logits


def test_class_weights_are_those_of_a_weighted_mean():
    truth = drawn(["aa.x"])
    logits = torch.randn(1, 3, 1, 4, generator=torch.Generator().manual_seed(0))
    found = terms(PLAIN, torch.zeros(1, 4, 1, 4), [truth], logits)["classes"]
    x = logits[0, :, 0].double().numpy()
    surprise = -(x - np.log(np.exp(x).sum(0)))
    classes, weights = [1, 1, 0, 2], np.array([1.0, 3.0, 6.0])
    wanted = sum(weights[c] * surprise[c, n] for n, c in enumerate(classes)) / weights[classes].sum()
    assert found == pytest.approx(10 * wanted, rel=1e-5)


@pytest.mark.parametrize("method", [PLAIN, MOVED], ids=["plain", "semi-convolutional"])
def test_no_object_and_one_object(method):
    embedding = torch.randn(1, 4, 24, 40)
    none = terms(method, embedding, [Instances.empty((24, 40))])
    assert (none["pull"], none["push"], none["norm"]) == (0, 0, 0)
    one = terms(method, embedding, [toy_truths()["touching blobs"].select([0])])
    assert one["push"] == 0
    assert np.isfinite(one["pull"]) and one["pull"] > 0


def test_without_objects_the_graph_stays_connected():
    head = PLAIN.head(small())
    embedding = torch.randn(1, 4, 24, 40, requires_grad=True)
    outputs = {"embedding": embedding, "classes": torch.zeros(1, 3, 24, 40)}
    loss = head.loss(outputs, batch(PLAIN, [Instances.empty((24, 40))]))
    sum(loss.values()).backward()
    assert embedding.grad is not None and not embedding.grad.any()


def test_overlaps_and_background_have_no_say(crossing_worms):
    embedding = torch.randn(1, 4, 24, 40)
    before = terms(MOVED, embedding, [crossing_worms])
    free = torch.from_numpy(crossing_worms.owners() != 1)
    embedding[..., free] += 100
    assert terms(MOVED, embedding, [crossing_worms]) == before


def test_images_of_a_batch_do_not_meet(crossing_worms, touching_blobs, empty_image):
    truths = [crossing_worms, touching_blobs, empty_image]
    embedding = torch.randn(3, 4, 24, 40)
    together = terms(MOVED, embedding, truths)
    alone = [terms(MOVED, embedding[[n]], [truth]) for n, truth in enumerate(truths)]
    for name in ("pull", "push", "norm"):
        assert together[name] == pytest.approx(np.mean([one[name] for one in alone]), rel=1e-5)


def test_coordinates_are_added_in_their_unit():
    pixels = torch.tensor([0, 2]), torch.tensor([1, 3])
    found = MOVED.embed(torch.ones(2, 4), pixels)
    assert found == pytest.approx(torch.tensor([[1, 1 + 1 / 5, 1, 1], [1 + 2 / 5, 1 + 3 / 5, 1, 1]]))
    assert PLAIN.embed(found, pixels) is found


def test_mean_shift_sees_the_pixels_of_one_object_in_the_order_of_the_image():
    probabilities = np.zeros((3, 1, 4), np.float32)
    probabilities[:, 0] = [[0.9, 0.2, 0.1, 0.3], [0.1, 0.5, 0.3, 0.7], [0, 0.3, 0.6, 0]]
    single, overlap = MOVED.regions(probabilities)
    assert single.tolist() == [[False, True, False, True]]
    assert overlap.tolist() == [[False, False, True, False]]
    outputs = {"embedding": torch.arange(16.0).reshape(1, 4, 1, 4).bfloat16()}
    points = MOVED.points(outputs, single)
    assert points == pytest.approx(np.array([[1, 5 + 1 / 5, 9, 13], [3, 7 + 3 / 5, 11, 15]], np.float32))


def test_moving_the_content_of_an_image_leaves_the_semi_convolutional_loss_alone(crossing_worms):
    # What is translated: the objects and the network's outputs. Coordinates are not, and must not matter.
    whole = crossing_worms.shift([0, 0], (40, 60))
    moved = crossing_worms.shift([11, 17], (40, 60))
    embedding = torch.randn(1, 4, 40, 60)
    shifted = torch.roll(embedding, (11, 17), (2, 3))
    one, other = terms(MOVED, embedding, [whole]), terms(MOVED, shifted, [moved])
    for name in ("pull", "push", "norm"):
        assert other[name] == pytest.approx(one[name], rel=1e-4)
    # The objects' places do matter to it, unlike to the plain one.
    apart = Instances.from_labels(np.array([[1] * 4 + [0] * 40 + [2] * 4]))
    close = Instances.from_labels(np.array([[1] * 4 + [2] * 4 + [0] * 40]))
    zeros = torch.zeros(1, 4, 1, 48)
    assert terms(MOVED, zeros, [apart])["push"] < terms(MOVED, zeros, [close])["push"]
    assert terms(PLAIN, zeros, [apart])["push"] == terms(PLAIN, zeros, [close])["push"]


@pytest.mark.parametrize("case", ["touching blobs", "crossing worms", "empty"])
@pytest.mark.parametrize("method", [PLAIN, MOVED], ids=["plain", "semi-convolutional"])
def test_the_ideal_outputs_come_back_as_the_truth(method, case):
    truth = toy_truths()[case]
    found = method.decode(method.ideal(truth))
    ious = matched_ious(truth, found)
    assert len(found) == len(truth)
    assert (ious >= 0.95).all()
    assert (found.scores > 0.99).all()


def test_the_ideal_loss_is_small(crossing_worms):
    for method in (PLAIN, MOVED):
        ideal = method.ideal(crossing_worms)
        found = terms(method, ideal["embedding"], [crossing_worms], ideal["classes"])
        assert found["pull"] < 1e-4
        assert found["push"] < 1e-4
        assert found["classes"] < 1e-4


def test_small_objects_go_and_background_follows_its_threshold(touching_blobs):
    outputs = dict(PLAIN.ideal(touching_blobs))
    area = int(touching_blobs.areas.min())
    assert len(replace(PLAIN, min_size=area).decode(outputs)) == 2
    assert len(replace(PLAIN, min_size=area + 1).decode(outputs)) == 1
    # P(background) is 0.6 everywhere: no object at foreground 0.5, one great object at 0.3.
    outputs["classes"] = torch.log(torch.tensor([0.6, 0.4, 1e-6]))[None, :, None, None].expand(1, 3, 24, 40)
    assert len(PLAIN.decode(outputs)) == 0
    assert replace(PLAIN, foreground=0.3).decode(outputs).areas.sum() == 24 * 40


def test_broken_outputs_are_told_not_dropped(touching_blobs):
    for name in ("classes", "embedding"):
        outputs = dict(PLAIN.ideal(touching_blobs))
        outputs[name] = torch.full_like(outputs[name], torch.nan)
        with pytest.raises(FloatingPointError, match="not finite"):
            PLAIN.decode(outputs)


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("levels", [1, 2, 3])
@torch.inference_mode()
def test_outputs_have_the_size_of_the_image(ndim, levels):
    backbone = small(ndim)
    head = Embedding(dimensions=5, levels=levels).head(backbone)
    image = torch.randn(2, 1, *(13, 18, 9)[:ndim])
    outputs = head(backbone(image))
    assert outputs["embedding"].shape == (2, 5, *image.shape[2:])
    assert outputs["classes"].shape == (2, 3, *image.shape[2:])


@pytest.mark.parametrize("levels", [0, 4])
def test_levels_that_the_backbone_does_not_have_are_refused(levels):
    with pytest.raises(ValueError, match=rf"levels is {levels}, .* 3 decoder levels to read; give 1 to 3"):
        Embedding(levels=levels).head(small())


def test_condition_is_one_hot(crossing_worms):
    seen = PLAIN.condition(batch(PLAIN, [crossing_worms]))
    owners = crossing_worms.owners()
    np.testing.assert_array_equal(seen[0], np.stack([owners == 0, owners == 1, owners >= 2]))


@pytest.mark.parametrize("method", [PLAIN, replace(PLAIN, foreground=0.95, min_size=0)], ids=["usual", "extreme"])
def test_every_value_to_try_can_be_decoded_with(method, touching_blobs):
    outputs = method.ideal(touching_blobs)
    for name, values in method.tunable().items():
        present = getattr(method, name)
        assert min(values) < max(values) and present not in values
        for value in values:
            assert type(value) is type(present)  # min_size is a number of pixels
            replace(method, **{name: value}).decode(outputs)
