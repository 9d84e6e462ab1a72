"""Recall of a sample is what brute force over the pages counts, and a plan that reads too little is found out."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from journeys.doors import annserve, build_index

import annserve as product
from annserve.index.manifest import read_current
from annserve.index.publish import describe_segment, publish
from annserve.index.sealed import read_sealed, write_sealed
from annserve.index.snapshot import open_snapshot
from annserve.report.recall_sample import sample_recall

N_ROWS = 3_000


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    rng = np.random.default_rng(8)
    centres = rng.normal(size=(30, 64))
    rows = centres[rng.integers(0, 30, N_ROWS)] + rng.normal(size=(N_ROWS, 64))
    rows[-200:] = rows[0]  # twins, more than k of them
    return rows.astype(np.float32)


@pytest.fixture(scope="module")
def index(rows: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sample")
    np.save(folder / "rows.npy", rows)
    return build_index(folder / "rows.npy", folder / "index", "--codes", "none")


def with_plan(index: Path, folder: Path, **changes: object) -> Path:
    """Copy an index and give it another plan, published as it should be."""
    shutil.copytree(index, folder)
    manifest = read_current(folder)
    (entry,) = manifest.segments
    plan = folder / entry.name / "plan.json"
    write_sealed(plan, read_sealed(plan) | changes)
    counts = {name: getattr(entry, name) for name in ("n_rows", "n_heads", "n_pages", "salt")}
    publish(folder, replace(manifest, segments=(describe_segment(folder, entry.name, **counts),)))
    return folder


def test_a_sample_counts_what_reading_every_page_finds(index):
    """A row of every page; at target 1 every page is read, and nothing is missed."""
    found, every = sample_recall(open_snapshot(index), 10_000, recall_targets=(0.8, 1.0), threads=2)
    with product.open(index) as opened:
        assert found.queries == opened.info()["pages"]
    assert 0.8 <= found.recall < 1
    assert found.recall_low < found.recall < found.recall_high
    assert every.recall == 1.0


@pytest.mark.parametrize("options", [("--codes", "none", "--replicas", 3), ("--metric", "ip")])
def test_replicas_codes_and_other_metrics_are_sampled_alike(rows, index, tmp_path, options):
    other = build_index(index.parent / "rows.npy", tmp_path / "index", *options)
    for found in sample_recall(open_snapshot(other), 60, recall_targets=(0.9, 1.0), threads=2):
        assert found.recall >= found.recall_target - 0.01
        assert found.problem is None


def test_a_plan_that_reads_too_little_is_at_fault(index, tmp_path):
    plan = read_sealed(index / "segment-000001" / "plan.json")
    other = with_plan(index, tmp_path / "low", probes=np.ones_like(plan["probes"]).tolist())
    assert annserve("verify", other, "--queries", 0).code == 0
    ended = annserve("verify", other)
    assert ended.code == 3
    assert "has 1 problems: recall@10 of" in ended.error
    assert "where 0.95 was asked for, and at most" in ended.error
    assert annserve("verify", with_plan(index, tmp_path / "same")).code == 0


def test_verify_says_what_it_found(index):
    ended = annserve("verify", index, "--queries", 50)
    assert ended.code == 0
    assert "\nrecall@10 of 50 rows is " in ended.out
    told = json.loads(annserve("verify", index, "--queries", 50, "--json").out)["recall"]
    assert (told["queries"], told["k"], told["recall_target"]) == (50, 10, 0.95)
    assert told["recall_low"] <= told["recall"] <= told["recall_high"]


@pytest.mark.parametrize("count", [1, 2, 7])
def test_the_smallest_indexes_have_fewer_neighbours_to_ask_for(tmp_path, count):
    np.save(tmp_path / "rows.npy", np.arange(4 * count, dtype=np.float32).reshape(count, 4) + 1)
    index = build_index(tmp_path / "rows.npy", tmp_path / "index")
    assert (annserve("verify", index).out.count(f"recall@{count} of 1 rows is 1.0000")) == 1
