"""A RAM budget: how it may be given, what it buys, and that what was predicted is what is used."""

from __future__ import annotations

import re

import numpy as np
import pytest

import annserve
from annserve.codes.layout import CODE_BYTES_MAX
from annserve.design.budget import plan_tiers, ram_codes_pay, ram_per_vector
from annserve.design.options import BuildOptions
from annserve.errors import InputError
from annserve.spec import IndexSpec

SPEC = IndexSpec(128, "uint8", "l2")


@pytest.mark.parametrize(
    ("ram", "bytes_per_vector"),
    [
        ("25%", 32),
        ("12.5%", 16),
        (" 100 % ", 128),
        ("20B", 20),
        ("20 b", 20),
        ("2GiB", 2**31 / 1e6),
        ("2gib", 2**31 / 1e6),
        ("2GB", 2**31 / 1e6),
        ("1.5MiB", 1.5 * 2**20 / 1e6),
        ("64KiB", 2**16 / 1e6),
        ("1TiB", 2**40 / 1e6),
    ],
)
def test_a_budget_is_a_share_bytes_a_vector_or_a_total(ram, bytes_per_vector):
    assert ram_per_vector(ram, SPEC, 1_000_000) == pytest.approx(bytes_per_vector)


@pytest.mark.parametrize(
    "ram",
    [
        "",
        "25",
        "much",
        "-5%",
        "0%",
        "0B",
        "1.2.3B",
        ".B",
        "5PiB",
        "20B per vector",
        "%",
        "1e9B",
        "１２B",
        "9" * 400 + "B",
    ],
)
def test_what_is_no_budget_is_an_error_that_shows_the_forms(ram):
    with pytest.raises(InputError, match=r"a share of the INT8 size \(25%\).*20B.*2GiB") as caught:
        ram_per_vector(ram, SPEC, 1_000)
    assert caught.value.field == "ram"
    assert repr(ram[:40]) in str(caught.value)
    with pytest.raises(InputError, match="give a share"):
        BuildOptions(ram=ram)


def test_more_ram_buys_longer_codes_and_never_costs_more_than_given():
    plans = [plan_tiers(SPEC, 1_000_000, f"{ram}B", "ram") for ram in (9, 12, 20, 32, 64, 120)]
    lengths = [plan.code_bytes for plan in plans]
    assert lengths == sorted(lengths)
    assert 4 <= lengths[0] < lengths[-1]
    for plan, ram in zip(plans, (9, 12, 20, 32, 64, 120)):
        assert plan.bytes_per_vector <= ram
        assert plan.bytes_per_vector > ram - 1.5


def test_a_code_takes_no_more_bytes_than_there_are_dimensions_or_a_code_may_have():
    assert plan_tiers(IndexSpec(16, "uint8", "l2"), 1_000, "100B", "auto").code_bytes == 16
    assert plan_tiers(IndexSpec(960, "uint8", "l2"), 1_000, "50%", "auto").code_bytes == CODE_BYTES_MAX


def test_a_budget_too_small_for_codes_takes_fewer_heads():
    plan = plan_tiers(SPEC, 1_000_000, "0.5B", "auto")
    assert plan.code_bytes == 0
    assert plan.bytes_per_vector <= 0.5
    assert plan_tiers(SPEC, 1_000_000, "0.5B", "none") == plan
    assert plan.pages_per_posting > plan_tiers(SPEC, 1_000_000, "4B", "none").pages_per_posting >= 1


@pytest.mark.parametrize(
    ("metric", "dim", "has_codes"), [("l2", 4_096, True), ("l2", 4_097, False), ("ip", 4_096, False)]
)
def test_the_widest_vectors_have_no_codes(metric, dim, has_codes):
    """Under inner product the index space has one dimension more."""
    plan = plan_tiers(IndexSpec(dim, "float32", metric), 1_000, "25%", "auto")
    assert bool(plan.code_bytes) == has_codes


def test_codes_can_be_forbidden():
    plan = plan_tiers(SPEC, 1_000_000, "100%", "none")
    assert (plan.code_bytes, plan.pages_per_posting) == (0, 1)
    with pytest.raises(InputError, match="codes is 'some'; use one of auto, ram, ssd, none"):
        BuildOptions(codes="some")


def test_a_budget_below_the_least_says_what_the_least_is():
    with pytest.raises(InputError, match="but the least is") as caught:
        plan_tiers(SPEC, 1_000_000, "0.001B", "auto")
    least = float(re.search(r"the least is ([0-9.]+),", str(caught.value))[1])
    assert caught.value.field == "ram"
    assert plan_tiers(SPEC, 1_000_000, f"{least}B", "auto").pages_per_posting > 200


