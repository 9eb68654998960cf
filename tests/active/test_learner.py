"""Facts and measures by hand; a study of two rounds with a network of a few filters."""

import json
from functools import partial

import numpy as np
import pytest
import tifffile

from plurimask.active.acquisition import Strategy
from plurimask.active.curves import compare
from plurimask.active.examination import Examination
from plurimask.active.learner import Segmenter, facts, measures
from plurimask.active.loop import Study, run_study
from plurimask.fitting import Schedule
from plurimask.instances import Instances
from plurimask.methods import Semantic
from plurimask.networks import UNet
from plurimask.pixelwise import PixelDoubt
from plurimask.posteriors import ConcreteDropout
from plurimask.probabilistic import ProbabilisticInstances
from plurimask.testing import toy_image, toy_truths

SHORT = Schedule(steps=2, batch=1, crop=16, check_every=2, warmup=1, workers=0)


def box_truth(*boxes, shape=(4, 5)):
    masks = np.zeros((len(boxes), *shape), bool)
    for mask, (rows, columns) in zip(masks, boxes, strict=True):
        mask[rows, columns] = True
    return Instances.from_masks(masks, shape)


LEFT = (slice(None), slice(0, 2))
TOP = (slice(0, 1), slice(None))


def test_facts_by_hand():
    one = facts([box_truth(LEFT)])
    assert one == pytest.approx({"foreground": 0.4, "disagreement": 0, "objects": 1})
    # 8 pixels by the first, none by the second: they disagree on 8 of 20 as much as can be.
    two = facts([box_truth(LEFT), box_truth()])
    assert two == pytest.approx({"foreground": 0.2, "disagreement": 0.4 * np.log(2), "objects": 0.5})
    overlapping = facts([box_truth(LEFT, TOP)])
    assert overlapping["foreground"] == 11 / 20 and overlapping["objects"] == 2


def examined(foreground, found):
    probabilities = np.stack([1 - foreground, foreground]).astype(np.float32)
    counts = tuple(mask.astype(np.uint8) for mask in found.masks)
    members = tuple(((0, n),) for n in range(len(found)))
    none = np.zeros((0, 2), np.int64)
    certain = ProbabilisticInstances(found.boxes, counts, 1, np.ones(len(found)), members, none, found.shape)
    return Examination(certain, PixelDoubt(probabilities, np.zeros(found.shape, np.float32)))


def test_measures_by_hand():
    truth = box_truth(LEFT)
    right = measures(examined(truth.owners().astype(float), truth), [truth])
    assert (right["avS"], right["S@0.5"], right["dice"]) == (1, 1, 1)
    assert 0 < right["loss"] < 1e-5
    unsure = measures(examined(np.full((4, 5), 0.5), box_truth(TOP)), [truth])
    assert (unsure["avS"], unsure["S@0.5"]) == (0, 0)
    assert unsure["loss"] == pytest.approx(np.log(2))
    assert unsure["dice"] == pytest.approx(2 * (8 / 2) / (20 / 4 + 8))
    wrong = measures(examined(1.0 - truth.owners(), box_truth(TOP)), [truth])
    assert wrong["loss"] == pytest.approx(-np.log(1e-6))  # and not infinite


def test_the_loss_is_the_mean_over_annotators():
    annotators = [box_truth(LEFT), box_truth(TOP), box_truth()]
    answer = examined(np.random.default_rng(0).uniform(0.1, 0.9, (4, 5)), box_truth(LEFT))
    together = measures(answer, annotators)
    single = [measures(answer, [one]) for one in annotators]
    for name in ("loss", "avS", "S@0.5"):
        assert together[name] == pytest.approx(np.mean([one[name] for one in single]))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Five images to fit and one to tune."""
    folder, truth = tmp_path_factory.mktemp("data"), toy_truths()["touching blobs"]
    for seed, name in enumerate(("fit/a", "fit/b", "fit/c", "fit/d", "fit/e", "tune/f")):
        (folder / name).parent.mkdir(exist_ok=True)
        image = (1000 * (1 + (1 + seed) * toy_image(truth, seed=seed)[0])).astype(np.uint16)
        tifffile.imwrite(folder / f"{name}.tif", image)
        tifffile.imwrite(folder / f"{name}_masks.tif", truth.to_labels().astype(np.uint16))
    return folder


def segmenter(data, **changes):
    small = {"method": Semantic(min_size=1), "backbone": partial(UNet, width=2, depth=2), "schedule": SHORT}
    return Segmenter(data, **{**small, "posterior": ConcreteDropout, "draws": 2, "window": 64, "halo": 8, **changes})


class Killed(BaseException):
    pass


def test_an_interrupted_study_has_the_results_of_an_uninterrupted_one(data, tmp_path, monkeypatch):
    strategies = (Strategy("random", 2), Strategy("bald_sum"))
    plan = Study(strategies, seeds=(0,), initial=2, per_round=1, rounds=2, warm=True)
    whole = run_study(plan, segmenter(data), tmp_path / "whole")
    assert [(one.strategy, one.number, one.annotated) for one in whole] == [
        (strategy.name, number, 2 + number) for strategy in strategies for number in range(3)
    ]
    assert all(np.isfinite(list(one.measures.values())).all() for one in whole)
    original, asked = Segmenter.measure, []

    def killed(self, model):
        asked.append(model)
        if len(asked) == 4:
            raise Killed
        return original(self, model)

    with monkeypatch.context() as patch:
        patch.setattr(Segmenter, "measure", killed)
        with pytest.raises(Killed):
            run_study(plan, segmenter(data), tmp_path / "killed")
    assert run_study(plan, segmenter(data), tmp_path / "killed") == whole
    assert not list(tmp_path.rglob("*.run")) and not list(tmp_path.rglob("*.ckpt"))
    assert {one.strategy for one in compare(whole, measure="loss", baseline="bald_sum")} == {
        strategy.name for strategy in strategies
    }


def test_only_some_images(data):
    names = [image.name for image in segmenter(data).pool()]
    assert len(names) == 5
    assert [image.name for image in segmenter(data, pool_size=2).pool()] == [names[0], names[2]]
    image = segmenter(data).pool()[0]
    assert image.facts["objects"] == 2 and np.isfinite(image.looks).all()


def test_settings_are_the_same_in_another_process(data):
    one, other = (segmenter(data, posterior=partial(ConcreteDropout, initial_rate=0.2)).settings() for _ in range(2))
    assert json.loads(json.dumps(one)) == other
    assert one != segmenter(data).settings()
    assert " at 0x" not in json.dumps(segmenter(data, backbone=lambda channels: UNet(channels)).settings())
