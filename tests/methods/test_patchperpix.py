"""PatchPerPix: targets by their definition, the terms of the loss, sparse outputs, and the way back to objects."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from torch.nn import functional

from plurimask.data.dataset import collate
from plurimask.instances import Instances
from plurimask.methods import PatchPerPix
from plurimask.methods.patchperpix import BACKGROUND, LOOSE, patches_at
from plurimask.networks import UNet
from plurimask.posteriors import ConcreteDropout, Deterministic
from plurimask.protocols import Features, Network
from plurimask.testing import check_method, check_posterior, drawn, matched_ious, toy_image, toy_truths

VARIANTS = ("decoder", "direct", "autoencoder", "encoder_decoder")
TOY = PatchPerPix(patch=17, code=16, widths=(24,), levels=2, samples=64, min_size=1)
CROSS = drawn(["aaxa\n..b."])


def small(ndim=2, **settings):
    torch.manual_seed(0)
    return UNet(ndim=ndim, width=4, depth=3, **settings)


class Says(torch.nn.Module):
    """Always the same answer."""

    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, *question):
        return self.answer


def network(method, ndim=2):
    backbone = small(ndim)
    return Network(backbone, method.head(backbone))


def image_of(truth):
    return torch.from_numpy(toy_image(truth))[None]


def targets_of(method, *truths, seed=0):
    return collate([method.targets(truth, np.random.default_rng(seed)) for truth in truths])


def defined(truth, position, sides):
    """A patch by its definition (Mais et al. 2020, section 2): one pixel after the other."""
    masks = truth.to_masks()
    patch = []
    for offset in product(*(range(-(side // 2), side // 2 + 1) for side in sides)):
        other = tuple(int(p + d) for p, d in zip(position, offset, strict=True))
        inside = all(0 <= p < size for p, size in zip(other, truth.shape, strict=True))
        patch.append(inside and any(mask[tuple(position)] and mask[other] for mask in masks))
    return patch


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("ndim", [2, 3])
def test_it_keeps_the_contract(variant, ndim):
    check_method(replace(TOY, variant=variant, patch=17 if ndim == 2 else 5), small(ndim))


def test_the_contract_holds_in_the_paper_s_form_and_with_unequal_sides():
    check_method(replace(TOY, form="convolutional", code=25, widths=(4,), patch=(17, 19)), small())


def test_the_dense_partition_keeps_it_but_for_overlaps(crossing_worms):
    dense = replace(TOY, partition="dense")
    check_method(dense, small(), cases=["touching blobs", "empty"])
    check_method(replace(dense, patch=5), small(3))
    found = dense.decode(dense.ideal(crossing_worms))
    assert ((found.owners() == 1) == (crossing_worms.owners() == 1)).all() and found.owners().max() == 1


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("posterior", [Deterministic, ConcreteDropout])
def test_every_posterior_may_draw_and_every_parameter_learns(variant, posterior):
    method = replace(TOY, variant=variant, background_share=0.25)
    check_posterior(posterior(lambda: network(method)), method, halo=32)


@pytest.mark.parametrize("case", ["touching blobs", "crossing worms"])
def test_patches_are_those_of_the_definition(case):
    truth = toy_truths()[case]
    positions = np.argwhere(np.ones(truth.shape))[::7]
    found = patches_at(truth, positions, (5, 9))
    for position, patch in zip(positions, found, strict=True):
        assert patch.tolist() == defined(truth, position, (5, 9))


def test_patches_of_a_volume_are_those_of_the_definition(touching_balls):
    positions = np.argwhere(touching_balls.owners())[::41]
    found = patches_at(touching_balls, positions, (3, 5, 5))
    for position, patch in zip(positions, found, strict=True):
        assert patch.tolist() == defined(touching_balls, position, (3, 5, 5))


def test_a_patch_may_be_larger_than_image_and_object():
    found = patches_at(CROSS, np.array([[0, 2], [1, 2], [0, 0], [1, 0]]), (7, 9))
    at = found.reshape(4, 7, 9)
    assert at.sum((1, 2)).tolist() == [5, 2, 4, 0]  # x sees both objects, b two pixels, a four, background nothing
    assert at[:, 3, 4].tolist() == [True, True, True, False]  # the middle is the pixel itself


def test_more_objects_than_an_integer_has_bits():
    truth = Instances.from_labels(np.arange(1, 101).reshape(10, 10))
    found = TOY.targets(truth, np.random.default_rng(0))["patches"]
    assert (found.sum(1) == 1).all()  # every object is one pixel, and sees itself
    assert found[:, 144].all()


def test_positions_lie_in_one_object_or_in_none():
    truth = toy_truths()["crossing worms"]
    targets = replace(TOY, samples=400, background_share=0.25).targets(truth, np.random.default_rng(0))
    owners = truth.owners()[tuple(targets["positions"].T)]
    assert np.bincount(owners).tolist() == [100, 300]  # never in an overlap
    assert (targets["weights"] == 1).all()
    assert targets["classes"].max() == 2
    again = replace(TOY, samples=400, background_share=0.25).targets(truth, np.random.default_rng(0))
    np.testing.assert_array_equal(targets["positions"], again["positions"])


def test_where_there_is_nothing_to_draw_weights_are_zero(empty_image):
    method = replace(TOY, background_share=0.5)
    targets = method.targets(empty_image, np.random.default_rng(0))
    assert targets["weights"].tolist() == [1] * 32 + [0] * 32
    full = Instances.from_masks([np.ones((6, 6))] * 2, (6, 6))  # two objects everywhere
    assert not TOY.targets(full, np.random.default_rng(0))["weights"].any()


def test_the_terms_by_hand():
    # One row "aab", patches of 1 x 3 at the pixels 0 and 2; every logit is 0 but for one.
    truth = drawn(["aab"])
    method = replace(TOY, variant="direct", patch=(1, 3), samples=2, class_weight=2.0)
    targets = targets_of(method, truth)
    targets["positions"] = torch.tensor([[[0, 0], [0, 2]]])
    targets["patches"] = torch.from_numpy(patches_at(truth, np.array([[0, 0], [0, 2]]), (1, 3)))[None]
    head = method.head(small())
    head.reader = Says(torch.tensor([[[9.0, 0.0, 0.0], [3.0, 0.0, 9.0]]]))
    found = head.loss({"classes": torch.zeros(1, 3, 1, 3)}, targets)
    # Inside the image: of the first patch the middle and the right pixel, of the second the left one and the middle.
    wanted = (3 * np.log(2) + (3 + np.log1p(np.exp(-3)))) / 4
    assert float(found["patches"]) == pytest.approx(wanted, rel=1e-5)
    assert float(found["classes"]) == pytest.approx(2 * np.log(3), rel=1e-5)


def test_overlaps_have_no_say_in_patches(crossing_worms):
    method, targets = replace(TOY, variant="direct"), targets_of(replace(TOY, variant="direct"), crossing_worms)
    head = method.head(small()).train()
    level = torch.randn(1, 4, 24, 40, requires_grad=True)
    outputs = {"classes": torch.zeros(1, 3, 24, 40), "level0": level, "level1": torch.randn(1, 8, 12, 20)}
    head.loss(outputs, targets)["patches"].backward()
    owners = torch.from_numpy(crossing_worms.owners())
    seen = level.grad[0].abs().sum(0) > 1e-6
    assert not seen[owners > 1].any()
    assert not seen[owners == 0].any()
    assert seen[owners == 1].any()


def test_eval_gives_the_patches_that_training_compares(crossing_worms):
    for variant in VARIANTS:
        one = network(replace(TOY, variant=variant)).eval()
        features = one.backbone(image_of(crossing_worms))
        outputs = one.head(features)
        assert len(outputs["centres"]) > 0 and (outputs["centres"][:, 0] == 0).all()
        seen = one.head.reader.seen(features)
        logits = one.head.decoder(one.head.reader(seen, outputs["centres"][None, :, 1:]))[0]
        torch.testing.assert_close(outputs["patches"].float(), torch.sigmoid(logits), atol=1e-3, rtol=1e-3)


def test_sparse_outputs_are_those_of_the_loose_foreground(crossing_worms, empty_image):
    head = TOY.head(small()).eval()
    level = torch.randn(2, 4, 24, 40)
    levels = level, functional.avg_pool2d(level, 2).repeat(1, 2, 1, 1)
    logits = torch.stack([torch.from_numpy(t.owners() > 0).float() for t in (crossing_worms, empty_image)])
    head.classes = Says(torch.stack([torch.zeros_like(logits), 20 * logits - 10, torch.full_like(logits, -9)], 1))
    outputs = head(Features(level[:, :1], levels, levels))
    places = np.argwhere(crossing_worms.owners())
    np.testing.assert_array_equal(outputs["centres"], np.pad(places, ((0, 0), (1, 0))))  # none of the second image
    assert outputs["patches"].shape == (len(places), 289)
    assert outputs["patches"].dtype == torch.float16


@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_half_precision_changes_little(variant, crossing_worms):
    one = network(replace(TOY, variant=variant)).eval()
    images = image_of(crossing_worms).repeat(2, 1, 1, 1)
    exact = one(images)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = one(images)
    assert rounded["patches"].dtype == torch.float16
    assert (rounded["centres"] == exact["centres"]).all()  # everywhere: the weights are fresh
    torch.testing.assert_close(rounded["patches"], exact["patches"], atol=0.05, rtol=0)


@torch.no_grad()
def test_too_much_foreground_is_thinned_evenly(touching_blobs):
    one = network(replace(TOY, max_patches=100)).eval()
    centres = one(image_of(touching_blobs))["centres"]
    everywhere = network(TOY).eval()(image_of(touching_blobs))["centres"]
    assert len(everywhere) == 24 * 40  # fresh weights see foreground everywhere
    torch.testing.assert_close(centres, everywhere[::10])


def test_a_window_gives_the_patches_of_the_image():
    one = network(TOY).eval()
    image = torch.randn(1, 1, 96, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        whole, part = one(image), one(image[:, :, 16:, 16:])
    patches = {tuple(place): patch for place, patch in zip(whole["centres"].tolist(), whole["patches"], strict=True)}
    inner = [(n, (0, y + 16, x + 16)) for n, (_, y, x) in enumerate(part["centres"].tolist()) if min(y, x) >= 32]
    assert len(inner) > 1000
    for n, place in inner:
        torch.testing.assert_close(part["patches"][n], patches[place], atol=2e-3, rtol=0)


@pytest.mark.parametrize(
    "settings", [{}, {"partition": "components"}, {"threshold": 0.9}, {"thin_out": False}], ids=str
)
@pytest.mark.parametrize("case", ["touching blobs", "crossing worms", "empty"])
def test_the_ideal_outputs_come_back_as_the_truth(settings, case):
    method, truth = replace(TOY, **settings), toy_truths()[case]
    found = method.decode(method.ideal(truth))
    assert (matched_ious(truth, found) == 1).all()
    assert set(found.features) >= ({"patch_score"} if len(truth) else set())


def test_objects_end_where_the_foreground_does(touching_blobs):
    outputs = dict(TOY.ideal(touching_blobs))
    gone = np.zeros(touching_blobs.shape, bool)
    gone[:, ::3] = True  # the patches still hold these columns
    outputs["classes"] = outputs["classes"].clone()
    outputs["classes"][:, BACKGROUND, torch.from_numpy(gone)] = 40
    cut, whole = (replace(TOY, crop=crop).decode(outputs).to_masks() for crop in (True, False))
    truth = touching_blobs.to_masks()
    assert (whole == truth).all()
    assert (cut == (truth & ~gone)).all()
    assert replace(TOY, crop=True).decode(outputs).scores == pytest.approx(1)  # of what is left


def test_a_patch_larger_than_the_image_finds_all_objects(crossing_worms):
    method = replace(TOY, patch=61)
    assert (matched_ious(crossing_worms, method.decode(method.ideal(crossing_worms))) == 1).all()


def test_an_object_smaller_than_a_patch_stays_whole():
    truth = drawn([".....\n.aa..\n.a.b.\n...b."])
    assert (matched_ious(truth, TOY.decode(TOY.ideal(truth))) == 1).all()


def test_small_objects_and_faint_foreground_go(touching_blobs):
    outputs = dict(TOY.ideal(touching_blobs))
    area = int(touching_blobs.areas.min())
    assert len(replace(TOY, min_size=area).decode(outputs)) == 2
    assert len(replace(TOY, min_size=area + 1).decode(outputs)) == 1
    outputs["classes"] = torch.log(torch.tensor([0.6, 0.4, 1e-6]))[None, :, None, None].expand(1, 3, 24, 40)
    assert len(TOY.decode(outputs)) == 0
    assert len(replace(TOY, foreground=0.3).decode(outputs)) == 2


def test_evidence_is_what_the_classes_call_foreground_and_the_patches_outside_overlaps():
    method = replace(TOY, patch=(1, 3), foreground=0.6)  # background of at most 0.4
    classes = [
        (0.90, 0.05, 0.05),  # background
        (0.39, 0.36, 0.25),  # foreground, though no class is more probable than the background
        (0.20, 0.30, 0.50),  # overlap
        (0.10, 0.80, 0.10),  # foreground
        (0.41, 0.09, 0.50),  # background, though overlap is most probable
        (0.30, 0.36, 0.34),  # foreground: one object or several, but one is more probable
    ]
    centres = torch.tensor([[0, 0, pixel] for pixel in (0, 2, 3, 4, 5)])  # pixel 1 was thinned out
    values = torch.arange(15).reshape(5, 3).half() / 16
    logits = torch.log(torch.tensor(classes)).T[None, :, None]
    patches, cover, overlap = method.evidence({"classes": logits, "centres": centres, "patches": values})
    assert cover.tolist() == [[False, True, False, True, False, True]]
    assert overlap.tolist() == [[False, False, True, False, False, False]]
    assert patches.centres.tolist() == [[0, 3], [0, 5]]
    assert patches.values.tolist() == values[[2, 4]].tolist()
    assert (patches.size, patches.shape) == ((1, 3), (1, 6))


def test_broken_outputs_are_told_not_dropped(touching_blobs):
    for name in ("classes", "patches"):
        outputs = dict(TOY.ideal(touching_blobs))
        outputs[name] = torch.full_like(outputs[name], torch.nan)
        with pytest.raises(FloatingPointError, match="not finite"):
            TOY.decode(outputs)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"patch": 10}, "odd sides"),
        ({"patch": (3, 4)}, "odd sides"),
        ({"foreground": LOOSE / 2}, "foreground is 0.05"),
        ({"background_share": 1.5}, "between 0 and 1"),
        ({"threshold": 3.0}, "threshold"),
    ],
)
def test_settings_out_of_range_are_told(settings, complaint):
    with pytest.raises(ValueError, match=complaint):
        PatchPerPix(**settings)


@pytest.mark.parametrize("variant", VARIANTS)
def test_levels_that_the_backbone_does_not_have_are_refused(variant):
    method = replace(TOY, variant=variant, levels=4)
    if variant == "encoder_decoder":  # it reads the image instead
        method.head(small())
        return
    with pytest.raises(ValueError, match=r"levels is 4, .* 3 decoder levels to read; give 1 to 3"):
        method.head(small())


def test_sides_fit_the_image():
    with pytest.raises(ValueError, match="3 axes"):
        PatchPerPix(patch=(5, 5)).sides(3)


def reconstruction(head, patches):
    with torch.no_grad():
        return float(functional.binary_cross_entropy_with_logits(head.decoder(head._encoded(patches)), patches))


def test_preparing_trains_the_autoencoder_and_nothing_else(crossing_worms, touching_blobs, empty_image):
    head = replace(TOY, variant="autoencoder").head(small())
    patches = targets_of(TOY, crossing_worms, touching_blobs)["patches"].flatten(0, 1).float()
    before = {name: value.clone() for name, value in head.state_dict().items()}
    untrained = reconstruction(head, patches)
    head.prepare([crossing_worms, empty_image, touching_blobs], steps=100, seed=0)
    assert reconstruction(head, patches) < 0.85 * untrained
    changed = {name.split(".")[0] for name, value in head.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"encoder", "decoder"}
    trainable = {name.split(".")[0] for name, weight in head.named_parameters() if weight.requires_grad}
    assert trainable == {"classes", "reader"}


def test_preparing_is_a_function_of_its_seed(crossing_worms):
    def prepared(seed):
        head = replace(TOY, variant="autoencoder").head(small())
        head.prepare([crossing_worms], steps=3, seed=seed)
        return torch.cat([weight.flatten() for weight in head.decoder.parameters()])

    assert torch.equal(prepared(1), prepared(1))
    assert not torch.equal(prepared(1), prepared(2))


def test_only_the_autoencoder_is_prepared_and_it_wants_objects(empty_image):
    with pytest.raises(ValueError, match="finds no object"):
        replace(TOY, variant="autoencoder").head(small()).prepare([empty_image], steps=3, seed=0)
    for variant in ("decoder", "direct", "encoder_decoder"):
        replace(TOY, variant=variant).head(small()).prepare([empty_image], steps=3, seed=0)


def test_codes_are_compared_where_the_patch_is_whole():
    method = replace(TOY, variant="autoencoder", samples=2)
    truth = Instances.from_labels(np.ones((24, 40), np.int64))
    targets = targets_of(method, truth)
    head = method.head(small())
    targets["positions"] = torch.tensor([[[12, 20], [7, 20]]])  # the second patch leaves the crop
    targets["patches"] = torch.ones(1, 2, 289, dtype=torch.bool)
    wanted = head._encoded(torch.ones(1, 289))[0].detach()
    codes = torch.stack([wanted + 1, torch.full((16,), 9.0)])
    head.reader = Says(codes[None])
    found = head.loss({"classes": torch.zeros(1, 3, 24, 40)}, targets)["codes"]
    assert float(found) == pytest.approx(float((torch.tanh(wanted + 1) - torch.tanh(wanted)).square().mean()), rel=1e-4)


@pytest.mark.parametrize("variant", VARIANTS)
def test_training_lowers_the_loss(variant, crossing_worms, touching_blobs):
    method = replace(TOY, variant=variant)
    one = network(method).train()
    one.head.prepare([crossing_worms, touching_blobs], steps=20, seed=0)
    optimiser = torch.optim.Adam(one.parameters(), lr=3e-3)
    targets = targets_of(method, crossing_worms, touching_blobs)
    images = torch.cat([image_of(crossing_worms), image_of(touching_blobs)])
    losses = []
    for _ in range(60):
        terms = one.head.loss(one(images), targets)
        loss = sum(terms.values())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append({name: float(term.detach()) for name, term in terms.items()})
    for name in losses[0]:
        assert losses[-1][name] < losses[0][name]


def test_condition_is_one_hot(crossing_worms):
    seen = TOY.condition(targets_of(TOY, crossing_worms))
    owners = crossing_worms.owners()
    np.testing.assert_array_equal(seen[0], np.stack([owners == 0, owners == 1, owners >= 2]))


@pytest.mark.parametrize("method", [TOY, replace(TOY, foreground=0.15, threshold=0.9)], ids=["usual", "extreme"])
def test_every_value_to_try_can_be_decoded_with(method, touching_blobs):
    outputs = method.ideal(touching_blobs)
    for name, values in method.tunable().items():
        present = getattr(method, name)
        assert present not in values
        for value in values:
            assert type(value) is type(present)
            replace(method, **{name: value}).decode(outputs)