def test_what_was_predicted_is_what_an_index_takes(built):
    """Within 3 %, of what grows with the rows; and a page of heads, of which some 18 are a whole one."""
    with annserve.open(built.folder) as index:
        info, report = index.info(), index.report
    predicted = report["ram_bytes_per_vector_predicted"]
    heads_page = 4_096 / len(built.rows)
    assert 0.97 * predicted <= info["ram_bytes_per_vector"] <= 1.03 * predicted + heads_page
    assert predicted <= 0.25 * built.rows.shape[1]
    segment = built.folder / "segment-000001"
    tiers = info["ram_tiers"]
    # Sections of codes.bin are what lies in RAM, but for rounding to blocks and what only an encoder needs.
    in_ram = sum(tiers[name] for name in ("page_codes", "row_codes", "row_factors", "codebooks"))
    encoder = 2 * 4 * built.rows.shape[1] ** 2
    assert in_ram <= (segment / "codes.bin").stat().st_size <= in_ram + encoder + 40 * 4_096
    assert np.sum(list(tiers.values())) == info["ram_bytes"]


def test_codes_on_ssd_take_page_codes_alone():
    plan = plan_tiers(SPEC, 1_000_000, "3B", "ssd")
    assert plan.codes_on_ssd
    assert plan.code_bytes >= 8
    assert plan.bytes_per_vector < 2
    tight = plan_tiers(SPEC, 1_000_000, "1.6B", "ssd")
    assert tight.pages_per_posting > plan.pages_per_posting
    assert tight.bytes_per_vector <= 1.6
    wide = plan_tiers(IndexSpec(768, "float32", "cosine"), 1_000_000, "12B", "ssd")
    assert wide.bytes_per_vector <= 12


def test_a_budget_too_small_for_codes_on_ssd_says_what_the_least_is():
    with pytest.raises(InputError, match=r"with codes on SSD the least is 1\.\d+") as caught:
        plan_tiers(SPEC, 1_000_000, "1B", "ssd")
    assert caught.value.field == "ram"
    with pytest.raises(InputError, match="at most 4,096 dimensions"):
        plan_tiers(IndexSpec(5_000, "float32", "l2"), 1_000, "50%", "ssd")


@pytest.mark.parametrize("spec", [SPEC, IndexSpec(384, "float16", "cosine"), IndexSpec(768, "float32", "ip")])
def test_auto_takes_the_codes_that_read_least_and_heads_alone_where_there_is_no_room_for_any(spec):
    pay, least_ssd = ram_codes_pay(spec), ram_of_ssd(spec)
    budgets = {"none": least_ssd - 0.01, "ssd": pay - 0.01, "ram": pay + 0.01}
    for mode, ram in budgets.items():
        plan = plan_tiers(spec, 1_000_000, f"{ram}B", "auto")
        assert plan.mode == mode
        assert plan.bytes_per_vector <= ram
    assert plan_tiers(spec, 1_000_000, f"{least_ssd + 0.01}B", "auto").mode == "ssd"


@pytest.mark.parametrize("dim", [4, 16, 26, 28, 32, 40, 64, 128, 384, 768, 1_536, 5_000])
def test_at_a_quarter_of_the_vectors_codes_lie_in_ram_wherever_they_find_room(dim):
    mode = "ram" if 28 <= dim <= 4_096 else "none"
    assert plan_tiers(IndexSpec(dim, "float32", "l2"), 1_000_000, "25%", "auto").mode == mode


def test_what_is_asked_for_wins():
    assert plan_tiers(SPEC, 1_000_000, "8.5B", "auto").mode == "ssd"
    assert plan_tiers(SPEC, 1_000_000, "8.5B", "ram").mode == "ram"
    assert plan_tiers(SPEC, 1_000_000, "64B", "ssd").mode == "ssd"
    assert plan_tiers(SPEC, 1_000_000, "64B", "none").replicas == 1
    assert plan_tiers(SPEC, 1_000_000, "64B", "none", 4).replicas == 4


def test_more_rows_than_vicinities_can_name_get_shorter_codes_in_ram():
    assert plan_tiers(SPEC, 2**32, "8.5B", "auto").mode == "ram"
    assert plan_tiers(SPEC, 2**32, "7B", "auto").mode == "none"


def test_too_little_for_codes_in_ram_says_what_the_least_is():
    with pytest.raises(InputError, match=r"with codes of rows in RAM the least is 8\.0\d+") as caught:
        plan_tiers(SPEC, 1_000_000, "7B", "ram")
    assert caught.value.field == "ram"


def ram_of_ssd(spec):
    """Least RAM that codes on the SSD take, from the error that says so."""
    with pytest.raises(InputError) as caught:
        plan_tiers(spec, 1_000_000, "0.2B", "ssd")
    return float(re.search(r"the least is ([0-9.]+):", str(caught.value))[1])
