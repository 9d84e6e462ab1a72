"""An index with codes on the SSD, from rows to answers: what it promises and counts, and how its damage is told."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from surface import surface_rows

import annserve
from annserve.build.pipeline import build
from annserve.design.options import BuildOptions
from annserve.errors import CorruptionError
from annserve.index.snapshot import open_snapshot
from annserve.report.verify import verify_segment

N_ROWS, DIM, RAM = 4_000, 64, "6B"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Rows, queries that no build has seen, and the index."""
    folder = tmp_path_factory.mktemp("ssd")
    made = surface_rows(N_ROWS + 300, DIM, seed=2)
    np.save(folder / "rows.npy", made[:N_ROWS])
    np.save(folder / "queries.npy", made[N_ROWS:])
    options = BuildOptions(codes="ssd", ram=RAM, threads=2, calibration_queries=400)
    build(folder / "rows.npy", folder / "index", options)
    return folder


@pytest.fixture
def copied(folder, tmp_path):
    return shutil.copytree(folder / "index", tmp_path / "index")


def problems_of(index):
    segment = open_snapshot(index).segments[0]
    return verify_segment(segment).problems


def test_recall_is_delivered_with_no_byte_of_a_row_in_ram(folder):
    rows, queries = np.load(folder / "rows.npy").astype(np.int64), np.load(folder / "queries.npy")
    distances = ((queries[:, None].astype(np.int64) - rows) ** 2).sum(axis=2)
    nearest = np.argsort(distances, axis=1, kind="stable")[:, :10]
    with annserve.open(folder / "index") as index:
        info = index.info()
        assert info["ram_tiers"]["row_factors"] == 0
        assert info["ram_tiers"]["row_codes"] < 100
        assert info["ram_bytes_per_vector"] <= float(RAM[:-1])
        for target in (0.9, 0.95, 0.98):
            result = index.search(queries, 10, recall_target=target)
            recall = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(result.ids.tolist(), nearest.tolist())])
            assert recall >= target - 0.01
            assert result.stats.pages_read.mean() < info["pages"]


def test_vicinities_are_counted_as_pages_and_reads(folder):
    """More pages are read than those whose rows were scored; explaining says how many of them were vicinities."""
    queries = np.load(folder / "queries.npy")[:40]
    with annserve.open(folder / "index") as index:
        result = index.search(queries, 10, recall_target=0.95)
        assert (result.stats.bytes_read == result.stats.pages_read * 4_096).all()
        (found,) = index.explain(queries[0], 10, recall_target=0.95)
    assert found.codes is not None
    assert found.codes.vicinities >= 1
    assert found.pages_read == len(found.pages) + found.codes.vicinities == result.stats.pages_read[0]
    assert found.reads == result.stats.reads[0]
    assert sorted(page.rank for page in found.pages if page.rank)[0] >= 1


def test_every_reader_gives_the_same_answers(folder):
    queries, answers = np.load(folder / "queries.npy")[:50], []
    for kind in ("auto", "pread", "mmap"):
        with annserve.open(folder / "index", io=kind, threads=2) as index:
            result = index.search(queries, 10, recall_target=0.9)
            answers.append((result.ids.tolist(), result.stats.pages_read.tolist()))
    assert answers[0] == answers[1] == answers[2]


@pytest.mark.parametrize("n_rows", [1, 2, 70])
def test_few_rows_get_all_their_results(tmp_path, n_rows):
    rows = surface_rows(n_rows, DIM, seed=3)
    np.save(tmp_path / "rows.npy", rows)
    options = BuildOptions(codes="ssd", ram="900B", threads=1, calibration_queries=20)
    build(tmp_path / "rows.npy", tmp_path / "index", options)
    with annserve.open(tmp_path / "index") as index:
        for target in (0.8, 0.99, 1.0):
            result = index.search(rows, n_rows, recall_target=target)
            assert (np.sort(result.ids, axis=1) == np.arange(n_rows)).all()


def test_more_results_than_the_nearest_pages_hold_are_found_all_the_same(folder):
    with annserve.open(folder / "index") as index:
        result = index.search(np.load(folder / "queries.npy")[:3], 1_000, recall_target=0.8)
    assert all(len(set(row)) == 1_000 for row in result.ids.tolist())


def test_a_damaged_vicinity_is_an_error_where_it_is_read_and_verify_names_it(folder, copied):
    """Every vicinity in turn would take long: every seventh, and a byte that moves."""
    assert problems_of(copied) == []
    vicinities = open_snapshot(copied).segments[0].vicinities
    content = bytearray(vicinities.path.read_bytes())
    damaged = range(0, vicinities.n_pages, 7)
    for page in damaged:
        content[vicinities.pages_offset + page * 4_096 + page * 31 % 4_096] ^= 0x20
    vicinities.path.write_bytes(content)
    found = problems_of(copied)
    assert [problem.split(":")[0] for problem in found] == [f"vicinity {page}" for page in damaged]
    with annserve.open(copied) as index, pytest.raises(CorruptionError, match=r"vicinities\.bin is damaged"):
        index.search(np.load(folder / "queries.npy"), 10)


@pytest.mark.parametrize("name", ["vicinities.bin", "codes.bin"])
def test_a_file_that_is_cut_or_gone_is_an_error_that_names_it(copied, name):
    path = copied / "segment-000001" / name
    content = path.read_bytes()
    for damaged in (content[:-1], content + b"\0", None):
        path.unlink()
        if damaged is not None:
            path.write_bytes(damaged)
        else:
            path.symlink_to(path.with_name("nothing"))
        with pytest.raises(CorruptionError, match=name):
            annserve.open(copied)
