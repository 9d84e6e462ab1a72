"""A disk's prices: fitted right, kept whole, measured with real reads, and no trace left on the disk."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from journeys.doors import annserve

from annserve.errors import CorruptionError, InputError, NotFoundError, OutputError, ReadError
from annserve.index.sealed import read_sealed
from annserve.storage import probe
from annserve.storage.prices import Cell, DiskPrices, fit_prices

SIZES, DEPTHS = probe.READ_BYTES, probe.DEPTHS


def cells_of(wait: float, wait_byte: float, next_: float, next_byte: float) -> list[Cell]:
    """Give what a disk with these prices would show."""
    return [
        Cell(size, depth, 1e6 * depth / (wait + size * wait_byte + (depth - 1) * (next_ + size * next_byte)))
        for size in SIZES
        for depth in DEPTHS
    ]


@given(st.floats(5, 10_000), st.floats(0, 0.01), st.floats(0.5, 300), st.floats(0, 0.005))
def test_prices_that_a_disk_has_are_found(wait, wait_byte, next_, next_byte):
    prices = fit_prices(cells_of(wait, wait_byte, next_, next_byte), "uring", True)
    assert prices.error_max < 1e-6
    for size in SIZES:
        assert prices.batch_us(1, size) == pytest.approx(wait + size * wait_byte, rel=1e-5)
        assert prices.busy_us(10, 10 * size) == pytest.approx(10 * (next_ + size * next_byte), rel=1e-5)


def test_prices_are_never_negative_and_say_how_far_they_miss():
    """Larger reads that come faster, as noise has it: a byte then costs nothing."""
    rates = [Cell(size, depth, 1_000 * depth**0.5 * (1 + size / 1e6)) for size in SIZES for depth in DEPTHS]
    prices = fit_prices(rates, "pread", False)
    assert min(prices.wait_us, prices.next_us) > 0
    assert min(prices.wait_byte_us, prices.next_byte_us) == 0
    assert 0 < prices.error_median <= prices.error_max


def test_a_batch_takes_longer_with_every_read_and_every_byte():
    prices = fit_prices(cells_of(100, 0.001, 15, 0.0005), "uring", True)
    batches = [prices.batch_us(reads, reads * 4_096) for reads in (0, 0.5, 1, 2, 16, 17)]
    assert batches == sorted(batches)
    assert batches[0] == 0
    assert prices.batch_us(8, 9 * 4_096) > prices.batch_us(8, 8 * 4_096)
    assert prices.reads_per_second(4_096, 1) < prices.reads_per_second(4_096, 8) < 1e6 / 15


def test_prices_are_the_same_after_a_file():
    prices = fit_prices(cells_of(100, 0.001, 15, 0.0005), "uring", True)
    assert DiskPrices.of(prices.as_dict()) == DiskPrices.of({**prices.as_dict(), "joined_later": 1}) == prices


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": "annserve-disk-9"}, "no prices of a disk"),
        ({"wait_us": None}, "lack a field or hold a wrong one"),
        ({"cells": 3}, "lack a field or hold a wrong one"),
        ({"next_us": 0.0}, "aren't positive"),
        ({"next_byte_us": -1.0}, "aren't positive"),
    ],
)
def test_what_are_no_prices_is_an_error(change, words):
    content = fit_prices(cells_of(100, 0.001, 15, 0.0005), "uring", True).as_dict()
    with pytest.raises(CorruptionError, match=words):
        DiskPrices.of(content | change)
    del content["next_us"]
    with pytest.raises(CorruptionError, match="lack a field"):
        DiskPrices.of(content)


def test_a_disk_is_measured_and_left_as_it_was(tmp_path):
    out = tmp_path / "prices.json"
    ended = annserve("probe-disk", tmp_path, "--seconds", 0.2, "--mib", 16, "--out", out)
    assert ended.code == 0, ended.err
    assert os.listdir(tmp_path) == ["prices.json"]
    prices = DiskPrices.of(read_sealed(out))
    assert {(cell.read_bytes, cell.depth) for cell in prices.cells} == {(s, d) for s in SIZES for d in DEPTHS}
    assert min(cell.reads_per_second for cell in prices.cells) > 0
    assert "4.0 KiB" in ended.out
    assert "the first read of a batch costs" in ended.out


def test_without_io_uring_or_o_direct_the_fall_backs_are_measured(tmp_path, monkeypatch):
    def refused(*arguments: object) -> None:
        raise ReadError("io_uring isn't available")

    page_file = probe.PageFile

    def through_the_cache(*arguments: object, direct: bool) -> object:
        if direct:
            raise ReadError("no O_DIRECT here")
        return page_file(*arguments, direct=False)

    monkeypatch.setattr(probe, "UringReader", refused)
    monkeypatch.setattr(probe, "PageFile", through_the_cache)
    prices = probe.probe_disk(tmp_path, mib=16, seconds=0.1)
    assert (prices.reader, prices.direct) == ("pread", False)
    assert not list(tmp_path.iterdir())


def test_a_probe_that_fails_leaves_no_file(tmp_path, monkeypatch):
    def fails(*arguments: object) -> None:
        raise ReadError("the disk is gone")

    monkeypatch.setattr(probe, "measure_reads", fails)
    with pytest.raises(ReadError, match="the disk is gone"):
        probe.probe_disk(tmp_path, mib=16, seconds=0.1)
    assert not list(tmp_path.iterdir())


def test_a_probe_needs_room_a_folder_and_sane_limits(tmp_path, monkeypatch):
    with pytest.raises(NotFoundError, match="there is no folder"):
        probe.probe_disk(tmp_path / "none")
    for wrong in ({"mib": 15}, {"mib": 65_537}, {"seconds": 0.0}, {"seconds": 1e9}):
        with pytest.raises(InputError, match="must lie between"):
            probe.probe_disk(tmp_path, **wrong)
    monkeypatch.setattr(probe, "free_bytes", lambda path: 100 << 20)
    with pytest.raises(OutputError, match=r"has 104,857,600 bytes free, but probing takes 1,140,850,688"):
        probe.probe_disk(tmp_path)
    assert annserve("probe-disk", Path(tmp_path) / "none").code == 2
