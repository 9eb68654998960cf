"""What the commands print."""

from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console

from plurimask.assessment import assess, summarise
from plurimask.batch import BatchReport
from plurimask.comparison import Pair, Report, Row
from plurimask.export.terminal import DONE, FAILED, MANY, show_batch, show_evaluation, show_facts, show_tuning
from plurimask.metrics.bootstrap import Interval
from plurimask.metrics.hypotheses import Honesty
from plurimask.metrics.segmentation import THRESHOLDS, score
from plurimask.metrics.segmentation import summarise as summarise_scores
from plurimask.platt import Platt
from plurimask.probabilistic import ProbabilisticInstances
from plurimask.proofreading.simulate import simulate
from plurimask.testing import toy_truths
from plurimask.tuning import Choice, TuneReport
from plurimask.tuning import Row as TunedRow

LONG = "1649_1109_0003_Amp5-1_B_20070424_A0{}_w2_15ADF48D-C09E-47DE-B763-5BC479534681.tif"


class Options:
    output = None


@pytest.fixture
def console():
    return Console(width=80, record=True, quiet=False, force_terminal=False)


def row(name):
    return {"image": name, "objects": 3, "objects_low": 2, "objects_high": 4, "mean_doubt": None, "seconds": 1.0}


def test_long_names_stay_apart(console, tmp_path):
    rows = tuple(row(LONG.format(number)) for number in (1, 2))
    report = BatchReport(tmp_path, tuple(one["image"] for one in rows), (), {}, rows)
    assert show_batch(report, Options(), console) == DONE
    cells = "".join(line.split("│")[1].strip() for line in console.export_text().splitlines() if "│" in line)
    assert cells == LONG.format(1) + LONG.format(2)


def test_a_long_table_is_cut_and_says_so(console, tmp_path, capsys):
    rows = tuple(row(f"{number}.tif") for number in range(MANY + 7))
    report = BatchReport(tmp_path, (), (), {"x.tif": "cut off"}, (*rows, {"image": "x.tif", "problem": "cut off"}))
    assert show_batch(report, Options(), console) == FAILED
    assert "... and 7 more in summary.csv" in console.export_text()
    assert capsys.readouterr().err == "plurimask: x.tif: cut off\n"


def report_of(found, truth, *, images, thresholds=THRESHOLDS, proofreading=None):
    assessment = assess(truth, found, thresholds=thresholds)
    names = [f"well {number}" for number in range(images)]
    pairs = [Pair(name, name, lambda: truth, lambda: found) for name in names]
    rows = tuple(Row(pair, assessment) for pair in pairs)
    return Report(rows, summarise([assessment] * images), proofreading, (), {})


@pytest.mark.parametrize("thresholds", [(0.5, 0.75), (0.3,)])
def test_every_image_and_the_means_are_shown(console, thresholds):
    truth = toy_truths()["crossing worms"]
    report = report_of(truth.select([0]), truth, images=MANY + 1, thresholds=thresholds)
    assert show_evaluation(report, Options(), console) == DONE
    text = console.export_text()
    assert f"well {MANY - 1}" in text and f"well {MANY}" not in text
    assert "... and 1 more; -o FOLDER" in text
    assert f"{MANY + 1} images, {2 * MANY + 2} true and {MANY + 1} found objects" in text
    assert all(f"S at {threshold}" in text for threshold in thresholds)
    assert "0.500 to 0.500" in text
    # One of two, wholly right: TP / (TP + FN / 2) = 2/3.
    assert "PQ 0.667 (0.667 to 0.667), panoptic quality" in text
    assert "F1_challenge (median) 0.000 (0.000 to 0.000), its median over images" in text  # the worms touch the frame
    assert "rRAND" not in text
    assert "honesty" not in text


