"""A forecast: the build's own budget, sums that add up, and answers that move the right way."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import annserve
from annserve.design.budget import plan_tiers, ram_codes_pay, ram_with_codes, tier_bytes
from annserve.design.forecast import CPU_US, forecast
from annserve.design.likeness import like_file, like_index
from annserve.errors import InputError
from annserve.index.sealed import read_sealed
from annserve.raw.layout import RawLayout
from annserve.spec import IndexSpec
from annserve.storage.prices import TYPICAL, DiskPrices

SPEC = IndexSpec(128, "uint8", "l2")
RESULTS = Path(__file__).resolve().parents[2] / "bench/results/2026-11-21-plan"


def test_prices_of_the_cpu_are_those_that_were_fitted():
    assert json.loads((RESULTS / "cpu.json").read_text())["prices_us"] == CPU_US


@pytest.mark.parametrize("ram", ["0.5B", "4B", "12B", "20B", "64B"])
@pytest.mark.parametrize("codes", ["auto", "none"])
def test_tiers_add_up_to_what_the_budget_says(ram, codes):
    tiers = plan_tiers(SPEC, 10**7, ram, codes)
    assert sum(tier_bytes(SPEC, 10**7, tiers).values()) == pytest.approx(10**7 * tiers.bytes_per_vector)


def test_codes_begin_where_it_is_told():
    least = ram_with_codes(SPEC)
    with pytest.raises(InputError, match="the least is"):
        plan_tiers(SPEC, 10**7, f"{least - 0.01}B", "ram")
    assert plan_tiers(SPEC, 10**7, f"{least + 0.01}B", "ram").code_bytes == 4
    pay = ram_codes_pay(SPEC)
    assert plan_tiers(SPEC, 10**7, f"{pay - 0.01}B", "auto").codes_on_ssd
    assert plan_tiers(SPEC, 10**7, f"{pay + 0.01}B", "auto").code_bytes == 6


def test_a_plan_takes_the_ram_that_an_index_takes(built):
    """Within 3 %, of what grows with the rows, tier by tier; and a page of heads."""
    spec = IndexSpec(built.rows.shape[1], "uint8", "l2")
    plan = forecast(spec, len(built.rows), TYPICAL, recall_target=0.95)
    with annserve.open(built.folder) as index:
        tiers = index.info()["ram_tiers"]
    assert plan.ram_tiers["heads"] == pytest.approx(
        tiers["head_vectors"] + tiers["head_graph"] + tiers["postings"], abs=4_096
    )
    for name in ("page_codes", "row_codes", "row_factors"):
        assert plan.ram_tiers[name] == pytest.approx(tiers[name], rel=0.03), name


def test_more_ram_reads_less_and_more_recall_reads_more():
    pages = [forecast(SPEC, 10**8, TYPICAL, ram=ram, recall_target=0.95).reading.pages for ram in ("12B", "20B", "48B")]
    assert pages == sorted(pages, reverse=True)
    pages = [
        forecast(SPEC, 10**8, TYPICAL, ram="20B", recall_target=recall).reading.pages for recall in (0.8, 0.9, 0.99)
    ]
    assert pages == sorted(pages)


def test_a_disk_of_ten_times_the_price_bounds_the_queries():
    slow = replace(TYPICAL, wait_us=4_000.0, next_us=4_000.0)
    fast, bound = (
        forecast(SPEC, 10**6, prices, ram="20B", recall_target=0.95, threads=4) for prices in (TYPICAL, slow)
    )
    assert bound.latency_us > fast.latency_us
    assert bound.bound_by == "disk"
    assert bound.queries_per_second == pytest.approx(1e6 / slow.busy_us(bound.reading.reads, bound.query_bytes))
    assert forecast(SPEC, 10**6, slow, ram="20B", recall_target=0.95, threads=8).queries_per_second == pytest.approx(
        bound.queries_per_second
    )


def test_codes_on_ssd_and_replicas_take_the_disk_that_they_take():
    plain, ssd, copied = (
        forecast(SPEC, 10**6, TYPICAL, ram="3B", codes=codes, replicas=replicas, recall_target=0.95)
        for codes, replicas in (("none", 1), ("ssd", 1), ("none", 8))
    )
    assert (plain.mode, ssd.mode, copied.mode) == ("none", "ssd", "none")
    assert ssd.disk_parts["vicinities"] == ssd.disk_parts["pages"] == plain.disk_parts["pages"]
    assert 2 < copied.copies <= 8
    assert copied.disk_parts["pages"] == pytest.approx(copied.copies * plain.disk_parts["pages"], rel=1e-3)
    assert copied.reading.pages < plain.reading.pages
    assert 0 < ssd.reading.vicinities < ssd.reading.pages < copied.reading.pages


def test_what_auto_takes_is_what_reads_least_of_the_ways():
    """The planner goes by measured borders, not by the model; where they are clear, both agree."""
    for ram in ("3B", "7B", "20B", "40B"):
        taken = forecast(SPEC, 5 * 10**5, TYPICAL, ram=ram, recall_target=0.95)
        for codes, replicas in (("ram", 1), ("ssd", 1), ("none", 1), ("none", 8)):
            try:
                other = forecast(SPEC, 5 * 10**5, TYPICAL, ram=ram, codes=codes, replicas=replicas, recall_target=0.95)
            except InputError:
                continue
            assert taken.reading.pages <= other.reading.pages, (ram, codes)


def test_raw_rows_take_disk_and_a_page_cache_takes_ram_and_saves_reads():
    spec = IndexSpec(384, "float32", "cosine")
    plain = forecast(spec, 10**6, TYPICAL, recall_target=0.95)
    raw = forecast(spec, 10**6, TYPICAL, recall_target=0.95, raw=RawLayout(spec, own=True))
    assert raw.disk_bytes - plain.disk_bytes == raw.disk_parts["raw_rows"] > 384 * 4 * 10**6
    half = forecast(spec, 10**6, TYPICAL, recall_target=0.95, cache_bytes=plain.disk_parts["pages"] / 2)
    assert half.query_bytes == pytest.approx(plain.query_bytes / 2)
    assert half.ram_bytes == plain.ram_bytes + half.ram_tiers["cache"]
    assert half.disk_us == pytest.approx(plain.disk_us / 2)


def test_a_disk_that_isnt_named_is_one_that_was_probed():
    probed = DiskPrices.of(read_sealed(RESULTS / "disk.json"))
    assert replace(probed, cells=()) == TYPICAL


def test_a_budget_below_the_least_says_the_least_in_all():
    with pytest.raises(InputError, match=r"the least is 0\.\d+, [\d,]+ bytes in all"):
        forecast(SPEC, 10**9, TYPICAL, ram="1MiB", recall_target=0.95)


def test_a_file_tells_dimension_type_and_hardness(tmp_path, rng):
    flat = rng.normal(size=(3_000, 3)) @ rng.normal(size=(3, 24))
    np.save(tmp_path / "flat.npy", flat.astype(np.float32))
    known = like_file(tmp_path / "flat.npy", "l2")
    assert (known.count, known.spec) == (3_000, IndexSpec(24, "float32", "l2"))
    assert 2 < known.intrinsic_dim < 4
    np.save(tmp_path / "same.npy", np.ones((50, 4), np.float32))
    with pytest.raises(InputError, match="too few distinct vectors"):
        like_file(tmp_path / "same.npy", "l2")


def test_an_index_of_such_vectors_anchors_the_plan(built):
    known = like_index(built.folder, 10, 0.95, 12.0)
    with annserve.open(built.folder) as index:
        measured = index.search(built.queries, 10, recall_target=0.95).stats.pages_read.mean()
    # Its own rows and queries of the same kind read about as much.
    assert known.anchor.pages == pytest.approx(measured, rel=0.3)
    plan = forecast(known.spec, known.count, TYPICAL, recall_target=0.95, intrinsic_dim=12.0, anchor=known.anchor)
    assert plan.reading.pages == pytest.approx(known.anchor.pages, rel=1e-6)


def test_an_index_says_how_hard_it_is_and_what_it_should_read(built):
    """The model's error on a set that it never saw: within a factor of two here."""
    with annserve.open(built.folder) as index:
        assert 3 < index.report["intrinsic_dim"] < 30
        measured = index.search(built.queries, 10, recall_target=0.95).stats.pages_read.mean()
        assert measured / 2 < index.pages_predicted(10, 0.95) < measured * 2
        assert index.pages_predicted(10, 1.0) == index.info()["pages"]
