"""What is decided before a build: pages as large as the disk reads cheapest, and reasons that say why."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import annserve
from annserve.build.pipeline import build
from annserve.design.choose import cheapest, design, page_sizes
from annserve.design.options import BuildOptions
from annserve.errors import InputError, NotFoundError
from annserve.index.sealed import write_sealed
from annserve.spec import IndexSpec
from annserve.storage.prices import TYPICAL
from annserve.vectors.source import as_source

SPEC = IndexSpec(128, "uint8", "l2")
#: A read costs as much as moving 400 KB: an arm that seeks. And one that costs hardly more than its bytes.
SEEKS = replace(TYPICAL, next_us=400.0, next_byte_us=0.001)
STREAMS = replace(TYPICAL, next_us=0.5, next_byte_us=0.001)


@pytest.fixture
def rows(rng):
    return np.clip(rng.normal(128, 30, (2_000, 32)), 0, 255).astype(np.uint8)


@pytest.mark.parametrize(("prices", "page_bytes"), [(SEEKS, 16_384), (STREAMS, 4_096)])
@pytest.mark.parametrize("ram", ["3B", "20B"])
def test_dear_reads_take_large_pages_and_dear_bytes_small_ones(prices, page_bytes, ram):
    sizes = page_sizes(SPEC, 10**6, prices, ram=ram, codes="auto", replicas=1, intrinsic_dim=16.0)
    assert [one.page_bytes for one in sizes] == [4_096, 8_192, 16_384]
    assert cheapest(sizes).page_bytes == page_bytes
    assert cheapest(sizes).disk_us <= 1.1 * min(one.disk_us for one in sizes)


def test_larger_pages_must_save_more_than_the_model_may_miss():
    sizes = page_sizes(SPEC, 10**6, STREAMS, ram="20B", codes="auto", replicas=1, intrinsic_dim=16.0)
    for large, taken in ((0.95, 4_096), (0.85, 8_192)):
        priced = [replace(one, disk_us=us) for one, us in zip(sizes, (1.0, large, 1.2))]
        assert cheapest(priced).page_bytes == taken


def test_pages_that_hold_no_row_arent_tried():
    wide = IndexSpec(6_000, "float32", "l2")
    sizes = page_sizes(wide, 10**5, STREAMS, ram="25%", codes="auto", replicas=1, intrinsic_dim=16.0)
    assert [one.page_bytes for one in sizes] == [8_192, 16_384]


def test_a_budget_that_only_larger_pages_keep_takes_them():
    tight = page_sizes(SPEC, 10**6, STREAMS, ram="0.9B", codes="ssd", replicas=1, intrinsic_dim=16.0)
    assert [one.page_bytes for one in tight] == [8_192, 16_384]
    with pytest.raises(InputError, match="the least is"):
        page_sizes(SPEC, 10**6, STREAMS, ram="0.0001B", codes="auto", replicas=1, intrinsic_dim=16.0)


def test_prices_of_a_disk_decide_unless_a_size_is_asked_for(rows, tmp_path):
    write_sealed(tmp_path / "seeks.json", SEEKS.as_dict())
    source = as_source(rows)
    assert design(BuildOptions(), source).spec.page_bytes == 4_096
    by_disk = design(BuildOptions(disk=tmp_path / "seeks.json"), source)
    assert by_disk.spec.page_bytes == 16_384
    assert "µs with 4,096" in by_disk.why["page_bytes"]
    asked = design(BuildOptions(disk=tmp_path / "seeks.json", page_bytes=8_192), source)
    assert asked.spec.page_bytes == 8_192
    assert asked.why["page_bytes"].endswith("as asked")
    with pytest.raises(NotFoundError, match=r"there is no file.*or measure the disk by 'annserve probe-disk"):
        design(BuildOptions(disk=tmp_path / "none.json"), source)


@pytest.mark.parametrize(
    ("options", "mode", "words"),
    [
        (BuildOptions(ram="20B"), "ram", "in RAM read fewer pages from"),
        (BuildOptions(ram="3B"), "ssd", "in RAM read fewer pages from"),
        (BuildOptions(ram="0.3B"), "none", "heads alone: codes find no room or read no less"),
        (BuildOptions(ram="20B", codes="none"), "none", "heads alone: as asked"),
        (BuildOptions(ram="7.5B", codes="ram"), "ram", "as asked"),
    ],
)
def test_a_design_says_why(options, mode, words, rows):
    found = design(options, as_source(rows))
    assert found.tiers.mode == mode
    assert words in found.why["codes"]


def test_a_sample_of_queries_wants_codes_in_ram(rows, tmp_path):
    sampled = BuildOptions(ram="7.5B", calibrate_with=tmp_path / "queries.npy")
    found = design(sampled, as_source(rows))
    assert (found.tiers.mode, found.why["codes"].split(": ")[1]) == ("ram", "as a sample of queries needs them")
    with pytest.raises(InputError, match="with codes of rows in RAM the least is"):
        design(replace(sampled, ram="3B"), as_source(rows))


def test_an_index_says_what_was_chosen_and_why(rows, tmp_path):
    np.save(tmp_path / "rows.npy", rows)
    write_sealed(tmp_path / "seeks.json", SEEKS.as_dict())
    options = BuildOptions(ram="3B", disk=tmp_path / "seeks.json", threads=1, calibration_queries=50)
    build(tmp_path / "rows.npy", tmp_path / "index", options)
    with annserve.open(tmp_path / "index") as index:
        assert index.report["mode"] == "ssd"
        assert index.report["options"]["disk"] == "seeks.json"
        assert "on the SSD" in index.report["why"]["codes"]
        assert index.info()["page_bytes"] == 16_384
        assert len(index.search(rows[:3], 5).ids[0]) == 5
