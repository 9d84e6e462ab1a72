"""The report is made from results alone: the same results, the same bytes; nothing in it is fetched."""

from __future__ import annotations

import re

import pytest
from click.testing import CliRunner
from jobs import job_text

from annserve.cli.bench import command
from annserve.compare.page import html_page
from annserve.compare.results import best_rows, read_results, rows_of
from annserve.compare.table import markdown_table, replace_between, summary_tables
from annserve.errors import InputError, NotFoundError

LOADS = "rounds = 2\nthreads = [1, 2]\nopen_shares = [0.3, 0.6]\nopen_recall_target = 0.9\nopen_seconds = 0.1"


@pytest.fixture
def results(run):
    _, folder = run(job_text("exact", "doubled", loads=LOADS))
    return folder


def test_the_table_has_a_line_for_each_system(results):
    lines = markdown_table(read_results(results), 0.9).splitlines()
    assert lines[0] == "**small**: 400 × 8 uint8, l2, 40 queries"
    assert "0.4: recall, pages | 0.9: recall, pages | QPS at 0.9, 1 caller | QPS at 0.9, 2 callers" in lines[2]
    assert all("1.000, 14.0" in line or "1.000, 28.0" in line for line in lines[4:6])
    assert {line.split("|")[1].strip() for line in lines[4:6]} == {"exact", "doubled"}
    assert all(line.count("|") == lines[2].count("|") for line in lines[3:6])
    with pytest.raises(InputError, match=r"no result has recall target 0\.5"):
        markdown_table(read_results(results), 0.5)


def test_a_faulty_system_is_marked_wherever_it_stands(run):
    _, folder = run(job_text("shuffled", loads="rounds = 1"))
    results = read_results(folder)
    table = markdown_table(results, 0.9)
    assert " ‡ |" in table
    assert "‡ shuffled: " in table
    assert "sorted by distance" in html_page("", results, rows_of(results), {}, summary_tables(results, 0.9))


def test_of_a_set_at_several_sizes_the_table_shows_the_largest(run):
    sizes = [f'[[datasets]]\nname = "small"\nmetric = "l2"\nrows = {rows}\n' for rows in (200, 400)]
    _, folder = run(job_text("exact", loads="rounds = 1", datasets="".join(sizes)))
    results = read_results(folder)
    assert {one["dataset"]["count"] for one in results} == {200, 400}
    table = markdown_table(results, 0.9)
    assert "400 × 8" in table
    assert "200 × 8" not in table
    pytest.importorskip("matplotlib", reason="needs matplotlib: pip install 'annserve[bench]'")
    from annserve.compare.pictures import draw_growth

    growth = draw_growth(rows_of(results))["small-growth-pages"]
    (label,) = (text.get_text() for text in growth.axes[0].get_legend().get_texts())
    assert label == "exact: n^1.00", "7 and 14 pages"


def test_the_best_build_is_the_one_that_tuning_preferred(run):
    _, folder = run(job_text("exact", loads="rounds = 1") + "[systems.search]\nshare = [0.25]\n")
    poor = read_results(folder)
    run(job_text("exact", loads="rounds = 1"))
    rows = best_rows(poor + read_results(folder), 0.9)
    assert [row["point"] for row in rows] == [{"share": 1.0}], (
        "a build that misses the target loses to one that doesn't"
    )


def test_only_what_stands_between_the_markers_changes(tmp_path):
    path = tmp_path / "README.md"
    path.write_text("a\n<!-- bench:readme -->\nold\n<!-- /bench:readme -->\nb\n")
    replace_between(path, "readme", "new")
    replace_between(path, "readme", "newer")
    assert path.read_text() == "a\n<!-- bench:readme -->\nnewer\n<!-- /bench:readme -->\nb\n"
    with pytest.raises(NotFoundError, match="bench:other"):
        replace_between(path, "other", "x")
    with pytest.raises(NotFoundError, match=r"no .*nowhere"):
        replace_between(tmp_path / "nowhere.md", "readme", "x")


@pytest.mark.slow
def test_the_page_opens_offline_in_a_browser_and_shows_every_picture(results, tmp_path, browser):
    pytest.importorskip("matplotlib", reason="needs matplotlib: pip install 'annserve[bench]'")
    CliRunner().invoke(command, ["report", str(results), "--out", str(tmp_path), "--target", "0.9"])
    screenshot = browser.show(f"file://{tmp_path}/index.html")
    assert screenshot.startswith(b"\x89PNG")
    assert len(screenshot) > 50_000, "pictures have been drawn, not left blank"
    widths = browser.value("[...document.querySelectorAll('svg')].map(one => one.getBoundingClientRect().width)")
    assert len(widths) == 5
    assert min(widths) > 300
    assert browser.asked_for() == [f"file://{tmp_path}/index.html"]
    assert browser.exceptions() == []


@pytest.mark.slow
def test_one_command_makes_pictures_page_and_table(results, tmp_path):
    pytest.importorskip("matplotlib", reason="needs matplotlib: pip install 'annserve[bench]'")
    made = []
    for name in ("first", "second"):
        out, readme = tmp_path / name, tmp_path / "README.md"
        readme.write_text("<!-- bench:readme -->\n<!-- /bench:readme -->\n")
        words = ["report", str(results), "--out", str(out), "--target", "0.9", "--readme", str(readme)]
        assert CliRunner().invoke(command, words, catch_exceptions=False).exit_code == 0
        links = re.findall(r"\]\((.+)\)", readme.read_text())
        assert links == [f"{name}/small-400-recall-pages.png", f"{name}/small-400-recall-qps.png"]
        made.append({path.name: path.read_bytes() for path in out.iterdir()})
    assert made[0] == made[1], "the same results make the same bytes"
    pictures = {
        f"small-400-{what}.png" for what in ("recall-qps", "recall-pages", "latency-load", "ram-recall", "build")
    }
    assert set(made[0]) == pictures | {"index.html", "table.md"}
    page = made[0]["index.html"].decode()
    assert page.count("<svg") == 5
    fetched = [link for link in re.findall(r'(?:src|href)="([^"]+)"', page) if not link.startswith("#")]
    assert fetched == []
    assert "<script" not in page
