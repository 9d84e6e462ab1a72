"""``annserve plan``: what may be asked, what is refused, and that its JSON and its table say the same."""

from __future__ import annotations

import json

import numpy as np
import pytest
from journeys.doors import annserve, build_index

from annserve.index.sealed import write_sealed
from annserve.storage.prices import TYPICAL

ASKED = ("--dim", 128, "--dtype", "uint8", "--ram", "32GiB", "--recall", 0.95)


@pytest.mark.parametrize(("count", "means"), [("1e9", 10**9), ("1000000000", 10**9), ("2.5e8", 250_000_000)])
def test_a_count_may_be_written_as_people_do(count, means):
    ended = annserve("plan", "--count", count, *ASKED, "--json")
    assert ended.code == 0, ended.err
    found = json.loads(ended.out)
    assert found["asked"]["count"] == means
    assert found["plan"]["ram_bytes"] <= 32 * 2**30
    assert found["plan"]["reading"]["pages"] >= 1
    assert {one["recall_target"] for one in found["others"]} == {0.8, 0.9, 0.95, 0.98, 0.99}


def test_the_table_says_what_the_json_says():
    found = json.loads(annserve("plan", "--count", "1e9", *ASKED, "--json").out)["plan"]
    text = annserve("plan", "--count", "1e9", *ASKED).out
    for said in (
        "1,000,000,000 × 128 uint8",
        f"codes of rows in RAM, {found['code_bytes']} bytes each",
        f"{found['heads']:,} heads, one for",
        f"{found['reading']['pages']:.1f} pages in {found['reading']['reads']:.1f} reads",
        f"{found['queries_per_second']:,.0f} of them a second",
    ):
        assert said in text, said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--count", "many", *ASKED), "count is 'many'; give a whole number of vectors"),
        (("--count", "1.5", *ASKED), "count is '1.5'"),
        (("--count", "0", *ASKED), "count is '0'"),
        (("--count", "-1e9", *ASKED), "count is '-1e9'"),
        (("--count", "nan", *ASKED), "count is 'nan'"),
        (("--count", "1e13", *ASKED), "count is '1e13'"),
        (ASKED, "count isn't given"),
        (("--count", "1e9"), "dim isn't given"),
        (("--count", "1e9", "--dim", 0), "dim is 0"),
        (("--count", "1e9", "--dim", 128, "--ram", "10MiB"), "but the least is"),
        (("--count", "1e9", "--dim", 128, "--ram", "lots"), "ram is 'lots'"),
        (("--count", "1e9", "--dim", 128, "--recall", 0.5), "recall_target is 0.5"),
        (("--count", "1e9", "--dim", 128, "--recall", 1), "recall_target is 1, which reads every page"),
        (("--count", "5", "--dim", 128, "-k", 10), "k is 10, but the index holds 5 rows"),
        (("--count", "1e9", "--dim", 128, "--intrinsic-dim", 0), "intrinsic_dim is 0"),
        (("--count", "1e9", "--dim", 128, "--disk", "none.json"), "there is no file none.json"),
        (("--count", "1e9", "--like", "none.npy"), "there is no file"),
        (("--count", "1e9", "--index", "none"), "there is no index"),
    ],
)
def test_what_cannot_be_planned_is_an_error_that_says_why(arguments, words):
    ended = annserve("plan", *arguments)
    assert ended.code == 2
    assert words in ended.error


def test_a_disks_prices_an_index_and_a_file_of_such_vectors_are_taken_in(tmp_path):
    rng = np.random.default_rng(4)
    rows = (rng.normal(size=(2_000, 4)) @ rng.normal(size=(4, 16))).astype(np.float32)
    np.save(tmp_path / "rows.npy", rows)
    index = build_index(tmp_path / "rows.npy", tmp_path / "index", "--calibration-queries", 100, "--metric", "cosine")
    write_sealed(tmp_path / "prices.json", {**TYPICAL.as_dict(), "wait_us": 9_000.0})
    plain = json.loads(annserve("plan", "--like", tmp_path / "rows.npy", "--json").out)
    assert (plain["asked"]["count"], plain["asked"]["dim"], plain["asked"]["row_type"]) == (2_000, 16, "float32")
    assert 2 < plain["asked"]["intrinsic_dim"] < 6
    priced = json.loads(
        annserve("plan", "--like", tmp_path / "rows.npy", "--disk", tmp_path / "prices.json", "--json").out
    )
    assert priced["plan"]["latency_us"] > plain["plan"]["latency_us"] + 8_000
    known = json.loads(annserve("plan", "--index", index, "--count", "1e8", "--json").out)
    assert known["asked"]["metric"] == "cosine"
    assert known["plan"]["reading"]["factor"] > 1


@pytest.mark.parametrize(
    ("ram", "starred", "why"),
    [
        ("20B", "codes in RAM *", "those in RAM read fewer pages from"),
        ("3B", "codes on SSD *", "those in RAM read fewer pages from"),
        ("1B", "heads alone *", "codes find no room or read no less"),
    ],
)
def test_every_way_stands_beside_the_one_that_is_taken(ram, starred, why):
    text = annserve("plan", "--count", "1e7", "--dim", 128, "--dtype", "uint8", "--ram", ram).out
    assert starred in text
    assert why in text
    ways = json.loads(annserve("plan", "--count", "1e7", "--dim", 128, "--dtype", "uint8", "--ram", ram, "--json").out)[
        "ways"
    ]
    assert {one["mode"] for one in ways} == {"20B": {"ram", "ssd", "none"}, "3B": {"ssd", "none"}, "1B": {"none"}}[ram]


def test_a_disk_chooses_the_size_of_pages(tmp_path):
    write_sealed(tmp_path / "seeks.json", {**TYPICAL.as_dict(), "next_us": 400.0})
    asked = ("plan", "--count", "1e7", "--dim", 128, "--dtype", "uint8", "--disk", tmp_path / "seeks.json")
    assert "16,384 *" in annserve(*asked).out
    found = json.loads(annserve(*asked, "--json").out)
    assert found["plan"]["page_bytes"] == found["asked"]["page_bytes"] == 16_384
    assert [one["page_bytes"] for one in found["page_sizes"]] == [4_096, 8_192, 16_384]
    assert json.loads(annserve(*asked, "--page-bytes", 8_192, "--json").out)["plan"]["page_bytes"] == 8_192


def test_raw_rows_and_a_page_cache_are_planned_for():
    asked = (
        "plan",
        "--count",
        "1e7",
        "--dim",
        384,
        "--metric",
        "cosine",
        "--rerank",
        "float16",
        "--cache",
        "1GiB",
    )
    found = json.loads(annserve(*asked, "--json").out)["plan"]
    assert found["disk_parts"]["raw_rows"] > 1e7 * 384 * 2
    assert found["ram_tiers"]["cache"] == 2**30
    text = annserve(*asked).out
    assert "raw rows" in text
    assert "cache" in text
