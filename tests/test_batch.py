"""A batch of images to files, with a stand-in for the model: bright pixels are objects."""

import csv
import json
import logging
from types import SimpleNamespace

import imageio.v3 as imageio
import numpy as np
import pytest
import tifffile
from scipy import ndimage

import plurimask
from plurimask import batch
from plurimask.batch import plan, segment_files
from plurimask.data.io import read_image
from plurimask.data.normalise import Normalisation
from plurimask.instances import Instances
from plurimask.model import Scale
from plurimask.predict import Answer
from plurimask.probabilistic import ProbabilisticInstances

ENDINGS = (".plurimask.zarr", "_labels.tif", "_objects.csv", "_overview.png")


def bright(image, model, *, draws, **options):
    """Every connected bright region, seen in all draws but one."""
    found = Instances.from_labels(ndimage.label(image[0] > 100)[0])
    seen = max(1, draws - 1)
    return ProbabilisticInstances(
        found.boxes,
        tuple(mask.astype(np.uint8) * seen for mask in found.masks),
        draws,
        np.full(len(found), seen / draws),
        tuple(tuple((draw, index) for draw in range(seen)) for index in range(len(found))),
        np.zeros((0, 2), np.int64),
        image.shape[1:],
    )


class Calls(list):
    """The images that the stand-in was asked to segment, and what shall happen at the n-th of them."""

    def __init__(self):
        self.accident = {}
        self.unlike, self.why = None, ""

    def answer(self, image, model, **options):
        self.append((image, options))
        if len(self) in self.accident:
            raise self.accident[len(self)]
        return Answer(bright(image, model, **options), self.unlike, self.why)


@pytest.fixture
def calls(monkeypatch):
    calls = Calls()
    monkeypatch.setattr(batch, "answer", calls.answer)
    stand_in = SimpleNamespace(posterior=SimpleNamespace(distinct=None), scale=Scale(1.0, 6.0))
    monkeypatch.setattr(batch, "load_model", lambda model: stand_in)
    return calls


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.json").write_text("{}", encoding="utf-8")
    (folder / "weights.safetensors").write_bytes(b"weights")
    return folder


def squares(count=2):
    image = np.zeros((24, 12 * count + 4), np.uint8)
    for index in range(count):
        image[4:12, 12 * index + 4 : 12 * index + 10] = 200 + index
    return image


