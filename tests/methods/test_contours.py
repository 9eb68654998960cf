"""Contour proposals from targets to objects: the contract, drawn objects, the head and its loss."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from plurimask.agglomerate import CompleteLinkage
from plurimask.data.dataset import collate
from plurimask.data.normalise import Normalisation
from plurimask.data.storage import load, save
from plurimask.instances import Instances, concatenate, slices
from plurimask.methods import Contours
from plurimask.methods.contour_head import on_grid
from plurimask.model import Model, describe, network_factory
from plurimask.networks import UNet
from plurimask.ops.contours import rasterise
from plurimask.posteriors import POSTERIORS, Deterministic
from plurimask.predict import decoded, segment
from plurimask.protocols import Network
from plurimask.rescale import rescale_result
from plurimask.testing import check_method, check_posterior, matched_ious, toy_truths
from plurimask.windows import grid

SMALL = Contours(order=12, samples=64, kernel=3)
BOXES = replace(SMALL, nms="boxes")
SWITCHES = {
    "no refinement": {"refine": False},
    "no uncertainty": {"uncertainty": False},
    "no giou": {"giou": False},
    "the released code": {"score_target": "iou", "box_weight": 0.88, "background_weight": 2.0},
    "the library": {"refinement_loss": "all", "random_iterations": False, "buckets": 1, "max_background": 0.3},
    "coarse suppression": {"coarse_threshold": 0.8},
    "full resolution": {"stride": 1},
    "the paper's kernel": {"kernel": 7},
}


def small(**settings):
    torch.manual_seed(0)
    return UNet(width=4, depth=3, **settings)


def batch(method, truths):
    return collate([method.targets(truth, np.random.default_rng(0)) for truth in truths], method.ragged)


def terms(method, outputs, truths):
    found = method.head(small()).loss(outputs, batch(method, truths))
    return {name: float(term.detach()) for name, term in found.items()}


def disks(shape, *, distance, radius):
    """Disks on a grid, far enough from each other."""
    rows, columns = np.indices(shape)
    y, x = rows % distance - distance // 2, columns % distance - distance // 2
    cell = rows // distance * 1000 + columns // distance + 1
    return Instances.from_labels(np.where(y**2 + x**2 <= radius**2, cell, 0))


def joined(method, truths):
    """Ideal outputs of several images as one batch."""
    each = [method.ideal(truth) for truth in truths]
    return {name: torch.cat([one[name] for one in each]) for name in each[0]}


@pytest.mark.parametrize("name", SWITCHES)
def test_it_keeps_the_contract(name):
    check_method(replace(SMALL, **SWITCHES[name]), small())


def test_with_boxes_it_keeps_the_contract_where_nothing_crosses(crossing_worms):
    check_method(BOXES, small(), cases=["touching blobs", "empty"])
    assert len(BOXES.decode(BOXES.ideal(crossing_worms))) == 1  # what masks are for
    assert len(SMALL.decode(SMALL.ideal(crossing_worms))) == 2


@pytest.mark.parametrize("name", POSTERIORS)
def test_any_posterior_learns_all_of_it(name):
    factory = network_factory(describe(small()), SMALL)
    check_posterior(POSTERIORS[name](factory), SMALL, halo=24)


def test_a_batch_numbers_its_objects_across_images(touching_blobs, empty_image, crossing_worms):
    truths = [touching_blobs, empty_image, crossing_worms]
    targets = batch(SMALL, truths)
    assert targets["image_index"].tolist() == [0, 0, 2, 2]
    assert targets["labels"].shape == (3, 24, 40) and targets["positions"].shape == (3, 64)
    assert targets["contour"].shape == (4, 64, 2) and targets["fourier"].shape == (4, 12, 4)
    # Together and alone: the ideal outputs of every image are ideal in the batch, and those of another one are not.
    together = terms(SMALL, joined(SMALL, truths), truths)
    exchanged = terms(SMALL, joined(SMALL, truths[::-1]), truths)
    for name in ("score", "location", "fourier"):
        assert together[name] == pytest.approx(0, abs=1e-5)
        assert exchanged[name] > 0.1


def test_terms_are_those_that_are_switched_on(touching_blobs):
    every = {"score", "location", "fourier", "contour", "refinement", "giou", "border"}
    outputs = SMALL.ideal(touching_blobs)
    assert terms(SMALL, outputs, [touching_blobs]).keys() == every
    for switch, name in (("refine", "refinement"), ("giou", "giou"), ("uncertainty", "border")):
        assert terms(replace(SMALL, **{switch: False}), outputs, [touching_blobs]).keys() == every - {name}
    assert terms(replace(SMALL, box_weight=1.0), outputs, [touching_blobs]).keys() == every | {"box"}


def test_a_shift_of_the_proposals_by_hand(touching_blobs):
    # Everything is right but for a location two pixels too low: series as before, contours two off in y.
    outputs = dict(SMALL.ideal(touching_blobs))
    before = terms(SMALL, outputs, [touching_blobs])
    outputs["location"] = outputs["location"] + torch.tensor([2.0, 0.0])[:, None, None]
    found = terms(replace(SMALL, refine=False, box_weight=1.0), outputs, [touching_blobs])
    assert found["location"] == pytest.approx(2 / 2)
    assert found["contour"] == pytest.approx(1.5 * 2 / 2, rel=0.05)
    assert found["fourier"] == before["fourier"]
    assert found["box"] == pytest.approx(2 / 2, rel=0.1)


def test_the_score_aims_at_one_or_at_the_overlap_of_boxes(touching_blobs):
    outputs = dict(SMALL.ideal(touching_blobs))
    outputs["location"] = outputs["location"] + torch.tensor([4.0, 0.0])[:, None, None]
    assert terms(SMALL, outputs, [touching_blobs])["score"] == pytest.approx(0, abs=1e-5)
    # A logit of 20 that should be 0.6 or so costs 0.4 * 20.
    assert terms(replace(SMALL, score_target="iou"), outputs, [touching_blobs])["score"] == pytest.approx(8, abs=2)


def test_the_number_of_looks_is_drawn_with_the_crop(touching_blobs):
    drawn = {int(SMALL.targets(touching_blobs, np.random.default_rng(seed))["iterations"]) for seed in range(40)}
    assert drawn == {1, 2, 3, 4}
    fixed = replace(SMALL, random_iterations=False)
    assert int(fixed.targets(touching_blobs, np.random.default_rng(0))["iterations"]) == 4
    positions = SMALL.targets(touching_blobs, np.random.default_rng(1))["positions"]
    assert (np.diff(positions) >= 0).all() and positions[0] >= 0 and positions[-1] < 1


def test_losses_are_float32_under_autocast(touching_blobs):
    outputs, targets = SMALL.ideal(touching_blobs), batch(SMALL, [touching_blobs])
    head = SMALL.head(small())
    plain = head.loss(outputs, targets)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = head.loss(outputs, targets)
        found = SMALL.decode(outputs)
    assert all(torch.equal(plain[name], mixed[name]) for name in plain)
    assert (matched_ious(found, SMALL.decode(outputs)) == 1).all()


def test_objects_bring_their_contours_and_borders(touching_blobs):
    found = SMALL.decode(SMALL.ideal(touching_blobs))
    assert found.features["class"].tolist() == [1, 1]
    assert found.features["border"] == pytest.approx(np.full((2, 2, 2), 0.5))
    for box, contour in zip(found.boxes, found.features["contour"], strict=True):
        # The outermost points lie in the first and last pixels of the box.
        assert np.floor(contour.min(0) + 0.5).tolist() == box[0].tolist()
        assert np.floor(contour.max(0) + 0.5).tolist() == (box[1] - 1).tolist()
        assert contour[0] == pytest.approx(contour[-1], abs=1e-3)


def test_a_contour_between_the_pixels_is_no_object(touching_blobs):
    method = replace(SMALL, refine=False, min_size=0)
    outputs = dict(method.ideal(touching_blobs))
    outputs["fourier"] = torch.zeros_like(outputs["fourier"])
    outputs["location"] = torch.full_like(outputs["location"], 0.5)
    assert len(method.decode(outputs)) == 0


def test_refinement_moves_the_outline(touching_blobs):
    outputs = dict(SMALL.ideal(touching_blobs))
    outputs["refinement"] = torch.full_like(outputs["refinement"], 1.0)  # a pixel down and right at every look
    plain, moved = replace(SMALL, refine=False).decode(outputs), SMALL.decode(outputs)
    assert (moved.boxes[:, 0] == plain.boxes[:, 0] + 4).all()


def test_suppression_prefers_what_is_sure_of_its_borders(touching_blobs):
    outputs = dict(SMALL.ideal(touching_blobs))
    labels = on_grid(batch(SMALL, [touching_blobs])["labels"], 2)[0]
    rows, columns = torch.nonzero(labels == 1, as_tuple=True)
    outputs["score"][0, 0, rows, columns] = 5.0
    outputs["score"][0, 0, rows[-1], columns[-1]] = 8.0  # the best score, and the largest doubt
    outputs["location"][0, 0, rows[-1], columns[-1]] += 2
    outputs["uncertainty"][0, :, rows[-1], columns[-1]] = 9.0
    tops = {flag: replace(SMALL, uncertainty_nms=flag).decode(outputs).boxes[:, 0, 0].min() for flag in (True, False)}
    assert tops[False] == tops[True] + 2


def test_classes_come_back():
    truth = replace(toy_truths()["touching blobs"], features={"class": np.array([3, 1])})
    method = replace(SMALL, classes=3)
    outputs = method.ideal(truth)
    found = method.decode(outputs)
    assert found.features["class"][np.argsort(found.boxes[:, 0, 1])].tolist() == [3, 1]
    assert terms(method, outputs, [truth])["score"] < 1e-5
    untold = method.targets(replace(truth, features={}), np.random.default_rng(0))
    assert untold["category"].tolist() == SMALL.targets(truth, np.random.default_rng(0))["category"].tolist() == [0, 0]
    with pytest.raises(ValueError, match="knows 1 to 2"):
        replace(SMALL, classes=2).targets(truth, np.random.default_rng(0))


def test_many_objects_and_objects_cut_by_the_border():
    truth = disks((150, 171), distance=14, radius=5).shift([-6, -4], (140, 163))
    assert len(truth) > 100
    found = SMALL.decode(SMALL.ideal(truth))
    ious = matched_ious(truth, found)
    assert len(found) == len(truth) and (ious >= 0.9).all()
    assert all(value < 1.5 for value in terms(SMALL, SMALL.ideal(truth), [truth]).values())


def test_a_cell_of_the_grid_with_two_objects_is_unknown():
    labels = torch.tensor([[[1, 2, 0, -1, 3], [0, 1, 0, 0, 0], [-1, -1, 4, -1, -1]]])
    assert on_grid(labels, 2).tolist() == [[[-1, 0, 3], [-1, 4, -1]]]
    assert torch.equal(on_grid(labels, 1), labels)


@pytest.mark.parametrize("refine", [True, False])
@torch.inference_mode()
def test_outputs_and_probabilities_have_the_size_of_the_image(refine):
    method = replace(SMALL, refine=refine)
    backbone = small()
    outputs = method.head(backbone).eval()(backbone(torch.randn(2, 1, 13, 18)))
    assert outputs["score"].shape == (2, 1, 7, 9) and outputs["fourier"].shape == (2, 48, 7, 9)
    assert outputs["refinement"].shape == (2, 12 if refine else 0, 13, 18)
    assert method.probabilities(outputs).shape == (2, 13, 18)
    assert method.condition(batch(method, [Instances.empty((13, 18))])).shape == (1, 3, 13, 18)


@torch.inference_mode()
def test_training_begins_with_circles_of_the_usual_size():
    backbone = small()
    method = replace(SMALL, radius=6.0, refine=False, score_threshold=0.0, nms_threshold=1.0)
    found = method.decode(method.head(backbone).eval()(backbone(torch.randn(1, 1, 40, 40))))
    inner = found.select((found.boxes > 0).all((1, 2)) & (found.boxes < 40).all((1, 2)))
    assert len(inner) and inner.areas.mean() == pytest.approx(np.pi * 6.5**2, rel=0.15)


@pytest.mark.parametrize(("channels", "dtype"), [(1, np.uint16), (3, np.uint8)])
def test_images_of_any_kind_in_windows_of_any_size(channels, dtype):
    backbone = small(in_channels=channels)
    method = replace(SMALL, score_threshold=0.5)
    posterior = Deterministic(lambda: Network(backbone, method.head(backbone)))
    names = ("a", "b", "c")[:channels]
    model = Model(posterior, method, window=48, halo=8, channels=names, normalisation=Normalisation())
    generator = np.random.default_rng(0)
    for shape in ((50, 61), (9, 5), (1, 1)):  # several windows, and far smaller than one
        image = generator.integers(0, np.iinfo(dtype).max, (channels, *shape), dtype=dtype)
        found = segment(image, model)
        assert found.shape == shape and (found.boxes <= shape).all()


def test_objects_come_back_through_windows():
    truth = disks((96, 110), distance=22, radius=8)
    windows = grid(truth.shape, size=64, halo=16, stride=4)
    assert len(windows) > 4
    parts = [
        decoded(SMALL.ideal(truth.crop(window.outer)), SMALL, window=window, shape=truth.shape) for window in windows
    ]
    found = concatenate(parts)
    assert len(found) == len(truth) and (matched_ious(truth, found) >= 0.9).all()
    for box, contour in zip(found.boxes, found.features["contour"], strict=True):
        assert np.floor(contour.min(0) + 0.5).tolist() == box[0].tolist()


def test_outputs_kept_in_16_bits_are_decoded():
    # Their sum has no place in 16 bits, and tells whether they are finite.
    truth = disks((256, 256), distance=22, radius=8)
    outputs = {name: values.half() for name, values in SMALL.ideal(truth).items()}
    assert not torch.isfinite(outputs["score"].sum())
    assert len(SMALL.decode(outputs)) == len(truth)
    outputs["score"][0, 0, 3, 3] = torch.nan
    with pytest.raises(FloatingPointError, match=r"outputs \['score'\] are not finite"):
        SMALL.decode(outputs)


def test_contours_travel_into_the_result_and_its_file(tmp_path):
    # A second draw sees everything a pixel lower: boxes are unions, contours those of the better draw.
    truth = disks((66, 66), distance=22, radius=8)
    window = grid(truth.shape, size=96, halo=16, stride=4)[0]
    low = decoded(SMALL.ideal(truth.shift([1, 0], truth.shape)), SMALL, window=window, shape=truth.shape)
    high = decoded(SMALL.ideal(truth), SMALL, window=window, shape=truth.shape)
    draws = [replace(low, scores=low.scores * 0.9), high]
    found = rescale_result(CompleteLinkage()(draws), (132, 198))
    found = load(save(found, tmp_path / "a.plurimask.zarr"))
    assert len(found) == len(truth)
    # Each draw expects half a pixel, and sees the rows one pixel from where the other does.
    sides = {"border": [2 * np.hypot(0.5, 1), 1.5], "border_spread": [2 * 1, 0]}
    for name, wanted in sides.items():
        expected = np.broadcast_to(wanted, (len(truth), 2, 2))
        np.testing.assert_allclose(found.features[name], expected, rtol=1e-3, atol=1e-3)
    large = rescale_result(CompleteLinkage()([high]), (132, 198)).best()
    drawn = [rasterise(contour, found.shape) for contour in found.best().features["contour"]]
    masks = Instances.from_crops([box for box, _ in drawn], [mask for _, mask in drawn], found.shape)
    assert (matched_ious(large, masks) > 0.85).all()  # a contour lies half an old pixel inside of its mask
    np.testing.assert_allclose(masks.centroids, large.centroids, atol=0.6)


@pytest.mark.parametrize("name", ["score", "location", "fourier", "uncertainty", "refinement"])
def test_broken_outputs_are_told_not_dropped(name, touching_blobs):
    outputs = dict(SMALL.ideal(touching_blobs))
    outputs[name] = torch.full_like(outputs[name], torch.nan)
    with pytest.raises(FloatingPointError, match=f"{name}.* not finite"):
        SMALL.decode(outputs)


@pytest.mark.parametrize(
    ("name", "value"),
    [("order", 0), ("buckets", 0), ("kernel", 4), ("nms", "pixels"), ("score_target", "IoU"), ("max_background", 0.6)],
)
def test_settings_that_mean_nothing_are_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} = "):
        replace(SMALL, **{name: value})


def test_volumes_are_refused(touching_balls):
    with pytest.raises(ValueError, match="3 axes"):
        SMALL.targets(touching_balls, np.random.default_rng(0))
    with pytest.raises(ValueError, match="backbone of 2 axes"):
        SMALL.head(UNet(ndim=3, width=4, depth=3))
    with pytest.raises(ValueError, match="the stride 2"):
        SMALL.head(UNet(width=4, depth=1))


@pytest.mark.parametrize("method", [BOXES, replace(SMALL, score_threshold=0.97, nms_threshold=0.9, min_size=0)])
def test_every_value_to_try_can_be_decoded_with(method, touching_blobs):
    outputs = method.ideal(touching_blobs)
    for name, values in method.tunable().items():
        present = getattr(method, name)
        assert values and present not in values
        for value in values:
            assert type(value) is type(present)
            replace(method, **{name: value}).decode(outputs)


def test_masks_lie_in_their_boxes(crossing_worms):
    found = SMALL.decode(SMALL.ideal(crossing_worms))
    owners = np.zeros(found.shape, int)
    for box, mask in zip(found.boxes, found.masks, strict=True):
        owners[slices(box)] += mask
    assert (owners == found.owners()).all() and owners.max() == 2
