"""Packing with files between its steps gives the pages of packing in RAM, in one go or in many."""

from __future__ import annotations

import numpy as np
import pytest

from annserve.build.packing import STAGED, pack_staged, packed_origin, packed_rows, read_packing
from annserve.build.steps import Steps
from annserve.clusters.hierarchy import pack_rows
from annserve.design.memory import Memory
from annserve.events import ignore
from annserve.metric import rows_to_space
from annserve.spec import IndexSpec
from annserve.vectors.source import ArraySource
from annserve.vectors.staging import stage

ASKED = {"annserve_version": "1", "options": {}, "inputs": {}}
MEMORY = Memory(
    cap_bytes=1 << 30,
    threads=2,
    partition_rows=400,
    region_pages=24,
    partition_pages=400,
    region_postings=24,
    chunk_rows=170,
)


class StopError(Exception):
    """Stands for a kill."""


def staged(folder, rows, spec):
    steps = Steps(folder, ASKED, ignore)
    with steps.step("stage"):
        stage(ArraySource(rows), folder / STAGED, spec).close()
    return steps


def origin_of(steps):
    with packed_origin(steps) as origin:
        return origin[:][:, 0]


@pytest.mark.parametrize(("metric", "dtype"), [("l2", "uint8"), ("cosine", "float32"), ("ip", "float32")])
def test_files_between_the_steps_change_no_page(tmp_path, metric, dtype):
    rng = np.random.default_rng(4)
    rows = (100 + 20 * rng.normal(size=(12, 20))[rng.integers(0, 12, 2_000)] + 3 * rng.normal(size=(2_000, 20))).astype(
        dtype
    )
    spec = IndexSpec(20, dtype, metric)
    norm_max = float(np.linalg.norm(rows.astype(np.float64), axis=1).max())
    space = rows_to_space(rows, spec, norm_max)
    expected = pack_rows(space, 10, 4, partition_rows=400, region_pages=24, seed=3, threads=2)

    steps = staged(tmp_path, rows, spec)
    pack_staged(steps, spec, 10, 4, memory=MEMORY, seed=3)
    found, origin = read_packing(steps), origin_of(steps)
    assert np.array_equal(origin, expected.order)
    assert np.array_equal(found.page_offsets, expected.page_offsets)
    assert np.array_equal(found.posting_offsets, expected.posting_offsets)
    with packed_rows(steps, spec) as ordered:
        assert np.array_equal(ordered[:], rows[expected.order])
    left = {path.name for path in tmp_path.iterdir()} - {"checkpoint.json", "partition.bin", "group.bin", "order.bin"}
    assert left == {"ordered.rows", "ordered.origin"}, "what no step needs any more is gone"


def test_refinement_goes_on_within_a_round(tmp_path, monkeypatch):
    """Stopped after every region in turn, with a note after each; the pages are those of an undisturbed run."""
    rows = np.random.default_rng(5).integers(0, 256, (1_500, 12)).astype(np.uint8)
    spec = IndexSpec(12, "uint8", "l2")
    (tmp_path / "whole").mkdir()
    whole = staged(tmp_path / "whole", rows, spec)
    pack_staged(whole, spec, 10, 4, memory=MEMORY, seed=0)

    folder = tmp_path / "stopped"
    folder.mkdir()
    staged(folder, rows, spec)
    monkeypatch.setattr("annserve.build.steps.NOTE_SECONDS", -1.0)
    note, stops = Steps.note, 0

    def note_and_stop(self, *arguments):
        note(self, *arguments)
        raise StopError

    for _ in range(200):
        with monkeypatch.context() as patched:
            patched.setattr(Steps, "note", note_and_stop)
            try:
                pack_staged(Steps(folder, ASKED, ignore), spec, 10, 4, memory=MEMORY, seed=0)
                break
            except StopError:
                stops += 1
    assert stops >= 16
    resumed = Steps(folder, ASKED, ignore)
    assert np.array_equal(origin_of(resumed), origin_of(whole))
    assert np.array_equal(read_packing(resumed).page_offsets, read_packing(whole).page_offsets)


def test_rows_all_alike_fill_pages(tmp_path):
    rows = np.full((3_000, 16), 7, np.uint8)
    spec = IndexSpec(16, "uint8", "l2")
    steps = staged(tmp_path, rows, spec)
    pack_staged(steps, spec, spec.page_capacity, 16, memory=MEMORY, seed=0)
    found = read_packing(steps)
    assert found.n_pages <= 1.15 * -(-len(rows) // spec.page_capacity)
    assert np.array_equal(np.sort(origin_of(steps)), np.arange(3_000))