def write(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    imageio.imwrite(path, image)
    return path


def rows(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def images(tmp_path):
    """Two plates with equal names, one image of which is empty."""
    folder = tmp_path / "images"
    write(folder / "a" / "1.tif", squares(2))
    write(folder / "b" / "1.tif", squares(3))
    write(folder / "b" / "2.png", np.zeros((16, 20), np.uint8))
    return folder


def snapshot(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_folders_are_repeated_and_every_file_is_there(images, tmp_path, model, calls):
    report = segment_files([images], tmp_path / "out", model=model)
    assert report.segmented == ("a/1.tif", "b/1.tif", "b/2.png")
    assert (report.kept, report.failed) == ((), {})
    for name, count in {"a/1": 2, "b/1": 3, "b/2": 0}.items():
        paths = [tmp_path / "out" / f"{name}{ending}" for ending in ENDINGS]
        assert all(path.exists() for path in paths)
        assert len(plurimask.load(paths[0]).best()) == count
    hidden = [path for path in (tmp_path / "out").rglob(".*") if ".zarr" not in path.parent.name]
    assert hidden == []


def test_labels_are_rows_of_the_table(images, tmp_path, model, calls):
    segment_files([images], tmp_path / "out", model=model)
    labels = tifffile.imread(tmp_path / "out" / "b" / "1_labels.tif")
    table = rows(tmp_path / "out" / "b" / "1_objects.csv")
    assert labels.dtype == np.uint16
    assert next(iter(table[0])) == "label"
    image = squares(3)
    for row in table:
        region = labels == int(row["label"])
        assert int(row["area"]) == region.sum() == 48
        assert float(row["mean_intensity-0"]) == image[region].mean()
        assert float(row["centroid-1"]) == np.nonzero(region)[1].mean()
        assert float(row["p_exists"]) == 7 / 8
    assert sorted(int(row["review_order"]) for row in table) == [1, 2, 3]


def test_an_image_without_objects_gives_an_empty_result(images, tmp_path, model, calls):
    segment_files([images], tmp_path / "out", model=model)
    lines = (tmp_path / "out" / "b" / "2_objects.csv").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("label,area,")
    assert tifffile.imread(tmp_path / "out" / "b" / "2_labels.tif").max() == 0
    summary = {row["image"]: row for row in rows(tmp_path / "out" / "summary.csv")}
    assert summary["b/2.png"]["objects"] == "0"
    assert summary["b/2.png"]["mean_doubt"] == ""
    # Existence 7/8, all members alike: the expected intersection over union is 7/8.
    assert float(summary["a/1.tif"]["mean_doubt"]) == 1 / 8
    assert (summary["a/1.tif"]["objects_low"], summary["a/1.tif"]["objects_high"]) == ("0", "2")


def test_every_unlike_image_is_told_once(images, tmp_path, model, calls, caplog):
    calls.unlike, calls.why = 2.34567, "contrast inverted"
    report = segment_files([images], tmp_path / "out", model=model)
    lines = [record.getMessage() for record in caplog.records]
    assert [line.partition(" looks unlike the training images")[0] for line in lines] == list(report.segmented)
    assert all("score 2.35;" in line and "contrast inverted" in line for line in lines)
    assert {record.levelno for record in caplog.records} == {logging.WARNING}
    summary = rows(tmp_path / "out" / "summary.csv")
    assert list(summary[0]) == [
        "image",
        "objects",
        "objects_low",
        "objects_high",
        "mean_doubt",
        "unlike",
        "seconds",
        "problem",
    ]
    assert [row["unlike"] for row in summary] == ["2.346"] * 3
    segment_files([images], tmp_path / "out", model=model)  # the scores stay
    assert [row["unlike"] for row in rows(tmp_path / "out" / "summary.csv")] == ["2.346"] * 3


@pytest.mark.parametrize(("score", "cell"), [(None, ""), (0.5, "0.5"), (1.0, "1")])
def test_a_familiar_image_is_no_news(images, tmp_path, model, calls, caplog, score, cell):
    calls.unlike = score
    segment_files([images], tmp_path / "out", model=model)
    assert caplog.records == []
    assert [row["unlike"] for row in rows(tmp_path / "out" / "summary.csv")] == [cell] * 3


def test_a_second_run_computes_nothing(images, tmp_path, model, calls):
    segment_files([images], tmp_path / "out", model=model)
    before, done = snapshot(tmp_path / "out"), len(calls)
    report = segment_files([images], tmp_path / "out", model=model)
    assert len(calls) == done == 3
    assert report.segmented == ()
    assert report.kept == ("a/1.tif", "b/1.tif", "b/2.png")
    after = snapshot(tmp_path / "out")
    changed = {path.name for path in after if after[path] != before.get(path)}
    assert changed <= {"summary.csv"}


def test_what_is_written_about_a_model_does_not_change_it(images, tmp_path, model, calls):
    segment_files([images], tmp_path / "out", model=model)
    (model / "README.md").write_text("what it is for", encoding="utf-8")
    (model / "tuning.json").write_text("{}", encoding="utf-8")
    (model / "report.files").mkdir()
    assert len(segment_files([images], tmp_path / "out", model=model).kept) == 3
    (model / "model.json").write_text("{} ", encoding="utf-8")
    with pytest.raises(FileExistsError, match="weights"):
        segment_files([images], tmp_path / "out", model=model)


def test_other_settings_are_refused_and_named(images, tmp_path, model, calls):
    segment_files([images], tmp_path / "out", model=model)
    before = snapshot(tmp_path / "out")
    with pytest.raises(FileExistsError, match="draws: 8 there, 16 now"):
        segment_files([images], tmp_path / "out", model=model, draws=16)
    (model / "weights.safetensors").write_bytes(b"other weights")
    with pytest.raises(FileExistsError, match="weights"):
        segment_files([images], tmp_path / "out", model=model)
    assert snapshot(tmp_path / "out") == before
    segment_files([images], tmp_path / "out", model=model, draws=16, overwrite=True)
    assert plurimask.load(tmp_path / "out" / "a" / "1.plurimask.zarr").draws == 16
    config = json.loads((tmp_path / "out" / "config.json").read_text(encoding="utf-8"))
    assert config["settings"]["draws"] == 16


def test_the_settings_are_known_without_the_config(images, tmp_path, model, calls):
    segment_files([images], tmp_path / "out", model=model)
    (tmp_path / "out" / "config.json").unlink()
    with pytest.raises(FileExistsError, match="seed: 0 there, 1 now"):
        segment_files([images], tmp_path / "out", model=model, seed=1)


def test_the_device_and_the_place_of_the_model_do_not_matter(images, tmp_path, model, calls):
    segment_files([images], tmp_path / "out", model=model)
    moved = model.rename(tmp_path / "moved")
    assert len(segment_files([images], tmp_path / "out", model=moved, device="cpu").kept) == 3


@pytest.mark.parametrize("accident", [KeyboardInterrupt(), SystemExit()])
def test_an_interrupted_batch_goes_on(images, tmp_path, model, calls, accident):
    calls.accident = {2: accident}
    with pytest.raises(type(accident)):
        segment_files([images], tmp_path / "out", model=model)
    assert [row["image"] for row in rows(tmp_path / "out" / "summary.csv")] == ["a/1.tif"]
    report = segment_files([images], tmp_path / "out", model=model)
    assert report.kept == ("a/1.tif",)
    assert report.segmented == ("b/1.tif", "b/2.png")
    assert len(rows(tmp_path / "out" / "summary.csv")) == 3


def test_an_image_that_lacks_a_file_is_done_again(images, tmp_path, model, calls):
    segment_files([images], tmp_path / "out", model=model)
    (tmp_path / "out" / "a" / "1_overview.png").unlink()
    assert segment_files([images], tmp_path / "out", model=model).segmented == ("a/1.tif",)


def test_a_truncated_image_is_told_and_the_others_are_done(images, tmp_path, model, calls):
    path = images / "a" / "2.tif"
    tifffile.imwrite(path, np.full((64, 64), 7, np.uint16))
    path.write_bytes(path.read_bytes()[:3000])
    tifffile.imwrite(images / "a" / "3.tif", np.full((8, 8), np.nan, np.float32))
    report = segment_files([images], tmp_path / "out", model=model)
    assert list(report.failed) == ["a/2.tif", "a/3.tif"]
    assert "NaN" in report.failed["a/3.tif"]
    assert len(report.segmented) == 3
    assert not list((tmp_path / "out" / "a").glob("2*"))
    problems = {row["image"]: row["problem"] for row in rows(tmp_path / "out" / "summary.csv")}
    assert problems["a/2.tif"]
    assert not problems["a/1.tif"]
    tifffile.imwrite(path, squares(1))  # mended
    assert segment_files([images], tmp_path / "out", model=model).segmented == ("a/2.tif",)


def test_an_error_of_the_model_concerns_one_image_only(images, tmp_path, model, calls):
    calls.accident = {1: ValueError("two channels are wanted")}
    report = segment_files([images], tmp_path / "out", model=model)
    assert report.failed == {"a/1.tif": "two channels are wanted"}
    assert len(report.segmented) == 2


def test_settings_that_suit_no_image_do_not_bind_the_folder(images, tmp_path, model, calls):
    calls.accident = dict.fromkeys((1, 2, 3), ValueError("no"))
    assert len(segment_files([images], tmp_path / "out", model=model, diameter=3).failed) == 3
    assert len(segment_files([images], tmp_path / "out", model=model).segmented) == 3


def test_an_unusual_scale_is_told_once(images, tmp_path, model, calls):
    with pytest.warns(UserWarning, match="rescaled 8-fold") as told:
        segment_files([images], tmp_path / "out", model=model, pixel_size=8.0)
    assert len(told) == 1
    assert [options["zoom"] for _, options in calls] == [8] * 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"draws": 0}, "draws"),
        ({"pixel_size": 1.0, "diameter": 6.0}, "not both"),
        ({"diameter": -1.0}, "positive"),
        ({"device": "mps"}, 'no device "mps"'),
    ],
)
def test_what_suits_no_image_is_told_once_and_nothing_is_written(
    images, tmp_path, model, calls, monkeypatch, options, message
):
    monkeypatch.setattr("torch.mps.is_available", lambda: False)
    with pytest.raises(ValueError, match=message):
        segment_files([images], tmp_path / "out", model=model, **options)
    assert calls == []
    assert not (tmp_path / "out").exists()


