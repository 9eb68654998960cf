"""Folders of results against folders of truth: pairing, scores of drawn cases, and what goes wrong in practice."""

from __future__ import annotations

import json
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
import pytest
from numpy.typing import NDArray

from plurimask.comparison import Report
from plurimask.data import storage
from plurimask.data.truth import truths
from plurimask.evaluation import evaluate
from plurimask.instances import Instances
from plurimask.metrics.segmentation import Scores
from plurimask.pairing import Unpaired
from plurimask.probabilistic import ProbabilisticInstances


def bars(*columns: int) -> NDArray[np.uint8]:
    """``(6, 12)`` label map with one bar of two columns' width at each of the columns."""
    labels = np.zeros((6, 12), np.uint8)
    for number, column in enumerate(columns, start=1):
        labels[1:5, column : column + 2] = number
    return labels


def write(folder: Path, pictures: dict[str, NDArray[np.uint8]]) -> Path:
    for name, labels in pictures.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        imageio.imwrite(folder / name, labels)
    return folder


@pytest.fixture
def truth(tmp_path: Path) -> Path:
    return write(tmp_path / "truth", {"a.png": bars(0, 3, 6), "b.png": bars(0, 5)})


def whole(report: Report) -> dict[str, float]:
    return {name: value.mean for name, value in report.summary.measures.items()}


def test_truth_against_itself_is_perfect(truth: Path) -> None:
    report = evaluate(truth, truth)
    assert set(whole(report).values()) == {1.0}
    assert [row.name for row in report.rows] == ["a", "b"]


