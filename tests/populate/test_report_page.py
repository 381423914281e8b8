from __future__ import annotations

import base64
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from pipeline.figures.mei_gallery import mei_gif
from populate.report_page import SVG_LIMIT, Animation, Illustration, Section, format_value, render_report

VOID = {"meta", "img", "br", "link", "hr"}


class Page(HTMLParser):
    """Collects tags, text by tag and attributes, and checks that every tag is closed."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and data.strip():
            self.texts.setdefault(self.open[-1], []).append(data.strip())


def small_figure() -> Figure:
    figure = Figure(figsize=(3, 2))
    figure.subplots().plot([1, 2, 3])
    return figure


def dense_figure() -> Figure:
    figure = Figure(figsize=(12, 2))
    figure.subplots().scatter(*np.random.default_rng(0).random((2, 5000)))
    return figure


@pytest.fixture(scope="module")
def html() -> str:
    table = pd.DataFrame(
        {
            "unit_name": ["<script>alert(1)</script>", "b & c"],
            "score": [0.34567, np.nan],
            "n_trials": [12, 7],
            "tight": [True, None],
        },
        index=pd.Index([3, 9], name="unit_id"),
    )
    sections = [
        Section(
            "Scores <b>", "One line\nfolded.\n\nAnother <i>one</i>.", ((small_figure(), "A <caption>", 'An "alt"'),)
        ),
        Section("Table", table=table, code="Model & 'score > 0.3'\n"),
        Section("Large", figures=(Illustration(dense_figure(), "Dots", "Many dots"),)),
        Section("Empty"),
    ]
    return render_report("Report & <script>", "A subtitle", {"Units": "122", "Host": "<a>"}, sections)


def test_nothing_is_loaded_from_elsewhere(html):
    outside = re.sub(r"data:image/[a-z+]+;base64,[A-Za-z0-9+/=]+", "", html)
    assert not re.search(r"https?:|//[a-z]|@import|url\(", outside)
    page = Page(html)
    assert not [tag for tag, _ in page.tags if tag in ("script", "link", "iframe", "object")]
    for _, attributes in page.tags:
        for name in ("src", "href"):
            if name in attributes:
                assert attributes[name].startswith(("data:image/", "#"))


def test_every_figure_is_embedded_and_whole(html):
    images = [attributes for tag, attributes in Page(html).tags if tag == "img"]
    assert [image["alt"] for image in images] == ['An "alt"', "Many dots"]
    kind, _, svg = images[0]["src"].partition(";base64,")
    assert kind == "data:image/svg+xml"
    root = ElementTree.fromstring(base64.b64decode(svg))
    links = [value for element in root.iter() for name, value in element.attrib.items() if name.endswith("href")]
    assert root.tag.endswith("svg") and all(link.startswith("#") for link in links)
    kind, _, png = images[1]["src"].partition(";base64,")
    assert kind == "data:image/png"
    header = base64.b64decode(png)
    assert header.startswith(b"\x89PNG")
    assert (int.from_bytes(header[16:20], "big"), int.from_bytes(header[20:24], "big")) == (12 * 110, 2 * 110)
    assert (images[1]["width"], images[1]["height"]) == (str(12 * 96), str(2 * 96))
    assert len(base64.b64decode(svg)) <= SVG_LIMIT


def test_gifs_are_embedded_at_their_own_size():
    movie = mei_gif(np.arange(60.0).reshape(1, 1, 3, 4, 5), frame_ms=20, grey=30, scale=3)
    html = render_report("T", "", {}, [Section("Moving", figures=((Animation(movie), "It moves", "A movie"),))])
    (image,) = [attributes for tag, attributes in Page(html).tags if tag == "img"]
    assert image["src"] == "data:image/gif;base64," + base64.b64encode(movie).decode()
    assert (image["width"], image["height"], image["alt"]) == ("15", "12", "A movie")


def test_only_broad_figures_leave_the_column(html):
    assert [attributes.get("class") for tag, attributes in Page(html).tags if tag == "figure"] == [None, "broad"]


def test_text_from_data_is_escaped(html):
    page = Page(html)
    assert page.texts["h1"] == ["Report & <script>"]
    assert page.texts["p"][1:] == ["One line folded.", "Another <i>one</i>."]
    assert "<script>alert(1)</script>" in page.texts["td"]
    assert page.texts["dd"] == ["122", "<a>"]
    assert page.texts["code"] == ["Model & 'score > 0.3'"]
    assert page.texts["h2"] == ["Scores <b>", "Table", "Large", "Empty"]


def test_figures_are_numbered_through_the_page(html):
    assert Page(html).texts["b"] == ["Figure 1.", "Figure 2."]
    assert "A <caption>" in Page(html).texts["figcaption"]


def test_tables_have_named_indices_and_right_aligned_numbers(html):
    page = Page(html)
    assert page.texts["th"] == ["unit_id", "unit_name", "score", "n_trials", "tight"]
    assert page.texts["td"] == ["3", "<script>alert(1)</script>", "0.346", "12", "yes", "9", "b & c", "–", "7", "–"]
    aligned = [attributes.get("class") for tag, attributes in page.tags if tag == "th"]
    assert aligned == ["number", None, "number", "number", None]


def test_contents_link_to_every_section_and_stay_away_from_short_reports(html):
    page = Page(html)
    targets = [attributes["href"][1:] for tag, attributes in page.tags if tag == "a"]
    assert targets == [attributes["id"] for tag, attributes in page.tags if tag == "section"] and len(targets) == 4
    assert "nav" not in {tag for tag, _ in Page(render_report("T", "", {}, [Section("One")])).tags}


def test_the_same_report_is_the_same_page():
    pages = {render_report("T", "S", {}, [Section("One", figures=((small_figure(), "c", "a"),))]) for _ in range(2)}
    assert len(pages) == 1


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.34567, "0.346"),
        (-0.5, "−0.500"),
        (12.345, "12.3"),
        (1234.5, "1234"),
        (0.9996, "1.00"),
        (99.96, "100"),
        (3.2e-7, "3.20e−07"),
        (np.float32(0.25), "0.250"),
        (0.0, "0"),
        (np.int64(-3), "−3"),
        (True, "yes"),
        (None, "–"),
        (float("nan"), "–"),
        (pd.NA, "–"),
        (pd.NaT, "–"),
        (float("inf"), "∞"),
        ("7×7", "7×7"),
    ],
)
def test_numbers_have_three_digits(value, text):
    assert format_value(value) == text