def test_the_output_must_not_be_a_file(images, tmp_path, model, calls):
    with pytest.raises(FileExistsError, match="is a file"):
        segment_files([images], images / "a" / "1.tif", model=model)
    assert calls == []


def test_an_interrupted_overwriting_leaves_no_mixture_unnoticed(images, tmp_path, model, calls):
    segment_files([images], tmp_path / "out", model=model)
    calls.accident = {len(calls) + 2: KeyboardInterrupt()}
    with pytest.raises(KeyboardInterrupt):
        segment_files([images], tmp_path / "out", model=model, draws=2, overwrite=True)
    report = segment_files([images], tmp_path / "out", model=model, draws=2)
    assert report.kept == ("a/1.tif",)
    assert list(report.failed) == ["b/1.tif", "b/2.png"]
    assert "draws: 8 there, 2 now" in report.failed["b/1.tif"]


@pytest.fixture
def data_set(tmp_path):
    """Images of two parts with label maps, and one image without truth."""
    folder = tmp_path / "data"
    for part, name in (("fit", "a"), ("report", "b.1"), ("report", "c")):
        write(folder / part / "images" / f"{name}.tif", squares(2))
        write(folder / part / "masks" / f"{name}.tif", (squares(2) > 0).astype(np.uint8))
    write(folder / "report" / "images" / "unknown.tif", squares(2))
    return folder


