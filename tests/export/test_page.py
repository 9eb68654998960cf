"""The page: it parses, holds the numbers, and fetches nothing."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from plurimask.export.gallery import gallery
from plurimask.export.page import page
from plurimask.export.plots import NAMES, plots
from plurimask.instances import Instances
from plurimask.probabilistic import ProbabilisticInstances

VOID = {"meta", "link", "br", "img", "image", "path"}


class Reader(HTMLParser):
    """Checks that every element is closed, and keeps texts, attributes and headings."""

    def __init__(self):
        super().__init__()
        self.opened, self.texts, self.attributes, self.tags = [], [], [], []

    def handle_starttag(self, tag, attributes):
        self.attributes += [(tag, name, value) for name, value in attributes]
        self.tags.append(tag)
        if tag not in VOID:
            self.opened.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.attributes += [(tag, name, value) for name, value in attributes]
        self.tags.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.opened.pop() == tag

    def handle_data(self, data):
        self.texts.append(data.strip())


def written(report):
    return page(report, plots(report), gallery(report))


def read(text):
    reader = Reader()
    reader.feed(text)
    assert reader.opened == []
    return reader


@pytest.fixture
def shown(report_of, planted):
    return read(written(report_of(planted)))


def test_the_numbers_are_there(shown):
    place = shown.texts.index("S at 0.5")
    assert shown.texts[place - 1 : place + 2] == ["0.583", "S at 0.5", "0.500 to 0.667"]
    assert "Existence: Brier" in shown.texts
    assert "Proofreading by doubt" in shown.texts
    place = shown.texts.index("missed")
    assert shown.texts[place + 1] == "1"


def test_sections_and_plots(shown):
    for heading in ("What is the doubt worth?", "Curves", "What became of the objects?", "Images", "Settings"):
        assert heading in shown.texts
    assert shown.tags.count("svg") == len(NAMES) + 5 + 4  # five objects at the worst, four with doubt
    assert {"image 0", "image 1"} <= set(shown.texts)


def test_nothing_is_fetched_and_nothing_runs(report_of, planted):
    text = written(report_of(planted))
    reader = read(text)
    assert "script" not in reader.tags
    assert not any(name.startswith("on") for _, name, _ in reader.attributes)
    linked = [value for _, name, value in reader.attributes if name in ("src", "href", "xlink:href", "data", "action")]
    assert linked
    assert all(value.startswith(("data:", "#")) for value in linked)
    assert "@import" not in text
    assert re.findall(r"url\((?!#)", text) == []
    policy = next(value for _, name, value in reader.attributes if name == "content" and "default-src" in value)
    assert policy.startswith("default-src 'none'")


def test_ids_are_unique(shown):
    ids = [value for _, name, value in shown.attributes if name == "id"]
    assert len(ids) == len(set(ids))


def test_every_colour_is_known_in_light_and_in_dark(report_of, planted):
    text = written(report_of(planted))
    style = text[text.index("<style>") : text.index("</style>")]
    light, dark = (set(re.findall(r"(--[a-z-]+):", part)) for part in style.split("prefers-color-scheme: dark"))
    used = set(re.findall(r"var\((--[a-z-]+)\)", text))
    assert used <= light
    assert used <= dark


def test_names_are_escaped(report_of, planted):
    report = report_of(planted)
    text = written(report)
    assert "<run>" not in text
    assert "&lt;run&gt;" in text
    rows = tuple(replace(row, pair=replace(row.pair, name="<b>a & b</b>")) for row in report.rows)
    text = written(replace(report, rows=rows))
    assert "<b>a & b</b>" not in text
    assert "&lt;b&gt;a &amp; b&lt;/b&gt;" in text


def test_label_maps_say_that_they_have_no_doubt(report_of, bars):
    reader = read(written(report_of([(bars(0, 8), bars(0))] * 2)))
    assert "These results have no probabilities, so nothing is said about doubt." in reader.texts
    assert "Existence: Brier" not in reader.texts
    assert "COCO AP" not in reader.texts and "COCO AP, constant" in reader.texts
    assert reader.texts.count("The 10 most doubtful objects") == 0


def test_a_single_image_is_told_what_it_lacks(report_of, planted):
    reader = read(written(report_of(planted[:1])))
    assert any(text.startswith("A single image has no interval") for text in reader.texts)
    assert "no interval" in reader.texts
    assert not any(re.fullmatch(r"\d\.\d+ to \d\.\d+", text) for text in reader.texts)


def test_many_images_are_folded(report_of, bars):
    def is_open(count):
        attributes = read(written(report_of([(bars(0), bars(0))] * count))).attributes
        return ("details", "open", None) in attributes

    assert is_open(2)
    assert not is_open(31)


def test_nothing_anywhere(report_of):
    nothing = Instances.empty((8, 32))
    reader = read(written(report_of([(nothing, ProbabilisticInstances.empty((8, 32), 4))] * 2)))
    assert "–" in reader.texts
    assert not any("nan" in text for text in reader.texts)
