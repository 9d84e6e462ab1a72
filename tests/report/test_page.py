"""The page of a report shows its numbers and no others, loads nothing, and is under a checksum like every file."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from journeys.doors import annserve, build_index

from annserve.index.sealed import read_sealed
from annserve.report.charts import lying_bars, recall_line, standing_bars
from annserve.report.page import html_page, page_is_whole
from annserve.report.record import _spread
from annserve.spec import RECALL_TARGETS


class Page(HTMLParser):
    """What stands in a page: tables by the heading above them, titles of marks, attributes, tags left open."""

    VOID = ("meta",)

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: dict[str, list[list[str]]] = {}
        self.marks: dict[str, list[str]] = {}
        self.attributes: list[tuple[str, str | None]] = []
        self.open: list[str] = []
        self.heading = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.attributes += attributes
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "h2":
            self.heading = ""
        elif tag == "tr":
            self.tables.setdefault(self.heading, []).append([])

    def handle_startendtag(self, tag, attributes):
        self.attributes += attributes

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        inside = self.open[-1] if self.open else ""
        if inside == "h2":
            self.heading += data
        elif inside in ("td", "th"):
            self.tables[self.heading][-1].append(data)
        elif inside == "title" and "svg" in self.open:
            self.marks.setdefault(self.heading, []).append(data)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With replicas, bad rows, and a name that would be a tag."""
    folder = tmp_path_factory.mktemp("page")
    rng = np.random.default_rng(3)
    rows = (rng.normal(size=(20, 32))[rng.integers(0, 20, 2_000)] + 0.3 * rng.normal(size=(2_000, 32))).astype(
        np.float32
    )
    rows[[5, 700]] = np.nan
    np.save(folder / "<b>.npy", rows)
    options = ("--skip-invalid", "--codes", "none", "--replicas", 4)
    return build_index(folder / "<b>.npy", folder / "index", *options)


def test_every_number_of_the_page_is_the_reports(index):
    report = read_sealed(index / "segment-000001" / "report.json")
    page = Page((index / "report.html").read_text())
    for heading, name in (
        ("How full pages are", "rows_per_page"),
        ("How long postings are", "pages_per_posting"),
        ("How often rows are filed", "copies_of_a_row"),
    ):
        shown = [
            (label, int(count.replace(",", ""))) for label, count in (mark.split(": ") for mark in page.marks[heading])
        ]
        bins = report[name]["histogram"]
        assert shown == [(str(low) if low == high else f"{low}–{high}", count) for low, high, count in bins]
    assert sum(count for _, _, count in report["rows_per_page"]["histogram"]) == report["pages"]
    assert sum(count for _, _, count in report["pages_per_posting"]["histogram"]) == report["heads"]
    copies = report["copies_of_a_row"]["histogram"]
    assert sum(count for _, _, count in copies) == report["rows"] == 1_998
    assert round(sum(low * count for low, _, count in copies) / 1_998, 3) == report["copies"] > 1

    curve = page.tables["What recall is delivered"][1:]
    assert [[float(cell) for cell in row[:4]] for row in curve] == [
        [one["recall_target"], *(round(one[name], 4) for name in ("recall", "recall_low", "recall_high"))]
        for one in report["recall_curve"]
    ]
    assert [mark.split(": ")[0] for mark in page.marks["Seconds of each stage"]] == report["stages"]
    assert set(report["stages"]) == set(report["stage_seconds"]) == set(report["stage_peak_rss_bytes"])
    for heading, name in (("RAM of a search, by tier", "ram_tiers"), ("Disk, by file", "disk_files")):
        shown = {row[0]: int(row[1].replace(",", "")) for row in page.tables[heading][1:]}
        assert shown.pop("total") == sum(report[name].values())
        assert shown == report[name]
    assert [row[0] for row in page.tables["Prediction and reality"][1:]] == [
        one["what"] for one in report["prediction"]
    ]
    assert [row[:1] + row[2:] for row in page.tables["Rows that were left out"][1:]] == [
        [f"{one['row']}", one["fault"]] for one in report["skipped"]["listed"]
    ]