def test_one_part_of_a_data_set(data_set, tmp_path, model, calls):
    for _ in range(2):
        report = segment_files([data_set], tmp_path / "out", split="report", model=model)
    assert report.kept == ("report/b.1", "report/c")
    assert len(calls) == 2
    assert (tmp_path / "out" / "report" / "b.1_labels.tif").exists()
    evaluated = plurimask.evaluate(tmp_path / "out", data_set, split="report")
    assert [row.name for row in evaluated.rows] == ["report/b.1", "report/c"]


def test_a_split_wants_one_data_set(data_set, images, tmp_path, model, calls):
    with pytest.raises(ValueError, match="one data set is wanted, not 2"):
        segment_files([data_set, data_set], tmp_path / "out", split="report", model=model)
    with pytest.raises(ValueError, match="no data set"):
        segment_files([images], tmp_path / "out", split="report", model=model)
    with pytest.raises(FileNotFoundError, match="no images for the part"):
        segment_files([data_set / "report"], tmp_path / "out", split="report", model=model)


@pytest.fixture
def wells(tmp_path):
    """Two wells of BBBC010, with a square in w2 (bright-field) and three in w1 (GFP)."""
    folder = tmp_path / "broad"
    for well in ("C03", "E03"):
        for channel, image in (("w2", squares(3) * np.uint8([[1] * 12 + [0] * 28])), ("w1", squares(3))):
            write(folder / "BBBC010_v1_images" / f"1649_1109_Amp_{well}_{channel}_15AD.tif", image)
        mask = (squares(3) > 0) * np.uint8(255)
        write(folder / "BBBC010_v1_foreground_eachworm" / f"{well}_01_ground_truth.png", mask)
    return folder


def with_channels(monkeypatch, *names):
    posterior, normalisation = SimpleNamespace(distinct=None), Normalisation()
    stand_in = SimpleNamespace(posterior=posterior, scale=Scale(1.0, 6.0), channels=names, normalisation=normalisation)
    monkeypatch.setattr(batch, "load_model", lambda model: stand_in)


