"""Tuning, on drawn images in which the best threshold and the outcome of every object are known.

Every image has bright squares, which always are objects, and dim ones, which are or are not. Even seeds see what is
above the method's threshold, odd seeds what is 0.3 above it: with a threshold of 0.4 half of the draws see the dim
squares (0.5), with 0.6 none and with 0.1 all.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import tifffile
import torch

from plurimask import tuning
from plurimask.data.io import read_image
from plurimask.data.normalise import Normalisation
from plurimask.data.truth import read_instances
from plurimask.instances import Instances
from plurimask.methods import Semantic
from plurimask.metrics.bootstrap import interval, paired_difference
from plurimask.metrics.border import SigmaScale
from plurimask.metrics.segmentation import score
from plurimask.model import Model, describe, load_model, network_factory
from plurimask.networks import UNet
from plurimask.platt import Platt
from plurimask.posteriors import Augmented, Deterministic
from plurimask.predict import segment
from plurimask.protocols import Head, Method, Posterior
from plurimask.tuning import tune

BRIGHT, DIM = 2, 1  # squares of an image
ASKED: list[int] = []  # the seeds that the network was asked with


class Seen(Head):
    """Shows the image."""

    def forward(self, features):
        return {"image": features.image.float()}

    def loss(self, outputs, targets):
        raise NotImplementedError


@dataclass(frozen=True)
class Squares(Method):
    """Everything above a threshold that depends on the seed."""

    threshold: float = 0.4

    def targets(self, truth, generator):
        raise NotImplementedError

    def head(self, backbone):
        return Seen()

    def decode(self, outputs):
        least = self.threshold + 0.3 * int(outputs["seed"] % 2)
        return Instances.from_labels((outputs["image"][0, 0] > least).numpy() * ROOMS[outputs["image"].shape[2:]])

    def tunable(self):
        return {"threshold": (0.1, 0.4, 0.6, 2.0)}

    def probabilities(self, outputs):
        raise NotImplementedError

    def condition(self, targets):
        raise NotImplementedError

    def ideal(self, truth):
        raise NotImplementedError


@dataclass(frozen=True)
class Outlined(Squares):
    """Squares with an outline 0.2 pixels outside of the centres of their border pixels, and sigmas of 0.1."""

    def decode(self, outputs):
        found = super().decode(outputs)
        outline = np.stack([found.boxes[:, 0] - 0.2, found.boxes[:, 1] - 0.8], axis=1)
        return replace(found, features={"contour": outline, "border": np.full((len(found), 2, 2), 0.1)})


class Fickle(Posterior):
    """Outputs that know their seed."""

    def __init__(self, network):
        super().__init__()
        self.network = network()

    def losses(self, image, targets):
        raise NotImplementedError

    def draws(self, window, seeds: Sequence[int], *, context):
        for seed in seeds:
            ASKED.append(seed)
            yield {**self.network(window), "seed": torch.tensor(seed)}


def model(posterior=Fickle, *, method=Squares(), **settings):
    network = network_factory(describe(UNet(width=2, depth=2)), method)
    return Model(posterior(network), method, Normalisation(0.0, 100.0), window=32, halo=4, **settings)


def drawn():
    """``(8, 24)``: where squares are; number n is n + 1. The last one is dim."""
    labels = np.zeros((8, 24), np.int32)
    for number in range(BRIGHT + DIM):
        labels[2:6, 2 + 7 * number : 6 + 7 * number] = number + 1
    return labels


ROOMS = {torch.Size((8, 24)): drawn()}


def write(folder, parts):
    """part -> names of images; the dim square of those that end on "+" is an object."""
    for part, names in parts.items():
        (folder / part).mkdir(parents=True)
        for name in names:
            labels = drawn()
            image = np.where(labels > BRIGHT, 100, np.where(labels > 0, 200, 0)).astype(np.uint8)
            truth = labels if name.endswith("+") else np.where(labels > BRIGHT, 0, labels)
            tifffile.imwrite(folder / part / f"{name}.tif", image)
            tifffile.imwrite(folder / part / f"{name}_masks.tif", truth.astype(np.uint8))
    return folder


@pytest.fixture(autouse=True)
def nobody_asked():
    ASKED.clear()


@pytest.fixture
def data(tmp_path):
    """Three images in which dim squares are no objects."""
    return write(tmp_path / "data", {"fit": ["x"], "tune": ["a", "b", "c"], "report": ["r"]})


def test_the_planted_best_is_found(data):
    report = tune(model(), data, draws=4)
    assert report.model.method == Squares(threshold=0.6)
    (choice,) = report.choices
    assert choice.changes == {"method.threshold": (0.4, 0.6)}
    assert choice.chosen_on == choice.scored_on == ("tune/a", "tune/b", "tune/c")
    first = [(trial.value, trial.mean, trial.kept) for trial in choice.trials if trial.name == "method.threshold"][:4]
    wrong = BRIGHT / (BRIGHT + DIM)  # a dim square in half of the draws is one too many
    assert first == [(0.1, wrong, False), (0.4, wrong, False), (0.6, 1.0, True), (2.0, 0.0, False)]
    assert (report.before.mean, report.uncalibrated.mean, report.after.mean) == pytest.approx((wrong, 1, 1))
    assert report.difference.mean == pytest.approx(1 - wrong) and report.difference.excludes_zero()
    assert "same images" in report.protocol


def test_outputs_are_computed_once_per_image_and_draw(data):
    report = tune(model(), data, draws=4, seed=7)
    assert len(report.choices[0].trials) > 4
    assert ASKED == [7, 8, 9, 10] * 3


def test_a_model_without_doubt_is_asked_once(data, monkeypatch):
    sure = model(Deterministic)
    monkeypatch.setattr(Squares, "decode", lambda self, outputs: Instances.empty(outputs["image"].shape[2:]))
    assert tune(sure, data).settings["draws"] == 1


def test_outputs_may_lie_in_a_temporary_folder(data, tmp_path, monkeypatch):
    place = tmp_path / "scratch"
    place.mkdir()
    files = []

    class Watched(TemporaryDirectory):
        def __init__(self, **settings):
            super().__init__(dir=place, **settings)

        def __exit__(self, *reason):
            files.extend(Path(self.name).iterdir())
            super().__exit__(*reason)

    monkeypatch.setattr(tuning, "TemporaryDirectory", Watched)
    in_memory, on_disk = tune(model(), data, draws=2), tune(model(), data, draws=2, memory=0)
    assert len(files) == 2 * 3  # those of the second call
    assert not list(place.iterdir())
    assert in_memory.to_json() == on_disk.to_json()


def test_the_numbers_are_those_of_the_saved_model(data, tmp_path):
    before = model()
    report = tune(before, data, draws=4, output=tmp_path / "out", parameters={})
    after = load_model(tmp_path / "out")
    assert after.method == report.model.method and after.calibration == report.model.calibration != Platt()
    assert after.quality == report.model.quality != Platt()
    for name, used in (("before", before), ("after", after)):
        values = []
        for row in report.rows:
            found = segment(read_image(data / f"{row.name}.tif").data, used, draws=4)
            truth = read_instances(data / f"{row.name}_masks.tif")
            values.append(score(truth, found.best()).measures()["avS"])
        assert values == [getattr(row, name) for row in report.rows]
        assert getattr(report, name) == interval(values)
    assert report.difference == paired_difference(
        *([getattr(row, n) for row in report.rows] for n in ("after", "before"))
    )
    assert "chosen and scored on 3 images of data" in after.card["tuned"]
    assert json.loads((tmp_path / "out" / "tuning.json").read_text()) == json.loads(json.dumps(report.to_json()))


def test_existence_is_calibrated_on_outcomes(tmp_path):
    data = write(tmp_path / "data", {"tune": ["a+", "b", "c", "d"]})
    report = tune(model(), data, draws=4, parameters={})
    # In each of four images two bright squares, seen in all draws, and a dim one, seen in half of them.
    existence, exists = [1.0] * 8 + [0.5] * 4, [True] * 9 + [False] * 3
    wanted = Platt.fit(existence, exists)
    assert (report.model.calibration.slope, report.model.calibration.offset) == pytest.approx(
        (wanted.slope, wanted.offset), rel=1e-4
    )
    assert report.raw.brier == pytest.approx(4 * 0.5**2 / 12)
    assert report.raw.ece == pytest.approx(4 * (0.5 - 0.25) / 12)
    sure, dim = wanted([1.0, 0.5])
    brier = (8 * (1 - sure) ** 2 + (1 - dim) ** 2 + 3 * dim**2) / 12
    assert report.calibrated.brier == pytest.approx(brier, rel=1e-3) and brier < report.raw.brier
    assert report.calibrated.ece == pytest.approx((8 * (1 - sure) + 4 * abs(dim - 0.25)) / 12, rel=1e-3)
    # All outlines agree, so that the expected IoU is the existence, and every object that is there fits.
    assert report.raw.iou_error == pytest.approx(4 * 0.5 / 12)
    assert report.raw.iou_ece == pytest.approx(report.raw.ece)
    assert report.raw.above == {0.5: (8 / 12, 9 / 12), 0.75: (8 / 12, 9 / 12), 0.9: (8 / 12, 9 / 12)}
    wanted = Platt.fit_mean(report.model.calibration(existence), exists)
    assert (report.model.quality.slope, report.model.quality.offset) == pytest.approx(
        (wanted.slope, wanted.offset), rel=1e-3
    )
    assert report.calibrated.iou_ece < report.raw.iou_ece
    # Less probable than not, dim squares are left out, also the one that is an object.
    one_wrong = BRIGHT / (BRIGHT + DIM)
    assert [row.uncalibrated for row in report.rows] == pytest.approx([1, one_wrong, one_wrong, one_wrong])
    assert [row.after for row in report.rows] == pytest.approx([one_wrong, 1, 1, 1])


def test_a_calibrated_model_is_searched_as_if_it_were_not(data):
    first = tune(model(), data, draws=4, parameters={}).model
    again = tune(first, data, draws=4, parameters={})
    assert again.model.calibration == first.calibration
    assert again.before == again.after != again.uncalibrated


def test_nothing_found_anywhere(data, tmp_path):
    report = tune(model(method=Squares(threshold=2.0)), data, draws=2, parameters={}, output=tmp_path / "out")
    assert report.model.calibration == report.model.quality == Platt()
    assert np.isnan([report.raw.brier, report.calibrated.ece, report.raw.iou_error]).all()
    written = json.loads((tmp_path / "out" / "tuning.json").read_text())
    assert written["existence"]["raw"]["brier"] is written["expected_iou"]["raw"]["error"] is None


def test_borders_are_calibrated_where_the_method_gives_them(data, tmp_path):
    # Every square is found as wide as it is, 0.2 pixels too far at every side; 0.1 is what is said of it.
    report = tune(model(method=Outlined(threshold=0.6)), data, draws=2, parameters={}, output=tmp_path / "out")
    sides = 4 * BRIGHT * 3
    factor = np.sqrt((1 + sides * 2**2) / (1 + sides))
    assert report.model.border.factor == pytest.approx(factor, rel=1e-3)
    assert (report.raw.border["count"], report.raw.border["bias"]) == (sides, pytest.approx(2, rel=1e-3))
    assert report.calibrated.border["bias"] == pytest.approx(2 / factor, rel=1e-3)
    assert report.calibrated.border["surprise"] < report.raw.border["surprise"]
    written = json.loads((tmp_path / "out" / "tuning.json").read_text())
    assert written["choices"][0]["border"] == {"factor": report.model.border.factor, "spread": 1.0}
    # The saved model says so of an image, in pixels of that image, and is tuned anew from what the network says.
    after = load_model(tmp_path / "out")
    image = read_image(data / "tune/a.tif").data
    found = segment(image, after, draws=2)
    np.testing.assert_allclose(found.features["border"], 0.1 * factor, rtol=1e-3)
    assert found.table()["border_left"] == pytest.approx(0.1 * factor, rel=1e-3)
    assert tune(after, data, draws=2, parameters={}).model.border == after.border
    plain = tune(model(), data, draws=2, parameters={})
    assert plain.model.border == SigmaScale() and plain.raw.border is None


def test_two_folds_score_each_other(tmp_path):
    data = write(tmp_path / "data", {"fit": ["a+"], "tune": ["b"], "report": ["c+", "d"]})
    report = tune(model(), data, draws=4, folds=(["fit/a+", "report/c+"], ["tune/b", "report/d"]))
    one, other = report.choices
    assert (one.chosen_on, one.scored_on) == (("fit/a+", "report/c+"), ("tune/b", "report/d"))
    assert (other.chosen_on, other.scored_on) == (one.scored_on, one.chosen_on)
    # On the first fold dim squares are objects: 0.4 finds them as well as 0.1, and ties keep what is there.
    assert (one.model.method, other.model.method) == (Squares(0.4), Squares(0.6))
    assert [row.name for row in report.rows] == ["tune/b", "report/d", "fit/a+", "report/c+"]
    assert [row.uncalibrated for row in report.rows] == pytest.approx([BRIGHT / (BRIGHT + DIM)] * 4)
    assert report.protocol.startswith("two-fold protocol of the papers: chosen on one half, scored on the other")
    assert "chosen on the test set" in report.protocol
    assert report.summary.measures["avS"].mean == pytest.approx(np.mean([row.after for row in report.rows]))
    assert report.to_json()["measures"]["S@0.75"]["mean"] == report.summary.measures["S@0.75"].mean
    assert len(ASKED) == 4 * 4
    json.dumps(report.to_json(), allow_nan=False)


@pytest.mark.parametrize(
    ("folds", "complaint"),
    [
        ((["fit/x"], ["nobody"]), "has no images nobody; it has fit/x, report/r, tune/a, tune/b, tune/c"),
        ((["fit/x"], []), "two folds are wanted"),
        ((["fit/x"], ["fit/x", "tune/a"]), "no image twice"),
        ((["fit/x"], ["tune/a"], ["tune/b"]), "two folds are wanted"),
    ],
)
def test_folds_that_are_none(data, folds, complaint):
    with pytest.raises(ValueError, match=complaint):
        tune(model(), data, folds=folds)


def test_two_folds_cannot_be_saved(data, tmp_path):
    with pytest.raises(ValueError, match="two folds give two models"):
        tune(model(), data, folds=(["tune/a"], ["tune/b"]), output=tmp_path / "out")


def test_images_that_were_fitted_are_refused(data):
    fitted = model(trained_on=("fit/x", "tune/b"))
    with pytest.raises(ValueError, match=r"fitted to 1 of the 3 images, tune/b: on them it is surer than"):
        tune(fitted, data)
    with pytest.raises(ValueError, match="fitted to 2 of the 3 images, fit/x, tune/b"):
        tune(fitted, data, folds=(["fit/x"], ["tune/a", "tune/b"]))
    assert not ASKED


def test_a_model_is_not_overwritten_unasked(data, tmp_path):
    model().save(tmp_path / "out")
    before = (tmp_path / "out" / "model.json").read_bytes()
    with pytest.raises(FileExistsError, match=r"holds model\.json already"):
        tune(tmp_path / "out", data, draws=2, output=tmp_path / "out")
    assert (tmp_path / "out" / "model.json").read_bytes() == before and not ASKED
    tune(tmp_path / "out", data, draws=2, output=tmp_path / "out", overwrite=True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "tuning.json").write_text("precious")
    with pytest.raises(FileExistsError, match=r"holds tuning\.json already"):
        tune(tmp_path / "out", data, draws=2, output=tmp_path / "mine")
    assert load_model(tmp_path / "out").method == Squares(threshold=0.6)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "model.json",
        "tuning.json",
        "weights.safetensors",
    ]


def test_nothing_is_written_without_an_output(data, tmp_path):
    tune(model(), data, draws=2, parameters={})
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


@pytest.mark.parametrize(("images", "names"), [(1, "a"), (2, "ab"), (9, "abc")])
def test_fewer_images_are_spread_evenly(data, images, names):
    report = tune(model(), data, draws=1, images=images, parameters={})
    assert [row.name for row in report.rows] == [f"tune/{name}" for name in names]


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        ({"measure": "AP"}, "no measure 'AP'; there are avS, avS_nuclei, S@0.5"),
        ({"parameters": {"method.bandwidth": [1]}}, "no parameters method.bandwidth; it has method.threshold, agglo"),
        ({"parameters": {"method.threshold": np.array([1])}}, "plain numbers"),
        ({"images": 0}, "0 images choose nothing"),
        ({"draws": 0}, "between 1 and 255"),
    ],
)
def test_options_that_make_no_sense(data, wrong, complaint):
    with pytest.raises(ValueError, match=complaint):
        tune(model(), data, **wrong)
    assert not ASKED


def test_an_image_that_does_not_fit_is_named(data):
    two = replace(model(), channels=("a", "b"))
    with pytest.raises(ValueError, match=r"tune/a: the image has shape \(1, 8, 24\)"):
        tune(two, data)


def test_the_caller_hears_of_images_and_trials(data):
    images, trials = [], []
    grid = {"method.threshold": [0.6, 0.7]}
    report = tune(
        model(),
        data,
        draws=2,
        parameters=grid,
        on_image=lambda *told: images.append(told),
        on_trial=lambda *told: trials.append(told),
    )
    assert images == [("tune/a", 3), ("tune/b", 3), ("tune/c", 3)]
    assert [trial for trial, _ in trials] == list(report.choices[0].trials)
    assert {total for _, total in trials} == {4} and len(trials) == 4


def test_a_trained_model_is_asked_under_turns(data, tmp_path):
    plain = model(Deterministic, method=Semantic(min_size=1))
    assert tune(plain, data, draws=8, parameters={}).settings["draws"] == 1
    report = tune(plain, data, draws=8, parameters={}, augment=True, output=tmp_path / "out")
    assert report.settings["draws"] == 8 and report.settings["augment"] is True
    after = load_model(tmp_path / "out")
    assert isinstance(after.posterior, Augmented) and isinstance(after.posterior.posterior, Deterministic)
    weights = after.posterior.state_dict()
    for name, value in plain.posterior.state_dict().items():
        assert torch.equal(weights[f"posterior.{name}"], value)
    assert tune(after, data, draws=8, parameters={}, augment=True).model.calibration == after.calibration
    assert isinstance(plain.posterior, Deterministic)  # as it was
