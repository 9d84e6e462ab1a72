"""Postings with replicas: whole, found out when they aren't, and asked without an answer coming twice."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from surface import surface_rows

import annserve
from annserve.build.pipeline import build
from annserve.design.budget import plan_tiers
from annserve.design.options import BuildOptions
from annserve.errors import InputError
from annserve.index.snapshot import open_snapshot
from annserve.pages.layout import HEADER, REPLICAS_SHIFT
from annserve.report.verify import verify_segment
from annserve.spec import IndexSpec
from annserve.storage.checksum import crc32c

DIM, RAM = 48, "14B"
SPEC = IndexSpec(128, "uint8", "l2")


@pytest.fixture(scope="module")
def made() -> tuple[np.ndarray, np.ndarray]:
    """4,000 rows, ten of them twice, and 200 queries."""
    rows = surface_rows(4_200, DIM, seed=2)
    rows[3_990:4_000] = rows[:10]
    return rows[:4_000], rows[4_000:]


@pytest.fixture(scope="module")
def indexes(made, tmp_path_factory) -> dict[int, Path]:
    """The same rows and RAM, with at most 1 and 4 copies of a row."""
    folder = tmp_path_factory.mktemp("replicas")
    np.save(folder / "rows.npy", made[0])
    for replicas in (1, 4):
        options = BuildOptions(codes="none", ram=RAM, replicas=replicas, threads=2, calibration_queries=600)
        build(folder / "rows.npy", folder / str(replicas), options)
    return {replicas: folder / str(replicas) for replicas in (1, 4)}


def exact(rows, queries, k):
    distances = ((queries[:, None].astype(np.int64) - rows.astype(np.int64)) ** 2).sum(axis=2)
    return np.argsort(distances, axis=1, kind="stable")[:, :k], np.sort(distances, axis=1)[:, :k]


def recall(found, distances, rows, queries):
    """Share of results no farther than the k-th nearest: ties count, as they must."""
    _, nearest = exact(rows, queries, found.shape[1])
    return (distances <= nearest[:, -1:]).mean()


def problems_of(folder):
    segment = open_snapshot(folder).segments[0]
    return verify_segment(segment)


def test_every_row_has_one_home_and_some_have_replicas(indexes):
    found = problems_of(indexes[4])
    assert found.problems == []
    assert found.rows == 4_000
    assert 2_000 < found.replicas <= 3 * 4_000
    with annserve.open(indexes[4]) as index:
        info = index.info()
    assert info["copies"] == pytest.approx(1 + found.replicas / found.rows, abs=1e-3)
    assert 0.85 < info["page_fill"] <= 1
    assert problems_of(indexes[1]).replicas == 0


def test_no_answer_comes_twice_and_all_pages_give_the_exact_ones(made, indexes):
    """At every target and k; and at 1, where every replica of every row is read, the ids of a scan, ties by id."""
    rows, queries = made
    with annserve.open(indexes[4]) as index:
        for k in (1, 10, 100):
            for target in (0.8, 0.95, 1.0):
                ids = index.search(queries[:40], k, recall_target=target).ids
                assert all(len(set(found.tolist())) == k for found in ids)
        np.testing.assert_array_equal(ids, exact(rows, queries[:40], 100)[0])
        everything = index.search(rows[:2], 1_000, recall_target=0.8).ids
        assert all(len(set(found.tolist())) == 1_000 for found in everything)


@pytest.mark.parametrize("target", [0.9, 0.95, 0.98])
def test_the_target_is_delivered_in_fewer_reads_than_with_one_copy(made, indexes, target):
    rows, queries = made
    found = {}
    for replicas, folder in indexes.items():
        with annserve.open(folder) as index:
            result = index.search(queries, 10, recall_target=target)
        assert recall(result.ids, result.distances, rows, queries) >= target - 0.015
        found[replicas] = result.stats
    # On so few pages most reads of one copy join neighbours: pages tell more.
    assert found[4].reads.mean() < found[1].reads.mean()
    assert found[4].pages_read.mean() < 0.8 * found[1].pages_read.mean()


def test_ram_is_what_was_asked_for(indexes):
    with annserve.open(indexes[4]) as index:
        info, report = index.info(), index.report
    # Nodes fill whole pages of 4,096 bytes.
    assert report["ram_bytes_per_vector_predicted"] <= 14
    assert info["ram_bytes_per_vector"] <= 14 + 4_096 / 4_000


def damaged(source, folder, change):
    """Copy an index, let `change` alter its pages, and seal them again: only their content is wrong."""
    shutil.copytree(source, folder)
    segment = open_snapshot(folder).segments[0]
    content = bytearray(segment.pages_path.read_bytes())
    pages = np.frombuffer(content, np.uint8)[segment.pages_offset :][: segment.n_pages * 4_096].reshape(-1, 4_096)
    change(pages, pages[:, : HEADER.itemsize].view(HEADER)[:, 0], segment.layout)
    for page in pages:
        page[:4] = np.frombuffer(np.uint32(crc32c(page[4:].tobytes())).tobytes(), np.uint8)
    segment.pages_path.write_bytes(content)
    return problems_of(folder).problems


def a_page_with_replicas(headers):
    return int(np.flatnonzero((headers["flags"] >> REPLICAS_SHIFT) > 1)[0])


def test_a_replica_that_differs_from_its_home_is_found(indexes, tmp_path):
    def change(pages, headers, layout):
        page = a_page_with_replicas(headers)
        pages[page, layout.rows_offset + headers["count"][page] * layout.dim - 1] ^= 1

    assert "isn't what the row is at home" in damaged(indexes[4], tmp_path / "i", change)[0]


def test_a_second_home_is_found(indexes, tmp_path):
    def change(pages, headers, layout):
        headers["flags"][a_page_with_replicas(headers)] -= 1 << REPLICAS_SHIFT

    assert "on 2 pages, one is its home" in damaged(indexes[4], tmp_path / "i", change)[0]


def test_a_row_without_a_home_is_found(indexes, tmp_path):
    """Its home is declared a replica: the row count is wrong, and its replicas have no home."""

    def change(pages, headers, layout):
        headers["flags"] = headers["count"] << REPLICAS_SHIFT

    problems = damaged(indexes[4], tmp_path / "i", change)
    assert "4000 rows were built in, but 0 are on the pages" in problems[0]


def test_more_replicas_than_rows_are_damage(indexes, tmp_path):
    def change(pages, headers, layout):
        headers["flags"][3] = (headers["count"][3] + 1) << REPLICAS_SHIFT

    assert "don't fit the layout" in damaged(indexes[4], tmp_path / "i", change)[0]


@pytest.mark.parametrize("replicas", [0, 9])
def test_a_row_has_one_to_eight_copies(replicas):
    with pytest.raises(InputError, match=r"replicas is [09]; it must lie between 1 and 8"):
        BuildOptions(codes="none", replicas=replicas)


def test_replicas_with_codes_are_refused_and_told_why():
    with pytest.raises(InputError, match=r"codes choose single pages.*--codes none") as caught:
        BuildOptions(replicas=2)
    assert caught.value.field == "replicas"


@pytest.mark.parametrize("replicas", [2, 4, 8])
@pytest.mark.parametrize("ram", ["0.5B", "4B", "7.74B", "12B", "32B", "128B"])
def test_a_budget_buys_heads_and_leaves_room_for_replicas(ram, replicas):
    plan = plan_tiers(SPEC, 1_000_000, ram, "none", replicas)
    places = plan.pages_per_posting * SPEC.page_capacity
    assert plan.bytes_per_vector <= float(ram[:-1])
    assert plan.code_bytes == 0
    assert 1.25 * plan.rows_at_home <= places <= max(replicas, 2) * plan.rows_at_home + SPEC.page_capacity
    assert plan_tiers(SPEC, 1_000_000, ram, "none").rows_at_home % SPEC.page_capacity == 0