def test_channels_of_a_data_set_that_are_files_of_their_own(wells, tmp_path, model, calls, monkeypatch):
    with_channels(monkeypatch, "GFP", "light")
    options = {"split": "report", "model": model, "channel_files": ["w1", "w2"]}
    assert segment_files([wells], tmp_path / "out", **options).segmented == ("C03", "E03")
    assert [image.shape for image, _ in calls] == [(2, 24, 40)] * 2
    table = rows(tmp_path / "out" / "C03_objects.csv")
    means = sorted((float(row["mean_intensity-0"]), float(row["mean_intensity-1"])) for row in table)
    assert means == [(200, 200), (201, 0), (202, 0)]
    assert segment_files([wells], tmp_path / "out", **options).kept == ("C03", "E03")
    for other in (["w2", "w1"], None):
        with pytest.raises(FileExistsError, match=r"channel_files: \['w1', 'w2'\] there, .* now"):
            segment_files([wells], tmp_path / "out", **{**options, "channel_files": other})
    (tmp_path / "out" / "config.json").unlink()
    with pytest.raises(FileExistsError, match="channel_files"):
        segment_files([wells], tmp_path / "out", **{**options, "channel_files": ["w2", "w1"]})
    assert len(calls) == 2


@pytest.mark.parametrize(
    ("model_channels", "channel_files", "message"),
    [
        (("light", "GFP"), None, r"1 in the images, 2 \(light, GFP\) in the model.*--channel-files w2 w1"),
        (
            ("light",),
            ["w2", "w1"],
            r"2 in the images, 1 \(light\) in the model.*--channel-files w2 is bright-field alone",
        ),
    ],
)
def test_channels_that_the_model_does_not_want(
    wells, tmp_path, model, calls, monkeypatch, model_channels, channel_files, message
):
    with_channels(monkeypatch, *model_channels)
    with pytest.raises(ValueError, match=message):
        segment_files([wells], tmp_path / "out", split="report", model=model, channel_files=channel_files)
    assert calls == []
    assert not (tmp_path / "out").exists()


def test_channel_files_belong_to_a_data_set(wells, data_set, tmp_path, model, calls):
    with pytest.raises(ValueError, match="as in --split report"):
        segment_files([wells], tmp_path / "out", model=model, channel_files=["w2"])
    with pytest.raises(ValueError, match="leave --channel-files out"):
        segment_files([data_set], tmp_path / "out", split="report", model=model, channel_files=["w2"])
    # Without a split every file is an image.
    assert len(plan([wells / "BBBC010_v1_images"], tmp_path / "out")) == 4


def test_results_from_before_there_were_channel_files_go_on(wells, tmp_path, model, calls, monkeypatch):
    with_channels(monkeypatch, "light")
    segment_files([wells], tmp_path / "out", split="report", model=model)
    config = tmp_path / "out" / "config.json"
    content = json.loads(config.read_text(encoding="utf-8"))
    del content["settings"]["channel_files"]
    config.write_text(json.dumps(content), encoding="utf-8")
    assert len(segment_files([wells], tmp_path / "out", split="report", model=model).kept) == 2


def test_the_truth_beside_the_images_is_no_image(data_set, tmp_path):
    names = [job.name for job in plan([data_set], tmp_path / "out")]
    assert names == ["fit/images/a.tif", "report/images/b.1.tif", "report/images/c.tif", "report/images/unknown.tif"]


def test_two_images_never_share_a_name(tmp_path, model, calls):
    write(tmp_path / "images" / "a.png", squares())
    write(tmp_path / "images" / "a.tif", squares())
    with pytest.raises(ValueError, match=r"a\.png and a\.tif"):
        segment_files([tmp_path / "images"], tmp_path / "out", model=model)
    assert not (tmp_path / "out").exists()


def test_a_result_of_another_image_is_not_taken_for_this_ones(images, tmp_path, model, calls):
    segment_files([images / "a"], tmp_path / "out", model=model)
    report = segment_files([images / "b"], tmp_path / "out", model=model)
    assert list(report.failed) == ["1.tif"]
    assert "another folder" in report.failed["1.tif"]
    assert len(plurimask.load(tmp_path / "out" / "1.plurimask.zarr")) == 2