def test_what_was_measured_is_what_is_there(index):
    report = read_sealed(index / "segment-000001" / "report.json")
    sizes = {path.name: path.stat().st_size for path in (index / "segment-000001").iterdir()}
    # Its own size isn't known before it is written.
    assert report["disk_files"].keys() == sizes.keys()
    assert all(report["disk_files"][name] == size for name, size in sizes.items() if name != "report.json")
    assert [one["recall_target"] for one in report["recall_curve"]] == list(RECALL_TARGETS)
    assert report["recall_curve"][-1]["recall"] >= 0.97
    pages = [one["pages"] for one in report["recall_curve"]]
    assert pages == sorted(pages)
    measured = {one["what"]: one["measured"] for one in report["prediction"]}
    assert measured["a query at 0.95"] == next(o["pages"] for o in report["recall_curve"] if o["recall_target"] == 0.95)
    assert measured["time of the build"] == report["seconds"]


def test_the_page_loads_nothing_and_shows_names_as_text(index):
    text = (index / "report.html").read_text()
    page = Page(text)
    assert not [pair for pair in page.attributes if pair[0] in ("src", "href", "xlink:href", "srcset", "action")]
    assert not re.search(r"https?:|//[a-z]|@import|url\(|<script", text)
    assert "&lt;b&gt;.npy: 1,998 × 32 float32, l2" in text
    assert "<b>" not in text


def test_a_page_that_was_changed_is_found_by_verify_and_by_nothing_else(index, tmp_path):
    page = index / "report.html"
    whole = page.read_bytes()
    assert page_is_whole(page)
    try:
        for at in (0, len(whole) // 2, len(whole) - 1):
            page.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
            assert not page_is_whole(page)
        ended = annserve("verify", index)
        assert ended.code == 3
        assert "report.html isn't what the build wrote" in ended.error
        page.unlink()
        assert annserve("verify", index).code == 0
    finally:
        page.write_bytes(whole)


def test_a_report_without_replicas_and_bad_rows_has_no_pictures_of_them(index):
    report = read_sealed(index / "segment-000001" / "report.json")
    report |= {"copies_of_a_row": {"min": 1, "mean": 1.0, "max": 1, "histogram": [[1, 1, 1_998]]}}
    report["skipped"] = {"rows": 0, "faults": {}, "listed": []}
    headings = re.findall("<h2>([^<]*)</h2>", html_page(report))
    assert "How often rows are filed" not in headings
    assert "Rows that were left out" not in headings


@pytest.mark.parametrize("counts", [[3], [1, 7_000], [*range(100)], [5] * 9, [1, 2, 2, 33]])
def test_ranges_of_a_histogram_hold_each_count_once(counts):
    told = _spread(np.array(counts))
    bins = told["histogram"]
    assert len(bins) <= 32
    assert [n for _, _, n in bins] == [sum(low <= count <= high for count in counts) for low, high, _ in bins]
    assert sum(n for _, _, n in bins) == len(counts)
    assert (bins[0][0], bins[-1][1]) == (min(counts), max(counts))


def test_charts_stay_within_their_view_whatever_they_draw():
    charts = [
        standing_bars([(str(i), float(i % 3)) for i in range(60)], "x", "y", str),
        standing_bars([("1", 0.0)], "x", "y", str),
        lying_bars([("a <stage>", 0.0), ("b", 1e9)], str),
        recall_line([(0.8, 0.2, 0.1, 0.3), (0.99, 1.0, 0.999, 1.0)], "x", "y"),
    ]
    for chart in charts:
        Page(chart)
        width, height = map(float, re.search(r'viewBox="0 0 (\d+) (\d+)"', chart).groups())
        for name, most in (("x", width), ("y", height), ("cx", width), ("cy", height), ("x1", width), ("y2", height)):
            for value in re.findall(rf' {name}="(-?[\d.]+)"', chart):
                assert 0 <= float(value) <= most, (name, value)