def test_counted_by_hand(truth: Path, tmp_path: Path) -> None:
    # a: two of three found, one invented. b: one bar moved by one of its two columns (IoU 1/3), one exact.
    found = write(tmp_path / "found", {"a_labels.png": bars(0, 3, 9), "b_labels.png": bars(1, 5)})
    report = evaluate(found, truth, thresholds=[0.5])
    assert whole(report)["S@0.5"] == pytest.approx((2 / 4 + 1 / 3) / 2)
    assert whole(report)["P@0.5"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert whole(report)["F1_0.8"] == pytest.approx(3 / 5)
    assert [row.scores.tp.tolist() for row in report.rows] == [[2], [1]]
    loose = evaluate(found, truth, thresholds=[1 / 3])
    assert [row.scores.tp.tolist() for row in loose.rows] == [[2], [2]]


def test_masks_of_wells_are_found_by_the_token_in_the_name(tmp_path: Path) -> None:
    first, second = (255 * (bars(3, 6) == number).astype(np.uint8) for number in (1, 2))
    names = {"A01_01_ground_truth.png": first, "A01_02_ground_truth.png": second, "B07_01_ground_truth.png": first}
    truth = write(tmp_path / "truth", names)
    images = {"1649_Amp5-1_B_2007_A01_w2_15AD-C0_labels.png": bars(3, 6), "x_B07_w2_labels.png": bars(6)}
    report = evaluate(write(tmp_path / "found", images), truth)
    assert [row.name for row in report.rows] == ["A01", "B07"]
    assert report.rows[0].found == "1649_Amp5-1_B_2007_A01_w2_15AD-C0"
    assert [row.scores.s[0] for row in report.rows] == [1.0, 0.0]


def test_one_file_against_one_truth_needs_no_names(truth: Path, tmp_path: Path) -> None:
    found = write(tmp_path, {"something_else.png": bars(0, 3, 6)})
    assert evaluate(found / "something_else.png", truth / "a.png").rows[0].scores.s[0] == 1.0


def test_a_truth_that_nobody_looked_for(truth: Path, tmp_path: Path) -> None:
    found = write(tmp_path / "found", {"b_labels.png": bars(0, 5)})
    with pytest.raises(Unpaired, match="nothing found for the truths a"):
        evaluate(found, truth)
    report = evaluate(found, truth, subset=True)
    assert [row.name for row in report.rows] == ["b"]


def test_a_list_of_names_leaves_the_others_out(truth: Path, tmp_path: Path) -> None:
    listed = tmp_path / "names.txt"
    listed.write_text("b\n\n")
    report = evaluate(truth, truth, names=listed)
    assert ([row.name for row in report.rows], report.left_out) == (["b"], ("a",))
    listed.write_text("b\nzebra\n")
    with pytest.raises(Unpaired, match="zebra"):
        evaluate(truth, truth, names=listed)


def test_a_part_of_a_data_set(truth: Path, tmp_path: Path) -> None:
    folder = tmp_path / "dsb"
    for kind in ("images", "labels"):
        write(folder / kind, {"a.png": bars(0, 3, 6), "b.png": bars(0, 5)})
    (folder / "index.csv").write_text("id,split\na,fit\nb,report\n")
    report = evaluate(truth, folder, split="report")
    assert ([row.name for row in report.rows], report.left_out) == (["b"], ("a",))


def test_damaged_files_and_other_shapes_name_the_file(truth: Path, tmp_path: Path) -> None:
    found = write(tmp_path / "found", {"a_labels.png": bars(0), "b_labels.png": bars(0)[:, :9]})
    with pytest.raises(ValueError, match=r"^b in .*, with b in .*: .*\(6, 12\).*\(6, 9\)"):
        evaluate(found, truth)
    (found / "b_labels.png").write_bytes((found / "b_labels.png").read_bytes()[:40])
    with pytest.raises(ValueError, match=r"b_labels\.png"):
        evaluate(found, truth)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        evaluate(tmp_path / "nowhere", truth)


def test_the_output_is_asked_for_before_the_work(truth: Path, tmp_path: Path) -> None:
    output = tmp_path / "numbers.json"
    evaluate(truth, truth, output=output)
    told: list[str] = []
    with pytest.raises(FileExistsError, match=r"numbers\.json exists.*--overwrite"):
        evaluate(truth, truth, output=output, on_row=lambda row, total: told.append(row.name))
    assert told == []
    evaluate(truth, truth, output=output, overwrite=True, thresholds=[0.5])
    assert json.loads(output.read_text())["settings"]["thresholds"] == [0.5]


def test_an_error_writes_nothing(truth: Path, tmp_path: Path) -> None:
    found = write(tmp_path / "found", {"a_labels.png": bars(0), "b_labels.png": bars(0)[:, :9]})
    with pytest.raises(ValueError, match=r"^b in .*, with b in .*: "):
        evaluate(found, truth, output=tmp_path / "report")
    assert not (tmp_path / "report").exists()


def test_a_data_set_of_parts_needs_no_split(truth: Path, tmp_path: Path) -> None:
    for part, name in (("train", "a"), ("test", "b")):
        write(tmp_path / "data" / part, {f"{name}.png": bars(0, 4), f"{name}_masks.png": bars(0, 4)})
    rows = evaluate(truth, tmp_path / "data").rows
    assert [(row.name, row.found) for row in rows] == [("test/b", "b"), ("train/a", "a")]


def test_settings_without_a_meaning(truth: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"empty is 7\.0"):
        evaluate(truth, truth, empty=7.0)
    (tmp_path / "names.txt").write_text("\n")
    with pytest.raises(Unpaired, match=r"names\.txt lists no name"):
        evaluate(truth, truth, names=tmp_path / "names.txt")


def test_a_truth_alone_knows_no_split(truth: Path) -> None:
    with pytest.raises(ValueError, match="only a whole data set"):
        evaluate(truth, truth, split="report")


def test_every_image_is_told_with_the_total(truth: Path) -> None:
    told: list[tuple[str, int]] = []
    evaluate(truth, truth, on_row=lambda row, total: told.append((row.name, total)))
    assert told == [("a", 2), ("b", 2)]


def doubtful() -> ProbabilisticInstances:
    """Two bars; the left one seen in all of ten draws, the right one in six of them."""
    objects = Instances.from_labels(bars(0, 5))
    counts = tuple(mask * np.uint8(times) for mask, times in zip(objects.masks, (10, 6), strict=True))
    members = tuple(tuple((draw, index) for draw in range(times)) for index, times in enumerate((10, 6)))
    nothing = np.zeros((0, 2), np.int64)
    return ProbabilisticInstances(objects.boxes, counts, 10, np.array([1.0, 0.6]), members, nothing, objects.shape)


def test_the_mode_chooses_from_a_probabilistic_result(truth: Path, tmp_path: Path) -> None:
    for folder in ("run", "run/plate"):
        (tmp_path / folder).mkdir()
    storage.save(doubtful(), tmp_path / "run" / "plate" / "b.plurimask.zarr")
    # What stands beside a result is not read twice.
    write(tmp_path / "run" / "plate", {"b_labels.png": bars(0)})
    for mode, tp, count in (("best", 2, 2), ("threshold 0.75", 1, 1), ("threshold 0.5", 2, 2)):
        scores: Scores = evaluate(tmp_path / "run", truth, mode=mode, subset=True).rows[0].scores
        assert (scores.tp[0], scores.found_count) == (tp, count)
    single = evaluate(tmp_path / "run" / "plate" / "b.plurimask.zarr", truth / "b.png")
    assert single.rows[0].found == "b"


def test_probabilities_are_examined_and_inspected(truth: Path, tmp_path: Path) -> None:
    storage.save(doubtful(), tmp_path / "run" / "b.plurimask.zarr")
    report = evaluate(tmp_path / "run", truth, subset=True)
    assert report.quality.honesty is not None and report.proofreading is not None
    # Both bars are there, one of them with probability 0.6.
    assert report.quality.honesty.existence.brier.mean == pytest.approx(0.4**2 / 2)
    assert report.proofreading.truth_count == 2
    quick = evaluate(tmp_path / "run", truth, subset=True, simulation=False)
    assert quick.quality.honesty is not None and quick.proofreading is None
    labels = evaluate(write(tmp_path / "labels", {"b.png": bars(0, 5)}), truth, subset=True)
    assert labels.quality.honesty is None and labels.proofreading is None


def test_the_image_is_at_hand_where_the_truth_has_it(truth: Path, tmp_path: Path) -> None:
    write(tmp_path / "data" / "images", {"a.png": 9 * bars(0, 3, 6), "b.png": bars(0, 5)})
    write(tmp_path / "data" / "masks", {"a.png": bars(0, 3, 6), "b.png": bars(0, 5)})
    image = evaluate(truth, tmp_path / "data").rows[0].pair.image
    assert image is not None and image().data.max() == 27
    assert [row.pair.image for row in evaluate(truth, truth).rows] == [None, None]


def test_images_that_are_left_out_are_told(truth: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path / "data" / "images", {"a.png": bars(0, 3, 6)})
    write(tmp_path / "data" / "masks", {"a.png": bars(0, 3, 6), "b.png": bars(0, 5)})
    rows = evaluate(truth, tmp_path / "data").rows
    assert [(row.name, row.pair.image) for row in rows] == [("a", None), ("b", None)]
    assert ["read without its images" in text and "without an image: b" in text for text in caplog.messages] == [True]


def test_a_truth_that_is_labels_alone_lacks_nothing(
    truth: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    labels = {"a_labels.png": bars(0, 3, 6), "b_labels.png": bars(0, 5), "b_overview.png": bars(0, 5)}
    for folder in (truth, write(tmp_path / "run", labels)):
        assert evaluate(truth, folder).summary.images == 2
    assert caplog.messages == []


def test_a_mode_needs_probabilities(truth: Path) -> None:
    with pytest.raises(ValueError, match="needs probabilities"):
        evaluate(truth, truth, mode="threshold 0.75")


@pytest.mark.data
def test_worms_against_themselves_keep_their_overlaps(real_data: Path) -> None:
    folder = real_data / "bbbc010"
    report = evaluate(folder / "BBBC010_v1_foreground_eachworm", folder, split="report")
    assert report.summary.images == len(report.rows) > 0
    assert set(whole(report).values()) == {1.0}
    assert "A01" in report.left_out
    readers = truths(folder)
    pairs = [(readers[row.name](), row.scores) for row in report.rows[:5]]
    assert all(scores.found_count == len(worms) for worms, scores in pairs)
    assert any(worms.owners().max() > 1 for worms, _ in pairs)


@pytest.mark.data
def test_nuclei_against_themselves(real_data: Path) -> None:
    folder = real_data / "dsb2018"
    report = evaluate(folder / "labels", folder, split="tune")
    assert report.summary.images == len(report.rows) > 0
    assert set(whole(report).values()) == {1.0}