def test_rows_of_other_images_stay_in_the_summary(images, tmp_path, model, calls):
    segment_files([images / "a" / "1.tif"], tmp_path / "out", model=model)
    segment_files([images / "b" / "2.png"], tmp_path / "out", model=model)
    assert [row["image"] for row in rows(tmp_path / "out" / "summary.csv")] == ["1.tif", "2.png"]
    with pytest.raises(FileExistsError, match="1 other images"):
        segment_files([images / "b" / "2.png"], tmp_path / "out", model=model, draws=2, overwrite=True)


def test_what_a_user_made_is_not_overwritten(images, tmp_path, model, calls):
    truth = write(tmp_path / "out" / "a" / "1_labels.tif", squares())
    before = truth.read_bytes()
    with pytest.raises(FileExistsError, match="not part of a result"):
        segment_files([images], tmp_path / "out", model=model)
    assert truth.read_bytes() == before
    assert calls == []
    assert len(segment_files([images], tmp_path / "out", model=model, overwrite=True).segmented) == 3


def test_results_may_lie_beside_the_images(images, model, calls):
    assert len(segment_files([images], images, model=model).segmented) == 3
    assert len(segment_files([images], images, model=model).kept) == 3


def test_pixel_size_reaches_table_and_labels(tmp_path, model, calls):
    path = tmp_path / "scaled.tif"
    facts = {"axes": "YX", "unit": "um"}
    tifffile.imwrite(path, squares(1), imagej=True, resolution=(1 / 0.5, 1 / 0.25), metadata=facts)
    segment_files([path], tmp_path / "out", model=model)
    (row,) = rows(tmp_path / "out" / "scaled_objects.csv")
    assert float(row["area_um2"]) == 48 * 0.5 * 0.25
    assert float(row["centroid_um-0"]) == float(row["centroid-0"]) * 0.25
    assert read_image(tmp_path / "out" / "scaled_labels.tif").pixel_size == (0.25, 0.5)
    segment_files([path], tmp_path / "given", model=model, pixel_size=2.0)
    (row,) = rows(tmp_path / "given" / "scaled_objects.csv")
    assert float(row["area_um2"]) == 48 * 4
    assert calls[-1][1]["zoom"] == 2.0  # the stand-in's pixels are 1 micrometre large


def test_without_pixel_size_there_are_no_micrometres(images, tmp_path, model, calls):
    segment_files([images], tmp_path / "out", model=model)
    assert not [name for name in rows(tmp_path / "out" / "a" / "1_objects.csv")[0] if "um" in name]


def test_volumes(tmp_path, model, calls):
    volume = np.zeros((6, 20, 24), np.uint8)
    volume[1:4, 5:12, 6:15] = 255
    tifffile.imwrite(tmp_path / "volume.tif", volume, imagej=True, metadata={"axes": "ZYX"})
    report = segment_files([tmp_path / "volume.tif"], tmp_path / "out", model=model)
    assert report.failed == {}
    assert np.array_equal(tifffile.imread(tmp_path / "out" / "volume_labels.tif"), volume // 255)
    assert rows(tmp_path / "out" / "volume_objects.csv")[0]["centroid-0"] == "2"


@pytest.mark.parametrize(
    ("given", "names"),
    [
        (["."], ["a/1.tif", "b/1.tif", "b/2.png"]),
        (["a"], ["1.tif"]),
        (["a", "b"], ["a/1.tif", "b/1.tif", "b/2.png"]),
        (["a", "a/../b/2.png"], ["a/1.tif", "b/2.png"]),
        (["b/2.png"], ["2.png"]),
        (["*/1.tif"], ["a/1.tif", "b/1.tif"]),
        (["a", "a/1.tif"], ["1.tif"]),
    ],
)
def test_names_are_counted_from_what_was_given(images, tmp_path, given, names):
    jobs = plan([images / entry for entry in given], tmp_path / "out")
    assert [job.name for job in jobs] == names
    assert all(job.target.is_relative_to(tmp_path / "out") for job in jobs)


def test_progress_sees_only_what_is_to_be_done(images, tmp_path, model, calls):
    seen = []

    def progress(jobs):
        seen.append([job.name for job in jobs])
        return jobs

    segment_files([images / "a"], tmp_path / "out", model=model, progress=progress)
    segment_files([images / "a"], tmp_path / "out", model=model, progress=progress)
    assert seen == [["1.tif"]]
