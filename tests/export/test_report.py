"""The files of a report: two images with planted errors, written whole or not at all."""

import csv
import json
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
import pytest

from plurimask.data import storage
from plurimask.evaluation import evaluate
from plurimask.export import report as module
from plurimask.export.numbers import numbers
from plurimask.export.plots import NAMES
from plurimask.export.report import check_free, write_report

HEADER = ["image", "label", "area", "centroid-0", "centroid-1", "p_exists", "agreement", "expected_iou"]
HEADER += ["entropy", "p_split", "p_merge", "matched", "iou", "kind"]


@pytest.fixture
def planted(tmp_path, bars, seen):
    """Two images with truth, and results with one error of every kind.

    a: truth at 0, 6 and 12; found are 0, 6 in two halves, and an invented one at 24. 12 is missed.
    b: truth at 0 and 4, touching, and at 20; found are the former in one piece, which is too wide, and half of 20.
    """
    truth = {"a": bars(0, 6, 12), "b": bars(0, 4, 20)}
    for name, labels in truth.items():
        for folder in ("images", "masks"):
            (tmp_path / "data" / folder).mkdir(parents=True, exist_ok=True)
        imageio.imwrite(tmp_path / "data" / "images" / f"{name}.png", (labels > 0) * np.uint8(200))
        imageio.imwrite(tmp_path / "data" / "masks" / f"{name}.png", labels)
    halves = bars(0, 24) + 3 * bars(6, width=2) + 4 * bars(8, width=2)
    joined = bars(0, width=9) + 2 * bars(22)
    storage.save(seen(halves, 10, 6, 9, 8), tmp_path / "run" / "a.plurimask.zarr")
    storage.save(seen(joined, 9, 7), tmp_path / "run" / "b.plurimask.zarr")
    return tmp_path


