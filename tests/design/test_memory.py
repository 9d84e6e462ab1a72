"""What a build is told to stay within decides how much it works on at a time, or is refused in words."""

from __future__ import annotations

import pytest

from annserve.clusters.partitions import PARTITION_ROWS
from annserve.design.budget import plan_tiers
from annserve.design.memory import held_bytes, least_bytes, plan_memory
from annserve.errors import InputError
from annserve.sizes import bytes_of
from annserve.spec import IndexSpec

SPEC = IndexSpec(128, "uint8", "l2")


def planned(count, cap, spec=SPEC, threads=8, ram="25%"):
    return plan_memory(spec, count, plan_tiers(spec, count, ram, "auto", 1), cap, threads)


def test_less_ram_means_fewer_threads_then_a_refusal():
    wide = IndexSpec(768, "float32", "cosine")
    roomy, tight = planned(1_000_000, "8GiB", wide, ram="64B"), planned(1_000_000, "640MiB", wide, ram="64B")
    assert roomy.threads == 8
    assert 1 <= tight.threads < 8
    assert tight.cap_bytes == 640 << 20 > least_bytes(wide, 1_000_000, plan_tiers(wide, 1_000_000, "64B", "auto", 1))
    with pytest.raises(InputError, match=r"at least 5\d\d\.. MiB") as told:
        planned(1_000_000, "256MiB", wide, ram="64B")
    assert told.value.field == "ram_build"
    # What it says does.
    least = str(told.value).split("at least ")[1].split(";")[0]
    assert planned(1_000_000, f"{bytes_of(least, 'x') * 1.01 / (1 << 30):.3f}GiB", wide, ram="64B").threads >= 1


def test_ten_million_rows_are_built_in_a_gibibyte():
    assert planned(10_000_000, "1GiB", threads=2).threads == 2


def test_half_of_what_is_free_is_taken_by_default(monkeypatch):
    monkeypatch.setattr("annserve.design.memory.free_memory", lambda: 6 << 30)
    assert planned(1_000_000, None).cap_bytes == 3 << 30


def test_wide_rows_come_in_smaller_partitions():
    wide = IndexSpec(768, "float32", "cosine")
    assert planned(1_000_000, "2GiB", wide, threads=2).partition_rows < PARTITION_ROWS


def test_longer_codes_and_replicas_are_held():
    short, long = (plan_tiers(SPEC, 10**6, ram, "ram", 1) for ram in ("12B", "80B"))
    assert held_bytes(SPEC, 10**6, long)[1] > held_bytes(SPEC, 10**6, short)[1] + 5 * 10**7
    assert held_bytes(SPEC, 10**6, plan_tiers(SPEC, 10**6, "12B", "none", 8))[1] > 3 * 10**8
