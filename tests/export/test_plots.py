"""Plots: which there are, that they hold the numbers, and that their SVG can stand in a page."""

import re
from xml.etree import ElementTree

import imageio.v3 as imageio
import matplotlib
import numpy as np
import pytest

from plurimask.export.plots import COLOURS, NAMES, plots
from plurimask.instances import Instances
from plurimask.probabilistic import ProbabilisticInstances


def lines(plot):
    """Label -> x and y of a curve."""
    return {line.get_label(): line.get_xydata() for line in plot.figure.axes[0].get_lines()}


@pytest.fixture
def drawn(report_of, planted):
    return {plot.name: plot for plot in plots(report_of(planted))}


def test_there_is_a_plot_for_everything_that_is_known(drawn, report_of, bars):
    assert tuple(drawn) == NAMES
    labels = report_of([(bars(0), bars(0))] * 2)
    assert [plot.name for plot in plots(labels)] == ["s_over_iou"]


def test_the_curves_are_the_numbers(drawn, report_of, planted):
    report = report_of(planted)
    s = lines(drawn["s_over_iou"])["S"]
    assert s[:, 0] == pytest.approx(np.arange(0.5, 1, 0.05))
    assert s[:, 1] == pytest.approx(7 / 12)
    assert lines(drawn["reliability"])["an object exists"] == pytest.approx(np.array([[0.6, 0], [0.8, 1], [1, 1]]))
    assert lines(drawn["errors_found"])["by doubt"][:, 1].tolist() == [0, 1, 1, 1, 1]
    assert lines(drawn["risk_coverage"])["by doubt"][-1].tolist() == [1, 1 / 4]
    curves = lines(drawn["proofreading"])
    assert curves["by doubt"][:, 1] == pytest.approx(report.proofreading.curves["doubt"].average)
    assert lines(drawn["patch_uncertainty"])["PAvPU"].shape == (140, 2)


def test_the_band_is_there_only_where_there_is_an_interval(drawn, report_of, planted):
    (single,) = (plot for plot in plots(report_of(planted[:1])) if plot.name == "s_over_iou")
    assert len(drawn["s_over_iou"].figure.axes[0].collections) == 1
    assert len(single.figure.axes[0].collections) == 0
    assert "band" in drawn["s_over_iou"].caption and "band" not in single.caption


def test_svg_takes_colours_and_size_from_the_page(drawn):
    for plot in drawn.values():
        element = plot.svg()
        root = ElementTree.fromstring(element)
        assert root.get("width") is None and root.get("viewBox")
        assert root.get("aria-label") == plot.title
        assert not any(colour in element for colour in COLOURS.values())
        assert "var(--blue)" in element and "var(--ink)" in element
        # Text is text, not paths.
        texts = {"".join(node.itertext()) for node in root.iter("{http://www.w3.org/2000/svg}text")}
        assert plot.figure.axes[0].get_xlabel() in texts


def test_ids_are_not_shared_between_plots(drawn):
    ids = [name for plot in drawn.values() for name in re.findall(r'\bid="([^"]+)"', plot.svg())]
    assert len(ids) == len(set(ids))
    for plot in drawn.values():
        element = plot.svg()
        known = set(re.findall(r'\bid="([^"]+)"', element))
        assert set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', element)) <= {
            pair for name in known for pair in ((name, ""), ("", name))
        }


def test_equal_reports_give_equal_files(drawn, report_of, planted, tmp_path):
    again = {plot.name: plot for plot in plots(report_of(planted))}
    for name in NAMES:
        assert drawn[name].svg() == again[name].svg()
        drawn[name].save(tmp_path / "a.png")
        again[name].save(tmp_path / "b.png")
        assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_png_is_dark_on_white_and_settings_stay_as_they_are(drawn, tmp_path):
    before = dict(matplotlib.rcParams)
    drawn["s_over_iou"].save(tmp_path / "plot.png")
    drawn["s_over_iou"].svg()
    picture = imageio.imread(tmp_path / "plot.png")[..., :3]
    assert picture.shape[1] > 800
    assert (picture[0, 0] == 255).all()
    assert picture.min() < 60
    assert dict(matplotlib.rcParams) == before


def test_many_objects_make_no_large_plot(report_of):
    labels = np.kron(np.arange(1, 1601).reshape(40, 40), np.ones((2, 2), int))
    truth = Instances.from_labels(labels)
    counts = tuple(np.full(mask.shape, 1 + index % 9, np.uint8) for index, mask in enumerate(truth.masks))
    members = tuple(tuple((draw, 0) for draw in range(1 + index % 9)) for index in range(len(truth)))
    existence = np.array([len(member) / 10 for member in members])
    nothing = np.zeros((0, 2), np.int64)
    found = ProbabilisticInstances(truth.boxes, counts, 10, existence, members, nothing, truth.shape)
    report = report_of([(Instances.empty(truth.shape), found)])
    drawn = {plot.name: plot for plot in plots(report)}
    curve = lines(drawn["errors_found"])["by doubt"]
    assert len(curve) == 500
    assert curve[[0, -1], 0].tolist() == [0, 1]


def test_nothing_to_measure_is_an_empty_plot(report_of):
    nothing = Instances.empty((8, 32))
    report = report_of([(nothing, ProbabilisticInstances.empty((8, 32), 4))] * 2)
    for plot in plots(report):
        ElementTree.fromstring(plot.svg())