def test_probabilities_are_shown_with_what_would_be_best(console):
    truth = toy_truths()["touching blobs"]
    found = sure(truth)
    proofreading = simulate([(found, truth)] * 2, repeats=1)
    assert show_evaluation(report_of(found, truth, images=2, proofreading=proofreading), Options(), console) == DONE
    text = console.export_text()
    cells = [[cell.strip() for cell in line.split("│")[1:5]] for line in text.splitlines() if line.count("│") == 5]
    assert ["p_exists: Brier score", "0.000", "0.000 to 0.000", "0"] in cells
    assert ["expected IoU: mean error", "0.000", "0.000 to 0.000", "0"] in cells
    assert ["errors found by doubt (random 0.5)", "-", "-", "1.000"] in cells
    assert ["proofreading by doubt (random 0)", "0.000", "0.000 to 0.000", "0.000"] in cells
    assert max(map(len, text.splitlines())) <= 80


def test_one_image_has_no_interval(console):
    truth = toy_truths()["touching blobs"]
    assert show_evaluation(report_of(sure(truth), truth, images=1), Options(), console) == DONE
    text = console.export_text()
    assert "1.000 to 1.000" not in text
    assert "avS 1.000, mean S" in text


def sure(objects):
    """Every object in both of two draws."""
    counts = tuple(2 * mask.astype(np.uint8) for mask in objects.masks)
    members = tuple(((0, index), (1, index)) for index in range(len(objects)))
    nothing = np.zeros((0, 2), np.int64)
    existence = np.ones(len(objects))
    return ProbabilisticInstances(objects.boxes, counts, 2, existence, members, nothing, objects.shape)


def test_facts_are_plain_words(console):
    assert show_facts({"channels": ["GFP", "[w2]"], "axes": None}, Options(), console) == DONE
    assert [line.split() for line in console.export_text().splitlines()] == [
        ["channels", "GFP,", "[w2]"],
        ["axes", "-"],
    ]


def test_what_tuning_changed_and_that_nothing_was_written(console):
    choice = Choice(
        SimpleNamespace(calibration=Platt(0.5, 1), quality=Platt(0.75, -1)),
        ("a",),
        ("a",),
        {"method.bandwidth": (3.0, 2.5)},
        trials=(),
    )
    numbers = {name: Interval(0.5, 0.4, 0.6) for name in ("before", "uncalibrated", "after", "difference")}
    raw = Honesty(0.2, 0.1, iou_error=0.3, iou_ece=0.25, above={0.5: (1.0, 0.8)}, border={"spread": 1.5})
    calibrated = Honesty(0.1, 0.05, iou_error=0.2, iou_ece=0.125, above={0.5: (0.9, 0.8)}, border={"spread": 1.0})
    honesty = {"raw": raw, "calibrated": calibrated}
    rows = (TunedRow("a", 0.5, 0.5, 0.5),)
    summary = summarise_scores([score(toy_truths()["touching blobs"], toy_truths()["touching blobs"])])
    report = TuneReport(choices=(choice,), rows=rows, measure="avS", summary=summary, **numbers, **honesty, settings={})
    assert show_tuning(report, Options(), console) == DONE
    text = console.export_text()
    cells = [[cell.strip() for cell in line.split("│")[1:4]] for line in text.splitlines() if line.count("│") == 4]
    assert ["method.bandwidth", "3.0", "2.5"] in cells
    assert ["calibration of existence (slope, offset)", "", "0.500, 1.000"] in cells
    assert ["calibration of expected IoU (slope, offset)", "", "0.750, -1.000"] in cells
    assert "Brier score 0.200 -> 0.100" in text and "nothing is written" in text
    assert "expected IoU: mean error 0.300 -> 0.200, calibration error 0.250 -> 0.125" in text
    assert "IoU above 0.5: expected of 1.000 -> 0.900 of the hypotheses, observed of 0.800" in text
    assert "borders: error / sigma spreads by 1.500 -> 1.000" in text
    assert "S by IoU: 0.5 1.000, 0.55 1.000" in text
