"""The page of a build's report as people see it: everything drawn, nothing fetched, nothing cut off."""

from __future__ import annotations

import numpy as np
from journeys.doors import build_index


def test_the_report_opens_offline_in_a_browser_and_shows_every_picture(tmp_path, rng, browser):
    rows = (rng.normal(size=(20, 16))[rng.integers(0, 20, 1_500)] + 0.3 * rng.normal(size=(1_500, 16))).astype("f4")
    np.save(tmp_path / "rows.npy", rows)
    page = build_index(tmp_path / "rows.npy", tmp_path / "index") / "report.html"
    for width, least in ((1_400, 300), (480, 250)):
        screenshot = browser.show(f"file://{page}", width)
        assert screenshot.startswith(b"\x89PNG")
        assert len(screenshot) > 40_000, "pictures have been drawn, not left blank"
        assert browser.asked_for() == [f"file://{page}"]
        assert browser.exceptions() == []
        sections = browser.value("document.querySelectorAll('section').length")
        widths = browser.value("[...document.querySelectorAll('svg')].map(one => one.getBoundingClientRect().width)")
        assert sections >= 8
        assert min(widths) >= least, "each picture has room"
        assert len(widths) >= 7
        beyond = browser.value(
            "[...document.querySelectorAll('section, svg, h1, p')]"
            ".filter(one => one.getBoundingClientRect().right > innerWidth + 1).map(one => one.outerHTML.slice(0, 80))"
        )
        assert beyond == []