def content(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_object_is_in_the_table(planted):
    report = evaluate(planted / "run", planted / "data", output=planted / "report")
    rows = table(planted / "report" / "per_object.csv")
    assert list(rows[0]) == HEADER
    # One of the halves has an IoU of 1/2, which is enough to be the object.
    assert sorted((row["image"], row["kind"]) for row in rows) == [
        *[("a", kind) for kind in ("false positive", "missed", "ok", "ok", "split")],
        *[("b", kind) for kind in ("low IoU", "merge", "missed", "missed", "missed")],
    ]
    assert sum(row["matched"] == "1" for row in rows) == sum(row.scores.tp[0] for row in report.rows)
    invented = next(row for row in rows if row["kind"] == "false positive")
    assert (invented["p_exists"], invented["agreement"], invented["iou"]) == ("0.6", "1", "0")
    assert (invented["centroid-0"], invented["centroid-1"]) == ("3.5", "25.5")
    missed = next(row for row in rows if row["image"] == "a" and row["kind"] == "missed")
    assert (missed["label"], missed["p_exists"], missed["area"]) == ("3", "", "32")


def test_the_files(planted):
    report = evaluate(planted / "run", planted / "data", output=planted / "report")
    assert json.loads((planted / "report" / "metrics.json").read_text()) == numbers(report)
    names = sorted(path.name for path in (planted / "report").iterdir())
    assert names == ["metrics.json", "per_object.csv", "plots", "report.html"]
    drawn = {path.stem for path in (planted / "report" / "plots").iterdir()}
    assert drawn == set(NAMES)
    page = (planted / "report" / "report.html").read_text(encoding="utf-8")
    assert page.startswith("<!DOCTYPE html>") and page.endswith("</html>\n")
    # The images are those of the data set.
    assert "data:image/png;base64," in page


def test_plots_of_an_older_report_do_not_stay(planted):
    output = planted / "report"
    evaluate(planted / "run", planted / "data", output=output)
    (output / "plots" / "mine.png").write_text("mine")
    evaluate(planted / "data" / "masks", planted / "data", output=output, overwrite=True)
    assert sorted(path.name for path in (output / "plots").iterdir()) == ["mine.png", "s_over_iou.png"]


def test_a_name_in_json_is_the_numbers_alone(planted):
    output = planted / "deep" / "numbers.json"
    report = evaluate(planted / "run", planted / "data", output=output)
    assert json.loads(output.read_text()) == numbers(report)
    assert list(output.parent.iterdir()) == [output]


def test_label_maps_have_the_same_columns(planted):
    evaluate(planted / "data" / "masks", planted / "data", output=planted / "report")
    rows = table(planted / "report" / "per_object.csv")
    assert list(rows[0]) == HEADER
    assert {row["kind"] for row in rows} == {"ok"}
    assert {row["p_exists"] for row in rows} == {""}


def test_nothing_is_overwritten_unasked(planted):
    report = evaluate(planted / "run", planted / "data", simulation=False)
    output = planted / "report"
    output.mkdir()
    (output / "notes.txt").write_text("mine")
    write_report(report, output)
    before = content(output)
    with pytest.raises(FileExistsError, match="--overwrite"):
        write_report(report, output)
    (output / "metrics.json").unlink()
    with pytest.raises(FileExistsError, match=r"per_object\.csv"):
        write_report(report, output)
    write_report(report, output, overwrite=True)
    assert content(output) == before
    with pytest.raises(FileExistsError, match="is a file"):
        write_report(report, output / "notes.txt")


def test_what_cannot_be_written_is_told_before_the_work(planted):
    notes, taken = planted / "notes.txt", planted / "numbers.json"
    notes.write_text("mine")
    (taken / "inside").mkdir(parents=True)
    (planted / "old" / "report.html").mkdir(parents=True)
    (planted / "new").mkdir()
    (planted / "new" / "plots").write_text("mine")
    told = []
    for output, complaint in [
        (taken, r"numbers\.json is a folder; a report needs a file there"),
        (planted / "old", r"report\.html is a folder; a report needs a file"),
        (planted / "new", r"plots is a file; a report needs a folder there"),
        (notes / "deep" / "report", r"notes\.txt is a file, so that there is no folder"),
        (notes / "numbers.json", r"notes\.txt is a file, so that there is no folder"),
    ]:
        with pytest.raises(FileExistsError, match=complaint):
            evaluate(
                planted / "run",
                planted / "data",
                output=output,
                overwrite=True,
                on_row=lambda *row: told.append(row),
            )
    assert told == [] and notes.read_text() == "mine" and (taken / "inside").is_dir()


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="there is no folder here in which nobody may write")
@pytest.mark.parametrize("name", ["report", "deep/report", "numbers.json"])
def test_a_folder_in_which_nothing_can_be_written_is_told_before_the_work(planted, name):
    told = []
    with pytest.raises(PermissionError, match="nothing can be written to /proc"):
        evaluate(planted / "run", planted / "data", output=Path("/proc") / name, on_row=lambda *row: told.append(row))
    assert told == []


def test_asking_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for output in ("deep/report", "deep/numbers.json", "numbers.json", "."):
        check_free(Path(output), overwrite=False)
    assert list(tmp_path.iterdir()) == []


def test_nothing_half_written_stays(planted, monkeypatch):
    report = evaluate(planted / "run", planted / "data", simulation=False)
    output = planted / "report"
    write_report(report, output)
    before = content(output)

    def fail(report):
        raise OSError("disk full")

    monkeypatch.setattr(module, "numbers", fail)
    with pytest.raises(OSError, match="disk full"):
        write_report(report, output, overwrite=True)
    assert content(output) == before


def test_images_without_an_object(tmp_path, bars):
    for side in ("found", "truth"):
        (tmp_path / side).mkdir()
        for name in ("a", "b"):
            imageio.imwrite(tmp_path / side / f"{name}_labels.png", bars())
    evaluate(tmp_path / "found", tmp_path / "truth", output=tmp_path / "report")
    assert table(tmp_path / "report" / "per_object.csv") == []
    assert json.loads((tmp_path / "report" / "metrics.json").read_text())["truth_count"] == 0
